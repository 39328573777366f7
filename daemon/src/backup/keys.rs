//! Readers of a backup: age recipients (public keys) and identities (secret keys).
//!
//! An encrypted backup is proven on a device that cannot read backups: each run adds one more recipient,
//! whose secret key exists only in its memory, and verifies with that key.

use std::fs;
use std::io::Read as _;

use age::x25519::{Identity, Recipient};
use zeroize::Zeroizing;

use super::BackupError;
use crate::config::FilePath;
use crate::plain::without_mark;

/// Largest file of keys.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a recipient, `age1…`.
///
/// # Errors
/// The fault, completing "backup.recipients …".
pub fn recipient(text: &str) -> Result<Recipient, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no recipient of age, which begins with age1"))
}

/// The secret keys available.
#[derive(Default, Clone)]
pub struct Keys(Vec<Identity>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// Reads the keys of a file written by `age-keygen`; no keys without a file.
    ///
    /// # Errors
    /// [`BackupError::Key`].
    pub fn read(path: Option<&FilePath>) -> Result<Self, BackupError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let unusable = |why: &str| {
            BackupError::Key(format!(
                "the key file {path} cannot be used ({why}): name the file that age-keygen wrote \
                 (backup.identity_file, --identity)"
            ))
        };
        let mut text = Zeroizing::new(String::new());
        fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(|e| unusable(&e.to_string()))?;
        let lines = without_mark(&text)
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Result<Vec<Identity>, _> = lines.map(str::parse).collect();
        match keys {
            Ok(keys) if keys.is_empty() => Err(unusable("it holds no key")),
            Ok(keys) => Ok(Self(keys)),
            // The parser's message could repeat the line.
            Err(_) => Err(unusable("a line of it is no AGE-SECRET-KEY-1…")),
        }
    }

    /// Adds a key that only this process will ever have.
    pub(super) fn with_own(mut self) -> (Self, Recipient) {
        let own = Identity::generate();
        let public = own.to_public();
        self.0.push(own);
        (self, public)
    }

    pub(super) fn identities(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|key| key as &dyn age::Identity)
    }
}
