"""What two servers tell each other beside the events of rooms: who types, who has read how far,
whose devices changed, keys, and messages from device to device.

The keys are made up: servers pass them on and look into none. May not: decrypt anything.
"""

from __future__ import annotations

import base64
import secrets
from typing import Any

from person import Person
from real.both_ways import HERE, THERE, Side
from real.ground import Peers
from together import let_in
from vestibule import quoted

ENCRYPTED = "m.room.encrypted"
ONE_TIME = "signed_curve25519"


def signals_here(peers: Peers) -> None:
    """In a room of ours."""
    _signals(peers, HERE, "11")


def signals_there(peers: Peers) -> None:
    """In a room of Synapse's."""
    _signals(peers, THERE, "12")


def _signals(peers: Peers, side: Side, version: str) -> None:
    peers.say(f"\nBeside events, in a room {side.word}, room version {version}")
    owner, guest = side.owner(peers), side.guest(peers)
    room_id = peers.room(version, by=owner)
    if not let_in(peers.check, owner, guest, room_id):
        return
    for one, other in ((owner, guest), (guest, owner)):
        _typing(peers, one, other, room_id)
        _reading(peers, one, other, room_id)
        _devices(peers, one, other)


def _typing(peers: Peers, one: Person, other: Person, room_id: str) -> None:
    _types(one, room_id, {"typing": True, "timeout": 120_000})
    peers.check(other.until(room_id, lambda room: room.typing == [one.user_id]),
                f"{one.name} types, and {other.name} sees it", other.view(room_id).typing)
    _types(one, room_id, {"typing": False})
    peers.check(other.until(room_id, lambda room: room.typing == []),
                f"and stops, and {other.name} sees that", other.view(room_id).typing)


def _types(person: Person, room_id: str, body: dict[str, Any]) -> None:
    path = f"/v3/rooms/{quoted(room_id)}/typing/{quoted(person.user_id)}"
    person.client.must("PUT", path, body)


def _reading(peers: Peers, one: Person, other: Person, room_id: str) -> None:
    said = one.say(room_id, "Have you read this?")
    peers.check(other.reads(room_id, said), f"{one.name} says something, {other.name} reads it")
    path = f"/v3/rooms/{quoted(room_id)}/receipt/m.read/{quoted(said)}"
    other.client.must("POST", path, {})
    peers.check(one.until(room_id, lambda room: room.read.get(other.user_id) == said),
                f"and {one.name} sees that it was read", one.view(room_id).read)


def _devices(peers: Peers, one: Person, other: Person) -> None:
    """`one` comes to have keys; `other` hears so, fetches them and sends to that device."""
    other.listen()
    other.changed_devices.clear()
    device_id = one.client.must("GET", "/v3/account/whoami")["device_id"]
    keys = _device_keys(one.user_id, device_id)
    one_time = {f"{ONE_TIME}:{number}": {"key": _noise(32), "signatures": keys["signatures"]}
                for number in ("AAAAAQ", "AAAAAg")}
    counts = one.client.must("POST", "/v3/keys/upload",
                             {"device_keys": keys, "one_time_keys": one_time})
    peers.check(counts["one_time_key_counts"].get(ONE_TIME) == 2,
                f"{one.name}'s client uploads its keys", counts)
    peers.check(other.awaits(lambda: one.user_id in other.changed_devices),
                f"{other.name}'s hears that {one.name}'s devices changed", other.changed_devices)
    found = other.client.must("POST", "/v3/keys/query", {"device_keys": {one.user_id: []}})
    device = found["device_keys"].get(one.user_id, {}).get(device_id, {})
    peers.check({name: device.get(name) for name in keys} == keys,
                "asks for them, and gets what was uploaded", found)
    claims = [_claim(other, one.user_id, device_id) for _ in range(3)]
    given = [key for key in claims if key]
    peers.check(len(given) == 2 and claims[2] == {}
                and {next(iter(key)) for key in given} == set(one_time)
                and all(key.items() <= one_time.items() for key in given),
                "claims three one-time keys, and gets each of the two once", claims)
    content = {"algorithm": "m.olm.v1.curve25519-aes-sha2", "sender_key": _noise(32),
               "ciphertext": {_noise(32): {"type": 0, "body": _noise(90)}}}
    for number in range(3):
        messages = {one.user_id: {device_id: {**content, "number": number}}}
        other.client.must("PUT", f"/v3/sendToDevice/{ENCRYPTED}/{device_id}{number}",
                          {"messages": messages})
    expected = [{"type": ENCRYPTED, "sender": other.user_id, "content": {**content, "number": number}}
                for number in range(3)]
    one.awaits(lambda: len(one.to_device) >= len(expected))
    one.listen()
    peers.check(one.to_device == expected,
                f"and sends three messages to the device: {one.name}'s client has each once and in"
                " order", one.to_device)
    one.to_device.clear()


def _claim(person: Person, user_id: str, device_id: str) -> dict[str, Any]:
    """One one-time key of the device, by its id; {} if there is none."""
    claimed = person.client.must("POST", "/v3/keys/claim",
                                 {"one_time_keys": {user_id: {device_id: ONE_TIME}}})
    return claimed["one_time_keys"].get(user_id, {}).get(device_id, {})


def _device_keys(user_id: str, device_id: str) -> dict[str, Any]:
    return {
        "user_id": user_id, "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
        "keys": {f"curve25519:{device_id}": _noise(32), f"ed25519:{device_id}": _noise(32)},
        "signatures": {user_id: {f"ed25519:{device_id}": _noise(64)}},
    }


def _noise(size: int) -> str:
    return base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=")


SCENARIOS = (signals_here, signals_there)
