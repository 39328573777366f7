//! Real speech and a loaded model for the tests of this module.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use super::calibration::{Constants, Widening};
use super::speech::NetSpeech;
use super::{Calibration, EnrolledVoice, OverlapModel, Prototype, SpeakerModel, Template};
use crate::inference::ModelStore;
use crate::testdata::shared;

pub fn model_dirs() -> Vec<PathBuf> {
    vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")]
}

pub fn store() -> ModelStore {
    ModelStore::open(&model_dirs()).unwrap()
}

pub fn calibration() -> Calibration {
    Calibration::load(&store()).unwrap()
}

/// Constants that weigh nothing but the cosine.
pub fn constants() -> Constants {
    let nothing = Widening { offset: 0.0, slope: 0.0 };
    Constants { b: 0.0, c: 0.0, d: 1.0, band: nothing, room: nothing, effort: nothing }
}

/// One model for all tests.
pub fn model() -> Arc<SpeakerModel> {
    static MODEL: LazyLock<Arc<SpeakerModel>> =
        LazyLock::new(|| Arc::new(SpeakerModel::load(&store()).unwrap()));
    MODEL.clone()
}

/// One segmentation network for all tests.
pub fn overlap() -> Arc<OverlapModel> {
    static MODEL: LazyLock<Arc<OverlapModel>> =
        LazyLock::new(|| Arc::new(OverlapModel::load(&store()).unwrap()));
    MODEL.clone()
}

/// A 16 kHz mono recording with a crude energy-based voice activity per 10 ms frame: enough for clean read
/// speech, and it keeps these tests independent of the VAD model.
pub fn recording(relative: &str) -> Option<(Vec<f32>, Vec<f32>)> {
    let samples = decode(&shared(relative)?);
    let powers: Vec<f32> =
        samples.chunks_exact(160).map(|f| f.iter().map(|s| s * s).sum::<f32>() / 160.0).collect();
    let loudest = powers.iter().copied().fold(0.0, f32::max);
    let speech = powers.iter().map(|p| if *p > loudest * 3e-4 { 0.95 } else { 0.05 }).collect();
    Some((samples, speech))
}

/// Net speech of two different readers.
pub fn two_speakers() -> Option<(Vec<f32>, Vec<f32>)> {
    let net = |name| {
        let (samples, speech) = recording(&format!("audio/librispeech_train_clean_1each/{name}.flac"))?;
        Some(NetSpeech::of(&samples, &speech).samples)
    };
    Some((net("103-1240-0000")?, net("1034-121119-0000")?))
}

fn decode(path: &Path) -> Vec<f32> {
    use symphonia::core::codecs::audio::AudioDecoderOptions;
    use symphonia::core::formats::{TrackType, probe::Hint};
    use symphonia::core::io::MediaSourceStream;

    let stream = MediaSourceStream::new(Box::new(std::fs::File::open(path).unwrap()), Default::default());
    let mut format = symphonia::default::get_probe()
        .probe(&Hint::new(), stream, Default::default(), Default::default())
        .unwrap();
    let track = format.default_track(TrackType::Audio).unwrap();
    let params = track.codec_params.as_ref().unwrap().audio().unwrap().clone();
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(&params, &AudioDecoderOptions::default())
        .unwrap();
    let mut samples = Vec::new();
    let mut block = Vec::new();
    while let Ok(Some(packet)) = format.next_packet() {
        decoder.decode(&packet).unwrap().copy_to_vec_interleaved::<f32>(&mut block);
        samples.extend_from_slice(&block);
    }
    samples
}

/// A reader; the first 6 s enrol.
pub struct Person {
    samples: Vec<f32>,
    speech: Vec<f32>,
}

/// The sentence of a reader.
pub struct Said {
    pub samples: Vec<f32>,
    pub speech: Vec<f32>,
}

const ENROLLED_FRAMES: usize = 600;

/// Three readers.
pub fn three_people() -> Option<[Person; 3]> {
    let person = |name: &str| {
        let (samples, speech) = recording(&format!("audio/librispeech_train_clean_1each/{name}.flac"))?;
        Some(Person { samples, speech })
    };
    Some([person("103-1240-0000")?, person("1069-133699-0000")?, person("1040-133433-0000")?])
}

impl Person {
    pub fn enrolled(&self, user_id: &str) -> EnrolledVoice {
        let net = NetSpeech::of(&self.samples[..ENROLLED_FRAMES * 160], &self.speech[..ENROLLED_FRAMES]);
        let prototype = Prototype { embedding: model().embed_net(&net).unwrap(), quality: net.quality };
        EnrolledVoice {
            user_id: user_id.into(),
            user_name: user_id.to_uppercase(),
            template: Template::new(model().identity().clone(), vec![prototype]).unwrap(),
            threshold: None,
        }
    }

    /// So many frames behind the enrolment, from frame `from` on.
    pub fn says(&self, from: usize, frames: usize) -> Said {
        let from = ENROLLED_FRAMES + 20 + from;
        let frames = from..from + frames;
        let samples = self.samples[frames.start * 160..frames.end * 160].to_vec();
        Said { samples, speech: self.speech[frames].to_vec() }
    }
}
