//! Whom to ask about a room, in which order, and which of several refusals the client hears of.
//! May not: take a server's name from a room id unless nobody else is known; from version 12 there is none in it.

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use tokio::time::{Instant, timeout};
use vestibule_protocol::membership::template::{Template, TemplateRequest, read_template};
use vestibule_storage::{error::StorageError, room::OutOfBand};

use super::{Federation, PerformError};
use crate::{
    client::{Limits, MAKE_KNOCK_REPLY_BYTES_MAX, RemoteError},
    endpoints::{self, Made},
};

/// Servers asked for one flow. Source: DESIGN section 5, SECURITY T11.
pub const CANDIDATES_MAX: usize = 5;

/// All templates asked for in one flow together. Source: DESIGN section 5, SECURITY T11.
pub const CANDIDATES_DEADLINE: Duration = Duration::from_secs(60);

/// What the servers said that could not help.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    asked: usize,
    most_telling: Option<PerformError>,
}

impl Refusals {
    /// Notes what one server said.
    pub(super) fn note(&mut self, error: PerformError) {
        self.asked = self.asked.saturating_add(1);
        if self.most_telling.as_ref().is_none_or(|known| telling(&error) > telling(known)) {
            self.most_telling = Some(error);
        }
    }

    /// What the client hears.
    pub(super) fn verdict(self) -> PerformError {
        match self.most_telling {
            None => PerformError::NoServers,
            Some(PerformError::AllFailed { .. }) => PerformError::AllFailed { asked: self.asked },
            Some(error) => error,
        }
    }
}

/// How much an answer says about what the client asked for. Source: DESIGN section 5: 403, version, 429, 404, 502.
fn telling(error: &PerformError) -> u8 {
    match error {
        PerformError::Refused { .. } => 5,
        PerformError::VersionNotKnown { .. } => 4,
        PerformError::OverRate { .. } => 3,
        PerformError::NotFound => 2,
        PerformError::TimedOut => 1,
        _ => 0,
    }
}

impl Federation {
    /// The servers to ask about a room, none twice, none that is us or denied: the one that took the knock or sent the
    /// invite, those that the client names, those that we remember, and the one in the room's id.
    pub(super) fn candidates(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
        standing: Option<&OutOfBand>,
    ) -> Vec<OwnedServerName> {
        let remembered = standing.map_or(&[][..], |standing| &standing.via);
        let of_id = room_id.server_name().map(ToOwned::to_owned);
        let all = remembered.iter().take(1).chain(via).chain(remembered.iter().skip(1)).cloned().chain(of_id);
        let mut candidates: Vec<OwnedServerName> = Vec::new();
        for server in all {
            let is_us = server == self.inner.identity.server_name();
            if !is_us && !self.inner.client.is_denied(&server) && !candidates.contains(&server) {
                candidates.push(server);
            }
        }
        candidates.truncate(CANDIDATES_MAX);
        candidates
    }

    /// A template from one server, judged.
    pub(super) async fn template(
        &self,
        server: &ServerName,
        wanted: &Wanted<'_>,
        deadline: Instant,
    ) -> Result<Template, PerformError> {
        let made = match wanted.membership {
            MembershipState::Knock => Made::Knock,
            _ => Made::Join,
        };
        let request = endpoints::make(made, wanted.room_id, wanted.user_id, wanted.offered);
        let left = deadline.saturating_duration_since(Instant::now());
        let limits = Limits {
            reply_bytes_max: MAKE_KNOCK_REPLY_BYTES_MAX,
            deadline: self.inner.settings.request_timeout.min(left),
        };
        let asking = self.inner.client.request(server, request, limits);
        let reply = timeout(left, asking).await.unwrap_or(Err(RemoteError::Timeout));
        let object = reply.and_then(|reply| reply.canonical_object()).map_err(|error| {
            log::debug!(destination:% = server, room_id:% = wanted.room_id, error:%; "no template");
            PerformError::of(&error)
        })?;
        let template = self.judge_template(server, wanted, &object)?;
        if self.is_behind(wanted, &template).await.map_err(|error| PerformError::Storage(error.into()))? {
            log::info!(destination:% = server, room_id:% = wanted.room_id; "template of a server that has not heard what we have");
            return Err(PerformError::AllFailed { asked: 1 });
        }
        Ok(template)
    }

    /// Whether the server does not know that the user was put out, which we do: what it would take now, the room would not.
    async fn is_behind(&self, wanted: &Wanted<'_>, template: &Template) -> Result<bool, StorageError> {
        let rooms = &self.inner.stores.rooms;
        let member = StateEventType::RoomMember;
        let standing = rooms.current_state_event(wanted.room_id, &member, wanted.user_id.as_str()).await?;
        let end = standing.map(|standing| standing.event).filter(|event| {
            let is_out = matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban));
            is_out && event.sender() != wanted.user_id
        });
        let Some(end) = end else { return Ok(false) };
        let both: Vec<OwnedEventId> =
            end.auth_events().iter().filter(|cited| template.place.auth_events.contains(cited)).cloned().collect();
        let both = rooms.events(wanted.room_id, &both).await?;
        Ok(both.into_iter().flatten().any(|cited| {
            *cited.event.kind() == TimelineEventType::RoomMember
                && cited.event.state_key() == Some(wanted.user_id.as_str())
        }))
    }

    fn judge_template(
        &self,
        server: &ServerName,
        wanted: &Wanted<'_>,
        object: &CanonicalJsonObject,
    ) -> Result<Template, PerformError> {
        let request = TemplateRequest {
            room_id: wanted.room_id,
            user_id: wanted.user_id,
            membership: wanted.membership.clone(),
            offered: wanted.offered,
            fallback_version: None,
        };
        read_template(object, &request, self.inner.clock.now()).map_err(|refusal| {
            log::warn!(destination:% = server, room_id:% = wanted.room_id, reason:% = refusal; "template not used");
            PerformError::AllFailed { asked: 1 }
        })
    }
}

/// What a template is wanted for.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) room_id: &'a RoomId,
    pub(super) user_id: &'a UserId,
    pub(super) membership: MembershipState,
    pub(super) offered: &'a [RoomVersionId],
}
