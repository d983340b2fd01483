"""Rooms that are replaced by rooms of another version, here and there, and whoever follows.

May not: do for Synapse what its own user's client can ask it to do.
"""

from __future__ import annotations

from person import Person
from real.both_ways import HERE, THERE, Side
from real.ground import Peers
from story import Story
from together import chat, let_in, same_state
from vestibule import quoted

# From, to.
STEPS = (("10", "11"), ("11", "12"), ("12", "10"), ("12", "12"))
RULES = ("knock", "knock_restricted")


def upgrades_here(peers: Peers) -> None:
    """Our user replaces a room of ours, in which Synapse's users are."""
    _upgrades(peers, HERE)
    peers.tell_with_kills("Upgraded here", peers.tell(
        "Upgraded here, to be told with a kill", lambda: _upgrade(peers, HERE, "11", "12", "knock")),
        lambda: _upgrade(peers, HERE, "11", "12", "knock"))


def upgrades_there(peers: Peers) -> None:
    """Synapse replaces a room of its own, in which our users are."""
    _upgrades(peers, THERE)


def _upgrades(peers: Peers, side: Side) -> None:
    for old, new in STEPS:
        for rule in RULES:
            peers.tell(f"Upgraded {side.word} from version {old} to {new}, join rule `{rule}`",
                       lambda o=old, n=new, r=rule: _upgrade(peers, side, o, n, r))


def _upgrade(peers: Peers, side: Side, old: str, new: str, rule: str) -> Story:
    owner, guest, waiting = side.owner(peers), side.guest(peers), side.another(peers)
    room_id = _room(peers, owner, guest, old, rule)
    if not let_in(peers.check, owner, guest, room_id):
        return
    answer = waiting.knock(room_id)
    peers.check(answer.status == 200 and owner.sees(room_id, waiting.user_id, "knock"),
                f"{waiting.user_id} knocks, and waits", answer)
    answer = owner.client.call("POST", f"/v3/rooms/{quoted(room_id)}/upgrade",
                               {"new_version": new})
    if not peers.check(answer.status == 200, f"{owner.user_id} upgrades the room: 200", answer):
        return
    new_room = answer.json["replacement_room"]
    yield "the upgrade"
    tombstone = guest.until(room_id, lambda room: room.state.get(("m.room.tombstone", "")))
    peers.check(tombstone is not None and tombstone["sender"] == owner.user_id
                and tombstone["content"].get("replacement_room") == new_room,
                f"{guest.name}'s /sync shows the tombstone, which names {new_room}", tombstone)
    closed = guest.until(room_id, lambda room: room.state.get(
        ("m.room.power_levels", ""), {}).get("content", {}).get("events_default") == 50)
    answer = guest.client.send_message(room_id, "late", "too late")
    peers.check(closed and (answer.status, answer.errcode) == (403, "M_FORBIDDEN"),
                f"{guest.name} cannot talk on in the old room: 403 M_FORBIDDEN", answer)
    if rule == "knock":
        if not let_in(peers.check, owner, guest, new_room):
            return
    else:
        answer = guest.join(new_room)
        peers.check(answer.status == 200 and guest.finds(new_room, "join"),
                    f"{guest.name}, who is in the room whose members may join, joins the new one:"
                    " 200", answer)
    yield "the way to the new room"
    rules = guest.client.state_content(new_room, "m.room.join_rules").json
    create = guest.client.state_content(new_room, "m.room.create").json
    peers.check(create["room_version"] == new and create["predecessor"]["room_id"] == room_id
                and rules.get("join_rule") == rule,
                f"it is of version {new}, names the old one, and is knocked on as that was",
                f"{create}, {rules}")
    yield from chat(peers.check, owner, guest, new_room)
    same_state(peers.check, owner, guest, new_room)
    owner.client.about(room_id, "invite", waiting.user_id)
    peers.check(waiting.finds(room_id, "invite"),
                f"{waiting.name}'s knock on the old room is still answered there",
                waiting.view(room_id).sections)


def _room(peers: Peers, owner: Person, guest: Person, version: str, rule: str) -> str:
    """A room that the guest has to knock on, or can join from another one."""
    if rule == "knock":
        return peers.room(version, by=owner)
    club = peers.room(version, by=owner)
    let_in(peers.check, owner, guest, club)
    allow = [{"type": "m.room_membership", "room_id": club}]
    return owner.client.create_room(version, {"join_rule": rule, "allow": allow}, name="Otters")


SCENARIOS = (upgrades_here, upgrades_there)
