//! Which localparts a new account may have.
//! May not: know which are taken.

use ruma::{OwnedUserId, ServerName, UserId};

/// Longest user id in bytes. Spec: <https://spec.matrix.org/v1.19/appendices/#user-identifiers>
const USER_ID_BYTES_MAX: usize = 255;

/// What application services put before the names of the users they make; kept free for them.
const RESERVED_PREFIX: char = '_';

/// Characters of a localpart that the server makes up.
pub const DRAWN_CHARACTERS: usize = 12;

/// Why a name cannot become an account's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsernameRefusal {
    /// Empty, or holds what a user id must not hold.
    #[error("a user name holds a-z, 0-9 and any of ._=-/+")]
    NotAllowedCharacters,
    /// The user id would have more than 255 bytes.
    #[error("the user name is too long")]
    TooLong,
    /// Application services make such names.
    #[error("such names are reserved")]
    Reserved,
}

/// The user id of a new account. Capital letters become small ones, as everywhere in Matrix: user ids differ by more than case.
///
/// # Errors
/// A [`UsernameRefusal`].
pub fn user_id_of(username: &str, server_name: &ServerName) -> Result<OwnedUserId, UsernameRefusal> {
    if username.len() > USER_ID_BYTES_MAX {
        return Err(UsernameRefusal::TooLong);
    }
    let localpart = username.to_ascii_lowercase();
    let is_conforming = !localpart.is_empty()
        && localpart
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.=_/+".contains(&byte));
    if !is_conforming {
        return Err(UsernameRefusal::NotAllowedCharacters);
    }
    if localpart.starts_with(RESERVED_PREFIX) {
        return Err(UsernameRefusal::Reserved);
    }
    let user_id = format!("@{localpart}:{server_name}");
    if user_id.len() > USER_ID_BYTES_MAX {
        return Err(UsernameRefusal::TooLong);
    }
    UserId::parse(user_id).map_err(|_| UsernameRefusal::NotAllowedCharacters)
}

/// A localpart made of random bytes, for those who asked for none.
#[must_use]
pub fn drawn_localpart(drawn: [u8; DRAWN_CHARACTERS]) -> String {
    drawn.iter().map(|byte| char::from(b'a'.saturating_add(byte % 26))).collect()
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn names_are_judged_by_the_grammar_of_user_ids() {
        let server = server_name!("example.org");
        for (name, expected) in [
            ("alice", Ok("@alice:example.org")),
            ("Alice", Ok("@alice:example.org")),
            ("a.b_c=d-e/f+1", Ok("@a.b_c=d-e/f+1:example.org")),
            ("7", Ok("@7:example.org")),
            ("", Err(UsernameRefusal::NotAllowedCharacters)),
            ("al ice", Err(UsernameRefusal::NotAllowedCharacters)),
            ("ålice", Err(UsernameRefusal::NotAllowedCharacters)),
            ("alice\n", Err(UsernameRefusal::NotAllowedCharacters)),
            ("alice\0", Err(UsernameRefusal::NotAllowedCharacters)),
            ("@alice:example.org", Err(UsernameRefusal::NotAllowedCharacters)),
            ("@alice:other.org", Err(UsernameRefusal::NotAllowedCharacters)),
            ("alice:other.org", Err(UsernameRefusal::NotAllowedCharacters)),
            ("_bridge_alice", Err(UsernameRefusal::Reserved)),
        ] {
            let judged = user_id_of(name, server);
            assert_eq!(
                judged.as_ref().map(|user_id| user_id.as_str()).map_err(|refusal| *refusal),
                expected,
                "{name:?}"
            );
        }
    }

    #[test]
    fn user_ids_have_255_bytes_at_most() {
        let server = server_name!("example.org");
        let around = "@:example.org".len();
        assert!(user_id_of(&"a".repeat(255 - around), server).is_ok());
        assert_eq!(user_id_of(&"a".repeat(256 - around), server), Err(UsernameRefusal::TooLong));
        assert_eq!(user_id_of(&"é".repeat(10_000_000), server), Err(UsernameRefusal::TooLong));
    }

    #[test]
    fn drawn_names_are_allowed() {
        let name = drawn_localpart([0, 25, 26, 51, 52, 99, 128, 200, 250, 253, 254, 255]);
        assert_eq!(name.len(), 12);
        assert!(user_id_of(&name, server_name!("example.org")).is_ok(), "{name}");
    }
}
