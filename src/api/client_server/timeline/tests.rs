use serde_json::{Value, json};

use crate::client_server::testing::server::TestServer;

fn said(page: &Value) -> Vec<String> {
    let chunk = page["chunk"].as_array().unwrap();
    chunk.iter().filter_map(|event| event["content"]["body"].as_str().map(ToOwned::to_owned)).collect()
}

/// V56: pages of hidden events do not end the way back.
#[actix_web::test]
async fn paging_passes_over_many_hidden_events() {
    let server = TestServer::start().await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    let visibility = json!({"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}});
    let room = ann.room(json!({"preset": "public_chat", "initial_state": [visibility]})).await;
    bob.post(&format!("/join/{room}"), json!({})).await;
    ann.say(&room, "before").await;
    bob.post(&format!("/rooms/{room}/leave"), json!({})).await;
    for number in 0..600 {
        ann.say(&room, &format!("hidden{number}")).await;
    }
    bob.post(&format!("/join/{room}"), json!({})).await;
    ann.say(&room, "after").await;

    let mut path = format!("/rooms/{room}/messages?dir=b&limit=2");
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = bob.get(&path).await;
        seen.extend(said(&page));
        pages += 1;
        assert!(pages < 20, "the way back ends");
        match page["end"].as_str() {
            Some(end) => path = format!("/rooms/{room}/messages?dir=b&limit=2&from={end}"),
            None => break,
        }
    }
    assert_eq!(seen, ["after", "before"]);

    let filter = "%7B%22types%22:%5B%22m.room.message%22%5D%7D";
    let page = bob.get(&format!("/rooms/{room}/messages?dir=b&limit=10&filter={filter}")).await;
    assert_eq!(said(&page), ["after", "before"]);
    assert_eq!(page["chunk"].as_array().unwrap().len(), 2);
    assert_eq!(page.get("end"), None);
    let seen = bob.get("/sync").await;
    let bodies: Vec<&str> = seen["rooms"]["join"][&room]["timeline"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect();
    assert_eq!(bodies, ["before", "after"]);
}

#[actix_web::test]
async fn pages_end_where_they_are_told_to() {
    let server = TestServer::start().await;
    let ann = server.user("ann").await;
    let room = ann.room(json!({})).await;
    ann.say(&room, "m0").await;
    let from = ann.get("/sync").await["next_batch"].as_str().unwrap().to_owned();
    for number in 1..5 {
        ann.say(&room, &format!("m{number}")).await;
    }
    let forward = ann.get(&format!("/rooms/{room}/messages?dir=f&limit=2&from={from}")).await;
    assert_eq!(said(&forward), ["m1", "m2"]);
    let to = forward["end"].as_str().unwrap();
    let backward = ann.get(&format!("/rooms/{room}/messages?dir=b&limit=50&to={to}")).await;
    assert_eq!(said(&backward), ["m4", "m3"]);
    assert_eq!(backward.get("end"), None);
    let between = ann.get(&format!("/rooms/{room}/messages?dir=f&limit=50&from={from}&to={to}")).await;
    assert_eq!(said(&between), ["m1", "m2"]);
    assert_eq!(ann.get_refused(&format!("/rooms/{room}/messages?dir=b&from=odd")).await.1, "M_INVALID_PARAM");
}
