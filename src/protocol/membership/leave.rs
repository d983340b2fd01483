//! Decides whether another server's user may leave: retract a knock, decline an invite, go.
//! May not: wait, log, or read a clock.

use ruma::{UserId, events::room::member::MembershipState};

use super::LeaveRefusal;
use crate::{auth::authorize_by_state, pdu::Pdu, room_version::RoomVersion, state::StateMap};

/// Whether there is something to leave.
///
/// Spec: <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>
///
/// # Errors
/// [`LeaveRefusal::NotAMember`].
pub fn check_membership(user_id: &UserId, state: &StateMap) -> Result<(), LeaveRefusal> {
    match state.membership(user_id) {
        MembershipState::Join | MembershipState::Invite | MembershipState::Knock => Ok(()),
        _ => Err(LeaveRefusal::NotAMember),
    }
}

/// Judges a leave against one state of the room.
///
/// # Errors
/// [`LeaveRefusal::NotAuthorized`].
pub fn authorize_leave(version: &RoomVersion, leave: &Pdu, state: &StateMap) -> Result<(), LeaveRefusal> {
    authorize_by_state(version, leave, state).map_err(|refusal| LeaveRefusal::NotAuthorized { reason: refusal.reason })
}
