//! Prints log entries on stderr: one entry, one line, whatever remote servers put into names and reasons.
//! May not: choose what is logged; `RUST_LOG` does.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use log::kv::{Key, Source, Value, VisitSource};

/// Longest log line in bytes, line feed included. Source: SECURITY V87.
pub const LINE_BYTES_MAX: usize = 2048;

/// What ends a line that was cut.
const CUT: &str = " [cut]";

/// Used when `RUST_LOG` is not set.
const DEFAULT_FILTER: &str = "info";

/// They report each worker thread, each segment and each rule at info: quiet unless `RUST_LOG` names them.
const QUIET_TARGETS: [&str; 3] = ["actix_server", "sled", "ruma_state_res"];

/// Installs the logger for the process. A second call changes nothing.
pub fn install() {
    let environment = env_logger::Env::default().default_filter_or(DEFAULT_FILTER);
    let mut builder = env_logger::Builder::new();
    for target in QUIET_TARGETS {
        builder.filter_module(target, log::LevelFilter::Warn);
    }
    let already_installed = builder
        .parse_env(environment)
        .format(|out, record| {
            let at = out.timestamp_millis();
            let fields = Fields::of(record.key_values());
            let line =
                line(&at.to_string(), record.level().as_str(), record.target(), &record.args().to_string(), &fields.0);
            out.write_all(line.as_bytes())
        })
        .try_init()
        .is_err();
    if already_installed {
        log::debug!("a logger was installed before");
    }
}

/// Logs panics as one escaped line, since their text may quote what a remote server sent.
/// The stack follows as it is when `RUST_BACKTRACE` asks for it.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let location = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let text = panic.payload_as_str().unwrap_or("no message");
        log::error!(thread = thread.name().unwrap_or("unnamed"), location = location.as_str(), panic = text; "a thread panicked");
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            let _ = writeln!(io::stderr(), "{backtrace}");
        }
    }));
}

/// The text with everything that could end a line, move the cursor, hide or reorder text replaced by its escape.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        push_escaped(&mut escaped, char);
    }
    escaped
}

/// One finished log line of at most [`LINE_BYTES_MAX`] bytes.
fn line(at: &str, level: &str, target: &str, message: &str, fields: &str) -> String {
    let mut line = format!("{at} {level:<5} {}: {}{fields}", escape(target), escape(message));
    if line.len() >= LINE_BYTES_MAX {
        line.truncate(line.floor_char_boundary(LINE_BYTES_MAX - CUT.len() - 1));
        line.push_str(CUT);
    }
    line.push('\n');
    line
}

fn push_escaped(out: &mut String, char: char) {
    if char.is_control() || is_invisible_or_reordering(char) {
        // `escape_default` gives \n, \r, \t and \u{…}.
        out.extend(char.escape_default());
    } else {
        out.push(char);
    }
}

/// Line and paragraph separators, zero-width characters, direction marks and overrides, interlinear marks, tags.
fn is_invisible_or_reordering(char: char) -> bool {
    matches!(char,
        '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

/// The fields of an entry as ` key=value key="quoted value"`. Quoting keeps a value from posing as another field.
#[derive(Default)]
struct Fields(String);

impl Fields {
    fn of(source: &dyn Source) -> Self {
        let mut fields = Self::default();
        if source.visit(&mut fields).is_err() {
            fields.0.push_str(" [fields unreadable]");
        }
        fields
    }
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.push(' ');
        self.0.push_str(&escape(key.as_str()));
        self.0.push('=');
        push_value(&mut self.0, &value).map_err(log::kv::Error::from)
    }
}

fn push_value(out: &mut String, value: &Value<'_>) -> fmt::Result {
    let mut text = String::new();
    write!(text, "{value}")?;
    let is_plain =
        !text.is_empty() && !text.contains(|char: char| char.is_whitespace() || matches!(char, '"' | '=' | '\\'));
    if is_plain {
        out.push_str(&escape(&text));
        return Ok(());
    }
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                out.push('\\');
                out.push(char);
            }
            _ => push_escaped(out, char),
        }
    }
    out.push('"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> String {
        let mut fields = Fields::default();
        for (key, value) in pairs {
            fields.visit_pair(Key::from_str(key), Value::from(*value)).unwrap();
        }
        fields.0
    }

    #[test]
    fn hostile_text_stays_on_one_line_and_visible() {
        let reason = "hi\nERROR forged\r\u{1b}[2J\u{202e}txt\u{2028}\u{0085}";
        let line = line("T", "INFO", "vestibule", reason, &fields(&[("reason", reason)]));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with('\n'));
        assert!(
            !line.trim_end_matches('\n').contains(|char: char| char.is_control() || is_invisible_or_reordering(char))
        );
        assert!(line.contains(r"hi\nERROR forged\r\u{1b}[2J\u{202e}txt\u{2028}\u{85}"), "{line}");
    }

    #[test]
    fn a_value_cannot_pose_as_another_field() {
        assert_eq!(
            fields(&[("origin", r#"a" errcode="x"#), ("room_id", "!a:b"), ("empty", "")]),
            r#" origin="a\" errcode=\"x" room_id=!a:b empty="""#
        );
    }

    #[test]
    fn a_line_never_exceeds_its_limit() {
        for length in [0, LINE_BYTES_MAX - 20, LINE_BYTES_MAX - 1, LINE_BYTES_MAX, 100_000] {
            let line = line("T", "WARN", "vestibule", &"ü".repeat(length), "");
            assert!(line.len() <= LINE_BYTES_MAX, "{length}: {}", line.len());
            assert!(line.ends_with('\n'));
        }
        assert!(line("T", "WARN", "x", &"a".repeat(5000), "").ends_with(" [cut]\n"));
    }
}
