//! A local user with an ordinary client.
//! May not: hide an answer; what is not named `try` fails the test unless it is a 200.

use serde_json::{Value, json};

use super::{
    http::{Answer, encoded},
    server::Doors,
};

/// One session of one user.
#[derive(Clone)]
pub struct User {
    doors: Doors,
    pub user_id: String,
    pub token: String,
    pub device_id: String,
}

impl User {
    /// From the answer to a registration or login.
    #[track_caller]
    pub(super) fn new(doors: Doors, answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned();
        Self { doors, user_id: text("user_id"), token: text("access_token"), device_id: text("device_id") }
    }

    /// A request with this user's token; `path` follows `/_matrix/client/v3`.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask_at(method, &format!("/_matrix/client/v3{path}"), body)
    }

    /// The same of a whole path.
    #[track_caller]
    pub fn ask_at(&self, method: &str, target: &str, body: Option<Value>) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let body = body.map(|body| body.to_string());
        self.doors.client().ask(method, target, &[("Authorization", &bearer)], body.as_ref().map(String::as_bytes))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, None).ok()
    }

    #[track_caller]
    pub fn try_get(&self, path: &str) -> Answer {
        self.ask("GET", path, None)
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: Value) -> Value {
        self.try_post(path, body).ok()
    }

    #[track_caller]
    pub fn try_post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, Some(body))
    }

    #[track_caller]
    pub fn put(&self, path: &str, body: Value) -> Value {
        self.try_put(path, body).ok()
    }

    #[track_caller]
    pub fn try_put(&self, path: &str, body: Value) -> Answer {
        self.ask("PUT", path, Some(body))
    }

    #[track_caller]
    pub fn create_room(&self, body: Value) -> String {
        self.post("/createRoom", body)["room_id"].as_str().unwrap().to_owned()
    }

    /// A private room of this version with this join rule, and further initial state.
    #[track_caller]
    pub fn room_with_rule(&self, version: &str, join_rule: Value, further: &[Value]) -> String {
        let mut state = vec![json!({ "type": "m.room.join_rules", "state_key": "", "content": join_rule })];
        state.extend_from_slice(further);
        self.create_room(json!({ "room_version": version, "name": "Otters", "initial_state": state }))
    }

    /// A room that anybody may knock on.
    #[track_caller]
    pub fn knockable_room(&self, version: &str) -> String {
        self.room_with_rule(version, json!({ "join_rule": "knock" }), &[])
    }

    /// `invite`, `join`, `leave`, `kick`, `ban`, `unban` or `forget`.
    #[track_caller]
    pub fn try_in_room(&self, room_id: &str, action: &str, body: Value) -> Answer {
        self.try_post(&format!("/rooms/{}/{action}", encoded(room_id)), body)
    }

    #[track_caller]
    pub fn in_room(&self, room_id: &str, action: &str, body: Value) -> Value {
        self.try_in_room(room_id, action, body).ok()
    }

    /// An action upon another user.
    #[track_caller]
    pub fn about(&self, room_id: &str, action: &str, user_id: &str) -> Value {
        self.in_room(room_id, action, json!({ "user_id": user_id }))
    }

    #[track_caller]
    pub fn join(&self, room_id: &str) -> Value {
        self.in_room(room_id, "join", json!({}))
    }

    #[track_caller]
    pub fn try_knock(&self, room_id: &str, reason: &str) -> Answer {
        self.try_post(&format!("/knock/{}", encoded(room_id)), json!({ "reason": reason }))
    }

    /// The same through servers that are said to be in the room.
    #[track_caller]
    pub fn try_knock_via(&self, room_id: &str, via: &[&str], reason: &str) -> Answer {
        let via: Vec<String> = via.iter().map(|server| format!("via={}", encoded(server))).collect();
        self.try_post(&format!("/knock/{}?{}", encoded(room_id), via.join("&")), json!({ "reason": reason }))
    }

    /// Sends a text; its event id.
    #[track_caller]
    pub fn say(&self, room_id: &str, transaction: &str, text: &str) -> String {
        let path = format!("/rooms/{}/send/m.room.message/{transaction}", encoded(room_id));
        let answer = self.put(&path, json!({ "msgtype": "m.text", "body": text }));
        answer["event_id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn try_state(&self, room_id: &str, kind: &str, key: &str) -> Answer {
        self.try_get(&format!("/rooms/{}/state/{kind}/{}", encoded(room_id), encoded(key)))
    }

    #[track_caller]
    pub fn set_state(&self, room_id: &str, kind: &str, key: &str, content: Value) -> String {
        let path = format!("/rooms/{}/state/{kind}/{}", encoded(room_id), encoded(key));
        self.put(&path, content)["event_id"].as_str().unwrap().to_owned()
    }

    /// The membership of a user in the current state. `None`: there is no event about that user.
    #[track_caller]
    pub fn membership(&self, room_id: &str, user_id: &str) -> Option<String> {
        let answer = self.try_state(room_id, "m.room.member", user_id);
        if answer.status == 404 {
            return None;
        }
        Some(answer.ok()["membership"].as_str().unwrap().to_owned())
    }

    /// Member events; `query` such as `?membership=knock`, or nothing.
    #[track_caller]
    pub fn members(&self, room_id: &str, query: &str) -> Vec<Value> {
        self.get(&format!("/rooms/{}/members{query}", encoded(room_id)))["chunk"].as_array().unwrap().clone()
    }

    /// `query` without its question mark.
    #[track_caller]
    pub fn sync(&self, query: &str) -> Value {
        self.get(&format!("/sync?{query}"))
    }

    /// Everything until now, or what is new since a token.
    #[track_caller]
    pub fn sync_since(&self, since: &str) -> Value {
        self.sync(&format!("since={since}&timeout=0"))
    }

    /// The token from which on everything is new.
    #[track_caller]
    pub fn now(&self) -> String {
        self.sync("timeout=0")["next_batch"].as_str().unwrap().to_owned()
    }
}
