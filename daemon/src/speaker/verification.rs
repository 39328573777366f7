//! Verifies whose voice an utterance is.
//!
//! ```text
//!  nobody enrolled ──────────────────────────────▶ NotEnrolled
//!  net speech < 0.5 s, or < 1 s and not sure ────▶ TooShort (short.rs)
//!  best P ≥ its threshold ─ second best likely too ▶ Ambiguous
//!                         ├ two people at once ──▶ MultipleSpeakers (if it is to be refused)
//!                         ├ another goes on alone ▶ MultipleSpeakers, or a verdict for each part (hear.rs)
//!                         └ else ────────────────▶ Verified
//!  best P ≥ 0.5 ─────────────────────────────────▶ Uncertain
//!  else ─────────────────────────────────────────▶ Rejected
//! ```
//!
//! [`Verifier::early_verdict`] decides while somebody still speaks, and only one certain thing: that it is
//! nobody enrolled.

use std::cmp::Ordering;
use std::sync::Arc;

use super::SpeakerError;
use super::aside::Scored;
use super::calibration::{Calibration, Differs, Impostors, Score, normalise, of_overdriven, sigmoid};
use super::embedding::{Embedding, Piece, SpeakerModel};
use super::hear::Part;
use super::overlap::{LEAST_OVERLAP_S, OverlapModel};
use super::speech::{NetSpeech, Quality};
use super::template::Template;

/// The default bar: a probability, not a cosine.
pub const DEFAULT_THRESHOLD: f32 = 0.85;
/// Net speech below which a higher bar counts: the shortest length the calibration was fitted and tested at.
pub const LEAST_NET_SPEECH_S: f32 = 1.0;
/// Below this a voice is surely a stranger's after two seconds; every possible threshold is far above.
/// `docs/lab/speaker-verdicts.md` has the table behind the number.
pub const SURELY_A_STRANGER: f32 = 0.01;
/// Difference of band or effort from which an early verdict leaves the verdict to the whole utterance.
const EXPLAINED_FROM: f32 = 0.5;
/// Least net speech for an early verdict, in seconds.
const FIRST_LOOK_S: f32 = 1.9;
/// From here up to the threshold a voice is `Uncertain`: as likely the person as not.
const UNCERTAIN_FROM: f32 = 0.5;
/// From here on two templates count as one person's. Measured, each with some 6 s of speech: parts of one
/// reading have 0.99 or more (72 people), readings of different people 0.49 or less (2926 pairs); through one
/// channel 6 of 20482 pairs have 0.95 or more (`docs/lab/speaker-shared-channel.md`).
pub const ONE_PERSON_FROM: f32 = 0.95;
/// Below this two templates are not of one person: as likely somebody else as not.
pub const OTHER_PERSON_BELOW: f32 = 0.5;
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

/// The outcome. `confidence` is the calibrated probability of the best user, `score` the normalised score
/// behind it (standard deviations above impostors).
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Verified {
        user_id: String,
        user_name: String,
        confidence: f32,
        score: f32,
        net_speech_s: f32,
        /// Seconds of somebody else beside them; [`super::Part`] holds their own part.
        other_s: Option<f32>,
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
    /// An enrolled voice, and somebody else speaks for `other_s`, at the same time or before or behind it.
    MultipleSpeakers {
        confidence: f32,
        net_speech_s: f32,
        other_s: f32,
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
            Self::MultipleSpeakers { .. } => "multiple_speakers",
            Self::NotEnrolled => "not_enrolled",
        }
    }

    pub fn confidence(&self) -> Option<f32> {
        match self {
            Self::Verified { confidence, .. }
            | Self::Uncertain { confidence, .. }
            | Self::Rejected { confidence, .. }
            | Self::Ambiguous { confidence, .. }
            | Self::MultipleSpeakers { confidence, .. } => Some(*confidence),
            Self::TooShort { .. } | Self::NotEnrolled => None,
        }
    }

    /// Seconds of speech behind the verdict; none where nobody is enrolled.
    pub fn net_speech_s(&self) -> f32 {
        match self {
            Self::Verified { net_speech_s, .. }
            | Self::Uncertain { net_speech_s, .. }
            | Self::Rejected { net_speech_s, .. }
            | Self::TooShort { net_speech_s }
            | Self::Ambiguous { net_speech_s, .. }
            | Self::MultipleSpeakers { net_speech_s, .. } => *net_speech_s,
            Self::NotEnrolled => 0.0,
        }
    }

    /// Seconds of somebody else beside an enrolled voice, if any were found.
    pub fn other_s(&self) -> Option<f32> {
        match self {
            Self::Verified { other_s, .. } => *other_s,
            Self::MultipleSpeakers { other_s, .. } => Some(*other_s),
            _ => None,
        }
    }

    /// Whether a [`super::FailureGate`] counts the verdict: a voice was heard and is not an enrolled one.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Uncertain { .. } | Self::Rejected { .. })
    }
}

/// Treatment of somebody else's words before or behind a verified person, in the same utterance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecondVoice {
    /// Only the person's own part counts.
    #[default]
    Cut,
    Refuse,
    /// The words count as theirs: nobody else is looked for.
    Answer,
}

/// Compares utterances with enrolled voices. Keeps nothing between calls.
#[derive(Debug, Clone)]
pub struct Verifier {
    model: Arc<SpeakerModel>,
    pub(super) calibration: Arc<Calibration>,
    pub(super) second: SecondVoice,
    overlap: Option<Arc<OverlapModel>>,
    pub(super) turns: Option<Arc<OverlapModel>>,
}

/// One enrolled voice against one utterance.
pub(super) struct Candidate<'a> {
    pub(super) voice: &'a EnrolledVoice,
    pub(super) confidence: f32,
    pub(super) log_odds: f64,
    pub(super) score: f32,
    differs: Differs,
}

impl Candidate<'_> {
    /// Whether another band or a raised voice may explain a low score.
    fn explained(&self) -> bool {
        self.differs.band.max(self.differs.effort) >= EXPLAINED_FROM
    }
}

impl Verifier {
    /// # Errors
    /// [`SpeakerError::OtherCalibration`] if the constants belong to another model or front end.
    pub fn new(model: Arc<SpeakerModel>, calibration: Calibration) -> Result<Self, SpeakerError> {
        if model.identity() != calibration.identity() {
            return Err(SpeakerError::OtherCalibration);
        }
        let calibration = Arc::new(calibration);
        Ok(Self { model, calibration, second: SecondVoice::default(), overlap: None, turns: None })
    }

    /// Hears where somebody else goes on.
    pub fn hearing_turns(self, model: Arc<OverlapModel>) -> Self {
        Self { turns: Some(model), ..self }
    }

    /// Refuses utterances in which two people speak at once.
    pub fn refusing_overlap(self, model: Arc<OverlapModel>) -> Self {
        Self { overlap: Some(model), ..self }
    }

    /// Sets the treatment of somebody else who goes on alone.
    pub fn with_second_voice(self, second: SecondVoice) -> Self {
        Self { second, ..self }
    }

    pub fn model(&self) -> &Arc<SpeakerModel> {
        &self.model
    }

    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// The probability that the voice `test`, from speech of this `quality`, is that of `template`. Returns
    /// the score normalised against the cohort, the calibrated probability at equal priors, and its log odds.
    /// Both must be of [`Verifier::model`].
    pub fn compare(&self, test: &Embedding, quality: Quality, template: &Template) -> (f32, f32, f64) {
        let (score, log_odds) = self.odds(test, self.calibration.impostors(test), quality, template);
        (score.normalised, sigmoid(log_odds), log_odds)
    }

    /// The score, and the log odds, of a voice whose scores against the cohort are known.
    pub(super) fn odds(
        &self,
        test: &Embedding,
        impostors: Impostors,
        quality: Quality,
        template: &Template,
    ) -> (Score, f64) {
        let score = self.calibration.score(test, impostors, template);
        let log_odds = self.calibration.log_odds(score, quality.net_speech_s);
        (score, of_overdriven(log_odds, quality.clipped))
    }

    /// Verifies the voice in `samples`: 16 kHz mono in [-1, 1], raw, with a VAD probability per 10 ms frame
    /// in `speech`. Of several verified people the one with most speech counts. `threshold` applies to users
    /// without their own.
    ///
    /// # Errors
    /// [`SpeakerError::OtherModel`] if every enrolled voice is of another model. If only some are, they are
    /// not compared and the log names them. [`SpeakerError::Model`] if the model fails.
    pub fn verify(
        &self,
        samples: &[f32],
        speech: &[f32],
        enrolled: &[EnrolledVoice],
        threshold: f32,
    ) -> Result<Verdict, SpeakerError> {
        let parts = self.hear(samples, speech, enrolled, threshold, None)?.into_iter();
        let known = |part: &Part| matches!(part.verdict, Verdict::Verified { .. });
        let most = parts.max_by(|a, b| {
            (known(a), a.verdict.net_speech_s())
                .partial_cmp(&(known(b), b.verdict.net_speech_s()))
                .unwrap_or(Ordering::Equal)
        });
        Ok(most.map_or(Verdict::NotEnrolled, |part| part.verdict))
    }

    /// The certain verdict on an utterance that still goes on (arguments as for [`Verifier::verify`]): nobody
    /// is enrolled, or the voice is surely no enrolled person's. `None` in all other cases: the whole
    /// utterance decides.
    ///
    /// # Errors
    /// [`SpeakerError::Model`] if the model fails.
    pub fn early_verdict(
        &self,
        samples: &[f32],
        speech: &[f32],
        enrolled: &[EnrolledVoice],
    ) -> Result<Option<Part>, SpeakerError> {
        let (usable, stale) = self.comparable(enrolled);
        if usable.is_empty() {
            return Ok(stale.is_empty().then(|| Part::whole(Verdict::NotEnrolled, None)));
        }
        let net = NetSpeech::of(samples, speech);
        let net_speech_s = net.quality.net_speech_s;
        if net_speech_s < FIRST_LOOK_S {
            return Ok(None);
        }
        let (voice, pass) = self.model().embed_pass(&net.samples)?;
        let candidates = self.candidates(&voice, net.quality, &usable);
        let Some(best) = candidates.first().filter(|best| best.confidence < SURELY_A_STRANGER) else {
            return Ok(None);
        };
        // An enrolled person may have begun meanwhile, or sound unlike their enrolment.
        if candidates.iter().any(|c| c.explained()) || self.several(&candidates, &voice, &net, &pass)? {
            return Ok(None);
        }
        let (confidence, score) = (best.confidence, best.score);
        let verdict = Verdict::Rejected { confidence, score, net_speech_s };
        Ok(Some(Part::whole(verdict, Some(voice))))
    }

    /// The voices that can be compared, none if nobody is enrolled; the others are named in the log.
    pub(super) fn usable<'a>(
        &self,
        enrolled: &'a [EnrolledVoice],
    ) -> Result<Vec<&'a EnrolledVoice>, SpeakerError> {
        let (usable, stale) = self.comparable(enrolled);
        for voice in &stale {
            log::warn!(
                user_id = voice.user_id.as_str();
                "the voice of {} was enrolled with another speaker model and is not compared; enrol it again",
                voice.user_name
            );
        }
        match stale.first() {
            Some(voice) if usable.is_empty() => {
                Err(SpeakerError::OtherModel { user: voice.user_name.clone() })
            }
            _ => Ok(usable),
        }
    }

    /// The voices that were enrolled with this model and front end, and the others.
    fn comparable<'a>(
        &self,
        enrolled: &'a [EnrolledVoice],
    ) -> (Vec<&'a EnrolledVoice>, Vec<&'a EnrolledVoice>) {
        enrolled.iter().partition(|v| v.template.identity() == self.model.identity())
    }

    /// Compares each of `voices` with the voice of speech of this `quality`; the likeliest comes first.
    pub(super) fn candidates<'a>(
        &self,
        test: &Embedding,
        quality: Quality,
        voices: &[&'a EnrolledVoice],
    ) -> Vec<Candidate<'a>> {
        let impostors = self.calibration.impostors(test);
        let mut candidates: Vec<Candidate<'a>> = voices
            .iter()
            .map(|&voice| {
                let (score, log_odds) = self.odds(test, impostors, quality, &voice.template);
                let (confidence, differs) = (sigmoid(log_odds), score.differs);
                Candidate { voice, confidence, log_odds, score: score.normalised, differs }
            })
            .collect();
        // Ties by id, so that the order in which voices were read does not matter.
        candidates.sort_by(|a, b| {
            b.log_odds.total_cmp(&a.log_odds).then_with(|| a.voice.user_id.cmp(&b.voice.user_id))
        });
        candidates
    }

    /// Seconds of two people at once in `samples`, if they must be refused and there are enough of them.
    pub(super) fn overlap_s(&self, samples: &[f32]) -> Result<Option<f32>, SpeakerError> {
        let overlap_s = self.overlap.as_ref().map(|overlap| overlap.overlap_s(samples)).transpose()?;
        Ok(overlap_s.filter(|overlap_s| *overlap_s >= LEAST_OVERLAP_S))
    }

    /// Cosine of two voices behind the channel compensation.
    pub(super) fn likeness(&self, one: &Embedding, other: &Embedding) -> f32 {
        self.calibration.without_channel(one).cosine(&self.calibration.without_channel(other))
    }

    /// The score of each of `pieces` against `template`.
    pub(super) fn scored(&self, template: &Template, pieces: &[Piece]) -> Vec<Scored> {
        let of = template.centroid();
        let own = self.calibration.impostors(of);
        let score = |voice: &Embedding| normalise(voice.cosine(of), self.calibration.impostors(voice), own);
        pieces.iter().map(|(frames, voice)| Scored { frames: frames.clone(), score: score(voice) }).collect()
    }

    /// Probability, at equal priors, that two templates are of one person. Their order does not matter; 0 if
    /// they were made with different models and do not compare.
    pub fn same_person(&self, one: &Template, other: &Template) -> f32 {
        if [one, other].iter().any(|t| t.identity() != self.model.identity()) {
            return 0.0;
        }
        let score = self.calibration.score(one.centroid(), self.calibration.impostors(one.centroid()), other);
        self.calibration.confidence(score, one.net_speech_s().min(other.net_speech_s())).0
    }
}

pub(super) fn decide(candidates: &[Candidate<'_>], threshold: f32, net_speech_s: f32) -> Verdict {
    let Some(best) = candidates.first() else { return Verdict::NotEnrolled };
    let (confidence, score) = (best.confidence, best.score);
    let user_name = best.voice.user_name.clone();
    let bar = best.voice.threshold.unwrap_or(threshold);
    // Written so that a threshold of NaN verifies nobody.
    if confidence >= bar {
        let rival = candidates.get(1).filter(|second| second.confidence >= UNCERTAIN_FROM);
        if rival.is_some_and(|second| best.log_odds - second.log_odds < LEAST_LOG_ODDS_LEAD) {
            return Verdict::Ambiguous { confidence, net_speech_s };
        }
        let user_id = best.voice.user_id.clone();
        return Verdict::Verified { user_id, user_name, confidence, score, net_speech_s, other_s: None };
    }
    if confidence >= UNCERTAIN_FROM {
        return Verdict::Uncertain { user_name, confidence, score, net_speech_s };
    }
    Verdict::Rejected { confidence, score, net_speech_s }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::template::{Prototype, Template, tests::sample};
    use crate::speaker::testing;

    const READERS: [&str; 3] = ["103-1240-0000", "1034-121119-0000", "1040-133433-0000"];

    fn verifier() -> Verifier {
        Verifier::new(testing::model(), testing::calibration()).unwrap()
    }

    fn reading(reader: usize) -> Option<(Vec<f32>, Vec<f32>)> {
        testing::recording(&format!("audio/librispeech_train_clean_1each/{}.flac", READERS[reader]))
    }

    /// The first 4 s of a reading, enrolled; the tests of `enrolment` cover its checks.
    fn enrolled(reader: usize, user_id: &str) -> Option<EnrolledVoice> {
        let (samples, speech) = reading(reader)?;
        let model = testing::model();
        let net = NetSpeech::of(&samples[..64_000], &speech[..400]);
        let prototype = Prototype { embedding: model.embed_net(&net).unwrap(), quality: net.quality };
        Some(EnrolledVoice {
            user_id: user_id.into(),
            user_name: user_id.to_uppercase(),
            template: Template::new(model.identity().clone(), vec![prototype]).unwrap(),
            threshold: None,
        })
    }

    fn verify(reader: usize, frames: usize, enrolled: &[EnrolledVoice], threshold: f32) -> Option<Verdict> {
        let (samples, speech) = reading(reader)?;
        let part = (&samples[70_400..70_400 + frames * 160], &speech[440..440 + frames]);
        Some(verifier().verify(part.0, part.1, enrolled, threshold).unwrap())
    }

    #[test]
    fn a_person_is_verified_among_several_and_a_stranger_is_rejected() {
        let (Some(ann), Some(ben)) = (enrolled(0, "ann"), enrolled(1, "ben")) else { return };
        for both in [[ann.clone(), ben.clone()], [ben, ann]] {
            let verdict = verify(0, 300, &both, DEFAULT_THRESHOLD).unwrap();
            let Verdict::Verified { user_id, user_name, confidence, .. } = &verdict else {
                panic!("{verdict:?}")
            };
            assert_eq!((user_id.as_str(), user_name.as_str()), ("ann", "ANN"));
            assert!(*confidence > 0.95);
            let verdict = verify(2, 300, &both, DEFAULT_THRESHOLD).unwrap();
            assert!(
                matches!(verdict, Verdict::Rejected { confidence, .. } if confidence < 0.2),
                "{verdict:?}"
            );
            assert!(verdict.is_failure());
        }
    }

    #[test]
    fn the_same_sound_gives_the_same_verdict_to_the_bit() {
        let Some(ann) = enrolled(0, "ann") else { return };
        let one = verify(0, 300, std::slice::from_ref(&ann), DEFAULT_THRESHOLD);
        assert_eq!(one, verify(0, 300, &[ann], DEFAULT_THRESHOLD));
    }

    #[test]
    fn a_second_voice_at_the_same_time_is_refused_only_by_who_is_told_to() {
        let (Some(ann), Some((other, _))) = (enrolled(0, "ann"), reading(2)) else { return };
        let (mut samples, speech) = reading(0).unwrap();
        let (samples, speech) = (&mut samples[70_400..134_400], &speech[440..840]);
        let strict = verifier().refusing_overlap(testing::overlap());
        let enrolled = std::slice::from_ref(&ann);
        let alone = strict.verify(samples, speech, enrolled, DEFAULT_THRESHOLD).unwrap();
        assert!(matches!(alone, Verdict::Verified { .. }), "{alone:?}");
        samples[40_000..].iter_mut().zip(&other[40_000..]).for_each(|(a, b)| *a += 0.5 * b);
        let both = strict.verify(samples, speech, enrolled, DEFAULT_THRESHOLD).unwrap();
        assert!(
            matches!(both, Verdict::MultipleSpeakers { other_s, .. } if other_s >= LEAST_OVERLAP_S),
            "{both:?}"
        );
        assert!(!both.is_failure() && both.confidence() >= Some(DEFAULT_THRESHOLD));
        let lax = verifier().verify(samples, speech, enrolled, DEFAULT_THRESHOLD).unwrap();
        assert!(matches!(lax, Verdict::Verified { .. }), "{lax:?}");
    }

    #[test]
    fn a_first_look_is_certain_of_strangers_alone() {
        let (Some(ann), Some((samples, speech))) = (enrolled(0, "ann"), reading(2)) else { return };
        let (own, own_speech) = reading(0).unwrap();
        let look = |samples: &[f32], speech: &[f32], frames: usize, enrolled: &[EnrolledVoice]| {
            let part = (&samples[70_400..70_400 + frames * 160], &speech[440..440 + frames]);
            verifier().early_verdict(part.0, part.1, enrolled).unwrap().map(|part| part.verdict)
        };
        let one = std::slice::from_ref(&ann);
        let stranger = look(&samples, &speech, 300, one);
        assert!(
            matches!(stranger, Some(Verdict::Rejected { confidence, .. }) if confidence < SURELY_A_STRANGER),
            "{stranger:?}"
        );
        assert_eq!(look(&own, &own_speech, 300, one), None, "the owner is decided by all that is said");
        assert_eq!(look(&samples, &speech, 120, one), None, "too early to tell");
        assert_eq!(look(&samples, &speech, 120, &[]), Some(Verdict::NotEnrolled));
        let stale = EnrolledVoice { template: sample(1, 3), ..ann.clone() };
        assert_eq!(look(&samples, &speech, 300, &[stale]), None, "what cannot be compared is no stranger");
    }

    #[test]
    fn two_templates_of_one_person_are_told_from_those_of_two() {
        let verifier = verifier();
        let model = testing::model();
        let half = |reader: usize, part: usize| {
            let (samples, speech) = reading(reader)?;
            let net = NetSpeech::of(
                &samples[part * 96_000..(part + 1) * 96_000],
                &speech[part * 600..(part + 1) * 600],
            );
            let prototype = Prototype { embedding: model.embed_net(&net).unwrap(), quality: net.quality };
            Template::new(model.identity().clone(), vec![prototype])
        };
        let (Some(ann), Some(again), Some(ben)) = (half(0, 0), half(0, 1), half(1, 0)) else { return };
        assert!(verifier.same_person(&ann, &again) >= ONE_PERSON_FROM);
        assert!(verifier.same_person(&ann, &ben) < OTHER_PERSON_BELOW);
        assert_eq!(verifier.same_person(&ann, &ben), verifier.same_person(&ben, &ann));
        assert_eq!(verifier.same_person(&ann, &sample(1, 3)), 0.0, "of another model");
    }

    #[test]
    fn little_speech_and_nobody_enrolled_give_no_confidence() {
        let Some(ann) = enrolled(0, "ann") else { return };
        let verdict = verify(0, 50, &[ann], DEFAULT_THRESHOLD).unwrap();
        assert!(matches!(verdict, Verdict::TooShort { .. }), "{verdict:?}");
        assert!(verdict.confidence().is_none() && !verdict.is_failure());
        assert_eq!(verify(0, 300, &[], DEFAULT_THRESHOLD), Some(Verdict::NotEnrolled));
    }

    #[test]
    fn a_threshold_of_a_persons_own_counts_and_one_that_is_no_number_verifies_nobody() {
        let Some(ann) = enrolled(0, "ann") else { return };
        for (own, default) in [(Some(f32::NAN), 0.5), (Some(1.1), 0.5), (None, f32::NAN)] {
            let voice = EnrolledVoice { threshold: own, ..ann.clone() };
            let verdict = verify(0, 300, &[voice], default).unwrap();
            assert!(matches!(verdict, Verdict::Uncertain { .. }), "{own:?} {default}: {verdict:?}");
        }
        let voice = EnrolledVoice { threshold: Some(0.9), ..ann };
        assert!(matches!(verify(0, 300, &[voice], 1.1).unwrap(), Verdict::Verified { .. }));
    }

    #[test]
    fn one_voice_under_two_names_is_ambiguous() {
        let (Some(ann), Some(twin)) = (enrolled(0, "ann"), enrolled(0, "twin")) else { return };
        let verdict = verify(0, 300, &[ann, twin], DEFAULT_THRESHOLD).unwrap();
        assert!(matches!(verdict, Verdict::Ambiguous { .. }), "{verdict:?}");
    }

    #[test]
    fn templates_and_constants_of_another_model_are_refused_not_compared() {
        let Some(ann) = enrolled(0, "ann") else { return };
        let stale = EnrolledVoice {
            template: sample(1, 3),
            user_id: "old".into(),
            user_name: "Old".into(),
            threshold: None,
        };
        let (samples, speech) = reading(0).unwrap();
        let alone = verifier().verify(&samples, &speech, std::slice::from_ref(&stale), 0.0);
        assert!(matches!(alone, Err(SpeakerError::OtherModel { user }) if user == "Old"));
        let both = verify(0, 300, &[stale, ann], DEFAULT_THRESHOLD).unwrap();
        assert!(matches!(both, Verdict::Verified { user_id, .. } if user_id == "ann"));
        let identity = sample(1, 1).identity().clone();
        let other = Calibration::new(
            identity,
            crate::speaker::calibration::Cohort::new(Vec::new()),
            2,
            crate::speaker::calibration::Compensation::none(),
            testing::constants(),
        );
        assert!(matches!(Verifier::new(testing::model(), other), Err(SpeakerError::OtherCalibration)));
    }

    #[test]
    fn a_score_and_a_verdict_weigh_overdriven_sound_alike() {
        let Some(ann) = enrolled(0, "ann") else { return };
        let (samples, speech) = reading(0).unwrap();
        let driven: Vec<f32> = samples[70_400..118_400].iter().map(|s| (s * 40.0).clamp(-1.0, 1.0)).collect();
        let speech = &speech[440..740];
        let net = NetSpeech::of(&driven, speech);
        assert!(net.quality.clipped > 0.1, "{:?}", net.quality);
        let test = testing::model().embed_net(&net).unwrap();
        let (_, confidence, _) = verifier().compare(&test, net.quality, &ann.template);
        let clean = Quality { clipped: 0.0, ..net.quality };
        assert!(verifier().compare(&test, clean, &ann.template).1 <= confidence);
        let verdict = verifier().verify(&driven, speech, &[ann], DEFAULT_THRESHOLD).unwrap();
        assert_eq!(verdict.confidence(), Some(confidence), "{verdict:?}");
    }

    #[test]
    fn noise_and_damaged_samples_verify_nobody() {
        let Some(ann) = enrolled(0, "ann") else { return };
        let mut state = 7u32;
        let noise: Vec<f32> = (0..48_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5
            })
            .collect();
        for sound in
            [noise, vec![0.0; 48_000], vec![f32::NAN; 48_000], vec![f32::INFINITY; 48_000], vec![1.0; 48_000]]
        {
            let verdict =
                verifier().verify(&sound, &[1.0; 300], std::slice::from_ref(&ann), DEFAULT_THRESHOLD);
            assert!(matches!(verdict, Ok(Verdict::Rejected { .. })), "{verdict:?}");
        }
    }
}
