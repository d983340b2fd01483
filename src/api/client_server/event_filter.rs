//! Which events a client's filter lets through.
//! May not: read storage, or decide what a user may see; a filter only ever narrows that.

use ruma::{
    RoomId, UInt,
    api::client::filter::{Filter, LazyLoadOptions, RoomEventFilter, UrlFilter},
};
use serde::Deserialize;
use vestibule_protocol::pdu::Pdu;

/// Whether a filter lets an event of a room through. Its `limit` is not looked at here.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#filtering>
pub fn lets_through(filter: &RoomEventFilter, event: &Pdu) -> bool {
    let kind = event.kind().to_string();
    let sender = event.sender();
    lets_type_through(filter, &kind)
        && filter.senders.as_ref().is_none_or(|senders| senders.iter().any(|wanted| wanted == sender))
        && !filter.not_senders.iter().any(|unwanted| unwanted == sender)
        && match filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => has_url(event),
            Some(UrlFilter::EventsWithoutUrl) => !has_url(event),
        }
}

/// Whether the filter lets events of a type through.
pub fn lets_type_through(filter: &RoomEventFilter, kind: &str) -> bool {
    type_passes(filter.types.as_deref(), &filter.not_types, kind)
}

/// Whether the filter lets anything of a room through.
pub fn lets_room_through(filter: &RoomEventFilter, room_id: &RoomId) -> bool {
    room_passes(filter.rooms.as_deref(), &filter.not_rooms, room_id)
}

/// Whether a list of wanted and one of unwanted rooms let a room through.
pub fn room_passes(wanted: Option<&[ruma::OwnedRoomId]>, unwanted: &[ruma::OwnedRoomId], room_id: &RoomId) -> bool {
    wanted.is_none_or(|rooms| rooms.iter().any(|wanted| wanted == room_id))
        && !unwanted.iter().any(|unwanted| unwanted == room_id)
}

/// Whether the filter lets account data of a type through, which has no sender but its owner.
pub fn lets_account_data_through(filter: &Filter, owner: &ruma::UserId, kind: &str) -> bool {
    type_passes(filter.types.as_deref(), &filter.not_types, kind)
        && filter.senders.as_ref().is_none_or(|senders| senders.iter().any(|wanted| wanted == owner))
        && !filter.not_senders.iter().any(|unwanted| unwanted == owner)
}

/// Whether member events are to be left out unless they are needed.
pub fn is_lazy(filter: &RoomEventFilter) -> bool {
    matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. })
}

/// The number of events asked for, at most `max`.
pub fn limit_of(asked: Option<UInt>, default: usize, max: usize) -> usize {
    asked.map_or(default, |limit| usize::try_from(u64::from(limit)).unwrap_or(max)).min(max)
}

fn type_passes(wanted: Option<&[String]>, unwanted: &[String], kind: &str) -> bool {
    wanted.is_none_or(|types| types.iter().any(|pattern| matches_pattern(pattern, kind)))
        && !unwanted.iter().any(|pattern| matches_pattern(pattern, kind))
}

/// `*` stands for any characters, also none. Costs the product of the lengths at worst: one step back to the last `*` on a
/// mismatch, so that no pattern of a client can make it explode.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    while let Some((part, after)) = rest.split_once('*') {
        let Some(found) = text.find(part) else { return false };
        text = text.get(found.saturating_add(part.len())..).unwrap_or_default();
        rest = after;
    }
    text.ends_with(rest)
}

/// `content.url` is a string.
fn has_url(event: &Pdu) -> bool {
    #[derive(Deserialize)]
    struct Content {
        url: Option<String>,
    }
    event.content_as::<Content>().is_some_and(|content| content.url.is_some())
}

#[cfg(test)]
#[path = "event_filter/tests.rs"]
mod tests;
