//! The grammar of `Authorization: X-Matrix …`, and what several such lines say together.
//! May not: verify, or guess what a malformed line meant.
//!
//! Spec: <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use ruma::{OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId, serde::Base64};
use thiserror::Error;

/// Bytes of all `Authorization` lines together. Ours: names, key and signature of one line fit in 1 KiB, and eight lines are
/// looked at.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// The one algorithm that servers sign requests with.
const ALGORITHM: &str = "ed25519:";

/// What the lines of a request say about who signed it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The one origin that all lines name.
    pub origin: OwnedServerName,
    /// The one destination that they name, if any does.
    pub destination: Option<OwnedServerName>,
    /// Key id and signature of each line with a key of the known algorithm; at least one.
    pub signatures: Vec<(OwnedServerSigningKeyId, Base64)>,
}

/// Why the header names no server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// No line of this scheme.
    #[error("missing Authorization header of the scheme X-Matrix")]
    Missing,
    /// Larger than any honest one.
    #[error("the Authorization header is larger than {HEADER_BYTES_MAX} bytes")]
    TooLarge,
    /// Not of the form `name=value, name="value"`, or with characters beyond ASCII.
    #[error("malformed X-Matrix header")]
    Malformed,
    /// One name twice in one line.
    #[error("the X-Matrix header has {name} twice")]
    Duplicate {
        /// Which.
        name: &'static str,
    },
    /// A name that must be there is not.
    #[error("the X-Matrix header lacks {name}")]
    Lacks {
        /// Which.
        name: &'static str,
    },
    /// A value that its name does not allow.
    #[error("the X-Matrix header has an unfit {name}")]
    Unfit {
        /// Which.
        name: &'static str,
    },
    /// Lines that contradict each other.
    #[error("the X-Matrix headers name several values of {name}")]
    Differs {
        /// Which.
        name: &'static str,
    },
    /// Only keys of unknown algorithms.
    #[error("no signature by an ed25519 key")]
    NoKnownAlgorithm,
}

impl Credentials {
    /// Reads all `Authorization` lines of a request; lines of other schemes are passed over.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, HeaderError> {
        let mut bytes_left = HEADER_BYTES_MAX;
        let mut found = Vec::new();
        for line in lines {
            bytes_left = bytes_left.checked_sub(line.len()).ok_or(HeaderError::TooLarge)?;
            if let Some(parameters) = after_scheme(line) {
                let text = std::str::from_utf8(parameters).map_err(|_| HeaderError::Malformed)?;
                found.push(Line::parse(text)?);
            }
        }
        let mut found = found.into_iter();
        let first = found.next().ok_or(HeaderError::Missing)?;
        let (origin, mut destination) = (first.origin, first.destination);
        let mut signatures = vec![(first.key, first.signature)];
        for line in found {
            if line.origin != origin {
                return Err(HeaderError::Differs { name: "origin" });
            }
            match (&destination, line.destination) {
                (Some(one), Some(other)) if *one != other => {
                    return Err(HeaderError::Differs { name: "destination" });
                }
                (None, Some(other)) => destination = Some(other),
                _ => {}
            }
            signatures.push((line.key, line.signature));
        }
        let mut known = Vec::new();
        for (key, signature) in signatures {
            if let Some(version) = key.strip_prefix(ALGORITHM) {
                if version.is_empty() {
                    return Err(HeaderError::Unfit { name: "key" });
                }
                let key = ServerSigningKeyId::parse(key).map_err(|_| HeaderError::Unfit { name: "key" })?;
                let signature = Base64::parse(signature).map_err(|_| HeaderError::Unfit { name: "sig" })?;
                known.push((key, signature));
            }
        }
        if known.is_empty() {
            return Err(HeaderError::NoKnownAlgorithm);
        }
        Ok(Self { origin, destination, signatures: known })
    }
}

/// What follows the scheme and its blanks; `None` for other schemes.
fn after_scheme(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t'))?;
    let (scheme, rest) = line.split_at_checked(end)?;
    scheme.eq_ignore_ascii_case(b"x-matrix").then_some(rest)
}

/// One line, its parameters taken apart.
struct Line {
    origin: OwnedServerName,
    destination: Option<OwnedServerName>,
    key: String,
    signature: String,
}

impl Line {
    fn parse(parameters: &str) -> Result<Self, HeaderError> {
        let mut origin = None;
        let mut destination = None;
        let mut key = None;
        let mut signature = None;
        for (name, value) in Parameters(parameters).all()? {
            // The specification's list says `signature`, its example and everybody say `sig`.
            let (slot, name) = match name.to_ascii_lowercase().as_str() {
                "origin" => (&mut origin, "origin"),
                "destination" => (&mut destination, "destination"),
                "key" => (&mut key, "key"),
                "sig" | "signature" => (&mut signature, "sig"),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(HeaderError::Duplicate { name });
            }
        }
        let needed = |value: Option<String>, name| value.ok_or(HeaderError::Lacks { name });
        let server = |value: String, name| ServerName::parse(value).map_err(|_| HeaderError::Unfit { name });
        Ok(Self {
            origin: server(needed(origin, "origin")?, "origin")?,
            destination: destination.map(|value| server(value, "destination")).transpose()?,
            key: needed(key, "key")?,
            signature: needed(signature, "sig")?,
        })
    }
}

/// `name=value` pairs between commas, with blanks round the commas.
struct Parameters<'a>(&'a str);

impl<'a> Parameters<'a> {
    fn all(mut self) -> Result<Vec<(&'a str, String)>, HeaderError> {
        let mut pairs = Vec::new();
        loop {
            self.skip_blanks();
            let name_end = self.0.find('=').ok_or(HeaderError::Malformed)?;
            let (name, rest) = self.0.split_at_checked(name_end).ok_or(HeaderError::Malformed)?;
            let is_token = !name.is_empty() && name.bytes().all(is_token_byte);
            if !is_token {
                return Err(HeaderError::Malformed);
            }
            self.0 = rest.strip_prefix('=').ok_or(HeaderError::Malformed)?;
            let value = if self.0.starts_with('"') { self.quoted()? } else { self.unquoted()? };
            pairs.push((name, value));
            self.skip_blanks();
            match self.0.strip_prefix(',') {
                Some(rest) => self.0 = rest,
                None if self.0.is_empty() => return Ok(pairs),
                None => return Err(HeaderError::Malformed),
            }
        }
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    /// Visible ASCII and blanks, with `\x` standing for `x`.
    fn quoted(&mut self) -> Result<String, HeaderError> {
        let mut value = String::new();
        let mut characters = self.0.char_indices().skip(1);
        while let Some((position, character)) = characters.next() {
            match character {
                '"' => {
                    let after = position.saturating_add(1);
                    self.0 = self.0.get(after..).ok_or(HeaderError::Malformed)?;
                    return Ok(value);
                }
                '\\' => {
                    let (_, escaped) = characters.next().ok_or(HeaderError::Malformed)?;
                    value.push(visible(escaped)?);
                }
                _ => value.push(visible(character)?),
            }
        }
        Err(HeaderError::Malformed)
    }

    /// Anything visible up to a comma or a blank: stricter than no grammar, wider than a token, for `:` in keys and ports.
    fn unquoted(&mut self) -> Result<String, HeaderError> {
        let end = self.0.find([',', ' ', '\t']).unwrap_or(self.0.len());
        let (value, rest) = self.0.split_at_checked(end).ok_or(HeaderError::Malformed)?;
        let is_plain = value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'));
        if value.is_empty() || !is_plain {
            return Err(HeaderError::Malformed);
        }
        self.0 = rest;
        Ok(value.to_owned())
    }
}

fn visible(character: char) -> Result<char, HeaderError> {
    let is_visible = character.is_ascii_graphic() || matches!(character, ' ' | '\t');
    if is_visible { Ok(character) } else { Err(HeaderError::Malformed) }
}

/// RFC 9110, section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
