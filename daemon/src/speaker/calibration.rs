//! From a cosine to a probability that means what it says.
//!
//! ```text
//!  cosine s ─▶ s' = ½ (s − μ_template)/σ_template + ½ (s − μ_test)/σ_test      adaptive s-norm over the cohort
//!  P = sigmoid(a·s' + b + c·ln(net s) + d·s)                                    equal priors
//! ```
//!
//! `μ`, `σ` are over the `top` cohort voices nearest to the template or the test (adaptive symmetric normalisation: Matějka
//! et al., "Analysis of score normalization in multilingual speaker recognition", 2017). The cohort ships with the
//! program, so one enrolled person is enough. Cohort and constants are fitted by `scripts/calibrate.sh`, belong to one model
//! and one front end, and are pinned by hash in the manifest like the model itself: a file that was changed, or made for
//! another pair, is refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::embedding::{DIMENSIONS, Embedding, ModelIdentity, hex};
use super::template::Template;
use crate::error::TomlFault;
use crate::inference::{ModelError, ModelStore};

/// Names of the constants and of the cohort in `models/manifest.toml`.
pub const CONSTANTS_NAME: &str = "campplus-calibration";
pub const COHORT_NAME: &str = "campplus-cohort";
const MAGIC: &[u8; 4] = b"JVCO";
const LARGEST_COHORT: usize = 4_096;

/// Why the calibration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    #[error("the calibration of the speaker check cannot be used")]
    Pinned(#[source] ModelError),
    #[error("{} is not a calibration of this version; restore it from the package", .path.display())]
    Constants { path: PathBuf, source: TomlFault },
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

    /// Reads constants and cohort, whose hashes the manifest pins, and checks them against each other.
    ///
    /// # Errors
    /// A file that is missing, is not the pinned one, or does not belong to the other.
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
        if file.version != 1 {
            return Err(bad("it has another version than 1"));
        }
        let k = file.constants;
        if ![k.a, k.b, k.c, k.d].iter().all(|v| v.is_finite()) || k.a < 0.0 || k.d < 0.0 || k.a + k.d <= 0.0 {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::inference::{MANIFEST, Manifest};
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

    const CONSTANTS: &str = "calibration/campplus.toml";
    const COHORT: &str = "calibration/campplus.cohort.bin";

    /// A model folder with the shipped calibration, whose manifest pins nothing else.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("calibration")).unwrap();
        let shipped = &testing::model_dirs()[0];
        for file in [CONSTANTS, COHORT, MANIFEST] {
            std::fs::copy(shipped.join(file), dir.path().join(file)).unwrap();
        }
        dir
    }

    fn load(dir: &Path) -> Result<Calibration, CalibrationError> {
        Calibration::load(&ModelStore::open(&[dir.to_path_buf()]).unwrap())
    }

    /// Makes the manifest pin what is there now.
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
        for (file, change) in [(CONSTANTS, "a = 9.0"), (COHORT, "")] {
            let dir = folder();
            load(dir.path()).unwrap();
            let path = dir.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            match change {
                "" => bytes[100] ^= 1,
                line => {
                    let text = String::from_utf8(bytes).unwrap();
                    let old = text.lines().find(|l| l.starts_with("a = ")).unwrap();
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
        assert!(matches!(with("\na = ", "\na = -"), Err(CalibrationError::Value { .. })));
        assert!(matches!(with("version = 1", "version = 2"), Err(CalibrationError::Value { .. })));
        let error = with("\na = ", "\nz = ").unwrap_err();
        assert!(matches!(error, CalibrationError::Constants { .. }));
        let said = crate::error::chain(&error);
        assert!(said.contains("line ") && !said.contains('\n'), "{said}");
        with("\n", "\n").unwrap();
        // A cohort that the constants were not fitted with.
        let cohort = dir.path().join(COHORT);
        let mut bytes = std::fs::read(&cohort).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&cohort, bytes).unwrap();
        pin(dir.path());
        assert!(matches!(load(dir.path()), Err(CalibrationError::CohortHash { .. })));
    }
}
