//! Durations and sizes as people write them: `30s`, `64KiB`.
//! May not: guess a unit; a bare number is a size in bytes and never a duration.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

/// What a duration looks like, for error messages.
const SPAN_FORM: &str = "a duration such as \"500ms\", \"30s\", \"10m\", \"1h\" or \"7d\"";

/// What a size looks like, for error messages.
const SIZE_FORM: &str = "a size such as \"512B\", \"64KiB\", \"1MiB\", \"2GiB\", or a whole number of bytes";

/// Milliseconds in each unit of a duration, largest first; the order decides how a duration is printed.
const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Bytes in each unit of a size, largest first.
const SIZE_UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Longest duration that is accepted: a hundred years. Longer ones overflow when they are added to a time.
const SPAN_MS_MAX: u64 = 36_525 * 86_400_000;

/// A duration setting, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// A duration of whole seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration itself.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The duration, or nothing for `0s` where that means "never".
    #[must_use]
    pub fn unless_zero(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

/// A size setting, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size of so many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of so many mebibytes.
    #[must_use]
    pub const fn mebibytes(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A text that is no duration, or no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {expected}")]
pub struct UnitError {
    /// The form that was expected, with examples.
    pub expected: &'static str,
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let ms = parse_with_unit(text, &SPAN_UNITS).filter(|ms| *ms <= SPAN_MS_MAX);
        ms.map(|ms| Self(Duration::from_millis(ms))).ok_or(UnitError { expected: SPAN_FORM })
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bytes = parse_with_unit(text, &SIZE_UNITS).or_else(|| text.parse().ok());
        bytes.map(Self).ok_or(UnitError { expected: SIZE_FORM })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(self.0.as_millis()) {
            Ok(0) | Err(_) => write!(f, "{}s", self.0.as_secs()),
            Ok(ms) => print_with_unit(ms, &SPAN_UNITS, f),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            bytes => print_with_unit(bytes, &SIZE_UNITS, f),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SPAN_FORM)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE_FORM)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

/// A whole number and a unit, with nothing between them.
fn parse_with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let unit_at = text.find(|char: char| !char.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Prints in the largest unit that divides the number.
fn print_with_unit(number: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match units.iter().find(|(_, factor)| number.is_multiple_of(*factor)) {
        Some((unit, factor)) => write!(f, "{}{unit}", number / factor),
        None => write!(f, "{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_and_print_alike() {
        let table = [
            ("0s", 0),
            ("500ms", 500),
            ("1500ms", 1500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
        ];
        for (text, ms) in table {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.get(), Duration::from_millis(ms), "{text}");
            assert_eq!(span.to_string(), text);
        }
        assert_eq!("60s".parse::<Span>().unwrap().to_string(), "1m");
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in
            ["", "5", "s", "-1s", "1.5s", "1 s", "1S", "1w", "1h30m", "٣s", "18446744073709551615d", "36526d", " 1s"]
        {
            assert_eq!(text.parse::<Span>(), Err(UnitError { expected: SPAN_FORM }), "{text}");
        }
    }

    #[test]
    fn sizes_parse_and_print_alike() {
        let table =
            [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1MiB", 1 << 20), ("3GiB", 3 << 30), ("1TiB", 1 << 40)];
        for (text, bytes) in table {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.get(), bytes, "{text}");
            assert_eq!(size.to_string(), text);
        }
        assert_eq!("1024".parse::<ByteSize>().unwrap().to_string(), "1KiB");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "KiB", "1KB", "1kib", "1 KiB", "-1B", "1.5MiB", "99999999TiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError { expected: SIZE_FORM }), "{text}");
        }
    }

    #[test]
    fn zero_means_never_where_asked() {
        assert_eq!(Span::seconds(0).unless_zero(), None);
        assert_eq!(Span::seconds(2).unless_zero(), Some(Duration::from_secs(2)));
    }
}
