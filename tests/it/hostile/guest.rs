//! The ground on which our user is the guest: a room that the peer hosts, and what the guest's client shows of it.
//! May not: take a refusal for enough; the same must work once the peer plays fair.

use serde_json::{Value, json};

use crate::support::{Answer, FakePeer, TestServer, User, encoded};

/// anna on our server, and the servers of rooms that she wants to be in.
pub struct Guest {
    pub peer: FakePeer,
    pub server: TestServer,
    pub anna: User,
}

impl Guest {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// The same with further peers.
    pub fn with(others: &[&FakePeer]) -> Self {
        Self::on(TestServer::new(), others)
    }

    /// The same on a server that is not started yet.
    pub fn on(server: TestServer, others: &[&FakePeer]) -> Self {
        let peer = FakePeer::new("peer.test");
        let peers: Vec<&FakePeer> = [&peer].into_iter().chain(others.iter().copied()).collect();
        let server = server
            .set("federation.retry_backoff_min", "\"100ms\"")
            .set("federation.retry_backoff_max", "\"1s\"")
            .knowing(&peers)
            .start();
        let anna = server.register("anna");
        Self { peer, server, anna }
    }

    /// A room of the peer's owner.
    pub fn room(&self, version: &str, rule: &str) -> String {
        self.peer.host("owner", version, json!({ "join_rule": rule }))
    }

    #[track_caller]
    pub fn try_knock(&self, room_id: &str, via: &[&str]) -> Answer {
        self.anna.try_knock_via(room_id, via, "otters")
    }

    #[track_caller]
    pub fn knock(&self, room_id: &str) {
        self.try_knock(room_id, &["peer.test"]).ok();
        assert_eq!(self.peer.membership(room_id, &self.anna.user_id), "knock");
    }

    #[track_caller]
    pub fn try_join(&self, room_id: &str, via: &[&str]) -> Answer {
        let via: Vec<String> = via.iter().map(|server| format!("via={}", encoded(server))).collect();
        self.anna.try_post(&format!("/join/{}?{}", encoded(room_id), via.join("&")), json!({}))
    }

    /// What a whole sync has of a room in one of its lists.
    #[track_caller]
    pub fn shown(&self, list: &str, room_id: &str) -> Option<Value> {
        self.anna.sync("timeout=0")["rooms"][list].get(room_id).cloned()
    }

    /// Nothing of a room is shown, and nothing of it is kept for the user.
    #[track_caller]
    pub fn assert_nothing_of(&self, room_id: &str) {
        let rooms = self.anna.sync("timeout=0")["rooms"].take();
        assert!(!rooms.to_string().contains(room_id), "{rooms}");
        assert_eq!(self.anna.get("/joined_rooms")["joined_rooms"], json!([]));
    }
}
