//! Target `stripped`: what another server shows of a room, to one who knocks and to one who is invited.
//! May not: believe any of it.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>

use std::collections::BTreeSet;

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use ruma::{CanonicalJsonValue, OwnedRoomId, RoomId, RoomVersionId, UserId, room_id, server_name, user_id};
use vestibule_protocol::{
    canonical_json::parse_value,
    fixture::{identity, version},
    pdu::checks::{FIELD_BYTES_MAX, event_id_of},
    room_version::RoomVersion,
    state::stripped::{
        STRIPPED_BYTES_MAX, STRIPPED_ENTRIES_MAX, StrippedEntry, check_invite_state, prune, read_stripped,
    },
};

use super::super::{
    Target, Verdict,
    drawing::{Input, text_of},
    json::{self, Json},
};
use crate::proof::{Plant, Settings};

pub static ALL_TYPES: Plant = Plant { name: "all-types", what: "what strangers are not shown is shown", cases: 5_000 };

/// What strangers are shown.
const TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
];
const INVITER: &str = "@bob:peer.test";

const ENTRIES: [&str; 9] = [
    r#"{"type":"m.room.name","state_key":"","sender":"@bob:peer.test","content":{"name":"Otters"}}"#,
    r#"{"type":"m.room.topic","state_key":"","sender":"@bob:peer.test","content":{"topic":"all about"},"room_id":"!room:peer.test"}"#,
    r#"{"type":"m.room.join_rules","state_key":"","sender":"@bob:peer.test","content":{"join_rule":"knock"},"unsigned":{}}"#,
    r#"{"type":"m.room.avatar","state_key":"","sender":"@bob:peer.test","content":{"url":"mxc://peer.test/a"},"room_id":"!other:x"}"#,
    r#"{"type":"m.room.member","state_key":"@bob:peer.test","sender":"@bob:peer.test","content":{"membership":"join"}}"#,
    r#"{"type":"m.room.power_levels","state_key":"","sender":"@bob:peer.test","content":{"users":{}}}"#,
    r#"{"type":"m.room.create","state_key":"","sender":"@bob:peer.test","content":{"room_version":"10"}}"#,
    r#"{"type":"m.room.encryption","state_key":"","sender":"@bob:peer.test","content":{"algorithm":"m.megolm.v1.aes-sha2"}}"#,
    r#"{"type":"m.room.canonical_alias","state_key":"x","sender":"@bob:peer.test","content":{}}"#,
];

struct Room {
    room_id: OwnedRoomId,
    version: RoomVersion,
    /// Entries of the room: stripped ones, and whole events.
    seeds: Vec<Json>,
}

pub fn make() -> Result<Box<dyn Target>, String> {
    let stripped: Option<Vec<Json>> = ENTRIES.iter().map(|text| json::read(text.as_bytes())).collect();
    let stripped = stripped.ok_or("a seed is no canonical JSON")?;
    let mut rooms = Vec::new();
    for number in [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let version = version(&number);
        let mut seeds = stripped.clone();
        let mut room_id = room_id!("!room:peer.test").to_owned();
        for (at, entry) in stripped.iter().enumerate() {
            let is_create = at == 6;
            let graph = r#"{"depth":1,"origin_server_ts":1,"prev_events":[],"auth_events":[]}"#;
            let graph = json::read(graph.as_bytes()).ok_or("a seed is no canonical JSON")?;
            let mut fields: Vec<(String, Json)> = entry.without(&["room_id"]).object().unwrap_or_default().to_vec();
            fields.extend(graph.object().unwrap_or_default().iter().cloned());
            if is_create {
                let content = Json::Object(vec![("room_version".to_owned(), Json::Text(number.to_string()))]);
                fields.retain(|(key, _)| key != "content");
                fields.push(("content".to_owned(), content));
            }
            if !(is_create && version.room_id_is_create_hash()) {
                fields.push(("room_id".to_owned(), Json::Text("!room:peer.test".to_owned())));
            }
            let mut event =
                vestibule_protocol::canonical_json::parse_object(Json::Object(fields).canonical().as_bytes())
                    .map_err(|error| error.to_string())?;
            identity(server_name!("peer.test"))
                .hash_and_sign(&mut event, version.rules())
                .map_err(|error| error.to_string())?;
            if is_create && version.room_id_is_create_hash() {
                let hash = event_id_of(&event, &version).map_err(|error| error.to_string())?;
                room_id = RoomId::parse(hash.as_str().replace('$', "!")).map_err(|error| error.to_string())?;
            }
            let text = serde_json::to_string(&event).map_err(|error| error.to_string())?;
            seeds.push(json::read(text.as_bytes()).ok_or("an event is no canonical JSON")?);
        }
        rooms.push(Room { room_id, version, seeds });
    }
    Ok(Box::new(Stripped { rooms }))
}

struct Stripped {
    rooms: Vec<Room>,
}

impl Target for Stripped {
    fn draw(&self, random: &mut StdRng) -> Input {
        let mut input = Input::new(Vec::new(), random);
        let Some(room) = input.choose(&self.rooms) else { return input };
        let mut entries: Vec<Json> =
            (0..random.random_range(0..4)).filter_map(|_| room.seeds.choose(random).cloned()).collect();
        if random.random_ratio(1, 300) {
            let long = Json::Object(vec![
                ("type".to_owned(), Json::Text("m.room.topic".to_owned())),
                ("state_key".to_owned(), Json::Text(String::new())),
                ("sender".to_owned(), Json::Text(INVITER.to_owned())),
                (
                    "content".to_owned(),
                    Json::Object(vec![(
                        "topic".to_owned(),
                        Json::Text("t".repeat(random.random_range(60_000..260_000))),
                    )]),
                ),
            ]);
            entries.insert(0, long);
        }
        if random.random_ratio(1, 50) {
            entries.extend(std::iter::repeat_n(room.seeds[5].clone(), 70));
            entries.push(room.seeds[0].clone());
        }
        input.bytes = text_of(Json::List(entries), &room.seeds[..9], random);
        input
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let room = input.choose(&self.rooms).ok_or("no rooms")?;
        let Ok(value) = parse_value(&input.bytes) else { return Ok(Verdict::Refused) };
        let told = json::read(&input.bytes).ok_or("the second reading refuses its JSON")?;
        let mut shown = read_stripped(Some(&value), &room.room_id, &room.version);
        if settings.has(&ALL_TYPES)
            && let Some(entries) = value.as_array()
        {
            let renamed: Vec<CanonicalJsonValue> = entries.iter().filter_map(renamed).collect();
            shown.extend(read_stripped(Some(&CanonicalJsonValue::Array(renamed)), &room.room_id, &room.version));
        }
        self.look_at(&shown, &told, room, None)?;
        let inviter = user_id!("@bob:peer.test");
        match check_invite_state(Some(&value), &room.room_id, &room.version, inviter) {
            Ok(shown) => {
                self.look_at(&shown, &told, room, Some(inviter))?;
                let is_list = told.list().is_some_and(|entries| entries.iter().all(|entry| entry.object().is_some()));
                let has_create = shown.iter().any(|entry| key_of(entry).0 == "m.room.create");
                if !is_list || (room.version.room_id_is_create_hash() && !has_create) {
                    return Err("an invite with this state is taken".to_owned());
                }
            }
            Err(_) if shown.is_empty() => return Ok(Verdict::Refused),
            Err(_) => {}
        }
        Ok((!shown.is_empty()).into())
    }
}

impl Stripped {
    /// What is shown is among what came, of the room, of the few types, and each once.
    fn look_at(
        &self,
        shown: &[StrippedEntry],
        told: &Json,
        room: &Room,
        inviter: Option<&UserId>,
    ) -> Result<(), String> {
        let came = told.list().unwrap_or_default();
        let mut keys = BTreeSet::new();
        let mut bytes = 0;
        for entry in shown {
            let (kind, state_key) = key_of(entry);
            let is_inviter = inviter.is_some_and(|inviter| kind == "m.room.member" && state_key == inviter.as_str());
            let is_of_the_room = TYPES.contains(&kind.as_str()) && state_key.is_empty();
            if !is_inviter && !is_of_the_room {
                return Err(format!("{kind} with {state_key:?} is shown"));
            }
            let stripped = match entry {
                StrippedEntry::Pdu(shaped) if shaped.pdu().room_id() != room.room_id => {
                    return Err(format!("an event of {} is shown", shaped.pdu().room_id()));
                }
                StrippedEntry::Pdu(shaped) => prune(shaped.pdu()).ok_or("an event without a state key is shown")?,
                StrippedEntry::Stripped(stripped) => stripped.clone(),
            };
            if state_key.len() > FIELD_BYTES_MAX || kind.len() > FIELD_BYTES_MAX {
                return Err(format!("{kind} with a long key is shown"));
            }
            let text = stripped.to_json();
            let four = json::read(text.as_bytes()).ok_or_else(|| format!("{text} is not JSON"))?;
            let source = came.iter().take(STRIPPED_ENTRIES_MAX).find(|entry| {
                let is_elsewhere = entry.text_at("room_id").is_some_and(|named| named != room.room_id);
                !is_elsewhere
                    && ["type", "state_key", "sender", "content"]
                        .iter()
                        .all(|key| entry.get(key).map(Json::canonical) == four.get(key).map(Json::canonical))
            });
            let Some(source) = source else { return Err(format!("{text} is shown, and never came")) };
            bytes += source.canonical().len();
            if four.object().is_none_or(|fields| fields.len() != 4) {
                return Err(format!("{text} is shown"));
            }
            if !keys.insert((kind, state_key)) {
                return Err("a second entry of a type is shown".to_owned());
            }
        }
        if bytes > STRIPPED_BYTES_MAX {
            return Err(format!("{bytes} bytes are shown"));
        }
        Ok(())
    }
}

fn key_of(entry: &StrippedEntry) -> (String, String) {
    match entry {
        StrippedEntry::Pdu(shaped) => {
            (shaped.pdu().kind().to_string(), shaped.pdu().state_key().unwrap_or_default().to_owned())
        }
        StrippedEntry::Stripped(stripped) => (stripped.kind.to_string(), stripped.state_key.clone()),
    }
}

/// An entry that is not to be shown, as a reader sees it that does not look at types.
fn renamed(entry: &CanonicalJsonValue) -> Option<CanonicalJsonValue> {
    let mut object = entry.as_object()?.clone();
    let kind = object.insert("type".to_owned(), CanonicalJsonValue::String("m.room.name".to_owned()))?;
    (kind.as_str() == Some("m.room.power_levels")).then_some(CanonicalJsonValue::Object(object))
}
