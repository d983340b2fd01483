"""A person at a client: what /sync has told them so far, room by room, and the wait for more of it.

Works the same on every homeserver. May not: sleep, or look for anything in another way than the
person's own client would.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from raw_http import Answer
from vestibule import Client

Event = dict[str, Any]
Found = TypeVar("Found")

# Every wait ends by then. What is there comes within milliseconds; a first start, a notary and a
# busy machine all fit in.
SEES_WITHIN_SECONDS = 30.0
POLL_MS = 5000
# So many that no batch of /sync leaves any out.
FILTER = json.dumps({"room": {"timeline": {"limit": 100}}})
REASON = "I read your page about otters, may I come in?"
STRIPPED_KEYS = {"type", "state_key", "sender", "content"}


@dataclass
class RoomView:
    """A room as one client has it, folded from batch after batch of /sync."""

    # Under what each batch that spoke of the room had it: `knock`, `invite`, `join` or `leave`.
    sections: list[str] = field(default_factory=list)
    # The last batch's words about it.
    shown: dict[str, Any] = field(default_factory=dict)
    timeline: list[Event] = field(default_factory=list)
    state: dict[tuple[str, str], Event] = field(default_factory=dict)
    # Who types now.
    typing: list[str] = field(default_factory=list)
    # How far each user has read, by public receipts: user id → event id.
    read: dict[str, str] = field(default_factory=dict)

    def take(self, section: str, shown: dict[str, Any]) -> None:
        self.sections.append(section)
        self.shown = shown
        timeline = shown.get("timeline", {}).get("events", [])
        self.timeline += timeline
        for event in (*shown.get("state", {}).get("events", []), *timeline):
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = event
        for event in shown.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing":
                self.typing = event["content"]["user_ids"]
            elif event["type"] == "m.receipt":
                self.read |= {user_id: event_id
                              for event_id, receipts in event["content"].items()
                              for user_id in receipts.get("m.read", {})}

    @property
    def section(self) -> str | None:
        return self.sections[-1] if self.sections else None

    @property
    def stripped(self) -> list[Event]:
        """What is shown of a room to somebody who is not in it."""
        return self.shown.get(f"{self.section}_state", {}).get("events", [])

    def stripped_event(self, kind: str, key: str = "") -> Event:
        """The one stripped event of that type and key, {} if there is none or several."""
        found = [event for event in self.stripped
                 if (event["type"], event["state_key"]) == (kind, key)]
        return found[0] if len(found) == 1 else {}

    def stripped_content(self, kind: str, key: str = "") -> dict[str, Any]:
        return self.stripped_event(kind, key).get("content", {})

    def member(self, user_id: str) -> Event:
        """The last member event about the user, as far as it was shown; else {}."""
        return self.state.get(("m.room.member", user_id), {})

    def members(self, membership: str) -> int:
        """How many have that membership, as far as it was shown."""
        return sum(event["content"].get("membership") == membership
                   for (kind, _), event in self.state.items() if kind == "m.room.member")

    def count(self, event_id: str) -> int:
        return sum(event["event_id"] == event_id for event in self.timeline)


class Person:
    """A user of any homeserver, and their one client."""

    _transactions = itertools.count(1)

    def __init__(self, client: Client, name: str, via: Iterable[str] = ()) -> None:
        """`via` are the servers that this person asks for rooms elsewhere."""
        self.client = client
        self.name = name
        self.user_id = client.user_id
        self.via = tuple(via)
        self._views: dict[str, RoomView] = {}
        # What came for this client alone, and whose devices are not what they were.
        self.to_device: list[Event] = []
        self.changed_devices: list[str] = []
        self._since: str | None = None
        self.listen()

    # --- doing --------------------------------------------------------------------------------

    def knock(self, room: str, reason: str | None = REASON,
              via: Iterable[str] | None = None) -> Answer:
        """`room` is an id or an alias."""
        body = {} if reason is None else {"reason": reason}
        return self.client.knock(room, self.via if via is None else via, **body)

    def join(self, room: str, via: Iterable[str] | None = None) -> Answer:
        return self.client.join(room, self.via if via is None else via)

    def leave(self, room_id: str, reason: str | None = None) -> Answer:
        return self.client.in_room(room_id, "leave", {} if reason is None else {"reason": reason})

    def say(self, room_id: str, text: str) -> str:
        """Send a message; its event id."""
        answer = self.client.send_message(room_id, f"said{next(self._transactions)}", text)
        if answer.status != 200:
            raise RuntimeError(f"{self.user_id} says something in {room_id}: {answer}")
        return answer.json["event_id"]

    # --- seeing -------------------------------------------------------------------------------

    def listen(self, timeout_ms: int = 0) -> None:
        """One /sync."""
        batch = self.client.sync(self._since, timeout_ms, filter=FILTER)
        self._since = batch["next_batch"]
        self.to_device += batch.get("to_device", {}).get("events", [])
        self.changed_devices += batch.get("device_lists", {}).get("changed", [])
        for section, rooms in batch.get("rooms", {}).items():
            for room_id, shown in rooms.items():
                self.view(room_id).take(section, shown)

    def view(self, room_id: str) -> RoomView:
        return self._views.setdefault(room_id, RoomView())

    def until(self, room_id: str, found: Callable[[RoomView], Found],
              within_seconds: float = SEES_WITHIN_SECONDS) -> Found:
        """Long-poll until the room gives `found` something; that, or what it gives in the end."""
        return self.awaits(lambda: found(self.view(room_id)), within_seconds)

    def awaits(self, found: Callable[[], Found],
               within_seconds: float = SEES_WITHIN_SECONDS) -> Found:
        """The same for anything that /sync told, in rooms or outside of them."""
        deadline = time.monotonic() + within_seconds
        while not (sought := found()) and time.monotonic() < deadline:
            self.listen(POLL_MS if self._since else 0)
        return sought

    def finds(self, room_id: str, section: str) -> bool:
        """Whether the room comes to stand under `rooms.<section>`."""
        return self.until(room_id, lambda room: room.section == section)

    def sees(self, room_id: str, user_id: str, membership: str, **content: Any) -> Event | None:
        """The event that gives the user this membership (and this further content), when it comes
        to be the last one about them."""
        wanted = {"membership": membership, **content}

        def found(room: RoomView) -> Event | None:
            event = room.member(user_id)
            return event if wanted.items() <= event.get("content", {}).items() else None

        return self.until(room_id, found)

    def reads(self, room_id: str, event_id: str,
              within_seconds: float = SEES_WITHIN_SECONDS) -> Event | None:
        """The event with that id, when the timeline has it."""
        return self.until(room_id, lambda room: next(
            (event for event in room.timeline if event["event_id"] == event_id), None),
            within_seconds)

    def misses(self, room_id: str, event_ids: Iterable[str]) -> list[str]:
        """Which of these events the timeline does not come to have."""
        wanted = list(event_ids)

        def missing(room: RoomView) -> list[str]:
            has = {event["event_id"] for event in room.timeline}
            return [event_id for event_id in wanted if event_id not in has]

        self.until(room_id, lambda room: not missing(room))
        return missing(self.view(room_id))

    def membership(self, room_id: str) -> str | None:
        """Under what the person's own client has the room now."""
        return self.view(room_id).section
