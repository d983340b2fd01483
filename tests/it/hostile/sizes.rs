//! What is as large as it may be: it goes through, one byte more does not, and neither stands in the way of what follows.
//! May not: count what JSON libraries make of it; the bytes of the event's canonical form are what the limit is about.

use ruma::CanonicalJsonObject;
use serde_json::json;

use super::ground::{Ground, deliver, next_event};
use crate::support::{Answer, encoded, until};

/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#size-limits>
const EVENT_BYTES_MAX: usize = 65_536;

/// Of all that is shown to strangers together, and what is around it.
const SHOWN_BYTES_MAX: usize = 262_144 + 1_024;

#[test]
fn cve_2023_32323_a_room_with_huge_state_blocks_no_traffic() {
    let ground = Ground::new();
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    let huge = "x".repeat(60_000);
    for (kind, content) in [
        ("m.room.name", json!({ "name": huge })),
        ("m.room.topic", json!({ "topic": huge })),
        ("m.room.avatar", json!({ "url": format!("mxc://vestibule.test/{huge}") })),
        ("m.room.canonical_alias", json!({ "x": huge })),
        ("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2", "x": huge })),
        ("m.room.join_rules", json!({ "join_rule": "public", "x": huge })),
    ] {
        ground.owner.set_state(&room_id, kind, "", content);
    }
    ground.peer.join(&ground.server, &room_id, &ground.peer.user("bob")).ok();
    ground.owner.about(&room_id, "invite", &ground.peer.user("ann"));
    let said: Vec<String> =
        (0..20).map(|number| ground.owner.say(&room_id, &format!("{number}"), &format!("message {number}"))).collect();
    let heard = |text: &str| ground.peer.received().iter().any(|event| event["content"]["body"] == text);
    until("all messages come", || (0..said.len()).all(|number| heard(&format!("message {number}"))).then_some(()));
    let invite = until("the invite comes", || ground.peer.seen("invite").pop());
    let shown = &invite.body["invite_room_state"];
    assert!(shown.to_string().len() <= SHOWN_BYTES_MAX, "{}", shown.to_string().len());
    assert!(shown.as_array().unwrap().iter().any(|event| event["type"] == "m.room.create"));
    // A knock is answered within the same bound.
    let knockable = ground.owner.knockable_room("11");
    for kind in ["m.room.name", "m.room.topic", "m.room.avatar", "m.room.canonical_alias", "m.room.encryption"] {
        ground.owner.set_state(&knockable, kind, "", json!({ "x": huge, "algorithm": "x" }));
    }
    let ann = ground.peer.user("ann");
    let knock = ground.peer.sign(ground.peer.knock_template(&ground.server, &knockable, &ann));
    let answer = ground.peer.send_knock(&ground.server, &knockable, &knock).ok();
    assert!(answer["knock_room_state"].to_string().len() <= SHOWN_BYTES_MAX);
}

#[test]
fn an_event_has_65536_bytes_with_its_signature_and_none_more() {
    let ground = Ground::new();
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    ground.peer.join(&ground.server, &room_id, &ground.peer.user("bob")).ok();
    let say = |bytes: usize| -> Answer {
        let path = format!("/rooms/{}/send/m.room.message/{bytes}", encoded(&room_id));
        ground.owner.try_put(&path, json!({ "msgtype": "m.text", "body": "x".repeat(bytes) }))
    };
    // What is around the text depends on ids and times, so the last length that fits is looked for.
    let (mut fits, mut exceeds) = (60_000, EVENT_BYTES_MAX);
    let mut largest = say(fits).ok();
    while exceeds - fits > 1 {
        let middle = fits.midpoint(exceeds);
        let answer = say(middle);
        if answer.status == 200 {
            (fits, largest) = (middle, answer.ok());
        } else {
            answer.refused(413, "M_TOO_LARGE");
            exceeds = middle;
        }
    }
    let target = format!("/_matrix/federation/v1/event/{}", encoded(largest["event_id"].as_str().unwrap()));
    let kept = ground.peer.ask(&ground.server, "GET", &target, None).ok();
    let mut event: CanonicalJsonObject = serde_json::from_value(kept["pdus"][0].clone()).unwrap();
    event.remove("unsigned");
    let bytes = serde_json::to_string(&event).unwrap().len();
    // The graph grows by an event of its own for each that is sent, by the same number of bytes or a digit of depth more.
    assert!((EVENT_BYTES_MAX - 2..=EVENT_BYTES_MAX).contains(&bytes), "{bytes}");
    until("the peer has it", || {
        ground.peer.received().iter().any(|event| event["content"]["body"] == "x".repeat(fits)).then_some(())
    });
    for (kind, key, right) in [
        ("m.room.x".to_owned(), "k".repeat(255), 200),
        ("m.room.x".to_owned(), "k".repeat(256), 413),
        ("m.room.x".to_owned(), "ö".repeat(127), 200),
        ("m.room.x".to_owned(), "ö".repeat(128), 413),
        ("t".repeat(255), String::new(), 200),
        ("t".repeat(256), String::new(), 413),
    ] {
        let path = format!("/rooms/{}/state/{}/{}", encoded(&room_id), encoded(&kind), encoded(&key));
        let answer = ground.owner.try_put(&path, json!({}));
        assert_eq!(answer.status, right, "{} {}: {}", kind.len(), key.len(), answer.text());
        assert!(right == 200 || answer.json()["errcode"] == "M_TOO_LARGE", "{}", answer.text());
    }
    ground.still_serves();
}

#[test]
fn an_event_of_another_server_has_as_many_and_none_more() {
    let ground = Ground::new();
    let room_id = ground.owner.room_with_rule("11", json!({ "join_rule": "public" }), &[]);
    let bob = ground.peer.user("bob");
    ground.peer.join(&ground.server, &room_id, &bob).ok();
    let template = next_event(&ground, &ground.peer, &room_id, &bob);
    let with_text =
        |text: &str| ground.peer.sign(template.clone().with("content", json!({ "msgtype": "m.text", "body": text })));
    let around = serde_json::to_string(&with_text("").event).unwrap().len();
    let of_bytes = |bytes: usize| with_text(&"x".repeat(bytes - around));
    let of_kind = |kind: &str| ground.peer.sign(template.clone().with("type", json!(kind)));
    for (event, is_taken, what) in [
        (of_bytes(EVENT_BYTES_MAX - 1), true, "a byte less"),
        (of_bytes(EVENT_BYTES_MAX), true, "as large as may be"),
        (of_bytes(EVENT_BYTES_MAX + 1), false, "a byte more"),
        (of_kind(&"t".repeat(255)), true, "a long type"),
        (of_kind(&"t".repeat(256)), false, "a type that is too long"),
        (of_kind(&"ö".repeat(128)), false, "a type that is too long, of few letters"),
    ] {
        let said = deliver(&ground, &ground.peer, &[&event]);
        assert_eq!(said[&event.event_id] == json!({}), is_taken, "{what}: {said}");
        let path = format!("/rooms/{}/event/{}", encoded(&room_id), encoded(&event.event_id));
        assert_eq!(ground.owner.try_get(&path).status == 200, is_taken, "{what}");
    }
    ground.still_serves();
}
