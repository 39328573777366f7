//! How fast each installed model runs on this board, beside its budget: for `doctor` and for benchmarks.
//!
//! Every stage of the voice path that costs something is run on the same sound, one after the other, on one
//! thread. The figure is processor time of that thread, the best of [`ROUNDS`], so that other programs disturb
//! it little. A board that slows itself down, because it is hot or short of power, shows higher figures.
//!
//! | stage | unit | budget |
//! |---|---|---|
//! | front end, voice activity, wake word | a second of sound | together half of a core, which leaves the rest to a turn |
//! | speaker check | 3 s of speech | 150 ms |
//! | who speaks when | a window of 10 s | 500 ms: it runs beside the transcription |
//! | speech to text | a command of 3 s | 500 ms, for an engine that waits for the end of the command |

use std::path::PathBuf;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::audio::{MAX_PERIOD_SAMPLES, Period};
use crate::detect::section::Wake;
use crate::detect::vad::Vad;
use crate::detect::wake::{PHASES, WakeChain, WakeWord};
use crate::dsp::FrontEnd;
use crate::inference::ModelStore;
use crate::speaker::{OverlapModel, SpeakerModel};
use crate::stt::section::Stt;
use crate::stt::{self, Opened};
use crate::units::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Runs of each stage; the fastest counts.
const ROUNDS: usize = 3;
const RATE_48K: u32 = 48_000;
/// Length of the sound, in seconds; also of the speech of the speaker check and of the command.
pub const SOUND_S: u32 = 3;

/// A stage of the voice path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    FrontEnd,
    VoiceActivity,
    WakeWord,
    SpeakerCheck,
    WhoSpeaksWhen,
    SpeechToText,
}

impl Stage {
    pub const ALL: [Self; 6] = [
        Self::FrontEnd,
        Self::VoiceActivity,
        Self::WakeWord,
        Self::SpeakerCheck,
        Self::WhoSpeaksWhen,
        Self::SpeechToText,
    ];

    /// For a person: "speaker check".
    pub fn words(self) -> &'static str {
        match self {
            Self::FrontEnd => "front end",
            Self::VoiceActivity => "voice activity",
            Self::WakeWord => "wake word",
            Self::SpeakerCheck => "speaker check",
            Self::WhoSpeaksWhen => "who speaks when",
            Self::SpeechToText => "speech to text",
        }
    }

    /// The amount of sound that [`Timing::ms`] is for.
    pub fn unit(self) -> &'static str {
        match self {
            Self::FrontEnd | Self::VoiceActivity | Self::WakeWord => "a second of sound",
            Self::SpeakerCheck => "3 s of speech",
            Self::WhoSpeaksWhen => "a window of 10 s",
            Self::SpeechToText => "a command of 3 s",
        }
    }
}

/// The time of one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    pub stage: Stage,
    /// The model, or the engine of speech to text: "silero-vad". Several wake words are joined by "+".
    pub model: String,
    /// Processor milliseconds for one [`Stage::unit`].
    pub ms: f64,
    /// Milliseconds that it may take.
    pub budget_ms: f64,
}

impl Timing {
    pub fn is_within_budget(&self) -> bool {
        self.ms <= self.budget_ms
    }
}

/// A second of sound: the front end of a Pi 4 has a tenth of a core.
const FRONT_END_MS: f64 = 100.0;
/// A second of sound.
const VOICE_ACTIVITY_MS: f64 = 100.0;
/// A second of sound, all wake words together.
const WAKE_WORD_MS: f64 = 300.0;
const SPEAKER_CHECK_MS: f64 = 150.0;
const WHO_SPEAKS_WHEN_MS: f64 = 500.0;
/// After the end of a command.
const SPEECH_TO_TEXT_MS: f64 = 500.0;
/// An engine that works while the command is spoken has half of a core as long as that lasts.
const STREAMING_MS: f64 = 500.0 * SOUND_S as f64;

/// Times `stage`; `None` where its model is not installed, is switched off or does not load, which the checks
/// of the models explain. `sound` is 16 kHz mono in [-1, 1]; [`speech_like`] makes some. Only the time of
/// speech to text depends on what is said.
pub fn time(
    stage: Stage,
    store: &ModelStore,
    dirs: &[PathBuf],
    (wake, stt): (&Wake, &Stt),
    sound: &[f32],
) -> Option<Timing> {
    let (model, ms, budget_ms) = match stage {
        Stage::FrontEnd => front_end(sound)?,
        Stage::VoiceActivity => voice_activity(store, sound)?,
        Stage::WakeWord => wake_word(store, wake, sound)?,
        Stage::SpeakerCheck => speaker_check(store, sound)?,
        Stage::WhoSpeaksWhen => who_speaks_when(store, sound)?,
        Stage::SpeechToText => speech_to_text(store, dirs, stt, sound)?,
    };
    Some(Timing { stage, model, ms, budget_ms })
}

type Measured = Option<(String, f64, f64)>;

fn front_end(sound: &[f32]) -> Measured {
    let sound = crate::audio::resample::resample_all(sound, SAMPLE_RATE_HZ, RATE_48K).ok()?;
    let periods: Vec<Period> = sound.chunks(RATE_48K as usize / 100).map(period).collect();
    let ms = best(|| {
        let mut front = FrontEnd::new();
        periods.iter().try_for_each(|period| front.push(period, &mut |_| {})).ok()
    })?;
    Some(("rnnoise".to_owned(), ms / seconds(sound.len(), RATE_48K), FRONT_END_MS))
}

fn period(samples: &[f32]) -> Period {
    let mut period =
        Period { rate_hz: RATE_48K, lost: 0, len: samples.len(), samples: [0.0; MAX_PERIOD_SAMPLES] };
    for (to, from) in period.samples.iter_mut().zip(samples) {
        *to = *from;
    }
    period
}

fn voice_activity(store: &ModelStore, sound: &[f32]) -> Measured {
    let mut vad = Vad::new(store).ok()?;
    let ms = best(|| {
        vad.reset();
        frames(sound).try_for_each(|frame| vad.push(frame).map(drop)).ok()
    })?;
    Some(("silero-vad".to_owned(), ms / seconds(sound.len(), SAMPLE_RATE_HZ), VOICE_ACTIVITY_MS))
}

fn wake_word(store: &ModelStore, wake: &Wake, sound: &[f32]) -> Measured {
    let threshold = wake.threshold;
    let words: Vec<WakeWord> =
        wake.model.0.iter().map(|model| WakeWord { model: model.clone(), threshold }).collect();
    if words.is_empty() {
        return None;
    }
    let mut chain = WakeChain::new(store, &words, PHASES).ok()?;
    let ms = best(|| {
        chain.reset();
        frames(sound).try_for_each(|frame| chain.push(frame).map(drop)).ok()
    })?;
    let names: Vec<String> = words.iter().map(WakeWord::name).collect();
    Some((names.join("+"), ms / seconds(sound.len(), SAMPLE_RATE_HZ), WAKE_WORD_MS))
}

fn speaker_check(store: &ModelStore, sound: &[f32]) -> Measured {
    let model = SpeakerModel::load(store).ok()?;
    let speech = sound.get(..(SOUND_S * SAMPLE_RATE_HZ) as usize).unwrap_or(sound);
    let ms = best(|| model.embed(speech).ok().map(drop))?;
    Some((crate::speaker::embedding::MODEL_NAME.to_owned(), ms, SPEAKER_CHECK_MS))
}

fn who_speaks_when(store: &ModelStore, sound: &[f32]) -> Measured {
    let model = OverlapModel::load(store).ok()?;
    let ms = best(|| model.overlap_s(sound).ok().map(drop))?;
    Some((crate::speaker::overlap::MODEL_NAME.to_owned(), ms, WHO_SPEAKS_WHEN_MS))
}

fn speech_to_text(store: &ModelStore, dirs: &[PathBuf], stt: &Stt, sound: &[f32]) -> Measured {
    let Ok(Opened::Ready(mut engine)) = stt::open(stt, dirs, store) else { return None };
    let command = sound.get(..(SOUND_S * SAMPLE_RATE_HZ) as usize).unwrap_or(sound);
    let ms = best(|| {
        engine.reset();
        for block in command.chunks(SAMPLE_RATE_HZ as usize / 10) {
            engine.accept(block).ok()?;
        }
        engine.finish().ok().map(drop)
    })?;
    let name = engine.engine();
    let budget_ms = if name == "whisper" { SPEECH_TO_TEXT_MS } else { STREAMING_MS };
    Some((name.to_owned(), ms, budget_ms))
}

/// [`SOUND_S`] seconds of 16 kHz sound with the spectrum and the rhythm of speech, and without words: pulses
/// at 120 Hz, four syllables a second, and the noise of a room.
pub fn speech_like() -> Vec<f32> {
    let mut noise = 1_u32;
    let mut mouth = [0.0_f32; 2];
    (0..SOUND_S * SAMPLE_RATE_HZ)
        .map(|n| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let room = f32::from(u16::try_from(noise >> 16).unwrap_or(0)) / 32_768.0 - 1.0;
            let syllable = (n % (SAMPLE_RATE_HZ / 4)) as f32 / (SAMPLE_RATE_HZ / 4) as f32;
            let loud = (std::f32::consts::PI * syllable).sin().max(0.0);
            let pulse = if n.is_multiple_of(SAMPLE_RATE_HZ / 120) { 1.0 } else { 0.0 };
            // A resonance near 600 Hz, as of an open vowel.
            let sound = pulse * loud + 1.85 * mouth[0] - 0.91 * mouth[1];
            mouth = [sound, mouth[0]];
            0.1 * sound + 0.002 * room
        })
        .collect()
}

fn frames(sound: &[f32]) -> impl Iterator<Item = &[f32; FRAME_SAMPLES]> {
    sound.as_chunks::<FRAME_SAMPLES>().0.iter()
}

fn seconds(samples: usize, rate_hz: u32) -> f64 {
    samples as f64 / f64::from(rate_hz)
}

/// Processor milliseconds of this thread for the fastest of [`ROUNDS`] runs; `None` if one fails.
fn best(mut run: impl FnMut() -> Option<()>) -> Option<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = thread_ms();
        run()?;
        least = least.min(thread_ms() - before);
    }
    Some(least)
}

fn thread_ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1_000.0 + now.tv_nsec as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_model_is_timed_and_what_is_not_there_is_left_out() {
        let (store, dirs) = (crate::testdata::models(), Vec::new());
        let none = Wake { model: crate::detect::section::WakeModels(Vec::new()), ..Wake::default() };
        let off = Stt { engine: stt::Engine::Off, ..Stt::default() };
        let sound = speech_like();
        let peak = crate::dsp::level::peak(&sound);
        assert!((0.1..1.0).contains(&peak), "{peak}");
        let timed: Vec<Timing> = Stage::ALL
            .into_iter()
            .filter_map(|stage| time(stage, &store, &dirs, (&none, &off), &sound))
            .collect();
        let stages: Vec<Stage> = timed.iter().map(|timing| timing.stage).collect();
        use Stage::{FrontEnd, SpeakerCheck, VoiceActivity, WhoSpeaksWhen};
        assert_eq!(stages, [FrontEnd, VoiceActivity, SpeakerCheck, WhoSpeaksWhen]);
        for timing in &timed {
            assert!(timing.ms > 0.0 && timing.ms.is_finite() && timing.budget_ms > 0.0, "{timing:?}");
        }
        // A network of seven million weights takes longer than one of three hundred thousand.
        assert!(timed[2].ms > timed[1].ms, "{timed:?}");
        let json = serde_json::to_value(&timed[2]).unwrap();
        assert_eq!((&json["stage"], &json["model"]), (&"speaker_check".into(), &"campplus".into()));
    }
}
