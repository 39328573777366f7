//! A microphone for a command line: one phrase, or one wake word, at a time, with the level meanwhile.
//!
//! ```text
//!  AlsaSource ─┬─▶ FrontEnd ─▶ Detector ─▶ the first phrase, or the wake word
//!              └─▶ high-pass ─▶ level of each 100 ms ─▶ shown
//! ```
//!
//! Everything runs on the caller's thread. Between two calls nothing is read: the device overruns, and the
//! next call begins with what is said then. The daemon hears by threads of its own (`app/voice_path.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::section::{Endpoint, Wake, WakeModels};
use super::{Detection, Detector, Utterance, VAD_THRESHOLD};
use crate::audio::alsa::AlsaSource;
use crate::audio::section::Audio;
use crate::audio::{CaptureStats, Channel, Period, Read, SoundFault, Source, SourceError};
use crate::dsp::level::{self, HighPass};
use crate::dsp::{DspError, FrontEnd};
use crate::error::{Exit, Failure, chain};
use crate::inference::{ModelError, ModelStore};

/// A device that has not delivered a single period by then delivers none.
const FIRST_SOUND: Duration = Duration::from_secs(3);
/// Silence after which a phrase that is read aloud is over: readers hesitate more than speakers.
const END_SILENCE_MS: u32 = 1_000;
/// Longest phrase; two sentences in one breath are still one sample.
const LONGEST_MS: u32 = 20_000;
/// Frames of speech below which it was a cough or a door, and no phrase: 0.4 s.
const LEAST_PHRASE: usize = 40;
/// Length of sound whose level is shown.
const SHOWN_MS: u32 = 100;

/// Loudness of the last 100 ms.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// Power without hum and DC offset, relative to full scale.
    pub db: f32,
    /// Largest magnitude, 0 to 1.
    pub peak: f32,
    /// A phrase has begun.
    pub speaking: bool,
}

/// The outcome of listening.
#[derive(Debug)]
pub enum Heard {
    Phrase(Utterance),
    Wake {
        word: String,
        score: f32,
    },
    /// Nobody spoke in time.
    Nothing,
    /// The caller's token was cancelled.
    Stopped,
}

/// Why nothing can be heard.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "the microphone \"{device}\" is in use, most likely by the daemon: `sudo systemctl stop jarvisd` \
         first, and start it again afterwards"
    )]
    Busy { device: String },
    #[error(
        "the microphone \"{device}\" gives no sound ({why}); check that it is plugged in, and that \
         audio.device names it (`jarvisd sound list`)"
    )]
    NoSound { device: String, why: String },
    #[error("the sound could not be resampled")]
    Resampled(#[from] DspError),
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let exit = match &error {
            ListenError::Source(source) => source.exit(),
            ListenError::Busy { .. } => Exit::TryAgain,
            ListenError::NoSound { .. } => Exit::Unavailable,
            ListenError::Resampled(_) => Exit::Failed,
            ListenError::Model(_) => Exit::Config,
        };
        Self::new(exit, chain(&error))
    }
}

/// A microphone that is listened to.
#[derive(Debug)]
pub struct Listener {
    device: String,
    channel: Channel,
    source: AlsaSource,
    stats: Arc<CaptureStats>,
    front_end: FrontEnd,
    detector: Detector,
    meter: Meter,
}

impl Listener {
    /// Hears phrases: stretches of speech, without a wake word. Opens the device with the first call of
    /// [`Listener::listen`].
    ///
    /// # Errors
    /// An impossible name of a device, a model that is missing or damaged.
    pub fn for_phrases(audio: &Audio, endpoint: &Endpoint, store: &ModelStore) -> Result<Self, ListenError> {
        let endpoint = Endpoint {
            end_silence_ms: endpoint.end_silence_ms.max(END_SILENCE_MS),
            max_utterance_ms: LONGEST_MS,
            ..endpoint.clone()
        };
        let wake = Wake { model: WakeModels(Vec::new()), ..Wake::default() };
        Self::new(audio, Detector::new(store, &wake, &endpoint)?)
    }

    /// Hears the wake words of the configuration.
    ///
    /// # Errors
    /// As [`Listener::for_phrases`].
    pub fn for_wake(
        audio: &Audio,
        wake: &Wake,
        endpoint: &Endpoint,
        store: &ModelStore,
    ) -> Result<Self, ListenError> {
        Self::new(audio, Detector::new(store, wake, endpoint)?)
    }

    fn new(audio: &Audio, detector: Detector) -> Result<Self, ListenError> {
        let stats = Arc::new(CaptureStats::default());
        let source = AlsaSource::new(audio.clone(), stats.clone())?;
        let (device, channel) = (audio.device.clone(), audio.channel);
        let (front_end, meter) = (FrontEnd::new(), Meter::default());
        Ok(Self { device, channel, source, stats, front_end, detector, meter })
    }

    /// Waits for a phrase or a wake word that begins within `patience`, and hears it to its end. `show` gets
    /// the level ten times a second.
    ///
    /// # Errors
    /// A device that is in use, away or unusable; a fault in this program.
    pub fn listen(
        &mut self,
        patience: Duration,
        stop: &CancellationToken,
        show: &mut dyn FnMut(Level),
    ) -> Result<Heard, ListenError> {
        // Nothing of an earlier call is part of this phrase.
        self.detector.set_held(true);
        self.detector.set_held(false);
        self.meter.restart();
        let started = Instant::now();
        let mut last_sound = started;
        let mut speaking = false;
        let (mut period, mut frames, mut found) = (Period::default(), Vec::new(), Vec::new());
        loop {
            if stop.is_cancelled() {
                return Ok(Heard::Stopped);
            }
            let read = self.source.read(&mut period)?;
            let now = Instant::now();
            if now.duration_since(started) > patience && !(speaking && self.detector.is_attending()) {
                return Ok(Heard::Nothing);
            }
            if read != Read::Period {
                if now.duration_since(last_sound) > FIRST_SOUND {
                    return Err(self.silent());
                }
                continue;
            }
            last_sound = now;
            if let Some((db, peak)) = self.meter.add(&period) {
                show(Level { db, peak, speaking });
            }
            self.front_end.push(&period, &mut |frame| frames.push(frame.clone()))?;
            for frame in frames.drain(..) {
                self.detector.push(&frame, &mut found)?;
            }
            for detection in found.drain(..) {
                match detection {
                    Detection::Wake { word, score, .. } => return Ok(Heard::Wake { word, score }),
                    Detection::SpeechStart { .. } => speaking = true,
                    Detection::SpeechEnd { utterance } if is_phrase(&utterance) => {
                        return Ok(Heard::Phrase(utterance));
                    }
                    Detection::SpeechEnd { .. } | Detection::Lost { .. } | Detection::Dropped { .. } => {
                        speaking = false;
                    }
                    _ => {}
                }
            }
        }
    }

    /// The loudest and the quietest level of the last call, in dB; `None` where no sound came.
    pub fn range_db(&self) -> Option<(f32, f32)> {
        self.meter.range
    }

    /// The rate of the sound in Hz; `None` before the first.
    pub fn rate_hz(&self) -> Option<u32> {
        self.meter.filter.as_ref().map(|(_, rate_hz)| *rate_hz)
    }

    /// A fault of all sound so far.
    pub fn fault(&self) -> Option<SoundFault> {
        self.source.measured().verdict(self.channel)
    }

    fn silent(&self) -> ListenError {
        let device = self.device.clone();
        match self.stats.last_error() {
            Some(error) if error.raw_os_error() == Some(libc::EBUSY) => ListenError::Busy { device },
            Some(error) => ListenError::NoSound { device, why: error.to_string() },
            None => ListenError::NoSound { device, why: "nothing comes".to_owned() },
        }
    }
}

fn is_phrase(utterance: &Utterance) -> bool {
    utterance.speech.iter().filter(|speech| **speech >= VAD_THRESHOLD).count() >= LEAST_PHRASE
}

/// Measures levels of 100 ms.
#[derive(Debug, Default)]
struct Meter {
    /// With the rate that it is for.
    filter: Option<(HighPass, u32)>,
    sound: Vec<f32>,
    peak: f32,
    /// The loudest and the quietest so far.
    range: Option<(f32, f32)>,
}

impl Meter {
    fn restart(&mut self) {
        (self.range, self.peak) = (None, 0.0);
        self.sound.clear();
    }

    /// The level in dB and the peak, where 100 ms are full.
    fn add(&mut self, period: &Period) -> Option<(f32, f32)> {
        if self.filter.as_ref().is_none_or(|(_, rate_hz)| *rate_hz != period.rate_hz) {
            self.filter = Some((HighPass::new(period.rate_hz), period.rate_hz));
        }
        let (filter, rate_hz) = self.filter.as_mut()?;
        self.sound.extend(filter.filter(period.sound()));
        self.peak = self.peak.max(level::peak(period.sound()));
        if self.sound.len() < (*rate_hz / 1_000 * SHOWN_MS) as usize {
            return None;
        }
        let (db, peak) = (level::decibel(level::power(&self.sound)), self.peak);
        let (loudest, quietest) = self.range.unwrap_or((db, db));
        self.range = Some((loudest.max(db), quietest.min(db)));
        self.sound.clear();
        self.peak = 0.0;
        Some((db, peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(rate_hz: u32, level: f32) -> Period {
        let mut period = Period { rate_hz, len: (rate_hz / 100) as usize, ..Period::default() };
        // A tone at an eighth of the rate.
        let wave = [0.0, 0.7, 1.0, 0.7, 0.0, -0.7, -1.0, -0.7];
        period.samples.iter_mut().zip(wave.iter().cycle()).for_each(|(x, w)| *x = level * w);
        period
    }

    #[test]
    fn the_meter_tells_each_100_ms_and_keeps_the_loudest_and_the_quietest() {
        let mut meter = Meter::default();
        let mut told = Vec::new();
        for level in [0.5, 0.05] {
            for _ in 0..20 {
                told.extend(meter.add(&period(16_000, level)));
            }
        }
        assert_eq!(told.len(), 4);
        let (loudest, quietest) = meter.range.unwrap();
        assert!((loudest + 9.0).abs() < 1.0 && (quietest + 29.0).abs() < 1.0, "{told:?}");
        assert_eq!(told[0].1, 0.5);
        meter.restart();
        assert!(meter.range.is_none());
        // Another device, another rate.
        let again: Vec<_> = (0..10).filter_map(|_| meter.add(&period(48_000, 0.5))).collect();
        assert!(again.len() == 1 && (again[0].0 + 9.0).abs() < 1.0, "{again:?}");
    }

    #[test]
    fn a_cough_is_no_phrase() {
        let said = |frames: usize| Utterance {
            start: crate::units::FramePos(0),
            end: crate::units::FramePos(100),
            raw: vec![0.0; 16_000],
            speech: (0..100).map(|n| if n < frames { 0.9 } else { 0.1 }).collect(),
            command_start: 0,
            truncated: false,
        };
        assert!(!is_phrase(&said(LEAST_PHRASE - 1)) && is_phrase(&said(LEAST_PHRASE)));
    }
}
