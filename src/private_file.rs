//! Files that hold a secret: made once, readable by their owner alone, on disk before anybody relies on them.
//! May not: overwrite, or know what the secret is for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Largest secret file that is read, in bytes: a key or token is under 200.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// Mode of a secret file: its owner reads and writes it, nobody else does anything.
const FILE_MODE: u32 = 0o600;

/// Mode of a directory that we make for secrets.
const DIRECTORY_MODE: u32 = 0o700;

/// Who may be able to use a file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// A file with any right for group or others is refused.
    OwnerOnly,
    /// Whoever handed us the file decides: container platforms mount secrets readable to all.
    Anybody,
}

/// Why a secret file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("{path} does not exist")]
    Missing { path: PathBuf },
    /// Others could have read or replaced it, so it is no secret any more.
    #[error("{path} has mode {mode:04o}, so group or others can use it; it must be 0600 (chmod 600)")]
    Exposed { path: PathBuf, mode: u32 },
    /// A directory, device or socket.
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// Larger than any secret, or not text.
    #[error("{path} does not hold a secret: it is longer than {SECRET_BYTES_MAX} bytes or is not text")]
    NotText { path: PathBuf },
    /// The operating system refused.
    #[error("{path} cannot be read")]
    Io { path: PathBuf, source: io::Error },
}

/// Why a secret file could not be made. In each case no half-written file stays behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// It is there already, and it was left as it was.
    #[error("{path} exists already and is not overwritten")]
    Exists { path: PathBuf },
    /// The operating system refused.
    #[error("{path} cannot be written")]
    Io { path: PathBuf, source: io::Error },
}

/// Reads a small text file, if `readers` allows its mode.
///
/// # Errors
/// See [`ReadError`]; the mode is that of the opened file, so it cannot change between check and use.
pub fn read(path: &Path, readers: Readers) -> Result<String, ReadError> {
    let io_error = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ReadError::Missing { path: path.to_owned() },
        _ => ReadError::Io { path: path.to_owned(), source },
    };
    // Asked before opening, since opening a pipe would wait for its writer.
    let is_file = fs::metadata(path).map_err(io_error)?.is_file();
    if !is_file {
        return Err(ReadError::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(io_error)?;
    let mode = file.metadata().map_err(io_error)?.mode() & 0o7777;
    if readers == Readers::OwnerOnly && mode & 0o077 != 0 {
        return Err(ReadError::Exposed { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error)?;
    let is_too_long = u64::try_from(bytes.len()).is_ok_and(|length| length > SECRET_BYTES_MAX);
    match String::from_utf8(bytes) {
        Ok(text) if !is_too_long => Ok(text),
        _ => Err(ReadError::NotText { path: path.to_owned() }),
    }
}

/// Makes a secret file with mode 0600. When it returns, content and directory entry are on disk.
///
/// # Errors
/// [`CreateError::Exists`]: nothing changed. [`CreateError::Io`]: what was begun has been removed again.
pub fn create(path: &Path, content: &str) -> Result<(), CreateError> {
    let io_error = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CreateError::Exists { path: path.to_owned() },
        _ => CreateError::Io { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path).map_err(io_error)?;
    let written =
        file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_directory_of(path));
    written.map_err(|source| {
        // Without this an empty file would be taken for a damaged key at the next start.
        let _ = fs::remove_file(path);
        CreateError::Io { path: path.to_owned(), source }
    })
}

/// Makes a directory and those above it, with mode 0700, unless it exists.
///
/// # Errors
/// What the operating system says.
pub fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    sync_directory_of(path)
}

/// Puts the directory entry of `path` on disk; without it a synced file can vanish at power loss.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_made_file_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, "s3cret\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read(&path, Readers::OwnerOnly).unwrap(), "s3cret\n");
    }

    #[test]
    fn an_existing_file_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, "first").unwrap();
        assert!(matches!(create(&path, "second"), Err(CreateError::Exists { .. })));
        assert_eq!(read(&path, Readers::OwnerOnly).unwrap(), "first");
    }

    #[test]
    fn every_bit_for_group_or_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, "s").unwrap();
        for mode in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(
                matches!(read(&path, Readers::OwnerOnly), Err(ReadError::Exposed { mode: seen, .. }) if seen == mode),
                "{mode:o}"
            );
            assert_eq!(read(&path, Readers::Anybody).unwrap(), "s");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read(&path, Readers::OwnerOnly).unwrap(), "s");
    }

    #[test]
    fn what_is_no_text_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path(), Readers::OwnerOnly), Err(ReadError::NotAFile { .. })));
        assert!(matches!(read(&dir.path().join("gone"), Readers::OwnerOnly), Err(ReadError::Missing { .. })));
        let path = dir.path().join("binary");
        create(&path, "").unwrap();
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read(&path, Readers::OwnerOnly), Err(ReadError::NotText { .. })));
        fs::write(&path, "a".repeat(20_000)).unwrap();
        assert!(matches!(read(&path, Readers::OwnerOnly), Err(ReadError::NotText { .. })));
    }

    #[test]
    fn a_made_directory_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_directory(&path).unwrap();
        create_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }
}
