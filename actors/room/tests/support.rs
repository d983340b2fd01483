//! Messages that look into a room's memory or break it.
//! May not: exist outside tests.

use ruma::events::room::member::MembershipState;
use vestibule_protocol::fixture::user;
use vestibule_storage::room::{DecisionAction, MemberCounts};

use super::super::{Lookups, Room, RoomMessage, Turn};
use crate::{
    AskError,
    testing::{TestRoom, World},
};

/// A user of our own server.
pub(crate) const DAVE: &str = "@dave:resident.test";

/// The join rules of a room that one enters by invite.
pub(crate) fn invite_rule() -> (&'static str, serde_json::Value) {
    ("m.room.join_rules", serde_json::json!({ "join_rule": "invite" }))
}

/// Asks the room's memory a question.
pub(crate) struct Look<T>(pub(crate) Box<dyn Fn(&mut Room) -> T + Send>);

impl<T: Send + 'static> RoomMessage for Look<T> {
    type Reply = T;
    type Refusal = ();
    const KIND: &'static str = "look";
    const CHANGES: bool = false;

    fn turn(&self, room: &mut Room, _: &Lookups) -> Turn<Self> {
        Turn::Answer((self.0)(room))
    }
}

/// A turn that panics.
pub(crate) struct Panic;

impl RoomMessage for Panic {
    type Reply = ();
    type Refusal = ();
    const KIND: &'static str = "panic";
    const CHANGES: bool = true;

    fn turn(&self, _: &mut Room, _: &Lookups) -> Turn<Self> {
        panic!("a test wants it so");
    }
}

/// What memory holds that storage must hold too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) members: Vec<(String, MembershipState)>,
    pub(crate) counts: MemberCounts,
    pub(crate) pending: usize,
    pub(crate) extremities: usize,
}

impl World {
    /// Asks the room's memory.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        room: &TestRoom,
        question: impl Fn(&mut Room) -> T + Send + 'static,
    ) -> T {
        let answer: Result<T, AskError<()>> = self.rooms.ask(&room.room_id, Look(Box::new(question))).await;
        answer.unwrap()
    }

    /// Members and counts as memory has them.
    pub(crate) async fn memory(&self, room: &TestRoom) -> Memory {
        self.look(room, |room| {
            let members = room.state().of_type(&ruma::events::StateEventType::RoomMember);
            Memory {
                members: members.map(|(user_id, event)| (user_id.to_owned(), event.membership().unwrap())).collect(),
                counts: room.counts,
                pending: room.pending.len(),
                extremities: room.graph.extremity_count(),
            }
        })
        .await
    }

    /// The actions of the audit rows about a user, oldest first.
    pub(crate) fn actions(&self, user_id: &str) -> Vec<DecisionAction> {
        let user_id = user(user_id);
        self.decisions().into_iter().filter(|row| row.user_id == user_id).map(|row| row.action).collect()
    }
}
