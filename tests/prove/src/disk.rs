//! A disk of 64 MiB that a server has for itself, so that it can be filled.
//! May not: fill a disk that anybody else uses, or outlive the proof.
//!
//! It is a tmpfs in a mount namespace of its own, which a holder keeps alive while servers come and go. A user
//! namespace makes that possible without rights; where neither is allowed, there is none.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Holds the namespace until its standard input ends.
const HOLD: &str = "mount -t tmpfs -o size=64m,mode=0700 small \"$0\" && echo mounted && exec cat >/dev/null";
/// The directory is entered inside, where the mount is seen. The shell stays, so that it is the parent.
const INSIDE: &str = "cd \"$0\" && \"$@\"; exit $?";
/// With rights of our own, and as the machine's administrator.
const WAYS: [(&[&str], &[&str]); 2] = [
    (&["--user", "--map-root-user", "--mount"], &["--user", "--mount", "--preserve-credentials"]),
    (&["--mount"], &["--mount"]),
];
/// What is written at once to fill it.
const STEP: [u8; 4096] = [b'x'; 4096];

/// A file system of 64 MiB.
pub struct SmallDisk {
    holder: Child,
    how_to_enter: &'static [&'static str],
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one at a directory, for those who enter.
    ///
    /// # Errors
    /// This machine does not let us, in its own words.
    pub fn mount(at: &Path) -> Result<Self, String> {
        let mut refusals = Vec::new();
        for (to_make, to_enter) in WAYS {
            let mut command = Command::new("unshare");
            command.args(to_make).args(["sh", "-c", HOLD]).arg(at);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut holder = command.spawn().map_err(|error| format!("unshare: {error}"))?;
            let mut line = String::new();
            if let Some(stdout) = holder.stdout.take() {
                BufReader::new(stdout).read_line(&mut line).map_err(|error| format!("unshare: {error}"))?;
            }
            if line.trim_end() == "mounted" {
                return Ok(Self { holder, how_to_enter: to_enter, at: at.to_owned() });
            }
            let ended = holder.wait_with_output().map_err(|error| format!("unshare: {error}"))?;
            refusals.push(String::from_utf8_lossy(&ended.stderr).trim().to_owned());
        }
        Err(refusals.join("; "))
    }

    /// Words under which a program sees it, in a working directory.
    pub fn wrapper(&self, working_dir: &Path) -> Vec<String> {
        let target = ["nsenter".to_owned(), format!("--target={}", self.holder.id())];
        let enter = self.how_to_enter.iter().map(|word| (*word).to_owned());
        let inside = ["sh", "-c", INSIDE].map(str::to_owned);
        target.into_iter().chain(enter).chain(inside).chain([working_dir.to_string_lossy().into_owned()]).collect()
    }

    /// Takes all that is free but so many bytes.
    ///
    /// # Errors
    /// Of another kind than a full disk.
    pub fn fill(&self, bytes_left: u64) -> io::Result<()> {
        let mut hog = File::create(self.hog())?;
        loop {
            match hog.write_all(&STEP) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        let taken = hog.metadata()?.len();
        hog.set_len(taken.saturating_sub(bytes_left))
    }

    /// Gives back what was taken.
    ///
    /// # Errors
    /// Of the file system.
    pub fn give_back(&self) -> io::Result<()> {
        std::fs::remove_file(self.hog())
    }

    /// Seen from outside.
    fn hog(&self) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        path.extend(self.at.components().skip(1));
        path.join("hog")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It ends with its input; its mount goes with the last who entered.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
