//! The directory, summaries of rooms and spaces, and keys: what servers look up.

use actix_web::test::{TestRequest, init_service};
use ruma::{RoomVersionId, ServerSigningKeyId, server_name, signatures::verify_json, user_id};
use serde_json::{Value, json};
use vestibule_actors::{ChangeMembership, MembershipChange, SourceNetwork};
use vestibule_federation::keyring::KeyError;
use vestibule_storage::{accounts::AccountChange, server_keys::StoredServerKeys};

use super::{FEDERATION, join};
use crate::testing::{NOW, Peer, World, ask, object};

const BASE: &str = "/_matrix/federation/v1";

#[actix_web::test]
async fn the_directory_lists_what_was_published() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let den = world.room(RoomVersionId::V11, "knock", &[("m.room.name", json!({ "name": "Den" }))]).await;
    world.room(RoomVersionId::V12, "public", &[]).await;
    world.change(vec![AccountChange::SetPublished { room_id: den.clone(), is_published: true }]).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let uri = format!("{BASE}/publicRooms");
    for request in [peer.get(&format!("{uri}?limit=10")), peer.get(&uri), peer.post(&uri, &json!({ "limit": 10 }))] {
        let (status, page) = asked(request).await;
        assert_eq!((status, page["chunk"].as_array().unwrap().len()), (200, 1), "{page}");
        assert_eq!((&page["chunk"][0]["room_id"], &page["chunk"][0]["join_rule"]), (&json!(den), &json!("knock")));
    }
    let (_, found) = asked(peer.post(&uri, &json!({ "filter": { "generic_search_term": "otters" } }))).await;
    assert_eq!(found["chunk"], json!([]));
    let (_, bridged) = asked(peer.get(&format!("{uri}?third_party_instance_id=irc"))).await;
    assert_eq!(bridged["chunk"], json!([]));
    for (request, errcode) in [
        (peer.get(&format!("{uri}?limit=x")), "M_INVALID_PARAM"),
        (peer.get(&format!("{uri}?since=x")), "M_INVALID_PARAM"),
        (peer.post(&uri, &json!({ "limit": "x" })), "M_BAD_JSON"),
        (peer.post(&uri, &json!({ "filter": [] })), "M_BAD_JSON"),
    ] {
        let (status, body) = asked(request).await;
        assert_eq!((status, &body["errcode"]), (400, &json!(errcode)), "{body}");
    }
}

#[actix_web::test]
async fn a_space_is_told_with_those_children_that_the_server_may_know() {
    let version = RoomVersionId::V11;
    let world = World::new();
    let (peer, stranger) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&peer).await;
    world.know(&stranger).await;
    let child = world.room(RoomVersionId::V12, "invite", &[("m.room.name", json!({ "name": "Den" }))]).await;
    let space = world.space(version.clone(), "public").await;
    let via = json!({ "via": ["us.test"] });
    let children = [
        (child.as_str(), via.clone()),
        (space.as_str(), via.clone()),
        ("!gone:us.test", json!({})),
        ("!far:else.test", via),
    ];
    for (room_id, content) in children {
        world.send(&space, "m.space.child", Some(room_id.to_owned()), content).await;
    }
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let uri = format!("{BASE}/hierarchy/{space}");
    let (status, told) = asked(stranger.get(&uri)).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!((&told["room"]["room_type"], &told["room"]["room_version"]), (&json!("m.space"), &json!("11")));
    let listed: Vec<&str> = told["room"]["children_state"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| child["state_key"].as_str().unwrap())
        .collect();
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert!(
        told["room"]["children_state"].as_array().unwrap().iter().all(|child| child.as_object().unwrap().len() == 5)
    );
    assert_eq!((&told["children"], &told["inaccessible_children"]), (&json!([]), &json!([child])));
    // Once its users may ask to be let in, the server is shown it.
    world.state(&child, "m.room.join_rules", json!({ "join_rule": "knock" })).await;
    let (_, told) = asked(stranger.get(&uri)).await;
    assert_eq!((&told["children"][0]["name"], &told["inaccessible_children"]), (&json!("Den"), &json!([])));
    // Nothing is suggested.
    let (_, told) = asked(stranger.get(&format!("{uri}?suggested_only=true"))).await;
    assert_eq!((&told["room"]["children_state"], &told["children"]), (&json!([]), &json!([])));
    // A restricted room is shown to servers that are in an allowed one.
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] });
    world.state(&child, "m.room.join_rules", rule).await;
    assert_eq!(join(&asked, &peer, &space, "@ann:them.test", &version).await.0, 200);
    let summary = |told: &Value| told["room"]["allowed_room_ids"].clone();
    let (status, told) = asked(peer.get(&format!("{BASE}/hierarchy/{child}"))).await;
    assert_eq!((status, summary(&told)), (200, json!([space])), "{told}");
    for uri in [format!("{BASE}/hierarchy/{child}"), format!("{BASE}/hierarchy/!none:us.test")] {
        let (status, body) = asked(stranger.get(&uri)).await;
        assert_eq!((status, &body["errcode"]), (404, &json!("M_NOT_FOUND")), "{body}");
    }
}

#[actix_web::test]
async fn a_room_is_shown_to_the_servers_of_those_who_are_invited() {
    let world = World::new();
    let (invited, stranger) = (Peer::new("them.test", 2), Peer::new("else.test", 3));
    world.know(&invited).await;
    world.know(&stranger).await;
    let den = world.room(RoomVersionId::V12, "invite", &[("m.room.name", json!({ "name": "Den" }))]).await;
    let space = world.space(RoomVersionId::V11, "public").await;
    world.send(&space, "m.space.child", Some(den.to_string()), json!({ "via": ["us.test"] })).await;
    let invite = ChangeMembership {
        sender: user_id!("@owner:us.test").to_owned(),
        target: user_id!("@ann:them.test").to_owned(),
        change: MembershipChange::Invite,
        content: Default::default(),
        network: SourceNetwork::of([127, 0, 0, 1].into()),
    };
    world.app.rooms.ask(&den, invite).await.unwrap();
    let service = init_service(world.application(&FEDERATION)).await;
    for (who, status, children, hidden) in
        [(&invited, 200, json!("Den"), json!([])), (&stranger, 404, json!(null), json!([den]))]
    {
        let asked =
            async |room_id: &str| ask(&service, who.get(&format!("{BASE}/hierarchy/{room_id}")).to_request()).await;
        assert_eq!(asked(den.as_str()).await.0, status);
        let (_, told) = asked(space.as_str()).await;
        assert_eq!((&told["children"][0]["name"], &told["inaccessible_children"]), (&children, &hidden), "{told}");
    }
}

#[actix_web::test]
async fn our_users_have_no_devices_that_encrypt() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    world.user("ann", false, "token").await;
    let service = init_service(world.application(&FEDERATION)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let (status, devices) = asked(peer.get(&format!("{BASE}/user/devices/@ann:us.test"))).await;
    assert_eq!((status, devices), (200, json!({ "user_id": "@ann:us.test", "stream_id": 0, "devices": [] })));
    for user_id in ["@none:us.test", "@ann:them.test"] {
        assert_eq!(asked(peer.get(&format!("{BASE}/user/devices/{user_id}"))).await.0, 404, "{user_id}");
    }
    let query = json!({ "device_keys": { "@ann:us.test": [], "@bob:them.test": [], "nonsense": [] } });
    let (status, keys) = asked(peer.post(&format!("{BASE}/user/keys/query"), &query)).await;
    assert_eq!((status, &keys["device_keys"]), (200, &json!({ "@ann:us.test": {} })));
    let claim = json!({ "one_time_keys": { "@ann:us.test": { "DEVICE": "signed_curve25519" } } });
    let (status, keys) = asked(peer.post(&format!("{BASE}/user/keys/claim"), &claim)).await;
    assert_eq!((status, keys), (200, json!({ "one_time_keys": {} })));
    for (path, body, errcode) in [
        ("query", json!({}), "M_MISSING_PARAM"),
        ("query", json!({ "device_keys": [] }), "M_BAD_JSON"),
        ("claim", json!({}), "M_MISSING_PARAM"),
        ("claim", json!({ "one_time_keys": "x" }), "M_BAD_JSON"),
    ] {
        let (status, answer) = asked(peer.post(&format!("{BASE}/user/keys/{path}"), &body)).await;
        assert_eq!((status, &answer["errcode"]), (400, &json!(errcode)), "{path} {body}");
    }
}

#[actix_web::test]
async fn keys_that_we_know_are_told_with_our_signature() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    let key = peer.identity.key();
    let mut document = object(json!({
        "server_name": "them.test", "valid_until_ts": NOW.0 + 1_000_000, "old_verify_keys": {},
        "verify_keys": { key.key_id().as_str(): { "key": key.public_key_base64().encode() } },
    }));
    peer.identity.sign_json(&mut document).unwrap();
    let stored = StoredServerKeys {
        server_name: "them.test".try_into().unwrap(),
        verify_keys: [(key.key_id().to_owned(), key.public_key_base64().encode())].into(),
        old_verify_keys: Default::default(),
        valid_until_ts: NOW.0 + 1_000_000,
        fetched_at_ms: NOW.0,
        signed_json: serde_json::to_string(&document).unwrap(),
    };
    world.app.stores.server_keys.store(stored).await.unwrap();
    let service = init_service(world.application(&FEDERATION)).await;
    let base = "/_matrix/key/v2/query";
    let post = |body: Value| TestRequest::post().uri(base).set_payload(body.to_string());
    let by_us_and = |identity: &vestibule_protocol::signing::Identity| {
        [&*world.app.identity, identity]
            .map(|identity| {
                let key = identity.key();
                (identity.server_name().to_string(), [(key.key_id().to_string(), key.public_key_base64())].into())
            })
            .into()
    };
    let them =
        json!({ "server_keys": { "them.test": { key.key_id().as_str(): { "minimum_valid_until_ts": NOW.0 } } } });
    for request in [TestRequest::get().uri(&format!("{base}/them.test")), post(them)] {
        let (status, answer) = ask(&service, request.to_request()).await;
        assert_eq!((status, answer["server_keys"].as_array().unwrap().len()), (200, 1), "{answer}");
        verify_json(&by_us_and(&peer.identity), &object(answer["server_keys"][0].clone())).unwrap();
    }
    // Who needs them for longer has their server asked; what is known is told all the same.
    let unknown_key = ServerSigningKeyId::parse("ed25519:unknown").unwrap();
    for (needed_until, was_asked) in [(NOW.0 + 1_000_000, false), (NOW.0 + 1_000_001, true)] {
        let uri = format!("{base}/them.test?minimum_valid_until_ts={needed_until}");
        let (status, answer) = ask(&service, TestRequest::get().uri(&uri).to_request()).await;
        assert_eq!((status, answer["server_keys"].as_array().unwrap().len()), (200, 1), "{answer}");
        let keyring = &world.app.keyring;
        let network = SourceNetwork::of([192, 0, 2, 1].into());
        let again = keyring.keys_for_request(server_name!("them.test"), &[&unknown_key], network, NOW).await;
        assert_eq!(matches!(again, Err(KeyError::RecentlyFailed { .. })), was_asked, "{again:?}");
        keyring.forget_failures(server_name!("them.test"));
    }
    let (status, answer) =
        ask(&service, post(json!({ "server_keys": { "us.test": {}, "unknown.test": {} } })).to_request()).await;
    assert_eq!((status, &answer["server_keys"][0]["server_name"]), (200, &json!("us.test")), "{answer}");
    assert_eq!(answer["server_keys"].as_array().unwrap().len(), 1, "who is unknown is left out");
    for (request, errcode) in [
        (post(json!({})), "M_MISSING_PARAM"),
        (TestRequest::get().uri(&format!("{base}/them.test?minimum_valid_until_ts=x")), "M_INVALID_PARAM"),
        (TestRequest::get().uri(&format!("{base}/no%20name")), "M_INVALID_PARAM"),
    ] {
        let (status, body) = ask(&service, request.to_request()).await;
        assert_eq!((status, &body["errcode"]), (400, &json!(errcode)), "{body}");
    }
}
