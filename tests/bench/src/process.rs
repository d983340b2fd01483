//! What a process has used, as the kernel counts it.
//! May not: ask the process.

use std::{fs, time::Duration};

/// A tick of `/proc/PID/stat`. Linux shows 100 a second to programs, whatever the kernel's own clock does.
const TICK: Duration = Duration::from_millis(10);

/// A process that is being watched.
#[derive(Clone, Copy)]
pub struct Process {
    pid: u32,
}

impl Process {
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// CPU time of all its threads, in user and kernel mode, to 10 ms.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu(self) -> Result<Duration, String> {
        let path = format!("/proc/{}/stat", self.pid);
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        // The name, in parentheses, may hold spaces; utime and stime are the 12th and 13th after it.
        let after_name = text.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks: Option<u32> =
            after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().ok()).sum();
        ticks.map(|ticks| TICK.saturating_mul(ticks)).ok_or_else(|| format!("{path} says {text:?}"))
    }

    /// Memory that it holds, in MiB.
    ///
    /// # Errors
    /// The process is gone.
    pub fn resident_mib(self) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.pid);
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: Option<f64> = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
        kib.map(|kib| kib / 1024.0).ok_or_else(|| format!("{path} says no VmRSS"))
    }
}
