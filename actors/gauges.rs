//! What the actors count: read by the stats endpoint and the metrics without asking any actor.
//! May not: take a lock that a room's turn could wait for while a reader holds it longer than a copy.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use ruma::{OwnedRoomId, RoomId, RoomVersionId};
use vestibule_protocol::clock::UnixMillis;
use vestibule_storage::room::MemberCounts;

/// A number that threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; never below zero.
    pub fn sub(&self) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count.saturating_sub(1)));
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Another number.
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }
}

/// What happened to a knock; counted once it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnockEvent {
    /// Admitted, new.
    Admitted,
    /// Admitted, in the place of an older one of the same user.
    Repeated,
    /// Taken back.
    Retracted,
    /// Let in.
    Accepted,
    /// Turned away or banned.
    Denied,
    /// Came pending, with the state of a room that we joined.
    Found,
    /// Is not in that state any more; nobody told us how it ended.
    Lost,
}

/// Counters of all rooms, and the gauges of the live ones.
#[derive(Debug, Default)]
pub struct Gauges {
    started: Count,
    passivated: Count,
    restarted: Count,
    rooms_created: Count,
    knocks_prepared: Count,
    knocks_admitted: Count,
    knocks_retracted: Count,
    knocks_accepted: Count,
    knocks_denied: Count,
    knocks_pending: Count,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    paths: Mutex<PathTotals>,
    live: Mutex<BTreeMap<OwnedRoomId, Arc<RoomGauges>>>,
    quarantined: Mutex<BTreeMap<OwnedRoomId, UnixMillis>>,
}

/// How current states were decided, over all rooms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathTotals {
    /// The event cited all extremities.
    pub linear: u64,
    /// Union of plain knocks.
    pub short: u64,
    /// The full algorithm.
    pub full: u64,
}

/// A copy of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Actors that live now.
    pub actors_live: u64,
    /// Actors started since the program did.
    pub actors_started: u64,
    /// Actors stopped because they were idle or too many.
    pub actors_passivated: u64,
    /// Actors started again after a panic or a failed commit.
    pub actors_restarted: u64,
    /// Rooms made since the program started.
    pub rooms_created: u64,
    /// Rooms that failed to load twice in a minute, and since when.
    pub quarantined: BTreeMap<OwnedRoomId, UnixMillis>,
    /// Knocks.
    pub knocks: KnockTotals,
    /// How current states were decided.
    pub paths: PathTotals,
}

/// A copy of the counters of knocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnockTotals {
    /// Templates handed out.
    pub prepared: u64,
    /// Knocks admitted.
    pub admitted: u64,
    /// Knocks refused, by the fact that was in the way.
    pub refused: BTreeMap<&'static str, u64>,
    /// Knocks taken back.
    pub retracted: u64,
    /// Knocks that were let in.
    pub accepted: u64,
    /// Knocks that were turned away.
    pub denied: u64,
    /// Knocks that wait for an answer, in all stored rooms.
    pub pending: u64,
}

impl Gauges {
    /// All counters as they are.
    pub fn totals(&self) -> Totals {
        Totals {
            actors_live: u64::try_from(self.locked_live().len()).unwrap_or(u64::MAX),
            actors_started: self.started.get(),
            actors_passivated: self.passivated.get(),
            actors_restarted: self.restarted.get(),
            rooms_created: self.rooms_created.get(),
            quarantined: self.quarantined.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            knocks: KnockTotals {
                prepared: self.knocks_prepared.get(),
                admitted: self.knocks_admitted.get(),
                refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                retracted: self.knocks_retracted.get(),
                accepted: self.knocks_accepted.get(),
                denied: self.knocks_denied.get(),
                pending: self.knocks_pending.get(),
            },
            paths: *self.paths.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// A copy of the gauges of every live room.
    pub fn rooms(&self) -> Vec<RoomGaugesSnapshot> {
        let live: Vec<Arc<RoomGauges>> = self.locked_live().values().cloned().collect();
        live.iter().map(|gauges| gauges.snapshot()).collect()
    }

    /// A copy of the gauges of one room, if its actor lives.
    pub fn room(&self, room_id: &RoomId) -> Option<RoomGaugesSnapshot> {
        let gauges = self.locked_live().get(room_id).cloned();
        gauges.map(|gauges| gauges.snapshot())
    }

    /// Counts a knock that was refused, by the fact in the way: also for refusals before any room was asked.
    pub fn knock_refused(&self, fact: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refused.entry(fact).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// Counts a template.
    pub fn knock_prepared(&self) {
        self.knocks_prepared.add();
    }

    /// Says how many knocks were pending in all rooms when the program started.
    pub fn set_knocks_pending(&self, pending: u64) {
        self.knocks_pending.set(pending);
    }

    pub(crate) fn knock_happened(&self, event: KnockEvent) {
        match event {
            KnockEvent::Admitted => {
                self.knocks_admitted.add();
                self.knocks_pending.add();
            }
            KnockEvent::Repeated => self.knocks_admitted.add(),
            KnockEvent::Retracted => {
                self.knocks_retracted.add();
                self.knocks_pending.sub();
            }
            KnockEvent::Accepted => {
                self.knocks_accepted.add();
                self.knocks_pending.sub();
            }
            KnockEvent::Denied => {
                self.knocks_denied.add();
                self.knocks_pending.sub();
            }
            KnockEvent::Found => self.knocks_pending.add(),
            KnockEvent::Lost => self.knocks_pending.sub(),
        }
    }

    pub(crate) fn add_paths(&self, paths: PathTotals) {
        let mut totals = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        totals.linear = totals.linear.saturating_add(paths.linear);
        totals.short = totals.short.saturating_add(paths.short);
        totals.full = totals.full.saturating_add(paths.full);
    }

    pub(crate) fn room_created(&self) {
        self.rooms_created.add();
    }

    pub(crate) fn actor_started(&self, gauges: Arc<RoomGauges>, is_restart: bool) {
        self.started.add();
        if is_restart {
            self.restarted.add();
        }
        self.locked_live().insert(gauges.room_id.clone(), gauges);
    }

    pub(crate) fn actor_stopped(&self, room_id: &RoomId, was_idle: bool) {
        if was_idle {
            self.passivated.add();
        }
        self.locked_live().remove(room_id);
    }

    pub(crate) fn quarantine(&self, room_id: OwnedRoomId, since: UnixMillis) {
        self.quarantined.lock().unwrap_or_else(PoisonError::into_inner).insert(room_id, since);
    }

    pub(crate) fn end_quarantine(&self, room_id: &RoomId) {
        self.quarantined.lock().unwrap_or_else(PoisonError::into_inner).remove(room_id);
    }

    fn locked_live(&self) -> std::sync::MutexGuard<'_, BTreeMap<OwnedRoomId, Arc<RoomGauges>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a room's state says, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomFacts {
    /// The room's version.
    pub room_version: RoomVersionId,
    /// The join rule, if it can be read.
    pub join_rule: Option<String>,
    /// Users in each membership.
    pub members: MemberCounts,
    /// Knocks that wait for an answer.
    pub pending_knocks: u64,
    /// Forward extremities.
    pub forward_extremities: u64,
}

/// The gauges of one live room.
#[derive(Debug)]
pub struct RoomGauges {
    room_id: OwnedRoomId,
    facts: ArcSwap<RoomFacts>,
    mailbox_depth: Count,
    mailbox_capacity: u64,
    messages: Mutex<BTreeMap<&'static str, u64>>,
    handling: Histogram,
    started_at: UnixMillis,
    last_active: Count,
    restarts: u64,
}

/// A copy of the gauges of one room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomGaugesSnapshot {
    /// The room.
    pub room_id: OwnedRoomId,
    /// What its state says.
    pub facts: RoomFacts,
    /// Messages that wait.
    pub mailbox_depth: u64,
    /// Messages that may wait.
    pub mailbox_capacity: u64,
    /// Messages handled, by kind.
    pub messages: BTreeMap<&'static str, u64>,
    /// Half of the turns took at most this long.
    pub handling_p50: Duration,
    /// 99 of 100 turns took at most this long.
    pub handling_p99: Duration,
    /// When the actor started, by our wall clock.
    pub started_at: UnixMillis,
    /// When it last handled a message.
    pub last_active: UnixMillis,
    /// How often this room's actor was started again after a panic or a failed commit.
    pub restarts: u64,
}

impl RoomGauges {
    pub(crate) fn new(
        room_id: OwnedRoomId,
        facts: RoomFacts,
        mailbox_capacity: usize,
        started_at: UnixMillis,
        restarts: u64,
    ) -> Self {
        let last_active = Count::default();
        last_active.set(started_at.0);
        Self {
            room_id,
            facts: ArcSwap::from_pointee(facts),
            mailbox_depth: Count::default(),
            mailbox_capacity: u64::try_from(mailbox_capacity).unwrap_or(u64::MAX),
            messages: Mutex::new(BTreeMap::new()),
            handling: Histogram::default(),
            started_at,
            last_active,
            restarts,
        }
    }

    pub(crate) fn entered(&self) {
        self.mailbox_depth.add();
    }

    pub(crate) fn left(&self) {
        self.mailbox_depth.sub();
    }

    pub(crate) fn depth(&self) -> u64 {
        self.mailbox_depth.get()
    }

    pub(crate) fn last_active(&self) -> UnixMillis {
        UnixMillis(self.last_active.get())
    }

    pub(crate) fn handled(&self, kind: &'static str, took: Duration, now: UnixMillis) {
        self.handling.record(took);
        self.last_active.set(now.0);
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let count = messages.entry(kind).or_insert(0);
        *count = count.saturating_add(1);
    }

    pub(crate) fn set_facts(&self, facts: RoomFacts) {
        self.facts.store(Arc::new(facts));
    }

    fn snapshot(&self) -> RoomGaugesSnapshot {
        RoomGaugesSnapshot {
            room_id: self.room_id.clone(),
            facts: (**self.facts.load()).clone(),
            mailbox_depth: self.mailbox_depth.get(),
            mailbox_capacity: self.mailbox_capacity,
            messages: self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            handling_p50: self.handling.quantile(50),
            handling_p99: self.handling.quantile(99),
            started_at: self.started_at,
            last_active: self.last_active(),
            restarts: self.restarts,
        }
    }
}

/// Steps of the histogram: powers of two of a microsecond in four parts each, up to more than an hour.
const HISTOGRAM_STEPS: usize = 128;

/// How long turns took, to a quarter of a power of two.
#[derive(Debug)]
struct Histogram {
    steps: [Count; HISTOGRAM_STEPS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { steps: std::array::from_fn(|_| Count::default()) }
    }
}

impl Histogram {
    fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(step) = self.steps.get(step_of(micros)) {
            step.add();
        }
    }

    /// The upper end of the step that holds the quantile; zero when nothing was recorded.
    fn quantile(&self, percent: u64) -> Duration {
        let counts: Vec<u64> = self.steps.iter().map(Count::get).collect();
        let total: u64 = counts.iter().sum();
        let wanted = total.saturating_mul(percent).div_ceil(100);
        let mut seen = 0_u64;
        for (step, count) in counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if *count > 0 && seen >= wanted {
                return Duration::from_micros(upper_end(step));
            }
        }
        Duration::ZERO
    }
}

fn step_of(micros: u64) -> usize {
    let (mut low, mut high) = (0, HISTOGRAM_STEPS.saturating_sub(1));
    while low < high {
        let middle = usize::midpoint(low, high);
        if upper_end(middle) < micros { low = middle.saturating_add(1) } else { high = middle }
    }
    low
}

/// The longest time that belongs to a step, in microseconds: 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, …
fn upper_end(step: usize) -> u64 {
    let step = u64::try_from(step).unwrap_or(u64::MAX);
    let (power, quarter) = (step / 4, step % 4);
    match power {
        0 => quarter.saturating_add(1),
        _ => (quarter.saturating_add(5)) << power.saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_steps_grow_and_hold_what_they_say() {
        let ends: Vec<u64> = (0..HISTOGRAM_STEPS).map(upper_end).collect();
        assert!(ends.windows(2).all(|pair| pair[0] < pair[1]), "{ends:?}");
        for micros in [0, 1, 4, 5, 8, 9, 1_000, 123_456, 3_600_000_000] {
            let end = upper_end(step_of(micros));
            assert!(end >= micros && end <= micros + micros / 4 + 1, "{micros} in {end}");
        }
    }

    #[test]
    fn quantiles_come_from_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(99), Duration::ZERO);
        for micros in 1..=100 {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.quantile(50), Duration::from_micros(56));
        assert_eq!(histogram.quantile(99), Duration::from_micros(112));
    }
}
