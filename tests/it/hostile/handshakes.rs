//! Handshakes of other servers' users with our rooms: whose word counts, and what of it we sign.
//! May not: take a refusal for enough; the room must be as it was, and the right event must still be taken.

use serde_json::{Value, json};

use super::ground::{Ground, Handshake, assert_refused, is_signed_by_us};
use crate::support::{FakePeer, SignedEvent, encoded, path_of};

#[test]
fn cve_2019_18835_an_event_counts_only_with_the_signature_of_its_senders_server() {
    let other = FakePeer::new("other.test");
    // Has the peer's name and the id of its key, but not the key.
    let impostor = FakePeer::new("peer.test");
    let ground = Ground::with(&[&other]);
    let ann = ground.peer.user("ann");
    for handshake in Handshake::ALL {
        let room_id = handshake.room(&ground, &ann);
        let template = handshake.template(&ground, &room_id, &ann);
        let before = ground.state_of(&room_id);
        let right = ground.peer.sign(template.clone());
        let mut unsigned = right.clone();
        unsigned.event.remove("signatures");
        let bob = template.clone().for_user(&other.user("bob"));
        for (event, what) in [
            (&unsigned, "not signed"),
            (&impostor.sign(template.clone()), "signed with another key"),
            (&other.sign(template.clone()), "signed by another server"),
            (&other.sign(bob.clone()), "of another server's user, signed by that server"),
            (&ground.peer.sign(bob), "of another server's user, signed by the one that sends it"),
        ] {
            assert_refused(&handshake.send(&ground, &room_id, event), &format!("{handshake:?} {what}"));
        }
        assert_eq!(ground.state_of(&room_id), before);
        handshake.send(&ground, &room_id, &right).ok();
    }
    ground.still_serves();
}

#[test]
fn cve_2020_26257_path_and_event_name_the_same_room_and_event() {
    let ground = Ground::new();
    let ann = ground.peer.user("ann");
    for handshake in Handshake::ALL {
        let rooms = [handshake.room(&ground, &ann), handshake.room(&ground, &ann)];
        let templates = rooms.each_ref().map(|room_id| handshake.template(&ground, room_id, &ann));
        // What this room would take, but for the name of the other.
        let misnamed = ground.peer.sign(templates[0].clone().with("room_id", json!(rooms[1])));
        let [here, there] = templates.map(|template| ground.peer.sign(template));
        let before = rooms.each_ref().map(|room_id| ground.state_of(room_id));
        let otherwise_named = SignedEvent { event_id: there.event_id.clone(), event: here.event.clone() };
        for (room_id, event, what) in [
            (&rooms[1], &here, "another room's path"),
            (&rooms[0], &there, "another room's event"),
            (&rooms[0], &misnamed, "an event of this room with another room's name"),
            (&rooms[0], &otherwise_named, "another event's id"),
        ] {
            let answer = handshake.send(&ground, room_id, event);
            assert_eq!(answer.status, 400, "{handshake:?} {what}: {}", answer.text());
        }
        assert_eq!(rooms.each_ref().map(|room_id| ground.state_of(room_id)), before);
        for (room_id, event) in rooms.iter().zip([&here, &there]) {
            handshake.send(&ground, room_id, event).ok();
            ground.owner.say(room_id, "1", "still here");
        }
    }
    ground.still_serves();
}

#[test]
fn synapse_5744_no_server_moves_the_users_of_another() {
    let other = FakePeer::new("other.test");
    let ground = Ground::with(&[&other]);
    let ann = ground.peer.user("ann");
    for handshake in Handshake::ALL {
        let room_id = handshake.room(&ground, &ann);
        for user_id in [other.user("bob"), ground.owner.user_id.clone()] {
            let answer = ground.peer.ask(&ground.server, "GET", &handshake.make_target(&room_id, &user_id), None);
            match handshake {
                Handshake::Knock => answer.refused(400, "M_INVALID_PARAM"),
                _ => answer.refused(403, "M_FORBIDDEN"),
            };
        }
        // From the template of its own user it makes an event for another user of its own: the state key names another.
        let template = handshake.template(&ground, &room_id, &ann);
        for (key, user_id) in [("state_key", ground.peer.user("bea")), ("state_key", ground.owner.user_id.clone())] {
            let event = ground.peer.sign(template.clone().with(key, json!(user_id)));
            // By its structure, before any rule is asked whether ann may do this to others.
            handshake.send(&ground, &room_id, &event).refused(400, "M_INVALID_PARAM");
        }
        assert_eq!(ground.owner.membership(&room_id, &ground.owner.user_id).as_deref(), Some("join"));
    }
    ground.still_serves();
}

#[test]
fn continuwuity_688cd8f46_neither_templates_nor_events_of_others_bear_our_signature() {
    let ground = Ground::new();
    let ann = ground.peer.user("ann");
    for handshake in Handshake::ALL {
        let room_id = handshake.room(&ground, &ann);
        let template = handshake.template(&ground, &room_id, &ann);
        for absent in ["signatures", "hashes", "event_id", "unsigned"] {
            assert!(template.event.get(absent).is_none(), "{handshake:?} {absent}");
        }
        let event = ground.peer.sign(template);
        let answer = handshake.send(&ground, &room_id, &event).ok();
        assert!(answer["event"].is_null() || !is_signed_by_us(&answer["event"]), "{answer}");
        if handshake == Handshake::Leave {
            continue;
        }
        // As the room keeps it, read by a server that is in the room.
        if handshake == Handshake::Knock {
            ground.owner.set_state(&room_id, "m.room.join_rules", "", json!({ "join_rule": "public" }));
            ground.peer.join(&ground.server, &room_id, &ground.peer.user("bea")).ok();
        }
        let target = format!("/_matrix/federation/v1/event/{}", encoded(&event.event_id));
        let kept = ground.peer.ask(&ground.server, "GET", &target, None).ok();
        let signers: Vec<&String> = kept["pdus"][0]["signatures"].as_object().unwrap().keys().collect();
        assert_eq!(signers, ["peer.test"]);
    }
}

#[test]
fn cve_2025_68667_an_invite_is_judged_before_it_is_signed() {
    let other = FakePeer::new("other.test");
    let impostor = FakePeer::new("peer.test");
    let ground = Ground::with(&[&other]);
    let target = ground.owner.user_id.clone();
    let invite = json!({
        "auth_events": [], "prev_events": ["$last"], "depth": 9, "content": { "membership": "invite" },
        "room_id": "!theirs:peer.test", "sender": ground.peer.user("bob"), "state_key": target, "type": "m.room.member",
    });
    let with = |key: &str, value: Value| {
        let mut event = invite.clone();
        event[key] = value;
        event
    };
    let membership = |word: &str| with("content", json!({ "membership": word }));
    let put = |event: &SignedEvent, room_id: &str, version: &str| {
        let body = json!({ "room_version": version, "event": event.event, "invite_room_state": [] });
        let body = serde_json::from_value(body).unwrap();
        ground.peer.ask(&ground.server, "PUT", &path_of("v2/invite", room_id, &event.event_id), Some(&body))
    };
    for (event, what) in [
        (membership("join"), "a join of our user"),
        (membership("leave"), "a leave of our user"),
        (membership("ban"), "a ban"),
        (membership("knock"), "a knock of our user"),
        (with("type", json!("m.room.power_levels")), "another type"),
        (with("type", json!("m.room.create")), "a creation"),
        (with("sender", json!(other.user("bob"))), "in the name of another server's user"),
        (with("sender", json!(target)), "in the name of our user"),
        (with("state_key", json!(other.user("bob"))), "for another server's user"),
        (with("room_id", json!("!else:peer.test")), "another room than the path"),
        (with("depth", json!(-1)), "a depth that none can have"),
    ] {
        let event = ground.peer.sign_for("11", event);
        assert_refused(&put(&event, "!theirs:peer.test", "11"), what);
    }
    let right = ground.peer.sign_for("11", invite.clone());
    let mut unsigned = right.clone();
    unsigned.event.remove("signatures");
    let renamed = SignedEvent { event_id: "$another".to_owned(), event: right.event.clone() };
    // An honest invite of another server, which only that server may hand to us, whoever has signed it besides.
    let of_other = other.sign_for("11", with("sender", json!(other.user("bob"))));
    let of_other = ground.peer.sign_too("11", &of_other);
    assert_refused(&put(&of_other, "!theirs:peer.test", "11"), "of another server's user, with both signatures");
    assert_refused(&put(&unsigned, "!theirs:peer.test", "11"), "not signed");
    assert_refused(
        &put(&impostor.sign_for("11", invite.clone()), "!theirs:peer.test", "11"),
        "signed with another key",
    );
    assert_refused(&put(&renamed, "!theirs:peer.test", "11"), "another event id in the path");
    assert_refused(&put(&right, "!theirs:peer.test", "org.example.99"), "a version that nobody knows");
    assert_refused(&put(&right, "!theirs:peer.test", "12"), "a version by whose rules the event has another id");
    let invites = || ground.owner.sync("timeout=0")["rooms"]["invite"].as_object().cloned().unwrap_or_default();
    assert!(invites().is_empty());
    let answer = put(&right, "!theirs:peer.test", "11").ok();
    let signers: Vec<&String> = answer["event"]["signatures"].as_object().unwrap().keys().collect();
    assert_eq!(signers, ["peer.test", "vestibule.test"]);
    assert_eq!(invites().len(), 1);
    ground.still_serves();
}
