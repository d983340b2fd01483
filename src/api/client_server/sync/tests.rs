use actix_web::http::Method;
use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::{Value, json};
use vestibule_protocol::clock::UnixMillis;
use vestibule_storage::room::{OutOfBand, Progress, RoomOrigin};

use crate::client_server::testing::{
    Event, out_of_band_commit,
    server::{Client, TestServer},
};

fn knockable() -> Value {
    json!({
        "name": "Door",
        "initial_state": [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}],
    })
}

fn token(sync: &Value) -> String {
    sync["next_batch"].as_str().unwrap().to_owned()
}

async fn sync_since(client: &Client<'_>, since: &str) -> Value {
    client.get(&format!("/sync?since={since}")).await
}

fn bodies(timeline: &Value) -> Vec<&str> {
    let events = timeline["events"].as_array().unwrap();
    events.iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn kinds(events: &Value) -> Vec<&str> {
    events["events"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn state_of<'a>(events: &'a Value, kind: &str, key: &str) -> Option<&'a Value> {
    let events = events["events"].as_array().unwrap();
    events.iter().find(|event| event["type"] == kind && event["state_key"] == key)
}

#[actix_web::test]
async fn a_knock_is_seen_by_both_sides_and_answered() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(knockable()).await;
    let (ann_token, bob_token) = (token(&ann.get("/sync").await), token(&bob.get("/sync").await));

    let answer = bob.post(&format!("/knock/{room}"), json!({"reason": "let me in"})).await;
    assert_eq!(answer["room_id"], room.as_str());

    let seen = sync_since(&ann, &ann_token).await;
    let timeline = &seen["rooms"]["join"][&room]["timeline"];
    let knock = state_of(timeline, "m.room.member", "@bob:us.test").unwrap();
    assert_eq!(knock["content"], json!({"displayname": "bob", "membership": "knock", "reason": "let me in"}));
    assert_eq!(timeline["limited"], false);
    let waiting = ann.get(&format!("/rooms/{room}/members?membership=knock")).await;
    assert_eq!(waiting["chunk"].as_array().unwrap().len(), 1);
    assert_eq!(waiting["chunk"][0]["state_key"], "@bob:us.test");

    let seen = sync_since(&bob, &bob_token).await;
    let knock_state = &seen["rooms"]["knock"][&room]["knock_state"];
    assert_eq!(state_of(knock_state, "m.room.name", "").unwrap()["content"], json!({"name": "Door"}));
    assert!(state_of(knock_state, "m.room.create", "").is_some());
    assert_eq!(knock_state["events"].as_array().unwrap().last().unwrap()["state_key"], "@bob:us.test");
    for event in knock_state["events"].as_array().unwrap() {
        let keys: Vec<&String> = event.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["content", "sender", "state_key", "type"]);
    }
    for path in ["/state", "/members", "/messages?dir=b", "/state/m.room.name", "/joined_members"] {
        assert_eq!(bob.get_refused(&format!("/rooms/{room}{path}")).await.0, 403, "{path}");
    }
    let repeated = bob.post_refused(&format!("/knock/{room}"), json!({"reason": "again"})).await;
    assert_eq!(repeated, (403, "M_FORBIDDEN".to_owned()));

    let bob_token = token(&seen);
    ann.post(&format!("/rooms/{room}/invite"), json!({"user_id": "@bob:us.test"})).await;
    let seen = sync_since(&bob, &bob_token).await;
    let invite_state = &seen["rooms"]["invite"][&room]["invite_state"];
    assert_eq!(state_of(invite_state, "m.room.member", "@bob:us.test").unwrap()["content"]["membership"], "invite");
    assert_eq!(seen["rooms"]["knock"], json!({}));

    let bob_token = token(&seen);
    bob.post(&format!("/join/{room}"), json!({})).await;
    let seen = sync_since(&bob, &bob_token).await;
    let joined = &seen["rooms"]["join"][&room];
    assert_eq!(seen["rooms"]["invite"], json!({}));
    let all = [&joined["state"], &joined["timeline"]].map(kinds).concat();
    for kind in ["m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.name", "m.room.member"] {
        assert!(all.contains(&kind), "{kind}");
    }
}

#[actix_web::test]
async fn a_denied_knock_is_told_with_its_event_and_nothing_else() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(knockable()).await;
    bob.post(&format!("/knock/{room}"), json!({})).await;
    let seen = bob.get("/sync").await;
    assert!(seen["rooms"]["knock"].get(&room).is_some());
    ann.say(&room, "secret").await;
    ann.post(&format!("/rooms/{room}/kick"), json!({"user_id": "@bob:us.test", "reason": "no"})).await;
    ann.say(&room, "later").await;

    let seen = sync_since(&bob, &token(&seen)).await;
    let left = &seen["rooms"]["leave"][&room];
    let events = left["timeline"]["events"].as_array().unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["content"]["reason"], "no");
    assert_eq!(events[0]["sender"], "@ann:us.test");
    assert_eq!(left["state"], json!({"events": []}));
    let again = sync_since(&bob, &token(&seen)).await;
    assert_eq!(again["rooms"]["leave"], json!({}));
    assert_eq!(bob.get_refused(&format!("/rooms/{room}/messages?dir=b")).await.0, 403);
}

/// A row about `@bob:us.test` in a room elsewhere that is called Burrow, made by the event of that number.
fn elsewhere(room: &str, number: u32, sender: &str, membership: &str, progress: Progress) -> OutOfBand {
    let content = json!({"membership": membership, "reason": "as it is"});
    let event = Event::at(number).with("room_id", room).with("sender", sender);
    let event = event.state("m.room.member", "@bob:us.test", content).build();
    let name = r#"{"content":{"name":"Burrow"},"sender":"@eve:there.test","state_key":"","type":"m.room.name"}"#;
    OutOfBand {
        room_version: RoomVersionId::V11,
        membership: MembershipState::from(membership),
        progress,
        event: event.event,
        stripped: vec!["null".to_owned(), name.to_owned(), r#"{"content":5}"#.to_owned()],
        via: vec!["there.test".try_into().unwrap()],
        since: UnixMillis(0),
        knock: None,
        joins: Vec::new(),
        early: None,
    }
}

#[actix_web::test]
async fn a_knock_elsewhere_is_told_until_its_end() {
    let server = TestServer::start().await;
    let bob = server.user("bob").await;
    let room = "!r:there.test";
    let told = async |life: u64, sender: &str, membership: &str, progress: Progress| {
        let row = elsewhere(room, u32::try_from(life).unwrap(), sender, membership, progress);
        server.commit(out_of_band_commit(room, "@bob:us.test", row, RoomOrigin::OutOfBand, life)).await;
    };
    let start = token(&bob.get("/sync").await);

    told(1, "@bob:us.test", "knock", Progress::Asking).await;
    for sync in [bob.get("/sync").await, sync_since(&bob, &start).await] {
        assert_eq!(sync["rooms"]["knock"], json!({}), "nobody is told of a knock that nobody took");
    }
    told(2, "@bob:us.test", "knock", Progress::Settled).await;
    let knocking = sync_since(&bob, &start).await;
    for sync in [&bob.get("/sync").await, &knocking] {
        let shown = sync["rooms"]["knock"][room]["knock_state"].clone();
        assert_eq!(kinds(&shown), ["m.room.name", "m.room.member"]);
        let own = state_of(&shown, "m.room.member", "@bob:us.test").unwrap();
        assert_eq!(own["content"], json!({"membership": "knock", "reason": "as it is"}));
    }
    assert_eq!(sync_since(&bob, &token(&knocking)).await["rooms"]["knock"], json!({}), "told once");
    // Asking again hides nothing of what stands.
    told(3, "@bob:us.test", "knock", Progress::Asking).await;
    assert!(bob.get("/sync").await["rooms"]["knock"].get(room).is_some());

    told(4, "@eve:there.test", "invite", Progress::Settled).await;
    let invited = sync_since(&bob, &token(&knocking)).await;
    assert_eq!(invited["rooms"]["knock"], json!({}));
    let shown = &invited["rooms"]["invite"][room]["invite_state"];
    assert_eq!(state_of(shown, "m.room.member", "@bob:us.test").unwrap()["sender"], "@eve:there.test");

    told(5, "@eve:there.test", "leave", Progress::Settled).await;
    let left = sync_since(&bob, &token(&invited)).await;
    assert_eq!(left["rooms"]["invite"], json!({}));
    let timeline = &left["rooms"]["leave"][room]["timeline"];
    assert_eq!(timeline["events"].as_array().unwrap().len(), 1);
    let ending = state_of(timeline, "m.room.member", "@bob:us.test").unwrap();
    assert_eq!((&ending["content"]["membership"], &ending["event_id"]), (&json!("leave"), &json!("$event5")));
    for key in ["room_id", "hashes", "signatures", "auth_events"] {
        assert_eq!(ending.get(key), None, "{key}");
    }
    assert_eq!(left["rooms"]["leave"][room]["state"], json!({"events": []}));
    for sync in [bob.get("/sync").await, sync_since(&bob, &token(&left)).await] {
        assert_eq!(sync["rooms"], json!({"invite": {}, "join": {}, "knock": {}, "leave": {}}));
    }

    bob.post(&format!("/rooms/{room}/forget"), json!({})).await;
    told(6, "@bob:us.test", "knock", Progress::Settled).await;
    assert!(bob.get("/sync").await["rooms"]["knock"].get(room).is_some(), "who knocks again has not forgotten");
    assert_eq!(bob.post_refused(&format!("/rooms/{room}/forget"), json!({})).await.0, 400);
    assert_eq!(bob.get_refused(&format!("/rooms/{room}/messages?dir=b")).await.0, 403);
}

#[actix_web::test]
async fn of_a_room_that_all_of_ours_left_others_tell() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(json!({"preset": "public_chat", "name": "Door", "room_version": "11"})).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    for user in [&bob, &ann] {
        user.post(&format!("/rooms/{room}/leave"), json!({})).await;
    }
    let since = token(&bob.get("/sync").await);
    // Later than any life that the room's actor had.
    let told = async |life: u64, sender: &str, membership: &str| {
        let number = u32::try_from(life - 1_000).unwrap();
        let row = elsewhere(&room, number, sender, membership, Progress::Settled);
        server.commit(out_of_band_commit(&room, "@bob:us.test", row, RoomOrigin::Existing, life)).await;
    };
    told(1_001, "@bob:us.test", "knock").await;
    let knocking = sync_since(&bob, &since).await;
    let shown = &knocking["rooms"]["knock"][&room]["knock_state"];
    assert_eq!(state_of(shown, "m.room.name", "").unwrap()["content"]["name"], "Burrow");
    assert_eq!(bob.get_refused(&format!("/rooms/{room}/state")).await.0, 403);
    told(1_002, "@eve:there.test", "ban").await;
    let left = sync_since(&bob, &token(&knocking)).await;
    let timeline = &left["rooms"]["leave"][&room]["timeline"];
    assert_eq!(timeline["events"].as_array().unwrap().len(), 1);
    assert_eq!(state_of(timeline, "m.room.member", "@bob:us.test").unwrap()["content"]["membership"], "ban");
}

#[actix_web::test]
async fn who_left_sees_nothing_newer() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(json!({"preset": "public_chat", "topic": "old"})).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    ann.say(&room, "before").await;
    let since = token(&bob.get("/sync").await);
    ann.say(&room, "between").await;
    bob.post(&format!("/rooms/{room}/leave"), Value::Null).await;
    let secret = ann.say(&room, "after").await;
    ann.put(&format!("/rooms/{room}/state/m.room.topic"), json!({"topic": "new"})).await;
    let ids = server.user("cat").await;
    ids.post(&format!("/join/{room}"), json!({})).await;

    let seen = sync_since(&bob, &since).await;
    let left = &seen["rooms"]["leave"][&room];
    assert_eq!(bodies(&left["timeline"]), ["between"]);
    let own = state_of(&left["timeline"], "m.room.member", "@bob:us.test").unwrap();
    assert_eq!(own["content"]["membership"], "leave");
    assert_eq!(own["unsigned"]["prev_content"]["membership"], "join");
    assert_eq!(seen["rooms"]["join"], json!({}));

    let page = bob.get(&format!("/rooms/{room}/messages?dir=b&limit=50")).await;
    let said: Vec<&str> =
        page["chunk"].as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str()).collect();
    assert_eq!(said, ["between", "before"]);
    assert_eq!(bob.get_refused(&format!("/rooms/{room}/event/{secret}")).await, (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(bob.get_refused(&format!("/rooms/{room}/context/{secret}")).await.0, 404);
    assert_eq!(bob.get(&format!("/rooms/{room}/state/m.room.topic")).await, json!({"topic": "old"}));
    let members = bob.get(&format!("/rooms/{room}/members")).await;
    assert_eq!(members["chunk"].as_array().unwrap().len(), 2);
    assert_eq!(bob.get_refused(&format!("/rooms/{room}/joined_members")).await.0, 403);

    bob.post(&format!("/rooms/{room}/forget"), json!({})).await;
    assert_eq!(bob.get_refused(&format!("/rooms/{room}/state/m.room.topic")).await.0, 403);
    bob.post(&format!("/join/{room}"), json!({})).await;
    assert_eq!(bob.get(&format!("/rooms/{room}/state/m.room.topic")).await, json!({"topic": "new"}));
    assert!(bob.get("/sync").await["rooms"]["join"].get(&room).is_some());
}

#[actix_web::test]
async fn gaps_are_told_and_can_be_paged() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let room = ann.room(json!({"topic": "one"})).await;
    let since = token(&ann.get("/sync").await);
    ann.put(&format!("/rooms/{room}/state/m.room.topic"), json!({"topic": "two"})).await;
    for number in 0..6 {
        ann.say(&room, &format!("m{number}")).await;
    }
    ann.put(&format!("/rooms/{room}/state/m.room.name"), json!({"name": "Name"})).await;

    let filter = r#"{"room":{"timeline":{"limit":3}}}"#.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
    let seen = ann.get(&format!("/sync?since={since}&filter={filter}")).await;
    let joined = &seen["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["limited"], true);
    assert_eq!(bodies(&joined["timeline"]), ["m4", "m5"]);
    assert_eq!(kinds(&joined["state"]), ["m.room.topic"]);
    assert_eq!(joined["state"]["events"][0]["content"], json!({"topic": "two"}));

    let after = ann.get(&format!("/sync?since={since}&filter={filter}&use_state_after=true")).await;
    let joined_after = &after["rooms"]["join"][&room];
    assert_eq!(kinds(&joined_after["state_after"]), ["m.room.name", "m.room.topic"]);
    assert_eq!(joined_after.get("state"), None);
    let unstable = ann.get(&format!("/sync?since={since}&org.matrix.msc4222.use_state_after=true")).await;
    assert!(unstable["rooms"]["join"][&room].get("org.matrix.msc4222.state_after").is_some());

    let mut from = joined["timeline"]["prev_batch"].as_str().unwrap().to_owned();
    let mut said = Vec::new();
    let mut last = Value::Null;
    for _ in 0..20 {
        let page = ann.get(&format!("/rooms/{room}/messages?dir=b&limit=2&from={from}")).await;
        said.extend(
            page["chunk"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|event| event["content"]["body"].as_str().map(ToOwned::to_owned)),
        );
        if let Some(event) = page["chunk"].as_array().unwrap().last() {
            last = event["type"].clone();
        }
        match page["end"].as_str() {
            Some(end) => end.clone_into(&mut from),
            None => break,
        }
    }
    assert_eq!(said, ["m3", "m2", "m1", "m0"]);
    assert_eq!(last, "m.room.create");
}

#[actix_web::test]
async fn paging_forward_meets_every_event_once() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let room = ann.room(json!({})).await;
    for number in 0..5 {
        ann.say(&room, &format!("m{number}")).await;
    }
    let mut path = format!("/rooms/{room}/messages?dir=f&limit=3");
    let mut ids = Vec::new();
    for _ in 0..20 {
        let page = ann.get(&path).await;
        let chunk = page["chunk"].as_array().unwrap();
        ids.extend(chunk.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()));
        match page["end"].as_str() {
            Some(end) if !chunk.is_empty() => path = format!("/rooms/{room}/messages?dir=f&limit=3&from={end}"),
            _ => break,
        }
    }
    let mut backward: Vec<String> = ann.get(&format!("/rooms/{room}/messages?dir=b&limit=100")).await["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_id"].as_str().unwrap().to_owned())
        .collect();
    backward.reverse();
    assert_eq!(ids, backward);
    assert!(ids.len() > 10);
}

#[actix_web::test]
async fn tokens_of_others_are_refused_and_of_the_future_start_anew() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let room = ann.room(json!({})).await;
    for foreign in ["", "s1", "nonsense", "s72594_4483_1934", "t1_5"] {
        let refused = ann.get_refused(&format!("/sync?since={foreign}")).await;
        assert_eq!(refused, (400, "M_INVALID_PARAM".to_owned()), "{foreign}");
    }
    let seen = ann.get("/sync?since=s1_0.99999999&timeout=30000").await;
    assert_eq!(seen["rooms"]["join"][&room]["timeline"]["limited"], true);
    let all = [&seen["rooms"]["join"][&room]["state"], &seen["rooms"]["join"][&room]["timeline"]].map(kinds).concat();
    assert!(all.contains(&"m.room.create"));
    assert!(sync_since(&ann, &token(&seen)).await["rooms"]["join"].get(&room).is_none());
}

#[actix_web::test]
async fn a_waiting_sync_wakes_for_news() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(json!({"preset": "public_chat"})).await;
    let since = token(&bob.get("/sync").await);
    let path = format!("/sync?since={since}&timeout=30000");
    let (seen, ()) = futures_util::join!(bob.get(&path), async {
        bob.post(&format!("/join/{room}"), json!({})).await;
    });
    assert!(seen["rooms"]["join"].get(&room).is_some());

    let since = token(&seen);
    let path = format!("/sync?since={since}&timeout=30000");
    let (seen, ()) = futures_util::join!(bob.get(&path), async {
        ann.say(&room, "hello").await;
    });
    assert_eq!(bodies(&seen["rooms"]["join"][&room]["timeline"]), ["hello"]);
    let quiet = bob.get(&format!("/sync?since={}&timeout=5", token(&seen))).await;
    assert_eq!(quiet["rooms"]["join"], json!({}));
    assert_eq!(token(&quiet), token(&seen));
}

#[actix_web::test]
async fn a_waiting_sync_ends_with_its_token() {
    let server = TestServer::start().await;
    let bob = server.user("bob").await;
    let path = format!("/sync?since={}&timeout=5000", token(&bob.get("/sync").await));
    let ((status, answer), ()) = futures_util::join!(bob.ask(Method::GET, &path, Value::Null), async {
        while server.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        bob.post("/logout", json!({})).await;
    });
    assert_eq!((status, &answer["errcode"]), (401, &json!("M_UNKNOWN_TOKEN")));
}

#[actix_web::test]
async fn lazy_members_are_those_who_spoke() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let room = ann.room(json!({"preset": "public_chat", "name": "Name"})).await;
    for name in ["bob", "cat", "dan"] {
        server.user(name).await.post(&format!("/join/{room}"), json!({})).await;
    }
    let bob = Client::of(&server, "bob");
    for number in 0..3 {
        bob.say(&room, &format!("m{number}")).await;
    }
    let filter = r#"{"room":{"timeline":{"limit":2},"state":{"lazy_load_members":true}}}"#
        .replace('"', "%22")
        .replace('{', "%7B")
        .replace('}', "%7D");
    let seen = ann.get(&format!("/sync?filter={filter}")).await;
    let joined = &seen["rooms"]["join"][&room];
    let members: Vec<&str> = joined["state"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| event["state_key"].as_str().unwrap())
        .collect();
    assert_eq!(members, ["@ann:us.test", "@bob:us.test"]);
    assert_eq!(joined["summary"], json!({"m.invited_member_count": 0, "m.joined_member_count": 4}));

    let dan = Client::of(&server, "dan");
    let since = token(&seen);
    dan.say(&room, "hello").await;
    let seen = ann.get(&format!("/sync?since={since}&filter={filter}")).await;
    let state = &seen["rooms"]["join"][&room]["state"];
    assert!(state_of(state, "m.room.member", "@dan:us.test").is_some());
    assert!(state_of(state, "m.room.member", "@cat:us.test").is_none());
}

#[actix_web::test]
async fn a_transaction_makes_one_event_and_is_told_to_its_device() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(json!({"preset": "public_chat"})).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    let first = ann.say(&room, "once").await;
    assert_eq!(ann.say(&room, "once").await, first);
    let seen = ann.get(&format!("/rooms/{room}/event/{first}")).await;
    assert_eq!(seen["unsigned"]["transaction_id"], "once");
    let seen = bob.get(&format!("/rooms/{room}/event/{first}")).await;
    assert_eq!(seen["unsigned"].get("transaction_id"), None);
    for key in ["hashes", "signatures", "auth_events", "prev_events", "depth", "origin"] {
        assert_eq!(seen.get(key), None, "{key}");
    }

    let redaction = ann.put(&format!("/rooms/{room}/redact/{first}/t1"), json!({"reason": "oops"})).await;
    let repeat = ann.put(&format!("/rooms/{room}/redact/{first}/t1"), json!({"reason": "oops"})).await;
    assert_eq!(redaction, repeat);
    let seen = bob.get(&format!("/rooms/{room}/event/{first}")).await;
    assert_eq!(seen["content"], json!({}));
    assert_eq!(seen["unsigned"]["redacted_because"]["content"]["reason"], "oops");
}

#[actix_web::test]
async fn rooms_are_made_as_wished() {
    let server = TestServer::start().await;
    let (ann, _bob) = (server.user("ann").await, server.user("bob").await);
    for version in ["6", "7", "8", "9", "10", "11", "12"] {
        let room = ann
            .room(json!({"room_version": version, "preset": "trusted_private_chat", "invite": ["@bob:us.test"]}))
            .await;
        let create = ann.get(&format!("/rooms/{room}/state/m.room.create")).await;
        assert_eq!(create["room_version"], version);
        let levels = ann.get(&format!("/rooms/{room}/state/m.room.power_levels/")).await;
        if version == "12" {
            assert!(!room.contains(':'));
            assert_eq!(create["additional_creators"], json!(["@bob:us.test"]));
            assert_eq!(levels["users"], json!({}));
        } else {
            assert_eq!(levels["users"], json!({"@ann:us.test": 100, "@bob:us.test": 100}), "{version}");
        }
        let event = ann.get(&format!("/rooms/{room}/state/m.room.create/?format=event")).await;
        assert_eq!(event["sender"], "@ann:us.test");
        assert_eq!(event["room_id"], room.as_str());
    }
    for version in ["1", "5", "13", "x"] {
        let refused = ann.post_refused("/createRoom", json!({ "room_version": version })).await;
        assert_eq!(refused, (400, "M_UNSUPPORTED_ROOM_VERSION".to_owned()), "{version}");
    }
    let wishes = json!({"room_version": "12", "power_level_content_override": {"users": {"@ann:us.test": 100}}});
    assert_eq!(ann.post_refused("/createRoom", wishes).await.0, 400);
    ann.room(json!({"room_alias_name": "door", "visibility": "public"})).await;
    let refused = ann.post_refused("/createRoom", json!({"room_alias_name": "door"})).await;
    assert_eq!(refused, (400, "M_ROOM_IN_USE".to_owned()));
    assert_eq!(ann.post_refused("/createRoom", json!({"invite": ["@nobody:us.test"]})).await.0, 404);
    let alias = ann.post("/join/%23door:us.test", json!({})).await;
    assert!(alias["room_id"].as_str().is_some());
    assert_eq!(ann.post_refused("/join/%23gone:us.test", json!({})).await, (404, "M_NOT_FOUND".to_owned()));
    // Nobody but this server could be asked about these.
    for path in ["/knock/!gone:us.test", "/join/!gone:us.test", "/join/!gone", "/rooms/!gone:us.test/join"] {
        assert_eq!(ann.post_refused(path, json!({})).await, (404, "M_NOT_FOUND".to_owned()), "{path}");
    }
}

#[actix_web::test]
async fn members_of_an_allowed_room_join_a_restricted_one() {
    let server = TestServer::start().await;
    let (ann, bob, cat) = (server.user("ann").await, server.user("bob").await, server.user("cat").await);
    let space = ann.room(json!({"preset": "public_chat"})).await;
    bob.post(&format!("/join/{space}"), json!({})).await;
    for (version, join_rule) in [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")] {
        let allow = json!([{"type": "m.room_membership", "room_id": space}]);
        let content = json!({"join_rule": join_rule, "allow": allow});
        let room = ann
            .room(json!({
                "room_version": version,
                "initial_state": [{"type": "m.room.join_rules", "content": content}],
            }))
            .await;
        assert_eq!(cat.post_refused(&format!("/join/{room}"), json!({})).await.0, 403, "{version}");
        bob.post(&format!("/rooms/{room}/join"), json!({})).await;
        let own = bob.get(&format!("/rooms/{room}/state/m.room.member/@bob:us.test")).await;
        assert_eq!(own["join_authorised_via_users_server"], "@ann:us.test", "{version}");
        let forged = json!({"membership": "join", "join_authorised_via_users_server": "@ann:us.test"});
        let path = format!("/rooms/{room}/state/m.room.member/@cat:us.test");
        assert_eq!(cat.put_refused(&path, forged).await.0, 403, "{version}");
    }
}

#[actix_web::test]
async fn memberships_are_set_as_state_too() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let room = ann.room(knockable()).await;
    let path = format!("/rooms/{room}/state/m.room.member/@bob:us.test");
    bob.put(&path, json!({"membership": "knock", "reason": "please"})).await;
    assert_eq!(ann.get(&path).await["reason"], "please");
    assert_eq!(ann.put_refused(&path, json!({"membership": "join"})).await.0, 403);
    assert_eq!(ann.put_refused(&path, json!({"membership": "odd"})).await.0, 400);
    assert_eq!(ann.put_refused(&path, json!({})).await.0, 400);
    ann.put(&path, json!({"membership": "invite"})).await;
    bob.put(&path, json!({"membership": "join"})).await;
    ann.put(&path, json!({"membership": "ban"})).await;
    assert_eq!(bob.post_refused(&format!("/join/{room}"), json!({})).await.0, 403);
    ann.put(&path, json!({"membership": "leave"})).await;
    assert_eq!(ann.get(&path).await["membership"], "leave");
    let long = "x".repeat(513);
    let refused = bob.post_refused(&format!("/knock/{room}"), json!({ "reason": long })).await;
    assert_eq!(refused, (413, "M_TOO_LARGE".to_owned()));
    bob.post(&format!("/knock/{room}?server_name=x&via=y"), json!({"reason": "x".repeat(512)})).await;
    bob.post(&format!("/rooms/{room}/leave"), json!({})).await;
    assert_eq!(ann.get(&format!("/rooms/{room}/members?membership=knock")).await["chunk"], json!([]));
    assert_eq!(bob.get("/joined_rooms").await, json!({"joined_rooms": []}));
    assert_eq!(ann.get("/joined_rooms").await, json!({ "joined_rooms": [room] }));
}

#[actix_web::test]
async fn strangers_learn_nothing() {
    let server = TestServer::start().await;
    let (ann, eve) = (server.user("ann").await, server.user("eve").await);
    let room = ann.room(json!({})).await;
    let event = ann.say(&room, "secret").await;
    for place in [room.as_str(), "!nowhere:x"] {
        for path in ["/state", "/state/m.room.name", "/members", "/joined_members", "/messages?dir=b"] {
            let refused = eve.get_refused(&format!("/rooms/{place}{path}")).await;
            assert_eq!(refused, (403, "M_FORBIDDEN".to_owned()), "{place} {path}");
        }
        for path in ["/event/", "/context/"] {
            let refused = eve.get_refused(&format!("/rooms/{place}{path}{event}")).await;
            assert_eq!(refused, (404, "M_NOT_FOUND".to_owned()), "{place} {path}");
        }
        let refused = eve.put_refused(&format!("/rooms/{place}/send/m.room.message/1"), json!({})).await;
        assert_eq!(refused, (403, "M_FORBIDDEN".to_owned()), "{place}");
        let (status, _) = eve.ask(Method::PUT, &format!("/rooms/{place}/state/m.room.topic"), json!({})).await;
        assert_eq!(status, 403, "{place}");
    }
    ann.put(&format!("/rooms/{room}/state/m.room.history_visibility"), json!({"history_visibility": "world_readable"}))
        .await;
    let open = ann.say(&room, "open").await;
    assert_eq!(eve.get_refused(&format!("/rooms/{room}/event/{event}")).await.0, 404);
    assert_eq!(eve.get(&format!("/rooms/{room}/event/{open}")).await["content"]["body"], "open");
    let page = eve.get(&format!("/rooms/{room}/messages?dir=b&limit=100")).await;
    assert_eq!(page["chunk"].as_array().unwrap().len(), 2, "the change of visibility and what came after");
}

#[actix_web::test]
async fn context_shows_what_stands_around() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let room = ann.room(json!({})).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        ids.push(ann.say(&room, &format!("m{number}")).await);
    }
    let context = ann.get(&format!("/rooms/{room}/context/{}?limit=2", ids[2])).await;
    assert_eq!(context["event"]["event_id"], ids[2].as_str());
    assert_eq!(context["events_before"][0]["event_id"], ids[1].as_str());
    assert_eq!(context["events_after"][0]["event_id"], ids[3].as_str());
    let start = context["start"].as_str().unwrap();
    let page = ann.get(&format!("/rooms/{room}/messages?dir=b&limit=1&from={start}")).await;
    assert_eq!(page["chunk"][0]["event_id"], ids[0].as_str());
    let end = context["end"].as_str().unwrap();
    let page = ann.get(&format!("/rooms/{room}/messages?dir=f&limit=1&from={end}")).await;
    assert_eq!(page["chunk"][0]["event_id"], ids[4].as_str());
    assert!(context["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
}

#[actix_web::test]
async fn a_presence_that_there_is_not_is_refused() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    for presence in ["offline", "online", "unavailable"] {
        ann.get(&format!("/sync?set_presence={presence}")).await;
    }
    for presence in ["asleep", "%ff", ""] {
        let refused = ann.get_refused(&format!("/sync?set_presence={presence}")).await;
        assert_eq!(refused, (400, "M_INVALID_PARAM".to_owned()), "{presence}");
    }
}
