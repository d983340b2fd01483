//! Hashes and verifies passwords with argon2id.
//! May not: keep, log or compare a password; only its PHC string leaves here.

use std::fmt;

use actix_web::http::StatusCode;
use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use ruma::api::error::ErrorCode;
use serde::Deserialize;
use thiserror::Error;

use crate::{
    cpu_pool::{CpuPool, CpuPoolError},
    error::MatrixError,
};

/// What is verified for a user who does not exist or has no password, so that the answer takes the same time. Made of drawn
/// bytes and no password; a test holds its cost to that of real hashes.
const NOBODYS_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$cBUc6gwnlTt3mdx8Fyh/zQ$J02NwDRPAe+QJrJESaHeBa9wsZWRsXmkFShXhrYSjhI";

/// Longest password in bytes: beyond it more bytes add nothing but work. Synapse has the same bound.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Bytes of a salt, as the crate recommends.
pub const SALT_BYTES: usize = 16;

/// A password as somebody typed it. Cannot be printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// A password as somebody typed it; nothing is judged yet.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Judges whether a new account may have it.
    ///
    /// # Errors
    /// 400 `M_WEAK_PASSWORD` when it is empty, `M_INVALID_PARAM` when it is too long.
    pub fn check(&self) -> Result<(), MatrixError> {
        match self.0.len() {
            0 => Err(MatrixError::new(StatusCode::BAD_REQUEST, ErrorCode::WeakPassword, "the password is empty")),
            1..=PASSWORD_BYTES_MAX => Ok(()),
            _ => Err(MatrixError::invalid_param("password must have 512 bytes at most")),
        }
    }

    /// The text, for authentication codes over it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(…)")
    }
}

/// Why a password could not be hashed or verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PasswordError {
    /// No processor was free for it.
    #[error(transparent)]
    Pool(#[from] CpuPoolError),
    /// argon2 refused.
    #[error("a password could not be hashed")]
    Refused,
}

/// The PHC string of a password with a salt, with the crate's default cost.
///
/// # Errors
/// A [`PasswordError`]; nothing is kept either way.
pub async fn hash(cpu: &CpuPool, password: Password, salt: [u8; SALT_BYTES]) -> Result<String, PasswordError> {
    cpu.run(move || hash_now(password.0.as_bytes(), &salt)).await?
}

/// Whether the password is the one that was hashed. Without a hash: no, after the same time.
///
/// # Errors
/// A [`PasswordError`].
pub async fn verify(cpu: &CpuPool, password: Password, stored: Option<String>) -> Result<bool, PasswordError> {
    if password.0.len() > PASSWORD_BYTES_MAX {
        return Ok(false);
    }
    let verified = cpu.run(move || {
        let matches = verify_now(password.0.as_bytes(), stored.as_deref().unwrap_or(NOBODYS_HASH));
        matches && stored.is_some()
    });
    Ok(verified.await?)
}

fn hash_now(password: &[u8], salt: &[u8]) -> Result<String, PasswordError> {
    let hash: PasswordHash =
        Argon2::default().hash_password_with_salt(password, salt).map_err(|_| PasswordError::Refused)?;
    Ok(hash.to_string())
}

/// A hash that cannot be read matches nothing.
fn verify_now(password: &[u8], stored: &str) -> bool {
    PasswordHash::new(stored).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// A hash that was not computed is our trouble, never a wrong password.
impl From<PasswordError> for MatrixError {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Pool(error) => error.into(),
            PasswordError::Refused => Self::internal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password(text.to_owned())
    }

    #[actix_web::test]
    async fn only_the_hashed_password_is_verified() {
        let cpu = CpuPool::new(2);
        let stored = hash(&cpu, password("sesame"), [1; 16]).await.unwrap();
        let long = "a".repeat(10_000_000);
        for (tried, expected) in [("sesame", true), ("Sesame", false), ("", false), ("sesame ", false), (&long, false)]
        {
            let verified = verify(&cpu, password(tried), Some(stored.clone())).await.unwrap();
            assert_eq!(verified, expected, "{:?}", &tried[..tried.len().min(10)]);
        }
    }

    #[actix_web::test]
    async fn a_stored_hash_that_is_none_matches_nothing() {
        let cpu = CpuPool::new(2);
        for stored in ["", "sesame", "$argon2id$", "*"] {
            assert!(!verify(&cpu, password(stored), Some(stored.to_owned())).await.unwrap(), "{stored:?}");
        }
        assert!(!verify(&cpu, password("sesame"), None).await.unwrap());
    }

    #[test]
    fn verifying_nobodys_password_costs_what_a_real_one_costs() {
        let real = hash_now(b"sesame", &[1; 16]).unwrap();
        let cost = |phc: &str| phc.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cost(NOBODYS_HASH), cost(&real));
        let parsed = PasswordHash::new(NOBODYS_HASH).unwrap();
        assert!(parsed.salt.is_some_and(|salt| salt.len() == SALT_BYTES));
        assert!(parsed.hash.is_some_and(|hash| hash.len() == 32));
    }

    #[test]
    fn salts_keep_equal_passwords_apart() {
        assert_ne!(hash_now(b"sesame", &[1; 16]).unwrap(), hash_now(b"sesame", &[2; 16]).unwrap());
    }

    #[test]
    fn a_password_is_never_printed() {
        assert!(!format!("{:?}", password("sesame")).contains("sesame"));
    }
}
