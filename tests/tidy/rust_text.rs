//! Rust source as far as the rules need it: which characters are code, and which lines are tests.
//! May not: understand Rust; what it does not know counts as shipped code, so that rules err on the strict side.

/// A source text in three views with the same lines.
pub struct RustText {
    /// As it stands.
    pub raw: Vec<String>,
    /// Comments blanked.
    pub quoted: Vec<String>,
    /// Comments and the insides of strings and characters blanked.
    pub code: Vec<String>,
    /// Whether the line belongs to an inline test module.
    pub is_test: Vec<bool>,
}

impl RustText {
    pub fn parse(text: &str) -> Self {
        let (quoted, code) = blanked(text);
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (raw, quoted, code) = (lines(text), lines(&quoted), lines(&code));
        let is_test = test_lines(&quoted, &code);
        Self { raw, quoted, code, is_test }
    }

    /// Numbers (from 1) and code of the lines that ship.
    pub fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().zip(&self.is_test).enumerate().filter(|(_, (_, is_test))| !**is_test).map(numbered)
    }

    /// Numbers (from 1) and code of the lines of inline tests.
    pub fn tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.iter().zip(&self.is_test).enumerate().filter(|(_, (_, is_test))| **is_test).map(numbered)
    }

    /// What `use` brings in, each name as a whole path, with the line it stands on.
    pub fn imports(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut prefixes: Vec<String> = Vec::new();
        let mut path = String::new();
        let mut is_in_use = false;
        for (index, line) in self.code.iter().enumerate() {
            let mut rest = line.as_str();
            if !is_in_use {
                let trimmed = line.trim_start();
                let after_pub = trimmed
                    .strip_prefix("pub")
                    .map_or(trimmed, |rest| rest.trim_start_matches(|char| char != ' ').trim_start());
                let Some(after) = after_pub.strip_prefix("use ") else { continue };
                (is_in_use, rest) = (true, after);
            }
            for char in rest.chars() {
                match char {
                    '{' => prefixes.push(std::mem::take(&mut path)),
                    ',' | '}' | ';' => {
                        if !path.is_empty() {
                            found.push((index + 1, prefixes.concat() + &std::mem::take(&mut path)));
                        }
                        if char == '}' {
                            prefixes.pop();
                        }
                        is_in_use &= char != ';';
                    }
                    ' ' => {}
                    other => path.push(other),
                }
            }
        }
        found
    }

    /// Modules without a body that are declared under a test `cfg`.
    pub fn test_modules(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut is_under_cfg = false;
        for (code, quoted) in self.code.iter().zip(&self.quoted) {
            let line = code.trim();
            if is_test_cfg(quoted) {
                is_under_cfg = true;
            } else if let Some(name) = module_name(line).filter(|_| line.ends_with(';')) {
                if is_under_cfg {
                    found.push(name.to_owned());
                }
                is_under_cfg = false;
            } else if !line.is_empty() && !line.starts_with("#[") && !is_inside_attribute(line) {
                is_under_cfg = false;
            }
        }
        found
    }
}

fn numbered<'a>((index, (line, _)): (usize, (&'a String, &bool))) -> (usize, &'a str) {
    (index + 1, line)
}

/// The name in `mod name;`, `pub mod name {` and the like.
fn module_name(line: &str) -> Option<&str> {
    let after = line.split_once("mod ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"))?.1;
    let name = after.trim_end_matches([';', '{', ' ']);
    name.chars().all(|char| char.is_alphanumeric() || char == '_').then_some(name)
}

/// `#[cfg(test)]`, and `cfg` of the feature that brings fakes for the tests of other crates.
fn is_test_cfg(quoted: &str) -> bool {
    let line = quoted.trim();
    line.starts_with("#[cfg(")
        && !line.contains("not(")
        && (line.contains("(test)") || line.contains("any(test") || line.contains("\"testing\""))
}

fn is_inside_attribute(line: &str) -> bool {
    line.ends_with(")]") || line.ends_with(',')
}

fn test_lines(quoted: &[String], code: &[String]) -> Vec<bool> {
    let mut is_test = vec![false; code.len()];
    let mut line = 0;
    while line < code.len() {
        if is_test_cfg(&quoted[line]) {
            let first = line;
            // Past further attributes to the item.
            line += 1;
            while code.get(line).is_some_and(|code| code.trim().starts_with("#[") || code.trim().is_empty()) {
                line += 1;
            }
            let end = end_of_item(code, line);
            is_test[first..end].fill(true);
            line = end;
        } else {
            line += 1;
        }
    }
    is_test
}

/// The line after the item that begins at `first`: at its closing brace, or at its semicolon.
fn end_of_item(code: &[String], first: usize) -> usize {
    let mut depth = 0_i32;
    let mut has_opened = false;
    for (number, line) in code.iter().enumerate().skip(first) {
        for char in line.chars() {
            match char {
                '{' => {
                    depth += 1;
                    has_opened = true;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        if depth <= 0 && (has_opened || line.contains(';') || line.trim_end().ends_with(',')) {
            return number + 1;
        }
    }
    code.len()
}

#[derive(Clone, Copy, PartialEq)]
enum Within {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    Text,
    RawText { hashes: usize },
}

/// The text without comments, and without comments and the insides of literals. Lines stay where they are.
fn blanked(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut quoted, mut code) = (String::new(), String::new());
    let mut within = Within::Code;
    let mut at = 0;
    while let Some(&char) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        // How many characters this step takes, and whether they show in `quoted` and in `code`.
        let (mut taken, mut is_quoted, mut is_code) = (1, true, true);
        match within {
            Within::Code => match (char, next) {
                ('/', Some('/')) => {
                    within = Within::LineComment;
                    (is_quoted, is_code) = (false, false);
                }
                ('/', Some('*')) => {
                    within = Within::BlockComment { depth: 1 };
                    (taken, is_quoted, is_code) = (2, false, false);
                }
                ('"', _) => within = Within::Text,
                ('r', Some('"' | '#')) if !is_word(at.checked_sub(1).and_then(|before| chars.get(before)), true) => {
                    let hashes = chars[at + 1..].iter().take_while(|char| **char == '#').count();
                    if chars.get(at + 1 + hashes) == Some(&'"') {
                        within = Within::RawText { hashes };
                        taken = hashes + 2;
                    }
                }
                ('\'', _) => {
                    if let Some(length) = char_literal(&chars[at..]) {
                        (taken, is_code) = (length, false);
                    }
                }
                _ => {}
            },
            Within::LineComment => {
                (is_quoted, is_code) = (false, false);
                if char == '\n' {
                    within = Within::Code;
                }
            }
            Within::BlockComment { depth } => {
                (is_quoted, is_code) = (false, false);
                match (char, next) {
                    ('*', Some('/')) => {
                        taken = 2;
                        within = if depth == 1 { Within::Code } else { Within::BlockComment { depth: depth - 1 } };
                    }
                    ('/', Some('*')) => {
                        taken = 2;
                        within = Within::BlockComment { depth: depth + 1 };
                    }
                    _ => {}
                }
            }
            Within::Text => match char {
                '\\' => (taken, is_code) = (2, false),
                '"' => within = Within::Code,
                _ => is_code = false,
            },
            Within::RawText { hashes } => {
                let ends =
                    char == '"' && chars[at + 1..].iter().take(hashes).filter(|char| **char == '#').count() == hashes;
                if ends {
                    within = Within::Code;
                    taken = hashes + 1;
                } else {
                    is_code = false;
                }
            }
        }
        for &char in chars.iter().skip(at).take(taken) {
            let shown = |is_shown| if is_shown || char == '\n' { char } else { ' ' };
            quoted.push(shown(is_quoted));
            code.push(shown(is_code));
        }
        at += taken;
    }
    (quoted, code)
}

/// Whether a character belongs to an identifier; `b` and `c` before a raw string do not count.
fn is_word(char: Option<&char>, may_prefix_a_string: bool) -> bool {
    char.is_some_and(|char| {
        (char.is_alphanumeric() || *char == '_') && !(may_prefix_a_string && matches!(char, 'b' | 'c'))
    })
}

/// The length of a character literal; `None` for lifetimes and labels.
fn char_literal(chars: &[char]) -> Option<usize> {
    match (chars.get(1)?, chars.get(2)?) {
        ('\\', _) => chars.iter().skip(3).position(|char| *char == '\'').map(|end| end + 4),
        (_, '\'') => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blanked_and_lines_stay() {
        let text = "let a = \"x // no\"; // yes \"\nlet b = r#\"todo!\n\"#; /* a /* b */\n c */ let c: &'a str = d('\"', '\\'');\n";
        let source = RustText::parse(text);
        assert_eq!(source.quoted[0].trim_end(), "let a = \"x // no\";");
        assert_eq!(source.code[0].trim_end(), "let a = \"       \";");
        assert_eq!(source.code[1].trim_end(), "let b = r#\"");
        assert_eq!(source.code[2].trim_end(), "\"#;");
        assert_eq!(
            source.code[3].split_whitespace().collect::<Vec<_>>(),
            ["let", "c:", "&'a", "str", "=", "d(", ",", ");"]
        );
    }

    #[test]
    fn test_modules_and_test_items_are_no_shipped_code() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { \"}\"; }\n}\nfn c() {}\n#[cfg(test)]\nuse d;\nfn e() {}\n";
        let source = RustText::parse(text);
        let shipped: Vec<usize> = source.shipped().map(|(line, _)| line).collect();
        assert_eq!(shipped, [1, 6, 9]);
        assert!(source.test_modules().is_empty());
    }

    #[test]
    fn imports_are_whole_paths() {
        let text = "use std::{\n    collections::{BTreeMap, BTreeSet},\n    fs,\n};\npub(crate) use a::b;\nfn f() { use_it(); }\nuse c::d as e;\n";
        let found = RustText::parse(text).imports();
        let found: Vec<(usize, &str)> = found.iter().map(|(line, path)| (*line, path.as_str())).collect();
        let expected = [
            (2, "std::collections::BTreeMap"),
            (2, "std::collections::BTreeSet"),
            (3, "std::fs"),
            (5, "a::b"),
            (7, "c::dase"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn modules_in_other_files_are_found_by_their_cfg() {
        let text = "#[cfg(any(test, feature = \"testing\"))]\npub mod fixture;\nmod shipped;\n#[cfg(test)]\nmod tests;\n\
                    #[cfg(not(test))]\nmod real;\n#[cfg(feature = \"testing\")]\n#[expect(x, reason = \"y\")]\npub mod fakes;\n";
        assert_eq!(RustText::parse(text).test_modules(), ["fixture", "tests", "fakes"]);
    }
}
