//! Keys of end-to-end encryption: of devices, for one use, of users; who signed them; and whose list of devices changed.
//! May not: verify a signature, or read what a key says; keys are texts of JSON here.
//!
//! Changes are [`KeyChange`]s in a commit of accounts, so that a device goes together with all that belongs to it.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};
use vestibule_protocol::stream::StreamPosition;

use crate::Read;

/// How many message ids of one source are remembered, to tell that a message came again. Ours: a server repeats a whole
/// transaction of at most 100 EDUs, and only its newest; a client repeats one request.
pub const SEEN_PER_SOURCE: u64 = 256;

/// How far apart the stream ids of two commits are, so that several news of one commit have ids of their own. Ours: beyond
/// so many they share the last one, and who hears of them asks for the whole list.
pub const NEWS_PER_COMMIT_MAX: u64 = 256;

/// The stream id of the news with a number in the commit at a position.
pub fn news_stream_id(position: StreamPosition, index: u32) -> u64 {
    position.0.saturating_mul(NEWS_PER_COMMIT_MAX).saturating_add(u64::from(index).min(NEWS_PER_COMMIT_MAX - 1))
}

/// A key that a device uploads to be given to others: for one use, or as a fallback.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedKey {
    /// Such as `signed_curve25519`.
    pub algorithm: String,
    /// The part of its name after the algorithm.
    pub key_id: String,
    /// JSON text: a string, or an object with signatures.
    pub key: String,
}

/// A key that is given out when there is no other, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackKey {
    /// The key.
    pub key: PublishedKey,
    /// It was given out since it was uploaded.
    pub is_used: bool,
}

/// What a cross-signing key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyUsage {
    /// Stands for the user; signs the two others.
    Master,
    /// Signs the user's devices.
    SelfSigning,
    /// Signs other users' master keys.
    UserSigning,
}

/// A signature that was added to a key after its upload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeySignature {
    /// Whose key was signed.
    pub target: OwnedUserId,
    /// Which: a device id, or the public half of a cross-signing key.
    pub target_key: String,
    /// Who signed.
    pub signer: OwnedUserId,
    /// With which key, `<algorithm>:<id>`.
    pub key_id: String,
    /// The signature.
    pub signature: String,
}

/// What another server said of a user of its: device keys and cross-signing keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteKeys {
    /// JSON text, as the api writes it.
    pub keys: String,
    /// Before it was asked, this was the newest position.
    pub as_of: StreamPosition,
}

/// Whom other servers are told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListNews {
    /// No server: the change was another server's, or is a matter of our users alone.
    Untold,
    /// A device came, changed or went.
    Device {
        /// Which.
        device_id: OwnedDeviceId,
        /// To whom.
        destinations: BTreeSet<OwnedServerName>,
    },
    /// The user's cross-signing keys changed.
    SigningKeys {
        /// To whom.
        destinations: BTreeSet<OwnedServerName>,
    },
}

/// One change. Preconditions that do not hold fail the whole commit with a [`Conflict`](crate::commit::Conflict).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Names a device anew. `NoSuchDevice` if it is not there.
    NameDevice {
        /// Whose.
        user_id: OwnedUserId,
        /// Which.
        device_id: OwnedDeviceId,
        /// The name; `None`: none any more.
        display_name: Option<String>,
    },
    /// Sets the identity keys of a device; signatures that were added to the former ones go. `NoSuchDevice` if it is not
    /// there.
    PutDeviceKeys {
        /// Whose.
        user_id: OwnedUserId,
        /// Which.
        device_id: OwnedDeviceId,
        /// JSON text of the whole signed object.
        keys: String,
    },
    /// Adds keys for one use, after those that are there; one whose name is there already is passed over. `NoSuchDevice` if
    /// the device is not there.
    AddOneTimeKeys {
        /// Whose.
        user_id: OwnedUserId,
        /// Of which device.
        device_id: OwnedDeviceId,
        /// In the order in which they are to be given out.
        keys: Vec<PublishedKey>,
    },
    /// Takes a key for one use away: it was given out. `NoSuchKey` if it is gone, so nobody is given the same key.
    ClaimOneTimeKey {
        /// Whose.
        user_id: OwnedUserId,
        /// Of which device.
        device_id: OwnedDeviceId,
        /// The key's algorithm.
        algorithm: String,
        /// The key's id.
        key_id: String,
    },
    /// Sets the fallback key of its algorithm, unused. `NoSuchDevice` if the device is not there.
    PutFallbackKey {
        /// Whose.
        user_id: OwnedUserId,
        /// Of which device.
        device_id: OwnedDeviceId,
        /// The key.
        key: PublishedKey,
    },
    /// Marks a fallback key as used. `NoSuchKey` if it is not the one that is there.
    UseFallbackKey {
        /// Whose.
        user_id: OwnedUserId,
        /// Of which device.
        device_id: OwnedDeviceId,
        /// The key's algorithm.
        algorithm: String,
        /// The key's id.
        key_id: String,
    },
    /// Sets a cross-signing key.
    PutCrossSigningKey {
        /// Whose.
        user_id: OwnedUserId,
        /// Which.
        usage: KeyUsage,
        /// JSON text of the whole signed object.
        key: String,
    },
    /// Adds a signature to a key.
    PutSignature(KeySignature),
    /// A user's list of devices or cross-signing keys changed. What another server said of the user before goes.
    ListChanged {
        /// Whose.
        user_id: OwnedUserId,
        /// Local users who are to look: hints, not stored.
        wakes: BTreeSet<OwnedUserId>,
        /// What other servers are told.
        news: ListNews,
    },
    /// Keeps what another server said of its user, unless that user's list changed after it was asked.
    PutRemoteKeys {
        /// Whose.
        user_id: OwnedUserId,
        /// What, and as of when.
        keys: RemoteKeys,
    },
    /// Puts a message into a device's inbox. Nothing happens if the device is not there.
    SendToDevice {
        /// To whom.
        user_id: OwnedUserId,
        /// To which device.
        device_id: OwnedDeviceId,
        /// The event as JSON text.
        event: String,
    },
    /// Empties a device's inbox up to a position: the device has what is in there.
    AcknowledgeToDevice {
        /// Whose.
        user_id: OwnedUserId,
        /// Which device.
        device_id: OwnedDeviceId,
        /// What came in this commit, and before.
        up_to: StreamPosition,
    },
    /// Remembers that a message of a source came. `AlreadySeen` if it did before, as far as that is remembered
    /// ([`SEEN_PER_SOURCE`]).
    SeeMessage {
        /// Where it came from.
        source: MessageSource,
        /// Its id there.
        message_id: String,
    },
    /// Queues an EDU for other servers, until each has taken it.
    SendEdu {
        /// To whom.
        destinations: BTreeSet<OwnedServerName>,
        /// The EDU as JSON text.
        edu: String,
    },
}

/// Who sends messages to devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageSource {
    /// A device of ours.
    Device(OwnedUserId, OwnedDeviceId),
    /// Another server.
    Server(OwnedServerName),
}

/// Reads keys.
pub trait DeviceKeyReader: Send + Sync {
    /// The identity keys of all devices of a user that have some, as JSON texts.
    fn device_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, BTreeMap<OwnedDeviceId, String>>;

    /// A device's keys for one use, by algorithm, then in the order in which they were uploaded.
    fn one_time_keys<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Vec<PublishedKey>>;

    /// A device's fallback keys, one for an algorithm.
    fn fallback_keys<'a>(&'a self, user_id: &'a UserId, device_id: &'a DeviceId) -> Read<'a, Vec<FallbackKey>>;

    /// A user's cross-signing keys as JSON texts.
    fn cross_signing_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, BTreeMap<KeyUsage, String>>;

    /// All signatures that were added to keys of a user.
    fn signatures<'a>(&'a self, target: &'a UserId) -> Read<'a, Vec<KeySignature>>;

    /// Whose lists changed after a position and not after another, each once, in the order of positions and then of ids. Who
    /// changed again later is not among them.
    fn changed_lists(&self, after: StreamPosition, up_to: StreamPosition) -> Read<'_, Vec<OwnedUserId>>;

    /// The stream id of the newest news of a user's list.
    fn list_stream_id<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<u64>>;

    /// What is kept of another server's user: nothing if the user's list changed since that server was asked.
    fn remote_keys<'a>(&'a self, user_id: &'a UserId) -> Read<'a, Option<RemoteKeys>>;
}
