//! Enrolling a voice: several samples, each checked, until they suffice.
//!
//! ```text
//!  sample ─▶ checks ─ refused: says what to do, nothing changes
//!                   └ kept ─▶ progress ─▶ ≥ 3 samples and ≥ 10 s net ─▶ Template
//! ```
//!
//! A sample counts once: one that repeats an earlier recording is refused. For that the sound stays in memory
//! while the enrolment lasts, and nowhere else.

use std::sync::Arc;

use serde::Serialize;

use super::SpeakerError;
use super::aside;
use super::embedding::{Embedding, Piece, SpeakerModel};
use super::further::Style;
use super::repeated::Sound;
use super::speech::{NetSpeech, Quality};
use super::template::{MOST_PROTOTYPES, Prototype, Template};
use crate::plain::figure;

/// Fewest samples: fewer would hold only one way of speaking.
pub const LEAST_SAMPLES: usize = 3;
/// Net speech of all samples together.
pub const LEAST_TOTAL_S: f32 = 10.0;
/// Net speech of each sample.
pub const LEAST_SAMPLE_S: f32 = 1.5;
/// Speech that is quieter drowns in the converter's own noise.
const LEAST_LEVEL_DB: f32 = -50.0;
const LEAST_SNR_DB: f32 = 10.0;
/// Share of samples at the end of the scale: more is audible distortion.
const MOST_CLIPPED: f32 = 0.01;
/// Least cosine of a sample to the mean of the earlier ones. Measured on held-out readers: in one session the
/// same person has 0.57 or more in 99 of 100 at 1.5 s (0.67 from 3 s), another person 0.45 or less in 999 of
/// 1000 (`docs/design/speaker.md`).
const LEAST_COHESION: f32 = 0.5;

/// Least cosine of two seconds within one sample. In samples of one person, in noise 10 dB below or less, 1.3
/// % have less. With two seconds of another behind three, 92 % or more have less
/// (`docs/lab/speaker-verdicts.md`).
pub(super) const LEAST_LIKENESS_WITHIN: f32 = 0.15;

/// Cosine from which a sample counts as one of an earlier enrolment, whose sound is gone. Whole copies have
/// 0.987 and more (cut ones less, and are not recognised), different sentences of one person 0.95 at most
/// (`docs/design/speaker.md`).
pub(super) const SAME_RECORDING: f32 = 0.985;

/// The report on a kept sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleReport {
    pub quality: Quality,
    /// Cosine to the mean of the earlier samples; `None` for the first.
    pub likeness: Option<f32>,
    /// Samples kept so far.
    pub samples: usize,
    /// 0 to 1.
    pub progress: f32,
}

/// Where an enrolment is in its course.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The next phrase is waited for.
    Waiting,
    /// The last phrase is a good sample.
    Kept,
    /// The last phrase is no sample: `reason` gives the remedy.
    Refused,
    /// The last phrase, a further one, has no fault and is not kept: `reason` says why.
    LeftOut,
    /// The voice is enrolled.
    Finished,
    /// The voice was not enrolled.
    Failed,
    Cancelled,
}

/// The state of an enrolment, in the one form in which the command line and MQTT show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    pub user: String,
    pub state: Step,
    /// 0 to 100.
    pub percent: u8,
    /// The next phrase, from 1, and the probable number of phrases.
    pub phrase: u32,
    pub phrases: u32,
    /// Of the samples kept so far.
    pub net_speech_s: f32,
    /// The reason why the last phrase, or the enrolment, was refused, and the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The way to say the next phrase, where it is a further one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub style: Option<Style>,
    /// Sentence to say next, where the device asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub say: Option<String>,
}

impl Progress {
    /// Of an enrolment that is not there any more.
    pub fn failed(user: &str, reason: String) -> Self {
        let user = user.to_owned();
        let (state, reason) = (Step::Failed, Some(reason));
        let (percent, phrase, phrases, net_speech_s) = (0, 1, 3, 0.0);
        Self { user, state, percent, phrase, phrases, net_speech_s, reason, style: None, say: None }
    }
}

/// The reason why a sample, or the enrolment so far, is not good enough, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(
        "only {} s of speech were heard; say a whole sentence of at least {least_s} s",
        figure(*net_speech_s, 1)
    )]
    TooShort { net_speech_s: f32, least_s: f32 },
    #[error("the recording is overdriven; move away from the microphone or lower its gain, and say it again")]
    Clipped { share: f32 },
    #[error(
        "the voice is too quiet ({} dB); come closer to the microphone or raise its gain, and say it again",
        figure(*level_db, 0)
    )]
    TooQuiet { level_db: f32 },
    #[error(
        "there is too much noise (the voice is {} dB above it, {LEAST_SNR_DB:.0} dB are needed); make it \
         quieter, and say it again",
        figure(*snr_db, 0)
    )]
    TooNoisy { snr_db: f32 },
    #[error(
        "this does not sound like the person of the samples before; let one person alone speak, and say it \
         again"
    )]
    AnotherVoice { likeness: f32 },
    #[error("two voices were heard; let one person alone speak, and say it again")]
    TwoVoices,
    #[error(
        "this is a recording that was given before, and counts once; say another sentence, or the same one \
         again"
    )]
    Repeated,
    #[error("there are {MOST_PROTOTYPES} samples already; finish the enrolment")]
    Full,
    #[error(
        "{samples} of at least {LEAST_SAMPLES} samples and {} of at least {LEAST_TOTAL_S:.0} s of speech; \
         add more sentences",
        figure(*net_speech_s, 1)
    )]
    NotEnough { samples: usize, net_speech_s: f32 },
    #[error("the sample could not be compared")]
    Model(#[source] SpeakerError),
}

/// An enrolment in progress.
#[derive(Debug, Clone)]
pub struct Enrolment {
    model: Arc<SpeakerModel>,
    prototypes: Vec<Prototype>,
    /// The last of the prototypes, those with a sound here; those of an earlier enrolment have none.
    sounds: Vec<Sound>,
}

impl Enrolment {
    pub fn new(model: Arc<SpeakerModel>) -> Self {
        Self { model, prototypes: Vec::new(), sounds: Vec::new() }
    }

    /// Goes on from an enrolled voice: new samples are added to its own.
    ///
    /// # Errors
    /// [`SpeakerError::OtherModel`] if it was enrolled with another model.
    pub fn extend(model: Arc<SpeakerModel>, template: &Template) -> Result<Self, SpeakerError> {
        if template.identity() != model.identity() {
            return Err(SpeakerError::OtherModel { user: "this person".into() });
        }
        Ok(Self { model, prototypes: template.prototypes().to_vec(), sounds: Vec::new() })
    }

    /// Checks one sample (16 kHz mono in [-1, 1], raw, with a VAD probability per 10 ms frame) and keeps it
    /// if it is good. A refused sample changes nothing.
    pub fn add(&mut self, samples: &[f32], speech: &[f32]) -> Result<SampleReport, Refusal> {
        if self.prototypes.len() == MOST_PROTOTYPES {
            return Err(Refusal::Full);
        }
        let sample = Sample::of(&self.model, (samples, speech), LEAST_SAMPLE_S, &self.sounds)?;
        let Sample { voice: Prototype { embedding, quality }, pieces, sound, .. } = sample;
        let soundless = self.prototypes.len() - self.sounds.len();
        let mut enrolled = self.prototypes.iter().take(soundless);
        if enrolled.any(|p| p.embedding.cosine(&embedding) >= SAME_RECORDING) {
            return Err(Refusal::Repeated);
        }
        let before = Embedding::mean(self.prototypes.iter().map(|p| &p.embedding));
        let likeness = before.map(|mean| mean.cosine(&embedding));
        if let Some(likeness) = likeness.filter(|l| *l < LEAST_COHESION) {
            return Err(Refusal::AnotherVoice { likeness });
        }
        if aside::least_likeness(&pieces) < LEAST_LIKENESS_WITHIN {
            return Err(Refusal::TwoVoices);
        }
        self.prototypes.push(Prototype { embedding, quality });
        self.sounds.push(sound);
        Ok(SampleReport { quality, likeness, samples: self.prototypes.len(), progress: self.progress() })
    }

    /// The progress of the enrolment, 0 to 1: the lesser of samples and net speech.
    pub fn progress(&self) -> f32 {
        let samples = self.prototypes.len() as f32 / LEAST_SAMPLES as f32;
        samples.min(self.net_speech_s() / LEAST_TOTAL_S).min(1.0)
    }

    /// Whether [`Enrolment::finish`] has what it needs.
    pub fn is_enough(&self) -> bool {
        self.prototypes.len() >= LEAST_SAMPLES && self.net_speech_s() >= LEAST_TOTAL_S
    }

    /// The state of the enrolment, for display. The number of phrases is an estimate from those so far.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 100 and 16")]
    pub fn standing(&self, user: &str, state: Step, reason: Option<String>) -> Progress {
        let kept = self.prototypes.len();
        let mean_s = self.net_speech_s() / kept.max(1) as f32;
        let by_speech = if kept == 0 { 0 } else { (LEAST_TOTAL_S / mean_s).ceil() as usize };
        let phrases = by_speech.clamp(LEAST_SAMPLES, MOST_PROTOTYPES);
        let over = matches!(state, Step::Finished | Step::Failed | Step::Cancelled);
        let phrase = if over { kept.max(1) } else { kept + 1 };
        Progress {
            user: user.to_owned(),
            state,
            percent: (self.progress() * 100.0).floor() as u8,
            phrase: phrase.min(MOST_PROTOTYPES) as u32,
            phrases: phrases.max(phrase.min(MOST_PROTOTYPES)) as u32,
            net_speech_s: self.net_speech_s(),
            reason,
            style: None,
            say: None,
        }
    }

    /// Net speech so far, in seconds.
    pub fn net_speech_s(&self) -> f32 {
        // The sum of nothing is a negative zero.
        self.prototypes.iter().map(|p| p.quality.net_speech_s).fold(0.0, |sum, s| sum + s)
    }

    /// The template, once there is enough.
    pub fn finish(&self) -> Result<Template, Refusal> {
        let (samples, net_speech_s) = (self.prototypes.len(), self.net_speech_s());
        let enough = self.is_enough();
        let template =
            enough.then(|| Template::new(self.model.identity().clone(), self.prototypes.clone())).flatten();
        template.ok_or(Refusal::NotEnough { samples, net_speech_s })
    }
}

/// A sample that is good by itself and is not a repetition.
pub(super) struct Sample {
    pub(super) voice: Prototype,
    /// Each second of it.
    pub(super) pieces: Vec<Piece>,
    pub(super) sound: Sound,
    pub(super) net: NetSpeech,
}

impl Sample {
    /// Checks a recording (as [`Enrolment::add`]) of at least `least_s` net speech and embeds it. `earlier`
    /// holds the recordings before it.
    pub(super) fn of(
        model: &SpeakerModel,
        (samples, speech): (&[f32], &[f32]),
        least_s: f32,
        earlier: &[Sound],
    ) -> Result<Self, Refusal> {
        let net = NetSpeech::of(samples, speech);
        let quality = net.quality;
        check(quality, least_s)?;
        let sound = Sound::of(samples);
        if earlier.iter().any(|earlier| sound.repeats(earlier)) {
            return Err(Refusal::Repeated);
        }
        let (embedding, pieces) = model.embed_pieces(&net.samples).map_err(Refusal::Model)?;
        Ok(Self { voice: Prototype { embedding, quality }, pieces, sound, net })
    }
}

/// The checks that need no model, the most helpful first; at least `least_s` of net speech.
fn check(quality: Quality, least_s: f32) -> Result<(), Refusal> {
    let Quality { net_speech_s, level_db, snr_db, clipped } = quality;
    if net_speech_s < 0.1 {
        return Err(Refusal::TooShort { net_speech_s, least_s });
    }
    if clipped > MOST_CLIPPED {
        return Err(Refusal::Clipped { share: clipped });
    }
    if level_db < LEAST_LEVEL_DB {
        return Err(Refusal::TooQuiet { level_db });
    }
    if snr_db < LEAST_SNR_DB {
        return Err(Refusal::TooNoisy { snr_db });
    }
    if net_speech_s < least_s {
        return Err(Refusal::TooShort { net_speech_s, least_s });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::testing;

    const READER: &str = "audio/librispeech_train_clean_1each/103-1240-0000.flac";
    const OTHER: &str = "audio/librispeech_train_clean_1each/1040-133433-0000.flac";

    /// `count` pieces of `seconds` of a reading.
    fn pieces(name: &str, seconds: usize) -> Option<Vec<(Vec<f32>, Vec<f32>)>> {
        let (samples, speech) = testing::recording(name)?;
        let cut = samples.chunks_exact(seconds * 16_000).zip(speech.chunks_exact(seconds * 100));
        Some(cut.map(|(a, b)| (a.to_vec(), b.to_vec())).collect())
    }

    #[test]
    fn four_sentences_of_one_person_make_a_template() {
        let Some(pieces) = pieces(READER, 3) else { return };
        let mut enrolment = Enrolment::new(testing::model());
        let mut progress = 0.0;
        for (samples, speech) in &pieces {
            let report = enrolment.add(samples, speech).unwrap();
            assert!(report.progress > progress);
            let standing = enrolment.standing("Anna", Step::Kept, None);
            assert!(f32::from(standing.percent) <= report.progress * 100.0, "{standing:?}");
            assert_eq!(standing.phrase as usize, report.samples + 1, "{standing:?}");
            assert!(standing.phrases == 4 || enrolment.is_enough(), "four of 3 s make ten: {standing:?}");
            progress = report.progress;
        }
        assert_eq!(progress, 1.0);
        assert_eq!(enrolment.standing("Anna", Step::Finished, None).percent, 100);
        let template = enrolment.finish().unwrap();
        assert!(template.prototypes().len() == pieces.len() && template.net_speech_s() >= LEAST_TOTAL_S);
        assert!(template.cohesion() > 0.6, "{}", template.cohesion());
        assert_eq!(template.identity(), testing::model().identity());
        let more = Enrolment::extend(testing::model(), &template).unwrap();
        assert_eq!(more.progress(), 1.0);
    }

    #[test]
    fn too_little_speech_is_not_finished() {
        let Some(pieces) = pieces(READER, 3) else { return };
        let mut enrolment = Enrolment::new(testing::model());
        for (samples, speech) in &pieces[..3] {
            enrolment.add(samples, speech).unwrap();
        }
        let refusal = enrolment.finish().unwrap_err();
        assert!(matches!(refusal, Refusal::NotEnough { samples: 3, .. }), "{refusal}");
        assert!(refusal.to_string().contains("add more sentences"));
    }

    #[test]
    fn a_recording_counts_once_however_it_is_given() {
        let Some(own) = pieces(READER, 4) else { return };
        let mut enrolment = Enrolment::new(testing::model());
        let (samples, speech) = &own[0];
        enrolment.add(samples, speech).unwrap();
        let before = enrolment.progress();
        let softer: Vec<f32> = samples.iter().map(|s| s * 0.3).collect();
        for (samples, speech) in
            [(&samples[..], &speech[..]), (&samples[16_000..], &speech[100..]), (&softer, speech)]
        {
            let refusal = enrolment.add(samples, speech).unwrap_err();
            assert!(matches!(refusal, Refusal::Repeated), "{refusal:?}");
            assert_eq!(enrolment.progress(), before);
        }
        for (samples, speech) in &own[1..] {
            enrolment.add(samples, speech).unwrap();
        }
        // Added to later, when the sound is gone.
        let template = enrolment.finish().unwrap();
        let mut more = Enrolment::extend(testing::model(), &template).unwrap();
        assert!(matches!(more.add(samples, speech), Err(Refusal::Repeated)));
    }

    #[test]
    fn a_bad_sample_is_refused_with_what_to_do_and_changes_nothing() {
        let Some(own) = pieces(READER, 3) else { return };
        let Some(other) = pieces(OTHER, 3) else { return };
        let mut enrolment = Enrolment::new(testing::model());
        let (samples, speech) = &own[0];
        enrolment.add(samples, speech).unwrap();
        let before = enrolment.progress();
        let scaled =
            |gain: f32| -> Vec<f32> { samples.iter().map(|s| (s * gain).clamp(-1.0, 1.0)).collect() };
        // Noise everywhere, half as strong as the speech.
        let mut state = 1u32;
        let noisy: Vec<f32> = samples
            .iter()
            .map(|s| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                s + ((state >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * 0.15
            })
            .collect();
        let two = [&own[1].0[..], &other[0].0[..32_000]].concat();
        let two_speech = [&own[1].1[..], &other[0].1[..200]].concat();
        type Case<'a> = (&'a str, &'a [f32], &'a [f32], fn(&Refusal) -> bool, &'a str);
        let cases: [Case<'_>; 7] = [
            ("silent", samples, &[0.0; 300], |r| matches!(r, Refusal::TooShort { .. }), "whole sentence"),
            (
                "short",
                &samples[..16_000],
                &speech[..100],
                |r| matches!(r, Refusal::TooShort { .. }),
                "whole sentence",
            ),
            ("clipped", &scaled(40.0), speech, |r| matches!(r, Refusal::Clipped { .. }), "move away"),
            ("quiet", &scaled(0.003), speech, |r| matches!(r, Refusal::TooQuiet { .. }), "come closer"),
            ("noisy", &noisy, speech, |r| matches!(r, Refusal::TooNoisy { .. }), "quieter"),
            ("two", &two, &two_speech, |r| matches!(r, Refusal::TwoVoices), "one person"),
            ("other", &other[0].0, &other[0].1, |r| matches!(r, Refusal::AnotherVoice { .. }), "one person"),
        ];
        for (name, samples, speech, expected, advice) in cases {
            let refusal = enrolment.add(samples, speech).unwrap_err();
            assert!(expected(&refusal), "{name}: {refusal:?}");
            assert!(refusal.to_string().contains(advice), "{name}: {refusal}");
            assert_eq!(enrolment.progress(), before, "{name}");
        }
    }
}
