//! Takes one event that another server sent: through the gate, into the room, and with whatever it cites and we lack.
//! May not: decide what the room decides, or go on fetching without end because a peer names events that lead nowhere.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};
use tokio::time::sleep;
use vestibule_actors::{AskError, ReceiveAnswer, ReceivePdu, Received};
use vestibule_protocol::{membership::ReceiveRefusal, pdu::checks::VerifiedPdu, room_version::RoomVersion};
use vestibule_storage::{error::StorageError, room::OutOfBand};

use super::Federation;

/// How often a room whose mailbox is full is asked again for one event, and the pause between. Ours: a mailbox drains in far
/// less, and an event that is not taken now comes back only as somebody's missing event.
const OVERLOAD_ATTEMPTS_MAX: u32 = 6;
const OVERLOAD_PAUSE: Duration = Duration::from_millis(500);

/// What the room made of an event, or what it lacks.
pub(super) type Asked = Result<Received, AskError<ReceiveRefusal>>;

impl Federation {
    /// Takes one event of a transaction. What it cites and we do not have is fetched from `origin` first, within bounds.
    ///
    /// An event that the room rejects or sets aside is taken all the same: that is a fact about it, and no error.
    ///
    /// # Errors
    /// What to answer for this event.
    pub async fn receive(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        object: CanonicalJsonObject,
    ) -> Result<(), String> {
        let unavailable = |error: StorageError| {
            log::error!(room_id:%, error:%; "a received event cannot be placed");
            "the event cannot be taken at the moment".to_owned()
        };
        let stored = self.inner.stores.rooms.room(room_id).await.map_err(unavailable)?;
        let about = self.asked_for(room_id, &object).await.map_err(unavailable)?;
        let Some(room) = stored else {
            let (_, standing) = about.ok_or_else(|| "this server is not in the room".to_owned())?;
            return self.receive_answer(origin, room_id, object, &standing).await;
        };
        let version = RoomVersion::lookup(&room.room_version).ok_or("the room's version is unknown")?;
        let answer = about.map(|(_, standing)| (object.clone(), standing));
        let event = self.verify_pdu(object, &version).await.map_err(|error| error.to_string())?;
        if event.pdu().room_id() != room_id {
            return Err("the event is of another room".to_owned());
        }
        let event_id = event.pdu().event_id().to_owned();
        let asked = match self.ask_room(origin, room_id, &event).await {
            Err(AskError::Refused(ReceiveRefusal::MissingEvents { .. })) => {
                self.receive_with_missing(origin, room_id, &version, event).await
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
            Err(AskError::Refused(refusal)) => Err(refusal.to_string()),
            Err(error) => {
                log::warn!(origin:%, room_id:%, event_id:%, error:%; "event not taken");
                Err("the event cannot be taken at the moment".to_owned())
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
    ) -> Result<(), String> {
        let version = RoomVersion::lookup(&standing.room_version).ok_or("the room's version is unknown")?;
        let event = self.verify_pdu(object, &version).await.map_err(|error| error.to_string())?;
        let answer = ReceiveAnswer { event, origin: origin.to_owned() };
        match self.inner.rooms.ask_out_of_band(room_id, &version, answer).await {
            Ok(()) => Ok(()),
            Err(AskError::Refused(refusal)) => Err(refusal.to_string()),
            Err(error) => {
                log::warn!(origin:%, room_id:%, error:%; "answer to a knock not taken");
                Err("the event cannot be taken at the moment".to_owned())
            }
        }
    }

    /// Asks the room to take an event; again while it is overloaded.
    pub(super) async fn ask_room(&self, origin: &ServerName, room_id: &RoomId, event: &VerifiedPdu) -> Asked {
        let message = || ReceivePdu { event: event.clone(), origin: OwnedServerName::from(origin) };
        for _ in 1..OVERLOAD_ATTEMPTS_MAX {
            match self.inner.rooms.ask(room_id, message()).await {
                Err(AskError::Overloaded) => sleep(OVERLOAD_PAUSE).await,
                asked => return asked,
            }
        }
        self.inner.rooms.ask(room_id, message()).await
    }
}
