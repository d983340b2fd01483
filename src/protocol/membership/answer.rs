//! Whether a leave or a ban that another server sends us for a room we are not in answers what a user of ours asked there.
//! May not: judge by a room's rules; nothing of the room's state is here. It decides what our user sees, and nothing else.
//!
//! We hold nothing by which the sender's power could be judged, so the event must come from a server that was part of the
//! handshake, and must show that its sender's server knew what it answers. An answer closes nothing for good: a later invite is
//! taken all the same.

use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, OwnedServerName, OwnedUserId, ServerName, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use thiserror::Error;

use super::crossing::ends_invite;
use crate::pdu::Pdu;

/// What a user of ours is waiting for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The member event that is pending: the user's knock, or the invite that nobody accepted yet.
    pub pending: &'a Pdu,
    /// The user's knock that it is or came of, where that is known.
    pub knock: Option<&'a EventId>,
    /// Joins that the user asked for since: the room may hold one of which no answer came here.
    pub joins: &'a [OwnedEventId],
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
    /// It comes from a server that may know, but its auth events do not hold what it would answer.
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
    let took_part = if pending == MembershipState::Knock {
        asked.via.first().is_some_and(|server| server == origin)
    } else {
        asked.pending.sender_server() == origin
    };
    let is_senders_own = pdu.sender_server() == origin;
    let is_known = asked.via.iter().chain(asked.shown_senders).any(|server| server == origin);
    let is_believed = took_part || (is_senders_own && is_known);
    if !is_believed {
        return Err(AnswerRefusal::UnrelatedServer);
    }
    // A ban that another moderator made beside the invite cites the knock, and in the room it keeps the invite out.
    let is_cited = pdu.cites_as_auth(asked.pending.event_id())
        || (pending == MembershipState::Invite && ends_invite(pdu, asked.pending, asked.knock))
        || asked.joins.iter().any(|join| pdu.cites_as_auth(join));
    if !is_cited {
        return Err(AnswerRefusal::NotCited);
    }
    Ok(answer)
}

/// The user of ours whom an event puts out of a room that we are in: it is a leave or a ban by somebody else.
pub fn puts_out(pdu: &Pdu, us: &ServerName) -> Option<OwnedUserId> {
    let is_end = matches!(pdu.membership(), Some(MembershipState::Leave | MembershipState::Ban));
    let target = pdu.state_key().filter(|_| is_end && *pdu.kind() == TimelineEventType::RoomMember);
    let target = target.and_then(|target| UserId::parse(target).ok());
    target.filter(|target| target.server_name() == us && target != pdu.sender())
}

/// Whether such an event may end a stay, so far as that shows without what came before it. `stay` is the membership that stands
/// and all that it follows from, each cited by the one before it.
///
/// Whoever has nobody in a room any more may not ask for its events. If the event that put out our last user cites others that
/// never came, or was made where the user's join was not known yet, there is nobody left who would give us those, and our user
/// would stay in a room that everybody else has closed. One that the membership follows from has been overcome, and is not to
/// be used again; any other was made upon it or beside it, and state resolution says which of the two stands.
pub fn may_end_stay(pdu: &Pdu, stay: &[Arc<Pdu>]) -> bool {
    !stay.is_empty() && stay.iter().all(|earlier| earlier.event_id() != pdu.event_id())
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use ruma::RoomVersionId;

    use super::*;
    use crate::fixture::{ALICE, BOB, CAROL, EVE, EventSpec, RoomFixture, user};

    const VIA: &str = "resident.test";
    const OTHER_VIA: &str = "other.test";
    const SHOWN: &str = "third.test";
    const STRANGER: &str = "evil.test";

    fn servers(names: &[&str]) -> Vec<OwnedServerName> {
        names.iter().map(|name| OwnedServerName::try_from(*name).unwrap()).collect()
    }

    /// A room in which Bob knocked, or in which Alice or Carol invited him.
    fn room_with(pending: &EventSpec) -> (RoomFixture, OwnedEventId) {
        let mut room = RoomFixture::knockable(RoomVersionId::V11).power(CAROL, 60).join(CAROL).build();
        let pending = room.append(pending.clone()).event_id().to_owned();
        (room, pending)
    }

    fn answer_to(
        pending: &EventSpec,
        answer: impl FnOnce(&mut RoomFixture, &OwnedEventId) -> EventSpec,
        origin: &str,
    ) -> Result<OutOfBandAnswer, AnswerRefusal> {
        let (mut room, pending_id) = room_with(pending);
        let spec = answer(&mut room, &pending_id);
        let event = room.make(spec);
        let pending = room.events()[&pending_id].clone();
        let bob = user(BOB);
        let (via, shown_senders) = (servers(&[VIA, OTHER_VIA]), servers(&[SHOWN]));
        let asked = Asked {
            user_id: &bob,
            pending: &pending,
            knock: None,
            joins: &[],
            via: &via,
            shown_senders: &shown_senders,
        };
        out_of_band_answer(&event, &asked, origin.try_into().unwrap())
    }

    #[test]
    fn an_answer_comes_from_who_took_part_or_from_its_senders_own_known_server() {
        use AnswerRefusal::UnrelatedServer;
        use OutOfBandAnswer::{Banned, Denied, Rescinded};
        let knock = || EventSpec::knock(BOB);
        let invite = |by: &str| EventSpec::invite(by, BOB);
        // What is pending, who answers, through which server it comes, and what it means as a leave and as a ban.
        let table = [
            (knock(), ALICE, VIA, Ok(Denied), Ok(Banned)),
            // The server that took the knock speaks for whoever is in the room.
            (knock(), CAROL, VIA, Ok(Denied), Ok(Banned)),
            (knock(), "@dan:stranger.test", VIA, Ok(Denied), Ok(Banned)),
            // Other servers speak for their own users only, and only if we knew of them.
            (knock(), CAROL, SHOWN, Ok(Denied), Ok(Banned)),
            (knock(), "@dan:other.test", OTHER_VIA, Ok(Denied), Ok(Banned)),
            (knock(), ALICE, SHOWN, Err(UnrelatedServer), Err(UnrelatedServer)),
            (knock(), ALICE, OTHER_VIA, Err(UnrelatedServer), Err(UnrelatedServer)),
            (knock(), EVE, STRANGER, Err(UnrelatedServer), Err(UnrelatedServer)),
            (knock(), ALICE, STRANGER, Err(UnrelatedServer), Err(UnrelatedServer)),
            // An invite is taken back through the inviter's server, which need not be the first we know.
            (invite(ALICE), ALICE, VIA, Ok(Rescinded), Ok(Banned)),
            (invite(CAROL), CAROL, SHOWN, Ok(Rescinded), Ok(Banned)),
            (invite(CAROL), ALICE, SHOWN, Ok(Rescinded), Ok(Banned)),
            (invite(CAROL), ALICE, VIA, Ok(Rescinded), Ok(Banned)),
            (invite(CAROL), CAROL, VIA, Err(UnrelatedServer), Err(UnrelatedServer)),
            (invite(CAROL), EVE, STRANGER, Err(UnrelatedServer), Err(UnrelatedServer)),
        ];
        for (pending, sender, origin, as_leave, as_ban) in table {
            for (membership, expected) in [(MembershipState::Leave, as_leave), (MembershipState::Ban, as_ban)] {
                let spec = EventSpec::member(sender, BOB, &membership);
                let found = answer_to(&pending, |_, id| spec.authorized_by(from_ref(id)), origin);
                assert_eq!(found, expected, "{pending:?}: {membership} by {sender} through {origin}");
            }
        }
    }

    #[test]
    fn what_answers_nothing_of_ours_is_refused() {
        let knock = EventSpec::knock(BOB);
        let refusal =
            |answer: EventSpec| answer_to(&knock, |_, id| answer.authorized_by(from_ref(id)), VIA).unwrap_err();
        assert_eq!(refusal(EventSpec::kick(ALICE, EVE)), AnswerRefusal::WrongTarget);
        assert_eq!(refusal(EventSpec::ban(ALICE, CAROL)), AnswerRefusal::WrongTarget);
        assert_eq!(refusal(EventSpec::invite(ALICE, BOB)), AnswerRefusal::WrongMembership);
        assert_eq!(refusal(EventSpec::member(ALICE, BOB, &MembershipState::Join)), AnswerRefusal::WrongMembership);
        assert_eq!(refusal(EventSpec::knock(BOB)), AnswerRefusal::WrongMembership);
        assert_eq!(refusal(EventSpec::message(ALICE, "go away")), AnswerRefusal::WrongMembership);
        let topic = EventSpec::any(ALICE, "m.room.topic", Some(BOB), serde_json::json!({ "membership": "leave" }));
        assert_eq!(refusal(topic), AnswerRefusal::WrongMembership);
        // Nobody retracts for our user but we, whoever signed it.
        assert_eq!(refusal(EventSpec::leave(BOB)), AnswerRefusal::OwnEvent);
        assert_eq!(refusal(EventSpec::ban(BOB, BOB)), AnswerRefusal::OwnEvent);
        let elsewhere = EventSpec::kick(ALICE, BOB).in_room("!other:resident.test".try_into().unwrap());
        assert_eq!(refusal(elsewhere), AnswerRefusal::WrongRoom);
    }

    #[test]
    fn an_answer_cites_what_it_answers() {
        let knock = EventSpec::knock(BOB);
        let kick = || EventSpec::kick(ALICE, BOB);
        let uncited = answer_to(&knock, |_, _| kick().authorized_by(&[]), VIA);
        assert_eq!(uncited, Err(AnswerRefusal::NotCited));
        let selected = answer_to(&knock, |_, _| kick(), VIA);
        assert_eq!(selected, Ok(OutOfBandAnswer::Denied), "the selection of the specification holds the knock");
        let of_an_earlier_one = answer_to(
            &knock,
            |room, _| {
                let create = room.state().create().unwrap().event_id().to_owned();
                kick().authorized_by(&[create])
            },
            VIA,
        );
        assert_eq!(of_an_earlier_one, Err(AnswerRefusal::NotCited));
        // Cited as a predecessor only: the sender's server need not have judged it.
        let only_followed = answer_to(&knock, |_, id| kick().citing(from_ref(id)).authorized_by(&[]), VIA);
        assert_eq!(only_followed, Err(AnswerRefusal::NotCited));
    }

    #[test]
    fn nothing_answers_what_is_not_pending() {
        for pending in [EventSpec::join(BOB), EventSpec::leave(BOB), EventSpec::message(ALICE, "hi")] {
            let mut room = RoomFixture::knockable(RoomVersionId::V11).invite(BOB).build();
            let pending = room.append(pending);
            let kick = room.make(EventSpec::kick(ALICE, BOB).authorized_by(&[pending.event_id().to_owned()]));
            let bob = user(BOB);
            let via = servers(&[VIA]);
            let asked =
                Asked { user_id: &bob, pending: &pending, knock: None, joins: &[], via: &via, shown_senders: &[] };
            let found = out_of_band_answer(&kick, &asked, VIA.try_into().unwrap());
            assert_eq!(found, Err(AnswerRefusal::NothingPending), "{pending:?}");
        }
    }

    #[test]
    fn a_stay_is_ended_by_what_others_made_and_it_does_not_follow_from() {
        let mut room = RoomFixture::knockable(RoomVersionId::V11).invite(BOB).build();
        let mut stay = vec![room.append(EventSpec::join(BOB))];
        let overcome = room.append(EventSpec::kick(ALICE, BOB));
        let invite = room.append(EventSpec::invite(ALICE, BOB));
        let join = room.append(EventSpec::join(BOB));
        stay.extend([overcome.clone(), invite.clone(), join.clone()]);
        stay.reverse();
        let bob = user(BOB);
        let (invite, join) = (invite.event_id().to_owned(), join.event_id().to_owned());
        let cases = [
            (EventSpec::kick(ALICE, BOB), true),
            (EventSpec::ban(ALICE, BOB), true),
            (EventSpec::ban(ALICE, BOB).citing(from_ref(&invite)), true),
            (EventSpec::leave(BOB), false),
            (EventSpec::kick(BOB, ALICE), false),
            (EventSpec::message(ALICE, "go away").authorized_by(from_ref(&join)), false),
        ];
        for (spec, puts_bob_out) in cases {
            let event = room.make(spec.clone());
            assert_eq!(puts_out(&event, bob.server_name()), puts_bob_out.then(|| bob.clone()), "{spec:?}");
            assert_eq!(puts_out(&event, "elsewhere.test".try_into().unwrap()), None, "{spec:?}");
            assert!(may_end_stay(&event, &stay) && !may_end_stay(&event, &[]), "{spec:?}");
        }
        assert!(!may_end_stay(&overcome, &stay), "of a stay that has ended long ago");
    }

    #[test]
    fn a_knock_of_which_no_server_is_known_is_answered_by_nobody() {
        let (mut room, pending_id) = room_with(&EventSpec::knock(BOB));
        let kick = room.make(EventSpec::kick(ALICE, BOB));
        let bob = user(BOB);
        let asked = Asked {
            user_id: &bob,
            pending: &room.events()[&pending_id],
            knock: None,
            joins: &[],
            via: &[],
            shown_senders: &[],
        };
        let found = out_of_band_answer(&kick, &asked, VIA.try_into().unwrap());
        assert_eq!(found, Err(AnswerRefusal::UnrelatedServer));
    }
}
