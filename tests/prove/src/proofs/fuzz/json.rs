//! JSON, read and written a second time: what canonical JSON is, told without the parser that production uses.
//! May not: take what has two readings, or be fast.
//!
//! Spec: <https://spec.matrix.org/v1.19/appendices/#canonical-json>

use std::cmp::Ordering;

/// Levels of lists and objects. Ours, as production says of itself.
const LEVELS_MAX: usize = 127;

/// The largest integer that a double holds without a gap before it.
const INTEGER_MAX: i64 = 9_007_199_254_740_991;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<Json>),
    /// In the order they came.
    Object(Vec<(String, Json)>),
    /// Any token. Only drawn, never read.
    Token(&'static str),
}

/// In which order the keys of an object are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum KeyOrder {
    CodePoints,
    /// As many languages sort. Never what production may do.
    Utf16,
}

/// Reads a text that canonical JSON has a reading of.
pub fn read(bytes: &[u8]) -> Option<Json> {
    let mut reader = Reader { left: std::str::from_utf8(bytes).ok()?, levels_left: LEVELS_MAX };
    let value = reader.value()?;
    reader.blanks();
    reader.left.is_empty().then_some(value)
}

struct Reader<'a> {
    left: &'a str,
    levels_left: usize,
}

impl Reader<'_> {
    fn blanks(&mut self) {
        self.left = self.left.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.left.strip_prefix(token);
        self.left = rest.unwrap_or(self.left);
        rest.is_some()
    }

    fn character(&mut self) -> Option<char> {
        let character = self.left.chars().next()?;
        self.left = &self.left[character.len_utf8()..];
        Some(character)
    }

    fn value(&mut self) -> Option<Json> {
        self.blanks();
        for (token, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
            if self.take(token) {
                return Some(value);
            }
        }
        match self.left.bytes().next()? {
            b'"' => self.text().map(Json::Text),
            b'[' => self.inside(Self::list),
            b'{' => self.inside(Self::object),
            _ => self.integer(),
        }
    }

    fn inside(&mut self, read: fn(&mut Self) -> Option<Json>) -> Option<Json> {
        self.levels_left = self.levels_left.checked_sub(1)?;
        self.character()?;
        let value = read(self)?;
        self.levels_left += 1;
        Some(value)
    }

    fn list(&mut self) -> Option<Json> {
        let mut entries = Vec::new();
        self.blanks();
        if self.take("]") {
            return Some(Json::List(entries));
        }
        loop {
            entries.push(self.value()?);
            self.blanks();
            if self.take("]") {
                return Some(Json::List(entries));
            }
            self.take(",").then_some(())?;
        }
    }

    fn object(&mut self) -> Option<Json> {
        let mut entries: Vec<(String, Json)> = Vec::new();
        self.blanks();
        if self.take("}") {
            return Some(Json::Object(entries));
        }
        loop {
            self.blanks();
            let key = self.text()?;
            self.blanks();
            self.take(":").then_some(())?;
            entries.push((key, self.value()?));
            self.blanks();
            if self.take("}") {
                break;
            }
            self.take(",").then_some(())?;
        }
        let mut keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        let is_unique = keys.windows(2).all(|pair| pair[0] != pair[1]);
        is_unique.then_some(Json::Object(entries))
    }

    fn text(&mut self) -> Option<String> {
        self.take("\"").then_some(())?;
        let mut text = String::new();
        loop {
            match self.character()? {
                '"' => return Some(text),
                '\\' => text.push(self.escaped()?),
                '\0'..='\u{1f}' => return None,
                character => text.push(character),
            }
        }
    }

    fn escaped(&mut self) -> Option<char> {
        Some(match self.character()? {
            '"' => '"',
            '\\' => '\\',
            '/' => '/',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let first = self.unit()?;
                match first {
                    0xd800..=0xdbff => {
                        self.take("\\u").then_some(())?;
                        let second = self.unit()?;
                        char::decode_utf16([first, second]).next()?.ok()?
                    }
                    _ => char::from_u32(first.into())?,
                }
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let digits = self.left.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        self.left = &self.left[4..];
        u16::from_str_radix(digits, 16).ok()
    }

    /// No sign but minus, no zero in front, no fraction, no exponent; and zero has no sign.
    fn integer(&mut self) -> Option<Json> {
        let is_part = |character: char| character.is_ascii_alphanumeric() || "+-.".contains(character);
        let end = self.left.find(|character| !is_part(character)).unwrap_or(self.left.len());
        let (token, rest) = self.left.split_at(end);
        self.left = rest;
        let digits = token.strip_prefix('-').unwrap_or(token);
        let is_plain = !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && (token == "0" || !digits.starts_with('0'));
        let number: i64 = is_plain.then(|| token.parse().ok()).flatten()?;
        (-INTEGER_MAX..=INTEGER_MAX).contains(&number).then_some(Json::Integer(number))
    }
}

impl Json {
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub fn text_at(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    pub fn bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    pub fn list(&self) -> Option<&[Self]> {
        if let Self::List(entries) = self { Some(entries) } else { None }
    }

    pub fn object(&self) -> Option<&[(String, Self)]> {
        if let Self::Object(entries) = self { Some(entries) } else { None }
    }

    /// An object without these keys.
    pub fn without(&self, keys: &[&str]) -> Self {
        let kept = self.object().unwrap_or_default().iter().filter(|(key, _)| !keys.contains(&key.as_str()));
        Self::Object(kept.cloned().collect())
    }

    /// The text that signatures and hashes are about.
    pub fn canonical(&self) -> String {
        self.written(KeyOrder::CodePoints)
    }

    pub fn written(&self, order: KeyOrder) -> String {
        let mut text = String::new();
        self.write(order, &mut text);
        text
    }

    fn write(&self, order: KeyOrder, text: &mut String) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Self::Integer(number) => text.push_str(&number.to_string()),
            Self::Text(value) => write_text(value, text),
            Self::Token(token) => text.push_str(token),
            Self::List(entries) => {
                text.push('[');
                for (index, entry) in entries.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    entry.write(order, text);
                }
                text.push(']');
            }
            Self::Object(entries) => {
                let mut entries: Vec<&(String, Self)> = entries.iter().collect();
                entries.sort_by(|(key, _), (other, _)| compare(order, key, other));
                text.push('{');
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    write_text(key, text);
                    text.push(':');
                    value.write(order, text);
                }
                text.push('}');
            }
        }
    }
}

fn compare(order: KeyOrder, key: &str, other: &str) -> Ordering {
    match order {
        KeyOrder::CodePoints => key.chars().cmp(other.chars()),
        KeyOrder::Utf16 => key.encode_utf16().cmp(other.encode_utf16()),
    }
}

/// The shortest form of each character; only what must be escaped is.
pub fn write_text(value: &str, text: &mut String) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\u{c}' => text.push_str("\\f"),
            '\r' => text.push_str("\\r"),
            '\0'..='\u{1f}' => text.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => text.push(character),
        }
    }
    text.push('"');
}
