//! Which events a member event may name as its auth events: exactly the specification's selection passes, and each deviation
//! that the rules name is refused.
//! May not: use the selection that production makes.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#auth-events-selection>

use std::sync::Arc;

use serde_json::json;
use vestibule_protocol::pdu::{Pdu, Standing};

use super::{
    case::{BOB, CAROL, Case, EVE, JOIN_RULES, Membership, NEXTS, Next, USERS},
    matrix::cell,
    production::Room,
};
use crate::proof::{Outcome, Plant, Settings};

pub static ANY_AUTH_EVENT: Plant =
    Plant { name: "any-auth-event", what: "the room takes an event without looking at its auth events", cases: 100 };

/// What is wrong with the auth events, if anything.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deviation {
    Nothing,
    /// Fewer than there are: allowed, for they are judged against the state too. Only the create event must be there.
    WithoutMember,
    WithoutCreate,
    WithCreate,
    Topic,
    StrangersMember,
    Twice,
    Rejected,
    OtherRoom,
    Unknown,
}

const DEVIATIONS: [Deviation; 10] = [
    Deviation::Nothing,
    Deviation::WithoutMember,
    Deviation::WithoutCreate,
    Deviation::WithCreate,
    Deviation::Topic,
    Deviation::StrangersMember,
    Deviation::Twice,
    Deviation::Rejected,
    Deviation::OtherRoom,
    Deviation::Unknown,
];

/// Compares all; how many there were.
pub fn compare_all(settings: &Settings, outcome: &mut Outcome) -> u64 {
    let before = outcome.cases;
    for version in 3..=12 {
        for join_rule in JOIN_RULES {
            for next in NEXTS {
                for (sender, via) in [(BOB, None), (CAROL, None), (BOB, Some(EVE))] {
                    let mut case = cell(version, join_rule, Membership::Invite, next, sender);
                    case.via = via;
                    case.members[EVE] = Membership::Join;
                    case.levels = Some(super::case::Levels::default());
                    for deviation in DEVIATIONS {
                        compare(settings, outcome, &case, deviation);
                    }
                }
            }
        }
    }
    outcome.cases - before
}

fn compare(settings: &Settings, outcome: &mut Outcome, case: &Case, deviation: Deviation) {
    // No membership, no selection: the rules refuse the event whatever it names.
    let is_member_event = !matches!(case.next, Next::Missing);
    let Some(expected) = expected(case.version, deviation) else { return };
    let expected = expected && is_member_event;
    outcome.case();
    let seen = if settings.has(&ANY_AUTH_EVENT) { Deviation::Nothing } else { deviation };
    let decided = match decide(case, seen) {
        Ok(decided) => decided,
        Err(error) => return outcome.miss(format!("auth events, {deviation:?}: no such event: {error}: {case:?}")),
    };
    if decided.is_ok() != expected {
        let refusal = decided.err().map_or_else(|| "taken".to_owned(), |reason| format!("refused: {reason}"));
        outcome.miss(format!("auth events, {deviation:?}: {refusal}, and the oracle says {expected}: {case:?}"));
    }
}

/// `None` where a version cannot have the deviation.
fn expected(version: u8, deviation: Deviation) -> Option<bool> {
    match deviation {
        Deviation::Nothing | Deviation::WithoutMember => Some(true),
        // The room's id names it from version 12.
        Deviation::WithoutCreate if version >= 12 => None,
        Deviation::WithCreate if version <= 11 => None,
        _ => Some(false),
    }
}

/// What production decides, or why the case cannot be put before it.
fn decide(case: &Case, deviation: Deviation) -> Result<Result<(), String>, String> {
    let mut room = Room::of(case)?;
    room.add("m.room.topic", "", USERS[0], json!({ "topic": "doors" }))?;
    let mut named = selection(case, &room);
    let mut others = Vec::new();
    let mut other = |room: &Room, id: &str, user: usize, standing: Standing| -> Result<String, String> {
        let content = json!({ "membership": "join" });
        let event = room.event(id, "m.room.member", Some(USERS[user]), USERS[user], content, &[], &[], standing)?;
        others.push(Arc::new(event));
        Ok(id.to_owned())
    };
    let members_id = id_in(&room, "m.room.member", USERS[case.sender]);
    match deviation {
        Deviation::Nothing => {}
        Deviation::WithoutMember => named.retain(|id| Some(id) != members_id.as_ref()),
        Deviation::WithoutCreate => named.retain(|id| id != "$m.room.create/"),
        Deviation::WithCreate => named.push("$m.room.create/".to_owned()),
        Deviation::Topic => named.push("$m.room.topic/".to_owned()),
        Deviation::StrangersMember => named.push(other(&room, "$stranger", super::case::DAVE, Standing::Accepted)?),
        Deviation::Twice => named.push(other(&room, "$twice", case.sender, Standing::Accepted)?),
        Deviation::Rejected => {
            named.retain(|id| Some(id) != members_id.as_ref());
            named.push(other(&room, "$rejected", case.sender, Standing::Rejected)?);
        }
        Deviation::OtherRoom => {
            named.retain(|id| Some(id) != members_id.as_ref());
            room.is_other = true;
            named.push(other(&room, "$elsewhere", case.sender, Standing::Accepted)?);
            room.is_other = false;
        }
        Deviation::Unknown => named.push("$unknown".to_owned()),
    }
    let event = room.event_of(case, &named)?;
    Ok(room.takes_shape(&event, &others))
}

/// The specification's selection for a member event.
fn selection(case: &Case, room: &Room) -> Vec<String> {
    let mut places = vec![("m.room.power_levels", ""), ("m.room.member", USERS[case.sender])];
    if case.version <= 11 {
        places.push(("m.room.create", ""));
    }
    places.push(("m.room.member", USERS[case.target]));
    if matches!(case.next, Next::Join | Next::Invite | Next::Knock) {
        places.push(("m.room.join_rules", ""));
    }
    if let Some(user) = case.via
        && case.next == Next::Join
        && case.version >= 8
    {
        places.push(("m.room.member", USERS[user]));
    }
    places.sort_unstable();
    places.dedup();
    places.into_iter().filter_map(|(kind, state_key)| id_in(room, kind, state_key)).collect()
}

fn id_in(room: &Room, kind: &str, state_key: &str) -> Option<String> {
    let event: &Arc<Pdu> = room.events.get(&(kind.to_owned(), state_key.to_owned()))?;
    Some(event.event_id().to_string())
}
