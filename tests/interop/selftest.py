"""Holds the peer itself against the specification's published vectors and against a second peer.

May not: start Vestibule.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from signedjson.key import decode_signing_key_base64
from signedjson.sign import SignatureVerifyException, sign_json, verify_signed_json

import pdu
from authority import CertificateAuthority
from peer import NOTHING, Peer, make_knock_target
from report import Report, run

# Appendices, "Cryptographic Test Vectors".
SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
JSON_VECTORS = (
    ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
    ({"one": 1, "two": "Two"},
     "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"),
)
EVENT_VECTORS = (
    ({"room_id": "!x:domain", "sender": "@a:domain", "origin": "domain",
      "origin_server_ts": 1000000, "signatures": {}, "hashes": {}, "type": "X", "content": {},
      "prev_events": [], "auth_events": [], "depth": 3, "unsigned": {"age_ts": 1000000}},
     "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
     "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"),
    ({"content": {"body": "Here is the message content"}, "event_id": "$0:domain",
      "origin": "domain", "origin_server_ts": 1000000, "type": "m.room.message",
      "room_id": "!r:domain", "sender": "@u:domain", "signatures": {},
      "unsigned": {"age_ts": 1000000}},
     "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
     "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"),
)


@dataclass
class OtherPeer:
    """A peer as a destination of another peer's requests."""

    server_name: str
    ca_file: Path
    federation_address: tuple[str, int]


def vectors(report: Report) -> None:
    key = decode_signing_key_base64("ed25519", "1", SEED)
    for value, signature in JSON_VECTORS:
        signed = sign_json(dict(value), "domain", key)
        report.check(signed["signatures"]["domain"]["ed25519:1"] == signature,
                     f"signing {json.dumps(value)} gives the published signature", signed)
    for event, content_hash, signature in EVENT_VECTORS:
        signed = pdu.hashed_and_signed(event, "6", "domain", key)
        report.check(signed["hashes"]["sha256"] == content_hash,
                     f"the content hash of {event['type']} is the published one", signed["hashes"])
        report.check(signed["signatures"]["domain"]["ed25519:1"] == signature,
                     f"the signature of {event['type']} is the published one", signed["signatures"])


def redactions(report: Report) -> None:
    member = {"type": "m.room.member", "state_key": "@a:x", "sender": "@a:x", "origin": "x",
              "membership": "join", "room_id": "!r:x", "depth": 1, "prev_events": [],
              "auth_events": [], "origin_server_ts": 1, "hashes": {}, "odd": True,
              "content": {"membership": "knock", "reason": "hello",
                          "join_authorised_via_users_server": "@b:x",
                          "third_party_invite": {"signed": {"a": 1}, "display_name": "b"}}}
    for version, kept, top in (
        ("7", {"membership"}, {"origin", "membership"}),
        ("8", {"membership"}, {"origin", "membership"}),
        ("9", {"membership", "join_authorised_via_users_server"}, {"origin", "membership"}),
        ("11", {"membership", "join_authorised_via_users_server", "third_party_invite"}, set()),
    ):
        redacted = pdu.redact(member, version)
        report.check(set(redacted["content"]) == kept,
                     f"version {version} keeps {sorted(kept)} of a member event", redacted)
        report.check(top == set(redacted) & {"origin", "membership", "odd"},
                     f"version {version} keeps {sorted(top)} at the top", sorted(redacted))
        with_reason = pdu.event_id(member, version)
        without = {**member, "content": {k: v for k, v in member["content"].items()
                                         if k != "reason"}}
        report.check(pdu.event_id(without, version) == with_reason,
                     f"version {version}: the event id outlives a redaction")
    levels = {"type": "m.room.power_levels", "content": {"invite": 50, "kick": 50}}
    report.check("invite" not in pdu.redact(levels, "10")["content"],
                 "version 10 redacts the invite level away")
    report.check("invite" in pdu.redact(levels, "11")["content"],
                 "version 11 keeps the invite level")


def two_peers(report: Report) -> None:
    with tempfile.TemporaryDirectory() as directory:
        authority = CertificateAuthority(Path(directory))
        one = Peer(authority, "one.test")
        two = Peer(authority, address="127.0.0.2")
        for asker, asked in ((one, two), (two, one)):
            to = OtherPeer(asked.name, authority.ca_file, (asked.address, asked.port))
            answer = asker.request(to, "GET", "/_matrix/key/v2/server", authorization=[])
            keys = pdu.verify_keys_of(answer.json)
            report.check(list(keys) == [asked.key_id] and asked.key_requests == 1,
                         f"{asker.name} fetches the keys of {asked.name} over verified TLS", answer)
            target = make_knock_target("!room:x", "@a:b", ("10", "11"))
            header = asker.sign_request(to, "GET", target).header()
            found = dict(re.findall(r'(\w+)="([^"]*)"', header))
            signed = {"method": "GET", "uri": target, "origin": found["origin"],
                      "destination": found["destination"],
                      "signatures": {found["origin"]: {found["key"]: found["sig"]}}}
            key = pdu.verify_keys_of(asker.key_document())[asker.key_id]
            verify_signed_json(signed, asker.name, key)
            signed["uri"] += "&ver=12"
            try:
                verify_signed_json(signed, asker.name, key)
                refused = False
            except SignatureVerifyException:
                refused = True
            report.check(refused, f"a signature of {asker.name} covers the whole request target")
            unknown = asker.request(to, "PUT", "/nowhere", {"a": 1})
            report.check(unknown.status == 404 and unknown.errcode == "M_UNRECOGNIZED",
                         "a peer refuses what it does not know", unknown)
        retired = one.retire_key(1000)
        document = one.key_document()
        report.check(document["old_verify_keys"]["ed25519:1"]["expired_ts"] == 1000
                     and one.key_id == "ed25519:2" and retired is not one.signing_key,
                     "a retired key is published with its end", document)
        report.check(one.sign_request(to, "GET", "/x").sig
                     != one.sign_request(to, "GET", "/x", {}).sig and NOTHING is not None,
                     "an empty object is signed as a body, no body is not")
        one.close()
        two.close()


def main(report: Report) -> None:
    vectors(report)
    redactions(report)
    two_peers(report)


if __name__ == "__main__":
    run(main)
