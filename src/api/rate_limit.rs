//! The rates of this API: who may ask how often, and who is held back a moment instead of being turned away.
//! May not: change caps or sizes when rates are switched off, or limit knocks in a room; the room's turn does that.

use std::{
    collections::BTreeMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, ServerName};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use vestibule_actors::limits::{Buckets, Rate, RetryAfter};
use vestibule_protocol::clock::Clock;

use crate::{error::MatrixError, extract::ClientAddress};

/// How long another server's request that meets a limit is held before it gets 429. What meets several limits, one after the
/// other, is held for each. Source: DESIGN 3.12.
pub const HOLD_MAX: Duration = Duration::from_secs(5);

/// Requests held at once. Source: DESIGN 3.12.
pub const HELD_MAX: usize = 256;

/// Bodies larger than 1 MiB that are in memory as text at once. Ours: 400 MiB; what servers send is nearly always less.
pub const LARGE_BODIES_MAX: usize = 32;

/// Bytes of memory for all parsed bodies of servers' requests at once. Ours: parsed, the densest transaction that an honest
/// server can have to send, of fifty events and a hundred ephemeral ones, takes 0.9 GiB; most take a few KiB.
pub const PARSED_BODIES_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// A body that takes no more than this is not counted among them. Ours.
const PARSED_BODY_BYTES_UNCOUNTED: usize = 1024 * 1024;

/// Answers with the whole state of a room, or a whole auth chain, that one server may be given at once. Ours: such an answer
/// is up to 128 MiB, and stays in memory until its reader has taken it.
pub const WHOLE_ANSWERS_BY_ORIGIN_MAX: usize = 4;

/// The same of all servers together. Ours: 4 GiB if all were as large as they may be; most take a few MiB.
pub const WHOLE_ANSWERS_MAX: usize = 32;

/// Subjects remembered by each bucket. Ours: about 1 MiB each when full.
const SUBJECTS_MAX: usize = 10_000;

/// The configured rates of the buckets that live here.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// `false` switches all rates off, and the cap on connections of one address; never other caps, or sizes.
    pub enabled: bool,
    /// Federation requests of one server, of all kinds.
    pub requests_by_origin: Rate,
    /// What one server asks about aliases, profiles, the directory, spaces, and devices and keys of users.
    pub queries_by_origin: Rate,
    /// Aliases, profiles, directories and summaries of other servers that are looked up for one address.
    pub queries_by_address: Rate,
    /// Log-in attempts from one address.
    pub logins_by_address: Rate,
    /// Failed log-in attempts at one account.
    pub failed_logins_by_user: Rate,
    /// Registrations from one address.
    pub registrations_by_address: Rate,
    /// Events sent by one of our users, but joins, knocks and invites; and changes of their profile.
    pub messages_by_user: Rate,
    /// What one of our users tells of typing and reading.
    pub typing_and_receipts_by_user: Rate,
    /// Rooms made by one of our users.
    pub rooms_by_user: Rate,
    /// Joins of one of our users.
    pub joins_by_user: Rate,
    /// Invites sent by one of our users.
    pub invites_by_user: Rate,
    /// Wrong tokens on an admin listener from one address.
    pub failed_admin_tokens_by_address: Rate,
}

/// One kind of rate: a bucket for each subject, or none when rates are off.
pub struct Limit<K> {
    buckets: Option<Buckets<K>>,
}

impl<K: Eq + Hash + Clone> Limit<K> {
    fn new(enabled: bool, rate: Rate) -> Self {
        Self { buckets: enabled.then(|| Buckets::new(rate, SUBJECTS_MAX)) }
    }

    /// Takes one token of the subject.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED` with the time until there is one; nothing was taken.
    pub fn take(&self, subject: &K, clock: &dyn Clock) -> Result<(), MatrixError> {
        self.try_take(subject, clock).map_err(MatrixError::limit_exceeded)
    }

    /// Looks whether there is a token, and takes none.
    ///
    /// # Errors
    /// As [`Limit::take`].
    pub fn peek(&self, subject: &K, clock: &dyn Clock) -> Result<(), MatrixError> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        buckets.peek(subject, clock.monotonic()).map_err(|RetryAfter(pause)| MatrixError::limit_exceeded(pause))
    }

    fn try_take(&self, subject: &K, clock: &dyn Clock) -> Result<(), Duration> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        buckets.take(subject, clock.monotonic()).map_err(|RetryAfter(pause)| pause)
    }
}

/// All rates, and the places for held requests.
pub struct Limits {
    /// Whether rates are on; the cap on connections of one address goes with them.
    pub enabled: bool,
    requests_by_origin: Limit<OwnedServerName>,
    queries_by_origin: Limit<OwnedServerName>,
    /// Look-ups at other servers for one address. Some need no token, and each costs requests.
    pub queries_by_address: Limit<ClientAddress>,
    /// Log-in attempts from one address.
    pub logins_by_address: Limit<ClientAddress>,
    /// Failed log-in attempts at one account: peek before, take after a failure.
    pub failed_logins_by_user: Limit<OwnedUserId>,
    /// Registrations from one address.
    pub registrations_by_address: Limit<ClientAddress>,
    /// Events sent by one of our users, but joins, knocks and invites; and changes of their profile.
    pub messages_by_user: Limit<OwnedUserId>,
    /// What one of our users tells of typing and reading.
    pub typing_and_receipts_by_user: Limit<OwnedUserId>,
    /// Rooms made by one of our users.
    pub rooms_by_user: Limit<OwnedUserId>,
    /// Joins of one of our users.
    pub joins_by_user: Limit<OwnedUserId>,
    /// Invites sent by one of our users.
    pub invites_by_user: Limit<OwnedUserId>,
    /// Wrong tokens on an admin listener from one address: peek before, take after a failure.
    pub failed_admin_tokens_by_address: Limit<ClientAddress>,
    held: Semaphore,
    large_bodies: Arc<Semaphore>,
    parsed_bodies: Arc<Semaphore>,
    whole_answers: Mutex<BTreeMap<OwnedServerName, Arc<Semaphore>>>,
    whole_answers_of_all: Arc<Semaphore>,
}

/// The right to be given an answer that may be large, until it is dropped: to be kept with the answer.
#[derive(Debug)]
pub struct WholeAnswer {
    _of_origin: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// The right to have the text of a large body in memory, until it is dropped.
#[derive(Debug)]
pub struct LargeBody {
    _place: OwnedSemaphorePermit,
}

/// The right to have a parsed body in memory, until it is dropped. Clones share it.
#[derive(Clone, Debug)]
pub struct ParsedBody {
    _places: Arc<OwnedSemaphorePermit>,
}

impl Limits {
    /// Full buckets.
    pub fn new(rates: Rates) -> Self {
        let on = rates.enabled;
        Self {
            enabled: on,
            requests_by_origin: Limit::new(on, rates.requests_by_origin),
            queries_by_origin: Limit::new(on, rates.queries_by_origin),
            queries_by_address: Limit::new(on, rates.queries_by_address),
            logins_by_address: Limit::new(on, rates.logins_by_address),
            failed_logins_by_user: Limit::new(on, rates.failed_logins_by_user),
            registrations_by_address: Limit::new(on, rates.registrations_by_address),
            messages_by_user: Limit::new(on, rates.messages_by_user),
            typing_and_receipts_by_user: Limit::new(on, rates.typing_and_receipts_by_user),
            rooms_by_user: Limit::new(on, rates.rooms_by_user),
            joins_by_user: Limit::new(on, rates.joins_by_user),
            invites_by_user: Limit::new(on, rates.invites_by_user),
            failed_admin_tokens_by_address: Limit::new(on, rates.failed_admin_tokens_by_address),
            held: Semaphore::new(HELD_MAX),
            large_bodies: Arc::new(Semaphore::new(LARGE_BODIES_MAX)),
            parsed_bodies: Arc::new(Semaphore::new(PARSED_BODIES_BYTES_MAX)),
            whole_answers: Mutex::default(),
            whole_answers_of_all: Arc::new(Semaphore::new(WHOLE_ANSWERS_MAX)),
        }
    }

    /// Lets a server's request in, at once or after a hold.
    ///
    /// # Errors
    /// 429 when the hold would be longer than [`HOLD_MAX`], or [`HELD_MAX`] are held already.
    pub async fn hold_request_of(&self, origin: &ServerName, clock: &dyn Clock) -> Result<(), MatrixError> {
        self.hold_for(&self.requests_by_origin, origin, clock).await
    }

    /// As [`Limits::hold_request_of`], for questions that cost us more than they cost who asks.
    ///
    /// # Errors
    /// As there.
    pub async fn hold_query_of(&self, origin: &ServerName, clock: &dyn Clock) -> Result<(), MatrixError> {
        self.hold_for(&self.queries_by_origin, origin, clock).await
    }

    /// Waits for a place for the text of a large body.
    ///
    /// # Errors
    /// 429 when none comes free within [`HOLD_MAX`].
    pub async fn hold_large_body(&self) -> Result<LargeBody, MatrixError> {
        let place = self.large_bodies.clone().acquire_owned();
        Ok(LargeBody { _place: within_hold(place).await? })
    }

    /// Waits for the memory that a body takes once it is parsed. `None`: so little that it is not counted.
    ///
    /// # Errors
    /// 413 when there is never so much, 429 when there is not within [`HOLD_MAX`].
    pub async fn hold_parsed_body(&self, bytes: usize) -> Result<Option<ParsedBody>, MatrixError> {
        if bytes <= PARSED_BODY_BYTES_UNCOUNTED {
            return Ok(None);
        }
        let within_cap = u32::try_from(bytes).ok().filter(|_| bytes <= PARSED_BODIES_BYTES_MAX);
        let bytes = within_cap.ok_or_else(|| MatrixError::too_large("the body holds too many values"))?;
        let places = self.parsed_bodies.clone().acquire_many_owned(bytes);
        Ok(Some(ParsedBody { _places: Arc::new(within_hold(places).await?) }))
    }

    /// Waits for a place for an answer that may be large.
    ///
    /// # Errors
    /// 429 when the server, or all together, have not taken the answers they were given within [`HOLD_MAX`].
    pub async fn hold_whole_answer(&self, origin: &ServerName) -> Result<WholeAnswer, MatrixError> {
        let of_origin = {
            let mut origins = self.whole_answers.lock().unwrap_or_else(PoisonError::into_inner);
            if origins.len() >= SUBJECTS_MAX {
                // Whoever holds or waits for a place holds the semaphore too.
                origins.retain(|_, places| Arc::strong_count(places) > 1);
            }
            let fresh = || Arc::new(Semaphore::new(WHOLE_ANSWERS_BY_ORIGIN_MAX));
            origins.entry(origin.to_owned()).or_insert_with(fresh).clone()
        };
        within_hold(async {
            // In this order: who waits for itself takes no place of the others.
            let of_origin = of_origin.acquire_owned().await?;
            Ok(WholeAnswer { _of_origin: of_origin, _of_all: self.whole_answers_of_all.clone().acquire_owned().await? })
        })
        .await
    }

    async fn hold_for(
        &self,
        limit: &Limit<OwnedServerName>,
        origin: &ServerName,
        clock: &dyn Clock,
    ) -> Result<(), MatrixError> {
        let origin = origin.to_owned();
        let attempt = async || limit.try_take(&origin, clock);
        self.hold_until(clock, attempt, |pause| Some(*pause)).await.map_err(MatrixError::limit_exceeded)
    }

    /// Attempts, and while `pause_of` says that the refusal is a matter of time, waits that time and attempts again.
    ///
    /// # Errors
    /// The last refusal, when it is final, when waiting on would pass [`HOLD_MAX`], or when [`HELD_MAX`] are held already.
    pub async fn hold_until<T, E, F>(
        &self,
        clock: &dyn Clock,
        mut attempt: impl FnMut() -> F,
        pause_of: impl Fn(&E) -> Option<Duration>,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let deadline = clock.monotonic().saturating_add(HOLD_MAX);
        let mut place = None;
        loop {
            let refusal = match attempt().await {
                Ok(value) => return Ok(value),
                Err(refusal) => refusal,
            };
            let Some(pause) = pause_of(&refusal) else { return Err(refusal) };
            if clock.monotonic().saturating_add(pause) > deadline {
                return Err(refusal);
            }
            if place.is_none() {
                match self.held.try_acquire() {
                    Ok(permit) => place = Some(permit),
                    Err(_) => return Err(refusal),
                }
            }
            // At least a millisecond, so that a pause of zero cannot spin.
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
    }
}

async fn within_hold<T>(places: impl Future<Output = Result<T, AcquireError>>) -> Result<T, MatrixError> {
    match tokio::time::timeout(HOLD_MAX, places).await {
        Ok(Ok(places)) => Ok(places),
        Ok(Err(_)) | Err(_) => Err(MatrixError::limit_exceeded(HOLD_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, net::IpAddr};

    use super::*;
    use crate::testing::{RuntimeClock, rates};

    #[actix_web::test]
    async fn off_means_no_rate_and_on_says_when() {
        tokio::time::pause();
        let clock = RuntimeClock::start();
        let address = ClientAddress(IpAddr::from([192, 0, 2, 1]));
        let off = Limits::new(rates(false));
        for _ in 0..1_000 {
            off.logins_by_address.take(&address, &clock).unwrap();
        }
        let on = Limits::new(rates(true));
        for _ in 0..3 {
            on.logins_by_address.peek(&address, &clock).unwrap();
            on.logins_by_address.take(&address, &clock).unwrap();
        }
        let error = on.logins_by_address.take(&address, &clock).unwrap_err();
        assert_eq!(error, MatrixError::limit_exceeded(Duration::from_secs(1)));
        assert_eq!(on.logins_by_address.peek(&address, &clock), Err(error));
        tokio::time::advance(Duration::from_secs(1)).await;
        on.logins_by_address.take(&address, &clock).unwrap();
    }

    /// Refuses until the clock has passed `ready_at`, and says how long that takes.
    async fn hold(
        limits: &Limits,
        clock: &RuntimeClock,
        ready_at: Duration,
        attempts: &Cell<u32>,
    ) -> Result<(), Duration> {
        let attempt = async || {
            attempts.set(attempts.get() + 1);
            let left = ready_at.saturating_sub(clock.monotonic());
            if left.is_zero() { Ok(()) } else { Err(left) }
        };
        limits.hold_until(clock, attempt, |left| Some(*left)).await
    }

    #[actix_web::test]
    async fn holds_are_as_long_as_they_must_and_no_longer_than_they_may() {
        tokio::time::pause();
        let clock = RuntimeClock::start();
        let limits = Limits::new(rates(true));
        let attempts = Cell::new(0);
        assert_eq!(hold(&limits, &clock, Duration::from_secs(3), &attempts).await, Ok(()));
        assert_eq!(attempts.replace(0), 2);
        assert_eq!(clock.monotonic().as_secs(), 3);
        let too_far = clock.monotonic() + HOLD_MAX + Duration::from_millis(1);
        assert!(hold(&limits, &clock, too_far, &attempts).await.is_err());
        assert_eq!(attempts.get(), 1, "refused at once, not after the wait");
        assert_eq!(clock.monotonic().as_secs(), 3);
        let final_refusal = limits.hold_until(&clock, async || Err::<(), _>("no"), |_| None).await;
        assert_eq!(final_refusal, Err("no"));
    }

    #[actix_web::test]
    async fn a_server_that_does_not_take_its_answers_waits_for_itself_alone() {
        tokio::time::pause();
        let limits = Limits::new(rates(false));
        let (slow, other) = (ServerName::parse("slow.test").unwrap(), ServerName::parse("other.test").unwrap());
        let mut taken = Vec::new();
        for _ in 0..WHOLE_ANSWERS_BY_ORIGIN_MAX {
            taken.push(limits.hold_whole_answer(&slow).await.unwrap());
        }
        assert_eq!(limits.hold_whole_answer(&slow).await.unwrap_err(), MatrixError::limit_exceeded(HOLD_MAX));
        limits.hold_whole_answer(&other).await.unwrap();
        taken.pop();
        limits.hold_whole_answer(&slow).await.unwrap();
    }

    #[actix_web::test]
    async fn all_servers_together_have_so_many_large_answers() {
        tokio::time::pause();
        let limits = Limits::new(rates(false));
        let mut taken = Vec::new();
        for number in 0..WHOLE_ANSWERS_MAX {
            let origin = ServerName::parse(format!("p{number}.test")).unwrap();
            taken.push(limits.hold_whole_answer(&origin).await.unwrap());
        }
        let last = ServerName::parse("last.test").unwrap();
        assert_eq!(limits.hold_whole_answer(&last).await.unwrap_err(), MatrixError::limit_exceeded(HOLD_MAX));
        taken.pop();
        limits.hold_whole_answer(&last).await.unwrap();
    }

    #[actix_web::test]
    async fn who_waits_for_its_own_answers_and_then_for_those_of_all_waits_once() {
        tokio::time::pause();
        let limits = Limits::new(rates(false));
        let mut of_others = Vec::new();
        for number in 0..WHOLE_ANSWERS_MAX - WHOLE_ANSWERS_BY_ORIGIN_MAX {
            let origin = ServerName::parse(format!("p{number}.test")).unwrap();
            of_others.push(limits.hold_whole_answer(&origin).await.unwrap());
        }
        let slow = ServerName::parse("slow.test").unwrap();
        let mut own = Vec::new();
        for _ in 0..WHOLE_ANSWERS_BY_ORIGIN_MAX {
            own.push(limits.hold_whole_answer(&slow).await.unwrap());
        }
        let begun = tokio::time::Instant::now();
        let waits = limits.hold_whole_answer(&slow);
        let another_is_faster = async {
            tokio::time::sleep(HOLD_MAX - Duration::from_secs(1)).await;
            own.pop();
            limits.whole_answers_of_all.clone().try_acquire_owned().unwrap()
        };
        let (outcome, _place) = tokio::join!(waits, another_is_faster);
        assert_eq!(outcome.unwrap_err(), MatrixError::limit_exceeded(HOLD_MAX));
        assert_eq!(begun.elapsed().as_secs(), HOLD_MAX.as_secs());
    }

    #[actix_web::test]
    async fn parsed_bodies_share_their_memory() {
        tokio::time::pause();
        let limits = Limits::new(rates(false));
        let too_large = limits.hold_parsed_body(PARSED_BODIES_BYTES_MAX + 1).await.unwrap_err();
        assert_eq!(too_large.status.as_u16(), 413);
        let half = PARSED_BODIES_BYTES_MAX / 2;
        let (one, _other) =
            (limits.hold_parsed_body(half).await.unwrap(), limits.hold_parsed_body(half).await.unwrap());
        assert_eq!(limits.hold_parsed_body(half).await.unwrap_err(), MatrixError::limit_exceeded(HOLD_MAX));
        assert!(limits.hold_parsed_body(PARSED_BODY_BYTES_UNCOUNTED).await.unwrap().is_none());
        drop(one);
        assert!(limits.hold_parsed_body(half).await.unwrap().is_some());
    }

    #[actix_web::test]
    async fn only_so_many_are_held() {
        tokio::time::pause();
        let clock = RuntimeClock::start();
        let limits = Limits::new(rates(true));
        let attempts = Cell::new(0);
        let held = (0..HELD_MAX + 10).map(|_| hold(&limits, &clock, Duration::from_secs(1), &attempts));
        let outcomes = futures_util::future::join_all(held).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), HELD_MAX);
        assert_eq!(
            hold(&limits, &clock, clock.monotonic() + Duration::from_secs(1), &attempts).await,
            Ok(()),
            "places come back"
        );
    }
}
