//! Our users in rooms of other servers: they knock, are let in or turned away, take it back, join and talk.
//! May not: believe the other server alone; what the user's client sees is looked at each time.

use std::{
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::support::{FakePeer, TestServer, User, encoded, until};

/// `peer.test` with a room that can be knocked on, and anna on a server that can reach it.
struct Cast {
    peer: FakePeer,
    server: TestServer,
    anna: User,
    room_id: String,
}

fn cast() -> Cast {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new()
        .set("federation.retry_backoff_min", "\"100ms\"")
        .set("federation.retry_backoff_max", "\"1s\"")
        .knowing(&[&peer])
        .start();
    let anna = server.register("anna");
    let room_id = peer.host("owner", "11", json!({ "join_rule": "knock" }));
    Cast { peer, server, anna, room_id }
}

/// What `rooms.<list>` of a sync says of a room. `None`: nothing.
fn told<'a>(sync: &'a Value, list: &str, room_id: &str) -> Option<&'a Value> {
    sync["rooms"][list].get(room_id)
}

/// The member event of a user in stripped state or a timeline.
fn member<'a>(events: &'a Value, user_id: &str) -> Option<&'a Value> {
    let events = events["events"].as_array()?;
    events.iter().rev().find(|event| event["type"] == "m.room.member" && event["state_key"] == user_id)
}

/// Syncs from a token until one of the lists tells of the room.
fn until_told(user: &User, since: &str, list: &str, room_id: &str) -> Value {
    let mut since = since.to_owned();
    until(&format!("{list} tells of {room_id}"), || {
        let sync = user.sync_since(&since);
        sync["next_batch"].as_str().unwrap().clone_into(&mut since);
        told(&sync, list, room_id).cloned()
    })
}

impl Cast {
    fn knock(&self) {
        self.anna.try_knock_via(&self.room_id, &["peer.test"], "otters").ok();
    }
}

#[test]
fn a_knock_is_taken_by_the_rooms_server_and_seen_until_it_is_answered() {
    let Cast { peer, mut server, anna, room_id } = cast();
    anna.put(&format!("/profile/{}/displayname", encoded(&anna.user_id)), json!({ "displayname": "Anna" }));
    let since = anna.now();
    let answer = anna.try_knock_via(&room_id, &["peer.test"], "otters").ok();
    assert_eq!(answer["room_id"], json!(room_id));
    assert_eq!(peer.membership(&room_id, &anna.user_id), "knock");
    let sent = &peer.seen("send_knock")[0].body;
    let content = json!({ "displayname": "Anna", "membership": "knock", "reason": "otters" });
    assert_eq!((&sent["content"], &sent["origin"]), (&content, &json!("vestibule.test")));

    let knocking = anna.sync_since(&since);
    server.kill();
    server.restart();
    for sync in [&knocking, &anna.sync_since(&since), &anna.sync("timeout=0")] {
        let shown = &told(sync, "knock", &room_id).unwrap_or_else(|| panic!("{sync}"))["knock_state"];
        assert_eq!(member(shown, &anna.user_id).unwrap()["content"], content);
        let events = shown["events"].as_array().unwrap();
        assert!(events.iter().any(|event| event["content"]["name"] == "Burrow"), "{shown}");
        for event in events {
            let keys: Vec<&String> = event.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["content", "sender", "state_key", "type"], "stripped");
        }
    }
    for path in ["state", "members", "messages?dir=b", "state/m.room.name/"] {
        anna.try_get(&format!("/rooms/{}/{path}", encoded(&room_id))).refused(403, "M_FORBIDDEN");
    }
    assert_eq!(anna.get("/joined_rooms")["joined_rooms"], json!([]));
}

#[test]
fn an_alias_leads_to_the_room_and_to_a_server() {
    let Cast { peer, server, anna, room_id } = cast();
    peer.name_room("#burrow:peer.test", &room_id);
    let found =
        server.client().get(&format!("/_matrix/client/v3/directory/room/{}", encoded("#burrow:peer.test"))).ok();
    assert_eq!(found, json!({ "room_id": room_id, "servers": ["peer.test"] }));
    anna.try_knock("#gone:peer.test", "x").refused(404, "M_NOT_FOUND");
    assert_eq!(anna.try_knock("#burrow:peer.test", "x").ok()["room_id"], json!(room_id));
    assert_eq!(peer.membership(&room_id, &anna.user_id), "knock");
    // A room of version 12 names no server, so somebody has to.
    let nameless = peer.host("owner", "12", json!({ "join_rule": "knock" }));
    anna.try_knock(&nameless, "x").refused(404, "M_NOT_FOUND");
    anna.try_post(&format!("/knock/{}?server_name=peer.test", encoded(&nameless)), json!({})).ok();
    assert_eq!(peer.membership(&nameless, &anna.user_id), "knock");
}

#[test]
fn the_accepted_come_in_and_talk() {
    for version in ["10", "12"] {
        let Cast { peer, mut server, anna, .. } = cast();
        let room_id = peer.host("owner", version, json!({ "join_rule": "knock" }));
        anna.try_knock_via(&room_id, &["peer.test"], "otters").ok();
        let since = anna.now();
        peer.invite(&server, &room_id, &anna.user_id).ok();
        let invited = until_told(&anna, &since, "invite", &room_id);
        let own = member(&invited["invite_state"], &anna.user_id).unwrap();
        assert_eq!((&own["content"]["membership"], &own["sender"]), (&json!("invite"), &json!("@owner:peer.test")));
        assert_eq!(told(&anna.sync("timeout=0"), "knock", &room_id), None, "the invite has taken its place");

        // Neither form of join names a server: the invite says whom to ask.
        let since = anna.now();
        anna.join(&room_id);
        assert_eq!(peer.membership(&room_id, &anna.user_id), "join");
        let joined = anna.sync_since(&since);
        let room = told(&joined, "join", &room_id).unwrap_or_else(|| panic!("{joined}"));
        let all =
            [&room["state"], &room["timeline"]].map(|events| events["events"].as_array().unwrap().clone()).concat();
        for kind in ["m.room.create", "m.room.join_rules", "m.room.power_levels", "m.room.name", "m.room.member"] {
            assert!(all.iter().any(|event| event["type"] == kind), "{kind} in {room}");
        }
        assert_eq!(told(&anna.sync("timeout=0"), "invite", &room_id), None);
        assert_eq!(anna.try_state(&room_id, "m.room.name", "").ok()["name"], "Burrow");

        anna.say(&room_id, "1", "hello");
        until("the peer hears anna", || peer.received().into_iter().find(|event| event["content"]["body"] == "hello"));
        let since = anna.now();
        let content = json!({ "msgtype": "m.text", "body": "welcome" });
        let welcome = peer.append(&room_id, "m.room.message", None, &content);
        let answer = peer.send(&server, std::slice::from_ref(&welcome)).ok();
        assert!(answer["pdus"].as_object().unwrap().values().all(|outcome| outcome.get("error").is_none()), "{answer}");
        let heard = until_told(&anna, &since, "join", &room_id);
        assert_eq!(heard["timeline"]["events"][0]["content"], content);

        server.kill();
        server.restart();
        assert_eq!(anna.get("/joined_rooms")["joined_rooms"], json!([room_id]));
        anna.in_room(&room_id, "leave", json!({}));
        until("the peer hears that anna left", || (peer.membership(&room_id, &anna.user_id) == "leave").then_some(()));
    }
}

#[test]
fn an_invite_before_the_answer_to_the_knock_stands() {
    let Cast { peer, server, anna, room_id } = cast();
    let connection = Arc::new(Mutex::new(server.federation().connect().unwrap()));
    let (inviting, room, user) = (peer.clone(), room_id.clone(), anna.user_id.clone());
    peer.before_answering("send_knock", move || {
        inviting.invite_at(&mut connection.lock().unwrap(), &room, &user).ok();
    });
    anna.try_knock_via(&room_id, &["peer.test"], "otters").ok();
    let sync = anna.sync("timeout=0");
    assert!(told(&sync, "invite", &room_id).is_some(), "{sync}");
    assert_eq!(told(&sync, "knock", &room_id), None);
}

#[test]
fn a_knock_that_was_taken_back_is_gone_at_once_and_the_server_hears_of_it() {
    let cast = cast();
    cast.knock();
    let Cast { peer, mut server, anna, room_id } = cast;
    let since = anna.now();
    peer.set_down(true);
    anna.in_room(&room_id, "leave", json!({}));
    let left = anna.sync_since(&since);
    assert!(told(&left, "leave", &room_id).is_some(), "{left}");
    assert_eq!(told(&anna.sync("timeout=0"), "knock", &room_id), None);
    assert_eq!(peer.membership(&room_id, &anna.user_id), "knock", "it is down");
    server.kill();
    server.restart();
    peer.set_down(false);
    until("the peer hears that anna took it back", || {
        (peer.membership(&room_id, &anna.user_id) == "leave").then_some(())
    });
    anna.in_room(&room_id, "forget", json!({}));
    // It may be asked for again, and then it is not forgotten.
    anna.try_knock_via(&room_id, &["peer.test"], "again").ok();
    assert!(told(&anna.sync("timeout=0"), "knock", &room_id).is_some());
    assert_eq!(peer.membership(&room_id, &anna.user_id), "knock");
}

#[test]
fn an_invite_from_elsewhere_can_be_declined() {
    let Cast { peer, server, anna, room_id } = cast();
    let since = anna.now();
    peer.invite(&server, &room_id, &anna.user_id).ok();
    until_told(&anna, &since, "invite", &room_id);
    anna.in_room(&room_id, "leave", json!({ "reason": "no time" }));
    assert_eq!(told(&anna.sync("timeout=0"), "invite", &room_id), None);
    until("the peer hears that anna declined", || (peer.membership(&room_id, &anna.user_id) == "leave").then_some(()));
}

#[test]
fn a_client_that_waits_is_woken_by_what_happens_elsewhere() {
    let Cast { peer, server, anna, room_id } = cast();
    let mut since = anna.now();
    let mut wait_for = |list: &str, act: &dyn Fn()| {
        let sync = thread::scope(|scope| {
            // Longer than a test may take: only news ends it in time.
            let waiting = scope.spawn(|| anna.sync(&format!("since={since}&timeout=30000")));
            act();
            waiting.join().unwrap()
        });
        assert!(told(&sync, list, &room_id).is_some(), "{list}: {sync}");
        sync["next_batch"].as_str().unwrap().clone_into(&mut since);
    };
    wait_for("knock", &|| drop(anna.try_knock_via(&room_id, &["peer.test"], "otters").ok()));
    wait_for("leave", &|| drop(peer.turn_out(&server, &room_id, &anna.user_id, "leave")));
    wait_for("invite", &|| drop(peer.invite(&server, &room_id, &anna.user_id).ok()));
    wait_for("join", &|| drop(anna.join(&room_id)));
}

#[test]
fn a_denial_is_told_and_a_later_invite_still_counts() {
    for membership in ["leave", "ban"] {
        let cast = cast();
        cast.knock();
        let Cast { peer, server, anna, room_id } = cast;
        let since = anna.now();
        peer.turn_out(&server, &room_id, &anna.user_id, membership);
        let left = until_told(&anna, &since, "leave", &room_id);
        let own = member(&left["timeline"], &anna.user_id).unwrap();
        assert_eq!(own["content"], json!({ "membership": membership, "reason": "not now" }));
        assert_eq!(own["sender"], "@owner:peer.test");
        assert_eq!(told(&anna.sync("timeout=0"), "knock", &room_id), None);
        let since = anna.now();
        peer.append(&room_id, "m.room.member", Some(&anna.user_id), &json!({ "membership": "leave" }));
        peer.invite(&server, &room_id, &anna.user_id).ok();
        until_told(&anna, &since, "invite", &room_id);
    }
}

#[test]
fn a_denial_by_a_server_that_has_no_say_is_not_believed() {
    let (peer, stranger) = (FakePeer::new("peer.test"), FakePeer::new("stranger.test"));
    let server = TestServer::new().knowing(&[&peer, &stranger]).start();
    let anna = server.register("anna");
    let room_id = peer.host("owner", "11", json!({ "join_rule": "knock" }));
    anna.try_knock_via(&room_id, &["peer.test"], "otters").ok();
    let since = anna.now();
    // By a user of the stranger, and by the owner but brought and signed by the stranger.
    let knock = peer.seen("send_knock")[0].clone();
    let knock_id = knock.target.rsplit('/').next().unwrap().replace("%24", "$");
    for sender in ["@eve:stranger.test", "@owner:peer.test"] {
        let forged = json!({
            "type": "m.room.member", "room_id": room_id, "sender": sender, "state_key": anna.user_id,
            "content": { "membership": "leave" }, "prev_events": [knock_id], "auth_events": [knock_id], "depth": 99,
        });
        let forged = stranger.sign_for("11", forged);
        stranger.send(&server, &[serde_json::to_value(&forged.event).unwrap()]).ok();
        let sync = anna.sync_since(&since);
        assert_eq!(told(&sync, "leave", &room_id), None, "{sender}");
        assert!(told(&anna.sync("timeout=0"), "knock", &room_id).is_some(), "{sender}");
    }
}

#[test]
fn the_most_telling_refusal_reaches_the_client() {
    let Cast { peer, anna, room_id, server: _running } = cast();
    let refused = |status: u16, body: Value| {
        peer.answer_with("make_knock", status, body);
        anna.try_knock_via(&room_id, &["peer.test"], "x")
    };
    let error = |errcode: &str| json!({ "errcode": errcode, "error": "as the script says" });
    refused(403, error("M_FORBIDDEN")).refused(403, "M_FORBIDDEN");
    refused(404, error("M_NOT_FOUND")).refused(404, "M_NOT_FOUND");
    // A server without the endpoint says nothing about the room.
    refused(404, error("M_UNRECOGNIZED")).refused(502, "M_UNKNOWN");
    let incompatible = json!({ "errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "x", "room_version": "org.odd" });
    let body = refused(400, incompatible).refused(400, "M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(body["room_version"], "org.odd");
    refused(429, json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "x", "retry_after_ms": 1_000 }))
        .refused(429, "M_LIMIT_EXCEEDED");
    // What another server says about itself or about us is none of the client's business.
    for (status, errcode) in [(401, "M_UNAUTHORIZED"), (500, "M_UNKNOWN"), (403, "M_UNKNOWN_TOKEN")] {
        let answer = refused(status, error(errcode));
        assert!([502, 403].contains(&answer.status), "{errcode}: {}", answer.text());
        assert!(!answer.text().contains("TOKEN"), "{}", answer.text());
    }
    assert!(peer.seen("send_knock").is_empty());
    assert_eq!(anna.sync("timeout=0")["rooms"]["knock"], json!({}));
    peer.behave("make_knock");
    peer.refuse("send_knock", 403, "M_FORBIDDEN");
    anna.try_knock_via(&room_id, &["peer.test"], "x").refused(403, "M_FORBIDDEN");
    assert_eq!(anna.sync("timeout=0")["rooms"]["knock"], json!({}), "nobody took it");
}

#[test]
fn another_server_is_asked_when_one_is_down() {
    let (down, peer) = (FakePeer::new("down.test"), FakePeer::new("peer.test"));
    let server = TestServer::new().knowing(&[&down, &peer]).start();
    let anna = server.register("anna");
    let room_id = peer.host("owner", "11", json!({ "join_rule": "knock" }));
    down.set_down(true);
    anna.try_knock_via(&room_id, &["down.test", "vestibule.test", "peer.test"], "otters").ok();
    assert_eq!(peer.membership(&room_id, &anna.user_id), "knock");
}

#[test]
fn an_odd_answer_to_a_knock_breaks_no_sync() {
    let Cast { peer, mut server, anna, .. } = cast();
    let long = "x".repeat(600_000);
    let odd = [
        json!({}),
        json!({ "knock_room_state": null }),
        json!({ "knock_room_state": {} }),
        json!({ "knock_room_state": "text" }),
        json!({ "knock_room_state": [1, null, [], {}, { "type": "m.room.name" }] }),
        json!({ "knock_room_state": vec![json!({ "type": "m.room.name", "state_key": "", "sender": "@o:peer.test",
            "content": { "name": "x" } }); 5_000] }),
        json!({ "knock_room_state": [{ "type": "m.room.name", "state_key": "", "sender": "@o:peer.test",
            "content": { "name": long } }] }),
    ];
    for body in odd {
        let room_id = peer.host("owner", "11", json!({ "join_rule": "knock" }));
        let shown = body.to_string().chars().take(80).collect::<String>();
        peer.answer_with("send_knock", 200, body);
        assert_eq!(anna.try_knock_via(&room_id, &["peer.test"], "x").status, 200, "{shown}");
        let sync = anna.sync("timeout=0");
        let knock = told(&sync, "knock", &room_id).unwrap_or_else(|| panic!("{shown}"));
        assert!(member(&knock["knock_state"], &anna.user_id).is_some(), "{shown}");
    }
    server.kill();
    server.restart();
    assert_eq!(anna.sync("timeout=0")["rooms"]["knock"].as_object().unwrap().len(), 7);
}

#[test]
fn a_lying_template_is_not_signed() {
    let Cast { peer, anna, room_id, server: _running } = cast();
    let template = |key: &str, value: Value| {
        let mut event = json!({
            "type": "m.room.member", "room_id": room_id, "sender": anna.user_id, "state_key": anna.user_id,
            "content": { "membership": "knock" }, "prev_events": ["$a"], "auth_events": ["$a"], "depth": 5,
        });
        event[key] = value;
        json!({ "room_version": "11", "event": event })
    };
    for (key, value) in [
        ("type", json!("m.room.power_levels")),
        ("room_id", json!("!other:peer.test")),
        ("sender", json!("@eve:vestibule.test")),
        ("state_key", json!("@eve:vestibule.test")),
        ("content", json!({ "membership": "join" })),
        ("content", json!({ "membership": "ban" })),
        ("prev_events", json!("odd")),
        ("auth_events", json!(null)),
    ] {
        peer.answer_with("make_knock", 200, template(key, value.clone()));
        let answer = anna.try_knock_via(&room_id, &["peer.test"], "x");
        assert_eq!(answer.status, 502, "{key} {value}: {}", answer.text());
    }
    assert!(peer.seen("send_knock").is_empty());
}

#[test]
fn profiles_and_directories_of_other_servers_are_asked_there() {
    let Cast { peer, anna, server: _running, .. } = cast();
    let ann = peer.user("ann");
    let path = format!("/profile/{}", encoded(&ann));
    anna.try_get(&path).refused(404, "M_NOT_FOUND");
    peer.set_profile(&ann, json!({ "displayname": "Ann", "avatar_url": 7, "org.example": [1] }));
    assert_eq!(anna.get(&path), json!({ "displayname": "Ann", "org.example": [1] }));
    assert_eq!(anna.get(&format!("{path}/displayname")), json!({ "displayname": "Ann" }));
    assert_eq!(anna.get(&format!("{path}/avatar_url")), json!({}));

    let room = json!({ "room_id": "!r:peer.test", "num_joined_members": 3, "world_readable": false,
        "guest_can_join": false, "name": "Burrow", "join_rule": "knock" });
    let page =
        json!({ "chunk": [room, 5, { "room_id": "odd" }], "next_batch": "further", "total_room_count_estimate": 9 });
    peer.answer_with("publicRooms", 200, page);
    let told = anna.get("/publicRooms?server=peer.test&limit=2");
    assert_eq!(told, json!({ "chunk": [room], "next_batch": "further", "total_room_count_estimate": 9 }));
    let filter = json!({ "generic_search_term": "burrow" });
    anna.post("/publicRooms?server=peer.test", json!({ "filter": filter, "since": "further" }));
    let asked = peer.seen("publicRooms").pop().unwrap();
    assert_eq!((&asked.body["filter"], &asked.body["since"]), (&filter, &json!("further")));
}

#[test]
fn the_past_of_a_room_is_read_back_to_its_beginning() {
    let Cast { peer, mut server, anna, .. } = cast();
    let room_id = peer.host("owner", "11", json!({ "join_rule": "public" }));
    for number in 0..120 {
        let content = json!({ "msgtype": "m.text", "body": format!("old {number}") });
        peer.append(&room_id, "m.room.message", None, &content);
    }
    let renamed = peer.append(&room_id, "m.room.name", Some(""), &json!({ "name": "Sett" }));
    peer.name_room("#sett:peer.test", &room_id);
    let since = anna.now();
    assert_eq!(anna.post(&format!("/join/{}", encoded("#sett:peer.test")), json!({}))["room_id"], json!(room_id));
    let joined = until_told(&anna, &since, "join", &room_id);
    let mut path = format!("/rooms/{}/messages?dir=b&limit=40&from=", encoded(&room_id));
    let base = path.clone();
    path.push_str(joined["timeline"]["prev_batch"].as_str().unwrap());
    let mut seen: Vec<Value> = Vec::new();
    for _ in 0..20 {
        let page = anna.get(&path);
        seen.extend(page["chunk"].as_array().unwrap().iter().cloned());
        match page["end"].as_str() {
            Some(end) => path = format!("{base}{end}"),
            None => break,
        }
    }
    let bodies: Vec<&str> = seen.iter().filter_map(|event| event["content"]["body"].as_str()).collect();
    let expected: Vec<String> = (0..120).rev().map(|number| format!("old {number}")).collect();
    assert_eq!(bodies, expected);
    assert_eq!((&seen[0]["content"], &seen[0]["unsigned"]["prev_content"]), (&renamed["content"], &json!(null)));
    assert_eq!(seen.last().unwrap()["type"], "m.room.create");
    let asked = peer.seen("backfill").len();
    // It is kept: nobody is asked again.
    server.kill();
    server.restart();
    let page = anna.get(&format!("/rooms/{}/messages?dir=b&limit=1000", encoded(&room_id)));
    assert_eq!(page["chunk"].as_array().unwrap().last().unwrap()["type"], "m.room.create");
    assert_eq!((page.get("end"), peer.seen("backfill").len()), (None, asked));
}

#[test]
fn a_page_is_what_is_here_when_nobody_has_the_past() {
    let Cast { peer, anna, server: _running, .. } = cast();
    let room_id = peer.host("owner", "11", json!({ "join_rule": "public" }));
    anna.post(&format!("/join/{}?via=peer.test", encoded(&room_id)), json!({}));
    peer.refuse("backfill", 404, "M_NOT_FOUND");
    let path = format!("/rooms/{}/messages?dir=b", encoded(&room_id));
    let page = anna.get(&path);
    assert_eq!(page["chunk"].as_array().unwrap().len(), 1, "{page}");
    let end = page["end"].as_str().expect("another attempt may have more luck");
    let nothing = anna.get(&format!("{path}&from={end}"));
    assert_eq!((&nothing["chunk"], nothing.get("end")), (&json!([]), None));
    peer.behave("backfill");
    let past = anna.get(&format!("{path}&from={end}"));
    assert_eq!(past["chunk"].as_array().unwrap().last().unwrap()["type"], "m.room.create");
}

#[test]
fn an_accepted_knock_is_followed_by_a_join_if_so_configured() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().set("knock.auto_join_accepted", "true").knowing(&[&peer]).start();
    let anna = server.register("anna");
    let [knocked, invited] = [(); 2].map(|()| peer.host("owner", "12", json!({ "join_rule": "knock" })));
    anna.try_knock_via(&knocked, &["peer.test"], "otters").ok();
    for room_id in [&invited, &knocked] {
        peer.invite(&server, room_id, &anna.user_id).ok();
    }
    until("anna is in", || (peer.membership(&knocked, &anna.user_id) == "join").then_some(()));
    until("and knows", || (anna.get("/joined_rooms")["joined_rooms"] == json!([knocked])).then_some(()));
    assert_eq!(peer.membership(&invited, &anna.user_id), "invite", "nobody knocked there");
}

#[test]
fn a_room_that_all_of_ours_left_is_asked_for_at_its_servers_again() {
    let Cast { peer, server, anna, .. } = cast();
    let ben = server.register("ben");
    let room_id = peer.host("owner", "11", json!({ "join_rule": "public" }));
    anna.post(&format!("/join/{}?via=peer.test", encoded(&room_id)), json!({}));
    // The room is here now: ben needs nobody's help, and the peer hears of it.
    ben.join(&room_id);
    assert_eq!(peer.seen("make_join").len(), 1);
    until("the peer hears of ben", || (peer.membership(&room_id, &ben.user_id) == "join").then_some(()));
    for user in [&anna, &ben] {
        user.in_room(&room_id, "leave", json!({}));
        until("the peer hears of leaving", || (peer.membership(&room_id, &user.user_id) == "leave").then_some(()));
    }
    peer.append(&room_id, "m.room.join_rules", Some(""), &json!({ "join_rule": "knock" }));
    peer.append(&room_id, "m.room.name", Some(""), &json!({ "name": "Sett" }));
    // The copy that is stored says that anybody may join; it is not asked, and neither is anybody told.
    peer.refuse("make_join", 403, "M_FORBIDDEN");
    anna.try_in_room(&room_id, "join", json!({})).refused(403, "M_FORBIDDEN");
    peer.behave("make_join");
    let since = anna.now();
    anna.try_knock(&room_id, "again").ok();
    let knocking = until_told(&anna, &since, "knock", &room_id);
    let shown = knocking["knock_state"]["events"].as_array().unwrap();
    assert!(shown.iter().any(|event| event["content"]["name"] == "Sett"), "{shown:?}");
    peer.invite(&server, &room_id, &anna.user_id).ok();
    until_told(&anna, &since, "invite", &room_id);
    let since = anna.now();
    anna.join(&room_id);
    let joined = until_told(&anna, &since, "join", &room_id);
    assert_eq!(anna.try_state(&room_id, "m.room.name", "").ok()["name"], "Sett", "{joined}");
    assert_eq!(anna.try_state(&room_id, "m.room.join_rules", "").ok()["join_rule"], "knock");
    assert_eq!(joined["timeline"]["limited"], true);
}

#[test]
fn knocks_elsewhere_have_the_same_rates_as_knocks_here() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new()
        .set("rate_limit.enabled", "true")
        .set("rate_limit.knocks_by_user", "{ per_second = 0.01, burst = 2 }")
        .knowing(&[&peer])
        .start();
    let anna = server.register("anna");
    let rooms = [(); 3].map(|()| peer.host("owner", "12", json!({ "join_rule": "knock" })));
    for room_id in &rooms[..2] {
        anna.try_knock_via(room_id, &["peer.test"], "otters").ok();
    }
    let refused = anna.try_knock_via(&rooms[2], &["peer.test"], "otters");
    assert!(refused.refused(429, "M_LIMIT_EXCEEDED")["retry_after_ms"].as_u64().is_some());
    assert_eq!(peer.seen("make_knock").len(), 2, "nobody was asked");
}

#[test]
fn where_we_cannot_vouch_a_server_of_the_room_does() {
    let Cast { peer, server, anna, .. } = cast();
    let ben = server.register("ben");
    // Who is in that space, only the peer knows.
    let allow = json!([{ "type": "m.room_membership", "room_id": "!space:peer.test" }]);
    let room_id = peer.host("owner", "10", json!({ "join_rule": "restricted", "allow": allow }));
    anna.post(&format!("/join/{}?via=peer.test", encoded(&room_id)), json!({}));
    assert_eq!(peer.membership(&room_id, &anna.user_id), "join");
    // The room is here now, and still ben needs the peer's word.
    ben.join(&room_id);
    assert_eq!(peer.membership(&room_id, &ben.user_id), "join");
    let own = anna.try_state(&room_id, "m.room.member", &ben.user_id).ok();
    assert_eq!(
        (&own["membership"], &own["join_authorised_via_users_server"]),
        (&json!("join"), &json!("@owner:peer.test"))
    );
    let eve = server.register("eve");
    peer.refuse("make_join", 403, "M_FORBIDDEN");
    eve.try_in_room(&room_id, "join", json!({})).refused(403, "M_FORBIDDEN");
}

#[test]
fn a_room_is_summed_up_by_its_servers() {
    let Cast { peer, anna, room_id, server: _running } = cast();
    let path = format!("/_matrix/client/v1/room_summary/{}", encoded(&room_id));
    let summary = json!({
        "room_id": room_id, "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
        "name": "Burrow", "join_rule": "knock", "room_version": "11", "children_state": [],
    });
    peer.answer_with("hierarchy", 200, json!({ "room": summary, "children": [], "inaccessible_children": [] }));
    anna.try_knock_via(&room_id, &["peer.test"], "otters").ok();
    let told = anna.ask_at("GET", &path, None).ok();
    assert_eq!(
        (&told["name"], &told["join_rule"], &told["membership"]),
        (&json!("Burrow"), &json!("knock"), &json!("knock"))
    );
    peer.refuse("hierarchy", 404, "M_NOT_FOUND");
    anna.ask_at("GET", &path, None).refused(404, "M_NOT_FOUND");
    let odd = json!({ "room": { "room_id": "!other:peer.test", "num_joined_members": 1 } });
    peer.answer_with("hierarchy", 200, odd);
    anna.ask_at("GET", &path, None).refused(502, "M_UNKNOWN");
}
