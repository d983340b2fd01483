//! Target `keys`: what a server says of its own keys, with signatures checked a second time.
//! May not: fetch, or judge for which time a key counts.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#publishing-keys>

use std::collections::BTreeMap;

use ed25519_dalek::{Signature, VerifyingKey};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::{
    ServerName,
    serde::{Base64, base64::Standard},
    server_name,
};
use serde_json::json;
use vestibule_federation::answers::keys_in_document;
use vestibule_protocol::{canonical_json::parse_object, clock::UnixMillis, fixture::identity};

use super::super::{
    Target, Verdict,
    drawing::{Input, change, mutate, write},
    json::{self, Json},
};
use crate::proof::{Plant, Settings};

pub static UNSIGNED: Plant = Plant { name: "unsigned-keys", what: "a key document need not be signed", cases: 5_000 };

/// Keys of one document. Ours, as production says of itself.
const KEYS_MAX: usize = 64;

/// Documents that are signed before the first case.
const SIGNED: usize = 2_000;

/// The neutral point of the curve, for which any signature would do.
const WEAK_KEY: &str = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

pub fn make() -> Result<Box<dyn Target>, String> {
    let asked = server_name!("peer.test");
    let key = identity(asked).key().public_key_base64().encode();
    let other = identity(server_name!("third.test")).key().public_key_base64().encode();
    let many: BTreeMap<String, serde_json::Value> =
        (0..70).map(|number| (format!("ed25519:k{number}"), json!({ "key": other, "expired_ts": number }))).collect();
    let documents = [
        json!({ "verify_keys": { "ed25519:fixture": { "key": key } } }),
        json!({ "verify_keys": { "ed25519:fixture": { "key": key } }, "old_verify_keys": { "ed25519:old": { "key": other, "expired_ts": 5 } } }),
        json!({ "verify_keys": { "ed25519:fixture": { "key": key }, "ed25519:second": { "key": other }, "ed448:x": { "key": "AAAA" } } }),
        json!({ "verify_keys": { "ed25519:fixture": { "key": key }, "ed25519:weak": { "key": WEAK_KEY } } }),
        json!({ "verify_keys": { "ed25519:fixture": { "key": key } }, "old_verify_keys": many }),
    ];
    let mut seeds = Vec::new();
    for mut document in documents {
        document["server_name"] = json!(asked);
        document["valid_until_ts"] = json!(1_800_000_000_000_u64);
        seeds.push(json::read(document.to_string().as_bytes()).ok_or("a seed is no canonical JSON")?);
    }
    // Signed beforehand, for signing takes longer than reading.
    let mut random = StdRng::seed_from_u64(0);
    let signed = (0..SIGNED).map(|number| {
        let at = if number % 50 == 0 { 4 } else { random.random_range(0..4) };
        let mut document = seeds[at].clone();
        if random.random_ratio(1, 3) {
            change(&mut document, &seeds[..4], &mut random);
        }
        sign(&document).unwrap_or(document)
    });
    let signed = signed.collect();
    Ok(Box::new(Keys { seeds, signed }))
}

struct Keys {
    seeds: Vec<Json>,
    signed: Vec<Json>,
}

impl Target for Keys {
    fn draw(&self, random: &mut StdRng) -> Input {
        let mut document = self.signed.choose(random).cloned().unwrap_or(Json::Null);
        if random.random_ratio(1, 3) {
            change(&mut document, &self.seeds[..4], random);
        }
        let mut bytes = write(&document, random).into_bytes();
        if random.random_ratio(1, 8) {
            mutate(&mut bytes, &[], random);
        }
        Input::new(bytes, random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let Ok(document) = parse_object(&input.bytes) else { return Ok(Verdict::Refused) };
        let told = json::read(&input.bytes).ok_or("the second reading refuses its JSON")?;
        let expected = read(&told);
        let seen = if settings.has(&UNSIGNED) {
            sign(&told).and_then(|signed| parse_object(signed.canonical().as_bytes()).ok()).unwrap_or(document)
        } else {
            document
        };
        let kept = match keys_in_document(&seen, server_name!("peer.test"), UnixMillis(1_790_000_000_000)) {
            Ok(kept) => kept,
            Err(error) if expected.is_some() => return Err(format!("{error}, and the second reading takes it")),
            Err(_) => return Ok(Verdict::Refused),
        };
        let Some(expected) = expected else { return Err("taken, and not by the second reading".to_owned()) };
        let verify: BTreeMap<String, String> =
            kept.verify_keys.iter().map(|(id, key)| (id.to_string(), key.clone())).collect();
        let old: BTreeMap<String, (String, i64)> = kept
            .old_verify_keys
            .iter()
            .map(|(id, old)| (id.to_string(), (old.key.clone(), i64::try_from(old.expired_ts).unwrap_or(-1))))
            .collect();
        let valid_until = i64::try_from(kept.valid_until_ts).unwrap_or(-1);
        if (&verify, &old, valid_until) != (&expected.verify, &expected.old, expected.valid_until) {
            return Err(format!("kept: {kept:?}, by the second: {expected:?}"));
        }
        if kept.signed_json != told.canonical() {
            return Err(format!("handed on as {}", kept.signed_json));
        }
        Ok(Verdict::Taken)
    }
}

fn sign(document: &Json) -> Option<Json> {
    let mut object = parse_object(document.canonical().as_bytes()).ok()?;
    identity(<&ServerName>::try_from("peer.test").ok()?).sign_json(&mut object).ok()?;
    json::read(serde_json::to_string(&object).ok()?.as_bytes())
}

#[derive(Debug)]
struct Kept {
    verify: BTreeMap<String, String>,
    old: BTreeMap<String, (String, i64)>,
    valid_until: i64,
}

/// The second reading: of the server that was asked, few keys, signed by each of its own that signed at all, and by one.
fn read(document: &Json) -> Option<Kept> {
    (document.text_at("server_name") == Some("peer.test")).then_some(())?;
    let valid_until = document.get("valid_until_ts").and_then(Json::integer).filter(|until| *until >= 0)?;
    let verify = document.get("verify_keys")?.object()?;
    let old = document.get("old_verify_keys").map_or(Some(&[][..]), Json::object)?;
    (verify.len() + old.len() <= KEYS_MAX).then_some(())?;
    let signatures = document.get("signatures").map_or(Some(&[][..]), Json::object)?;
    let own = signatures.iter().find(|(server, _)| server == "peer.test").map(|(_, own)| own);
    let message = document.without(&["signatures", "unsigned"]).canonical();
    let mut kept = Kept { verify: BTreeMap::new(), old: BTreeMap::new(), valid_until };
    let mut is_signed = false;
    for (id, entry) in verify {
        let Some(key) = key_of(id, entry) else { continue };
        if let Some(signature) = own.and_then(|own| own.get(id)) {
            let bytes = signature.text().and_then(|text| Base64::<Standard>::parse(text).ok())?;
            let signature = Signature::from_slice(bytes.as_bytes()).ok()?;
            key.verify_strict(message.as_bytes(), &signature).ok()?;
            is_signed = true;
        }
        kept.verify.insert(id.clone(), Base64::<Standard, _>::new(key.to_bytes()).encode());
    }
    for (id, entry) in old {
        let expired = entry.get("expired_ts").and_then(Json::integer).filter(|expired| *expired >= 0);
        if let (Some(key), Some(expired)) = (key_of(id, entry), expired) {
            kept.old.insert(id.clone(), (Base64::<Standard, _>::new(key.to_bytes()).encode(), expired));
        }
    }
    is_signed.then_some(kept)
}

/// A key of the known algorithm that is a strong point of the curve.
fn key_of(id: &str, entry: &Json) -> Option<VerifyingKey> {
    id.strip_prefix("ed25519:")?;
    let bytes = Base64::<Standard>::parse(entry.text_at("key")?).ok()?;
    let key = VerifyingKey::from_bytes(bytes.as_bytes().try_into().ok()?).ok()?;
    (!key.is_weak()).then_some(key)
}
