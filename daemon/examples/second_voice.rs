//! Measures what becomes of a second voice in one utterance, and of short orders (docs/lab/second-voice.md).
//!
//! ```text
//! cargo run --release --example second_voice -- --models models --audio AUDIO_DIR
//!     [--part fit|held] [--first N] [--every N] [--only TEXT] [--leaks yes] [--cost ROUNDS] [--short yes]
//! ```
//!
//! AUDIO_DIR holds one recording a speaker (FLAC, 16 kHz). Speakers are dealt by order of file name as in
//! `calibrate`: of ten, four belong to the cohort and are left out, three were tuned on (`fit`), three were
//! not (`held`, the default). Of each the first 7 s enrol as three samples; the rest is cut into pieces,
//! which are joined as people who speak in turn. With another channel the joined sound goes through it, and
//! so do the enrolments of one device. `--leaks` names each trial in which a tenth of a second of somebody
//! else's speech was heard as a person's. `--cost` measures only the utterances of one voice.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an off-line tool: lengths and shares of recordings it has just checked"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use jarvisd::audio::Channel;
use jarvisd::audio::file::read_all;
use jarvisd::detect::vad::Vad;
use jarvisd::inference::ModelStore;
use jarvisd::speaker::speech::Quality;
use jarvisd::speaker::{
    Calibration, EnrolledVoice, NetSpeech, OverlapModel, Part, Prototype, SpeakerModel, Template, Verdict,
    Verifier, is_known,
};

#[path = "second_voice/cost.rs"]
mod cost;
#[path = "calibrate/sound.rs"]
mod sound;

use sound::{other_room, with_noise};

type Failure = Box<dyn Error + Send + Sync>;

const RATE_HZ: usize = 16_000;
const FRAME: usize = 160;
const ENROL_S: f32 = 7.0;
const LEAST_REST_S: f32 = 4.5;
const THRESHOLD: f32 = 0.85;
/// The simulated device that everybody shares.
const DEVICE: u64 = 900_001;
const CONDITIONS: [&str; 3] = ["as recorded", "one device", "noise 10 dB"];
const ONE_DEVICE: usize = 1;

/// Who says how much, one after the other: owner, the second person enrolled, a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Owner,
    Second,
    Stranger,
}
use Who::{Owner, Second, Stranger};

struct Case {
    name: &'static str,
    /// Seconds of each, and the pause in front.
    said: &'static [(Who, f32, f32)],
    two_enrolled: bool,
}

impl Case {
    fn enrolled(&self) -> &'static [Who] {
        if self.two_enrolled { &[Owner, Second] } else { &[Owner] }
    }

    /// Whether somebody who is not enrolled speaks in the same breath as an owner.
    fn beside_an_owner(&self) -> bool {
        let speaks = |who: Who| self.said.iter().any(|said| said.0 == who);
        speaks(Owner) && speaks(Stranger)
    }
}

const fn case(name: &'static str, said: &'static [(Who, f32, f32)]) -> Case {
    Case { name, said, two_enrolled: false }
}

const fn two(name: &'static str, said: &'static [(Who, f32, f32)]) -> Case {
    Case { name, said, two_enrolled: true }
}

const CASES: [Case; 19] = [
    case("owner 2 s", &[(Owner, 2.0, 0.0)]),
    case("owner 3.5 s", &[(Owner, 3.5, 0.0)]),
    two("owner 3.5 s, two enrolled", &[(Owner, 3.5, 0.0)]),
    case("stranger 2 s", &[(Stranger, 2.0, 0.0)]),
    case("stranger 4 s", &[(Stranger, 4.0, 0.0)]),
    case("stranger 2 s, another 2 s", &[(Stranger, 2.0, 0.0), (Second, 2.0, 0.3)]),
    case("stranger 1 s, owner 3 s", &[(Stranger, 1.0, 0.0), (Owner, 3.0, 0.3)]),
    case("stranger 2 s, owner 3 s", &[(Stranger, 2.0, 0.0), (Owner, 3.0, 0.3)]),
    case("stranger 3 s, owner 2 s", &[(Stranger, 3.0, 0.0), (Owner, 2.0, 0.3)]),
    case("stranger 2 s, owner 3 s, no pause", &[(Stranger, 2.0, 0.0), (Owner, 3.0, 0.0)]),
    case("owner 3 s, stranger 1 s", &[(Owner, 3.0, 0.0), (Stranger, 1.0, 0.3)]),
    case("owner 3 s, stranger 1.5 s", &[(Owner, 3.0, 0.0), (Stranger, 1.5, 0.3)]),
    case("owner 2 s, stranger 2 s", &[(Owner, 2.0, 0.0), (Stranger, 2.0, 0.3)]),
    case("owner 2 s, stranger 3 s", &[(Owner, 2.0, 0.0), (Stranger, 3.0, 0.3)]),
    case("owner 3 s, stranger 1 s, no pause", &[(Owner, 3.0, 0.0), (Stranger, 1.0, 0.0)]),
    case("owner 3 s, stranger 2 s, no pause", &[(Owner, 3.0, 0.0), (Stranger, 2.0, 0.0)]),
    two("owner 2.5 s, the other enrolled 2.5 s", &[(Owner, 2.5, 0.0), (Second, 2.5, 0.3)]),
    two("owner 2 s, the other enrolled 1.5 s", &[(Owner, 2.0, 0.0), (Second, 1.5, 0.3)]),
    two("the same, no pause", &[(Owner, 2.5, 0.0), (Second, 2.5, 0.0)]),
];

struct Reader {
    /// As recorded, and through the device.
    templates: [Template; 2],
    /// Begins with speech.
    rest: Vec<f32>,
}

struct Tools {
    model: Arc<SpeakerModel>,
    vad: Vad,
}

impl Tools {
    fn template(&mut self, sound: &[f32]) -> Result<Option<Template>, Failure> {
        let speech = self.vad.speech_of(sound)?;
        let frames = sound.len() / FRAME / 3;
        let mut prototypes = Vec::new();
        for third in 0..3 {
            let range = third * frames..(third + 1) * frames;
            let net = NetSpeech::of(
                sound.get(range.start * FRAME..range.end * FRAME).unwrap_or_default(),
                speech.get(range).unwrap_or_default(),
            );
            if net.quality.net_speech_s < 1.0 {
                return Ok(None);
            }
            prototypes.push(Prototype { embedding: self.model.embed_net(&net)?, quality: net.quality });
        }
        Ok(Template::new(self.model.identity().clone(), prototypes))
    }

    fn reader(&mut self, path: &Path, index: usize) -> Result<Option<Reader>, Failure> {
        let (sound, _) = read_all(path, Channel::Mean, 60)?;
        let at = seconds(ENROL_S);
        let (Some(enrol), Some(rest)) = (sound.get(..at), sound.get(at + seconds(0.2)..)) else {
            return Ok(None);
        };
        let begin = self.vad.speech_of(rest)?.iter().position(|p| *p >= 0.5).unwrap_or(0);
        let rest = rest.get((begin * FRAME).saturating_sub(FRAME * 3)..).unwrap_or_default().to_vec();
        if rest.len() < seconds(LEAST_REST_S) {
            return Ok(None);
        }
        let device = other_room(enrol, DEVICE, index as u64);
        let (Some(plain), Some(device)) = (self.template(enrol)?, self.template(&device)?) else {
            return Ok(None);
        };
        Ok(Some(Reader { templates: [plain, device], rest }))
    }
}

fn seconds(s: f32) -> usize {
    (s * RATE_HZ as f32) as usize
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A trial's sound, and the speaker of each of its samples.
struct Sound {
    samples: Vec<f32>,
    speech: Vec<f32>,
    said: Vec<(Who, Range<usize>)>,
}

fn joined(case: &Case, of: impl Fn(Who) -> Vec<f32>, condition: usize, seed: u64) -> Sound {
    let mut noise = sound::Noise(seed);
    let mut hush =
        |samples: &mut Vec<f32>, s: f32| samples.extend((0..seconds(s)).map(|_| noise.next() * 1e-4));
    let (mut samples, mut said) = (Vec::new(), Vec::new());
    hush(&mut samples, 0.3);
    for (who, length, pause) in case.said {
        hush(&mut samples, *pause);
        let from = samples.len();
        samples.extend(of(*who).iter().take(seconds(*length)));
        said.push((*who, from..samples.len()));
    }
    hush(&mut samples, 0.7);
    Sound { samples: through(&samples, condition, seed), speech: Vec::new(), said }
}

fn through(samples: &[f32], condition: usize, seed: u64) -> Vec<f32> {
    match condition {
        ONE_DEVICE => other_room(samples, DEVICE, seed),
        2 => with_noise(samples, 10.0, seed),
        _ => samples.to_vec(),
    }
}

#[derive(Default)]
struct Row {
    trials: usize,
    /// Orders of enrolled people that were said, answered, and neither answered nor told as dropped.
    orders: usize,
    answered: usize,
    silent: usize,
    /// Frames of speech of whoever is not the one that is answered, and those of them that were heard as
    /// theirs.
    others: usize,
    leaked: usize,
    /// Trials in which anything of at least 0.2 s leaked.
    leaks: usize,
}

impl Row {
    /// Adds a trial, and returns the frames of speech that leaked: of whom, in frames behind their begin.
    fn add(&mut self, sound: &Sound, enrolled: &[Who], parts: &[Part]) -> Vec<(Who, Vec<usize>)> {
        self.trials += 1;
        let speech = |range: &Range<usize>| {
            let frames = range.start / FRAME..range.end / FRAME;
            frames.filter(|k| sound.speech.get(*k).is_some_and(|p| *p >= 0.5)).collect::<Vec<_>>()
        };
        let all = 0..sound.samples.len();
        let given = |who: Who| {
            let theirs = parts.iter().filter(move |part| {
                matches!(&part.verdict, Verdict::Verified { user_id, .. } if *user_id == format!("{who:?}"))
            });
            theirs
                .flat_map(|part| part.own.as_deref().unwrap_or(std::slice::from_ref(&all)))
                .collect::<Vec<_>>()
        };
        let holds = |own: &[&Range<usize>], frame: usize| {
            own.iter().any(|r| r.contains(&(frame * FRAME + FRAME / 2)))
        };
        let told = parts.iter().any(|part| !matches!(part.verdict, Verdict::Verified { .. }));
        let mut leaks = Vec::new();
        for (who, range) in &sound.said {
            let frames = speech(range);
            if enrolled.contains(who) {
                let own = given(*who);
                let kept = frames.iter().filter(|k| holds(&own, **k)).count();
                self.orders += 1;
                let answered = kept * 10 >= frames.len() * 8;
                self.answered += usize::from(answered);
                self.silent += usize::from(!answered && !told);
            }
            for other in enrolled.iter().filter(|other| *other != who) {
                let own = given(*other);
                let leaked = frames.iter().filter(|k| holds(&own, **k));
                leaks.push((*who, leaked.map(|k| k - range.start / FRAME).collect::<Vec<_>>()));
            }
            if !(enrolled.len() == 1 && enrolled.contains(who)) {
                self.others += frames.len();
            }
        }
        let leaked: usize = leaks.iter().map(|(_, frames)| frames.len()).sum();
        self.leaked += leaked;
        self.leaks += usize::from(leaked >= 20);
        leaks
    }

    fn join(&mut self, other: &Self) {
        self.trials += other.trials;
        self.orders += other.orders;
        self.answered += other.answered;
        self.silent += other.silent;
        self.others += other.others;
        self.leaked += other.leaked;
        self.leaks += other.leaks;
    }

    fn line(&self, name: &str) -> String {
        let share = |n: usize, of: usize| {
            if of == 0 { "–".to_owned() } else { format!("{:.1} %", 100.0 * n as f32 / of as f32) }
        };
        format!(
            "| {name} | {} | {} | {} | {} | {} |",
            self.trials,
            share(self.answered, self.orders),
            share(self.silent, self.orders),
            share(self.leaked, self.others),
            share(self.leaks, self.trials),
        )
    }
}

fn enrolled_voice(reader: &Reader, who: Who, condition: usize) -> EnrolledVoice {
    EnrolledVoice {
        user_id: format!("{who:?}"),
        user_name: format!("{who:?}"),
        template: reader.templates[usize::from(condition == ONE_DEVICE)].clone(),
        threshold: None,
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options: BTreeMap<&str, &str> =
        arguments.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    let store = ModelStore::open(&[(*options.get("--models").ok_or("--models DIR is missing")?).into()])?;
    let model = Arc::new(SpeakerModel::load(&store)?);
    let verifier = Verifier::new(model.clone(), Calibration::load(&store)?)?
        .hearing_turns(Arc::new(OverlapModel::load(&store)?));
    let mut tools = Tools { model, vad: Vad::new(&store)? };
    let fit = options.get("--part").is_some_and(|part| *part == "fit");
    let every: usize = options.get("--every").map_or(Ok(1), |n| n.parse())?;
    let mut files: Vec<_> = std::fs::read_dir(options.get("--audio").ok_or("--audio DIR is missing")?)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "flac"));
    files.sort();
    let mut readers = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let wanted = if fit { (4..7).contains(&(index % 10)) } else { index % 10 >= 7 };
        if wanted && let Some(reader) = tools.reader(file, index)? {
            readers.push(reader);
        }
    }
    if options.contains_key("--short") {
        return short(
            &verifier,
            &Calibration::load(&store)?,
            &mut tools,
            &readers,
            options.get("--scores").copied(),
        );
    }
    let first: usize = options.get("--first").map_or(Ok(0), |n| n.parse())?;
    let only = options.get("--only").copied().unwrap_or_default();
    let mut bench = Bench {
        verifier: &verifier,
        tools: &mut tools,
        readers: &readers,
        owners: (first..readers.len()).step_by(every),
        only,
    };
    match options.get("--cost") {
        Some(rounds) => bench.cost(rounds.parse()?),
        None => bench.second(options.contains_key("--leaks")),
    }
}

const SHORT_S: [f32; 4] = [0.5, 0.65, 0.8, 0.95];

/// A short order of one reader against the voice of another.
struct Attempt {
    length: usize,
    same: bool,
    log_odds: f64,
    /// Likeness to whoever was verified just before.
    just: f32,
}

/// Rates of short orders: alone, and behind 2 s of the person who is enrolled.
fn short(
    verifier: &Verifier,
    calibration: &Calibration,
    tools: &mut Tools,
    readers: &[Reader],
    scores: Option<&str>,
) -> Result<(), Failure> {
    let mut file = scores.map(std::fs::File::create).transpose()?;
    say(
        "| | s | owners / strangers | alone: owner not answered | stranger let in | just heard: owner not answered | stranger let in |",
    )?;
    say("|---|---|---|---|---|---|---|")?;
    for (condition, name) in CONDITIONS.into_iter().enumerate() {
        let (mut before, mut tests) = (Vec::new(), Vec::new());
        for (k, reader) in readers.iter().enumerate() {
            let seed = (k * 10 + condition) as u64;
            let sound = through(&reader.rest, condition, seed);
            let speech = tools.vad.speech_of(&sound)?;
            let net = NetSpeech::of(&sound, &speech).samples;
            let (Some(first), Some(rest)) = (net.get(..seconds(2.0)), net.get(seconds(2.0)..)) else {
                before.push(None);
                continue;
            };
            before.push(Some(calibration.without_channel(&tools.model.embed(first)?)));
            let mut at = 0;
            for (length, s) in SHORT_S.into_iter().enumerate().cycle() {
                let Some(piece) = rest.get(at..at + seconds(s)) else { break };
                tests.push((k, length, tools.model.embed(piece)?));
                at += piece.len();
            }
        }
        let mut attempts = Vec::new();
        for (k, length, voice) in &tests {
            for (j, reader) in readers.iter().enumerate() {
                let Some(Some(just)) = before.get(j) else { continue };
                let template = &reader.templates[usize::from(condition == ONE_DEVICE)];
                let quality =
                    Quality { net_speech_s: SHORT_S[*length], level_db: -23.0, snr_db: 60.0, clipped: 0.0 };
                let (_, _, log_odds) = verifier.compare(voice, quality, template);
                let just = calibration.without_channel(voice).cosine(just);
                attempts.push(Attempt { length: *length, same: *k == j, log_odds, just });
                if let Some(file) = &mut file {
                    writeln!(file, "{condition} {k} {j} {} {log_odds:.3} {just:.3}", SHORT_S[*length])?;
                }
            }
        }
        for (length, s) in SHORT_S.into_iter().enumerate() {
            let of = |same: bool| attempts.iter().filter(move |a| a.length == length && a.same == same);
            let share = |same: bool, just: bool| {
                let known = of(same).filter(|a| is_known(a.log_odds, s, just.then_some(a.just))).count();
                let all = of(same).count().max(1);
                100.0 * (if same { all - known } else { known }) as f32 / all as f32
            };
            say(&format!(
                "| {name} | {s} | {} / {} | {:.1} % | {:.2} % | {:.1} % | {:.2} % |",
                of(true).count(),
                of(false).count(),
                share(true, false),
                share(false, false),
                share(true, true),
                share(false, true),
            ))?;
        }
    }
    Ok(())
}

/// The verifier, its tools, and the readers of whom some are owners.
struct Bench<'a> {
    verifier: &'a Verifier,
    tools: &'a mut Tools,
    readers: &'a [Reader],
    /// Indices of the readers that are owners.
    owners: std::iter::StepBy<Range<usize>>,
    /// Only cases whose name has this text.
    only: &'a str,
}

impl Bench<'_> {
    fn cases(&self) -> impl Iterator<Item = &'static Case> + use<'_> {
        CASES.iter().filter(|case| case.name.contains(self.only))
    }

    /// The trial of an owner, and the voices that are enrolled for it.
    fn trial(
        &mut self,
        case: &Case,
        condition: usize,
        owner: usize,
    ) -> Result<(Sound, Vec<EnrolledVoice>), Failure> {
        let step = |who: Who| match who {
            Owner => 0,
            Stranger => 1,
            Second => 2,
        };
        let reader = |who: Who| &self.readers[(owner + step(who)) % self.readers.len()];
        let seed = (owner * 10 + condition) as u64;
        let mut sound = joined(case, |who| reader(who).rest.clone(), condition, seed);
        sound.speech = self.tools.vad.speech_of(&sound.samples)?;
        let enrolled = case.enrolled().iter().map(|who| enrolled_voice(reader(*who), *who, condition));
        Ok((sound, enrolled.collect()))
    }

    fn second(&mut self, name_leaks: bool) -> Result<(), Failure> {
        say(&format!("readers: {}, owners: {}\n", self.readers.len(), self.owners.len()))?;
        for (condition, name) in CONDITIONS.into_iter().enumerate() {
            say(&format!("\n{name}\n"))?;
            say("| | trials | answered | lost in silence | leaked | trials with 0.2 s and more of it |")?;
            say("|---|---|---|---|---|---|")?;
            let mut all = Row::default();
            let mut named = Vec::new();
            for case in self.cases().collect::<Vec<_>>() {
                let mut row = Row::default();
                for owner in self.owners.clone() {
                    let (sound, enrolled) = self.trial(case, condition, owner)?;
                    let parts =
                        self.verifier.hear(&sound.samples, &sound.speech, &enrolled, THRESHOLD, None)?;
                    let leaks = row.add(&sound, case.enrolled(), &parts);
                    for (who, frames) in leaks.iter().filter(|(_, frames)| frames.len() >= 10) {
                        let (first, last) = (frames.first(), frames.last());
                        named.push(format!(
                            "{}, owner {owner}: {} frames of {who:?}, {first:?} to {last:?}",
                            case.name,
                            frames.len()
                        ));
                    }
                }
                say(&row.line(case.name))?;
                if case.beside_an_owner() {
                    all.join(&row);
                }
            }
            say(&all.line("all beside an owner"))?;
            if name_leaks {
                say(&format!("\n{}", named.join("\n")))?;
            }
        }
        Ok(())
    }
}
