//! The file of our signing key and the file of the public keys that we used before.
//! May not: make a second identity for data that has one, or show a seed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedServerSigningKeyId, ServerSigningKeyId, UInt};
use vestibule_protocol::signing::{SigningKey, SigningKeyError};

use crate::exit::Exit;
use crate::private_file::{self, CreateError, ReadError, Readers};
use crate::randomness::FillRandom;

/// Our signing key inside the data directory: one line, `ed25519 <version> <unpadded base64 of the seed>`, as Synapse writes it.
pub const KEY_FILE: &str = "signing_key";

/// Public keys that we used before, inside the data directory; it may be missing. Each line is
/// `ed25519 <version> <unpadded base64 of the public key> <time it expired, in milliseconds since 1970>`.
pub const OLD_KEYS_FILE: &str = "old_signing_keys";

/// The one algorithm. Spec: <https://spec.matrix.org/v1.19/appendices/#signing-json>
const ALGORITHM: &str = "ed25519";

/// Bytes of a seed, and of a public key.
const KEY_BYTES: usize = 32;

/// Letters of a new key's version after `a_`. Two keys that one server ever has must not share a version.
const VERSION_LETTERS: usize = 6;

/// What may lie in a data directory that has never been used: files that the server or its operator makes before there is data.
const NOT_DATA: [&str; 8] = [
    KEY_FILE,
    OLD_KEYS_FILE,
    "admin_token",
    "control.sock",
    "lock",
    "lost+found",
    "self_signed_cert.pem",
    "self_signed_key.pem",
];

/// Synapse writes keys without padding and reads them with it too.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A public key that we used before, for events signed while it was ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldSigningKey {
    /// `ed25519:<version>`.
    pub key_id: OwnedServerSigningKeyId,
    /// The public key.
    pub public_key: [u8; KEY_BYTES],
    /// From then on it signs nothing.
    pub expired_ts: MilliSecondsSinceUnixEpoch,
}

/// Why the server cannot have its signing key. All but `Create` and `DataDir` stay until a person acts.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is data, and the key that speaks for it is gone.
    #[error(
        "data directory {data_dir} holds data ({found}) but the signing key {KEY_FILE} is gone; a new key would be a new identity, so none is made: put the old file back, for example from a backup"
    )]
    DataWithoutKey { data_dir: PathBuf, found: String },
    /// The file cannot be read, or others can read it.
    #[error("the signing key cannot be used")]
    Read(#[source] ReadError),
    /// A line is not what it must be.
    #[error("{path}, line {line}: {problem}")]
    Malformed { path: PathBuf, line: usize, problem: LineProblem },
    /// The file has no line, or the key file more than one.
    #[error(
        "{path} holds {lines} keys, expected exactly one line: ed25519 <version> <unpadded base64 of the 32-byte seed>"
    )]
    NotOneKey { path: PathBuf, lines: usize },
    /// The key file exists and `generate-signing-key` does not overwrite it, or it cannot be written.
    #[error("no signing key was made")]
    Create(#[source] CreateError),
    /// The data directory cannot be made or listed.
    #[error("data directory {data_dir} cannot be used")]
    DataDir { data_dir: PathBuf, source: io::Error },
    /// The operating system gave no randomness.
    #[error("the operating system gives no randomness")]
    Randomness(#[source] io::Error),
}

impl KeyFileError {
    /// How the program ends over it: 78 when the key or the data must be mended, 1 when trying again may help.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Create(CreateError::Io { .. }) | Self::DataDir { .. } | Self::Randomness(_) => Exit::Failure,
            Self::DataWithoutKey { .. }
            | Self::Read(_)
            | Self::Malformed { .. }
            | Self::NotOneKey { .. }
            | Self::Create(CreateError::Exists { .. }) => Exit::Refused,
        }
    }
}

/// What is wrong with a line of a key file. It quotes no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// Another number of words.
    #[error("expected {expected} words separated by spaces, found {found}")]
    Words { expected: usize, found: usize },
    /// Not ed25519.
    #[error("expected the algorithm ed25519")]
    Algorithm,
    /// A version with characters that key ids do not have.
    #[error("expected a version of one or more of a-z, A-Z, 0-9 and _")]
    Version,
    /// Not base64, or of the wrong length.
    #[error("expected the unpadded base64 of 32 bytes")]
    Key,
    /// The public key that stands behind the seed is not the seed's.
    #[error("the public key behind the seed does not belong to it")]
    PublicHalfDiffers,
    /// Not a number of milliseconds.
    #[error("expected the time of expiry in milliseconds since 1970")]
    ExpiredTs,
    /// The key id stands in an earlier line, or is that of our current key.
    #[error("this version is in use already")]
    VersionTwice,
}

/// Loads our signing key, and makes it when the data directory has never been used.
///
/// When it returns a new key, the key is on disk.
///
/// # Errors
/// See [`KeyFileError`]. A key is never made where there is data.
pub fn load_or_create(data_dir: &Path, fill_random: FillRandom<'_>) -> Result<SigningKey, KeyFileError> {
    match load(data_dir)? {
        Some(key) => Ok(key),
        None => generate(data_dir, fill_random),
    }
}

/// Loads our signing key. `None`: the data directory has never been used.
///
/// # Errors
/// See [`KeyFileError`].
pub fn load(data_dir: &Path) -> Result<Option<SigningKey>, KeyFileError> {
    let path = data_dir.join(KEY_FILE);
    match private_file::read(&path, Readers::OwnerOnly) {
        Ok(text) => parse_key(&path, &text).map(Some),
        Err(ReadError::Missing { .. }) => match data_in(data_dir)? {
            Some(found) => Err(KeyFileError::DataWithoutKey { data_dir: data_dir.to_owned(), found }),
            None => Ok(None),
        },
        Err(error) => Err(KeyFileError::Read(error)),
    }
}

/// Makes our signing key from the operating system's randomness. When it returns, the key is on disk.
///
/// # Errors
/// [`KeyFileError::Create`] when there is a key; it is left as it is. [`KeyFileError::DataWithoutKey`] when there is data.
pub fn generate(data_dir: &Path, fill_random: FillRandom<'_>) -> Result<SigningKey, KeyFileError> {
    let path = data_dir.join(KEY_FILE);
    if path.symlink_metadata().is_ok() {
        return Err(KeyFileError::Create(CreateError::Exists { path }));
    }
    if let Some(found) = data_in(data_dir)? {
        return Err(KeyFileError::DataWithoutKey { data_dir: data_dir.to_owned(), found });
    }
    private_file::create_directory(data_dir)
        .map_err(|source| KeyFileError::DataDir { data_dir: data_dir.to_owned(), source })?;
    let mut seed = [0; KEY_BYTES];
    fill_random(&mut seed).map_err(KeyFileError::Randomness)?;
    let version = new_version(fill_random)?;
    let line = format!("{ALGORITHM} {version} {}\n", BASE64.encode(seed));
    // Parsed before it is written: a key that would not load is never left behind.
    let key = parse_key(&path, &line)?;
    private_file::create(&path, &line).map_err(KeyFileError::Create)?;
    Ok(key)
}

/// Loads the public keys that we used before; none when there is no such file.
///
/// # Errors
/// [`KeyFileError::Read`] or [`KeyFileError::Malformed`]; also when a version is used twice or is that of `current`.
pub fn load_old(data_dir: &Path, current: &ServerSigningKeyId) -> Result<Vec<OldSigningKey>, KeyFileError> {
    let path = data_dir.join(OLD_KEYS_FILE);
    let text = match private_file::read(&path, Readers::Anybody) {
        Ok(text) => text,
        Err(ReadError::Missing { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(KeyFileError::Read(error)),
    };
    let mut seen = BTreeSet::from([current.to_owned()]);
    let mut keys = Vec::new();
    for (line, text) in key_lines(&text) {
        let malformed = |problem| KeyFileError::Malformed { path: path.clone(), line, problem };
        let key = parse_old_key(text).map_err(malformed)?;
        if !seen.insert(key.key_id.clone()) {
            return Err(malformed(LineProblem::VersionTwice));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Something in the data directory that is there only after the server ran.
fn data_in(data_dir: &Path) -> Result<Option<String>, KeyFileError> {
    let failed = |source| KeyFileError::DataDir { data_dir: data_dir.to_owned(), source };
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut found = None;
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let is_data = !NOT_DATA.contains(&name.as_str()) && !name.starts_with('.');
        // The first by name, so that the message is the same each time.
        if is_data && found.as_ref().is_none_or(|earlier| name < *earlier) {
            found = Some(name);
        }
    }
    Ok(found)
}

/// The lines that hold a key, with their numbers from 1.
fn key_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn parse_key(path: &Path, text: &str) -> Result<SigningKey, KeyFileError> {
    let lines: Vec<(usize, &str)> = key_lines(text).collect();
    let [(line, text)] = lines[..] else {
        return Err(KeyFileError::NotOneKey { path: path.to_owned(), lines: lines.len() });
    };
    parse_key_line(text).map_err(|problem| KeyFileError::Malformed { path: path.to_owned(), line, problem })
}

fn parse_key_line(text: &str) -> Result<SigningKey, LineProblem> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [algorithm, version, secret] = words[..] else {
        return Err(LineProblem::Words { expected: 3, found: words.len() });
    };
    if algorithm != ALGORITHM {
        return Err(LineProblem::Algorithm);
    }
    let bytes = BASE64.decode(secret).map_err(|_| LineProblem::Key)?;
    // Some tools write seed and public key together. A pair that does not match would sign with the one and be checked with the other.
    let (seed, public) = bytes.split_at_checked(KEY_BYTES).ok_or(LineProblem::Key)?;
    let seed: &[u8; KEY_BYTES] = seed.try_into().map_err(|_| LineProblem::Key)?;
    let key = SigningKey::from_seed(version, seed).map_err(|error| match error {
        SigningKeyError::BadVersion { .. } => LineProblem::Version,
        SigningKeyError::BadSeed => LineProblem::Key,
    })?;
    match public.len() {
        0 => Ok(key),
        KEY_BYTES if public == key.public_key() => Ok(key),
        KEY_BYTES => Err(LineProblem::PublicHalfDiffers),
        _ => Err(LineProblem::Key),
    }
}

fn parse_old_key(text: &str) -> Result<OldSigningKey, LineProblem> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [algorithm, version, public_key, expired_ts] = words[..] else {
        return Err(LineProblem::Words { expected: 4, found: words.len() });
    };
    if algorithm != ALGORITHM {
        return Err(LineProblem::Algorithm);
    }
    let is_version = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let key_id = ServerSigningKeyId::parse(format!("{ALGORITHM}:{version}"))
        .ok()
        .filter(|_| is_version)
        .ok_or(LineProblem::Version)?;
    let public_key: [u8; KEY_BYTES] =
        BASE64.decode(public_key).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(LineProblem::Key)?;
    ed25519_dalek::VerifyingKey::from_bytes(&public_key).map_err(|_| LineProblem::Key)?;
    let expired_ts: UInt = expired_ts.parse().map_err(|_| LineProblem::ExpiredTs)?;
    Ok(OldSigningKey { key_id, public_key, expired_ts: MilliSecondsSinceUnixEpoch(expired_ts) })
}

/// `a_` and random letters, as Synapse does.
fn new_version(fill_random: FillRandom<'_>) -> Result<String, KeyFileError> {
    // 64 characters: the low six bits of a byte choose evenly.
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ab";
    let mut random = [0; VERSION_LETTERS];
    fill_random(&mut random).map_err(KeyFileError::Randomness)?;
    let letters =
        random.iter().filter_map(|byte| LETTERS.get(usize::from(byte & 63))).map(|letter| char::from(*letter));
    Ok("a_".chars().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;
    use crate::randomness::os_random;

    /// Seed and public key of RFC 8032, section 7.1, test 1.
    const SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn write_key(data_dir: &Path, text: &str) {
        let path = data_dir.join(KEY_FILE);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn load_text(text: &str) -> Result<Option<SigningKey>, KeyFileError> {
        let dir = tempfile::tempdir().unwrap();
        write_key(dir.path(), text);
        load(dir.path())
    }

    #[test]
    fn a_new_key_is_private_and_loads_again() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let made = load_or_create(&data_dir, &os_random).unwrap();
        let loaded = load_or_create(&data_dir, &os_random).unwrap();
        assert_eq!(made.public_key(), loaded.public_key());
        assert_eq!(made.key_id(), loaded.key_id());
        assert!(made.key_id().as_str().starts_with("ed25519:a_"));
        assert_eq!(fs::metadata(data_dir.join(KEY_FILE)).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_to_string(data_dir.join(KEY_FILE)).unwrap().lines().count(), 1);
    }

    #[test]
    fn two_fresh_installs_have_different_keys() {
        // V15
        let keys: BTreeSet<_> = (0..50)
            .map(|_| {
                let dir = tempfile::tempdir().unwrap();
                let key = generate(dir.path(), &os_random).unwrap();
                (key.public_key(), key.key_id().to_string())
            })
            .collect();
        let publics: BTreeSet<_> = keys.iter().map(|(public, _)| public).collect();
        let versions: BTreeSet<_> = keys.iter().map(|(_, version)| version).collect();
        assert_eq!((publics.len(), versions.len()), (50, 50));
    }

    #[test]
    fn synapses_format_loads() {
        for text in [
            format!("ed25519 a_bcde {SEED}\n"),
            format!("ed25519 a_bcde {SEED}"),
            format!("ed25519 a_bcde {SEED}=\r\n"),
        ] {
            let key = load_text(&text).unwrap().unwrap();
            assert_eq!(key.key_id().as_str(), "ed25519:a_bcde");
            assert_eq!(BASE64.encode(key.public_key()), PUBLIC);
        }
    }

    #[test]
    fn a_public_half_that_differs_is_refused() {
        // V18
        let seed = BASE64.decode(SEED).unwrap();
        let public = BASE64.decode(PUBLIC).unwrap();
        let pair = |public: &[u8]| format!("ed25519 x {}", BASE64.encode([seed.as_slice(), public].concat()));
        assert!(load_text(&pair(&public)).is_ok());
        let mut other = public.clone();
        other[0] ^= 1;
        let error = load_text(&pair(&other)).unwrap_err();
        assert!(matches!(error, KeyFileError::Malformed { problem: LineProblem::PublicHalfDiffers, .. }), "{error}");
    }

    #[test]
    fn garbage_is_refused_without_quoting_it() {
        let table = [
            (format!("ed25519 {SEED}"), LineProblem::Words { expected: 3, found: 2 }),
            (format!("ed25519 x {SEED} more"), LineProblem::Words { expected: 3, found: 4 }),
            (format!("curve25519 x {SEED}"), LineProblem::Algorithm),
            (format!("ed25519 x-y {SEED}"), LineProblem::Version),
            (format!("ed25519 x {}", &SEED[..20]), LineProblem::Key),
            (format!("ed25519 x {SEED}AA"), LineProblem::Key),
            (format!("ed25519 x !{}", &SEED[1..]), LineProblem::Key),
        ];
        for (text, expected) in table {
            let error = load_text(&text).unwrap_err();
            assert!(!error.to_string().contains(&SEED[..20]), "{error}");
            assert!(
                matches!(error, KeyFileError::Malformed { ref problem, .. } if *problem == expected),
                "{text}: {error:?}"
            );
        }
        for (text, expected) in
            [(String::new(), 0), ("# nothing\n\n".to_owned(), 0), (format!("ed25519 a {SEED}\ned25519 b {SEED}\n"), 2)]
        {
            let error = load_text(&text).unwrap_err();
            assert!(matches!(error, KeyFileError::NotOneKey { lines, .. } if lines == expected), "{error:?}");
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        for mode in [0o644, 0o640, 0o604, 0o660] {
            let dir = tempfile::tempdir().unwrap();
            generate(dir.path(), &os_random).unwrap();
            fs::set_permissions(dir.path().join(KEY_FILE), fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_create(dir.path(), &os_random).unwrap_err();
            assert!(matches!(error, KeyFileError::Read(ReadError::Exposed { .. })), "{error:?}");
        }
    }

    #[test]
    fn data_without_its_key_gets_no_new_identity() {
        for name in ["journal", "sled", "format", "0000000000000001.journal", "media"] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(name)).unwrap();
            for result in [load_or_create(dir.path(), &os_random), generate(dir.path(), &os_random)] {
                let error = result.unwrap_err();
                assert!(matches!(error, KeyFileError::DataWithoutKey { ref found, .. } if found == name), "{error:?}");
            }
            assert!(!dir.path().join(KEY_FILE).exists());
        }
    }

    #[test]
    fn what_is_made_before_any_data_is_no_data() {
        let dir = tempfile::tempdir().unwrap();
        for name in NOT_DATA.iter().filter(|name| **name != KEY_FILE).chain(&[".gitkeep"]) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(load(dir.path()).unwrap().is_none());
        assert!(load_or_create(dir.path(), &os_random).is_ok());
    }

    #[test]
    fn generate_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        write_key(dir.path(), "anything");
        let error = generate(dir.path(), &os_random).unwrap_err();
        assert!(matches!(error, KeyFileError::Create(CreateError::Exists { .. })), "{error:?}");
        assert_eq!(fs::read_to_string(dir.path().join(KEY_FILE)).unwrap(), "anything");
    }

    #[test]
    fn without_randomness_no_key_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let broken = |_: &mut [u8]| Err(io::Error::other("no entropy"));
        assert!(matches!(generate(dir.path(), &broken), Err(KeyFileError::Randomness(_))));
        assert!(!dir.path().join(KEY_FILE).exists());
    }

    #[test]
    fn old_keys_are_read_and_checked() {
        let current = ServerSigningKeyId::parse("ed25519:now").unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load_old(dir.path(), &current).unwrap(), []);
        let read = |text: String| {
            fs::write(dir.path().join(OLD_KEYS_FILE), text).unwrap();
            load_old(dir.path(), &current)
        };
        let keys =
            read(format!("# rotated\n\ned25519 a_1 {PUBLIC} 1600000000000\ned25519 a_2 {PUBLIC} 1700000000000\n"))
                .unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0].key_id.as_str(), "ed25519:a_1");
        assert_eq!(u64::from(keys[0].expired_ts.get()), 1_600_000_000_000);
        assert_eq!(BASE64.encode(keys[1].public_key), PUBLIC);
        let table = [
            (format!("ed25519 a {PUBLIC}"), 1, LineProblem::Words { expected: 4, found: 3 }),
            (format!("\ned25519 a {PUBLIC} soon"), 2, LineProblem::ExpiredTs),
            (format!("ed25519 a {PUBLIC} -1"), 1, LineProblem::ExpiredTs),
            ("ed25519 a AAAA 1".to_owned(), 1, LineProblem::Key),
            (format!("rsa a {PUBLIC} 1"), 1, LineProblem::Algorithm),
            (format!("ed25519 a:b {PUBLIC} 1"), 1, LineProblem::Version),
            (format!("ed25519 now {PUBLIC} 1"), 1, LineProblem::VersionTwice),
            (format!("ed25519 a {PUBLIC} 1\ned25519 a {PUBLIC} 2"), 2, LineProblem::VersionTwice),
        ];
        for (text, at, expected) in table {
            let error = read(text.clone()).unwrap_err();
            assert!(
                matches!(error, KeyFileError::Malformed { line, ref problem, .. } if line == at && *problem == expected),
                "{text}: {error:?}"
            );
        }
    }
}
