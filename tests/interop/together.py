"""What two people on two servers go through in one room, whichever servers theirs are.

May not: care where the room was made.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from person import REASON, STRIPPED_KEYS, Event, Person
from story import Story

Check = Callable[..., bool]
HISTORY = 30
GOODBYE = "Too loud for otters."
# What a room shows to somebody who is not in it; `m.room.member` is about them or who invites them.
SHOWN_TYPES = {
    "m.room.create", "m.room.join_rules", "m.room.canonical_alias", "m.room.avatar",
    "m.room.encryption", "m.room.name", "m.room.topic", "m.room.member",
}


def waits(check: Check, visitor: Person, room_id: str, rule: str) -> None:
    """A knock with `REASON` in the /sync of the one who knocks. The room is one of "Otters"."""
    check(visitor.finds(room_id, "knock"),
          f"the room is under `rooms.knock` in {visitor.name}'s /sync",
          visitor.view(room_id).sections)
    room = visitor.view(room_id)
    check(all(set(event) == STRIPPED_KEYS for event in room.stripped)
          and {event["type"] for event in room.stripped} <= SHOWN_TYPES,
          f"with {len(room.stripped)} stripped events, and nothing private", room.stripped)
    check(room.stripped_content("m.room.name") == {"name": "Otters"}
          and room.stripped_content("m.room.topic").get("topic") == "All about them"
          and room.stripped_content("m.room.join_rules").get("join_rule") == rule
          and room.stripped_content("m.room.create") != {},
          "they say how the room was made, its name, its topic and its join rule", room.stripped)
    members = [event for event in room.stripped if event["type"] == "m.room.member"]
    check([event["state_key"] for event in members] == [visitor.user_id]
          and members[0]["content"].get("membership") == "knock"
          and members[0]["content"].get("reason") == REASON,
          "and the user's own knock is the only membership among them", members)


def invited(check: Check, owner: Person, visitor: Person, room_id: str) -> None:
    """The answer to a knock in the visitor's /sync. The room is one of "Otters"."""
    check(visitor.finds(room_id, "invite"), f"{owner.name} accepts by an invite: in"
          f" {visitor.name}'s /sync the room moves to `rooms.invite`",
          visitor.view(room_id).sections)
    room = visitor.view(room_id)
    invite = room.stripped_event("m.room.member", visitor.user_id)
    check(all(set(event) == STRIPPED_KEYS for event in room.stripped)
          and {event["type"] for event in room.stripped} <= SHOWN_TYPES
          and room.stripped_content("m.room.name") == {"name": "Otters"}
          and room.stripped_content("m.room.create") != {},
          "with the room's making and name, and nothing private", room.stripped)
    check(invite.get("sender") == owner.user_id
          and invite["content"].get("membership") == "invite",
          f"and with the invite itself, which is {owner.name}'s", room.stripped)
    check(room.sections.count("invite") == 1, "it came once", room.sections)


def let_in(check: Check, owner: Person, visitor: Person, room_id: str) -> bool:
    """A knock, its accept and the join, without looking left or right."""
    knocked = visitor.knock(room_id)
    owner.client.about(room_id, "invite", visitor.user_id)
    is_invited = visitor.finds(room_id, "invite")
    joined = visitor.join(room_id, via=())
    return check(
        (knocked.status, joined.status) == (200, 200) and is_invited
        and visitor.finds(room_id, "join") and owner.sees(room_id, visitor.user_id, "join"),
        f"{visitor.user_id} knocks, is let in, and joins", f"{knocked}, {joined}")


def accepted(check: Check, owner: Person, visitor: Person, room_id: str) -> Story:
    """From a knock that waits to a knock that comes again after a kick, with all of life in
    between. The room is one of "Otters"."""
    owner.client.about(room_id, "invite", visitor.user_id)
    yield "the invite"
    invited(check, owner, visitor, room_id)
    answer = visitor.join(room_id, via=())
    check(answer.status == 200, f"{visitor.name} joins, and need not say through whom: 200", answer)
    yield "the join"
    check(owner.sees(room_id, visitor.user_id, "join", displayname=visitor.name),
          f"{owner.name}'s /sync shows that {visitor.name} is in")
    check(visitor.finds(room_id, "join"), f"and so does {visitor.name}'s")
    yield from chat(check, owner, visitor, room_id)
    same_state(check, owner, visitor, room_id)
    owner.client.about(room_id, "kick", visitor.user_id, reason=GOODBYE)
    yield "the kick"
    event = visitor.sees(room_id, visitor.user_id, "leave", reason=GOODBYE)
    check(event is not None and event["sender"] == owner.user_id
          and visitor.membership(room_id) == "leave",
          f"{owner.name} kicks {visitor.name}, whose /sync shows by whom, and why", event)
    answer = visitor.knock(room_id, "sorry")
    check(answer.status == 200, f"{visitor.name} knocks again: 200", answer)
    yield "the knock after it"
    check(owner.sees(room_id, visitor.user_id, "knock", reason="sorry"),
          f"and {owner.name} sees it")
    check(visitor.finds(room_id, "knock"),
          f"and {visitor.name}'s /sync has it under `rooms.knock`")


def vouched_for(check: Check, owner: Person, member: Person, room_id: str) -> Story:
    """Who is in the one room joins the other, which lets in the members of the first."""
    answer = member.join(room_id)
    check(answer.status == 200, f"{member.user_id}, who is, joins without asking: 200", answer)
    yield "the join"
    event = owner.sees(room_id, member.user_id, "join")
    check(event is not None and event["content"].get("join_authorised_via_users_server")
          == owner.user_id, f"the join says that {owner.name}'s server vouches for it", event)
    check(member.finds(room_id, "join"),
          f"and {member.name}'s /sync has the room under `rooms.join`")
    yield from chat(check, owner, member, room_id)
    same_state(check, owner, member, room_id)


def chat(check: Check, one: Person, other: Person, room_id: str) -> Story:
    """Each says something, and the other reads it."""
    for speaker, listener in ((one, other), (other, one)):
        text = f"This is {speaker.name}, and there are otters here."
        event_id = speaker.say(room_id, text)
        yield f"{speaker.name}'s message"
        read = listener.reads(room_id, event_id)
        check(read is not None and read["sender"] == speaker.user_id
              and read["content"].get("body") == text,
              f"{speaker.name} says something, and {listener.name} reads it", read)


def same_state(check: Check, one: Person, other: Person, room_id: str) -> None:
    """Event by event. After a chat both servers have all that was before it."""
    ours, theirs = (_state(person, room_id) for person in (one, other))
    different = {key: (ours.get(key), theirs.get(key)) for key in sorted({*ours, *theirs})
                 if ours.get(key) != theirs.get(key)}
    check(ours and not different, f"on both servers the state is the same {len(ours)} events",
          different)


def _state(person: Person, room_id: str) -> dict[tuple[str, str], Event]:
    return {(event["type"], event["state_key"]):
            {key: event[key] for key in ("event_id", "sender", "content", "origin_server_ts")}
            for event in person.client.state(room_id)}


def at_odds(check: Check, one: Person, other: Person, room_id: str) -> Story:
    """Both talk and rename the room at the same moment: the room forks, and grows together."""
    def busy(person: Person) -> list[str]:
        said = []
        for number in range(5):
            said.append(person.say(room_id, f"{person.name} {number}"))
            person.client.set_state(room_id, "m.room.topic", {"topic": f"{person.name} {number}"})
        return said

    with ThreadPoolExecutor() as pool:
        said = dict(zip((one, other), pool.map(busy, (one, other)), strict=True))
    yield "talking and renaming at the same time"
    for speaker, listener in ((one, other), (other, one)):
        missed = listener.misses(room_id, said[speaker])
        check(not missed, f"{listener.name} reads all that {speaker.name} said meanwhile", missed)
    yield from chat(check, one, other, room_id)
    same_state(check, one, other, room_id)


def write_history(person: Person, room_id: str) -> list[str]:
    """What was said before others came; the event ids in order."""
    return [person.say(room_id, f"old message {number}") for number in range(HISTORY)]


def reads_history(check: Check, person: Person, room_id: str, written: list[str]) -> None:
    """The newcomer pages back through /messages to the beginning of the room."""
    found: list[str] = []
    position: dict[str, Any] = {}
    while True:
        page = person.client.messages(room_id, dir="b", limit=10, **position)
        found += [event["event_id"] for event in page["chunk"]]
        if "end" not in page or page["end"] == position.get("from"):
            break
        position = {"from": page["end"]}
    old = [event_id for event_id in reversed(found) if event_id in set(written)]
    check(old == written, f"{person.name} pages back to all {len(written)} old messages, each"
          " once and in order", f"{len(old)} of {len(written)}, {len(found)} events in all")
