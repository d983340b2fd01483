//! Events that the authorization rules must refuse, and room state that must not upset who judges by it.
//! May not: stand in for the table of rules; `src/protocol` has it, cell by cell.

use serde_json::{Value, json};

use super::ground::{Ground, Handshake, assert_refused, deliver, next_event};
use crate::support::encoded;

/// Ids of the events that a knock's template cites.
fn cited(event: &Value) -> Vec<Value> {
    event["auth_events"].as_array().unwrap().clone()
}

#[test]
fn cve_2022_31152_auth_events_are_those_that_the_rules_name() {
    let ground = Ground::new();
    let room_id = ground.owner.knockable_room("11");
    let elsewhere = ground.owner.knockable_room("11");
    let ann = ground.peer.user("ann");
    let template = Handshake::Knock.template(&ground, &room_id, &ann);
    let (name, foreign) =
        (ground.state_event(&room_id, "m.room.name"), ground.state_event(&elsewhere, "m.room.join_rules"));
    let create = ground.state_event(&room_id, "m.room.create");
    let before = ground.state_of(&room_id);
    let right = cited(&template.event);
    let more = |id: &str| right.iter().cloned().chain([json!(id)]).collect::<Vec<Value>>();
    for (auth_events, what) in [
        (right.iter().chain(&right[..1]).cloned().collect(), "one of them twice"),
        (more(&name), "one that proves nothing"),
        (more(&foreign), "one of another room"),
        (right.iter().filter(|id| **id != json!(create)).cloned().collect(), "not the create event"),
        (Vec::new(), "none"),
    ] {
        let knock = ground.peer.sign(template.clone().with("auth_events", json!(auth_events)));
        assert_refused(&Handshake::Knock.send(&ground, &room_id, &knock), what);
    }
    assert_eq!(ground.state_of(&room_id), before);
    Handshake::Knock.send(&ground, &room_id, &ground.peer.sign(template)).ok();
    ground.still_serves();
}

#[test]
fn cve_2022_31152_nor_is_an_event_judged_by_the_room_of_today_alone() {
    let ground = Ground::new();
    let ann = ground.peer.user("ann");
    for version in ["7", "11", "12"] {
        let room_id = ground.owner.knockable_room(version);
        let set_rule =
            |rule: &str| ground.owner.set_state(&room_id, "m.room.join_rules", "", json!({ "join_rule": rule }));
        let closed = set_rule("invite");
        let open = set_rule("knock");
        let template = Handshake::Knock.template(&ground, &room_id, &ann);
        let by_closed: Vec<Value> =
            cited(&template.event).into_iter().map(|id| if id == json!(open) { json!(closed) } else { id }).collect();
        assert_ne!(by_closed, cited(&template.event));
        let before = ground.state_of(&room_id);
        for (event, what) in [
            (template.clone().with("auth_events", json!(by_closed)), "by the rule of when it was closed"),
            (template.clone().with("prev_events", json!([closed])), "from when it was closed"),
        ] {
            let answer = Handshake::Knock.send(&ground, &room_id, &ground.peer.sign(event));
            assert_eq!(answer.status, 403, "{version} {what}: {}", answer.text());
            assert_eq!(ground.state_of(&room_id), before, "{version} {what}");
        }
        Handshake::Knock.send(&ground, &room_id, &ground.peer.sign(template)).ok();
    }
    ground.still_serves();
}

#[test]
fn cve_2025_49090_who_made_a_room_of_version_12_stands_above_all_others() {
    let ground = Ground::new();
    let owner = &ground.owner.user_id;
    let [bob, carl, dora] = ["bob", "carl", "dora"].map(|name| ground.peer.user(name));
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "public" } });
    // The version of those who ask for none.
    let room_id = ground.owner.create_room(json!({
        "initial_state": [rule], "creation_content": { "additional_creators": [bob] },
        "power_level_content_override": { "users": { carl.clone(): 100 } },
    }));
    for user_id in [&bob, &carl, &dora] {
        ground.peer.join(&ground.server, &room_id, user_id).ok();
    }
    let create = json!(format!("${}", &room_id[1..]));
    let by = |user_id: &str, kind: &str, key: &str, content: Value| {
        let template = next_event(&ground, &ground.peer, &room_id, user_id);
        let mut auth_events = cited(&template.event);
        assert!(!auth_events.contains(&create), "{auth_events:?}");
        if kind == "m.room.member" && key != user_id {
            auth_events.push(json!(ground.state_of(&room_id)[&(kind.to_owned(), key.to_owned())]));
        }
        let event = template.with("type", json!(kind)).with("state_key", json!(key)).with("content", content);
        ground.peer.sign(event.with("auth_events", json!(auth_events)))
    };
    let levels = |users: Value| json!({ "users": users });
    let out = |word: &str| json!({ "membership": word });
    let before = ground.state_of(&room_id);
    for event in [
        by(&carl, "m.room.member", owner, out("leave")),
        by(&carl, "m.room.member", owner, out("ban")),
        by(&carl, "m.room.member", &bob, out("leave")),
        by(&carl, "m.room.power_levels", "", levels(json!({ carl.clone(): 100, owner.clone(): 0 }))),
        by(&bob, "m.room.power_levels", "", levels(json!({ carl.clone(): 100, bob.clone(): 100 }))),
        by(&bob, "m.room.member", owner, out("leave")),
        by(&bob, "m.room.create", "", json!({ "room_version": "12" })),
    ] {
        deliver(&ground, &ground.peer, &[&event]);
        assert_eq!(ground.state_of(&room_id), before, "{event:?}");
    }
    // Our own users are held to the same.
    for user_id in [owner, &bob] {
        let path = format!("/rooms/{}/state/m.room.power_levels", encoded(&room_id));
        let answer = ground.owner.try_put(&path, levels(json!({ user_id.clone(): 100 })));
        assert!([400, 403].contains(&answer.status), "{}", answer.text());
    }
    ground.owner.try_in_room(&room_id, "kick", json!({ "user_id": bob })).refused(403, "M_FORBIDDEN");
    let path = format!("/rooms/{}/state/m.room.create", encoded(&room_id));
    assert_refused(&ground.owner.try_put(&path, json!({ "room_version": "12" })), "a second creation");
    for creators in [json!("all"), json!([7]), json!(["nobody"]), json!({})] {
        let body = json!({ "creation_content": { "additional_creators": creators } });
        assert_refused(&ground.owner.ask("POST", "/createRoom", Some(body)), &creators.to_string());
    }
    assert_eq!(ground.state_of(&room_id), before);
    // What is theirs they may do, and carl his.
    for event in [
        by(&carl, "m.room.member", &dora, out("leave")),
        by(&bob, "m.room.member", &carl, out("leave")),
        by(&bob, "m.room.power_levels", "", levels(json!({}))),
    ] {
        deliver(&ground, &ground.peer, &[&event]);
        let slot = [&event.event["type"], &event.event["state_key"]].map(|part| part.as_str().unwrap().to_owned());
        assert_eq!(ground.state_of(&room_id)[&slot.into()], event.event_id, "{event:?}");
    }
    ground.still_serves();
}

#[test]
fn synapse_6501_the_rules_of_another_room_authorize_nothing() {
    // What lets in there: an open room; here: one by invitation.
    let ground = Ground::new();
    let ann = ground.peer.user("ann");
    let closed = ground.owner.room_with_rule("11", json!({ "join_rule": "invite" }), &[]);
    for handshake in [Handshake::Knock, Handshake::Join] {
        let open = handshake.room(&ground, &ann);
        let template = handshake.template(&ground, &open, &ann);
        let tip = ground.owner.say(&closed, &format!("{handshake:?}"), "among ourselves");
        let before = ground.state_of(&closed);
        let moved = template.with("room_id", json!(closed));
        for event in [moved.clone(), moved.with("prev_events", json!([tip]))] {
            assert_refused(&handshake.send(&ground, &closed, &ground.peer.sign(event)), "rules of another room");
        }
        assert_eq!(ground.state_of(&closed), before);
    }
    ground.still_serves();
}

#[test]
fn continuwuity_7b3e3a26b_an_auth_event_without_a_state_key_is_no_panic() {
    let ground = Ground::new();
    for version in ["7", "11", "12"] {
        let room_id = ground.owner.knockable_room(version);
        let message = ground.owner.say(&room_id, "1", "no state");
        let template = Handshake::Knock.template(&ground, &room_id, &ground.peer.user("ann"));
        let mut auth_events = cited(&template.event);
        auth_events.push(json!(message));
        for listed in [auth_events, vec![json!(message)]] {
            let knock = ground.peer.sign(template.clone().with("auth_events", json!(listed)));
            assert_refused(&Handshake::Knock.send(&ground, &room_id, &knock), version);
        }
    }
    ground.still_serves();
}

#[test]
fn gomatrixserverlib_430_and_431_neither_restricted_rules_nor_a_ban_let_knock() {
    let ground = Ground::new();
    let ann = ground.peer.user("ann");
    for (version, rule) in [("8", "restricted"), ("9", "restricted"), ("11", "restricted"), ("7", "knock_restricted")] {
        // The template is of a time when the rule was another.
        let room_id = ground.owner.knockable_room(version);
        let template = Handshake::Knock.template(&ground, &room_id, &ann);
        ground.owner.set_state(&room_id, "m.room.join_rules", "", json!({ "join_rule": rule, "allow": [] }));
        ground.peer.make_knock(&ground.server, &room_id, &ann).refused(403, "M_FORBIDDEN");
        Handshake::Knock.send(&ground, &room_id, &ground.peer.sign(template)).refused(403, "M_FORBIDDEN");
        assert_eq!(ground.owner.membership(&room_id, &ann), None);
    }
    let room_id = ground.owner.knockable_room("11");
    let template = Handshake::Knock.template(&ground, &room_id, &ann);
    ground.owner.about(&room_id, "ban", &ann);
    ground.peer.make_knock(&ground.server, &room_id, &ann).refused(403, "M_FORBIDDEN");
    Handshake::Knock.send(&ground, &room_id, &ground.peer.sign(template)).refused(403, "M_FORBIDDEN");
    assert_eq!(ground.owner.membership(&room_id, &ann).as_deref(), Some("ban"));
    ground.still_serves();
}

#[test]
fn ruma_state_res_0_11_only_who_is_out_and_not_banned_may_knock() {
    let ground = Ground::new();
    for version in ["7", "10", "12"] {
        let room_id = ground.owner.room_with_rule(version, json!({ "join_rule": "public" }), &[]);
        let cast: Vec<String> =
            ["none", "leave", "knock", "invite", "join", "ban"].iter().map(|name| ground.peer.user(name)).collect();
        ground.peer.join(&ground.server, &room_id, &cast[1]).ok();
        ground.owner.about(&room_id, "kick", &cast[1]);
        ground.peer.join(&ground.server, &room_id, &cast[4]).ok();
        ground.owner.set_state(&room_id, "m.room.join_rules", "", json!({ "join_rule": "knock" }));
        ground.peer.knock(&ground.server, &room_id, &cast[2], "once");
        // A knock by who has none of it yet: what is sent below cites the graph as it is then.
        let template = Handshake::Knock.template(&ground, &room_id, &cast[0]);
        ground.owner.about(&room_id, "invite", &cast[3]);
        ground.owner.about(&room_id, "ban", &cast[5]);
        for (number, user_id) in cast.iter().enumerate() {
            let made = ground.peer.make_knock(&ground.server, &room_id, user_id);
            let may_knock = number < 3;
            if may_knock {
                let knock = ground.peer.sign(crate::support::Template::of(made.ok()));
                Handshake::Knock.send(&ground, &room_id, &knock).ok();
            } else {
                made.refused(403, "M_FORBIDDEN");
                let knock = ground.peer.sign(template.clone().for_user(user_id));
                assert_refused(&Handshake::Knock.send(&ground, &room_id, &knock), user_id);
            }
        }
        let memberships: Vec<Option<String>> =
            cast.iter().map(|user_id| ground.owner.membership(&room_id, user_id)).collect();
        let words: Vec<&str> = memberships.iter().map(|word| word.as_deref().unwrap_or_default()).collect();
        assert_eq!(words, ["knock", "knock", "knock", "invite", "join", "ban"], "version {version}");
    }
}

#[test]
fn rustsec_2025_0065_power_levels_at_the_ends_of_what_they_can_be() {
    const MOST: i64 = (1 << 53) - 1;
    let ground = Ground::new();
    for version in ["7", "8", "9", "10", "11", "12"] {
        // From version 12 who made the room is above all levels, and has none.
        let of_owner = |level: i64| match version {
            "12" => json!({}),
            _ => json!({ ground.owner.user_id.clone(): level }),
        };
        let low = ground.server.register(&format!("low{version}"));
        let owner = &ground.owner;
        let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
        let room_id = owner.create_room(json!({
            "room_version": version, "initial_state": [rule],
            "power_level_content_override": { "users": of_owner(MOST) },
        }));
        owner.about(&room_id, "invite", &low.user_id);
        low.join(&room_id);
        let mut users = of_owner(MOST);
        users[&low.user_id] = json!(-MOST);
        let levels = json!({
            "users": users, "users_default": -MOST,
            "events_default": -MOST, "state_default": MOST, "invite": -MOST, "kick": MOST, "ban": MOST, "redact": MOST,
        });
        owner.set_state(&room_id, "m.room.power_levels", "", levels);
        let ann = ground.peer.user("ann");
        ground.peer.knock(&ground.server, &room_id, &ann, "otters");
        low.try_in_room(&room_id, "kick", json!({ "user_id": owner.user_id })).refused(403, "M_FORBIDDEN");
        low.about(&room_id, "invite", &ann);
        assert_eq!(owner.membership(&room_id, &ann).as_deref(), Some("invite"));
        owner.about(&room_id, "kick", &ann);
        owner.about(&room_id, "ban", &low.user_id);
    }
    ground.still_serves();
}

#[test]
fn rustsec_2025_0135_an_unknown_join_rule_lets_nobody_in_and_stalls_nothing() {
    let ground = Ground::new();
    let ann = ground.peer.user("ann");
    for rule in
        [json!({ "join_rule": "x.custom" }), json!({ "join_rule": "" }), json!({ "join_rule": "private" }), json!({})]
    {
        let room_id =
            ground.owner.create_room(json!({ "room_version": "11", "visibility": "public", "name": "Otters" }));
        let path = format!("/rooms/{}/state/m.room.join_rules", encoded(&room_id));
        ground.owner.put(&path, rule.clone());
        ground.peer.make_knock(&ground.server, &room_id, &ann).refused(403, "M_FORBIDDEN");
        ground.owner.sync("timeout=0");
        let listed = ground.owner.get("/publicRooms");
        assert!(listed["chunk"].as_array().unwrap().iter().any(|room| room["room_id"] == json!(room_id)), "{rule}");
        let summary = format!("/_matrix/client/v1/room_summary/{}", encoded(&room_id));
        let bearer = format!("Bearer {}", ground.owner.token);
        let answer = ground.server.client().ask("GET", &summary, &[("Authorization", &bearer)], None);
        assert_eq!(answer.ok()["room_id"], json!(room_id));
    }
    ground.still_serves();
}
