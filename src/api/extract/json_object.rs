//! Judges a client's body as a whole before its fields are looked for: a JSON object with one reading.
//! May not: ask more of numbers than JSON does, since not every body is an event; what is signed has the stricter parser.
//!
//! A type reads the fields that it knows and skips the others unread. Bytes that are no UTF-8, halves of surrogates and
//! nesting without end are an error wherever they stand, and so is a key that stands twice in an object: who reads the first
//! of two and who reads the last would see different bodies.

use std::{collections::BTreeSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::MatrixError;

/// Judges a body. Nesting deeper than 127 levels, which the parser refuses, counts as no JSON.
///
/// # Errors
/// 400 `M_NOT_JSON`; `M_BAD_JSON` when it is no object, or one with a key twice.
pub fn check_object(bytes: &[u8]) -> Result<(), MatrixError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let read = Judge.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match read {
        Ok(()) if bytes.trim_ascii_start().starts_with(b"{") => Ok(()),
        Ok(()) => Err(MatrixError::bad_json("the body must be an object")),
        Err(error) if error.is_data() => Err(MatrixError::bad_json(error)),
        Err(error) => Err(MatrixError::not_json(error)),
    }
}

/// Reads any value and keeps nothing of it.
struct Judge;

impl<'de> DeserializeSeed<'de> for Judge {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Judge {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(Self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys: BTreeSet<String> = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Self)?;
            if !keys.insert(key) {
                return Err(serde::de::Error::custom("the same key twice in one object"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_body_gets_its_verdict() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels)).into_bytes();
        let table: [(&[u8], &str); 27] = [
            (b"{}", ""),
            (b" {\"a\":[1,-1,1.5,1e300,true,null,\"\\ud83d\\ude00\\u0000\",{\"b\":{}}]} ", ""),
            (b"{\"a\":{\"x\":1},\"b\":{\"x\":1}}", ""),
            (b"{\"a\":18446744073709551616}", ""),
            (b"", "M_NOT_JSON"),
            (b"{", "M_NOT_JSON"),
            (b"{} {}", "M_NOT_JSON"),
            (b"{\"a\":1,}", "M_NOT_JSON"),
            (b"{'a':1}", "M_NOT_JSON"),
            (b"/**/{}", "M_NOT_JSON"),
            (b"\xef\xbb\xbf{}", "M_NOT_JSON"),
            (b"{\"a\":NaN}", "M_NOT_JSON"),
            (b"{\"a\":01}", "M_NOT_JSON"),
            (b"{\"a\":1e400}", "M_NOT_JSON"),
            (b"{\"a\":\"\xff\"}", "M_NOT_JSON"),
            (b"{\"\xff\":1}", "M_NOT_JSON"),
            (b"{\"a\":\"\xed\xa0\x80\"}", "M_NOT_JSON"),
            (b"{\"a\":\"\\ud800\"}", "M_NOT_JSON"),
            (b"{\"a\":[\"\\udc00\"]}", "M_NOT_JSON"),
            (b"{\"a\":\"x\ny\"}", "M_NOT_JSON"),
            (b"[]", "M_BAD_JSON"),
            (b"null", "M_BAD_JSON"),
            (b"\"{}\"", "M_BAD_JSON"),
            (b"5", "M_BAD_JSON"),
            (b"{\"a\":1,\"a\":1}", "M_BAD_JSON"),
            (b"{\"b\":[{\"a\":1,\"\\u0061\":2}]}", "M_BAD_JSON"),
            (b"[{\"a\":1,\"a\":1}]", "M_BAD_JSON"),
        ];
        let errcode = |body: &[u8]| check_object(body).err().map(|error| error.errcode.to_string()).unwrap_or_default();
        for (body, expected) in table {
            assert_eq!(errcode(body), expected, "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(errcode(&deep(126)), "");
        assert_eq!(errcode(&deep(127)), "M_NOT_JSON");
        assert_eq!(errcode(&deep(100_000)), "M_NOT_JSON");
    }
}
