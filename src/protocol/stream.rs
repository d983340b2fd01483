//! Positions in the one sequence of durable changes, and the tokens that clients hold.
//! May not: assign positions; the storage writer does.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A place in the sequence of all durable changes. Assigned by the writer, published without gaps once readable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamPosition(pub u64);

impl StreamPosition {
    /// Before the first change.
    pub const START: Self = Self(0);

    /// The next position; saturates.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A place in one room's timeline. Live events count up from 1, backfilled history counts down from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineOrder(pub i64);

impl TimelineOrder {
    /// The next later place; saturates.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The number of the one writer of a single machine. Tokens are lists so that a cluster can have more.
const ONLY_WRITER: u64 = 0;

/// The number of a change of who is typing. Not durable: a later life of the server starts higher, or does not know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypingSerial(pub u64);

/// A serial of another life of the server, or one that it has forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a serial that is known")]
pub struct UnknownSerial;

/// What `/sync` hands out as `next_batch`: `s1_<writer>.<position>`, opaque to everybody else. If its holder was told that
/// somebody types, `.<serial>` follows; while a device's inbox holds more than one answer takes, `~<position>` follows: how far
/// the inbox was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// Everything up to here was told,
    pub position: StreamPosition,
    /// and all changes of who is typing up to here. `None`: nobody is, as far as its holder knows.
    pub typing: Option<TypingSerial>,
    /// But of messages for the device only those up to here.
    pub inbox: StreamPosition,
}

impl SyncToken {
    /// Everything up to a position was told, and nobody types.
    pub fn at(position: StreamPosition) -> Self {
        Self { position, typing: None, inbox: position }
    }
}

/// What `/messages` pages with: a gap before the event at `order`, as `t1_<order>`; or a sync token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageToken {
    /// Between two events of the room's timeline: after every event with a smaller or equal order.
    Timeline(TimelineOrder),
    /// As of a sync position.
    Sync(SyncToken),
}

/// The text is no token that we made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a token of this server")]
pub struct BadToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "s1_{ONLY_WRITER}.{}", self.position.0)?;
        if let Some(serial) = self.typing {
            write!(formatter, ".{}", serial.0)?;
        }
        if self.inbox == self.position { Ok(()) } else { write!(formatter, "~{}", self.inbox.0) }
    }
}

impl FromStr for SyncToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let list = text.strip_prefix("s1_").ok_or(BadToken)?;
        let (writer, rest) = list.split_once('.').ok_or(BadToken)?;
        if writer.parse::<u64>() != Ok(ONLY_WRITER) {
            return Err(BadToken);
        }
        let number = |text: &str| text.parse().ok().filter(|_| is_plain_number(text)).ok_or(BadToken);
        let (told, inbox) = match rest.split_once('~') {
            None => (rest, None),
            Some((told, inbox)) => (told, Some(StreamPosition(number(inbox)?))),
        };
        let (position, typing) = match told.split_once('.') {
            None => (told, None),
            Some((position, serial)) => (position, Some(TypingSerial(number(serial)?))),
        };
        let position = StreamPosition(number(position)?);
        Ok(Self { position, typing, inbox: inbox.unwrap_or(position) })
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeline(order) => write!(formatter, "t1_{}", order.0),
            Self::Sync(token) => token.fmt(formatter),
        }
    }
}

impl FromStr for PageToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        match text.strip_prefix("t1_") {
            Some(order) if is_plain_number(order.strip_prefix('-').unwrap_or(order)) => {
                order.parse().map(|order| Self::Timeline(TimelineOrder(order))).map_err(|_| BadToken)
            }
            Some(_) => Err(BadToken),
            None => text.parse().map(Self::Sync),
        }
    }
}

fn is_plain_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_round_trip() {
        for position in [0, 1, u64::MAX] {
            for typing in [None, Some(TypingSerial(0)), Some(TypingSerial(u64::MAX))] {
                let token = SyncToken { typing, ..SyncToken::at(StreamPosition(position)) };
                assert_eq!(token.to_string().parse(), Ok(token));
                let token = SyncToken { inbox: StreamPosition(3), ..token };
                assert_eq!(token.to_string().parse(), Ok(token));
            }
        }
        let cut = SyncToken { inbox: StreamPosition(3), ..SyncToken::at(StreamPosition(5)) };
        assert_eq!((SyncToken::at(cut.position).to_string(), cut.to_string()), ("s1_0.5".into(), "s1_0.5~3".into()));
        for order in [i64::MIN, -1, 0, 7] {
            let token = PageToken::Timeline(TimelineOrder(order));
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        assert_eq!("s1_0.5".parse(), Ok(PageToken::Sync(SyncToken::at(StreamPosition(5)))));
        let typing = SyncToken { typing: Some(TypingSerial(7)), ..cut };
        assert_eq!("s1_0.5.7~3".parse(), Ok(typing));
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in [
            "",
            "s1_",
            "s1_1.5",
            "s1_0.+5",
            "s1_0.-5",
            "s1_0.5~",
            "s1_0.5~x",
            "s1_0.~5",
            "s2_0.5",
            "t1_",
            "t1_--5",
            "t1_x",
            "18446744073709551616",
            "s1_0.5.",
            "s1_0.5.+7",
            "s1_0.5.6.7",
            "s1_0..7",
        ] {
            assert_eq!(text.parse::<PageToken>(), Err(BadToken), "{text}");
        }
    }
}
