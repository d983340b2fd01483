//! What a server gives us with a room: the state and what authorizes it, all of it proven or left out.
//! May not: take a joined room for a whole one; what the client then reads of it is looked at.

use serde_json::{Value, json};

use super::guest::Guest;
use crate::support::{FakePeer, encoded};

/// The event of a list with that type, and key.
fn find<'a>(events: &'a mut Value, kind: &str, state_key: &str) -> &'a mut Value {
    let mut events = events.as_array_mut().unwrap().iter_mut();
    events.find(|event| event["type"] == kind && event["state_key"] == state_key).unwrap()
}

fn without(answer: &mut Value, kind: &str) {
    for list in ["state", "auth_chain"] {
        answer[list].as_array_mut().unwrap().retain(|event| event["type"] != kind);
    }
}

/// The same bytes under a signature that is none.
fn break_signature(event: &mut Value) {
    for signatures in event["signatures"].as_object_mut().unwrap().values_mut() {
        for signature in signatures.as_object_mut().unwrap().values_mut() {
            *signature = json!("A".repeat(86));
        }
    }
}

#[test]
fn cve_2022_39200_a_room_whose_foundations_are_not_proven_is_not_entered() {
    let guest = Guest::new();
    type Change = fn(&mut Value);
    let foul: [(&str, Change); 14] = [
        ("no state", |answer| answer["state"] = json!([])),
        ("no auth chain, state of another kind", |answer| *answer = json!({ "state": {}, "auth_chain": null })),
        ("nothing", |answer| *answer = json!({})),
        ("null", |answer| *answer = Value::Null),
        ("a list", |answer| *answer = json!([200, { "state": [], "auth_chain": [] }])),
        ("numbers", |answer| *answer = json!({ "state": [1, 2], "auth_chain": [null, "x"] })),
        ("partial state that nobody asked for", |answer| answer["members_omitted"] = json!(true)),
        ("no create event", |answer| without(answer, "m.room.create")),
        ("no power levels", |answer| without(answer, "m.room.power_levels")),
        ("no join rules", |answer| without(answer, "m.room.join_rules")),
        ("an unsigned create event", |answer| {
            break_signature(find(&mut answer["state"], "m.room.create", ""));
            break_signature(find(&mut answer["auth_chain"], "m.room.create", ""));
        }),
        ("unsigned power levels", |answer| {
            break_signature(find(&mut answer["state"], "m.room.power_levels", ""));
            break_signature(find(&mut answer["auth_chain"], "m.room.power_levels", ""));
        }),
        ("unsigned join rules", |answer| {
            break_signature(find(&mut answer["state"], "m.room.join_rules", ""));
            break_signature(find(&mut answer["auth_chain"], "m.room.join_rules", ""));
        }),
        ("the owner's membership changed where the signature reaches", |answer| {
            for list in ["state", "auth_chain"] {
                find(&mut answer[list], "m.room.create", "")["sender"] = json!("@eve:peer.test");
            }
        }),
    ];
    for version in ["11", "12"] {
        for (what, change) in foul {
            let room_id = guest.room(version, "public");
            guest.peer.corrupt("send_join", move |mut answer| {
                change(&mut answer);
                answer
            });
            let answer = guest.try_join(&room_id, &["peer.test"]);
            assert_eq!(answer.status, 502, "{version} {what}: {}", answer.text());
            guest.assert_nothing_of(&room_id);
        }
        guest.peer.play_fair("send_join");
        let room_id = guest.room(version, "public");
        guest.try_join(&room_id, &["peer.test"]).ok();
        guest.anna.in_room(&room_id, "leave", json!({}));
        guest.anna.in_room(&room_id, "forget", json!({}));
    }
}

#[test]
fn cve_2022_39200_what_is_not_proven_in_a_room_is_left_out_of_it() {
    let stranger = FakePeer::new("stranger.test");
    let impostor = FakePeer::new("peer.test");
    let guest = Guest::with(&[&stranger]);
    let room_id = guest.room("11", "public");
    let elsewhere = guest.room("11", "public");
    let owner = guest.peer.user("owner");
    // The rules let all of them stand: only the signature, or the room, is not what it should be.
    let topic = |room_id: &str, sender: &str, topic: &str| {
        guest.peer.unsigned(room_id, sender, "m.room.topic", Some(""), &json!({ "topic": topic }))
    };
    let join = |user_id: &str| {
        guest.peer.unsigned(&room_id, user_id, "m.room.member", Some(user_id), &json!({ "membership": "join" }))
    };
    let boss = guest.server.register("boss");
    let forged: Vec<Value> = [
        impostor.sign_for("11", topic(&room_id, &owner, "forged")),
        stranger.sign_for("11", topic(&room_id, &owner, "forged")),
        guest.peer.sign_for("11", topic(&elsewhere, &owner, "forged")),
        impostor.sign_for("11", join(&guest.peer.user("ghost"))),
        guest.peer.sign_for("11", join(&stranger.user("ghost"))),
        guest.peer.sign_for("11", join(&boss.user_id)),
        // Rightly signed, and against the rules.
        guest.peer.sign_for("11", topic(&room_id, &guest.peer.user("outsider"), "forged")),
    ]
    .iter()
    .map(|event| serde_json::to_value(&event.event).unwrap())
    .collect();
    let fair = guest.peer.sign_for("11", join(&guest.peer.user("honest")));
    let fair = serde_json::to_value(&fair.event).unwrap();
    guest.peer.corrupt("send_join", move |mut answer| {
        for list in ["state", "auth_chain"] {
            answer[list].as_array_mut().unwrap().extend(forged.iter().chain([&fair]).cloned());
        }
        // Whole, but the hash does not vouch for it any more: the content goes.
        find(&mut answer["state"], "m.room.name", "")["content"]["name"] = json!("forged");
        answer
    });
    guest.try_join(&room_id, &["peer.test"]).ok();
    let state = guest.anna.get(&format!("/rooms/{}/state", encoded(&room_id)));
    assert!(!state.to_string().contains("forged"), "{state}");
    assert!(!state.to_string().contains("ghost"), "{state}");
    let members: Vec<Value> = guest.anna.members(&room_id, "").iter().map(|event| event["state_key"].clone()).collect();
    assert!(members.contains(&json!(guest.peer.user("honest"))), "what is fair comes through: {members:?}");
    assert_eq!(members.len(), 3, "{members:?}");
    assert_eq!(boss.sync("timeout=0")["rooms"]["join"], json!({}));
    boss.try_get(&format!("/rooms/{}/state", encoded(&room_id))).refused(403, "M_FORBIDDEN");
}

#[test]
fn cve_2025_49090_a_room_is_made_once() {
    let guest = Guest::new();
    for version in ["11", "12"] {
        let room_id = guest.room(version, "public");
        let other = guest.room(version, "public");
        // The create event of another room of that server stands in for the room's own, or beside it.
        for stands_in in [true, false] {
            let stolen = guest.peer.create_event(&other);
            guest.peer.corrupt("send_join", move |mut answer| {
                for list in ["state", "auth_chain"] {
                    if stands_in {
                        *find(&mut answer[list], "m.room.create", "") = stolen.clone();
                    } else {
                        answer[list].as_array_mut().unwrap().insert(0, stolen.clone());
                    }
                }
                answer
            });
            let answer = guest.try_join(&room_id, &["peer.test"]);
            if stands_in {
                assert_eq!(answer.status, 502, "{}", answer.text());
                guest.assert_nothing_of(&room_id);
                continue;
            }
            answer.ok();
            let kept = guest.anna.get(&format!("/rooms/{}/state", encoded(&room_id)));
            let creates = kept.as_array().unwrap().iter().filter(|event| event["type"] == "m.room.create");
            assert_eq!(creates.count(), 1);
            guest.anna.in_room(&room_id, "leave", json!({}));
            guest.anna.in_room(&room_id, "forget", json!({}));
        }
    }
}
