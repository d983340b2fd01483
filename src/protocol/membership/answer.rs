//! Whether a leave or a ban that another server sends us for a room we are not in answers what a user of ours asked there.
//! May not: judge by a room's rules; nothing of the room's state is here. It decides what our user sees, and nothing else.
//!
//! We hold nothing by which the sender's power could be judged, so the event must come from a server that was part of the
//! handshake, and must show that its sender's server knew what it answers. An answer closes nothing for good: a later invite is
//! taken all the same.

use ruma::{
    OwnedServerName, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use thiserror::Error;

use crate::pdu::Pdu;

/// What a user of ours is waiting for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The member event that is pending: the user's knock, or the invite that nobody accepted yet.
    pub pending: &'a Pdu,
    /// Servers that are in the room as far as we know; the first took the knock or sent the invite.
    pub via: &'a [OwnedServerName],
    /// The servers of the senders of stripped state whose signatures were verified.
    pub shown_senders: &'a [OwnedServerName],
}

/// What the answer means to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfBandAnswer {
    /// The knock was turned down.
    Denied,
    /// The user was banned.
    Banned,
    /// The invite was taken back.
    Rescinded,
}

/// Why an event is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerRefusal {
    /// What is thought to be pending is neither a knock nor an invite.
    #[error("nothing is pending")]
    NothingPending,
    /// It is of another room.
    #[error("the event is of another room")]
    WrongRoom,
    /// It is no member event, or neither a leave nor a ban.
    #[error("the event is neither a leave nor a ban")]
    WrongMembership,
    /// It is about another user.
    #[error("the event is about another user")]
    WrongTarget,
    /// Users of ours leave through us and nobody else.
    #[error("the event is said to be our user's own")]
    OwnEvent,
    /// Its auth events do not hold what it would answer.
    #[error("the event does not cite what it answers")]
    NotCited,
    /// It comes from a server that had no part in the handshake.
    #[error("the event comes from a server that was not asked")]
    UnrelatedServer,
}

/// Judges an event whose signatures were verified. `origin` is the server that sent it to us.
///
/// # Errors
/// [`AnswerRefusal`]: what our user sees stays as it is.
pub fn out_of_band_answer(pdu: &Pdu, asked: &Asked<'_>, origin: &ServerName) -> Result<OutOfBandAnswer, AnswerRefusal> {
    let pending = asked.pending.membership().ok_or(AnswerRefusal::NothingPending)?;
    if pending != MembershipState::Knock && pending != MembershipState::Invite {
        return Err(AnswerRefusal::NothingPending);
    }
    if pdu.room_id() != asked.pending.room_id() {
        return Err(AnswerRefusal::WrongRoom);
    }
    let answer = match pdu.membership() {
        Some(MembershipState::Ban) => OutOfBandAnswer::Banned,
        Some(MembershipState::Leave) if pending == MembershipState::Knock => OutOfBandAnswer::Denied,
        Some(MembershipState::Leave) => OutOfBandAnswer::Rescinded,
        _ => return Err(AnswerRefusal::WrongMembership),
    };
    if *pdu.kind() != TimelineEventType::RoomMember || pdu.state_key() != Some(asked.user_id.as_str()) {
        return Err(AnswerRefusal::WrongTarget);
    }
    if pdu.sender() == asked.user_id {
        return Err(AnswerRefusal::OwnEvent);
    }
    if !pdu.auth_events().iter().any(|event_id| event_id == asked.pending.event_id()) {
        return Err(AnswerRefusal::NotCited);
    }
    let took_part = if pending == MembershipState::Knock {
        asked.via.first().is_some_and(|server| server == origin)
    } else {
        asked.pending.sender_server() == origin
    };
    let is_senders_own = pdu.sender_server() == origin;
    let is_known = asked.via.iter().chain(asked.shown_senders).any(|server| server == origin);
    if !took_part && !(is_senders_own && is_known) {
        return Err(AnswerRefusal::UnrelatedServer);
    }
    Ok(answer)
}
