//! What a request of another server sets going on our side.

use std::{sync::Arc, time::Duration};

use actix_web::test::init_service;
use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::Notify;

use super::FEDERATION;
use crate::testing::{Peer, World, ask, rates};

#[actix_web::test]
async fn who_is_put_off_hears_from_us() {
    // DESIGN 3.12: a 429 has its sender leave us alone for minutes, unless a request of ours comes.
    tokio::time::pause();
    let heard = Arc::new(Notify::new());
    let hears = heard.clone();
    let peers = Arc::new(move |server: &str, request: &http::Request<bytes::Bytes>| {
        assert_eq!(server, "them.test");
        assert!(request.uri().path().starts_with("/_matrix/federation/v1/send/"), "{}", request.uri());
        hears.notify_one();
        Some((200, json!({ "pdus": {} })))
    });
    let world = World::among(rates(true), |_| {}, peers);
    let peer = Peer::new("them.test", 2);
    world.know(&peer).await;
    let service = init_service(world.application(&FEDERATION)).await;
    let uri = "/_matrix/federation/v1/query/profile?user_id=@none:us.test";
    let answers = join_all((0..12).map(|_| ask(&service, peer.get(uri).to_request()))).await;
    assert!(answers.iter().any(|(status, _)| *status == 429));
    tokio::time::timeout(Duration::from_secs(60), heard.notified()).await.unwrap();
}
