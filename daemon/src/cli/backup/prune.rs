//! `jarvisd backup prune`: deletes what the calendar does not need.

use serde::Serialize;

use super::size;
use crate::backup::create::Run;
use crate::backup::prune::{self, Fate};
use crate::backup::retention::Policy;
use crate::backup::{self, Backup};
use crate::cli::output;
use crate::error::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what would be deleted, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// The clock is right although nothing says that it was set by NTP.
    #[arg(long)]
    trust_clock: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Pruned {
    dry_run: bool,
    deleted: usize,
    freed_bytes: u64,
    backups: Vec<Fate>,
}

pub fn run(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    let backup = &run.settings.backup;
    let all = backup::list(run.lock.dir())?;
    let fates =
        prune::decide(all, &Policy::of(run.settings), backup.verify, &run.clock.stamp(), args.trust_clock)?;
    let going: Vec<&Backup> = fates.iter().filter(|fate| !fate.keep).map(|fate| &fate.backup).collect();
    if !args.dry_run {
        for backup in &going {
            run.cancel.check()?;
            prune::remove(run.lock, backup)?;
        }
    }
    let (deleted, freed_bytes) = (going.len(), going.iter().map(|backup| backup.bytes).sum());
    if args.json {
        return output::json(&Pruned { dry_run: args.dry_run, deleted, freed_bytes, backups: fates });
    }
    let rows: Vec<[String; 3]> = fates
        .iter()
        .map(|fate| {
            let verdict = if fate.keep { "keep" } else { "delete" };
            [fate.backup.name.clone(), verdict.to_owned(), fate.reasons.join("; ")]
        })
        .collect();
    output::table(["NAME", "", "WHY"], &rows)?;
    let kept = fates.len() - deleted;
    let done = if args.dry_run { "would be deleted" } else { "deleted" };
    output::line(format!("{deleted} {done} ({}), {kept} kept.", size(freed_bytes)))
}
