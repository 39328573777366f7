//! `jarvisd models list|verify`: the model files, and whether they are the pinned ones.

use super::{Common, output};
use crate::error::{Exit, Failure};
use crate::inference::{ModelError, ModelState, ModelStatus, ModelStore};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List every model of the manifest: its purpose, its licence, whether it is here.
    List(output::Json),
    /// Hash the model files and compare with the manifest; fails if one is damaged or a needed one is
    /// missing.
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Models that must be here, by name. Default: those that come with the program, and any others that are
    /// here.
    names: Vec<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
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
    show(&asked, args.json)?;
    let bad: Vec<&ModelStatus> = asked
        .iter()
        .filter(|model| match model.state {
            ModelState::Verified => false,
            ModelState::Missing => model.entry.committed || !args.names.is_empty(),
            ModelState::Damaged { .. } | ModelState::Unreadable { .. } => true,
        })
        .collect();
    let Some(first) = bad.first() else { return Ok(()) };
    let names: Vec<&str> = bad.iter().map(|model| model.entry.name.as_str()).collect();
    Err(Failure::new(Exit::Config, format!("not usable: {}; {}", names.join(", "), first.fix)))
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
