//! What the operating system saw of a server under `strace`: writes into the journal, syncs of it, and answers.
//! May not: judge; it says what came before what.

use std::collections::BTreeMap;

/// The calls that a trace must show.
const CALLS: &str = "trace=fsync,fdatasync,write,writev,pwrite64,pwritev,sendto,sendmsg";

/// The words before a program that have it traced into a file. `-s`: whole records have to be in the trace, with their marks.
pub fn tracer(file: &str) -> [&str; 11] {
    ["strace", "-f", "-yy", "-s", "65536", "-e", CALLS, "-e", "signal=none", "-o", file]
}

/// One line of the trace about a call that began or ended.
struct Step<'a> {
    thread: &'a str,
    what: &'a str,
}

/// A write into the journal, a sync of it, and the writing of an answer, by their lines in the trace.
#[derive(Default)]
pub struct Trace {
    /// Line on which the write of a knock's record had ended, by the knock's mark.
    recorded: BTreeMap<String, usize>,
    /// First and last line of each sync of the journal that succeeded.
    synced: Vec<(usize, usize)>,
    /// Lines on which the writing of a 200 began, by the client's port.
    pub answered: BTreeMap<u16, Vec<usize>>,
}

impl Trace {
    /// Reads what the tracer wrote. `marks` are texts of which each stands in one record of the journal.
    pub fn read(text: &str, marks: &[String]) -> Self {
        let mut trace = Self::default();
        // What a thread began and did not end yet: the marks it writes, or that it syncs, and since when.
        let mut writing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut syncing: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let Some((thread, what)) = line.split_once(' ') else { continue };
            let step = Step { thread, what: what.trim_start() };
            let is_unfinished = step.what.ends_with("<unfinished ...>");
            // Of a sync: a write says how many bytes it wrote.
            let has_succeeded = step.what.ends_with(" = 0");
            if step.what.starts_with("<... ") {
                if let Some(begun) = syncing.remove(step.thread)
                    && has_succeeded
                {
                    trace.synced.push((begun, number));
                }
                for mark in writing.remove(step.thread).unwrap_or_default() {
                    trace.recorded.insert(mark, number);
                }
                continue;
            }
            let call = step.what.split('(').next().unwrap_or("");
            let is_on_journal = step.what.contains(".journal>");
            if ["fsync", "fdatasync"].contains(&call) && is_on_journal {
                if is_unfinished {
                    syncing.insert(step.thread, number);
                } else if has_succeeded {
                    trace.synced.push((number, number));
                }
            } else if call.contains("write") && is_on_journal {
                let written: Vec<String> = marks.iter().filter(|mark| step.what.contains(*mark)).cloned().collect();
                if is_unfinished {
                    writing.insert(step.thread, written);
                } else {
                    trace.recorded.extend(written.into_iter().map(|mark| (mark, number)));
                }
            } else if step.what.contains("HTTP/1.1 200 OK") {
                let port = step
                    .what
                    .split("->")
                    .nth(1)
                    .and_then(|rest| rest.split(']').next()?.rsplit(':').next()?.parse().ok());
                if let Some(port) = port {
                    trace.answered.entry(port).or_default().push(number);
                }
            }
        }
        trace
    }

    /// The first sync that began after the knock was written and ended before the line: by its first and last line.
    pub fn sync_of(&self, mark: &str, answered: usize) -> Option<(usize, usize)> {
        let recorded = self.recorded.get(mark)?;
        let fits = |(begun, ended): &&(usize, usize)| recorded < begun && *ended < answered;
        self.synced.iter().filter(fits).min_by_key(|(_, ended)| *ended).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_without_the_sync_in_its_place_is_told_apart() {
        let record = r#"7 write(9</d/journal/1.journal>, "..mark-a..", 10) = 10"#;
        let [begun, ended] = ["7 fdatasync(9</d/journal/1.journal> <unfinished ...>", "7 <... fdatasync resumed>) = 0"];
        let answer = r#"8 sendto(5<TCP:[127.0.0.1:80->127.0.0.1:4000]>, "HTTP/1.1 200 OK\r\n", 17, 0, NULL, 0) = 17"#;
        let other = "7 fdatasync(9</d/sled/db>) = 0";
        let at_once = "7 fdatasync(9</d/journal/1.journal>) = 0";
        let failed = "7 <... fdatasync resumed>) = -1 EIO (Input/output error)";
        let failed_at_once = "7 fdatasync(9</d/journal/1.journal>) = -1 EIO (Input/output error)";
        for (lines, expected) in [
            (&[record, begun, ended, answer][..], true),
            (&[record, answer, begun, ended], false),
            (&[record, begun, answer, ended], false),
            (&[begun, record, ended, answer], false),
            (&[record, other, answer], false),
            (&[begun, ended, answer], false),
            (&[record, at_once, answer], true),
            (&[record, begun, failed, answer], false),
            (&[record, failed_at_once, answer], false),
            (&[record, failed_at_once, begun, ended, answer], true),
        ] {
            let trace = Trace::read(&lines.join("\n"), &["mark-a".to_owned()]);
            assert_eq!(trace.sync_of("mark-a", trace.answered[&4000][0]).is_some(), expected, "{lines:#?}");
        }
    }
}
