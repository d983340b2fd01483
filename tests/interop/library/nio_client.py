"""A person with matrix-nio, as it comes from PyPI.

May not: look at a response in any other way than through what the library made of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeVar

import nio

from person import POLL_MS, SEES_WITHIN_SECONDS

Found = TypeVar("Found")


class NioClient:
    """Logged in by password; /sync runs whenever something is waited for."""

    library = f"matrix-nio {version('matrix-nio')}"

    def __init__(self, homeserver: str, user_id: str, password: str) -> None:
        self.user_id = user_id
        self._loop = asyncio.new_event_loop()
        self._events: dict[str, list[nio.Event]] = {}
        self._invites: set[str] = set()
        self._client = self._run(self._made(homeserver))
        self._did(self._client.login(password), nio.LoginResponse)
        self._listen(0)

    async def _made(self, homeserver: str) -> nio.AsyncClient:
        client = nio.AsyncClient(homeserver, self.user_id)
        client.add_event_callback(self._saw, nio.Event)
        client.add_event_callback(self._was_invited, nio.InviteMemberEvent)
        return client

    async def _saw(self, room: nio.MatrixRoom, event: nio.Event) -> None:
        self._events.setdefault(room.room_id, []).append(event)

    async def _was_invited(self, room: nio.MatrixRoom, event: nio.InviteMemberEvent) -> None:
        if event.state_key == self.user_id and event.membership == "invite":
            self._invites.add(room.room_id)

    # --- doing --------------------------------------------------------------------------------

    def knock(self, room: str, via: list[str], reason: str) -> str:
        # The library has no way to say through whom.
        return self._did(self._client.room_knock(room, reason), nio.RoomKnockResponse).room_id

    def join(self, room_id: str) -> None:
        self._did(self._client.join(room_id), nio.JoinResponse)

    def leave(self, room_id: str) -> None:
        self._did(self._client.room_leave(room_id), nio.RoomLeaveResponse)

    def invite(self, room_id: str, user_id: str) -> None:
        self._did(self._client.room_invite(room_id, user_id), nio.RoomInviteResponse)

    def say(self, room_id: str, text: str) -> str:
        content = {"msgtype": "m.text", "body": text}
        return self._did(self._client.room_send(room_id, "m.room.message", content),
                         nio.RoomSendResponse).event_id

    # --- seeing -------------------------------------------------------------------------------

    def is_knocking(self, room_id: str) -> bool | None:
        return None

    def room_name(self, room_id: str) -> str | None:
        rooms = {**self._client.invited_rooms, **self._client.rooms}
        return rooms[room_id].name if room_id in rooms else None

    def is_invited(self, room_id: str) -> bool:
        return self._until(lambda: room_id in self._invites)

    def knock_of(self, room_id: str, user_id: str) -> str | None:
        return self._until(lambda: next(
            (event.content.get("reason") for event in self._events.get(room_id, [])
             if isinstance(event, nio.RoomMemberEvent) and event.membership == "knock"
             and event.state_key == user_id), None))

    def read(self, room_id: str, event_id: str) -> str | None:
        return self._until(lambda: next(
            (event.body for event in self._events.get(room_id, [])
             if isinstance(event, nio.RoomMessageText) and event.event_id == event_id), None))

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()

    # --- in between ---------------------------------------------------------------------------

    def _until(self, found: Callable[[], Found]) -> Found:
        deadline = time.monotonic() + SEES_WITHIN_SECONDS
        while not (sought := found()) and time.monotonic() < deadline:
            self._listen(POLL_MS)
        return sought

    def _listen(self, timeout_ms: int) -> None:
        self._did(self._client.sync(timeout=timeout_ms), nio.SyncResponse)

    def _did(self, call: Awaitable[Any], expected: type) -> Any:
        answer = self._run(call)
        if not isinstance(answer, expected):
            raise RuntimeError(f"{self.library}: {answer}")
        return answer

    def _run(self, call: Awaitable[Found]) -> Found:
        return self._loop.run_until_complete(call)
