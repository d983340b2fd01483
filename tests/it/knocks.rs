//! Knocks by users of other servers, in every room version that has them.
//! May not: judge signatures or ids; the independent peer under `tests/interop/` does.

use std::thread;

use serde_json::{Value, json};

use crate::support::{FakePeer, TestServer, encoded, send_knock_target};

#[test]
fn every_version_and_rule_that_lets_knock_does_and_keeps_it() {
    let peer = FakePeer::new("peer.test");
    let mut server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let mut knocked: Vec<(String, String, String)> = Vec::new();
    for (version, rule) in [
        ("7", "knock"),
        ("8", "knock"),
        ("9", "knock"),
        ("10", "knock"),
        ("11", "knock"),
        ("12", "knock"),
        ("10", "knock_restricted"),
        ("11", "knock_restricted"),
        ("12", "knock_restricted"),
    ] {
        let room_id = owner.room_with_rule(version, json!({ "join_rule": rule, "allow": [] }), &[]);
        let user_id = peer.user(&format!("ann{version}{rule}"));
        let template = peer.knock_template(&server, &room_id, &user_id);
        assert_eq!(template.version.id().as_str(), version);
        let event = &template.event;
        assert_eq!(
            (&event["origin"], &event["content"]),
            (&json!("vestibule.test"), &json!({ "membership": "knock" }))
        );
        for absent in ["hashes", "signatures", "unsigned", "event_id"] {
            assert!(event.get(absent).is_none(), "{absent}");
        }
        let since = owner.now();
        let knock = peer.sign(template.with_reason("otters"));
        let answer = peer.send_knock(&server, &room_id, &knock).ok();
        let types = |key: &str| -> Vec<String> {
            answer[key].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(types("knock_room_state"), types("knock_state_events"));
        assert!(types("knock_room_state").contains(&"m.room.create".to_owned()), "{answer}");
        assert!(answer["knock_room_state"].as_array().unwrap().iter().all(|event| event["signatures"].is_object()));
        assert!(
            answer["knock_state_events"].as_array().unwrap().iter().all(|event| event.as_object().unwrap().len() == 4)
        );
        let news = owner.sync_since(&since);
        let seen: Vec<&Value> =
            news["rooms"]["join"][&room_id]["timeline"]["events"].as_array().unwrap().iter().collect();
        assert_eq!((seen.len(), &seen[0]["event_id"]), (1, &json!(knock.event_id)), "{version} {rule}");
        knocked.push((room_id, user_id, knock.event_id));
    }
    for (version, rule) in
        [("7", "knock_restricted"), ("9", "knock_restricted"), ("9", "restricted"), ("11", "invite"), ("11", "public")]
    {
        let room_id = owner.room_with_rule(version, json!({ "join_rule": rule, "allow": [] }), &[]);
        peer.make_knock(&server, &room_id, &peer.user("ann")).refused(403, "M_FORBIDDEN");
    }
    server.kill();
    server.restart();
    for (room_id, user_id, event_id) in &knocked {
        let waiting = owner.members(room_id, "?membership=knock");
        assert_eq!(waiting.len(), 1);
        assert_eq!((&waiting[0]["state_key"], &waiting[0]["event_id"]), (&json!(user_id), &json!(event_id)));
    }
    assert_eq!(server.knock_totals()["pending"], knocked.len());
    // After the restart the peer takes one back, and the keys were kept.
    let (room_id, user_id, _) = &knocked[5];
    peer.retract(&server, room_id, user_id);
    assert_eq!(owner.membership(room_id, user_id).as_deref(), Some("leave"));
    assert_eq!(peer.key_requests(), 1);
}

#[test]
fn banned_and_not_knockable_read_the_same_outside() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let (banned, closed) = (owner.knockable_room("11"), owner.create_room(json!({ "room_version": "11" })));
    owner.about(&banned, "ban", &peer.user("ann"));
    let bodies = [&banned, &closed]
        .map(|room_id| peer.make_knock(&server, room_id, &peer.user("ann")).refused(403, "M_FORBIDDEN"));
    assert_eq!(bodies[0], bodies[1]);
}

#[test]
fn one_user_many_times_at_once_is_one_knock() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("12");
    let template = peer.knock_template(&server, &room_id, &peer.user("ann"));
    let federation = server.federation();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let senders: Vec<_> = (0..8)
            .map(|number| {
                let knock = peer.sign(template.clone().with_reason(&format!("number {number}")));
                let (peer, federation, room_id) = (&peer, &federation, &room_id);
                scope.spawn(move || {
                    let mut connection = federation.connect().unwrap();
                    let target = send_knock_target(room_id, &knock.event_id);
                    peer.ask_on(&mut connection, "PUT", &target, Some(&knock.event)).unwrap().status
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403].contains(status)), "{statuses:?}");
    assert_eq!(owner.members(&room_id, "?membership=knock").len(), 1);
    let knocks = server.knock_totals();
    assert_eq!((&knocks["admitted"], &knocks["refused"]["already_knocking"]), (&json!(1), &json!(7)));
}

#[test]
fn a_remote_knock_is_answered_by_an_invite_which_its_user_may_turn_down() {
    let peer = FakePeer::new("peer.test");
    let server = TestServer::new().knowing(&[&peer]).start();
    let owner = server.register("owner");
    let room_id = owner.knockable_room("11");
    let ann = peer.user("ann");
    peer.knock(&server, &room_id, &ann, "otters");
    owner.about(&room_id, "invite", &ann);
    assert_eq!(owner.membership(&room_id, &ann).as_deref(), Some("invite"));
    let knocks = server.knock_totals();
    assert_eq!((&knocks["accepted"], &knocks["pending"]), (&json!(1), &json!(0)));
    let path = format!("/_vestibule/admin/v1/rooms/{}/knocks", encoded(&room_id));
    assert_eq!(server.ask_admin(&path).ok()["knocks"], json!([]));
    peer.make_knock(&server, &room_id, &ann).refused(403, "M_FORBIDDEN");
    assert_eq!(server.knock_totals()["refused"], json!({ "already_invited": 1 }));
    peer.retract(&server, &room_id, &ann);
    assert_eq!(owner.membership(&room_id, &ann).as_deref(), Some("leave"));
    assert_eq!(server.knock_totals()["retracted"], 0, "an invite was turned down, no knock taken back");
}
