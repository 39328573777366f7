//! `jarvisd bench models`: every installed model by itself.

use std::path::PathBuf;

use serde::Serialize;

use super::{Report, Sound, ms, spinner, table};
use crate::app::Settings;
use crate::app::parts::open_models;
use crate::board::Pace;
use crate::cli::output;
use crate::detect::section::{Wake, WakeModel, WakeModels};
use crate::error::Failure;
use crate::inference::{ModelStore, Role};
use crate::plain::figure;
use crate::speed::{self, Stage, Timing};
use crate::stt::section::Stt;
use crate::stt::{Engine, installed_vosk_models};

/// Said by the speech command: as long as a usual order.
const SENTENCE: &str = "please remember that the spare key is under the blue pot beside the kitchen door";

/// Times every installed model: processor and elapsed milliseconds for a unit of its work, its budget, the
/// time of loading it, and the memory that it holds.
///
/// Each is loaded by itself and the fastest of three runs counts. Stop the daemon first: it uses the same
/// processor. A model that is missing or damaged is left out; `jarvisd doctor` says why.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo systemctl stop jarvisd && jarvisd bench models
  jarvisd bench models --json")]
pub struct Args {
    /// WAV or FLAC file of somebody who speaks; without it the speech command says a sentence.
    #[arg(value_name = "WAV")]
    recording: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Models {
    models: Vec<Timing>,
}

pub fn run(settings: &Settings, args: &Args) -> Result<(), Failure> {
    let store = open_models(settings)?;
    let dirs = &settings.paths.models;
    let before = Pace::of_this_machine();
    let sound = Sound::of(settings, args.recording.as_deref(), SENTENCE)?.unwrap_or_else(|| Sound {
        samples: speed::speech_like(),
        words: "made, without words, so the time of speech to text is not that of speech; install espeak-ng"
            .to_owned(),
    });
    let spinner = spinner();
    let mut models = Vec::new();
    for (stage, wake, stt) in pieces(&store, dirs, settings) {
        spinner.set_message(stage.words());
        spinner.tick();
        models.extend(speed::time(stage, &store, dirs, (&wake, &stt), &sound.samples));
    }
    spinner.finish_and_clear();
    let report = Report::new(before, &sound.words, Models { models });
    if args.json {
        return output::json(&report);
    }
    for line in report.heading() {
        output::line(line)?;
    }
    output::line("")?;
    let rows: Vec<[String; 8]> = report.result.models.iter().map(row).collect();
    table(["stage", "model", "for", "CPU ms", "elapsed ms", "budget ms", "load ms", "MB"], &rows)
}

fn row(timing: &Timing) -> [String; 8] {
    let over = if timing.is_within_budget() { "" } else { " (over)" };
    [
        timing.stage.words().to_owned(),
        timing.model.clone(),
        timing.stage.unit().to_owned(),
        ms(timing.ms),
        ms(timing.wall_ms),
        format!("{}{over}", figure(timing.budget_ms, 0)),
        ms(timing.load_ms),
        timing.resident_mb.map_or_else(|| "unknown".to_owned(), |mb| figure(mb, 1).to_string()),
    ]
}

/// Each stage with the settings that make it work: every wake word that is installed at once, as they share
/// their front part, and each engine of speech to text by itself.
fn pieces(store: &ModelStore, dirs: &[PathBuf], settings: &Settings) -> Vec<(Stage, Wake, Stt)> {
    let mut words = settings.wake.model.0.clone();
    for head in store.entries().iter().filter(|entry| entry.role == Role::WakeHead) {
        let named = WakeModel::Named(head.name.clone());
        if store.is_here(head) && !words.contains(&named) {
            words.push(named);
        }
    }
    words.retain(|word| match word {
        WakeModel::Named(name) => store.entry(name).is_some_and(|entry| store.is_here(entry)),
        WakeModel::File(path) => path.is_file(),
    });
    let wake = Wake { model: WakeModels(words), ..settings.wake.clone() };
    let mut engines = vec![Stt { engine: Engine::Whisper, vosk_model: None, ..settings.stt.clone() }];
    let mut vosk = installed_vosk_models(dirs);
    vosk.extend(settings.stt.vosk_model.clone().filter(|model| !vosk.contains(model)));
    engines.extend(vosk.into_iter().map(|model| Stt {
        engine: Engine::Vosk,
        vosk_model: Some(model),
        ..settings.stt.clone()
    }));
    let mut pieces = Vec::new();
    for stage in Stage::ALL {
        if stage == Stage::SpeechToText {
            pieces.extend(engines.iter().map(|stt| (stage, wake.clone(), stt.clone())));
        } else {
            pieces.push((stage, wake.clone(), settings.stt.clone()));
        }
    }
    pieces
}
