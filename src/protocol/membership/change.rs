//! What a client asks for when it invites, joins, leaves, kicks, bans or unbans: which membership that is, and when it is
//! nothing at all.
//! May not: replace the authorization rules; they judge the event that comes of it.

use ruma::{UserId, events::room::member::MembershipState};

use super::MembershipRefusal;
use crate::state::StateMap;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// Enter the room.
    Join,
    /// Ask somebody in, which also accepts a knock.
    Invite,
    /// Ask to be let in.
    Knock,
    /// Go, decline an invite, take a knock back.
    Leave,
    /// Turn somebody out, which also denies a knock.
    Kick,
    /// Turn somebody out for good.
    Ban,
    /// Lift a ban.
    Unban,
}

impl MembershipChange {
    /// The membership that the target gets.
    pub fn membership(self) -> MembershipState {
        match self {
            Self::Join => MembershipState::Join,
            Self::Invite => MembershipState::Invite,
            Self::Knock => MembershipState::Knock,
            Self::Leave | Self::Kick | Self::Unban => MembershipState::Leave,
            Self::Ban => MembershipState::Ban,
        }
    }
}

/// What to do about a change before the rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Build an event and judge it.
    Send,
    /// It is so already; answer with the event that stands.
    Nothing,
}

/// Whether the change needs an event, in the present state.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#room-membership>
///
/// # Errors
/// [`MembershipRefusal`] where the endpoint's text refuses although the rules would allow the resulting event.
pub fn intent(
    change: MembershipChange,
    sender: &UserId,
    target: &UserId,
    state: &StateMap,
) -> Result<Intent, MembershipRefusal> {
    let membership = state.membership(target);
    let has_member_event = state.member(target).is_some();
    let sender_is_joined = state.membership(sender) == MembershipState::Join;
    match change {
        MembershipChange::Join | MembershipChange::Knock | MembershipChange::Ban => Ok(Intent::Send),
        // An invite of somebody invited answers 200 and changes nothing, so that repeats and races do no harm.
        MembershipChange::Invite if sender_is_joined && membership == MembershipState::Invite => Ok(Intent::Nothing),
        MembershipChange::Invite if sender_is_joined && membership == MembershipState::Ban => {
            Err(MembershipRefusal::Banned)
        }
        MembershipChange::Invite => Ok(Intent::Send),
        MembershipChange::Leave => match membership {
            MembershipState::Leave if has_member_event => Ok(Intent::Nothing),
            MembershipState::Leave => Err(MembershipRefusal::NotInRoom),
            _ => Ok(Intent::Send),
        },
        // A kick works on the joined, the invited and those who knock: it is how a knock is denied.
        MembershipChange::Kick => match membership {
            MembershipState::Join | MembershipState::Invite | MembershipState::Knock => Ok(Intent::Send),
            _ => Err(MembershipRefusal::NotInRoom),
        },
        MembershipChange::Unban => match membership {
            MembershipState::Ban => Ok(Intent::Send),
            _ => Err(MembershipRefusal::NotAuthorized { reason: "the user is not banned".to_owned() }),
        },
    }
}
