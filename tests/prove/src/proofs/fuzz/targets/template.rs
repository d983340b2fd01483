//! Target `template`: what is taken of another server's `make_knock`, `make_join` and `make_leave`, against the rules told anew.
//! May not: sign anything.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>

use rand::{RngExt, rngs::StdRng};
use ruma::{
    EventId, OwnedRoomId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState, room_id, user_id,
};
use vestibule_protocol::{
    canonical_json::parse_object,
    clock::UnixMillis,
    membership::template::{TemplateRequest, read_template},
    pdu::checks::FIELD_BYTES_MAX,
    room_version::RoomVersion,
};

use super::super::{
    Target, Verdict,
    drawing::{Input, text_of},
    json::{self, Json},
};
use crate::proof::{Plant, Settings};

pub static ANY_USER: Plant = Plant { name: "any-user", what: "a template for another user is taken", cases: 5_000 };

const HASH_ROOM: &str = "!AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const US: &str = "@ann:us.test";
const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const VOUCHER: &str = "join_authorised_via_users_server";

struct Question {
    room_id: OwnedRoomId,
    membership: MembershipState,
    offered: Vec<RoomVersionId>,
    fallback: Option<RoomVersionId>,
}

pub fn make() -> Result<Box<dyn Target>, String> {
    use RoomVersionId::{V6, V7, V10, V11, V12};
    let named = room_id!("!room:peer.test").to_owned();
    let hashed = RoomId::parse(HASH_ROOM).map_err(|error| error.to_string())?;
    let known = RoomVersion::known();
    let questions = vec![
        Question {
            room_id: named.clone(),
            membership: MembershipState::Knock,
            offered: vec![V7, V10, V11],
            fallback: None,
        },
        Question { room_id: named.clone(), membership: MembershipState::Join, offered: known.clone(), fallback: None },
        Question { room_id: named, membership: MembershipState::Leave, offered: vec![V6, V10], fallback: Some(V10) },
        Question { room_id: hashed.clone(), membership: MembershipState::Knock, offered: vec![V12], fallback: None },
        Question { room_id: hashed, membership: MembershipState::Join, offered: known, fallback: None },
    ];
    let others = r#"["@bob:peer.test","$one","!room:peer.test","knock","m.room.member","10",["$one"],["$one","$one"]]"#;
    let others = json::read(others.as_bytes()).ok_or("a seed is no canonical JSON")?;
    Ok(Box::new(Template { questions, others: others.list().unwrap_or_default().to_vec() }))
}

struct Template {
    questions: Vec<Question>,
    others: Vec<Json>,
}

impl Target for Template {
    fn draw(&self, random: &mut StdRng) -> Input {
        let mut input = Input::new(Vec::new(), random);
        let Some(question) = input.choose(&self.questions) else { return input };
        let version = question.offered.last().map_or("1", RoomVersionId::as_str);
        let (membership, room_id) = (&question.membership, &question.room_id);
        let voucher =
            if random.random_ratio(1, 3) { format!(r#","{VOUCHER}":"@carol:third.test""#) } else { String::new() };
        let reply = format!(
            r#"{{"room_version":"{version}","event":{{"type":"m.room.member","room_id":"{room_id}","sender":"{US}","state_key":"{US}",
            "content":{{"membership":"{membership}"{voucher}}},"depth":12,"origin_server_ts":1,"prev_events":["$prev","$other"],
            "auth_events":["$one","$two","$three"]}}}}"#
        );
        let reply = json::read(reply.as_bytes()).unwrap_or(Json::Null);
        input.bytes = text_of(reply, &self.others, random);
        input
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let question = input.choose(&self.questions).ok_or("no questions")?;
        let Ok(mut reply) = parse_object(&input.bytes) else { return Ok(Verdict::Refused) };
        let told = json::read(&input.bytes).ok_or("the second reading refuses its JSON")?;
        if settings.has(&ANY_USER)
            && let Some(ruma::CanonicalJsonValue::Object(event)) = reply.get_mut("event")
        {
            for key in ["sender", "state_key"] {
                event.insert(key.to_owned(), ruma::CanonicalJsonValue::String(US.to_owned()));
            }
        }
        let wanted = TemplateRequest {
            room_id: &question.room_id,
            user_id: user_id!("@ann:us.test"),
            membership: question.membership.clone(),
            offered: &question.offered,
            fallback_version: question.fallback.as_ref(),
        };
        let found = read_template(&reply, &wanted, NOW).ok().map(|template| {
            let text = |ids: Vec<ruma::OwnedEventId>| ids.into_iter().map(|id| id.to_string()).collect();
            let place = template.place;
            Taken {
                version: template.version.id().to_string(),
                room_id: place.room_id.map(|room_id| room_id.to_string()),
                prev_events: text(place.prev_events),
                auth_events: text(place.auth_events),
                depth: i64::try_from(place.depth).unwrap_or(-1),
                at: place.origin_server_ts.0,
                voucher: template.authorised_via.map(|user| user.to_string()),
            }
        });
        let expected = read(&told, question);
        if found != expected {
            return Err(format!("taken: {found:?}, by the second reading: {expected:?}"));
        }
        Ok(found.is_some().into())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Taken {
    version: String,
    room_id: Option<String>,
    prev_events: Vec<String>,
    auth_events: Vec<String>,
    depth: i64,
    at: u64,
    voucher: Option<String>,
}

/// The second reading: what was asked for, in a version that was offered, at a place that can be one.
fn read(reply: &Json, question: &Question) -> Option<Taken> {
    let version = match reply.get("room_version") {
        None => question.fallback.as_ref()?.as_str(),
        Some(version) => {
            version.text().filter(|name| question.offered.iter().any(|offered| offered.as_str() == *name))?
        }
    };
    let number: u32 = version.parse().ok()?;
    let event = reply.get("event")?;
    let content = event.get("content")?;
    let is_asked_for = event.text_at("type") == Some("m.room.member")
        && event.text_at("room_id") == Some(question.room_id.as_str())
        && event.text_at("sender") == Some(US)
        && event.text_at("state_key") == Some(US)
        && content.text_at("membership") == Some(question.membership.as_str());
    is_asked_for.then_some(())?;
    let auth_events = ids(event.get("auth_events")?, 10)?;
    let create = HASH_ROOM.replace('!', "$");
    (number < 12 || !auth_events.contains(&create) || question.room_id.as_str() != HASH_ROOM).then_some(())?;
    let prev_events = ids(event.get("prev_events")?, 20).filter(|ids| !ids.is_empty())?;
    let depth = event.get("depth").and_then(Json::integer).filter(|depth| *depth >= 0)?;
    let voucher = match content.get(VOUCHER).filter(|_| number >= 8 && question.membership == MembershipState::Join) {
        None => None,
        Some(voucher) => {
            let voucher = voucher.text().and_then(|text| UserId::parse(text).ok())?;
            (voucher.server_name() != "us.test").then_some(())?;
            Some(voucher.to_string())
        }
    };
    let room_id = Some(question.room_id.to_string());
    Some(Taken { version: version.to_owned(), room_id, prev_events, auth_events, depth, at: NOW.0, voucher })
}

/// So many ids at most, each once.
fn ids(list: &Json, entries_max: usize) -> Option<Vec<String>> {
    let entries = list.list().filter(|entries| entries.len() <= entries_max)?;
    let mut ids: Vec<String> = Vec::new();
    for entry in entries {
        let id = entry.text().filter(|id| id.len() <= FIELD_BYTES_MAX && EventId::parse(*id).is_ok())?;
        (!ids.iter().any(|known| known == id)).then_some(())?;
        ids.push(id.to_owned());
    }
    Some(ids)
}
