"""Rows about what a server answers when it is asked for its keys. All of them end as 401.

May not: use a server twice; each row has a server of its own, so that nothing is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from signedjson.key import generate_signing_key
from signedjson.sign import sign_json
from unpaddedbase64 import encode_base64

from bad.ground import Ground
from bad.row import UNAUTHORIZED, Row
from peer import Peer, XMatrix, now_ms
from raw_http import Answer

# Rules of verification that forget to look for weak keys accept this one with any message.
LOW_ORDER_KEY = b"\x01" + 31 * b"\0"
LOW_ORDER_SIGNATURE = encode_base64(b"\x01" + 63 * b"\0")
# SECURITY T21 allows a key reply 64 KiB.
TOO_MANY_BYTES = 70_000


def _document(**changes: Any) -> Callable[[Peer], tuple[int, bytes]]:
    return lambda peer: (200, json.dumps(peer.key_document(**changes)).encode())


def _edited(edit: Callable[[Peer, dict[str, Any]], Any]) -> Callable[[Peer], tuple[int, bytes]]:
    def reply(peer: Peer) -> tuple[int, bytes]:
        document = peer.key_document()
        edit(peer, document)
        return 200, json.dumps(document).encode()
    return reply


def _signed_by_another_key(peer: Peer) -> tuple[int, bytes]:
    document = peer.key_document()
    del document["signatures"]
    return 200, json.dumps(sign_json(document, peer.name, generate_signing_key("1"))).encode()


def _low_order(peer: Peer) -> tuple[int, bytes]:
    document = peer.key_document()
    document["verify_keys"] = {peer.key_id: {"key": encode_base64(LOW_ORDER_KEY)}}
    document["signatures"] = {peer.name: {peer.key_id: LOW_ORDER_SIGNATURE}}
    return 200, json.dumps(document).encode()


def _asked(reply: Callable[[Peer], tuple[int, bytes]]) -> Callable[[Ground], Answer]:
    def act(g: Ground) -> Answer:
        g.prepared = g.stranger()
        g.prepared.key_reply = reply
        return g.ask(peer=g.prepared)
    return act


def _low_order_request(g: Ground) -> Answer:
    g.prepared = g.stranger()
    g.prepared.key_reply = _low_order
    return g.ask_with(lambda x: [XMatrix(x.origin, x.destination, x.key,
                                         LOW_ORDER_SIGNATURE).header()], peer=g.prepared)


def _was_asked(g: Ground, _: Answer) -> str | None:
    asked = g.prepared.key_requests
    return None if 1 <= asked <= 3 else f"the server was asked for its keys {asked} times"


def _refused(name: str, source: str, reply: Callable[[Peer], tuple[int, bytes]]) -> Row:
    return Row(f"keys: {name}", UNAUTHORIZED, source, _asked(reply), also=_was_asked)


def _offline(g: Ground) -> Answer:
    peer = g.stranger()
    peer.close()
    return g.ask(peer=peer)


def _good_row() -> Row:
    def published(g: Ground) -> Answer:
        g.prepared = g.stranger()
        return g.ask(peer=g.prepared)
    return Row("keys: an honest server named by its address is believed", "200", "SPEC 4.4 step 1",
               published, also=_was_asked)


ROWS = [
    _good_row(),
    Row("keys: the server is not there", UNAUTHORIZED, "SPEC 4.3 (key fetch failed)", _offline),
    Row("keys: an address that may not be reached", UNAUTHORIZED,
        "DESIGN 6 denied_ip_ranges, T17",
        lambda g: g.ask_with(lambda x: [x.header().replace("good.test", "[::1]:8448")])),
    _refused("500", "SPEC 4.3 (key fetch failed)", lambda _: (500, b"{}")),
    _refused("404", "SPEC 4.3 (key fetch failed)",
             lambda _: (404, b'{"errcode":"M_UNRECOGNIZED","error":"no"}')),
    _refused("not JSON", "SPEC 4.3 (key fetch failed)", lambda _: (200, b"<html>hello</html>")),
    _refused("an empty answer", "SPEC 4.3 (key fetch failed)", lambda _: (200, b"")),
    _refused("an array", "SPEC 4.5", lambda _: (200, b"[]")),
    _refused("null", "SPEC 4.5", lambda _: (200, b"null")),
    _refused("another server's name", "SPEC 4.5 (must name the asked server), V19",
             _document(server_name="good.test")),
    _refused("unsigned", "SPEC 4.5 (signed by one of its keys), V19",
             _edited(lambda peer, document: document.pop("signatures"))),
    _refused("signed by a key that it does not publish", "SPEC 4.5, V19", _signed_by_another_key),
    _refused("changed after signing", "SPEC 4.5, V19",
             _edited(lambda peer, d: d.update(valid_until_ts=d["valid_until_ts"] + 1))),
    _refused("expired", "SPEC 4.5 (for requests: validity now)",
             lambda peer: _document(valid_until_ts=now_ms() - 1000)(peer)),
    _refused("no valid_until_ts", "SPEC 4.5",
             _edited(lambda peer, document: document.pop("valid_until_ts"))),
    _refused("no verify_keys", "SPEC 4.5", _document(verify_keys={})),
    _refused("verify_keys null", "SPEC 4.5",
             _edited(lambda peer, document: document.update(verify_keys=None))),
    _refused("a key of three bytes", "SPEC 4.5",
             _edited(lambda peer, d: d["verify_keys"].update({peer.key_id: {"key": "AAAA"}}))),
    _refused("the key only among the retired", "SECURITY V14",
             _edited(lambda peer, d: d.update(
                 verify_keys={}, old_verify_keys={peer.key_id: {
                     **d["verify_keys"][peer.key_id], "expired_ts": now_ms() - 1000}}))),
    _refused("a larger answer than any honest one", "SECURITY T21 (keys 64 KiB), V55",
             _document(padding="x" * TOO_MANY_BYTES)),
    _refused("30,000 nested arrays", "SECURITY V51",
             lambda _: (200, b'{"a":' + 30_000 * b"[" + 30_000 * b"]" + b"}")),
    Row("keys: a weak key that any signature fits", UNAUTHORIZED, "SECURITY V18",
        _low_order_request, also=_was_asked),
]
