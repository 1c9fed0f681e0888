//! Encryption of what a database dump must not give away: SMTP passwords, and the targets of unsubscribe links.
//!
//! The format is Fernet (<https://github.com/fernet/spec>), which host applications write with a library of their own
//! language, in Python `cryptography.fernet.Fernet(key).encrypt(password)`. Several keys allow rotation: the first
//! encrypts, all decrypt.

use fernet::{Fernet, MultiFernet};

use crate::config::{self, ConfigError, Secret};

/// The keys of `ENCRYPTION_KEYS`.
#[derive(Clone)]
pub struct Keys(std::sync::Arc<MultiFernet>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// None of the keys opens this text.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot be decrypted with any key of ENCRYPTION_KEYS; was it written with another key, or a key removed too early?"
)]
pub struct CannotDecrypt;

impl Keys {
    /// Reads `ENCRYPTION_KEYS`: comma-separated keys of 32 bytes in URL-safe Base64.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::parse(&config::required("ENCRYPTION_KEYS")?)
    }

    /// Reads comma-separated keys.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let keys = text
            .split(',')
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .enumerate()
            .map(|(index, key)| {
                Fernet::new(key).ok_or_else(|| ConfigError::Invalid {
                    name: "ENCRYPTION_KEYS",
                    problem: format!(
                        "key {} is not 32 bytes in URL-safe Base64; make one with: openssl rand -base64 32 | tr +/ -_",
                        index + 1
                    ),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(ConfigError::Missing { name: "ENCRYPTION_KEYS" });
        }
        Ok(Self(std::sync::Arc::new(MultiFernet::new(keys))))
    }

    /// Encrypts with the first key; the result is URL-safe text.
    pub fn encrypt(&self, text: &str) -> String {
        self.0.encrypt(text.as_bytes())
    }

    /// Decrypts what any of the keys encrypted.
    pub fn decrypt(&self, token: &str) -> Result<Secret, CannotDecrypt> {
        let bytes = self.0.decrypt(token).map_err(|_| CannotDecrypt)?;
        String::from_utf8(bytes).map(Secret::new).map_err(|_| CannotDecrypt)
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;

    const OLD: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    const NEW: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_token_of_another_implementation_decrypts() {
        // The example of the Fernet specification's own test file.
        let token =
            "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
        let keys = Keys::parse(OLD).expect("key");
        assert_eq!(keys.decrypt(token).expect("decrypts").expose(), "hello");
    }

    #[test]
    fn an_old_key_still_decrypts_and_the_new_one_encrypts() {
        let before = Keys::parse(OLD).expect("key").encrypt("geheim");
        let both = Keys::parse(&format!("{NEW}, {OLD}")).expect("keys");
        assert_eq!(both.decrypt(&before).expect("old key").expose(), "geheim");
        let after = both.encrypt("geheim");
        assert_eq!(Keys::parse(NEW).expect("key").decrypt(&after).expect("new key").expose(), "geheim");
        assert!(Keys::parse(OLD).expect("key").decrypt(&after).is_err());
    }

    #[test]
    fn a_key_of_the_wrong_length_is_named() {
        let error = Keys::parse(&format!("{OLD},short")).expect_err("refused").to_string();
        assert!(error.contains("key 2"), "{error}");
    }
}
