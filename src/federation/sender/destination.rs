//! One way to one server: what it is told, how long it pauses, and the loop that its work runs in.
//! May not: know what is sent.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::StatusCode;
use ruma::OwnedServerName;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{DestinationStatus, Inner, LaneKind, Wanted};
use crate::client::RemoteError;

/// Signs of life end a pause at most so often: a server that reaches us while we do not reach it may ask us all the time. Ours.
const LIFE_PAUSE: Duration = Duration::from_secs(10);

/// A lane and whoever tells it something.
pub(super) struct Lane {
    server: OwnedServerName,
    kind: LaneKind,
    told: Mutex<Told>,
    bell: Notify,
}

#[derive(Default)]
struct Told {
    wanted: Wanted,
    has_news: bool,
    is_resting: bool,
    shows_life: bool,
    life_counted_at: Option<Instant>,
    paused_until: Option<Instant>,
    answered: bool,
    failures: u32,
    last_error: Option<String>,
}

/// What a lane does, one step at a time.
pub(super) trait Work: Send {
    /// Does the next piece of work, if there is one.
    fn step(&mut self, inner: &Arc<Inner>, lane: &Lane) -> impl Future<Output = Step> + Send;

    /// The server showed life: whatever waits because of failures is due.
    fn all_is_due(&mut self);
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more to do.
    Again,
    /// There was nothing to do.
    Idle,
    /// Nothing goes before that time, unless the server shows life.
    Pause(Instant),
    /// What there is waits until that time; something new may go before.
    Wait(Instant),
}

/// What a request that did not succeed says about what it carried.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server does not want it, and will not.
    Refused(StatusCode),
    /// Nothing may ever be sent there.
    NotForThem,
    /// The server answered, but not about what was carried; it may be taken later.
    NotNow { retry_after: Option<Duration> },
    /// The server did not answer.
    NoAnswer,
}

impl Failure {
    pub(super) fn of(error: &RemoteError) -> Self {
        match error {
            RemoteError::DestinationIsUs | RemoteError::DestinationDenied => Self::NotForThem,
            // We wrote what cannot be sent; no time will mend it.
            RemoteError::UnfitRequest { .. } => Self::Refused(StatusCode::BAD_REQUEST),
            RemoteError::Refused(refusal) => {
                if error.is_about_the_request() {
                    Self::Refused(refusal.status)
                } else {
                    Self::NotNow { retry_after: refusal.retry_after }
                }
            }
            RemoteError::ReplyTooLarge { .. } | RemoteError::NotJson { .. } => Self::NotNow { retry_after: None },
            RemoteError::NoAddress(_)
            | RemoteError::AddressDenied
            | RemoteError::Connect { .. }
            | RemoteError::Tls { .. }
            | RemoteError::Timeout
            | RemoteError::Broken { .. } => Self::NoAnswer,
        }
    }
}

impl Lane {
    pub(super) fn new(server: OwnedServerName, kind: LaneKind) -> Self {
        Self { server, kind, told: Mutex::default(), bell: Notify::new() }
    }

    pub(super) fn server(&self) -> &OwnedServerName {
        &self.server
    }

    pub(super) fn key(&self) -> (OwnedServerName, LaneKind) {
        (self.server.clone(), self.kind)
    }

    /// There is something to do. What cannot wait is dropped while the server is paused.
    pub(super) fn tell(&self, wanted: Wanted) {
        let mut told = self.lock();
        told.has_news = true;
        if told.paused_until.is_none() {
            told.wanted.join(wanted);
        }
        drop(told);
        self.bell.notify_one();
    }

    pub(super) fn has_news(&self) -> bool {
        self.lock().has_news
    }

    pub(super) fn take_wanted(&self) -> Wanted {
        std::mem::take(&mut self.lock().wanted)
    }

    pub(super) fn sign_of_life(&self, now: Instant) {
        let mut told = self.lock();
        let is_throttled = told.life_counted_at.is_some_and(|last| now.duration_since(last) < LIFE_PAUSE);
        if !told.is_resting || is_throttled {
            return;
        }
        told.life_counted_at = Some(now);
        told.shows_life = true;
        drop(told);
        self.bell.notify_one();
    }

    /// Whether the server did not answer the last time, or was not asked yet.
    pub(super) fn is_doubtful(&self) -> bool {
        !self.lock().answered
    }

    /// The server answered as it should.
    pub(super) fn succeeded(&self) {
        let mut told = self.lock();
        (told.failures, told.answered, told.last_error) = (0, true, None);
    }

    /// Counts a failure and says how many there are in a row.
    pub(super) fn failed(&self, error: &RemoteError) -> u32 {
        log::debug!(destination:% = self.server, error:%; "not delivered");
        let mut told = self.lock();
        told.failures = told.failures.saturating_add(1);
        told.answered = matches!(error, RemoteError::Refused(_));
        told.last_error = Some(error.to_string());
        told.failures
    }

    pub(super) fn status(&self) -> DestinationStatus {
        let told = self.lock();
        DestinationStatus {
            server_name: self.server.clone(),
            lane: self.kind,
            failures: told.failures,
            retry_in: told.paused_until.map(|until| until.saturating_duration_since(Instant::now())),
            last_error: told.last_error.clone(),
        }
    }

    /// Waits until the time has come, the server shows life, or, if news count, there is news. `true`: it shows life.
    async fn rest(&self, until: Instant, news_count: bool) -> bool {
        {
            let mut told = self.lock();
            told.paused_until = (!news_count).then_some(until);
            (told.is_resting, told.shows_life) = (true, false);
        }
        let shows_life = loop {
            {
                let mut told = self.lock();
                if told.shows_life {
                    told.shows_life = false;
                    break true;
                }
                if news_count && told.has_news {
                    break false;
                }
            }
            tokio::select! {
                biased;
                () = self.bell.notified() => {}
                () = sleep_until(until) => break false,
            }
        };
        let mut told = self.lock();
        (told.paused_until, told.is_resting) = (None, false);
        shows_life
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works until nothing is left to do.
pub(super) async fn run(inner: &Arc<Inner>, lane: &Lane, mut work: impl Work) {
    loop {
        lane.lock().has_news = false;
        let shows_life = match work.step(inner, lane).await {
            Step::Again => false,
            Step::Idle if inner.retire(lane) => return,
            Step::Idle => false,
            Step::Pause(until) => lane.rest(until, false).await,
            Step::Wait(until) => lane.rest(until, true).await,
        };
        if shows_life {
            work.all_is_due();
        }
    }
}

impl Inner {
    /// When a failed attempt may be repeated.
    pub(super) fn due_after(&self, failures: u32, failure: &Failure) -> Instant {
        let backoff = &self.parts.settings.backoff;
        let pause = match failure {
            Failure::NotNow { retry_after: Some(asked) } => backoff.asked_pause(*asked, failures),
            _ => backoff.pause(failures, self.jitter()),
        };
        // A time that no clock reaches is as good as never.
        Instant::now().checked_add(pause).unwrap_or_else(|| Instant::now() + NEVER)
    }
}

/// Longer than any process runs.
const NEVER: Duration = Duration::from_hours(24 * 365);
