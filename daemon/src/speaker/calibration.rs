//! From a cosine to a probability that means what it says.
//!
//! ```text
//!  cosine s ─▶ s' = ½ (s − μ_template)/σ_template + ½ (s − μ_test)/σ_test      adaptive s-norm over the cohort
//!  P = sigmoid(a·s' + b + c·ln(net s) + d·s)                                    equal priors
//! ```
//!
//! `μ`, `σ` are over the `top` cohort voices nearest to the template or the test (adaptive symmetric normalisation: Matějka
//! et al., "Analysis of score normalization in multilingual speaker recognition", 2017). The cohort ships with the
//! program, so one enrolled person is enough. Cohort and constants are fitted by `scripts/calibrate.sh` and belong to one
//! model and one front end; a file made for another pair is refused.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::embedding::{DIMENSIONS, Embedding, ModelIdentity, hex};
use super::template::Template;

/// Where the constants are, below a model folder.
pub const FILE: &str = "calibration/campplus.toml";
const MAGIC: &[u8; 4] = b"JVCO";
const LARGEST_COHORT: usize = 4_096;

/// Why the calibration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    #[error("{FILE} is in none of {}; reinstall the package, or run scripts/calibrate.sh", list(.dirs))]
    Missing { dirs: Vec<PathBuf> },
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not a calibration of this version; restore it from the package", .path.display())]
    Constants { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{} is not the cohort that the constants were fitted with: its SHA-256 is {found}, expected {expected}; restore it from the package", .path.display())]
    CohortHash { path: PathBuf, expected: String, found: String },
    #[error("{} is not a cohort file: {what}; restore it from the package", .path.display())]
    Cohort { path: PathBuf, what: &'static str },
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
    pub constants: Constants,
    /// What the constants were fitted with and how they did on the held-out part.
    pub fitted: toml::Table,
}

/// The logistic model's weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    /// Weight of the normalised score.
    pub a: f64,
    /// Constant.
    pub b: f64,
    /// Weight of ln(net speech in seconds).
    pub c: f64,
    /// Weight of the raw cosine.
    pub d: f64,
}

/// Range of net speech the constants were fitted on: outside it they are used as at its edge, so that an extrapolated
/// length never makes a verdict more certain.
const FITTED_NET_S: (f64, f64) = (1.0, 5.0);

impl Constants {
    /// The features that [`Constants::log_odds`] weighs with a, b, c, d.
    pub fn features(score: Score, net_speech_s: f32) -> [f64; 4] {
        let net = f64::from(net_speech_s).clamp(FITTED_NET_S.0, FITTED_NET_S.1);
        [f64::from(score.normalised), 1.0, net.ln(), f64::from(score.cosine)]
    }

    /// ln(P / (1 − P)).
    pub fn log_odds(&self, score: Score, net_speech_s: f32) -> f64 {
        let [s, one, ln_net, cosine] = Self::features(score, net_speech_s);
        self.a * s + self.b * one + self.c * ln_net + self.d * cosine
    }
}

/// A comparison of a test with a template.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// -1 to 1.
    pub cosine: f32,
    /// In standard deviations of impostor scores.
    pub normalised: f32,
}

/// Voices that are surely not the person: what a score is normalised against.
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

    /// Strict inverse of [`Cohort::to_bytes`]; says what is wrong.
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

/// Cohort and constants, checked against each other.
#[derive(Debug, Clone)]
pub struct Calibration {
    identity: ModelIdentity,
    cohort: Cohort,
    cohort_top: usize,
    constants: Constants,
}

impl Calibration {
    pub fn new(identity: ModelIdentity, cohort: Cohort, cohort_top: usize, constants: Constants) -> Self {
        Self { identity, cohort, cohort_top, constants }
    }

    /// Reads [`FILE`] in the first of `dirs` (model folders) that has it, and the cohort beside it, and checks both.
    pub fn load(dirs: &[PathBuf]) -> Result<Self, CalibrationError> {
        let path = dirs
            .iter()
            .map(|dir| dir.join(FILE))
            .find(|path| path.exists())
            .ok_or_else(|| CalibrationError::Missing { dirs: dirs.to_vec() })?;
        let text = std::fs::read_to_string(&path)
            .map_err(|source| CalibrationError::Read { path: path.clone(), source })?;
        let file: CalibrationFile = toml::from_str(&text)
            .map_err(|source| CalibrationError::Constants { path: path.clone(), source: source.into() })?;
        let bad = |what| CalibrationError::Value { path: path.clone(), what };
        if file.version != 1 {
            return Err(bad("it has another version than 1"));
        }
        let k = file.constants;
        if ![k.a, k.b, k.c, k.d].iter().all(|v| v.is_finite()) || k.a < 0.0 || k.d < 0.0 || k.a + k.d <= 0.0 {
            return Err(bad("its constants would not make a higher score more likely"));
        }
        if Path::new(&file.cohort_file).file_name() != Some(file.cohort_file.as_ref()) {
            return Err(bad("cohort_file must be a file beside it"));
        }
        let cohort_path = path.with_file_name(&file.cohort_file);
        let bytes = std::fs::read(&cohort_path)
            .map_err(|source| CalibrationError::Read { path: cohort_path.clone(), source })?;
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
        let identity =
            ModelIdentity { model_sha256: file.model_sha256, front_end_sha256: file.front_end_sha256 };
        Ok(Self::new(identity, cohort, file.cohort_top, file.constants))
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
        Score { cosine, normalised: normalise(cosine, test_impostors, own) }
    }

    /// Probability, at equal priors, that test and template are the same person; and its log odds.
    pub fn confidence(&self, score: Score, net_speech_s: f32) -> (f32, f64) {
        let log_odds = self.constants.log_odds(score, net_speech_s);
        (sigmoid(log_odds), log_odds)
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

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::template::tests::sample;
    use crate::speaker::testing;

    #[test]
    fn the_shipped_calibration_belongs_to_the_shipped_model() {
        let calibration = testing::calibration();
        assert_eq!(calibration.identity(), testing::model().identity());
    }

    #[test]
    fn likeness_and_only_likeness_makes_a_person_more_likely() {
        let calibration = testing::calibration();
        for net in [1.0, 2.0, 5.0, 30.0] {
            let mut before = 0.0;
            for step in 0..20 {
                let cosine = step as f32 * 0.05;
                let (p, log_odds) = calibration.confidence(Score { cosine, normalised: cosine * 15.0 }, net);
                assert!((0.0..=1.0).contains(&p) && p >= before && log_odds.is_finite());
                before = p;
            }
            assert!(before > 0.99);
        }
    }

    #[test]
    fn length_outside_what_was_fitted_makes_nothing_more_certain() {
        let calibration = testing::calibration();
        let score = Score { cosine: 0.5, normalised: 5.0 };
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

    #[test]
    fn missing_changed_and_nonsensical_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let load = || Calibration::load(&[dir.path().to_path_buf()]);
        assert!(matches!(load(), Err(CalibrationError::Missing { .. })));
        let shipped = testing::model_dirs()[0].join("calibration");
        std::fs::create_dir(dir.path().join("calibration")).unwrap();
        for name in ["campplus.toml", "campplus.cohort.bin"] {
            std::fs::copy(shipped.join(name), dir.path().join("calibration").join(name)).unwrap();
        }
        load().unwrap();
        let constants = dir.path().join(FILE);
        let good = std::fs::read_to_string(&constants).unwrap();
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            std::fs::write(&constants, good.replace(from, to)).unwrap();
            load()
        };
        assert!(matches!(with("\na = ", "\na = -"), Err(CalibrationError::Value { .. })));
        assert!(matches!(with("\na = ", "\nz = "), Err(CalibrationError::Constants { .. })));
        assert!(matches!(with("version = 1", "version = 2"), Err(CalibrationError::Value { .. })));
        assert!(matches!(
            with("\"campplus.cohort.bin\"", "\"../calibration/campplus.cohort.bin\""),
            Err(CalibrationError::Value { .. })
        ));
        std::fs::write(&constants, &good).unwrap();
        let cohort = dir.path().join("calibration/campplus.cohort.bin");
        let mut bytes = std::fs::read(&cohort).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&cohort, bytes).unwrap();
        assert!(matches!(load(), Err(CalibrationError::CohortHash { .. })));
    }
}
