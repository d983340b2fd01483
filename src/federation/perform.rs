//! What takes several requests to other servers: knocking and joining elsewhere, looking things up, taking what they send.
//! May not: decide what the room's actor decides, or hold a room while another server is asked.

mod across_gap;
mod alias;
mod backfill;
mod candidates;
pub mod edus;
mod event_lists;
mod flights;
mod join;
mod knock;
mod missing_events;
mod overload;
mod profile;
mod public_rooms;
mod receive;
mod reconcile;
mod resume;
mod room_summary;
mod user_keys;
mod verify;

use std::{sync::Arc, time::Duration};

use ruma::{RoomVersionId, api::error::ErrorCode};
use thiserror::Error;
use vestibule_actors::{AskError, CpuPool, Rooms, Typing};
use vestibule_protocol::{
    clock::Clock,
    membership::{ImportRefusal, KnockElsewhereRefusal},
    pdu::event_builder::BuildRefusal,
    signing::Identity,
};
use vestibule_storage::commit::{CommitError, Stores};

pub use self::{
    alias::{ALIAS_SERVERS_MAX, ResolvedAlias},
    backfill::HISTORY_EVENTS_MAX,
    candidates::{CANDIDATES_DEADLINE, CANDIDATES_MAX},
    event_lists::STATE_EVENTS_MAX,
    join::{JoinElsewhere, SEND_JOIN_DEADLINE, SEND_JOIN_REPLY_BYTES_MAX},
    knock::KnockElsewhere,
    missing_events::{MISSING_AUTH_EVENTS_MAX, MISSING_DEADLINE, MISSING_EVENTS_PER_REQUEST, MISSING_ROUNDS_MAX},
    profile::PROFILE_REPLY_BYTES_MAX,
    public_rooms::DirectoryQuestion,
    receive::NotReceived,
    user_keys::{USER_KEYS_DEADLINE, USER_KEYS_REPLY_BYTES_MAX},
    verify::VerifyError,
};
use self::{
    flights::{Flights, Repeats},
    missing_events::Gaps,
};
use crate::{
    client::{Client, Limits, Refusal, RemoteError},
    discovery::Random,
    keyring::Keyring,
};

/// What flows work with.
pub struct FederationParts {
    /// Who we are.
    pub identity: Arc<Identity>,
    /// Makes the requests.
    pub client: Client,
    /// Other servers' keys.
    pub keyring: Keyring,
    /// The rooms.
    pub rooms: Rooms,
    /// What is stored.
    pub stores: Stores,
    /// Who types where.
    pub typing: Typing,
    /// Wall clock and monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Random,
    /// Where signatures of many events are verified.
    pub cpu: CpuPool,
    /// What is configured.
    pub settings: FederationSettings,
}

/// What flows go by.
#[derive(Clone, Copy, Debug)]
pub struct FederationSettings {
    /// Deadline of one request: `federation.request_timeout`.
    pub request_timeout: Duration,
    /// `knock.auto_join_accepted`.
    pub auto_join_accepted: bool,
}

/// The door to other servers. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Federation {
    inner: Arc<FederationParts>,
    under_way: UnderWay,
}

/// What goes on at the moment.
#[derive(Clone, Default)]
struct UnderWay {
    flights: Flights,
    repeats: Repeats,
    gaps: Gaps,
    histories: Gaps,
}

/// Why other servers did not do for us what was asked. Facts; the words of other servers are not in them.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PerformError {
    /// There is nobody to ask.
    #[error("no other server is known to ask")]
    NoServers,
    /// A server refused, with a code that our client may know of.
    #[error("refused with {} {errcode}", .status)]
    Refused {
        /// Its status, 4xx.
        status: u16,
        /// Its code; one of those that say something to the client.
        errcode: ErrorCode,
    },
    /// The room is of a version that we do not know, or that cannot do what was asked.
    #[error("the room's version cannot be used")]
    VersionNotKnown {
        /// Which, if the server said it.
        room_version: Option<RoomVersionId>,
    },
    /// The servers ask us to come back later.
    #[error("other servers are asked too much")]
    OverRate {
        /// When, if they said it.
        retry_after: Option<Duration>,
    },
    /// No server knows it.
    #[error("not found by those who were asked")]
    NotFound,
    /// Nobody gave a usable answer.
    #[error("{asked} servers asked, none gave a usable answer")]
    AllFailed {
        /// How many were asked.
        asked: usize,
    },
    /// It took too long. What was asked for may yet come to be.
    #[error("no server answered in time")]
    TimedOut,
    /// Our side of the room does not begin a knock.
    #[error("knock not begun: {0}")]
    NotBegun(#[source] KnockElsewhereRefusal),
    /// Our side of the room does not take what came with the join.
    #[error("join not taken over: {0}")]
    NotImported(#[source] ImportRefusal),
    /// The event would be too large.
    #[error("the event is too large")]
    TooLarge,
    /// The content cannot be that of a member event.
    #[error("bad content: {what}")]
    BadContent {
        /// What is wrong.
        what: String,
    },
    /// Our own rooms or the writer are full; try later.
    #[error("overloaded")]
    Overloaded,
    /// Our storage failed.
    #[error(transparent)]
    Storage(CommitError),
    /// The flow or the room failed, or the program shuts down.
    #[error("the flow failed")]
    Failed,
}

impl PerformError {
    fn of_room<R>(error: AskError<R>, refused: impl FnOnce(R) -> Self) -> Self {
        match error {
            AskError::Refused(refusal) => refused(refusal),
            AskError::Overloaded => Self::Overloaded,
            AskError::Storage(error) => Self::Storage(error),
            AskError::RoomNotHere | AskError::Failed => Self::Failed,
        }
    }

    fn not_built(refusal: BuildRefusal) -> Self {
        match refusal {
            BuildRefusal::TooLarge => Self::TooLarge,
            other => Self::BadContent { what: other.to_string() },
        }
    }

    /// What a failed request says, if the client is to hear of that one.
    pub(crate) fn of(error: &RemoteError) -> Self {
        match error {
            RemoteError::Refused(refusal) => Self::of_refusal(refusal).unwrap_or(Self::AllFailed { asked: 1 }),
            RemoteError::Timeout => Self::TimedOut,
            _ => Self::AllFailed { asked: 1 },
        }
    }

    /// Only what the client can make sense of: never a peer's 401, which would log the client out, nor its 5xx.
    fn of_refusal(refusal: &Refusal) -> Option<Self> {
        match (refusal.status.as_u16(), &refusal.errcode) {
            (429, _) => Some(Self::OverRate { retry_after: refusal.retry_after }),
            (400, Some(ErrorCode::IncompatibleRoomVersion | ErrorCode::UnsupportedRoomVersion)) => {
                Some(Self::VersionNotKnown { room_version: refusal.room_version.clone() })
            }
            // An endpoint that is not there says nothing about what was looked for.
            (404, Some(ErrorCode::NotFound)) => Some(Self::NotFound),
            (
                status @ (400 | 403),
                Some(
                    errcode @ (ErrorCode::Forbidden
                    | ErrorCode::UnableToAuthorizeJoin
                    | ErrorCode::UnableToGrantJoin
                    | ErrorCode::ResourceLimitExceeded),
                ),
            ) => Some(Self::Refused { status, errcode: errcode.clone() }),
            // Nor does a page of whatever stands before the server.
            (403, Some(_)) => Some(Self::Refused { status: 403, errcode: ErrorCode::Forbidden }),
            _ => None,
        }
    }
}

impl Federation {
    /// Nothing is asked before a method is called.
    pub fn new(parts: FederationParts) -> Self {
        Self { inner: Arc::new(parts), under_way: UnderWay::default() }
    }

    fn limits(&self, reply_bytes_max: usize) -> Limits {
        Limits { reply_bytes_max, deadline: self.inner.settings.request_timeout }
    }
}

#[cfg(test)]
mod tests;
