//! The table `[rate_limit]`: one token bucket for each kind of work that others can ask of us.
//! May not: count; `vestibule-api` does.

use serde::Deserialize;

/// `[rate_limit]`. Each bucket exists once for every subject in its name: `…_by_user` once for each user, and so on.
///
/// The knock buckets are those of SECURITY section 4 (T1 to T3); a network is a /24 of IPv4 or a /56 of IPv6.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table of settings")]
pub struct RateLimit {
    /// Off leaves only caps and size limits, without the cap on connections of one address.
    pub enabled: bool,
    /// Knocks through us in one room, from everybody together.
    pub knocks_in_room: Bucket,
    /// Knocks through us by one server's users in one room.
    pub knocks_by_origin_in_room: Bucket,
    /// Knocks through us by one server's users.
    pub knocks_by_origin: Bucket,
    /// Knocks through us that come from one network, whatever server they name.
    pub knocks_by_network: Bucket,
    /// Knocks of one user in one room.
    pub knocks_by_user_in_room: Bucket,
    /// Knocks of one of our users.
    pub knocks_by_user: Bucket,
    /// Servers that one network may introduce to us: each costs us look-ups and key requests.
    pub new_origins_by_network: Bucket,
    /// Federation requests of one server, of all kinds.
    pub requests_by_origin: Bucket,
    /// What one server asks about aliases, profiles, the directory, spaces, and devices and keys of users.
    pub queries_by_origin: Bucket,
    /// Aliases, profiles, directories and summaries of other servers that clients at one address look up through us.
    pub queries_by_address: Bucket,
    /// Log-in attempts from one address.
    pub logins_by_address: Bucket,
    /// Failed log-in attempts at one account, and wrong passwords where one is asked for again.
    pub failed_logins_by_user: Bucket,
    /// Registrations from one address.
    pub registrations_by_address: Bucket,
    /// Events sent by one of our users, but joins, knocks and invites; and changes of their profile.
    pub messages_by_user: Bucket,
    /// What one of our users tells of typing and reading.
    pub typing_and_receipts_by_user: Bucket,
    /// Rooms made by one of our users.
    pub rooms_by_user: Bucket,
    /// Joins of one of our users.
    pub joins_by_user: Bucket,
    /// Invites sent by one of our users.
    pub invites_by_user: Bucket,
    /// Wrong bearer tokens on an admin listener from one address. Source: SECURITY section 5.
    pub failed_admin_tokens_by_address: Bucket,
}

/// A token bucket: `burst` at once, refilled by `per_second`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a bucket such as { per_second = 1.0, burst = 10 }")]
pub struct Bucket {
    /// Tokens that come back each second; above zero.
    pub per_second: f64,
    /// Tokens of a full bucket; at least one.
    pub burst: u32,
}

impl Bucket {
    /// A bucket of `burst` tokens that gets `per_second` back.
    #[must_use]
    pub const fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

impl RateLimit {
    /// Every bucket with its key, in the order of the file.
    #[must_use]
    pub fn buckets(&self) -> [(&'static str, Bucket); 19] {
        [
            ("knocks_in_room", self.knocks_in_room),
            ("knocks_by_origin_in_room", self.knocks_by_origin_in_room),
            ("knocks_by_origin", self.knocks_by_origin),
            ("knocks_by_network", self.knocks_by_network),
            ("knocks_by_user_in_room", self.knocks_by_user_in_room),
            ("knocks_by_user", self.knocks_by_user),
            ("new_origins_by_network", self.new_origins_by_network),
            ("requests_by_origin", self.requests_by_origin),
            ("queries_by_origin", self.queries_by_origin),
            ("queries_by_address", self.queries_by_address),
            ("logins_by_address", self.logins_by_address),
            ("failed_logins_by_user", self.failed_logins_by_user),
            ("registrations_by_address", self.registrations_by_address),
            ("messages_by_user", self.messages_by_user),
            ("typing_and_receipts_by_user", self.typing_and_receipts_by_user),
            ("rooms_by_user", self.rooms_by_user),
            ("joins_by_user", self.joins_by_user),
            ("invites_by_user", self.invites_by_user),
            ("failed_admin_tokens_by_address", self.failed_admin_tokens_by_address),
        ]
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            enabled: true,
            knocks_in_room: Bucket::new(1.0, 10),
            knocks_by_origin_in_room: Bucket::new(0.3, 10),
            knocks_by_origin: Bucket::new(1.0, 20),
            knocks_by_network: Bucket::new(2.0, 20),
            knocks_by_user_in_room: Bucket::new(0.017, 3),
            knocks_by_user: Bucket::new(0.01, 10),
            new_origins_by_network: Bucket::new(5.0, 20),
            requests_by_origin: Bucket::new(50.0, 200),
            queries_by_origin: Bucket::new(5.0, 50),
            queries_by_address: Bucket::new(5.0, 100),
            logins_by_address: Bucket::new(0.2, 10),
            failed_logins_by_user: Bucket::new(0.2, 5),
            registrations_by_address: Bucket::new(0.2, 5),
            messages_by_user: Bucket::new(5.0, 50),
            typing_and_receipts_by_user: Bucket::new(5.0, 100),
            rooms_by_user: Bucket::new(0.05, 20),
            joins_by_user: Bucket::new(0.2, 20),
            invites_by_user: Bucket::new(0.3, 20),
            failed_admin_tokens_by_address: Bucket::new(0.083, 5),
        }
    }
}
