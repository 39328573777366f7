//! `jarvisd models list|verify`: the model files, whether they are the pinned ones, and whether this
//! processor computes them right.

use serde::Serialize;

use super::{Common, output};
use crate::error::{Exit, Failure};
use crate::inference::reference::{self, Recorded};
use crate::inference::{ModelError, ModelState, ModelStatus, ModelStore, Role};
use crate::speaker::SpeakerModel;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List every model of the manifest: its purpose, its licence, whether it is here.
    List(output::Json),
    /// Hash the model files and compare with the manifest; fails if one is damaged or a needed one is
    /// missing. With --run also run each network, and compare with a recorded result.
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Models that must be here, by name. Default: those that come with the program, and any others that are
    /// here.
    names: Vec<String>,
    /// Also run each network that is here on a known input, and compare with its recorded result. It shows
    /// whether this processor computes right, and takes a few seconds.
    #[arg(long)]
    run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A network that was run on its recorded input.
#[derive(Debug, Serialize)]
struct Run {
    name: String,
    right: bool,
    /// The largest difference, as a part of the largest recorded number.
    difference: f32,
    /// The matrix kernels of the speaker model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernels: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    models: Vec<ModelStatus>,
    runs: Vec<Run>,
}

pub fn run(command: &Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    let store = ModelStore::open(&settings.paths.models).map_err(failure)?;
    match command {
        Command::List(args) => show(&store.status(), args.json),
        Command::Verify(args) => verify(&store, args),
    }
}

/// A model that cannot be used is a fault of the installation.
pub fn failure(error: ModelError) -> Failure {
    Failure::of(Exit::Config, &error)
}

fn verify(store: &ModelStore, args: &Verify) -> Result<(), Failure> {
    let asked: Vec<ModelStatus> = if args.names.is_empty() {
        store.status()
    } else {
        let status = |name: &String| match store.entry(name) {
            Some(entry) => Ok(store.status_of(entry)),
            None => Err(Failure::new(
                Exit::Usage,
                format!(
                    "there is no model called \"{}\"; `jarvisd models list` shows all",
                    output::plain(name)
                ),
            )),
        };
        args.names.iter().map(status).collect::<Result<_, _>>()?
    };
    if !(args.run && args.json) {
        show(&asked, args.json)?;
    }
    let bad: Vec<&ModelStatus> = asked
        .iter()
        .filter(|model| match model.state {
            ModelState::Verified => false,
            ModelState::Missing => model.entry.committed || !args.names.is_empty(),
            ModelState::Damaged { .. } | ModelState::Unreadable { .. } => true,
        })
        .collect();
    let refused = bad.first().map(|first| {
        let names: Vec<&str> = bad.iter().map(|model| model.entry.name.as_str()).collect();
        Failure::new(Exit::Config, format!("not usable: {}; {}", names.join(", "), first.fix))
    });
    if !args.run {
        return refused.map_or(Ok(()), Err);
    }
    let runs = run_networks(store, &asked)?;
    let wrong: Vec<String> = runs.iter().filter(|run| !run.right).map(|run| run.name.clone()).collect();
    if args.json {
        output::json(&Report { models: asked, runs })?;
    } else {
        output::line("")?;
        let row = |run: &Run| {
            let result = if run.right { "right" } else { "WRONG" };
            [run.name.clone(), result.into(), format!("{:.1e}", run.difference), run.kernels.join(", ")]
        };
        let rows: Vec<[String; 4]> = runs.iter().map(row).collect();
        output::table(["NETWORK", "RESULT", "DIFFERENCE", "KERNELS"], &rows)?;
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let what = "the results on this processor are not the recorded ones; please report it with the output of \
                `lscpu`";
    Err(Failure::new(Exit::Failed, format!("{}: {what}", wrong.join(", "))))
}

/// Runs the networks among `models` whose files are the pinned ones.
fn run_networks(store: &ModelStore, models: &[ModelStatus]) -> Result<Vec<Run>, Failure> {
    let mut runs = Vec::new();
    for recorded in reference::recorded(store).map_err(failure)? {
        let of = |model: &&ModelStatus| model.entry.name == recorded.model;
        let Some(model) = models.iter().find(of).filter(|model| model.state == ModelState::Verified) else {
            continue;
        };
        let (difference, kernels) = if model.entry.role == Role::Speaker {
            run_speaker(store, &recorded)?
        } else {
            (recorded.run(store).map_err(failure)?, Vec::new())
        };
        let right = difference <= reference::TOLERANCE;
        runs.push(Run { name: recorded.model, right, difference, kernels });
    }
    Ok(runs)
}

/// The speaker model as the daemon runs it: not through its graph.
fn run_speaker(store: &ModelStore, recorded: &Recorded) -> Result<(f32, Vec<String>), Failure> {
    let model = SpeakerModel::load(store)?;
    let result = model.raw(&recorded.first_input())?;
    Ok((recorded.difference(&result), model.kernels().into_iter().map(str::to_owned).collect()))
}

fn show(models: &[ModelStatus], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&models);
    }
    let rows: Vec<[String; 6]> = models
        .iter()
        .map(|model| {
            let state = match &model.state {
                ModelState::Verified => "verified".to_owned(),
                ModelState::Missing => "missing".to_owned(),
                ModelState::Damaged { found } => format!("damaged (sha256 {found})"),
                ModelState::Unreadable { reason } => format!("unreadable ({reason})"),
            };
            let megabytes = format!("{:.1} MB", model.entry.bytes as f64 / 1e6);
            let entry = &model.entry;
            let place =
                model.path.as_ref().map_or_else(|| model.fix.clone(), |path| path.display().to_string());
            [entry.name.clone(), entry.role.to_string(), state, megabytes, entry.licence.clone(), place]
        })
        .collect();
    output::table(["NAME", "ROLE", "STATE", "SIZE", "LICENCE", "FILE"], &rows)
}
