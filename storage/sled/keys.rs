//! The byte layout: which key holds what, and how keys sort.
//! May not: know what a value holds, or read a store.
//!
//! A key is a table byte and components. Numbers are big-endian; timeline orders are moved above zero, so that byte order is number
//! order. A text that something follows is escaped and terminated, so that keys sort as the lists of their texts do and no text, whatever
//! a peer put into it, can reach into the next component.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ruma::{EventId, OwnedEventId, RoomId, RoomVersionId, UserId};

/// The reference hash that names an event in room versions 3 and later.
pub(crate) type EventHash = [u8; 32];

/// What a key's first byte says. Bytes are never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// What the look-up store says of itself. Never in the journal or a checkpoint.
    Meta,
    /// name → number.
    Counter,
    /// room id → room.
    Room,
    /// room number → room id.
    RoomNumber,
    /// event hash → event.
    Event,
    /// room number, order → event hash.
    Timeline,
    /// room number, position → the newest order at that position.
    TimelineGrowth,
    /// room number, state version, part → part of the version.
    StateVersion,
    /// room number, type, state key → event hash.
    CurrentState,
    /// room number, event hash → arrival.
    Extremity,
    /// local user, room id → membership.
    Membership,
    /// local user, room number, order → membership.
    MembershipHistory,
    /// room id, user → pending knock.
    Knock,
    /// decision number → decision.
    Decision,
    /// user, device, endpoint, transaction id → event id.
    Transaction,
    /// local user, room id → nothing.
    Forgotten,
    /// destination, position, index in the commit's list → row of the outbox.
    Outbox,
    /// room id, local user → out-of-band membership.
    OutOfBand,
    /// room id, local user → join that has not ended.
    Joining,
    /// room id, user, kind, thread → receipt.
    Receipt,
    /// room id, position, user, kind, thread → nothing.
    ReceiptChange,
    /// destination, position, index among the commit's EDUs → EDU.
    EduOutbox,
    /// user → user.
    User,
    /// user, device → device.
    Device,
    /// token hash → user and device.
    Token,
    /// user, filter id → filter.
    Filter,
    /// user, room id or nothing, type → account data.
    AccountData,
    /// user, position, room id or nothing, type → nothing.
    AccountDataChange,
    /// alias → alias.
    Alias,
    /// room id, alias → nothing.
    AliasOfRoom,
    /// room id → nothing.
    Published,
    /// local user, device → identity keys.
    DeviceKeys,
    /// local user, device, algorithm, position, index in the commit → key for one use.
    OneTimeKey,
    /// local user, device, algorithm → fallback key.
    FallbackKey,
    /// local user, usage → cross-signing key.
    CrossSigningKey,
    /// user, device id or public key, signer, signer's key → signature.
    KeySignature,
    /// user → where the list of devices stands.
    DeviceList,
    /// position, user → nothing.
    DeviceListChange,
    /// remote user → keys.
    RemoteKeys,
    /// local user, device, position, index in the commit → message.
    Inbox,
    /// local user, device → number of messages in the inbox.
    InboxSize,
    /// source, message id → nothing.
    SeenMessage,
    /// source, number → message id; source → newest number.
    SeenMessageOrder,
    /// server name → keys.
    ServerKeys,
}

impl Table {
    const fn byte(self) -> u8 {
        match self {
            Self::Meta => 0x00,
            Self::Counter => 0x01,
            Self::Room => 0x02,
            Self::RoomNumber => 0x03,
            Self::Event => 0x04,
            Self::Timeline => 0x05,
            Self::TimelineGrowth => 0x06,
            Self::StateVersion => 0x07,
            Self::CurrentState => 0x08,
            Self::Extremity => 0x09,
            Self::Membership => 0x0a,
            Self::MembershipHistory => 0x0b,
            Self::Knock => 0x0c,
            Self::Decision => 0x0d,
            Self::Transaction => 0x0e,
            Self::Forgotten => 0x0f,
            Self::Outbox => 0x10,
            Self::OutOfBand => 0x11,
            Self::Receipt => 0x12,
            Self::ReceiptChange => 0x13,
            Self::Joining => 0x14,
            Self::EduOutbox => 0x18,
            Self::User => 0x20,
            Self::Device => 0x21,
            Self::Token => 0x22,
            Self::Filter => 0x23,
            Self::AccountData => 0x24,
            Self::AccountDataChange => 0x25,
            Self::Alias => 0x26,
            Self::AliasOfRoom => 0x27,
            Self::Published => 0x28,
            Self::DeviceKeys => 0x29,
            Self::OneTimeKey => 0x2a,
            Self::FallbackKey => 0x2b,
            Self::CrossSigningKey => 0x2c,
            Self::KeySignature => 0x2d,
            Self::DeviceList => 0x2e,
            Self::DeviceListChange => 0x2f,
            Self::Inbox => 0x31,
            Self::InboxSize => 0x32,
            Self::SeenMessage => 0x33,
            Self::SeenMessageOrder => 0x34,
            // 0x30 held the same, with rows among them that a change of the list had outdated.
            Self::RemoteKeys => 0x35,
            Self::ServerKeys => 0x40,
        }
    }
}

/// Where the row of a user and a room lies in [`Table::OutOfBand`] or [`Table::Joining`].
pub(crate) fn out_of_band_key(table: Table, room_id: &RoomId, user_id: &UserId) -> Key {
    Key::of(table).text(room_id.as_str()).last(user_id.as_str())
}

/// How many rooms are stored.
pub(crate) const ROOMS_STORED: &str = "rooms_stored";
/// The number that the next room gets.
pub(crate) const NEXT_ROOM_NUMBER: &str = "next_room_number";
/// The number that the next decision gets.
pub(crate) const NEXT_DECISION: &str = "next_decision";

const ESCAPED: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;
const SIGN_BIT: u64 = 1 << 63;
/// Orders below zero are written from here downwards, not from the sign bit: right below that lie numbers of many 0xff bytes,
/// and sled 0.34 does not find its way backwards over a leaf's border to keys with more than four of them (it panics).
const HISTORY_ORIGIN: u64 = 0x4000_8000_8000_8000;
/// The lowest order that has a key of its own, some two billion events before a room's first. Down to it no order has more
/// than three 0xff bytes in a row.
const ORDER_MIN: i64 = -0x7fff_0000;

/// A key in the making, or the common beginning of several.
#[derive(Clone, Debug)]
pub(crate) struct Key(Vec<u8>);

impl Key {
    /// A table's beginning.
    pub(crate) fn of(table: Table) -> Self {
        Self(vec![table.byte()])
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(crate) fn part(mut self, part: u32) -> Self {
        self.0.extend_from_slice(&part.to_be_bytes());
        self
    }

    pub(crate) fn order(self, order: i64) -> Self {
        if order >= 0 {
            return self.number(order.cast_unsigned() ^ SIGN_BIT);
        }
        self.number(HISTORY_ORIGIN.saturating_sub(order.max(ORDER_MIN).unsigned_abs()))
    }

    pub(crate) fn hash(mut self, hash: &[u8; 32]) -> Self {
        self.0.extend_from_slice(hash);
        self
    }

    /// A text that something follows.
    pub(crate) fn text(mut self, text: &str) -> Self {
        for byte in text.bytes() {
            self.0.push(byte);
            if byte == ESCAPED {
                self.0.push(ESCAPED_ZERO);
            }
        }
        self.0.extend_from_slice(&[ESCAPED, TERMINATOR]);
        self
    }

    /// A text that nothing follows.
    pub(crate) fn last(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// The smallest key after all that begin like this one.
    pub(crate) fn after(mut self) -> Vec<u8> {
        while let Some(last) = self.0.pop() {
            if let Some(greater) = last.checked_add(1) {
                self.0.push(greater);
                return self.0;
            }
        }
        // Only a key of nothing but 0xff bytes has no successor, and no table has that byte.
        vec![u8::MAX]
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a key apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyParts<'a>(&'a [u8]);

impl<'a> KeyParts<'a> {
    /// After the table byte.
    pub(crate) fn of(key: &'a [u8]) -> Self {
        Self(key.get(1..).unwrap_or_default())
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    pub(crate) fn part(&mut self) -> Option<u32> {
        let (part, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*part))
    }

    pub(crate) fn order(&mut self) -> Option<i64> {
        self.number().map(|number| {
            let moved = if number < SIGN_BIT { number.wrapping_sub(HISTORY_ORIGIN) } else { number ^ SIGN_BIT };
            moved.cast_signed()
        })
    }

    pub(crate) fn hash(&mut self) -> Option<[u8; 32]> {
        let (hash, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*hash)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let mut text = Vec::new();
        let mut bytes = self.0.iter().enumerate();
        loop {
            let (_, byte) = bytes.next()?;
            if *byte != ESCAPED {
                text.push(*byte);
                continue;
            }
            match bytes.next()? {
                (_, &ESCAPED_ZERO) => text.push(ESCAPED),
                (at, &TERMINATOR) => {
                    self.0 = self.0.get(at + 1..)?;
                    return String::from_utf8(text).ok();
                }
                _ => return None,
            }
        }
    }

    pub(crate) fn last(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

/// The hash that an event id holds, in either alphabet. `None`: it is no id of room version 3 or later.
pub(crate) fn event_hash(event_id: &EventId) -> Option<EventHash> {
    let text = event_id.as_str().strip_prefix('$')?;
    let decoded = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?;
    decoded.try_into().ok()
}

/// How a room version writes a hash as an event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdAlphabet {
    /// Version 3.
    Standard,
    /// Version 4 and later.
    UrlSafe,
}

impl IdAlphabet {
    pub(crate) fn of(version: &RoomVersionId) -> Self {
        if *version == RoomVersionId::V3 { Self::Standard } else { Self::UrlSafe }
    }

    /// The id of the event with a hash.
    pub(crate) fn event_id(self, hash: &EventHash) -> Option<OwnedEventId> {
        let text = match self {
            Self::Standard => STANDARD_NO_PAD.encode(hash),
            Self::UrlSafe => URL_SAFE_NO_PAD.encode(hash),
        };
        EventId::parse(format!("${text}")).ok()
    }

    /// The hash of an id that is written as this alphabet writes it. An id in the other alphabet would be read back as another text.
    pub(crate) fn hash(self, event_id: &EventId) -> Option<EventHash> {
        let text = event_id.as_str().strip_prefix('$')?;
        let decoded = match self {
            Self::Standard => STANDARD_NO_PAD.decode(text),
            Self::UrlSafe => URL_SAFE_NO_PAD.decode(text),
        };
        decoded.ok()?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(first: &str, second: &str) -> Vec<u8> {
        Key::of(Table::Knock).text(first).last(second).into_bytes()
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_texts(a in ".{0,6}", b in ".{0,6}", c in "[\0\u{1}a]{0,4}", d in "[\0\u{1}a]{0,4}") {
            prop_assert_eq!(pair(&a, &c).cmp(&pair(&b, &d)), (&a, &c).cmp(&(&b, &d)));
            prop_assert_eq!(pair(&c, &a).cmp(&pair(&d, &b)), (&c, &a).cmp(&(&d, &b)));
        }

        #[test]
        fn keys_are_read_back(text in ".{0,6}", zeros in "[\0\u{1}\u{ff}]{0,6}", order in ORDER_MIN.., number: u64, part: u32) {
            let key = Key::of(Table::Knock).text(&text).order(order).text(&zeros).number(number).part(part).last(&text);
            let key = key.into_bytes();
            let mut parts = KeyParts::of(&key);
            prop_assert_eq!(parts.text(), Some(text.clone()));
            prop_assert_eq!(parts.order(), Some(order));
            prop_assert_eq!(parts.text(), Some(zeros));
            prop_assert_eq!(parts.number(), Some(number));
            prop_assert_eq!(parts.part(), Some(part));
            prop_assert_eq!(parts.last(), Some(text.as_str()));
        }

        #[test]
        fn orders_sort_as_numbers(a in ORDER_MIN.., b in ORDER_MIN..) {
            let key = |order| Key::of(Table::Timeline).order(order).into_bytes();
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }

        #[test]
        fn what_begins_alike_lies_before_the_end(number: u64, rest: u64) {
            let begin = Key::of(Table::Timeline).number(number);
            let inside = begin.clone().number(rest).into_bytes();
            prop_assert!(inside < begin.clone().after());
            if let Some(next) = number.checked_add(1) {
                prop_assert!(Key::of(Table::Timeline).number(next).into_bytes() >= begin.after());
            }
        }
    }

    #[test]
    fn no_order_of_history_ends_in_many_0xff_bytes() {
        let spread = (1..0x7fff_0000_i64).step_by(9_973).chain([1, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_0000]);
        for order in spread {
            let key = Key::of(Table::Timeline).order(-order).into_bytes();
            assert!(!key.windows(4).any(|bytes| bytes == [0xff; 4]), "{order}");
        }
    }

    #[test]
    fn sled_reads_history_backwards_over_every_border() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let orders = -400..400_i64;
        let rooms = 1..9_u64;
        for room in rooms.clone() {
            for order in orders.clone() {
                db.insert(Key::of(Table::Timeline).number(room).order(order).into_bytes(), vec![7; 43]).unwrap();
            }
        }
        for room in rooms {
            let timeline = Key::of(Table::Timeline).number(room);
            for to in [-399, -1, 0, 1, 399] {
                let end = timeline.clone().order(to).into_bytes();
                let keys = db.range(timeline.clone().into_bytes()..=end).rev().map(|entry| entry.unwrap().0);
                let read: Vec<i64> = keys
                    .map(|key| {
                        let mut parts = KeyParts::of(&key);
                        parts.number().and_then(|_| parts.order()).unwrap()
                    })
                    .collect();
                assert_eq!(read, (-400..=to).rev().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn table_bytes_never_change() {
        let tables = [
            (Table::Meta, 0x00),
            (Table::Counter, 0x01),
            (Table::Room, 0x02),
            (Table::RoomNumber, 0x03),
            (Table::Event, 0x04),
            (Table::Timeline, 0x05),
            (Table::TimelineGrowth, 0x06),
            (Table::StateVersion, 0x07),
            (Table::CurrentState, 0x08),
            (Table::Extremity, 0x09),
            (Table::Membership, 0x0a),
            (Table::MembershipHistory, 0x0b),
            (Table::Knock, 0x0c),
            (Table::Decision, 0x0d),
            (Table::Transaction, 0x0e),
            (Table::Forgotten, 0x0f),
            (Table::Outbox, 0x10),
            (Table::OutOfBand, 0x11),
            (Table::Receipt, 0x12),
            (Table::ReceiptChange, 0x13),
            (Table::Joining, 0x14),
            (Table::EduOutbox, 0x18),
            (Table::User, 0x20),
            (Table::Device, 0x21),
            (Table::Token, 0x22),
            (Table::Filter, 0x23),
            (Table::AccountData, 0x24),
            (Table::AccountDataChange, 0x25),
            (Table::Alias, 0x26),
            (Table::AliasOfRoom, 0x27),
            (Table::Published, 0x28),
            (Table::DeviceKeys, 0x29),
            (Table::OneTimeKey, 0x2a),
            (Table::FallbackKey, 0x2b),
            (Table::CrossSigningKey, 0x2c),
            (Table::KeySignature, 0x2d),
            (Table::DeviceList, 0x2e),
            (Table::DeviceListChange, 0x2f),
            (Table::Inbox, 0x31),
            (Table::InboxSize, 0x32),
            (Table::SeenMessage, 0x33),
            (Table::SeenMessageOrder, 0x34),
            (Table::RemoteKeys, 0x35),
            (Table::ServerKeys, 0x40),
        ];
        for (table, byte) in tables {
            assert_eq!(Key::of(table).as_bytes(), [byte], "{table:?}");
        }
    }

    #[test]
    fn event_ids_of_both_alphabets_are_hashes() {
        let hash = [0xfb; 32];
        for alphabet in [IdAlphabet::Standard, IdAlphabet::UrlSafe] {
            let event_id = alphabet.event_id(&hash).unwrap();
            assert_eq!(event_hash(&event_id), Some(hash));
            assert_eq!(alphabet.hash(&event_id), Some(hash));
        }
        let standard = IdAlphabet::Standard.event_id(&hash).unwrap();
        assert_eq!(IdAlphabet::UrlSafe.hash(&standard), None);
        assert_eq!(event_hash(ruma::event_id!("$old:hs1.example")), None);
    }
}
