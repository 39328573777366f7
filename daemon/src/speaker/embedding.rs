//! From net speech to 192 numbers that point in the direction of a voice.
//!
//! ```text
//!  samples ─▶ fbank [T, 80] ─▶ − mean ─▶ mean frames up to the next plan length (T ≤ longest) ─▶ CAM++ ─▶ L2 = 1
//!                                        evenly spread windows of the longest (T > longest)   ─▶ CAM++ ─▶ L2, mean ─▶ L2 = 1
//! ```
//!
//! CAM++ (Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
//! Masking", 2023) takes any number of frames; the calibration is fitted to embeddings of two lengths.
//! `docs/lab/speaker-version-1.md` has the measurements behind these lengths, and behind padding with the
//! mean frame rather than repeating the speech. The network itself is [`jarvis_kernels::campplus`].

use std::ops::Range;

pub use jarvis_kernels::campplus::DIMENSIONS;
use jarvis_kernels::campplus::{self, Channels, Network};
use sha2::{Digest, Sha256};

use super::SpeakerError;
use super::aside;
use super::fbank::{Acoustics, DESCRIPTION, Fbank};
use super::speech::NetSpeech;
use crate::inference::{ModelError, ModelStore};
use crate::supervisor::guarded;
use crate::text::hex;
use crate::units::SAMPLE_RATE_HZ;

/// Name of the model in `models/manifest.toml`.
pub const MODEL_NAME: &str = "campplus";
/// Lengths that speech is padded to or windowed by, in 10 ms frames, rising.
pub const PLAN_FRAMES: [usize; 2] = [200, 300];

/// The way to extend speech that is shorter than a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// With the mean frame (zeros after mean normalisation).
    Mean,
    /// By repeating the speech.
    Wrap,
}

/// Most windows that a long stretch of speech is cut into. More speech says nothing new about a voice and
/// would make the cost of a long recording unbounded.
const MOST_WINDOWS: usize = 8;
/// Speech beyond this is not looked at.
const LONGEST_S: usize = 60;

/// A voice as a direction: 192 numbers with Euclidean length 1, and the acoustics of its sound, where they
/// are known.
#[derive(Clone, PartialEq)]
pub struct Embedding {
    values: [f32; DIMENSIONS],
    acoustics: Option<Acoustics>,
}

impl std::fmt::Debug for Embedding {
    /// Biometric: never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Embedding(..)")
    }
}

impl Embedding {
    /// Scales `values` to length 1. `None` if they are not 192 finite numbers, or have no length.
    pub fn normalised(values: &[f32]) -> Option<Self> {
        let mut out: [f32; DIMENSIONS] = values.try_into().ok()?;
        let length = out.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if !length.is_finite() || length < 1e-6 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the ratio is at most 1")]
        for v in &mut out {
            *v = (f64::from(*v) / length) as f32;
        }
        Some(Self { values: out, acoustics: None })
    }

    /// The same voice, heard in such sound.
    pub fn heard_in(self, acoustics: Option<Acoustics>) -> Self {
        Self { acoustics, ..self }
    }

    pub fn acoustics(&self) -> Option<Acoustics> {
        self.acoustics
    }

    /// Takes `values` as they are. `None` if they are not 192 finite numbers; the caller checks their length.
    pub(super) fn exact(values: &[f32]) -> Option<Self> {
        let values: [f32; DIMENSIONS] = values.try_into().ok()?;
        values.iter().all(|v| v.is_finite()).then_some(Self { values, acoustics: None })
    }

    /// The direction of the sum: the mean voice of several embeddings. `None` for none, or if they cancel
    /// out.
    pub fn mean<'a>(embeddings: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut sum = [0f32; DIMENSIONS];
        let mut sounds = Vec::new();
        for embedding in embeddings {
            for (sum, value) in sum.iter_mut().zip(&embedding.values) {
                *sum += value;
            }
            sounds.extend(embedding.acoustics);
        }
        Some(Self::normalised(&sum)?.heard_in(Acoustics::mean(sounds)))
    }

    /// Cosine of the angle between two voices, -1 to 1.
    pub fn cosine(&self, other: &Self) -> f32 {
        self.values.iter().zip(&other.values).map(|(a, b)| a * b).sum()
    }

    pub fn values(&self) -> &[f32; DIMENSIONS] {
        &self.values
    }
}

/// The frames of a piece of speech, and its voice.
pub type Piece = (Range<usize>, Embedding);

/// A pass of the network over speech; voices of its parts can be pooled at next to no cost.
pub(super) struct Pass {
    /// The frames of each window, and the network's channels for them.
    windows: Vec<(Range<usize>, Channels)>,
}

/// The model and the front end that an embedding comes from. Embeddings of different identities do not
/// compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// SHA-256 of the model file, lower-case hexadecimal.
    pub model_sha256: String,
    /// SHA-256 of the front end's description, lower-case hexadecimal.
    pub front_end_sha256: String,
}

/// CAM++ with its front end, ready for any length of speech. Shared between threads.
#[derive(Debug)]
pub struct SpeakerModel {
    fbank: Fbank,
    padding: Padding,
    lengths: Vec<usize>,
    network: Network,
    identity: ModelIdentity,
}

impl SpeakerModel {
    /// Checks the model's hash and takes its weights over.
    pub fn load(store: &ModelStore) -> Result<Self, SpeakerError> {
        Self::load_with(store, &PLAN_FRAMES, Padding::Mean)
    }

    /// [`SpeakerModel::load`] with other plan lengths (rising) or padding: for measurements, as the
    /// calibration fits one choice only.
    pub fn load_with(
        store: &ModelStore,
        plan_frames: &[usize],
        padding: Padding,
    ) -> Result<Self, SpeakerError> {
        let entry = store.entry(MODEL_NAME).ok_or(SpeakerError::NotInManifest)?;
        let bytes = store.read(MODEL_NAME).map_err(SpeakerError::Model)?;
        let refused =
            |source| SpeakerError::Model(ModelError::Parse { path: entry.file.clone().into(), source });
        let network = guarded(|| Network::from_onnx(&bytes)).map_err(|caught| refused(caught.into()))?;
        let network = network.map_err(|source| refused(source.into()))?;
        let identity = ModelIdentity {
            model_sha256: entry.sha256.clone(),
            front_end_sha256: front_end_sha256(plan_frames, padding),
        };
        Ok(Self { fbank: Fbank::default(), padding, lengths: plan_frames.to_vec(), network, identity })
    }

    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// The network's own result for features of [frames, 80], to be compared with a recorded one.
    ///
    /// # Errors
    /// [`SpeakerError::Model`] for features that are no frames.
    pub fn raw(&self, features: &[f32]) -> Result<[f32; DIMENSIONS], SpeakerError> {
        Ok(self.network.run(features).map_err(failed)?.0)
    }

    /// The names of the matrix kernels that were chosen for this processor, each once.
    pub fn kernels(&self) -> Vec<&str> {
        let mut names = self.network.kernels().to_vec();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The embedding of net speech (see [`NetSpeech`]), 16 kHz mono in [-1, 1], not denoised. A function of
    /// the samples alone. Speech beyond 60 s is ignored.
    ///
    /// # Errors
    /// [`SpeakerError::NoSpeech`] below one analysis window (25 ms); [`SpeakerError::Model`] if the model
    /// fails.
    pub fn embed(&self, samples: &[f32]) -> Result<Embedding, SpeakerError> {
        Ok(self.pass(samples, &self.lengths)?.0)
    }

    /// [`SpeakerModel::embed`] without padding, which for a short piece takes a fraction of the time. The
    /// calibration is not fitted to it.
    ///
    /// # Errors
    /// As [`SpeakerModel::embed`].
    pub(super) fn embed_exact(&self, samples: &[f32]) -> Result<Embedding, SpeakerError> {
        let longest = self.lengths.last().copied().unwrap_or(0);
        let frames = Fbank::frames_of(samples.len()).clamp(1, longest.max(1));
        Ok(self.pass(samples, &[frames])?.0)
    }

    /// [`SpeakerModel::embed`], and the embeddings of each second of it, from the same pass: they cost next
    /// to nothing, and include a little of the sound around them. The frames are those of the whole. Speech
    /// longer than a plan is embedded in overlapping windows, and has pieces of each.
    ///
    /// # Errors
    /// As [`SpeakerModel::embed`].
    pub fn embed_pieces(&self, samples: &[f32]) -> Result<(Embedding, Vec<Piece>), SpeakerError> {
        let (voice, pass) = self.embed_pass(samples)?;
        let pieces = self.pieces(&pass, |window| aside::pieces(window.len()))?;
        Ok((voice, pieces))
    }

    /// [`SpeakerModel::embed`], and the pass itself, for [`SpeakerModel::pieces`] and
    /// [`SpeakerModel::pooled`].
    pub(super) fn embed_pass(&self, samples: &[f32]) -> Result<(Embedding, Pass), SpeakerError> {
        self.pass(samples, &self.lengths)
    }

    /// The voices of the ranges that `of` names for each window of a pass, counted from its first frame.
    pub(super) fn pieces(
        &self,
        pass: &Pass,
        of: impl Fn(&Range<usize>) -> Vec<Range<usize>>,
    ) -> Result<Vec<Piece>, SpeakerError> {
        let mut found = Vec::new();
        for (window, channels) in &pass.windows {
            for part in of(window) {
                let frames = part.start + window.start..part.end + window.start;
                found.push((frames, voice(&self.network.pool(channels, part).map_err(failed)?)?));
            }
        }
        Ok(found)
    }

    /// The voice of these frames, out of the window that holds most of them; `None` where none holds enough.
    pub(super) fn pooled(&self, pass: &Pass, frames: &Range<usize>) -> Option<Embedding> {
        let inside = |window: &Range<usize>| {
            frames.start.clamp(window.start, window.end)..frames.end.clamp(window.start, window.end)
        };
        let (window, channels) = pass.windows.iter().max_by_key(|(window, _)| inside(window).len())?;
        let part = inside(window);
        let part = part.start - window.start..part.end - window.start;
        Embedding::normalised(&self.network.pool(channels, part).ok()?)
    }

    /// One pass over speech padded to one of `lengths`, or in windows of the last.
    fn pass(&self, samples: &[f32], lengths: &[usize]) -> Result<(Embedding, Pass), SpeakerError> {
        let samples = samples.get(..LONGEST_S * SAMPLE_RATE_HZ as usize).unwrap_or(samples);
        let mut features = self.fbank.compute(samples);
        let frames = features.frames();
        if frames == 0 {
            return Err(SpeakerError::NoSpeech);
        }
        let acoustics = features.acoustics();
        features.subtract_mean();
        let fitting = lengths.iter().find(|length| frames <= **length);
        let Some(&length) = fitting.or(lengths.last()) else { return Err(SpeakerError::NoSpeech) };
        let (mut voices, mut windows) = (Vec::new(), Vec::new());
        for start in window_starts(frames, length) {
            let input = match self.padding {
                Padding::Mean => features.padded(start, length),
                Padding::Wrap => features.wrapped(start, length),
            };
            let (whole, channels) = self.network.run(&input).map_err(failed)?;
            voices.push(voice(&whole)?);
            windows.push((start..start + length.min(frames - start), channels));
        }
        let voice = Embedding::mean(&voices).ok_or(SpeakerError::NoSpeech)?;
        Ok((voice.heard_in(acoustics), Pass { windows }))
    }

    /// [`SpeakerModel::embed`] of the speech in a stretch of sound.
    pub fn embed_net(&self, speech: &NetSpeech) -> Result<Embedding, SpeakerError> {
        self.embed(&speech.samples)
    }
}

fn voice(values: &[f32]) -> Result<Embedding, SpeakerError> {
    Embedding::normalised(values).ok_or(SpeakerError::NoSpeech)
}

fn failed(source: campplus::Error) -> SpeakerError {
    SpeakerError::Model(ModelError::Run { model: MODEL_NAME.into(), source: source.into() })
}

/// The starts of windows of `length` frames in `frames` frames: one if they fit in it, else evenly spread and
/// overlapping so that all frames are covered, at most [`MOST_WINDOWS`].
fn window_starts(frames: usize, length: usize) -> Vec<usize> {
    let rest = frames.saturating_sub(length);
    let gaps = rest.div_ceil(length.max(1)).min(MOST_WINDOWS - 1);
    (0..=gaps).map(|i| (rest * i).checked_div(gaps).unwrap_or(0)).collect()
}

/// The front end's identity: its parameters, the plan lengths and the padding, hashed.
fn front_end_sha256(plan_frames: &[usize], padding: Padding) -> String {
    let text = format!(
        "{DESCRIPTION}; plans {plan_frames:?}, padding {padding:?}, \
         evenly spread windows of the longest that cover all, at most {MOST_WINDOWS}"
    );
    hex(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::npy;
    use crate::speaker::testing;
    use crate::testdata::shared;

    #[test]
    fn windows_cover_everything_and_stay_few() {
        assert_eq!(window_starts(120, 400), [0]);
        assert_eq!(window_starts(400, 400), [0]);
        assert_eq!(window_starts(401, 400), [0, 1]);
        assert_eq!(window_starts(800, 400), [0, 400]);
        assert_eq!(window_starts(900, 400), [0, 250, 500]);
        let long = window_starts(6_000, 400);
        assert_eq!((long.len(), long[0], long[7]), (MOST_WINDOWS, 0, 5_600));
    }

    #[test]
    fn the_network_gives_the_reference_vectors_of_onnxruntime() {
        let Some(folder) = shared("models/ref") else { return };
        let network = Network::from_onnx(&testing::store().read(MODEL_NAME).unwrap()).unwrap();
        let mut seen = 0;
        loop {
            let part = |what: &str| folder.join(format!("campplus_dynT_f16w.{seen}.{what}.npy"));
            if !part("in.feats").exists() {
                break;
            }
            let (features, expected) = (npy::read(&part("in.feats")).1, npy::read(&part("out.embedding")).1);
            let ours = Embedding::normalised(&network.run(&features).unwrap().0).unwrap();
            let theirs = Embedding::normalised(&expected).unwrap();
            let apart =
                ours.values.iter().zip(&theirs.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-5, "vector {seen}: {apart}");
            seen += 1;
        }
        assert!(seen > 0, "there are vectors");
    }

    #[test]
    fn an_embedding_has_length_one_and_is_never_printed() {
        let e = Embedding::normalised(&[0.5; DIMENSIONS]).unwrap();
        assert!((e.cosine(&e) - 1.0).abs() < 1e-5);
        assert_eq!(format!("{e:?}"), "Embedding(..)");
        assert!(Embedding::normalised(&[0.0; DIMENSIONS]).is_none());
        assert!(Embedding::normalised(&[f32::NAN; DIMENSIONS]).is_none());
        assert!(Embedding::normalised(&[1.0; 5]).is_none());
    }

    #[test]
    fn the_same_voice_is_near_at_every_length_and_another_is_far() {
        let Some((a, b)) = testing::two_speakers() else { return };
        let model = testing::model();
        let whole = model.embed(&a).unwrap();
        for seconds in [2, 3, 5, 9] {
            let part = model.embed(&a[..(seconds * 16_000).min(a.len())]).unwrap();
            assert!(whole.cosine(&part) > 0.6, "{seconds} s: {}", whole.cosine(&part));
        }
        assert!(whole.cosine(&model.embed(&b).unwrap()) < 0.4);
        assert_eq!(model.embed(&a).unwrap(), whole, "the same sound gives the same numbers");
    }

    #[test]
    fn loudness_does_not_change_a_voice_and_no_sound_is_an_error() {
        let Some((a, _)) = testing::two_speakers() else { return };
        let model = testing::model();
        let quiet: Vec<f32> = a.iter().map(|s| s * 0.05).collect();
        assert!(model.embed(&a).unwrap().cosine(&model.embed(&quiet).unwrap()) > 0.97);
        assert!(matches!(model.embed(&[0.1; 399]), Err(SpeakerError::NoSpeech)));
    }
}
