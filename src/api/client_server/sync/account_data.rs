//! The part of a user's account data that a sync tells.
//! May not: tell another user's.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, api::client::filter::FilterDefinition};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use vestibule_protocol::stream::StreamPosition;
use vestibule_storage::{accounts::AccountData, error::StorageError};

use super::answer::Events;
use crate::{
    client_server::{
        event_filter::{lets_account_data_through, lets_room_through, lets_type_through},
        pushrules::{PUSH_RULES, PushRules},
    },
    extract::Caller,
    state::App,
};

/// Events of one room's account data.
pub type RoomAccountData = Vec<Box<RawValue>>;

/// What there is to tell.
pub struct AccountDataNews {
    /// Of no room.
    pub global: Events,
    /// By room.
    pub of_rooms: BTreeMap<OwnedRoomId, RoomAccountData>,
}

#[derive(Serialize)]
struct AccountDataEvent<'a> {
    content: &'a RawValue,
    #[serde(rename = "type")]
    kind: &'a str,
}

/// The account data set after `since` (all, without one) and not after `until`.
///
/// # Errors
/// When the store cannot be read.
pub async fn since(
    app: &App,
    caller: &Caller,
    since: Option<StreamPosition>,
    until: StreamPosition,
    filter: &FilterDefinition,
) -> Result<AccountDataNews, StorageError> {
    let user_id = &caller.user_id;
    let rows = app.stores.accounts.account_data_since(user_id, since.unwrap_or(StreamPosition::START)).await?;
    let mut news = AccountDataNews { global: Events::default(), of_rooms: BTreeMap::new() };
    let lets_global_through = |kind: &str| lets_account_data_through(&filter.account_data, user_id, kind);

    // Clients block at their start without push rules. Who never switched one has no row.
    if since.is_none() && lets_global_through(PUSH_RULES) && !rows.iter().any(is_push_rules) {
        let content = to_raw_value(&PushRules::of(user_id, None).content()).ok();
        news.global.events.extend(content.and_then(|content| event(PUSH_RULES, &content)));
    }
    for row in rows.into_iter().filter(|row| row.position <= until) {
        let content = if is_push_rules(&row) {
            PushRules::of(user_id, Some(&row.content)).content().to_string()
        } else {
            row.content
        };
        let Some(event) = RawValue::from_string(content).ok().and_then(|content| event(&row.kind, &content)) else {
            continue;
        };
        match row.room_id {
            None if lets_global_through(&row.kind) => news.global.events.push(event),
            Some(room_id)
                if lets_room_through(&filter.room.account_data, &room_id)
                    && lets_type_through(&filter.room.account_data, &row.kind) =>
            {
                news.of_rooms.entry(room_id).or_default().push(event);
            }
            _ => {}
        }
    }
    Ok(news)
}

fn is_push_rules(row: &AccountData) -> bool {
    row.room_id.is_none() && row.kind == PUSH_RULES
}

fn event(kind: &str, content: &RawValue) -> Option<Box<RawValue>> {
    to_raw_value(&AccountDataEvent { content, kind }).ok()
}
