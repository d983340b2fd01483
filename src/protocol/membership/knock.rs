//! Decides whether a knock enters the room.
//! May not: wait, log, or read a clock.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId, events::room::member::MembershipState, room::JoinRuleKind,
};

use super::KnockRefusal;
use crate::{
    auth::{NotAuthorized, authorize_by_state},
    clock::UnixMillis,
    pdu::Pdu,
    room_version::RoomVersion,
    state::StateMap,
};

/// What `[knock]` of the configuration says about a room's door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnockPolicy {
    /// While a pending knock is younger, a repeat is refused. Zero: a repeat always replaces.
    pub repeat_after: Duration,
    /// Pending knocks in a room.
    pub max_pending_per_room: usize,
    /// Pending knocks of one server in a room.
    pub max_pending_per_origin_in_room: usize,
}

/// The pending knocks of a room: when we got them, by our clock, and whose server they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingKnocks {
    by_user: BTreeMap<OwnedUserId, UnixMillis>,
    by_origin: BTreeMap<OwnedServerName, usize>,
}

impl PendingKnocks {
    /// Notes a knock; a repeat replaces the time of the earlier one.
    pub fn insert(&mut self, user_id: OwnedUserId, since: UnixMillis) {
        let origin = user_id.server_name().to_owned();
        if self.by_user.insert(user_id, since).is_none() {
            let count = self.by_origin.entry(origin).or_insert(0);
            *count = count.saturating_add(1);
        }
    }

    /// Notes that a knock ended.
    pub fn remove(&mut self, user_id: &UserId) {
        if self.by_user.remove(user_id).is_some() {
            let origin = user_id.server_name().to_owned();
            let count = self.by_origin.entry(origin.clone()).or_insert(0);
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_origin.remove(&origin);
            }
        }
    }

    /// Since when the user's knock is pending.
    pub fn since(&self, user_id: &UserId) -> Option<UnixMillis> {
        self.by_user.get(user_id).copied()
    }

    /// How many are pending.
    pub fn len(&self) -> usize {
        self.by_user.len()
    }

    /// Whether none is pending.
    pub fn is_empty(&self) -> bool {
        self.by_user.is_empty()
    }

    fn of_origin(&self, origin: &ServerName) -> usize {
        self.by_origin.get(origin).copied().unwrap_or(0)
    }
}

/// Whether the room's version has knocks at all.
///
/// # Errors
/// [`KnockRefusal::VersionCannotKnock`].
pub fn check_version(version: &RoomVersion) -> Result<(), KnockRefusal> {
    if version.can_knock() { Ok(()) } else { Err(KnockRefusal::VersionCannotKnock) }
}

/// Judges a knock (signed, or a template that nobody signed yet) against one state of the room. The rules decide; the
/// refusal says which fact was in the way.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v12/#authorization-rules>, rule 5.7 and its like in versions 7 to 11.
///
/// # Errors
/// A [`KnockRefusal`] about join rule, membership, federation, or whatever else the rules hold against it.
pub fn authorize_knock(version: &RoomVersion, knock: &Pdu, state: &StateMap) -> Result<(), KnockRefusal> {
    check_version(version)?;
    match authorize_by_state(version, knock, state) {
        Ok(()) => Ok(()),
        Err(refusal) => Err(name_the_fact(version, knock.sender(), state, refusal)),
    }
}

/// Which fact made the rules refuse: for counters, the audit and the admin's eyes; banned and not knockable look the same
/// from outside.
fn name_the_fact(version: &RoomVersion, user_id: &UserId, state: &StateMap, refusal: NotAuthorized) -> KnockRefusal {
    let creator_server = state.create().map(|create| create.sender_server().to_owned());
    if !state.is_federated() && creator_server.as_deref() != Some(user_id.server_name()) {
        return KnockRefusal::NotFederated;
    }
    let rule = state.join_rule();
    let rule_lets_knock = match &rule {
        Some(JoinRuleKind::Knock) => true,
        Some(JoinRuleKind::KnockRestricted) => version.can_knock_restricted(),
        _ => false,
    };
    match state.membership(user_id) {
        MembershipState::Ban => KnockRefusal::Banned,
        _ if !rule_lets_knock => KnockRefusal::JoinRuleForbids { rule },
        MembershipState::Invite => KnockRefusal::AlreadyInvited,
        MembershipState::Join => KnockRefusal::AlreadyJoined,
        _ => KnockRefusal::NotAuthorized { reason: refusal.reason },
    }
}

/// Judges what our configuration adds to the rules: how soon a repeat counts, and how many may be pending. Comes right after
/// the rules; rates come after it.
///
/// # Errors
/// [`KnockRefusal::AlreadyKnocking`], [`KnockRefusal::TooManyPendingInRoom`] or [`KnockRefusal::TooManyPendingFromOrigin`].
pub fn check_policy(
    policy: &KnockPolicy,
    pending: &PendingKnocks,
    user_id: &UserId,
    now: UnixMillis,
) -> Result<(), KnockRefusal> {
    if let Some(since) = pending.since(user_id) {
        let again_from = since.plus(policy.repeat_after);
        if now < again_from {
            return Err(KnockRefusal::AlreadyKnocking { again_from });
        }
        // A repeat replaces its forerunner: nothing is added that a cap could mind.
        return Ok(());
    }
    if pending.len() >= policy.max_pending_per_room {
        return Err(KnockRefusal::TooManyPendingInRoom);
    }
    if pending.of_origin(user_id.server_name()) >= policy.max_pending_per_origin_in_room {
        return Err(KnockRefusal::TooManyPendingFromOrigin);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: KnockPolicy = KnockPolicy {
        repeat_after: Duration::from_secs(10),
        max_pending_per_room: 3,
        max_pending_per_origin_in_room: 2,
    };

    fn user(name: &str) -> OwnedUserId {
        UserId::parse(name).unwrap()
    }

    #[test]
    fn repeat_counts_from_the_time_of_receipt() {
        let mut pending = PendingKnocks::default();
        pending.insert(user("@a:x"), UnixMillis(1_000));
        let refused = check_policy(&POLICY, &pending, &user("@a:x"), UnixMillis(10_999));
        assert_eq!(refused, Err(KnockRefusal::AlreadyKnocking { again_from: UnixMillis(11_000) }));
        assert_eq!(check_policy(&POLICY, &pending, &user("@a:x"), UnixMillis(11_000)), Ok(()));
    }

    #[test]
    fn zero_repeat_after_lets_every_repeat_replace() {
        let mut pending = PendingKnocks::default();
        pending.insert(user("@a:x"), UnixMillis(1_000));
        let policy = KnockPolicy { repeat_after: Duration::ZERO, ..POLICY };
        assert_eq!(check_policy(&policy, &pending, &user("@a:x"), UnixMillis(1_000)), Ok(()));
    }

    #[test]
    fn caps_count_users_and_not_repeats() {
        let mut pending = PendingKnocks::default();
        pending.insert(user("@a:x"), UnixMillis(0));
        pending.insert(user("@a:x"), UnixMillis(1));
        pending.insert(user("@b:x"), UnixMillis(0));
        let now = UnixMillis(0);
        assert_eq!(check_policy(&POLICY, &pending, &user("@c:x"), now), Err(KnockRefusal::TooManyPendingFromOrigin));
        assert_eq!(check_policy(&POLICY, &pending, &user("@c:y"), now), Ok(()));
        pending.insert(user("@c:y"), UnixMillis(0));
        assert_eq!(check_policy(&POLICY, &pending, &user("@d:z"), now), Err(KnockRefusal::TooManyPendingInRoom));
        pending.remove(&user("@a:x"));
        pending.remove(&user("@a:x"));
        assert_eq!(check_policy(&POLICY, &pending, &user("@c:x"), now), Ok(()));
    }
}
