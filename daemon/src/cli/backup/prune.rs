//! `jarvisd backup prune`: deletes backups that the calendar does not need, here and elsewhere.

use super::{Run, size};
use crate::backup::prune::{self, Place, Pruned};
use crate::cli::output;
use crate::error::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Say what would be deleted, and delete nothing.
    #[arg(long)]
    dry_run: bool,
    /// The clock is right although it is not known to be set by NTP.
    #[arg(long)]
    trust_clock: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    // A dry run deletes nothing and may go by any clock.
    if args.dry_run && !args.trust_clock && !run.clock.stamp().synced {
        log::warn!("the clock is not set by NTP: this goes by the time that it shows");
    }
    let pruned = prune::prune(run, args.dry_run, args.trust_clock || args.dry_run).await?;
    run.progress.end();
    if args.json {
        output::json(&pruned)?;
        return tell(pruned, true);
    }
    table(&pruned.here)?;
    if let Some(remote) = &pruned.remote {
        output::line(format!("At {}:", place(run)))?;
        table(remote)?;
    }
    tell(pruned, false)
}

fn place<'a>(run: &'a Run<'_>) -> &'a str {
    run.settings.backup.remote.as_ref().map_or("", |remote| remote.0.as_str())
}

fn table(place: &Place) -> Result<(), Failure> {
    let rows: Vec<[String; 3]> = place
        .backups
        .iter()
        .map(|fate| {
            let verdict = if fate.keep { "keep" } else { "delete" };
            [fate.backup.name.clone(), verdict.to_owned(), fate.reasons.join("; ")]
        })
        .collect();
    output::table(["NAME", "", "WHY"], &rows)?;
    for name in &place.partial {
        output::line(format!("{name} was never whole, and goes."))?;
    }
    Ok(())
}

/// Prints the amount deleted, unless `silent`.
///
/// # Errors
/// The failure elsewhere.
pub fn tell(pruned: Pruned, silent: bool) -> Result<(), Failure> {
    let done = if pruned.dry_run { "would be deleted" } else { "deleted" };
    let line = |place: &Place| {
        let kept = place.backups.len() - place.deleted;
        format!("{} {done} ({}), {kept} kept", place.deleted, size(place.freed_bytes))
    };
    if !silent {
        let here = line(&pruned.here);
        let remote = pruned.remote.as_ref().map(|remote| format!("; of the copies {}", line(remote)));
        output::line(format!("{here}{}.", remote.unwrap_or_default()))?;
    }
    match pruned.failed {
        None => Ok(()),
        Some(e) => Err(Failure::because(e.exit(), "the copies elsewhere were not pruned", e)),
    }
}
