//! Our users' knocks and invites in a room that we are not in: what stands, what is kept, what is owed.
//! May not: bring a network; what the resident server sends is handed over by hand.

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedServerName, RoomVersionId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde_json::json;
use vestibule_protocol::{
    clock::Clock,
    fixture::{ALICE, BOB, CAROL, EPOCH, canonical, identity, public_keys, user},
    membership::{
        InviteRefusal, KnockElsewhereRefusal, MembershipRefusal, ReceiveRefusal,
        change::MembershipChange::{Ban, Invite, Kick, Leave, Unban},
        handshake::{HandshakeKind, member_content},
        invite::{CosignedInvite, Invitation, InviteShape},
        template::{TemplateRequest, read_template},
    },
    pdu::event_builder::EventDraft,
    state::stripped::{StrippedEvent, prune},
};
use vestibule_storage::{
    outbox::Delivery,
    room::{DecisionAction, OutOfBand, Progress, UserMembership},
};

use super::elsewhere::{BEN, admitted, put_out_upon};
use crate::{
    AskError, BeginKnock, HandOnLeave, KnockOutcome, LeaveOutOfBand, ReceiveAnswer, ReceiveInvite, SettleKnock,
    SettleLeave, Settled,
    testing::{RESIDENT, TestRoom, World, membership_change, message, read, server},
};

/// Bob's server: the one under test here.
const PEER: &str = "peer.test";

const SECOND: Duration = Duration::from_secs(1);

/// A room of the resident's, and Bob's server, whose user knocks on it.
struct Knocking {
    resident: World,
    peer: World,
    room: TestRoom,
}

impl Knocking {
    async fn new() -> Self {
        let resident = World::new();
        let room = resident.knockable(RoomVersionId::V11).await;
        Self { resident, peer: World::named(PEER), room }
    }

    /// Bob's server asks for a template and signs a knock; nothing is sent.
    async fn signed(&self, reason: &str) -> OutOfBand {
        let prepared = self.resident.prepare(&self.room, BOB).await.unwrap();
        let reply = canonical(json!({ "room_version": prepared.room_version, "event": prepared.event }));
        let bob = user(BOB);
        let wanted = TemplateRequest {
            room_id: &self.room.room_id,
            user_id: &bob,
            membership: MembershipState::Knock,
            offered: std::slice::from_ref(&prepared.room_version),
            fallback_version: None,
        };
        let template = read_template(&reply, &wanted, self.peer.clock.now()).unwrap();
        let draft = EventDraft {
            kind: TimelineEventType::RoomMember,
            state_key: Some(BOB.to_owned()),
            sender: bob.clone(),
            content: member_content(canonical(json!({ "reason": reason })), &MembershipState::Knock),
            redacts: None,
        };
        let (event, _) =
            draft.build_for_handshake(&template.place, &template.version, &identity(&server(PEER))).unwrap();
        OutOfBand {
            room_version: prepared.room_version,
            membership: MembershipState::Knock,
            progress: Progress::Asking,
            event: event.into(),
            stripped: Vec::new(),
            via: vec![server(RESIDENT)],
            since: self.peer.clock.now(),
            knock: None,
            joins: Vec::new(),
            early: None,
        }
    }

    async fn begin(&self, knock: &OutOfBand) -> Result<(), AskError<KnockElsewhereRefusal>> {
        let message = BeginKnock { user_id: user(BOB), out_of_band: knock.clone() };
        self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await
    }

    /// The resident takes the knock, and its answer arrives.
    async fn send(&self, knock: &OutOfBand) -> Settled {
        let event = knock.event.to_object().unwrap();
        let signed = self.room.signed(event, BOB, HandshakeKind::Knock).into_knock().unwrap();
        assert_eq!(signed.pdu().event_id(), knock.event.event_id());
        self.resident.admit(&self.room, signed).await.unwrap();
        self.settle(knock, self.taken().await).await
    }

    async fn taken(&self) -> KnockOutcome {
        let shown = self.resident.look(&self.room, |room| room.state().create().cloned()).await;
        let stripped: Vec<StrippedEvent> = shown.iter().filter_map(|event| prune(event)).collect();
        KnockOutcome::Taken { stripped, via: vec![server(RESIDENT)] }
    }

    async fn settle(&self, knock: &OutOfBand, outcome: KnockOutcome) -> Settled {
        let message = SettleKnock { user_id: user(BOB), event_id: knock.event.event_id().to_owned(), outcome };
        self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await.unwrap()
    }

    /// Bob knocks, and the resident has it.
    async fn knocking() -> (Self, OutOfBand) {
        let this = Self::new().await;
        let knock = this.signed("please").await;
        this.begin(&knock).await.unwrap();
        assert_eq!(this.send(&knock).await, Settled::Knocking);
        (this, knock)
    }

    async fn receive_invite(&self, event_id: &OwnedEventId) -> Result<(), AskError<InviteRefusal>> {
        let invite = cosigned(&self.resident, &self.room, event_id);
        let message = ReceiveInvite { invite, room_version: RoomVersionId::V11, stripped: Vec::new() };
        self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await
    }

    async fn receive_answer(&self, event_id: &OwnedEventId, origin: &str) -> Result<(), AskError<ReceiveRefusal>> {
        let event = self.resident.verified(&self.room.room_id, event_id);
        let message = ReceiveAnswer { event, origin: server(origin) };
        self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await
    }

    async fn leave(&self) -> Result<(), AskError<MembershipRefusal>> {
        let message = LeaveOutOfBand { user_id: user(BOB), content: canonical(json!({ "reason": "no more" })) };
        self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await
    }

    /// A server does not take Bob's leave; who is told next.
    async fn hand_on(&self, knock: &OutOfBand, from: &str) -> Option<OwnedServerName> {
        let event_id = knock.event.event_id().to_owned();
        let message = HandOnLeave { user_id: user(BOB), event_id, from: server(from) };
        self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await.unwrap()
    }

    /// Another server of the room takes Bob's leave, and its answer arrives.
    async fn settle_leave(&self, knock: &OutOfBand) {
        let leave = self.resident.leave(&self.room, BOB).await;
        let leave = self.resident.stored(&self.room, &leave).unwrap().event;
        let message = SettleLeave { user_id: user(BOB), event_id: knock.event.event_id().to_owned(), leave };
        self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await.unwrap();
    }

    /// What Bob is to the room, as his server tells him, now and after a restart.
    fn bob_is(&self) -> Option<MembershipState> {
        let of = |world: &World| -> Option<UserMembership> {
            read(world.stores().rooms.membership(&user(BOB), &self.room.room_id))
        };
        let restarted = self.peer.restarted();
        let (now, then) = (of(&self.peer), of(&restarted));
        assert_eq!(now.as_ref().map(|row| &row.event_id), then.as_ref().map(|row| &row.event_id));
        now.map(|row| row.membership)
    }

    fn row(&self) -> Option<OutOfBand> {
        read(self.peer.stores().rooms.out_of_band_of(&user(BOB), &self.room.room_id))
    }
}

/// An invite of the resident's for a user of Bob's server, with the signatures of both.
pub(super) fn cosigned(resident: &World, room: &TestRoom, event_id: &OwnedEventId) -> CosignedInvite {
    let object: CanonicalJsonObject = resident.stored(room, event_id).unwrap().event.to_object().unwrap();
    let (origin, peer) = (server(RESIDENT), server(PEER));
    let expected = Invitation {
        version: &room.version,
        room_id: &room.room_id,
        event_id,
        origin: &origin,
        our_name: &peer,
        now: EPOCH,
    };
    let shape = InviteShape::parse(object, &expected).unwrap();
    shape.verify(&public_keys([&*origin])).unwrap().cosign(&identity(&peer)).unwrap()
}

#[actix::test]
async fn knock_is_told_to_its_user_once_somebody_took_it() {
    let this = Knocking::new().await;
    let knock = this.signed("please").await;
    this.begin(&knock).await.unwrap();
    assert_eq!(this.bob_is(), None);
    assert_eq!(this.row().unwrap().progress, Progress::Asking);
    assert_eq!(this.send(&knock).await, Settled::Knocking);
    assert_eq!(this.bob_is(), Some(MembershipState::Knock));
    let row = this.row().unwrap();
    assert_eq!((row.progress, row.via.as_slice()), (Progress::Settled, [server(RESIDENT)].as_slice()));
    assert!(row.stripped.first().unwrap().contains("m.room.create"));
    assert_eq!(this.settle(&knock, KnockOutcome::Refused).await, Settled::Knocking);
}

#[actix::test]
async fn refused_knock_leaves_nothing_and_a_refused_repeat_leaves_the_first() {
    let this = Knocking::new().await;
    let knock = this.signed("please").await;
    this.begin(&knock).await.unwrap();
    assert_eq!(this.settle(&knock, KnockOutcome::Refused).await, Settled::Gone);
    assert_eq!((this.bob_is(), this.row()), (None, None));

    let (this, first) = Knocking::knocking().await;
    this.resident.clock.advance(Duration::from_hours(2));
    let second = this.signed("pretty please").await;
    this.begin(&second).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Knock));
    assert_eq!(this.settle(&second, KnockOutcome::Refused).await, Settled::Gone);
    assert_eq!(this.row().unwrap().event, first.event);
    assert_eq!(this.row().unwrap().progress, Progress::Settled);
}

#[actix::test]
async fn invite_that_comes_before_the_answer_to_the_knock_stands() {
    let this = Knocking::new().await;
    let knock = this.signed("please").await;
    this.begin(&knock).await.unwrap();
    let event = knock.event.to_object().unwrap();
    let signed = this.room.signed(event, BOB, HandshakeKind::Knock).into_knock().unwrap();
    this.resident.admit(&this.room, signed).await.unwrap();
    let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
    this.receive_invite(&invite).await.unwrap();
    assert_eq!(this.settle(&knock, this.taken().await).await, Settled::Overtaken);
    assert_eq!(this.bob_is(), Some(MembershipState::Invite));
    // The same invite again is the same invite; a knock by somebody invited is none.
    this.receive_invite(&invite).await.unwrap();
    assert_eq!(this.begin(&knock).await, Err(AskError::Refused(KnockElsewhereRefusal::AlreadyInvited)));
}

#[actix::test]
async fn invite_turns_a_knock_into_an_invite_and_keeps_whom_to_ask() {
    let (this, _) = Knocking::knocking().await;
    let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
    this.receive_invite(&invite).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Invite));
    let row = this.row().unwrap();
    assert_eq!((row.event.event_id(), row.via.as_slice()), (&*invite, [server(RESIDENT)].as_slice()));
    assert!(row.event.json().contains(PEER), "our signature is on it");
}

#[actix::test]
async fn retraction_counts_at_once_and_is_owed_to_the_server_that_took_the_knock() {
    let (this, knock) = Knocking::knocking().await;
    this.leave().await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Leave));
    let owed = this.peer.owed_to(RESIDENT);
    assert_eq!(owed.len(), 1);
    let row = owed.first().unwrap();
    assert_eq!(row.delivery, Delivery::Leave { user_id: user(BOB) });
    assert_eq!(row.event_id, knock.event.event_id());
    assert_eq!(this.row().unwrap().event.reason().as_deref(), Some("no more"));
    this.leave().await.unwrap();
    assert_eq!(this.peer.owed_to(RESIDENT).len(), 1);
    // Who has gone may knock again.
    this.resident.leave(&this.room, BOB).await;
    let again = this.signed("again").await;
    this.begin(&again).await.unwrap();
    assert_eq!(this.send(&again).await, Settled::Knocking);
    assert_eq!(this.bob_is(), Some(MembershipState::Knock));
}

#[actix::test]
async fn leave_that_is_not_taken_goes_to_each_server_that_is_known_of_the_room_and_to_no_sixth() {
    let this = Knocking::new().await;
    let mut knock = this.signed("please").await;
    knock.via = ["first.test", "second.test", PEER].map(server).to_vec();
    let shown = ["@a:shown.test", "@b:second.test", "@c:shown.test", "@d:fourth.test", "@e:sixth.test"];
    knock.stripped = shown.map(|sender| json!({ "sender": sender }).to_string()).to_vec();
    knock.progress = Progress::Settled;
    this.begin(&knock).await.unwrap();
    this.leave().await.unwrap();
    assert_eq!(this.hand_on(&knock, "stranger.test").await, None);
    let mut from = "first.test".to_owned();
    for next in ["second.test", "shown.test", "fourth.test", "sixth.test"] {
        assert_eq!(this.hand_on(&knock, &from).await, Some(server(next)));
        let owed = this.peer.owed_to(next);
        assert_eq!(owed.len(), 1);
        assert_eq!(owed.first().unwrap().delivery, Delivery::Leave { user_id: user(BOB) });
        from = next.to_owned();
    }
    assert_eq!(this.hand_on(&knock, &from).await, None, "the server in the room's id would be the sixth");
    assert_eq!(this.peer.owed_to("first.test").len(), 1, "what the first is owed stays");
}

#[actix::test]
async fn leave_goes_to_no_further_server_once_one_has_taken_it_or_the_user_is_something_else() {
    let knocking_through_two = async || {
        let this = Knocking::new().await;
        let knock = OutOfBand { via: ["first.test", RESIDENT].map(server).to_vec(), ..this.signed("please").await };
        this.begin(&knock).await.unwrap();
        let signed = this.room.signed(knock.event.to_object().unwrap(), BOB, HandshakeKind::Knock);
        this.resident.admit(&this.room, signed.into_knock().unwrap()).await.unwrap();
        (this, knock)
    };
    let (this, knock) = knocking_through_two().await;
    this.leave().await.unwrap();
    assert_eq!(this.hand_on(&knock, "first.test").await, Some(server(RESIDENT)));
    this.settle_leave(&knock).await;
    assert_eq!(this.hand_on(&knock, "first.test").await, None, "taken");

    let (this, knock) = knocking_through_two().await;
    assert_eq!(this.hand_on(&knock, "first.test").await, None, "still knocking");
    this.leave().await.unwrap();
    this.resident.clock.advance(std::time::Duration::from_hours(2));
    let again = OutOfBand { via: knock.via.clone(), ..this.signed("again").await };
    this.begin(&again).await.unwrap();
    assert_eq!(this.hand_on(&knock, "first.test").await, None, "knocking again");

    let (this, knock) = knocking_through_two().await;
    let denial = this.resident.change(&this.room, ALICE, Kick, BOB).await.unwrap();
    this.receive_answer(&denial, RESIDENT).await.unwrap();
    assert_eq!(this.hand_on(&knock, "first.test").await, None, "the room made the leave");
}

#[actix::test]
async fn nothing_to_leave_is_refused() {
    let this = Knocking::new().await;
    assert_eq!(this.leave().await, Err(AskError::Refused(MembershipRefusal::NotInRoom)));
    assert_eq!(this.bob_is(), None);
}

#[actix::test]
async fn retraction_while_the_knock_is_being_sent_overtakes_its_answer() {
    let this = Knocking::new().await;
    let knock = this.signed("please").await;
    this.begin(&knock).await.unwrap();
    this.leave().await.unwrap();
    assert_eq!(this.send(&knock).await, Settled::Overtaken);
    assert_eq!(this.bob_is(), Some(MembershipState::Leave));
    assert_eq!(this.peer.owed_to(RESIDENT).len(), 1);
}

#[actix::test]
async fn of_an_invite_and_a_leave_that_cross_the_one_that_cites_the_other_came_last() {
    let (this, knock) = Knocking::knocking().await;
    this.leave().await.unwrap();
    let settle = |leave: &OwnedEventId| SettleLeave {
        user_id: user(BOB),
        event_id: knock.event.event_id().to_owned(),
        leave: this.resident.stored(&this.room, leave).unwrap().event,
    };
    let ask = |message: SettleLeave| this.peer.rooms.ask_out_of_band(&this.room.room_id, &this.room.version, message);
    // The leave that took the knock back, and an invite that was made after it.
    let before = this.resident.leave(&this.room, BOB).await;
    let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
    this.receive_invite(&invite).await.unwrap();
    ask(settle(&before)).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Invite));
    // A leave that was made after the invite, which came here before the answer to it.
    let after = this.resident.leave(&this.room, BOB).await;
    ask(settle(&after)).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Leave));
    assert_eq!(this.row().unwrap().event.event_id(), after);
}

#[actix::test]
async fn invite_that_comes_after_the_leave_that_ended_it_changes_nothing() {
    let (this, knock) = Knocking::knocking().await;
    this.leave().await.unwrap();
    // By the clocks it is newer than what Bob's server made for him when he left, which the room never saw.
    this.resident.clock.advance(SECOND);
    let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
    this.settle_leave(&knock).await;
    this.receive_invite(&invite).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Leave));
    // One that was made after the leave counts.
    let second = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
    this.receive_invite(&second).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Invite));
}

#[actix::test]
async fn an_invite_and_a_leave_of_which_neither_cites_the_other_end_as_in_the_room() {
    for invite_comes_first in [true, false] {
        for invite_is_later in [true, false] {
            let (mut this, knock) = Knocking::knocking().await;
            this.leave().await.unwrap();
            // The template of the leave is asked for before the invite, and the leave comes after it.
            let mut template = this.resident.prepare_leave(&this.room, BOB).await.unwrap().event;
            let mut at = this.resident.clock.now();
            if invite_is_later {
                this.resident.clock.advance(SECOND);
            } else {
                at = at.plus(SECOND);
            }
            template.extend(canonical(json!({ "origin_server_ts": at.0 })));
            let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
            let leave = this.room.signed_leave(&template, BOB);
            let settle = SettleLeave {
                user_id: user(BOB),
                event_id: knock.event.event_id().to_owned(),
                leave: leave.pdu().clone(),
            };
            this.resident.admit_leave(&this.room, leave).await.unwrap();
            let settled = async |peer: &World| {
                peer.rooms.ask_out_of_band(&this.room.room_id, &this.room.version, settle.clone()).await.unwrap();
            };
            if invite_comes_first {
                this.receive_invite(&invite).await.unwrap();
                settled(&this.peer).await;
            } else {
                settled(&this.peer).await;
                // What was settled outlives the actor.
                this.peer = this.peer.restarted();
                this.receive_invite(&invite).await.unwrap();
            }
            let stands = this.resident.look(&this.room, |room| room.state().membership(&user(BOB))).await;
            assert_eq!(stands == MembershipState::Invite, invite_is_later);
            assert_eq!(this.bob_is(), Some(stands), "{invite_comes_first}, {invite_is_later}");
        }
    }
}

/// Found by `cargo xtask prove sim --seed 22`: one moderator banned who knocked while another invited them.
#[actix::test]
async fn a_ban_beside_an_invite_stands_here_as_it_does_in_the_room() {
    for invite_comes_first in [true, false] {
        let (mut this, knock) = Knocking::knocking().await;
        let ban =
            put_out_upon(&this.resident, &this.room, &knock.event.event_id().to_owned(), &MembershipState::Ban).await;
        let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
        let banned = async |peer: &World| {
            let answer = ReceiveAnswer { event: ban.clone(), origin: server(RESIDENT) };
            peer.rooms.ask_out_of_band(&this.room.room_id, &this.room.version, answer).await.unwrap();
        };
        if invite_comes_first {
            this.receive_invite(&invite).await.unwrap();
            this.peer = this.peer.restarted();
            banned(&this.peer).await;
        } else {
            banned(&this.peer).await;
            this.peer = this.peer.restarted();
            this.receive_invite(&invite).await.unwrap();
        }
        assert_eq!(this.bob_is(), Some(MembershipState::Ban), "{invite_comes_first}");
        // What is made upon the ban is another matter.
        let change = async |change| this.resident.change(&this.room, ALICE, change, BOB).await.unwrap();
        change(Ban).await;
        change(Unban).await;
        let invite = change(Invite).await;
        this.receive_invite(&invite).await.unwrap();
        assert_eq!(this.bob_is(), Some(MembershipState::Invite));
    }
}

/// Found by `cargo xtask prove sim --seed 183`: the server of the moderator who invited was down, and another one denied.
#[actix::test]
async fn a_denial_that_overtakes_the_invite_it_ends_is_kept_until_that_comes() {
    for (change, membership, action) in
        [(Kick, MembershipState::Leave, DecisionAction::Denied), (Ban, MembershipState::Ban, DecisionAction::Banned)]
    {
        let (mut this, _) = Knocking::knocking().await;
        let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
        let denial = this.resident.change(&this.room, ALICE, change, BOB).await.unwrap();
        let early = this.receive_answer(&denial, RESIDENT).await;
        assert_eq!(early, Err(AskError::Refused(ReceiveRefusal::Unsolicited)), "it says nothing of the knock");
        assert_eq!(this.bob_is(), Some(MembershipState::Knock));
        this.peer = this.peer.restarted();
        this.receive_invite(&invite).await.unwrap();
        assert_eq!(this.bob_is(), Some(membership));
        assert_eq!(this.peer.actions(BOB), [action]);
        assert_eq!(this.row().unwrap().event.event_id(), denial);
    }
}

/// Found by `cargo xtask prove sim --seed 57`: the knock stood in the room, and its own server said that Bob had left.
#[actix::test]
async fn room_that_comes_as_it_was_before_a_knock_does_not_end_the_knock() {
    // What Bob was to the room when Ben came: as the knock says, or what he was before that.
    for was in [MembershipState::Leave, MembershipState::Knock] {
        let this = Knocking::new().await;
        this.resident.knock(&this.room, BOB).await;
        this.resident.change(&this.room, ALICE, Invite, BEN).await.unwrap();
        let mut late = None;
        if was == MembershipState::Knock {
            late = Some(admitted(&this.resident, &this.peer, &this.room, BEN).await);
        }
        this.resident.leave(&this.room, BOB).await;
        let late = match late {
            Some(late) => late,
            None => admitted(&this.resident, &this.peer, &this.room, BEN).await,
        };
        let knock = this.signed("please").await;
        this.begin(&knock).await.unwrap();
        assert_eq!(this.send(&knock).await, Settled::Knocking);
        this.peer.rooms.import_join(&this.room.room_id, &this.room.version, late).await.unwrap();
        let said = this.peer.look(&this.room, |room| room.state().membership(&user(BOB))).await;
        assert_eq!(said, was, "what the room brought");
        assert_eq!(this.bob_is(), Some(MembershipState::Knock), "{was}");
        // When Ben has gone again, the denial comes to whoever waits outside.
        this.peer.change(&this.room, BEN, Leave, BEN).await.unwrap();
        let denial = this.resident.change(&this.room, ALICE, Kick, BOB).await.unwrap();
        this.receive_answer(&denial, RESIDENT).await.unwrap();
        assert_eq!(this.bob_is(), Some(MembershipState::Leave), "{was}");
    }
}

#[actix::test]
async fn denial_and_ban_reach_the_one_who_knocked() {
    for (change, membership, action) in
        [(Kick, MembershipState::Leave, DecisionAction::Denied), (Ban, MembershipState::Ban, DecisionAction::Banned)]
    {
        let (this, _) = Knocking::knocking().await;
        let denial = membership_change(ALICE, change, BOB, json!({ "reason": "not today" }));
        let denial = this.resident.rooms.ask(&this.room.room_id, denial).await.unwrap();
        assert_eq!(this.resident.owed_to(PEER).len(), 1);
        this.receive_answer(&denial, RESIDENT).await.unwrap();
        assert_eq!(this.bob_is(), Some(membership.clone()));
        assert_eq!(this.row().unwrap().event.reason().as_deref(), Some("not today"));
        assert_eq!(this.peer.actions(BOB), [action]);
        this.receive_answer(&denial, RESIDENT).await.unwrap();
        assert_eq!(this.peer.actions(BOB).len(), 1);
        // A later invite is still taken.
        if membership == MembershipState::Leave {
            let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
            this.receive_invite(&invite).await.unwrap();
            assert_eq!(this.bob_is(), Some(MembershipState::Invite));
        }
    }
}

#[actix::test]
async fn denial_from_a_server_that_was_not_asked_changes_nothing() {
    let (this, _) = Knocking::knocking().await;
    let denial = this.resident.change(&this.room, ALICE, Kick, BOB).await.unwrap();
    let unsolicited = Err(AskError::Refused(ReceiveRefusal::Unsolicited));
    assert_eq!(this.receive_answer(&denial, "evil.test").await, unsolicited);
    assert_eq!(this.bob_is(), Some(MembershipState::Knock));
    // An answer to somebody else's knock, and one to a knock that was not the pending one.
    this.resident.knock(&this.room, CAROL).await;
    let carols = this.resident.change(&this.room, ALICE, Kick, CAROL).await.unwrap();
    assert_eq!(this.receive_answer(&carols, RESIDENT).await, unsolicited);
    this.resident.clock.advance(Duration::from_hours(2));
    let second = this.signed("again").await;
    this.begin(&second).await.unwrap();
    assert_eq!(this.receive_answer(&denial, RESIDENT).await, unsolicited);
    assert_eq!(this.send(&second).await, Settled::Knocking);
}

#[actix::test]
async fn invite_that_is_delivered_once_more_after_it_was_taken_back_changes_nothing() {
    let (this, _) = Knocking::knocking().await;
    let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
    this.receive_invite(&invite).await.unwrap();
    let taken_back = this.resident.change(&this.room, ALICE, Kick, BOB).await.unwrap();
    this.receive_answer(&taken_back, RESIDENT).await.unwrap();
    this.receive_invite(&invite).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Leave));
    assert_eq!(this.row().unwrap().event.event_id(), taken_back);
}

#[actix::test]
async fn invite_that_is_taken_back_ends() {
    let this = Knocking::new().await;
    let invite = this.resident.change(&this.room, ALICE, Invite, BOB).await.unwrap();
    this.receive_invite(&invite).await.unwrap();
    let taken_back = this.resident.change(&this.room, ALICE, Kick, BOB).await.unwrap();
    this.receive_answer(&taken_back, RESIDENT).await.unwrap();
    assert_eq!(this.bob_is(), Some(MembershipState::Leave));
    assert!(this.peer.actions(BOB).is_empty());
}

#[actix::test]
async fn room_elsewhere_answers_nothing_else() {
    let (this, _) = Knocking::knocking().await;
    for world in [&this.peer, &this.peer.restarted()] {
        assert_eq!(world.send(&this.room, message(BOB, "hi")).await, Err(AskError::RoomNotHere));
        let invite = membership_change(BOB, Invite, CAROL, json!({}));
        assert_eq!(world.rooms.ask(&this.room.room_id, invite).await, Err(AskError::RoomNotHere));
        let knock = world.prepare(&this.room, CAROL).await;
        assert!(matches!(knock, Err(AskError::RoomNotHere)), "{knock:?}");
    }
    assert_eq!(read(this.peer.stores().rooms.rooms_stored()), 0);
}
