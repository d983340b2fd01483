"""Rows about `repeat_after`, caps and buckets, on servers whose limits are low.

May not: run where the other rows run; there no limit is in force.
"""

from __future__ import annotations

from typing import Any

from bad.ground import Ground
from bad.row import FORBIDDEN, Row
from raw_http import Answer

PENDING_PER_ORIGIN = 2
PENDING_PER_ROOM = 3
BURST = 2

CAPS = "caps"
BUCKETS = "buckets"
SETTINGS: dict[str, dict[str, str]] = {
    "open": {"rate_limit.enabled": "false", "knock.repeat_after": '"0s"'},
    CAPS: {
        "rate_limit.enabled": "false",
        "knock.max_pending_per_origin_in_room": str(PENDING_PER_ORIGIN),
        "knock.max_pending_per_room": str(PENDING_PER_ROOM),
    },
    # One token comes back in a quarter of an hour, so holding the request for 5 s cannot help it.
    BUCKETS: {
        "rate_limit.knocks_by_origin_in_room": f"{{ per_second = 0.001, burst = {BURST} }}",
    },
}


def _two_templates(g: Ground) -> Any:
    """A knock that is admitted, and a second one of that user from a template older than it."""
    user = g.user()
    later = g.knock_event(user=user)
    g.admitted(user)
    return later


def _says_when(g: Ground, answer: Answer) -> str | None:
    """D3: the refusal says from when a new knock counts."""
    return None if any(c.isdigit() for c in answer.json["error"]) else f"no time in {answer}"


def _full_of_one_origin(g: Ground) -> None:
    for _ in range(PENDING_PER_ORIGIN):
        g.admitted()


def _emptied_bucket(g: Ground) -> None:
    for _ in range(BURST):
        g.admitted()


def _full(g: Ground) -> None:
    _full_of_one_origin(g)
    g.admitted(peer=g.peer("other.test"))


def _knock(g: Ground, peer: str) -> Answer:
    return g.peer(peer).knock(g.vestibule, g.here, g.user(g.peer(peer)))[1]


def _local_repeat(g: Ground) -> Any:
    guest = g.local("guest")
    answer = guest.knock(g.here, reason="once")
    if answer.status != 200:
        raise RuntimeError(f"the first knock of a local user: {answer}")
    return guest


def _says_how_long(g: Ground, answer: Answer) -> str | None:
    wait_ms = answer.json.get("retry_after_ms")
    if not isinstance(wait_ms, int) or wait_ms <= 0:
        return f"`retry_after_ms` is {wait_ms!r}"
    return None if answer.header("Retry-After") else "no Retry-After"


ROWS = [
    Row("limits: make_knock again within repeat_after", FORBIDDEN, "SPEC D3, 2.5",
        lambda g: g.ask(user=g.prepared.event["sender"]), ground=CAPS, also=_says_when,
        prepare=lambda g: g.admitted()),
    Row("limits: send_knock again within repeat_after", FORBIDDEN, "SPEC D3, 2.6",
        lambda g: g.put(event=g.prepared), ground=CAPS, room="second", also=_says_when,
        prepare=_two_templates),
    Row("limits: the accepted event again within repeat_after", "200",
        "SPEC 2.6 (replays before any limit)", lambda g: g.send(g.prepared), ground=CAPS,
        room="v10 knock", prepare=lambda g: g.admitted()),
    Row("limits: a local user's knock again within repeat_after", FORBIDDEN, "SPEC D3",
        lambda g: g.prepared.knock(g.here, reason="twice"), ground=CAPS, room="v12 knock",
        prepare=_local_repeat),
    Row("limits: too many pending of one server", FORBIDDEN, "DESIGN 3.12 (a cap is 403), T1",
        lambda g: _knock(g, "good.test"), ground=CAPS, room="v8 knock",
        prepare=_full_of_one_origin),
    Row("limits: of another server there is room", "200", "DESIGN 3.12, T1",
        lambda g: _knock(g, "other.test"), ground=CAPS, room="v8 knock", changes=True),
    Row("limits: too many pending in the room", FORBIDDEN, "DESIGN 3.12 (a cap is 403), T1",
        lambda g: _knock(g, "evil.test"), ground=CAPS, room="v9 knock", prepare=_full),
    Row("limits: knocks of one server too fast", "429 M_LIMIT_EXCEEDED", "DESIGN 3.12, T1",
        lambda g: _knock(g, "good.test"), ground=BUCKETS, room="second",
        prepare=_emptied_bucket, also=_says_how_long),
    Row("limits: another server is not held up by it", "200", "DESIGN 3.12, T1",
        lambda g: _knock(g, "other.test"), ground=BUCKETS, room="second", changes=True),
    Row("limits: nor is the same server in another room", "200", "DESIGN 3.12, T1",
        lambda g: _knock(g, "good.test"), ground=BUCKETS, room="v12 knock", changes=True),
]
