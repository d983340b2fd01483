//! Settings that name networks, servers and keys of others.
//! May not: judge an address; `vestibule-federation` does.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, Unexpected};

/// Matrix writes base64 without padding; people paste it with.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes of an ed25519 public key.
const PUBLIC_KEY_BYTES: usize = 32;

/// A public key that never verifies anything, because its secret half is known or guessable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BannedKey([u8; PUBLIC_KEY_BYTES]);

impl BannedKey {
    /// The public key.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Display for BannedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for BannedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for BannedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let key = BASE64.decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or_else(|| {
            de::Error::invalid_value(Unexpected::Str(&text), &"the base64 of a 32-byte ed25519 public key")
        })
    }
}

/// Networks such as `10.0.0.0/8`, or single addresses.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);
    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            let network = IpNet::from_str(&text).or_else(|_| IpAddr::from_str(&text).map(IpNet::from));
            network.map(Self).map_err(|_| {
                de::Error::invalid_value(Unexpected::Str(&text), &"a network such as \"10.0.0.0/8\" or an IP address")
            })
        }
    }
    let networks = Vec::<Network>::deserialize(deserializer)?;
    Ok(networks.into_iter().map(|network| network.0).collect())
}

/// Globs over server names: `*` is any text, `?` any one character. They are matched without the port, as in server ACLs.
pub(super) fn server_globs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Glob(String);
    impl<'de> Deserialize<'de> for Glob {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            let is_glob =
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"*?.-:[]".contains(&byte));
            if is_glob {
                return Ok(Self(text));
            }
            Err(de::Error::invalid_value(Unexpected::Str(&text), &"a glob over server names such as \"*.example.org\""))
        }
    }
    let globs = Vec::<Glob>::deserialize(deserializer)?;
    Ok(globs.into_iter().map(|glob| glob.0).collect())
}
