//! `jarvisd bench turn`: the stages of one spoken turn, from the microphone's sound to that of the answer.
//!
//! The parts are those of the daemon, run one after the other on this thread, so that each has its own time.
//! The turn is stored in a database of its own, on the disk of the device's memory, which goes afterwards.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Report, Sound, ms, spinner, table};
use crate::app::Settings;
use crate::app::parts::{load_verifier, open_models};
use crate::audio::Period;
use crate::audio::resample::resample_all;
use crate::board::Pace;
use crate::cli::{block_on, output};
use crate::clock::Clock;
use crate::config::Live;
use crate::detect::section::{Wake, WakeModels};
use crate::detect::{Detection, Detector, Utterance};
use crate::dialogue::speech::Speech;
use crate::dialogue::{Builtin, Dialogue, Responder, Select};
use crate::dsp::{Frame, FrontEnd};
use crate::error::{Exit, Failure, chain};
use crate::inference::ModelStore;
use crate::memory::{Device, Memory, TurnMeta};
use crate::plain::figure;
use crate::speaker::{EnrolledVoice, NetSpeech, Prototype, Template, Verifier};
use crate::speed::cost::{self, Cost};
use crate::speed::{self, periods_48k, quiet_room};
use crate::stt::{self, Opened};
use crate::units::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Said by the speech command.
const SENTENCE: &str = "hey jarvis, remember that the spare key is under the blue pot";
/// Silence behind the sound, so that the command ends: longer than any `endpoint.end_silence_ms`.
const SILENCE_S: usize = 6;
const RATE_48K: u32 = 48_000;
/// Turns that are stored; the median counts.
const TURNS: usize = 21;

/// Times one spoken turn, stage by stage, with the models and settings of this device.
///
/// The voice is compared with itself, so nobody need be enrolled, and nothing is stored in the memory of the
/// device. Stop the daemon first: it uses the same processor.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo systemctl stop jarvisd && sudo jarvisd bench turn
  jarvisd bench turn order.wav --json")]
pub struct Args {
    /// WAV or FLAC file of one order; without it the speech command says one.
    #[arg(value_name = "WAV")]
    recording: Option<PathBuf>,
    /// Runs of each stage; the fastest counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A stage, for the unit of work that its name tells.
#[derive(Debug, Serialize)]
struct Stage {
    stage: String,
    /// `None` where another process or thread does the work.
    cpu_ms: Option<f64>,
    wall_ms: f64,
    budget_ms: Option<f64>,
}

impl Stage {
    fn new(stage: impl Into<String>, cost: Cost, budget_ms: Option<f64>) -> Self {
        Self { stage: stage.into(), cpu_ms: Some(cost.cpu_ms), wall_ms: cost.wall_ms, budget_ms }
    }

    fn elapsed(stage: impl Into<String>, wall_ms: f64, budget_ms: Option<f64>) -> Self {
        Self { stage: stage.into(), cpu_ms: None, wall_ms, budget_ms }
    }
}

#[derive(Debug, Default, Serialize)]
struct Turn {
    /// Whether the wake word was heard; without it the turn is timed as if none were set.
    woken: bool,
    utterance_s: f64,
    words: usize,
    /// A second of sound each.
    listening: Vec<Stage>,
    /// Once each.
    turn: Vec<Stage>,
    /// From the end of the command, which the device notices after `end_silence_ms`.
    after_the_end: Vec<Stage>,
    end_silence_ms: u32,
    load_ms: f64,
    resident_mb: Option<f64>,
}

pub fn run(settings: &Settings, args: &Args) -> Result<(), Failure> {
    let store = open_models(settings)?;
    let before = Pace::of_this_machine();
    let sound = Sound::of(settings, args.recording.as_deref(), SENTENCE)?.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "there is no speech command to say an order: name a recording of one, or install espeak-ng",
        )
    })?;
    let spinner = spinner();
    let told = |what: &'static str| {
        spinner.set_message(what);
        spinner.tick();
    };
    let result = measure(settings, &store, &sound.samples, args.rounds.into(), &told);
    spinner.finish_and_clear();
    let report = Report::new(before, &sound.words, result?);
    if args.json { output::json(&report) } else { show(&report) }
}

fn measure(
    settings: &Settings,
    store: &ModelStore,
    sound: &[f32],
    rounds: usize,
    told: &dyn Fn(&'static str),
) -> Result<Turn, Failure> {
    let mut turn = Turn { end_silence_ms: settings.endpoint.end_silence_ms, ..Turn::default() };

    told("loading");
    let (loaded, took) = cost::once(|| -> Result<_, Failure> {
        let detector = new_detector(settings, store, settings.wake.clone())?;
        let verifier = load_verifier(store, &settings.voice)?;
        let recognizer = stt::open(&settings.stt, &settings.paths.models, store)
            .map_err(|e| Failure::of(Exit::Config, &e))?;
        Ok((detector, verifier, recognizer))
    });
    let (mut detector, verifier, recognizer) = loaded?;
    turn.load_ms = took.wall_ms;
    turn.resident_mb = speed::resident_mb();

    told("listening");
    listening(settings, store, sound, rounds, &mut turn)?;
    let frames = frames_of(sound)?;
    let found = utterance_of(&mut detector, &frames)?;
    turn.woken = found.is_some();
    let utterance = match found {
        Some(utterance) => utterance,
        None => {
            let mut always = new_detector(settings, store, without_wake_word(&settings.wake))?;
            utterance_of(&mut always, &frames)?.ok_or_else(|| {
                Failure::new(Exit::Data, "no speech is found in the recording; give one of a spoken order")
            })?
        }
    };
    drop((detector, frames));
    turn.utterance_s = seconds(utterance.raw.len());

    told("whose voice it is");
    let voice = verify(&verifier, &utterance, settings.voice.threshold, rounds)?;
    told("transcribing");
    let command = utterance.raw.get(utterance.command_start..).unwrap_or_default();
    let transcribed = transcribe(recognizer, command, rounds, &mut turn)?;
    told("answering");
    let stored_ms = block_on(answer(settings))?;
    told("speaking");
    let spoken_ms = speak(settings)?;

    let speech_s = seconds(utterance.raw.len());
    let budget_ms = speed::SPEAKER_CHECK_MS * (speech_s / f64::from(speed::SOUND_S)).max(1.0);
    turn.turn.insert(0, Stage::new("speaker check", voice, Some(budget_ms)));
    turn.turn.push(Stage::elapsed("answer found and stored, median of 21", stored_ms, Some(20.0)));
    if let Some(ms) = spoken_ms {
        turn.turn.push(Stage::elapsed("first sentence made into sound", ms, Some(300.0)));
    }
    let transcript_ms = transcribed.map_or(0.0, |cost| cost.wall_ms);
    // Both wait for the end of the command and have a thread of their own.
    let known_ms = voice.wall_ms.max(transcript_ms);
    let end = |stage: &str, wall_ms: f64, budget_ms| Stage::elapsed(stage, wall_ms, budget_ms);
    turn.after_the_end.push(end("verdict on the voice", voice.wall_ms, Some(budget_ms)));
    if transcribed.is_some() {
        turn.after_the_end.push(end("transcript", transcript_ms, Some(speed::SPEECH_TO_TEXT_MS)));
    }
    turn.after_the_end.push(end("answer stored", known_ms + stored_ms, None));
    if let Some(ms) = spoken_ms {
        turn.after_the_end.push(end("first sound of the answer", known_ms + stored_ms + ms, None));
    }
    Ok(turn)
}

/// The cost of a second of sound while nobody speaks, and in this recording.
fn listening(
    settings: &Settings,
    store: &ModelStore,
    sound: &[f32],
    rounds: usize,
    turn: &mut Turn,
) -> Result<(), Failure> {
    let silent = heard(settings, store, &vec![0.0; quiet_room().len()], rounds)?;
    let quiet = heard(settings, store, &quiet_room(), rounds)?;
    let speech = heard(settings, store, &at_48k(sound)?, rounds)?;
    turn.listening.push(Stage::new("digital silence", silent, None));
    turn.listening.push(Stage::new("quiet room (-56 dB)", quiet, Some(speed::QUIET_ROOM_MS)));
    turn.listening.push(Stage::new("this sound", speech, Some(speed::LISTENING_MS)));
    Ok(())
}

/// Cost of front end and detector for a second of `sound` at 48 kHz.
fn heard(settings: &Settings, store: &ModelStore, sound: &[f32], rounds: usize) -> Result<Cost, Failure> {
    let periods = periods_48k(sound);
    let mut detector = new_detector(settings, store, settings.wake.clone())?;
    let mut front = FrontEnd::new();
    let mut frames = Vec::new();
    let mut found = Vec::new();
    let cost = cost::least(rounds, || {
        for period in &periods {
            push(&mut front, period, &mut frames)?;
            for frame in frames.drain(..) {
                detector.push(&frame, &mut found).map_err(|e| Failure::of(Exit::Config, &e))?;
            }
            found.clear();
        }
        Ok::<_, Failure>(())
    })?;
    Ok(cost.for_each_of(sound.len() as f64 / f64::from(RATE_48K)))
}

fn push(front: &mut FrontEnd, period: &Period, frames: &mut Vec<Frame>) -> Result<(), Failure> {
    let failed = |e| Failure::because(Exit::Failed, "the front end failed", e);
    front.push(period, &mut |frame| frames.push(frame.clone())).map_err(failed)
}

fn at_48k(sound: &[f32]) -> Result<Vec<f32>, Failure> {
    resample_all(sound, SAMPLE_RATE_HZ, RATE_48K)
        .map_err(|e| Failure::because(Exit::Failed, "the sound could not be resampled", e))
}

/// The frames of the sound and of the silence that ends a command.
fn frames_of(sound: &[f32]) -> Result<Vec<Frame>, Failure> {
    let mut sound = at_48k(sound)?;
    sound.resize(sound.len() + SILENCE_S * RATE_48K as usize, 0.0);
    let (mut front, mut frames) = (FrontEnd::new(), Vec::new());
    for period in periods_48k(&sound) {
        push(&mut front, &period, &mut frames)?;
    }
    Ok(frames)
}

fn new_detector(settings: &Settings, store: &ModelStore, wake: Wake) -> Result<Detector, Failure> {
    Detector::new(store, &wake, &settings.endpoint)
        .map_err(|e| Failure::because(Exit::Config, "the detector cannot start", e))
}

fn without_wake_word(wake: &Wake) -> Wake {
    Wake { model: WakeModels(Vec::new()), ..wake.clone() }
}

/// The longest command that the detector finds.
fn utterance_of(detector: &mut Detector, frames: &[Frame]) -> Result<Option<Utterance>, Failure> {
    let mut found = Vec::new();
    for frame in frames {
        detector.push(frame, &mut found).map_err(|e| Failure::of(Exit::Config, &e))?;
    }
    detector.finish(&mut found).map_err(|e| Failure::of(Exit::Config, &e))?;
    let utterances = found.into_iter().filter_map(|detection| match detection {
        Detection::SpeechEnd { utterance } => Some(utterance),
        _ => None,
    });
    Ok(utterances.max_by_key(|utterance| utterance.raw.len()))
}

/// Cost of finding out whose voice it is, with the person's own voice enrolled.
fn verify(verifier: &Verifier, heard: &Utterance, threshold: f32, rounds: usize) -> Result<Cost, Failure> {
    let net = NetSpeech::of(&heard.raw, &heard.speech);
    let embedding = verifier.model().embed(&net.samples)?;
    let sample = Prototype { embedding, quality: net.quality };
    let template = Template::new(verifier.model().identity().clone(), vec![sample]).ok_or_else(|| {
        Failure::new(Exit::Data, "the recording holds no voice; give one of a spoken order")
    })?;
    let voice = EnrolledVoice { user_id: "1".into(), user_name: "speaker".into(), template, threshold: None };
    let voices = [voice];
    cost::least(rounds, || verifier.hear(&heard.raw, &heard.speech, &voices, threshold, None).map(drop))
        .map_err(Failure::from)
}

/// Cost of the transcript after the end of the command; `None` where nothing is transcribed.
fn transcribe(
    opened: Opened,
    command: &[f32],
    rounds: usize,
    turn: &mut Turn,
) -> Result<Option<Cost>, Failure> {
    let Opened::Ready(mut engine) = opened else { return Ok(None) };
    let failed = |e: stt::SttError| Failure::of(Exit::Failed, &e);
    let mut meanwhile = Cost { cpu_ms: f64::INFINITY, wall_ms: f64::INFINITY };
    let mut after = meanwhile;
    for _ in 0..rounds {
        engine.reset();
        let (accepted, cost) = cost::once(|| {
            command.chunks(10 * FRAME_SAMPLES).try_for_each(|piece| engine.accept(piece).map(drop))
        });
        accepted.map_err(failed)?;
        meanwhile = meanwhile.least(cost.for_each_of(seconds(command.len()).max(0.1)));
        let (finished, cost) = cost::once(|| engine.finish());
        turn.words = finished.map_err(failed)?.text.split_whitespace().count();
        after = after.least(cost);
    }
    let name = engine.engine();
    // Vosk works while the person speaks.
    if name != "whisper" {
        let budget_ms = speed::STREAMING_A_SECOND_MS;
        turn.turn.push(Stage::new(format!("{name}, a second of the command"), meanwhile, Some(budget_ms)));
    }
    let budget_ms = Some(speed::SPEECH_TO_TEXT_MS);
    turn.turn.push(Stage::new(format!("{name}, after the command's end"), after, budget_ms));
    Ok(Some(after))
}

/// Median of the milliseconds until an answer is found and on the disk.
async fn answer(settings: &Settings) -> Result<f64, Failure> {
    let scratch = Scratch::beside(&settings.paths.data)?;
    let device = Device { id: "bench".to_owned() };
    let memory = Memory::open(&scratch.0.join("jarvis.db"), &device, Clock::System).await?;
    let user = memory.add_user("speaker").await?;
    let dialogue = Dialogue::new(memory.clone(), Responder::Builtin(Builtin::default()), Live::default());
    let mut took = Vec::new();
    for n in 0..TURNS {
        let text = format!("remember that item {n} is on shelf {n}");
        let started = std::time::Instant::now();
        let stored = dialogue.turn(&user, Select::Continue, &text, TurnMeta::default()).await;
        stored.map_err(|e| Failure::new(e.exit(), chain(&e)))?;
        took.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    memory.close().await;
    took.sort_by(f64::total_cmp);
    Ok(took.get(TURNS / 2).copied().unwrap_or_default())
}

/// Milliseconds until the first sentence of an answer is sound; `None` where nothing is spoken.
fn speak(settings: &Settings) -> Result<Option<f64>, Failure> {
    let speech = Speech::new(&settings.speech);
    if !settings.speech.enabled || speech.silent().is_some() {
        return Ok(None);
    }
    let started = std::time::Instant::now();
    let rendered = block_on(async { Ok(speech.render("I will remember that.").await) })?;
    rendered.map_err(|e| Failure::because(Exit::Failed, "the answer cannot be spoken", e))?;
    Ok(Some(started.elapsed().as_secs_f64() * 1000.0))
}

/// A folder that goes with its content.
struct Scratch(PathBuf);

impl Scratch {
    /// In the folder of the memory, whose disk is the one that counts; where that is another person's, in
    /// the folder for temporary files.
    fn beside(data: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("bench-{}", std::process::id());
        let make = |folder: &Path| {
            let folder = folder.join(&name);
            std::fs::DirBuilder::new().mode(0o700).create(&folder).map(|()| Self(folder))
        };
        make(data).or_else(|_| make(&std::env::temp_dir())).map_err(|e| {
            let message =
                "no folder for the turns can be made; run it as the user of the daemon, or set TMPDIR";
            Failure::because(Exit::Failed, message, e)
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            log::warn!("{} could not be removed: {e}", self.0.display());
        }
    }
}

fn seconds(samples: usize) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE_HZ)
}

fn show(report: &Report<'_, Turn>) -> Result<(), Failure> {
    let turn = &report.result;
    for line in report.heading() {
        output::line(line)?;
    }
    let woken = if turn.woken { "heard" } else { "not heard, so it is timed without one" };
    output::line(format!(
        "turn       {} s with pauses, {} words; wake word {woken}",
        figure(turn.utterance_s, 1),
        turn.words
    ))?;
    let memory = turn.resident_mb.map_or_else(String::new, |mb| format!(", {} MB resident", figure(mb, 0)));
    output::line(format!("loading    {} ms one after the other{memory}", ms(turn.load_ms)))?;
    let silence = format!("elapsed ms after {} ms of silence", turn.end_silence_ms);
    for (first, elapsed, stages) in [
        ("listening, a second of sound", "elapsed ms", &turn.listening),
        ("stage of the turn", "elapsed ms", &turn.turn),
        ("from the end of the command", &silence, &turn.after_the_end),
    ] {
        output::line("")?;
        let rows: Vec<[String; 4]> = stages.iter().map(row).collect();
        table([first, "CPU ms", elapsed, "budget ms"], &rows)?;
    }
    Ok(())
}

fn row(stage: &Stage) -> [String; 4] {
    let budget = stage.budget_ms.map_or_else(String::new, |budget_ms| {
        let least = stage.cpu_ms.map_or(stage.wall_ms, |cpu_ms| cpu_ms.min(stage.wall_ms));
        format!("{}{}", figure(budget_ms, 0), if least <= budget_ms { "" } else { " (over)" })
    });
    [stage.stage.clone(), stage.cpu_ms.map_or_else(String::new, ms), ms(stage.wall_ms), budget]
}
