//! The enrolled voices, unsealed for the length of one comparison.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::error::{Exit, Failure, chain};
use crate::identity::recordings::Recordings;
use crate::memory::{Memory, MemoryError, Voiceprint};
use crate::speaker::section::UserThresholds;
use crate::speaker::{
    EnrolledVoice, JustHeard, Part, SealedVoiceprint, SpeakerError, Vault, VaultError, Verifier,
};
use crate::store::opener::Opener;
use crate::store::tables::VoiceprintRow;

/// Everything that a comparison needs.
#[derive(Debug, Clone)]
pub struct Voices {
    pub memory: Memory,
    pub vault: Arc<Vault>,
    pub verifier: Verifier,
    pub recordings: Recordings,
}

/// An early verdict that is being taken, and how long it took.
pub type EarlyVerdict = JoinHandle<(Result<Option<Part>, SpeakerError>, Duration)>;

#[derive(Debug, thiserror::Error)]
pub enum VoicesError {
    #[error("reading the enrolled voices")]
    Memory(#[source] MemoryError),
    #[error("the voiceprint of {user} cannot be opened")]
    Sealed { user: String, source: VaultError },
    #[error("comparing voices")]
    Compare(#[source] SpeakerError),
    #[error("the comparison was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl From<VoicesError> for Failure {
    fn from(error: VoicesError) -> Self {
        match error {
            VoicesError::Memory(error) => error.into(),
            other => Self::because(Exit::Failed, "the enrolled voices cannot be used", other),
        }
    }
}

impl From<&Voiceprint> for SealedVoiceprint {
    fn from(stored: &Voiceprint) -> Self {
        Self {
            wrapped_key: stored.wrapped_key.clone(),
            blob: stored.blob.clone(),
            model_sha256: stored.info.model_sha256.clone(),
            front_end_sha256: stored.info.front_end_sha256.clone(),
        }
    }
}

impl From<&VoiceprintRow> for SealedVoiceprint {
    fn from(row: &VoiceprintRow) -> Self {
        Self {
            wrapped_key: row.wrapped_key.clone(),
            blob: row.blob.clone(),
            model_sha256: row.model_sha256.clone(),
            front_end_sha256: row.front_end_sha256.clone(),
        }
    }
}

/// Tells which voiceprints that come from Postgres `vault` opens.
pub fn opener(vault: Arc<Vault>) -> Opener {
    let named = vault.clone();
    let opens = move |row: &VoiceprintRow| {
        vault.open_sealed(&row.owner.to_string(), &SealedVoiceprint::from(row)).is_ok()
    };
    Opener { name: Arc::new(move || named.name()), opens: Arc::new(opens) }
}

impl Voices {
    /// Tells which voiceprints that come from Postgres open here.
    pub fn opener(&self) -> Opener {
        opener(self.vault.clone())
    }

    /// Every voice that can be opened. The others are named in the log and left out: one person's damaged
    /// voiceprint must not silence everybody.
    ///
    /// # Errors
    /// When memory cannot be read, or when there are voiceprints and none of them opens (a wrong key).
    pub async fn enrolled(&self) -> Result<Vec<EnrolledVoice>, VoicesError> {
        let sealed = self.memory.list_voiceprints().await.map_err(VoicesError::Memory)?;
        let mut voices = Vec::with_capacity(sealed.len());
        let mut refused = None;
        for voiceprint in sealed {
            let user_id = voiceprint.info.user_id.to_string();
            match self.open(voiceprint) {
                Ok(voice) => voices.push(voice),
                Err(error) => {
                    let why = chain(&error);
                    log::error!(
                        user_id = user_id.as_str(); "{why}; enrol again with `jarvisd voice enroll`"
                    );
                    refused = Some(error);
                }
            }
        }
        match refused {
            Some(error) if voices.is_empty() => Err(error),
            _ => Ok(voices),
        }
    }

    /// [`Voices::enrolled`], each with the threshold that the owner gave it.
    pub async fn enrolled_with(&self, own: &UserThresholds) -> Result<Vec<EnrolledVoice>, VoicesError> {
        let mut voices = self.enrolled().await?;
        for voice in &mut voices {
            voice.threshold = own.of(&voice.user_name);
        }
        Ok(voices)
    }

    /// One person's voice.
    ///
    /// # Errors
    /// [`VoicesError::Sealed`]: another key, another model, or changed since it was sealed.
    pub fn open(&self, voiceprint: Voiceprint) -> Result<EnrolledVoice, VoicesError> {
        let sealed = SealedVoiceprint::from(&voiceprint);
        let user_id = voiceprint.info.user_id.to_string();
        let user_name = voiceprint.info.user_name;
        match self.vault.open_sealed(&user_id, &sealed) {
            Ok(template) => Ok(EnrolledVoice { user_id, user_name, template, threshold: None }),
            Err(source) => Err(VoicesError::Sealed { user: user_name, source }),
        }
    }

    /// An early verdict on an utterance that goes on (see [`Verifier::early_verdict`]), taken on a thread of
    /// its own: it delays neither the sound nor the caller. The sound is as for [`Voices::hear`].
    ///
    /// # Errors
    /// When the enrolled voices cannot be read.
    pub async fn early_verdict(&self, raw: Vec<f32>, speech: Vec<f32>) -> Result<EarlyVerdict, VoicesError> {
        let enrolled = self.enrolled().await?;
        let verifier = self.verifier.clone();
        Ok(tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            (verifier.early_verdict(&raw, &speech, &enrolled), started.elapsed())
        }))
    }

    /// Finds the voices in `raw`: 16 kHz mono in [-1, 1], not denoised, with a speech probability per 10 ms
    /// frame. `just`: the person verified just before.
    ///
    /// # Errors
    /// See [`VoicesError`]; an error never verifies anyone.
    pub async fn hear(
        &self,
        raw: Arc<Vec<f32>>,
        speech: Arc<Vec<f32>>,
        just: Option<JustHeard>,
        threshold: f32,
        own: &UserThresholds,
    ) -> Result<Vec<Part>, VoicesError> {
        let enrolled = self.enrolled_with(own).await?;
        let verifier = self.verifier.clone();
        tokio::task::spawn_blocking(move || verifier.hear(&raw, &speech, &enrolled, threshold, just.as_ref()))
            .await
            .map_err(VoicesError::Interrupted)?
            .map_err(VoicesError::Compare)
    }
}
