//! The template of an enrolled voice: a few embeddings, the quality of their samples, and the model that made
//! them.
//!
//! ```text
//!  byte   0     4         5       6..38          38..70            70 + i · 796 (n times)
//!        "JVPT" version n         model sha256   front-end sha256  f32 net_speech_s, snr_db, level_db, clipped,
//!                                                                  high, low, range; f32[192]
//! ```
//!
//! `high`, `low` and `range` are the sample's [`Acoustics`], 0 where they are not known. Version 1 had none
//! of them (784 bytes a sample) and is read as well. Little-endian. The length must match `n` exactly, every
//! number must be finite and every embedding of length 1: a template is parsed only after its seal was found
//! intact, and still no number in it is trusted.

use zeroize::Zeroize;

use super::embedding::{DIMENSIONS, Embedding, ModelIdentity};
use super::fbank::Acoustics;
use super::speech::Quality;
use crate::text::hex;

const MAGIC: &[u8; 4] = b"JVPT";
const VERSION: u8 = 2;
/// The version before the acoustics.
const VERSION_WITHOUT_ACOUSTICS: u8 = 1;
const HEADER_BYTES: usize = 70;
const PROTOTYPE_NUMBERS: usize = 7 + DIMENSIONS;
/// Most samples a template is made of.
pub const MOST_PROTOTYPES: usize = 16;

/// One enrolment sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Prototype {
    pub embedding: Embedding,
    pub quality: Quality,
}

/// An enrolled voice. Its `Debug` shows no embedding; its bytes belong only in the vault.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    identity: ModelIdentity,
    prototypes: Vec<Prototype>,
    centroid: Embedding,
}

/// Why bytes are not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the voiceprint is not one of this program")]
    NotATemplate,
    #[error(
        "the voiceprint has version {found}, this program reads version {VERSION}; enrol the voice again"
    )]
    Version { found: u8 },
    #[error("the voiceprint is damaged: {what}; enrol the voice again")]
    Damaged { what: &'static str },
}

impl Template {
    /// `None` without prototypes, with more than [`MOST_PROTOTYPES`], or if they cancel each other out.
    pub fn new(identity: ModelIdentity, prototypes: Vec<Prototype>) -> Option<Self> {
        if prototypes.is_empty() || prototypes.len() > MOST_PROTOTYPES {
            return None;
        }
        let centroid = Embedding::mean(prototypes.iter().map(|p| &p.embedding))?;
        Some(Self { identity, prototypes, centroid })
    }

    /// This voice with one sample more; `None` as for [`Template::new`].
    pub fn and(&self, sample: &Prototype) -> Option<Self> {
        let samples = self.prototypes.iter().chain([sample]).cloned().collect();
        Self::new(self.identity.clone(), samples)
    }

    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    pub fn prototypes(&self) -> &[Prototype] {
        &self.prototypes
    }

    /// The mean voice: a test is compared with it.
    pub fn centroid(&self) -> &Embedding {
        &self.centroid
    }

    /// Net speech of all samples, in seconds.
    pub fn net_speech_s(&self) -> f32 {
        // The sum of nothing is a negative zero.
        self.prototypes.iter().map(|p| p.quality.net_speech_s).fold(0.0, |sum, s| sum + s)
    }

    /// The agreement of the samples: the least cosine of a sample to the mean of the others; 1 for a single
    /// sample.
    pub fn cohesion(&self) -> f32 {
        (0..self.prototypes.len())
            .filter_map(|i| {
                let others = self.prototypes.iter().enumerate().filter(|(j, _)| *j != i);
                let mean = Embedding::mean(others.map(|(_, p)| &p.embedding))?;
                self.prototypes.get(i).map(|p| p.embedding.cosine(&mean))
            })
            .fold(1.0, f32::min)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.prototypes.len() * 4 * PROTOTYPE_NUMBERS);
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.push(u8::try_from(self.prototypes.len()).unwrap_or(u8::MAX));
        for hash in [&self.identity.model_sha256, &self.identity.front_end_sha256] {
            bytes.extend(unhex(hash).unwrap_or([0; 32]));
        }
        for prototype in &self.prototypes {
            let q = prototype.quality;
            let known = prototype.embedding.acoustics();
            let [high, low, range] = known.map_or([0.0; 3], |a| [a.high, a.low, a.range]);
            let numbers = [q.net_speech_s, q.snr_db, q.level_db, q.clipped, high, low, range];
            for value in numbers.iter().chain(prototype.embedding.values()) {
                bytes.extend(value.to_le_bytes());
            }
        }
        bytes
    }

    /// Strict inverse of [`Template::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TemplateError> {
        let damaged = |what| TemplateError::Damaged { what };
        let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(TemplateError::NotATemplate);
        };
        let (Some(magic), Some([version, count])) = (header.get(..4), header.get(4..6)) else {
            return Err(TemplateError::NotATemplate);
        };
        if magic != MAGIC {
            return Err(TemplateError::NotATemplate);
        }
        let numbers = match *version {
            VERSION => PROTOTYPE_NUMBERS,
            VERSION_WITHOUT_ACOUSTICS => PROTOTYPE_NUMBERS - 3,
            found => return Err(TemplateError::Version { found }),
        };
        let count = usize::from(*count);
        if count == 0 || count > MOST_PROTOTYPES {
            return Err(damaged("a number of samples that cannot be"));
        }
        if body.len() != count * 4 * numbers {
            return Err(damaged("its length does not match its number of samples"));
        }
        let identity = ModelIdentity {
            model_sha256: hex(header.get(6..38).unwrap_or_default()),
            front_end_sha256: hex(header.get(38..70).unwrap_or_default()),
        };
        let prototypes = body.chunks_exact(4 * numbers).map(prototype).collect::<Option<Vec<_>>>();
        prototypes.and_then(|p| Self::new(identity, p)).ok_or_else(|| damaged("numbers that no voice gives"))
    }
}

/// A sample of either version; its length tells which.
fn prototype(bytes: &[u8]) -> Option<Prototype> {
    let mut numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let parsed = (|| {
        let (&[net_speech_s, snr_db, level_db, clipped], rest) = numbers.split_first_chunk::<4>()?;
        let (&[high, low, range], values) = match rest.len() {
            DIMENSIONS => (&[0.0; 3], rest),
            _ => rest.split_first_chunk::<3>()?,
        };
        let known = range > 0.0;
        let quality = Quality { net_speech_s, snr_db, level_db, clipped };
        let sane = net_speech_s.is_finite()
            && (0.0..=3_600.0).contains(&net_speech_s)
            && (-200.0..=200.0).contains(&snr_db)
            && (-200.0..=20.0).contains(&level_db)
            && (0.0..=1.0).contains(&clipped)
            && [high, low].iter().all(|v| (-100.0..=100.0).contains(v))
            && (0.0..=100.0).contains(&range);
        let length = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        // Kept bit for bit, so that a template is the same before and after storage.
        let embedding = Embedding::exact(values)?.heard_in(known.then_some(Acoustics { high, low, range }));
        (sane && (length - 1.0).abs() < 1e-3).then_some(Prototype { embedding, quality })
    })();
    numbers.zeroize();
    parsed
}

/// 32 bytes from 64 hexadecimal digits.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::speaker) fn sample(seed: u32, prototypes: usize) -> Template {
        let mut state = seed.wrapping_add(1);
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let identity = ModelIdentity { model_sha256: "ab".repeat(32), front_end_sha256: "01".repeat(32) };
        let quality = Quality { net_speech_s: 3.5, level_db: -23.0, snr_db: 35.0, clipped: 0.0 };
        let prototypes = (0..prototypes)
            .map(|_| {
                let values: Vec<f32> = (0..DIMENSIONS).map(|_| next()).collect();
                let embedding = Embedding::normalised(&values).unwrap();
                let acoustics = Acoustics { high: -1.5, low: -3.5, range: 7.25 };
                Prototype { embedding: embedding.heard_in(Some(acoustics)), quality }
            })
            .collect();
        Template::new(identity, prototypes).unwrap()
    }

    #[test]
    fn a_template_survives_its_bytes() {
        for n in [1, 3, MOST_PROTOTYPES] {
            let template = sample(7, n);
            assert_eq!(Template::from_bytes(&template.to_bytes()).unwrap(), template);
        }
    }

    #[test]
    fn a_voice_that_was_stored_before_the_acoustics_is_still_one() {
        let template = sample(7, 3);
        let new = template.to_bytes();
        let mut old = new[..HEADER_BYTES].to_vec();
        old[4] = VERSION_WITHOUT_ACOUSTICS;
        for sample in new[HEADER_BYTES..].chunks_exact(4 * PROTOTYPE_NUMBERS) {
            old.extend(&sample[..16]);
            old.extend(&sample[28..]);
        }
        let read = Template::from_bytes(&old).unwrap();
        assert_eq!(read.centroid().values(), template.centroid().values());
        assert_eq!(read.centroid().acoustics(), None);
        assert_eq!(read.net_speech_s(), template.net_speech_s());
        assert!(Template::from_bytes(&old[..old.len() - 4]).is_err());
        // Stored again it is of this version, and unknown acoustics stay unknown; later samples may know
        // them.
        assert_eq!(Template::from_bytes(&read.to_bytes()).unwrap(), read);
        let mixed = [read.prototypes(), template.prototypes()].concat();
        let mixed = Template::new(read.identity().clone(), mixed).unwrap();
        assert_eq!(mixed.centroid().acoustics(), template.centroid().acoustics());
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let bytes = sample(1, 3).to_bytes();
        for length in 0..bytes.len() {
            assert!(Template::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(Template::from_bytes(&[bytes.clone(), vec![0]].concat()).is_err());
    }

    #[test]
    fn headers_and_numbers_that_cannot_be_are_refused() {
        let good = sample(1, 2).to_bytes();
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            Template::from_bytes(&bytes)
        };
        assert_eq!(with(0, b"X"), Err(TemplateError::NotATemplate));
        assert_eq!(with(4, &[3]), Err(TemplateError::Version { found: 3 }));
        for count in [0, 1, 3, 17, 255] {
            assert!(matches!(with(5, &[count]), Err(TemplateError::Damaged { .. })), "{count} samples");
        }
        for value in [f32::NAN, f32::INFINITY, -1.0, 1e9] {
            assert!(matches!(with(70, &value.to_le_bytes()), Err(TemplateError::Damaged { .. })));
        }
        for value in [f32::NAN, f32::INFINITY, -1.0, 1e9] {
            assert!(matches!(with(94, &value.to_le_bytes()), Err(TemplateError::Damaged { .. })));
        }
        for value in [f32::NAN, f32::NEG_INFINITY, 3.0] {
            assert!(matches!(with(102, &value.to_le_bytes()), Err(TemplateError::Damaged { .. })));
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 1u64;
        for round in 0..2_000usize {
            let bytes: Vec<u8> = (0..round % 1_700)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let mut framed = b"JVPT\x02".to_vec();
            framed.extend(&bytes);
            assert!(Template::from_bytes(&bytes).is_err());
            assert!(Template::from_bytes(&framed).is_err());
        }
    }

    #[test]
    fn printing_a_template_shows_no_voice() {
        let template = sample(3, 2);
        let value = format!("{:?}", template.centroid().values()[0]);
        assert!(!format!("{template:?}").contains(&value));
    }
}
