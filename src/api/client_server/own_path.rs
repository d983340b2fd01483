//! Endpoints whose path names a user, and that serve that user alone.
//! May not: make exceptions.

use ruma::UserId;

use crate::{
    error::MatrixError,
    extract::{Caller, PathArguments},
};

/// Judges whether the first argument of the path is the caller's user id.
///
/// # Errors
/// 400 `M_INVALID_PARAM` when it is no user id, 403 `M_FORBIDDEN` when it is another's.
pub fn check_own(caller: &Caller, path: &PathArguments) -> Result<(), MatrixError> {
    let user_id: &UserId = path.parse(0, "user id")?;
    if user_id == caller.user_id { Ok(()) } else { Err(MatrixError::forbidden("this is another user's")) }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_device_id, owned_user_id};

    use super::*;

    #[test]
    fn only_the_caller_passes() {
        let caller = Caller {
            user_id: owned_user_id!("@alice:example.org"),
            device_id: owned_device_id!("PHONE"),
            is_admin: true,
        };
        for (path, status) in [
            ("/user/@alice:example.org", None),
            ("/user/%40alice%3Aexample.org", None),
            ("/user/@bob:example.org", Some(403)),
            ("/user/@Alice:example.org", Some(403)),
            ("/user/alice", Some(400)),
            ("/user/", Some(400)),
        ] {
            let path = PathArguments::of("/user/{user_id}", path).unwrap();
            assert_eq!(check_own(&caller, &path).err().map(|error| error.status.as_u16()), status, "{path:?}");
        }
        let long =
            PathArguments::of("/user/{user_id}", &format!("/user/@{}:example.org", "a".repeat(10_000_000))).unwrap();
        assert_eq!(check_own(&caller, &long).unwrap_err().status, 400);
    }
}
