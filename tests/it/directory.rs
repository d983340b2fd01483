//! Aliases and the directory of public rooms.
//! May not: publish a room that its owner did not publish.

use serde_json::json;

use crate::support::{FakePeer, TestServer, encoded};

#[test]
fn aliases_lead_to_rooms_and_belong_to_their_makers() {
    let mut server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.knockable_room("11");
    let alias = format!("/directory/room/{}", encoded("#otters:vestibule.test"));
    owner.try_get(&alias).refused(404, "M_NOT_FOUND");
    owner.put(&alias, json!({ "room_id": room_id }));
    assert_eq!(owner.try_put(&alias, json!({ "room_id": room_id })).status, 409);
    server.kill();
    server.restart();
    let found = server.client().get(&format!("/_matrix/client/v3{alias}")).ok();
    assert_eq!(found["room_id"], json!(room_id));
    assert_eq!(found["servers"], json!(["vestibule.test"]));
    let knock = anna.try_knock("#otters:vestibule.test", "by its name").ok();
    assert_eq!(knock["room_id"], json!(room_id));
    anna.ask("DELETE", &alias, None).refused(403, "M_FORBIDDEN");
    let foreign = format!("/directory/room/{}", encoded("#otters:other.test"));
    assert_eq!(owner.try_put(&foreign, json!({ "room_id": room_id })).status, 400);
    let aliases = owner.get(&format!("/rooms/{}/aliases", encoded(&room_id)));
    assert_eq!(aliases["aliases"], json!(["#otters:vestibule.test"]));
    anna.try_get(&format!("/rooms/{}/aliases", encoded(&room_id))).refused(403, "M_FORBIDDEN");
    owner.ask("DELETE", &alias, None).ok();
    owner.try_get(&alias).refused(404, "M_NOT_FOUND");
}

#[test]
fn other_servers_ask_for_aliases_and_profiles() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let open = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
    let room_id = owner.create_room(json!({ "room_alias_name": "otters", "initial_state": open }));
    owner.create_room(json!({ "room_alias_name": "seals" }));
    owner.put(&format!("/profile/{}/displayname", encoded(&owner.user_id)), json!({ "displayname": "The Owner" }));
    let query = |what: &str| peer.ask(&server, "GET", &format!("/_matrix/federation/v1/query/{what}"), None);
    let found = query(&format!("directory?room_alias={}", encoded("#otters:vestibule.test"))).ok();
    assert_eq!(found["room_id"], json!(room_id));
    for closed_or_unknown in ["#seals:vestibule.test", "#cats:vestibule.test"] {
        query(&format!("directory?room_alias={}", encoded(closed_or_unknown))).refused(404, "M_NOT_FOUND");
    }
    let profile = query(&format!("profile?user_id={}", encoded(&owner.user_id))).ok();
    assert_eq!(profile["displayname"], "The Owner");
    query(&format!("profile?user_id={}", encoded("@none:vestibule.test"))).refused(404, "M_NOT_FOUND");
    assert_eq!(peer.key_requests(), 1, "keys are fetched once");
    let version = server.federation().get("/_matrix/federation/v1/version").ok();
    assert_eq!(version["server"]["name"], "Vestibule");
}

#[test]
fn published_rooms_are_listed_with_their_join_rule() {
    let server = TestServer::started();
    let owner = server.register("owner");
    let anna = server.register("anna");
    let knockable = owner.knockable_room("12");
    let public =
        owner.create_room(json!({ "preset": "public_chat", "visibility": "public", "name": "Seals", "topic": "wet" }));
    let hidden = owner.create_room(json!({ "name": "Secret" }));
    let visibility = format!("/directory/list/room/{}", encoded(&knockable));
    assert_eq!(owner.get(&visibility)["visibility"], "private");
    anna.try_put(&visibility, json!({ "visibility": "public" })).refused(403, "M_FORBIDDEN");
    owner.put(&visibility, json!({ "visibility": "public" }));
    let list = server.client().get("/_matrix/client/v3/publicRooms").ok();
    let of = |room_id: &str| list["chunk"].as_array().unwrap().iter().find(|room| room["room_id"] == room_id);
    assert_eq!(list["total_room_count_estimate"], 2);
    assert_eq!(of(&knockable).unwrap()["join_rule"], "knock");
    let seals = of(&public).unwrap();
    assert_eq!(
        (&seals["join_rule"], &seals["name"], &seals["topic"]),
        (&json!("public"), &json!("Seals"), &json!("wet"))
    );
    assert_eq!((&seals["num_joined_members"], &seals["world_readable"]), (&json!(1), &json!(false)));
    assert!(of(&hidden).is_none());
    let found = anna.post("/publicRooms", json!({ "filter": { "generic_search_term": "seal" } }));
    assert_eq!(found["chunk"].as_array().unwrap().len(), 1);
    let mut seen = Vec::new();
    let mut since = String::new();
    loop {
        let page = server.client().get(&format!("/_matrix/client/v3/publicRooms?limit=1{since}")).ok();
        seen.extend(page["chunk"].as_array().unwrap().iter().map(|room| room["room_id"].as_str().unwrap().to_owned()));
        match page["next_batch"].as_str() {
            Some(next) => since = format!("&since={}", encoded(next)),
            None => break,
        }
    }
    seen.sort();
    let mut expected = [knockable, public];
    expected.sort();
    assert_eq!(seen, expected);
}
