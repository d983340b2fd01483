"""Rows about the event that send_knock delivers: shape, ids, types, signatures, graph, rules.

May not: hold rows about JSON as text; those are in `json_bodies.py`.
"""

from __future__ import annotations

from typing import Any

from bad.ground import HOUR_MS, Ground
from bad.make_knock import illegal_cells
from bad.row import (BAD_JSON, FORBIDDEN, INVALID, MALFORMED, NOT_FOUND, TOO_LARGE, UNAUTHORIZED,
                     UNRECOGNIZED, WRONG_METHOD, Row)
from pdu import Json
from peer import membership_target, now_ms
from raw_http import Answer

# Where the specification says that an event is not allowed, and not with which words.
REFUSED = f"{FORBIDDEN} | {MALFORMED}"
UNKNOWN_EVENT = "$" + "A" * 43
# Above what SECURITY T4 lets a knock's content have.
LONG_REASON = "r" * 5 * 1024
# One event may have 65,536 bytes; the request may have 131,072.
LONG_EVENT = "x" * 66_000


def _set(**values: Any) -> Any:
    return lambda event: event.update(values)


def _content(**values: Any) -> Any:
    return lambda event: event["content"].update(values)


def _without(key: str) -> Any:
    def drop(event: Json) -> None:
        del event[key]
    return drop


def _membership(value: Any) -> Any:
    return lambda g: g.put(_content(membership=value))


def _broken_signature(event: Json) -> None:
    for keys in event["signatures"].values():
        for key_id, signature in keys.items():
            keys[key_id] = ("B" if signature[0] == "A" else "A") + signature[1:]


def _sent_by(other: str) -> Any:
    return _set(sender=other, state_key=other)


def _other_template(g: Ground) -> str:
    """An auth event of another room: its join rules."""
    room_id, _ = g.room("second")
    rules = [e for e in g.owner.state(room_id) if e["type"] == "m.room.join_rules"]
    return rules[0]["event_id"]


def _state_event(g: Ground, kind: str) -> str:
    return next(e["event_id"] for e in g.owner.state(g.here) if e["type"] == kind)


def _auth(edit: Any) -> Any:
    """A knock whose list of auth events is edited: `edit(ground, list)`."""
    def act(g: Ground) -> Answer:
        event = g.handmade()
        event["auth_events"] = edit(g, event["auth_events"])
        return g.put(event=event)
    return act


def _knock_before_ban(g: Ground) -> Json:
    event = g.knock_event()
    g.owner.about(g.here, "ban", event["sender"])
    return event


def _knock_before_invite(g: Ground) -> Json:
    event = g.knock_event()
    g.owner.about(g.here, "invite", event["sender"])
    return event


def _knock_before_new_rule(g: Ground) -> Json:
    """A knock from a template that was right until the owner closed the room."""
    g.owner.set_state(g.here, "m.room.join_rules", {"join_rule": "knock"})
    event = g.knock_event()
    g.owner.set_state(g.here, "m.room.join_rules", {"join_rule": "invite"})
    return event


def _acl(name: str, room: str, peer: str, change: Any = None) -> Row:
    return Row(f"send_knock: {name}", FORBIDDEN, "SPEC 2.11, V38", lambda g: g.put(
        change, event=g.handmade(g.peer(peer)), peer=g.peer(peer)), room=room)


def _request(method: str, endpoint: str) -> Any:
    return lambda g: g.put(event=g.handmade(), method=method, endpoint=endpoint)


def _unsigned_request(g: Ground) -> Answer:
    signed = g.good.sign_event(g.knock_event(), g.version)
    target = membership_target("v1/send_knock", g.here, signed.event_id)
    return g.good.request(g.vestibule, "PUT", target, signed.event, authorization=[])


def _in_closed_room(name: str, change: Any) -> Row:
    return Row(f"send_knock: {name}, where nobody may knock", INVALID,
               "SPEC 2.6 (structure before authorization), Complement",
               lambda g: g.put(change, event=g.handmade()), room="v11 invite")


def _lacking(key: str, expected: str = BAD_JSON) -> Row:
    """`signatures` and `hashes` are made by signing, so they can only be taken away after it."""
    if key in ("signatures", "hashes"):
        act = lambda g: g.put(after=_without(key))  # noqa: E731
    else:
        act = lambda g: g.put(_without(key))  # noqa: E731
    return Row(f"send_knock: no `{key}`", expected, "SPEC 2.6 (PDU format)", act)


def _wrong(name: str, key: str, value: Any, expected: str = BAD_JSON) -> Row:
    if key in ("signatures", "hashes"):
        act = lambda g: g.put(after=_set(**{key: value}))  # noqa: E731
    else:
        act = lambda g: g.put(_set(**{key: value}))  # noqa: E731
    return Row(f"send_knock: {name}", expected, "SPEC 2.6 (PDU format)", act)


ROWS = [
    # Who and where.
    Row("send_knock: request not signed", UNAUTHORIZED, "SPEC 4.3", _unsigned_request),
    Row("send_knock: room that is not here", NOT_FOUND, "SPEC 2.6",
        lambda g: g.put(_set(room_id=g.nonexistent_room()), room_id=g.nonexistent_room())),
    Row("send_knock: version 6 cannot knock", FORBIDDEN, "SPEC 2.6",
        lambda g: g.put(event=g.handmade()), room="v6 knock"),
    Row("send_knock: body of another room than the path", INVALID, "SPEC 2.6, V04",
        lambda g: g.put(_set(room_id=g.room("second")[0]))),
    Row("send_knock: path of another room than the body", INVALID, "SPEC 2.6, V04",
        lambda g: g.put(room_id=g.room("second")[0])),
    Row("send_knock: another event id in the path", INVALID, "SPEC 2.6, V04, D17",
        lambda g: g.put(event_id=UNKNOWN_EVENT)),
    Row("send_knock: an event id of version 3 in the path", INVALID, "SPEC 5.2, V04",
        lambda g: g.put(event_id="$" + "+/" * 21 + "A")),
    Row("send_knock: no event id in the path but a word", MALFORMED, "SPEC 2.6 (ids)",
        lambda g: g.put(event_id="knock")),
    Row("send_knock: the event id in the body, not in the hash", INVALID, "SPEC D17",
        lambda g: g.put(_set(event_id=UNKNOWN_EVENT), event_id=UNKNOWN_EVENT)),
    Row("POST to send_knock", WRONG_METHOD, "Matrix: wrong method is 405, D26",
        _request("POST", "v1/send_knock")),
    Row("send_knock v2", UNRECOGNIZED, "SPEC 2.6 (there is no v2), D26",
        _request("PUT", "v2/send_knock")),
    # Shape.
    _lacking("type"),
    _lacking("sender"),
    _lacking("content"),
    _lacking("room_id"),
    _lacking("depth"),
    _lacking("prev_events"),
    _lacking("auth_events"),
    _lacking("origin_server_ts"),
    _lacking("hashes"),
    _lacking("signatures", MALFORMED),
    _lacking("state_key", MALFORMED),
    _wrong("`sender` a number", "sender", 5),
    _wrong("`sender` not a user id", "sender", "alice", MALFORMED),
    _wrong("`type` a number", "type", 5),
    _wrong("`room_id` null", "room_id", None),
    _wrong("`content` an array", "content", []),
    _wrong("`content` a string", "content", "knock"),
    _wrong("`depth` a string", "depth", "7"),
    _wrong("`depth` negative", "depth", -1),
    _wrong("`depth` beyond what canonical JSON can say (V48)", "depth", 2**53),
    _wrong("`depth` of 64 bits", "depth", 2**63),
    _wrong("`depth` null", "depth", None),
    _wrong("`origin_server_ts` a string", "origin_server_ts", "now"),
    _wrong("`origin_server_ts` negative", "origin_server_ts", -1, MALFORMED),
    _wrong("`prev_events` a string", "prev_events", UNKNOWN_EVENT),
    _wrong("`prev_events` of numbers", "prev_events", [1, 2]),
    _wrong("`prev_events` of pairs, as in version 1", "prev_events",
           [[UNKNOWN_EVENT, {"sha256": "x"}]]),
    _wrong("`prev_events` of things that are no event ids", "prev_events", ["knock"], MALFORMED),
    _wrong("21 `prev_events`", "prev_events", [f"${n:043d}" for n in range(21)]),
    _wrong("`auth_events` null", "auth_events", None),
    _wrong("`auth_events` an object", "auth_events", {}),
    _wrong("11 `auth_events`", "auth_events", [f"${n:043d}" for n in range(11)]),
    _wrong("`hashes` an array", "hashes", []),
    _wrong("`signatures` an array", "signatures", [], MALFORMED),
    _wrong("`signatures` of strings", "signatures", {"good.test": "signed, honestly"}, MALFORMED),
    _wrong("`state_key` a number", "state_key", 5, MALFORMED),
    # Sizes.
    Row("send_knock: content of 5 KiB", TOO_LARGE, "SECURITY T4",
        lambda g: g.put(_content(reason=LONG_REASON))),
    Row("send_knock: event of more than 65,536 bytes", TOO_LARGE, "SPEC 5.4, V52",
        lambda g: g.put(_set(padding=LONG_EVENT))),
    Row("send_knock: type of 256 bytes", TOO_LARGE, "SPEC 5.4, V52",
        lambda g: g.put(_set(type="t" * 256))),
    Row("send_knock: sender of 256 bytes", TOO_LARGE, "SPEC 5.4, V52",
        lambda g: g.put(_sent_by("@" + "a" * 245 + ":good.test"))),
    Row("send_knock: sender of 256 bytes and fewer letters", TOO_LARGE,
        "SPEC 5.4 (bytes, not letters), V52",
        lambda g: g.put(_sent_by("@a" + "ä" * 122 + ":good.test"))),
    # What it is.
    Row("send_knock: a message", MALFORMED, "SPEC 2.6 (type)", lambda g: g.put(
        lambda e: (e.update(type="m.room.message"), e.pop("state_key")))),
    Row("send_knock: the room's name", INVALID, "SPEC 2.6 (type)",
        lambda g: g.put(_set(type="m.room.name"))),
    Row("send_knock: join", INVALID, "SPEC 2.6 (membership)", _membership("join")),
    Row("send_knock: invite", INVALID, "SPEC 2.6 (membership)", _membership("invite")),
    Row("send_knock: leave", INVALID, "SPEC 2.6 (membership)", _membership("leave")),
    Row("send_knock: ban", INVALID, "SPEC 2.6 (membership)", _membership("ban")),
    Row("send_knock: a membership nobody knows", MALFORMED, "SPEC 2.6 (membership)",
        _membership("Knock")),
    Row("send_knock: membership a number", MALFORMED, "SPEC 2.6 (membership)", _membership(5)),
    Row("send_knock: membership null", MALFORMED, "SPEC 2.6 (membership)", _membership(None)),
    Row("send_knock: no membership", MALFORMED, "SPEC 2.6 (membership)",
        lambda g: g.put(lambda e: e["content"].pop("membership"))),
    Row("send_knock: sender of another server", INVALID, "SPEC 2.6 (sender of origin), V03, V09",
        lambda g: g.put(_sent_by("@alice:other.test"))),
    Row("send_knock: another server's whole knock, delivered by us", INVALID,
        "SPEC 2.6 (sender of origin), V03", lambda g: g.put(
            event=g.knock_event(g.peer("other.test")), signer=g.peer("other.test"))),
    Row("send_knock: sender of the server itself", INVALID, "SPEC 2.6 (sender of origin), T10",
        lambda g: g.put(_sent_by(g.owner.user_id))),
    Row("send_knock: state key of another user of the origin", INVALID, "SPEC 2.6 (state_key)",
        lambda g: g.put(_set(state_key=g.user()))),
    Row("send_knock: state key of a member", INVALID, "SPEC 2.6 (state_key)",
        lambda g: g.put(_set(state_key=g.owner.user_id))),
    Row("send_knock: empty state key", INVALID, "SPEC 2.6 (state_key)",
        lambda g: g.put(_set(state_key=""))),
    # Structure is judged before authorization.
    _in_closed_room("another type", _set(type="m.room.name")),
    _in_closed_room("another membership", _content(membership="join")),
    _in_closed_room("another state key", _set(state_key="@else:good.test")),
    Row("send_knock: not a state event, where nobody may knock", MALFORMED,
        "SPEC 2.6 (structure before authorization), Complement",
        lambda g: g.put(_without("state_key"), event=g.handmade()), room="v11 invite"),
    # Signatures and time.
    Row("send_knock: event not signed", INVALID, "SPEC 2.6 (signature), V03",
        lambda g: g.put(after=_set(signatures={}))),
    Row("send_knock: event signed by another server only", INVALID, "SPEC 2.6 (signature), V03",
        lambda g: g.put(signer=g.peer("other.test"))),
    Row("send_knock: event with a broken signature", INVALID, "SPEC 2.6 (signature), V03",
        lambda g: g.put(after=_broken_signature)),
    Row("send_knock: event changed where the signature reaches", INVALID, "SPEC 2.6 (signature)",
        lambda g: g.put(after=lambda e: e.update(depth=e["depth"] + 1))),
    Row("send_knock: event signed with an unpublished key", INVALID, "SPEC 2.6 (signature)",
        lambda g: g.put(key=g.peer("other.test").signing_key, after=lambda e: e["signatures"].update(
            {"good.test": {"ed25519:none": e["signatures"]["good.test"].popitem()[1]}}))),
    Row("send_knock: event signed with a retired key, after its end", INVALID, "SPEC 4.5, V14",
        lambda g: g.put(key=g.good.old_keys["ed25519:1"][0])),
    Row("send_knock: event later than the key is valid", INVALID, "SPEC 4.5, V14",
        lambda g: g.put(_set(origin_server_ts=now_ms() + 3 * HOUR_MS),
                        event=g.knock_event(g.peer("short.test")), peer=g.peer("short.test"))),
    Row("send_knock: event of the day after tomorrow", MALFORMED, "SECURITY T13 (now+24 h)",
        lambda g: g.put(_set(origin_server_ts=now_ms() + 25 * HOUR_MS))),
    # The graph.
    Row("send_knock: a previous event that nobody has", MALFORMED, "SPEC 2.6 (prev_events known)",
        lambda g: g.put(_set(prev_events=[UNKNOWN_EVENT]))),
    Row("send_knock: no previous events", REFUSED, "Matrix: no state before it, so not allowed",
        lambda g: g.put(_set(prev_events=[]))),
    Row("send_knock: a previous event of another room", REFUSED, "SPEC 2.6, V31",
        lambda g: g.put(_set(prev_events=[g.last_event(g.room("second")[0])]))),
    Row("send_knock: an auth event that nobody has", MALFORMED, "SPEC 2.6 (auth_events known)",
        _auth(lambda g, listed: [*listed, UNKNOWN_EVENT])),
    Row("send_knock: an auth event twice", REFUSED, "SPEC 2.3 no. 1, V27",
        _auth(lambda g, listed: [*listed, listed[-1]])),
    Row("send_knock: an auth event that proves nothing", REFUSED, "SPEC 2.3 no. 1, V27",
        _auth(lambda g, listed: [*listed, _state_event(g, "m.room.history_visibility")])),
    Row("send_knock: the owner's membership among the auth events", REFUSED, "SPEC 2.3, V27",
        _auth(lambda g, listed: [*listed, _state_event(g, "m.room.member")])),
    Row("send_knock: no auth events", FORBIDDEN, "SPEC 2.3 no. 1", _auth(lambda g, listed: [])),
    Row("send_knock: the create event is not among the auth events", FORBIDDEN, "SPEC 2.3 no. 1",
        _auth(lambda g, listed: listed[1:])),
    Row("send_knock: the join rules are not among the auth events", FORBIDDEN, "SPEC 2.3",
        _auth(lambda g, listed: [e for e in listed if e != _state_event(g, "m.room.join_rules")])),
    Row("send_knock: join rules of another room", REFUSED, "SPEC 2.3 no. 1, V31",
        _auth(lambda g, listed: [e for e in listed if e != _state_event(g, "m.room.join_rules")]
              + [_other_template(g)])),
    Row("send_knock: version 12 with the create event among the auth events", REFUSED,
        "SPEC 2.2, V30", lambda g: g.put(event={
            **(event := g.handmade()),
            "auth_events": [_state_event(g, "m.room.create"), *event["auth_events"]]}),
        room="v12 knock"),
    # The rules.
    Row("send_knock: banned after the template", FORBIDDEN, "SPEC 2.4, 2.13 no. 9, V24",
        lambda g: g.put(event=g.prepared), prepare=_knock_before_ban),
    Row("send_knock: invited after the template", FORBIDDEN, "SPEC 2.4, 2.13 no. 9, V25, T7",
        lambda g: g.put(event=g.prepared), prepare=_knock_before_invite),
    Row("send_knock: the room was closed after the template", FORBIDDEN, "SPEC 2.13 no. 9, D4",
        lambda g: g.put(event=g.prepared), prepare=_knock_before_new_rule, room="changing"),
    Row("send_knock: a room that does not federate", FORBIDDEN, "SPEC D28, T27",
        lambda g: g.put(event=g.handmade()), room="unfederated"),
    Row("send_knock: a join rules event without a rule", FORBIDDEN, "SPEC 2.3",
        lambda g: g.put(event=g.handmade()), room="no rule"),
    Row("send_knock: names an authorizing user who has not signed", REFUSED, "SPEC 2.2 (v8 4.2)",
        lambda g: g.put(_content(join_authorised_via_users_server=g.owner.user_id)),
        room="v10 knock"),
    # Server ACLs, and their place in the order.
    _acl("denied server", "acl deny", "evil.test"),
    _acl("denied server in other letters", "acl deny", "EVIL.test"),
    _acl("denied by a star", "acl star", "sub.evil.example"),
    _acl("an empty allow list denies all", "acl empty allow", "good.test"),
    _acl("ACL before the event's shape", "acl deny", "evil.test", _without("depth")),
    Row("order: room that is not here, before the event's shape", NOT_FOUND, "SPEC 2.6 order",
        lambda g: g.put(_without("depth"), room_id=g.nonexistent_room())),
    Row("order: what the version can do, before the event's shape", FORBIDDEN, "SPEC 2.6 order",
        lambda g: g.put(_without("depth"), event=g.handmade()), room="v6 knock"),
    Row("order: the event's shape before its id", BAD_JSON, "SPEC 2.6 order",
        lambda g: g.put(_without("depth"), event_id=UNKNOWN_EVENT)),
]

ROWS += [
    Row(f"send_knock: version {version}, join rule {rule}", FORBIDDEN, "SPEC 2.2, 2.3, V23, V24",
        lambda g: g.put(event=g.handmade()), room=f"v{version} {rule}")
    for version, rule in illegal_cells()
]
