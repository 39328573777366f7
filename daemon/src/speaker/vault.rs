//! Voiceprints at rest: sealed with a key of their own, which is wrapped under the device's master key.
//!
//! ```text
//!  master key (32 bytes): systemd credential `voiceprint.key`, else a 0600 file made at first use
//!      │ wraps                      wrapped_key = version ‖ key id (8) ‖ nonce (24) ‖ data key (32) + tag (16)
//!      ▼
//!  data key (32 bytes, one per seal)
//!      │ seals                      blob        = version ‖ user tag (16) ‖ nonce (24) ‖ template + tag (16)
//!      ▼
//!  template
//! ```
//!
//! XChaCha20-Poly1305 throughout, random nonces. The additional data of both boxes binds purpose, user, model hash and
//! front-end hash, so a voiceprint moved to another user or another model does not open. Key id and user tag are hashes
//! that only serve to tell *why* it does not open; they are authenticated like the rest. Deleting `wrapped_key` erases the
//! template wherever copies of `blob` remain.
//!
//! Invariants: every failure is an error, none is a template; keys are wiped from memory when dropped.

use std::fmt;
use std::path::PathBuf;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::embedding::ModelIdentity;
use super::template::{Template, TemplateError};

mod key_file;

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const KEY_ID_BYTES: usize = 8;
const USER_TAG_BYTES: usize = 16;
const WRAPPED_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_BYTES + KEY_BYTES + TAG_BYTES;
const BLOB_HEADER_BYTES: usize = 1 + USER_TAG_BYTES + NONCE_BYTES;
/// Name of the systemd credential.
pub const CREDENTIAL: &str = "voiceprint.key";

type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Where the master key comes from.
#[derive(Debug, Clone)]
pub struct KeySources {
    /// systemd's `$CREDENTIALS_DIRECTORY`: used if it holds [`CREDENTIAL`].
    pub credentials_dir: Option<PathBuf>,
    /// Else this file; it is made, with mode 0600, where there is none.
    pub key_file: PathBuf,
}

/// A sealed template: what the database keeps. The hashes are lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedVoiceprint {
    pub wrapped_key: Vec<u8>,
    pub blob: Vec<u8>,
    pub model_sha256: String,
    pub front_end_sha256: String,
}

/// Why a voiceprint cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(
        "voices are enrolled, but their key is missing: there is neither the credential {CREDENTIAL} nor the file {}; \
         where the daemon has the credential, run this through `systemd-run -p LoadCredential…`, else copy the key back",
        .path.display()
    )]
    NoKey { path: PathBuf },
    #[error("cannot read the voiceprint key {}", .path.display())]
    ReadKey { path: PathBuf, source: std::io::Error },
    #[error("cannot make the voiceprint key {}", .path.display())]
    MakeKey { path: PathBuf, source: std::io::Error },
    #[error("the voiceprint key {} must be a plain file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("the voiceprint key {} has {bytes} bytes instead of {KEY_BYTES}; restore it from a backup, or delete it and enrol all voices again", .path.display())]
    KeySize { path: PathBuf, bytes: u64 },
    #[error("others may read the voiceprint key {} (mode {mode:03o}); run `chmod 600` on it", .path.display())]
    KeyMode { path: PathBuf, mode: u32 },
    #[error("the voiceprint key {} belongs to another user; run `chown` on it", .path.display())]
    KeyOwner { path: PathBuf },
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
    #[error("the voiceprint could not be encrypted")]
    Encrypt,
    #[error("the voiceprint was sealed with another master key; restore that key, or enrol the voice again")]
    WrongKey,
    #[error("the voiceprint belongs to another user")]
    OtherUser,
    #[error("the voiceprint was made with another speaker model; enrol the voice again")]
    OtherModel,
    #[error("the voiceprint was changed after it was sealed; enrol the voice again")]
    Tampered,
    #[error("the voiceprint has a format that this program does not read; enrol the voice again")]
    Format,
    #[error("the sealed voiceprint cannot be read")]
    Template(#[source] TemplateError),
}

/// Seals and opens voiceprints of one speaker model.
pub struct Vault {
    master: Key,
    identity: ModelIdentity,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Vault {
    /// Takes the master key from the first source that has one, or makes the key file. `identity` is the model in use:
    /// voiceprints of another are refused.
    pub fn open(sources: &KeySources, identity: ModelIdentity) -> Result<Self, VaultError> {
        Ok(Self { master: key_file::obtain(sources)?, identity })
    }

    /// [`Vault::open`] where voiceprints are stored already: a new key would open none of them, so none is made.
    ///
    /// # Errors
    /// [`VaultError::NoKey`] where no source has a key.
    pub fn open_existing(sources: &KeySources, identity: ModelIdentity) -> Result<Self, VaultError> {
        Ok(Self { master: key_file::existing(sources)?, identity })
    }

    /// Seals `template` for `user_id`, under a data key of its own.
    pub fn seal(&self, user_id: &str, template: &Template) -> Result<SealedVoiceprint, VaultError> {
        if *template.identity() != self.identity {
            return Err(VaultError::OtherModel);
        }
        let mut data_key: Key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(data_key.as_mut_slice()).map_err(VaultError::Random)?;
        let plain = Zeroizing::new(template.to_bytes());
        let mut header = vec![VERSION];
        header.extend(self.user_tag(user_id));
        let blob = encrypt(&data_key, header, &plain, &self.bound(b"template", user_id))?;
        Ok(SealedVoiceprint {
            wrapped_key: self.wrap(user_id, &data_key)?,
            blob,
            model_sha256: self.identity.model_sha256.clone(),
            front_end_sha256: self.identity.front_end_sha256.clone(),
        })
    }

    /// Opens a voiceprint sealed for `user_id`.
    pub fn open_sealed(&self, user_id: &str, sealed: &SealedVoiceprint) -> Result<Template, VaultError> {
        let data_key = self.unwrap_key(user_id, sealed)?;
        let (header, body) = sealed.blob.split_at_checked(BLOB_HEADER_BYTES).ok_or(VaultError::Format)?;
        let (version_and_tag, nonce) = header.split_at(1 + USER_TAG_BYTES);
        check_version(version_and_tag)?;
        let other_user = version_and_tag.get(1..) != Some(&self.user_tag(user_id)[..]);
        let plain = decrypt(&data_key, nonce, body, version_and_tag, &self.bound(b"template", user_id));
        let plain = plain.ok_or(if other_user { VaultError::OtherUser } else { VaultError::Tampered })?;
        let template = Template::from_bytes(&plain).map_err(VaultError::Template)?;
        // Bound twice, by the additional data and by the content; a disagreement is a fault of whoever sealed it.
        if *template.identity() != self.identity {
            return Err(VaultError::OtherModel);
        }
        Ok(template)
    }

    /// The same voiceprint with its data key wrapped under this vault's master key instead of `old`'s: key rotation. The
    /// template itself is not opened.
    pub fn rewrap(
        &self,
        old: &Self,
        user_id: &str,
        sealed: &SealedVoiceprint,
    ) -> Result<SealedVoiceprint, VaultError> {
        let data_key = old.unwrap_key(user_id, sealed)?;
        Ok(SealedVoiceprint { wrapped_key: self.wrap(user_id, &data_key)?, ..sealed.clone() })
    }

    fn wrap(&self, user_id: &str, data_key: &Key) -> Result<Vec<u8>, VaultError> {
        let mut header = vec![VERSION];
        header.extend(self.key_id());
        encrypt(&self.master, header, data_key.as_slice(), &self.bound(b"data key", user_id))
    }

    fn unwrap_key(&self, user_id: &str, sealed: &SealedVoiceprint) -> Result<Key, VaultError> {
        if sealed.model_sha256 != self.identity.model_sha256
            || sealed.front_end_sha256 != self.identity.front_end_sha256
        {
            return Err(VaultError::OtherModel);
        }
        if sealed.wrapped_key.len() != WRAPPED_BYTES {
            return Err(VaultError::Format);
        }
        let (header, rest) = sealed.wrapped_key.split_at(1 + KEY_ID_BYTES);
        let (nonce, body) = rest.split_at(NONCE_BYTES);
        check_version(header)?;
        let other_key = header.get(1..) != Some(&self.key_id()[..]);
        let other_user = sealed.blob.get(1..=USER_TAG_BYTES) != Some(&self.user_tag(user_id)[..]);
        let plain = decrypt(&self.master, nonce, body, header, &self.bound(b"data key", user_id));
        // The reason is read from bytes that are authenticated only if it opens, so it is a hint for the person; that it
        // does not open is certain.
        let plain = plain.ok_or(match (other_key, other_user) {
            (true, _) => VaultError::WrongKey,
            (false, true) => VaultError::OtherUser,
            (false, false) => VaultError::Tampered,
        })?;
        let mut key: Key = Zeroizing::new([0; KEY_BYTES]);
        if plain.len() != KEY_BYTES {
            return Err(VaultError::Format);
        }
        key.copy_from_slice(&plain);
        Ok(key)
    }

    /// Additional data: purpose, user and model, each with its length in front so that no two lists look alike.
    fn bound(&self, purpose: &[u8], user_id: &str) -> Vec<u8> {
        let parts: [&[u8]; 5] = [
            b"jarvis voiceprint v1",
            purpose,
            user_id.as_bytes(),
            self.identity.model_sha256.as_bytes(),
            self.identity.front_end_sha256.as_bytes(),
        ];
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        bytes
    }

    fn key_id(&self) -> [u8; KEY_ID_BYTES] {
        let mut hash = Sha256::new();
        hash.update(b"jarvis voiceprint key id v1");
        hash.update(self.master.as_slice());
        first(&hash.finalize())
    }

    fn user_tag(&self, user_id: &str) -> [u8; USER_TAG_BYTES] {
        let mut hash = Sha256::new();
        hash.update(b"jarvis voiceprint user v1");
        hash.update(user_id.as_bytes());
        first(&hash.finalize())
    }
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (out, byte) in out.iter_mut().zip(bytes) {
        *out = *byte;
    }
    out
}

fn check_version(header: &[u8]) -> Result<(), VaultError> {
    if header.first() == Some(&VERSION) { Ok(()) } else { Err(VaultError::Format) }
}

/// `header ‖ nonce ‖ ciphertext`, with `header` and `bound` authenticated.
fn encrypt(key: &Key, header: Vec<u8>, plain: &[u8], bound: &[u8]) -> Result<Vec<u8>, VaultError> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(VaultError::Random)?;
    let aad = [bound, &header].concat();
    let cipher = XChaCha20Poly1305::new((&**key).into());
    let sealed = cipher
        .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &aad })
        .map_err(|_| VaultError::Encrypt)?;
    Ok([header, nonce.to_vec(), sealed].concat())
}

fn decrypt(key: &Key, nonce: &[u8], body: &[u8], header: &[u8], bound: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let nonce: [u8; NONCE_BYTES] = nonce.try_into().ok()?;
    let aad = [bound, header].concat();
    let cipher = XChaCha20Poly1305::new((&**key).into());
    cipher.decrypt(&XNonce::from(nonce), Payload { msg: body, aad: &aad }).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::template::tests::sample;

    fn vault_at(dir: &std::path::Path, template: &Template) -> Vault {
        let sources = KeySources { credentials_dir: None, key_file: dir.join("voiceprint.key") };
        Vault::open(&sources, template.identity().clone()).unwrap()
    }

    #[test]
    fn a_sealed_voiceprint_opens_for_its_user_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 3);
        let sealed = vault_at(dir.path(), &template).seal("u1", &template).unwrap();
        assert_eq!(vault_at(dir.path(), &template).open_sealed("u1", &sealed).unwrap(), template);
    }

    #[test]
    fn two_seals_share_nothing_and_hold_no_number_of_the_template() {
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 3);
        let vault = vault_at(dir.path(), &template);
        let (one, two) = (vault.seal("u1", &template).unwrap(), vault.seal("u1", &template).unwrap());
        assert_ne!(one.blob[17..], two.blob[17..]);
        assert_ne!(one.wrapped_key[9..], two.wrapped_key[9..]);
        let number = template.prototypes()[0].embedding.values()[0].to_le_bytes();
        let second = template.prototypes()[0].embedding.values()[1].to_le_bytes();
        let needle = [number, second].concat();
        assert!(!one.blob.windows(8).any(|w| w == needle));
    }

    #[test]
    fn another_user_another_key_and_another_model_are_told_apart_and_never_open() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let template = sample(1, 3);
        let vault = vault_at(here.path(), &template);
        let sealed = vault.seal("u1", &template).unwrap();
        assert!(matches!(vault.open_sealed("u2", &sealed), Err(VaultError::OtherUser)));
        let foreign = vault_at(there.path(), &template);
        assert!(matches!(foreign.open_sealed("u1", &sealed), Err(VaultError::WrongKey)));
        let identity = ModelIdentity { model_sha256: "cd".repeat(32), ..template.identity().clone() };
        let key_file = here.path().join("voiceprint.key");
        let other = Vault::open(&KeySources { credentials_dir: None, key_file }, identity.clone()).unwrap();
        assert!(matches!(other.open_sealed("u1", &sealed), Err(VaultError::OtherModel)));
        // Relabelled for the new model: the additional data still says otherwise.
        let relabelled = SealedVoiceprint { model_sha256: identity.model_sha256, ..sealed };
        assert!(matches!(other.open_sealed("u1", &relabelled), Err(VaultError::Tampered)));
        assert!(matches!(other.seal("u1", &template), Err(VaultError::OtherModel)));
    }

    #[test]
    fn a_key_and_a_blob_of_different_seals_do_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 3);
        let vault = vault_at(dir.path(), &template);
        let (one, two) = (vault.seal("u1", &template).unwrap(), vault.seal("u1", &template).unwrap());
        let mixed = SealedVoiceprint { wrapped_key: two.wrapped_key, ..one };
        assert!(matches!(vault.open_sealed("u1", &mixed), Err(VaultError::Tampered)));
    }

    #[test]
    fn any_changed_bit_and_any_cut_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 1);
        let vault = vault_at(dir.path(), &template);
        let sealed = vault.seal("u1", &template).unwrap();
        for at in 0..sealed.blob.len() {
            let mut changed = sealed.clone();
            changed.blob[at] ^= 1 << (at % 8);
            assert!(vault.open_sealed("u1", &changed).is_err(), "blob byte {at}");
            changed.blob.truncate(at);
            assert!(vault.open_sealed("u1", &changed).is_err(), "blob cut to {at}");
        }
        for at in 0..sealed.wrapped_key.len() {
            let mut changed = sealed.clone();
            changed.wrapped_key[at] ^= 1 << (at % 8);
            assert!(vault.open_sealed("u1", &changed).is_err(), "key byte {at}");
            changed.wrapped_key.truncate(at);
            assert!(vault.open_sealed("u1", &changed).is_err(), "key cut to {at}");
        }
    }

    #[test]
    fn rotating_the_master_key_keeps_the_voiceprint_and_ends_the_old_key() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let template = sample(1, 3);
        let (old, new) = (vault_at(here.path(), &template), vault_at(there.path(), &template));
        let sealed = old.seal("u1", &template).unwrap();
        let rotated = new.rewrap(&old, "u1", &sealed).unwrap();
        assert_eq!(new.open_sealed("u1", &rotated).unwrap(), template);
        assert!(matches!(old.open_sealed("u1", &rotated), Err(VaultError::WrongKey)));
        assert!(matches!(new.rewrap(&old, "u1", &rotated), Err(VaultError::WrongKey)));
    }
}
