"""One line of the table: what is done, what must come back, and whose rule that is.

May not: send anything by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raw_http import Answer

if TYPE_CHECKING:
    from bad.ground import Ground

MAIN = "v11 knock"

# Expectations that many rows share: alternatives divided by "|"; "*" stands for any errcode, or none.
UNAUTHORIZED = "401 M_UNAUTHORIZED"
FORBIDDEN = "403 M_FORBIDDEN"
NOT_FOUND = "404 M_NOT_FOUND"
INVALID = "400 M_INVALID_PARAM"
BAD_JSON = "400 M_BAD_JSON"
NOT_JSON = "400 M_NOT_JSON"
EITHER_JSON = f"{NOT_JSON} | {BAD_JSON}"
MALFORMED = f"{BAD_JSON} | {INVALID}"
TOO_LARGE = "413 M_TOO_LARGE"
UNRECOGNIZED = "404 M_UNRECOGNIZED"
WRONG_METHOD = "405 M_UNRECOGNIZED"
ACCEPTED = "200"


@dataclass(frozen=True)
class Row:
    """`source` cites SPEC.md, SECURITY.md or the Matrix specification ("Matrix: …").

    `prepare` runs before the room's state is taken; what it returns stands in `ground.prepared`.
    `also` looks at the answer and the ground once more, and returns a complaint or None.
    """

    name: str
    expected: str
    source: str
    act: Callable[[Ground], Answer]
    room: str = MAIN
    prepare: Callable[[Ground], Any] | None = None
    also: Callable[[Ground, Answer], str | None] | None = None
    # True for the rows that are good requests in odd clothes, which may change the room.
    changes: bool = False
    ground: str = "open"

    def complaint(self, answer: Answer) -> str | None:
        """None if the answer is one of those expected, and every error is a Matrix error."""
        for alternative in self.expected.split("|"):
            status, _, errcode = alternative.strip().partition(" ")
            if answer.status != int(status):
                continue
            if errcode in ("", "*"):
                return None
            if answer.errcode != errcode:
                continue
            if not isinstance(answer.json.get("error"), str) or not answer.json["error"]:
                return f"`error` says nothing: {answer}"
            return None
        return f"expected {self.expected}, got {answer}"
