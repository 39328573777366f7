//! `jarvisd backup list`: the backups, here or elsewhere.

use serde::Serialize;

use super::{Run, Shown, Summary, size, undelivered};
use crate::backup::context::Context;
use crate::backup::known::Lost;
use crate::backup::order::Dated;
use crate::backup::remote::{self, Index};
use crate::backup::{Backup, Level, metrics, watch};
use crate::cli::output;
use crate::clock::Clock;
use crate::error::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The copies at `backup.remote` instead of the backups here.
    #[arg(long)]
    pub remote: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Print number, age, proof and problem as metrics in the text format of Prometheus.
    #[arg(long, conflicts_with_all = ["json", "remote"])]
    metrics: bool,
}

pub fn here(settings: &Context, args: &Args) -> Result<(), Failure> {
    let state = watch::state(settings, &Clock::System);
    if args.metrics {
        return output::line(metrics::text(state.report.as_ref()).trim_end());
    }
    let all = state.backups?;
    if args.json {
        let missing =
            state.lost.iter().flat_map(|lost| lost.names.iter().map(|name| Missing::of(name, lost)));
        let missing: Vec<Missing> =
            missing.filter(|gone| all.iter().all(|here| here.name != gone.name)).collect();
        let here = all.into_iter().map(|backup| Entry::Here(Box::new(Shown::of(backup))));
        let shown: Vec<Entry> = here.chain(missing.into_iter().map(Entry::Missing)).collect();
        output::json(&shown)?;
        return report(state.lost.as_ref());
    }
    if all.is_empty() {
        return match &state.lost {
            Some(lost) if lost.names.is_empty() => output::line(format!("{}.", lost.sentence)),
            Some(lost) => report(Some(lost)),
            None => {
                output::line(format!("There are no backups in {} yet.", settings.paths.backups.display()))
            }
        };
    }
    table(settings, &all)?;
    report(state.lost.as_ref())
}

/// Reports missing backups: as a failure if none of the known ones is left.
fn report(lost: Option<&Lost>) -> Result<(), Failure> {
    match lost {
        None => Ok(()),
        Some(lost) if lost.all && !lost.names.is_empty() => {
            Err(Failure::new(Exit::Unavailable, lost.sentence.clone()))
        }
        Some(lost) => {
            log::warn!("{}", lost.sentence);
            Ok(())
        }
    }
}

/// A line of `list --json`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry {
    Here(Box<Shown>),
    Missing(Missing),
}

/// A backup that this device knows and that is not there.
#[derive(Debug, Serialize)]
struct Missing {
    name: String,
    missing: bool,
    proven: bool,
    fault: String,
}

impl Missing {
    fn of(name: &str, lost: &Lost) -> Self {
        Self { name: name.to_owned(), missing: true, proven: false, fault: lost.sentence.clone() }
    }
}

fn table(settings: &Context, all: &[Backup]) -> Result<(), Failure> {
    let Some(remote) = &settings.backup.remote else {
        let rows: Vec<[String; 5]> = all.iter().map(row).collect();
        output::table(["NAME", "TAKEN", "KIND", "SIZE", "STATE"], &rows)?;
        return not_in_postgres(all);
    };
    let copy = |backup: &Backup| match backup.copy.as_ref().filter(|copy| copy.remote == remote.0) {
        None => "none".to_owned(),
        Some(copy) if copy.ok => format!("copied {}", output::time(copy.at.as_millisecond())),
        Some(copy) => format!("FAILED {}", output::time(copy.at.as_millisecond())),
    };
    let rows: Vec<[String; 6]> = all
        .iter()
        .map(|backup| {
            let [name, taken, kind, size, state] = row(backup);
            [name, taken, kind, size, state, copy(backup)]
        })
        .collect();
    output::table(["NAME", "TAKEN", "KIND", "SIZE", "STATE", "COPY"], &rows)?;
    not_in_postgres(all)
}

/// For the newest backup only, as older ones state what was true then.
fn not_in_postgres(all: &[Backup]) -> Result<(), Failure> {
    let Some(newest) = all.last() else { return Ok(()) };
    undelivered(newest).map_or(Ok(()), |sentence| output::line(format!("{}: {sentence}", newest.name)))
}

fn row(backup: &Backup) -> [String; 5] {
    let state = match (&backup.fault, backup.last_proof()) {
        (Some(fault), _) if fault.starts_with("the manifest cannot be read") => "UNREADABLE".to_owned(),
        (Some(_), _) => "DAMAGED".to_owned(),
        (None, None) => "not proven yet".to_owned(),
        (None, Some(proof)) if !proof.ok => format!("DAMAGED ({})", output::time(proof.at.as_millisecond())),
        (None, Some(proof)) => {
            let word = if proof.level == Level::Restore { "proven" } else { proof.level.as_str() };
            format!("{word} {}", output::time(proof.at.as_millisecond()))
        }
    };
    let kind = backup.kind.as_str().replace('_', " ");
    let kind = if backup.released { format!("{kind}, released") } else { kind };
    let taken = output::time(backup.taken_at.as_millisecond());
    let taken = match backup.dated {
        Dated::Sure => taken,
        Dated::Guess => format!("{taken} (clock not set)"),
        Dated::Wrong => format!("{taken} (CLOCK WRONG)"),
    };
    [backup.name.clone(), taken, kind, size(backup.bytes), state]
}

/// A copy as `list --remote --json` prints it.
#[derive(Debug, Serialize)]
struct Copy {
    #[serde(flatten)]
    shown: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// Whether the backup is in the folder of this device as well.
    here: bool,
}

pub async fn elsewhere(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    let index = remote::index(run).await?;
    if remote::miss(run, &index)? {
        watch::recheck(run);
    }
    let Index { copies, partial, .. } = index;
    run.progress.end();
    let here = |backup: &Backup| run.lock.dir().join(&backup.name).exists();
    if args.json {
        let shown: Vec<Copy> = copies
            .into_iter()
            .map(|copied| {
                let (here, manifest) = (here(&copied.backup), copied.manifest.ok().map(|read| read.manifest));
                let device = manifest.as_ref().map(|manifest| manifest.device.clone());
                let proven = copied.backup.is_proven();
                let manifest = manifest.as_ref().map(Summary::of);
                Copy { shown: Shown { backup: copied.backup, proven, manifest }, device, here }
            })
            .collect();
        return output::json(&serde_json::json!({ "copies": shown, "partial": partial }));
    }
    if copies.is_empty() {
        let place = run.settings.backup.remote.as_ref().map_or("", |remote| remote.0.as_str());
        output::line(format!("There are no copies at {place} yet."))?;
    } else {
        let rows: Vec<[String; 6]> = copies
            .iter()
            .map(|copied| {
                let [name, taken, kind, size, state] = row(&copied.backup);
                let here = if here(&copied.backup) { "also here" } else { "" };
                [name, taken, kind, size, state, here.to_owned()]
            })
            .collect();
        output::table(["NAME", "TAKEN", "KIND", "SIZE", "STATE", ""], &rows)?;
    }
    for name in partial {
        output::line(format!("{name} is not whole there: it is being copied, or was cut off."))?;
    }
    Ok(())
}
