//! Profile fields: their names, what may stand in them, and how much a profile holds.
//! May not: read or change a profile.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#profiles>

use std::collections::BTreeMap;

use serde_json::Value;

/// Longest name of a field in bytes. Spec: "Profiles".
const NAME_BYTES_MAX: usize = 255;

/// Largest profile in bytes, as canonical JSON. Spec: "Profiles".
const PROFILE_BYTES_MAX: usize = 64 * 1024;

/// Longest display name in characters: it goes into every member event. Synapse has the same bound.
const DISPLAY_NAME_CHARACTERS_MAX: usize = 256;

/// Longest avatar address in bytes: it goes into every member event. Synapse has the same bound.
const AVATAR_URL_BYTES_MAX: usize = 1000;

/// Why a field cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRefusal {
    /// Its name has more than 255 bytes.
    NameTooLong,
    /// Its name follows no grammar of names.
    NameNotAllowed,
    /// The display name is no text, too long, or holds what no name should.
    DisplayNameNotAllowed,
    /// The avatar is no `mxc:` address, or too long.
    AvatarUrlNotAllowed,
    /// The value is nested too deeply, or holds numbers that canonical JSON does not know.
    ValueNotCanonical,
    /// The profile would have more than 64 KiB.
    ProfileTooLarge,
}

/// The two fields that go into member events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberField {
    /// `displayname`
    DisplayName,
    /// `avatar_url`
    AvatarUrl,
}

impl MemberField {
    /// Both.
    pub const ALL: [Self; 2] = [Self::DisplayName, Self::AvatarUrl];

    /// The field's name, in profiles and in member events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DisplayName => "displayname",
            Self::AvatarUrl => "avatar_url",
        }
    }

    /// The member field of that name, if it is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }
}

/// Judges the name of a field that is asked for or removed.
///
/// # Errors
/// [`FieldRefusal::NameTooLong`], [`FieldRefusal::NameNotAllowed`].
pub fn check_name(name: &str) -> Result<(), FieldRefusal> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FieldRefusal::NameTooLong);
    }
    // The grammar of common namespaced identifiers; the two old fields fit it too.
    let starts_with_letter = name.starts_with(|first: char| first.is_ascii_lowercase());
    let is_conforming =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte));
    if starts_with_letter && is_conforming { Ok(()) } else { Err(FieldRefusal::NameNotAllowed) }
}

/// The JSON text to keep for a field, or `None` when the value means that it is to be removed: clients of old unset the
/// display name and avatar by null or an empty text.
///
/// # Errors
/// A [`FieldRefusal`]; names are judged too.
pub fn kept_text(name: &str, value: &Value) -> Result<Option<String>, FieldRefusal> {
    check_name(name)?;
    if let Some(field) = MemberField::named(name) {
        let refusal = match field {
            MemberField::DisplayName => FieldRefusal::DisplayNameNotAllowed,
            MemberField::AvatarUrl => FieldRefusal::AvatarUrlNotAllowed,
        };
        match value {
            Value::Null => return Ok(None),
            Value::String(text) if text.is_empty() => return Ok(None),
            Value::String(text) if member_text_is_allowed(field, text) => {}
            _ => return Err(refusal),
        }
    }
    let canonical = ruma::CanonicalJsonValue::try_from(value.clone()).map_err(|_| FieldRefusal::ValueNotCanonical)?;
    Ok(Some(canonical.to_string()))
}

fn member_text_is_allowed(field: MemberField, text: &str) -> bool {
    match field {
        MemberField::DisplayName => {
            text.chars().count() <= DISPLAY_NAME_CHARACTERS_MAX && !text.chars().any(char::is_control)
        }
        MemberField::AvatarUrl => {
            let is_media = text.strip_prefix("mxc://").and_then(|rest| rest.split_once('/'));
            text.len() <= AVATAR_URL_BYTES_MAX
                && is_media.is_some_and(|(server, media)| !server.is_empty() && !media.is_empty())
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        }
    }
}

/// Judges whether a profile stays small enough with one field set to a JSON text.
///
/// # Errors
/// [`FieldRefusal::ProfileTooLarge`].
pub fn check_room_left(profile: &BTreeMap<String, String>, name: &str, text: &str) -> Result<(), FieldRefusal> {
    // `{"name":value,…}`: names hold nothing that is escaped.
    let row_bytes = |name: &str, value: &str| name.len() + value.len() + r#""":,"#.len();
    let others: usize =
        profile.iter().filter(|(other, _)| *other != name).map(|(other, value)| row_bytes(other, value)).sum();
    let bytes = "{}".len() + others + row_bytes(name, text) - ",".len();
    if bytes > PROFILE_BYTES_MAX { Err(FieldRefusal::ProfileTooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for (name, expected) in [
            ("displayname", Ok(())),
            ("avatar_url", Ok(())),
            ("m.tz", Ok(())),
            ("org.example.field-1", Ok(())),
            ("", Err(FieldRefusal::NameNotAllowed)),
            ("1st", Err(FieldRefusal::NameNotAllowed)),
            ("Name", Err(FieldRefusal::NameNotAllowed)),
            ("m tz", Err(FieldRefusal::NameNotAllowed)),
            ("m.t\u{0}z", Err(FieldRefusal::NameNotAllowed)),
            ("name\"", Err(FieldRefusal::NameNotAllowed)),
        ] {
            assert_eq!(check_name(name), expected, "{name:?}");
        }
        assert_eq!(check_name(&"a".repeat(255)), Ok(()));
        assert_eq!(check_name(&"a".repeat(256)), Err(FieldRefusal::NameTooLong));
    }

    #[test]
    fn values_are_judged_by_their_field() {
        let long = "a".repeat(257);
        let long_mxc = format!("mxc://example.org/{}", "a".repeat(1000));
        for (name, value, expected) in [
            ("displayname", json!("Alice"), Ok(Some("\"Alice\""))),
            ("displayname", json!("Ålice 🐈"), Ok(Some("\"Ålice 🐈\""))),
            ("displayname", json!(""), Ok(None)),
            ("displayname", json!(null), Ok(None)),
            ("displayname", json!(7), Err(FieldRefusal::DisplayNameNotAllowed)),
            ("displayname", json!({}), Err(FieldRefusal::DisplayNameNotAllowed)),
            ("displayname", json!("a\nb"), Err(FieldRefusal::DisplayNameNotAllowed)),
            ("displayname", json!(long), Err(FieldRefusal::DisplayNameNotAllowed)),
            ("avatar_url", json!("mxc://example.org/abc"), Ok(Some("\"mxc://example.org/abc\""))),
            ("avatar_url", json!(""), Ok(None)),
            ("avatar_url", json!("https://example.org/abc"), Err(FieldRefusal::AvatarUrlNotAllowed)),
            ("avatar_url", json!("mxc://example.org"), Err(FieldRefusal::AvatarUrlNotAllowed)),
            ("avatar_url", json!("mxc://example.org/a b"), Err(FieldRefusal::AvatarUrlNotAllowed)),
            ("avatar_url", json!(long_mxc), Err(FieldRefusal::AvatarUrlNotAllowed)),
            ("m.tz", json!("Europe/Berlin"), Ok(Some("\"Europe/Berlin\""))),
            ("org.example.x", json!({"b": 1, "a": [null]}), Ok(Some("{\"a\":[null],\"b\":1}"))),
            ("org.example.x", json!(null), Ok(Some("null"))),
            ("org.example.x", json!(1.5), Err(FieldRefusal::ValueNotCanonical)),
        ] {
            let kept = kept_text(name, &value);
            assert_eq!(kept.as_ref().map(Option::as_deref).map_err(|refusal| *refusal), expected, "{name} {value}");
        }
    }

    #[test]
    fn a_profile_holds_64_kibibytes_and_not_a_byte_more() {
        // {"a":"…"}: 8 bytes around the text
        let text = |letters: usize| format!("\"{}\"", "x".repeat(letters));
        let empty = BTreeMap::new();
        assert_eq!(check_room_left(&empty, "a", &text(PROFILE_BYTES_MAX - 8)), Ok(()));
        assert_eq!(check_room_left(&empty, "a", &text(PROFILE_BYTES_MAX - 7)), Err(FieldRefusal::ProfileTooLarge));
        let full = BTreeMap::from([("a".to_owned(), text(PROFILE_BYTES_MAX - 8))]);
        assert_eq!(check_room_left(&full, "a", &text(1)), Ok(()));
        assert_eq!(check_room_left(&full, "b", "1"), Err(FieldRefusal::ProfileTooLarge));
        // the estimate is the length of the canonical JSON
        let both = BTreeMap::from([("a", "x".repeat(10)), ("b", "y".repeat(20))]);
        let length = serde_json::to_string(&both).unwrap().len();
        let one = BTreeMap::from([("a".to_owned(), text(PROFILE_BYTES_MAX - length + 10))]);
        assert_eq!(check_room_left(&one, "b", &text(20)), Ok(()));
        assert_eq!(check_room_left(&one, "b", &text(21)), Err(FieldRefusal::ProfileTooLarge));
    }
}
