//! A secret setting: compared and used, never shown.
//! May not: implement `Display`, `Serialize` or a `Debug` that tells anything.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A secret from the configuration. Its `Debug` output is the same for all secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret; `None` when the text is empty, which would let everybody in.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        (!text.is_empty()).then_some(Self(text))
    }

    /// The secret itself, for the code that checks or sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The stock visitor quotes what it did not like; this one answers every wrong kind with the same words.
        struct SecretVisitor;
        const EXPECTED: &str = "expected a string that is not empty";

        impl Visitor<'_> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string that is not empty")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Secret::new(text.to_owned()).ok_or_else(|| E::custom(EXPECTED))
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
                Err(E::custom(EXPECTED))
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(EXPECTED))
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(EXPECTED))
            }
        }
        deserializer.deserialize_any(SecretVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_is_the_same_for_all_secrets() {
        let secret = Secret::new("hunter2".to_owned()).unwrap();
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "[secret] Some(\n    [secret],\n)");
    }

    #[test]
    fn an_empty_secret_is_none() {
        assert_eq!(Secret::new(String::new()), None);
    }

    #[test]
    fn a_wrong_kind_is_not_quoted() {
        for value in ["4711", "47.5", "true", "[4711]", "{ a = 4711 }", "\"\""] {
            let value: toml::Value = value.parse().unwrap();
            let message = value.try_into::<Secret>().unwrap_err().to_string();
            assert!(message.contains("string"), "{message}");
            assert!(!message.contains("47") && !message.contains("true"), "{message}");
        }
    }
}
