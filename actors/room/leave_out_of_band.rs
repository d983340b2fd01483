//! Takes back a knock elsewhere, or declines an invite from elsewhere: for the user at once, for the other server as soon
//! as it can be told.
//! May not: wait for the other server.

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedUserId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use vestibule_protocol::{
    clock::UnixMillis,
    membership::{MembershipRefusal, handshake::member_content},
    pdu::event_builder::{BuildRefusal, EventDraft, GraphPlace},
};
use vestibule_storage::{
    outbox::{Delivery, OutboxEntry},
    room::{Decision, DecisionAction, OutOfBand, Progress},
};

use super::{Lookups, Room, RoomChange, RoomMessage, Turn};

/// A user of ours has done with a room that we are not in.
#[derive(Clone, Debug)]
pub struct LeaveOutOfBand {
    /// Who.
    pub user_id: OwnedUserId,
    /// `reason` and the like.
    pub content: CanonicalJsonObject,
}

impl RoomMessage for LeaveOutOfBand {
    type Reply = ();
    type Refusal = MembershipRefusal;
    const KIND: &'static str = "leave_out_of_band";
    const CHANGES: bool = true;
    const OUT_OF_BAND: bool = true;

    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self> {
        let Some(standing) = room.out_of_band.get(&self.user_id).cloned() else {
            return Turn::Refuse(MembershipRefusal::NotInRoom, Box::default());
        };
        let was_knock = match standing.membership {
            MembershipState::Knock => true,
            MembershipState::Invite => false,
            // It has ended before; a repeat does no harm.
            _ => return Turn::Answer(()),
        };
        let (cited, server) = (standing.event.event_id().to_owned(), standing.via.first().cloned());
        let left = match room.left_out_of_band(&self.user_id, standing, self.content.clone(), lookups.asked_at()) {
            Ok(left) => left,
            Err(refusal) => return Turn::Refuse(refusal, Box::default()),
        };
        let mut change = RoomChange::default();
        if let Some(server) = server {
            change.push_outbox(OutboxEntry {
                event_id: cited,
                delivery: Delivery::Leave { user_id: self.user_id.clone() },
                destinations: [server].into(),
            });
        }
        if was_knock {
            change.push_decision(Decision {
                at: room.now(),
                room_id: room.room_id().to_owned(),
                user_id: self.user_id.clone(),
                origin: self.user_id.server_name().to_owned(),
                by: Some(self.user_id.clone()),
                action: DecisionAction::Retracted,
                reason: left.event.reason(),
                event_id: Some(left.event.event_id().to_owned()),
            });
        }
        room.set_out_of_band(self.user_id.clone(), left, &mut change);
        room.end_join(&self.user_id, &mut change);
        Turn::Commit(Box::new(change), ())
    }
}

/// Whether what stands is the leave that was made here for what it ends, and no server is known to have taken it: one that a
/// server has taken is authorized by more than that.
pub(super) fn is_owed(standing: &OutOfBand, ended: &OwnedEventId) -> bool {
    standing.membership == MembershipState::Leave && standing.event.auth_events() == std::slice::from_ref(ended)
}

impl Room {
    /// An out-of-band membership that has ended with a leave of the user's. The event is shown to the user alone; what other
    /// servers get is built with one of them, which knows the room.
    pub(super) fn left_out_of_band(
        &self,
        user_id: &UserId,
        standing: OutOfBand,
        content: CanonicalJsonObject,
        at: UnixMillis,
    ) -> Result<OutOfBand, MembershipRefusal> {
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(user_id.to_string()),
            sender: user_id.to_owned(),
            content: member_content(content, &MembershipState::Leave),
            redacts: None,
        };
        let cited = standing.event.event_id().to_owned();
        let place = GraphPlace {
            room_id: Some(self.room_id().to_owned()),
            prev_events: vec![cited.clone()],
            auth_events: vec![cited],
            depth: standing.event.depth().saturating_add(1),
            origin_server_ts: at,
        };
        let event = draft.build(&place, self.version(), &self.context.identity).map_err(|refusal| match refusal {
            BuildRefusal::TooLarge => MembershipRefusal::TooLarge,
            error => MembershipRefusal::BadContent { what: error.to_string() },
        })?;
        Ok(OutOfBand {
            membership: MembershipState::Leave,
            progress: Progress::Settled,
            event: event.into(),
            since: self.now(),
            knock: standing.knock_id().map(ToOwned::to_owned),
            early: None,
            ..standing
        })
    }
}
