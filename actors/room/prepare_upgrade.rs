//! Asks a room whether a user may replace it, and for what the new room takes from it.
//! May not: change anything; the tombstone is sent, and judged again, when the new room is there.

use ruma::{CanonicalJsonObject, OwnedUserId, events::TimelineEventType, events::room::member::MembershipState};
use vestibule_protocol::{
    membership::SendRefusal, pdu::event_builder::EventDraft, room_version::RoomVersion, state::StateMap,
};

use super::{Lookups, Room, RoomMessage, Turn, draft::DraftStop};

/// Asks on behalf of a user of ours.
#[derive(Clone, Debug)]
pub struct PrepareUpgrade {
    /// Who wants to replace the room.
    pub sender: OwnedUserId,
}

/// A room that may be replaced.
#[derive(Clone, Debug)]
pub struct ReplaceableRoom {
    /// Its version.
    pub version: RoomVersion,
    /// Its current state.
    pub state: StateMap,
}

impl RoomMessage for PrepareUpgrade {
    type Reply = ReplaceableRoom;
    type Refusal = SendRefusal;
    const KIND: &'static str = "prepare_upgrade";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let refuse = |reason: String| Turn::Refuse(SendRefusal::NotAuthorized { reason }, Box::default());
        if room.state().membership(&self.sender) != MembershipState::Join {
            return refuse("the sender is not in the room".to_owned());
        }
        // What a tombstone says is nothing to the rules.
        let draft = EventDraft {
            kind: TimelineEventType::RoomTombstone,
            state_key: Some(String::new()),
            sender: self.sender.clone(),
            content: CanonicalJsonObject::new(),
            redacts: None,
        };
        let judged = room.place_draft(&draft, lookups.asked_at()).and_then(|placed| room.judge_draft(&draft, &placed));
        match judged {
            Ok(_) => Turn::Answer(ReplaceableRoom { version: room.version().clone(), state: room.state().clone() }),
            Err(DraftStop::Need(need)) => Turn::Need(need),
            Err(DraftStop::NotAuthorized(refusal)) => refuse(refusal.reason),
            Err(DraftStop::Build(error)) => {
                Turn::Refuse(SendRefusal::BadContent { what: error.to_string() }, Box::default())
            }
        }
    }
}
