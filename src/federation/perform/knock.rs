//! A knock of one of our users on a room elsewhere.
//! May not: sign what a server hands over, send two knocks where one may have been taken, or forget one that was sent.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#knocking-upon-a-room>; SPEC 2.12, DESIGN section 5.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId,
    ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use tokio::time::{Instant, timeout};
use vestibule_actors::{AskError, BeginKnock, KnockOutcome, SettleKnock};
use vestibule_protocol::{
    membership::handshake::member_content, membership::template::Template, pdu::event_builder::EventDraft,
    room_version::RoomVersion, state::stripped::read_stripped,
};
use vestibule_storage::{
    commit::CommitError,
    error::StorageError,
    room::{OutOfBand, Progress},
};

use super::{
    Federation, PerformError,
    candidates::{CANDIDATES_DEADLINE, CANDIDATES_MAX, Refusals, Wanted},
    flights::Flow,
    resume::AGAIN_MAX,
};
use crate::{
    client::{Limits, RemoteError, Reply, SEND_KNOCK_REPLY_BYTES_MAX},
    endpoints,
};

/// What a client wants.
#[derive(Clone, Debug)]
pub struct KnockElsewhere {
    /// Who knocks.
    pub user_id: OwnedUserId,
    /// On which room.
    pub room_id: OwnedRoomId,
    /// Servers that may be in it, as the client says.
    pub via: Vec<OwnedServerName>,
    /// `reason`, `displayname`, `avatar_url` and the like.
    pub content: CanonicalJsonObject,
}

/// How sending went.
enum Sent {
    /// Taken by that server.
    By(OwnedServerName, Option<Reply>),
    /// Nobody took it, and nobody will.
    Refused(PerformError),
    /// Somebody may have taken it.
    Unsure(PerformError),
}

impl Federation {
    /// Knocks on a room through up to [`CANDIDATES_MAX`] servers, one after the other. The knock is durable and shown to the
    /// user when it returns.
    ///
    /// It goes on when the future is dropped. Whoever asks for the same user and room meanwhile gets the same outcome. After
    /// `TimedOut` and `AllFailed` the knock may yet have been taken: the same event is sent again by and by, and a further
    /// call sends it at once.
    ///
    /// # Errors
    /// [`PerformError`]: the most telling of the answers.
    pub async fn knock(&self, wanted: KnockElsewhere) -> Result<(), PerformError> {
        let key = (wanted.user_id.clone(), wanted.room_id.clone(), Flow::Knock);
        let flow = self.clone();
        self.under_way.flights.run(key, async move { flow.perform_knock(wanted).await }).await
    }

    async fn perform_knock(&self, wanted: KnockElsewhere) -> Result<(), PerformError> {
        let KnockElsewhere { user_id, room_id, via, content } = wanted;
        let deadline = Instant::now() + CANDIDATES_DEADLINE;
        let standing = self.inner.stores.rooms.out_of_band_of(&user_id, &room_id).await;
        let standing = standing.map_err(|error| PerformError::Storage(error.into()))?;
        let candidates = self.candidates(&room_id, &via, standing.as_ref());
        if let Some(intent) = standing.filter(is_intent) {
            // It may have been taken already; another one would be refused then, or stand beside it.
            let servers = candidates;
            return self.finish_knock(&user_id, &room_id, &intent, &servers, deadline, Some(0)).await;
        }
        let (server, template) = self.knock_template(&user_id, &room_id, &candidates, deadline).await?;
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(user_id.to_string()),
            sender: user_id.clone(),
            content: member_content(content, &MembershipState::Knock),
            redacts: None,
        };
        let version = template.version;
        let (event, _) = draft
            .build_for_handshake(&template.place, &version, &self.inner.identity)
            .map_err(PerformError::not_built)?;
        let others = candidates.into_iter().filter(|candidate| *candidate != server);
        let via: Vec<OwnedServerName> = [server.clone()].into_iter().chain(others).collect();
        let intent = OutOfBand {
            room_version: version.id().clone(),
            membership: MembershipState::Knock,
            progress: Progress::Asking,
            event: event.into(),
            stripped: Vec::new(),
            via: via.clone(),
            since: self.inner.clock.now(),
            knock: None,
            joins: Vec::new(),
            early: None,
        };
        let begin = BeginKnock { user_id: user_id.clone(), out_of_band: intent.clone() };
        let begun = self.inner.rooms.ask_out_of_band(&room_id, &version, begin).await;
        if let Err(error) = begun {
            let is_unsure = matches!(
                error,
                AskError::Failed | AskError::Storage(CommitError::Storage(StorageError::OutcomeUnknown { .. }))
            );
            if is_unsure {
                // It may be written down all the same, and then nobody else would go on with it.
                self.go_on((user_id, room_id, Flow::Knock), 1);
            }
            return Err(PerformError::of_room(error, PerformError::NotBegun));
        }
        self.finish_knock(&user_id, &room_id, &intent, &via, deadline, None).await
    }

    /// A template that we would sign for, from the first server that gives one.
    async fn knock_template(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        candidates: &[OwnedServerName],
        deadline: Instant,
    ) -> Result<(OwnedServerName, Template), PerformError> {
        let offered: Vec<RoomVersionId> = RoomVersion::known();
        let wanted = Wanted { room_id, user_id, membership: MembershipState::Knock, offered: &offered };
        let mut refusals = Refusals::default();
        for server in candidates {
            match self.template(server, &wanted, deadline).await {
                Ok(template) if template.version.can_knock() => return Ok((server.clone(), template)),
                Ok(template) => {
                    let room_version = Some(template.version.id().clone());
                    refusals.note(PerformError::VersionNotKnown { room_version });
                }
                Err(error) => refusals.note(error),
            }
        }
        Err(refusals.verdict())
    }

    /// Sends a knock that is written down, and writes down how it ended. `repeat` counts the attempts after a first one of which
    /// nobody knows how it ended.
    async fn finish_knock(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        knock: &OutOfBand,
        servers: &[OwnedServerName],
        deadline: Instant,
        repeat: Option<u32>,
    ) -> Result<(), PerformError> {
        let go_on = || {
            let next = repeat.unwrap_or(0).saturating_add(1);
            self.go_on((user_id.to_owned(), room_id.to_owned(), Flow::Knock), next);
        };
        let Some(version) = RoomVersion::lookup(&knock.room_version) else {
            return Err(PerformError::VersionNotKnown { room_version: Some(knock.room_version.clone()) });
        };
        let event_id = knock.event.event_id().to_owned();
        let settle = |outcome| SettleKnock { user_id: user_id.to_owned(), event_id: event_id.clone(), outcome };
        let (outcome, told) = match self.send_knock(room_id, knock, servers, deadline, repeat.is_some()).await {
            Sent::By(server, reply) => {
                let stripped = self.shown(reply.as_ref(), room_id, &version).await;
                let others = knock.via.iter().filter(|other| **other != server).take(CANDIDATES_MAX).cloned();
                let via = [server.clone()].into_iter().chain(others).collect();
                (KnockOutcome::Taken { stripped, via }, Ok(()))
            }
            Sent::Refused(error) => (KnockOutcome::Refused, Err(error)),
            Sent::Unsure(error) => {
                go_on();
                return Err(error);
            }
        };
        let settled = self.inner.rooms.ask_out_of_band(room_id, &version, settle(outcome)).await;
        if let Err(error) = settled {
            go_on();
            return Err(PerformError::of_room(error, PerformError::NotBegun));
        }
        told
    }

    /// Sends one event to one server after the other, until one has taken it or has refused it for good.
    async fn send_knock(
        &self,
        room_id: &RoomId,
        knock: &OutOfBand,
        servers: &[OwnedServerName],
        deadline: Instant,
        is_repeat: bool,
    ) -> Sent {
        let mut refusals = Refusals::default();
        let mut may_have_been_taken = false;
        for server in servers {
            match self.send_knock_to(server, room_id, knock, deadline).await {
                Ok(reply) => return Sent::By(server.clone(), Some(reply)),
                Err(RemoteError::ReplyTooLarge { status, .. }) if status.is_success() => {
                    return Sent::By(server.clone(), None);
                }
                Err(error) => {
                    log::debug!(destination:% = server, room_id:%, event_id:% = knock.event.event_id(), error:%; "knock not taken");
                    may_have_been_taken |= error.may_have_been_done();
                    let is_final = !may_have_been_taken && error.is_about_the_request();
                    refusals.note(PerformError::of(&error));
                    if is_final {
                        return Sent::Refused(refusals.verdict());
                    }
                }
            }
        }
        // That nobody can be reached says nothing of the attempt before.
        let is_unsure = may_have_been_taken || is_repeat;
        if is_unsure { Sent::Unsure(refusals.verdict()) } else { Sent::Refused(refusals.verdict()) }
    }

    async fn send_knock_to(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        knock: &OutOfBand,
        deadline: Instant,
    ) -> Result<Reply, RemoteError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Nothing is sent any more; but what was sent before counts.
            return Err(RemoteError::Connect { detail: "no time left".to_owned() });
        }
        let body = knock.event.json().to_owned();
        let request = endpoints::send_knock(room_id, knock.event.event_id(), body);
        let limits = Limits {
            reply_bytes_max: SEND_KNOCK_REPLY_BYTES_MAX,
            deadline: self.inner.settings.request_timeout.min(left),
        };
        let sending = self.inner.client.request(server, request, limits);
        timeout(left, sending).await.unwrap_or(Err(RemoteError::Timeout))
    }

    /// What the server shows of the room. An accepted knock is accepted, whatever is odd about what came with it.
    async fn shown(
        &self,
        reply: Option<&Reply>,
        room_id: &RoomId,
        version: &RoomVersion,
    ) -> Vec<vestibule_protocol::state::stripped::StrippedEvent> {
        let answer = reply.and_then(|reply| reply.canonical_object().ok());
        // The second key is what the requirements document, and so some servers, call it (SPEC D1).
        let entries: Option<&CanonicalJsonValue> = answer
            .as_ref()
            .and_then(|answer| answer.get("knock_room_state").or_else(|| answer.get("knock_state_events")));
        self.verify_stripped(read_stripped(entries, room_id, version), version).await
    }

    /// Sends a knock again that may have been taken.
    pub(super) async fn knock_again(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        attempt: u32,
    ) -> Result<(), PerformError> {
        let standing = self.inner.stores.rooms.out_of_band_of(user_id, room_id).await;
        let standing = standing.map_err(|error| PerformError::Storage(error.into()))?;
        // An invite, a denial or another attempt may have come first.
        let Some(knock) = standing.filter(is_intent) else { return Ok(()) };
        if attempt > AGAIN_MAX {
            log::warn!(room_id:%, user_id:%; "knock given up: nobody said whether it was taken");
            return self.give_up(user_id, room_id, &knock).await;
        }
        let deadline = Instant::now() + CANDIDATES_DEADLINE;
        self.finish_knock(user_id, room_id, &knock, &knock.via, deadline, Some(attempt)).await
    }

    async fn give_up(&self, user_id: &UserId, room_id: &RoomId, knock: &OutOfBand) -> Result<(), PerformError> {
        let Some(version) = RoomVersion::lookup(&knock.room_version) else { return Ok(()) };
        let settle = SettleKnock {
            user_id: user_id.to_owned(),
            event_id: knock.event.event_id().to_owned(),
            outcome: KnockOutcome::Refused,
        };
        let settled = self.inner.rooms.ask_out_of_band(room_id, &version, settle).await;
        settled.map(drop).map_err(|error: AskError<_>| PerformError::of_room(error, PerformError::NotBegun))
    }
}

pub(super) fn is_intent(standing: &OutOfBand) -> bool {
    standing.progress == Progress::Asking && standing.membership == MembershipState::Knock
}
