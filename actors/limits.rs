//! Token buckets: how fast knocks may come, by room, server, network and user.
//! May not: read a wall clock; a clock set back must not revive a limit that was used up.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
use vestibule_protocol::membership::{KnockBucket, KnockRefusal};

/// Keys that one kind of bucket remembers. Ours: some megabytes; a key that is full again is forgotten first.
pub const BUCKET_KEYS_MAX: usize = 65_536;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens that come back in a second.
    pub per_second: f64,
    /// Tokens of a full bucket.
    pub burst: f64,
}

/// How long until a bucket holds a token again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);

/// Buckets of one kind, one for each key.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    keys_max: usize,
    levels: Mutex<HashMap<K, Level>>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: Duration,
}

impl Level {
    fn filled(self, rate: Rate, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        (self.tokens + elapsed * rate.per_second).min(rate.burst)
    }
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Full buckets for whoever comes, remembering at most `keys_max` of them.
    pub fn new(rate: Rate, keys_max: usize) -> Self {
        Self { rate, keys_max: keys_max.max(1), levels: Mutex::new(HashMap::new()) }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// [`RetryAfter`] when there is none; nothing was taken.
    pub fn take(&self, key: &K, now: Duration) -> Result<(), RetryAfter> {
        let mut levels = self.lock();
        let tokens = self.tokens(&levels, key, now);
        if tokens < 1.0 {
            return Err(self.retry_after(tokens));
        }
        if levels.len() >= self.keys_max && !levels.contains_key(key) {
            forget_some(&mut levels, self.rate, now, self.keys_max);
        }
        levels.insert(key.clone(), Level { tokens: tokens - 1.0, at: now });
        Ok(())
    }

    /// Looks whether a token is there, and leaves it.
    ///
    /// # Errors
    /// [`RetryAfter`] when there is none.
    pub fn peek(&self, key: &K, now: Duration) -> Result<(), RetryAfter> {
        let tokens = self.tokens(&self.lock(), key, now);
        if tokens < 1.0 { Err(self.retry_after(tokens)) } else { Ok(()) }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn tokens(&self, levels: &HashMap<K, Level>, key: &K, now: Duration) -> f64 {
        levels.get(key).map_or(self.rate.burst, |level| level.filled(self.rate, now))
    }

    fn retry_after(&self, tokens: f64) -> RetryAfter {
        if self.rate.per_second <= 0.0 {
            return RetryAfter(RETRY_AFTER_MAX);
        }
        let seconds = (1.0 - tokens) / self.rate.per_second;
        RetryAfter(Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER_MAX).min(RETRY_AFTER_MAX))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Level>> {
        // A panic under the lock leaves numbers, not broken invariants.
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest pause that is ever asked for. Ours.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Forgets the keys whose bucket is full again; if that is not enough, every eighth of the rest.
fn forget_some<K: Eq + Hash>(levels: &mut HashMap<K, Level>, rate: Rate, now: Duration, keys_max: usize) {
    levels.retain(|_, level| level.filled(rate, now) < rate.burst);
    if levels.len() >= keys_max {
        let mut number = 0_usize;
        levels.retain(|_, _| {
            number = number.wrapping_add(1);
            !number.is_multiple_of(8)
        });
    }
}

/// The network a request came from: /24 of IPv4, /56 of IPv6, so that one household or one rack counts once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceNetwork(String);

impl SourceNetwork {
    /// The network of an address. IPv4 in IPv6 clothes counts as IPv4.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self(format!("{a}.{b}.{c}.0/24"))
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(format!("{a:x}:{b:x}:{c:x}:{:x}::/56", d & 0xff00))
            }
        }
    }

    /// The network as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The rates of `[rate_limit]` that concern knocks. `None`: limits are off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnockRates {
    /// `knocks_in_room`.
    pub in_room: Rate,
    /// `knocks_by_origin_in_room`.
    pub by_origin_in_room: Rate,
    /// `knocks_by_origin`.
    pub by_origin: Rate,
    /// `knocks_by_network`.
    pub by_network: Rate,
    /// `knocks_by_user_in_room`.
    pub by_user_in_room: Rate,
    /// `knocks_by_user`.
    pub by_user: Rate,
}

/// Where a knock comes from: another server's door counts by server and network, our own users' door by user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnockSource {
    /// Through federation.
    Federation {
        /// The server.
        origin: OwnedServerName,
        /// Its network.
        network: SourceNetwork,
    },
    /// A user of this server.
    Client,
    /// A user of this server, on a room that others are to judge: how many knocks it takes is theirs to say.
    ClientElsewhere,
}

/// All buckets of knocks. Shared by all rooms; each look is a few map accesses under one short lock.
#[derive(Debug)]
pub struct KnockLimits {
    in_room: Buckets<OwnedRoomId>,
    by_origin_in_room: Buckets<(OwnedServerName, OwnedRoomId)>,
    by_origin: Buckets<OwnedServerName>,
    by_network: Buckets<SourceNetwork>,
    by_user_in_room: Buckets<(OwnedUserId, OwnedRoomId)>,
    by_user: Buckets<OwnedUserId>,
}

impl KnockLimits {
    /// Full buckets.
    pub fn new(rates: &KnockRates) -> Self {
        Self {
            in_room: Buckets::new(rates.in_room, BUCKET_KEYS_MAX),
            by_origin_in_room: Buckets::new(rates.by_origin_in_room, BUCKET_KEYS_MAX),
            by_origin: Buckets::new(rates.by_origin, BUCKET_KEYS_MAX),
            by_network: Buckets::new(rates.by_network, BUCKET_KEYS_MAX),
            by_user_in_room: Buckets::new(rates.by_user_in_room, BUCKET_KEYS_MAX),
            by_user: Buckets::new(rates.by_user, BUCKET_KEYS_MAX),
        }
    }

    /// Looks whether a knock would pass all buckets, and takes nothing: what `make_knock` does.
    ///
    /// # Errors
    /// [`KnockRefusal::OverRate`] with the bucket that is empty longest.
    pub fn peek(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        source: &KnockSource,
        now: Duration,
    ) -> Result<(), KnockRefusal> {
        let room = room_id.to_owned();
        let user = user_id.to_owned();
        let of_user = (user.clone(), room.clone());
        let mut looks = vec![(KnockBucket::UserInRoom, self.by_user_in_room.peek(&of_user, now))];
        if *source != KnockSource::ClientElsewhere {
            looks.push((KnockBucket::Room, self.in_room.peek(&room, now)));
        }
        match source {
            KnockSource::Client | KnockSource::ClientElsewhere => {
                looks.push((KnockBucket::User, self.by_user.peek(&user, now)));
            }
            KnockSource::Federation { origin, network } => {
                let of_origin = (origin.clone(), room);
                looks.push((KnockBucket::OriginInRoom, self.by_origin_in_room.peek(&of_origin, now)));
                looks.push((KnockBucket::Origin, self.by_origin.peek(origin, now)));
                looks.push((KnockBucket::Network, self.by_network.peek(network, now)));
            }
        }
        let longest = looks
            .into_iter()
            .filter_map(|(bucket, look)| look.err().map(|RetryAfter(retry_after)| (retry_after, bucket)))
            .max();
        match longest {
            Some((retry_after, bucket)) => Err(KnockRefusal::OverRate { bucket, retry_after }),
            None => Ok(()),
        }
    }

    /// Takes a token from all buckets, or from none.
    ///
    /// # Errors
    /// As [`Self::peek`].
    pub fn take(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        source: &KnockSource,
        now: Duration,
    ) -> Result<(), KnockRefusal> {
        self.peek(room_id, user_id, source, now)?;
        // Two rooms may take the last token of a shared bucket between look and take: that is one knock too many, never one
        // too few, so what the second look would say is dropped.
        let (room, user) = (room_id.to_owned(), user_id.to_owned());
        let _ = self.by_user_in_room.take(&(user.clone(), room.clone()), now);
        if *source != KnockSource::ClientElsewhere {
            let _ = self.in_room.take(&room, now);
        }
        match source {
            KnockSource::Client | KnockSource::ClientElsewhere => {
                let _ = self.by_user.take(&user, now);
            }
            KnockSource::Federation { origin, network } => {
                let _ = self.by_origin_in_room.take(&(origin.clone(), room), now);
                let _ = self.by_origin.take(origin, now);
                let _ = self.by_network.take(network, now);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 2.0, burst: 3.0 };

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn burst_then_rate() {
        let buckets = Buckets::new(RATE, 10);
        for _ in 0..3 {
            assert_eq!(buckets.take(&"a", seconds(0.0)), Ok(()));
        }
        assert_eq!(buckets.take(&"a", seconds(0.0)), Err(RetryAfter(seconds(0.5))));
        assert_eq!(buckets.peek(&"a", seconds(0.5)), Ok(()));
        assert_eq!(buckets.take(&"a", seconds(0.5)), Ok(()));
        assert!(buckets.take(&"a", seconds(0.5)).is_err());
        assert_eq!(buckets.take(&"b", seconds(0.5)), Ok(()), "another key has a bucket of its own");
    }

    #[test]
    fn keys_stay_bounded() {
        let buckets = Buckets::new(RATE, 100);
        for key in 0..10_000 {
            let _ = buckets.take(&key, seconds(0.0));
        }
        assert!(buckets.len() <= 100, "{}", buckets.len());
    }

    #[test]
    fn networks_are_24_and_56_bits() {
        let of = |text: &str| SourceNetwork::of(text.parse().unwrap()).as_str().to_owned();
        assert_eq!(of("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(of("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(of("2001:db8:1:ab12::1"), "2001:db8:1:ab00::/56");
    }

    #[test]
    fn refused_knock_takes_from_no_bucket() {
        let one = Rate { per_second: 1.0, burst: 1.0 };
        let many = Rate { per_second: 1.0, burst: 5.0 };
        let limits = KnockLimits::new(&KnockRates {
            in_room: many,
            by_origin_in_room: many,
            by_origin: many,
            by_network: many,
            by_user_in_room: one,
            by_user: many,
        });
        let room = RoomId::parse("!r:x").unwrap();
        let source = KnockSource::Federation {
            origin: "y".try_into().unwrap(),
            network: SourceNetwork::of("192.0.2.1".parse().unwrap()),
        };
        let knock = |name: &str| limits.take(&room, &UserId::parse(name).unwrap(), &source, seconds(0.0));
        assert_eq!(knock("@a:y"), Ok(()));
        for _ in 0..10 {
            assert!(matches!(knock("@a:y"), Err(KnockRefusal::OverRate { bucket: KnockBucket::UserInRoom, .. })));
        }
        for name in ["@b:y", "@c:y", "@d:y", "@e:y"] {
            assert_eq!(knock(name), Ok(()), "{name}");
        }
        assert!(matches!(knock("@f:y"), Err(KnockRefusal::OverRate { .. })));
    }
}
