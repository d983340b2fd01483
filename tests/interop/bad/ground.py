"""The ground that bad requests are tried on: a server, its rooms, good and bad peers, local users.

May not: know what answer a request deserves.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from canonicaljson import encode_canonical_json

import pdu
from authority import CertificateAuthority
from bad.row import MAIN
from pdu import Json
from peer import (NOTHING, Peer, SignedEvent, XMatrix, identified, make_knock_target,
                  membership_target, now_ms)
from raw_http import Answer
from vestibule import Client, Vestibule

Change = Callable[[Json], Any]

# Peers that have names, because rows are about names. All others are named by their address.
NAMED_PEERS = ("good.test", "other.test", "evil.test", "EVIL.test", "Evil.Test:8448",
               "sub.evil.example", "blocked.test", "bannedkey.test", "short.test")
HOUR_MS = 60 * 60 * 1000

_ANY = ["*"]
# Rooms beside those named "v<version> <join rule>": version, join rule content, further body.
SPECIAL_ROOMS: dict[str, tuple[str, Json, Json]] = {
    "second": ("11", {"join_rule": "knock"}, {}),
    "left": ("11", {"join_rule": "knock"}, {}),
    "changing": ("11", {"join_rule": "knock"}, {}),
    "no rule": ("11", {}, {}),
    "unfederated": ("11", {"join_rule": "knock"}, {"creation_content": {"m.federate": False}}),
}
ACLS: dict[str, Json] = {
    "acl deny": {"allow": _ANY, "deny": ["evil.test"]},
    "acl deny in capitals": {"allow": _ANY, "deny": ["EVIL.TEST"]},
    "acl star": {"allow": _ANY, "deny": ["*.evil.example"]},
    "acl question mark": {"allow": _ANY, "deny": ["ev?l.test"]},
    "acl no ip literals": {"allow": _ANY, "allow_ip_literals": False},
    "acl empty allow": {"allow": [], "deny": []},
    "acl without allow": {"deny": []},
    "acl allow list": {"allow": ["good.test"]},
    "acl of parts": {"allow": _ANY, "deny": ["vil.test", "evil.tes", "evil", "e*l"]},
}


class Ground:
    """One running server with what the rows need, made when it is first asked for."""

    def __init__(self, directory: Path, authority: CertificateAuthority,
                 settings: dict[str, str]) -> None:
        self._authority = authority
        self._peers = {name: Peer(authority, name) for name in NAMED_PEERS}
        self.good = self._peers["good.test"]
        self.good.retire_key(now_ms() - HOUR_MS)
        self._peers["short.test"].valid_for_ms = 2 * HOUR_MS
        banned_key = self._peers["bannedkey.test"].key_document()["verify_keys"]
        self.vestibule = Vestibule(
            directory, authority, {
                **{name: p.listens_at for name, p in self._peers.items()},
                # A name that nobody bears, so that asking for its keys does not leave loopback.
                "GOOD.test": self.good.listens_at,
            },
            {
                # The compared gauges belong to live actors.
                "actors.idle_timeout": '"1h"',
                "federation.denied_servers": '["blocked.test"]',
                "federation.banned_keys": json.dumps([k["key"] for k in banned_key.values()]),
                **settings,
            },
        )
        self.vestibule.start()
        self.owner: Client = self.vestibule.client().register("owner")
        self._rooms: dict[str, tuple[str, str]] = {}
        self._locals: dict[str, Client] = {}
        self._strangers: list[Peer] = []
        self._users = 0
        # Of the row that is running: its room, what its preparation returned, its last own event.
        self.here = ""
        self.version = ""
        self.prepared: Any = None
        self.last: SignedEvent | None = None

    def close(self) -> None:
        self.vestibule.kill()
        for peer in [*self._peers.values(), *self._strangers]:
            peer.close()

    # --- who and where ------------------------------------------------------------------------

    def enter(self, room: str) -> None:
        self.here, self.version = self.room(room)
        self.prepared, self.last = None, None

    def peer(self, name: str) -> Peer:
        return self._peers[name]

    def stranger(self) -> Peer:
        """A server that was never heard of, named by its address."""
        self._strangers.append(Peer(self._authority, address=f"127.0.3.{len(self._strangers) + 1}"))
        return self._strangers[-1]

    def user(self, peer: Peer | None = None) -> str:
        """A user nobody has seen before."""
        self._users += 1
        return (peer or self.good).user(f"u{self._users}")

    def local(self, localpart: str) -> Client:
        """A user of the server under test."""
        if localpart not in self._locals:
            self._locals[localpart] = self.vestibule.client().register(localpart)
        return self._locals[localpart]

    def room(self, name: str) -> tuple[str, str]:
        """Room id and version."""
        if name not in self._rooms:
            version, rule, acl, body = _room_plan(name)
            self._rooms[name] = self.owner.create_room(version, rule, *acl, **body), version
        return self._rooms[name]

    def nonexistent_room(self) -> str:
        return f"!nothing-here:{self.vestibule.server_name}"

    # --- what is compared ---------------------------------------------------------------------

    def fingerprint(self, room_id: str) -> Json:
        """Everything of a room that no bad request may change."""
        actor = self.vestibule.actor(room_id)
        return {
            "state": {f"{e['type']} {e['state_key']}": e["event_id"]
                      for e in self.owner.state(room_id)},
            "members": {e["state_key"]: e["event_id"] for e in self.owner.members(room_id)},
            "last event": self.last_event(room_id),
            "forward extremities": actor["forward_extremities"],
            "member counts": actor["members"],
            "pending knocks": actor["pending_knocks"],
        }

    def last_event(self, room_id: str) -> str:
        return self.owner.messages(room_id, dir="b", limit=1)["chunk"][0]["event_id"]

    def good_request(self) -> Answer:
        """What has to work after anything else: a stranger's question, which changes nothing."""
        room_id, _ = self.room(MAIN)
        return self.good.make_knock(self.vestibule, room_id, self.user())

    def good_knock(self) -> Answer:
        room_id, _ = self.room(MAIN)
        return self.good.knock(self.vestibule, room_id, self.user(), reason="please")[1]

    # --- asking -------------------------------------------------------------------------------

    def ask(self, *, room_id: str | None = None, user: str | None = None,
            versions: tuple[str, ...] = tuple(pdu.ROOM_VERSIONS), peer: Peer | None = None,
            target: str | None = None, method: str = "GET", content: Any = NOTHING,
            authorization: list[str | bytes] | None = None) -> Answer:
        """make_knock for a new user, but for what is said otherwise."""
        peer = peer or self.good
        user = user if user is not None else self.user(peer)
        room_id = room_id if room_id is not None else self.here
        target = target if target is not None else make_knock_target(room_id, user, versions)
        return peer.request(self.vestibule, method, target, content, authorization=authorization)

    def ask_with(self, write: Callable[[XMatrix], list[str | bytes]], *, peer: Peer | None = None,
                 key: Any = None, destination: str | None = None,
                 signed_target: Callable[[str], str] = lambda target: target,
                 signed_method: str = "GET", signed_content: Any = NOTHING) -> Answer:
        """make_knock with Authorization headers written from good parameters."""
        peer = peer or self.good
        target = make_knock_target(self.here, self.user(peer), pdu.ROOM_VERSIONS)
        parameters = peer.sign_request(self.vestibule, signed_method, signed_target(target),
                                       signed_content, key=key, destination=destination)
        return peer.request(self.vestibule, "GET", target, authorization=write(parameters))

    # --- events -------------------------------------------------------------------------------

    def template(self, peer: Peer | None = None, user: str | None = None) -> Json:
        """A template as make_knock gives it."""
        peer = peer or self.good
        answer = peer.make_knock(self.vestibule, self.here, user or self.user(peer))
        if answer.status != 200:
            raise RuntimeError(f"no template: {answer}")
        return answer.json["event"]

    def handmade(self, peer: Peer | None = None, user: str | None = None) -> Json:
        """The knock that a template would have led to, where no template is to be had."""
        peer = peer or self.good
        user = user or self.user(peer)
        state = {(e["type"], e["state_key"]): e["event_id"] for e in self.owner.state(self.here)}
        wanted = [("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", user)]
        if not pdu.ROOM_VERSIONS[self.version].room_id_is_create_hash:
            wanted.insert(0, ("m.room.create", ""))
        return {
            "type": "m.room.member", "room_id": self.here, "sender": user, "state_key": user,
            "content": {"membership": "knock", "reason": "by hand"}, "depth": 100,
            "auth_events": [state[key] for key in wanted if key in state],
            "prev_events": [self.last_event(self.here)],
            "origin": peer.name, "origin_server_ts": now_ms(),
        }

    def knock_event(self, peer: Peer | None = None, user: str | None = None) -> Json:
        """An unsigned knock from a fresh template."""
        peer = peer or self.good
        return peer.from_template(self.template(peer, user), reason="REASON")

    def put(self, change: Change | None = None, after: Change | None = None, *,
            event: Json | None = None, peer: Peer | None = None, signer: Peer | None = None,
            key: Any = None, room_id: str | None = None, event_id: str | None = None,
            endpoint: str = "v1/send_knock", method: str = "PUT") -> Answer:
        """send_knock of a good knock, changed before (`change`) or `after` it is signed.

        The id in the path is that of the event as it is sent, unless `event_id` says otherwise.
        """
        peer = peer or self.good
        event = copy.deepcopy(event) if event is not None else self.knock_event(peer)
        if change is not None:
            change(event)
        signed = (signer or peer).sign_event(event, self.version, key)
        if after is not None:
            altered = copy.deepcopy(signed.event)
            after(altered)
            signed = identified(altered, self.version)
        self.last = signed
        target = membership_target(endpoint, room_id or self.here, event_id or signed.event_id)
        return peer.request(self.vestibule, method, target, signed.event)

    def put_text(self, edit: Callable[[str], str | bytes], change: Change | None = None, *,
                 chunked: bool = False, authorization: list[str | bytes] | None = None) -> Answer:
        """send_knock of a good knock whose JSON text is edited at the very last."""
        event = self.knock_event()
        if change is not None:
            change(event)
        signed = self.good.sign_event(event, self.version)
        edited = edit(json.dumps(signed.event))
        body = edited if isinstance(edited, bytes) else edited.encode("utf-8", "surrogatepass")
        target = membership_target("v1/send_knock", self.here, signed.event_id)
        return self.good.request(self.vestibule, "PUT", target, _signable(body, signed.event),
                                 body=body, chunked=chunked, authorization=authorization)

    def send(self, signed: SignedEvent) -> Answer:
        """An event that was made before."""
        return self.good.send_knock(self.vestibule, self.here, signed)

    def admitted(self, user: str | None = None, peer: Peer | None = None) -> SignedEvent:
        """A knock that was let in, for rows that need one to be there."""
        signed, answer = (peer or self.good).knock(self.vestibule, self.here,
                                                   user or self.user(peer))
        if signed is None or answer.status != 200:
            raise RuntimeError(f"the preparing knock was refused: {answer}")
        return signed

    def put_leave(self, change: Change | None = None, after: Change | None = None, *,
                  user: str | None = None, **other: Any) -> Answer:
        """send_leave of a user whose knock is pending, changed as in `put`."""
        user = user or self.prepared.event["sender"]
        made = self.good.make_leave(self.vestibule, self.here, user)
        if made.status != 200:
            raise RuntimeError(f"no template: {made}")
        event = self.good.from_template(made.json["event"])
        return self.put(change, after, event=event, endpoint="v2/send_leave", **other)


def _room_plan(name: str) -> tuple[str, Json, list[Json], Json]:
    if name in ACLS:
        acl = {"type": "m.room.server_acl", "state_key": "", "content": ACLS[name]}
        return "11", {"join_rule": "knock"}, [acl], {}
    if name in SPECIAL_ROOMS:
        version, rule, body = SPECIAL_ROOMS[name]
        return version, rule, [], body
    version, rule_name = name.removeprefix("v").split(" ", 1)
    rule = {"join_rule": rule_name}
    if "restricted" in rule_name:
        rule["allow"] = []
    return version, rule, [], {}


def _signable(body: bytes, fallback: Json) -> Any:
    """What the body says, if JSON can say it: then the request's signature covers just that."""
    try:
        parsed = json.loads(body)
        encode_canonical_json(parsed)
        return parsed
    except (ValueError, RecursionError):
        return fallback
