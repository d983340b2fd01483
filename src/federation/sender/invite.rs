//! An invite of ours on its way to the invited user's server.
//! May not: decide whether somebody may be invited; the room did, and the invite stands in it.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>

use std::{net::Ipv4Addr, sync::Arc};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Serialize;
use serde_json::value::RawValue;
use vestibule_actors::{ChangeMembership, MembershipChange, SourceNetwork};
use vestibule_protocol::{
    pdu::Pdu,
    state::{
        StateMap,
        stripped::{STRIPPED_TYPES, full, shown_to_strangers},
    },
};
use vestibule_storage::{error::StorageError, outbox::OutboxRow};

use super::{
    Inner,
    destination::{Failure, Lane},
    handshakes::{Delivered, succeeded},
    transactions,
};
use crate::{
    client::{Limits, RemoteError},
    endpoints,
};

/// Bytes of the answer: the event with one more signature. Ours: an event and as much again.
const INVITE_REPLY_BYTES_MAX: usize = 128 * 1024;

/// What the room is told when the invite did not get there.
const RESCINDED_BECAUSE: &str = "the server of the invited user refused the invite";

#[derive(Serialize)]
struct Body<'a> {
    event: &'a RawValue,
    invite_room_state: Vec<Box<RawValue>>,
    room_version: &'a str,
}

/// Member events of one user that are gone back through to find what ended an invite. Ours: a ban that was lifted takes two.
const ENDS_MAX: u32 = 4;

/// What there is to deliver.
struct Letter {
    invite: Arc<Pdu>,
    text: String,
    /// What ended the invite before it could be delivered.
    end: Option<Arc<Pdu>>,
}

/// Delivers it, unless it is no invite any more. One that answered a knock goes in any case, and what ended it goes after it:
/// who knocked knows a denial by what it cites, and this one cites the invite.
pub(super) async fn deliver(inner: &Inner, lane: &Lane, row: &OutboxRow) -> Delivered {
    let letter = match letter(inner, row).await {
        Ok(Some(letter)) => letter,
        Ok(None) => return Delivered::Done,
        Err(error) => return error.into(),
    };
    let Letter { invite, text, end } = letter;
    let request = endpoints::invite(&row.room_id, &row.event_id, text);
    let limits = Limits { reply_bytes_max: INVITE_REPLY_BYTES_MAX, deadline: inner.parts.settings.request_timeout };
    let place = inner.place(lane).await;
    let answered = inner.parts.client.request(lane.server(), request, limits).await;
    drop(place);
    match answered {
        // The answer is the event with their signature. The room needs ours alone.
        Ok(_) => {
            succeeded(inner, lane);
            deliver_end(inner, lane, end).await
        }
        Err(RemoteError::ReplyTooLarge { status, .. }) if status.is_success() => deliver_end(inner, lane, end).await,
        Err(error) => match Failure::of(&error) {
            Failure::Refused(_) | Failure::NotForThem => {
                log::debug!(destination:% = lane.server(), event_id:% = row.event_id, error:%; "invite refused");
                rescind(inner, row, &invite).await
            }
            Failure::NotNow { .. } | Failure::NoAnswer => Delivered::Failed(error),
        },
    }
}

/// It may have gone in a transaction before, and was not believed then. Twice does no harm.
async fn deliver_end(inner: &Inner, lane: &Lane, end: Option<Arc<Pdu>>) -> Delivered {
    let Some(end) = end else { return Delivered::Done };
    let transaction_id: String = end.event_id().as_str().chars().filter(char::is_ascii_alphanumeric).collect();
    match transactions::send(inner, lane, &format!("end{transaction_id}"), &[end], &[]).await {
        Ok(()) => Delivered::Done,
        Err(error) => match Failure::of(&error) {
            Failure::Refused(_) | Failure::NotForThem => Delivered::Done,
            Failure::NotNow { .. } | Failure::NoAnswer => Delivered::Failed(error),
        },
    }
}

/// `None`: the invite is gone or stands no more, and nobody is to hear of it.
async fn letter(inner: &Inner, row: &OutboxRow) -> Result<Option<Letter>, StorageError> {
    let rooms = &inner.parts.stores.rooms;
    let Some(room) = rooms.room(&row.room_id).await? else { return Ok(None) };
    let event_ids = [row.event_id.clone()];
    let Some(invite) = rooms.events(&row.room_id, &event_ids).await?.into_iter().flatten().next() else {
        return Ok(None);
    };
    let invite = invite.event;
    let Some(target) = invite.state_key() else { return Ok(None) };
    let standing = rooms.current_state_event(&row.room_id, &StateEventType::RoomMember, target).await?;
    let end = match standing {
        Some(standing) if *standing.event.event_id() == row.event_id => None,
        Some(standing) => match end_of(inner, row, &invite, standing.event).await? {
            Some(end) => Some(end),
            None => return Ok(None),
        },
        None => return Ok(None),
    };
    let mut state: Vec<Arc<Pdu>> = Vec::new();
    for kind in &STRIPPED_TYPES {
        state.extend(rooms.current_state_event(&row.room_id, kind, "").await?.map(|stored| stored.event));
    }
    let state: StateMap = state.into_iter().collect();
    // Clients name the inviter by it.
    let inviter =
        rooms.current_state_event(&row.room_id, &StateEventType::RoomMember, invite.sender().as_str()).await?;
    let shown = shown_to_strangers(&state).into_iter().chain(inviter.map(|stored| stored.event));
    let invite_room_state = shown.filter_map(|event| full(&event)).collect();
    let body = full(&invite).and_then(|event| {
        serde_json::to_string(&Body { event: &event, invite_room_state, room_version: room.room_version.as_str() }).ok()
    });
    Ok(body.map(|text| Letter { invite, text, end }))
}

/// What ended an invite that answered a knock, looked for from what the user is to the room now. `None`: the user has joined or
/// left by themselves, or there was no knock.
async fn end_of(
    inner: &Inner,
    row: &OutboxRow,
    invite: &Pdu,
    standing: Arc<Pdu>,
) -> Result<Option<Arc<Pdu>>, StorageError> {
    let target = invite.state_key().and_then(|target| OwnedUserId::try_from(target).ok());
    let Some(target) = target else { return Ok(None) };
    let is_out = matches!(standing.membership(), Some(MembershipState::Leave | MembershipState::Ban));
    if !is_out || !answers_a_knock(inner, row, invite, &target).await? {
        return Ok(None);
    }
    let mut end = standing;
    for _ in 0..ENDS_MAX {
        if end.sender() == target {
            return Ok(None);
        }
        if end.cites_as_auth(&row.event_id) {
            return Ok(Some(end));
        }
        let cited = inner.parts.stores.rooms.events(&row.room_id, end.auth_events()).await?;
        let earlier = cited.into_iter().flatten().find(|cited| {
            *cited.event.kind() == TimelineEventType::RoomMember && cited.event.state_key() == Some(target.as_str())
        });
        let Some(earlier) = earlier else { return Ok(None) };
        end = earlier.event;
    }
    Ok(None)
}

/// Takes a refused invite back, so that the room does not wait for somebody who was never asked. One that answers a knock
/// stays: the user asked, and their server may yet let them in.
async fn rescind(inner: &Inner, row: &OutboxRow, invite: &Pdu) -> Delivered {
    let target = invite.state_key().and_then(|target| OwnedUserId::try_from(target).ok());
    let Some(target) = target else { return Delivered::Done };
    match answers_a_knock(inner, row, invite, &target).await {
        Ok(true) => return Delivered::Done,
        Ok(false) => {}
        Err(error) => return error.into(),
    }
    let reason = CanonicalJsonValue::String(RESCINDED_BECAUSE.to_owned());
    let change = ChangeMembership {
        sender: invite.sender().to_owned(),
        target,
        change: MembershipChange::Kick,
        content: CanonicalJsonObject::from([("reason".to_owned(), reason)]),
        network: SourceNetwork::of(Ipv4Addr::LOCALHOST.into()),
    };
    Delivered::of(inner.parts.rooms.ask(&row.room_id, change).await)
}

/// Whether the invited user's knock is among the events that authorize the invite.
async fn answers_a_knock(inner: &Inner, row: &OutboxRow, invite: &Pdu, target: &UserId) -> Result<bool, StorageError> {
    let auth_events: &[OwnedEventId] = invite.auth_events();
    let stored = inner.parts.stores.rooms.events(&row.room_id, auth_events).await?;
    Ok(stored.into_iter().flatten().any(|stored| {
        stored.event.state_key() == Some(target.as_str()) && stored.event.membership() == Some(MembershipState::Knock)
    }))
}
