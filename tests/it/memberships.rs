//! Invites, joins, leaves, kicks, bans and knocks between local users.
//! May not: look at one side alone; both the one who acts and the one acted upon are asked.

use serde_json::{Value, json};

use crate::support::{TestServer, User, encoded};

struct Cast {
    server: TestServer,
    owner: User,
    anna: User,
}

fn cast() -> Cast {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    Cast { server, owner, anna }
}

/// Membership of a user in what a sync tells of a left room.
fn leaving_told(sync: &Value, room_id: &str, user_id: &str) -> Option<Value> {
    let room = sync["rooms"]["leave"].get(room_id)?;
    let events = room["timeline"]["events"].as_array().unwrap();
    events.iter().rev().find(|event| event["state_key"] == user_id).cloned()
}

#[test]
fn invite_join_leave_and_back() {
    let Cast { server, owner, anna } = cast();
    let room_id = owner.create_room(json!({}));
    anna.try_in_room(&room_id, "join", json!({})).refused(403, "M_FORBIDDEN");
    let since = anna.now();
    owner.in_room(&room_id, "invite", json!({ "user_id": anna.user_id, "reason": "come in" }));
    owner.about(&room_id, "invite", &anna.user_id);
    let invited = anna.sync_since(&since);
    let shown = invited["rooms"]["invite"][&room_id]["invite_state"]["events"].as_array().unwrap();
    let own = shown.iter().find(|event| event["state_key"] == json!(anna.user_id)).unwrap();
    assert_eq!((&own["content"]["membership"], &own["sender"]), (&json!("invite"), &json!(owner.user_id)));
    assert!(shown.iter().any(|event| event["type"] == "m.room.create"), "{shown:?}");
    anna.join(&room_id);
    anna.join(&room_id);
    owner.try_in_room(&room_id, "invite", json!({ "user_id": anna.user_id })).refused(403, "M_FORBIDDEN");
    assert_eq!(anna.get("/joined_rooms")["joined_rooms"], json!([room_id]));
    let joined = owner.get(&format!("/rooms/{}/joined_members", encoded(&room_id)));
    assert_eq!(joined["joined"].as_object().unwrap().len(), 2);
    let since = anna.now();
    anna.in_room(&room_id, "leave", json!({ "reason": "tired" }));
    let left = leaving_told(&anna.sync_since(&since), &room_id, &anna.user_id).unwrap();
    assert_eq!(left["content"]["reason"], "tired");
    assert_eq!(owner.membership(&room_id, &anna.user_id).as_deref(), Some("leave"));
    anna.try_in_room(&room_id, "join", json!({})).refused(403, "M_FORBIDDEN");
    owner.about(&room_id, "invite", &anna.user_id);
    // An invite that is turned down.
    anna.in_room(&room_id, "leave", json!({}));
    assert_eq!(owner.membership(&room_id, &anna.user_id).as_deref(), Some("leave"));
    assert!(server.log().contains("storage open"));
}

#[test]
fn kick_ban_and_unban_are_for_those_with_the_power() {
    let Cast { server, owner, anna } = cast();
    let ben = server.register("ben");
    let room_id = owner.create_room(json!({ "preset": "public_chat", "room_version": "11" }));
    anna.join(&room_id);
    ben.join(&room_id);
    for action in ["kick", "ban", "unban"] {
        anna.try_in_room(&room_id, action, json!({ "user_id": ben.user_id })).refused(403, "M_FORBIDDEN");
    }
    anna.try_in_room(&room_id, "kick", json!({ "user_id": owner.user_id })).refused(403, "M_FORBIDDEN");
    let since = ben.now();
    owner.in_room(&room_id, "kick", json!({ "user_id": ben.user_id, "reason": "rude" }));
    let left = leaving_told(&ben.sync_since(&since), &room_id, &ben.user_id).unwrap();
    assert_eq!((&left["content"]["reason"], &left["sender"]), (&json!("rude"), &json!(owner.user_id)));
    ben.join(&room_id);
    owner.about(&room_id, "ban", &ben.user_id);
    ben.try_in_room(&room_id, "join", json!({})).refused(403, "M_FORBIDDEN");
    owner.try_in_room(&room_id, "invite", json!({ "user_id": ben.user_id })).refused(403, "M_FORBIDDEN");
    assert_eq!(owner.members(&room_id, "?membership=ban").len(), 1);
    owner.about(&room_id, "unban", &ben.user_id);
    ben.join(&room_id);
    for action in ["kick", "ban", "invite"] {
        assert!(anna.try_in_room(&room_id, action, json!({})).status == 400, "{action} of nobody");
    }
}

#[test]
fn a_denied_knock_is_seen_by_its_user_who_may_knock_again() {
    let Cast { owner, anna, server: _running } = cast();
    let room_id = owner.knockable_room("12");
    let since = anna.now();
    anna.try_knock(&room_id, "otters").ok();
    let knocking = anna.sync_since(&since);
    let shown = knocking["rooms"]["knock"][&room_id]["knock_state"]["events"].as_array().unwrap().clone();
    let own = shown.iter().find(|event| event["state_key"] == json!(anna.user_id)).unwrap();
    assert_eq!((&own["content"]["membership"], &own["content"]["reason"]), (&json!("knock"), &json!("otters")));
    for event in &shown {
        let keys: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["content", "sender", "state_key", "type"], "stripped");
        assert!(
            ["m.room.member", "m.room.create", "m.room.name", "m.room.join_rules"]
                .contains(&event["type"].as_str().unwrap())
        );
    }
    anna.try_knock(&room_id, "again").refused(403, "M_FORBIDDEN");
    let since = anna.now();
    owner.in_room(&room_id, "kick", json!({ "user_id": anna.user_id, "reason": "not now" }));
    let denied = anna.sync_since(&since);
    let event = leaving_told(&denied, &room_id, &anna.user_id).unwrap();
    assert_eq!((&event["content"]["membership"], &event["content"]["reason"]), (&json!("leave"), &json!("not now")));
    let told = denied["rooms"]["leave"][&room_id]["timeline"]["events"].as_array().unwrap().len();
    assert_eq!(told, 1, "nothing else of the room: {denied}");
    anna.try_knock(&room_id, "again").ok();
    anna.in_room(&room_id, "leave", json!({}));
    assert_eq!(owner.membership(&room_id, &anna.user_id).as_deref(), Some("leave"), "taken back");
    owner.about(&room_id, "ban", &anna.user_id);
    anna.try_knock(&room_id, "please").refused(403, "M_FORBIDDEN");
    anna.try_knock("!none:vestibule.test", "x").refused(404, "M_NOT_FOUND");
    let open = owner.create_room(json!({}));
    anna.try_knock(&open, "x").refused(403, "M_FORBIDDEN");
}

#[test]
fn a_knock_that_is_accepted_becomes_an_invite_and_a_join() {
    let Cast { owner, anna, server: _running } = cast();
    for version in ["7", "10", "12"] {
        let room_id = owner.knockable_room(version);
        anna.try_knock(&room_id, "otters").ok();
        anna.try_in_room(&room_id, "join", json!({})).refused(403, "M_FORBIDDEN");
        let since = anna.now();
        owner.about(&room_id, "invite", &anna.user_id);
        let news = anna.sync_since(&since);
        assert!(news["rooms"]["invite"].get(&room_id).is_some(), "{news}");
        assert!(news["rooms"]["knock"].get(&room_id).is_none(), "{news}");
        anna.try_knock(&room_id, "again").refused(403, "M_FORBIDDEN");
        anna.join(&room_id);
        anna.say(&room_id, "1", "thank you");
        assert!(anna.sync_since(&since)["rooms"]["join"].get(&room_id).is_some());
    }
}

#[test]
fn repeats_replace_a_knock_when_no_time_is_set() {
    let server = TestServer::new().set("knock.repeat_after", "0s").start();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.knockable_room("11");
    for reason in ["one", "two"] {
        anna.try_knock(&room_id, reason).ok();
    }
    let waiting = owner.members(&room_id, "?membership=knock");
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0]["content"]["reason"], "two");
    let knocks = server.knock_totals();
    assert_eq!((&knocks["admitted"], &knocks["pending"]), (&json!(2), &json!(1)));
}

#[test]
fn members_of_another_room_join_restricted_rooms_and_others_knock() {
    let Cast { owner, anna, server } = cast();
    let ben = server.register("ben");
    let club = owner.create_room(json!({ "preset": "public_chat" }));
    anna.join(&club);
    for (version, rule) in
        [("8", "restricted"), ("10", "restricted"), ("10", "knock_restricted"), ("12", "knock_restricted")]
    {
        let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
        let room_id = owner.room_with_rule(version, json!({ "join_rule": rule, "allow": allow }), &[]);
        anna.join(&room_id);
        let event = owner.try_state(&room_id, "m.room.member", &anna.user_id).ok();
        assert_eq!(event["join_authorised_via_users_server"], json!(owner.user_id), "{version} {rule}");
        ben.try_in_room(&room_id, "join", json!({})).refused(403, "M_FORBIDDEN");
        let status = ben.try_knock(&room_id, "may I?").status;
        assert_eq!(status, if rule == "knock_restricted" { 200 } else { 403 }, "{version} {rule}");
    }
}

#[test]
fn a_forgotten_room_is_gone_until_there_is_news_of_it() {
    let Cast { owner, anna, server: _running } = cast();
    let room_id = owner.knockable_room("11");
    owner.about(&room_id, "invite", &anna.user_id);
    anna.join(&room_id);
    anna.try_in_room(&room_id, "forget", json!({})).refused(400, "M_UNKNOWN");
    anna.in_room(&room_id, "leave", json!({}));
    anna.try_state(&room_id, "m.room.name", "").ok();
    anna.in_room(&room_id, "forget", json!({}));
    anna.try_state(&room_id, "m.room.name", "").refused(403, "M_FORBIDDEN");
    let filter = encoded(&json!({ "room": { "include_leave": true } }).to_string());
    let everything = anna.sync(&format!("timeout=0&filter={filter}"));
    assert!(everything["rooms"].get("leave").and_then(|leave| leave.get(&room_id)).is_none(), "{everything}");
    anna.try_knock(&room_id, "back again").ok();
    assert!(anna.sync("timeout=0")["rooms"]["knock"].get(&room_id).is_some());
}

#[test]
fn those_who_knock_and_strangers_read_nothing() {
    let Cast { owner, anna, server } = cast();
    let stranger = server.register("stranger");
    let room_id = owner.knockable_room("12");
    let said = owner.say(&room_id, "1", "a secret");
    anna.try_knock(&room_id, "otters").ok();
    let room = encoded(&room_id);
    for user in [&anna, &stranger] {
        for path in [
            "state".to_owned(),
            "state/m.room.name".to_owned(),
            "members".to_owned(),
            "joined_members".to_owned(),
            "messages?dir=b".to_owned(),
        ] {
            user.try_get(&format!("/rooms/{room}/{path}")).refused(403, "M_FORBIDDEN");
        }
        for path in [format!("event/{}", encoded(&said)), format!("context/{}", encoded(&said))] {
            let status = user.try_get(&format!("/rooms/{room}/{path}")).status;
            assert!([403, 404].contains(&status), "{path}: {status}");
        }
        assert!(!user.sync("timeout=0").to_string().contains("a secret"));
    }
    let open = owner.room_with_rule(
        "12",
        json!({ "join_rule": "knock" }),
        &[json!({ "type": "m.room.history_visibility", "state_key": "", "content": { "history_visibility": "world_readable" } })],
    );
    owner.say(&open, "1", "for all the world");
    anna.try_knock(&open, "otters").ok();
    let page = anna.get(&format!("/rooms/{}/messages?dir=b", encoded(&open)));
    assert!(page.to_string().contains("for all the world"));
}

#[test]
fn members_are_filtered_by_membership() {
    let Cast { owner, anna, server } = cast();
    let (ben, cat) = (server.register("ben"), server.register("cat"));
    let room_id = owner.knockable_room("11");
    anna.try_knock(&room_id, "").ok();
    owner.about(&room_id, "invite", &ben.user_id);
    owner.about(&room_id, "ban", &cat.user_id);
    let names = |query: &str| -> Vec<String> {
        let mut names: Vec<String> = owner
            .members(&room_id, query)
            .iter()
            .map(|event| event["state_key"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let [a, b, c, o] = [&anna, &ben, &cat, &owner].map(|user| user.user_id.clone());
    assert_eq!(names(""), [a.clone(), b.clone(), c.clone(), o.clone()]);
    assert_eq!(names("?membership=knock"), [a.as_str()]);
    assert_eq!(names("?membership=invite"), [b.as_str()]);
    assert_eq!(names("?membership=ban"), [c.as_str()]);
    assert_eq!(names("?membership=join"), [o.as_str()]);
    assert_eq!(names("?membership=leave"), Vec::<String>::new());
    assert_eq!(names("?not_membership=ban"), [a, b, o]);
}
