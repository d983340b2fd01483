//! JSON with one meaning: the strict parser for everything whose signature or hash matters.
//! May not: guess. Doubled keys, floats and numbers outside canonical JSON are errors, never repaired.
//!
//! A lenient parser keeps the last of two equal keys; a peer's keeps the first. Then a signature covers one reading and the
//! rules judge the other. So such text is refused before anybody looks at it.

use std::fmt;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

/// Why bytes are not a canonical JSON object.
#[derive(Debug, Error)]
pub enum JsonRefusal {
    /// No JSON at all, or nested deeper than 127 levels.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object, or with doubled keys, floats, or integers outside ±(2^53−1).
    #[error("not canonical JSON: {0}")]
    NotCanonical(String),
}

/// Parses a JSON object with exactly one reading.
///
/// Spec: <https://spec.matrix.org/v1.19/appendices/#canonical-json>
///
/// # Errors
/// [`JsonRefusal`]: whether it is no JSON, or JSON that canonical JSON does not allow.
pub fn parse_object(bytes: &[u8]) -> Result<CanonicalJsonObject, JsonRefusal> {
    match parse_value(bytes)? {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(JsonRefusal::NotCanonical("expected an object".to_owned())),
    }
}

/// Parses any JSON value with exactly one reading.
///
/// # Errors
/// As [`parse_object`].
pub fn parse_value(bytes: &[u8]) -> Result<CanonicalJsonValue, JsonRefusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = Strict.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    parsed.map_err(|error| {
        let is_data = error.classify() == serde_json::error::Category::Data;
        // Integers beyond 64 bits and exponents beyond a double's range are data to us, syntax to the parser.
        let is_number = error.to_string().starts_with("number out of range");
        if is_data || is_number {
            JsonRefusal::NotCanonical(error.to_string())
        } else {
            JsonRefusal::NotJson(error.to_string())
        }
    })
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = CanonicalJsonValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = CanonicalJsonValue;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("canonical JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Int::try_from(value).map(CanonicalJsonValue::Integer).map_err(|_| E::custom("integer outside ±(2^53−1)"))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Int::try_from(value).map(CanonicalJsonValue::Integer).map_err(|_| E::custom("integer outside ±(2^53−1)"))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(E::custom("a number that is no plain integer"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut array = Vec::new();
        while let Some(value) = sequence.next_element_seed(Strict)? {
            array.push(value);
        }
        Ok(CanonicalJsonValue::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = CanonicalJsonObject::new();
        while let Some(Key(key)) = map.next_key()? {
            let value = map.next_value_seed(Strict)?;
            if object.contains_key(key.as_str()) {
                return Err(A::Error::custom("the same key twice in one object"));
            }
            object.insert(key, value);
        }
        Ok(CanonicalJsonValue::Object(object))
    }
}

struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> &'static str {
        match parse_object(text.as_bytes()) {
            Ok(_) => "none",
            Err(JsonRefusal::NotJson(_)) => "not json",
            Err(JsonRefusal::NotCanonical(_)) => "not canonical",
        }
    }

    #[test]
    fn each_kind_of_text_gets_its_verdict() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let table = [
            (r#"{"a":1,"b":[true,null,"x",{"c":-1}]}"#.to_owned(), "none"),
            (r#"{"a":9007199254740991,"b":-9007199254740991}"#.to_owned(), "none"),
            (r#"{"a":9007199254740992}"#.to_owned(), "not canonical"),
            (r#"{"a":-9007199254740992}"#.to_owned(), "not canonical"),
            (r#"{"a":99999999999999999999999}"#.to_owned(), "not canonical"),
            (r#"{"a":1.0}"#.to_owned(), "not canonical"),
            (r#"{"a":1e3}"#.to_owned(), "not canonical"),
            (r#"{"a":1e400}"#.to_owned(), "not canonical"),
            (r#"{"a":-0}"#.to_owned(), "not canonical"),
            (r#"{"a":NaN}"#.to_owned(), "not json"),
            (r#"{"a":1,"a":1}"#.to_owned(), "not canonical"),
            (r#"{"b":{"a":1,"a":2}}"#.to_owned(), "not canonical"),
            (r#"{"a":"\ud800"}"#.to_owned(), "not json"),
            (r#"{"a":"\u0000"}"#.to_owned(), "none"),
            ("\u{feff}{}".to_owned(), "not json"),
            ("{} x".to_owned(), "not json"),
            ("[]".to_owned(), "not canonical"),
            (String::new(), "not json"),
            (deep(126), "none"),
            (deep(129), "not json"),
            (deep(100_000), "not json"),
        ];
        for (text, verdict) in table {
            assert_eq!(refusal(&text), verdict, "{}", text.chars().take(60).collect::<String>());
        }
        assert!(parse_object(b"{\"a\":\"\xff\"}").is_err());
    }
}
