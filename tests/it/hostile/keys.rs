//! Keys that are not what they are said to be: by who has them, by a notary, or by who guesses.
//! May not: judge by key rings that were filled before; each name is new to the server.

use serde_json::{Value, json};

use super::ground::Ground;
use crate::support::{FakePeer, TestServer};

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

#[test]
fn msc2076_a_notary_puts_no_words_into_a_servers_mouth() {
    type Change = fn(&FakePeer, &FakePeer, Value) -> Value;
    let lies: [(&str, Change); 7] = [
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
        ("of ten thousand keys", |victim, notary, mut document| {
            let key = document["verify_keys"]["ed25519:1"].clone();
            let many = document["verify_keys"].as_object_mut().unwrap();
            many.extend((2..10_000).map(|number| (format!("ed25519:{number}"), key.clone())));
            notary.countersign(&victim.countersign(&document))
        }),
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
