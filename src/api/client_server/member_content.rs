//! What a member event says besides the membership: the member's profile and the reason.
//! May not: decide a membership, or put anything in that a client sent and we did not look at.

use ruma::{CanonicalJsonObject, CanonicalJsonValue, UserId};
use vestibule_storage::{accounts::AccountReader, error::StorageError};

/// The profile fields that member events carry. Spec: <https://spec.matrix.org/v1.19/client-server-api/#mroommember>
const PROFILE_FIELDS: [&str; 2] = ["avatar_url", "displayname"];

/// The profile of a local user as member content. Empty for others: only their server knows it.
///
/// # Errors
/// When the store cannot be read.
pub async fn profile_content(
    accounts: &dyn AccountReader,
    user_id: &UserId,
) -> Result<CanonicalJsonObject, StorageError> {
    let profile = accounts.user(user_id).await?.map(|user| user.profile).unwrap_or_default();
    let fields = PROFILE_FIELDS.into_iter().filter_map(|field| {
        // Fields are JSON text; anything but a string would be no profile field of a member event.
        let value: String = profile.get(field).and_then(|json| serde_json::from_str(json).ok())?;
        Some((field.to_owned(), CanonicalJsonValue::String(value)))
    });
    Ok(fields.collect())
}

/// Content that says a reason, if there is one.
pub fn reason_content(reason: Option<String>) -> CanonicalJsonObject {
    reason.map(|reason| ("reason".to_owned(), CanonicalJsonValue::String(reason))).into_iter().collect()
}

/// `content` with what is missing in it taken from `defaults`.
pub fn filled_up(mut content: CanonicalJsonObject, defaults: CanonicalJsonObject) -> CanonicalJsonObject {
    for (key, value) in defaults {
        content.entry(key).or_insert(value);
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_said_wins_over_the_profile() {
        let said = CanonicalJsonObject::from([("displayname".to_owned(), "Ann".into())]);
        let profile = CanonicalJsonObject::from([
            ("avatar_url".to_owned(), "mxc://a/b".into()),
            ("displayname".to_owned(), "Anna".into()),
        ]);
        let filled = filled_up(said, profile);
        assert_eq!(filled.get("displayname").and_then(|value| value.as_str()), Some("Ann"));
        assert_eq!(filled.get("avatar_url").and_then(|value| value.as_str()), Some("mxc://a/b"));
    }

    #[test]
    fn no_reason_is_no_key() {
        assert!(reason_content(None).is_empty());
        assert_eq!(reason_content(Some(String::new())).len(), 1);
    }
}
