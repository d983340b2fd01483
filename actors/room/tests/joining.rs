//! Joins of our users through other servers that have begun: how long they are kept, and that nothing else changes by them.
//! May not: bring a network; what the resident server answers is handed over by hand.

use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::json;
use vestibule_protocol::{
    clock::Clock,
    fixture::{ALICE, BOB, canonical, user},
    membership::{
        ImportRefusal,
        change::MembershipChange::{Ban, Invite, Kick},
        handshake::HandshakeKind,
    },
};
use vestibule_storage::room::{OutOfBand, OutOfBandRow, Progress};

use super::{
    elsewhere::{BEN, PEER, admitted, join},
    out_of_band::cosigned,
};
use crate::{
    AdmitJoin, AskError, BeginJoin, EndJoin, LeaveOutOfBand, PrepareJoin, ReceiveAnswer, ReceiveInvite, RoomMessage,
    testing::{RESIDENT, TestRoom, World, read, server},
};

/// A room of the resident's, and Bob's server, which is the one under test.
struct Joining {
    resident: World,
    peer: World,
    room: TestRoom,
}

impl Joining {
    async fn new() -> Self {
        let resident = World::new();
        let rules = vec![("m.room.join_rules", json!({ "join_rule": "public" }))];
        let room = resident.room_with(RoomVersionId::V11, "public", rules).await;
        Self { resident, peer: World::named(PEER), room }
    }

    async fn ask<M: RoomMessage<Refusal: std::fmt::Debug>>(&self, message: M) -> M::Reply {
        let asked = self.peer.rooms.ask_out_of_band(&self.room.room_id, &self.room.version, message).await;
        asked.map_err(|error| format!("{error:?}")).unwrap()
    }

    /// A join is signed and written down; nothing is sent.
    async fn begin(&self, user_id: &str) -> OutOfBand {
        let request = PrepareJoin {
            user_id: user(user_id),
            origin: server(PEER),
            offered: vec![self.room.version.id().clone()],
            authorised_via: None,
        };
        let template = self.resident.rooms.ask(&self.room.room_id, request).await.unwrap().event;
        let signed = self.room.signed(template, user_id, HandshakeKind::Join).into_join().unwrap();
        let join = OutOfBand {
            room_version: self.room.version.id().clone(),
            membership: MembershipState::Join,
            progress: Progress::Asking,
            event: signed.pdu().clone(),
            stripped: Vec::new(),
            via: vec![server(RESIDENT)],
            since: self.peer.clock.now(),
            knock: None,
            joins: Vec::new(),
            early: None,
        };
        self.ask(BeginJoin { user_id: user(user_id), join: join.clone() }).await;
        join
    }

    /// Joins that have not ended, the same now and after a restart.
    fn begun(&self) -> Vec<OutOfBandRow> {
        let of = |world: &World| read(world.stores().rooms.joining(None, None, 10));
        let now = of(&self.peer);
        assert_eq!(of(&self.peer.restarted()), now);
        now
    }

    /// What a user's sync goes by.
    fn shown(&self, user_id: &str) -> (Option<MembershipState>, Option<MembershipState>) {
        let rooms = self.peer.stores().rooms;
        let membership = read(rooms.membership(&user(user_id), &self.room.room_id));
        let row = read(rooms.out_of_band_of(&user(user_id), &self.room.room_id));
        (membership.map(|row| row.membership), row.map(|row| row.membership))
    }

    async fn invite(&self) {
        let invite = self.resident.change(&self.room, ALICE, Invite, BOB).await.unwrap();
        let invite = cosigned(&self.resident, &self.room, &invite);
        self.ask(ReceiveInvite { invite, room_version: RoomVersionId::V11, stripped: Vec::new() }).await;
    }
}

#[actix::test]
async fn join_that_has_begun_is_kept_and_shown_to_nobody_until_it_ends() {
    let this = Joining::new().await;
    let join = this.begin(BOB).await;
    assert_eq!(this.begun().pop().unwrap().out_of_band, join);
    assert_eq!(this.shown(BOB), (None, None));
    this.begin(BOB).await;
    this.ask(EndJoin { user_id: user(BEN) }).await;
    assert_eq!(this.begun().len(), 1);
    this.ask(EndJoin { user_id: user(BOB) }).await;
    assert_eq!((this.begun(), this.shown(BOB)), (Vec::new(), (None, None)));
}

#[actix::test]
async fn invite_stands_while_its_join_is_under_way_and_after_the_join_was_refused() {
    let this = Joining::new().await;
    this.invite().await;
    let invited = (Some(MembershipState::Invite), Some(MembershipState::Invite));
    this.begin(BOB).await;
    assert_eq!(this.shown(BOB), invited);
    this.ask(EndJoin { user_id: user(BOB) }).await;
    assert_eq!((this.begun(), this.shown(BOB)), (Vec::new(), invited));
}

#[actix::test]
async fn the_commit_that_brings_the_room_ends_the_joins_of_those_who_are_in_it() {
    let this = Joining::new().await;
    this.invite().await;
    this.begin(BOB).await;
    this.begin(BEN).await;
    // Ben's join got there, its answer did not get here; Bob's brings the room, with Ben in it.
    let lost = World::named(PEER);
    join(&this.resident, &lost, &this.room, BEN).await;
    join(&this.resident, &this.peer, &this.room, BOB).await;
    assert_eq!(this.begun(), []);
    assert_eq!(this.shown(BOB), (Some(MembershipState::Join), None));
    assert_eq!(this.shown(BEN), (Some(MembershipState::Join), None));
    // To be in the room already is nothing to write down.
    this.begin(BOB).await;
    assert_eq!(this.begun(), []);
}

#[actix::test]
async fn join_that_another_start_finds_ends_with_the_room_too() {
    let mut this = Joining::new().await;
    this.begin(BOB).await;
    this.peer = this.peer.restarted();
    join(&this.resident, &this.peer, &this.room, BOB).await;
    assert_eq!((this.begun(), this.shown(BOB)), (Vec::new(), (Some(MembershipState::Join), None)));
}

#[actix::test]
async fn who_declines_the_invite_meanwhile_has_no_join_left_to_go_on_with() {
    let this = Joining::new().await;
    this.invite().await;
    this.begin(BOB).await;
    this.ask(LeaveOutOfBand { user_id: user(BOB), content: canonical(json!({})) }).await;
    assert_eq!(this.begun(), []);
    assert_eq!(this.shown(BOB), (Some(MembershipState::Leave), Some(MembershipState::Leave)));
    assert_eq!(this.peer.owed_to(RESIDENT).len(), 1, "the resident may have taken the join, and hears of the leave");
}

/// Found by `cargo xtask prove sim --seed 282`: the answer to a join came after the user had left through another server.
#[actix::test]
async fn a_join_that_its_user_went_back_on_brings_no_room() {
    let this = Joining::new().await;
    this.invite().await;
    this.begin(BOB).await;
    let late = admitted(&this.resident, &this.peer, &this.room, BOB).await;
    this.ask(LeaveOutOfBand { user_id: user(BOB), content: canonical(json!({})) }).await;
    let import = |answer| this.peer.rooms.import_join(&this.room.room_id, &this.room.version, answer);
    assert_eq!(import(late.clone()).await, Err(AskError::Refused(ImportRefusal::Left)));
    assert_eq!(this.shown(BOB), (Some(MembershipState::Leave), Some(MembershipState::Leave)));
    // Who changes their mind once more is in.
    this.begin(BOB).await;
    import(late).await.unwrap();
    assert_eq!(this.shown(BOB).0, Some(MembershipState::Join));
}

/// Found by `cargo xtask prove sim --seed 314`: the room had taken the join, its answer was lost, and Bob was banned.
#[actix::test]
async fn whoever_is_put_out_of_a_join_that_was_never_answered_is_out() {
    for (change, membership) in [(Kick, MembershipState::Leave), (Ban, MembershipState::Ban)] {
        let mut this = Joining::new().await;
        this.invite().await;
        let join = this.begin(BOB).await;
        let event = join.event.to_object().unwrap();
        let signed = this.room.signed(event, BOB, HandshakeKind::Join).into_join().unwrap();
        this.resident.rooms.ask(&this.room.room_id, AdmitJoin { join: signed }).await.unwrap();
        this.peer = this.peer.restarted();
        let answer = this.resident.change(&this.room, ALICE, change, BOB).await.unwrap();
        let event = this.resident.verified(&this.room.room_id, &answer);
        this.ask(ReceiveAnswer { event, origin: server(RESIDENT) }).await;
        assert_eq!(this.begun(), []);
        assert_eq!(this.shown(BOB), (Some(membership.clone()), Some(membership)));
    }
}
