//! Whisper tiny.en, run by tract: English, the whole utterance at once.
//!
//! ```text
//!  utterance ≤ 9.9 s ──▶ log-mel ──▶ encoder, 10 s context ──▶ greedy decoder ──▶ sure?  ──yes──▶ believable? ──▶ text
//!            longer ─────────────────▶ 30 s context ◀──────── unsure or looping ◀──no──┘            └──no──▶ ""
//! ```
//!
//! A context of 10 s instead of Whisper's own 30 s makes the encoder four times cheaper and is almost always
//! as good; where the decoder is unsure, the same sound is decoded again with all 30 s. Anything longer is
//! cut into pieces at its quietest places. Thresholds: see `decode.rs` and docs/design/stt.md.

mod decode;
mod embedding;
mod graph;
mod mel;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::time::Instant;

use self::decode::{Hypothesis, greedy};
use self::graph::Networks;
use self::mel::LogMel;
use self::vocabulary::Vocabulary;
use super::{Recognizer, SILENCE_PEAK, SttError, Transcript, text};
use crate::dsp::level;
use crate::inference::ModelStore;
use crate::units::SAMPLE_RATE_HZ;

const RATE: usize = SAMPLE_RATE_HZ as usize;
/// Encoder frames (20 ms) of the two contexts, and the most tokens of each: 10 and 30 s of the fastest
/// speech.
const SHORT: Context = Context { frames: 500, tokens: 80 };
const LONG: Context = Context { frames: 1500, tokens: 220 };
/// Most samples that fit the short context with an end of silence.
const SHORT_SAMPLES: usize = RATE * 99 / 10;
/// Most samples that fit the long context.
const LONG_SAMPLES: usize = RATE * 29;
/// An utterance that goes on after this (4 min) is cut off there: endpointing has failed, and memory is
/// bounded.
const MOST_SAMPLES: usize = RATE * 240;
/// Shorter sound holds no word.
const LEAST_SAMPLES: usize = RATE / 10;

struct Context {
    frames: usize,
    tokens: usize,
}

/// The engine and the utterance so far.
#[derive(Debug)]
pub struct WhisperRecognizer {
    networks: Networks,
    vocabulary: Vocabulary,
    mel: LogMel,
    samples: Vec<f32>,
    overlong: bool,
}

impl WhisperRecognizer {
    pub fn load(store: &ModelStore) -> Result<Self, SttError> {
        let start = Instant::now();
        let loaded = Self {
            vocabulary: Vocabulary::load(store)?,
            networks: Networks::load(store)?,
            mel: LogMel::new(),
            samples: Vec::new(),
            overlong: false,
        };
        log::info!("Whisper tiny.en loaded in {} ms", start.elapsed().as_millis());
        Ok(loaded)
    }

    fn decode(&mut self, samples: &[f32], context: &Context) -> Result<Hypothesis, SttError> {
        let frames = 2 * context.frames;
        let mel = self.mel.compute(samples, frames);
        let sound = self.networks.encode(&mel, frames)?;
        greedy(&self.networks, &self.vocabulary, &sound, context.tokens)
    }

    /// The best hypothesis for at most 30 s of sound.
    fn hypothesis(&mut self, samples: &[f32]) -> Result<Hypothesis, SttError> {
        if samples.len() <= SHORT_SAMPLES {
            let short = self.decode(samples, &SHORT)?;
            short.log("10 s");
            if !short.is_doubtful() || short.no_speech > 0.9 {
                return Ok(short);
            }
        }
        let long = self.decode(samples, &LONG)?;
        long.log("30 s");
        Ok(long)
    }

    fn transcribe(&mut self, samples: &[f32]) -> Result<Transcript, SttError> {
        let (mut texts, mut sum, mut seconds) = (Vec::new(), 0.0, 0.0);
        for piece in pieces(samples) {
            if piece.len() < LEAST_SAMPLES || level::peak(&level::audible(piece)) < SILENCE_PEAK {
                continue;
            }
            let hypothesis = self.hypothesis(piece)?;
            if hypothesis.is_rejected() || !text::has_words(&hypothesis.text) {
                continue;
            }
            sum += hypothesis.log_probability * piece.len() as f64;
            seconds += piece.len() as f64;
            texts.push(hypothesis.text);
        }
        let confidence = (seconds > 0.0).then(|| probability(sum / seconds));
        Ok(Transcript { text: texts.join(" "), engine: self.engine(), confidence })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a probability")]
fn probability(log: f64) -> f32 {
    log.exp().clamp(0.0, 1.0) as f32
}

/// Cuts sound longer than the long context at its quietest 100 ms in the last 6 s that would fit.
fn pieces(mut samples: &[f32]) -> Vec<&[f32]> {
    const BLOCK: usize = RATE / 10;
    let mut out = Vec::new();
    while samples.len() > LONG_SAMPLES {
        let from = LONG_SAMPLES - 6 * RATE;
        let window = level::audible(samples.get(from..LONG_SAMPLES).unwrap_or_default());
        let quietest = window
            .chunks(BLOCK)
            .enumerate()
            .min_by(|(_, a), (_, b)| level::power(a).total_cmp(&level::power(b)))
            .map_or(0, |(i, _)| i);
        let (piece, rest) = samples.split_at(from + quietest * BLOCK + BLOCK / 2);
        out.push(piece);
        samples = rest;
    }
    out.push(samples);
    out
}

impl Recognizer for WhisperRecognizer {
    fn engine(&self) -> &'static str {
        "whisper"
    }

    fn accept(&mut self, samples: &[f32]) -> Result<Option<String>, SttError> {
        let room = MOST_SAMPLES.saturating_sub(self.samples.len());
        self.samples
            .extend(samples.iter().take(room).map(|x| if x.is_finite() { x.clamp(-1.0, 1.0) } else { 0.0 }));
        if samples.len() > room && !self.overlong {
            self.overlong = true;
            log::warn!("an utterance is longer than {} s: the rest is not transcribed", MOST_SAMPLES / RATE);
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Transcript, SttError> {
        let samples = std::mem::take(&mut self.samples);
        self.reset();
        let start = Instant::now();
        let transcript = self.transcribe(&samples);
        log::debug!("Whisper took {} ms for {} samples", start.elapsed().as_millis(), samples.len());
        transcript
    }

    fn reset(&mut self) {
        self.samples = Vec::new();
        self.overlong = false;
    }
}
