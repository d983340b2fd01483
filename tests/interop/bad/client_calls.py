"""Rows about the calls of our own users and admins, and about which listener serves what.

May not: go through federation.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from bad.ground import Ground
from bad.row import (EITHER_JSON, FORBIDDEN, MALFORMED, NOT_FOUND, TOO_LARGE, UNRECOGNIZED,
                     WRONG_METHOD, Row)
from raw_http import Answer
from vestibule import http_call

MISSING_TOKEN = "401 M_MISSING_TOKEN"
UNKNOWN_TOKEN = "401 M_UNKNOWN_TOKEN"
ERRORS = "SPEC 7 (errors); Matrix: standard error response"
# The config key knock.reason_bytes_max, by default.
REASON_BYTES_MAX = 512


def _here(g: Ground, rest: str) -> str:
    return f"/v3/rooms/{quote(g.here, safe='')}/{rest}"


def _invited(g: Ground) -> Any:
    guest = g.local("guest")
    g.owner.about(g.here, "invite", guest.user_id)
    return guest


def _banned(g: Ground) -> Any:
    outcast = g.local("outcast")
    g.owner.about(g.here, "ban", outcast.user_id)
    return outcast


def _joined(g: Ground) -> Any:
    friend = g.local("friend")
    if g.owner.membership(g.here, friend.user_id) == "join":
        return friend
    g.owner.about(g.here, "invite", friend.user_id)
    answer = friend.in_room(g.here, "join")
    if answer.status != 200:
        raise RuntimeError(f"the invited friend cannot join: {answer}")
    return friend


def _stranger(method: str, rest: str, body: Any = None) -> Any:
    return lambda g: g.local("stranger").call(method, _here(g, rest), body)


def _friend(method: str, rest: str, body: Any = None) -> Any:
    return lambda g: g.prepared.call(method, _here(g, rest), body)


def _knock_raw(raw: bytes) -> Any:
    return lambda g: g.local("stranger").call(
        "POST", f"/v3/knock/{quote(g.here, safe='')}", raw=raw)


def _listener(url: str, method: str = "GET") -> Any:
    """A path of another listener: `url` has the placeholders client, admin, federation."""
    def act(g: Ground) -> Answer:
        where, _, path = url.partition(" ")
        if where == "federation":
            return g.good.request(g.vestibule, method, path, authorization=[])
        base = g.vestibule.client_url if where == "client" else g.vestibule.admin_url
        return http_call(method, base + path)
    return act


ROWS = [
    Row("client: no token", MISSING_TOKEN, ERRORS,
        lambda g: g.vestibule.client().call("GET", "/v3/sync")),
    Row("client: a token that is none", UNKNOWN_TOKEN, ERRORS, lambda g: http_call(
        "GET", g.vestibule.client_url + "/_matrix/client/v3/account/whoami", token="nonsense")),
    Row("client: X-Matrix for a token", "401 M_MISSING_TOKEN | 401 M_UNKNOWN_TOKEN", ERRORS,
        lambda g: http_call("GET", g.vestibule.client_url + "/_matrix/client/v3/joined_rooms",
                            token='X-Matrix origin="good.test"')),
    Row("client: wrong password", FORBIDDEN, "Matrix: login", lambda g: g.vestibule.client().call(
        "POST", "/v3/login", {"type": "m.login.password", "password": "wrong", "identifier": {
            "type": "m.id.user", "user": "owner"}})),
    Row("client: login of an unknown kind", "400 M_UNKNOWN | 400 M_UNRECOGNIZED | 400 M_INVALID_PARAM",
        "Matrix: login", lambda g: g.vestibule.client().call(
            "POST", "/v3/login", {"type": "org.example.telepathy"})),
    Row("client: a name that is taken", "400 M_USER_IN_USE", "Matrix: register",
        lambda g: g.vestibule.client().call("POST", "/v3/register", {
            "username": "owner", "password": "x", "auth": {"type": "m.login.dummy"}})),
    Row("client: a name that cannot be", "400 M_INVALID_USERNAME", "Matrix: register",
        lambda g: g.vestibule.client().call("POST", "/v3/register", {
            "username": "No Name!", "password": "x", "auth": {"type": "m.login.dummy"}})),
    Row("client: createRoom of a version nobody knows", "400 M_UNSUPPORTED_ROOM_VERSION",
        "SPEC 7", lambda g: g.owner.call("POST", "/v3/createRoom", {"room_version": "99"})),
    Row("client: createRoom that is not JSON", "400 M_NOT_JSON", ERRORS,
        lambda g: g.owner.call("POST", "/v3/createRoom", raw=b"{room}")),
    Row("client: createRoom with an array", "400 M_BAD_JSON | 400 M_NOT_JSON", ERRORS,
        lambda g: g.owner.call("POST", "/v3/createRoom", [])),
    Row("client: createRoom of version 12 that lowers its creator", "400 *", "SPEC 5.7",
        lambda g: g.owner.call("POST", "/v3/createRoom", {
            "room_version": "12",
            "power_level_content_override": {"users": {g.owner.user_id: 0}}})),
    Row("client: upgrade to a version nobody knows", "400 M_UNSUPPORTED_ROOM_VERSION",
        "Matrix: room upgrades",
        lambda g: g.owner.call("POST", _here(g, "upgrade"), {"new_version": "99"})),
    Row("client: upgrade to no version", "400 M_MISSING_PARAM | 400 M_BAD_JSON", ERRORS,
        lambda g: g.owner.call("POST", _here(g, "upgrade"), {})),
    Row("client: upgrade with creators that are no users", MALFORMED, "Matrix: room upgrades",
        lambda g: g.owner.call("POST", _here(g, "upgrade"), {
            "new_version": "12", "additional_creators": ["nobody"]})),
    Row("client: stranger upgrades", FORBIDDEN, "Matrix: room upgrades",
        _stranger("POST", "upgrade", {"new_version": "12"})),
    Row("client: member without power upgrades", FORBIDDEN, "Matrix: room upgrades",
        _friend("POST", "upgrade", {"new_version": "12"}), room="second", prepare=_joined),
    Row("client: stranger reads the state", FORBIDDEN, "SPEC 2.10 (reading)",
        _stranger("GET", "state")),
    Row("client: stranger reads the members", FORBIDDEN, "SPEC 2.10 (reading)",
        _stranger("GET", "members")),
    Row("client: stranger reads messages", FORBIDDEN, "SPEC 2.10 (reading)",
        _stranger("GET", "messages?dir=b")),
    Row("client: stranger speaks", FORBIDDEN, "SPEC 5.8 no. 7",
        _stranger("PUT", "send/m.room.message/t1", {"msgtype": "m.text", "body": "hi"})),
    Row("client: stranger joins a room that asks to knock", FORBIDDEN, "SPEC 2.4",
        _stranger("POST", "join", {})),
    Row("client: stranger invites", FORBIDDEN, "SPEC 5.8",
        _stranger("POST", "invite", {"user_id": "@stranger:vestibule.test"})),
    Row("client: stranger kicks the owner", FORBIDDEN, "SPEC 5.8",
        _stranger("POST", "kick", {"user_id": "@owner:vestibule.test"})),
    Row("client: member changes the join rules", FORBIDDEN, "SPEC 5.8 no. 9",
        _friend("PUT", "state/m.room.join_rules/", {"join_rule": "public"}), prepare=_joined,
        room="second"),
    Row("client: member kicks the owner", FORBIDDEN, "SPEC 5.8",
        _friend("POST", "kick", {"user_id": "@owner:vestibule.test"}), room="second",
        prepare=_joined),
    Row("client: state of another user", FORBIDDEN, "SPEC 5.8 no. 10",
        _friend("PUT", "state/org.example.mine/%40owner%3Avestibule.test", {}), room="second",
        prepare=_joined),
    Row("client: a second creation", "400 * | 403 M_FORBIDDEN", "SECURITY V30",
        lambda g: g.owner.call("PUT", _here(g, "state/m.room.create/"), {"room_version": "11"})),
    Row("client: member knocks", FORBIDDEN, "SPEC 2.4", lambda g: g.prepared.knock(g.here),
        prepare=_joined, room="second"),
    Row("client: invited user knocks", FORBIDDEN, "SPEC 2.4, V25",
        lambda g: g.prepared.knock(g.here), prepare=_invited),
    Row("client: banned user knocks", "403 M_FORBIDDEN | 403 M_BAD_STATE", "SPEC 2.4, V24",
        lambda g: g.prepared.knock(g.here), prepare=_banned),
    Row("client: knock where only invitations count", FORBIDDEN, "SPEC 2.10",
        lambda g: g.local("stranger").knock(g.here), room="v11 invite"),
    Row("client: knock at a room of version 6", FORBIDDEN, "SPEC 2.2",
        lambda g: g.local("stranger").knock(g.here), room="v6 knock"),
    Row("client: knock at a room that is not here", NOT_FOUND, "SPEC 2.10, 2.12 no. 1",
        lambda g: g.local("stranger").knock(g.nonexistent_room())),
    Row("client: knock at an alias that is not here", NOT_FOUND, "SPEC 2.10",
        lambda g: g.local("stranger").knock("#nothing:vestibule.test")),
    Row("client: knock at a word", MALFORMED, "Matrix: room ids and aliases",
        lambda g: g.local("stranger").knock("otters")),
    Row("client: knock without a body that is JSON", "400 M_NOT_JSON", ERRORS,
        _knock_raw(b"please")),
    Row("client: a reason that is a number", f"{EITHER_JSON} | 400 M_INVALID_PARAM", ERRORS,
        lambda g: g.local("stranger").knock(g.here, reason=5)),
    Row("client: a reason above 512 bytes", TOO_LARGE, "SECURITY T4",
        lambda g: g.local("stranger").knock(g.here, reason="r" * (REASON_BYTES_MAX + 1))),
    Row("client: unknown path", UNRECOGNIZED, "DESIGN 6; D26",
        lambda g: g.owner.call("GET", "/v3/coffee")),
    Row("client: wrong method", WRONG_METHOD, "DESIGN 6; D26",
        lambda g: g.owner.call("DELETE", "/v3/sync")),
    Row("client listener: a path of federation", UNRECOGNIZED, "DESIGN 6 (listeners)",
        _listener("client /_matrix/federation/v1/version")),
    Row("client listener: a path of admins", UNRECOGNIZED, "DESIGN 6 (listeners)",
        _listener("client /_vestibule/admin/v1/actors")),
    Row("federation listener: a path of admins", UNRECOGNIZED, "DESIGN 6 (listeners)",
        _listener("federation /_vestibule/admin/v1/actors")),
    Row("admin listener: a path of federation", UNRECOGNIZED, "DESIGN 6 (listeners)",
        _listener("admin /_matrix/federation/v1/version")),
    Row("admin: no token", "401 M_MISSING_TOKEN | 401 M_UNAUTHORIZED", "DESIGN 6 (admin)",
        _listener("admin /_vestibule/admin/v1/actors")),
    Row("admin: a token that is none", "401 M_UNKNOWN_TOKEN | 401 M_UNAUTHORIZED",
        "DESIGN 6 (admin)", lambda g: http_call(
            "GET", g.vestibule.admin_url + "/_vestibule/admin/v1/actors", token="nonsense")),
    Row("admin: the token of a user who is no admin", "401 M_UNKNOWN_TOKEN | 401 M_UNAUTHORIZED"
        " | 403 M_FORBIDDEN", "DESIGN 6 (admin)", lambda g: http_call(
            "GET", g.vestibule.admin_url + "/_vestibule/admin/v1/actors", token=g.owner.token)),
    Row("admin: a room that is not here", NOT_FOUND, "DESIGN 6 (admin)",
        lambda g: g.vestibule.admin(
            "GET", f"/_vestibule/admin/v1/rooms/{quote(g.nonexistent_room(), safe='')}/actor")),
]
