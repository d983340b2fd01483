//! What another server answers to `make_knock`, `make_join` and `make_leave`: a place in its graph, and nothing else.
//! May not: hand on any other word of the template. We sign events of our own making, never what a server hands over.

#[cfg(test)]
mod tests;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedUserId, RoomId, RoomVersionId, UserId,
    events::room::member::MembershipState,
};

use super::TemplateRefusal;
use crate::{
    clock::UnixMillis,
    pdu::{
        checks::{AUTH_EVENTS_MAX, PREV_EVENTS_MAX, parse_event_id},
        event_builder::GraphPlace,
    },
    room_version::RoomVersion,
};

/// What was asked for.
#[derive(Clone, Debug)]
pub struct TemplateRequest<'a> {
    /// The room in the path.
    pub room_id: &'a RoomId,
    /// The user in the path.
    pub user_id: &'a UserId,
    /// What the user wants to be.
    pub membership: MembershipState,
    /// The room versions that we offered. Where the endpoint takes no offer, those that the room can have.
    pub offered: &'a [RoomVersionId],
    /// The version of the room if the answer does not name it; `make_leave` may leave it out.
    pub fallback_version: Option<&'a RoomVersionId>,
}

/// What is taken from an answer.
#[derive(Clone, Debug)]
pub struct Template {
    /// The room's version.
    pub version: RoomVersion,
    /// Where our event goes in that server's graph, with our time.
    pub place: GraphPlace,
    /// Who vouches for a join in a restricted room.
    pub authorised_via: Option<OwnedUserId>,
}

/// Judges an answer and takes the place in the graph out of it. `now` becomes the time of the event.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>, SECURITY V01.
///
/// # Errors
/// [`TemplateRefusal`]: the server answered something else than what was asked, so ask another one.
pub fn read_template(
    reply: &CanonicalJsonObject,
    wanted: &TemplateRequest<'_>,
    now: UnixMillis,
) -> Result<Template, TemplateRefusal> {
    let version = version_of(reply, wanted)?;
    let Some(CanonicalJsonValue::Object(event)) = reply.get("event") else {
        return Err(TemplateRefusal::NotAnObject);
    };
    let text = |field: &str| event.get(field).and_then(CanonicalJsonValue::as_str);
    if text("room_id") != Some(wanted.room_id.as_str()) {
        return Err(TemplateRefusal::WrongRoom);
    }
    if text("type") != Some("m.room.member") {
        return Err(TemplateRefusal::WrongType);
    }
    if text("sender") != Some(wanted.user_id.as_str()) {
        return Err(TemplateRefusal::WrongSender);
    }
    if text("state_key") != Some(wanted.user_id.as_str()) {
        return Err(TemplateRefusal::WrongStateKey);
    }
    let content = event.get("content").and_then(CanonicalJsonValue::as_object);
    let membership = content.and_then(|content| content.get("membership")).and_then(CanonicalJsonValue::as_str);
    if membership != Some(wanted.membership.as_str()) {
        return Err(TemplateRefusal::WrongMembership);
    }
    let place = place_of(event, &version, wanted.room_id, now)?;
    let may_be_vouched_for = wanted.membership == MembershipState::Join && version.can_join_restricted();
    let authorizing_user =
        content.and_then(|content| content.get("join_authorised_via_users_server")).filter(|_| may_be_vouched_for);
    let authorised_via = authorizing_user
        .map(|user_id| user_id.as_str().and_then(|user_id| UserId::parse(user_id).ok()))
        .map(|user_id| user_id.ok_or(TemplateRefusal::BadAuthorisedVia))
        .transpose()?;
    // Who of us has vouched has done it here. Our own signature, which the join has anyway, must not pass for it.
    if authorised_via.as_ref().is_some_and(|voucher| voucher.server_name() == wanted.user_id.server_name()) {
        return Err(TemplateRefusal::BadAuthorisedVia);
    }
    Ok(Template { version, place, authorised_via })
}

fn version_of(reply: &CanonicalJsonObject, wanted: &TemplateRequest<'_>) -> Result<RoomVersion, TemplateRefusal> {
    let named = match reply.get("room_version") {
        Some(CanonicalJsonValue::String(name)) => wanted.offered.iter().find(|offered| offered.as_str() == name),
        Some(_) => None,
        None => wanted.fallback_version,
    };
    let room_version = named.ok_or(TemplateRefusal::VersionNotOffered)?;
    RoomVersion::lookup(room_version)
        .ok_or_else(|| TemplateRefusal::VersionNotKnown { room_version: room_version.clone() })
}

fn place_of(
    event: &CanonicalJsonObject,
    version: &RoomVersion,
    room_id: &RoomId,
    now: UnixMillis,
) -> Result<GraphPlace, TemplateRefusal> {
    let bad = |what: &'static str| TemplateRefusal::BadPlace { what };
    let auth_events = ids(event, "auth_events", AUTH_EVENTS_MAX).ok_or(bad("auth_events"))?;
    // From version 12 the room's id says which create event it has; an event that names it again is refused by everybody.
    let create_hash = version.room_id_is_create_hash().then(|| room_id.strip_sigil());
    if auth_events.iter().any(|event_id| event_id.as_str().strip_prefix('$') == create_hash && create_hash.is_some()) {
        return Err(bad("auth_events holds the create event"));
    }
    let prev_events = ids(event, "prev_events", PREV_EVENTS_MAX).ok_or(bad("prev_events"))?;
    if prev_events.is_empty() {
        return Err(bad("prev_events is empty"));
    }
    let depth = match event.get("depth") {
        Some(CanonicalJsonValue::Integer(depth)) => u64::try_from(i64::from(*depth)).ok(),
        _ => None,
    };
    Ok(GraphPlace {
        room_id: Some(room_id.to_owned()),
        prev_events,
        auth_events,
        depth: depth.ok_or(bad("depth"))?,
        origin_server_ts: now,
    })
}

/// A list of distinct event ids that is not too long, and none of them is: what we make of it has to fit into an event.
fn ids(event: &CanonicalJsonObject, field: &str, entries_max: usize) -> Option<Vec<OwnedEventId>> {
    let entries = event.get(field)?.as_array().filter(|entries| entries.len() <= entries_max)?;
    let mut event_ids = Vec::new();
    for entry in entries {
        let event_id = parse_event_id(entry.as_str()?)?;
        if event_ids.contains(&event_id) {
            return None;
        }
        event_ids.push(event_id);
    }
    Some(event_ids)
}
