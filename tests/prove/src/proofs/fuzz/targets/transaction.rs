//! Target `transaction`: the body of `send`, sorted by room, and the short-lived news in it, told a second time.
//! May not: judge an event.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid>

use std::collections::BTreeMap;

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::{EventId, OwnedUserId, RoomId, UserId, server_name};
use vestibule_api::server_server::send::Sent;
use vestibule_federation::answers::news;
use vestibule_protocol::canonical_json::CanonicalText;
use vestibule_storage::receipts::{Receipt, ReceiptThread};

use super::super::{
    Target, Verdict,
    drawing::{Input, text_of},
    json::{self, Json},
};
use crate::proof::{Plant, Settings};

pub static BELIEVED: Plant =
    Plant { name: "believed", what: "a server is believed about users of another", cases: 5_000 };

/// Source: the specification.
const PDUS_MAX: usize = 50;
const EDUS_MAX: usize = 100;
/// Ours, as production says of itself.
const NEWS_ROOMS_MAX: usize = 100;
const RECEIPTS_MAX: usize = 1_000;

const PDUS: [&str; 4] = [
    r#"{"room_id":"!a:peer.test","type":"m.room.message","content":{"body":"x"},"depth":1}"#,
    r#"{"room_id":"!b:peer.test","type":"m.room.member","content":{"membership":"knock"}}"#,
    r#"{"room_id":"!AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8","type":"x"}"#,
    r#"{"type":"m.room.create"}"#,
];
const EDUS: [&str; 6] = [
    r#"{"edu_type":"m.typing","content":{"room_id":"!a:peer.test","user_id":"@bob:peer.test","typing":true}}"#,
    r#"{"edu_type":"m.typing","content":{"room_id":"!a:peer.test","user_id":"@carol:third.test","typing":false}}"#,
    r#"{"edu_type":"m.receipt","content":{"!a:peer.test":{"m.read":{"@bob:peer.test":{"data":{"ts":1790000000000},"event_ids":["$one"]},"@carol:third.test":{"data":{"ts":1},"event_ids":["$one"]}}}}}"#,
    r#"{"edu_type":"m.receipt","content":{"!b:peer.test":{"m.read":{"@bob:peer.test":{"data":{"ts":1,"thread_id":"main"},"event_ids":["$two"]}},"m.read.private":{"@bob:peer.test":{"data":{"ts":1},"event_ids":["$two"]}}}}}"#,
    r#"{"edu_type":"m.presence","content":{"push":[]}}"#,
    r#"{"edu_type":"m.direct_to_device","content":{"sender":"@bob:peer.test","type":"m.x","message_id":"1","messages":{"@ann:us.test":{"*":{}}}}}"#,
];

pub fn make() -> Result<Box<dyn Target>, String> {
    let all = |texts: &[&str]| texts.iter().map(|text| json::read(text.as_bytes())).collect::<Option<Vec<Json>>>();
    let (Some(pdus), Some(edus)) = (all(&PDUS), all(&EDUS)) else {
        return Err("a seed is no canonical JSON".to_owned());
    };
    let others = pdus.iter().chain(&edus).cloned().collect();
    Ok(Box::new(Transaction { pdus, edus, others }))
}

struct Transaction {
    pdus: Vec<Json>,
    edus: Vec<Json>,
    others: Vec<Json>,
}

impl Target for Transaction {
    fn draw(&self, random: &mut StdRng) -> Input {
        let some = |of: &[Json], random: &mut StdRng| {
            let most = if random.random_ratio(1, 200) { 130 } else { 4 };
            let entries = (0..random.random_range(0..most)).filter_map(|_| of.choose(random).cloned());
            Json::List(entries.collect())
        };
        let mut fields = vec![
            ("origin".to_owned(), Json::Text("peer.test".to_owned())),
            ("origin_server_ts".to_owned(), Json::Integer(1)),
            ("pdus".to_owned(), some(&self.pdus, random)),
        ];
        if random.random_ratio(4, 5) {
            let mut edus = some(&self.edus, random);
            if random.random_ratio(1, 400)
                && let Json::List(entries) = &mut edus
            {
                entries.push(many_receipts(random.random_range(900..1_200)));
            }
            fields.push(("edus".to_owned(), edus));
        }
        Input::new(text_of(Json::Object(fields), &self.others, random), random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let Ok(text) = CanonicalText::read(&input.bytes) else { return Ok(Verdict::Refused) };
        let told = json::read(&input.bytes).ok_or("the second reading refuses its JSON")?;
        let object = text.parse().map_err(|error| error.to_string())?;
        let list = |key: &str, count_max: usize| match told.get(key) {
            None => Some(&[][..]),
            Some(entries) => entries.list().filter(|entries| entries.len() <= count_max),
        };
        let (pdus, edus) = (list("pdus", PDUS_MAX), list("edus", EDUS_MAX));
        let (Some(pdus), Some(edus)) = (pdus, edus) else {
            return if Sent::of(object).is_err() { Ok(Verdict::Refused) } else { Err("it is taken".to_owned()) };
        };
        let sent = Sent::of(object).map_err(|error| format!("refused: {}", error.errcode))?;
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pdu in pdus {
            let room_id = pdu.text_at("room_id").and_then(|room_id| RoomId::parse(room_id).ok());
            if let Some(room_id) = room_id {
                expected.entry(room_id.to_string()).or_default().push(pdu.canonical());
            }
        }
        let written = |event| serde_json::to_string(event).unwrap_or_default();
        let found: BTreeMap<String, Vec<String>> = sent
            .events
            .iter()
            .map(|(room_id, events)| (room_id.to_string(), events.iter().map(written).collect()))
            .collect();
        if found != expected {
            return Err(format!("sorted as {found:?}, by the second as {expected:?}"));
        }
        let told_by = |origin| {
            let rooms = news(origin, &sent.edus).into_iter();
            rooms.map(|(room_id, news)| (room_id.to_string(), told_of(news))).collect::<News>()
        };
        let mut found = told_by(server_name!("peer.test"));
        if settings.has(&BELIEVED) {
            found.extend(told_by(server_name!("third.test")));
        }
        let expected = read_news(edus);
        if found != expected {
            return Err(format!("news: {found:?}, by the second: {expected:?}"));
        }
        Ok(Verdict::Taken)
    }
}

/// User, event, time and thread.
type ReadTo = (String, String, u64, Option<String>);
/// Who types or does not any more, and receipts.
type RoomNews = (BTreeMap<String, bool>, Vec<ReadTo>);
type News = BTreeMap<String, RoomNews>;

fn told_of((typing, receipts): (BTreeMap<OwnedUserId, bool>, Vec<Receipt>)) -> RoomNews {
    let typing = typing.into_iter().map(|(user_id, types)| (user_id.to_string(), types)).collect();
    let receipts = receipts.into_iter().map(|receipt| {
        let thread = match receipt.slot.thread {
            ReceiptThread::Unthreaded => None,
            ReceiptThread::Main => Some("main".to_owned()),
            ReceiptThread::Root(root) => Some(root.to_string()),
        };
        (receipt.slot.user_id.to_string(), receipt.event_id.to_string(), receipt.at.0, thread)
    });
    (typing, receipts.collect())
}

/// The second reading of typing and receipts, in the order of the keys, as canonical JSON has them.
fn read_news(edus: &[Json]) -> News {
    let mut news = News::new();
    let mut receipts: usize = 0;
    let has_room = |news: &News, room_id: &str| {
        RoomId::parse(room_id).is_ok() && (news.len() < NEWS_ROOMS_MAX || news.contains_key(room_id))
    };
    let is_user = |user_id: &str| UserId::parse(user_id).is_ok_and(|user_id| user_id.server_name() == "peer.test");
    for edu in edus {
        let Some(content) = edu.get("content").filter(|content| content.object().is_some()) else { continue };
        match edu.text_at("edu_type") {
            Some("m.typing") => {
                let facts = (
                    content.text_at("room_id"),
                    content.text_at("user_id"),
                    content.get("typing").and_then(Json::bool),
                );
                let (Some(room_id), Some(user_id), Some(types)) = facts else { continue };
                if is_user(user_id) && has_room(&news, room_id) {
                    news.entry(room_id.to_owned()).or_default().0.insert(user_id.to_owned(), types);
                }
            }
            Some("m.receipt") => {
                for (room_id, of_room) in sorted(content) {
                    let Some(of_users) = of_room.get("m.read") else { continue };
                    for (user_id, told) in sorted(of_users) {
                        let Some((event_id, at, thread)) = read_receipt(told).filter(|_| is_user(user_id)) else {
                            continue;
                        };
                        if receipts < RECEIPTS_MAX && has_room(&news, room_id) {
                            receipts += 1;
                            let receipt = (user_id.clone(), event_id, at, thread);
                            news.entry(room_id.clone()).or_default().1.push(receipt);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    news
}

fn sorted(object: &Json) -> Vec<(&String, &Json)> {
    let mut fields: Vec<(&String, &Json)> =
        object.object().unwrap_or_default().iter().map(|(key, value)| (key, value)).collect();
    fields.sort_by_key(|(key, _)| *key);
    fields
}

fn read_receipt(told: &Json) -> Option<(String, u64, Option<String>)> {
    let [event_id] = told.get("event_ids")?.list()? else { return None };
    let event_id = event_id.text().filter(|id| EventId::parse(*id).is_ok())?;
    let data = told.get("data")?;
    let at = u64::try_from(data.get("ts")?.integer()?).ok()?;
    let thread = match data.get("thread_id") {
        None => None,
        Some(thread) => Some(thread.text().filter(|id| *id == "main" || EventId::parse(*id).is_ok())?.to_owned()),
    };
    Some((event_id.to_owned(), at, thread))
}

fn many_receipts(count: usize) -> Json {
    let told = json::read(br#"{"data":{"ts":1},"event_ids":["$one"]}"#).unwrap_or(Json::Null);
    let users = (0..count).map(|number| (format!("@u{number}:peer.test"), told.clone())).collect();
    let of_room = Json::Object(vec![("m.read".to_owned(), Json::Object(users))]);
    let content = Json::Object(vec![("!a:peer.test".to_owned(), of_room)]);
    Json::Object(vec![("edu_type".to_owned(), Json::Text("m.receipt".to_owned())), ("content".to_owned(), content)])
}
