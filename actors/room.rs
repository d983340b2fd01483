//! The room actor: one message, one synchronous turn; its answer waits for the disk outside the turn.
//! May not: await inside a turn, know a rule (they are in `protocol`), or answer before what the turn saw is durable.
//!
//! Every message runs through `RoomActor::run`: reserve a writer slot, let the message decide and change memory, enqueue
//! the commit; then wait. So no message can get the order wrong. A turn that lacks something (an event in storage, a state
//! to resolve) changes nothing and says what it needs; the room fetches it from storage or the CPU pool, keeps its mailbox
//! shut meanwhile, and runs the turn anew.

pub mod abandon_knock;
pub mod add_history;
pub mod admit_join;
pub mod admit_knock;
pub mod admit_leave;
mod apply;
pub mod begin_join;
pub mod begin_knock;
pub mod change_membership;
pub(crate) mod check_door;
pub mod check_reader;
pub mod check_speakers;
pub mod create_room;
mod draft;
pub mod end_join;
pub mod expire_knock;
mod gather;
pub mod hand_on_leave;
pub mod import_join;
mod incoming;
pub mod leave_out_of_band;
mod load;
mod memory;
mod outliers;
mod policy;
pub mod prepare_join;
pub mod prepare_knock;
pub mod prepare_leave;
pub mod prepare_upgrade;
pub mod receive_across_gap;
pub mod receive_answer;
pub mod receive_invite;
pub mod receive_outliers;
pub mod receive_pdu;
pub mod send_event;
pub mod settle_knock;
pub mod settle_leave;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use actix::{
    Actor, ActorContext, ActorFutureExt, ActorStreamExt, AsyncContext, Context, Handler, Message,
    fut::{wrap_future, wrap_stream},
};
use arc_swap::ArcSwapOption;
use futures_util::stream;
use log::{error, warn};
use ruma::{OwnedEventId, OwnedUserId};
use tokio::sync::{mpsc, oneshot};
use vestibule_protocol::{clock::Clock, membership::knock::KnockPolicy, signing::Identity};
use vestibule_storage::{
    commit::{Commit, CommitError, Stores, Ticket, WriterSlot},
    error::StorageError,
    room::ClientTransaction,
};

pub(crate) use self::{
    apply::RoomChange,
    check_door::Door,
    gather::{Gathered, Lookups, Need},
    load::{LoadError, load},
    memory::{Residency, Room},
    policy::Unsigned,
};
use crate::{
    cpu_pool::CpuPool,
    gauges::{Gauges, KnockEvent, PathTotals, RoomFacts, RoomGauges},
    limits::KnockLimits,
    policy_signer::PolicySigner,
    registry::{AskError, Rooms},
    typing::Typing,
};

/// What all rooms share.
pub(crate) struct RoomContext {
    pub(crate) identity: Arc<Identity>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stores: Stores,
    pub(crate) policy: KnockPolicy,
    pub(crate) limits: Option<KnockLimits>,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) cpu: CpuPool,
    /// Asks rooms' policy servers; without one, rooms that have one take nothing new.
    pub(crate) policy_signer: Option<Arc<dyn PolicySigner>>,
    /// Who types; nobody does whose stay in the room has ended.
    pub(crate) typing: Typing,
    /// Keys the hash by which states are compared; drawn at random when the program starts.
    pub(crate) core_seed: u64,
}

/// What a turn came to.
pub enum Turn<M: RoomMessage> {
    /// An answer that changes nothing.
    Answer(M::Reply),
    /// A refusal; at most an audit row is written.
    Refuse(M::Refusal, Box<RoomChange>),
    /// Memory has changed; the answer goes out once the change is durable.
    Commit(Box<RoomChange>, M::Reply),
    /// Nothing has changed; the turn must run again with what it needs.
    Need(Need),
}

/// A message to a room. Its file holds the decision; the shell does the rest.
pub trait RoomMessage: Send + Sized + 'static {
    /// The answer.
    type Reply: Send + 'static;
    /// Why not.
    type Refusal: Send + 'static;
    /// Its name in the actor stats.
    const KIND: &'static str;
    /// Whether the turn may change the room, so that a writer slot is reserved first.
    const CHANGES: bool;

    /// Whether the message means something to a room that is not stored here: one in which local users have out-of-band
    /// memberships, or get one by this message.
    const OUT_OF_BAND: bool = false;

    /// Events that are looked up in storage before the message enters the mailbox.
    fn events_to_look_up(&self) -> Vec<OwnedEventId> {
        Vec::new()
    }

    /// A client transaction that is looked up in storage before the message enters the mailbox.
    fn transaction(&self) -> Option<&ClientTransaction> {
        None
    }

    /// Decides, and applies to memory. Runs at most [`TURNS_MAX`] times for one message, each time deciding anew.
    fn turn(&self, room: &mut Room, lookups: &Lookups) -> Turn<Self>;
}

/// Runs of one message's turn. Ours: looking up cited events, resolving the state before and the state after take three.
pub const TURNS_MAX: u32 = 8;

/// A message on its way, with where its answer goes.
pub(crate) struct Ask<M: RoomMessage> {
    pub(crate) message: M,
    pub(crate) lookups: Lookups,
    pub(crate) reply: oneshot::Sender<Answered<M>>,
    pub(crate) turns: u32,
}

/// What a message comes back with.
pub(crate) enum Answered<M: RoomMessage> {
    /// The answer.
    Done(Result<M::Reply, AskError<M::Refusal>>),
    /// Nothing has changed; the room's policy server must be asked, and then the room again.
    Unsigned { message: M, lookups: Box<Lookups>, unsigned: Box<Unsigned> },
}

impl<M: RoomMessage> Message for Ask<M> {
    type Result = ();
}

impl<M: RoomMessage> Ask<M> {
    fn fail(self, error: AskError<M::Refusal>) {
        // Whoever hung up does not want to know.
        let _ = self.reply.send(Answered::Done(Err(error)));
    }
}

/// Asks an idle actor to make room for others.
pub(crate) struct Passivate;

impl Message for Passivate {
    type Result = ();
}

/// The actor of one room: memory, the commits in flight, and who waits for them.
pub(crate) struct RoomActor {
    room: Room,
    context: Arc<RoomContext>,
    gauges: Arc<RoomGauges>,
    /// What is read without asking the room.
    door: Arc<ArcSwapOption<Door>>,
    rooms: Rooms,
    incarnation: u64,
    idle_timeout: Duration,
    /// The sequence number of the last commit enqueued.
    enqueued: u64,
    /// The sequence number of the last commit that is durable.
    durable: u64,
    waiting: VecDeque<Waiting>,
    /// Where commits go whose outcome is not known yet; [`Self::settle`] gets them back one by one, in this order.
    in_flight: mpsc::UnboundedSender<InFlight>,
    outcomes: Option<mpsc::UnboundedReceiver<InFlight>>,
    /// A turn panicked: memory may be half changed. What was enqueued before is whole and still becomes durable.
    is_poisoned: bool,
    is_discarded: bool,
}

/// A commit that is enqueued. There are never more than the writer has slots.
struct InFlight {
    sequence: u64,
    ticket: Ticket,
    news: News,
}

/// What is told once a commit is durable, and never if it fails.
struct News {
    happened: Vec<KnockEvent>,
    ended_stays: Vec<OwnedUserId>,
    paths: PathTotals,
    facts: RoomFacts,
    door: Option<Arc<Door>>,
}

/// An answer that waits for a commit.
struct Waiting {
    sequence: u64,
    answer: Box<dyn FnOnce(Result<(), CommitError>) + Send>,
}

impl RoomActor {
    pub(crate) fn new(
        room: Room,
        context: Arc<RoomContext>,
        gauges: Arc<RoomGauges>,
        door: Arc<ArcSwapOption<Door>>,
        rooms: Rooms,
        incarnation: u64,
        idle_timeout: Duration,
    ) -> Self {
        let (in_flight, outcomes) = mpsc::unbounded_channel();
        Self {
            room,
            context,
            gauges,
            door,
            rooms,
            incarnation,
            idle_timeout,
            enqueued: 0,
            durable: 0,
            waiting: VecDeque::new(),
            in_flight,
            outcomes: Some(outcomes),
            is_poisoned: false,
            is_discarded: false,
        }
    }

    /// The whole life of a message in the room.
    fn run<M: RoomMessage>(&mut self, mut ask: Ask<M>, slot: Option<WriterSlot>, context: &mut Context<Self>) {
        if self.is_poisoned || self.is_discarded {
            ask.fail(AskError::Failed);
            return;
        }
        if !M::OUT_OF_BAND && self.room.residency() == Residency::OutOfBand {
            ask.fail(AskError::RoomNotHere);
            return;
        }
        let slot = match (slot, M::CHANGES) {
            (None, true) => match self.context.stores.writer.reserve() {
                Ok(slot) => Some(slot),
                Err(refusal) => {
                    ask.fail(refusal.into());
                    return;
                }
            },
            (slot, _) => slot,
        };
        let began = self.context.clock.monotonic();
        let turn = catch_unwind(AssertUnwindSafe(|| ask.message.turn(&mut self.room, &ask.lookups)));
        let took = self.context.clock.monotonic().saturating_sub(began);
        self.gauges.handled(M::KIND, took, self.context.clock.now());
        match turn {
            Err(_) => {
                error!(room_id:% = self.room.room_id(), message = M::KIND; "turn panicked, room discarded");
                ask.fail(AskError::Failed);
                self.is_poisoned = true;
                self.discard_if_settled(context);
            }
            Ok(Turn::Answer(reply)) => self.answer_when_durable(ask.reply, Answered::Done(Ok(reply))),
            Ok(Turn::Refuse(refusal, change)) => {
                self.enqueue_if_any(*change, slot);
                self.answer_when_durable(ask.reply, Answered::Done(Err(AskError::Refused(refusal))));
            }
            Ok(Turn::Commit(change, reply)) => {
                self.enqueue_if_any(*change, slot);
                self.answer_when_durable(ask.reply, Answered::Done(Ok(reply)));
            }
            Ok(Turn::Need(Need::PolicySignature(unsigned))) => {
                let Ask { message, lookups, reply, .. } = ask;
                self.answer_when_durable(reply, Answered::Unsigned { message, lookups: Box::new(lookups), unsigned });
            }
            Ok(Turn::Need(need)) => {
                ask.turns = ask.turns.saturating_add(1);
                if ask.turns >= TURNS_MAX {
                    error!(room_id:% = self.room.room_id(), message = M::KIND; "turn never got what it needs");
                    ask.fail(AskError::Failed);
                    return;
                }
                let gathering = gather::gather(self.room.gathering_place(), self.context.clone(), need);
                let resume = wrap_future::<_, Self>(gathering).map(move |gathered, actor, context| {
                    actor.resume(ask, slot, gathered, context);
                });
                // Until then the mailbox stays shut: only this room's own messages wait.
                context.wait(resume);
            }
        }
    }

    fn resume<M: RoomMessage>(
        &mut self,
        mut ask: Ask<M>,
        slot: Option<WriterSlot>,
        gathered: Result<Gathered, StorageError>,
        context: &mut Context<Self>,
    ) {
        match gathered {
            Ok(gathered) => {
                self.room.take(gathered, &mut ask.lookups);
                self.run(ask, slot, context);
            }
            Err(error) => {
                error!(room_id:% = self.room.room_id(), error:%; "cannot gather what a turn needs");
                ask.fail(AskError::Storage(error.into()));
            }
        }
    }

    fn enqueue_if_any(&mut self, mut change: RoomChange, slot: Option<WriterSlot>) {
        let Some(slot) = slot else { return };
        if change.is_empty() {
            return;
        }
        self.enqueued = self.enqueued.saturating_add(1);
        let sequence = self.enqueued;
        let (happened, ended_stays) = change.take_news();
        let (paths, facts) = (self.room.take_path_totals(), self.room.facts());
        let origin = self.room.origin_of_commit();
        let door = self.room.door();
        let commit = change.into_commit(&self.room, self.incarnation, sequence, origin);
        let ticket = self.context.stores.writer.enqueue(slot, Commit::Room(Box::new(commit)));
        // The other end is gone only when the actor stops; then nobody waits.
        let _ = self.in_flight.send(InFlight {
            sequence,
            ticket,
            news: News { happened, ended_stays, paths, facts, door },
        });
    }

    /// Takes the outcome of a commit. They come in the order of the commits, so that a failure never overtakes a success:
    /// who is told that nothing was written may rely on it.
    fn settle(&mut self, sequence: u64, outcome: Result<News, CommitError>, context: &mut Context<Self>) {
        match outcome {
            Ok(News { happened, ended_stays, paths, facts, door }) => {
                for event in happened {
                    self.context.gauges.knock_happened(event);
                }
                for user_id in ended_stays {
                    self.context.typing.stop(self.room.room_id(), &user_id);
                }
                self.context.gauges.add_paths(paths);
                self.gauges.set_facts(facts);
                self.show_door(door);
                self.now_durable(sequence);
                if self.is_poisoned {
                    self.discard_if_settled(context);
                }
            }
            Err(error) => {
                warn!(room_id:% = self.room.room_id(), error:%; "commit failed, room discarded");
                self.fail_waiting(&error);
                self.discard(context);
            }
        }
    }

    /// Before whoever changed it is answered: who hears of a change finds it at the door.
    fn show_door(&self, door: Option<Arc<Door>>) {
        let shown = self.door.load();
        let is_same = match (&*shown, &door) {
            (Some(shown), Some(door)) => Arc::ptr_eq(shown, door),
            (shown, door) => shown.is_none() && door.is_none(),
        };
        if !is_same {
            self.door.store(door);
        }
    }

    /// After a panic: the next actor must not load the room before all that this one enqueued is written or refused.
    fn discard_if_settled(&mut self, context: &mut Context<Self>) {
        if self.durable == self.enqueued {
            self.discard(context);
        }
    }

    /// The one helper through which every answer goes: it leaves once all commits that the turn saw are durable.
    fn answer_when_durable<M: RoomMessage>(&mut self, reply: oneshot::Sender<Answered<M>>, answer: Answered<M>) {
        if self.durable == self.enqueued {
            let _ = reply.send(answer);
            return;
        }
        let answer = move |outcome: Result<(), CommitError>| {
            let _ = reply.send(match outcome {
                Ok(()) => answer,
                Err(error) => Answered::Done(Err(AskError::Storage(error))),
            });
        };
        self.waiting.push_back(Waiting { sequence: self.enqueued, answer: Box::new(answer) });
    }

    fn now_durable(&mut self, sequence: u64) {
        self.durable = self.durable.max(sequence);
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.sequence <= sequence) {
            (waiting.answer)(Ok(()));
        }
    }

    fn fail_waiting(&mut self, error: &CommitError) {
        for waiting in self.waiting.drain(..) {
            (waiting.answer)(Err(error.clone()));
        }
    }

    /// Throws the memory away: it holds what never became durable. The next message loads the room anew.
    fn discard(&mut self, context: &mut Context<Self>) {
        if self.is_discarded {
            return;
        }
        self.is_discarded = true;
        let unknown = StorageError::OutcomeUnknown { reason: "the room was discarded".to_owned() };
        self.fail_waiting(&CommitError::Storage(unknown));
        self.rooms.discarded(self.room.room_id(), self.incarnation);
        context.stop();
    }

    fn passivate_if_idle(&mut self, context: &mut Context<Self>) {
        let nothing_in_flight = self.durable == self.enqueued && self.waiting.is_empty();
        if nothing_in_flight && !self.is_discarded && self.rooms.passivated(self.room.room_id(), self.incarnation) {
            self.is_discarded = true;
            context.stop();
        }
    }
}

impl Actor for RoomActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if let Some(outcomes) = self.outcomes.take() {
            let outcomes = stream::unfold(outcomes, |mut outcomes| async move {
                let InFlight { sequence, ticket, news } = outcomes.recv().await?;
                let outcome = ticket.await.map(|_| news);
                Some(((sequence, outcome), outcomes))
            });
            let settling = wrap_stream::<_, Self>(outcomes).map(|(sequence, outcome), actor, context| {
                actor.settle(sequence, outcome, context);
            });
            context.spawn(settling.finish());
        }
        let half = self.idle_timeout.checked_div(2).unwrap_or(self.idle_timeout).max(Duration::from_millis(10));
        context.run_interval(half, |actor, context| {
            let idle = actor.context.clock.now().since(actor.gauges.last_active());
            if idle >= actor.idle_timeout {
                actor.passivate_if_idle(context);
            }
        });
    }
}

impl<M: RoomMessage> Handler<Ask<M>> for RoomActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<M>, context: &mut Context<Self>) {
        self.gauges.left();
        if ask.reply.is_closed() {
            // The caller hung up before the turn started: nothing happens.
            return;
        }
        self.run(ask, None, context);
    }
}

impl Handler<Passivate> for RoomActor {
    type Result = ();

    fn handle(&mut self, _: Passivate, context: &mut Context<Self>) {
        self.passivate_if_idle(context);
    }
}
