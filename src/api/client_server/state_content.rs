//! Judges the content of state that a client sets, where one that cannot be read would mean something else than was meant.
//! May not: ask for more than that; content is the clients' own, and the room judges what its rules speak of.

use ruma::{
    CanonicalJsonObject,
    events::{StateEventType, room::history_visibility::HistoryVisibility},
};

use crate::error::MatrixError;

/// Who may read history. Whatever else stands there counts as `shared`, so a slip of the pen would open a room.
///
/// Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroomhistory_visibility>
const HISTORY_VISIBILITIES: [HistoryVisibility; 4] = [
    HistoryVisibility::Invited,
    HistoryVisibility::Joined,
    HistoryVisibility::Shared,
    HistoryVisibility::WorldReadable,
];

/// Judges content before it becomes an event.
///
/// # Errors
/// 400 `M_BAD_JSON`.
pub fn check(kind: &StateEventType, content: &CanonicalJsonObject) -> Result<(), MatrixError> {
    if *kind != StateEventType::RoomHistoryVisibility {
        return Ok(());
    }
    let visibility = content.get("history_visibility").and_then(|visibility| visibility.as_str());
    if visibility.is_some_and(|visibility| HISTORY_VISIBILITIES.contains(&HistoryVisibility::from(visibility))) {
        return Ok(());
    }
    let known = HISTORY_VISIBILITIES.each_ref().map(HistoryVisibility::as_str).join(", ");
    Err(MatrixError::bad_json(format!("history_visibility must be one of {known}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::object;

    #[test]
    fn history_is_opened_by_nobodys_slip() {
        for (content, is_taken) in [
            (json!({ "history_visibility": "joined" }), true),
            (json!({ "history_visibility": "world_readable", "org.example.x": 1 }), true),
            (json!({ "history_visibility": "joind" }), false),
            (json!({ "history_visibility": 5 }), false),
            (json!({ "history_visibility": ["joined"] }), false),
            (json!({}), false),
        ] {
            let verdict = check(&StateEventType::RoomHistoryVisibility, &object(content.clone()));
            assert_eq!(verdict.is_ok(), is_taken, "{content}");
            assert!(check(&"org.example.other".into(), &object(content)).is_ok());
        }
    }
}
