//! The wiring: from a configuration to a server, and the storage tools around it. The only file that names an engine.
//! May not: decide a rule, answer a request, or be named by any other crate.

pub mod accounts;
pub mod args;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod exit;
pub mod logger;
pub mod private_file;
pub mod randomness;
pub mod serving;
pub mod signing_key;
pub mod tls;
pub mod token_file;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use log::info;
use vestibule_storage::commit::{CommitListener, NobodyListens, Stores};
pub use vestibule_storage_sled::OpenError;
use vestibule_storage_sled::{
    Handle, IndexChoice, Opened, Options, SledStorage,
    backup::{self, BackupError, ExtraFile},
    verify::{self, VerifyError, VerifyReport},
};

use crate::{
    config::Config,
    exit::{Exit, chain},
    randomness::os_random,
    signing_key::{KEY_FILE, OLD_KEYS_FILE},
    token_file::ADMIN_TOKEN_FILE,
};

/// What a backup holds beside the data: without the key, the data speak for nobody.
const FILES_IN_BACKUP: [&str; 3] = [KEY_FILE, OLD_KEYS_FILE, ADMIN_TOKEN_FILE];

/// Storage that is open, with the handle that closes it.
pub struct Storage {
    /// What the rest of the program gets.
    pub stores: Stores,
    handle: Handle,
    data_dir: PathBuf,
}

/// Opens the data directory with the configured engine. Blocks.
///
/// # Errors
/// [`Exit::Locked`] when another process has it, [`Exit::Refused`] when it is damaged, of another server or of a newer
/// format; the reason has been printed.
pub fn open_storage(config: &Config, listener: Arc<dyn CommitListener>) -> Result<Storage, Exit> {
    let options = Options { listener, ..engine_options(config)? };
    let Opened { stores, report, handle } = SledStorage::open(options).map_err(|error| exit_of(&error))?;
    info!(
        position = report.position.0, is_new = report.is_new, records = report.journal.records, events_checked = report.events_checked;
        "storage open"
    );
    Ok(Storage { stores, handle, data_dir: config.data_dir.clone() })
}

impl Storage {
    /// Writes what waits, syncs, and closes. Blocks.
    ///
    /// # Errors
    /// [`Exit::Failure`] when something that was acknowledged could not be brought to a clean end; it is in the journal all
    /// the same.
    pub fn close(&self) -> Result<(), Exit> {
        self.handle.close().map_err(|error| Exit::Failure.because(&error))
    }

    /// Copies everything into a directory that is empty or not there, while the server runs. Blocks.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn backup(&self, directory: &Path) -> Result<String, String> {
        let mut extra = Vec::new();
        for name in FILES_IN_BACKUP {
            match fs::read(self.data_dir.join(name)) {
                Ok(content) => extra.push(ExtraFile { name: name.to_owned(), content }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{name}: {error}")),
            }
        }
        let report = self.handle.backup(directory, &extra).map_err(|error| chain(&error))?;
        Ok(format!("backup of {} complete: {} files, {} bytes", report.server_name, report.files, report.bytes))
    }

    /// Compares the look-up store with the journal, while the server runs. Blocks.
    ///
    /// # Errors
    /// What differs, or why nothing could be compared, for people.
    pub fn verify(&self) -> Result<String, String> {
        verdict(&self.handle.verify().map_err(|error| chain(&error))?)
    }
}

fn verdict(report: &VerifyReport) -> Result<String, String> {
    if report.is_sound() {
        Ok(format!("sound: {} keys agree with {} commits", report.keys, report.commits))
    } else {
        let some: Vec<&str> = report.differing.iter().take(10).map(String::as_str).collect();
        Err(format!("{} keys differ from the journal, among them {}", report.differing.len(), some.join(", ")))
    }
}

/// `verify` on a stopped server.
///
/// # Errors
/// As [`open_storage`]; [`Exit::Refused`] when the two differ.
pub fn verify_storage(config: &Config) -> Result<String, Exit> {
    match verify::verify(engine_options(config)?) {
        Ok((_, report)) => verdict(&report).map_err(|what| {
            eprintln!("vestibule: {what}; `vestibule rebuild` makes the look-up store anew");
            Exit::Refused
        }),
        Err(VerifyError::Journal(error)) => Err(exit_of(&error)),
        Err(error) => Err(Exit::Failure.because(&error)),
    }
}

/// `rebuild` on a stopped server: the look-up store anew from the journal.
///
/// # Errors
/// As [`open_storage`].
pub fn rebuild_storage(config: &Config) -> Result<String, Exit> {
    let options = Options { index: IndexChoice::Rebuild, listener: Arc::new(NobodyListens), ..engine_options(config)? };
    let Opened { report, handle, .. } = SledStorage::open(options).map_err(|error| exit_of(&error))?;
    handle.close().map_err(|error| Exit::Failure.because(&error))?;
    Ok(format!("look-up store rebuilt up to commit {}", report.position.0))
}

/// `restore` into the data directory of a stopped server in which nothing is stored.
///
/// # Errors
/// [`Exit::Refused`] when the backup is damaged or of another server, [`Exit::Failure`] when it cannot be read or written.
pub fn restore_storage(config: &Config, from: &Path) -> Result<String, Exit> {
    match backup::restore(&engine_options(config)?, from) {
        Ok(report) => {
            Ok(format!("restored {} from {} files, {} bytes", report.server_name, report.files, report.bytes))
        }
        Err(BackupError::Target(error)) => Err(exit_of(&error)),
        Err(error @ (BackupError::Damaged { .. } | BackupError::OtherServer { .. } | BackupError::NotEmpty { .. })) => {
            Err(Exit::Refused.because(&error))
        }
        Err(error) => Err(Exit::Failure.because(&error)),
    }
}

fn engine_options(config: &Config) -> Result<Options, Exit> {
    let mut salt = [0; 8];
    os_random(&mut salt).map_err(|error| Exit::Failure.because(&error))?;
    Ok(Options {
        cache_bytes: config.storage.cache.get(),
        min_free_bytes: config.storage.min_free.get(),
        ..Options::new(config.data_dir.clone(), config.server_name.clone(), u64::from_le_bytes(salt))
    })
}

fn exit_of(error: &OpenError) -> Exit {
    match error {
        OpenError::Locked { .. } => Exit::Locked.because(error),
        OpenError::OtherServer { .. } | OpenError::NewerFormat { .. } | OpenError::Damaged { .. } => {
            Exit::Refused.because(error)
        }
        OpenError::Index { .. } | OpenError::Io { .. } => Exit::Failure.because(error),
    }
}
