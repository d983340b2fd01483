//! Any order of knocks, answers and reloads leaves one membership for each user, the same in memory, storage and a model.
//! May not: use the program's own rules as the model.

use std::{collections::BTreeMap, time::Duration};

use ruma::{RoomVersionId, events::room::member::MembershipState};
use vestibule_protocol::{
    fixture::ALICE,
    membership::{
        change::MembershipChange::{Ban, Invite, Kick, Unban},
        knock::KnockPolicy,
    },
};

use super::support::Panic;
use crate::{
    AskError,
    testing::{Settings, TestRoom, World},
};

const SEEDS: u64 = 24;
const STEPS: usize = 60;
const USERS: [&str; 5] = ["@a:one.test", "@b:one.test", "@c:two.test", "@d:three.test", "@e:four.test"];

/// SplitMix64: enough randomness for orders, the same everywhere.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Knock,
    Retract,
    Invite,
    Kick,
    Ban,
    Unban,
}

const STEP_KINDS: [Step; 8] =
    [Step::Knock, Step::Knock, Step::Knock, Step::Retract, Step::Invite, Step::Kick, Step::Ban, Step::Unban];

/// The whole of the rules, as a person would say them. `None`: refused, nothing changes.
fn model(membership: &MembershipState, step: Step) -> Option<MembershipState> {
    use MembershipState as Is;
    match (step, membership) {
        (Step::Knock, Is::Leave | Is::Knock) => Some(Is::Knock),
        (Step::Retract | Step::Kick, Is::Knock | Is::Invite) => Some(Is::Leave),
        (Step::Invite, Is::Leave | Is::Knock | Is::Invite) => Some(Is::Invite),
        (Step::Ban, _) => Some(Is::Ban),
        (Step::Unban, Is::Ban) => Some(Is::Leave),
        _ => None,
    }
}

async fn perform(world: &World, room: &TestRoom, step: Step, user_id: &str) -> bool {
    match step {
        Step::Knock => match world.prepare(room, user_id).await {
            Ok(template) => world.admit(room, room.signed_knock(&template.event, user_id, "")).await.is_ok(),
            Err(AskError::Refused(_)) => false,
            Err(error) => panic!("{error:?}"),
        },
        Step::Retract => match world.prepare_leave(room, user_id).await {
            Ok(template) => world.admit_leave(room, room.signed_leave(&template.event, user_id)).await.is_ok(),
            Err(AskError::Refused(_)) => false,
            Err(error) => panic!("{error:?}"),
        },
        Step::Invite => world.change(room, ALICE, Invite, user_id).await.is_ok(),
        Step::Kick => world.change(room, ALICE, Kick, user_id).await.is_ok(),
        Step::Ban => world.change(room, ALICE, Ban, user_id).await.is_ok(),
        Step::Unban => world.change(room, ALICE, Unban, user_id).await.is_ok(),
    }
}

async fn compare(world: &World, room: &TestRoom, model: &BTreeMap<&str, MembershipState>, place: &str) {
    let memory = world.memory(room).await;
    let in_memory: BTreeMap<_, _> = memory.members.iter().cloned().collect();
    for (user_id, membership) in model {
        assert_eq!(world.membership(room, user_id), *membership, "{user_id} in storage, {place}");
        let held = in_memory.get(*user_id).cloned().unwrap_or(MembershipState::Leave);
        assert_eq!(held, *membership, "{user_id} in memory, {place}");
    }
    let knocking: Vec<&str> =
        model.iter().filter(|(_, membership)| **membership == MembershipState::Knock).map(|(id, _)| *id).collect();
    let pending: Vec<String> = world.pending(room).iter().map(|row| row.user_id.to_string()).collect();
    assert_eq!(pending, knocking, "{place}");
    assert_eq!(memory.pending, knocking.len(), "{place}");
    assert_eq!(memory.counts.knock, u64::try_from(knocking.len()).unwrap(), "{place}");
}

fn settings() -> Settings {
    let policy = KnockPolicy { repeat_after: Duration::ZERO, ..Settings::default().policy };
    Settings { policy, ..Settings::default() }
}

#[actix::test]
async fn any_order_gives_the_membership_of_the_model() {
    for seed in 0..SEEDS {
        let mut draws = Draws(seed);
        let versions = [RoomVersionId::V7, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];
        let mut world = World::with(settings());
        let room = world.knockable(versions[draws.below(versions.len())].clone()).await;
        let mut expected: BTreeMap<&str, MembershipState> =
            USERS.iter().map(|user_id| (*user_id, MembershipState::Leave)).collect();
        for number in 0..STEPS {
            let step = STEP_KINDS[draws.below(STEP_KINDS.len())];
            let user_id = USERS[draws.below(USERS.len())];
            let place = format!("seed {seed}, step {number}: {step:?} {user_id} ({})", expected[user_id]);
            world.clock.advance(Duration::from_secs(1));
            let succeeded = perform(&world, &room, step, user_id).await;
            let next = model(&expected[user_id], step);
            assert_eq!(succeeded, next.is_some(), "{place}");
            if let Some(next) = next {
                expected.insert(user_id, next);
            }
            match draws.below(12) {
                0 => world = world.restarted(),
                1 => assert_eq!(world.rooms.ask(&room.room_id, Panic).await, Err(AskError::Failed)),
                _ => {}
            }
            compare(&world, &room, &expected, &place).await;
        }
    }
}

/// Old templates make forks whose resolution may hold other surprises than the model knows; but whatever it is, memory
/// and storage agree on it, and nobody whom the room has banned, invited or let in becomes one who knocks.
#[actix::test]
async fn any_order_with_old_templates_keeps_memory_and_storage_together() {
    for seed in 100..100 + SEEDS {
        let mut draws = Draws(seed);
        let mut world = World::with(settings());
        let room = world.knockable(RoomVersionId::V12).await;
        let mut templates = vec![world.template(&room, USERS[0]).await];
        for number in 0..STEPS {
            let step = STEP_KINDS[draws.below(STEP_KINDS.len())];
            let user_id = USERS[draws.below(USERS.len())];
            let before = world.membership(&room, user_id);
            let place = format!("seed {seed}, step {number}: {step:?} {user_id} ({before})");
            world.clock.advance(Duration::from_secs(1));
            if matches!(step, Step::Knock) {
                let template = templates[draws.below(templates.len())].clone();
                let knock = room.signed_knock(&template, user_id, &format!("{number}"));
                let answer = world.admit(&room, knock).await;
                assert!(matches!(answer, Ok(_) | Err(AskError::Refused(_))), "{place}: {answer:?}");
                let may_knock = matches!(before, MembershipState::Leave | MembershipState::Knock);
                assert!(may_knock || answer.is_err(), "{place}");
            } else {
                perform(&world, &room, step, user_id).await;
            }
            if draws.below(6) == 0 {
                templates.push(world.template(&room, "@asks:one.test").await);
            }
            if draws.below(12) == 0 {
                world = world.restarted();
            }
            let memory = world.memory(&room).await;
            let stored: BTreeMap<&str, MembershipState> =
                USERS.iter().map(|user_id| (*user_id, world.membership(&room, user_id))).collect();
            compare(&world, &room, &stored, &place).await;
            assert_eq!(world.restarted().memory(&room).await, memory, "{place}");
        }
    }
}
