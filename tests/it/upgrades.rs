//! Rooms that are replaced by rooms of another version.
//! May not: take the answer's word for it; both rooms are looked at as their members see them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use serde_json::{Value, json};

use crate::support::{FakePeer, TestServer, User, encoded, until};

const HELPER: &str = "@helper:vestibule.test";

fn try_upgrade(user: &User, room_id: &str, body: Value) -> crate::support::Answer {
    user.try_in_room(room_id, "upgrade", body)
}

#[track_caller]
fn upgrade(user: &User, room_id: &str, new_version: &str) -> String {
    let answer = try_upgrade(user, room_id, json!({ "new_version": new_version })).ok();
    answer["replacement_room"].as_str().unwrap().to_owned()
}

/// Asks for an upgrade to version 12 behind another question, without waiting for either answer.
fn ask_for_upgrade(server: &TestServer, user: &User, room_id: &str) -> TcpStream {
    let requests = format!(
        "GET /_matrix/client/versions HTTP/1.1\r\nHost: x\r\n\r\n\
         POST /_matrix/client/v3/rooms/{}/upgrade HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{}",
        encoded(room_id),
        user.token,
        r#"{"new_version":"12"}"#
    );
    let mut connection = TcpStream::connect(server.client().address).unwrap();
    connection.write_all(requests.as_bytes()).unwrap();
    connection
}

/// The state that a room has for that type. `None`: none.
fn state_of(user: &User, room_id: &str, kind: &str) -> Option<Value> {
    let answer = user.try_state(room_id, kind, "");
    if answer.status == 404 { None } else { Some(answer.ok()) }
}

/// The users with a membership in a room.
fn users_with(user: &User, room_id: &str, membership: &str) -> Vec<String> {
    let members = user.members(room_id, &format!("?membership={membership}"));
    members.iter().map(|event| event["state_key"].as_str().unwrap().to_owned()).collect()
}

/// A room with all that there is to take along, and something that is not.
fn otters(owner: &User, version: &str, rule: &str) -> String {
    let mut rules = json!({ "join_rule": rule });
    if rule.ends_with("restricted") {
        rules["allow"] = json!([{ "type": "m.room_membership", "room_id": "!club:elsewhere.test" }]);
    }
    let further = [
        ("m.room.topic", json!({ "topic": "All about them" })),
        ("m.room.avatar", json!({ "url": "mxc://vestibule.test/otter" })),
        ("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
        ("m.room.history_visibility", json!({ "history_visibility": "invited" })),
        ("m.room.server_acl", json!({ "allow": ["*"], "deny": ["evil.test"] })),
        ("org.example.color", json!({ "color": "red" })),
    ];
    let further: Vec<Value> =
        further.map(|(kind, content)| json!({ "type": kind, "state_key": "", "content": content })).into();
    owner.room_with_rule(version, rules, &further)
}

#[test]
fn rooms_go_from_version_to_version_as_they_are() {
    let mut server = TestServer::started();
    let [owner, anna, dora, eve] = ["owner", "anna", "dora", "eve"].map(|name| server.register(name));
    let mut upgraded = Vec::new();
    for (old, new, rule) in [
        ("6", "12", "public"),
        ("7", "10", "knock"),
        ("9", "11", "restricted"),
        ("10", "10", "knock_restricted"),
        ("10", "11", "knock"),
        ("10", "12", "knock_restricted"),
        ("11", "10", "knock"),
        ("11", "11", "knock_restricted"),
        ("11", "12", "knock"),
        ("12", "10", "knock"),
        ("12", "11", "knock_restricted"),
        ("12", "12", "knock"),
    ] {
        let case = format!("{old} to {new}, {rule}");
        let room_id = otters(&owner, old, rule);
        owner.about(&room_id, "invite", &anna.user_id);
        anna.join(&room_id);
        owner.in_room(&room_id, "ban", json!({ "user_id": eve.user_id, "reason": "bites" }));
        let can_knock = rule.starts_with("knock");
        if can_knock {
            dora.try_knock(&room_id, "may I?").ok();
        }
        let (levels, since) = (state_of(&owner, &room_id, "m.room.power_levels").unwrap(), anna.now());
        let new_room = upgrade(&owner, &room_id, new);
        assert_ne!(new_room, room_id, "{case}");

        let create = state_of(&owner, &new_room, "m.room.create").unwrap();
        assert_eq!(
            (&create["room_version"], &create["predecessor"]["room_id"]),
            (&json!(new), &json!(room_id)),
            "{case}"
        );
        assert_eq!(create["predecessor"].get("event_id").is_some(), new != "12", "{case}: {create}");
        for kind in [
            "m.room.join_rules",
            "m.room.name",
            "m.room.topic",
            "m.room.avatar",
            "m.room.encryption",
            "m.room.history_visibility",
            "m.room.guest_access",
            "m.room.server_acl",
        ] {
            let before = state_of(&owner, &room_id, kind);
            assert!(before.is_some(), "{case}: {kind}");
            assert_eq!(state_of(&owner, &new_room, kind), before, "{case}: {kind}");
        }
        assert_eq!(state_of(&owner, &new_room, "org.example.color"), None, "{case}");
        assert_eq!(users_with(&owner, &new_room, "join"), [owner.user_id.as_str()], "{case}");
        assert_eq!(users_with(&owner, &new_room, "ban"), [eve.user_id.as_str()], "{case}");
        assert_eq!(owner.try_state(&new_room, "m.room.member", &eve.user_id).ok()["reason"], "bites", "{case}");

        // Power is what it was: a creator of version 12 has it without a level, in all others by one.
        let mut expected = levels.clone();
        if new == "12" {
            expected["users"].as_object_mut().unwrap().remove(&owner.user_id);
        } else if old == "12" {
            expected["users"][&owner.user_id] = json!(150);
        }
        assert_eq!(state_of(&owner, &new_room, "m.room.power_levels").unwrap(), expected, "{case}");
        owner.set_state(&new_room, "m.room.tombstone", "", json!({}));
        owner.say(&new_room, "first", "here we are");

        // The old room says where to go, and falls silent.
        let news = anna.sync_since(&since);
        let timeline = news["rooms"]["join"][&room_id]["timeline"]["events"].as_array().unwrap();
        let tombstone = timeline.iter().find(|event| event["type"] == "m.room.tombstone").unwrap();
        assert_eq!(tombstone["content"]["replacement_room"], json!(new_room), "{case}");
        assert_eq!(tombstone["sender"], json!(owner.user_id));
        let closed = state_of(&owner, &room_id, "m.room.power_levels").unwrap();
        assert_eq!((&closed["events_default"], &closed["invite"]), (&json!(50), &json!(50)), "{case}");
        let said = format!("/rooms/{}/send/m.room.message/late", encoded(&room_id));
        anna.try_put(&said, json!({ "msgtype": "m.text", "body": "too late" })).refused(403, "M_FORBIDDEN");
        upgraded.push((case, room_id, new_room, can_knock));
    }
    server.kill();
    server.restart();
    for (case, room_id, new_room, can_knock) in upgraded {
        assert_eq!(
            state_of(&owner, &room_id, "m.room.tombstone").unwrap()["replacement_room"],
            json!(new_room),
            "{case}"
        );
        eve.try_in_room(&new_room, "join", json!({})).refused(403, "M_FORBIDDEN");
        if can_knock {
            // A knock on the old room waits there, and is answered there. The new one takes knocks of its own.
            assert_eq!(users_with(&owner, &room_id, "knock"), [dora.user_id.as_str()], "{case}");
            eve.try_knock(&new_room, "please").refused(403, "M_FORBIDDEN");
            dora.try_knock(&new_room, "and here?").ok();
            owner.about(&new_room, "invite", &dora.user_id);
            dora.join(&new_room);
            owner.about(&room_id, "invite", &dora.user_id);
            assert_eq!(owner.membership(&room_id, &dora.user_id).as_deref(), Some("invite"), "{case}");
        }
    }
}

#[test]
fn a_wish_that_cannot_be_is_refused_and_changes_nothing() {
    let server = TestServer::started();
    let [owner, anna, knocker, stranger] = ["owner", "anna", "knocker", "stranger"].map(|name| server.register(name));
    let room_id = owner.knockable_room("11");
    owner.about(&room_id, "invite", &anna.user_id);
    anna.join(&room_id);
    knocker.try_knock(&room_id, "x").ok();
    let wish = json!({ "new_version": "12" });
    for user in [&anna, &knocker, &stranger] {
        try_upgrade(user, &room_id, wish.clone()).refused(403, "M_FORBIDDEN");
    }
    try_upgrade(&owner, "!none:vestibule.test", wish.clone()).refused(403, "M_FORBIDDEN");
    for version in ["5", "13", "nonsense"] {
        try_upgrade(&owner, &room_id, json!({ "new_version": version })).refused(400, "M_UNSUPPORTED_ROOM_VERSION");
    }
    for (body, errcode) in [
        (json!({}), "M_MISSING_PARAM"),
        (json!({ "new_version": 12 }), "M_BAD_JSON"),
        (json!({ "new_version": "12 " }), "M_BAD_JSON"),
        (json!({ "new_version": "12", "additional_creators": "@a:b" }), "M_BAD_JSON"),
        (json!({ "new_version": "12", "additional_creators": ["nobody"] }), "M_BAD_JSON"),
        (json!([]), "M_BAD_JSON"),
    ] {
        let answer = try_upgrade(&owner, &room_id, body.clone());
        assert_eq!((answer.status, &answer.json()["errcode"]), (400, &json!(errcode)), "{body}");
    }
    let target = format!("/_matrix/client/v3/rooms/{}/upgrade", encoded(&room_id));
    let bearer = format!("Bearer {}", owner.token);
    server.client().ask("POST", &target, &[("Authorization", &bearer)], Some(b"{")).refused(400, "M_NOT_JSON");
    server.client().ask("POST", &target, &[], Some(b"{}")).refused(401, "M_MISSING_TOKEN");
    assert_eq!(server.totals()["rooms_stored"], 1);
    assert_eq!(state_of(&owner, &room_id, "m.room.tombstone"), None);
    owner.in_room(&room_id, "leave", json!({}));
    try_upgrade(&owner, &room_id, wish).refused(403, "M_FORBIDDEN");
}

#[test]
fn creators_of_the_new_room_are_those_who_were_named() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let before = json!({ "room_version": "12", "creation_content": { "additional_creators": [HELPER] } });
    let room_id = owner.create_room(before);
    owner.about(&room_id, "invite", &anna.user_id);
    anna.join(&room_id);
    let wish = |version: &str| json!({ "new_version": version, "additional_creators": [anna.user_id, owner.user_id] });
    let new_room = try_upgrade(&owner, &room_id, wish("12")).ok()["replacement_room"].as_str().unwrap().to_owned();
    let create = state_of(&owner, &new_room, "m.room.create").unwrap();
    assert_eq!(create["additional_creators"], json!([anna.user_id]), "those of the old room do not stay by themselves");
    owner.about(&new_room, "invite", &anna.user_id);
    anna.join(&new_room);
    anna.set_state(&new_room, "m.room.power_levels", "", json!({ "users_default": 1 }));
    // Versions without such creators pass over the list. Those of the old room get a level.
    let older = try_upgrade(&owner, &room_id, wish("11")).ok()["replacement_room"].as_str().unwrap().to_owned();
    assert_eq!(state_of(&owner, &older, "m.room.create").unwrap().get("additional_creators"), None);
    let users = state_of(&owner, &older, "m.room.power_levels").unwrap()["users"].clone();
    assert_eq!(users, json!({ owner.user_id.as_str(): 150, HELPER: 150 }));
}

#[test]
fn aliases_and_the_directory_lead_to_the_new_room() {
    let mut server = TestServer::started();
    let owner = server.register("owner");
    let room_id = owner.create_room(json!({
        "preset": "public_chat", "visibility": "public", "room_version": "11", "room_alias_name": "otters", "name": "Otters",
        "creation_content": { "type": "m.space" },
        "initial_state": [{ "type": "m.space.child", "state_key": "!c:x", "content": { "via": ["x"] } }],
    }));
    owner.put(&format!("/directory/room/{}", encoded("#mustelids:vestibule.test")), json!({ "room_id": room_id }));
    let aliases = json!({ "alias": "#otters:vestibule.test", "alt_aliases": ["#mustelids:vestibule.test"] });
    owner.set_state(&room_id, "m.room.canonical_alias", "", aliases.clone());
    let new_room = upgrade(&owner, &room_id, "12");
    server.kill();
    server.restart();
    for alias in ["#otters:vestibule.test", "#mustelids:vestibule.test"] {
        let found = owner.get(&format!("/directory/room/{}", encoded(alias)));
        assert_eq!(found["room_id"], json!(new_room), "{alias}");
    }
    assert_eq!(state_of(&owner, &new_room, "m.room.canonical_alias").unwrap(), aliases);
    assert_eq!(state_of(&owner, &room_id, "m.room.canonical_alias").unwrap(), json!({ "alt_aliases": [] }));
    let list = server.client().get("/_matrix/client/v3/publicRooms").ok();
    let listed: Vec<&Value> = list["chunk"].as_array().unwrap().iter().map(|room| &room["room_id"]).collect();
    assert_eq!(listed, [&json!(new_room)]);
    assert_eq!(state_of(&owner, &new_room, "m.room.create").unwrap()["type"], "m.space");
    assert_eq!(owner.try_state(&new_room, "m.space.child", "!c:x").ok(), json!({ "via": ["x"] }));
    let summary =
        owner.ask_at("GET", &format!("/_matrix/client/v1/room_summary/{}", encoded("#otters:vestibule.test")), None);
    assert_eq!(summary.ok()["room_id"], json!(new_room));
}

#[test]
fn who_hangs_up_has_replaced_the_room_all_the_same() {
    let mut server = TestServer::started();
    let owner = server.register("owner");
    let room_id = otters(&owner, "10", "knock");
    for number in 0..300 {
        let ban = json!({ "user_id": format!("@spammer{number}:evil.test"), "reason": "spam" });
        owner.in_room(&room_id, "ban", ban);
    }
    until("the new room is stored", || {
        let mut connection = ask_for_upgrade(&server, &owner, &room_id);
        // What is closed with an answer in it that was not read is broken off, which the other side hears at once.
        connection.read_exact(&mut [0]).unwrap();
        drop(connection);
        (server.totals()["rooms_stored"] == 2).then_some(())
    });
    // From here on nobody asks: what is missing comes of what was begun for somebody who is gone.
    let tombstone = until("the room is replaced", || state_of(&owner, &room_id, "m.room.tombstone"));
    until("the old room is closed", || {
        let levels = state_of(&owner, &room_id, "m.room.power_levels").unwrap();
        (levels["events_default"] == 50).then_some(())
    });
    let new_room = upgrade(&owner, &room_id, "12");
    assert_eq!(tombstone["replacement_room"], json!(new_room));
    assert_eq!(server.totals()["rooms_stored"], 2);
    server.kill();
    server.restart();
    assert_eq!(users_with(&owner, &new_room, "ban").len(), 300);
    assert_eq!(upgrade(&owner, &room_id, "12"), new_room);
}

#[test]
fn a_program_that_ends_in_the_middle_has_replaced_the_room_or_not() {
    type IsThere<'a> = &'a dyn Fn(&TestServer, u64, &str) -> bool;
    let mut server = TestServer::started();
    let owner = server.register("owner");
    let is_stored =
        |server: &TestServer, before: u64, _: &str| server.totals()["rooms_stored"].as_u64().unwrap() > before;
    let is_replaced = |_: &TestServer, _: u64, room_id: &str| state_of(&owner, room_id, "m.room.tombstone").is_some();
    let moments: [(&str, IsThere<'_>); 2] =
        [("the new room is stored", &is_stored), ("the tombstone stands", &is_replaced)];
    for (number, (moment, is_there)) in moments.into_iter().enumerate() {
        let name = format!("otters{number}");
        let alias = format!("/directory/room/{}", encoded(&format!("#{name}:vestibule.test")));
        let room_id = owner.create_room(json!({
            "preset": "public_chat", "visibility": "public", "room_version": "11", "room_alias_name": name,
        }));
        owner.about(&room_id, "ban", "@spammer:evil.test");
        let before = server.totals()["rooms_stored"].as_u64().unwrap();
        let asking = ask_for_upgrade(&server, &owner, &room_id);
        until(moment, || is_there(&server, before, &room_id).then_some(()));
        server.kill();
        drop(asking);
        server.restart();
        let first = state_of(&owner, &room_id, "m.room.tombstone").map(|content| content["replacement_room"].clone());
        match &first {
            Some(new_room) => {
                let new_room = new_room.as_str().unwrap();
                assert_eq!(users_with(&owner, new_room, "ban"), ["@spammer:evil.test"], "{moment}");
            }
            None => {
                assert_eq!(owner.get(&alias)["room_id"], json!(room_id), "{moment}");
                assert_eq!(state_of(&owner, &room_id, "m.room.power_levels").unwrap()["events_default"], 0, "{moment}");
            }
        }
        let new_room = json!(upgrade(&owner, &room_id, "12"));
        assert_eq!(first.unwrap_or_else(|| new_room.clone()), new_room, "{moment}");
        assert_eq!(state_of(&owner, &room_id, "m.room.tombstone").unwrap()["replacement_room"], new_room, "{moment}");
        assert_eq!(owner.get(&alias)["room_id"], new_room, "{moment}");
        let visibility =
            |room_id: &str| owner.get(&format!("/directory/list/room/{}", encoded(room_id)))["visibility"].clone();
        assert_eq!((visibility(&room_id), visibility(new_room.as_str().unwrap())), (json!("private"), json!("public")));
        assert_eq!(state_of(&owner, &room_id, "m.room.power_levels").unwrap()["events_default"], 50, "{moment}");
    }
}

#[test]
fn servers_in_the_old_room_hear_of_it_and_their_knocks_are_answered_there() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("11");
    let (bob, carol) = (peer.user("bob"), peer.user("carol"));
    owner.about(&room_id, "invite", &bob);
    peer.join(&server, &room_id, &bob).ok();
    peer.knock(&server, &room_id, &carol, "otters");
    let new_room = upgrade(&owner, &room_id, "12");
    let of_type = |kind: &str| {
        let received = peer.received();
        received.into_iter().find(|event| event["type"] == kind && event["room_id"] == json!(room_id))
    };
    let tombstone = until("the peer hears of the tombstone", || of_type("m.room.tombstone"));
    assert_eq!(tombstone["content"]["replacement_room"], json!(new_room));
    until("and that the room is closed", || of_type("m.room.power_levels"));
    owner.about(&room_id, "invite", &carol);
    until("carol hears that her knock is accepted", || {
        peer.seen("invite").into_iter().find(|invite| invite.body["event"]["state_key"] == json!(carol))
    });
    peer.knock(&server, &new_room, &carol, "and here");
    assert_eq!(users_with(&owner, &new_room, "knock"), [carol]);
}

#[test]
fn a_room_of_another_server_is_replaced_by_one_of_ours() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let anna = server.register("anna");
    let room_id = peer.host("owner", "11", json!({ "join_rule": "knock" }));
    peer.invite(&server, &room_id, &anna.user_id).ok();
    anna.join(&room_id);
    try_upgrade(&anna, &room_id, json!({ "new_version": "12" })).refused(403, "M_FORBIDDEN");
    let levels = json!({ "users": { "@owner:peer.test": 100, anna.user_id.as_str(): 100 } });
    let event = peer.append(&room_id, "m.room.power_levels", Some(""), &levels);
    peer.send(&server, &[event]).ok();
    let new_room = upgrade(&anna, &room_id, "12");
    let tombstone = until("the peer hears of the tombstone", || {
        peer.received().into_iter().find(|event| event["type"] == "m.room.tombstone")
    });
    assert_eq!(tombstone["content"]["replacement_room"], json!(new_room));
    assert_eq!(state_of(&anna, &new_room, "m.room.join_rules").unwrap()["join_rule"], "knock");
    let users = state_of(&anna, &new_room, "m.room.power_levels").unwrap()["users"].clone();
    assert_eq!(users, json!({ "@owner:peer.test": 100 }));
}

#[test]
fn a_tombstone_that_the_policy_server_refuses_leaves_the_user_where_they_were() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("11");
    let bob = peer.user("bob");
    owner.about(&room_id, "invite", &bob);
    peer.join(&server, &room_id, &bob).ok();
    // It has no such endpoint, which is a refusal.
    let key = "3f+R3cXbeyyQ2yrQzZrXxqLIkY6xgHcuWmeoGUgUXaI";
    owner.set_state(&room_id, "m.room.policy", "", json!({ "via": "peer.test", "public_keys": { "ed25519": key } }));
    try_upgrade(&owner, &room_id, json!({ "new_version": "12" })).refused(403, "M_FORBIDDEN");
    assert_eq!(state_of(&owner, &room_id, "m.room.tombstone"), None);
    let sync = owner.sync("timeout=0");
    let joined: Vec<&String> = sync["rooms"]["join"].as_object().unwrap().keys().collect();
    assert_eq!(joined, [&room_id]);
}
