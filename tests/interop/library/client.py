"""What a scenario asks of a person, whatever library their client is made with.

May not: say anything about HTTP; how it is asked and understood is the library's affair, and that
it can be is what is tested.
"""

from __future__ import annotations

from typing import Protocol


class LibraryClient(Protocol):
    """Logged in and syncing. Waits end by themselves, with None or False."""

    library: str
    user_id: str

    def knock(self, room: str, via: list[str], reason: str) -> str:
        """The room's id."""

    def is_knocking(self, room_id: str) -> bool | None:
        """Whether the library comes to say so. None: it does not know of knocks."""

    def room_name(self, room_id: str) -> str | None: ...

    def is_invited(self, room_id: str) -> bool: ...

    def join(self, room_id: str) -> None: ...

    def leave(self, room_id: str) -> None: ...

    def knock_of(self, room_id: str, user_id: str) -> str | None:
        """The reason of that user's knock, when it shows."""

    def invite(self, room_id: str, user_id: str) -> None: ...

    def say(self, room_id: str, text: str) -> str:
        """The id of the event."""

    def read(self, room_id: str, event_id: str) -> str | None:
        """The text of that message, when it shows."""

    def close(self) -> None: ...
