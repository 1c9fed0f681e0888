//! Private keys: made, stored, and what is public of them.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

/// Kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// RSA with 2048 bits: every receiver understands it.
    Rsa,
    /// Ed25519 (RFC 8463): shorter and much faster, and not yet understood everywhere.
    Ed25519,
}

impl Algorithm {
    /// As it stands in column `algorithm`, in `k=` and in `a=`.
    pub fn column(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.column())
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rsa" => Ok(Self::Rsa),
            "ed25519" => Ok(Self::Ed25519),
            other => Err(format!("{other:?} is none of rsa, ed25519")),
        }
    }
}

/// A text that is no key of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no {0} key in PKCS #8; remove it and make a new one with `account dkim new`")]
pub struct Rejected(Algorithm);

/// What signs.
pub enum PrivateKey {
    /// With PKCS #1 v1.5 over SHA-256.
    Rsa(Box<rsa::KeyPair>),
    /// Over whatever it is given.
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.algorithm())
    }
}

impl PrivateKey {
    /// Makes a key. An RSA key takes a good part of a second.
    pub fn generate(algorithm: Algorithm) -> Result<Self, Rejected> {
        Ok(match algorithm {
            Algorithm::Rsa => {
                Self::Rsa(Box::new(rsa::KeyPair::generate(KeySize::Rsa2048).map_err(|_| Rejected(algorithm))?))
            }
            Algorithm::Ed25519 => Self::Ed25519(Ed25519KeyPair::generate().map_err(|_| Rejected(algorithm))?),
        })
    }

    /// Reads a key from its PKCS #8 form in Base64.
    pub fn read(algorithm: Algorithm, pkcs8: &str) -> Result<Self, Rejected> {
        let der = BASE64.decode(pkcs8).map_err(|_| Rejected(algorithm))?;
        Ok(match algorithm {
            Algorithm::Rsa => Self::Rsa(Box::new(rsa::KeyPair::from_pkcs8(&der).map_err(|_| Rejected(algorithm))?)),
            Algorithm::Ed25519 => Self::Ed25519(Ed25519KeyPair::from_pkcs8(&der).map_err(|_| Rejected(algorithm))?),
        })
    }

    /// Its kind.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::Rsa,
            Self::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The whole key, PKCS #8 in Base64.
    pub(super) fn pkcs8(&self) -> String {
        let der: Result<Pkcs8V1Der<'_>, _> = match self {
            Self::Rsa(pair) => pair.as_der(),
            Self::Ed25519(pair) => pair.as_der(),
        };
        let der = der.expect("a key that exists can be written: only memory could be lacking");
        BASE64.encode(der.as_ref())
    }

    /// What stands in `p=` of its DNS record: an RSA key with its kind around it, an Ed25519 key bare.
    pub fn public(&self) -> String {
        match self {
            Self::Rsa(pair) => {
                let der: PublicKeyX509Der<'_> =
                    pair.public_key().as_der().expect("a key that exists can be written: only memory could be lacking");
                BASE64.encode(der.as_ref())
            }
            Self::Ed25519(pair) => BASE64.encode(pair.public_key()),
        }
    }

    /// The signature over `text`. The same text and key always have the same.
    pub(super) fn sign(&self, text: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature)
                    .expect("a key that was accepted signs: only memory could be lacking");
                signature
            }
            Self::Ed25519(pair) => pair.sign(text).as_ref().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_text_and_nothing_else_does() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let read = PrivateKey::read(algorithm, &key.pkcs8()).expect("its text");
            assert_eq!(read.public(), key.public());
            assert_eq!(read.sign(b"text"), key.sign(b"text"));
            let other = if algorithm == Algorithm::Rsa { Algorithm::Ed25519 } else { Algorithm::Rsa };
            assert!(PrivateKey::read(other, &key.pkcs8()).is_err());
            assert!(!format!("{key:?}").contains(&key.pkcs8()[40..60]));
        }
        assert!(PrivateKey::read(Algorithm::Rsa, "not Base64").is_err());
    }
}
