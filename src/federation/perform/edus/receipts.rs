//! How far users have read, told to other servers and by them.
//! May not: tell anybody of a private receipt.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#receipts>

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedUserId, RoomId, ServerName, UserId};
use serde::Serialize;
use serde_json::value::RawValue;
use vestibule_actors::{Speakers, receipts::take};
use vestibule_protocol::clock::UnixMillis;
use vestibule_storage::receipts::{Receipt, ReceiptKind, ReceiptSlot, ReceiptThread};

use super::{Edu, News, RECEIPTS_MAX, text, user_of};
use crate::{Sender, perform::Federation};

/// What stands for the part of a room that is in no thread.
const MAIN: &str = "main";

#[derive(Serialize)]
struct Told<'a> {
    data: Data<'a>,
    event_ids: [&'a EventId; 1],
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    ts: u64,
}

/// How a thread is written in receipts: `None`, `main`, or the id of its root.
pub fn thread_id(thread: &ReceiptThread) -> Option<&str> {
    match thread {
        ReceiptThread::Unthreaded => None,
        ReceiptThread::Main => Some(MAIN),
        ReceiptThread::Root(root) => Some(root.as_str()),
    }
}

/// Reads what [`thread_id`] writes. `None`: it is neither `main` nor an event id.
pub fn parse_thread_id(text: &str) -> Option<ReceiptThread> {
    match text {
        MAIN => Some(ReceiptThread::Main),
        root => OwnedEventId::try_from(root).ok().map(ReceiptThread::Root),
    }
}

/// Tells servers how far a user of ours has read, if that is for everybody.
pub fn tell_receipt(sender: &Sender, speakers: &Speakers, room_id: &RoomId, receipt: &Receipt) {
    if let Some(edu) = edu(room_id, receipt) {
        sender.add_edu(speakers.servers.iter().cloned(), &edu);
    }
}

fn edu(room_id: &RoomId, receipt: &Receipt) -> Option<Box<RawValue>> {
    if receipt.slot.kind == ReceiptKind::Private {
        return None;
    }
    let data = Data { thread_id: thread_id(&receipt.slot.thread), ts: receipt.at.0 };
    let told = Told { data, event_ids: [&receipt.event_id] };
    let by_user: BTreeMap<&UserId, Told<'_>> = BTreeMap::from([(&*receipt.slot.user_id, told)]);
    let by_kind = BTreeMap::from([("m.read", by_user)]);
    Edu { content: BTreeMap::from([(room_id, by_kind)]), edu_type: "m.receipt" }.to_json()
}

impl News {
    pub(super) fn receipts(&mut self, origin: &ServerName, content: &CanonicalJsonObject) {
        for (room_id, of_room) in content {
            // Only what is for everybody counts: another server has no business with private ones.
            let of_users = of_room.as_object().and_then(|of_room| of_room.get("m.read"));
            for (user_id, told) in of_users.and_then(CanonicalJsonValue::as_object).into_iter().flatten() {
                let receipt = user_of(origin, user_id).and_then(|user_id| read(user_id, told));
                if self.receipts >= RECEIPTS_MAX {
                    return;
                }
                // In this order: a room of which nothing can be believed is not asked about, and takes no other room's place.
                let Some(receipt) = receipt else { continue };
                let Some(room) = self.room(room_id) else { continue };
                room.receipts.push(receipt);
                self.receipts = self.receipts.saturating_add(1);
            }
        }
    }
}

fn read(user_id: OwnedUserId, told: &CanonicalJsonValue) -> Option<Receipt> {
    let told = told.as_object()?;
    let [event_id] = told.get("event_ids")?.as_array()? else { return None };
    let data = told.get("data")?.as_object()?;
    let thread = match data.get("thread_id") {
        None => ReceiptThread::Unthreaded,
        Some(_) => parse_thread_id(text(data, "thread_id")?)?,
    };
    let slot = ReceiptSlot { user_id, kind: ReceiptKind::Public, thread };
    let at = u64::try_from(i64::from(data.get("ts")?.as_integer()?)).ok()?;
    Some(Receipt { slot, event_id: event_id.as_str()?.try_into().ok()?, at: UnixMillis(at) })
}

impl Federation {
    /// Keeps receipts of users who are in the room, as far as they lead on.
    pub(super) async fn take_receipts(&self, origin: &ServerName, room_id: &RoomId, receipts: Vec<Receipt>) {
        if receipts.is_empty() {
            return;
        }
        if let Err(error) = take(&self.inner.stores, room_id, receipts).await {
            log::warn!(origin:%, room_id:%, error:%; "receipts not taken");
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, server_name};
    use serde_json::{Value, json};

    use super::*;

    fn receipts(content: Value) -> Vec<Receipt> {
        let edus: Vec<CanonicalJsonValue> =
            serde_json::from_value(json!([{"edu_type": "m.receipt", "content": content}])).unwrap();
        let news = News::of(server_name!("peer.test"), &edus);
        news.rooms.into_values().flat_map(|room| room.receipts).collect()
    }

    fn receipt(thread: ReceiptThread) -> Receipt {
        let slot = ReceiptSlot { user_id: "@eve:peer.test".try_into().unwrap(), kind: ReceiptKind::Public, thread };
        Receipt { slot, event_id: "$one".try_into().unwrap(), at: UnixMillis(1_790_000_000_000) }
    }

    #[test]
    fn what_is_told_is_what_is_read() {
        let root = ReceiptThread::Root("$root".try_into().unwrap());
        for (thread, thread_id) in
            [(ReceiptThread::Unthreaded, None), (ReceiptThread::Main, Some("main")), (root, Some("$root"))]
        {
            let receipt = receipt(thread);
            let edu = edu(room_id!("!a:x"), &receipt).unwrap();
            let json: Value = serde_json::from_str(edu.get()).unwrap();
            let mut data = json!({"ts": 1_790_000_000_000_u64});
            if let Some(thread_id) = thread_id {
                data["thread_id"] = json!(thread_id);
            }
            let content = json!({"!a:x": {"m.read": {"@eve:peer.test": {"data": data, "event_ids": ["$one"]}}}});
            assert_eq!(json, json!({"edu_type": "m.receipt", "content": content}));
            assert_eq!(receipts(content), [receipt]);
        }
    }

    #[test]
    fn private_receipts_are_neither_told_nor_believed() {
        let mut private = receipt(ReceiptThread::Unthreaded);
        private.slot.kind = ReceiptKind::Private;
        assert!(edu(room_id!("!a:x"), &private).is_none());
        let told = json!({"event_ids": ["$one"], "data": {"ts": 1}});
        assert_eq!(receipts(json!({"!a:x": {"m.read.private": {"@eve:peer.test": told}}})), []);
    }

    #[test]
    fn a_room_of_which_nothing_can_be_believed_is_not_among_the_news() {
        let told = json!({"event_ids": ["$one"], "data": {"ts": 1}});
        let content = json!({"!a:x": {"m.read": {"@ann:us.test": told}}, "!b:x": {"m.read": {"@eve:peer.test": told}}});
        let edus: Vec<CanonicalJsonValue> =
            serde_json::from_value(json!([{"edu_type": "m.receipt", "content": content}])).unwrap();
        let news = News::of(server_name!("peer.test"), &edus);
        assert_eq!(news.rooms.into_keys().collect::<Vec<_>>(), ["!b:x"]);
    }

    #[test]
    fn what_is_not_well_formed_is_passed_over_and_the_rest_taken() {
        let good = json!({"event_ids": ["$one"], "data": {"ts": 1_790_000_000_000_u64}});
        let data = json!({"ts": 1});
        let found = receipts(json!({
            "!a:x": {"m.read": {
                "@eve:peer.test": good,
                "@gus:third.test": good,
                "@ann:us.test": good,
                "eve": good,
                "@a:peer.test": {"event_ids": [], "data": data},
                "@b:peer.test": {"event_ids": ["$one", "$two"], "data": data},
                "@c:peer.test": {"event_ids": ["one"], "data": data},
                "@d:peer.test": {"event_ids": ["$one"]},
                "@e:peer.test": {"event_ids": ["$one"], "data": {"ts": -1}},
                "@f:peer.test": {"event_ids": ["$one"], "data": {"ts": 1, "thread_id": ""}},
                "@g:peer.test": {"event_ids": ["$one"], "data": {"ts": 1, "thread_id": 7}},
                "@h:peer.test": [],
            }},
            "nonsense": {"m.read": {"@eve:peer.test": good}},
            "!b:x": {"m.read": []},
            "!c:x": 7,
        }));
        assert_eq!(found, [receipt(ReceiptThread::Unthreaded)]);
    }
}
