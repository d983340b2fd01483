//! Two servers in one thread: a room that one of them hosts, and what the other makes of it.
//! May not: bring a network; what one owes the other is handed over by hand.

use std::{sync::Arc, time::Duration};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, RoomId, RoomVersionId, UserId,
    events::{
        TimelineEventType,
        room::{member::MembershipState, power_levels::UserPowerLevel},
    },
};
use serde_json::json;
use vestibule_protocol::{
    fixture::{ALICE, BOB, CAROL, EVE, canonical, identity, user},
    membership::{
        ImportRefusal, InviteRefusal, JoinRefusal, KnockRefusal, LeaveRefusal, ReceiveRefusal,
        change::MembershipChange::{Ban, Invite, Join, Kick, Knock, Leave},
        handshake::HandshakeKind,
    },
    pdu::{Pdu, Standing, checks::VerifiedPdu, event_builder::EventDraft},
    room_graph::StateBefore,
};
use vestibule_storage::{outbox::Delivery, room::Progress};

use super::{out_of_band::cosigned, support::DAVE};
use crate::{
    AddHistory, AdmitJoin, AskError, JoinAnswer, LeaveOutOfBand, PrepareJoin, ReceiveAcrossGap, ReceiveAnswer,
    ReceiveInvite, ReceiveOutliers, ReceivePdu, Received, StateAcross,
    room::TURNS_MAX,
    testing::{RESIDENT, TestRoom, World, event, message, put, read, server, verified},
};

/// Bob's server, which is a world of its own here.
pub(super) const PEER: &str = "peer.test";
/// Another user of Bob's server.
pub(super) const BEN: &str = "@ben:peer.test";

/// Bob's server joins a room of ours, through all of the handshake; what it then has.
pub(super) async fn join(resident: &World, peer: &World, room: &TestRoom, user_id: &str) -> Arc<Pdu> {
    let answer = admitted(resident, peer, room, user_id).await;
    let join = answer.join.clone();
    peer.rooms.import_join(&room.room_id, &room.version, answer).await.unwrap();
    join
}

fn join_request(peer: &World, room: &TestRoom, user_id: &str) -> PrepareJoin {
    PrepareJoin {
        user_id: user(user_id),
        origin: peer.server_name().to_owned(),
        offered: vec![room.version.id().clone()],
        authorised_via: None,
    }
}

/// The same as far as the answer of the server that let the user in.
pub(super) async fn admitted(resident: &World, peer: &World, room: &TestRoom, user_id: &str) -> JoinAnswer {
    let template = resident.rooms.ask(&room.room_id, join_request(peer, room, user_id)).await.unwrap().event;
    let join = room.signed(template, user_id, HandshakeKind::Join).into_join().unwrap();
    let admitted = resident.rooms.ask(&room.room_id, AdmitJoin { join }).await.unwrap();
    let state = read(resident.stores().rooms.state_at(&room.room_id, admitted.state_before)).unwrap();
    let state: Vec<Arc<Pdu>> = state.values().map(|id| stored(resident, room, id)).collect();
    let mut auth_chain: Vec<Arc<Pdu>> = Vec::new();
    let mut to_visit: Vec<OwnedEventId> = state.iter().flat_map(|event| event.auth_events().to_vec()).collect();
    while let Some(id) = to_visit.pop() {
        if auth_chain.iter().all(|event| event.event_id() != id) {
            let event = stored(resident, room, &id);
            to_visit.extend(event.auth_events().to_vec());
            auth_chain.push(event);
        }
    }
    JoinAnswer { join: admitted.event, state, auth_chain }
}

fn stored(world: &World, room: &TestRoom, event_id: &OwnedEventId) -> Arc<Pdu> {
    world.stored(room, event_id).unwrap().event
}

fn timeline(world: &World, room: &TestRoom) -> Vec<OwnedEventId> {
    world.timeline(room).iter().map(|stored| stored.event.event_id().to_owned()).collect()
}

fn state_of(world: &World, room_id: &RoomId) -> Vec<(String, String, String)> {
    let state = read(world.stores().rooms.current_state(room_id));
    state
        .iter()
        .map(|stored| &stored.event)
        .map(|event| (event.kind().to_string(), event.state_key().unwrap().to_owned(), event.event_id().to_string()))
        .collect()
}

async fn invited(version_id: RoomVersionId) -> (World, World, TestRoom) {
    let (resident, peer) = (World::new(), World::named(PEER));
    let room = resident.knockable(version_id).await;
    resident.change(&room, ALICE, Invite, BOB).await.unwrap();
    (resident, peer, room)
}

fn deliveries(world: &World) -> Vec<(Delivery, OwnedEventId)> {
    world.owed_to(PEER).into_iter().map(|row| (row.delivery, row.event_id)).collect()
}

#[actix::test]
async fn joined_room_is_the_same_on_both_servers_and_both_write_in_it() {
    for version_id in [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let (resident, peer, room) = invited(version_id).await;
        join(&resident, &peer, &room, BOB).await;
        assert_eq!(state_of(&peer, &room.room_id), state_of(&resident, &room.room_id));
        // The invite was owed; the join is not, since its own server brought it.
        assert_eq!(deliveries(&resident).len(), 1);
        resident.deliver(&peer).await;
        let hello = resident.send(&room, message(ALICE, "hello")).await.unwrap();
        let answer = peer.send(&room, message(BOB, "hello yourself")).await.unwrap();
        assert_eq!(resident.deliver(&peer).await, [Ok(Received::Accepted)]);
        assert_eq!(peer.deliver(&resident).await, [Ok(Received::Accepted)]);
        for world in [&resident, &peer, &peer.restarted()] {
            assert!(world.stored(&room, &hello).unwrap().order.is_some());
            assert!(world.stored(&room, &answer).unwrap().order.is_some());
        }
        resident.set_state(&room, "m.room.topic", json!({ "topic": "otters" })).await;
        resident.deliver(&peer).await;
        assert_eq!(state_of(&peer, &room.room_id), state_of(&resident, &room.room_id));
        assert_eq!(state_of(&peer.restarted(), &room.room_id), state_of(&resident, &room.room_id));
    }
}

#[actix::test]
async fn received_event_is_passed_on_to_nobody_and_a_handed_one_to_all_others() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    peer.send(&room, message(BOB, "hi")).await.unwrap();
    peer.deliver(&resident).await;
    assert!(resident.owed_to(PEER).is_empty());
    let knock = resident.knock(&room, CAROL).await;
    assert_eq!(deliveries(&resident), [(Delivery::Transaction, knock)]);
    assert!(resident.owed_to("third.test").is_empty());
}

#[actix::test]
async fn answers_to_somebody_outside_are_owed_to_that_somebodys_server() {
    let resident = World::new();
    let room = resident.knockable(RoomVersionId::V11).await;
    resident.knock(&room, BOB).await;
    assert!(resident.owed_to(PEER).is_empty());
    let denial = resident.change(&room, ALICE, Kick, BOB).await.unwrap();
    assert_eq!(deliveries(&resident), [(Delivery::Transaction, denial.clone())]);
    let second = resident.template(&room, BEN).await;
    resident.admit(&room, room.signed_knock(&second, BEN, "me too")).await.unwrap();
    let invite = resident.change(&room, ALICE, Invite, BEN).await.unwrap();
    let ban = resident.change(&room, ALICE, Ban, BOB).await.unwrap();
    // Bob's knock was over, so the ban tells his server nothing that it has a part in.
    assert_eq!(deliveries(&resident), [(Delivery::Transaction, denial), (Delivery::Invite, invite)]);
    assert!(resident.stored(&room, &ban).is_some());
    assert_eq!(deliveries(&resident.restarted()).len(), 2);
}

#[actix::test]
async fn room_of_our_own_users_alone_owes_nobody_anything() {
    let resident = World::new();
    let room = resident.knockable(RoomVersionId::V12).await;
    resident.change(&room, ALICE, Invite, DAVE).await.unwrap();
    resident.change(&room, DAVE, Join, DAVE).await.unwrap();
    resident.send(&room, message(ALICE, "hello")).await.unwrap();
    assert!(read(resident.stores().outbox.destinations(None, 10)).is_empty());
}

#[actix::test]
async fn second_user_of_a_server_that_is_in_the_room_is_no_second_import() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    let bobs = join(&resident, &peer, &room, BOB).await;
    let again = JoinAnswer { join: bobs, state: Vec::new(), auth_chain: Vec::new() };
    let refused = peer.rooms.import_join(&room.room_id, &room.version, again).await;
    assert_eq!(refused, Err(AskError::Refused(ImportRefusal::NoCreateEvent)));
    peer.change(&room, BOB, Invite, BEN).await.unwrap();
    peer.change(&room, BEN, Join, BEN).await.unwrap();
    resident.deliver(&peer).await;
    peer.deliver(&resident).await;
    assert_eq!(resident.membership(&room, BEN), MembershipState::Join);
    assert_eq!(state_of(&peer, &room.room_id), state_of(&resident, &room.room_id));
}

#[actix::test]
async fn knocks_that_come_or_go_with_a_state_count_as_pending_and_as_nothing_else() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    resident.knock(&room, EVE).await;
    resident.knock(&room, CAROL).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let pending = |world: &World| {
        let knocks = world.totals().knocks;
        (knocks.pending, knocks.admitted, knocks.denied)
    };
    assert_eq!(pending(&peer), (2, 0, 0));
    resident.change(&room, ALICE, Kick, EVE).await.unwrap();
    resident.deliver(&peer).await;
    assert_eq!(pending(&peer), (1, 0, 1));
    peer.change(&room, BOB, Leave, BOB).await.unwrap();
    peer.deliver(&resident).await;
    resident.change(&room, ALICE, Kick, CAROL).await.unwrap();
    resident.change(&room, ALICE, Invite, BOB).await.unwrap();
    join(&resident, &peer, &room, BOB).await;
    assert_eq!(pending(&peer), (0, 0, 1));
}

#[actix::test]
async fn room_that_everybody_of_ours_left_is_joined_anew() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.set_state(&room, "m.room.name", json!({ "name": "otters" })).await;
    resident.deliver(&peer).await;
    peer.change(&room, BOB, Leave, BOB).await.unwrap();
    peer.deliver(&resident).await;
    let refused = peer.change(&room, BOB, Join, BOB).await.unwrap_err();
    assert_eq!(refused, AskError::Refused(vestibule_protocol::membership::MembershipRefusal::NotResident));
    let seen = timeline(&peer, &room);
    resident.set_state(&room, "m.room.topic", json!({ "topic": "meanwhile" })).await;
    resident.change(&room, ALICE, Invite, BOB).await.unwrap();
    let rejoin = join(&resident, &peer, &room, BOB).await;
    for world in [&peer, &peer.restarted()] {
        // What was seen in the earlier stay is still there, what came in the state has no place.
        let expected: Vec<OwnedEventId> = seen.iter().cloned().chain([rejoin.event_id().to_owned()]).collect();
        assert_eq!(timeline(world, &room), expected);
        assert_eq!(state_of(world, &room.room_id), state_of(&resident, &room.room_id));
        assert_eq!(world.membership(&room, BOB), MembershipState::Join);
        assert_eq!(world.memory(&room).await.counts.join, 2);
        assert_eq!(world.memory(&room).await.extremities, 1);
    }
}

#[actix::test]
async fn who_still_waits_when_the_last_of_ours_leaves_hears_the_answer_from_outside() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    peer.change(&room, BEN, Knock, BEN).await.unwrap();
    peer.deliver(&resident).await;
    resident.change(&room, ALICE, Invite, "@bea:peer.test").await.unwrap();
    resident.deliver(&peer).await;
    let standing = |world: &World, user_id: &str| {
        let row = read(world.stores().rooms.out_of_band_of(&user(user_id), &room.room_id));
        row.map(|row| (row.membership, row.progress, row.via))
    };
    assert_eq!(standing(&peer, BEN), None, "the room itself says so");
    peer.change(&room, BOB, Leave, BOB).await.unwrap();
    peer.deliver(&resident).await;
    let waits = |membership| Some((membership, Progress::Settled, vec![server(RESIDENT)]));
    for world in [&peer, &peer.restarted()] {
        assert_eq!(standing(world, BEN), waits(MembershipState::Knock));
        assert_eq!(standing(world, "@bea:peer.test"), waits(MembershipState::Invite));
        assert_eq!(standing(world, BOB), None);
    }
    // It can be answered from there, and taken back from here.
    let denied = resident.change(&room, ALICE, Kick, BEN).await.unwrap();
    let event = resident.verified(&room.room_id, &denied);
    let answer = ReceiveAnswer { event, origin: server(RESIDENT) };
    peer.rooms.ask_out_of_band(&room.room_id, &room.version, answer).await.unwrap();
    assert_eq!(standing(&peer, BEN), waits(MembershipState::Leave));
    let left = LeaveOutOfBand { user_id: user("@bea:peer.test"), content: CanonicalJsonObject::new() };
    peer.rooms.ask_out_of_band(&room.room_id, &room.version, left).await.unwrap();
    assert_eq!(standing(&peer, "@bea:peer.test"), waits(MembershipState::Leave));
}

#[actix::test]
async fn who_comes_back_to_a_room_finds_those_in_it_who_waited_outside() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    peer.change(&room, BEN, Knock, BEN).await.unwrap();
    peer.change(&room, BOB, Leave, BOB).await.unwrap();
    peer.deliver(&resident).await;
    let outside = |world: &World| read(world.stores().rooms.out_of_band_of(&user(BEN), &room.room_id));
    assert!(outside(&peer).is_some());
    resident.change(&room, ALICE, Invite, BOB).await.unwrap();
    join(&resident, &peer, &room, BOB).await;
    assert_eq!(outside(&peer), None);
    assert_eq!(peer.membership(&room, BEN), MembershipState::Knock);
}

#[actix::test]
async fn join_is_refused_where_a_server_may_not_come_or_nobody_invited() {
    let resident = World::new();
    let room = resident.knockable(RoomVersionId::V11).await;
    let prepare = |origin: &str, versions: Vec<RoomVersionId>| PrepareJoin {
        user_id: user(BOB),
        origin: server(origin),
        offered: versions,
        authorised_via: None,
    };
    let not_invited = resident.rooms.ask(&room.room_id, prepare(PEER, vec![RoomVersionId::V11])).await.unwrap_err();
    assert!(matches!(not_invited, AskError::Refused(JoinRefusal::NotAuthorized { .. })), "{not_invited:?}");
    let wrong_version = resident.rooms.ask(&room.room_id, prepare(PEER, vec![RoomVersionId::V1])).await.unwrap_err();
    let room_version = RoomVersionId::V11;
    assert_eq!(wrong_version, AskError::Refused(JoinRefusal::VersionNotOffered { room_version }));
    resident.set_state(&room, "m.room.server_acl", json!({ "allow": ["*"], "deny": [PEER] })).await;
    let denied = resident.rooms.ask(&room.room_id, prepare(PEER, vec![RoomVersionId::V11])).await.unwrap_err();
    assert_eq!(denied, AskError::Refused(JoinRefusal::ServerDenied));
}

/// An event that a server without scruples makes: placed where its room's graph is, whatever the rules say.
async fn made_by(
    peer: &World,
    room: &TestRoom,
    sender: &str,
    kind: &str,
    key: Option<&str>,
    content: CanonicalJsonObject,
) -> CanonicalJsonObject {
    let (prev_events, auth_events) = {
        let sender = user(sender);
        peer.look(room, move |room| {
            let state = room.state();
            let auth: Vec<OwnedEventId> = [state.create().filter(|_| !room.version().room_id_is_create_hash())]
                .into_iter()
                .flatten()
                .chain(state.get(&ruma::events::StateEventType::RoomPowerLevels, ""))
                .chain(state.member(&sender))
                .map(|event| event.event_id().to_owned())
                .collect();
            (room.graph.cite(&[]).0, auth)
        })
        .await
    };
    let draft = EventDraft {
        kind: TimelineEventType::from(kind),
        state_key: key.map(ToOwned::to_owned),
        sender: user(sender),
        content,
        redacts: None,
    };
    let place = vestibule_protocol::pdu::event_builder::GraphPlace {
        room_id: Some(room.room_id.clone()),
        prev_events,
        auth_events,
        depth: 50,
        origin_server_ts: vestibule_protocol::fixture::EPOCH,
    };
    let sender_server = UserId::parse(sender).unwrap().server_name().to_owned();
    draft.build(&place, &room.version, &identity(&sender_server)).unwrap().to_object().unwrap()
}

#[actix::test]
async fn what_the_rules_forbid_is_set_aside_and_what_follows_it_is_judged_by_itself() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let before = state_of(&resident, &room.room_id);
    // Bob may not set the topic.
    let topic = made_by(&peer, &room, BOB, "m.room.topic", Some(""), canonical(json!({ "topic": "mine" }))).await;
    let topic = verified(topic, &room.version);
    let topic_id = topic.pdu().event_id().to_owned();
    let received = resident.rooms.ask(&room.room_id, ReceivePdu { event: topic, origin: server(PEER) }).await.unwrap();
    assert!(matches!(received, Received::Rejected { .. }), "{received:?}");
    let kept = resident.stored(&room, &topic_id).unwrap();
    assert_eq!((kept.event.standing(), kept.order), (Standing::Rejected, None));
    // A message after it is as good as any.
    let mut text = made_by(&peer, &room, BOB, "m.room.message", None, canonical(json!({ "body": "hi" }))).await;
    for key in ["hashes", "signatures"] {
        text.remove(key);
    }
    put(&mut text, "prev_events", json!([topic_id]));
    identity(&server(PEER)).hash_and_sign(&mut text, room.version.rules()).unwrap();
    for world in [&resident.restarted(), &resident] {
        let event = verified(text.clone(), &room.version);
        let received = world.rooms.ask(&room.room_id, ReceivePdu { event, origin: server(PEER) }).await;
        assert_eq!(received, Ok(Received::Accepted));
        assert_eq!(state_of(world, &room.room_id), before);
    }
    let event = verified(text, &room.version);
    let again = resident.rooms.ask(&room.room_id, ReceivePdu { event, origin: server(PEER) }).await;
    assert_eq!(again, Ok(Received::Known));
}

#[actix::test]
async fn message_of_somebody_banned_meanwhile_is_kept_and_shown_to_nobody() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let text = peer.send(&room, message(BOB, "too late")).await.unwrap();
    resident.change(&room, ALICE, Ban, BOB).await.unwrap();
    assert_eq!(peer.deliver(&resident).await, [Ok(Received::SoftFailed)]);
    let kept = resident.stored(&room, &text).unwrap();
    assert_eq!((kept.event.standing(), kept.order), (Standing::SoftFailed, None));
    assert_eq!(resident.memory(&room).await.extremities, 1);
}

#[actix::test]
async fn event_after_unknown_ones_names_what_is_missing() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let first = peer.send(&room, message(BOB, "one")).await.unwrap();
    let second = peer.send(&room, message(BOB, "two")).await.unwrap();
    let receive = |id: &OwnedEventId| ReceivePdu { event: peer.verified(&room.room_id, id), origin: server(PEER) };
    let missing = resident.rooms.ask(&room.room_id, receive(&second)).await.unwrap_err();
    assert_eq!(missing, AskError::Refused(ReceiveRefusal::MissingEvents { event_ids: vec![first.clone()] }));
    assert_eq!(resident.rooms.ask(&room.room_id, receive(&first)).await, Ok(Received::Accepted));
    assert_eq!(resident.rooms.ask(&room.room_id, receive(&second)).await, Ok(Received::Accepted));
}

#[actix::test]
async fn server_that_is_denied_or_a_room_without_us_takes_nothing() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    peer.send(&room, message(BOB, "one")).await.unwrap();
    resident.set_state(&room, "m.room.server_acl", json!({ "allow": ["*"], "deny": [PEER] })).await;
    assert_eq!(peer.deliver(&resident).await, [Err(AskError::Refused(ReceiveRefusal::ServerDenied))]);
    assert_eq!(resident.server_name(), RESIDENT);
    resident.change(&room, ALICE, Leave, ALICE).await.unwrap();
    let text = peer.send(&room, message(BOB, "two")).await.unwrap();
    let event = peer.verified(&room.room_id, &text);
    let refused = resident.rooms.ask(&room.room_id, ReceivePdu { event, origin: server(PEER) }).await;
    assert_eq!(refused, Err(AskError::Refused(ReceiveRefusal::ServerNotInRoom)));
}

#[actix::test]
async fn redaction_from_elsewhere_takes_content_away_if_its_sender_may() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let text = peer.send(&room, message(BOB, "oops")).await.unwrap();
    peer.deliver(&resident).await;
    let mut redaction = event(BOB, "m.room.redaction", None, json!({}));
    redaction.redacts = Some(text.clone());
    peer.send(&room, redaction).await.unwrap();
    peer.deliver(&resident).await;
    assert_eq!(stored(&resident, &room, &text).content().get(), "{}");
}

#[actix::test]
async fn redaction_that_comes_before_what_it_redacts_waits_for_it() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    // Both upon the same events, so that neither must come first.
    let texts = ["mine", "hers"].map(|body| canonical(json!({ "body": body })));
    let mine = made_by(&peer, &room, BOB, "m.room.message", None, texts[0].clone()).await;
    let hers = made_by(&resident, &room, ALICE, "m.room.message", None, texts[1].clone()).await;
    let mine = verified(mine, &room.version);
    let hers = verified(hers, &room.version);
    for event in [mine, hers] {
        let (event_id, sender) = (event.pdu().event_id().to_owned(), event.pdu().sender().to_owned());
        let redaction = canonical(json!({ "redacts": event_id }));
        let redaction = made_by(&peer, &room, BOB, "m.room.redaction", None, redaction).await;
        for event in [verified(redaction, &room.version), event] {
            let received = resident.rooms.ask(&room.room_id, ReceivePdu { event, origin: server(PEER) }).await;
            assert_eq!(received, Ok(Received::Accepted));
        }
        for world in [&resident, &resident.restarted()] {
            let kept = world.stored(&room, &event_id).unwrap();
            // Bob may take back what he said, not what Alice did.
            assert_eq!(kept.redacted_by.is_some(), sender == BOB);
            assert_eq!(kept.event.content().get() == "{}", sender == BOB);
        }
    }
}

#[actix::test]
async fn what_was_rejected_stays_rejected_when_its_author_redacts_it() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let levels = canonical(json!({ "users": { BOB: 100 } }));
    let levels = made_by(&peer, &room, BOB, "m.room.power_levels", Some(""), levels).await;
    let levels = verified(levels, &room.version);
    let levels_id = levels.pdu().event_id().to_owned();
    let redaction = canonical(json!({ "redacts": levels_id }));
    let redaction = verified(made_by(&peer, &room, BOB, "m.room.redaction", None, redaction).await, &room.version);
    let mut received = Vec::new();
    for event in [levels, redaction] {
        received.push(resident.rooms.ask(&room.room_id, ReceivePdu { event, origin: server(PEER) }).await.unwrap());
    }
    assert!(matches!(received[..], [Received::Rejected { .. }, Received::Accepted]), "{received:?}");
    for world in [&resident, &resident.restarted()] {
        let kept = world.stored(&room, &levels_id).unwrap();
        assert_eq!((kept.event.standing(), kept.redacted_by.is_some()), (Standing::Rejected, true));
    }
    // So it is part of no state, be it only of one that an event stands on.
    let before = resident.look(&room, move |room| match room.graph.state_before(std::slice::from_ref(&levels_id)) {
        StateBefore::Known(node) => node.state().power_of(&user(BOB), room.version()),
        other => panic!("{other:?}"),
    });
    assert_eq!(before.await, UserPowerLevel::from(ruma::Int::from(0)));
}

#[actix::test]
async fn what_was_set_aside_is_no_success_when_it_comes_to_the_door() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    let knocked = room.signed_knock(&resident.template(&room, EVE).await, EVE, "");
    resident.change(&room, ALICE, Invite, CAROL).await.unwrap();
    let leave = resident.prepare_leave(&room, CAROL).await.unwrap().event;
    for banned in [EVE, CAROL] {
        resident.change(&room, ALICE, Ban, banned).await.unwrap();
    }
    let left = room.signed_leave(&leave, CAROL);
    for event in [knocked.pdu(), left.pdu()] {
        let event = verified(event.to_object().unwrap(), &room.version);
        let received = resident.rooms.ask(&room.room_id, ReceivePdu { event, origin: server(PEER) }).await;
        assert_eq!(received, Ok(Received::SoftFailed));
    }
    assert_eq!(resident.admit(&room, knocked).await.unwrap_err(), AskError::Refused(KnockRefusal::Banned));
    let refused = resident.admit_leave(&room, left).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused(LeaveRefusal::NotAuthorized { .. })), "{refused:?}");
    for user_id in [EVE, CAROL] {
        assert_eq!(resident.membership(&room, user_id), MembershipState::Ban);
    }
}

#[actix::test]
async fn event_behind_a_gap_is_judged_by_the_state_that_its_server_tells() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let topic = resident.set_state(&room, "m.room.topic", json!({ "topic": "otters" })).await;
    let text = resident.send(&room, message(ALICE, "after the topic")).await.unwrap();
    let origin = || server(RESIDENT);
    let event = || resident.verified(&room.room_id, &text);
    let missing = peer.rooms.ask(&room.room_id, ReceivePdu { event: event(), origin: origin() }).await.unwrap_err();
    assert_eq!(missing, AskError::Refused(ReceiveRefusal::MissingEvents { event_ids: vec![topic.clone()] }));
    let state = read(resident.stores().rooms.current_state(&room.room_id));
    let state: Vec<OwnedEventId> = state.iter().map(|stored| stored.event.event_id().to_owned()).collect();
    let across = |state: Vec<OwnedEventId>| ReceiveAcrossGap {
        event: event(),
        origin: origin(),
        state: StateAcross::Told(state),
    };
    // What is not stored cannot be believed.
    let unknown = peer.rooms.ask(&room.room_id, across(state.clone())).await.unwrap_err();
    assert_eq!(unknown, AskError::Refused(ReceiveRefusal::MissingEvents { event_ids: vec![topic.clone()] }));
    let outlier = ReceiveOutliers { events: vec![resident.verified(&room.room_id, &topic)] };
    peer.rooms.ask(&room.room_id, outlier).await.unwrap();
    assert_ne!(state_of(&peer, &room.room_id), state_of(&resident, &room.room_id));
    let without_create: Vec<OwnedEventId> = state
        .iter()
        .filter(|id| stored(&resident, &room, id).kind() != &TimelineEventType::RoomCreate)
        .cloned()
        .collect();
    assert!(peer.rooms.ask(&room.room_id, across(without_create)).await.is_err());
    assert_eq!(peer.rooms.ask(&room.room_id, across(state.clone())).await, Ok(Received::Accepted));
    assert_eq!(peer.rooms.ask(&room.room_id, across(state)).await, Ok(Received::Known));
    for world in [&peer, &peer.restarted()] {
        assert_eq!(state_of(world, &room.room_id), state_of(&resident, &room.room_id));
        assert!(world.stored(&room, &text).unwrap().order.is_some());
        assert_eq!(world.stored(&room, &topic).unwrap().order, None);
    }
    // The topic itself may come later; then it gets its place.
    let event = resident.verified(&room.room_id, &topic);
    assert_eq!(peer.rooms.ask(&room.room_id, ReceivePdu { event, origin: origin() }).await, Ok(Received::Accepted));
    assert!(peer.stored(&room, &topic).unwrap().order.is_some());
    assert_eq!(state_of(&peer, &room.room_id), state_of(&resident, &room.room_id));
}

#[actix::test]
async fn who_is_put_out_behind_a_gap_is_out_though_nobody_tells_what_was_before() {
    for (change, membership) in [(Kick, MembershipState::Leave), (Ban, MembershipState::Ban)] {
        let (resident, peer, room) = invited(RoomVersionId::V11).await;
        join(&resident, &peer, &room, BOB).await;
        resident.deliver(&peer).await;
        let text = resident.send(&room, message(ALICE, "you will never read this")).await.unwrap();
        let text_behind = resident.send(&room, message(ALICE, "nor this")).await.unwrap();
        let ending = resident.change(&room, ALICE, change, BOB).await.unwrap();
        let across = |event_id: &OwnedEventId| ReceiveAcrossGap {
            event: resident.verified(&room.room_id, event_id),
            origin: server(RESIDENT),
            state: StateAcross::NotTold,
        };
        // Nothing else is taken like this.
        let missing = peer.rooms.ask(&room.room_id, across(&text_behind)).await.unwrap_err();
        assert_eq!(missing, AskError::Refused(ReceiveRefusal::MissingEvents { event_ids: vec![text] }));
        assert_eq!(peer.membership(&room, BOB), MembershipState::Join);
        assert_eq!(peer.rooms.ask(&room.room_id, across(&ending)).await, Ok(Received::Accepted));
        for world in [&peer, &peer.restarted()] {
            assert_eq!(world.membership(&room, BOB), membership);
        }
    }
}

/// Found by `cargo xtask prove sim --seed 16`: the moderator's server had not heard of the join, and told nobody there anything.
#[actix::test]
async fn who_is_banned_beside_their_own_join_is_out_though_nobody_tells_what_was_before() {
    let (resident, peer) = (World::new(), World::named(PEER));
    let room = resident.knockable(RoomVersionId::V11).await;
    // More earlier memberships than a turn may run anew.
    let mut ends = Vec::new();
    for _ in 0..TURNS_MAX {
        resident.knock(&room, BOB).await;
        ends.push(resident.change(&room, ALICE, Kick, BOB).await.unwrap());
        resident.clock.advance(Duration::from_hours(2));
    }
    let overcome = ends.remove(0);
    let knock = resident.knock(&room, BOB).await;
    resident.change(&room, ALICE, Invite, BOB).await.unwrap();
    join(&resident, &peer, &room, BOB).await;
    let across = |event: VerifiedPdu| {
        let message = ReceiveAcrossGap { event, origin: server(RESIDENT), state: StateAcross::NotTold };
        peer.rooms.ask(&room.room_id, message)
    };
    let refused = across(resident.verified(&room.room_id, &overcome)).await;
    assert!(matches!(refused, Err(AskError::Refused(ReceiveRefusal::MissingEvents { .. }))), "{refused:?}");
    assert_eq!(peer.membership(&room, BOB), MembershipState::Join);
    // Beside a kick the invite stands that was made upon the same knock, and so does the join; beside a ban it does not.
    let kick = put_out_upon(&resident, &room, &knock, &MembershipState::Leave).await;
    let refused = across(kick).await;
    assert!(matches!(refused, Err(AskError::Refused(ReceiveRefusal::MissingEvents { .. }))), "{refused:?}");
    assert_eq!(peer.membership(&room, BOB), MembershipState::Join);
    let ban = put_out_upon(&resident, &room, &knock, &MembershipState::Ban).await;
    assert_eq!(across(ban).await, Ok(Received::Accepted));
    for world in [&peer, &peer.restarted()] {
        assert_eq!(world.membership(&room, BOB), MembershipState::Ban);
    }
}

/// Found by `cargo xtask prove sim --seed 345`: Bob was banned before he was ever there, and then let in by a server that had not
/// heard of it.
#[actix::test]
async fn the_server_of_who_came_in_past_a_ban_is_told_of_it_once_more() {
    let (resident, peer) = (World::new(), World::named(PEER));
    let rules = vec![("m.room.join_rules", json!({ "join_rule": "public" }))];
    let room = resident.room_with(RoomVersionId::V11, "public", rules).await;
    let template = resident.rooms.ask(&room.room_id, join_request(&peer, &room, BOB)).await.unwrap().event;
    let join = room.signed(template, BOB, HandshakeKind::Join).into_join().unwrap();
    let ban = resident.change(&room, ALICE, Ban, BOB).await.unwrap();
    assert_eq!(deliveries(&resident), [], "Bob's server has nothing to do with the room");
    let event = verified(join.pdu().to_object().unwrap(), &room.version);
    let received = resident.rooms.ask(&room.room_id, ReceivePdu { event, origin: server(PEER) }).await;
    assert_eq!(received, Ok(Received::SoftFailed));
    assert_eq!(deliveries(&resident), [(Delivery::Transaction, ban)]);
}

/// A leave or ban by Alice upon an earlier membership of Bob's, made beside what came of that since, after something that nobody
/// has.
pub(super) async fn put_out_upon(
    resident: &World,
    room: &TestRoom,
    membership: &OwnedEventId,
    how: &MembershipState,
) -> VerifiedPdu {
    let content = canonical(json!({ "membership": how }));
    let mut ban = made_by(resident, room, ALICE, "m.room.member", Some(BOB), content).await;
    for key in ["hashes", "signatures"] {
        ban.remove(key);
    }
    let mut cited = ban["auth_events"].as_array().unwrap().to_vec();
    cited.push(CanonicalJsonValue::String(membership.to_string()));
    ban.insert("auth_events".to_owned(), CanonicalJsonValue::Array(cited));
    put(&mut ban, "prev_events", json!([format!("${}", "u".repeat(43))]));
    identity(&server(RESIDENT)).hash_and_sign(&mut ban, room.version.rules()).unwrap();
    verified(ban, &room.version)
}

#[actix::test]
async fn who_was_invited_past_the_room_stays_invited_when_the_last_of_ours_leaves() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    peer.change(&room, BEN, Knock, BEN).await.unwrap();
    peer.deliver(&resident).await;
    let invite = resident.change(&room, ALICE, Invite, BEN).await.unwrap();
    let invite = cosigned(&resident, &room, &invite);
    let message = ReceiveInvite { invite, room_version: RoomVersionId::V11, stripped: Vec::new() };
    peer.rooms.ask_out_of_band(&room.room_id, &room.version, message).await.unwrap();
    peer.change(&room, BOB, Leave, BOB).await.unwrap();
    for world in [&peer, &peer.restarted()] {
        let row = read(world.stores().rooms.out_of_band_of(&user(BEN), &room.room_id)).unwrap();
        assert_eq!(row.membership, MembershipState::Invite);
    }
}

/// Found by `cargo xtask prove sim --seed 40`: the inviting server never heard our answer, asked again, and took back what Bob
/// had followed.
#[actix::test]
async fn invite_that_comes_once_more_after_its_user_joined_is_taken_as_before() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    let invite = resident.look(&room, |room| room.state().member(&user(BOB)).cloned()).await.unwrap();
    join(&resident, &peer, &room, BOB).await;
    let receive = |event_id: &OwnedEventId| {
        let invite = cosigned(&resident, &room, event_id);
        let message = ReceiveInvite { invite, room_version: RoomVersionId::V11, stripped: Vec::new() };
        peer.rooms.ask_out_of_band(&room.room_id, &room.version, message)
    };
    receive(&invite.event_id().to_owned()).await.unwrap();
    assert_eq!(peer.membership(&room, BOB), MembershipState::Join);
    assert_eq!(read(peer.stores().rooms.out_of_band_of(&user(BOB), &room.room_id)), None);
    resident.change(&room, ALICE, Kick, BOB).await.unwrap();
    let another = resident.change(&room, ALICE, Invite, BOB).await.unwrap();
    assert_eq!(receive(&another).await, Err(AskError::Refused(InviteRefusal::AlreadyJoined)));
}

#[actix::test]
async fn outlier_that_its_auth_events_do_not_allow_is_kept_as_rejected() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let topic = made_by(&peer, &room, BOB, "m.room.topic", Some(""), canonical(json!({ "topic": "mine" }))).await;
    let topic = verified(topic, &room.version);
    let topic_id = topic.pdu().event_id().to_owned();
    resident.rooms.ask(&room.room_id, ReceiveOutliers { events: vec![topic] }).await.unwrap();
    assert_eq!(resident.stored(&room, &topic_id).unwrap().event.standing(), Standing::Rejected);
}

#[actix::test]
async fn history_that_was_redacted_since_or_in_it_comes_in_empty() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    let mut ids = Vec::new();
    for body in ["since", "in it", "never"] {
        ids.push(resident.send(&room, message(ALICE, body)).await.unwrap());
    }
    // What another server hands out need not be what it was told to empty.
    let as_they_were: Vec<VerifiedPdu> = ids.iter().map(|id| resident.verified(&room.room_id, id)).collect();
    let redact = async |target: &OwnedEventId| {
        let mut redaction = event(ALICE, "m.room.redaction", None, json!({}));
        redaction.redacts = Some(target.clone());
        resident.send(&room, redaction).await.unwrap()
    };
    let in_it = redact(&ids[1]).await;
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    redact(&ids[0]).await;
    resident.deliver(&peer).await;
    let first = peer.timeline(&room).first().unwrap().event.clone();
    let others = timeline(&resident, &room).into_iter().filter(|id| !ids.contains(id));
    let events = others.map(|id| resident.verified(&room.room_id, &id)).chain(as_they_were).collect();
    let history = AddHistory { before: first.event_id().to_owned(), events };
    peer.rooms.ask(&room.room_id, history).await.unwrap();
    for world in [&peer, &peer.restarted()] {
        let is_empty = |id: &OwnedEventId| world.stored(&room, id).unwrap().event.content().get() == "{}";
        assert_eq!([&ids[0], &ids[1], &ids[2]].map(is_empty), [true, true, false]);
        assert_eq!(world.stored(&room, &ids[1]).unwrap().redacted_by, Some(in_it.clone()));
    }
}

#[actix::test]
async fn history_goes_before_the_timeline_and_only_what_leads_there() {
    let (resident, peer, room) = invited(RoomVersionId::V11).await;
    let old = resident.send(&room, message(ALICE, "before your time")).await.unwrap();
    join(&resident, &peer, &room, BOB).await;
    resident.deliver(&peer).await;
    let first = peer.timeline(&room).first().unwrap().event.clone();
    let all = timeline(&resident, &room);
    let history = |ids: &[OwnedEventId]| AddHistory {
        before: first.event_id().to_owned(),
        events: ids.iter().map(|id| resident.verified(&room.room_id, id)).collect(),
    };
    // Without the one between, nothing leads to the rest.
    let rest: Vec<OwnedEventId> = all.iter().filter(|id| **id != old).cloned().collect();
    assert_eq!(peer.rooms.ask(&room.room_id, history(&rest)).await, Ok(0));
    let before = state_of(&peer, &room.room_id);
    assert_eq!(peer.rooms.ask(&room.room_id, history(&all)).await, Ok(all.len() - 1));
    assert_eq!(peer.rooms.ask(&room.room_id, history(&all)).await, Ok(0));
    for world in [&peer, &peer.restarted()] {
        assert_eq!(timeline(world, &room), all);
        assert_eq!(state_of(world, &room.room_id), before);
        assert!(world.stored(&room, &old).unwrap().order.unwrap().0 <= 0);
        // What a user of ours was back then is history too, and changes nothing now.
        let bobs = read(world.stores().rooms.membership_history(&user(BOB), &room.room_id));
        let memberships: Vec<MembershipState> = bobs.into_iter().map(|(_, membership)| membership).collect();
        assert_eq!(memberships, [MembershipState::Invite, MembershipState::Join]);
        assert_eq!(world.membership(&room, BOB), MembershipState::Join);
    }
    // Nobody stands on it: the state there is not known.
    let text = resident.send(&room, message(ALICE, "new")).await.unwrap();
    resident.deliver(&peer).await;
    assert_eq!(peer.timeline(&room).last().unwrap().event.event_id(), text);
}
