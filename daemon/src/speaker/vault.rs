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
//! XChaCha20-Poly1305 throughout, random nonces. The additional data of both boxes binds purpose, user, model
//! hash and front-end hash, so a voiceprint moved to another user or another model does not open. Key id and
//! user tag are hashes that only serve to say *why* it does not open; they are authenticated like the rest.
//! Deleting `wrapped_key` erases the template wherever copies of `blob` remain.
//!
//! The master key is rotated by wrapping every data key anew in one transaction; templates are not opened for
//! that. The new key waits beside the old one until the transaction is on the disk, and only then takes its
//! place. So one of the two opens everything after a power failure at any moment. A running process reads the
//! files again when it meets an unknown key id.
//!
//! Invariants: every failure is an error, never a template; keys are wiped from memory when dropped.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::embedding::ModelIdentity;
use super::template::{Template, TemplateError};

mod key_file;
mod recordings;

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
    /// Else this file; it is made, with mode 0600, if it does not exist.
    pub key_file: PathBuf,
}

/// A sealed template as the database keeps it. The hashes are lower-case hexadecimal.
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
        "voices are enrolled, but their key is missing: there is neither the credential {CREDENTIAL} nor the \
         file {}; where the daemon has the credential, run this through `systemd-run -p LoadCredential…`, \
         else copy the key back",
        .path.display()
    )]
    NoKey { path: PathBuf },
    #[error("cannot read the voiceprint key {}", .path.display())]
    ReadKey { path: PathBuf, source: std::io::Error },
    #[error("cannot make the voiceprint key {}", .path.display())]
    MakeKey { path: PathBuf, source: std::io::Error },
    #[error("the voiceprint key is being rotated by another process; wait for its end")]
    Rotating,
    #[error("cannot put the new voiceprint key in the place of {}; run `jarvisd vault rotate-key` \
             again", .path.display())]
    ReplaceKey { path: PathBuf, source: std::io::Error },
    #[error("the voiceprint key {} must be a plain file", .path.display())]
    NotAFile { path: PathBuf },
    #[error("the voiceprint key {} has {bytes} bytes instead of {KEY_BYTES}; put your own copy of it back \
             (no backup holds it), or delete it and enrol all voices again", .path.display())]
    KeySize { path: PathBuf, bytes: u64 },
    #[error("others may read the voiceprint key {} (mode {mode:03o}); run `chmod 600` on \
             it", .path.display())]
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
    #[error(
        "the kept recordings were changed after they were sealed, or belong to another enrolment; delete \
         them with `jarvisd voice recordings delete`"
    )]
    Recordings,
    #[error("the sealed voiceprint cannot be read")]
    Template(#[source] TemplateError),
}

/// Seals and opens voiceprints of one speaker model.
pub struct Vault {
    /// The key of this process; another process may have rotated the one on disk.
    master: ArcSwap<Key>,
    sources: KeySources,
    identity: ModelIdentity,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Vault {
    /// Takes the master key from the first source that has one, or makes the key file. `identity` is the
    /// model in use: voiceprints of another are refused.
    pub fn open(sources: &KeySources, identity: ModelIdentity) -> Result<Self, VaultError> {
        Ok(Self::with(key_file::obtain(sources)?, sources, identity))
    }

    /// [`Vault::open`] where voiceprints are stored already: a new key would open none of them, so none is
    /// made.
    ///
    /// # Errors
    /// [`VaultError::NoKey`] where no source has a key.
    pub fn open_existing(sources: &KeySources, identity: ModelIdentity) -> Result<Self, VaultError> {
        Ok(Self::with(key_file::existing(sources)?, sources, identity))
    }

    /// Whether a source has a key, usable or not.
    pub fn has_key(sources: &KeySources) -> bool {
        !matches!(key_file::existing(sources), Err(VaultError::NoKey { .. }))
    }

    /// Names the key in use, as it is on the disk now, and the model: under another name, other voiceprints
    /// open.
    pub fn name(&self) -> String {
        let id = match key_file::existing(&self.sources) {
            Ok(key) => key_id(&key),
            Err(_) => key_id(&self.master.load()),
        };
        let mut hash = Sha256::new();
        hash.update(b"jarvis voiceprint opener v1");
        hash.update(id);
        hash.update(self.identity.model_sha256.as_bytes());
        hash.update(self.identity.front_end_sha256.as_bytes());
        hash.finalize().iter().take(KEY_ID_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Begins a rotation: the new key is made in `to`, else beside the key file. A key left there by an
    /// interrupted rotation is used again.
    ///
    /// # Errors
    /// [`VaultError::Rotating`] while another process rotates: of two new keys only one would stay.
    pub fn rotate(&self, to: Option<&Path>) -> Result<Rotation<'_>, VaultError> {
        let lock = key_file::lock(&self.sources.key_file)?;
        let sources = match to {
            None => self.next_sources(),
            Some(file) => KeySources { credentials_dir: None, key_file: file.to_path_buf() },
        };
        let next = Self::open(&sources, self.identity.clone())?;
        Ok(Rotation { current: self, next, in_place: to.is_none(), _lock: lock })
    }

    /// Ends a rotation that was interrupted after its transaction: voiceprints are sealed with the waiting
    /// key.
    pub fn settle<'a>(
        &self,
        stored: impl IntoIterator<Item = &'a SealedVoiceprint>,
    ) -> Result<(), VaultError> {
        let Ok(next) = key_file::existing(&self.next_sources()) else { return Ok(()) };
        if stored.into_iter().any(|sealed| key_id_of(&sealed.wrapped_key) == Some(&key_id(&next))) {
            key_file::install_next(&self.sources.key_file)?;
            self.master.store(Arc::new(next));
        }
        Ok(())
    }

    fn with(master: Key, sources: &KeySources, identity: ModelIdentity) -> Self {
        Self { master: ArcSwap::from_pointee(master), sources: sources.clone(), identity }
    }

    fn next_sources(&self) -> KeySources {
        KeySources { credentials_dir: None, key_file: key_file::next_to(&self.sources.key_file) }
    }

    /// The key called `id`, if this process has it or a rotation has put it on the disk; else the one in use.
    fn master_of(&self, id: Option<&[u8]>) -> Arc<Key> {
        let known = |key: &Key| id == Some(&key_id(key)[..]);
        let current = self.master.load_full();
        if known(&current) {
            return current;
        }
        let found = [&self.sources, &self.next_sources()].map(key_file::existing);
        match found.into_iter().flatten().find(known) {
            None => current,
            Some(key) => {
                let key = Arc::new(key);
                self.master.store(key.clone());
                key
            }
        }
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
        let blob = encrypt(&data_key, header, &plain, &bound(&self.identity, b"template", user_id))?;
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
        let plain =
            decrypt(&data_key, nonce, body, version_and_tag, &bound(&self.identity, b"template", user_id));
        let plain = plain.ok_or(if other_user { VaultError::OtherUser } else { VaultError::Tampered })?;
        let template = Template::from_bytes(&plain).map_err(VaultError::Template)?;
        // Bound twice, by the additional data and by the content; a disagreement is a fault of the sealing
        // process.
        if *template.identity() != self.identity {
            return Err(VaultError::OtherModel);
        }
        Ok(template)
    }

    fn wrap(&self, user_id: &str, data_key: &Key) -> Result<Vec<u8>, VaultError> {
        let master = self.master.load_full();
        let mut header = vec![VERSION];
        header.extend(key_id(&master));
        encrypt(&master, header, data_key.as_slice(), &bound(&self.identity, b"data key", user_id))
    }

    fn unwrap_key(&self, user_id: &str, sealed: &SealedVoiceprint) -> Result<Key, VaultError> {
        if sealed.model_sha256 != self.identity.model_sha256
            || sealed.front_end_sha256 != self.identity.front_end_sha256
        {
            return Err(VaultError::OtherModel);
        }
        self.data_key(&self.identity, user_id, sealed)
    }

    /// The data key of a voiceprint of the model `identity`.
    fn data_key(
        &self,
        identity: &ModelIdentity,
        user_id: &str,
        sealed: &SealedVoiceprint,
    ) -> Result<Key, VaultError> {
        if sealed.wrapped_key.len() != WRAPPED_BYTES {
            return Err(VaultError::Format);
        }
        let (header, rest) = sealed.wrapped_key.split_at(1 + KEY_ID_BYTES);
        let (nonce, body) = rest.split_at(NONCE_BYTES);
        check_version(header)?;
        let master = self.master_of(header.get(1..));
        let other_key = header.get(1..) != Some(&key_id(&master)[..]);
        let other_user = sealed.blob.get(1..=USER_TAG_BYTES) != Some(&self.user_tag(user_id)[..]);
        let plain = decrypt(&master, nonce, body, header, &bound(identity, b"data key", user_id));
        // The failure is certain. Its reason is read from bytes that are authenticated only if the voiceprint
        // opens, so the reason is a hint for the person.
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

    fn user_tag(&self, user_id: &str) -> [u8; USER_TAG_BYTES] {
        let mut hash = Sha256::new();
        hash.update(b"jarvis voiceprint user v1");
        hash.update(user_id.as_bytes());
        first(&hash.finalize())
    }
}

/// A new master key that is about to take the place of the one in use; see [`Vault::rotate`].
#[derive(Debug)]
pub struct Rotation<'a> {
    current: &'a Vault,
    next: Vault,
    in_place: bool,
    /// Held until the end.
    _lock: File,
}

impl Rotation<'_> {
    /// The same voiceprint with its data key wrapped under the new master key; the template itself is not
    /// opened. A voiceprint already under that key is given back as it is.
    pub fn rewrap(&self, user_id: &str, sealed: &SealedVoiceprint) -> Result<SealedVoiceprint, VaultError> {
        let done = key_id_of(&sealed.wrapped_key) == Some(&key_id(&self.next.master.load()));
        let data_key = if done { &self.next } else { self.current }.unwrap_key(user_id, sealed)?;
        if done {
            return Ok(sealed.clone());
        }
        Ok(SealedVoiceprint { wrapped_key: self.next.wrap(user_id, &data_key)?, ..sealed.clone() })
    }

    /// Puts the new key in the place of the key file, durably. Only for use once every stored voiceprint is
    /// wrapped under it.
    pub fn finish(self) -> Result<(), VaultError> {
        if !self.in_place {
            return Ok(());
        }
        key_file::install_next(&self.current.sources.key_file)?;
        self.current.master.store(self.next.master.load_full());
        Ok(())
    }
}

fn key_id(master: &Key) -> [u8; KEY_ID_BYTES] {
    let mut hash = Sha256::new();
    hash.update(b"jarvis voiceprint key id v1");
    hash.update(master.as_slice());
    first(&hash.finalize())
}

/// The id, in a wrapped key, of the master key that it is wrapped under.
fn key_id_of(wrapped: &[u8]) -> Option<&[u8; KEY_ID_BYTES]> {
    wrapped.get(1..)?.first_chunk()
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

/// Additional data: purpose, user and model, each with its length in front so that no two lists look alike.
fn bound(identity: &ModelIdentity, purpose: &[u8], user_id: &str) -> Vec<u8> {
    let parts: [&[u8]; 5] = [
        b"jarvis voiceprint v1",
        purpose,
        user_id.as_bytes(),
        identity.model_sha256.as_bytes(),
        identity.front_end_sha256.as_bytes(),
    ];
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    }
    bytes
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
        // Relabelled for the new model: the additional data still names the old one.
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
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 3);
        let vault = vault_at(dir.path(), &template);
        let old = std::fs::read(dir.path().join("voiceprint.key")).unwrap();
        let sealed = vault.seal("u1", &template).unwrap();
        let rotation = vault.rotate(None).unwrap();
        assert!(matches!(vault_at(dir.path(), &template).rotate(None), Err(VaultError::Rotating)));
        let rotated = rotation.rewrap("u1", &sealed).unwrap();
        assert_eq!(rotated.blob, sealed.blob, "the template is not touched");
        assert_eq!(
            rotation.rewrap("u1", &rotated).unwrap(),
            rotated,
            "a rotation that is repeated changes nothing"
        );
        let mut damaged = rotated.clone();
        damaged.wrapped_key[60] ^= 1;
        assert!(matches!(rotation.rewrap("u1", &damaged), Err(VaultError::Tampered)));
        rotation.finish().unwrap();
        assert_eq!(vault_at(dir.path(), &template).open_sealed("u1", &rotated).unwrap(), template);
        assert!(matches!(
            vault_at(dir.path(), &template).open_sealed("u1", &sealed),
            Err(VaultError::WrongKey)
        ));
        assert_ne!(std::fs::read(dir.path().join("voiceprint.key")).unwrap(), old);
    }

    #[test]
    fn a_rotation_that_stops_anywhere_leaves_a_key_that_opens() {
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 3);
        let running = vault_at(dir.path(), &template);
        let sealed = running.seal("u1", &template).unwrap();
        // Before the transaction: the old key is in force, and the next attempt uses the key that waits.
        drop(vault_at(dir.path(), &template).rotate(None).unwrap());
        let waiting = std::fs::read(dir.path().join("voiceprint.key.next")).unwrap();
        let started = vault_at(dir.path(), &template);
        started.settle([&sealed]).unwrap();
        assert_eq!(started.open_sealed("u1", &sealed).unwrap(), template);
        let rotated = started.rotate(None).unwrap().rewrap("u1", &sealed).unwrap();
        // After it: a running process and a starting one both find the key, and the start puts it in its
        // place.
        assert_eq!(running.open_sealed("u1", &rotated).unwrap(), template);
        let started = vault_at(dir.path(), &template);
        started.settle([&rotated]).unwrap();
        started.settle([&rotated]).unwrap();
        assert_eq!(std::fs::read(dir.path().join("voiceprint.key")).unwrap(), waiting);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "one key file");
        assert!(matches!(
            vault_at(dir.path(), &template).open_sealed("u1", &sealed),
            Err(VaultError::WrongKey)
        ));
        // A process from before the rotation seals with the key in use, once it has met it.
        assert_eq!(started.open_sealed("u1", &running.seal("u1", &template).unwrap()).unwrap(), template);
    }

    #[test]
    fn a_key_for_a_credential_is_written_where_it_is_asked_for_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 3);
        let vault = vault_at(dir.path(), &template);
        let sealed = vault.seal("u1", &template).unwrap();
        let to = dir.path().join("new.key");
        let rotation = vault.rotate(Some(&to)).unwrap();
        let rotated = rotation.rewrap("u1", &sealed).unwrap();
        rotation.finish().unwrap();
        assert!(matches!(vault.open_sealed("u1", &rotated), Err(VaultError::WrongKey)));
        std::fs::rename(&to, dir.path().join("voiceprint.key")).unwrap();
        assert_eq!(
            vault.open_sealed("u1", &rotated).unwrap(),
            template,
            "also in the process that ran meanwhile"
        );
    }
}
