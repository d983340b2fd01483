"""Rows about requests in odd clothes that must be let in: refusing them would break honest peers.

May not: hold a request that breaks a rule.
"""

from __future__ import annotations

import json
from typing import Any

from bad.ground import Ground
from bad.row import ACCEPTED, Row
from peer import XMatrix, make_knock_target, now_ms
from raw_http import Answer

REPLAYS = 20


def _header(name: str, source: str, write: Any) -> Row:
    return Row(f"right: {name}", ACCEPTED, source, lambda g: g.ask_with(write))


def _unquoted(x: XMatrix) -> list[str | bytes]:
    # A padded or slashed signature is no token, so it stays in quotes.
    return [f'X-Matrix origin={x.origin},destination={x.destination},key={x.key},sig="{x.sig}"']


def _escaped(x: XMatrix) -> list[str | bytes]:
    escaped = "".join("\\" + c for c in x.origin)
    return [x.header().replace(f'origin="{x.origin}"', f'origin="{escaped}"')]


def _reason(g: Ground, user: str) -> Any:
    return g.owner.state_content(g.here, "m.room.member", user).json.get("reason")


def _is_redacted(g: Ground, _: Answer) -> str | None:
    """The knock counts, but nothing of it that the hash was to vouch for is shown."""
    assert g.last is not None
    user = g.last.event["sender"]
    if g.owner.membership(g.here, user) != "knock":
        return "the knock is not in the state"
    reason = _reason(g, user)
    return None if reason is None else f"the reason {reason!r} is shown although its hash is wrong"


def _is_knocking(g: Ground, _: Answer) -> str | None:
    assert g.last is not None
    found = g.owner.state_content(g.here, "m.room.member", g.last.event["sender"]).json
    return None if found.get("membership") == "knock" else f"the state says {found}"


def _replayed(g: Ground) -> Answer:
    g.last = g.prepared
    answers = [g.send(g.prepared) for _ in range(REPLAYS)]
    return next((answer for answer in answers if answer.status != 200), answers[0])


def _one_event(g: Ground, _: Answer) -> str | None:
    ids = [e["event_id"] for e in g.owner.messages(g.here, dir="b", limit=50)["chunk"]]
    count = ids.count(g.prepared.event_id)
    return None if count == 1 else f"the event is in the timeline {count} times"


def _after_rejection(g: Ground) -> Any:
    signed = g.admitted()
    g.owner.about(g.here, "kick", signed.event["sender"])
    return signed


def _stays_out(g: Ground, _: Answer) -> str | None:
    membership = g.owner.membership(g.here, g.prepared.event["sender"])
    return None if membership == "leave" else f"the rejected knock is {membership} again"


def _messages_follow(g: Ground, answer: Answer) -> str | None:
    sent = [g.owner.send_message(g.here, f"after-depth-{n}", f"message {n}") for n in range(10)]
    if any(one.status != 200 for one in sent):
        return f"after it nobody can speak: {[str(one) for one in sent if one.status != 200][0]}"
    expected = [one.json["event_id"] for one in reversed(sent)]
    found = [e["event_id"] for e in g.owner.messages(g.here, dir="b", limit=10)["chunk"]]
    return None if found == expected else "the messages after it are out of order"


def _new_reason(g: Ground, _: Answer) -> str | None:
    members = [e for e in g.owner.members(g.here, membership="knock")
               if e["state_key"] == g.prepared.event["sender"]]
    reasons = [e["content"].get("reason") for e in members]
    return None if reasons == ["again"] else f"the reasons are {reasons}"


def _knock_again(g: Ground) -> Answer:
    return g.good.knock(g.vestibule, g.here, g.prepared.event["sender"], reason="again")[1]


def _leave(g: Ground) -> Answer:
    return g.good.leave(g.vestibule, g.here, g.prepared.event["sender"])[1]


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


ROWS = [
    _header("the ordinary header", "SPEC 4.2", lambda x: [x.header()]),
    _header("unquoted values with colons", "SPEC 4.2 Values", _unquoted),
    _header("parameter names in capitals", "SPEC 4.2 Names", lambda x: [
        f'X-Matrix ORIGIN="{x.origin}",Destination="{x.destination}",KEY="{x.key}",Sig="{x.sig}"']),
    _header("parameters in another order", "SPEC 4.2 Names", lambda x: [
        f'X-Matrix sig="{x.sig}",key="{x.key}",destination="{x.destination}",origin="{x.origin}"']),
    _header("blanks and tabs round the commas", "SPEC 4.2 Blanks",
            lambda x: [x.header().replace(",", " \t, \t")]),
    _header("several blanks after the scheme", "SPEC 4.2 Scheme",
            lambda x: [x.header().replace("X-Matrix ", "X-Matrix    ")]),
    _header("scheme in lower case", "SPEC 4.2 Scheme",
            lambda x: [x.header().replace("X-Matrix", "x-matrix")]),
    _header("no destination", "SPEC 4.2 destination (1.3)",
            lambda x: [f'X-Matrix origin="{x.origin}",key="{x.key}",sig="{x.sig}"']),
    _header("an unknown parameter", "SPEC 4.2 Names",
            lambda x: [x.header() + ',colour="blue",empty=""']),
    _header("escaped characters in quotes", "SPEC 4.2 Values", _escaped),
    _header("`signature` for `sig`", "SPEC 2.13 no. 3",
            lambda x: [x.header().replace("sig=", "signature=")]),
    _header("the same header twice", "SPEC 4.2 Several headers",
            lambda x: [x.header(), x.header()]),
    Row("right: `ver` of unknown versions beside the right one", ACCEPTED, "SPEC 2.5, D7",
        lambda g: g.ask(versions=("org.example.new", "99", "11"))),
    Row("right: an unknown query parameter", ACCEPTED, "Matrix: unknown parameters are ignored",
        lambda g: g.ask(target=make_knock_target(g.here, g.user(), ("11",)) + "&x=1&y=%20")),
    Row("right: a user id of historical form", ACCEPTED, "SPEC 5.4",
        lambda g: g.ask(user="@Straße Nr. 1/2:good.test")),
    Row("right: an event that is changed where no signature reaches (unsigned)", ACCEPTED,
        "SPEC 5.4", lambda g: g.put(after=lambda e: e.update(unsigned={"age": 5})),
        also=_is_knocking, changes=True),
    Row("right: a knock without top-level origin", ACCEPTED, "SPEC 2.6, 2.13 no. 5",
        lambda g: g.put(lambda e: e.pop("origin")), also=_is_knocking, changes=True),
    Row("right: content changed after hashing, taken without it", ACCEPTED, "SPEC 2.6, 5.1 no. 3, D18",
        lambda g: g.put(after=lambda e: e["content"].update(reason="forged")),
        also=_is_redacted, changes=True),
    Row("right: the same in version 7", ACCEPTED, "SPEC 2.6, 5.1 no. 3, D18",
        lambda g: g.put(after=lambda e: e["content"].update(reason="forged")),
        room="v7 knock", also=_is_redacted, changes=True),
    Row("right: an event signed with a retired key, from before its end", ACCEPTED,
        "SPEC 4.5, V14",
        lambda g: g.put(lambda e: e.update(origin_server_ts=g.good.old_keys["ed25519:1"][1] - 1),
                        key=g.good.old_keys["ed25519:1"][0]), also=_is_knocking, changes=True),
    Row("right: an event of last year", ACCEPTED, "SECURITY T13",
        lambda g: g.put(lambda e: e.update(origin_server_ts=now_ms() - 365 * 86_400_000)),
        also=_is_knocking, changes=True),
    Row("right: the greatest legal depth, then ten messages", ACCEPTED, "SECURITY V50",
        lambda g: g.put(lambda e: e.update(depth=2**53 - 1)), room="second",
        also=_messages_follow, changes=True),
    Row("right: JSON text with escapes and blanks", ACCEPTED, "SPEC 4.1 (parse, then canonicalize)",
        lambda g: g.put_text(lambda text: json.dumps(json.loads(text), indent=3).replace(
            "knock", "\\u006bnock")), changes=True),
    Row("right: a hundred nested arrays", ACCEPTED, "SECURITY V51",
        lambda g: g.put(lambda e: e["content"].update({"org.example.deep": _nested(100)})),
        also=_is_knocking, changes=True),
    Row("right: an accepted knock delivered twenty times more", ACCEPTED, "SPEC 2.6, T9",
        _replayed, prepare=lambda g: g.admitted(), also=_one_event),
    Row("right: an accepted knock delivered again after its rejection", ACCEPTED, "SPEC 2.6, T9",
        lambda g: g.send(g.prepared), prepare=_after_rejection, also=_stays_out),
    Row("right: a second knock with a new reason, repeat_after 0s", ACCEPTED, "SPEC 2.4, D3",
        _knock_again, prepare=lambda g: g.admitted(), also=_new_reason, changes=True),
    Row("right: a knock taken back over federation", ACCEPTED, "SPEC 2.9", _leave,
        prepare=lambda g: g.admitted(), changes=True, also=_stays_out),
    Row("right: a knock after a rejection", ACCEPTED, "SPEC 2.4, V25", _knock_again,
        prepare=_after_rejection, also=_new_reason, changes=True),
    Row("right: an ACL that denies parts of the name only", ACCEPTED, "SPEC 2.11 (anchored)",
        lambda g: g.ask(peer=g.peer("evil.test")), room="acl of parts"),
    Row("right: a server on the allow list", ACCEPTED, "SPEC 2.11", lambda g: g.ask(),
        room="acl allow list"),
    Row("right: a name where IP literals are denied", ACCEPTED, "SPEC 2.11", lambda g: g.ask(),
        room="acl no ip literals"),
    Row("right: version 12 with auth_events that lack the create event", ACCEPTED, "SPEC 2.2, V30",
        lambda g: g.put(), room="v12 knock", also=_is_knocking, changes=True),
]
