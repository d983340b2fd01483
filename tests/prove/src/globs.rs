//! Globs as ACLs have them, told a second time.
//! May not: be fast; it tries every way of matching.

/// `*`: any number of characters, `?`: exactly one; the whole of both.
pub fn matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| matches(rest, &text[taken..])),
        ([b'?', rest @ ..], [_, text @ ..]) => matches(rest, text),
        ([wanted, rest @ ..], [is, text @ ..]) => wanted == is && matches(rest, text),
        _ => false,
    }
}
