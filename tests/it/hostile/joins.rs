//! What a server gives us with a room: the state and what authorizes it, all of it proven or left out.
//! May not: take a joined room for a whole one; what the client then reads of it is looked at.

use serde_json::{Value, json};

use super::guest::Guest;
use crate::support::{
    FakePeer, encoded,
    foul::rooms::{Forgers, UNPROVEN, UNVOUCHED, find},
};

#[test]
fn cve_2022_39200_a_room_whose_foundations_are_not_proven_is_not_entered() {
    let guest = Guest::new();
    for version in ["11", "12"] {
        for (what, change) in UNPROVEN {
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
fn cve_2022_39200_a_join_that_was_vouched_for_comes_back_as_it_was_sent() {
    let guest = Guest::new();
    let rule = json!({ "join_rule": "restricted", "allow": [] });
    for version in ["8", "12"] {
        for (what, change) in UNVOUCHED {
            let room_id = guest.peer.host("owner", version, rule.clone());
            guest.peer.corrupt("send_join", move |mut answer| {
                change(&mut answer);
                answer
            });
            let answer = guest.try_join(&room_id, &["peer.test"]);
            assert_eq!(answer.status, 502, "{version} {what}: {}", answer.text());
            guest.assert_nothing_of(&room_id);
        }
    }
    guest.peer.play_fair("send_join");
    guest.try_join(&guest.peer.host("owner", "11", rule), &["peer.test"]).ok();
}

#[test]
fn cve_2022_39200_what_is_not_proven_in_a_room_is_left_out_of_it() {
    let stranger = FakePeer::new("stranger.test");
    let impostor = FakePeer::new("peer.test");
    let guest = Guest::with(&[&stranger]);
    let room_id = guest.room("11", "public");
    let elsewhere = guest.room("11", "public");
    let boss = guest.server.register("boss");
    let forgers = Forgers { resident: &guest.peer, impostor: &impostor, stranger: &stranger };
    let forged = forgers.events("11", &room_id, &elsewhere, &boss.user_id);
    let honest = guest.peer.user("honest");
    let fair = guest.peer.unsigned(&room_id, &honest, "m.room.member", Some(&honest), &json!({ "membership": "join" }));
    let fair = guest.peer.sign_for("11", fair);
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
    assert!(members.contains(&json!(honest)), "what is fair comes through: {members:?}");
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

#[test]
fn cve_2018_12423_where_nobody_has_power_by_name_whoever_made_the_room_has_it() {
    let guest = Guest::new();
    for version in ["11", "12"] {
        let room_id = guest.peer.host_without_levels("owner", version, json!({ "join_rule": "public" }));
        guest.try_join(&room_id, &["peer.test"]).ok();
        let path = format!("/rooms/{}/state", encoded(&room_id));
        let has = |kind: &str| guest.anna.get(&path).as_array().unwrap().iter().any(|event| event["type"] == *kind);
        assert!(!has("m.room.power_levels"));
        let name = |text: &str| json!({ "name": text });
        guest.anna.try_put(&format!("{path}/m.room.name/"), name("forged")).refused(403, "M_FORBIDDEN");
        let powers = json!({ "users": { guest.anna.user_id.clone(): 100 } });
        guest.anna.try_put(&format!("{path}/m.room.power_levels/"), powers).refused(403, "M_FORBIDDEN");
        guest.anna.say(&room_id, "1", "all may speak");
        // Nor does it come in by way of another server; what whoever made the room says does.
        let eve = guest.peer.user("eve");
        let join = guest.peer.unsigned(&room_id, &eve, "m.room.member", Some(&eve), &json!({ "membership": "join" }));
        let join = guest.peer.sign_for(version, join);
        guest.peer.put_in(&room_id, join.clone());
        let sent = |event: &crate::support::SignedEvent| {
            guest.peer.send(&guest.server, &[serde_json::to_value(&event.event).unwrap()]).ok()
        };
        sent(&join);
        let forged = guest.peer.unsigned(&room_id, &eve, "m.room.topic", Some(""), &json!({ "topic": "forged" }));
        let forged = guest.peer.sign_for(version, forged);
        assert_eq!(sent(&join)["pdus"][&join.event_id], json!({}));
        sent(&forged);
        assert_eq!(guest.anna.membership(&room_id, &eve).as_deref(), Some("join"));
        assert!(!has("m.room.topic"));
        let named = guest.peer.append(&room_id, "m.room.name", Some(""), &name("Sett"));
        guest.peer.send(&guest.server, &[named]).ok();
        assert_eq!(guest.anna.try_state(&room_id, "m.room.name", "").ok()["name"], "Sett");
    }
}
