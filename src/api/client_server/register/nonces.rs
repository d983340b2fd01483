//! Nonces of the shared-secret registration, and the code over them.
//! May not: make accounts.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

/// How long a nonce may be used. Synapse's contract.
const VALID_FOR: Duration = Duration::from_secs(60);

/// Nonces known at once; the oldest goes first. Asking for one costs nothing, so there must be an end.
const NONCES_MAX: usize = 4096;

/// Random bytes of a nonce; it is their hexadecimal form.
pub const NONCE_BYTES: usize = 32;

/// The nonces given out and not used yet.
#[derive(Debug, Default)]
pub struct Nonces {
    /// Oldest first, each with the monotonic time at which it ends.
    given: Mutex<VecDeque<(String, Duration)>>,
}

impl Nonces {
    /// Gives out a nonce made of random bytes. `now` is monotonic.
    pub fn give(&self, drawn: [u8; NONCE_BYTES], now: Duration) -> String {
        let nonce = hexadecimal(&drawn);
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        while given.len() >= NONCES_MAX || given.front().is_some_and(|(_, ends)| *ends <= now) {
            given.pop_front();
        }
        given.push_back((nonce.clone(), now.saturating_add(VALID_FOR)));
        nonce
    }

    /// Uses a nonce up. Whether it was given out, not used yet and not too old. `now` is monotonic.
    pub fn take(&self, nonce: &str, now: Duration) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = given.iter().position(|(known, _)| known == nonce) else {
            return false;
        };
        given.remove(place).is_some_and(|(_, ends)| now < ends)
    }
}

/// What the code of a registration covers.
#[derive(Clone, Copy)]
pub struct Covered<'a> {
    /// The nonce.
    pub nonce: &'a str,
    /// The name as it was sent.
    pub username: &'a str,
    /// The password as it was sent.
    pub password: &'a str,
    /// Whether an admin is to be made.
    pub is_admin: bool,
    /// The kind of user, if one was sent.
    pub user_type: Option<&'a str>,
}

impl Covered<'_> {
    /// Whether the hexadecimal HMAC-SHA1 is that of these fields under the secret. Compares in constant time.
    #[must_use]
    pub fn is_signed(&self, secret: &[u8], code_hexadecimal: &str) -> bool {
        let Some(code) = bytes_of_hexadecimal(code_hexadecimal) else {
            return false;
        };
        self.mac(secret).is_some_and(|mac| mac.verify_slice(&code).is_ok())
    }

    /// Fields are told apart by NUL, which no field may hold: the caller refuses those that do.
    fn mac(&self, secret: &[u8]) -> Option<Hmac<Sha1>> {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret).ok()?;
        let role = if self.is_admin { "admin" } else { "notadmin" };
        for (index, field) in
            [self.nonce, self.username, self.password, role].into_iter().chain(self.user_type).enumerate()
        {
            if index > 0 {
                mac.update(b"\0");
            }
            mac.update(field.as_bytes());
        }
        Some(mac)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of_hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|start| u8::from_str_radix(text.get(start..start + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1000);

    #[test]
    fn a_nonce_works_once() {
        let nonces = Nonces::default();
        let nonce = nonces.give([1; 32], START);
        assert_eq!(nonce.len(), 64);
        assert!(!nonces.take("", START));
        assert!(!nonces.take(&"02".repeat(32), START));
        assert!(nonces.take(&nonce, START));
        assert!(!nonces.take(&nonce, START));
    }

    #[test]
    fn a_nonce_ends_after_a_minute() {
        let nonces = Nonces::default();
        let nonce = nonces.give([1; 32], START);
        assert!(!nonces.take(&nonce, START + VALID_FOR));
        let nonce = nonces.give([1; 32], START);
        assert!(nonces.take(&nonce, START + VALID_FOR - Duration::from_millis(1)));
    }

    #[test]
    fn memory_for_nonces_is_bounded() {
        let nonces = Nonces::default();
        let oldest = nonces.give([255; 32], START);
        let mut newest = String::new();
        for number in 0..NONCES_MAX {
            let mut drawn = [0; 32];
            drawn[..8].copy_from_slice(&number.to_be_bytes());
            newest = nonces.give(drawn, START);
        }
        assert_eq!(nonces.given.lock().unwrap().len(), NONCES_MAX);
        assert!(!nonces.take(&oldest, START));
        assert!(nonces.take(&newest, START));
    }

    // The codes were computed apart from this program, with Python's hmac module.
    #[test]
    fn the_code_is_synapses() {
        let plain = Covered {
            nonce: "thisisanonce",
            username: "pepper_roni",
            password: "pizza",
            is_admin: true,
            user_type: None,
        };
        let typed = Covered { is_admin: false, user_type: Some("bot"), ..plain };
        assert!(plain.is_signed(b"shared_secret", PLAIN_CODE));
        assert!(plain.is_signed(b"shared_secret", &PLAIN_CODE.to_uppercase()));
        assert!(typed.is_signed(b"shared_secret", TYPED_CODE));
        assert!(!plain.is_signed(b"shared_secret", TYPED_CODE));
        assert!(!plain.is_signed(b"shared_secreu", PLAIN_CODE));
        assert!(!Covered { password: "pizzb", ..plain }.is_signed(b"shared_secret", PLAIN_CODE));
        assert!(!Covered { is_admin: false, ..plain }.is_signed(b"shared_secret", PLAIN_CODE));
        for odd in ["", "0", "zz", &PLAIN_CODE[..38], "é0"] {
            assert!(!plain.is_signed(b"shared_secret", odd), "{odd:?}");
        }
    }

    const PLAIN_CODE: &str = "48715842ad67d5dc9a9ee938a3bda4fcfae8d7c7";
    const TYPED_CODE: &str = "b269635cb53e1adc15073ae7ffbd000b836b3105";
}
