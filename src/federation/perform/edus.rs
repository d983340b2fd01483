//! Takes the short-lived news that other servers send beside events: who is typing, and how far users have read.
//! May not: fail a transaction, believe a server about users of another one, or speak to a room that denies the server.
//!
//! Presence is passed over on purpose: nothing here shows it, and it is most of what large servers send. Whatever else is not
//! known is passed over too.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#edus>

pub mod receipts;
pub mod typing;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use vestibule_actors::{AskError, CheckSpeakers};
use vestibule_storage::receipts::Receipt;

use super::Federation;

/// Rooms of one transaction of which there may be news. Ours: as many as a transaction has EDUs, each mostly about one.
const ROOMS_MAX: usize = 100;

/// Receipts of one transaction that are looked at. Ours: servers send them every second or so, for users of theirs.
const RECEIPTS_MAX: usize = 1_000;

/// Rooms that are asked side by side. Source: Synapse, for events.
const ROOMS_AT_ONCE: usize = 10;

/// The form of an EDU.
#[derive(Serialize)]
struct Edu<C> {
    content: C,
    edu_type: &'static str,
}

impl<C: Serialize> Edu<C> {
    /// `None` does not happen: all parts are texts and numbers.
    fn to_json(&self) -> Option<Box<RawValue>> {
        to_raw_value(self).ok()
    }
}

/// What a transaction tells of each room.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) rooms: BTreeMap<OwnedRoomId, RoomNews>,
    receipts: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RoomNews {
    /// Whether each user types, by the last that was said of them.
    pub(crate) typing: BTreeMap<OwnedUserId, bool>,
    pub(crate) receipts: Vec<Receipt>,
}

impl News {
    /// Sorts EDUs of a transaction; all that is not well-formed, or is about users of other servers, is left out.
    pub(crate) fn of(origin: &ServerName, edus: &[CanonicalJsonValue]) -> Self {
        let mut news = Self::default();
        for edu in edus.iter().filter_map(CanonicalJsonValue::as_object) {
            let kind = edu.get("edu_type").and_then(CanonicalJsonValue::as_str);
            let content = edu.get("content").and_then(CanonicalJsonValue::as_object);
            match (kind, content) {
                (Some("m.typing"), Some(content)) => news.typing(origin, content),
                (Some("m.receipt"), Some(content)) => news.receipts(origin, content),
                _ => {}
            }
        }
        news
    }

    /// The room's part, if there is room for one more.
    fn room(&mut self, room_id: &str) -> Option<&mut RoomNews> {
        let room_id = RoomId::parse(room_id).ok()?;
        if self.rooms.len() >= ROOMS_MAX && !self.rooms.contains_key(&room_id) {
            return None;
        }
        Some(self.rooms.entry(room_id).or_default())
    }
}

impl Federation {
    /// Takes the EDUs of one transaction, as far as they can be believed. What is taken is durable where it is kept at all.
    pub async fn receive_edus(&self, origin: &ServerName, edus: &[CanonicalJsonValue]) {
        let rooms = News::of(origin, edus).rooms.into_iter();
        let taken = rooms.map(|(room_id, news)| async move { self.take_news(origin, &room_id, news).await });
        stream::iter(taken).buffer_unordered(ROOMS_AT_ONCE).collect::<()>().await;
    }

    async fn take_news(&self, origin: &ServerName, room_id: &RoomId, news: RoomNews) {
        let RoomNews { typing, receipts } = news;
        let users: BTreeSet<&OwnedUserId> =
            typing.keys().chain(receipts.iter().map(|receipt| &receipt.slot.user_id)).collect();
        let users = users.into_iter().cloned().collect();
        let speakers = match self.inner.rooms.ask(room_id, CheckSpeakers { origin: origin.to_owned(), users }).await {
            Ok(speakers) => speakers,
            Err(AskError::Refused(_) | AskError::RoomNotHere) => return,
            Err(error) => {
                log::debug!(origin:%, room_id:%, error:%; "short-lived news not taken");
                return;
            }
        };
        self.take_typing(room_id, typing, &speakers);
        let receipts = receipts.into_iter().filter(|receipt| speakers.joined.contains(&receipt.slot.user_id)).collect();
        self.take_receipts(origin, room_id, receipts).await;
    }
}

/// A user whom an EDU names, if the server may speak for them.
fn user_of(origin: &ServerName, user_id: &str) -> Option<OwnedUserId> {
    UserId::parse(user_id).ok().filter(|user_id| user_id.server_name() == origin)
}

fn text<'a>(object: &'a CanonicalJsonObject, key: &str) -> Option<&'a str> {
    object.get(key).and_then(CanonicalJsonValue::as_str)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;

    fn edus(list: serde_json::Value) -> Vec<CanonicalJsonValue> {
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn of_each_user_the_last_word_counts_and_only_their_server_has_it() {
        let typing = |room: &str, user: &str, typing: serde_json::Value| json!({"edu_type": "m.typing", "content": {"room_id": room, "user_id": user, "typing": typing}});
        let list = edus(json!([
            typing("!a:x", "@eve:peer.test", json!(true)),
            typing("!a:x", "@eve:peer.test", json!(false)),
            typing("!a:x", "@fay:peer.test", json!(true)),
            typing("!a:x", "@ann:us.test", json!(true)),
            typing("!a:x", "@gus:third.test", json!(true)),
            typing("!a:x", "eve", json!(true)),
            typing("a", "@eve:peer.test", json!(true)),
            typing("!b:x", "@eve:peer.test", json!("yes")),
            {"edu_type": "m.typing", "content": {"room_id": "!b:x"}},
            {"edu_type": "m.typing", "content": []},
            {"edu_type": "m.presence", "content": {"push": [{"user_id": "@eve:peer.test", "presence": "online"}]}},
            {"edu_type": "org.example.other", "content": {}},
            {"edu_type": 5},
            7,
        ]));
        let mut news = News::of(server_name!("peer.test"), &list);
        let room = news.rooms.remove(<&RoomId>::try_from("!a:x").unwrap()).unwrap();
        let found: Vec<(String, bool)> = room.typing.iter().map(|(user, typing)| (user.to_string(), *typing)).collect();
        assert_eq!(found, [("@eve:peer.test".to_owned(), false), ("@fay:peer.test".to_owned(), true)]);
        assert!(news.rooms.is_empty());
    }

    #[test]
    fn news_of_a_transaction_is_bounded() {
        let of_room = |number: usize| {
            let users =
                (0..20).map(|user| (format!("@u{user}:peer.test"), json!({"event_ids": ["$one"], "data": {"ts": 1}})));
            let users: serde_json::Map<_, _> = users.collect();
            (format!("!r{number}:x"), json!({ "m.read": users }))
        };
        let content: serde_json::Map<_, _> = (0..ROOMS_MAX * 2).map(of_room).collect();
        let news = News::of(server_name!("peer.test"), &edus(json!([{"edu_type": "m.receipt", "content": content}])));
        assert!(news.rooms.len() <= ROOMS_MAX);
        let receipts: usize = news.rooms.values().map(|room| room.receipts.len()).sum();
        assert_eq!(receipts, RECEIPTS_MAX);
    }
}
