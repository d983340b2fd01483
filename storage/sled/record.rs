//! What a journal record holds: one commit as puts and deletes of keys, so that replaying it needs no rules.
//! May not: know what keys and values mean.
//!
//! A format byte, then for each change: key length (u32) · 0, or 1 and value length (u32) · key · value. Little-endian.

use std::collections::BTreeMap;

/// What one commit puts (`Some`) and deletes (`None`), in the order of the keys.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

const FORMAT: u8 = 1;

/// The record of a commit.
pub(crate) fn encode(changes: &Changes) -> Vec<u8> {
    let bytes = changes.iter().map(|(key, value)| 9 + key.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
    let mut record = Vec::with_capacity(bytes + 1);
    record.push(FORMAT);
    for (key, value) in changes {
        record.extend_from_slice(&length(key));
        match value {
            None => record.push(0),
            Some(value) => {
                record.push(1);
                record.extend_from_slice(&length(value));
            }
        }
        record.extend_from_slice(key);
        record.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    record
}

/// The changes of a record. `None`: it is none that this version can read.
pub(crate) fn decode(record: &[u8]) -> Option<Changes> {
    let (&FORMAT, mut rest) = record.split_first()? else { return None };
    let mut changes = Changes::new();
    while !rest.is_empty() {
        let key_length = take_length(&mut rest)?;
        let (is_put, after_flag) = rest.split_first()?;
        rest = after_flag;
        let value_length = match is_put {
            0 => None,
            1 => Some(take_length(&mut rest)?),
            _ => return None,
        };
        let (key, after_key) = rest.split_at_checked(key_length)?;
        let (value, after_value) = after_key.split_at_checked(value_length.unwrap_or(0))?;
        rest = after_value;
        changes.insert(key.to_vec(), value_length.map(|_| value.to_vec()));
    }
    Some(changes)
}

fn length(bytes: &[u8]) -> [u8; 4] {
    // The journal takes no record of 4 GiB.
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let (length, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_are_read_back(changes: Changes) {
            prop_assert_eq!(decode(&encode(&changes)), Some(changes));
        }

        #[test]
        fn damaged_records_are_no_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
