//! Takes one event that another server sent: through the gate, into the room, and with whatever it cites and we lack.
//! May not: decide what the room decides, or go on fetching without end because a peer names events that lead nowhere.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};
use thiserror::Error;
use vestibule_actors::{AskError, ReceiveAnswer, ReceivePdu, Received};
use vestibule_protocol::{membership::ReceiveRefusal, pdu::checks::VerifiedPdu, room_version::RoomVersion};
use vestibule_storage::{commit::CommitError, error::StorageError, room::OutOfBand};

use super::{Federation, overload::Patience};

/// With a room whose mailbox is full. Ours: a mailbox drains in far less, and an event that is not taken now comes back only as
/// somebody's missing event.
pub(super) const PATIENCE: Patience = Patience { attempts_max: 6, pause: Duration::from_millis(500) };

/// Why an event is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotReceived {
    /// It never will be; the words are for its sender.
    #[error("{why}")]
    Refused {
        /// Why.
        why: String,
    },
    /// We cannot take anything at the moment, whatever it is: the sender should come again with it.
    #[error("the event cannot be taken at the moment")]
    NotNow,
    /// The room has been full for as long as we waited: the sender should come again with it.
    #[error("the room is full at the moment")]
    Overloaded,
}

impl NotReceived {
    fn refused(why: impl ToString) -> Self {
        Self::Refused { why: why.to_string() }
    }

    /// What a failure of ours means for the event. What fails for this event alone is refused: it must not hold up the rest of
    /// what its server has for us.
    fn of_storage(error: &StorageError) -> Self {
        match error {
            StorageError::NotWritten { .. }
            | StorageError::DiskFull
            | StorageError::OutcomeUnknown { .. }
            | StorageError::Unavailable { .. } => Self::NotNow,
            StorageError::Corrupt { .. } => Self::refused("the event cannot be taken"),
        }
    }

    fn of_ask(error: &AskError<ReceiveRefusal>) -> Self {
        match error {
            AskError::Refused(refusal) => Self::refused(refusal),
            AskError::RoomNotHere => Self::refused("this server is not in the room"),
            AskError::Overloaded => Self::Overloaded,
            AskError::Storage(CommitError::Storage(error)) => Self::of_storage(error),
            AskError::Storage(CommitError::PredecessorMissing) => Self::NotNow,
            AskError::Storage(CommitError::Conflict(_)) | AskError::Failed => {
                Self::refused("the event cannot be taken")
            }
        }
    }
}

/// What the room made of an event, or what it lacks.
pub(super) type Asked = Result<Received, AskError<ReceiveRefusal>>;

impl Federation {
    /// Takes one event of a transaction. What it cites and we do not have is fetched from `origin` first, within bounds.
    ///
    /// An event that the room rejects or sets aside is taken all the same: that is a fact about it, and no error.
    ///
    /// # Errors
    /// [`NotReceived`].
    pub async fn receive(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        object: CanonicalJsonObject,
    ) -> Result<(), NotReceived> {
        let unavailable = |error: StorageError| {
            log::error!(room_id:%, error:%; "a received event cannot be placed");
            NotReceived::of_storage(&error)
        };
        let stored = self.inner.stores.rooms.room(room_id).await.map_err(unavailable)?;
        let about = self.asked_for(room_id, &object).await.map_err(unavailable)?;
        let Some(room) = stored else {
            let (_, standing) = about.ok_or_else(|| NotReceived::refused("this server is not in the room"))?;
            return self.receive_answer(origin, room_id, object, &standing).await;
        };
        let version = RoomVersion::lookup(&room.room_version)
            .ok_or_else(|| NotReceived::refused("the room's version is unknown"))?;
        let answer = about.map(|(_, standing)| (object.clone(), standing));
        let event = self.verify_pdu(object, &version).await.map_err(NotReceived::refused)?;
        if event.pdu().room_id() != room_id {
            return Err(NotReceived::refused("the event is of another room"));
        }
        let event_id = event.pdu().event_id().to_owned();
        let asked = match self.ask_room(origin, room_id, &event).await {
            Err(AskError::Refused(ReceiveRefusal::MissingEvents { .. })) => {
                // On a task of its own: the peer may hang up before all of it is here, and would begin anew.
                let flow = self.clone();
                let (origin, room_id) = (origin.to_owned(), room_id.to_owned());
                let filling =
                    tokio::spawn(async move { flow.receive_with_missing(&origin, &room_id, &version, event).await });
                filling.await.unwrap_or(Err(AskError::Failed))
            }
            // We were in the room once. To who is asking to be let in again, its answer counts like any other.
            Err(AskError::Refused(ReceiveRefusal::ServerNotInRoom)) if answer.is_some() => {
                let Some((object, standing)) = answer else { return Ok(()) };
                return self.receive_answer(origin, room_id, object, &standing).await;
            }
            asked => asked,
        };
        match asked {
            Ok(Received::Rejected { reason }) => {
                log::debug!(origin:%, room_id:%, event_id:%, reason; "event rejected");
                Ok(())
            }
            Ok(Received::Accepted | Received::Known | Received::SoftFailed) => Ok(()),
            Err(error) => {
                if !matches!(error, AskError::Refused(_)) {
                    log::warn!(origin:%, room_id:%, event_id:%, error:%; "event not taken");
                }
                Err(NotReceived::of_ask(&error))
            }
        }
    }

    /// The local user whom the event is about and who has asked, or was asked, to be let in; read before anything is verified.
    async fn asked_for(
        &self,
        room_id: &RoomId,
        object: &CanonicalJsonObject,
    ) -> Result<Option<(OwnedUserId, OutOfBand)>, StorageError> {
        let text = |field: &str| object.get(field).and_then(CanonicalJsonValue::as_str);
        let target = text("state_key").filter(|_| text("type") == Some("m.room.member"));
        let Some(user_id) = target.and_then(|target| UserId::parse(target).ok()) else { return Ok(None) };
        if user_id.server_name() != self.inner.identity.server_name() {
            return Ok(None);
        }
        let standing = self.inner.stores.rooms.out_of_band_of(&user_id, room_id).await?;
        let waits =
            |standing: &OutOfBand| [MembershipState::Knock, MembershipState::Invite].contains(&standing.membership);
        Ok(standing.filter(waits).map(|standing| (user_id, standing)))
    }

    /// A denial or ban of a user of ours who knocked, or an invite taken back, in a room that we are not in.
    async fn receive_answer(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        object: CanonicalJsonObject,
        standing: &OutOfBand,
    ) -> Result<(), NotReceived> {
        let version = RoomVersion::lookup(&standing.room_version)
            .ok_or_else(|| NotReceived::refused("the room's version is unknown"))?;
        let event = self.verify_pdu(object, &version).await.map_err(NotReceived::refused)?;
        let answer = ReceiveAnswer { event, origin: origin.to_owned() };
        match self.inner.rooms.ask_out_of_band(room_id, &version, answer).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if !matches!(error, AskError::Refused(_)) {
                    log::warn!(origin:%, room_id:%, error:%; "answer to a knock not taken");
                }
                Err(NotReceived::of_ask(&error))
            }
        }
    }

    /// Asks the room to take an event; again while it is overloaded.
    pub(super) async fn ask_room(&self, origin: &ServerName, room_id: &RoomId, event: &VerifiedPdu) -> Asked {
        let message = || ReceivePdu { event: event.clone(), origin: OwnedServerName::from(origin) };
        PATIENCE.ask(|| self.inner.rooms.ask(room_id, message())).await
    }
}
