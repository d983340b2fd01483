//! What an alias of ours may be, and how it is taken out of a room's list.
//! May not: know which aliases exist.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, RoomAliasId, ServerName};

use crate::error::MatrixError;

/// Longest alias in bytes. Spec: <https://spec.matrix.org/v1.19/appendices/#room-aliases>
const ALIAS_BYTES_MAX: usize = 255;

/// Aliases of one room. Ours: rooms have a handful, and each costs disk space.
pub const ALIASES_PER_ROOM_MAX: usize = 100;

/// Judges whether an alias can be made here.
///
/// # Errors
/// 400 `M_INVALID_PARAM`.
pub fn check_ours(alias: &RoomAliasId, server_name: &ServerName) -> Result<(), MatrixError> {
    if alias.server_name() != server_name {
        return Err(MatrixError::invalid_param("the alias is another server's"));
    }
    let localpart = alias.alias();
    let holds_odd = localpart.chars().any(|letter| letter.is_whitespace() || letter.is_control());
    if localpart.is_empty() || holds_odd || alias.as_str().len() > ALIAS_BYTES_MAX {
        return Err(MatrixError::invalid_param(
            "an alias has 255 bytes at most, and no white space or control characters",
        ));
    }
    Ok(())
}

/// The content of `m.room.canonical_alias` without some aliases; `None` when it holds none of them.
#[must_use]
pub fn without_aliases(mut content: CanonicalJsonObject, gone: &[OwnedRoomAliasId]) -> Option<CanonicalJsonObject> {
    let is_gone = |value: &CanonicalJsonValue| gone.iter().any(|alias| value.as_str() == Some(alias.as_str()));
    let is_main = content.get("alias").is_some_and(is_gone);
    if is_main {
        content.remove("alias");
    }
    let mut is_other = false;
    if let Some(CanonicalJsonValue::Array(others)) = content.get_mut("alt_aliases") {
        let before = others.len();
        others.retain(|value| !is_gone(value));
        is_other = others.len() < before;
    }
    (is_main || is_other).then_some(content)
}

/// All aliases that the content of `m.room.canonical_alias` names.
#[must_use]
pub fn aliases_in(content: &CanonicalJsonObject) -> Vec<String> {
    let main = content.get("alias").and_then(|alias| alias.as_str());
    let others = content.get("alt_aliases").and_then(|aliases| aliases.as_array()).unwrap_or_default();
    let others = others.iter().filter_map(|alias| alias.as_str());
    main.into_iter().chain(others).filter(|alias| !alias.is_empty()).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use ruma::{RoomAliasId, owned_room_alias_id, server_name};
    use serde_json::json;
    use vestibule_protocol::canonical_json::parse_object;

    use super::*;

    #[test]
    fn aliases_of_ours_are_short_and_have_no_gaps() {
        let server = server_name!("example.org");
        for (alias, is_good) in [
            ("#garden:example.org", true),
            ("#Gärten:example.org", true),
            ("#a/b:example.org", true),
            ("#garden:other.org", false),
            ("#garden:example.org:8448", false),
            ("#:example.org", false),
            ("#the garden:example.org", false),
            ("#the\u{a0}garden:example.org", false),
            ("#the\ngarden:example.org", false),
        ] {
            let Ok(parsed) = RoomAliasId::parse(alias) else {
                assert!(!is_good, "{alias:?}");
                continue;
            };
            assert_eq!(check_ours(&parsed, server).is_ok(), is_good, "{alias:?}");
        }
    }

    #[test]
    fn an_alias_is_taken_out_wherever_it_stands() {
        let object = |value: serde_json::Value| match CanonicalJsonValue::try_from(value) {
            Ok(CanonicalJsonValue::Object(object)) => object,
            other => panic!("no object: {other:?}"),
        };
        for (content, expected) in [
            (json!({ "alias": "#a:x" }), Some(json!({}))),
            (
                json!({ "alias": "#b:x", "alt_aliases": ["#a:x", "#c:x"] }),
                Some(json!({ "alias": "#b:x", "alt_aliases": ["#c:x"] })),
            ),
            (json!({ "alias": "#a:x", "alt_aliases": ["#a:x"], "z": 1 }), Some(json!({ "alt_aliases": [], "z": 1 }))),
            (json!({ "alias": "#b:x", "alt_aliases": ["#c:x", 5] }), None),
            (json!({ "alias": 5, "alt_aliases": "#a:x" }), None),
            (json!({}), None),
        ] {
            let left = without_aliases(object(content.clone()), &[owned_room_alias_id!("#a:x")]);
            assert_eq!(left, expected.map(object), "{content}");
        }
    }

    #[test]
    fn all_aliases_of_the_content_are_judged() {
        let content = parse_object(br##"{"alias":"#a:x","alt_aliases":["#b:x","",7]}"##).unwrap();
        assert_eq!(aliases_in(&content), ["#a:x", "#b:x"]);
        let content = parse_object(br##"{"alias":null,"alt_aliases":"#b:x"}"##).unwrap();
        assert!(aliases_in(&content).is_empty());
    }
}
