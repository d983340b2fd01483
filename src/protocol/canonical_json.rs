//! JSON with one meaning: the strict parser for everything whose signature or hash matters.
//! May not: guess. Doubled keys, floats and numbers outside canonical JSON are errors, never repaired.
//!
//! A lenient parser keeps the last of two equal keys; a peer's keeps the first. Then a signature covers one reading and the
//! rules judge the other. So such text is refused before anybody looks at it.

use std::{fmt, mem::size_of};

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
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
        _ => Err(no_object()),
    }
}

/// Parses any JSON value with exactly one reading.
///
/// # Errors
/// As [`parse_object`].
pub fn parse_value(bytes: &[u8]) -> Result<CanonicalJsonValue, JsonRefusal> {
    read_all(bytes, Strict)
}

/// A JSON object with exactly one reading, as its canonical text: what signatures are about.
///
/// Parsed, an object can take a hundred times the memory of its text. So the text alone is made of what a stranger sent, and
/// [`CanonicalText::parsed_bytes`] says beforehand what parsing it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalText {
    text: String,
    parsed_bytes: usize,
}

impl CanonicalText {
    /// Reads an object and writes it as canonical JSON.
    ///
    /// # Errors
    /// As [`parse_object`].
    pub fn read(bytes: &[u8]) -> Result<Self, JsonRefusal> {
        let mut canonical = Self { text: String::new(), parsed_bytes: 0 };
        read_all(bytes, Write(&mut canonical))?;
        if canonical.text.starts_with('{') { Ok(canonical) } else { Err(no_object()) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// About as many bytes of memory as [`CanonicalText::parse`] takes and its result holds.
    pub fn parsed_bytes(&self) -> usize {
        self.parsed_bytes
    }

    /// The object.
    ///
    /// # Errors
    /// None in fact, since it was read before.
    pub fn parse(&self) -> Result<CanonicalJsonObject, JsonRefusal> {
        parse_object(self.text.as_bytes())
    }

    fn string<E: serde::de::Error>(&mut self, value: &str) -> Result<(), E> {
        self.text.push_str(&serde_json::to_string(value).map_err(E::custom)?);
        Ok(())
    }

    fn weigh(&mut self, bytes: usize) {
        self.parsed_bytes = self.parsed_bytes.saturating_add(bytes);
    }
}

fn read_all<'de, S: DeserializeSeed<'de>>(bytes: &'de [u8], seed: S) -> Result<S::Value, JsonRefusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = seed.deserialize(&mut deserializer).and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    read.map_err(|error| {
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

fn no_object() -> JsonRefusal {
    JsonRefusal::NotCanonical("expected an object".to_owned())
}

fn integer<E: serde::de::Error>(value: impl TryInto<Int>) -> Result<Int, E> {
    value.try_into().map_err(|_| E::custom("integer outside ±(2^53−1)"))
}

fn no_plain_integer<E: serde::de::Error>() -> E {
    E::custom("a number that is no plain integer")
}

fn same_key_twice<E: serde::de::Error>() -> E {
    E::custom("the same key twice in one object")
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
        integer(value).map(CanonicalJsonValue::Integer)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        integer(value).map(CanonicalJsonValue::Integer)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(no_plain_integer())
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
                return Err(same_key_twice());
            }
            object.insert(key, value);
        }
        Ok(CanonicalJsonValue::Object(object))
    }
}

/// Writes one value as canonical text, and notes what it would weigh parsed.
struct Write<'a>(&'a mut CanonicalText);

/// Memory of one value beside what it points to.
const VALUE_BYTES: usize = size_of::<CanonicalJsonValue>();

/// Places in a node of a [`std::collections::BTreeMap`], of which one that grew in order fills about half. Source: its code.
const NODE_PLACES: usize = 11;

/// Memory of such a node, which a map with a single entry has too.
const NODE_BYTES: usize = NODE_PLACES * (size_of::<String>() + VALUE_BYTES) + 16;

/// Memory that an allocator spends on a string besides its bytes. Ours: about what common ones do.
const STRING_BYTES: usize = 16;

impl<'de> DeserializeSeed<'de> for Write<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Write<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Strict.expecting(formatter)
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.0.text.push_str("null");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.text.push_str(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.0.text.push_str(&integer(value)?.to_string());
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.0.text.push_str(&integer(value)?.to_string());
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(no_plain_integer())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.0.weigh(value.len().saturating_add(STRING_BYTES));
        self.0.string(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let canonical = self.0;
        canonical.text.push('[');
        let mut count: usize = 0;
        while sequence.next_element_seed(Write(canonical))?.is_some() {
            canonical.text.push(',');
            count = count.saturating_add(1);
        }
        if count > 0 {
            canonical.text.pop();
            // A list doubles as it grows.
            canonical.weigh(count.next_power_of_two().max(4).saturating_mul(VALUE_BYTES));
        }
        canonical.text.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let canonical = self.0;
        canonical.text.push('{');
        let begin = canonical.text.len();
        let mut entries = Vec::new();
        while let Some(Key(key)) = map.next_key()? {
            let entry_begin = canonical.text.len().saturating_sub(begin);
            canonical.weigh(key.len().saturating_add(STRING_BYTES));
            canonical.string(&key)?;
            canonical.text.push(':');
            map.next_value_seed(Write(canonical))?;
            entries.push((key, entry_begin..canonical.text.len().saturating_sub(begin)));
            canonical.text.push(',');
        }
        if !entries.is_empty() {
            canonical.text.pop();
            canonical.weigh(entries.len().div_ceil(NODE_PLACES / 2).saturating_mul(NODE_BYTES));
        }
        if !entries.is_sorted_by(|(key, _), (next, _)| key < next) {
            entries.sort_unstable_by(|(key, _), (other, _)| key.cmp(other));
            if !entries.is_sorted_by(|(key, _), (next, _)| key < next) {
                return Err(same_key_twice());
            }
            let as_sent = canonical.text.split_off(begin);
            let sorted: Vec<&str> = entries.into_iter().filter_map(|(_, entry)| as_sent.get(entry)).collect();
            canonical.text.push_str(&sorted.join(","));
        }
        canonical.text.push('}');
        Ok(())
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

    fn refusal<T>(read: Result<T, JsonRefusal>) -> &'static str {
        match read {
            Ok(_) => "none",
            Err(JsonRefusal::NotJson(_)) => "not json",
            Err(JsonRefusal::NotCanonical(_)) => "not canonical",
        }
    }

    /// What a value holds beside itself, without what an allocator or a map spends.
    fn held(value: &CanonicalJsonValue) -> usize {
        match value {
            CanonicalJsonValue::String(text) => text.len(),
            CanonicalJsonValue::Array(list) => list.iter().map(|entry| VALUE_BYTES + held(entry)).sum(),
            CanonicalJsonValue::Object(map) => {
                map.iter().map(|(key, entry)| size_of::<String>() + key.len() + VALUE_BYTES + held(entry)).sum()
            }
            _ => 0,
        }
    }

    #[test]
    fn what_a_text_weighs_parsed_is_no_less_than_it_holds_and_not_much_more() {
        let many = |entry: &str| format!("[{entry}{}]", format!(",{entry}").repeat(999));
        let keys: Vec<String> = (0..1000).map(|number| format!("\"{number}\":0")).collect();
        for (what, value) in [
            ("a long string", format!("\"{}\"", "x".repeat(10_000))),
            ("a long key", format!("{{\"{}\":0}}", "x".repeat(10_000))),
            ("a list", many("0")),
            ("lists of one", many("[0]")),
            ("maps of one", many("{\"\":0}")),
            ("a map", format!("{{{}}}", keys.join(","))),
            ("short strings", many("\"x\"")),
        ] {
            let text = CanonicalText::read(format!("{{\"k\":{value}}}").as_bytes()).unwrap();
            let holds = held(&CanonicalJsonValue::Object(text.parse().unwrap()));
            let weighs = text.parsed_bytes();
            assert!(weighs >= holds && weighs <= 12 * holds, "{what}: {weighs} for {holds}");
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
            let shown: String = text.chars().take(60).collect();
            assert_eq!(refusal(parse_object(text.as_bytes())), verdict, "{shown}");
            assert_eq!(refusal(CanonicalText::read(text.as_bytes())), verdict, "{shown}");
        }
        assert!(parse_object(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_text_is_what_its_object_is_written_as() {
        let table = [
            r#"{}"#,
            r#"{ "b" : [ true , null , "x" , { } , [ ] ] , "a" : -1 }"#,
            r#"{"ä\u0001\"\/":{"z":{"b":2,"a":[{"y":0,"x":"\u2028\n"},7]},"":""},"\ud83d\ude00":9007199254740991,"aa":0,"a":1}"#,
            // By code points, not by how a key is escaped: a quote comes before a letter, and is written with a backslash.
            r#"{"b":1,"\"":2,"\u0000":3,"\\":4,"\u00e9":5,"\uffff":6}"#,
        ];
        for text in table {
            let canonical = CanonicalText::read(text.as_bytes()).unwrap();
            let object = parse_object(text.as_bytes()).unwrap();
            assert_eq!(canonical.as_str(), serde_json::to_string(&object).unwrap());
            assert_eq!(canonical.parse().unwrap(), object);
        }
    }
}
