"""Rows about JSON as text: what is no JSON, what canonical JSON cannot say, and bodies too large.

May not: hold events that are wrong only once they are read; those are in `send_knock.py`.
"""

from __future__ import annotations

import json
from typing import Any

from bad.ground import Ground
from bad.row import BAD_JSON, EITHER_JSON, NOT_JSON, TOO_LARGE, UNAUTHORIZED, Row
from peer import membership_target
from raw_http import Answer

# SECURITY T21: what a send_knock request may have.
BODY_BYTES_MAX = 128 * 1024
NUMBERS = "SECURITY V49; Matrix: canonical JSON"
TEXT = "SECURITY V53"


def _reason(value: str) -> Any:
    """The reason replaced by this piece of JSON text."""
    return lambda text: text.replace('"REASON"', value)


def _row(name: str, expected: str, source: str, edit: Any, **other: Any) -> Row:
    return Row(f"JSON: {name}", expected, source, lambda g: g.put_text(edit, **other))


def _signed_request(g: Ground, body: bytes | None) -> Answer:
    """A request signed for one event that carries another body."""
    signed = g.good.sign_event(g.knock_event(), g.version)
    target = membership_target("v1/send_knock", g.here, signed.event_id)
    header = g.good.sign_request(g.vestibule, "PUT", target, signed.event).header()
    return g.good.request(g.vestibule, "PUT", target, body=body, authorization=[header])


def _changed_after_signing(g: Ground) -> Answer:
    other = g.good.sign_event(g.knock_event(), g.version)
    return _signed_request(g, json.dumps(other.event).encode())


def _left_out_after_signing(g: Ground) -> Answer:
    return _signed_request(g, None)


def _nested(levels: int) -> str:
    return "[" * levels + "]" * levels


ROWS = [
    _row("an empty body", EITHER_JSON, "SPEC 4.3 (body not JSON)", lambda text: ""),
    _row("words", NOT_JSON, "SPEC 4.3 (body not JSON)", lambda text: "let me in"),
    _row("half of it", NOT_JSON, "SPEC 4.3 (body not JSON)", lambda text: text[: len(text) // 2]),
    _row("more behind it", NOT_JSON, "SPEC 4.3 (body not JSON)", lambda text: text + "{}"),
    _row("a comma too many", NOT_JSON, "SPEC 4.3 (body not JSON)",
         lambda text: text[:-1] + ",}"),
    _row("single quotes", NOT_JSON, "SPEC 4.3 (body not JSON)",
         lambda text: text.replace('"', "'")),
    _row("not JSON and not signed", NOT_JSON, "SPEC 4.3 (body before auth)",
         lambda text: "let me in", authorization=[]),
    _row("an array", BAD_JSON, "SPEC 4.3 (not an object)", lambda text: f"[{text}]"),
    _row("a string", BAD_JSON, "SPEC 4.3 (not an object)", lambda text: '"knock"'),
    _row("null", BAD_JSON, "SPEC 4.3 (not an object)", lambda text: "null"),
    Row("JSON: changed after the request was signed", UNAUTHORIZED, "SPEC 4.1 content",
        _changed_after_signing),
    Row("JSON: no body after one was signed", f"{EITHER_JSON} | {UNAUTHORIZED}",
        "SPEC 4.1 content", _left_out_after_signing),
    _row("NaN", EITHER_JSON, NUMBERS, _reason("NaN")),
    _row("Infinity", EITHER_JSON, NUMBERS, _reason("-Infinity")),
    _row("1e400", EITHER_JSON, NUMBERS, _reason("1e400")),
    _row("1e3", EITHER_JSON, NUMBERS, _reason("1e3")),
    _row("1.0", EITHER_JSON, NUMBERS, _reason("1.0")),
    _row("-0", EITHER_JSON, NUMBERS, _reason("-0")),
    _row("01", EITHER_JSON, NUMBERS, _reason("01")),
    _row("an integer of 2^53", EITHER_JSON, NUMBERS, _reason(str(2**53))),
    _row("an integer of -2^53", EITHER_JSON, NUMBERS, _reason(str(-(2**53)))),
    _row("an integer of 400 digits", EITHER_JSON, NUMBERS, _reason("9" * 400)),
    _row("a fraction for depth", EITHER_JSON, "SECURITY V48",
         lambda text: text.replace('"depth": ', '"depth": 0.5e1, "depths": ')),
    _row("the same key twice, the good one first", EITHER_JSON, TEXT,
         lambda text: text[:-1] + ', "sender": "@evil:evil.test"}'),
    _row("the same key twice, the good one last", EITHER_JSON, TEXT,
         lambda text: '{"sender": "@evil:evil.test", ' + text[1:]),
    _row("two memberships, the good one first", EITHER_JSON, TEXT,
         lambda text: text.replace('"membership": "knock"',
                                   '"membership": "knock", "membership": "join"')),
    _row("two memberships, the good one last", EITHER_JSON, TEXT,
         lambda text: text.replace('"membership": "knock"',
                                   '"membership": "join", "membership": "knock"')),
    _row("the same key twice, once escaped", EITHER_JSON, TEXT,
         lambda text: text.replace('"membership": "knock"',
                                   '"membership": "knock", "m\\u0065mbership": "join"')),
    _row("a lone surrogate", EITHER_JSON, TEXT, _reason('"\\ud800"')),
    _row("a raw byte that is not UTF-8", EITHER_JSON, TEXT,
         lambda text: text.encode().replace(b"REASON", b"\xff")),
    _row("a raw surrogate", EITHER_JSON, TEXT,
         lambda text: text.encode().replace(b"REASON", b"\xed\xa0\x80")),
    _row("a raw line break in a string", EITHER_JSON, TEXT, _reason('"two\nlines"')),
    _row("a byte order mark", EITHER_JSON, TEXT, lambda text: b"\xef\xbb\xbf" + text.encode()),
    _row("UTF-16", EITHER_JSON, TEXT, lambda text: text.encode("utf-16")),
    _row("129 nested arrays", EITHER_JSON, "SECURITY V51", _reason(_nested(129))),
    _row("50,000 nested arrays", EITHER_JSON, "SECURITY V51", _reason(_nested(50_000))),
    _row("50,000 arrays that never end", EITHER_JSON, "SECURITY V51", lambda text: "[" * 50_000),
    _row("a body above 128 KiB", TOO_LARGE, "SECURITY T21",
         lambda text: text + " " * BODY_BYTES_MAX),
    _row("a body one byte above 128 KiB", TOO_LARGE, "SECURITY T21",
         lambda text: text + " " * (BODY_BYTES_MAX + 1 - len(text))),
    _row("a body above 128 KiB, in chunks without a length", TOO_LARGE, "SECURITY T21",
         lambda text: text + " " * BODY_BYTES_MAX, chunked=True),
]
