//! Speaker recognition: features, embedding, calibrated confidence, enrolment, verdict, sealed voiceprints.
//!
//! ```text
//!  sound + VAD ─▶ net speech ─▶ fbank ─▶ CAM++ ─▶ embedding ─┬─▶ enrolment ─▶ Template ─▶ vault ─▶ sealed voiceprint
//!    (raw, not      speech.rs                                │                   │
//!     denoised)                                              └─▶ verification ◀──┘   cohort + constants: calibration
//!                                                                 └─▶ Parts, each with its Verdict (+ FailureGate)
//! ```
//!
//! Invariants:
//! * Embeddings are compared only if model hash and front-end hash are equal; anything else is an error, not
//!   a low score.
//! * A verdict is a function of the sound, the templates and the shipped constants. Below a second of speech
//!   it also depends on the person verified just before. The same input gives the same verdict.
//! * Templates leave memory only sealed. Nothing here logs or prints an embedding.
//! * Nothing is learnt from verdicts, nor from the speech of strangers: the shipped compensation takes the
//!   channel out. The voice refused or verified last is held for a minute, in memory, for comparison with the
//!   speech that follows.
//! * Both enrolment and verification hear the **raw** 16 kHz sound, and all of it, wake phrase included:
//!   denoised sound quadruples the equal error rate (docs/lab/speaker-version-1.md).

pub mod aside;
pub mod calibration;
pub mod embedding;
pub mod enrolment;
pub mod fbank;
pub mod further;
pub mod gate;
mod hear;
pub mod metrics;
pub mod overlap;
pub mod pin;
mod repeated;
mod resegment;
pub mod section;
mod segment;
mod short;
pub mod speech;
pub mod template;
pub mod trials;
pub mod vault;
pub mod verification;
mod whose;

#[cfg(test)]
mod testing;

pub use calibration::{Calibration, CalibrationError};
pub use embedding::{Embedding, ModelIdentity, SpeakerModel};
pub use enrolment::{Enrolment, Progress, Refusal, SampleReport, Step};
pub use further::{Further, FurtherReport, LeftOut, Style};
pub use gate::{FailureGate, SURELY_KNOWN};
pub use hear::{JustHeard, Part};
pub use overlap::OverlapModel;
pub use short::is_known;
pub use speech::{NetSpeech, Quality};
pub use template::{Prototype, Template, TemplateError};
pub use vault::{SealedVoiceprint, Vault, VaultError};
pub use verification::{
    EnrolledVoice, LEAST_NET_SPEECH_S, ONE_PERSON_FROM, OTHER_PERSON_BELOW, SecondVoice, Verdict, Verifier,
};

use crate::error::{Exit, Failure, chain};
use crate::inference::ModelError;

/// Why a voice cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum SpeakerError {
    #[error("the model manifest has no speaker model \"campplus\"; reinstall the package")]
    NotInManifest,
    #[error("the speaker model cannot be used")]
    Model(#[source] ModelError),
    #[error("there is no speech to take a voice from")]
    NoSpeech,
    #[error(
        "the calibration was made for another speaker model; install the calibration files of this version"
    )]
    OtherCalibration,
    #[error(
        "the voice of {user} was enrolled with another speaker model; enrol it again with `jarvisd voice \
         enroll`"
    )]
    OtherModel { user: String },
}

impl From<SpeakerError> for Failure {
    fn from(error: SpeakerError) -> Self {
        let exit = match error {
            SpeakerError::NoSpeech => Exit::Data,
            SpeakerError::OtherModel { .. } => Exit::Failed,
            _ => Exit::Config,
        };
        Self::new(exit, chain(&error))
    }
}
