//! Who may end a knock or an invite of our user in a room that we are not in: whom it was made with, and about that very knock.
//! May not: let silence pass for refusal; an honest word from the right server still counts afterwards.

use serde_json::{Value, json};

use super::guest::Guest;
use crate::support::{FakePeer, until};

/// The id of the knock that was sent last.
fn knock_id(guest: &Guest) -> String {
    let target = guest.peer.seen("send_knock").pop().unwrap().target;
    target.rsplit('/').next().unwrap().replace("%24", "$")
}

#[test]
fn continuwuity_b0c1381f0_a_knock_is_ended_by_its_room_alone() {
    let stranger = FakePeer::new("stranger.test");
    let impostor = FakePeer::new("peer.test");
    let guest = Guest::with(&[&stranger]);
    let anna = guest.anna.user_id.clone();
    for version in ["11", "12"] {
        // Where anna knocks as well: what is said of one room is not said of the other.
        let elsewhere = guest.room(version, "knock");
        guest.knock(&elsewhere);
        let room_id = guest.room(version, "knock");
        guest.knock(&room_id);
        let knock = knock_id(&guest);
        let leave = |sender: &str, membership: &str| {
            json!({
                "type": "m.room.member", "room_id": room_id, "sender": sender, "state_key": anna, "depth": 99,
                "content": { "membership": membership }, "prev_events": [knock], "auth_events": [knock],
            })
        };
        let owner = guest.peer.user("owner");
        let with = |mut event: Value, key: &str, value: Value| {
            event[key] = value;
            event
        };
        let foul = [
            (&stranger, stranger.sign_for(version, leave(&stranger.user("eve"), "leave")), "by a stranger"),
            (&stranger, stranger.sign_for(version, leave(&stranger.user("eve"), "ban")), "a ban by a stranger"),
            (&stranger, stranger.sign_for(version, leave(&owner, "leave")), "in the owner's name"),
            (&stranger, stranger.sign_for(version, leave(&anna, "leave")), "in anna's own name"),
            (
                &guest.peer,
                guest.peer.sign_for(version, leave(&anna, "leave")),
                "in anna's own name, by the room's server",
            ),
            (&guest.peer, impostor.sign_for(version, leave(&owner, "leave")), "with a signature of nobody"),
            (&guest.peer, guest.peer.sign_for(version, leave(&owner, "join")), "a join"),
            (&guest.peer, guest.peer.sign_for(version, leave(&owner, "knock")), "another knock"),
            (
                &guest.peer,
                guest.peer.sign_for(version, with(leave(&owner, "leave"), "auth_events", json!(["$another"]))),
                "about another knock",
            ),
            (
                &guest.peer,
                guest.peer.sign_for(version, with(leave(&owner, "leave"), "room_id", json!("!else:peer.test"))),
                "of a room of nobody",
            ),
            (
                &guest.peer,
                guest.peer.sign_for(version, with(leave(&owner, "leave"), "room_id", json!(elsewhere))),
                "of another room",
            ),
            (
                &guest.peer,
                guest.peer.sign_for(version, with(leave(&owner, "leave"), "type", json!("m.room.message"))),
                "no member event",
            ),
        ];
        for (peer, event, what) in foul {
            let pdu = serde_json::to_value(&event.event).unwrap();
            let said = peer.send(&guest.server, &[pdu]).ok();
            let outcome = said["pdus"].get(&event.event_id);
            assert!(outcome.is_none_or(|outcome| outcome["error"].is_string()), "{version} {what}: {said}");
            assert!(guest.shown("knock", &room_id).is_some(), "{version} {what}");
            assert!(guest.shown("knock", &elsewhere).is_some(), "{version} {what}");
        }
        guest.peer.turn_out(&guest.server, &room_id, &anna, "leave");
        until("the right denial counts", || guest.shown("knock", &room_id).is_none().then_some(()));
    }
}

#[test]
fn the_denial_of_a_former_knock_does_not_end_the_next() {
    let guest = Guest::new();
    let room_id = guest.room("11", "knock");
    guest.knock(&room_id);
    let denial = guest.peer.turn_out(&guest.server, &room_id, &guest.anna.user_id, "leave");
    until("the denial counts", || guest.shown("knock", &room_id).is_none().then_some(()));
    guest.knock(&room_id);
    guest.peer.send(&guest.server, &[denial]).ok();
    assert!(guest.shown("knock", &room_id).is_some(), "replayed");
}

#[test]
fn synapse_18075_a_denial_before_the_answer_to_the_knock_stands() {
    let guest = Guest::new();
    let room_id = guest.room("11", "knock");
    let (peer, room, anna) = (guest.peer.clone(), room_id.clone(), guest.anna.user_id.clone());
    // On a connection that is open already: the server itself is not to be had from within the peer.
    let connection = std::sync::Mutex::new(guest.server.federation().connect().unwrap());
    guest.peer.before_answering("send_knock", move || {
        let denial = peer.append(&room, "m.room.member", Some(&anna), &json!({ "membership": "leave" }));
        let body = json!({ "origin": "peer.test", "origin_server_ts": 1, "pdus": [denial] });
        let body = serde_json::from_value(body).unwrap();
        let target = "/_matrix/federation/v1/send/early";
        peer.ask_on(&mut connection.lock().unwrap(), "PUT", target, Some(&body)).unwrap().ok();
    });
    guest.try_knock(&room_id, &["peer.test"]);
    assert!(guest.shown("knock", &room_id).is_none(), "it was turned down before it was taken");
    guest.anna.sync("timeout=0");
}
