//! The format file: which layout a data directory has, and whose it is.
//! May not: touch a directory of a newer format or of another server.
//!
//! A table that comes anew (the outbox, out-of-band memberships, receipts, keys of devices) needs no new format: an older directory has
//! no rows in it, and journal, checkpoints and verification go by key without knowing tables.

use std::io;
use std::path::{Path, PathBuf};

use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};

use crate::OpenError;
use crate::journal::files::{ChunkReader, JournalFiles, write_whole};

/// The layout that this version writes: keys, values, journal records.
pub(crate) const FORMAT: u32 = 1;
/// Name of the format file in the data directory.
pub(crate) const FILE_NAME: &str = "format.json";

const UNFINISHED_FILE_NAME: &str = "format.json.new";
/// Bytes of a format file. Ours: a server name has at most 255.
const FILE_BYTES_MAX: usize = 4096;

#[derive(Debug, Deserialize, Serialize)]
struct FormatFile {
    format: u32,
    server_name: OwnedServerName,
}

/// What the format file says of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// There is none: nothing was ever stored here.
    New,
    /// Of our format, or one that was migrated.
    Known,
}

/// Looks at the format file.
///
/// # Errors
/// [`OpenError::NewerFormat`], [`OpenError::OtherServer`], [`OpenError::Damaged`]: nothing was changed.
pub(crate) fn examine(files: &dyn JournalFiles, dir: &Path, server_name: &ServerName) -> Result<Origin, OpenError> {
    let path = dir.join(FILE_NAME);
    let file = match files.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Origin::New),
        Err(source) => return Err(OpenError::Io { operation: "open", path, source }),
    };
    let mut chunks = ChunkReader::new(file, 0, u64::MAX);
    let bytes = match chunks.peek(FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(source) => return Err(OpenError::Io { operation: "read", path, source }),
    };
    let Ok(found) = serde_json::from_slice::<FormatFile>(bytes) else {
        return Err(OpenError::Damaged { what: format!("{} cannot be understood", path.display()), source: None });
    };
    if found.format > FORMAT {
        return Err(OpenError::NewerFormat { found: found.format, supported: FORMAT });
    }
    if found.server_name != server_name {
        return Err(OpenError::OtherServer { found: found.server_name, expected: server_name.to_owned() });
    }
    // Older formats will be migrated here: the new beside the old, synced, then renamed. There is none yet.
    if found.format < FORMAT {
        return Err(OpenError::Damaged { what: format!("format {} never existed", found.format), source: None });
    }
    Ok(Origin::Known)
}

/// Writes the format file, durably.
pub(crate) fn establish(files: &dyn JournalFiles, dir: &Path, server_name: &ServerName) -> Result<(), OpenError> {
    let content = FormatFile { format: FORMAT, server_name: server_name.to_owned() };
    let path = dir.join(FILE_NAME);
    let text = serde_json::to_vec(&content).map_err(io::Error::from);
    let written = text.and_then(|text| write_file(files, dir, UNFINISHED_FILE_NAME, FILE_NAME, &text));
    written.map_err(|source| OpenError::Io { operation: "write", path, source })
}

/// Writes a small file under another name, syncs it and gives it its name.
pub(crate) fn write_file(
    files: &dyn JournalFiles,
    dir: &Path,
    unfinished: &str,
    finished: &str,
    content: &[u8],
) -> io::Result<()> {
    let unfinished: PathBuf = dir.join(unfinished);
    match files.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = files.create_new(&unfinished)?;
    write_whole(file.as_mut(), content)?;
    file.sync_data()?;
    files.rename(&unfinished, &dir.join(finished))?;
    files.sync_dir(dir)
}
