//! PINs: they let a person in for a short time while their voice fails them.
//!
//! A PIN is digits that are easy to type on a telephone. There are few of them, so two measures keep one
//! safe: the [`super::FailureGate`] slows guessing down, and only the hash is kept: Argon2id with the crate's
//! recommended parameters (19 MiB, two passes), a salt of its own. Anyone with the database can still try all
//! six-digit PINs in a day.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error as HashError, PasswordHasher, PasswordVerifier};
use zeroize::Zeroizing;

/// Fewest and most digits.
pub const DIGITS: std::ops::RangeInclusive<usize> = 6..=12;

/// Digits that somebody typed. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(Zeroizing<String>);

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Why a PIN cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("a PIN has {} to {} digits and nothing else", DIGITS.start(), DIGITS.end())]
    NotDigits,
    #[error("this PIN is the first that anybody would try; take one without a pattern")]
    Obvious,
    #[error("the hash of a PIN cannot be used: {0}")]
    Hash(HashError),
}

impl Pin {
    /// The typed PIN, without white space around it.
    ///
    /// # Errors
    /// [`PinError::NotDigits`].
    pub fn typed(text: &str) -> Result<Self, PinError> {
        let text = text.trim();
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if digits && DIGITS.contains(&text.len()) {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(PinError::NotDigits)
        }
    }

    /// The hash that is kept, as a PHC string.
    ///
    /// # Errors
    /// [`PinError::Obvious`]: every digit is the one before, or one more, or one less. [`PinError::Hash`]
    /// without randomness for the salt.
    pub fn hash(&self) -> Result<String, PinError> {
        let mut steps = self.0.as_bytes().windows(2).map(|pair| match pair {
            [a, b] => i16::from(*b) - i16::from(*a),
            _ => 0,
        });
        let first = steps.next().unwrap_or_default();
        if (-1..=1).contains(&first) && steps.all(|step| step == first) {
            return Err(PinError::Obvious);
        }
        let hash: PasswordHash =
            Argon2::default().hash_password(self.0.as_bytes()).map_err(PinError::Hash)?;
        Ok(hash.to_string())
    }

    /// Whether it is the PIN behind `hash`. Takes some 20 ms of one core and 19 MiB.
    ///
    /// # Errors
    /// [`PinError::Hash`]: `hash` is not a hash.
    pub fn opens(&self, hash: &str) -> Result<bool, PinError> {
        let hash = PasswordHash::new(hash).map_err(|e| PinError::Hash(e.into()))?;
        match Argon2::default().verify_password(self.0.as_bytes(), &hash) {
            Ok(()) => Ok(true),
            Err(HashError::PasswordInvalid) => Ok(false),
            Err(error) => Err(PinError::Hash(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_opens_its_own_hash_and_no_other() {
        let pin = Pin::typed(" 274913\n").unwrap();
        let (one, two) = (pin.hash().unwrap(), pin.hash().unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && one != two, "{one}");
        assert!(!one.contains("274913"));
        assert!(pin.opens(&one).unwrap() && pin.opens(&two).unwrap());
        assert!(!Pin::typed("274914").unwrap().opens(&one).unwrap());
        for damaged in ["", "274913", "$argon2id$v=19$m=19456,t=2,p=1$", &one[..one.len() / 2]] {
            assert!(!matches!(pin.opens(damaged), Ok(true)), "{damaged:?}");
        }
    }

    #[test]
    fn what_is_no_pin_and_what_everybody_tries_is_refused() {
        for text in ["", "27491", "2749132749132", "27491a", "２７４９１３", "-27491", "27 4913"] {
            assert!(matches!(Pin::typed(text), Err(PinError::NotDigits)), "{text:?}");
        }
        for text in ["000000", "123456", "987654", "77777777"] {
            assert!(matches!(Pin::typed(text).unwrap().hash(), Err(PinError::Obvious)), "{text}");
        }
        assert!(Pin::typed("121212").unwrap().hash().is_ok());
    }

    #[test]
    fn a_pin_is_never_printed() {
        assert_eq!(format!("{:?}", Pin::typed("274913").unwrap()), "***");
    }
}
