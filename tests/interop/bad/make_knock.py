"""Rows about make_knock: ids, versions, server ACLs, join rules, memberships, and their order.

May not: hold rows about the signature of the request; those are in `headers.py`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from bad.ground import Ground
from bad.row import (FORBIDDEN, INVALID, MALFORMED, NOT_FOUND, UNRECOGNIZED, WRONG_METHOD,
                     Row)
from pdu import ROOM_VERSIONS
from peer import FEDERATION, make_knock_target
from raw_http import Answer

INCOMPATIBLE = "400 M_INCOMPATIBLE_ROOM_VERSION"
BAD_ID = f"{MALFORMED} | {NOT_FOUND}"
ALL = tuple(ROOM_VERSIONS)
JOIN_RULES = ("public", "invite", "private", "restricted", "knock_restricted", "org.example.odd")


def _names_the_version(g: Ground, answer: Answer) -> str | None:
    """Without the room's version the caller cannot tell its user what to do."""
    named = answer.json.get("room_version")
    return None if named == g.version else f"`room_version` is {named!r}"


def _raw(path: str) -> Any:
    """The path as it stands, nothing encoded; `ver` is given."""
    return lambda g: g.ask(target=f"{FEDERATION}/v1/make_knock/{path}?ver=11")


def _same_words(g: Ground, answer: Answer) -> str | None:
    """Whoever is refused must not learn whether he is banned or nobody may knock."""
    room_id, _ = g.room("v11 invite")
    elsewhere = g.ask(room_id=room_id)
    return None if elsewhere.body == answer.body else f"told apart from {elsewhere}"


def _ban(g: Ground) -> str:
    user = g.user()
    g.owner.about(g.here, "ban", user)
    return user


def _invite(g: Ground) -> str:
    user = g.user()
    g.owner.about(g.here, "invite", user)
    return user


def _leave_the_room(g: Ground) -> None:
    g.owner.in_room(g.room("left")[0], "leave")


def illegal_cells() -> list[tuple[str, str]]:
    """Room version and join rule, wherever that rule lets nobody knock."""
    return [(version, rule) for version, able in ROOM_VERSIONS.items() for rule in JOIN_RULES
            if able.knock and not (rule == "knock_restricted" and able.knock_restricted)]


def _acl(name: str, room: str, peer: str) -> Row:
    return Row(f"make_knock: {name}", FORBIDDEN, "SPEC 2.11, V38", lambda g: g.ask(peer=g.peer(peer)),
               room=room)


ROWS = [
    # Ids.
    Row("make_knock: room that is not here", NOT_FOUND, "SPEC 2.5",
        lambda g: g.ask(room_id=g.nonexistent_room())),
    Row("make_knock: room id of version 12 that is not here", NOT_FOUND, "SPEC 2.5, D27",
        lambda g: g.ask(room_id="!" + "A" * 43)),
    Row("make_knock: version 12 room id with a domain added", NOT_FOUND, "SECURITY T26",
        lambda g: g.ask(room_id=f"{g.here}:{g.vestibule.server_name}"), room="v12 knock"),
    Row("make_knock: version 11 room id without its domain", NOT_FOUND, "SECURITY T26",
        lambda g: g.ask(room_id=g.here.partition(":")[0])),
    Row("make_knock: room id in capitals", NOT_FOUND, "SECURITY T26 (exact match only)",
        lambda g: g.ask(room_id=g.here.swapcase())),
    Row("make_knock: room id without `!`", BAD_ID, "SECURITY T26; SPEC 2.5 (ids parse)",
        lambda g: g.ask(room_id=g.here[1:])),
    Row("make_knock: an alias for a room id", BAD_ID, "SECURITY T26; SPEC 2.5 (ids parse)",
        lambda g: g.ask(room_id="#otters:vestibule.test")),
    Row("make_knock: room id of 300 bytes", BAD_ID, "SPEC 5.4 (255 bytes), T26",
        lambda g: g.ask(room_id="!" + "a" * 285 + ":vestibule.test")),
    Row("make_knock: room id encoded twice", BAD_ID, "SECURITY T26",
        lambda g: g.ask(room_id=quote(g.here, safe=""))),
    Row("make_knock: room id that is not UTF-8", "400 * | 404 *", "SECURITY T26; Matrix is silent",
        _raw("%21%FF%FE%3Avestibule.test/%40a%3Agood.test")),
    Row("make_knock: a broken percent escape", "400 * | 404 *", "Matrix is silent; T26",
        _raw("%2/%40a%3Agood.test")),
    Row("make_knock: no user", UNRECOGNIZED, "Matrix: unknown path is 404",
        lambda g: g.ask(target=f"{FEDERATION}/v1/make_knock/{quote(g.here, safe='')}?ver=11")),
    Row("make_knock: user id without `@`", MALFORMED, "SPEC 2.5 (ids parse)",
        lambda g: g.ask(user="alice:good.test")),
    Row("make_knock: user id without a server", MALFORMED, "SPEC 2.5 (ids parse)",
        lambda g: g.ask(user="@alice")),
    Row("make_knock: user id with a server that cannot be", MALFORMED, "SPEC 2.5 (ids parse)",
        lambda g: g.ask(user="@alice:good test")),
    Row("make_knock: user id of 256 bytes", f"{MALFORMED} | 413 M_TOO_LARGE", "SPEC 5.4, V52",
        lambda g: g.ask(user="@" + "a" * (256 - len("@:good.test")) + ":good.test")),
    Row("make_knock: user id of 256 bytes and fewer letters", f"{MALFORMED} | 413 M_TOO_LARGE",
        "SPEC 5.4 (bytes, not letters), V52",
        lambda g: g.ask(user="@a" + "ä" * ((255 - len("@:good.test")) // 2) + ":good.test")),
    Row("make_knock: user id with a NUL", MALFORMED, "SPEC 5.4 (all but `:` and NUL)",
        lambda g: g.ask(user="@a\0b:good.test")),
    Row("make_knock: user of another server", INVALID, "SPEC D12, V09, T10",
        lambda g: g.ask(user="@alice:other.test")),
    Row("make_knock: user of the server itself", INVALID, "SPEC D12, T10",
        lambda g: g.ask(user=g.owner.user_id)),
    Row("make_knock: user of the origin in other letters", INVALID,
        "SPEC D12, 4.4 (case-sensitive)", lambda g: g.ask(user="@alice:GOOD.test")),
    Row("make_knock: user of the origin with a port", INVALID, "SPEC D12",
        lambda g: g.ask(user="@alice:good.test:8448")),
    # Versions.
    Row("make_knock: no `ver`", "400 M_MISSING_PARAM", "SPEC D10", lambda g: g.ask(versions=())),
    Row("make_knock: `ver` in capitals only", "400 M_MISSING_PARAM", "SPEC D10",
        lambda g: g.ask(target=make_knock_target(g.here, g.user(), ()) + "?VER=11")),
    Row("make_knock: `ver` of another version", INCOMPATIBLE, "SPEC D11",
        lambda g: g.ask(versions=("10",)), also=_names_the_version),
    Row("make_knock: `ver` of many others", INCOMPATIBLE, "SPEC D11",
        lambda g: g.ask(versions=("7", "8", "9", "10", "12")), also=_names_the_version),
    Row("make_knock: `ver` that begins like the right one", INCOMPATIBLE, "SPEC D7 (opaque)",
        lambda g: g.ask(versions=("1", "110", "11.0")), also=_names_the_version),
    Row("make_knock: several versions in one `ver`", INCOMPATIBLE, "SPEC D9 (repeated)",
        lambda g: g.ask(versions=("10,11",)), also=_names_the_version),
    Row("make_knock: empty `ver`", f"{INCOMPATIBLE} | {INVALID} | 400 M_MISSING_PARAM",
        "SPEC 2.5; Matrix is silent on empty values", lambda g: g.ask(versions=("",))),
    Row("make_knock: version 6 cannot knock", FORBIDDEN, "SPEC 2.5, 2.2", lambda g: g.ask(),
        room="v6 knock"),
    # Join rules beside the matrix below.
    Row("make_knock: a join rules event without a rule", FORBIDDEN, "SPEC 2.3", lambda g: g.ask(),
        room="no rule"),
    Row("make_knock: a room that does not federate", FORBIDDEN, "SPEC D28, T27", lambda g: g.ask(),
        room="unfederated"),
    Row("make_knock: a room that the server has left", NOT_FOUND, "SPEC 2.5 (known and joined)",
        lambda g: g.ask(room_id=g.room("left")[0]), prepare=_leave_the_room),
    # Memberships.
    Row("make_knock: banned user", FORBIDDEN, "SPEC 2.4, V24, T18",
        lambda g: g.ask(user=g.prepared), prepare=_ban, also=_same_words),
    Row("make_knock: invited user", FORBIDDEN, "SPEC 2.4, V25", lambda g: g.ask(user=g.prepared),
        prepare=_invite),
    # Server ACLs.
    _acl("denied server", "acl deny", "evil.test"),
    _acl("denied server in other letters", "acl deny", "EVIL.test"),
    _acl("denied server in other letters and with a port", "acl deny", "Evil.Test:8448"),
    _acl("ACL entry in capitals", "acl deny in capitals", "evil.test"),
    _acl("denied by a star", "acl star", "sub.evil.example"),
    _acl("denied by a question mark", "acl question mark", "evil.test"),
    _acl("not on the allow list", "acl allow list", "other.test"),
    _acl("an empty allow list denies all", "acl empty allow", "good.test"),
    _acl("a missing allow list denies all", "acl without allow", "good.test"),
    Row("make_knock: IP literal where they are denied", FORBIDDEN, "SPEC 2.11, V39",
        lambda g: g.ask(peer=g.stranger()), room="acl no ip literals"),
    # The order of the checks.
    Row("order: room that is not here, before `ver`", NOT_FOUND, "SPEC 2.5 order",
        lambda g: g.ask(room_id=g.nonexistent_room(), versions=())),
    Row("order: room that is not here, before the user's server", NOT_FOUND, "SPEC 2.5 order",
        lambda g: g.ask(room_id=g.nonexistent_room(), user="@a:other.test")),
    Row("order: ACL before `ver`", FORBIDDEN, "SPEC 2.5 order, D13",
        lambda g: g.ask(peer=g.peer("evil.test"), versions=()), room="acl deny"),
    Row("order: ACL before the user's server", FORBIDDEN, "SPEC 2.5 order, D13",
        lambda g: g.ask(peer=g.peer("evil.test"), user="@a:other.test"), room="acl deny"),
    Row("order: `ver` before the user's server", "400 M_MISSING_PARAM", "SPEC 2.5 order",
        lambda g: g.ask(user="@a:other.test", versions=())),
    Row("order: the user's server before the version", INVALID, "SPEC 2.5 order",
        lambda g: g.ask(user="@a:other.test", versions=("10",))),
    Row("order: the version offered before what it can do", INCOMPATIBLE, "SPEC 2.5 order",
        lambda g: g.ask(versions=("7", "11")), room="v6 knock", also=_names_the_version),
    Row("order: the version before the join rule", INCOMPATIBLE, "SPEC 2.5 order",
        lambda g: g.ask(versions=("10",)), room="v11 invite", also=_names_the_version),
    Row("order: the signature before the room", "401 M_UNAUTHORIZED", "SPEC 2.5 order",
        lambda g: g.ask(room_id=g.nonexistent_room(), authorization=[])),
    # Methods and paths.
    Row("POST to make_knock", WRONG_METHOD, "Matrix: wrong method is 405, D26",
        lambda g: g.ask(method="POST", content={})),
    Row("make_knock v2", UNRECOGNIZED, "Matrix: unknown path is 404, D26",
        lambda g: g.ask(target=make_knock_target(g.here, g.user(), ALL).replace("/v1/", "/v2/"))),
    Row("an endpoint that nobody knows", UNRECOGNIZED, "Matrix: unknown path is 404, D26",
        lambda g: g.ask(target=f"{FEDERATION}/v1/make_coffee/x/y")),
]

ROWS += [
    Row(f"make_knock: version {version}, join rule {rule}", FORBIDDEN, "SPEC 2.2, 2.3, V23, V24",
        lambda g: g.ask(), room=f"v{version} {rule}")
    for version, rule in illegal_cells()
]

