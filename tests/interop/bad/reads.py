"""Rows about servers that read a room in which they have nobody.

May not: join; every server here is a stranger, or knocks at most.
"""

from __future__ import annotations

from collections.abc import Callable

from bad.ground import Ground
from bad.row import FORBIDDEN, MALFORMED, NOT_FOUND, UNAUTHORIZED, WRONG_METHOD, Row
from peer import FEDERATION
from raw_http import Answer

V11 = "SECURITY V11 (a server that only knocks reads nothing)"
Target = Callable[[str, str], str]

# By name: the target for a room and an event.
TARGETS: dict[str, Target] = {
    "state_ids": lambda room, event: f"{FEDERATION}/v1/state_ids/{room}?event_id={event}",
    "state": lambda room, event: f"{FEDERATION}/v1/state/{room}?event_id={event}",
    "event_auth": lambda room, event: f"{FEDERATION}/v1/event_auth/{room}/{event}",
    "backfill": lambda room, event: f"{FEDERATION}/v1/backfill/{room}?v={event}&limit=10",
    "event": lambda _, event: f"{FEDERATION}/v1/event/{event}",
}


def _read(g: Ground, target: Target, **other: object) -> Answer:
    return g.ask(target=target(g.here, g.last_event(g.here)), **other)


def _missing(g: Ground, room_id: str | None = None) -> Answer:
    content = {"earliest_events": [], "latest_events": [g.last_event(g.here)]}
    target = f"{FEDERATION}/v1/get_missing_events/{room_id or g.here}"
    return g.ask(target=target, method="POST", content=content)


def _of(name: str, target: Target) -> list[Row]:
    rows = [
        Row(f"{name}: a stranger", FORBIDDEN, V11, lambda g: _read(g, target)),
        Row(f"{name}: a server whose user knocks", FORBIDDEN, V11, lambda g: _read(g, target),
            prepare=lambda g: g.admitted()),
        Row(f"{name}: not signed", UNAUTHORIZED, "SPEC 4.3",
            lambda g: _read(g, target, authorization=[])),
        Row(f"{name}: an event that nobody has", f"{FORBIDDEN} | {NOT_FOUND}", "SECURITY V42",
            lambda g: g.ask(target=target(g.here, "$" + "A" * 43))),
        Row(f"DELETE to {name}", WRONG_METHOD, "Matrix: wrong method is 405, D26",
            lambda g: _read(g, target, method="DELETE")),
    ]
    if name != "event":
        rows += [
            Row(f"{name}: room that is not here", NOT_FOUND, "SPEC section 6",
                lambda g: g.ask(target=target(g.nonexistent_room(), g.last_event(g.here)))),
            Row(f"{name}: no room id", MALFORMED, "Matrix: room ids",
                lambda g: g.ask(target=target("nonsense", "$" + "A" * 43))),
        ]
    return rows


ROWS = [row for name, target in TARGETS.items() for row in _of(name, target)] + [
    Row("get_missing_events: a stranger", FORBIDDEN, V11, _missing),
    Row("get_missing_events: a server whose user knocks", FORBIDDEN, V11, _missing,
        prepare=lambda g: g.admitted()),
    Row("get_missing_events: room that is not here", NOT_FOUND, "SPEC section 6",
        lambda g: _missing(g, g.nonexistent_room())),
]
