//! The recordings of an enrolment, kept on request: sealed with the data key of the voiceprint.
//!
//! So they open wherever the voiceprint opens, a rotated master key changes nothing for them, and the
//! deletion of the voiceprint erases them as well. They stay readable under another speaker model, for which
//! they are kept.
//!
//! `version ‖ nonce (24) ‖ recordings + tag (16)`

use zeroize::Zeroizing;

use super::{
    ModelIdentity, NONCE_BYTES, SealedVoiceprint, VERSION, Vault, VaultError, bound, decrypt, encrypt,
};

const PURPOSE: &[u8] = b"recordings";

impl Vault {
    /// Seals recordings of the person whose voiceprint this is.
    ///
    /// # Errors
    /// The reason why the voiceprint cannot be opened.
    pub fn seal_recordings(
        &self,
        user_id: &str,
        voiceprint: &SealedVoiceprint,
        recordings: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let identity = identity_of(voiceprint);
        let key = self.data_key(&identity, user_id, voiceprint)?;
        encrypt(&key, vec![VERSION], recordings, &bound(&identity, PURPOSE, user_id))
    }

    /// Opens recordings that [`Vault::seal_recordings`] sealed for this voiceprint.
    ///
    /// # Errors
    /// [`VaultError::Recordings`], or the reason why the voiceprint cannot be opened.
    pub fn open_recordings(
        &self,
        user_id: &str,
        voiceprint: &SealedVoiceprint,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let identity = identity_of(voiceprint);
        let key = self.data_key(&identity, user_id, voiceprint)?;
        let (header, rest) = sealed.split_at_checked(1).ok_or(VaultError::Recordings)?;
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or(VaultError::Recordings)?;
        if header != [VERSION] {
            return Err(VaultError::Recordings);
        }
        decrypt(&key, nonce, body, header, &bound(&identity, PURPOSE, user_id)).ok_or(VaultError::Recordings)
    }
}

/// The model that the voiceprint names. The wrapped key is bound to it, so that another one opens nothing.
fn identity_of(voiceprint: &SealedVoiceprint) -> ModelIdentity {
    ModelIdentity {
        model_sha256: voiceprint.model_sha256.clone(),
        front_end_sha256: voiceprint.front_end_sha256.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeySources;
    use super::*;
    use crate::speaker::template::tests::sample;

    #[test]
    fn recordings_open_with_their_voiceprint_only_and_with_any_model() {
        let dir = tempfile::tempdir().unwrap();
        let template = sample(1, 3);
        let sources = KeySources { credentials_dir: None, key_file: dir.path().join("voiceprint.key") };
        let vault = Vault::open(&sources, template.identity().clone()).unwrap();
        let voiceprint = vault.seal("u1", &template).unwrap();
        let sealed = vault.seal_recordings("u1", &voiceprint, b"what was said").unwrap();
        assert!(!sealed.windows(4).any(|part| part == b"what"));
        assert_eq!(*vault.open_recordings("u1", &voiceprint, &sealed).unwrap(), b"what was said");

        let other = ModelIdentity { model_sha256: "0".repeat(64), ..template.identity().clone() };
        let vault_of_other_model = Vault::open(&sources, other).unwrap();
        assert!(vault_of_other_model.open_sealed("u1", &voiceprint).is_err());
        assert_eq!(
            *vault_of_other_model.open_recordings("u1", &voiceprint, &sealed).unwrap(),
            b"what was said"
        );

        let again = vault.seal("u1", &template).unwrap();
        let theirs = vault.seal("u2", &template).unwrap();
        let wrong = |user: &str, voiceprint: &SealedVoiceprint, bytes: &[u8]| {
            vault.open_recordings(user, voiceprint, bytes).unwrap_err().to_string()
        };
        assert!(wrong("u1", &again, &sealed).contains("the kept recordings"));
        assert!(wrong("u2", &theirs, &sealed).contains("the kept recordings"));
        assert!(
            wrong("u1", &voiceprint, &voiceprint.blob).contains("the kept recordings"),
            "a template is none"
        );
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            wrong("u1", &voiceprint, &changed);
            wrong("u1", &voiceprint, &sealed[..at]);
        }
    }
}
