//! A join of one of our users in a room elsewhere: the room becomes ours too.
//! May not: sign what a server hands over, or believe any event of its answer that was not verified.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    RoomVersionId, ServerName, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use vestibule_actors::{BeginJoin, EndJoin, JoinAnswer};
use vestibule_protocol::{
    membership::{ImportRefusal, handshake::member_content, template::Template},
    pdu::{
        Pdu,
        checks::{ShapedPdu, VerifiedPdu},
        event_builder::EventDraft,
    },
    room_version::RoomVersion,
};
use vestibule_storage::{
    error::StorageError,
    room::{OutOfBand, Progress},
};

use super::{
    Federation, PerformError,
    candidates::{CANDIDATES_DEADLINE, CANDIDATES_MAX, Refusals, Wanted},
    event_lists::{EventList, read_event},
    flights::Flow,
    overload::Patience,
    resume::AGAIN_MAX,
};
use crate::{
    client::{Limits, RemoteError},
    endpoints,
};

/// Bytes of a `send_join` answer: the whole state of a room and what authorizes it. Ours; some hundred thousand members.
pub const SEND_JOIN_REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Time for a `send_join` answer. Ours: large rooms take the other server long to put together.
pub const SEND_JOIN_DEADLINE: Duration = Duration::from_mins(3);

/// With a room that is too full to take the answer. Ours: it must not be lost now.
const IMPORT_PATIENCE: Patience = Patience { attempts_max: 10, pause: Duration::from_secs(1) };

/// The key by which a restricted join names who vouches for it.
const AUTHORIZED_VIA: &str = "join_authorised_via_users_server";

/// What a client wants.
#[derive(Clone, Debug)]
pub struct JoinElsewhere {
    /// Who joins.
    pub user_id: OwnedUserId,
    /// Which room.
    pub room_id: OwnedRoomId,
    /// Servers that may be in it, as the client says.
    pub via: Vec<OwnedServerName>,
    /// `reason`, `displayname`, `avatar_url` and the like.
    pub content: CanonicalJsonObject,
}

/// The parts of an answer, as texts.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    state: EventList<&'a RawValue>,
    #[serde(borrow)]
    auth_chain: EventList<&'a RawValue>,
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(default)]
    members_omitted: bool,
}

/// An answer whose events have the right format. Events that have not are left out.
struct ShapedAnswer {
    /// Every event once.
    events: Vec<ShapedPdu>,
    state: BTreeSet<OwnedEventId>,
    auth_chain: BTreeSet<OwnedEventId>,
    /// The events of the state without which nothing of it can be judged.
    essential: BTreeSet<OwnedEventId>,
    /// Our join as it came back, with the other server's signature if that was asked for.
    join: Option<ShapedPdu>,
}

/// A join that we signed.
struct OurJoin {
    event: Arc<Pdu>,
    object: CanonicalJsonObject,
    version: RoomVersion,
    authorized_via: Option<OwnedUserId>,
}

/// How far a join has come.
#[derive(Default)]
struct Sending {
    /// The room's version as far as it is known, once the join is written down.
    begun: Option<RoomVersion>,
    /// It was written down by an earlier attempt, which may have been taken.
    was_interrupted: bool,
    /// It was written down by this attempt.
    is_written: bool,
    /// It may have been taken although nothing came of it here.
    is_unsure: bool,
}

impl Federation {
    /// Joins a room through up to five servers, one after the other. The room and the user's membership are durable when it
    /// returns. It goes on when the future is dropped; whoever asks for the same user and room gets the same outcome.
    ///
    /// Before it is sent it is written down, and what the user was to the room stands beside it. If it may have been taken
    /// although nothing came of it here, it is asked for again by and by, and after a restart.
    ///
    /// # Errors
    /// [`PerformError`]: the most telling of the answers.
    pub async fn join(&self, wanted: JoinElsewhere) -> Result<(), PerformError> {
        let key = (wanted.user_id.clone(), wanted.room_id.clone(), Flow::Join);
        let flow = self.clone();
        self.under_way.flights.run(key, async move { flow.perform_join(wanted, 0).await }).await
    }

    /// A knock of our user was answered with an invite, which is durable. If it is configured so, the user joins at once, on a
    /// task of its own; if that fails, the invite is the user's to accept. `knock` is what stood before the invite.
    ///
    /// Spec: <https://spec.matrix.org/v1.19/client-server-api/#knocking-on-rooms>
    pub fn knock_accepted(&self, room_id: &RoomId, user_id: &UserId, knock: &OutOfBand) {
        if !self.inner.settings.auto_join_accepted || knock.membership != MembershipState::Knock {
            return;
        }
        let mut content = CanonicalJsonObject::new();
        for field in ["displayname", "avatar_url"] {
            let named = knock.event.content_as::<serde_json::Map<String, serde_json::Value>>();
            if let Some(serde_json::Value::String(text)) = named.and_then(|mut named| named.remove(field)) {
                content.insert(field.to_owned(), CanonicalJsonValue::String(text));
            }
        }
        let wanted =
            JoinElsewhere { user_id: user_id.to_owned(), room_id: room_id.to_owned(), via: knock.via.clone(), content };
        let flow = self.clone();
        tokio::spawn(async move {
            let (room_id, user_id) = (wanted.room_id.clone(), wanted.user_id.clone());
            if let Err(error) = flow.join(wanted).await {
                log::info!(room_id:%, user_id:%, error:%; "accepted knock not followed by a join");
            }
        });
    }

    async fn perform_join(&self, wanted: JoinElsewhere, attempt: u32) -> Result<(), PerformError> {
        let rooms = &self.inner.stores.rooms;
        let of_storage = |error: StorageError| PerformError::Storage(error.into());
        let standing = rooms.out_of_band_of(&wanted.user_id, &wanted.room_id).await.map_err(of_storage)?;
        let before = rooms.joining_of(&wanted.user_id, &wanted.room_id).await.map_err(of_storage)?;
        let mut sending = Sending {
            begun: before.as_ref().and_then(|before| RoomVersion::lookup(&before.room_version)),
            was_interrupted: before.is_some(),
            ..Sending::default()
        };
        let candidates = self.candidates(&wanted.room_id, &wanted.via, standing.as_ref());
        let outcome = self.join_through_any(&candidates, &wanted, &mut sending).await;
        if outcome.is_err()
            && let Some(version) = &sending.begun
            && (sending.is_unsure || self.end_join(&wanted.user_id, &wanted.room_id, version).await.is_err())
        {
            self.go_on((wanted.user_id, wanted.room_id, Flow::Join), attempt.saturating_add(1));
        }
        outcome
    }

    async fn join_through_any(
        &self,
        servers: &[OwnedServerName],
        wanted: &JoinElsewhere,
        sending: &mut Sending,
    ) -> Result<(), PerformError> {
        let offered: Vec<RoomVersionId> = RoomVersion::known();
        let deadline = Instant::now() + CANDIDATES_DEADLINE;
        let mut refusals = Refusals::default();
        for server in servers {
            match self.join_through(server, wanted, &offered, deadline, sending).await {
                Ok(()) => return Ok(()),
                // Ours, and the same with any other server.
                Err(error @ (PerformError::BadContent { .. } | PerformError::TooLarge)) => return Err(error),
                Err(error @ (PerformError::Overloaded | PerformError::Storage(_) | PerformError::Failed)) => {
                    sending.is_unsure = true;
                    return Err(error);
                }
                Err(error) => {
                    // Of what was interrupted only a clear word says that it was not taken.
                    sending.is_unsure |= sending.was_interrupted && !is_clear(&error);
                    refusals.note(error);
                }
            }
        }
        Err(refusals.verdict())
    }

    /// Goes on with a join that may have been taken: the room's servers give its state again.
    pub(super) async fn join_again(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        attempt: u32,
    ) -> Result<(), PerformError> {
        let begun = self.inner.stores.rooms.joining_of(user_id, room_id).await;
        // The user may have joined or left in another way.
        let Some(join) = begun.map_err(|error| PerformError::Storage(error.into()))? else { return Ok(()) };
        let account = self.inner.stores.accounts.user(user_id).await;
        let account = account.map_err(|error| PerformError::Storage(error.into()))?;
        if attempt > AGAIN_MAX || account.is_some_and(|account| account.is_deactivated) {
            log::warn!(room_id:%, user_id:%; "join given up: nobody said whether it was taken, or its user is gone");
            let Some(version) = RoomVersion::lookup(&join.room_version) else { return Ok(()) };
            return self.end_join(user_id, room_id, &version).await;
        }
        let content = join.event.content_object().unwrap_or_default();
        let wanted =
            JoinElsewhere { user_id: user_id.to_owned(), room_id: room_id.to_owned(), via: join.via.clone(), content };
        self.perform_join(wanted, attempt).await
    }

    /// Notes that nothing comes of a join that was begun. Durable when it returns.
    async fn end_join(&self, user_id: &UserId, room_id: &RoomId, version: &RoomVersion) -> Result<(), PerformError> {
        let message = EndJoin { user_id: user_id.to_owned() };
        let ended = self.inner.rooms.ask_out_of_band(room_id, version, message).await;
        ended.map(drop).map_err(|error| {
            log::warn!(room_id:%, user_id:%, error:%; "end of a join not noted");
            PerformError::of_room(error, |never| match never {})
        })
    }

    /// Writes the join down before the first server gets it.
    async fn begin_join(
        &self,
        server: &ServerName,
        wanted: &JoinElsewhere,
        join: &OurJoin,
        sending: &mut Sending,
    ) -> Result<(), PerformError> {
        if sending.is_written {
            return Ok(());
        }
        let others = wanted.via.iter().filter(|other| **other != *server).take(CANDIDATES_MAX).cloned();
        let intent = OutOfBand {
            room_version: join.version.id().clone(),
            membership: MembershipState::Join,
            progress: Progress::Asking,
            event: join.event.clone(),
            stripped: Vec::new(),
            via: [server.to_owned()].into_iter().chain(others).collect(),
            since: self.inner.clock.now(),
            knock: None,
            joins: Vec::new(),
            early: None,
        };
        let begin = BeginJoin { user_id: wanted.user_id.clone(), join: intent };
        // It may be written down although nobody can say so.
        sending.begun = Some(join.version.clone());
        let begun = self.inner.rooms.ask_out_of_band(&wanted.room_id, &join.version, begin).await;
        begun.map_err(|error| PerformError::of_room(error, |never| match never {}))?;
        sending.is_written = true;
        Ok(())
    }

    async fn join_through(
        &self,
        server: &ServerName,
        wanted: &JoinElsewhere,
        offered: &[RoomVersionId],
        deadline: Instant,
        sending: &mut Sending,
    ) -> Result<(), PerformError> {
        let of =
            Wanted { room_id: &wanted.room_id, user_id: &wanted.user_id, membership: MembershipState::Join, offered };
        let template = self.template(server, &of, deadline).await?;
        let join = self.build_join(wanted, template)?;
        let body = serde_json::to_string(&join.object)
            .map_err(|error| PerformError::BadContent { what: error.to_string() })?;
        self.begin_join(server, wanted, &join, sending).await?;
        let request = endpoints::send_join(&wanted.room_id, join.event.event_id(), body);
        let limits = Limits { reply_bytes_max: SEND_JOIN_REPLY_BYTES_MAX, deadline: SEND_JOIN_DEADLINE };
        let reply = self.inner.client.request(server, request, limits).await.map_err(|error: RemoteError| {
            log::debug!(destination:% = server, room_id:% = wanted.room_id, error:%; "join not taken");
            sending.is_unsure |= error.may_have_been_done();
            PerformError::of(&error)
        })?;
        // Whatever is wrong with the answer, the user has joined there.
        let answer = self.read_answer(server, &join, reply.body).await;
        sending.is_unsure |= answer.is_err();
        let answer = answer?;
        let join_event = Arc::clone(&answer.join);
        match self.import(&wanted.room_id, &join.version, answer).await {
            Ok(()) => Ok(()),
            // Somebody of ours was faster: to the room that we are in, this join is one event more.
            Err(PerformError::NotImported(ImportRefusal::LivedIn)) => {
                let object = join_event.to_object().map_err(|_| PerformError::Failed)?;
                self.receive(server, &wanted.room_id, object).await.map_err(|why| {
                    log::warn!(destination:% = server, room_id:% = wanted.room_id, error:% = why; "own join not taken");
                    PerformError::Failed
                })?;
                self.check_joined(&wanted.user_id, &wanted.room_id).await
            }
            Err(error) => Err(error),
        }
    }

    /// A join that was received is in the room's graph; what has come before or after it may keep the user out all the same.
    async fn check_joined(&self, user_id: &UserId, room_id: &RoomId) -> Result<(), PerformError> {
        let standing = self.inner.stores.rooms.membership(user_id, room_id).await;
        match standing.map_err(|error| PerformError::Storage(error.into()))?.map(|standing| standing.membership) {
            Some(MembershipState::Join) => Ok(()),
            _ => {
                let reason = "the room as it is does not let the user in".to_owned();
                Err(PerformError::NotImported(ImportRefusal::JoinNotAuthorized { reason }))
            }
        }
    }

    fn build_join(&self, wanted: &JoinElsewhere, template: Template) -> Result<OurJoin, PerformError> {
        let Template { version, place, authorised_via: authorized_via } = template;
        let mut content = wanted.content.clone();
        content.remove(AUTHORIZED_VIA);
        if let Some(user_id) = &authorized_via {
            content.insert(AUTHORIZED_VIA.to_owned(), CanonicalJsonValue::String(user_id.to_string()));
        }
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(wanted.user_id.to_string()),
            sender: wanted.user_id.clone(),
            content: member_content(content, &MembershipState::Join),
            redacts: None,
        };
        let built = draft.build_for_handshake(&place, &version, &self.inner.identity);
        let (event, object) = built.map_err(PerformError::not_built)?;
        Ok(OurJoin { event: event.into(), object, version, authorized_via })
    }

    /// Verifies everything of an answer. What cannot be verified is left out, unless the rest is worth nothing without it.
    async fn read_answer(&self, server: &ServerName, join: &OurJoin, body: Bytes) -> Result<JoinAnswer, PerformError> {
        let unusable = |why: &str| {
            log::warn!(destination:% = server, room_id:% = join.event.room_id(), reason = why; "answer to a join not used");
            PerformError::AllFailed { asked: 1 }
        };
        let (version, own) = (join.version.clone(), join.event.clone());
        let shaped = self.inner.cpu.run(move || shape(&body, &version, &own)).await;
        let shaped = shaped.map_err(|_| PerformError::Failed)?.ok_or_else(|| unusable("not the expected JSON"))?;
        let ShapedAnswer { events, state, auth_chain, essential, join: returned } = shaped;
        let own_join = match (returned, &join.authorized_via) {
            (Some(returned), Some(_)) => {
                let verified = self.verify_shaped(returned, &join.version).await;
                let verified = verified.map_err(|error| unusable(&error.to_string()))?;
                // Its id and our signature hold without what redaction takes; but that was not what our user said.
                if verified.content_was_redacted() {
                    return Err(unusable("a restricted join came back with another content"));
                }
                verified.pdu().clone()
            }
            (None, Some(_)) => return Err(unusable("a restricted join came back unsigned")),
            (_, None) => join.event.clone(),
        };
        let verified = self.verify_many(events, &join.version).await;
        let id_of = |event: &VerifiedPdu| event.pdu().event_id().to_owned();
        let known: BTreeSet<OwnedEventId> = verified.iter().map(id_of).collect();
        if !essential.is_subset(&known) || !essential_is_whole(&verified, &state) {
            return Err(unusable("create event, power levels or join rules are missing or not verified"));
        }
        if join.event.auth_events().iter().any(|id| !known.contains(id)) {
            return Err(unusable("what authorizes our join is missing or not verified"));
        }
        let chosen = |ids: &BTreeSet<OwnedEventId>| -> Vec<Arc<Pdu>> {
            verified.iter().map(VerifiedPdu::pdu).filter(|event| ids.contains(event.event_id())).cloned().collect()
        };
        Ok(JoinAnswer { join: own_join, state: chosen(&state), auth_chain: chosen(&auth_chain) })
    }

    async fn import(
        &self,
        room_id: &OwnedRoomId,
        version: &RoomVersion,
        answer: JoinAnswer,
    ) -> Result<(), PerformError> {
        let imported = IMPORT_PATIENCE.ask(|| self.inner.rooms.import_join(room_id, version, answer.clone())).await;
        imported.map_err(|error| PerformError::of_room(error, PerformError::NotImported))
    }
}

/// Whether the answer says that the user is not let in: of a join that was sent before, too.
fn is_clear(error: &PerformError) -> bool {
    matches!(
        error,
        PerformError::Refused { .. }
            | PerformError::NotFound
            | PerformError::VersionNotKnown { .. }
            | PerformError::NotImported(_)
    )
}

/// Splits an answer into events and judges their format. `None`: it is no such answer.
fn shape(body: &[u8], version: &RoomVersion, join: &Pdu) -> Option<ShapedAnswer> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok().filter(|answer: &Answer<'_>| !answer.members_omitted)?;
    let read = |text: &RawValue| -> Option<ShapedPdu> {
        read_event(text, version).filter(|shaped| shaped.pdu().room_id() == join.room_id())
    };
    let mut shaped = ShapedAnswer {
        events: Vec::new(),
        state: BTreeSet::new(),
        auth_chain: BTreeSet::new(),
        essential: BTreeSet::new(),
        join: None,
    };
    let mut seen: BTreeSet<OwnedEventId> = BTreeSet::new();
    for (texts, is_state) in [(answer.state, true), (answer.auth_chain, false)] {
        for event in texts.0.into_iter().filter_map(read) {
            let event_id = event.pdu().event_id().to_owned();
            let list = if is_state { &mut shaped.state } else { &mut shaped.auth_chain };
            list.insert(event_id.clone());
            if is_state && is_essential(event.pdu()) {
                shaped.essential.insert(event_id.clone());
            }
            if seen.insert(event_id) {
                shaped.events.push(event);
            }
        }
    }
    shaped.join = answer.event.and_then(read).filter(|event| event.pdu().event_id() == join.event_id());
    Some(shaped)
}

/// Whether the rules judge everything else by it.
fn is_essential(event: &Pdu) -> bool {
    let essential = [StateEventType::RoomCreate, StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules];
    event.state_entry().is_some_and(|(kind, state_key)| state_key.is_empty() && essential.contains(&kind))
}

/// Whether there is a create event in the state; a room may be without the others.
fn essential_is_whole(events: &[VerifiedPdu], state: &BTreeSet<OwnedEventId>) -> bool {
    let is_create = |event: &Pdu| *event.kind() == TimelineEventType::RoomCreate && event.state_key() == Some("");
    events.iter().any(|event| is_create(event.pdu()) && state.contains(event.pdu().event_id()))
}
