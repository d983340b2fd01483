//! The admin listener over a room with knocks.

use actix_web::{
    dev::Service as _,
    http::header::AUTHORIZATION,
    test::{TestRequest, init_service},
};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use crate::{
    listener::Serves,
    testing::{ADMIN_TOKEN, NOW, Peer, World, ask, rates},
};

const BOTH: [Serves; 2] = [Serves::Federation, Serves::Admin];

fn get(uri: &str, token: &str) -> TestRequest {
    TestRequest::get().uri(uri).insert_header((AUTHORIZATION, format!("Bearer {token}")))
}

/// A world in which two users of a peer have knocked on one room, and a third one was refused.
async fn two_knocks() -> (World, String) {
    let world = World::new();
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let room_id = world.room(RoomVersionId::V10, "knock", &[]).await;
    let service = init_service(world.application(&BOTH)).await;
    let make = format!("/_matrix/federation/v1/make_knock/{room_id}/@ann:them.test?ver=10");
    let (status, template) = ask(&service, peer.get(&make).to_request()).await;
    assert_eq!(status, 200, "{template}");
    // Many knocks made from one template are the normal case; the third one is over the cap of its server.
    for (user, expected) in [("@ann:them.test", 200), ("@bob:them.test", 200), ("@eve:them.test", 403)] {
        let mut event = template["event"].clone();
        event["sender"] = json!(user);
        event["state_key"] = json!(user);
        event["origin_server_ts"] = json!(NOW.0);
        event["content"]["reason"] = json!(format!("I am {user}"));
        let (event_id, knock) = peer.sign(event, RoomVersionId::V10);
        let send = format!("/_matrix/federation/v1/send_knock/{room_id}/{event_id}");
        let (status, body) = ask(&service, peer.put(&send, &knock).to_request()).await;
        assert_eq!(status, expected, "{body}");
    }
    (world, room_id.to_string())
}

#[actix_web::test]
async fn stats_say_what_happened() {
    let (world, room_id) = two_knocks().await;
    let service = init_service(world.application(&BOTH)).await;
    let uri = "/_vestibule/admin/v1/actors?order_by=mailbox_depth&limit=100";
    let (status, stats) = ask(&service, get(uri, ADMIN_TOKEN).to_request()).await;
    assert_eq!(status, 200, "{stats}");
    let totals = &stats["totals"];
    assert_eq!(totals["rooms_stored"], 1);
    assert_eq!(totals["actors_live"], 1);
    let knocks = json!({
        "prepared": 1, "admitted": 2, "refused": { "too_many_pending_from_origin": 1 },
        "retracted": 0, "accepted": 0, "denied": 0, "pending": 2,
    });
    assert_eq!(totals["knocks"], knocks);
    let actor = &stats["actors"][0];
    assert_eq!(actor["room_id"], json!(room_id));
    assert_eq!(actor["room_version"], "10");
    assert_eq!(actor["join_rule"], "knock");
    assert_eq!(actor["pending_knocks"], 2);
    assert_eq!(actor["members"], json!({ "join": 1, "invite": 0, "knock": 2, "leave": 0, "ban": 0 }));
    assert_eq!(actor["mailbox"], json!({ "depth": 0, "capacity": 16 }));
    assert_eq!(actor["messages"]["admit_knock"], 3);
    for number in
        ["handling_p50_us", "handling_p99_us", "forward_extremities", "started_ms", "last_active_ms", "restarts"]
    {
        assert!(actor[number].is_u64(), "{number}");
    }
    assert!(stats.get("next_from").is_none());
    let encoded = room_id.replace('!', "%21");
    let (status, one) =
        ask(&service, get(&format!("/_vestibule/admin/v1/rooms/{encoded}/actor"), ADMIN_TOKEN).to_request()).await;
    assert_eq!((status, &one["room_id"]), (200, &json!(room_id)));
    let none = get("/_vestibule/admin/v1/rooms/!none:us.test/actor", ADMIN_TOKEN).to_request();
    assert_eq!(ask(&service, none).await.0, 404);
    for uri in ["?order_by=beauty", "?limit=0", "?limit=100000", "?from=nonsense"] {
        let request = get(&format!("/_vestibule/admin/v1/actors{uri}"), ADMIN_TOKEN).to_request();
        let (status, body) = ask(&service, request).await;
        assert_eq!((status, &body["errcode"]), (400, &json!("M_INVALID_PARAM")), "{uri}");
    }
}

#[actix_web::test]
async fn knocks_and_decisions_come_in_pages() {
    let (world, room_id) = two_knocks().await;
    let service = init_service(world.application(&BOTH)).await;
    for list in ["/_vestibule/admin/v1/knocks".to_owned(), format!("/_vestibule/admin/v1/rooms/{room_id}/knocks")] {
        let (status, first) = ask(&service, get(&format!("{list}?limit=1"), ADMIN_TOKEN).to_request()).await;
        assert_eq!(status, 200, "{first}");
        let knock = &first["knocks"][0];
        assert_eq!(knock["room_id"], json!(room_id));
        assert_eq!(knock["user_id"], "@ann:them.test");
        assert_eq!(knock["origin"], "them.test");
        assert_eq!(knock["reason"], "I am @ann:them.test");
        assert!(knock["since_ms"].as_u64().unwrap() >= NOW.0);
        assert!(knock["event_id"].as_str().unwrap().starts_with('$'));
        let from = first["next_from"].as_str().unwrap();
        let (_, second) = ask(&service, get(&format!("{list}?limit=1&from={from}"), ADMIN_TOKEN).to_request()).await;
        assert_eq!(second["knocks"][0]["user_id"], "@bob:them.test");
        assert!(second.get("next_from").is_none(), "{second}");
    }
    let unknown = get("/_vestibule/admin/v1/rooms/!none:us.test/knocks", ADMIN_TOKEN).to_request();
    assert_eq!(ask(&service, unknown).await.0, 404);
    let mut seen: Vec<(String, String)> = Vec::new();
    let mut from = String::new();
    loop {
        let uri = format!("/_vestibule/admin/v1/decisions?limit=1{from}");
        let (status, page) = ask(&service, get(&uri, ADMIN_TOKEN).to_request()).await;
        assert_eq!(status, 200, "{page}");
        let rows = page["decisions"].as_array().unwrap();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        seen.extend(rows.iter().map(|row| (text(row, "action"), text(row, "user_id"))));
        match page["next_from"].as_str() {
            Some(next) => from = format!("&from={next}"),
            None => break,
        }
    }
    let admitted: Vec<&str> =
        seen.iter().filter(|(action, _)| action == "admitted").map(|(_, user)| user.as_str()).collect();
    assert_eq!(admitted, ["@bob:them.test", "@ann:them.test"], "newest first: {seen:?}");
    assert!(seen.contains(&("refused".to_owned(), "@eve:them.test".to_owned())), "{seen:?}");
}

#[actix_web::test]
async fn only_operators_get_in() {
    let world = World::new();
    world.user("boss", true, "boss-token").await;
    world.user("ann", false, "ann-token").await;
    let service = init_service(world.application(&[Serves::Admin])).await;
    let uri = "/_vestibule/admin/v1/actors";
    let table = [
        (get(uri, ADMIN_TOKEN), 200),
        (get(uri, "boss-token"), 200),
        (get(uri, "ann-token"), 403),
        (get(uri, "wrong"), 401),
        (get(uri, ""), 401),
        (TestRequest::get().uri(uri), 401),
        (TestRequest::get().uri(uri).insert_header(("X-Forwarded-For", "127.0.0.1")), 401),
        (TestRequest::get().uri("/metrics"), 401),
        (TestRequest::get().uri("/health"), 200),
        (TestRequest::get().uri("/ready"), 503),
    ];
    for (number, (request, expected)) in table.into_iter().enumerate() {
        let (status, body) = ask(&service, request.to_request()).await;
        assert_eq!(status, expected, "row {number}: {body}");
    }
    world.app.vitals.set_ready(true);
    assert_eq!(ask(&service, TestRequest::get().uri("/ready").to_request()).await.0, 200);
    world.app.vitals.begin_stop();
    assert_eq!(ask(&service, TestRequest::get().uri("/ready").to_request()).await.0, 503);
    world.app.vitals.stopping().await;
}

#[actix_web::test]
async fn wrong_tokens_are_slowed_down() {
    let world = World::with(rates(true), |_| {});
    let service = init_service(world.application(&[Serves::Admin])).await;
    let uri = "/_vestibule/admin/v1/actors";
    let from = |ip: &str, token: &str| get(uri, token).peer_addr(format!("{ip}:1").parse().unwrap()).to_request();
    for _ in 0..5 {
        assert_eq!(ask(&service, from("192.0.2.1", "wrong")).await.0, 401);
    }
    let (status, body) = ask(&service, from("192.0.2.1", "wrong")).await;
    assert_eq!((status, &body["errcode"]), (429, &json!("M_LIMIT_EXCEEDED")));
    assert_eq!(ask(&service, from("192.0.2.2", ADMIN_TOKEN)).await.0, 200, "another address is not held");
}

#[actix_web::test]
async fn metrics_are_text_without_names() {
    let (world, room_id) = two_knocks().await;
    let service = init_service(world.application(&[Serves::Admin])).await;
    let response = service.call(get("/metrics", ADMIN_TOKEN).to_request()).await.unwrap();
    assert_eq!(response.status(), 200);
    let text = actix_web::body::to_bytes(response.into_body()).await.ok().unwrap();
    let text = String::from_utf8(text.to_vec()).unwrap();
    assert!(text.contains("\nvestibule_knocks_total{outcome=\"admitted\"} 2\n"), "{text}");
    assert!(text.contains("\nvestibule_knocks_pending 2\n"), "{text}");
    for name in [room_id.as_str(), "them.test", "@ann"] {
        assert!(!text.contains(name), "{name} in {text}");
    }
}
