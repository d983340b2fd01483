//! Templates for our users' events: what of them is signed, and whom else is asked when one lies.
//! May not: look at the answer of the client API alone; what reached the other server counts.

use ruma::OwnedEventId;
use serde_json::{Value, json};

use super::guest::Guest;
use crate::support::{
    FakePeer,
    foul::{
        put_at,
        templates::{baited, lies},
    },
    until,
};

/// The event that was sent is ours in every word, but for its place in the graph.
#[track_caller]
fn assert_own_words(sent: &Value, content: &Value) {
    let keys: Vec<&String> = sent.as_object().unwrap().keys().collect();
    let own = [
        "auth_events",
        "content",
        "depth",
        "hashes",
        "origin",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    ];
    assert_eq!(keys, own, "{sent}");
    assert_eq!((&sent["content"], &sent["origin"]), (content, &json!("vestibule.test")));
    let signers: Vec<&String> = sent["signatures"].as_object().unwrap().keys().collect();
    assert_eq!(signers, ["vestibule.test"]);
    assert!(!sent.to_string().contains("bait"), "{sent}");
    assert!(sent["origin_server_ts"].as_u64().unwrap() > 1_000_000_000_000, "our own time");
}

#[test]
fn cve_2026_24471_templates_are_never_signed_as_they_come() {
    let guest = Guest::new();
    for (make, send, membership, rule) in
        [("make_knock", "send_knock", "knock", "knock"), ("make_join", "send_join", "join", "public")]
    {
        let room_id = guest.room("11", rule);
        let ask = || match membership {
            "knock" => guest.try_knock(&room_id, &["peer.test"]),
            _ => guest.try_join(&room_id, &["peer.test"]),
        };
        for (pointer, lie) in lies(membership) {
            let told = lie.clone();
            guest.peer.corrupt(make, move |mut template| {
                put_at(&mut template, pointer, told.clone());
                template
            });
            let answer = ask();
            assert_eq!(answer.status, 502, "{membership} {pointer} {lie}: {}", answer.text());
            assert!(guest.peer.seen(send).is_empty(), "{membership} {pointer} {lie}: signed and sent");
        }
        guest.assert_nothing_of(&room_id);
        guest.peer.corrupt(make, baited);
        ask().ok();
        let content = match membership {
            "knock" => json!({ "membership": "knock", "reason": "otters" }),
            _ => json!({ "membership": "join" }),
        };
        assert_own_words(&guest.peer.seen(send).pop().unwrap().body, &content);
    }
}

#[test]
fn who_is_said_to_vouch_for_a_join_must_have_signed_it() {
    let guest = Guest::new();
    for voucher in [json!("@owner:peer.test"), json!("@boss:vestibule.test"), json!("nobody"), json!(7)] {
        guest.peer.corrupt("make_join", move |mut template| {
            put_at(&mut template, "/event/content/join_authorised_via_users_server", voucher.clone());
            template
        });
        let room_id = guest.room("11", "public");
        assert_eq!(guest.try_join(&room_id, &["peer.test"]).status, 502);
        guest.assert_nothing_of(&room_id);
    }
    guest.peer.play_fair("make_join");
    let room_id = guest.room("11", "public");
    guest.try_join(&room_id, &["peer.test"]).ok();
}

#[test]
fn cve_2026_24471_nor_is_a_template_by_which_a_knock_is_taken_back() {
    let guest = Guest::new();
    let lies = lies("leave");
    let count = lies.len();
    for (number, (pointer, lie)) in lies.into_iter().enumerate() {
        let room_id = guest.room("11", "knock");
        guest.knock(&room_id);
        guest.peer.corrupt("make_leave", move |mut template| {
            put_at(&mut template, pointer, lie.clone());
            template
        });
        guest.anna.in_room(&room_id, "leave", json!({}));
        assert!(guest.shown("knock", &room_id).is_none(), "gone at once");
        until("make_leave", || (guest.peer.seen("make_leave").len() > number).then_some(()));
    }
    // One follows the other, so what comes now comes after all of them.
    let room_id = guest.room("11", "knock");
    guest.knock(&room_id);
    guest.peer.corrupt("make_leave", baited);
    guest.anna.in_room(&room_id, "leave", json!({}));
    until("the knock is taken back", || {
        (guest.peer.membership(&room_id, &guest.anna.user_id) == "leave").then_some(())
    });
    let sent = guest.peer.seen("send_leave");
    assert_eq!((sent.len(), guest.peer.seen("make_leave").len()), (1, count + 1), "{sent:?}");
    assert_own_words(&sent[0].body, &json!({ "membership": "leave" }));
}

fn template(room_id: &str, user_id: &str, membership: &str) -> Value {
    json!({ "room_version": "11", "event": {
        "type": "m.room.member", "room_id": room_id, "sender": user_id, "state_key": user_id,
        "content": { "membership": membership }, "prev_events": ["$a"], "auth_events": ["$b"], "depth": 7,
    } })
}

#[test]
fn continuwuity_e0b7d0301_after_a_bad_template_the_next_server_is_asked() {
    let bad = ["bad1.test", "bad2.test", "bad3.test"].map(FakePeer::new);
    let guest = Guest::with(&[&bad[0], &bad[1], &bad[2]]);
    let via = ["bad1.test", "bad2.test", "bad3.test", "peer.test"];
    for (make, send, rule) in [("make_knock", "send_knock", "knock"), ("make_join", "send_join", "public")] {
        let room_id = guest.room("11", rule);
        let user_id = &guest.anna.user_id;
        bad[0].answer_with(make, 200, template(&room_id, user_id, "ban"));
        bad[1].answer_with(make, 200, json!({ "room_version": "11" }));
        bad[2].answer_raw(make, |out| out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]"));
        match make {
            "make_knock" => guest.try_knock(&room_id, &via).ok(),
            _ => guest.try_join(&room_id, &via).ok(),
        };
        for bad in &bad {
            assert_eq!((bad.seen(make).len(), bad.seen(send).len()), (1, 0), "{make} {}", bad.name());
        }
        assert_eq!(guest.peer.seen(send).len(), 1);
    }
}

#[test]
fn a_knock_that_its_server_does_not_let_go_is_taken_back_through_the_next_one() {
    let next = FakePeer::new("next.test");
    let guest = Guest::with(&[&next]);
    next.answer_with("send_leave", 200, json!({}));
    let user_id = &guest.anna.user_id;
    let knock_and_leave = |before_leaving: &dyn Fn()| {
        let room_id = guest.room("11", "knock");
        guest.try_knock(&room_id, &["peer.test", "next.test"]).ok();
        next.answer_with("make_leave", 200, template(&room_id, user_id, "leave"));
        let count = next.seen("send_leave").len();
        before_leaving();
        guest.anna.in_room(&room_id, "leave", json!({}));
        let sent = until("the next server is told", || next.seen("send_leave").get(count).cloned());
        assert_own_words(&sent.body, &json!({ "membership": "leave" }));
        assert_eq!(sent.body["room_id"], json!(room_id));
        room_id
    };
    // A false template, a refusal, and a server that is gone.
    knock_and_leave(&|| {
        guest.peer.corrupt("make_leave", |mut template| {
            put_at(&mut template, "/event/content/membership", json!("ban"));
            template
        });
    });
    guest.peer.play_fair("make_leave");
    knock_and_leave(&|| guest.peer.refuse("make_leave", 403, "M_FORBIDDEN"));
    guest.peer.behave("make_leave");
    assert!(guest.peer.seen("send_leave").is_empty());
    let room_id = knock_and_leave(&|| guest.peer.set_down(true));
    guest.peer.set_down(false);
    until("the first hears of it too", || (guest.peer.membership(&room_id, user_id) == "leave").then_some(()));
}

#[test]
fn cve_2025_49090_a_template_of_version_12_may_not_name_the_create_event() {
    // MSC4291: whoever signs it makes an event that every other server refuses.
    let guest = Guest::new();
    let room_id = guest.room("12", "knock");
    let create = OwnedEventId::try_from(format!("${}", &room_id[1..])).unwrap();
    guest.peer.corrupt("make_knock", move |mut template| {
        template["event"]["auth_events"].as_array_mut().unwrap().push(json!(create));
        template
    });
    assert_eq!(guest.try_knock(&room_id, &["peer.test"]).status, 502);
    assert!(guest.peer.seen("send_knock").is_empty());
    guest.peer.play_fair("make_knock");
    guest.knock(&room_id);
}
