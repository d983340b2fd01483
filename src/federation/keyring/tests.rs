use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use futures_util::future::{BoxFuture, join_all};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
    serde::Base64, signatures::PublicKeyMap,
};
use serde_json::json;
use vestibule_protocol::{
    clock::{Clock, UnixMillis},
    signing::Identity,
};

use super::{
    DocumentError, FETCH_DEADLINE, FETCHES_AT_ONCE_MAX, KEYS_IN_DOCUMENT_MAX, KeyError, KeySource, Keyring,
    KeyringSettings, Rate, SignedRequest, SourceNetwork, VerifyRequestError, x_matrix::signed_text,
};
use crate::{
    client::{Client, RemoteError},
    discovery::Discovery,
    testing::{
        Authority, DAY, HOUR, KeyDocument, NOW, ScriptedResolver, TestClock, TestKeyStore, TlsPeer, http_reply,
        identity, name,
    },
};

const MINUTE: Duration = Duration::from_secs(60);
const US: &str = "us.example";
const PEER: &str = "peer.example";
const NOTARY: &str = "notary.example";

type Answer = Result<CanonicalJsonObject, RemoteError>;
type Gate = tokio::sync::watch::Receiver<bool>;

/// Answers from a queue for each server and counts; the last answer of a queue stays.
#[derive(Default)]
struct ScriptedSource {
    answers: Mutex<BTreeMap<String, VecDeque<Answer>>>,
    asked: Mutex<Vec<String>>,
    /// How many key ids a notary was last asked for.
    key_ids: Mutex<usize>,
    gate: Option<Gate>,
}

impl ScriptedSource {
    fn answers(&self, whom: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(whom.to_owned(), [answer].into());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, whom: String) -> BoxFuture<'_, Answer> {
        self.asked.lock().unwrap().push(whom.clone());
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.get_mut(&whom) {
            Some(queue) if queue.len() > 1 => queue.pop_front().unwrap(),
            Some(queue) => queue[0].clone(),
            None => Err(RemoteError::Timeout),
        };
        let gate = self.gate.clone();
        Box::pin(async move {
            if let Some(mut gate) = gate {
                gate.wait_for(|open| *open).await.unwrap();
            }
            answer
        })
    }
}

impl KeySource for ScriptedSource {
    fn server_keys<'a>(&'a self, server: &'a ServerName, _deadline: Duration) -> BoxFuture<'a, Answer> {
        self.answer(server.to_string())
    }

    fn notary_keys<'a>(
        &'a self,
        notary: &'a ServerName,
        server: &'a ServerName,
        wanted: &'a [OwnedServerSigningKeyId],
        _minimum_valid_until: UnixMillis,
        _deadline: Duration,
    ) -> BoxFuture<'a, Answer> {
        *self.key_ids.lock().unwrap() = wanted.len();
        self.answer(format!("{server} at {notary}"))
    }
}

struct Bench {
    keyring: Keyring,
    source: Arc<ScriptedSource>,
    store: Arc<TestKeyStore>,
    clock: Arc<TestClock>,
}

impl Bench {
    fn new() -> Self {
        Self::with(KeyringSettings::default())
    }

    fn with(settings: KeyringSettings) -> Self {
        Self::on(settings, ScriptedSource::default(), Arc::default())
    }

    fn on(settings: KeyringSettings, source: ScriptedSource, store: Arc<TestKeyStore>) -> Self {
        let (source, clock) = (Arc::new(source), Arc::<TestClock>::default());
        let keyring =
            Keyring::new(Arc::new(identity(US, "us", 200)), settings, source.clone(), store.clone(), clock.clone());
        Self { keyring, source, store, clock }
    }

    async fn for_request(&self, server: &str, key: &str) -> Result<PublicKeyMap, KeyError> {
        self.for_request_from(server, key, "9.9.9.9").await
    }

    async fn for_request_from(&self, server: &str, key: &str, ip: &str) -> Result<PublicKeyMap, KeyError> {
        let key = key_id(key);
        let source = SourceNetwork::of(ip.parse().unwrap());
        self.keyring.keys_for_request(&name(server), &[&key], source, self.clock.now()).await
    }

    async fn for_event(&self, key: &str, at: UnixMillis) -> Result<PublicKeyMap, KeyError> {
        self.for_event_in(key, at, true).await
    }

    async fn for_event_in(&self, key: &str, at: UnixMillis, enforce: bool) -> Result<PublicKeyMap, KeyError> {
        let key = key_id(key);
        self.keyring.keys_for_event(&name(PEER), &[&key], at, enforce, self.clock.now()).await
    }
}

fn key_id(version: &str) -> OwnedServerSigningKeyId {
    ServerSigningKeyId::parse(format!("ed25519:{version}")).unwrap()
}

fn peer(version: &str, seed: u8) -> Identity {
    identity(PEER, version, seed)
}

/// The usual answer: one key, a day of validity, self-signed.
fn good() -> CanonicalJsonObject {
    let a = peer("a", 1);
    KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&a).signed_by(&[&a])
}

fn only(map: &PublicKeyMap, server: &str) -> BTreeMap<String, Base64> {
    assert_eq!(map.keys().collect::<Vec<_>>(), [server]);
    map[server].clone()
}

fn holds(map: &PublicKeyMap, signer: &Identity) -> bool {
    let set = only(map, signer.server_name().as_str());
    set.len() == 1
        && set.get(signer.key().key_id().as_str()).map(Base64::as_bytes) == Some(signer.key().public_key().as_slice())
}

#[tokio::test]
async fn a_key_is_fetched_once_and_then_known_also_after_a_restart() {
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    for _ in 0..5 {
        assert!(holds(&bench.for_request(PEER, "a").await.unwrap(), &peer("a", 1)));
    }
    assert!(holds(&bench.for_event("a", NOW).await.unwrap(), &peer("a", 1)));
    assert_eq!(bench.source.asked(), [PEER]);

    let stored = bench.store.rows.lock().unwrap()[&name(PEER)].clone();
    assert_eq!(stored.valid_until_ts, NOW.plus(DAY).0);
    assert_eq!(stored.fetched_at_ms, NOW.0);
    assert_eq!(stored.verify_keys[&key_id("a")], peer("a", 1).key().public_key_base64().encode());
    assert_eq!(serde_json::from_str::<CanonicalJsonObject>(&stored.signed_json).unwrap(), good());

    let restarted = Bench::on(KeyringSettings::default(), ScriptedSource::default(), Arc::clone(&bench.store));
    assert!(holds(&restarted.for_request(PEER, "a").await.unwrap(), &peer("a", 1)));
    assert_eq!(restarted.source.asked().len(), 0);
}

#[tokio::test]
async fn our_own_keys_need_no_network() {
    let old = identity(US, "old", 201);
    let own_old_keys = [(key_id("old"), (old.key().public_key(), NOW))].into();
    let bench = Bench::with(KeyringSettings { own_old_keys, ..KeyringSettings::default() });
    assert!(holds(&bench.for_request(US, "us").await.unwrap(), &identity(US, "us", 200)));
    assert_eq!(bench.for_request(US, "old").await, Err(KeyError::NoUsableKey));
    let (us, id) = (name(US), key_id("old"));
    let ids = [&*id];
    let at = |ts| bench.keyring.keys_for_event(&us, &ids, ts, true, NOW);
    assert!(holds(&at(NOW).await.unwrap(), &old));
    assert_eq!(at(UnixMillis(NOW.0 + 1)).await, Err(KeyError::NoUsableKey));
    assert_eq!(bench.source.asked().len(), 0);
}

#[tokio::test]
async fn documents_that_prove_nothing_are_refused() {
    let (a, other) = (peer("a", 1), identity("other.example", "a", 1));
    let doc = || KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&a);
    let many = |count: u32| -> serde_json::Value {
        (0..count)
            .map(|n| (format!("ed25519:k{n}"), json!({ "key": "AAAA" })))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let malformed = |field| Err(DocumentError::Malformed { field });
    let mut tampered = good();
    tampered.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(ruma::int!(7)));
    let weak = Base64::<ruma::serde::base64::Standard>::new(vec![0; 32]).encode();
    let cases: Vec<(&str, CanonicalJsonObject, Result<(), DocumentError>)> = vec![
        ("good", doc().signed_by(&[&a]), Ok(())),
        ("unsigned", doc().unsigned(), Err(DocumentError::NotSelfSigned)),
        ("signed by another key of the name", doc().signed_by(&[&peer("b", 2)]), Err(DocumentError::NotSelfSigned)),
        ("signed by another server alone", doc().signed_by(&[&other]), Err(DocumentError::NotSelfSigned)),
        ("signed by another seed", doc().signed_by(&[&peer("a", 9)]), Err(DocumentError::BadSignature)),
        ("changed after signing", tampered, Err(DocumentError::BadSignature)),
        (
            "signed only by an old key",
            KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&a).old_key(&peer("b", 2), NOW).signed_by(&[&peer("b", 2)]),
            Err(DocumentError::NotSelfSigned),
        ),
        (
            "one good and one bad signature",
            doc().verify_key(&peer("b", 2)).signed_by(&[&a, &peer("b", 3)]),
            Err(DocumentError::BadSignature),
        ),
        (
            "another server's",
            KeyDocument::of("other.example", NOW.plus(DAY)).verify_key(&other).signed_by(&[&other]),
            Err(DocumentError::WrongServer),
        ),
        (
            "name in another case",
            KeyDocument::of("PEER.example", NOW.plus(DAY)).verify_key(&a).signed_by(&[&a]),
            Err(DocumentError::WrongServer),
        ),
        ("no name", doc().with("server_name", json!(7)).signed_by(&[&a]), malformed("server_name")),
        ("no validity", doc().with("valid_until_ts", json!("1")).signed_by(&[&a]), malformed("valid_until_ts")),
        ("negative validity", doc().with("valid_until_ts", json!(-1)).signed_by(&[&a]), malformed("valid_until_ts")),
        (
            "keys in a list",
            KeyDocument::of(PEER, NOW.plus(DAY)).with("verify_keys", json!([])).signed_by(&[&a]),
            malformed("verify_keys"),
        ),
        ("old keys null", doc().with("old_verify_keys", json!(null)).signed_by(&[&a]), malformed("old_verify_keys")),
        ("no keys", KeyDocument::of(PEER, NOW.plus(DAY)).signed_by(&[&a]), Err(DocumentError::NotSelfSigned)),
        (
            "a weak key",
            KeyDocument::of(PEER, NOW.plus(DAY))
                .with("verify_keys", json!({"ed25519:a": {"key": weak}}))
                .signed_by(&[&a]),
            Err(DocumentError::NotSelfSigned),
        ),
        ("10,000 keys", doc().with("old_verify_keys", many(10_000)).signed_by(&[&a]), Err(DocumentError::TooManyKeys)),
        ("one key too many", doc().with("old_verify_keys", many(64)).signed_by(&[&a]), Err(DocumentError::TooManyKeys)),
        ("as many keys as allowed", doc().with("old_verify_keys", many(63)).signed_by(&[&a]), Ok(())),
        (
            "odd entries beside a good one",
            doc()
                .with(
                    "old_verify_keys",
                    json!({"rsa:1": {}, "ed25519:": 7, "x": null, "ed25519:y": {"key": "!", "expired_ts": 1}}),
                )
                .signed_by(&[&a]),
            Ok(()),
        ),
    ];
    assert_eq!(KEYS_IN_DOCUMENT_MAX, 64);
    for (case, document, expected) in cases {
        let bench = Bench::new();
        bench.source.answers(PEER, Ok(document.clone()));
        let fetched = bench.for_request(PEER, "a").await.map(drop);
        assert_eq!(fetched, expected.map_err(KeyError::UnfitDocument), "fetched: {case}");

        // The same answer when a good document is held already: that one stays, and requests still pass.
        let bench = Bench::new();
        bench.source.answers(PEER, Ok(good()));
        bench.for_request(PEER, "a").await.unwrap();
        bench.source.answers(PEER, Ok(document));
        bench.for_request(PEER, "unknown").await.unwrap_err();
        assert_eq!(bench.source.asked().len(), 2, "{case}");
        assert!(holds(&bench.for_request(PEER, "a").await.unwrap(), &a), "kept: {case}");
        assert_eq!(bench.store.rows.lock().unwrap()[&name(PEER)].verify_keys.len(), 1, "{case}");
    }
}

#[tokio::test]
async fn a_document_past_its_validity_replaces_none_that_is_valid() {
    let (a, b) = (peer("a", 1), peer("b", 2));
    let past = KeyDocument::of(PEER, UnixMillis(NOW.0 - 1)).verify_key(&b).signed_by(&[&b]);
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    bench.for_request(PEER, "a").await.unwrap();
    bench.source.answers(PEER, Ok(past.clone()));
    assert_eq!(bench.for_request(PEER, "b").await, Err(KeyError::NoUsableKey));
    assert!(holds(&bench.for_request(PEER, "a").await.unwrap(), &a));
    // It does verify what was signed while it was valid.
    assert!(holds(&bench.for_event("b", UnixMillis(NOW.0 - 1)).await.unwrap(), &b));
    assert_eq!(bench.for_event("b", NOW).await, Err(KeyError::NoUsableKey));

    let fresh = Bench::new();
    fresh.source.answers(PEER, Ok(past));
    assert_eq!(fresh.for_request(PEER, "b").await, Err(KeyError::NoUsableKey));
}

#[tokio::test]
async fn a_rotated_key_signs_no_requests_and_events_only_up_to_its_end() {
    let (a, b) = (peer("a", 1), peer("b", 2));
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    bench.for_request(PEER, "a").await.unwrap();
    bench.clock.advance(HOUR);
    let rotated = NOW.plus(HOUR / 2);
    // Valid for less than what it replaces, yet it comes from the server itself.
    let document = KeyDocument::of(PEER, NOW.plus(2 * HOUR)).verify_key(&b).old_key(&a, rotated);
    bench.source.answers(PEER, Ok(document.signed_by(&[&b])));
    assert!(holds(&bench.for_request(PEER, "b").await.unwrap(), &b));
    assert_eq!(bench.for_request(PEER, "a").await, Err(KeyError::NoUsableKey));
    assert!(holds(&bench.for_event("a", rotated).await.unwrap(), &a));
    assert_eq!(bench.for_event("a", UnixMillis(rotated.0 + 1)).await, Err(KeyError::NoUsableKey));
    assert_eq!(bench.source.asked().len(), 2, "a retired key is not asked for again");

    // A server that forgets to list its former key: it counts up to the last moment it was seen valid.
    let forgetful = KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&peer("c", 3)).signed_by(&[&peer("c", 3)]);
    bench.clock.advance(HOUR / 2);
    bench.source.answers(PEER, Ok(forgetful));
    bench.for_request(PEER, "c").await.unwrap();
    assert_eq!(bench.for_request(PEER, "b").await, Err(KeyError::NoUsableKey));
    assert!(holds(&bench.for_event("b", NOW.plus(HOUR + HOUR / 2)).await.unwrap(), &b));
    assert_eq!(bench.for_event("b", NOW.plus(2 * HOUR)).await, Err(KeyError::NoUsableKey));
    assert!(holds(&bench.for_event("a", rotated).await.unwrap(), &a));
}

#[tokio::test]
async fn validity_binds_requests_at_now_and_events_at_their_time() {
    let a = peer("a", 1);
    let ten_years = NOW.plus(3650 * DAY);
    let long = KeyDocument::of(PEER, ten_years).verify_key(&a).signed_by(&[&a]);
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(long));
    assert!(bench.for_event("a", NOW.plus(7 * DAY)).await.is_ok());
    assert_eq!(bench.for_event("a", NOW.plus(8 * DAY)).await, Err(KeyError::NoUsableKey));
    assert!(bench.for_event_in("a", NOW.plus(8 * DAY), false).await.is_ok());
    assert!(bench.for_event("a", UnixMillis(0)).await.is_ok());
    assert_eq!(bench.source.asked().len(), 1, "no fetch makes a key valid for more than a week");

    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    bench.for_request(PEER, "a").await.unwrap();
    bench.source.answers(PEER, Err(RemoteError::Timeout));
    bench.clock.advance(DAY);
    assert!(bench.for_request(PEER, "a").await.is_ok(), "the last moment counts");
    assert!(bench.for_event("a", NOW.plus(DAY)).await.is_ok());
    bench.clock.advance(Duration::from_millis(1));
    assert!(bench.for_request(PEER, "a").await.is_err());
    assert!(bench.for_event("a", UnixMillis(NOW.plus(DAY).0 + 1)).await.is_err());
    assert!(bench.for_event("a", NOW.plus(DAY)).await.is_ok());
    assert!(bench.for_event_in("a", NOW.plus(2 * DAY), false).await.is_ok());
}

#[tokio::test]
async fn a_stale_document_is_fetched_anew() {
    let a = peer("a", 1);
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    bench.for_request(PEER, "a").await.unwrap();
    bench.clock.advance(2 * DAY);
    let renewed = KeyDocument::of(PEER, NOW.plus(3 * DAY)).verify_key(&a).signed_by(&[&a]);
    bench.source.answers(PEER, Ok(renewed));
    assert!(holds(&bench.for_event("a", NOW.plus(2 * DAY)).await.unwrap(), &a));
    assert!(holds(&bench.for_request(PEER, "a").await.unwrap(), &a));
    assert_eq!(bench.source.asked().len(), 2);
}

#[tokio::test]
async fn past_its_half_life_a_document_is_refreshed_without_anybody_waiting() {
    let (open, gate) = tokio::sync::watch::channel(true);
    let bench = Bench::on(
        KeyringSettings::default(),
        ScriptedSource { gate: Some(gate), ..ScriptedSource::default() },
        Arc::default(),
    );
    bench.source.answers(PEER, Ok(good()));
    bench.for_request(PEER, "a").await.unwrap();
    bench.clock.advance(DAY / 2 - MINUTE);
    bench.for_request(PEER, "a").await.unwrap();
    assert_eq!(bench.source.asked().len(), 1);
    bench.clock.advance(MINUTE);
    // The source does not answer any more, and the requests pass all the same.
    open.send(false).unwrap();
    for _ in 0..3 {
        bench.for_request(PEER, "a").await.unwrap();
    }
    until(|| bench.source.asked().len() == 2).await;
    open.send(true).unwrap();
    until(|| bench.keyring.inner.memory().flights.is_empty()).await;
    assert_eq!(bench.store.rows.lock().unwrap()[&name(PEER)].fetched_at_ms, NOW.plus(DAY / 2).0);
}

async fn until(mut condition: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("condition never came true");
}

#[tokio::test]
async fn banned_keys_never_verify_wherever_they_come_from() {
    let (a, b) = (peer("a", 1), peer("b", 2));
    let settings = || KeyringSettings { banned_keys: [a.key().public_key()].into(), ..KeyringSettings::default() };
    let bench = Bench::with(settings());
    bench.source.answers(PEER, Ok(good()));
    let refused = bench.for_request(PEER, "a").await;
    assert_eq!(refused, Err(KeyError::UnfitDocument(DocumentError::NotSelfSigned)));

    // Beside a good key, and as an old one.
    for document in [
        KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&a).verify_key(&b),
        KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&b).old_key(&a, NOW),
    ] {
        let bench = Bench::with(settings());
        bench.source.answers(PEER, Ok(document.signed_by(&[&a, &b])));
        assert!(bench.for_request(PEER, "b").await.is_ok());
        assert_eq!(bench.for_request(PEER, "a").await, Err(KeyError::NoUsableKey));
        assert_eq!(bench.for_event("a", UnixMillis(1)).await, Err(KeyError::NoUsableKey));
    }

    // Banned after it was stored.
    let before = Bench::new();
    before.source.answers(PEER, Ok(good()));
    before.for_request(PEER, "a").await.unwrap();
    let after = Bench::on(settings(), ScriptedSource::default(), Arc::clone(&before.store));
    assert!(after.for_request(PEER, "a").await.is_err());
    assert!(after.for_event("a", NOW).await.is_err());
}

#[tokio::test]
async fn a_hundred_callers_share_one_fetch_and_the_first_may_leave() {
    let (open, gate) = tokio::sync::watch::channel(false);
    let source = ScriptedSource { gate: Some(gate), ..ScriptedSource::default() };
    let bench = Arc::new(Bench::on(KeyringSettings::default(), source, Arc::default()));
    bench.source.answers(PEER, Ok(good()));
    let first = {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move { bench.for_request(PEER, "a").await })
    };
    until(|| bench.source.asked().len() == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let asking = (0..100).map(|_| bench.for_request(PEER, "a"));
    let opening = async { open.send(true).unwrap() };
    let (all, ()) = tokio::join!(join_all(asking), opening);
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(bench.source.asked(), [PEER]);
}

#[tokio::test]
async fn failures_pause_from_ten_minutes_doubling_to_a_week_and_success_resets() {
    let bench = Bench::new();
    let mut pause = 10 * MINUTE;
    for failures in 1..=14 {
        assert_eq!(bench.for_request(PEER, "a").await, Err(KeyError::Fetch(RemoteError::Timeout)));
        assert_eq!(bench.source.asked().len(), failures);
        bench.clock.advance(pause - Duration::from_secs(1));
        let retry_after = Duration::from_secs(1);
        assert_eq!(bench.for_request(PEER, "a").await, Err(KeyError::RecentlyFailed { retry_after }));
        assert_eq!(bench.for_request(PEER, "other").await, Err(KeyError::RecentlyFailed { retry_after }));
        bench.clock.advance(retry_after);
        pause = (2 * pause).min(7 * DAY);
    }
    let valid_until = bench.clock.now().plus(DAY);
    let a = peer("a", 1);
    bench.source.answers(PEER, Ok(KeyDocument::of(PEER, valid_until).verify_key(&a).signed_by(&[&a])));
    assert!(bench.for_request(PEER, "a").await.is_ok());
    bench.source.answers(PEER, Err(RemoteError::Timeout));
    let refetch = bench.for_request(PEER, "b").await;
    assert_eq!(refetch, Err(KeyError::Fetch(RemoteError::Timeout)));
    let retry_after = 10 * MINUTE;
    assert_eq!(bench.for_request(PEER, "b").await, Err(KeyError::RecentlyFailed { retry_after }));
    assert!(bench.for_request(PEER, "a").await.is_ok(), "what is known stays usable");
    bench.keyring.forget_failures(&name(PEER));
    assert_eq!(bench.for_request(PEER, "c").await, Err(KeyError::Fetch(RemoteError::Timeout)));
}

#[tokio::test]
async fn made_up_key_ids_buy_few_fetches_and_the_same_id_one_in_ten_minutes() {
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    bench.for_request(PEER, "a").await.unwrap();
    for _ in 0..5 {
        assert_eq!(bench.for_request(PEER, "x").await, Err(KeyError::NoUsableKey));
    }
    assert_eq!(bench.source.asked().len(), 2);
    for n in 0..1000 {
        bench.for_request(PEER, &format!("x{n}")).await.unwrap_err();
    }
    assert_eq!(bench.source.asked().len(), 3, "three fetches in ten minutes");
    assert!(bench.for_request(PEER, "a").await.is_ok());
    bench.clock.advance(10 * MINUTE);
    bench.for_request(PEER, "x").await.unwrap_err();
    assert_eq!(bench.source.asked().len(), 4);
}

#[tokio::test]
async fn a_network_may_ask_about_few_unknown_origins_and_known_ones_stay_open() {
    let rate = Rate { per_second: 5.0, burst: 20.0 };
    let settings = KeyringSettings { new_origins_by_network: Some(rate), ..KeyringSettings::default() };
    let bench = Bench::with(settings);
    bench.source.answers(PEER, Ok(good()));
    bench.for_request_from(PEER, "a", "9.9.9.1").await.unwrap();
    let mut over = 0;
    for n in 0..100 {
        let ip = format!("9.9.9.{n}");
        if bench.for_request_from(&format!("h{n}.example"), "a", &ip).await == Err(KeyError::OverBudget) {
            over += 1;
        }
    }
    assert_eq!(over, 81, "20 at once, one of them for the peer");
    assert_eq!(bench.source.asked().len(), 20);
    // A name that failed, a name that is known, another network: none of them asks the budget.
    let failed = bench.for_request_from("h0.example", "a", "9.9.9.1").await;
    assert!(matches!(failed, Err(KeyError::RecentlyFailed { .. })), "{failed:?}");
    assert!(bench.for_request_from(PEER, "a", "9.9.9.1").await.is_ok());
    let elsewhere = bench.for_request_from("h200.example", "a", "9.9.8.1").await;
    assert_eq!(elsewhere, Err(KeyError::Fetch(RemoteError::Timeout)));
    bench.clock.advance(Duration::from_secs(1));
    let outcomes: Vec<_> = join_all((300..310).map(|n| {
        let bench = &bench;
        async move { bench.for_request_from(&format!("h{n}.example"), "a", "9.9.9.1").await }
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(KeyError::OverBudget)).count(), 5);

    let unlimited = Bench::new();
    for n in 0..100 {
        let outcome = unlimited.for_request(&format!("h{n}.example"), "a").await;
        assert_eq!(outcome, Err(KeyError::Fetch(RemoteError::Timeout)));
    }
}

#[test]
fn source_networks_are_24_and_56_bits_wide() {
    let network = |ip: &str| SourceNetwork::of(ip.parse().unwrap());
    assert_eq!(network("1.2.3.4"), network("1.2.3.255"));
    assert_eq!(network("1.2.3.4"), network("::ffff:1.2.3.9"));
    assert_ne!(network("1.2.3.4"), network("1.2.4.4"));
    assert_eq!(network("2a00:1:2:3400::1"), network("2a00:1:2:34ff::2"));
    assert_ne!(network("2a00:1:2:3400::1"), network("2a00:1:2:3500::1"));
}

#[tokio::test(start_paused = true)]
async fn few_fetches_run_at_once_and_waiting_for_a_place_blames_nobody() {
    let (_open, gate) = tokio::sync::watch::channel(false);
    let source = ScriptedSource { gate: Some(gate), ..ScriptedSource::default() };
    let bench = Bench::on(KeyringSettings::default(), source, Arc::default());
    let names: Vec<String> = (0..100).map(|n| format!("h{n}.example")).collect();
    let began = tokio::time::Instant::now();
    let outcomes = join_all(names.iter().map(|server| bench.for_request(server, "a"))).await;
    assert_eq!(bench.source.asked().len(), FETCHES_AT_ONCE_MAX);
    let count = |error: KeyError| outcomes.iter().filter(|outcome| outcome.as_ref().err() == Some(&error)).count();
    assert_eq!(count(KeyError::Busy), 100 - FETCHES_AT_ONCE_MAX);
    assert_eq!(count(KeyError::Fetch(RemoteError::Timeout)), FETCHES_AT_ONCE_MAX);
    assert_eq!(began.elapsed(), FETCH_DEADLINE);
    let waited_in_vain = outcomes.iter().position(|outcome| *outcome == Err(KeyError::Busy)).unwrap();
    let again = bench.for_request(&names[waited_in_vain], "a").await;
    assert_eq!(again, Err(KeyError::Fetch(RemoteError::Timeout)), "no pause, and the key may be asked for");
}

fn notarized() -> KeyringSettings {
    KeyringSettings { notaries: vec![name(NOTARY)], ..KeyringSettings::default() }
}

fn notary_keys() -> CanonicalJsonObject {
    let n = identity(NOTARY, "n", 50);
    KeyDocument::of(NOTARY, NOW.plus(DAY)).verify_key(&n).signed_by(&[&n])
}

fn listing(documents: &[CanonicalJsonObject]) -> CanonicalJsonObject {
    serde_json::from_value(json!({ "server_keys": documents })).unwrap()
}

#[tokio::test]
async fn a_notary_is_asked_after_the_server_and_must_vouch() {
    let (a, n) = (peer("a", 1), identity(NOTARY, "n", 50));
    let doc = || KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&a);
    let other = identity("other.example", "a", 1);
    let foreign = KeyDocument::of("other.example", NOW.plus(DAY)).verify_key(&other);
    let cases = [
        ("vouched for", listing(&[doc().signed_by(&[&a, &n])]), true),
        ("among others", listing(&[foreign.signed_by(&[&other, &n]), doc().signed_by(&[&a, &n])]), true),
        ("not signed by the notary", listing(&[doc().signed_by(&[&a])]), false),
        ("not signed by the server", listing(&[doc().signed_by(&[&n])]), false),
        ("signed with another notary key", listing(&[doc().signed_by(&[&a, &identity(NOTARY, "n", 51)])]), false),
        ("nothing", listing(&[]), false),
        ("no list", CanonicalJsonObject::new(), false),
    ];
    for (case, answer, passes) in cases {
        let bench = Bench::with(notarized());
        bench.source.answers(NOTARY, Ok(notary_keys()));
        bench.source.answers(&format!("{PEER} at {NOTARY}"), Ok(answer));
        let outcome = bench.for_request(PEER, "a").await;
        assert_eq!(outcome.is_ok(), passes, "{case}: {outcome:?}");
        assert_eq!(bench.source.asked(), [PEER, NOTARY, &format!("{PEER} at {NOTARY}")], "{case}");
        assert_eq!(bench.store.rows.lock().unwrap().contains_key(&name(PEER)), passes, "{case}");
    }
    let direct = Bench::with(notarized());
    direct.source.answers(PEER, Ok(good()));
    direct.for_request(PEER, "a").await.unwrap();
    assert_eq!(direct.source.asked(), [PEER]);
}

#[tokio::test]
async fn an_event_that_names_a_thousand_keys_has_few_of_them_looked_for() {
    let bench = Bench::with(notarized());
    bench.source.answers(NOTARY, Ok(notary_keys()));
    let names: Vec<OwnedServerSigningKeyId> = (0..1_000).map(|number| key_id(&format!("k{number}"))).collect();
    let names: Vec<&ServerSigningKeyId> = names.iter().map(|name| &**name).collect();
    bench.keyring.keys_for_event(&name(PEER), &names, NOW, true, NOW).await.unwrap_err();
    assert_eq!(*bench.source.key_ids.lock().unwrap(), 16);
}

#[tokio::test]
async fn a_notary_cannot_replace_keys_by_shorter_lived_ones() {
    let (a, b, n) = (peer("a", 1), peer("b", 2), identity(NOTARY, "n", 50));
    let bench = Bench::with(notarized());
    bench.source.answers(PEER, Ok(good()));
    bench.source.answers(NOTARY, Ok(notary_keys()));
    bench.for_request(PEER, "a").await.unwrap();
    bench.source.answers(PEER, Err(RemoteError::Timeout));
    let spurious = KeyDocument::of(PEER, NOW.plus(HOUR)).verify_key(&b).signed_by(&[&b, &n]);
    bench.source.answers(&format!("{PEER} at {NOTARY}"), Ok(listing(&[spurious])));
    assert!(bench.for_request(PEER, "b").await.is_err());
    assert!(holds(&bench.for_request(PEER, "a").await.unwrap(), &a));
    assert_eq!(bench.store.rows.lock().unwrap()[&name(PEER)].valid_until_ts, NOW.plus(DAY).0);
}

fn request<'a>(
    origin: &'a ServerName,
    signatures: &'a [(OwnedServerSigningKeyId, Base64)],
    content: Option<&'a str>,
) -> SignedRequest<'a> {
    SignedRequest {
        method: "PUT",
        uri: "/_matrix/federation/v1/send_knock/%21a%3Ab/%24c?x=%2F&y=ä",
        origin,
        destination: None,
        content,
        signatures,
    }
}

async fn verify(keyring: &Keyring, request: SignedRequest<'_>) -> Result<(), VerifyRequestError> {
    keyring.verify_request(&request, SourceNetwork::of("9.9.9.9".parse().unwrap()), NOW).await
}

/// Signs by ruma's object and serialization, not by the text that the keyring writes.
fn sign(signer: &Identity, request: &SignedRequest<'_>, destination: &str) -> Base64 {
    let mut object = json!({
        "method": request.method, "uri": request.uri, "origin": request.origin, "destination": destination,
    });
    if let Some(content) = request.content {
        object["content"] = serde_json::from_str(content).unwrap();
    }
    let object: CanonicalJsonObject = serde_json::from_value(object).unwrap();
    let text = serde_json::to_string(&object).unwrap();
    Base64::new(signer.key().sign_bytes(text.as_bytes()).to_vec())
}

#[tokio::test]
async fn requests_verify_only_as_they_were_signed() {
    let (a, peer_name, other) = (peer("a", 1), name(PEER), name("other.example"));
    let content: CanonicalJsonValue = serde_json::from_value(
        json!({ "ä\u{1}\"": [1, null, true, {"b": -9_007_199_254_740_991_i64, "a": "\u{2028}\n"}], "": "" }),
    )
    .unwrap();
    let content = serde_json::to_string(&content).unwrap();
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    bench.source.answers("other.example", Ok(good()));
    let keyring = &bench.keyring;
    for content in [None, Some("{}"), Some(content.as_str())] {
        let unsigned = request(&peer_name, &[], content);
        let signatures = [(key_id("a"), sign(&a, &unsigned, US))];
        let good = request(&peer_name, &signatures, content);
        assert_eq!(verify(keyring, good).await, Ok(()));
        let us = name(US);
        assert_eq!(verify(keyring, SignedRequest { destination: Some(&us), ..good }).await, Ok(()));
        let bad = Err(VerifyRequestError::BadSignature { key_id: key_id("a") });
        assert_eq!(verify(keyring, SignedRequest { method: "GET", ..good }).await, bad);
        assert_eq!(
            verify(keyring, SignedRequest { uri: "/_matrix/federation/v1/send_knock/!a:b/$c?x=/&y=ä", ..good }).await,
            bad
        );
        assert_eq!(verify(keyring, SignedRequest { content: Some("null"), ..good }).await, bad);
        let mismatch = SignedRequest { destination: Some(&other), ..good };
        assert_eq!(verify(keyring, mismatch).await, Err(VerifyRequestError::DestinationMismatch));
        // Made for somebody else, with the destination left out of the header.
        let elsewhere = [(key_id("a"), sign(&a, &unsigned, "other.example"))];
        assert_eq!(verify(keyring, request(&peer_name, &elsewhere, content)).await, bad);
        let wrong_origin = verify(keyring, SignedRequest { origin: &other, ..good }).await;
        assert!(matches!(wrong_origin, Err(VerifyRequestError::Keys(_))), "{wrong_origin:?}");
        for garbage in [vec![], vec![0; 63], vec![0; 64], vec![255; 64], vec![0; 65]] {
            let garbage = [(key_id("a"), Base64::new(garbage))];
            assert_eq!(verify(keyring, request(&peer_name, &garbage, content)).await, bad);
        }
    }
}

/// A signature of [`PEER`]'s key `a` for the request without a body, in which R is the neutral element.
const SMALL_ORDER_SIGNATURE: &str =
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABekCHsiTBfUVl1ABS/G40oCxjOmignV9EHGo5zi9p6Cw";

#[tokio::test]
async fn a_signature_of_small_order_is_none() {
    // SECURITY V18. The bare equation holds; nobody who signs as the specification says makes such an R.
    let (a, peer_name) = (peer("a", 1), name(PEER));
    let bench = Bench::new();
    bench.source.answers(PEER, Ok(good()));
    let signature = Base64::parse(SMALL_ORDER_SIGNATURE).unwrap();
    let text = signed_text(&request(&peer_name, &[], None), &name(US)).unwrap();
    let key = VerifyingKey::from_bytes(&a.key().public_key()).unwrap();
    key.verify(text.as_bytes(), &Signature::from_slice(signature.as_bytes()).unwrap()).unwrap();
    let signatures = [(key_id("a"), signature)];
    let verdict = verify(&bench.keyring, request(&peer_name, &signatures, None)).await;
    assert_eq!(verdict, Err(VerifyRequestError::BadSignature { key_id: key_id("a") }));
}

#[tokio::test]
async fn of_several_signatures_all_with_a_known_key_must_verify() {
    let (a, b, peer_name) = (peer("a", 1), peer("b", 2), name(PEER));
    let bench = Bench::new();
    let document = KeyDocument::of(PEER, NOW.plus(DAY)).verify_key(&a).verify_key(&b).signed_by(&[&a]);
    bench.source.answers(PEER, Ok(document));
    let network = SourceNetwork::of("9.9.9.9".parse().unwrap());
    let unsigned = request(&peer_name, &[], None);
    let good = |signer: &Identity| (signer.key().key_id().to_owned(), sign(signer, &unsigned, US));
    let wrong = |signer: &Identity| (signer.key().key_id().to_owned(), sign(signer, &unsigned, "x"));
    let unknown = || (key_id("zz"), Base64::new(vec![1; 64]));
    let cases = [
        (vec![good(&a), good(&b)], Ok(())),
        (vec![good(&a), unknown()], Ok(())),
        (vec![good(&a), wrong(&b)], Err(VerifyRequestError::BadSignature { key_id: key_id("b") })),
        (vec![unknown()], Err(VerifyRequestError::Keys(KeyError::NoUsableKey))),
        (vec![], Err(VerifyRequestError::SignatureCount { count: 0 })),
        (vec![good(&a); 9], Err(VerifyRequestError::SignatureCount { count: 9 })),
    ];
    for (signatures, expected) in cases {
        let request = request(&peer_name, &signatures, None);
        assert_eq!(bench.keyring.verify_request(&request, network.clone(), NOW).await, expected);
    }
}

/// A keyring over the real client, TLS and a peer on loopback.
async fn over_tls(authority: &Authority, reply: String) -> (Keyring, TlsPeer, OwnedServerName) {
    let peer = TlsPeer::saying("127.0.0.2", authority.acceptor(&["peer.example"]), reply).await;
    let clock: Arc<dyn Clock> = Arc::new(TestClock::default());
    let egress = Arc::new(authority.egress());
    let resolver = Arc::new(ScriptedResolver::default().address("peer.example", "127.0.0.2"));
    let discovery = Discovery::new(resolver, egress.clone(), [].into(), Arc::clone(&clock), Arc::new(|| 0));
    let us = Arc::new(identity(US, "us", 200));
    let client = Client::new(Arc::clone(&us), discovery, egress);
    let store = Arc::new(TestKeyStore::default());
    let keyring = Keyring::new(us, KeyringSettings::default(), Arc::new(client), store, clock);
    let server = name(&format!("peer.example:{}", peer.address.port()));
    (keyring, peer, server)
}

#[tokio::test]
async fn a_hundred_requests_of_one_unknown_origin_make_one_connection() {
    let authority = Authority::new();
    let network = SourceNetwork::of("9.9.9.9".parse().unwrap());
    // The reply names no port, so it is not this server's: a failure, remembered.
    let reply = String::from_utf8(http_reply(&serde_json::to_string(&good()).unwrap())).unwrap();
    let (keyring, peer, server) = over_tls(&authority, reply).await;
    let id = key_id("a");
    for _ in 0..2 {
        let ids = [&*id];
        let all = join_all((0..100).map(|_| keyring.keys_for_request(&server, &ids, network.clone(), NOW))).await;
        assert!(all.iter().all(Result::is_err), "{all:?}");
    }
    assert_eq!(peer.connections.load(Ordering::SeqCst), 1);
    assert_eq!(peer.heads.lock().unwrap().len(), 1);
    assert!(peer.heads.lock().unwrap()[0].starts_with("GET /_matrix/key/v2/server HTTP/1.1\r\n"));
}

#[tokio::test]
async fn an_oversized_key_reply_is_cut_off() {
    let authority = Authority::new();
    let network = SourceNetwork::of("9.9.9.9".parse().unwrap());
    let reply = String::from_utf8(http_reply(&" ".repeat(64 * 1024 + 1))).unwrap();
    let (keyring, _peer, server) = over_tls(&authority, reply).await;
    let outcome = keyring.keys_for_request(&server, &[&key_id("a")], network, NOW).await;
    let bytes_max = 64 * 1024;
    assert_eq!(outcome, Err(KeyError::Fetch(RemoteError::ReplyTooLarge { bytes_max, status: http::StatusCode::OK })));
}
