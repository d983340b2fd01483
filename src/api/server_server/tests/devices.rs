//! What encrypting clients of two servers need of each other: keys, messages for devices, and news of devices.

use std::sync::{Arc, Mutex};

use actix_web::test::{TestRequest, init_service};
use ruma::{RoomVersionId, device_id, server_name, user_id};
use serde_json::{Value, json};
use vestibule_storage::outbox::EduContent;

use super::join;
use crate::{
    listener::Serves,
    testing::{NOW, Peer, World, ask, rates},
};

const BOTH: [Serves; 2] = [Serves::Federation, Serves::Client];
const VERSION: RoomVersionId = RoomVersionId::V11;

fn transaction(peer: &Peer, id: &str, edus: Value) -> TestRequest {
    let body = json!({ "origin": peer.identity.server_name(), "origin_server_ts": NOW.0, "pdus": [], "edus": edus });
    peer.put(&format!("/_matrix/federation/v1/send/{id}"), &body)
}

/// A request of `@owner:us.test`.
fn client(request: TestRequest) -> TestRequest {
    request.insert_header(("authorization", "Bearer owners"))
}

fn post(path: &str, body: &Value) -> TestRequest {
    client(TestRequest::post().uri(&format!("/_matrix/client/v3{path}"))).set_payload(body.to_string())
}

fn sync(since: Option<&Value>) -> TestRequest {
    let since = since.map(|since| format!("?since={}", since.as_str().unwrap())).unwrap_or_default();
    client(TestRequest::get().uri(&format!("/_matrix/client/v3/sync{since}")))
}

fn device_keys(user_id: &str, device_id: &str) -> Value {
    json!({
        "user_id": user_id, "device_id": device_id, "algorithms": [], "keys": { "ed25519:X": "k" },
        "signatures": { (user_id): { "ed25519:X": "s" } },
    })
}

#[actix_web::test]
async fn messages_for_devices_are_taken_once_and_only_in_the_name_of_their_server() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    world.user("owner", false, "owners").await;
    let service = init_service(world.application(&BOTH)).await;
    let edu = |sender: &str, id: Value, messages: Value| {
        let content = json!({ "sender": sender, "type": "m.test", "message_id": id, "messages": messages });
        json!({ "edu_type": "m.direct_to_device", "content": content })
    };
    let to_owner = |body: &str| json!({ "@owner:us.test": { "DEVICE": { "body": body } } });
    let edus = json!([
        edu("@ann:them.test", json!("1"), to_owner("one")),
        edu("@ann:them.test", json!("2"), json!({ "@owner:us.test": { "*": { "body": "two" }, "OTHER": {} } })),
        // V16: for somebody of a third server, and for one of ours.
        edu("@eve:else.test", json!("3"), to_owner("forged")),
        edu("@owner:us.test", json!("4"), to_owner("forged")),
        edu("@ann:them.test", json!(5), to_owner("odd")),
        edu("@ann:them.test", json!("x".repeat(1000)), to_owner("odd")),
        edu("@ann:them.test", json!("6"), json!([])),
        edu("@ann:them.test", json!("7"), json!({ "@owner:us.test": null, "nobody": {}, "@dan:else.test": { "A": {} } })),
        edu("@ann:them.test", json!("8"), json!({ "@owner:us.test": { "DEVICE": "text" } })),
        { "edu_type": "m.direct_to_device" }, { "edu_type": 1, "content": {} }, 7,
    ]);
    for id in ["a", "b"] {
        let (status, answer) = ask(&service, transaction(&peer, id, edus.clone()).to_request()).await;
        assert_eq!((status, answer), (200, json!({ "pdus": {} })));
    }
    let (_, seen) = ask(&service, sync(None).to_request()).await;
    let event = |body: &str| json!({ "content": { "body": body }, "sender": "@ann:them.test", "type": "m.test" });
    assert_eq!(seen["to_device"]["events"], json!([event("one"), event("two")]));
}

#[actix_web::test]
async fn news_of_devices_are_believed_of_their_server_and_told_to_those_in_a_room_together() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let room_id = world.room(VERSION, "public", &[]).await;
    world.user("owner", false, "owners").await;
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    join(&asked, &peer, &room_id, "@ann:them.test", &VERSION).await;
    let (_, start) = asked(sync(None)).await;
    let update = |kind: &str, user_id: &str| {
        let content = json!({ "user_id": user_id, "device_id": "X", "stream_id": 5, "prev_id": [] });
        json!({ "edu_type": kind, "content": content })
    };
    let edus = json!([
        update("m.device_list_update", "@eve:else.test"),
        update("m.device_list_update", "@owner:us.test"),
        update("m.device_list_update", "@stranger:them.test"),
        { "edu_type": "m.signing_key_update", "content": { "user_id": 7 } },
    ]);
    assert_eq!(asked(transaction(&peer, "a", edus)).await.0, 200);
    let (_, seen) = asked(sync(Some(&start["next_batch"]))).await;
    assert_eq!(seen["device_lists"], json!({ "changed": [], "left": [] }));
    for (id, kind) in [("b", "m.device_list_update"), ("c", "m.signing_key_update")] {
        let (_, start) = asked(sync(None)).await;
        assert_eq!(asked(transaction(&peer, id, json!([update(kind, "@ann:them.test")]))).await.0, 200);
        let (_, seen) = asked(sync(Some(&start["next_batch"]))).await;
        assert_eq!(seen["device_lists"], json!({ "changed": ["@ann:them.test"], "left": [] }), "{kind}");
    }
}

#[actix_web::test]
async fn other_servers_get_the_keys_of_our_users_alone() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    world.user("owner", false, "owners").await;
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let keys = device_keys("@owner:us.test", "DEVICE");
    let upload = json!({ "device_keys": keys, "one_time_keys": { "signed_curve25519:A": { "key": "a" } } });
    assert_eq!(asked(post("/keys/upload", &upload)).await.0, 200);
    let name = client(TestRequest::put().uri("/_matrix/client/v3/devices/DEVICE"));
    assert_eq!(asked(name.set_payload(r#"{"display_name":"secret name"}"#)).await.0, 200);

    let (_, devices) = asked(peer.get("/_matrix/federation/v1/user/devices/@owner:us.test")).await;
    assert_eq!(devices["devices"], json!([{ "device_id": "DEVICE", "keys": keys }]));
    assert_eq!(devices["user_id"], "@owner:us.test");
    let query = json!({ "device_keys": { "@owner:us.test": [], "@none:us.test": [], "@dan:else.test": [] } });
    let (_, found) = asked(peer.post("/_matrix/federation/v1/user/keys/query", &query)).await;
    assert_eq!(found["device_keys"], json!({ "@owner:us.test": { "DEVICE": keys }, "@none:us.test": {} }));
    assert!(!found.to_string().contains("secret name") && !devices.to_string().contains("secret name"));
    let claim =
        json!({ "one_time_keys": { "@owner:us.test": { "DEVICE": "signed_curve25519" }, "@dan:else.test": {} } });
    let claimed = async || asked(peer.post("/_matrix/federation/v1/user/keys/claim", &claim)).await.1;
    let key = json!({ "signed_curve25519:A": { "key": "a" } });
    assert_eq!(claimed().await, json!({ "one_time_keys": { "@owner:us.test": { "DEVICE": key } } }));
    assert_eq!(claimed().await, json!({ "one_time_keys": {} }));
}

#[actix_web::test]
async fn what_our_devices_do_is_queued_for_the_servers_that_need_it() {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let room_id = world.room(VERSION, "public", &[]).await;
    world.user("owner", false, "owners").await;
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let outbox = world.app.stores.outbox.clone();
    let queued = async |server| outbox.edus(server, None, 100).await.unwrap();
    let keys = json!({ "device_keys": device_keys("@owner:us.test", "DEVICE") });
    assert_eq!(asked(post("/keys/upload", &keys)).await.0, 200);
    assert_eq!(queued(server_name!("them.test")).await, []);
    join(&asked, &peer, &room_id, "@ann:them.test", &VERSION).await;
    let first = world.app.stores.device_keys.list_stream_id(user_id!("@owner:us.test")).await.unwrap();

    let mut other_keys = keys.clone();
    other_keys["device_keys"]["keys"]["ed25519:X"] = json!("other");
    for _ in 0..2 {
        // The same keys again are no news.
        assert_eq!(asked(post("/keys/upload", &other_keys)).await.0, 200);
    }
    let send = |id: &str| {
        let messages = json!({ "@ann:them.test": { "X": { "a": 1 } }, "@dan:else.test": { "*": {} } });
        let request = client(TestRequest::put().uri(&format!("/_matrix/client/v3/sendToDevice/m.test/{id}")));
        request.set_payload(json!({ "messages": messages }).to_string())
    };
    for id in ["1", "1"] {
        assert_eq!(asked(send(id)).await.0, 200);
    }
    let them = queued(server_name!("them.test")).await;
    assert_eq!(them.len(), 2, "{them:?}");
    let EduContent::DeviceList { device_id: device, previous, .. } = &them[0].content else { panic!("{them:?}") };
    assert_eq!((&**device, *previous), (device_id!("DEVICE"), first));
    let EduContent::Whole(text) = &them[1].content else { panic!("{them:?}") };
    let edu: Value = serde_json::from_str(text).unwrap();
    assert_eq!(edu["content"]["messages"], json!({ "@ann:them.test": { "X": { "a": 1 } } }));
    assert_eq!((&edu["edu_type"], &edu["content"]["sender"]), (&json!("m.direct_to_device"), &json!("@owner:us.test")));
    assert_eq!(queued(server_name!("else.test")).await.len(), 1);
    assert_eq!(asked(client(TestRequest::post().uri("/_matrix/client/v3/logout"))).await.0, 200);
    assert_eq!(queued(server_name!("them.test")).await.len(), 3);
}

#[actix_web::test]
async fn keys_elsewhere_are_asked_for_once_while_their_server_tells_of_changes() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let heard = requests.clone();
    let peers = Arc::new(move |server: &str, request: &http::Request<bytes::Bytes>| {
        let path = request.uri().path().to_owned();
        if path.starts_with("/_matrix/federation/v1/send/") {
            return Some((200, json!({ "pdus": {} })));
        }
        heard.lock().unwrap().push(format!("{server}{path}"));
        if server != "them.test" {
            return None;
        }
        match path.as_str() {
            "/_matrix/federation/v1/user/keys/query" => {
                let others = device_keys("@owner:us.test", "Y");
                Some((
                    200,
                    json!({ "device_keys": {
                        "@ann:them.test": { "X": device_keys("@ann:them.test", "X"), "Y": others },
                        "@owner:us.test": { "Z": device_keys("@owner:us.test", "Z") },
                    } }),
                ))
            }
            "/_matrix/federation/v1/user/keys/claim" => {
                let keys = json!({ "other:A": "a", "signed_curve25519:B": { "key": "b" } });
                let claimed = json!({ "@ann:them.test": { "X": keys, "Y": keys }, "@owner:us.test": { "Z": keys } });
                Some((200, json!({ "one_time_keys": claimed })))
            }
            _ => Some((404, json!({ "errcode": "M_NOT_FOUND" }))),
        }
    });
    let world = World::among(rates(false), |_| {}, peers);
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let room_id = world.room(VERSION, "public", &[]).await;
    world.user("owner", false, "owners").await;
    let service = init_service(world.application(&BOTH)).await;
    let asked = |request: TestRequest| ask(&service, request.to_request());
    let query = json!({ "device_keys": { "@ann:them.test": [], "@dan:else.test": [] } });
    let mut queries = 0;
    let mut found = async |is_asked: bool| {
        requests.lock().unwrap().clear();
        let (status, answer) = asked(post("/keys/query", &query)).await;
        assert_eq!(status, 200, "{answer}");
        let expected = json!({ "@ann:them.test": { "X": device_keys("@ann:them.test", "X") } });
        assert_eq!(answer["device_keys"], expected, "V16: what a server says of others does not count");
        assert!(answer["failures"]["else.test"].is_object(), "{answer}");
        queries += 1;
        let wanted = "them.test/_matrix/federation/v1/user/keys/query".to_owned();
        assert_eq!(requests.lock().unwrap().contains(&wanted), is_asked, "query {queries}");
    };
    // Without a room in common nothing is kept.
    found(true).await;
    found(true).await;
    join(&asked, &peer, &room_id, "@ann:them.test", &VERSION).await;
    found(true).await;
    found(false).await;
    let content = json!({ "user_id": "@ann:them.test", "device_id": "X", "stream_id": 5, "prev_id": [] });
    let update = json!([{ "edu_type": "m.device_list_update", "content": content }]);
    assert_eq!(asked(transaction(&peer, "t", update)).await.0, 200);
    found(true).await;
    found(false).await;

    let wanted =
        json!({ "@ann:them.test": { "X": "signed_curve25519" }, "@dan:else.test": { "D": "signed_curve25519" } });
    let (_, claimed) = asked(post("/keys/claim", &json!({ "one_time_keys": wanted }))).await;
    let key = json!({ "signed_curve25519:B": { "key": "b" } });
    assert_eq!(claimed["one_time_keys"], json!({ "@ann:them.test": { "X": key } }));
    assert!(claimed["failures"]["else.test"].is_object());
}
