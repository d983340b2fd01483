//! Target `x-matrix`: the lines of `Authorization` headers, against a second reading of their grammar.
//! May not: verify a signature.

use rand::{RngExt, rngs::StdRng, seq::SliceRandom};
use ruma::{
    ServerName,
    serde::{Base64, base64::Standard},
};
use vestibule_api::extract::x_matrix::Credentials;

use super::super::{
    Target, Verdict,
    drawing::{Input, mutate, one_of},
};
use crate::proof::{Plant, Settings};

pub static FIRST_OF_TWO: Plant =
    Plant { name: "first-of-two", what: "of a parameter that is there twice the first counts", cases: 20_000 };

/// Bytes of all lines. Ours, as production says of itself.
const BYTES_MAX: usize = 8 * 1024;

const SERVERS: [&str; 9] =
    ["peer.test", "PEER.test", "us.test:8448", "[::1]:1", "1.2.3.4", "peer.test:99999", "a b", "", "peer.test/x"];
const KEYS: [&str; 7] = ["ed25519:1", "ed25519:a_b", "ed25519:", "ed448:1", "ed25519", "ed25519:ä", "ed25519:a b"];
const SIGNATURES: [&str; 6] = ["c2lnbmF0dXJl", "c2lnbmF0dXJlcw==", "c2ln/+9y", "-_-_", "", "c"];

pub fn make() -> Result<Box<dyn Target>, String> {
    Ok(Box::new(XMatrix))
}

struct XMatrix;

impl Target for XMatrix {
    fn draw(&self, random: &mut StdRng) -> Input {
        let count = if random.random_ratio(3, 4) { 1 } else { random.random_range(0..4) };
        let lines: Vec<String> = (0..count).map(|_| draw_line(random)).collect();
        let mut bytes = lines.join("\n").into_bytes();
        if random.random_ratio(1, 4) {
            let other = draw_line(random).into_bytes();
            mutate(&mut bytes, &[other], random);
        }
        Input::new(bytes, random)
    }

    fn judge(&self, input: &Input, settings: &Settings) -> Result<Verdict, String> {
        let expected = read(&input.bytes);
        let seen = if settings.has(&FIRST_OF_TWO) { without_second(&input.bytes) } else { input.bytes.clone() };
        let found = Credentials::parse(seen.split(|byte| *byte == b'\n')).ok().map(|credentials| told(&credentials));
        if found != expected {
            return Err(format!("read as {found:?}, and the second reading is {expected:?}"));
        }
        let Some(found) = found else { return Ok(Verdict::Refused) };
        let again = Credentials::parse(write(&found).iter().map(String::as_bytes)).ok();
        if again.as_ref().map(told) != Some(found) {
            return Err(format!("written and read again it is {again:?}"));
        }
        Ok(Verdict::Taken)
    }
}

/// What lines say.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    origin: String,
    destination: Option<String>,
    signatures: Vec<(String, Vec<u8>)>,
}

fn told(credentials: &Credentials) -> Told {
    let signatures = credentials.signatures.iter();
    Told {
        origin: credentials.origin.to_string(),
        destination: credentials.destination.as_ref().map(ToString::to_string),
        signatures: signatures.map(|(key, signature)| (key.to_string(), signature.as_bytes().to_vec())).collect(),
    }
}

fn write(told: &Told) -> Vec<String> {
    let destination = told.destination.iter().map(|name| format!(",destination=\"{name}\"")).collect::<String>();
    let line = |(key, signature): &(String, Vec<u8>)| {
        let (origin, key) = (&told.origin, key.replace('\\', "\\\\").replace('"', "\\\""));
        let signature = Base64::<Standard>::new(signature.clone()).encode();
        format!("X-Matrix origin=\"{origin}\",key=\"{key}\",sig=\"{signature}\"{destination}")
    };
    told.signatures.iter().map(line).collect()
}

fn draw_line(random: &mut StdRng) -> String {
    let mut names = vec!["origin", "key", "sig"];
    if random.random_ratio(2, 3) {
        names.push("destination");
    }
    if random.random_ratio(1, 8) {
        names.push(one_of(&["extra", "origin", "ORIGIN", "signature", "key", "a/b", ""], random));
    }
    names.shuffle(random);
    let good = random.random_ratio(3, 4);
    let parameters: Vec<String> = names.into_iter().map(|name| draw_parameter(name, good, random)).collect();
    let scheme = if good {
        "X-Matrix "
    } else {
        one_of(&["X-Matrix ", "x-matrix\t", " X-MATRIX  ", "Bearer ", "X-Matrix", "X-Matrix,"], random)
    };
    let comma = if good { "," } else { one_of(&[",", ", ", " ,\t", ",,", ";", " "], random) };
    scheme.to_owned() + &parameters.join(comma)
}

fn draw_parameter(name: &str, good: bool, random: &mut StdRng) -> String {
    let values: &[&str] = match name {
        "origin" | "destination" | "ORIGIN" => &SERVERS,
        "key" => &KEYS,
        _ => &SIGNATURES,
    };
    let value = if good { values[0] } else { one_of(values, random) };
    match random.random_range(0..6) {
        0 => format!("{name}={value}"),
        1 => format!("{name}=\"{}\"", value.chars().map(|character| format!("\\{character}")).collect::<String>()),
        2 if !good => format!("{name} = \"{value}\""),
        3 if !good => format!("{name}=\"{value}"),
        _ => format!("{name}=\"{value}\""),
    }
}

/// The header with every line's second parameter of a name gone, as one that looks for the first sees it.
fn without_second(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split('\n').map(|line| {
        let mut seen = Vec::new();
        let first = line.split(',').filter(|part| {
            let name = part.split('=').next().unwrap_or_default();
            let name = name.rsplit([' ', '\t']).next().unwrap_or_default().to_ascii_lowercase();
            let is_new = !seen.contains(&name);
            seen.push(name);
            is_new
        });
        first.collect::<Vec<_>>().join(",")
    });
    lines.collect::<Vec<_>>().join("\n").into_bytes()
}

/// The second reading: every line of the scheme is well-formed, they agree, and one has a key of ed25519.
fn read(bytes: &[u8]) -> Option<Told> {
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    (lines.iter().map(|line| line.len()).sum::<usize>() <= BYTES_MAX).then_some(())?;
    let mut told: Option<Told> = None;
    let mut is_known = false;
    for line in lines {
        let trimmed = line.trim_ascii_start();
        let Some(end) = trimmed.iter().position(|byte| b" \t".contains(byte)) else { continue };
        if !trimmed[..end].eq_ignore_ascii_case(b"X-Matrix") {
            continue;
        }
        let parameters = parameters(trimmed[end..].as_ascii_text()?)?;
        let [mut origin, mut destination, mut key, mut signature] = [const { None }; 4];
        for (name, value) in parameters {
            let slot = match name.to_ascii_lowercase().as_str() {
                "origin" => &mut origin,
                "destination" => &mut destination,
                "key" => &mut key,
                "sig" | "signature" => &mut signature,
                _ => continue,
            };
            slot.is_none().then_some(())?;
            *slot = Some(value);
        }
        let (origin, key, signature) = (origin?, key?, signature?);
        for server in std::iter::once(&origin).chain(&destination) {
            <&ServerName>::try_from(server.as_str()).ok()?;
        }
        let told =
            told.get_or_insert_with(|| Told { origin: origin.clone(), destination: None, signatures: Vec::new() });
        (told.origin == origin).then_some(())?;
        match (&told.destination, destination) {
            (Some(one), Some(other)) if *one != other => return None,
            (None, other) => told.destination = other,
            _ => {}
        }
        if let Some(version) = key.strip_prefix("ed25519:") {
            is_known = true;
            (!version.is_empty()).then_some(())?;
            told.signatures.push((key.clone(), Base64::<Standard>::parse(signature).ok()?.into_inner()));
        }
    }
    told.filter(|_| is_known)
}

trait AsAsciiText {
    fn as_ascii_text(&self) -> Option<&str>;
}

impl AsAsciiText for [u8] {
    /// Printable characters and blanks.
    fn as_ascii_text(&self) -> Option<&str> {
        let is_printable = |byte: &u8| matches!(byte, b'\t' | 0x20..=0x7e);
        self.iter().all(is_printable).then(|| std::str::from_utf8(self).ok()).flatten()
    }
}

/// The parameters of a line, by an automaton over its characters.
fn parameters(text: &str) -> Option<Vec<(String, String)>> {
    #[derive(PartialEq)]
    enum At {
        Name,
        ValueBegin,
        Token,
        Quoted,
        Escape,
        After,
    }
    let mut found: Vec<(String, String)> = Vec::new();
    let mut at = At::Name;
    let (mut name, mut value) = (String::new(), String::new());
    // A comma at the end begins a parameter that is not there.
    for character in text.chars() {
        let is_blank = matches!(character, ' ' | '\t');
        match at {
            At::Name => match character {
                '=' if !name.is_empty() => at = At::ValueBegin,
                _ if is_blank && name.is_empty() => {}
                _ if character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character) => name.push(character),
                _ => return None,
            },
            At::ValueBegin if character == '"' => at = At::Quoted,
            At::ValueBegin | At::Token => match character {
                '"' | '\\' => return None,
                ',' | ' ' | '\t' if at == At::ValueBegin => return None,
                ',' | ' ' | '\t' => {
                    found.push((std::mem::take(&mut name), std::mem::take(&mut value)));
                    at = if is_blank { At::After } else { At::Name };
                }
                _ => {
                    value.push(character);
                    at = At::Token;
                }
            },
            At::Quoted => match character {
                '\\' => at = At::Escape,
                '"' => {
                    found.push((std::mem::take(&mut name), std::mem::take(&mut value)));
                    at = At::After;
                }
                _ => value.push(character),
            },
            At::Escape => {
                value.push(character);
                at = At::Quoted;
            }
            At::After => match character {
                ',' => at = At::Name,
                _ if is_blank => {}
                _ => return None,
            },
        }
    }
    match at {
        At::Token => found.push((name, value)),
        At::After => {}
        _ => return None,
    }
    Some(found)
}
