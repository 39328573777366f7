//! Vosk: any language that has a model, words while the person speaks.
//!
//! The C library is used with care. The folder is checked first ([`VoskModelDir`]), and the sound is fed in
//! blocks of one length. Each utterance gets a decoder of its own, because a reset one keeps its adaptation
//! to the last voice. With `--dither=0` in the model's feature configuration the text then depends on the
//! sound alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vosk::{DecodingState, LogLevel, Model, Recognizer as Decoder};

use super::{Recognizer, SILENCE_PEAK, SttError, Transcript, VoskModelDir};
use crate::dsp::level::{self, HighPass};
use crate::supervisor::guarded;
use crate::units::SAMPLE_RATE_HZ;

/// Samples fed at once: 100 ms.
const BLOCK: usize = SAMPLE_RATE_HZ as usize / 10;

pub struct VoskRecognizer {
    // Declared before the model: dropped before it.
    decoder: Option<Decoder>,
    model: Model,
    path: PathBuf,
    /// Sound that does not fill a block yet.
    waiting: Vec<i16>,
    /// The words before the last pause in this utterance.
    said: Vec<String>,
    /// The words last reported.
    partial: String,
    /// Removes inaudible sound: an offset or hum counts as silence.
    level: HighPass,
    /// Sound louder than silence was heard: on digital silence models invent short words.
    heard: bool,
}

impl fmt::Debug for VoskRecognizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VoskRecognizer").field("path", &self.path).finish_non_exhaustive()
    }
}

impl VoskRecognizer {
    /// Checks and loads the model in `path`.
    pub fn load(path: &Path) -> Result<Self, SttError> {
        let checked = VoskModelDir::check(path)?;
        if let Some(conf) = &checked.dithered {
            log::warn!(
                "the Vosk model {} adds random noise to what it hears, so the same words may be recognised \
                 differently; add the line --dither=0 to {}",
                path.display(),
                conf.display()
            );
        }
        // Kaldi writes a page of settings to stderr otherwise.
        vosk::set_log_level(LogLevel::Error);
        let start = Instant::now();
        let refused = |fault: &str| SttError::VoskModel { path: path.to_path_buf(), fault: fault.into() };
        let name = path.to_str().ok_or_else(|| refused("its name is not UTF-8"))?;
        let model = Model::new(name).ok_or_else(|| refused("the Vosk library cannot load it"))?;
        let mut loaded = Self {
            decoder: None,
            model,
            path: path.to_path_buf(),
            waiting: Vec::new(),
            said: Vec::new(),
            partial: String::new(),
            level: HighPass::new(SAMPLE_RATE_HZ),
            heard: false,
        };
        // Done now, before the first utterance: a model that gives no decoder is a fault of the start.
        loaded.decoder = Some(loaded.new_decoder()?);
        log::info!("Vosk model {} loaded in {} ms", path.display(), start.elapsed().as_millis());
        Ok(loaded)
    }

    fn new_decoder(&self) -> Result<Decoder, SttError> {
        let rate = SAMPLE_RATE_HZ as f32;
        Decoder::new(&self.model, rate).ok_or(SttError::Vosk { step: "making a decoder" })
    }

    /// Runs `work` on this utterance's decoder, made when it is first needed.
    ///
    /// The wrapper crate panics on unexpected JSON in a result (a model whose words hold quotes): that costs
    /// this utterance, not the process.
    fn with_decoder<T>(
        &mut self,
        step: &'static str,
        work: impl FnOnce(&mut Decoder) -> Option<T>,
    ) -> Result<T, SttError> {
        let mut decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => self.new_decoder()?,
        };
        let result = guarded(|| work(&mut decoder)).ok().flatten();
        let result = result.ok_or(SttError::Vosk { step })?;
        self.decoder = Some(decoder);
        Ok(result)
    }

    fn decode_block(&mut self, block: &[i16]) -> Result<(), SttError> {
        let (ended, words) =
            self.with_decoder("decoding", |decoder| match decoder.accept_waveform(block) {
                Ok(DecodingState::Running) => Some((false, spoken(decoder.partial_result().partial))),
                Ok(DecodingState::Finalized) => Some((true, spoken(decoder.result().single()?.text))),
                Ok(DecodingState::Failed) | Err(_) => None,
            })?;
        self.partial = self.joined(&words);
        if ended && !words.is_empty() {
            self.said.push(words);
        }
        Ok(())
    }

    /// The words before the last pause, and then `words`.
    fn joined(&self, words: &str) -> String {
        let parts = self.said.iter().map(String::as_str).chain(std::iter::once(words));
        parts.filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// `text` without the marks of non-words: `[unk]`, `[noise]`, `<eps>`.
fn spoken(text: &str) -> String {
    text.split_whitespace().filter(|w| !w.starts_with(['[', '<'])).collect::<Vec<_>>().join(" ")
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to the range of i16; a cast of NaN is 0")]
fn to_pcm(sample: f32) -> i16 {
    (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16
}

impl Recognizer for VoskRecognizer {
    fn engine(&self) -> &'static str {
        "vosk"
    }

    fn accept(&mut self, samples: &[f32]) -> Result<Option<String>, SttError> {
        let before = self.partial.clone();
        self.heard = self.heard || level::peak(&self.level.filter(samples)) >= SILENCE_PEAK;
        for &sample in samples {
            self.waiting.push(if sample.is_finite() { to_pcm(sample) } else { 0 });
            if self.waiting.len() == BLOCK {
                let block = std::mem::take(&mut self.waiting);
                self.decode_block(&block)?;
                self.waiting = block;
                self.waiting.clear();
            }
        }
        Ok((self.heard && self.partial != before).then(|| self.partial.clone()))
    }

    fn finish(&mut self) -> Result<Transcript, SttError> {
        let rest = std::mem::take(&mut self.waiting);
        let last = (|| {
            if !rest.is_empty() {
                self.decode_block(&rest)?;
            }
            // After an endpoint this is an extra, empty result.
            self.with_decoder("ending an utterance", |d| Some(spoken(d.final_result().single()?.text)))
        })();
        let text = last.map(|words| if self.heard { self.joined(&words) } else { String::new() });
        self.reset();
        Ok(Transcript { text: text?, engine: self.engine(), confidence: None })
    }

    fn reset(&mut self) {
        self.decoder = None;
        self.waiting.clear();
        self.said.clear();
        self.partial.clear();
        self.level = HighPass::new(SAMPLE_RATE_HZ);
        self.heard = false;
    }
}
