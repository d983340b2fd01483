//! Rooms with a policy server: what it signs goes on, what it refuses does not, and the room waits for neither.
//! May not: ask anybody; the policy server is played here.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::BoxFuture;
use ruma::{RoomVersionId, ServerName, events::room::member::MembershipState};
use serde_json::json;
use tokio::sync::Semaphore;
use vestibule_protocol::{
    fixture::{ALICE, BOB, CAROL},
    membership::{KnockRefusal, SendRefusal, change::MembershipChange::Invite},
    pdu::{Pdu, Standing},
    room_version::RoomVersion,
    signing::{Identity, SigningKey},
};

use super::elsewhere::join;
use crate::{
    AskError, PolicySigner, PolicyVerdict, Received,
    testing::{Settings, TestRoom, World, event, message, server, settle},
};

/// Whose server is the policy server, too.
const PEER: &str = "peer.test";

/// A policy server that minds a word.
struct Signer {
    asked: AtomicUsize,
    answers: Semaphore,
}

impl Signer {
    fn identity() -> Identity {
        Identity::new(server(PEER), SigningKey::from_seed("policy_server", &[7; 32]).unwrap())
    }
}

impl PolicySigner for Signer {
    fn sign<'a>(&'a self, via: &'a ServerName, event: &'a Pdu) -> BoxFuture<'a, PolicyVerdict> {
        Box::pin(async move {
            assert_eq!(via, PEER);
            self.asked.fetch_add(1, Ordering::SeqCst);
            let _turn = self.answers.acquire().await.unwrap();
            if event.json().contains("spam") {
                return PolicyVerdict::Refused("no spam here".to_owned());
            }
            let mut object = event.to_object().unwrap();
            object.remove("signatures");
            let version = RoomVersion::lookup(&RoomVersionId::V11).unwrap();
            Self::identity().hash_and_sign(&mut object, version.rules()).unwrap();
            PolicyVerdict::Signed(object.get("signatures").unwrap().as_object().unwrap().clone())
        })
    }
}

async fn guarded() -> (World, World, TestRoom, Arc<Signer>) {
    let signer = Arc::new(Signer { asked: AtomicUsize::new(0), answers: Semaphore::new(1) });
    let resident = World::with(Settings { policy_signer: Some(signer.clone()), ..Settings::default() });
    let peer = World::named(PEER);
    let room = resident.knockable(RoomVersionId::V11).await;
    resident.change(&room, ALICE, Invite, BOB).await.unwrap();
    join(&resident, &peer, &room, BOB).await;
    let key = Signer::identity().key().public_key_base64().to_string();
    let policy = json!({ "via": PEER, "public_keys": { "ed25519": key } });
    resident.set_state(&room, "m.room.policy", policy).await;
    assert_eq!(signer.asked.load(Ordering::SeqCst), 0, "the event that names it needs no signature");
    resident.deliver(&peer).await;
    (resident, peer, room, signer)
}

#[actix::test]
async fn our_events_go_out_with_its_signature_or_not_at_all() {
    let (resident, _, room, signer) = guarded().await;
    let sent = resident.send(&room, message(ALICE, "otters")).await.unwrap();
    assert_eq!(signer.asked.load(Ordering::SeqCst), 1);
    assert!(resident.stored(&room, &sent).unwrap().event.json().contains("ed25519:policy_server"));
    let events = resident.timeline(&room).len();
    let refused = resident.send(&room, message(ALICE, "spam")).await.unwrap_err();
    assert_eq!(refused, AskError::Refused(SendRefusal::NotAuthorized { reason: "no spam here".to_owned() }));
    assert_eq!(resident.timeline(&room).len(), events);
    // Without its policy server the room is as others are.
    resident.send(&room, event(ALICE, "m.room.policy", Some(""), json!({}))).await.unwrap();
    resident.send(&room, message(ALICE, "spam")).await.unwrap();
}

#[actix::test]
async fn room_goes_on_while_its_policy_server_thinks() {
    let (resident, _, room, signer) = guarded().await;
    let held = signer.answers.acquire().await.unwrap();
    let waiting = resident.send(&room, message(ALICE, "otters"));
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("nobody has signed"),
        () = settle() => {}
    }
    let template = resident.prepare(&room, CAROL).await;
    assert!(template.is_ok(), "{template:?}");
    drop(held);
    assert!(waiting.await.is_ok());
}

#[actix::test]
async fn knock_that_it_refuses_is_not_admitted() {
    let (resident, _, room, signer) = guarded().await;
    let template = resident.template(&room, CAROL).await;
    let refused = resident.admit(&room, room.signed_knock(&template, CAROL, "spam")).await.unwrap_err();
    assert_eq!(refused, AskError::Refused(KnockRefusal::NotAuthorized { reason: "no spam here".to_owned() }));
    assert_eq!(resident.membership(&room, CAROL), MembershipState::Leave);
    let knock = room.signed_knock(&template, CAROL, "please");
    let event_id = knock.pdu().event_id().to_owned();
    resident.admit(&room, knock).await.unwrap();
    let stored = resident.stored(&room, &event_id).unwrap();
    assert!(stored.event.json().contains("ed25519:policy_server"));
    // What it signed is signed: nobody is asked twice.
    let asked = signer.asked.load(Ordering::SeqCst);
    resident.admit(&room, room.signed_knock(&template, CAROL, "please")).await.unwrap();
    assert_eq!(signer.asked.load(Ordering::SeqCst), asked);
}

#[actix::test]
async fn received_event_that_it_refuses_is_shown_to_nobody() {
    let (resident, peer, room, _) = guarded().await;
    // Bob's server does not ask, though it should: it is the policy server itself.
    let good = peer.send(&room, message(BOB, "hello")).await.unwrap();
    let bad = peer.send(&room, message(BOB, "spam")).await.unwrap();
    assert_eq!(peer.deliver(&resident).await, [Ok(Received::Accepted), Ok(Received::SoftFailed)]);
    assert!(resident.stored(&room, &good).unwrap().event.json().contains("ed25519:policy_server"));
    let kept = resident.stored(&room, &bad).unwrap();
    assert_eq!((kept.event.standing(), kept.order), (Standing::SoftFailed, None));
}

#[actix::test]
async fn room_whose_policy_server_nobody_can_ask_takes_nothing_but_another_policy() {
    let (resident, _, room, _) = guarded().await;
    let alone = resident.restarted_with(Settings::default());
    let refused = alone.send(&room, message(ALICE, "otters")).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused(SendRefusal::NotAuthorized { .. })), "{refused:?}");
    alone.send(&room, event(ALICE, "m.room.policy", Some(""), json!({}))).await.unwrap();
    alone.send(&room, message(ALICE, "otters")).await.unwrap();
}
