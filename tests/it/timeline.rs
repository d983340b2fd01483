//! Reading a room's timeline: pages in both directions, single events, and what stands around them.
//! May not: take one page's word for the whole; pages are put together and compared with what was sent.

use serde_json::{Value, json};

use crate::support::{TestServer, User, encoded};

/// Ids of all events, page by page, from `from` on.
fn all_pages(user: &User, room_id: &str, direction: &str, limit: usize, from: Option<&str>) -> Vec<String> {
    let mut ids = Vec::new();
    let mut from = from.map(|from| format!("&from={from}")).unwrap_or_default();
    loop {
        let page = user.get(&format!("/rooms/{}/messages?dir={direction}&limit={limit}{from}", encoded(room_id)));
        let chunk = page["chunk"].as_array().unwrap();
        assert!(chunk.len() <= limit);
        assert!(page["start"].is_string(), "{page}");
        ids.extend(chunk.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()));
        match page["end"].as_str() {
            Some(end) => from = format!("&from={end}"),
            None => return ids,
        }
    }
}

#[test]
fn pages_lead_to_the_first_event_and_back_to_the_last() {
    let mut server = TestServer::started();
    let owner = server.register("owner");
    let room_id = owner.create_room(json!({ "name": "Otters" }));
    let sent: Vec<String> = (0..25).map(|number| owner.say(&room_id, &number.to_string(), "hello")).collect();
    for limit in [1, 7, 100] {
        let backward = all_pages(&owner, &room_id, "b", limit, None);
        assert_eq!(backward[..25], sent.iter().rev().cloned().collect::<Vec<_>>(), "limit {limit}");
        let oldest = owner.get(&format!("/rooms/{}/event/{}", encoded(&room_id), encoded(backward.last().unwrap())));
        assert_eq!(oldest["type"], "m.room.create", "back to the beginning");
        let forward = all_pages(&owner, &room_id, "f", limit, None);
        assert_eq!(forward, backward.iter().rev().cloned().collect::<Vec<_>>(), "limit {limit}");
        if limit == 7 {
            server.kill();
            server.restart();
        }
    }
    // From where a sync ended, nothing new lies ahead and everything behind.
    let since = owner.now();
    assert!(all_pages(&owner, &room_id, "f", 10, Some(&since)).is_empty());
    assert_eq!(all_pages(&owner, &room_id, "b", 10, Some(&since))[..25].len(), 25);
    let next = owner.say(&room_id, "next", "hello");
    assert_eq!(all_pages(&owner, &room_id, "f", 10, Some(&since)), [next]);
    let room = encoded(&room_id);
    for query in ["dir=sideways", "dir=b&from=nonsense", "dir=b&limit=x", "limit=3"] {
        assert_eq!(owner.try_get(&format!("/rooms/{room}/messages?{query}")).status, 400, "{query}");
    }
}

#[test]
fn filters_choose_among_events() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    let room_id = owner.create_room(json!({ "preset": "public_chat" }));
    anna.join(&room_id);
    let (mine, theirs) = (owner.say(&room_id, "1", "from the owner"), anna.say(&room_id, "1", "from anna"));
    let chosen = |filter: Value| {
        let filter = encoded(&filter.to_string());
        let page = owner.get(&format!("/rooms/{}/messages?dir=b&limit=50&filter={filter}", encoded(&room_id)));
        let ids: Vec<String> = page["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect();
        ids
    };
    assert_eq!(chosen(json!({ "types": ["m.room.message"] })), [theirs.clone(), mine.clone()]);
    assert_eq!(chosen(json!({ "types": ["m.room.message"], "senders": [anna.user_id] })), [theirs.as_str()]);
    assert_eq!(
        chosen(json!({ "types": ["m.room.*"], "not_types": ["m.room.message"], "senders": [anna.user_id] })).len(),
        1
    );
    assert_eq!(chosen(json!({ "types": ["m.room.message"], "not_senders": [anna.user_id] })), [mine]);
}

#[test]
fn who_comes_later_sees_what_the_room_lets_them() {
    let server = TestServer::started();
    let (owner, anna) = (server.register("owner"), server.register("anna"));
    for (visibility, sees_before) in [("shared", true), ("joined", false), ("invited", false), ("world_readable", true)]
    {
        let state = json!([{ "type": "m.room.history_visibility", "state_key": "", "content": { "history_visibility": visibility } }]);
        let room_id = owner.create_room(json!({ "preset": "public_chat", "initial_state": state }));
        let before = owner.say(&room_id, "1", "before");
        anna.join(&room_id);
        let after = owner.say(&room_id, "2", "after");
        let seen = all_pages(&anna, &room_id, "b", 50, None);
        assert!(seen.contains(&after), "{visibility}");
        assert_eq!(seen.contains(&before), sees_before, "{visibility}");
        let event = anna.try_get(&format!("/rooms/{}/event/{}", encoded(&room_id), encoded(&before)));
        assert_eq!(event.status, if sees_before { 200 } else { 404 }, "{visibility}");
        anna.in_room(&room_id, "leave", json!({}));
        let gone = owner.say(&room_id, "3", "gone");
        let seen = all_pages(&anna, &room_id, "b", 50, None);
        assert!(seen.contains(&after) && seen.contains(&gone) == (visibility == "world_readable"), "{visibility}");
    }
}

#[test]
fn an_event_is_shown_with_what_stands_around_it() {
    let server = TestServer::started();
    let owner = server.register("owner");
    let room_id = owner.create_room(json!({}));
    let sent: Vec<String> = (0..9).map(|number| owner.say(&room_id, &number.to_string(), "hello")).collect();
    let context = owner.get(&format!("/rooms/{}/context/{}?limit=4", encoded(&room_id), encoded(&sent[4])));
    let ids = |key: &str| -> Vec<&str> {
        context[key].as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap()).collect()
    };
    assert_eq!(context["event"]["event_id"], json!(sent[4]));
    assert_eq!(ids("events_before"), [&sent[3], &sent[2]]);
    assert_eq!(ids("events_after"), [&sent[5], &sent[6]]);
    let later = all_pages(&owner, &room_id, "f", 10, context["end"].as_str());
    assert_eq!(later, sent[7..]);
    let unknown = format!("/rooms/{}/event/{}", encoded(&room_id), encoded("$nothing"));
    owner.try_get(&unknown).refused(404, "M_NOT_FOUND");
}
