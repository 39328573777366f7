//! `jarvisd voice score`: error rates of the speaker check on a list of trials.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::ProgressBar;

use crate::app::Settings;
use crate::app::parts;
use crate::audio::Channel;
use crate::cli::{models, output};
use crate::detect::vad::Vad;
use crate::error::{Exit, Failure, chain};
use crate::identity::sound::Recording;
use crate::inference::ModelStore;
use crate::plain::figure;
use crate::speaker::trials::{self, Compared, Line, Outcome, Report};
use crate::speaker::{LEAST_NET_SPEECH_S, NetSpeech, Prototype, Template, Verifier};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// List of trials: a line is "label enrol.wav[,enrol.wav] test.wav", label 1 for the same speaker, 0 for
    /// another.
    #[arg(long, value_name = "FILE")]
    trials: PathBuf,
    /// Write each trial's score as CSV to this file, which must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Accepted for symmetry with the other commands: the figures are always JSON.
    #[arg(long)]
    json: bool,
}

/// The speech kept of one recording, or the fact that it has too little.
enum Voice {
    Heard(Box<Prototype>),
    TooShort { net_speech_s: f32 },
}

impl Voice {
    fn net_speech_s(&self) -> f32 {
        match self {
            Self::Heard(prototype) => prototype.quality.net_speech_s,
            Self::TooShort { net_speech_s } => *net_speech_s,
        }
    }
}

pub fn run(args: &Args, settings: &Settings) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.trials).map_err(|e| {
        Failure::because(Exit::Data, format!("the list {} cannot be read", args.trials.display()), e)
    })?;
    let lines = trials::parse(crate::plain::without_mark(&text)).map_err(|e| {
        Failure::new(Exit::Data, format!("{} is no list of trials: {e}", args.trials.display()))
    })?;
    if let Some(out) = args.out.as_deref().filter(|out| out.exists()) {
        return Err(Failure::new(Exit::Usage, format!("{} exists; name a new file", out.display())));
    }
    let folder = args.trials.parent().unwrap_or(Path::new(""));
    let store = parts::open_models(settings)?;
    let verifier = parts::load_speaker(&store)?;
    let voices = hear_all(&store, &verifier, &files(&lines), folder, settings.audio.channel)?;
    let outcomes = lines
        .iter()
        .map(|line| compare(&verifier, line, &voices))
        .collect::<Result<Vec<Outcome>, Failure>>()?;
    if let Some(out) = &args.out {
        output::text_to(out, &csv(&lines, &outcomes, settings.voice.threshold))?;
    }
    output::json(&Report::of(&outcomes, settings.voice.threshold))
}

/// Every recording once, with the first line that names it.
fn files(lines: &[Line]) -> Vec<(&str, usize)> {
    let mut files = BTreeMap::new();
    for line in lines {
        for file in line.enrol.iter().chain([&line.test]) {
            files.entry(file.as_str()).or_insert(line.number);
        }
    }
    files.into_iter().collect()
}

/// Hears every recording, on all cores. The first that cannot be read ends it.
fn hear_all<'a>(
    store: &ModelStore,
    verifier: &Verifier,
    files: &[(&'a str, usize)],
    folder: &Path,
    channel: Channel,
) -> Result<BTreeMap<&'a str, Voice>, Failure> {
    let next = AtomicUsize::new(0);
    let bar = ProgressBar::new(files.len() as u64);
    let heard = Mutex::new(BTreeMap::new());
    let work = || -> Result<(), Failure> {
        let mut vad = Vad::new(store).map_err(models::failure)?;
        while let Some(&(file, line)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let voice = hear(file, folder, channel, &mut vad, verifier).inspect_err(|_| {
                // The others need not go on.
                next.store(files.len(), Ordering::Relaxed);
            });
            let voice = voice.map_err(|e| Failure::new(e.exit, format!("line {line}: {}", chain(&e))))?;
            heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(file, voice);
            bar.inc(1);
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(files.len());
    let ended: Vec<Result<(), Failure>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let crashed = || Failure::new(Exit::Failed, "a thread that hears recordings ended early");
        running.into_iter().map(|thread| thread.join().map_err(|_| crashed()).flatten()).collect()
    });
    bar.finish_and_clear();
    ended.into_iter().collect::<Result<(), Failure>>()?;
    Ok(heard.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn hear(
    file: &str,
    folder: &Path,
    channel: Channel,
    vad: &mut Vad,
    verifier: &Verifier,
) -> Result<Voice, Failure> {
    // As it is named, or beside the list.
    let beside = folder.join(file);
    let path = if Path::new(file).exists() { Path::new(file) } else { &beside };
    let recording = Recording::read(path, channel, vad)?;
    let net = NetSpeech::of(&recording.raw, &recording.speech);
    let quality = net.quality;
    if quality.net_speech_s < LEAST_NET_SPEECH_S {
        return Ok(Voice::TooShort { net_speech_s: quality.net_speech_s });
    }
    let embedding = verifier
        .model()
        .embed_net(&net)
        .map_err(|e| Failure::because(Exit::Failed, format!("{} cannot be compared", path.display()), e))?;
    Ok(Voice::Heard(Box::new(Prototype { embedding, quality })))
}

/// The template is made of every enrolment recording with enough speech, without the checks of an enrolment:
/// a list may ask how well bad samples do.
fn compare(verifier: &Verifier, line: &Line, voices: &BTreeMap<&str, Voice>) -> Result<Outcome, Failure> {
    let voice = |file: &str| {
        voices.get(file).ok_or_else(|| Failure::new(Exit::Failed, format!("{file} was not heard")))
    };
    let mut prototypes = Vec::new();
    for file in &line.enrol {
        if let Voice::Heard(prototype) = voice(file)? {
            prototypes.push((**prototype).clone());
        }
    }
    let test = voice(&line.test)?;
    let net_speech_s = test.net_speech_s();
    let template = Template::new(verifier.model().identity().clone(), prototypes);
    let compared = match (test, template) {
        (Voice::Heard(test), Some(template)) => {
            let (score, confidence, log_odds) = verifier.compare(&test.embedding, test.quality, &template);
            Some(Compared { score, confidence, log_odds })
        }
        _ => None,
    };
    Ok(Outcome { same: line.same, net_speech_s, compared })
}

fn csv(lines: &[Line], outcomes: &[Outcome], threshold: f32) -> String {
    let mut text = "label,enrol,test,net_speech_s,score,log_odds,confidence,accepted\n".to_owned();
    for (line, outcome) in lines.iter().zip(outcomes) {
        let figures = match outcome.compared {
            Some(c) => format!(
                "{},{},{},{}",
                figure(c.score, 4),
                figure(c.log_odds, 4),
                figure(c.confidence, 6),
                u8::from(c.confidence >= threshold)
            ),
            None => ",,,0".to_owned(),
        };
        let _ = writeln!(
            text,
            "{},{},{},{},{figures}",
            u8::from(line.same),
            field(&line.enrol.join(",")),
            field(&line.test),
            figure(outcome.net_speech_s, 2)
        );
    }
    text
}

/// A field as RFC 4180 wants it.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
