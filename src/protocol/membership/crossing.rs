//! Which of two member events of one user came last, where they may have crossed on their way.
//! May not: say of an invite and a leave what another server of the room would not say.

use ruma::{EventId, events::room::member::MembershipState};

use crate::pdu::Pdu;

/// Whether a knock or a join was made before others put its user out, or let the user come back, and does not know of it.
///
/// Before version 12 resolution weighs such an event against those two alone of which a fork still holds one: the ban comes
/// first, and keeps the event out; but that it was lifted, which neither cites, is forgotten. What a moderator was told would
/// come undone with the next event that somebody made in between.
pub fn is_overtaken(event: &Pdu, standing: Option<&Pdu>) -> bool {
    standing.is_some_and(|standing| {
        matches!(standing.membership(), Some(MembershipState::Leave | MembershipState::Ban))
            && standing.sender() != event.sender()
            && !event.cites_as_auth(standing.event_id())
    })
}

/// Whether what ended a membership, a leave or a ban, stands against an invite.
///
/// Of two events of which one cites the other, the citing one came last. A user's own leave and an invite of which neither cites
/// the other, and which were made upon the same membership under the same power levels, are side by side in the room. State
/// resolution takes such events by their times and then their ids, and each is allowed after the other: the greater one stands.
/// Beside a kick the invite always stands, since that is resolved before it; so is a ban, which then keeps the invite out. `knock`
/// is the user's knock that the membership came of, where it is known: what cites it and not the invite was made beside it.
///
/// Spec: <https://spec.matrix.org/v1.19/rooms/v2/#state-resolution>
pub fn ends_invite(end: &Pdu, invite: &Pdu, knock: Option<&EventId>) -> bool {
    if end.cites_as_auth(invite.event_id()) {
        return true;
    }
    let is_ban = end.membership() == Some(MembershipState::Ban);
    if is_ban && knock.is_some_and(|knock| end.cites_as_auth(knock) && invite.cites_as_auth(knock)) {
        return true;
    }
    let is_own = end.state_key() == Some(end.sender().as_str());
    let is_beside = end.auth_events().iter().all(|id| invite.cites_as_auth(id));
    let place = |event: &Pdu| (event.origin_server_ts(), event.event_id().to_owned());
    is_own && is_beside && place(end) > place(invite)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::{
        clock::UnixMillis,
        fixture::{ALICE, BOB, CAROL, EventSpec, RoomFixture, user},
    };

    /// What the room itself comes to.
    fn says_the_room(room: &RoomFixture, end: &Arc<Pdu>) -> bool {
        room.state().member(&user(BOB)) == Some(end)
    }

    fn rooms() -> impl Iterator<Item = RoomFixture> {
        let versions = [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
        versions.map(|version_id| RoomFixture::knockable(version_id).power(CAROL, 50).join(CAROL).build()).into_iter()
    }

    #[test]
    fn of_a_leave_and_an_invite_side_by_side_the_one_stands_that_the_room_takes() {
        for (end, may_stand) in
            [(EventSpec::leave(BOB), true), (EventSpec::kick(ALICE, BOB), false), (EventSpec::ban(ALICE, BOB), true)]
        {
            for later in [0, 1, 2] {
                for mut room in rooms() {
                    let knock = room.append(EventSpec::knock(BOB));
                    let place = room.cite();
                    let state = room.state().clone();
                    let at = |seconds| knock.origin_server_ts().plus(Duration::from_secs(seconds));
                    let end = room.make_upon(end.clone().citing(&place).at(at(1)), &state);
                    let invite = EventSpec::invite(CAROL, BOB).citing(&place).at(at(later));
                    let invite = room.make_upon(invite, &state);
                    room.admit(invite.clone()).unwrap();
                    room.admit(end.clone()).unwrap();
                    let (version, knock) = (room.version().id(), Some(knock.event_id()));
                    assert_eq!(ends_invite(&end, &invite, knock), says_the_room(&room, &end), "{version}, {later}");
                    assert!(may_stand || !ends_invite(&end, &invite, knock));
                }
            }
        }
    }

    #[test]
    fn whichever_cites_the_other_came_last_whatever_the_clocks_say() {
        for clock in [-3_600_i64, 3_600] {
            for mut room in rooms() {
                let knock = room.append(EventSpec::knock(BOB));
                let first = room.append(EventSpec::invite(CAROL, BOB));
                let skewed = UnixMillis(room.now().0.saturating_add_signed(clock * 1_000));
                let leave = room.append(EventSpec::leave(BOB).at(skewed));
                let second = room.append(EventSpec::invite(CAROL, BOB));
                assert!(ends_invite(&leave, &first, None));
                assert!(!ends_invite(&leave, &second, None));
                assert!(!ends_invite(&knock, &second, None), "a knock of before");
            }
        }
    }

    #[test]
    fn a_leave_says_nothing_of_an_invite_after_another_knock() {
        for mut room in rooms() {
            room.append(EventSpec::knock(BOB));
            let late = room.now().plus(Duration::from_secs(3_600));
            let leave = room.append(EventSpec::leave(BOB).at(late));
            room.append(EventSpec::knock(BOB));
            let invite = room.append(EventSpec::invite(CAROL, BOB));
            assert!(!ends_invite(&leave, &invite, None));
            // Nor of one under other power levels, which the room takes after it.
            let mut other = RoomFixture::knockable(room.version().id().clone()).power(CAROL, 50).join(CAROL).build();
            other.append(EventSpec::knock(BOB));
            let (place, state) = (other.cite(), other.state().clone());
            let leave = other.make_upon(EventSpec::leave(BOB).citing(&place).at(late), &state);
            other.append(EventSpec::state(ALICE, "m.room.topic", json!({ "topic": "aside" })));
            other.append(EventSpec::power_levels(ALICE, &[(CAROL.to_owned(), 60)]));
            let invite = other.append(EventSpec::invite(CAROL, BOB));
            other.admit(leave.clone()).unwrap();
            assert!(!ends_invite(&leave, &invite, None));
            assert!(!says_the_room(&other, &leave), "version {}", other.version().id());
        }
    }
}
