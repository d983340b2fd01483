//! Secrets that are made at first start: the admin token, the registration secret.
//! May not: replace a secret that is there, or accept an empty one.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::Secret;
use crate::private_file::{self, CreateError, ReadError, Readers};
use crate::randomness::FillRandom;

/// The bearer token of the admin listeners, inside the data directory.
pub const ADMIN_TOKEN_FILE: &str = "admin_token";

/// Bytes of randomness in a secret that we make. Source: SECURITY section 5, at least 256 bits.
const TOKEN_BYTES: usize = 32;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file is there and cannot be used.
    #[error("a secret cannot be used")]
    Read(#[source] ReadError),
    /// The file holds nothing but white space.
    #[error("{path} is empty; put a secret into it, or remove it to have one made")]
    Empty { path: PathBuf },
    /// The file could not be made.
    #[error("a secret could not be made")]
    Create(#[source] CreateError),
    /// The directory of the file could not be made.
    #[error("the directory of {path} cannot be made")]
    Directory { path: PathBuf, source: io::Error },
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness")]
    Randomness(#[source] io::Error),
}

/// Reads the secret in `path`, without white space around it; makes the file with a random one, mode 0600, when it is missing.
///
/// A secret that was made is on disk when it is returned.
///
/// # Errors
/// See [`TokenFileError`]; an existing file is never changed.
pub fn load_or_create(path: &Path, readers: Readers, fill_random: FillRandom<'_>) -> Result<Secret, TokenFileError> {
    let text = match private_file::read(path, readers) {
        Ok(text) => text.trim().to_owned(),
        Err(ReadError::Missing { .. }) => make(path, fill_random)?,
        Err(error) => return Err(TokenFileError::Read(error)),
    };
    Secret::new(text).ok_or_else(|| TokenFileError::Empty { path: path.to_owned() })
}

fn make(path: &Path, fill_random: FillRandom<'_>) -> Result<String, TokenFileError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        let failed = |source| TokenFileError::Directory { path: path.to_owned(), source };
        private_file::create_directory(directory).map_err(failed)?;
    }
    let mut random = [0; TOKEN_BYTES];
    fill_random(&mut random).map_err(TokenFileError::Randomness)?;
    let token = URL_SAFE_NO_PAD.encode(random);
    private_file::create(path, &format!("{token}\n")).map_err(TokenFileError::Create)?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;
    use crate::randomness::os_random;

    #[test]
    fn a_missing_secret_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data").join(ADMIN_TOKEN_FILE);
        let made = load_or_create(&path, Readers::OwnerOnly, &os_random).unwrap();
        assert_eq!(made.expose().len(), 43);
        assert_eq!(load_or_create(&path, Readers::OwnerOnly, &os_random).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn no_two_made_secrets_are_the_same() {
        // V78
        let dir = tempfile::tempdir().unwrap();
        let made = |number: usize| load_or_create(&dir.path().join(number.to_string()), Readers::OwnerOnly, &os_random);
        let secrets: BTreeSet<String> = (0..200).map(|number| made(number).unwrap().expose().to_owned()).collect();
        assert_eq!(secrets.len(), 200);
    }

    #[test]
    fn an_empty_or_exposed_secret_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, " \n").unwrap();
        assert!(matches!(load_or_create(&path, Readers::Anybody, &os_random), Err(TokenFileError::Empty { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), " \n");
        fs::write(&path, "s3cret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load_or_create(&path, Readers::OwnerOnly, &os_random), Err(TokenFileError::Read(_))));
        assert_eq!(load_or_create(&path, Readers::Anybody, &os_random).unwrap().expose(), "s3cret");
    }
}
