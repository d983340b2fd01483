//! How stored values are written: a version byte, then fields one after another.
//! May not: know what the fields mean.
//!
//! Numbers are little-endian; texts and bytes have their length (u32) before them; an optional field has 0 or 1 before it.

use std::collections::BTreeMap;

use vestibule_storage::error::StorageError;

/// A form in which something is stored. Each version that was ever written has an example under `frozen/` and stays readable.
pub(crate) trait StoredForm: Sized {
    /// For messages about damage.
    const NAME: &'static str;
    /// The version that is written.
    const VERSION: u8;

    fn write(&self, fields: &mut FieldWriter);

    /// `None`: damaged, or of an unknown version.
    fn read(version: u8, fields: &mut FieldReader<'_>) -> Option<Self>;

    fn to_bytes(&self) -> Vec<u8> {
        let mut fields = FieldWriter(vec![Self::VERSION]);
        self.write(&mut fields);
        fields.0
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StorageError> {
        let decoded = bytes.split_first().and_then(|(version, rest)| {
            let mut fields = FieldReader(rest);
            Self::read(*version, &mut fields).filter(|_| fields.0.is_empty())
        });
        decoded.ok_or_else(|| StorageError::Corrupt { what: format!("{} of {} bytes", Self::NAME, bytes.len()) })
    }
}

#[derive(Debug, Default)]
pub(crate) struct FieldWriter(Vec<u8>);

impl FieldWriter {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    pub(crate) fn length(&mut self, length: usize) {
        // Nothing stored comes near 4 GiB: a journal record is at most 64 MiB.
        self.0.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn signed(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn hash(&mut self, hash: &[u8; 32]) {
        self.0.extend_from_slice(hash);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(crate) fn texts(&mut self, texts: &BTreeMap<String, String>) {
        self.length(texts.len());
        for (name, text) in texts {
            self.text(name);
            self.text(text);
        }
    }
}

#[derive(Debug)]
pub(crate) struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn length(&mut self) -> Option<usize> {
        let (length, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        self.number().map(u64::cast_signed)
    }

    pub(crate) fn hash(&mut self) -> Option<[u8; 32]> {
        let (hash, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*hash)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.length()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    pub(crate) fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    pub(crate) fn texts(&mut self) -> Option<BTreeMap<String, String>> {
        let count = self.length()?;
        let mut texts = BTreeMap::new();
        for _ in 0..count {
            texts.insert(self.text()?.to_owned(), self.text()?.to_owned());
        }
        Some(texts)
    }
}
