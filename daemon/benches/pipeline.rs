//! What the pipeline costs: CPU per second of sound of each stage and of the whole, memory, time to start.
//!
//! `cargo bench` prints one table. CPU times are of this thread (`CLOCK_THREAD_CPUTIME_ID`), the best of
//! three rounds, so a busy machine disturbs them little; compare machines by running it on both. Needs the
//! models (`scripts/fetch-models.sh`) and `flite`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench prints and gives up loudly"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use jarvisd::audio::Channel;
use jarvisd::audio::file::read_all;
use jarvisd::audio::{MAX_PERIOD_SAMPLES, Period};
use jarvisd::clock::Clock;
use jarvisd::config::Live;
use jarvisd::detect::section::{Endpoint, Wake, WakeModels};
use jarvisd::detect::{Detection, Detector, Utterance};
use jarvisd::dialogue::{Builtin, Dialogue, Responder, Select};
use jarvisd::dsp::{Frame, FrontEnd};
use jarvisd::inference::ModelStore;
use jarvisd::memory::{Device, Memory, TurnMeta};
use jarvisd::speaker::{Calibration, EnrolledVoice, Enrolment, SpeakerModel, Verifier};
use jarvisd::stt::section::Stt;
use jarvisd::stt::{self, Engine, Opened};

const RATE_HZ: u32 = 48_000;
const ROUNDS: usize = 3;
const OWNER: [&str; 3] = [
    "the quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire",
    "please remember to water the plants in the living room every monday and thursday before the evening news",
    "my favourite season is autumn when the leaves turn red and gold and the air smells of apples and rain",
];
const COMMAND: &str = "hey jarvis, remember that the spare key is under the blue pot";

fn main() {
    let dirs = model_dirs();
    let store = ModelStore::open(&dirs).expect("the models are installed: scripts/fetch-models.sh");
    let work = tempfile::tempdir().unwrap();

    println!("| stage | CPU ms per second of sound |");
    println!("|---|---|");
    let room = noise(20, 0.003);
    let silence = vec![0.0; 20 * RATE_HZ as usize];
    let speech = at_48k(&say(work.path(), &OWNER.join(", ")));
    for (name, sound) in [("digital silence", &silence), ("quiet room", &room), ("somebody talks", &speech)] {
        let (front_ms, frames) = front_end(sound);
        let seconds = seconds(sound);
        let mut detector = Detector::new(&store, &Wake::default(), &Endpoint::default()).unwrap();
        let mut found = Vec::new();
        let detect_ms = best(|| {
            for frame in &frames {
                detector.push(frame, &mut found).unwrap();
                found.clear();
            }
        });
        println!("| {name}: front end | {:.2} |", front_ms / seconds);
        println!("| {name}: detection | {:.2} |", detect_ms / seconds);
        println!("| {name}: both | {:.2} |", (front_ms + detect_ms) / seconds);
    }

    let model = Arc::new(SpeakerModel::load(&store).unwrap());
    let verifier = Verifier::new(model.clone(), Calibration::load(&store).unwrap()).unwrap();
    let mut enrolment = Enrolment::new(model);
    for phrase in OWNER {
        let heard = utterance(&store, &say(work.path(), phrase), WakeModels(Vec::new()));
        enrolment.add(&heard.raw, &heard.speech).expect("a good sample");
    }
    let template = enrolment.finish().expect("a whole enrolment");
    let voices =
        [EnrolledVoice { user_id: "1".into(), user_name: "owner".into(), template, threshold: None }];
    let command = utterance(&store, &say(work.path(), COMMAND), WakeModels::default());
    let command_s = f64::from(u32::try_from(command.raw.len()).unwrap()) / 16_000.0;

    println!("\n| step of a turn ({command_s:.1} s of speech) | CPU ms |");
    println!("|---|---|");
    let verify_ms = best(|| {
        verifier.verify(&command.raw, &command.speech, &voices, 0.85).unwrap();
    });
    println!("| verify the speaker | {verify_ms:.1} |");
    let whisper = Stt { engine: Engine::Whisper, ..Stt::default() };
    let recognizer = match stt::open(&whisper, &dirs, &store).unwrap() {
        Opened::Ready(recognizer) => Some(recognizer),
        Opened::Off | Opened::Unusable { .. } => None,
    };
    let mut recognizer = recognizer.expect("Whisper is installed");
    let mut text = String::new();
    let transcribe_ms = best(|| {
        recognizer.reset();
        recognizer.accept(&command.raw[command.command_start..]).unwrap();
        text = recognizer.finish().unwrap().text;
    });
    println!("| transcribe (Whisper tiny.en): {text:?} | {transcribe_ms:.1} |");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let turn_ms = runtime.block_on(turns(work.path()));
    println!("| answer and store, wall clock, p50 of 200 on this disk | {turn_ms:.2} |");

    println!("\n| resource | |");
    println!("|---|---|");
    println!("| resident memory with every model loaded | {:.0} MB |", status_mb("VmRSS:"));
    println!(
        "| `jarvisd listen` of 1 s of silence, start to end, wall clock | {:.2} s |",
        start_s(work.path())
    );
}

/// The fetched models and those of this checkout.
fn model_dirs() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let fetched = std::env::var_os("JARVIS_MODELS_DIR").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/share/jarvis/models"),
        PathBuf::from,
    );
    vec![here, fetched]
}

fn say(dir: &Path, text: &str) -> PathBuf {
    let wav = dir.join("said.wav");
    let status = Command::new("flite").args(["-voice", "rms", "-t", text, "-o"]).arg(&wav).status();
    assert!(status.expect("flite is installed").success());
    wav
}

fn at_48k(wav: &Path) -> Vec<f32> {
    let (samples, rate_hz) = read_all(wav, Channel::Mean, 60).unwrap();
    let mut sound = jarvisd::audio::resample::resample_all(&samples, rate_hz, RATE_HZ).unwrap();
    sound.resize(sound.len() + RATE_HZ as usize, 0.0);
    sound
}

/// White noise from a small generator, the same in every run; `amplitude` in [0, 1].
fn noise(length_s: usize, amplitude: f32) -> Vec<f32> {
    let mut state = 1_u32;
    (0..length_s * RATE_HZ as usize)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0) * amplitude
        })
        .collect()
}

fn seconds(sound: &[f32]) -> f64 {
    f64::from(u32::try_from(sound.len()).unwrap()) / f64::from(RATE_HZ)
}

fn periods(sound: &[f32]) -> Vec<Period> {
    sound
        .chunks(480)
        .map(|chunk| {
            let mut samples = [0.0; MAX_PERIOD_SAMPLES];
            samples[..chunk.len()].copy_from_slice(chunk);
            Period { rate_hz: RATE_HZ, lost: 0, len: chunk.len(), samples }
        })
        .collect()
}

fn front_end(sound: &[f32]) -> (f64, Vec<Frame>) {
    let periods = periods(sound);
    let mut frames = Vec::new();
    let ms = best(|| {
        frames.clear();
        let mut front = FrontEnd::new();
        for period in &periods {
            front.push(period, &mut |frame| frames.push(frame.clone())).unwrap();
        }
        front.flush(&mut |frame| frames.push(frame.clone())).unwrap();
    });
    (ms, frames)
}

/// What the detector cuts out of a recording.
fn utterance(store: &ModelStore, wav: &Path, model: WakeModels) -> Utterance {
    let wake = Wake { model, ..Wake::default() };
    let mut detector = Detector::new(store, &wake, &Endpoint::default()).unwrap();
    let mut found = Vec::new();
    let mut sound = vec![0.0; RATE_HZ as usize / 2];
    sound.extend(at_48k(wav));
    for frame in front_end(&sound).1 {
        detector.push(&frame, &mut found).unwrap();
    }
    detector.finish(&mut found).unwrap();
    let utterance = found.into_iter().find_map(|detection| match detection {
        Detection::SpeechEnd { utterance } => Some(utterance),
        _ => None,
    });
    utterance.expect("speech is found")
}

async fn turns(dir: &Path) -> f64 {
    let memory =
        Memory::open(&dir.join("jarvis.db"), &Device { id: "bench".into() }, Clock::System).await.unwrap();
    let user = memory.add_user("anna").await.unwrap();
    let dialogue = Dialogue::new(memory, Responder::Builtin(Builtin::default()), Live::default());
    let mut took: Vec<f64> = Vec::new();
    for n in 0..200 {
        let text = format!("remember that item {n} is on shelf {n}");
        let started = Instant::now();
        dialogue.turn(&user, Select::Continue, &text, TurnMeta::default()).await.unwrap();
        took.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    took[100]
}

/// CPU milliseconds of this thread for one run, the best of [`ROUNDS`].
fn best(mut run: impl FnMut()) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let before = thread_cpu_ms();
            run();
            thread_cpu_ms() - before
        })
        .fold(f64::INFINITY, f64::min)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a bench")]
fn thread_cpu_ms() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1000.0 + now.tv_nsec as f64 / 1e6
}

fn status_mb(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn start_s(dir: &Path) -> f64 {
    let wav = dir.join("second.wav");
    let sox = ["-n", "-r", "16000", "-c", "1", "-b", "16"];
    let status = Command::new("sox").args(sox).arg(&wav).args(["trim", "0", "1"]).status();
    assert!(status.expect("sox is installed").success());
    let root = dir.join("root");
    std::fs::create_dir_all(&root).unwrap();
    let run = || {
        let started = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_jarvisd"))
            .arg("--root")
            .arg(&root)
            .args(["listen"])
            .arg(&wav)
            .env("JARVIS__STT__ENGINE", "whisper")
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        started.elapsed().as_secs_f64()
    };
    (0..ROUNDS).map(|_| run()).fold(f64::INFINITY, f64::min)
}
