//! The control socket: what commands of this program ask of a server that runs.
//! May not: be reachable by anybody but the user who runs the server; the file's mode is the only guard.
//!
//! One connection, one line of JSON each way.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix_rt::{task::JoinHandle, time::timeout};
use actix_web::web::Data;
use log::warn;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};
use vestibule_actors::CpuPool;
use vestibule_api::App;

use crate::{Storage, accounts};

/// The socket's name in the data directory. DESIGN section 6.
pub const SOCKET_FILE: &str = "control.sock";

/// Bytes of a request or an answer. Ours: a password and some paths.
const LINE_BYTES_MAX: u64 = 65_536;

/// How long a request may take to arrive. Ours.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// Make an account.
    RegisterUser {
        /// The localpart or the whole user id.
        name: String,
        /// The password.
        password: String,
        /// May use the admin listener.
        is_admin: bool,
    },
    /// Copy everything into a directory.
    Backup {
        /// Which; absolute.
        directory: PathBuf,
    },
    /// Compare the look-up store with the journal.
    Verify,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done; a line for people.
    Done(String),
    /// Not done; why.
    Refused(String),
}

/// The listening end. Dropping it removes the file.
pub struct ControlSocket {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl ControlSocket {
    /// Listens in the data directory, which this process has locked: a file of that name is a dead server's.
    ///
    /// # Errors
    /// When the socket cannot be made; a path over 107 bytes is one reason.
    pub fn bind(data_dir: &Path, app: Data<App>, storage: Arc<Storage>) -> io::Result<Self> {
        let path = data_dir.join(SOCKET_FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let accepting = actix_rt::spawn(async move {
            // Backups and verifications take long; they must not take the rooms' places.
            let pool = CpuPool::new(1);
            while let Ok((stream, _)) = listener.accept().await {
                actix_rt::spawn(converse(stream, app.clone(), storage.clone(), pool.clone()));
            }
        });
        Ok(Self { path, accepting })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(error:%; "control socket not removed");
        }
    }
}

async fn converse(mut stream: UnixStream, app: Data<App>, storage: Arc<Storage>, pool: CpuPool) {
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new((&mut stream).take(LINE_BYTES_MAX));
    let read = timeout(REQUEST_WITHIN, reader.read_line(&mut line)).await;
    if !matches!(read, Ok(Ok(bytes)) if bytes > 0) {
        return;
    }
    let answer = match serde_json::from_str(&line) {
        Ok(request) => answer(request, &app, storage, &pool).await,
        Err(error) => Answer::Refused(format!("not a request: {error}")),
    };
    if let Ok(mut text) = serde_json::to_string(&answer) {
        text.push('\n');
        // Whoever asked may have gone; what was asked is done all the same.
        let _ = stream.write_all(text.as_bytes()).await;
    }
}

async fn answer(request: Request, app: &App, storage: Arc<Storage>, pool: &CpuPool) -> Answer {
    let outcome = match request {
        Request::RegisterUser { name, password, is_admin } => accounts::register(app, &name, password, is_admin).await,
        Request::Backup { directory } => run(pool, move || storage.backup(&directory)).await,
        Request::Verify => run(pool, move || storage.verify()).await,
    };
    outcome.map_or_else(Answer::Refused, Answer::Done)
}

async fn run(pool: &CpuPool, work: impl FnOnce() -> Result<String, String> + Send + 'static) -> Result<String, String> {
    pool.run(work).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Asks a running server. `None`: no server runs on that data directory.
///
/// # Errors
/// When a server was reached and did not answer.
pub fn ask(data_dir: &Path, request: &Request) -> io::Result<Option<Answer>> {
    let mut stream = match BlockingStream::connect(data_dir.join(SOCKET_FILE)) {
        Ok(stream) => stream,
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
    Ok(Some(serde_json::from_str(&line)?))
}
