"""Events as other servers see them: redaction, hashes, event ids, signatures, room versions 6 to 12.

May not: import anything of Vestibule's. It is written from the Matrix specification alone (room
version pages; server-server API, "Signing Events"; appendices, "Canonical JSON", "Signing JSON"),
because it judges the server.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

from canonicaljson import encode_canonical_json
from signedjson.key import decode_verify_key_bytes
from signedjson.sign import SignatureVerifyException, sign_json, verify_signed_json
from unpaddedbase64 import decode_base64, encode_base64

Json = dict[str, Any]

_TOP_LEVEL_KEPT = frozenset(
    "event_id type room_id sender state_key content hashes signatures depth prev_events"
    " auth_events origin_server_ts".split()
)
_TOP_LEVEL_KEPT_UNTIL_V10 = _TOP_LEVEL_KEPT | {"prev_state", "origin", "membership"}
_POWER_LEVELS_KEPT = frozenset(
    "ban events events_default kick redact state_default users users_default".split()
)


@dataclass(frozen=True)
class RoomVersion:
    """What a room version does differently, as flags. Versions are opaque and have no order."""

    id: str
    knock: bool = True
    knock_restricted: bool = True
    # Redaction keeps `allow` of join rules.
    keeps_allow: bool = True
    # Redaction keeps `join_authorised_via_users_server` of member events.
    keeps_authorising_user: bool = True
    # The redaction rules that came with version 11.
    updated_redaction: bool = True
    # The room id is the create event's hash, and the create event is in nobody's auth_events.
    room_id_is_create_hash: bool = False


ROOM_VERSIONS: dict[str, RoomVersion] = {
    version.id: version
    for version in (
        RoomVersion("6", knock=False, knock_restricted=False, keeps_allow=False,
                    keeps_authorising_user=False, updated_redaction=False),
        RoomVersion("7", knock_restricted=False, keeps_allow=False,
                    keeps_authorising_user=False, updated_redaction=False),
        RoomVersion("8", knock_restricted=False, keeps_authorising_user=False,
                    updated_redaction=False),
        RoomVersion("9", knock_restricted=False, updated_redaction=False),
        RoomVersion("10", updated_redaction=False),
        RoomVersion("11"),
        RoomVersion("12", room_id_is_create_hash=True),
    )
}

# The required keys of an event that travels between servers (`room_id` aside: see `pdu_faults`).
PDU_KEYS = ("type", "sender", "content", "depth", "prev_events", "auth_events", "hashes",
            "signatures", "origin_server_ts")


def redact(event: Json, version: str) -> Json:
    """The part of an event that no redaction can take away, as a new object."""
    rules = ROOM_VERSIONS[version]
    kept = _TOP_LEVEL_KEPT if rules.updated_redaction else _TOP_LEVEL_KEPT_UNTIL_V10
    redacted = {key: copy.deepcopy(value) for key, value in event.items() if key in kept}
    content = event.get("content")
    redacted["content"] = _redact_content(event.get("type"), content, rules)
    return redacted


def _redact_content(kind: Any, content: Any, rules: RoomVersion) -> Json:
    if not isinstance(content, dict):
        return {}
    keep: set[str] = set()
    if kind == "m.room.member":
        keep = {"membership"}
        if rules.keeps_authorising_user:
            keep.add("join_authorised_via_users_server")
    elif kind == "m.room.create":
        if rules.updated_redaction:
            return copy.deepcopy(content)
        keep = {"creator"}
    elif kind == "m.room.join_rules":
        keep = {"join_rule", "allow"} if rules.keeps_allow else {"join_rule"}
    elif kind == "m.room.power_levels":
        keep = set(_POWER_LEVELS_KEPT)
        if rules.updated_redaction:
            keep.add("invite")
    elif kind == "m.room.history_visibility":
        keep = {"history_visibility"}
    elif kind == "m.room.redaction" and rules.updated_redaction:
        keep = {"redacts"}
    kept = {key: copy.deepcopy(value) for key, value in content.items() if key in keep}
    third_party = content.get("third_party_invite")
    if (kind == "m.room.member" and rules.updated_redaction and isinstance(third_party, dict)
            and "signed" in third_party):
        kept["third_party_invite"] = {"signed": copy.deepcopy(third_party["signed"])}
    return kept


def content_hash(event: Json) -> str:
    """The unpadded base64 of the SHA-256 over all of the event but what may change on its way."""
    hashed = {k: v for k, v in event.items() if k not in ("unsigned", "signatures", "hashes")}
    return encode_base64(hashlib.sha256(encode_canonical_json(hashed)).digest())


def reference_hash(event: Json, version: str) -> bytes:
    """The 32 bytes that name the event; a redaction does not change them."""
    hashed = redact(event, version)
    hashed.pop("signatures", None)
    hashed.pop("unsigned", None)
    return hashlib.sha256(encode_canonical_json(hashed)).digest()


def event_id(event: Json, version: str) -> str:
    """Room versions 4 and later: `$` and the URL-safe unpadded base64 of the reference hash."""
    return "$" + encode_base64(reference_hash(event, version), urlsafe=True)


def with_content_hash(event: Json) -> Json:
    return {**event, "hashes": {"sha256": content_hash(event)}}


def with_signature(event: Json, version: str, server_name: str, signing_key: Any) -> Json:
    """A copy of the event, signed. Signatures of others stay."""
    redacted = redact(event, version)
    redacted.pop("unsigned", None)
    signed = sign_json(redacted, server_name, signing_key)
    return {**event, "signatures": signed["signatures"]}


def hashed_and_signed(event: Json, version: str, server_name: str, signing_key: Any) -> Json:
    return with_signature(with_content_hash(event), version, server_name, signing_key)


def verify_keys_of(key_document: Json) -> dict[str, Any]:
    """The current keys of a server's key document, after its own signatures were verified."""
    keys = {
        key_id: decode_verify_key_bytes(key_id, decode_base64(key["key"]))
        for key_id, key in key_document["verify_keys"].items()
    }
    if not keys:
        raise SignatureVerifyException("the key document names no key")
    for key in keys.values():
        verify_signed_json(key_document, key_document["server_name"], key)
    return keys


def pdu_faults(event: Any, version: str, room_id: str, server_name: str,
               verify_keys: dict[str, Any]) -> list[str]:
    """What is wrong with an event said to be a full PDU of this room, signed by `server_name`."""
    if not isinstance(event, dict):
        return ["not an object"]
    faults = [f"lacks `{key}`" for key in PDU_KEYS if key not in event]
    if faults:
        return faults
    is_create = event["type"] == "m.room.create"
    if ROOM_VERSIONS[version].room_id_is_create_hash and is_create:
        if "room_id" in event:
            faults.append("a create event of this version has no `room_id`")
        computed = "!" + event_id(event, version)[1:]
        if computed != room_id:
            faults.append(f"the create event's hash gives room {computed}")
    elif event.get("room_id") != room_id:
        faults.append(f"`room_id` is {event.get('room_id')!r}")
    if "event_id" in event:
        faults.append("has an `event_id`, which PDUs of room versions 3 and later lack")
    if event["hashes"].get("sha256") != content_hash(event):
        faults.append("the content hash does not match")
    redacted = redact(event, version)
    redacted.pop("unsigned", None)
    for key_id in event["signatures"].get(server_name, {}):
        if key_id not in verify_keys:
            faults.append(f"signed with {key_id}, which {server_name} does not publish")
            continue
        try:
            verify_signed_json(redacted, server_name, verify_keys[key_id])
        except SignatureVerifyException as fault:
            faults.append(f"signature: {fault}")
    if not event["signatures"].get(server_name):
        faults.append(f"not signed by {server_name}")
    return faults
