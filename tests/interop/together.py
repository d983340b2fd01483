"""What two people on two servers have in common once both are in a room.

May not: care how they came in, or which servers theirs are.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from person import Event, Person
from story import Story

Check = Callable[..., bool]
HISTORY = 30


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
