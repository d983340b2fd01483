//! Which servers may read a room, and what of it: the one place that every read of another server asks.
//! May not: be bypassed, or let a server read that only knocks, is only invited, or is gone (SECURITY V11, V42).

use std::collections::BTreeMap;

use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::{history_visibility::HistoryVisibility, member::MembershipState},
    },
};
use serde::Deserialize;
use vestibule_actors::CheckReader;
pub(super) use vestibule_actors::Reading;
use vestibule_protocol::{
    pdu::Pdu,
    room_version::RoomVersion,
    server_reads::{Seen, server_may_see},
    state::StateVersion,
    stream::TimelineOrder,
};
use vestibule_storage::{error::StorageError, room::StoredEvent};

use super::{handshake::overload_pause, pdu_text::redacted};
use crate::{error::MatrixError, state::App};

/// Member events of one server that are read at once. Ours.
const MEMBERS_AT_ONCE: usize = 64;

/// A server that has somebody in a room, and may read there.
pub(super) struct Reader<'a> {
    app: &'a App,
    room_id: &'a RoomId,
    origin: OwnedServerName,
    version: RoomVersion,
    /// What the server was to the room at the versions of the state that were looked at.
    presence: BTreeMap<StateVersion, Presence>,
}

/// What a server's users were to a room in one state of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Presence {
    has_joined: bool,
    has_invited: bool,
}

#[derive(Deserialize)]
struct VisibilityContent {
    history_visibility: HistoryVisibility,
}

impl<'a> Reader<'a> {
    /// Lets a server read, if the room is here, the server has a joined user, and its ACL lets the server take part.
    ///
    /// # Errors
    /// 404 when the room is not here, 403 when the server may not read it, 429.
    pub(super) async fn admit(
        app: &'a App,
        room_id: &'a RoomId,
        origin: &ServerName,
        reading: Reading,
    ) -> Result<Self, MatrixError> {
        let attempt = || app.rooms.ask(room_id, CheckReader { origin: origin.to_owned(), reading });
        let version = app.limits.hold_until(&*app.clock, attempt, overload_pause).await?;
        Ok(Self { app, room_id, origin: origin.to_owned(), version, presence: BTreeMap::new() })
    }

    /// The room's version.
    pub(super) fn version(&self) -> &RoomVersion {
        &self.version
    }

    /// An event of the room.
    ///
    /// # Errors
    /// 404 when it is not here, also when it is one of another room.
    pub(super) async fn event(&self, event_id: &EventId) -> Result<StoredEvent, MatrixError> {
        let found = self.events(&[event_id.to_owned()]).await?;
        found.into_iter().next().ok_or_else(|| MatrixError::not_found("unknown event"))
    }

    /// Those of the events that are here and in this room.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn events(&self, event_ids: &[OwnedEventId]) -> Result<Vec<StoredEvent>, StorageError> {
        let found = self.app.stores.rooms.events(self.room_id, event_ids).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// What the server is shown of an event: its text, whole or redacted, or nothing.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn shown(&mut self, event: &StoredEvent) -> Result<Option<String>, StorageError> {
        Ok(match self.seen(event).await? {
            Seen::Whole => Some(event.event.json().to_owned()),
            Seen::Redacted => redacted(&event.event, &self.version),
            Seen::Nothing => None,
        })
    }

    /// How much of an event the server may see.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn seen(&mut self, event: &StoredEvent) -> Result<Seen, StorageError> {
        if self.is_member_event_of_reader(&event.event) {
            return Ok(Seen::Whole);
        }
        if is_outlier(event) && event.event.state_key().is_some() {
            // What `/state` and `/event_auth` give to every server in the room.
            return Ok(Seen::Whole);
        }
        if !has_state(event) {
            // Not even redacted: whoever keeps that would never ask those who know.
            return Ok(Seen::Nothing);
        }
        let seen = self.seen_under(&event.visibility, event).await?;
        match visibility_set_by(&event.event) {
            // A change of the visibility itself is judged by the wider of before and after.
            Some(after) if seen != Seen::Whole => self.seen_under(&after, event).await,
            _ => Ok(seen),
        }
    }

    async fn seen_under(&mut self, visibility: &HistoryVisibility, event: &StoredEvent) -> Result<Seen, StorageError> {
        let is_open = matches!(visibility, HistoryVisibility::Shared | HistoryVisibility::WorldReadable);
        let then = if is_open { Presence::default() } else { self.presence_at(event.state_before).await? };
        Ok(server_may_see(visibility, then.has_joined, then.has_invited, true))
    }

    /// What the server was to the room in a version of its state.
    async fn presence_at(&mut self, version: StateVersion) -> Result<Presence, StorageError> {
        if let Some(presence) = self.presence.get(&version) {
            return Ok(*presence);
        }
        let state = self.app.stores.rooms.state_at(self.room_id, version).await?.unwrap_or_default();
        let members: Vec<OwnedEventId> = state
            .into_iter()
            .filter(|((kind, state_key), _)| *kind == StateEventType::RoomMember && is_user_of(state_key, &self.origin))
            .map(|(_, event_id)| event_id)
            .collect();
        let mut presence = Presence::default();
        for batch in members.chunks(MEMBERS_AT_ONCE) {
            for member in self.events(batch).await? {
                match member.event.membership() {
                    Some(MembershipState::Join) => presence.has_joined = true,
                    Some(MembershipState::Invite) => presence.has_invited = true,
                    _ => {}
                }
            }
            if presence.has_joined {
                break;
            }
        }
        self.presence.insert(version, presence);
        Ok(presence)
    }

    fn is_member_event_of_reader(&self, event: &Pdu) -> bool {
        *event.kind() == TimelineEventType::RoomMember
            && event.state_key().is_some_and(|state_key| is_user_of(state_key, &self.origin))
    }
}

/// Fetched to authorize others, or came with a state: where it stands in the graph is not known here.
fn is_outlier(event: &StoredEvent) -> bool {
    event.order.is_none() && event.state_before == StateVersion::default()
}

/// Whether the state around an event is known here. It is not for outliers, and not for history that was fetched backwards:
/// another state stands in for it there, by which nothing may be judged (V43).
pub(super) fn has_state(event: &StoredEvent) -> bool {
    !is_outlier(event) && event.order.is_none_or(|order| order > TimelineOrder::default())
}

/// Whether a state key names a user of a server.
pub(super) fn is_user_of(state_key: &str, server: &ServerName) -> bool {
    <&UserId>::try_from(state_key).is_ok_and(|user_id| user_id.server_name() == server)
}

fn visibility_set_by(event: &Pdu) -> Option<HistoryVisibility> {
    let is_visibility = *event.kind() == TimelineEventType::RoomHistoryVisibility && event.state_key() == Some("");
    is_visibility.then(|| event.content_as::<VisibilityContent>())?.map(|content| content.history_visibility)
}
