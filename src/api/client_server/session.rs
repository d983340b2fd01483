//! Logs a user in on a device: draws the access token, keeps its hash.
//! May not: judge a password, or keep, log or give out a token twice.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedDeviceId, UserId};
use vestibule_protocol::clock::UnixMillis;
use vestibule_storage::{
    accounts::{AccountChange, AccountReader, Device},
    error::StorageError,
};

use crate::{error::MatrixError, extract::access_token::hash_token, state::Randomness};

/// What every access token begins with, so that secret scanners know one when they see it.
const TOKEN_PREFIX: &str = "vst_";

/// Random bytes of an access token. Source: SECURITY V78 asks for 128 bits, we take 256.
const TOKEN_BYTES: usize = 32;

/// Letters of a device id that we make up.
const DRAWN_DEVICE_ID_LETTERS: usize = 10;

/// Longest device id in bytes. Spec: <https://spec.matrix.org/v1.19/appendices/#opaque-identifiers>
const DEVICE_ID_BYTES_MAX: usize = 255;

/// Longest name of a device in bytes.
pub const DEVICE_NAME_BYTES_MAX: usize = 256;

/// What a client says about its device when it logs in.
#[derive(Clone, Debug, Default)]
pub struct DeviceRequest {
    /// Which device. `None`: we make one up.
    pub device_id: Option<String>,
    /// What a new device is to be called.
    pub display_name: Option<String>,
}

/// A device that is about to be logged in: to be committed, then to be told.
pub struct NewSession {
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The token: shown once, to its owner.
    pub access_token: String,
    /// What makes it true.
    pub change: AccountChange,
}

impl DeviceRequest {
    /// Judges lengths and characters.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM`.
    pub fn check(&self) -> Result<(), MatrixError> {
        if let Some(device_id) = &self.device_id {
            let is_allowed = !device_id.is_empty()
                && device_id.len() <= DEVICE_ID_BYTES_MAX
                && !device_id.chars().any(char::is_control);
            if !is_allowed {
                return Err(MatrixError::invalid_param("device_id must have 1 to 255 bytes and no control characters"));
            }
        }
        if self.display_name.as_ref().is_some_and(|name| name.len() > DEVICE_NAME_BYTES_MAX) {
            return Err(MatrixError::invalid_param("initial_device_display_name must have 256 bytes at most"));
        }
        Ok(())
    }

    /// Draws a session for a user. A device of that id keeps its name and age; its former token stops working.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn into_session(
        self,
        user_id: &UserId,
        accounts: &dyn AccountReader,
        randomness: &dyn Randomness,
        now: UnixMillis,
    ) -> Result<NewSession, StorageError> {
        let device_id = self.device_id.map_or_else(|| drawn_device_id(randomness), OwnedDeviceId::from);
        let known = accounts.device(user_id, &device_id).await?;
        let access_token = drawn_token(randomness);
        let (display_name, created_at) = match known {
            Some(device) => (device.display_name, device.created_at),
            None => (self.display_name, now),
        };
        let device = Device {
            user_id: user_id.to_owned(),
            device_id: device_id.clone(),
            display_name,
            token_hash: hash_token(&access_token),
            created_at,
        };
        Ok(NewSession { device_id, access_token, change: AccountChange::PutDevice(device) })
    }
}

fn drawn_token(randomness: &dyn Randomness) -> String {
    let mut drawn = [0; TOKEN_BYTES];
    randomness.fill(&mut drawn);
    format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(drawn))
}

fn drawn_device_id(randomness: &dyn Randomness) -> OwnedDeviceId {
    let mut drawn = [0; DRAWN_DEVICE_ID_LETTERS];
    randomness.fill(&mut drawn);
    let letters: String = drawn.iter().map(|byte| char::from(b'A'.saturating_add(byte % 26))).collect();
    letters.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct SystemRandomness;

    impl Randomness for SystemRandomness {
        fn fill(&self, bytes: &mut [u8]) {
            getrandom::fill(bytes).unwrap();
        }
    }

    #[test]
    fn ten_thousand_tokens_differ_and_carry_256_bits() {
        let tokens: BTreeSet<String> = (0..10_000).map(|_| drawn_token(&SystemRandomness)).collect();
        assert_eq!(tokens.len(), 10_000);
        for token in &tokens {
            let drawn = URL_SAFE_NO_PAD.decode(token.strip_prefix("vst_").unwrap()).unwrap();
            assert_eq!(drawn.len() * 8, 256);
        }
    }

    #[test]
    fn device_ids_that_we_make_up_are_capital_letters() {
        let device_id = drawn_device_id(&SystemRandomness);
        assert_eq!(device_id.as_str().len(), 10);
        assert!(device_id.as_str().bytes().all(|byte| byte.is_ascii_uppercase()), "{device_id}");
    }

    #[test]
    fn what_clients_say_of_devices_is_bounded() {
        let check = |device_id: Option<&str>, name: Option<&str>| {
            let request =
                DeviceRequest { device_id: device_id.map(str::to_owned), display_name: name.map(str::to_owned) };
            request.check().is_ok()
        };
        assert!(check(None, None));
        assert!(check(Some("PHONE é"), Some("")));
        assert!(check(Some(&"d".repeat(255)), Some(&"n".repeat(256))));
        assert!(!check(Some(""), None));
        assert!(!check(Some(&"d".repeat(10_000_000)), None));
        assert!(!check(Some("a\nb"), None));
        assert!(!check(None, Some(&"n".repeat(257))));
    }
}
