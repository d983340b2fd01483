"""Rows about the `Authorization: X-Matrix` header, on make_knock.

May not: hold rows whose header is right; those are in `odd_but_right.py`.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote

from bad.row import UNAUTHORIZED, Row
from peer import XMatrix

SILENT = "Matrix is silent; SPEC 4.3"
MALFORMED_HEADER = "SPEC 4.3 (malformed)"


def _other_bit(sig: str) -> str:
    return ("B" if sig[0] == "A" else "A") + sig[1:]


def _without(parameter: str):
    def write(x: XMatrix) -> list[str | bytes]:
        given = {"origin": x.origin, "destination": x.destination, "key": x.key, "sig": x.sig}
        del given[parameter]
        return ["X-Matrix " + ",".join(f'{k}="{v}"' for k, v in given.items())]
    return write


def _changed(**changes: str):
    return lambda x: [replace(x, **changes).header()]


ROWS = [
    Row("no Authorization header", UNAUTHORIZED, SILENT + " (no header)",
        lambda g: g.ask(authorization=[])),
    Row("an empty Authorization header", UNAUTHORIZED, MALFORMED_HEADER,
        lambda g: g.ask(authorization=[""])),
    Row("a Bearer token in place of X-Matrix", UNAUTHORIZED, "SECURITY V20 (other scheme)",
        lambda g: g.ask(authorization=["Bearer " + (g.owner.token or "")])),
    Row("scheme without parameters", UNAUTHORIZED, MALFORMED_HEADER,
        lambda g: g.ask(authorization=["X-Matrix"])),
    Row("no space after the scheme", UNAUTHORIZED, "SPEC 4.2 Scheme",
        lambda g: g.ask_with(lambda x: [x.header().replace("X-Matrix ", "X-Matrix")])),
    Row("no origin", UNAUTHORIZED, MALFORMED_HEADER, lambda g: g.ask_with(_without("origin"))),
    Row("no key", UNAUTHORIZED, MALFORMED_HEADER, lambda g: g.ask_with(_without("key"))),
    Row("no sig", UNAUTHORIZED, MALFORMED_HEADER, lambda g: g.ask_with(_without("sig"))),
    Row("unclosed quote", UNAUTHORIZED, MALFORMED_HEADER,
        lambda g: g.ask_with(lambda x: [x.header()[:-1]])),
    Row("parameters divided by semicolons", UNAUTHORIZED, MALFORMED_HEADER,
        lambda g: g.ask_with(lambda x: [x.header().replace(",", ";")])),
    Row("the same parameter twice", UNAUTHORIZED, "SPEC 4.2 Duplicate names, V20",
        lambda g: g.ask_with(lambda x: [x.header() + f',sig="{x.sig}"'])),
    Row("origin twice, the second another server", UNAUTHORIZED, "SPEC 4.2 Duplicate names, V20",
        lambda g: g.ask_with(lambda x: [x.header() + ',origin="evil.test"'])),
    Row("two headers with two origins", UNAUTHORIZED, "SPEC 4.2 Several headers, V20",
        lambda g: g.ask_with(lambda x: [x.header(), replace(x, origin="other.test").header()])),
    Row("two headers of one origin, the second wrong", UNAUTHORIZED, "SPEC 4.2 Several headers",
        lambda g: g.ask_with(lambda x: [x.header(),
                                        replace(x, sig=_other_bit(x.sig)).header()])),
    Row("a NUL byte in the header", "400 * | 401 *", "SECURITY V20 (the HTTP parser may answer)",
        lambda g: g.ask_with(lambda x: [x.header().replace("good", "go\0od").encode()])),
    Row("a byte that is not UTF-8 in the header", "400 * | 401 *", "SECURITY V20",
        lambda g: g.ask_with(lambda x: [x.header().encode().replace(b"good", b"go\xffod")])),
    Row("an origin of 16 kB", UNAUTHORIZED, "SECURITY V20; Matrix: server name grammar",
        lambda g: g.ask_with(_changed(origin="a" * 16384))),
    Row("origin with a blank", UNAUTHORIZED, "SPEC 4.2 origin", lambda g: g.ask_with(
        _changed(origin="good test"))),
    Row("empty origin", UNAUTHORIZED, "SPEC 4.2 origin", lambda g: g.ask_with(_changed(origin=""))),
    Row("origin that is a user id", UNAUTHORIZED, "SPEC 4.2 origin",
        lambda g: g.ask_with(_changed(origin="@a:good.test"))),
    Row("origin with a path", UNAUTHORIZED, "SPEC 4.2 origin",
        lambda g: g.ask_with(_changed(origin="good.test/x"))),
    Row("origin with a port that is none", UNAUTHORIZED, "SPEC 4.2 origin",
        lambda g: g.ask_with(_changed(origin="good.test:port"))),
    Row("origin that is not ASCII", "401 M_UNAUTHORIZED | 400 M_UNAUTHORIZED", "SECURITY V40",
        lambda g: g.ask_with(_changed(origin="gööd.test"))),
    Row("origin with a trailing dot", "401 M_UNAUTHORIZED | 400 M_UNAUTHORIZED", "SECURITY V40",
        lambda g: g.ask_with(_changed(origin="good.test."))),
    Row("origin in other letters than the key's owner", UNAUTHORIZED,
        "SPEC 4.4 (names compare case-sensitively)",
        lambda g: g.ask_with(_changed(origin="GOOD.test"))),
    Row("the origin is the server itself", UNAUTHORIZED, SILENT + " (no usable key)",
        lambda g: g.ask_with(_changed(origin=g.vestibule.server_name))),
    Row("another server's name over our signature", UNAUTHORIZED, "SECURITY T10",
        lambda g: g.ask_with(_changed(origin="other.test"))),
    Row("wrong destination", UNAUTHORIZED, "SPEC 4.2 destination; Matrix: MUST be 401",
        lambda g: g.ask_with(lambda x: [x.header()], destination="elsewhere.test")),
    Row("right destination in the header, another one signed", UNAUTHORIZED, "SECURITY V20",
        lambda g: g.ask_with(_changed(destination=g.vestibule.server_name),
                             destination="elsewhere.test")),
    Row("signed for another destination, the parameter left out", UNAUTHORIZED,
        "SECURITY V20, T9", lambda g: g.ask_with(_without("destination"),
                                                 destination="elsewhere.test")),
    Row("signature of another method", UNAUTHORIZED, "SPEC 4.1 method",
        lambda g: g.ask_with(lambda x: [x.header()], signed_method="PUT")),
    Row("method signed in lower case", UNAUTHORIZED, "SPEC 4.1 method",
        lambda g: g.ask_with(lambda x: [x.header()], signed_method="get")),
    Row("signature of another target", UNAUTHORIZED, "SPEC 4.1 uri",
        lambda g: g.ask_with(lambda x: [x.header()], signed_target=lambda t: t + "&ver=1")),
    Row("signature of the target without its query", UNAUTHORIZED, "SPEC 4.1 uri",
        lambda g: g.ask_with(lambda x: [x.header()],
                             signed_target=lambda t: t.partition("?")[0])),
    Row("signature of the decoded target", UNAUTHORIZED, "SPEC 4.1 uri, D14",
        lambda g: g.ask_with(lambda x: [x.header()], signed_target=unquote)),
    Row("signature of the target with its parameters in another order", UNAUTHORIZED,
        "SPEC 4.1 uri, D14", lambda g: g.ask_with(
            lambda x: [x.header()],
            signed_target=lambda t: "?".join([t.partition("?")[0], "&".join(
                reversed(t.partition("?")[2].split("&")))]))),
    Row("signature of the target with scheme and host", UNAUTHORIZED, "SPEC 4.1 uri",
        lambda g: g.ask_with(lambda x: [x.header()],
                             signed_target=lambda t: f"https://{g.vestibule.server_name}{t}")),
    Row("signature over an empty object where there is no body", UNAUTHORIZED, "SPEC 4.1 content",
        lambda g: g.ask_with(lambda x: [x.header()], signed_content={})),
    Row("one bit of the signature turned", UNAUTHORIZED, "SPEC 4.3 (bad signature)",
        lambda g: g.ask_with(lambda x: [replace(x, sig=_other_bit(x.sig)).header()])),
    Row("signature cut short", UNAUTHORIZED, "SPEC 4.3 (bad signature)",
        lambda g: g.ask_with(lambda x: [replace(x, sig=x.sig[:40]).header()])),
    Row("signature that is not base64", UNAUTHORIZED, "SPEC 4.3 (bad signature)",
        lambda g: g.ask_with(_changed(sig="*** not base64 ***"))),
    Row("empty signature", UNAUTHORIZED, "SPEC 4.3 (bad signature)",
        lambda g: g.ask_with(_changed(sig=""))),
    Row("key id without an algorithm", UNAUTHORIZED, "SPEC 4.5 (key ids)",
        lambda g: g.ask_with(_changed(key="1"))),
    Row("key id of an unknown algorithm", UNAUTHORIZED, "SPEC 4.5 (key ids)",
        lambda g: g.ask_with(_changed(key="rsa:1"))),
    Row("key id with an empty version", UNAUTHORIZED, "SPEC 4.5 (key ids)",
        lambda g: g.ask_with(_changed(key="ed25519:"))),
    Row("key id that the origin does not publish", UNAUTHORIZED, "SPEC 4.3 (no usable key)",
        lambda g: g.ask_with(_changed(key="ed25519:unpublished"))),
    Row("request signed with a retired key", UNAUTHORIZED, "SECURITY V14",
        lambda g: g.ask_with(lambda x: [x.header()], key=g.good.old_keys["ed25519:1"][0])),
    Row("a blocked server", "403 M_FORBIDDEN", "SPEC 4.3 (blocked by config), T28",
        lambda g: g.ask(peer=g.peer("blocked.test"))),
    Row("a banned key", UNAUTHORIZED, "DESIGN 6 federation.banned_keys, V15",
        lambda g: g.ask(peer=g.peer("bannedkey.test"))),
]
