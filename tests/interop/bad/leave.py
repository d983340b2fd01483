"""Rows about taking a knock back: make_leave and send_leave.

May not: take a knock back; every row's room stays as it is.
"""

from __future__ import annotations

from typing import Any

from bad.ground import Ground
from bad.row import (BAD_JSON, FORBIDDEN, INVALID, MALFORMED, NOT_FOUND, UNAUTHORIZED,
                     WRONG_METHOD, Row)
from pdu import Json
from peer import membership_target
from raw_http import Answer

FIVE_CHECKS = "SPEC 2.9 (the five checks of send_leave)"


def _make(g: Ground, **other: Any) -> Answer:
    user = other.pop("user", None) or g.user()
    room_id = other.pop("room_id", None) or g.here
    return g.ask(target=membership_target("v1/make_leave", room_id, user), **other)


def _send(name: str, expected: str, source: str, change: Any = None, after: Any = None,
          **other: Any) -> Row:
    return Row(f"send_leave: {name}", expected, source,
               lambda g: g.put_leave(change, after, **other), prepare=lambda g: g.admitted())


def _never_here(g: Ground) -> Answer:
    """The template of somebody who knocks, made out to a user who never did."""
    other = g.user()
    knock = g.prepared.event_id

    def make_out(event: Json) -> None:
        event.update(sender=other, state_key=other)
        event["auth_events"] = [e for e in event["auth_events"] if e != knock]

    return g.put_leave(make_out)


def _by_another_server(g: Ground) -> Answer:
    user = g.prepared.event["sender"]
    return _make(g, peer=g.peer("other.test"), user=user)


ROWS = [
    Row("make_leave: user who was never here", FORBIDDEN, "SPEC 2.9 (make_leave errors)", _make),
    Row("make_leave: room that is not here", NOT_FOUND, "SPEC 2.9",
        lambda g: _make(g, room_id=g.nonexistent_room())),
    Row("make_leave: user of another server", FORBIDDEN, "SECURITY V09, T10", _by_another_server,
        prepare=lambda g: g.admitted()),
    Row("make_leave: the owner", FORBIDDEN, "SECURITY V09, T10",
        lambda g: _make(g, user=g.owner.user_id)),
    Row("make_leave: not signed", UNAUTHORIZED, "SPEC 4.3", lambda g: _make(g, authorization=[])),
    Row("make_leave: user id without a server", MALFORMED, "Matrix: user ids",
        lambda g: _make(g, user="@alice")),
    Row("make_leave: denied server", FORBIDDEN, "SPEC 2.11, V38",
        lambda g: _make(g, peer=g.peer("evil.test"), user="@a:evil.test"), room="acl deny"),
    Row("POST to make_leave", WRONG_METHOD, "Matrix: wrong method is 405, D26",
        lambda g: _make(g, method="POST", content={})),
    _send("another type", INVALID, FIVE_CHECKS, lambda e: e.update(type="m.room.name")),
    _send("join", INVALID, FIVE_CHECKS, lambda e: e["content"].update(membership="join")),
    _send("knock", INVALID, FIVE_CHECKS, lambda e: e["content"].update(membership="knock")),
    _send("ban", INVALID, FIVE_CHECKS, lambda e: e["content"].update(membership="ban")),
    _send("sender of another server", INVALID, FIVE_CHECKS,
          lambda e: e.update(sender="@a:other.test", state_key="@a:other.test")),
    _send("another user's leave", INVALID, FIVE_CHECKS,
          lambda e: e.update(state_key="@owner:vestibule.test")),
    _send("event not signed", INVALID, FIVE_CHECKS, after=lambda e: e.update(signatures={})),
    _send("another event id in the path", INVALID, "SECURITY V04", event_id="$" + "A" * 43),
    _send("no depth", BAD_JSON, "SPEC 5.1 no. 1", lambda e: e.pop("depth")),
    _send("a previous event that nobody has", MALFORMED, "SPEC 2.6 (prev_events known)",
          lambda e: e.update(prev_events=["$" + "A" * 43])),
    Row("send_leave: room that is not here", NOT_FOUND, "Matrix: unknown room",
        lambda g: g.put_leave(lambda e: e.update(room_id=g.nonexistent_room()),
                              room_id=g.nonexistent_room()), prepare=lambda g: g.admitted()),
    Row("send_leave: user who was never here", FORBIDDEN, "SPEC 2.4 (auth rules)", _never_here,
        prepare=lambda g: g.admitted()),
]
