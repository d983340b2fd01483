//! What inputs are made of: valid ones, and what mutations of their structure and of their bytes make of them.
//! May not: know what reads them, or draw from anything but the case's own generator.

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

use super::json::{Json, write_text};

/// Bytes of an input: some events, and many times what a header or a key document has.
pub const BYTES_MAX: usize = 256 * 1024;

/// One in so many inputs is made long.
const LONG_ONE_IN: u32 = 2_000;

/// One in so many texts is written with odd blanks and escapes.
const ODDLY_ONE_IN: u32 = 4;

/// Tokens on which readers of text and of JSON have stumbled.
const TOKENS: [&[u8]; 48] = [
    b"1e400",
    b"-0",
    b"-0.0",
    b"1.0",
    b"01",
    b"1E2",
    b"9007199254740991",
    b"9007199254740992",
    b"-9007199254740992",
    b"18446744073709551616",
    b"99999999999999999999999",
    b"\"\\ud800\"",
    b"\\ud800",
    b"\\udc00\\ud800",
    b"\\ud83d\\ude00",
    b"\\u0000",
    b"\\u00",
    b"\\x41",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"\xef\xbf\xbf",
    b"\xf0\x90\x80\x80",
    b"\x00",
    b"\x7f",
    b"\n",
    b"\r\n",
    b"\t",
    b"\"",
    b"\\",
    b"'",
    b",",
    b":",
    b"=",
    b"[",
    b"]",
    b"{",
    b"}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
    b"null",
    b"true",
    b"NaN",
    b"\"\":",
    b"\"$serde_json::private::RawValue\":",
    b"\"$serde_json::private::Number\":",
];

/// Values that stand where others belong.
const VALUES: [Json; 14] = [
    Json::Null,
    Json::Bool(true),
    Json::Integer(0),
    Json::Integer(-1),
    Json::Integer(9_007_199_254_740_991),
    Json::Token("1.5"),
    Json::Token("1e400"),
    Json::Token("-0"),
    Json::Token("9007199254740992"),
    Json::Token("\"\\ud800\""),
    Json::Text(String::new()),
    Json::List(Vec::new()),
    Json::Object(Vec::new()),
    Json::Token("{\"$serde_json::private::RawValue\":\"[\\\"*\\\"]\"}"),
];

/// Keys that sort otherwise by another rule, or that a parser keeps for itself.
const KEYS: [&str; 12] = [
    "",
    "a",
    "aa",
    "\u{0}",
    "\"",
    "\u{7f}",
    "é",
    "\u{e000}",
    "\u{ffff}",
    "\u{1f600}",
    "$serde_json::private::RawValue",
    "unsigned",
];

/// What a reader is given.
#[derive(Clone, Debug)]
pub struct Input {
    pub bytes: Vec<u8>,
    /// Chooses what else there is to choose: a room version, a question that the input answers.
    pub choice: u64,
}

impl Input {
    pub fn new(bytes: impl Into<Vec<u8>>, random: &mut StdRng) -> Self {
        Self { bytes: bytes.into(), choice: random.random() }
    }

    /// One of several, by the choice.
    pub fn choose<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(among.len()).ok().filter(|count| *count > 0)?;
        among.get(usize::try_from(self.choice % count).ok()?)
    }
}

/// A text of JSON: mostly as it is, often with a changed structure, sometimes with changed bytes.
pub fn text_of(mut json: Json, others: &[Json], random: &mut StdRng) -> Vec<u8> {
    if random.random_ratio(2, 3) {
        for _ in 0..random.random_range(1..=3) {
            change(&mut json, others, random);
        }
    }
    let mut bytes = write(&json, random).into_bytes();
    if random.random_ratio(1, 4) {
        mutate(&mut bytes, &[], random);
    }
    bytes
}

/// Changes one place of a value.
pub fn change(json: &mut Json, others: &[Json], random: &mut StdRng) {
    match json {
        Json::Object(entries) if !entries.is_empty() && random.random_ratio(4, 5) => {
            let at = random.random_range(0..entries.len());
            match random.random_range(0..12) {
                0 => drop(entries.remove(at)),
                1 => {
                    let (key, _) = &entries[random.random_range(0..entries.len())];
                    let twin = (key.clone(), any_value(others, random));
                    entries.insert(at, twin);
                }
                2 => entries[at].0 = any_key(random),
                3 => entries.push((any_key(random), any_value(others, random))),
                4 => {
                    let other = random.random_range(0..entries.len());
                    let (one, two) = (entries[at].1.clone(), entries[other].1.clone());
                    (entries[at].1, entries[other].1) = (two, one);
                }
                _ => change(&mut entries[at].1, others, random),
            }
        }
        Json::List(entries) if !entries.is_empty() && random.random_ratio(4, 5) => {
            let at = random.random_range(0..entries.len());
            match random.random_range(0..8) {
                0 => drop(entries.remove(at)),
                1 => {
                    let twin = entries[at].clone();
                    let count = if random.random_ratio(1, 20) { 120 } else { random.random_range(1..=3) };
                    entries.extend(std::iter::repeat_n(twin, count));
                }
                2 => entries.insert(at, any_value(others, random)),
                _ => change(&mut entries[at], others, random),
            }
        }
        Json::Text(text) if random.random_ratio(1, 2) => change_text(text, random),
        Json::Integer(number) if random.random_ratio(1, 2) => {
            *number = match random.random_range(0..4) {
                0 => number.wrapping_neg(),
                1 => number.saturating_add(1),
                2 => number.saturating_sub(1),
                _ => random.random_range(-9_007_199_254_740_992..=9_007_199_254_740_992),
            };
        }
        other => *other = any_value(others, random),
    }
}

fn change_text(text: &mut String, random: &mut StdRng) {
    let cut: usize =
        text.char_indices().map(|(at, _)| at).nth(random.random_range(0..=text.len())).unwrap_or(text.len());
    match random.random_range(0..6) {
        0 => text.truncate(cut),
        1 => text.insert_str(cut, KEYS.choose(random).unwrap_or(&"")),
        2 => text.push_str(&"x".repeat(random.random_range(1..300))),
        3 => text.insert(cut, char::from(random.random_range(0x20..0x7f_u8))),
        4 => *text = text.to_uppercase(),
        _ => drop(text.pop()),
    }
}

fn any_key(random: &mut StdRng) -> String {
    match random.random_range(0..20) {
        0 => "k".repeat(random.random_range(200..2_000)),
        1..=4 => random.random_range(0..30).to_string(),
        _ => KEYS.choose(random).copied().unwrap_or_default().to_owned(),
    }
}

fn any_value(others: &[Json], random: &mut StdRng) -> Json {
    match random.random_range(0..12) {
        0 => Json::Text("v".repeat(random.random_range(0..400))),
        1 => {
            let levels = random.random_range(1..140);
            (0..levels).fold(Json::Null, |inner, _| Json::List(vec![inner]))
        }
        2..=4 => others.choose(random).cloned().unwrap_or(Json::Null),
        5 => Json::Object((0..random.random_range(2..6)).map(|_| (any_key(random), Json::Integer(1))).collect()),
        _ => VALUES.choose(random).cloned().unwrap_or(Json::Null),
    }
}

/// Writes a value with its keys as they stand, mostly without blanks, up to [`BYTES_MAX`].
pub fn write(json: &Json, random: &mut StdRng) -> String {
    let mut text = String::new();
    let is_odd = random.random_ratio(1, ODDLY_ONE_IN);
    write_into(json, is_odd, random, &mut text);
    text.truncate(text.floor_char_boundary(BYTES_MAX));
    text
}

fn write_into(json: &Json, is_odd: bool, random: &mut StdRng, text: &mut String) {
    match json {
        Json::List(entries) => {
            text.push('[');
            for (index, entry) in entries.iter().enumerate() {
                separate(index > 0, is_odd, random, text);
                write_into(entry, is_odd, random, text);
            }
            text.push(']');
        }
        Json::Object(entries) => {
            text.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                separate(index > 0, is_odd, random, text);
                write_word(key, is_odd, random, text);
                text.push(':');
                write_into(value, is_odd, random, text);
            }
            text.push('}');
        }
        Json::Text(value) => write_word(value, is_odd, random, text),
        other => text.push_str(&other.canonical()),
    }
}

fn separate(is_between: bool, is_odd: bool, random: &mut StdRng, text: &mut String) {
    if is_between {
        text.push(',');
    }
    if is_odd && random.random_ratio(1, 4) {
        text.push_str([" ", "\n", "\t\r"].choose(random).unwrap_or(&" "));
    }
}

fn write_word(word: &str, is_odd: bool, random: &mut StdRng, text: &mut String) {
    if is_odd && random.random_ratio(1, 3) {
        text.push('"');
        for unit in word.encode_utf16() {
            text.push_str(&format!("\\u{unit:04X}"));
        }
        text.push('"');
    } else {
        write_text(word, text);
    }
}

/// Changes bytes in one to four places. `others`: what parts can be taken from.
pub fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
    for _ in 0..random.random_range(1..=4) {
        mutate_once(bytes, others, random);
    }
    if random.random_ratio(1, LONG_ONE_IN) && !bytes.is_empty() {
        let part = part_of(bytes, random);
        let count = (BYTES_MAX - BYTES_MAX.min(bytes.len())) / part.len().max(1);
        let at = random.random_range(0..=bytes.len());
        bytes.splice(at..at, part.repeat(count));
    }
    bytes.truncate(BYTES_MAX);
}

fn mutate_once(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    match random.random_range(0..10) {
        0 => bytes.truncate(at),
        1 | 2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.random();
            }
        }
        4 => {
            let end = bytes.len().min(at + random.random_range(1..=16));
            bytes.drain(at..end);
        }
        5 => {
            let part = part_of(bytes, random);
            bytes.splice(at..at, part);
        }
        6 => {
            let part = others.choose(random).map(|other| part_of(other, random)).unwrap_or_default();
            bytes.splice(at..at, part);
        }
        7 => {
            let token = TOKENS.choose(random).copied().unwrap_or_default();
            let end = bytes.len().min(at + token.len());
            bytes.splice(at..end, token.iter().copied());
        }
        _ => {
            let token = TOKENS.choose(random).copied().unwrap_or_default();
            bytes.splice(at..at, token.iter().copied());
        }
    }
}

fn part_of(bytes: &[u8], random: &mut StdRng) -> Vec<u8> {
    let from = random.random_range(0..=bytes.len());
    let end = bytes.len().min(from + random.random_range(0..=64));
    bytes[from..end].to_vec()
}

/// One of several.
pub fn one_of<'a>(among: &[&'a str], random: &mut StdRng) -> &'a str {
    among.choose(random).copied().unwrap_or_default()
}
