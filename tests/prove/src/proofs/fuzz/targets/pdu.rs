//! Target `pdu`: events from bytes, with their hashes, redacted forms, ids and signatures told a second time.
//! May not: judge an event by the rules of a room.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu> and
//! <https://spec.matrix.org/v1.19/rooms/>

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::{
    CanonicalJsonObject, RoomVersionId, ServerName, UserId,
    serde::{Base64, base64::Standard},
    signatures::PublicKeyMap,
};
use sha2::{Digest, Sha256};
use vestibule_protocol::{
    canonical_json::parse_object,
    fixture::{identity, public_keys, version},
    pdu::checks::ShapedPdu,
    room_version::RoomVersion,
};

use super::super::{
    Target, Verdict,
    drawing::{Input, change, mutate, one_of, write},
    json::{self, Json},
};
use crate::proof::{Plant, Settings};

pub static HASH_UNSEEN: Plant =
    Plant { name: "hash-unseen", what: "an event's content hash is not looked at", cases: 5_000 };

/// What the specification allows, told a second time.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
const EVENT_BYTES_MAX: usize = 65_536;
const FIELD_BYTES_MAX: usize = 255;

/// The same of the lists that an event cites.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#event-format>
const PREV_EVENTS_MAX: usize = 20;
const AUTH_EVENTS_MAX: usize = 10;

/// Servers whose keys we have.
const SERVERS: [&str; 3] = ["peer.test", "third.test", "us.test:8448"];

const EVENTS: [&str; 11] = [
    r#"{"type":"m.room.member","state_key":"@bob:peer.test","content":{"membership":"knock","reason":"otters","displayname":"Bob"}}"#,
    r#"{"type":"m.room.member","state_key":"@bob:peer.test","content":{"membership":"join","join_authorised_via_users_server":"@carol:third.test"}}"#,
    r#"{"type":"m.room.member","state_key":"@ann:us.test:8448","content":{"membership":"invite","third_party_invite":{"display_name":"a","signed":{"mxid":"@ann:us.test:8448","token":"t"}}}}"#,
    r#"{"type":"m.room.member","state_key":"@bob:peer.test","content":{"membership":"join","third_party_invite":{"signed":{}}}}"#,
    r#"{"type":"m.room.create","state_key":"","content":{"creator":"@bob:peer.test","room_version":"11","m.federate":true,"extra":[1]}}"#,
    r#"{"type":"m.room.power_levels","state_key":"","content":{"users":{"@bob:peer.test":100},"invite":50,"ban":50,"notifications":{"room":1}}}"#,
    r#"{"type":"m.room.join_rules","state_key":"","content":{"join_rule":"restricted","allow":[{"room_id":"!b:x","type":"m.room_membership"}]}}"#,
    r#"{"type":"m.room.redaction","redacts":"$other","content":{"redacts":"$other","reason":"r"}}"#,
    r#"{"type":"m.room.history_visibility","state_key":"","content":{"history_visibility":"shared","x":1}}"#,
    r#"{"type":"m.room.aliases","state_key":"peer.test","content":{"aliases":["h:peer.test"],"x":1}}"#,
    r#"{"type":"m.room.message","content":{"body":"I like otters","msgtype":"m.text"},"origin":"peer.test","membership":"join","prev_state":[]}"#,
];

pub fn make() -> Result<Box<dyn Target>, String> {
    let mut seeds = Vec::new();
    for text in EVENTS {
        let own = json::read(text.as_bytes()).ok_or("a seed is no canonical JSON")?;
        let shared = r#"{"sender":"@bob:peer.test","room_id":"!room:peer.test","depth":12,"origin_server_ts":1790000000000,"prev_events":["$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"],"auth_events":["$one","$two"],"unsigned":{"age":4}}"#;
        let shared = json::read(shared.as_bytes()).ok_or("a seed is no canonical JSON")?;
        let fields = own.object().unwrap_or_default().iter().chain(shared.object().unwrap_or_default());
        seeds.push(Json::Object(fields.cloned().collect()));
    }
    let names: Result<Vec<&ServerName>, _> = SERVERS.iter().map(|name| <&ServerName>::try_from(*name)).collect();
    let keys = public_keys(names.map_err(|error| error.to_string())?);
    let versions = RoomVersion::known().iter().map(version).collect();
    Ok(Box::new(Pdus { seeds, keys, versions }))
}

struct Pdus {
    seeds: Vec<Json>,
    keys: PublicKeyMap,
    versions: Vec<RoomVersion>,
}

impl Target for Pdus {
    fn draw(&self, random: &mut StdRng) -> Input {
        let mut input = Input::new(Vec::new(), random);
        let Some(version) = input.choose(&self.versions) else { return input };
        let mut event = self.seeds.choose(random).cloned().unwrap_or(Json::Null);
        let is_create = event.text_at("type") == Some("m.room.create");
        if is_create && version.room_id_is_create_hash() {
            event = event.without(&["room_id"]);
        }
        // What a server signs can be odd; what was changed afterwards has lost its hash or its signature.
        if random.random_ratio(1, 3) {
            change(&mut event, &self.seeds, random);
        }
        if random.random_ratio(1, 400) {
            let Json::Object(fields) = &mut event else { return input };
            fields.push(("pad".to_owned(), Json::Text("p".repeat(random.random_range(64_000..66_000)))));
        }
        let signed = if random.random_ratio(9, 10) { sign(&event, version, random) } else { None };
        let mut event = signed.unwrap_or(event);
        if random.random_ratio(1, 3) {
            change(&mut event, &self.seeds, random);
        }
        input.bytes = write(&event, random).into_bytes();
        if random.random_ratio(1, 8) {
            mutate(&mut input.bytes, &[], random);
        }
        input
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let version = input.choose(&self.versions).ok_or("no room versions")?;
        let Ok(object) = parse_object(&input.bytes) else { return Ok(Verdict::Refused) };
        let Ok(shaped) = ShapedPdu::parse(object, version) else { return Ok(Verdict::Refused) };
        let event = json::read(&input.bytes).ok_or("the second reading refuses its JSON")?;
        let event = event.without(&["unsigned", "event_id"]);
        let canonical = event.canonical();
        may_be_taken(&event, &canonical, version)
            .map_err(|what| format!("version {}: taken, and {what}", version.id()))?;
        if shaped.pdu().json() != canonical {
            return Err(format!("kept as {}, and canonical is {canonical}", shaped.pdu().json()));
        }
        let number = number_of(version);
        let redacted = redact(&event, number);
        let expected = event_id(&redacted, number);
        if shaped.pdu().event_id().as_str() != expected {
            return Err(format!(
                "version {}: its id is {}, by the second {expected}",
                version.id(),
                shaped.pdu().event_id()
            ));
        }
        let reread = parse_object(shaped.pdu().json().as_bytes()).map_err(|error| error.to_string())?;
        let again = ShapedPdu::parse(reread, version).map_err(|error| format!("its own text is refused: {error}"))?;
        if again.pdu() != shaped.pdu() || again.pdu().json() != shaped.pdu().json() {
            return Err("its own text is another event".to_owned());
        }
        let is_whole = has_its_hash(&event);
        let expected = is_signed(&event, &redacted, number) && (is_whole || is_signed(&redacted, &redacted, number));
        let verified = shaped.verify(&self.keys);
        match (&verified, expected) {
            (Ok(_), true) => {}
            (Err(_), false) => return Ok(Verdict::Refused),
            (Ok(_), false) => return Err(format!("version {}: verified, and not by the second", version.id())),
            (Err(error), true) => return Err(format!("version {}: {error}, and verified by the second", version.id())),
        }
        let Ok(verified) = verified else { return Ok(Verdict::Refused) };
        let was_redacted = verified.content_was_redacted() && !settings.has(&HASH_UNSEEN);
        let left = if is_whole { canonical } else { redacted.canonical() };
        if was_redacted == is_whole || verified.pdu().json() != left {
            return Err(format!(
                "its hash fits: {is_whole}, redacted: {was_redacted}, left: {}",
                verified.pdu().json()
            ));
        }
        Ok(Verdict::Taken)
    }
}

/// What a server makes of an event that it sends; `None` for what it cannot.
fn sign(event: &Json, version: &RoomVersion, random: &mut StdRng) -> Option<Json> {
    let mut object: CanonicalJsonObject = parse_object(event.canonical().as_bytes()).ok()?;
    let server = if random.random_ratio(9, 10) { SERVERS[0] } else { one_of(&SERVERS, random) };
    let signer = |name: &str| <&ServerName>::try_from(name).map(identity).ok();
    signer(server)?.hash_and_sign(&mut object, version.rules()).ok()?;
    if random.random_ratio(1, 4) {
        // Signs the same: what is signed is the redacted event, whoever signs.
        signer(SERVERS[1])?.hash_and_sign(&mut object, version.rules()).ok()?;
    }
    json::read(serde_json::to_string(&object).ok()?.as_bytes())
}

fn number_of(version: &RoomVersion) -> u32 {
    version.id().as_str().parse().unwrap_or(0)
}

/// What every event that is taken has.
fn may_be_taken(event: &Json, canonical: &str, version: &RoomVersion) -> Result<(), String> {
    let has = |is_so: bool, what: &str| if is_so { Ok(()) } else { Err(what.to_owned()) };
    has(canonical.len() <= EVENT_BYTES_MAX, "it is too large")?;
    let is_create = event.text_at("type") == Some("m.room.create");
    let needs_room = !(is_create && *version.id() == RoomVersionId::V12);
    let is_short = |key: &str| event.text_at(key).is_some_and(|text| text.len() <= FIELD_BYTES_MAX);
    has(is_short("type") && is_short("sender"), "it has no type or no sender, or a long one")?;
    has(if needs_room { is_short("room_id") } else { event.get("room_id").is_none() }, "its room_id is none")?;
    has(event.get("state_key").is_none() || is_short("state_key"), "its state_key is none")?;
    has(event.text_at("sender").is_some_and(|sender| UserId::parse(sender).is_ok()), "its sender is no user")?;
    for (key, entries_max) in [("prev_events", PREV_EVENTS_MAX), ("auth_events", AUTH_EVENTS_MAX)] {
        let entries = event.get(key).and_then(Json::list).filter(|entries| entries.len() <= entries_max);
        let are_ids = entries.is_some_and(|entries| {
            entries.iter().all(|id| id.text().is_some_and(|id| id.starts_with('$') && id.len() <= FIELD_BYTES_MAX))
        });
        has(are_ids, key)?;
    }
    for key in ["depth", "origin_server_ts"] {
        has(event.get(key).and_then(Json::integer).is_some_and(|number| number >= 0), key)?;
    }
    for key in ["content", "hashes", "signatures"] {
        has(event.get(key).and_then(Json::object).is_some(), key)?;
    }
    Ok(())
}

/// The keys of an event, and of its content, that redaction leaves.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#redactions> and the pages of the room versions.
fn redact(event: &Json, number: u32) -> Json {
    const ALWAYS: [&str; 12] = [
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    ];
    let mut kept: Vec<&str> = ALWAYS.to_vec();
    if number < 11 {
        kept.extend(["origin", "membership", "prev_state"]);
    }
    let mut redacted = only(event, &kept);
    let Json::Object(fields) = &mut redacted else { return redacted };
    if let Some((_, content)) = fields.iter_mut().find(|(key, _)| key == "content") {
        *content = redact_content(content, event.text_at("type").unwrap_or_default(), number);
    }
    redacted
}

fn redact_content(content: &Json, kind: &str, number: u32) -> Json {
    let mut kept = match kind {
        "m.room.create" if number >= 11 => return content.clone(),
        "m.room.create" => vec!["creator"],
        "m.room.member" => vec!["membership"],
        "m.room.join_rules" => vec!["join_rule"],
        "m.room.power_levels" => {
            vec!["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"]
        }
        "m.room.history_visibility" => vec!["history_visibility"],
        "m.room.aliases" if number < 6 => vec!["aliases"],
        "m.room.redaction" if number >= 11 => vec!["redacts"],
        _ => vec![],
    };
    match kind {
        "m.room.join_rules" if number >= 8 => kept.push("allow"),
        "m.room.member" if number >= 9 => kept.push("join_authorised_via_users_server"),
        "m.room.power_levels" if number >= 11 => kept.push("invite"),
        _ => {}
    }
    let mut redacted = only(content, &kept);
    let invite = content.get("third_party_invite").filter(|invite| invite.object().is_some());
    if let (Json::Object(fields), "m.room.member", true, Some(invite)) = (&mut redacted, kind, number >= 11, invite) {
        fields.push(("third_party_invite".to_owned(), only(invite, &["signed"])));
    }
    redacted
}

fn only(object: &Json, keys: &[&str]) -> Json {
    let fields = object.object().unwrap_or_default().iter().filter(|(key, _)| keys.contains(&key.as_str()));
    Json::Object(fields.cloned().collect())
}

/// `$` and the hash of what redaction and the signatures leave. Version 3 has the alphabet of ordinary base64.
fn event_id(redacted: &Json, number: u32) -> String {
    let hash: [u8; 32] = Sha256::digest(redacted.without(&["signatures", "unsigned"]).canonical()).into();
    if number == 3 {
        format!("${}", Base64::<Standard, _>::new(hash).encode())
    } else {
        format!("${}", URL_SAFE_NO_PAD.encode(hash))
    }
}

fn has_its_hash(event: &Json) -> bool {
    let hash = Sha256::digest(event.without(&["hashes", "signatures", "unsigned"]).canonical());
    let stated = event.get("hashes").and_then(|hashes| hashes.text_at("sha256"));
    stated
        .and_then(|stated| Base64::<Standard>::parse(stated).ok())
        .is_some_and(|stated| stated.as_bytes() == hash.as_slice())
}

/// Whether all who must have signed have. `event` says who that is, `redacted` is what they signed.
fn is_signed(event: &Json, redacted: &Json, number: u32) -> bool {
    let Some(servers) = signers(event, number) else { return false };
    let message = redacted.without(&["signatures", "unsigned"]).canonical();
    let has_hash = event.get("hashes").is_some_and(|hashes| hashes.text_at("sha256").is_some());
    has_hash && servers.iter().all(|server| is_signed_by(event, server, message.as_bytes()))
}

/// The sender's server, unless a token vouches for an invite, and the server of who lets somebody into a restricted room.
/// `None`: it cannot be told.
fn signers(event: &Json, number: u32) -> Option<BTreeSet<String>> {
    let mut servers = BTreeSet::new();
    let content = event.get("content")?;
    let is_member = event.text_at("type") == Some("m.room.member");
    if is_member {
        content.text_at("membership")?;
    }
    let invite =
        content.get("third_party_invite").filter(|_| is_member && content.text_at("membership") == Some("invite"));
    match invite {
        Some(invite) => drop(invite.object()?),
        None => drop(servers.insert(server_of(event.text_at("sender")?)?)),
    }
    if number >= 8
        && let Some(voucher) = content.get("join_authorised_via_users_server")
    {
        servers.insert(server_of(voucher.text()?)?);
    }
    Some(servers)
}

fn server_of(user_id: &str) -> Option<String> {
    UserId::parse(user_id).ok()?;
    user_id.split_once(':').map(|(_, server)| server.to_owned())
}

/// One signature that verifies, and none under a key that we have that does not.
fn is_signed_by(event: &Json, server: &str, message: &[u8]) -> bool {
    let Some(name) = SERVERS.iter().find(|name| **name == server) else { return false };
    let Ok(identity) = <&ServerName>::try_from(*name).map(identity) else { return false };
    let Ok(key) = VerifyingKey::from_bytes(&identity.key().public_key()) else { return false };
    let signature = event.get("signatures").and_then(|signatures| signatures.get(server)?.get("ed25519:fixture"));
    let bytes = signature.and_then(Json::text).and_then(|text| Base64::<Standard>::parse(text).ok());
    let signature = bytes.and_then(|bytes| Signature::from_slice(bytes.as_bytes()).ok());
    signature.is_some_and(|signature| key.verify_strict(message, &signature).is_ok())
}
