//! Keys that are not what they are said to be: by who has them, by a notary, or by who guesses.
//! May not: judge by key rings that were filled before; each name is new to the server.

use serde_json::{Value, json};

use super::ground::{Ground, deliver, next_event};
use crate::support::{FakePeer, TestServer, now_ms, path_of};

const HOUR_MS: u64 = 60 * 60 * 1000;

#[test]
fn cve_2024_6299_a_key_that_has_expired_signs_nothing_new() {
    let ground = Ground::new();
    // The same server, when its key was another.
    let (peer, former) = (ground.peer.clone(), FakePeer::with_key("peer.test", "former"));
    let expired = now_ms() - HOUR_MS;
    let key = former.own_keys()["verify_keys"]["ed25519:former"]["key"].clone();
    peer.corrupt("server", {
        let peer = peer.clone();
        move |mut document| {
            document["old_verify_keys"] = json!({ "ed25519:former": { "key": key, "expired_ts": expired } });
            peer.countersign(&document)
        }
    });
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    former.make_knock(&ground.server, &room_id, &former.user("ann")).refused(401, "M_UNAUTHORIZED");
    let bob = peer.user("bob");
    peer.join(&ground.server, &room_id, &bob).ok();
    former.make_knock(&ground.server, &room_id, &former.user("ann")).refused(401, "M_UNAUTHORIZED");
    let template = next_event(&ground, &peer, &room_id, &bob);
    let at = |signer: &FakePeer, ms: u64| signer.sign(template.clone().with("origin_server_ts", json!(ms)));
    for (event, is_taken, what) in [
        (at(&former, now_ms()), false, "the former key, now"),
        (at(&former, expired + 1), false, "the former key, just after its time"),
        (at(&former, expired), true, "the former key, in its time"),
        (at(&peer, now_ms() + 8 * 24 * HOUR_MS), false, "no key is good for that long"),
        (at(&peer, now_ms()), true, "the key of today"),
    ] {
        let said = deliver(&ground, &peer, &[&event]);
        assert_eq!(said[&event.event_id] == json!({}), is_taken, "{what}: {said}");
        assert_eq!(said[&event.event_id]["error"].is_string(), !is_taken, "{what}: {said}");
    }
    ground.still_serves();
}

#[test]
fn rustsec_2024_0421_a_name_that_is_spelled_otherwise_is_another_name() {
    // `xn--peer-` is punycode for `peer`; some libraries take the two for one.
    let (louder, punycode) = (FakePeer::new("PEER.test"), FakePeer::new("xn--peer-.test"));
    let ground = Ground::with(&[&louder, &punycode]);
    let room_id = ground.owner.knockable_room("11");
    for name in ["xn--peer-.test", "PEER.test", "peer.test.", "p\u{435}er.test", "\u{ff50}eer.test"] {
        let ann = format!("@ann:{name}");
        // Users of the other name are none of the peer's, and its key does not prove the other name.
        let answer = ground.peer.make_knock(&ground.server, &room_id, &ann);
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        for ann in [&ann, &ground.peer.user("ann")] {
            let target = format!("{}?ver=11", path_of("v1/make_knock", &room_id, ann));
            let origin = format!("origin=\"{name}\"");
            let header = ground.peer.authorization("GET", &target, None).replace("origin=\"peer.test\"", &origin);
            let answer = ground.server.federation().ask("GET", &target, &[("Authorization", &header)], None);
            assert!([400, 401].contains(&answer.status), "{name} {ann}: {} {}", answer.status, answer.text());
        }
    }
    // Who has the other name is let in under that name, and is not the peer.
    louder.knock(&ground.server, &room_id, &louder.user("ann"), "otters");
    assert_eq!(ground.owner.membership(&room_id, &louder.user("ann")).as_deref(), Some("knock"));
    assert_eq!(ground.owner.membership(&room_id, &ground.peer.user("ann")), None);
    louder.make_knock(&ground.server, &room_id, &ground.peer.user("ann")).refused(400, "M_INVALID_PARAM");
    // No certificate is for a name that ends in a hyphen, so nobody is asked for its keys.
    punycode.make_knock(&ground.server, &room_id, &punycode.user("ann")).refused(401, "M_UNAUTHORIZED");
    assert_eq!(punycode.key_requests(), 0);
    ground.still_serves();
}

#[test]
fn cve_2026_24044_a_key_that_everybody_knows_proves_nothing() {
    let known_to_all = FakePeer::new("peer.test");
    let key = known_to_all.own_keys()["verify_keys"]["ed25519:1"]["key"].clone();
    let server = TestServer::new().set("federation.banned_keys", &json!([key]).to_string()).knowing(&[&known_to_all]);
    let server = server.start();
    let room_id = server.register("owner").knockable_room("11");
    known_to_all.make_knock(&server, &room_id, &known_to_all.user("ann")).refused(401, "M_UNAUTHORIZED");
    assert!(known_to_all.key_requests() > 0);
}

/// The document with so many keys, and the signatures of both.
fn with_keys(count: usize, victim: &FakePeer, notary: &FakePeer, mut document: Value) -> Value {
    let key = document["verify_keys"]["ed25519:1"].clone();
    let many = document["verify_keys"].as_object_mut().unwrap();
    many.extend((1..count).map(|number| (format!("ed25519:more{number}"), key.clone())));
    notary.countersign(&victim.countersign(&document))
}

#[test]
fn msc2076_a_notary_puts_no_words_into_a_servers_mouth() {
    type Change = fn(&FakePeer, &FakePeer, Value) -> Value;
    let lies: [(&str, Change); 8] = [
        ("not signed by the server itself", |_, notary, mut document| {
            document.as_object_mut().unwrap().remove("signatures");
            notary.countersign(&document)
        }),
        ("not signed by the notary", |_, _, document| document),
        ("of another name", |victim, notary, mut document| {
            document["server_name"] = json!("peer.test");
            notary.countersign(&victim.countersign(&document))
        }),
        ("with the notary's key in place of its own", |victim, notary, mut document| {
            document["verify_keys"] = notary.own_keys()["verify_keys"].clone();
            notary.countersign(&victim.countersign(&document))
        }),
        ("of the past", |victim, notary, mut document| {
            document["valid_until_ts"] = json!(7);
            notary.countersign(&victim.countersign(&document))
        }),
        ("changed after it was signed", |_, notary, mut document| {
            document["valid_until_ts"] = json!(document["valid_until_ts"].as_u64().unwrap() + 1);
            notary.countersign(&document)
        }),
        ("of ten thousand keys", |victim, notary, document| with_keys(10_000, victim, notary, document)),
        // As many as there are bytes for, and more than any server has.
        ("of a hundred keys", |victim, notary, document| with_keys(100, victim, notary, document)),
    ];
    let notary = FakePeer::new("notary.test");
    let victims: Vec<FakePeer> =
        (0..=lies.len()).map(|number| FakePeer::new(&format!("victim{number}.test"))).collect();
    let others: Vec<&FakePeer> = victims.iter().chain([&notary]).collect();
    let ground = Ground::on(TestServer::new().set("federation.notaries", "[\"notary.test\"]"), &others);
    let room_id = ground.owner.knockable_room("11");
    let (honest, victims) = victims.split_last().unwrap();
    for (victim, (what, lie)) in victims.iter().zip(lies) {
        victim.set_down(true);
        notary.answer_with("query", 200, json!({ "server_keys": [lie(victim, &notary, victim.own_keys())] }));
        let answer = victim.make_knock(&ground.server, &room_id, &victim.user("ann"));
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    }
    // What it says truly counts: so it was asked, and the way is the right one.
    honest.set_down(true);
    notary.answer_with("query", 200, json!({ "server_keys": [notary.countersign(&honest.own_keys())] }));
    honest.make_knock(&ground.server, &room_id, &honest.user("ann")).ok();
    // And nobody who was known before is known otherwise now.
    ground.still_serves();
}
