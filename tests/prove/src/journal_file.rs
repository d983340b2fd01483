//! The bytes of a journal segment, read a second time and not by its maker: where records begin, and what their checksums are.
//! May not: be of any use to production.
//!
//! A header says at byte 16 how long it is. A record is crc32 of what follows · length (u32) · position (u64) · index (u32) ·
//! payload; the crc32 goes on from that of the segment's salt and number.

use std::ops::Range;

use crc32fast::Hasher;

const MAGIC: &[u8] = b"VSTBJRNL";
/// Magic and format, which the first checksum is of.
const PREAMBLE_BYTES: usize = 12;
const HEADER_LENGTH_AT: usize = 16;
const NUMBER_AT: usize = 20;
const FRAME_BYTES: usize = 20;

/// Where the records of a segment lie, as far as their lengths tell.
pub fn records(segment: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if !segment.starts_with(MAGIC) {
        return found;
    }
    let mut at = u32_at(segment, HEADER_LENGTH_AT).unwrap_or(segment.len());
    while let Some(length) = u32_at(segment, at.saturating_add(4)) {
        let end = at.saturating_add(FRAME_BYTES).saturating_add(length);
        if end > segment.len() {
            break;
        }
        found.push(at..end);
        at = end;
    }
    found
}

/// Gives every record the checksum that fits its bytes, as if nobody looked at checksums.
pub fn fit_checksums(segment: &mut [u8], salt: u64) {
    let Some(number) = segment.get(NUMBER_AT..NUMBER_AT + 8).map(<[u8]>::to_vec) else { return };
    let mut seed = Hasher::new();
    seed.update(&salt.to_le_bytes());
    seed.update(&number);
    let seed = seed.finalize();
    for record in records(segment) {
        let Some((stated, checked)) = segment.get_mut(record).and_then(|record| record.split_at_mut_checked(4)) else {
            return;
        };
        let mut hasher = Hasher::new_with_initial(seed);
        hasher.update(checked);
        stated.copy_from_slice(&hasher.finalize().to_le_bytes());
    }
}

/// Gives the header the checksums that fit its bytes: that of what begins every header, and that of the whole.
pub fn fit_header(segment: &mut [u8]) {
    fit(segment, PREAMBLE_BYTES);
    let end = u32_at(segment, HEADER_LENGTH_AT).and_then(|length| length.checked_sub(4));
    if let Some(end) = end.filter(|end| *end > HEADER_LENGTH_AT) {
        fit(segment, end);
    }
}

fn fit(segment: &mut [u8], end: usize) {
    let Some((checked, stated)) = segment.split_at_mut_checked(end) else { return };
    if let Some(stated) = stated.first_chunk_mut() {
        *stated = crc32fast::hash(checked).to_le_bytes();
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let chunk = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*chunk)).ok()
}
