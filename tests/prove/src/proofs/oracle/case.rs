//! A member event and the room it is judged against, as plain data.
//! May not: judge.

/// A user as a place in [`USERS`].
pub type User = usize;

/// Everybody there is. The first made the room.
pub const USERS: [&str; 5] =
    ["@alice:resident.test", "@bob:peer.test", "@carol:third.test", "@dave:resident.test", "@eve:evil.test"];
pub const ALICE: User = 0;
pub const BOB: User = 1;
pub const CAROL: User = 2;
pub const DAVE: User = 3;
pub const EVE: User = 4;

/// What a user is to a room. `None` where there is no member event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    None,
    Join,
    Invite,
    Leave,
    Ban,
    Knock,
}

pub const MEMBERSHIPS: [Membership; 6] =
    [Membership::None, Membership::Join, Membership::Invite, Membership::Leave, Membership::Ban, Membership::Knock];

impl Membership {
    /// The specification's word.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Join => Some("join"),
            Self::Invite => Some("invite"),
            Self::Leave => Some("leave"),
            Self::Ban => Some("ban"),
            Self::Knock => Some("knock"),
        }
    }
}

/// What a member event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Join,
    Invite,
    Leave,
    Ban,
    Knock,
    /// A membership that nobody defines.
    Unknown,
    /// No `membership` at all.
    Missing,
}

pub const NEXTS: [Next; 7] =
    [Next::Join, Next::Invite, Next::Leave, Next::Ban, Next::Knock, Next::Unknown, Next::Missing];

impl Next {
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Unknown => Some("frobnicate"),
            Self::Missing => None,
            known => known.becomes().and_then(Membership::word),
        }
    }

    /// What the target is then.
    pub fn becomes(self) -> Option<Membership> {
        match self {
            Self::Join => Some(Membership::Join),
            Self::Invite => Some(Membership::Invite),
            Self::Leave => Some(Membership::Leave),
            Self::Ban => Some(Membership::Ban),
            Self::Knock => Some(Membership::Knock),
            Self::Unknown | Self::Missing => None,
        }
    }
}

/// The values of `join_rule`; `None`: the room has no such event.
pub const JOIN_RULES: [Option<&str>; 8] = [
    None,
    Some("public"),
    Some("invite"),
    Some("knock"),
    Some("restricted"),
    Some("knock_restricted"),
    Some("private"),
    Some("open_sesame"),
];

/// An `m.room.power_levels`; what is `None` is not in it.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    pub users: [Option<i64>; USERS.len()],
    pub users_default: Option<i64>,
    pub ban: Option<i64>,
    pub kick: Option<i64>,
    pub invite: Option<i64>,
    /// Numbers are written as strings, as versions up to 9 let them.
    pub as_text: bool,
}

/// The `third_party_invite` of an invite.
#[derive(Clone, Copy, Debug)]
pub struct ThirdParty {
    pub has_signed: bool,
    /// Whom `mxid` names.
    pub mxid: Option<User>,
    /// Whether there is a `token`.
    pub has_token: bool,
    /// The room's `m.room.third_party_invite` for the token: who sent it.
    pub issued_by: Option<User>,
    pub key: Key,
}

/// Where the key lies that made the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Named,
    Listed,
    Elsewhere,
}

/// An event and what it is judged against.
#[derive(Clone, Debug)]
pub struct Case {
    pub version: u8,
    pub join_rule: Option<&'static str>,
    pub members: [Membership; USERS.len()],
    pub levels: Option<Levels>,
    /// `m.federate` of the create event.
    pub federate: Option<bool>,
    /// `creator` of the create event, which versions up to 10 have; Alice is its sender.
    pub creator: User,
    /// `additional_creators`, which version 12 has.
    pub creators: Vec<User>,
    pub sender: User,
    pub target: User,
    pub next: Next,
    /// `join_authorised_via_users_server`.
    pub via: Option<User>,
    pub third_party: Option<ThirdParty>,
    /// Its only previous event is the create event.
    pub is_first: bool,
}

impl Case {
    pub fn prior(&self) -> Membership {
        self.members[self.target]
    }

    /// Whom the room calls its creator, for the very first join.
    pub fn first_joiner(&self) -> User {
        if self.version <= 10 { self.creator } else { ALICE }
    }

    /// The power of a user. Creators of version 12 are above all, also above each other's reach.
    pub fn power(&self, user: User) -> i64 {
        let is_privileged = self.version >= 12 && (user == ALICE || self.creators.contains(&user));
        match &self.levels {
            _ if is_privileged => i64::MAX,
            Some(levels) => levels.users[user].or(levels.users_default).unwrap_or(0),
            None if self.version <= 11 && user == self.first_joiner() => 100,
            None => 0,
        }
    }

    /// The power that a threshold asks for.
    pub fn threshold(&self, threshold: Threshold) -> i64 {
        let levels = self.levels.as_ref();
        let (named, otherwise) = match threshold {
            Threshold::Invite => (levels.and_then(|levels| levels.invite), 0),
            Threshold::Kick => (levels.and_then(|levels| levels.kick), 50),
            Threshold::Ban => (levels.and_then(|levels| levels.ban), 50),
        };
        named.unwrap_or(otherwise)
    }
}

/// What takes power.
#[derive(Clone, Copy, Debug)]
pub enum Threshold {
    Invite,
    Kick,
    Ban,
}

/// The server part of a user's id.
pub fn domain(user: User) -> &'static str {
    USERS[user].split_once(':').map_or("", |(_, domain)| domain)
}
