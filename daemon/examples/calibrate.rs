//! Makes the cohort of `jarvisd::speaker::calibration` and measures the shipped constants on sound of its
//! own: `scripts/lab/calibrate.sh` runs it. Compensation and constants are made by
//! `scripts/lab/calibrate-channels.py`; the tables of sound, cohort and features fit their own weights, for
//! comparison, on the cosine and the score without compensation.
//!
//! ```text
//!  AUDIO/*.flac (one speaker a file) ─ same front end, VAD, net speech and model as the device ─▶ embeddings
//!     speakers by order of file name, i % 10:   0–3 cohort     4–6 fit     7–9 held out (never fitted on)
//!     of each file: first 7 s enrol (three samples), the rest tests
//! ```
//!
//! Same-speaker pairs come from one session of one utterance, which makes them more alike than two days in
//! two rooms. To take some of that back, tests also come with noise and through a simulated other room and
//! microphone. Different speakers, on the other hand, come from different rooms, which makes them less alike
//! than a household before one device: so there are also conditions in which everybody enrols and is tested
//! through the same simulated room and microphone. All of it is made by formulas here, so no noise
//! recording's licence matters.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an off-line tool: lengths and shares of recordings it has just checked"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use jarvisd::audio::file::read_all;
use jarvisd::audio::resample::resample_all;
use jarvisd::audio::{Channel, Period};
use jarvisd::detect::vad::Vad;
use jarvisd::dsp::FrontEnd;
use jarvisd::inference::ModelStore;
use jarvisd::speaker::calibration::{
    Calibration, CalibrationFile, Cohort, Compensation, Constants, Differs, Impostors, Score, normalise,
    sigmoid,
};
use jarvisd::speaker::embedding::{Embedding, PLAN_FRAMES, Padding};
use jarvisd::speaker::metrics::{Trial, cllr, ece, eer, error_rates, min_dcf};
use jarvisd::speaker::{EnrolledVoice, Enrolment, NetSpeech, SpeakerModel, Verifier};
use nnnoiseless::DenoiseState;
use sha2::{Digest, Sha256};
use sound::{other_room, with_noise};

#[path = "calibrate/choices.rs"]
mod choices;
#[path = "calibrate/second.rs"]
mod second;
#[path = "calibrate/sound.rs"]
mod sound;

type Failure = Box<dyn Error + Send + Sync>;

const RATE_HZ: usize = 16_000;
const ENROL_S: f32 = 7.0;
const LENGTHS_S: [f32; 5] = [1.0, 1.5, 2.0, 3.0, 5.0];
const THRESHOLD: f32 = 0.85;
/// Files whose speech is shorter than this in either part are left out of fit and held-out parts.
const LEAST_PART_S: f32 = 3.0;
const CONDITIONS: [&str; 7] =
    ["clean", "noise 20 dB", "noise 10 dB", "other room", "one device A", "one device B", "noise 5 dB"];
/// Conditions from here up to [`UNSEEN`] have an enrolment of their own: through the same room and microphone
/// as the tests.
const FIRST_DEVICE: usize = 4;
/// Conditions from here on are only tested: nothing is fitted on them, and no choice is made by them.
const UNSEEN: usize = 6;

const USAGE: &str = "usage: calibrate --models DIR [--audio DIR] [--voices DIR] \
                     [--denoised yes] [--choices yes] [--second yes] [--plans 200,300] [--padding mean|wrap] [--scores FILE]";

/// What differs from the shipped choice; with anything here the result is only shown, not written.
struct Choice {
    denoised: bool,
    plans: Vec<usize>,
    padding: Padding,
    /// The held-out trials go here, in the columns of `jarvisd voice score --out`.
    scores: Option<PathBuf>,
}

impl Choice {
    fn model(&self, store: &ModelStore) -> Result<SpeakerModel, Failure> {
        Ok(SpeakerModel::load_with(store, &self.plans, self.padding)?)
    }

    fn tools(&self, store: &ModelStore) -> Result<Tools, Failure> {
        Ok(Tools { denoised: self.denoised, model: self.model(store)?, vad: Vad::new(store)? })
    }

    fn shipped(&self) -> bool {
        self.plans == PLAN_FRAMES && self.padding == Padding::Mean && self.scores.is_none()
    }
}

fn main() -> Result<(), Failure> {
    let mut options = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(key) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        options.insert(key, value);
    }
    let models = PathBuf::from(options.get("--models").ok_or("--models DIR is missing")?);
    let store = ModelStore::open(std::slice::from_ref(&models))?;
    let channels = std::fs::read(models.join("calibration/campplus.channels.bin"))?;
    let channels = Compensation::from_bytes(&channels).ok_or("the channel compensation is none")?;
    CHANNELS.get_or_init(|| channels);
    let plans =
        options.get("--plans").map(|l| l.split(',').map(str::parse).collect::<Result<_, _>>()).transpose()?;
    let choice = Choice {
        denoised: options.contains_key("--denoised"),
        plans: plans.unwrap_or_else(|| PLAN_FRAMES.to_vec()),
        padding: if options.get("--padding").is_some_and(|p| p == "wrap") {
            Padding::Wrap
        } else {
            Padding::Mean
        },
        scores: options.get("--scores").map(PathBuf::from),
    };
    if let Some(audio) = options.get("--audio") {
        if options.contains_key("--second") {
            return second::run(Path::new(audio), &models, &store, &choice);
        }
        if options.contains_key("--choices") {
            return choices::run(Path::new(audio), &models, &store, &choice);
        }
        fit(Path::new(audio), &models, &store, &choice)?;
    }
    if let Some(voices) = options.get("--voices") {
        check_voices(Path::new(voices), &store)?;
    }
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

// ── sound ──────────────────────────────────────────────────────────────────────────────────────────────────

/// The device's own front end: mono sound at `rate_hz` to 16 kHz.
fn front_end(samples: &[f32], rate_hz: u32) -> Result<Vec<f32>, Failure> {
    let mut raw = Vec::new();
    let mut emit = |frame: &jarvisd::dsp::Frame| raw.extend_from_slice(&frame.raw);
    let mut front_end = FrontEnd::new();
    let mut period = Period { rate_hz, ..Period::default() };
    for block in samples.chunks(rate_hz as usize / 100) {
        period.len = block.len();
        for (to, from) in period.samples.iter_mut().zip(block) {
            *to = *from;
        }
        front_end.push(&period, &mut emit)?;
    }
    front_end.flush(&mut emit)?;
    Ok(raw)
}

/// The sound of 16 kHz denoised by RNNoise, which works at 48 kHz on 16-bit samples, a frame behind.
fn denoised(samples: &[f32]) -> Result<Vec<f32>, Failure> {
    const FRAME: usize = DenoiseState::FRAME_SIZE;
    let mut wide = resample_all(samples, RATE_HZ as u32, 48_000)?;
    wide.resize((wide.len().div_ceil(FRAME) + 1) * FRAME, 0.0);
    let mut rnnoise = DenoiseState::new();
    let mut clean = vec![0.0; wide.len()];
    for (from, to) in wide.chunks_exact(FRAME).zip(clean.chunks_exact_mut(FRAME)) {
        let scaled: Vec<f32> = from.iter().map(|s| s * 32_768.0).collect();
        rnnoise.process_frame(to, &scaled);
    }
    let clean: Vec<f32> = clean.iter().skip(FRAME).map(|s| s / 32_768.0).collect();
    let mut clean = resample_all(&clean, 48_000, RATE_HZ as u32)?;
    clean.resize(samples.len(), 0.0);
    Ok(clean)
}

/// The tests of the file at `index` as they are heard in a condition.
fn heard_in(condition: usize, rest: &[f32], index: usize) -> Vec<f32> {
    let seed = index as u64 * 10 + condition as u64;
    match condition {
        1 => with_noise(rest, 20.0, seed),
        2 => with_noise(rest, 10.0, seed),
        3 => other_room(rest, seed, seed ^ 0x5eed),
        4 => other_room(rest, DEVICES[0], seed),
        5 => other_room(rest, DEVICES[1], seed),
        6 => with_noise(rest, 5.0, seed),
        _ => rest.to_vec(),
    }
}

// ── embeddings ─────────────────────────────────────────────────────────────────────────────────────────────

struct Test {
    condition: usize,
    length: usize,
    net_s: f32,
    raw: Embedding,
    /// Of the denoised sound; that of the raw sound again if this is not measured.
    clean: Embedding,
}

struct Speaker {
    /// Means of the three enrolment samples: as they are, then through each device.
    raw: Vec<Embedding>,
    /// Of the denoised sound.
    clean: Vec<Embedding>,
    tests: Vec<Test>,
}

/// Seeds of the simulated devices that everybody shares.
const DEVICES: [u64; 2] = [900_001, 900_002];

enum Material {
    Cohort(Box<(Embedding, Embedding)>),
    Speaker(Box<Speaker>),
    TooShort,
}

struct Tools {
    denoised: bool,
    model: SpeakerModel,
    vad: Vad,
}

impl Tools {
    /// Net speech of the raw and of the denoised sound (the raw one again if that is not measured), by the
    /// voice activity of the raw sound, as on the device.
    fn net(&mut self, samples: &[f32]) -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let raw = front_end(samples, RATE_HZ as u32)?;
        let clean = if self.denoised { denoised(&raw)? } else { raw.clone() };
        let speech = self.vad.speech_of(&raw)?;
        Ok((NetSpeech::of(&raw, &speech).samples, NetSpeech::of(&clean, &speech).samples))
    }

    fn both(&self, raw: &[f32], clean: &[f32]) -> Result<(Embedding, Embedding), Failure> {
        let raw = self.model.embed(raw)?;
        let clean = if self.denoised { self.model.embed(clean)? } else { raw.clone() };
        Ok((raw, clean))
    }

    /// The three samples of an enrolment.
    fn thirds(&self, net: &[f32]) -> Result<Vec<Embedding>, Failure> {
        let parts = net.chunks_exact(net.len() / 3).take(3);
        Ok(parts.map(|part| self.model.embed(part)).collect::<Result<_, _>>()?)
    }

    fn material(&mut self, path: &Path, index: usize) -> Result<Material, Failure> {
        let (samples, rate_hz) = read_all(path, Channel::Mean, 60)?;
        if rate_hz as usize != RATE_HZ {
            return Err(format!("{} is not 16 kHz", path.display()).into());
        }
        if index % 10 < 4 {
            let (raw, clean) = self.net(&samples)?;
            return Ok(Material::Cohort(Box::new(self.both(&raw, &clean)?)));
        }
        let (enrol, rest) = parts_of(&samples);
        let least = (LEAST_PART_S * RATE_HZ as f32) as usize;
        let (mut enrol_raw, mut enrol_clean) = (Vec::new(), Vec::new());
        for device in [None, Some(0), Some(1)] {
            let (raw, clean) = self.net(&enrolled_through(device, enrol, index))?;
            if raw.len() < least || rest.len() < least {
                return Ok(Material::TooShort);
            }
            let mean = |net: &[f32]| Embedding::mean(&self.thirds(net)?).ok_or(Failure::from("no voice"));
            let voice = mean(&raw)?;
            enrol_clean.push(if self.denoised { mean(&clean)? } else { voice.clone() });
            enrol_raw.push(voice);
        }
        let mut tests = Vec::new();
        for condition in 0..CONDITIONS.len() {
            let (raw, clean) = self.net(&heard_in(condition, rest, index))?;
            for (length, seconds) in LENGTHS_S.into_iter().enumerate() {
                let count = if condition == 0 && seconds < 2.5 { 2 } else { 1 };
                let samples = (seconds * RATE_HZ as f32) as usize;
                for (raw, clean) in raw.chunks_exact(samples).zip(clean.chunks_exact(samples)).take(count) {
                    let (raw, clean) = self.both(raw, clean)?;
                    tests.push(Test { condition, length, net_s: seconds, raw, clean });
                }
            }
        }
        Ok(Material::Speaker(Box::new(Speaker { raw: enrol_raw, clean: enrol_clean, tests })))
    }
}

/// What a recording enrols with, and 200 ms behind it, so that no sound of one is in the other, its tests.
fn parts_of(samples: &[f32]) -> (&[f32], &[f32]) {
    let (enrol, rest) = samples.split_at(((ENROL_S * RATE_HZ as f32) as usize).min(samples.len()));
    (enrol, rest.get(RATE_HZ / 5..).unwrap_or_default())
}

/// The enrolment of the file at `index` as it is, or as a device hears it.
fn enrolled_through(device: Option<usize>, enrol: &[f32], index: usize) -> Vec<f32> {
    match device {
        None => enrol.to_vec(),
        Some(n) => other_room(enrol, DEVICES[n], index as u64 + 77_000),
    }
}

/// `work` on every number below `count`, on as many threads as there are cores, each with `tools` of its own;
/// the results in order.
fn on_all_cores<T, R: Send>(
    count: usize,
    tools: impl Fn() -> Result<T, Failure> + Sync,
    work: impl Fn(&mut T, usize) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism()?.get();
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> Result<Vec<(usize, R)>, Failure> {
                    let mut tools = tools()?;
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return Ok(done);
                        }
                        done.push((index, work(&mut tools, index)?));
                    }
                })
            })
            .collect();
        let parts = workers.into_iter().map(|w| w.join().map_err(|_| Failure::from("a worker panicked"))?);
        Ok::<_, Failure>(parts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })?;
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

/// All files, in file order.
fn embed_all(files: &[PathBuf], store: &ModelStore, choice: &Choice) -> Result<Vec<Material>, Failure> {
    on_all_cores(
        files.len(),
        || choice.tools(store),
        |tools, index| {
            let material = tools.material(&files[index], index)?;
            if index.is_multiple_of(25) {
                writeln!(std::io::stderr().lock(), "{index} of {} files", files.len())?;
            }
            Ok(material)
        },
    )
}

/// The cohort and the constants that the device has.
fn shipped(models: &Path) -> Result<(Cohort, Constants), Failure> {
    let text = std::fs::read_to_string(models.join("calibration/campplus.toml"))?;
    let shipped: CalibrationFile = toml::from_str(&text)?;
    let cohort = std::fs::read(models.join("calibration").join(&shipped.cohort_file))?;
    Ok((Cohort::from_bytes(&cohort)?, shipped.constants))
}

// ── scores and fit ─────────────────────────────────────────────────────────────────────────────────────────

#[derive(Clone, Copy)]
struct Scored {
    same: bool,
    condition: usize,
    length: usize,
    net_s: f32,
    score: Score,
}

#[derive(Clone, Copy, PartialEq)]
enum Sound {
    Raw,
    Denoised,
    RawEnrolDenoisedTest,
}

/// The shipped channel compensation.
static CHANNELS: OnceLock<Compensation> = OnceLock::new();

/// A voice, and all that it is compared by.
struct Known {
    voice: Embedding,
    compensated: Embedding,
    impostors: Impostors,
}

impl Known {
    fn of(voice: &Embedding, cohort: &Cohort, top: usize) -> Self {
        let compensated = CHANNELS.get().map_or_else(|| voice.clone(), |channels| channels.apply(voice));
        Self { voice: voice.clone(), compensated, impostors: cohort.impostors(voice, top) }
    }

    fn score(&self, template: &Self) -> Score {
        let cosine = self.voice.cosine(&template.voice);
        Score {
            cosine,
            normalised: normalise(cosine, self.impostors, template.impostors),
            compensated: self.compensated.cosine(&template.compensated),
            differs: Differs::between(self.voice.acoustics(), template.voice.acoustics()),
        }
    }
}

/// From a score to ln(P / (1 − P)).
trait Odds {
    fn log_odds(&self, score: Score, net_s: f32) -> f64;
}

impl Odds for Constants {
    fn log_odds(&self, score: Score, net_s: f32) -> f64 {
        Constants::log_odds(self, score, net_s)
    }
}

/// Weights of normalised score, 1, ln(net s) and cosine, without compensation.
#[derive(Debug)]
struct Weights([f64; 4]);

impl Odds for Weights {
    fn log_odds(&self, score: Score, net_s: f32) -> f64 {
        dot(&self.0, &features_of(score, net_s))
    }
}

fn features_of(score: Score, net_s: f32) -> [f64; 4] {
    let net = f64::from(net_s).clamp(1.0, 5.0);
    [f64::from(score.normalised), 1.0, net.ln(), f64::from(score.cosine)]
}

/// Every test of every speaker against every speaker's enrolment.
fn compare(speakers: &[&Speaker], cohort: &Cohort, top: usize, sound: Sound) -> Vec<Scored> {
    let enrolled: Vec<_> = speakers
        .iter()
        .map(|s| {
            let voices = if sound == Sound::Denoised { &s.clean } else { &s.raw };
            voices.iter().map(|e| Known::of(e, cohort, top)).collect::<Vec<_>>()
        })
        .collect();
    let mut scored = Vec::new();
    for (i, speaker) in speakers.iter().enumerate() {
        for test in &speaker.tests {
            let e = if sound == Sound::Raw { &test.raw } else { &test.clean };
            let known = Known::of(e, cohort, top);
            let device = match test.condition {
                FIRST_DEVICE..UNSEEN => test.condition + 1 - FIRST_DEVICE,
                _ => 0,
            };
            for (j, voices) in enrolled.iter().enumerate() {
                let Some(template) = voices.get(device) else { continue };
                let score = known.score(template);
                let Test { condition, length, net_s, .. } = *test;
                scored.push(Scored { same: i == j, condition, length, net_s, score });
            }
        }
    }
    scored
}

/// [`compare`] without the conditions that are only tested.
fn seen(speakers: &[&Speaker], cohort: &Cohort, top: usize, sound: Sound) -> Vec<Scored> {
    let all = compare(speakers, cohort, top, sound).into_iter();
    all.filter(|t| t.condition < UNSEEN).collect()
}

/// Logistic regression by Newton's method on those of [`features_of`] that are `used`. Each (class,
/// condition, length) cell weighs the same, so neither the many impostors nor the many short pieces decide
/// alone; the small ridge keeps separable data from certainty without bound.
fn fit_weights(trials: &[Scored], used: [bool; 4]) -> Weights {
    const RIDGE: f64 = 1e-3;
    let mut cells: BTreeMap<(bool, usize, usize), f64> = BTreeMap::new();
    for t in trials {
        *cells.entry((t.same, t.condition, t.length)).or_default() += 1.0;
    }
    let classes = cells.len() as f64;
    let mut w = [0f64; 4];
    for _ in 0..60 {
        let mut gradient = [0f64; 4];
        let mut hessian = [[0f64; 4]; 4];
        for t in trials {
            let x = features(t, used);
            let p = f64::from(sigmoid(dot(&w, &x)));
            let weight =
                1.0 / (classes * cells.get(&(t.same, t.condition, t.length)).copied().unwrap_or(1.0));
            let error = p - if t.same { 1.0 } else { 0.0 };
            for i in 0..4 {
                gradient[i] += weight * error * x[i];
                for j in 0..4 {
                    hessian[i][j] += weight * p * (1.0 - p) * x[i] * x[j];
                }
            }
        }
        for i in 0..4 {
            gradient[i] += RIDGE * SCALES[i] * w[i];
            hessian[i][i] += RIDGE * SCALES[i] + 1e-12;
        }
        let step = solve(hessian, gradient);
        let mut moved = 0.0f64;
        for i in 0..4 {
            // Damped: the first steps on nearly separable data are otherwise too long.
            let d = step[i].clamp(-2.0, 2.0);
            w[i] -= d;
            moved = moved.max(d.abs());
        }
        if moved < 1e-7 {
            break;
        }
    }
    Weights(w)
}

/// Ridge per feature: none on the constant; the cosine's range is some ten times smaller than the normalised
/// score's.
const SCALES: [f64; 4] = [1.0, 0.0, 0.1, 0.01];

fn features(t: &Scored, used: [bool; 4]) -> [f64; 4] {
    let mut x = features_of(t.score, t.net_s);
    for (x, used) in x.iter_mut().zip(used) {
        if !used {
            *x = 0.0;
        }
    }
    x
}

fn dot(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gaussian elimination with pivoting.
fn solve(mut m: [[f64; 4]; 4], mut v: [f64; 4]) -> [f64; 4] {
    for column in 0..4 {
        let pivot =
            (column..4).max_by(|&i, &j| m[i][column].abs().total_cmp(&m[j][column].abs())).unwrap_or(column);
        m.swap(column, pivot);
        v.swap(column, pivot);
        for row in column + 1..4 {
            let factor = m[row][column] / m[column][column];
            let above = m[column];
            for (value, above) in m[row].iter_mut().zip(above).skip(column) {
                *value -= factor * above;
            }
            v[row] -= factor * v[column];
        }
    }
    for row in (0..4).rev() {
        for k in row + 1..4 {
            v[row] -= m[row][k] * v[k];
        }
        v[row] /= m[row][row];
    }
    v
}

fn trials(scored: &[Scored], constants: &dyn Odds, keep: impl Fn(&Scored) -> bool) -> Vec<Trial> {
    let kept = scored.iter().filter(|t| keep(t));
    kept.map(|t| {
        let log_odds = constants.log_odds(t.score, t.net_s);
        Trial { same: t.same, score: log_odds as f32, confidence: sigmoid(log_odds) }
    })
    .collect()
}

fn row(label: &str, t: &[Trial]) -> String {
    let (far, frr) = error_rates(t, THRESHOLD);
    format!(
        "| {label} | {} / {} | {:.2} % | {:.2} % | {:.2} % | {:.3} | {:.3} | {:.3} |",
        t.iter().filter(|t| t.same).count(),
        t.iter().filter(|t| !t.same).count(),
        100.0 * eer(t),
        100.0 * far,
        100.0 * frr,
        cllr(t),
        ece(t),
        min_dcf(t, 0.01),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The recordings in a folder, in the order of their names.
fn recordings(audio: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(audio)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "flac" || e == "wav"));
    files.sort();
    Ok(files)
}

fn fit(audio: &Path, models: &Path, store: &ModelStore, choice: &Choice) -> Result<(), Failure> {
    let files = recordings(audio)?;
    let materials = embed_all(&files, store, choice)?;
    let (mut raw, mut clean) = (Vec::new(), Vec::new());
    let (mut fitted, mut held) = (Vec::new(), Vec::new());
    let mut short = 0;
    for (index, material) in materials.iter().enumerate() {
        match material {
            Material::Cohort(pair) => {
                raw.push(pair.0.clone());
                clean.push(pair.1.clone());
            }
            Material::Speaker(speaker) if index % 10 < 7 => fitted.push(speaker.as_ref()),
            Material::Speaker(speaker) => held.push(speaker.as_ref()),
            Material::TooShort => short += 1,
        }
    }
    say(&format!(
        "speakers: {} cohort, {} fit, {} held out, {short} left out (too little speech)\n",
        raw.len(),
        fitted.len(),
        held.len()
    ))?;
    const ALL: [bool; 4] = [true, true, true, true];
    const HEAD: &str = "| | same / different | EER | FAR | FRR | Cllr | ECE | minDCF(0.01) |\n|---|---|---|---|---|---|---|---|";

    say(&format!("### Sound heard (held out, all conditions)\n\n{HEAD}"))?;
    for (label, sound) in [
        ("raw", Sound::Raw),
        ("denoised", Sound::Denoised),
        ("enrol raw, test denoised", Sound::RawEnrolDenoisedTest),
    ] {
        if sound != Sound::Raw && !choice.denoised {
            continue;
        }
        let cohort = Cohort::new(if sound == Sound::Denoised { clean.clone() } else { raw.clone() });
        let k = fit_weights(&seen(&fitted, &cohort, 50, sound), ALL);
        let scored = compare(&held, &cohort, 50, sound);
        say(&row(label, &trials(&scored, &k, |t| t.condition < UNSEEN)))?;
        for (c, name) in CONDITIONS.iter().enumerate() {
            say(&row(&format!("{label}, {name}"), &trials(&scored, &k, |t| t.condition == c)))?;
        }
    }

    say(&format!("\n### Cohort size and voices used (held out, all conditions)\n\n{HEAD}"))?;
    for size in [25, 50, raw.len()] {
        for top in [10, 25, 50, 100] {
            if top <= size {
                let cohort = Cohort::new(raw.iter().take(size).cloned().collect());
                let k = fit_weights(&seen(&fitted, &cohort, top, Sound::Raw), ALL);
                let scored = seen(&held, &cohort, top, Sound::Raw);
                say(&row(&format!("{size} voices, nearest {top}"), &trials(&scored, &k, |_| true)))?;
            }
        }
    }

    let cohort = Cohort::new(raw);
    let fit_scored = seen(&fitted, &cohort, TOP, Sound::Raw);
    let scored = compare(&held, &cohort, TOP, Sound::Raw);
    say(&format!("\n### Features (held out, all conditions)\n\n{HEAD}"))?;
    for (label, used) in [
        ("cosine", [false, true, false, true]),
        ("cosine, ln net", [false, true, true, true]),
        ("normalised", [true, true, false, false]),
        ("normalised, ln net", [true, true, true, false]),
        ("normalised, cosine", [true, true, false, true]),
        ("normalised, ln net, cosine", ALL),
    ] {
        let k = fit_weights(&fit_scored, used);
        say(&row(&format!("{label} ({:.3?})", k.0), &trials(&scored, &k, |t| t.condition < UNSEEN)))?;
    }

    let (_, constants) = shipped(models)?;
    say(&format!("\n### Shipped: {constants:?}\n\nHeld out, clean\n\n{HEAD}"))?;
    for (condition, name) in CONDITIONS.iter().enumerate() {
        if condition > 0 {
            say(&format!("\nHeld out, {name}\n\n{HEAD}"))?;
        }
        for (length, seconds) in LENGTHS_S.into_iter().enumerate() {
            let t = trials(&scored, &constants, |t| t.condition == condition && t.length == length);
            say(&row(&format!("{seconds} s"), &t))?;
        }
        let t = trials(&scored, &constants, |t| t.condition == condition);
        say(&row("all", &t))?;
    }
    if let Some(path) = &choice.scores {
        let mut text = "label,condition,net_speech_s,confidence\n".to_owned();
        for t in &scored {
            let confidence = sigmoid(constants.log_odds(t.score, t.net_s));
            let condition = CONDITIONS.get(t.condition).copied().unwrap_or_default();
            text += &format!("{},{condition},{},{confidence:.6}\n", u8::from(t.same), t.net_s);
        }
        std::fs::write(path, text)?;
    }
    say("\n### Cosines (held out)\n\n| | same: lowest, 1 % | different: 99.9 %, highest |\n|---|---|---|")?;
    for (condition, name) in CONDITIONS.iter().enumerate() {
        for (length, seconds) in LENGTHS_S.into_iter().enumerate() {
            let of = |same: bool, share: f32| {
                let mut cosines: Vec<f32> = scored
                    .iter()
                    .filter(|t| t.condition == condition && t.length == length && t.same == same)
                    .map(|t| t.score.cosine)
                    .collect();
                cosines.sort_by(f32::total_cmp);
                cosines.get((share * (cosines.len().max(1) - 1) as f32) as usize).copied().unwrap_or(f32::NAN)
            };
            let (a, b, c, d) = (of(true, 0.0), of(true, 0.01), of(false, 0.999), of(false, 1.0));
            say(&format!("| {name}, {seconds} s | {a:.2}, {b:.2} | {c:.2}, {d:.2} |"))?;
        }
    }
    if !choice.shipped() {
        return Ok(());
    }

    let dir = models.join("calibration");
    std::fs::create_dir_all(&dir)?;
    let bytes = cohort.to_bytes();
    std::fs::write(dir.join("campplus.cohort.bin"), &bytes)?;
    pin(models)
}

/// Puts size and hash of the calibration files into the manifest, which refuses any others.
fn pin(models: &Path) -> Result<(), Failure> {
    let path = models.join("manifest.toml");
    let text = std::fs::read_to_string(&path)?;
    let mut lines = Vec::new();
    let mut file: Option<Vec<u8>> = None;
    for line in text.lines() {
        let value = line.strip_prefix("file = \"").and_then(|rest| rest.strip_suffix('"'));
        if line == "[[model]]" {
            file = None;
        } else if let Some(name) = value.filter(|name| name.starts_with("calibration/")) {
            file = Some(std::fs::read(models.join(name))?);
        }
        lines.push(match &file {
            Some(bytes) if line.starts_with("sha256 = ") => {
                format!("sha256 = \"{}\"", hex(&Sha256::digest(bytes)))
            }
            Some(bytes) if line.starts_with("bytes = ") => format!("bytes = {}", bytes.len()),
            _ => line.to_owned(),
        });
    }
    std::fs::write(path, lines.join("\n") + "\n")?;
    Ok(())
}

/// Nearest cohort voices that a score is normalised against: set before the first run, not the best of the
/// tables above, which only show that nothing else is clearly better.
const TOP: usize = 50;
const USED: [bool; 4] = [true, true, true, true];

// ── synthetic voices ───────────────────────────────────────────────────────────────────────────────────────

/// `DIR/VOICE/enrol-*.wav` and `DIR/VOICE/test-*.wav`: enrols each voice and tries every test of every voice
/// on it.
fn check_voices(dir: &Path, store: &ModelStore) -> Result<(), Failure> {
    let model = Arc::new(SpeakerModel::load(store)?);
    let verifier = Verifier::new(model.clone(), Calibration::load(store)?)?;
    let mut vad = Vad::new(store)?;
    let mut heard = |path: &Path| -> Result<(Vec<f32>, Vec<f32>), Failure> {
        let (samples, rate_hz) = read_all(path, Channel::Mean, 60)?;
        let raw = front_end(&samples, rate_hz)?;
        let speech = vad.speech_of(&raw)?;
        Ok((raw, speech))
    };
    let list = |dir: &Path, prefix: &str| -> Result<Vec<PathBuf>, Failure> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        paths.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)));
        paths.sort();
        Ok(paths)
    };
    let mut enrolled = Vec::new();
    let mut tests = Vec::new();
    for voice in list(dir, "")? {
        let name = voice.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut enrolment = Enrolment::new(model.clone());
        for path in list(&voice, "enrol-")? {
            let (samples, speech) = heard(&path)?;
            match enrolment.add(&samples, &speech) {
                Ok(report) => say(&format!(
                    "{name} {}: {report:?}",
                    path.file_name().unwrap_or_default().to_string_lossy()
                ))?,
                Err(refusal) => say(&format!("{name}: {refusal}"))?,
            }
        }
        let template = enrolment.finish()?;
        enrolled.push(EnrolledVoice {
            user_id: name.clone(),
            user_name: name.clone(),
            template,
            threshold: None,
        });
        for path in list(&voice, "test-")? {
            tests.push((name.clone(), path.clone(), heard(&path)?));
        }
    }
    say("\n| test | net | confidence for each enrolled voice |\n|---|---|---|")?;
    let (mut own, mut own_refused, mut other, mut other_accepted) = (0, 0, 0, 0);
    for (name, path, (samples, speech)) in &tests {
        let mut cells = Vec::new();
        for voice in &enrolled {
            let verdict = verifier.verify(samples, speech, std::slice::from_ref(voice), THRESHOLD)?;
            let accepted = verdict.name() == "verified";
            if voice.user_name == *name {
                own += 1;
                own_refused += usize::from(!accepted);
            } else {
                other += 1;
                other_accepted += usize::from(accepted);
            }
            cells.push(format!(
                "{} {:.3} {}",
                voice.user_name,
                verdict.confidence().unwrap_or(f32::NAN),
                if accepted { "✓" } else { verdict.name() }
            ));
        }
        let net_s = NetSpeech::of(samples, speech).quality.net_speech_s;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        say(&format!("| {name} {file} | {net_s:.2} s | {} |", cells.join(", ")))?;
    }
    say(&format!(
        "\nown voice refused: {own_refused} of {own}; other voice accepted: {other_accepted} of {other}"
    ))
}
