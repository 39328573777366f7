//! Whose voice an utterance is.
//!
//! ```text
//!  nobody enrolled ──────────────────────────────▶ NotEnrolled
//!  net speech < 1 s ─────────────────────────────▶ TooShort
//!  best P ≥ its threshold ─ second best likely too ▶ Ambiguous
//!                         └ else ────────────────▶ Verified
//!  best P ≥ 0.5 ─────────────────────────────────▶ Uncertain
//!  else ─────────────────────────────────────────▶ Rejected
//! ```

use std::sync::Arc;

use super::SpeakerError;
use super::calibration::Calibration;
use super::embedding::SpeakerModel;
use super::speech::NetSpeech;
use super::template::Template;

/// The default bar: a probability, not a cosine.
pub const DEFAULT_THRESHOLD: f32 = 0.85;
/// Net speech below which no verdict is given: the shortest length the calibration was fitted and tested at.
pub const LEAST_NET_SPEECH_S: f32 = 1.0;
/// From here up to the threshold a voice is `Uncertain`: as likely the person as not.
const UNCERTAIN_FROM: f32 = 0.5;
/// Least ratio of the odds of the two best users for which the better one is taken: e² ≈ 7 to 1.
const LEAST_LOG_ODDS_LEAD: f64 = 2.0;

/// A person with an enrolled voice.
#[derive(Debug, Clone)]
pub struct EnrolledVoice {
    pub user_id: String,
    pub user_name: String,
    pub template: Template,
    /// This person's own threshold, if the owner set one.
    pub threshold: Option<f32>,
}

/// What came out. `confidence` is the calibrated probability of the best user, `score` the normalised score behind it
/// (standard deviations above impostors).
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Verified {
        user_id: String,
        user_name: String,
        confidence: f32,
        score: f32,
        net_speech_s: f32,
    },
    /// More likely than not the named user, but not enough.
    Uncertain {
        user_name: String,
        confidence: f32,
        score: f32,
        net_speech_s: f32,
    },
    Rejected {
        confidence: f32,
        score: f32,
        net_speech_s: f32,
    },
    TooShort {
        net_speech_s: f32,
    },
    /// Two users' voices are too close to tell which it is.
    Ambiguous {
        confidence: f32,
        net_speech_s: f32,
    },
    NotEnrolled,
}

impl Verdict {
    /// Stable name, as in events and the audit log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Verified { .. } => "verified",
            Self::Uncertain { .. } => "uncertain",
            Self::Rejected { .. } => "rejected",
            Self::TooShort { .. } => "too_short",
            Self::Ambiguous { .. } => "ambiguous",
            Self::NotEnrolled => "not_enrolled",
        }
    }

    pub fn confidence(&self) -> Option<f32> {
        match self {
            Self::Verified { confidence, .. }
            | Self::Uncertain { confidence, .. }
            | Self::Rejected { confidence, .. }
            | Self::Ambiguous { confidence, .. } => Some(*confidence),
            Self::TooShort { .. } | Self::NotEnrolled => None,
        }
    }

    /// Whether a [`super::FailureGate`] counts it: a voice was heard and is not an enrolled one.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Uncertain { .. } | Self::Rejected { .. })
    }
}

/// Compares utterances with enrolled voices. Keeps nothing between calls.
#[derive(Debug, Clone)]
pub struct Verifier {
    model: Arc<SpeakerModel>,
    calibration: Arc<Calibration>,
}

/// One enrolled voice against one utterance.
struct Candidate<'a> {
    voice: &'a EnrolledVoice,
    confidence: f32,
    log_odds: f64,
    score: f32,
}

impl Verifier {
    /// # Errors
    /// [`SpeakerError::OtherCalibration`] if the constants belong to another model or front end.
    pub fn new(model: Arc<SpeakerModel>, calibration: Calibration) -> Result<Self, SpeakerError> {
        if model.identity() != calibration.identity() {
            return Err(SpeakerError::OtherCalibration);
        }
        Ok(Self { model, calibration: Arc::new(calibration) })
    }

    pub fn model(&self) -> &Arc<SpeakerModel> {
        &self.model
    }

    /// Whose voice `samples` is: 16 kHz mono in [-1, 1], raw, with a VAD probability per 10 ms frame in `speech`.
    /// `threshold` applies to users without their own.
    ///
    /// # Errors
    /// [`SpeakerError::OtherModel`] if every enrolled voice is of another model; such ones among others are not compared
    /// and named in the log. [`SpeakerError::Model`] if the model fails.
    pub fn verify(
        &self,
        samples: &[f32],
        speech: &[f32],
        enrolled: &[EnrolledVoice],
        threshold: f32,
    ) -> Result<Verdict, SpeakerError> {
        let (usable, stale): (Vec<_>, Vec<_>) =
            enrolled.iter().partition(|v| v.template.identity() == self.model.identity());
        for voice in &stale {
            log::warn!(
                user_id = voice.user_id.as_str();
                "the voice of {} was enrolled with another speaker model and is not compared; enrol it again",
                voice.user_name
            );
        }
        if usable.is_empty() {
            return match stale.first() {
                None => Ok(Verdict::NotEnrolled),
                Some(voice) => Err(SpeakerError::OtherModel { user: voice.user_name.clone() }),
            };
        }
        let net = NetSpeech::of(samples, speech);
        let net_speech_s = net.quality.net_speech_s;
        if net_speech_s < LEAST_NET_SPEECH_S {
            return Ok(Verdict::TooShort { net_speech_s });
        }
        let test = self.model.embed_net(&net)?;
        let impostors = self.calibration.impostors(&test);
        let mut candidates: Vec<Candidate<'_>> = usable
            .into_iter()
            .map(|voice| {
                let score = self.calibration.score(&test, impostors, &voice.template);
                let (confidence, log_odds) = self.calibration.confidence(score, net_speech_s);
                Candidate { voice, confidence, log_odds, score: score.normalised }
            })
            .collect();
        // Ties by id, so that the order in which voices were read does not matter.
        candidates.sort_by(|a, b| {
            b.log_odds.total_cmp(&a.log_odds).then_with(|| a.voice.user_id.cmp(&b.voice.user_id))
        });
        Ok(decide(&candidates, threshold, net_speech_s))
    }
}

fn decide(candidates: &[Candidate<'_>], threshold: f32, net_speech_s: f32) -> Verdict {
    let Some(best) = candidates.first() else { return Verdict::NotEnrolled };
    let (confidence, score) = (best.confidence, best.score);
    let user_name = best.voice.user_name.clone();
    let bar = best.voice.threshold.unwrap_or(threshold);
    // Written so that a threshold that is not a number verifies nobody.
    if confidence >= bar {
        let rival = candidates.get(1).filter(|second| second.confidence >= UNCERTAIN_FROM);
        if rival.is_some_and(|second| best.log_odds - second.log_odds < LEAST_LOG_ODDS_LEAD) {
            return Verdict::Ambiguous { confidence, net_speech_s };
        }
        let user_id = best.voice.user_id.clone();
        return Verdict::Verified { user_id, user_name, confidence, score, net_speech_s };
    }
    if confidence >= UNCERTAIN_FROM {
        return Verdict::Uncertain { user_name, confidence, score, net_speech_s };
    }
    Verdict::Rejected { confidence, score, net_speech_s }
}
