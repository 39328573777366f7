//! How fast each installed model runs on this board, beside its budget: for `doctor` and `bench models`.
//!
//! Every stage of the voice path that costs something is run on the same sound, one after the other, on one
//! thread. The figure is processor time of that thread, the best of `ROUNDS`, so that other programs
//! disturb it little. A board that slows itself down, because it is hot or short of power, shows higher
//! figures.
//!
//! | stage | unit | budget |
//! |---|---|---|
//! | front end, voice activity, wake word | a second of sound | together half of a core |
//! | speaker check | 3 s of speech | 150 ms |
//! | who speaks when | a window of 10 s | 500 ms: it runs beside the transcription |
//! | speech to text | a command of 3 s | 500 ms, for an engine that waits for its end |

pub mod cost;

use std::path::PathBuf;

use serde::Serialize;

use crate::audio::{MAX_PERIOD_SAMPLES, Period};
use crate::detect::section::Wake;
use crate::detect::vad::Vad;
use crate::detect::wake::{PHASES, WakeChain, WakeWord};
use crate::dsp::FrontEnd;
use crate::inference::ModelStore;
use crate::inference::allocator;
use crate::speaker::{OverlapModel, SpeakerModel};
use crate::stt::section::Stt;
use crate::stt::{self, Opened};
use crate::units::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

use cost::Cost;

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
    /// Milliseconds that passed meanwhile.
    pub wall_ms: f64,
    /// Milliseconds that it may take.
    pub budget_ms: f64,
    /// Milliseconds until it was loaded.
    pub load_ms: f64,
    /// Memory that it holds from then on, in MB of a million bytes; `None` where `/proc` does not tell.
    pub resident_mb: Option<f64>,
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
/// Of [`SOUND_S`] of speech.
pub const SPEAKER_CHECK_MS: f64 = 150.0;
const WHO_SPEAKS_WHEN_MS: f64 = 500.0;
/// After the end of a command.
pub const SPEECH_TO_TEXT_MS: f64 = 500.0;
/// An engine that works while the command is spoken has half of a core as long as that lasts.
const STREAMING_MS: f64 = STREAMING_A_SECOND_MS * SOUND_S as f64;
pub const STREAMING_A_SECOND_MS: f64 = 500.0;
/// A second of sound in a room where nobody speaks: front end and detector together.
pub const QUIET_ROOM_MS: f64 = 150.0;
/// A second of sound while somebody speaks: front end, voice activity and wake word together.
pub const LISTENING_MS: f64 = FRONT_END_MS + VOICE_ACTIVITY_MS + WAKE_WORD_MS;

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
    let (model, loaded, cost, budget_ms) = match stage {
        Stage::FrontEnd => front_end(sound)?,
        Stage::VoiceActivity => voice_activity(store, sound)?,
        Stage::WakeWord => wake_word(store, wake, sound)?,
        Stage::SpeakerCheck => speaker_check(store, sound)?,
        Stage::WhoSpeaksWhen => who_speaks_when(store, sound)?,
        Stage::SpeechToText => speech_to_text(store, dirs, stt, sound)?,
    };
    let Loaded { load_ms, resident_mb } = loaded;
    Some(Timing { stage, model, ms: cost.cpu_ms, wall_ms: cost.wall_ms, budget_ms, load_ms, resident_mb })
}

type Measured = Option<(String, Loaded, Cost, f64)>;

/// Price of having a model.
#[derive(Debug, Clone, Copy)]
struct Loaded {
    load_ms: f64,
    resident_mb: Option<f64>,
}

/// Loads a model; `None` if that fails.
fn load<T, E>(work: impl FnOnce() -> Result<T, E>) -> Option<(T, Loaded)> {
    let before = resident_mb();
    let (loaded, took) = cost::once(work);
    let loaded = loaded.ok()?;
    let resident_mb = before.zip(resident_mb()).map(|(before, after)| (after - before).max(0.0));
    Some((loaded, Loaded { load_ms: took.wall_ms, resident_mb }))
}

/// Resident memory in MB, once free memory was given back.
pub fn resident_mb() -> Option<f64> {
    allocator::give_back().map(|resident| resident.after_kb as f64 * 1_024.0 / 1e6)
}

fn front_end(sound: &[f32]) -> Measured {
    let sound = crate::audio::resample::resample_all(sound, SAMPLE_RATE_HZ, RATE_48K).ok()?;
    let periods = periods_48k(&sound);
    let (mut front, loaded) = load(|| Ok::<_, std::convert::Infallible>(FrontEnd::new()))?;
    let cost = best(|| periods.iter().try_for_each(|period| front.push(period, &mut |_| {})).ok())?;
    let cost = cost.for_each_of(seconds(sound.len(), RATE_48K));
    Some(("rnnoise".to_owned(), loaded, cost, FRONT_END_MS))
}

/// Sound at 48 kHz in [-1, 1] as the microphone hands it over: in periods of 10 ms.
pub fn periods_48k(sound: &[f32]) -> Vec<Period> {
    sound.chunks(RATE_48K as usize / 100).map(period).collect()
}

/// [`SOUND_S`] seconds of a room where nobody speaks: noise of -56 dB at 48 kHz.
pub fn quiet_room() -> Vec<f32> {
    let mut noise = 1_u32;
    (0..SOUND_S * RATE_48K).map(|_| 0.003 * next(&mut noise)).collect()
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
    let (mut vad, loaded) = load(|| Vad::new(store))?;
    let cost = best(|| {
        vad.reset();
        frames(sound).try_for_each(|frame| vad.push(frame).map(drop)).ok()
    })?;
    let cost = cost.for_each_of(seconds(sound.len(), SAMPLE_RATE_HZ));
    Some(("silero-vad".to_owned(), loaded, cost, VOICE_ACTIVITY_MS))
}

fn wake_word(store: &ModelStore, wake: &Wake, sound: &[f32]) -> Measured {
    let threshold = wake.threshold;
    let words: Vec<WakeWord> =
        wake.model.0.iter().map(|model| WakeWord { model: model.clone(), threshold }).collect();
    if words.is_empty() {
        return None;
    }
    let (mut chain, loaded) = load(|| WakeChain::new(store, &words, PHASES))?;
    let cost = best(|| {
        chain.reset();
        frames(sound).try_for_each(|frame| chain.push(frame).map(drop)).ok()
    })?;
    let names: Vec<String> = words.iter().map(WakeWord::name).collect();
    Some((names.join("+"), loaded, cost.for_each_of(seconds(sound.len(), SAMPLE_RATE_HZ)), WAKE_WORD_MS))
}

fn speaker_check(store: &ModelStore, sound: &[f32]) -> Measured {
    let (model, loaded) = load(|| SpeakerModel::load(store))?;
    let speech = sound.get(..(SOUND_S * SAMPLE_RATE_HZ) as usize).unwrap_or(sound);
    let cost = best(|| model.embed(speech).ok().map(drop))?;
    Some((crate::speaker::embedding::MODEL_NAME.to_owned(), loaded, cost, SPEAKER_CHECK_MS))
}

fn who_speaks_when(store: &ModelStore, sound: &[f32]) -> Measured {
    let (model, loaded) = load(|| OverlapModel::load(store))?;
    let cost = best(|| model.overlap_s(sound).ok().map(drop))?;
    Some((crate::speaker::overlap::MODEL_NAME.to_owned(), loaded, cost, WHO_SPEAKS_WHEN_MS))
}

fn speech_to_text(store: &ModelStore, dirs: &[PathBuf], stt: &Stt, sound: &[f32]) -> Measured {
    let (opened, loaded) = load(|| stt::open(stt, dirs, store))?;
    let Opened::Ready(mut engine) = opened else { return None };
    let command = sound.get(..(SOUND_S * SAMPLE_RATE_HZ) as usize).unwrap_or(sound);
    let cost = best(|| {
        engine.reset();
        for block in command.chunks(SAMPLE_RATE_HZ as usize / 10) {
            engine.accept(block).ok()?;
        }
        engine.finish().ok().map(drop)
    })?;
    let name = engine.engine();
    let budget_ms = if name == "whisper" { SPEECH_TO_TEXT_MS } else { STREAMING_MS };
    Some((name.to_owned(), loaded, cost, budget_ms))
}

/// [`SOUND_S`] seconds of 16 kHz sound with the spectrum and the rhythm of speech, and without words: pulses
/// at 120 Hz, four syllables a second, and the noise of a room.
pub fn speech_like() -> Vec<f32> {
    let mut noise = 1_u32;
    let mut mouth = [0.0_f32; 2];
    (0..SOUND_S * SAMPLE_RATE_HZ)
        .map(|n| {
            let room = next(&mut noise);
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

/// The next of evenly spread numbers in [-1, 1), the same in every run. Constants of Numerical Recipes.
fn next(noise: &mut u32) -> f32 {
    *noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    f32::from(u16::try_from(*noise >> 16).unwrap_or(0)) / 32_768.0 - 1.0
}

fn frames(sound: &[f32]) -> impl Iterator<Item = &[f32; FRAME_SAMPLES]> {
    sound.as_chunks::<FRAME_SAMPLES>().0.iter()
}

fn seconds(samples: usize, rate_hz: u32) -> f64 {
    samples as f64 / f64::from(rate_hz)
}

/// The fastest of [`ROUNDS`] runs by each clock; `None` if one fails.
fn best(mut run: impl FnMut() -> Option<()>) -> Option<Cost> {
    cost::least(ROUNDS, || run().ok_or(())).ok()
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
            assert!(
                timing.wall_ms > 0.0 && timing.load_ms > 0.0 && timing.resident_mb.is_some(),
                "{timing:?}"
            );
        }
        // A network of seven million weights takes longer than one of three hundred thousand.
        assert!(timed[2].ms > timed[1].ms, "{timed:?}");
        let json = serde_json::to_value(&timed[2]).unwrap();
        assert_eq!((&json["stage"], &json["model"]), (&"speaker_check".into(), &"campplus".into()));
    }
}
