"""Rows about what other servers send unasked: invites and transactions.

May not: invite anybody for good, or get an event into a room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bad.ground import Ground
from bad.row import ACCEPTED, BAD_JSON, INVALID, NOT_FOUND, UNAUTHORIZED, WRONG_METHOD, Row
from pdu import Json
from peer import FEDERATION, membership_target, now_ms
from raw_http import Answer

V02 = "SECURITY V02 (nothing but an invite is signed)"
V05 = "SECURITY V05 (each event is verified by itself)"
UNKNOWN_VERSION = "400 M_INCOMPATIBLE_ROOM_VERSION"
ELSEWHERE = "!elsewhere:good.test"


def _invite(name: str, expected: str, source: str, change: Callable[[Json], Any] | None = None,
            after: Callable[[Json], Any] | None = None, body: Json | None = None) -> Row:
    def act(g: Ground) -> Answer:
        event = {
            "type": "m.room.member", "room_id": ELSEWHERE, "sender": g.user(), "depth": 5,
            "state_key": g.owner.user_id, "content": {"membership": "invite"},
            "auth_events": ["$" + "A" * 43], "prev_events": ["$" + "B" * 43],
            "origin_server_ts": now_ms(),
        }
        if change is not None:
            change(event)
        signed = g.good.sign_event(event, "11")
        if after is not None:
            after(signed.event)
        content = {"room_version": "11", "event": signed.event, **(body or {})}
        target = membership_target("v2/invite", ELSEWHERE, signed.event_id)
        return g.ask(target=target, method="PUT", content=content)

    def unsigned_by_us(g: Ground, answer: Answer) -> str | None:
        return "our signature left" if g.vestibule.server_name in str(answer.json) else None

    return Row(f"invite: {name}", expected, source, act, also=unsigned_by_us)


def _member(membership: str) -> Callable[[Json], Any]:
    return lambda e: e["content"].update(membership=membership)


def _send(g: Ground, content: Any, transaction: str | None = None, **other: Any) -> Answer:
    target = f"{FEDERATION}/v1/send/{transaction or g.user()[1:4]}{now_ms()}"
    return g.ask(target=target, method="PUT", content=content, **other)


def _forged(g: Ground) -> Answer:
    """A message in the owner's name, signed by a server that is not the owner's."""
    event = {**g.handmade(), "type": "m.room.message", "sender": g.owner.user_id,
             "content": {"msgtype": "m.text", "body": "not me"}}
    event.pop("state_key")
    signed = g.good.sign_event(event, g.version)
    g.last = signed
    return _send(g, {"pdus": [signed.event]})


def _refused(g: Ground, answer: Answer) -> str | None:
    outcome = answer.json["pdus"].get(g.last.event_id) if g.last else None
    return None if outcome and "error" in outcome else f"taken: {answer.json}"


ROWS = [
    _invite("another type", INVALID, V02, lambda e: e.update(type="m.room.power_levels")),
    _invite("join", INVALID, V02, _member("join")),
    _invite("leave", INVALID, V02, _member("leave")),
    _invite("ban", INVALID, V02, _member("ban")),
    _invite("knock", INVALID, V02, _member("knock")),
    _invite("sender of another server", INVALID, V02, lambda e: e.update(sender="@a:other.test")),
    _invite("another room than in the path", INVALID, V02,
            lambda e: e.update(room_id="!another:good.test")),
    _invite("for a user of another server", INVALID, V02,
            lambda e: e.update(state_key="@a:other.test")),
    _invite("event not signed", INVALID, "SECURITY V03", after=lambda e: e.update(signatures={})),
    _invite("no depth", BAD_JSON, "SPEC 5.1 no. 1", lambda e: e.pop("depth")),
    _invite("for nobody", NOT_FOUND, "Matrix: no such user",
            lambda e: e.update(state_key="@nobody-here:vestibule.test")),
    _invite("unknown room version", UNKNOWN_VERSION, "SPEC section 6",
            body={"room_version": "org.example.99"}),
    _invite("room version is a number", BAD_JSON, "Matrix: invite", body={"room_version": 11}),
    _invite("event is a list", BAD_JSON, "Matrix: invite", body={"event": []}),
    _invite("state is an object", INVALID, "SPEC 2.13 no. 4", body={"invite_room_state": {}}),
    Row("send: 51 events", INVALID, "SECURITY V68", lambda g: _send(g, {"pdus": [{}] * 51})),
    Row("send: 101 ephemeral events", INVALID, "SECURITY V68",
        lambda g: _send(g, {"pdus": [], "edus": [{}] * 101})),
    Row("send: pdus is an object", BAD_JSON, "Matrix: send", lambda g: _send(g, {"pdus": {}})),
    Row("send: transaction id of 300 bytes", INVALID, "SECURITY V67",
        lambda g: _send(g, {"pdus": []}, "x" * 300)),
    Row("send: not signed", UNAUTHORIZED, "SPEC 4.3",
        lambda g: _send(g, {"pdus": []}, authorization=[])),
    Row("GET to send", WRONG_METHOD, "Matrix: wrong method is 405, D26",
        lambda g: g.ask(target=f"{FEDERATION}/v1/send/t1")),
    Row("send: a forged event is refused by itself", ACCEPTED, V05, _forged, also=_refused),
    Row("send: events that are none are passed over", ACCEPTED, "SPEC 5.1 (/send)",
        lambda g: _send(g, {"pdus": [{}, 1, {"room_id": g.here}, {"room_id": "x"}]})),
]
