//! Further samples of an enrolled voice: from across the room, by a second microphone, loud, in a hurry.
//!
//! ```text
//!  sample ─ checks of an enrolment ─ bad, two voices, a copy ──────────────────▶ refused
//!         ─ P(this person) too low, or somebody else who is enrolled is likelier ▶ refused
//!         ─ each half is known without it ─────────────────────────────────────▶ left out: not needed
//!         ─ each half, with the other half added: hardly likelier ─────────────▶ left out: no better
//!         ─ a sample from before, or a stranger of the cohort, compares worse ──▶ left out: does harm
//!         └ else ──────────────────────────────────────────────────────────────▶ kept
//! ```
//!
//! A half is judged by a voice that does not contain it, and an earlier sample by one without that sample, so
//! that nothing is compared with itself. The tables in `docs/lab/enrolment-styles.md` give the reasons for
//! the bars.

use serde::{Deserialize, Serialize};

use super::SpeakerError;
use super::aside;
use super::calibration::sigmoid;
use super::enrolment::{LEAST_LIKENESS_WITHIN, Refusal, SAME_RECORDING, Sample};
use super::repeated::Sound;
use super::speech::Quality;
use super::template::{MOST_PROTOTYPES, Prototype, Template};
use super::verification::{DEFAULT_THRESHOLD, Verifier};
use crate::units::SAMPLE_RATE_HZ;

/// How a further sample is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// From across the room.
    Far,
    SecondMicrophone,
    Loud,
    Hurry,
}

impl Style {
    pub const ALL: [Self; 4] = [Self::Far, Self::SecondMicrophone, Self::Loud, Self::Hurry];

    /// How to say it, to follow "now".
    pub fn manner(self) -> &'static str {
        match self {
            Self::Far => "from across the room",
            Self::SecondMicrophone => "by the second microphone, if there is one",
            Self::Loud => "louder",
            Self::Hurry => "as if in a hurry",
        }
    }
}

/// Net speech of a further sample: both halves must be long enough to be compared.
pub const LEAST_FURTHER_S: f32 = 2.0;
/// Least probability of the person for a further sample to be theirs.
const THEIRS_FROM: f32 = 0.85;
/// From this probability on, in both halves, the person is known in this style without the sample.
const KNOWN_FROM: f32 = 0.995;
/// Least gain of a half, in log odds, the mean of both.
const LEAST_GAIN: f64 = 0.5;
/// Most loss of the earlier samples, in log odds, the mean of all.
const MOST_LOSS: f64 = 0.5;

/// Why a sample that has no fault is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    NotNeeded,
    NoBetter,
    DoesHarm,
}

impl LeftOut {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotNeeded => "the voice is known like this already",
            Self::NoBetter => "the voice would not be known better by it",
            Self::DoesHarm => "the voice would be known less well otherwise, or taken for others'",
        }
    }
}

/// The outcome of a further sample without a fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FurtherReport {
    pub quality: Quality,
    /// The confidence with which speech like this is known without the sample, and with it: that of its less
    /// sure half.
    pub before: f32,
    pub after: f32,
    /// `None`: it is kept.
    pub left_out: Option<LeftOut>,
}

/// An enrolled voice to which further samples are offered.
#[derive(Debug, Clone)]
pub struct Further {
    verifier: Verifier,
    template: Template,
    /// Voices of other people.
    others: Vec<Template>,
    /// Of the samples kept here.
    sounds: Vec<Sound>,
}

impl Further {
    /// # Errors
    /// [`SpeakerError::OtherModel`] if the voice was enrolled with another model.
    pub fn new(verifier: Verifier, template: Template, others: Vec<Template>) -> Result<Self, SpeakerError> {
        if template.identity() != verifier.model().identity() {
            return Err(SpeakerError::OtherModel { user: "this person".into() });
        }
        Ok(Self { verifier, template, others, sounds: Vec::new() })
    }

    /// The voice with the samples that were kept.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Checks one sample (as [`super::Enrolment::add`]) and keeps it if it makes the person measurably better
    /// known.
    pub fn offer(&mut self, samples: &[f32], speech: &[f32]) -> Result<FurtherReport, Refusal> {
        if self.template.prototypes().len() >= MOST_PROTOTYPES {
            return Err(Refusal::Full);
        }
        let model = self.verifier.model().clone();
        let sample = Sample::of(&model, (samples, speech), LEAST_FURTHER_S, &self.sounds)?;
        let Sample { voice: whole, pieces, sound, net } = sample;
        let quality = whole.quality;
        let known = |p: &Prototype| p.embedding.cosine(&whole.embedding) >= SAME_RECORDING;
        if self.template.prototypes().iter().any(known) {
            return Err(Refusal::Repeated);
        }
        if aside::least_likeness(&pieces) < LEAST_LIKENESS_WITHIN {
            return Err(Refusal::TwoVoices);
        }
        let theirs = self.odds(&whole, &self.template);
        let others = self.others.iter().filter(|other| other.identity() == model.identity());
        let another = others.map(|other| self.odds(&whole, other)).fold(f64::NEG_INFINITY, f64::max);
        if sigmoid(theirs) < THEIRS_FROM || another >= theirs {
            let likeness = whole.embedding.cosine(self.template.centroid());
            return Err(Refusal::AnotherVoice { likeness });
        }
        let mut halves = Vec::with_capacity(2);
        let (first, second) = net.samples.split_at(net.samples.len() / 2);
        for half in [first, second] {
            let embedding = model.embed(half).map_err(Refusal::Model)?;
            let net_speech_s = half.len() as f32 / SAMPLE_RATE_HZ as f32;
            halves.push(Prototype { embedding, quality: Quality { net_speech_s, ..quality } });
        }
        let judged = self.judge(&whole, &halves);
        let Some((before, after, left_out, with)) = judged else { return Err(Refusal::Full) };
        if left_out.is_none() {
            self.template = with;
            self.sounds.push(sound);
        }
        Ok(FurtherReport { quality, before: sigmoid(before), after: sigmoid(after), left_out })
    }

    /// Log odds of the less sure half without the sample and with the other half; whether to leave it out;
    /// the voice with the sample.
    fn judge(
        &self,
        whole: &Prototype,
        halves: &[Prototype],
    ) -> Option<(f64, f64, Option<LeftOut>, Template)> {
        let own = &self.template;
        let with = own.and(whole)?;
        let (mut before, mut after, mut gain) = (f64::INFINITY, f64::INFINITY, 0.0);
        for (half, other) in halves.iter().zip(halves.iter().rev()) {
            let (without, with) = (self.odds(half, own), self.odds(half, &own.and(other)?));
            before = before.min(without);
            after = after.min(with);
            gain += (with - without) / halves.len() as f64;
        }
        let left_out = if sigmoid(before) >= KNOWN_FROM {
            Some(LeftOut::NotNeeded)
        } else if gain < LEAST_GAIN {
            Some(LeftOut::NoBetter)
        } else if self.loss(whole) > MOST_LOSS || self.nears_strangers(&with) {
            Some(LeftOut::DoesHarm)
        } else {
            None
        };
        Some((before, after, left_out, with))
    }

    /// The loss of confidence in the earlier samples with this one, in log odds, the mean of all: each by a
    /// voice without it.
    fn loss(&self, added: &Prototype) -> f64 {
        let all = self.template.prototypes();
        let lost = all.iter().enumerate().filter_map(|(i, sample)| {
            let rest = all.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, p)| p.clone()).collect();
            let rest = Template::new(self.template.identity().clone(), rest)?;
            Some(self.odds(sample, &rest) - self.odds(sample, &rest.and(added)?))
        });
        let lost: Vec<f64> = lost.collect();
        lost.iter().sum::<f64>() / lost.len().max(1) as f64
    }

    /// Whether more strangers would be taken for the person than with the old template.
    fn nears_strangers(&self, with: &Template) -> bool {
        let bar = (f64::from(DEFAULT_THRESHOLD) / (1.0 - f64::from(DEFAULT_THRESHOLD))).ln();
        let taken = |template| self.verifier.calibration().strangers_taken_for(template, bar);
        taken(with) > taken(&self.template)
    }

    fn odds(&self, test: &Prototype, template: &Template) -> f64 {
        self.verifier.compare(&test.embedding, test.quality, template).2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::NetSpeech;
    use crate::speaker::testing;

    const READER: &str = "audio/librispeech_train_clean_1each/103-1240-0000.flac";
    const OTHER: &str = "audio/librispeech_train_clean_1each/1040-133433-0000.flac";
    /// Audio samples that are enrolled; the rest follows them.
    const ENROLLED: usize = 7 * 16_000;

    type Sound = (Vec<f32>, Vec<f32>);

    fn parts(name: &str) -> Option<(Sound, Sound)> {
        let (samples, speech) = testing::recording(name)?;
        let ((a, b), (c, d)) = (samples.split_at(ENROLLED), speech.split_at(ENROLLED / 160));
        Some(((a.to_vec(), c.to_vec()), (b.to_vec(), d.to_vec())))
    }

    fn template((samples, speech): &Sound) -> Template {
        let model = testing::model();
        let third = |i: usize| {
            let (a, b) = (i * 2 * 16_000, (i + 1) * 2 * 16_000);
            let net = NetSpeech::of(&samples[a..b], &speech[a / 160..b / 160]);
            Prototype { embedding: model.embed_net(&net).unwrap(), quality: net.quality }
        };
        Template::new(model.identity().clone(), (0..3).map(third).collect()).unwrap()
    }

    fn further(template: &Template, others: Vec<Template>) -> Further {
        let verifier = Verifier::new(testing::model(), testing::calibration()).unwrap();
        Further::new(verifier, template.clone(), others).unwrap()
    }

    /// 450 Hz to 2.2 kHz (windowed sinc).
    fn narrowed(samples: &[f32]) -> Vec<f32> {
        use std::f32::consts::PI;
        let sinc = |n: f32, hz: f32| if n == 0.0 { hz / 8e3 } else { (PI * n * hz / 8e3).sin() / (PI * n) };
        let taps: Vec<f32> = (-150..=150i16)
            .map(|n| {
                let n = f32::from(n);
                (sinc(n, 2_200.0) - sinc(n, 450.0)) * (0.54 + 0.46 * (PI * n / 150.0).cos())
            })
            .collect();
        samples.windows(taps.len()).map(|w| w.iter().zip(&taps).map(|(x, t)| x * t).sum()).collect()
    }

    #[test]
    fn a_sample_by_another_microphone_is_kept_and_one_that_changes_nothing_is_left_out() {
        let Some((first, (samples, speech))) = parts(READER) else { return };
        let enrolled = template(&first);
        let mut offered = further(&enrolled, Vec::new());
        let report = offered.offer(&samples, &speech).unwrap();
        assert_eq!(report.left_out, Some(LeftOut::NotNeeded), "{report:?}");
        assert_eq!(offered.template(), &enrolled);

        let narrow = narrowed(&samples);
        let speech = &speech[..narrow.len() / 160];
        let report = offered.offer(&narrow, speech).unwrap();
        assert!(report.left_out.is_none() && report.after > report.before, "{report:?}");
        assert_eq!(offered.template().prototypes().len(), 4);
        assert_eq!(offered.template().prototypes()[..3], *enrolled.prototypes());
        let again = offered.offer(&narrow, speech);
        assert!(matches!(again, Err(Refusal::Repeated)), "{again:?}");
    }

    #[test]
    fn a_bad_sample_is_refused_and_changes_nothing() {
        let (Some((first, (samples, speech))), Some((theirs, other))) = (parts(READER), parts(OTHER)) else {
            return;
        };
        let enrolled = template(&first);
        let mut offered = further(&enrolled, Vec::new());
        let scaled =
            |gain: f32| -> Vec<f32> { samples.iter().map(|s| (s * gain).clamp(-1.0, 1.0)).collect() };
        let silence = vec![0.0; speech.len()];
        let two = [&samples[..48_000], &other.0[..48_000]].concat();
        let two_speech = [&speech[..300], &other.1[..300]].concat();
        type Case<'a> = (&'a str, &'a [f32], &'a [f32], fn(&Refusal) -> bool);
        let cases: [Case<'_>; 6] = [
            ("other", &other.0, &other.1, |r| matches!(r, Refusal::AnotherVoice { .. })),
            ("silence", &samples, &silence, |r| matches!(r, Refusal::TooShort { .. })),
            ("short", &samples[..28_000], &speech[..175], |r| matches!(r, Refusal::TooShort { .. })),
            ("overdriven", &scaled(40.0), &speech, |r| matches!(r, Refusal::Clipped { .. })),
            ("quiet", &scaled(0.002), &speech, |r| matches!(r, Refusal::TooQuiet { .. })),
            ("two", &two, &two_speech, |r| matches!(r, Refusal::TwoVoices | Refusal::AnotherVoice { .. })),
        ];
        for (name, samples, speech, expected) in cases {
            let refusal = offered.offer(samples, speech).unwrap_err();
            assert!(expected(&refusal), "{name}: {refusal:?}");
            assert_eq!(offered.template(), &enrolled, "{name}");
        }
        // Another enrolled person, although the voice is like the person's.
        let mut doubled = further(&enrolled, vec![template(&theirs), enrolled.clone()]);
        let refusal = doubled.offer(&narrowed(&samples), &speech).unwrap_err();
        assert!(matches!(refusal, Refusal::AnotherVoice { .. }), "{refusal:?}");
    }

    #[test]
    fn there_is_an_end_to_them() {
        let Some((first, (samples, speech))) = parts(READER) else { return };
        let one = template(&first).prototypes()[0].clone();
        let many = vec![one; MOST_PROTOTYPES];
        let full = Template::new(testing::model().identity().clone(), many).unwrap();
        assert!(matches!(further(&full, Vec::new()).offer(&samples, &speech), Err(Refusal::Full)));
    }

    #[test]
    fn a_voice_of_another_model_takes_none() {
        let verifier = Verifier::new(testing::model(), testing::calibration()).unwrap();
        let stale = crate::speaker::template::tests::sample(1, 3);
        assert!(matches!(Further::new(verifier, stale, Vec::new()), Err(SpeakerError::OtherModel { .. })));
    }
}
