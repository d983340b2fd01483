"""Rows about joins: make_join and send_join.

May not: join; nobody may, in a room that one has to knock on.
"""

from __future__ import annotations

from typing import Any

from bad.ground import Ground
from bad.row import (BAD_JSON, FORBIDDEN, INVALID, MALFORMED, NOT_FOUND, TOO_LARGE, UNAUTHORIZED,
                     WRONG_METHOD, Row)
from pdu import Json
from peer import membership_target
from raw_http import Answer

FIVE_CHECKS = "Matrix: send_join's five checks"
INCOMPATIBLE = "400 M_INCOMPATIBLE_ROOM_VERSION"


def _make(g: Ground, versions: str = "?ver=11", **other: Any) -> Answer:
    user = other.pop("user", None) or g.user()
    room_id = other.pop("room_id", None) or g.here
    return g.ask(target=membership_target("v1/make_join", room_id, user) + versions, **other)


def _send(name: str, expected: str, source: str, change: Any = None, after: Any = None,
          **other: Any) -> Row:
    def act(g: Ground) -> Answer:
        def join(event: Json) -> None:
            event["content"] = {"membership": "join"}
            if change is not None:
                change(event)

        return g.put(join, after, event=g.handmade(), endpoint="v2/send_join", **other)

    return Row(f"send_join: {name}", expected, source, act)


ROWS = [
    Row("make_join: nobody invited the user", FORBIDDEN, "SPEC 5.8 (auth rules)", _make),
    Row("make_join: no version offered", INCOMPATIBLE, "Matrix: ver defaults to version 1",
        lambda g: _make(g, "")),
    Row("make_join: another version offered", INCOMPATIBLE, "Matrix: make_join, 400",
        lambda g: _make(g, "?ver=10&ver=12")),
    Row("make_join: room that is not here", NOT_FOUND, "Matrix: make_join, 404",
        lambda g: _make(g, room_id=g.nonexistent_room())),
    Row("make_join: user of another server", FORBIDDEN, "SECURITY V09, T10",
        lambda g: _make(g, user="@a:other.test")),
    Row("make_join: not signed", UNAUTHORIZED, "SPEC 4.3", lambda g: _make(g, authorization=[])),
    Row("make_join: user id without a server", MALFORMED, "Matrix: user ids",
        lambda g: _make(g, user="@alice")),
    Row("make_join: denied server", FORBIDDEN, "SPEC 2.11, V38",
        lambda g: _make(g, peer=g.peer("evil.test"), user="@a:evil.test"), room="acl deny"),
    Row("POST to make_join", WRONG_METHOD, "Matrix: wrong method is 405, D26",
        lambda g: _make(g, method="POST", content={})),
    _send("nobody invited the user", FORBIDDEN, "SPEC 5.8 (auth rules)"),
    _send("another type", INVALID, FIVE_CHECKS, lambda e: e.update(type="m.room.name")),
    _send("knock", INVALID, FIVE_CHECKS, lambda e: e["content"].update(membership="knock")),
    _send("leave", INVALID, FIVE_CHECKS, lambda e: e["content"].update(membership="leave")),
    _send("sender of another server", INVALID, FIVE_CHECKS,
          lambda e: e.update(sender="@a:other.test", state_key="@a:other.test")),
    _send("another user's join", INVALID, FIVE_CHECKS,
          lambda e: e.update(state_key="@owner:vestibule.test")),
    _send("event not signed", INVALID, FIVE_CHECKS, after=lambda e: e.update(signatures={})),
    _send("another event id in the path", INVALID, "SECURITY V04", event_id="$" + "A" * 43),
    _send("no depth", BAD_JSON, "SPEC 5.1 no. 1", lambda e: e.pop("depth")),
    _send("a previous event that nobody has", INVALID, "SPEC 2.6 (prev_events known)",
          lambda e: e.update(prev_events=["$" + "A" * 43])),
    _send("content of 5 KiB", TOO_LARGE, "SECURITY T4",
          lambda e: e["content"].update(displayname="x" * 5_000)),
    _send("vouched for by a user of ours where nobody needs to be", FORBIDDEN, "SPEC 2.2",
          lambda e: e["content"].update(join_authorised_via_users_server="@owner:vestibule.test")),
    _send("vouched for by a user of another server", "400 M_UNABLE_TO_GRANT_JOIN | " + FORBIDDEN,
          "SPEC 2.2",
          lambda e: e["content"].update(join_authorised_via_users_server="@a:other.test")),
]
