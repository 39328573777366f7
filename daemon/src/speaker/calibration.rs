//! From a cosine to a calibrated probability.
//!
//! ```text
//!  embedding e ─▶ e' = M (e − m), scaled to length 1                            channel compensation
//!  cosine s of test' and template'
//!  P = sigmoid(b + c·ln(net s) + d·s + Σ q·(offset + slope·s))                    equal priors
//! ```
//!
//! An embedding tells the voice and, less so, the microphone, the band and the room. People who share these
//! look alike, and one person in another room looks like somebody else. `M` takes out the directions in which
//! one voice moves when only the channel changes (nuisance attribute projection: Solomonoff, Campbell and
//! Boardman, "Advances in channel compensation for SVM speaker recognition", 2005). It was learnt from the
//! cohort's readers, each heard through many simulated channels, and needs nothing that the device has heard.
//! `q` is the distance of the test's band, room and effort from those of the enrolment, 0 to 1 each
//! ([`Differs`]): at a distance a low cosine says less. The tables are in
//! `docs/lab/speaker-shared-channel.md`.
//!
//! Cohort, compensation and constants are fitted by `scripts/lab/calibrate.sh`, belong to one model and one
//! front end, and are pinned by hash in the manifest like the model itself: a file that was changed, or made
//! for another pair, is refused.
//!
//! The normalised score, in deviations above the `top` cohort voices nearest to test and template (adaptive
//! symmetric normalisation: Matějka et al., "Analysis of score normalization in multilingual speaker
//! recognition", 2017), is for comparing pieces of one utterance; the confidence does without it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::embedding::{DIMENSIONS, Embedding, ModelIdentity};
use super::fbank::Acoustics;
use super::template::Template;
use crate::error::TomlFault;
use crate::inference::{ModelError, ModelStore};
use crate::text::hex;

/// Names of the constants, of the cohort and of the compensation in `models/manifest.toml`.
pub const CONSTANTS_NAME: &str = "campplus-calibration";
pub const COHORT_NAME: &str = "campplus-cohort";
pub const CHANNELS_NAME: &str = "campplus-channels";
/// Version of [`CalibrationFile`]; 1 had no compensation.
const VERSION: u32 = 2;
const MAGIC: &[u8; 4] = b"JVCO";
const CHANNELS_MAGIC: &[u8; 4] = b"JVCH";
const LARGEST_COHORT: usize = 4_096;

/// Why the calibration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    #[error("the calibration of the speaker check cannot be used")]
    Pinned(#[source] ModelError),
    #[error("{} is not a calibration of this version; restore it from the package", .path.display())]
    Constants { path: PathBuf, source: TomlFault },
    #[error("{} is not the cohort that the constants were fitted with: its SHA-256 is {found}, expected \
             {expected}; restore it from the package", .path.display())]
    CohortHash { path: PathBuf, expected: String, found: String },
    #[error("{} is not a cohort file: {what}; restore it from the package", .path.display())]
    Cohort { path: PathBuf, what: &'static str },
    #[error(
        "{} is not the compensation that the constants were fitted with; restore it from the package",
        .path.display()
    )]
    Channels { path: PathBuf },
    #[error("{}: {what}; restore it from the package", .path.display())]
    Value { path: PathBuf, what: &'static str },
}

/// The file as written. Everything under `fitted` is for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationFile {
    pub version: u32,
    pub model_sha256: String,
    pub front_end_sha256: String,
    pub cohort_file: String,
    pub cohort_sha256: String,
    /// Cohort voices nearest to a voice that it is normalised against.
    pub cohort_top: usize,
    pub channels_file: String,
    pub channels_sha256: String,
    pub constants: Constants,
    /// The data that the constants were fitted with, and their results on the held-out part.
    pub fitted: toml::Table,
}

/// The logistic model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    /// Constant.
    pub b: f64,
    /// Weight of ln(net speech in seconds).
    pub c: f64,
    /// Weight of the cosine behind the compensation.
    pub d: f64,
    /// Changed by a test of another band than the enrolment, from a livelier room or noise, and in a raised
    /// voice.
    pub band: Widening,
    pub room: Widening,
    pub effort: Widening,
}

/// Change of the log odds by a difference between test and enrolment, in proportion to `q`, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Widening {
    /// Added as a whole.
    pub offset: f64,
    /// Added to the weight of the cosine.
    pub slope: f64,
}

impl Widening {
    fn of(self, q: f32, cosine: f64) -> f64 {
        f64::from(q) * (self.offset + self.slope * cosine)
    }
}

/// Shares of overdriven samples from and behind which a test says less against a person.
const OVERDRIVEN: (f32, f32) = (0.02, 0.1);
/// The most by which that raises the log odds: to an uncertain verdict (0.67), never to a verified one. Not
/// fitted: where a third of all samples is cut off, the owner of the tests falls to -0.6, strangers stay
/// below -7.
const OVERDRIVEN_RAISES: f64 = 1.5;
const OVERDRIVEN_MOST: f64 = 0.7;

/// The log odds of a test in which the share `clipped`, 0 to 1, of the samples is overdriven.
pub fn of_overdriven(log_odds: f64, clipped: f32) -> f64 {
    let (from, to) = OVERDRIVEN;
    let q = f64::from(((clipped - from) / (to - from)).clamp(0.0, 1.0));
    log_odds.max((log_odds + q * OVERDRIVEN_RAISES).min(OVERDRIVEN_MOST))
}

/// Range of net speech the constants were fitted on: outside it they are used as at its edge, so that an
/// extrapolated length never makes a verdict more certain.
const FITTED_NET_S: (f64, f64) = (1.0, 5.0);

impl Constants {
    /// ln(P / (1 − P)).
    pub fn log_odds(&self, score: Score, net_speech_s: f32) -> f64 {
        let net = f64::from(net_speech_s).clamp(FITTED_NET_S.0, FITTED_NET_S.1);
        let cosine = f64::from(score.compensated);
        let Differs { band, room, effort } = score.differs;
        let widened =
            self.band.of(band, cosine) + self.room.of(room, cosine) + self.effort.of(effort, cosine);
        self.b + self.c * net.ln() + self.d * cosine + widened
    }

    /// Whether a higher cosine makes the person more likely under all conditions.
    fn sane(&self) -> bool {
        let Self { b, c, d, band, room, effort } = *self;
        let widenings = [band, room, effort];
        let finite = widenings.iter().all(|w| w.offset.is_finite() && w.slope.is_finite());
        let least = d + widenings.iter().map(|w| w.slope.min(0.0)).sum::<f64>();
        finite && [b, c, d].iter().all(|v| v.is_finite()) && least > 0.0
    }
}

/// A comparison of a test with a template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Cosine of the voices as the model gives them, -1 to 1.
    pub cosine: f32,
    /// The same in standard deviations of impostor scores: pieces of one utterance, all of one channel,
    /// compare by it.
    pub normalised: f32,
    /// Cosine of the voices behind the channel compensation, -1 to 1: the confidence is made of it.
    pub compensated: f32,
    pub differs: Differs,
}

/// The distance of a test's sound from that of an enrolment, each 0 (alike, or not known) to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Differs {
    /// More or less of the high frequencies.
    pub band: f32,
    /// Less lively between soft and loud: reverberation, or noise.
    pub room: f32,
    /// Less below 230 Hz: a raised voice. Another band hides it.
    pub effort: f32,
}

impl Differs {
    /// Voices enrolled before the acoustics were kept count as alike, which is the careful side.
    pub fn between(test: Option<Acoustics>, enrolled: Option<Acoustics>) -> Self {
        let (Some(test), Some(enrolled)) = (test, enrolled) else { return Self::default() };
        let share = |value: f32, from: f32, to: f32| ((value - from) / (to - from)).clamp(0.0, 1.0);
        let band = share((test.high - enrolled.high).abs(), 2.5, 7.5);
        let effort = share(enrolled.low - test.low, 1.0, 4.0) * (1.0 - 2.0 * band).max(0.0);
        Self { band, room: share(enrolled.range - test.range, 1.0, 4.0), effort }
    }
}

/// Removes the effect of the channel from an embedding: `M (e − m)`, scaled to length 1.
#[derive(Debug, Clone)]
pub struct Compensation {
    mean: Vec<f32>,
    /// Row-major, [`DIMENSIONS`] rows of as many.
    matrix: Vec<f32>,
}

impl Compensation {
    /// A compensation that changes nothing.
    pub fn none() -> Self {
        let diagonal = |i: usize| if i.is_multiple_of(DIMENSIONS + 1) { 1.0 } else { 0.0 };
        Self { mean: vec![0.0; DIMENSIONS], matrix: (0..DIMENSIONS * DIMENSIONS).map(diagonal).collect() }
    }

    /// `voice` without its channel. A voice of which nothing is left stays as it is.
    pub fn apply(&self, voice: &Embedding) -> Embedding {
        let centred: Vec<f32> = voice.values().iter().zip(&self.mean).map(|(v, m)| v - m).collect();
        let rows = self.matrix.chunks_exact(DIMENSIONS);
        let turned: Vec<f32> = rows.map(|row| row.iter().zip(&centred).map(|(m, v)| m * v).sum()).collect();
        Embedding::normalised(&turned).unwrap_or_else(|| voice.clone())
    }

    /// `"JVCH"`, 192 × f32 mean, 192 × 192 × f32 matrix, little-endian. `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let body = bytes.strip_prefix(CHANNELS_MAGIC)?;
        if body.len() != 4 * DIMENSIONS * (DIMENSIONS + 1) {
            return None;
        }
        let values: Vec<f32> = body.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let (mean, matrix) = values.split_at_checked(DIMENSIONS)?;
        let sane = values.iter().all(|v| v.is_finite());
        sane.then(|| Self { mean: mean.to_vec(), matrix: matrix.to_vec() })
    }
}

/// Voices that are surely not the person: a score is normalised against them.
#[derive(Debug, Clone)]
pub struct Cohort {
    embeddings: Vec<Embedding>,
}

/// Mean and deviation of a voice's scores against the cohort.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impostors {
    mean: f32,
    deviation: f32,
}

impl Cohort {
    pub fn new(embeddings: Vec<Embedding>) -> Self {
        Self { embeddings }
    }

    pub fn len(&self) -> usize {
        self.embeddings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.embeddings.is_empty()
    }

    /// Statistics of the scores of `voice` against the `top` nearest of the cohort.
    pub fn impostors(&self, voice: &Embedding, top: usize) -> Impostors {
        let mut scores: Vec<f32> = self.embeddings.iter().map(|e| e.cosine(voice)).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.truncate(top.max(2));
        let n = scores.len().max(1) as f32;
        let mean = scores.iter().sum::<f32>() / n;
        let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f32>() / n;
        // A floor, so that a degenerate cohort cannot make a score infinite.
        Impostors { mean, deviation: variance.sqrt().max(0.01) }
    }

    /// `"JVCO"`, u32 count, count × 192 × f32, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(self.embeddings.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(self.embeddings.iter().flat_map(|e| e.values()).flat_map(|v| v.to_le_bytes()));
        bytes
    }

    /// Strict inverse of [`Cohort::to_bytes`]; the error names the fault.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some((header, body)) = bytes.split_first_chunk::<8>() else {
            return Err("it is too short");
        };
        let [m0, m1, m2, m3, count @ ..] = *header;
        if [m0, m1, m2, m3] != *MAGIC {
            return Err("it does not begin as one");
        }
        let count = u32::from_le_bytes(count) as usize;
        if !(2..=LARGEST_COHORT).contains(&count) || body.len() != count * DIMENSIONS * 4 {
            return Err("its length does not match its number of voices");
        }
        let values: Vec<f32> = body.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let embeddings = values.chunks_exact(DIMENSIONS).map(Embedding::normalised).collect::<Option<_>>();
        embeddings.map(Self::new).ok_or("it holds numbers that no voice gives")
    }
}

/// Cohort, compensation and constants, checked against each other.
#[derive(Debug, Clone)]
pub struct Calibration {
    identity: ModelIdentity,
    cohort: Cohort,
    cohort_top: usize,
    channels: Compensation,
    constants: Constants,
}

impl Calibration {
    pub fn new(
        identity: ModelIdentity,
        cohort: Cohort,
        cohort_top: usize,
        channels: Compensation,
        constants: Constants,
    ) -> Self {
        Self { identity, cohort, cohort_top, channels, constants }
    }

    /// Reads constants, cohort and compensation, whose hashes the manifest pins, and checks them against each
    /// other.
    ///
    /// # Errors
    /// A file that is missing, is not the pinned one, or does not belong to the others.
    pub fn load(store: &ModelStore) -> Result<Self, CalibrationError> {
        let pinned = |name: &str| -> Result<(PathBuf, Vec<u8>), ModelError> {
            let bytes = store.read(name)?;
            Ok((store.file(name)?, bytes))
        };
        let (path, bytes) = pinned(CONSTANTS_NAME).map_err(CalibrationError::Pinned)?;
        let bad = |what| CalibrationError::Value { path: path.clone(), what };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is not text"))?;
        let file: CalibrationFile = toml::from_str(text).map_err(|e| CalibrationError::Constants {
            path: path.clone(),
            source: TomlFault::of(&e, text),
        })?;
        if file.version != VERSION {
            return Err(bad("it has another version than 2"));
        }
        if !file.constants.sane() {
            return Err(bad("its constants would not make a higher score more likely"));
        }
        let (cohort_path, bytes) = pinned(COHORT_NAME).map_err(CalibrationError::Pinned)?;
        let found = hex(&Sha256::digest(&bytes));
        if found != file.cohort_sha256 {
            return Err(CalibrationError::CohortHash {
                path: cohort_path,
                expected: file.cohort_sha256,
                found,
            });
        }
        let cohort = Cohort::from_bytes(&bytes)
            .map_err(|what| CalibrationError::Cohort { path: cohort_path, what })?;
        if !(2..=cohort.len()).contains(&file.cohort_top) {
            return Err(bad("cohort_top must be between 2 and the size of the cohort"));
        }
        let (path, bytes) = pinned(CHANNELS_NAME).map_err(CalibrationError::Pinned)?;
        let channels = Some(&bytes).filter(|bytes| hex(&Sha256::digest(bytes)) == file.channels_sha256);
        let channels = channels.and_then(|bytes| Compensation::from_bytes(bytes));
        let channels = channels.ok_or(CalibrationError::Channels { path })?;
        let identity =
            ModelIdentity { model_sha256: file.model_sha256, front_end_sha256: file.front_end_sha256 };
        Ok(Self::new(identity, cohort, file.cohort_top, channels, file.constants))
    }

    /// Which model and front end the constants are for.
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// Statistics of a test, computed once per utterance.
    pub fn impostors(&self, voice: &Embedding) -> Impostors {
        self.cohort.impostors(voice, self.cohort_top)
    }

    /// Compares a test with a template.
    pub fn score(&self, test: &Embedding, test_impostors: Impostors, template: &Template) -> Score {
        let cosine = test.cosine(template.centroid());
        let own = self.impostors(template.centroid());
        Score {
            cosine,
            normalised: normalise(cosine, test_impostors, own),
            compensated: self.channels.apply(test).cosine(&self.channels.apply(template.centroid())),
            differs: Differs::between(test.acoustics(), template.centroid().acoustics()),
        }
    }

    /// `voice` behind the channel compensation.
    pub fn without_channel(&self, voice: &Embedding) -> Embedding {
        self.channels.apply(voice)
    }

    /// How many voices of the cohort, with two seconds of speech, have at least `log_odds` of being
    /// `template`'s.
    pub fn strangers_taken_for(&self, template: &Template, log_odds: f64) -> usize {
        let taken = |voice: &&Embedding| {
            let score = self.score(voice, self.impostors(voice), template);
            self.log_odds(score, 2.0) >= log_odds
        };
        self.cohort.embeddings.iter().filter(taken).count()
    }

    /// Probability, at equal priors, that test and template are the same person; and its log odds.
    pub fn confidence(&self, score: Score, net_speech_s: f32) -> (f32, f64) {
        let log_odds = self.log_odds(score, net_speech_s);
        (sigmoid(log_odds), log_odds)
    }

    /// The log odds alone.
    pub fn log_odds(&self, score: Score, net_speech_s: f32) -> f64 {
        self.constants.log_odds(score, net_speech_s)
    }
}

/// Symmetric normalisation.
pub fn normalise(cosine: f32, one: Impostors, other: Impostors) -> f32 {
    f32::midpoint((cosine - one.mean) / one.deviation, (cosine - other.mean) / other.deviation)
}

#[expect(clippy::cast_possible_truncation, reason = "a probability needs no f64")]
pub fn sigmoid(log_odds: f64) -> f32 {
    (1.0 / (1.0 + (-log_odds).exp())) as f32
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::inference::{MANIFEST, Manifest};
    use crate::speaker::speech::NetSpeech;
    use crate::speaker::template::tests::sample;
    use crate::speaker::template::{Prototype, Template};
    use crate::speaker::testing;

    #[test]
    fn the_shipped_calibration_belongs_to_the_shipped_model() {
        let calibration = testing::calibration();
        assert_eq!(calibration.identity(), testing::model().identity());
    }

    #[test]
    fn overdriven_sound_is_no_proof_against_a_person_and_none_for_one() {
        let raised = |log_odds| of_overdriven(log_odds, 0.3);
        assert!(sigmoid(raised(-0.6)) > 0.5 && sigmoid(raised(-4.0)) < 0.1);
        assert!(sigmoid(raised(0.6)) < 0.7, "never verified by it");
        for log_odds in [-4.0, 0.0, 0.9, 5.0] {
            assert!((of_overdriven(log_odds, 0.01) - log_odds).abs() < 1e-12);
            assert!(raised(log_odds) >= log_odds && (log_odds < 0.7 || raised(log_odds) <= log_odds));
        }
    }

    fn score(cosine: f32, differs: Differs) -> Score {
        Score { cosine, normalised: cosine * 15.0, compensated: cosine, differs }
    }

    #[test]
    fn where_band_or_room_differ_an_unlike_voice_is_less_surely_a_stranger() {
        let sound = |high, low, range| Some(Acoustics { high, low, range });
        let enrolled = sound(0.0, -3.0, 8.0);
        assert_eq!(Differs::between(sound(-2.0, -4.0, 7.5), enrolled), Differs::default());
        assert_eq!(Differs::between(None, enrolled), Differs::default());
        assert_eq!(Differs::between(enrolled, None), Differs::default());
        let narrow = Differs::between(sound(-9.0, -8.0, 8.0), enrolled);
        let lively = Differs::between(sound(0.0, -3.0, 2.0), enrolled);
        let raised = Differs::between(sound(0.0, -7.0, 8.0), enrolled);
        assert_eq!(narrow, Differs { band: 1.0, ..Differs::default() });
        assert_eq!(lively, Differs { room: 1.0, ..Differs::default() });
        assert_eq!(raised, Differs { effort: 1.0, ..Differs::default() });
        let calibration = testing::calibration();
        let odds = |differs| calibration.confidence(score(0.25, differs), 2.0).1;
        for differs in [narrow, lively, raised] {
            assert!(odds(differs) > odds(Differs::default()), "{differs:?}");
        }
    }

    #[test]
    fn likeness_and_only_likeness_makes_a_person_more_likely() {
        let calibration = testing::calibration();
        let all = (0..8u8).map(|n| [1, 2, 4].map(|bit| f32::from(u8::from(n & bit != 0))));
        let conditions = all.flat_map(|q| [1.0, 2.0, 5.0, 30.0].map(|net| (q, net)));
        for ([band, room, effort], net) in conditions {
            let differs = Differs { band, room, effort };
            let mut before = 0.0;
            for step in 0..20 {
                let cosine = step as f32 * 0.05;
                let (p, log_odds) = calibration.confidence(score(cosine, differs), net);
                assert!((0.0..=1.0).contains(&p) && p >= before && log_odds.is_finite());
                before = p;
            }
            assert!(before > 0.99);
        }
    }

    #[test]
    fn length_outside_what_was_fitted_makes_nothing_more_certain() {
        let calibration = testing::calibration();
        let score = score(0.3, Differs::default());
        assert_eq!(calibration.confidence(score, 5.0), calibration.confidence(score, 500.0));
        assert_eq!(calibration.confidence(score, 1.0), calibration.confidence(score, 0.0));
    }

    #[test]
    fn a_cohort_survives_its_bytes_and_every_cut_is_refused() {
        let embeddings: Vec<_> = sample(3, 5).prototypes().iter().map(|p| p.embedding.clone()).collect();
        let bytes = Cohort::new(embeddings).to_bytes();
        assert_eq!(Cohort::from_bytes(&bytes).unwrap().len(), 5);
        for cut in 0..bytes.len() {
            assert!(Cohort::from_bytes(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut huge = bytes.clone();
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Cohort::from_bytes(&huge).is_err());
        let mut not_a_number = bytes;
        not_a_number[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(Cohort::from_bytes(&not_a_number).is_err());
    }

    const CONSTANTS: &str = "calibration/campplus.toml";
    const COHORT: &str = "calibration/campplus.cohort.bin";
    const CHANNELS: &str = "calibration/campplus.channels.bin";

    /// A model folder with the shipped calibration, whose manifest pins nothing else.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("calibration")).unwrap();
        let shipped = &testing::model_dirs()[0];
        for file in [CONSTANTS, COHORT, CHANNELS, MANIFEST] {
            std::fs::copy(shipped.join(file), dir.path().join(file)).unwrap();
        }
        dir
    }

    fn load(dir: &Path) -> Result<Calibration, CalibrationError> {
        Calibration::load(&ModelStore::open(&[dir.to_path_buf()]).unwrap())
    }

    /// Makes the manifest pin the present files.
    fn pin(dir: &Path) {
        let path = dir.join(MANIFEST);
        let mut manifest = Manifest::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
        for entry in manifest.models.iter_mut().filter(|m| m.file.starts_with("calibration/")) {
            let bytes = std::fs::read(dir.join(&entry.file)).unwrap();
            (entry.bytes, entry.sha256) = (bytes.len() as u64, hex(&Sha256::digest(&bytes)));
        }
        std::fs::write(path, toml::to_string(&manifest).unwrap()).unwrap();
    }

    #[test]
    fn a_file_that_was_changed_is_refused_with_what_to_do_even_if_it_makes_sense() {
        for (file, change) in [(CONSTANTS, "d = 99.0"), (COHORT, ""), (CHANNELS, "")] {
            let dir = folder();
            load(dir.path()).unwrap();
            let path = dir.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            match change {
                "" => bytes[100] ^= 1,
                line => {
                    let text = String::from_utf8(bytes).unwrap();
                    let old = text.lines().find(|l| l.starts_with("d = ")).unwrap();
                    bytes = text.replace(old, line).into_bytes();
                }
            }
            std::fs::write(&path, bytes).unwrap();
            let error = load(dir.path()).unwrap_err();
            assert!(matches!(error, CalibrationError::Pinned(ModelError::Damaged { .. })), "{error:?}");
            let said = crate::error::chain(&error);
            assert!(said.contains(file) && said.contains("SHA-256") && said.contains("reinstall"), "{said}");
            std::fs::remove_file(path).unwrap();
            let error = load(dir.path()).unwrap_err();
            assert!(matches!(error, CalibrationError::Pinned(ModelError::Missing { .. })), "{error:?}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_name_even_if_it_is_pinned() {
        let dir = folder();
        let constants = dir.path().join(CONSTANTS);
        let good = std::fs::read_to_string(&constants).unwrap();
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            std::fs::write(&constants, good.replace(from, to)).unwrap();
            pin(dir.path());
            load(dir.path())
        };
        assert!(matches!(with("\nd = ", "\nd = -"), Err(CalibrationError::Value { .. })));
        assert!(matches!(with("version = 2", "version = 1"), Err(CalibrationError::Value { .. })));
        let error = with("\nd = ", "\nz = ").unwrap_err();
        assert!(matches!(error, CalibrationError::Constants { .. }));
        let said = crate::error::chain(&error);
        assert!(said.contains("line ") && !said.contains('\n'), "{said}");
        with("\n", "\n").unwrap();
        // A cohort that the constants were not fitted with.
        let cohort = dir.path().join(COHORT);
        let mut bytes = std::fs::read(&cohort).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&cohort, &bytes).unwrap();
        pin(dir.path());
        assert!(matches!(load(dir.path()), Err(CalibrationError::CohortHash { .. })));
        bytes[100] ^= 1;
        std::fs::write(&cohort, bytes).unwrap();
        // A compensation that they were not fitted with.
        let channels = dir.path().join(CHANNELS);
        let mut bytes = std::fs::read(&channels).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&channels, bytes).unwrap();
        pin(dir.path());
        assert!(matches!(load(dir.path()), Err(CalibrationError::Channels { .. })));
    }

    /// Through a telephone: 300 to 3400 Hz, by a windowed sinc.
    fn telephone(samples: &[f32]) -> Vec<f32> {
        const REACH: i32 = 60;
        let low_pass = |edge_hz: f32, n: i32| {
            let step = 2.0 * edge_hz / 16_000.0;
            let x = std::f32::consts::PI * step * n as f32;
            step * if n == 0 { 1.0 } else { x.sin() / x }
        };
        let taps: Vec<f32> = (-REACH..=REACH)
            .map(|n| {
                let window = 0.5 + 0.5 * (std::f32::consts::PI * n as f32 / (REACH + 1) as f32).cos();
                window * (low_pass(3_400.0, n) - low_pass(300.0, n))
            })
            .collect();
        let padded = [&[0.0; REACH as usize], samples, &[0.0; REACH as usize]].concat();
        padded.windows(taps.len()).map(|w| w.iter().zip(&taps).map(|(a, b)| a * b).sum()).collect()
    }

    /// Three women and three men who are in the data of neither the compensation nor the constants. With the
    /// constants of version 1 (2026-11) and all on the telephone four of the 30 strangers were let in, and an
    /// owner who came by telephone alone had 0.05.
    #[test]
    fn one_band_for_all_lets_no_stranger_in_and_another_band_makes_no_owner_a_sure_stranger() {
        const READERS: [&str; 6] = [
            "1116-132847-0000",
            "150-126107-0000",
            "1737-142396-0000",
            "2514-149482-0000",
            "2843-152918-0000",
            "307-127535-0000",
        ];
        let (model, calibration) = (testing::model(), testing::calibration());
        let voice = |samples: &[f32], speech: &[f32]| {
            let net = NetSpeech::of(samples, speech);
            (model.embed_net(&net).unwrap(), net.quality)
        };
        let mut people = Vec::new();
        for reader in READERS {
            let path = format!("audio/librispeech_train_clean_1each/{reader}.flac");
            let Some((samples, speech)) = testing::recording(&path) else { return };
            let called = telephone(&samples[..105_600]);
            let enrolled = [&samples, &called].map(|sound| {
                let (embedding, quality) = voice(&sound[..64_000], &speech[..400]);
                Template::new(model.identity().clone(), vec![Prototype { embedding, quality }]).unwrap()
            });
            let tests = [&samples, &called].map(|sound| voice(&sound[70_400..102_400], &speech[440..640]).0);
            people.push((enrolled, tests));
        }
        let confidence = |test: &Embedding, template: &Template| {
            let score = calibration.score(test, calibration.impostors(test), template);
            calibration.confidence(score, 2.0).0
        };
        for (enrolled, tested) in [(0, 0), (1, 1), (0, 1)] {
            for (owner, (templates, _)) in people.iter().enumerate() {
                for (speaker, (_, tests)) in people.iter().enumerate() {
                    let p = confidence(&tests[tested], &templates[enrolled]);
                    let pair = format!("{enrolled} {tested}: {speaker} on {owner}: {p}");
                    assert!(if speaker == owner { p >= 0.3 } else { p < 0.85 }, "{pair}");
                    assert!(speaker != owner || enrolled != tested || p >= 0.85, "{pair}");
                }
            }
        }
    }

    #[test]
    fn a_compensation_is_read_strictly_and_one_that_does_nothing_changes_nothing() {
        let voice = sample(3, 1).centroid().clone();
        assert!(Compensation::none().apply(&voice).cosine(&voice) > 0.9999);
        let good = std::fs::read(testing::model_dirs()[0].join(CHANNELS)).unwrap();
        let shipped = Compensation::from_bytes(&good).unwrap();
        let turned = shipped.apply(&voice);
        assert!((turned.cosine(&turned) - 1.0).abs() < 1e-4);
        assert!(Compensation::from_bytes(&good[..good.len() - 1]).is_none());
        assert!(Compensation::from_bytes(&[&good[..], &[0]].concat()).is_none());
        let mut not_a_number = good;
        not_a_number[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(Compensation::from_bytes(&not_a_number).is_none());
    }
}
