//! One user's membership in one room, as a thing that changes in single steps: the oracle's rules, and what the endpoints add.
//! May not: know more of a room than its version and its join rule.

use crate::proofs::oracle::{
    case::{ALICE, BOB, Case, Levels, Membership, Next, USERS},
    matrix, rules,
};

/// The rooms of a history.
#[derive(Clone, Copy, Debug)]
pub struct RoomKind {
    pub version: u8,
    pub join_rule: &'static str,
}

/// What is asked for. `Alice` is the room's creator and stays in it, with all power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Knock,
    Join,
    /// The user goes, declines, or takes the knock back.
    Leave,
    /// The same through another server's handshake, which has nothing to say to those who are not there.
    LeaveByHandshake,
    /// Alice's.
    Invite,
    Kick,
    Ban,
    Unban,
    Read,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused,
    Seen(Membership),
    /// A knock whose template was older than something that happened meanwhile: it may be asked for again.
    Overtaken,
    /// The store failed and nothing was written: it never happened.
    NotWritten,
    /// The program does not know either: it may have happened or not, now or later.
    Unknown,
}

/// An operation upon one user in one room. Times are the order of calls and returns.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub called: u64,
    /// `None`: never, as far as anybody knows.
    pub returned: Option<u64>,
    pub action: Action,
    pub answer: Answer,
}

/// What a room does with an action: the membership after it, or a refusal.
pub fn step(room: RoomKind, action: Action, state: Membership) -> Option<Membership> {
    let allowed = |next: Next, sender| rules::allow(&case(room, next, sender, state)).then(|| next.becomes()).flatten();
    let is_out = matches!(state, Membership::None | Membership::Leave);
    match action {
        Action::Read => Some(state),
        // A knock that is pending and young is not repeated.
        Action::Knock if state == Membership::Knock => None,
        Action::Knock => allowed(Next::Knock, BOB),
        Action::Join => allowed(Next::Join, BOB),
        // Who has left has left.
        Action::Leave if state == Membership::Leave => Some(state),
        Action::Leave | Action::LeaveByHandshake => allowed(Next::Leave, BOB),
        // Who is invited is invited.
        Action::Invite if state == Membership::Invite => Some(state),
        Action::Invite => allowed(Next::Invite, ALICE),
        // The rules would let Alice turn out who is not in, or lift a ban this way; the endpoint does not.
        Action::Kick if is_out || state == Membership::Ban => None,
        Action::Kick => allowed(Next::Leave, ALICE),
        Action::Ban => allowed(Next::Ban, ALICE),
        Action::Unban if state != Membership::Ban => None,
        Action::Unban => allowed(Next::Leave, ALICE),
    }
}

/// That the cell's other members are not in the room makes no difference to what is done here.
fn case(room: RoomKind, next: Next, sender: usize, state: Membership) -> Case {
    let mut users = [None; USERS.len()];
    users[ALICE] = (room.version <= 11).then_some(100);
    let levels = Some(Levels { users, ..Levels::default() });
    Case { levels, ..matrix::cell(room.version, Some(room.join_rule), state, next, sender) }
}
