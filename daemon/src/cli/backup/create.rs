//! `jarvisd backup create`: makes a backup, proves it, and copies it elsewhere.

use super::{Run, Shown, Summary, prune, sentence, size};
use crate::backup::job::{self, Done, Job, JobError};
use crate::backup::manifest::Undelivered;
use crate::backup::{self, Kind, Level, known};
use crate::cli::output;
use crate::error::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Reason for the backup: this decides how long it is kept.
    #[arg(long, default_value = "on_demand")]
    kind: Kind,
    /// Verify to this level instead of that of `backup.verify`.
    #[arg(long)]
    level: Option<Level>,
    /// Make no copy at `backup.remote` now; `jarvisd backup upload latest` does that later.
    #[arg(long)]
    no_upload: bool,
    /// Then delete backups that the calendar does not need, as `jarvisd backup prune` does, also if the copy
    /// elsewhere failed.
    #[arg(long)]
    prune: bool,
    /// For `--prune`: the clock is right although it is not known to be set by NTP.
    #[arg(long, requires = "prune")]
    trust_clock: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    // A folder that is empty now may be a different one from that of the proven backups.
    if let Some(lost) = known::lost(run.settings, &backup::list(run.lock.dir(), run.clock)?) {
        log::warn!("{}", lost.sentence);
    }
    let wanted = Job {
        kind: args.kind,
        level: args.level.unwrap_or(run.settings.backup.verify),
        upload: !args.no_upload,
        prune: args.prune.then_some(args.trust_clock),
    };
    let done = job::run(run, wanted).await;
    run.progress.end();
    let Done { backup, manifest, proof, copied, pruned } = done.map_err(|e| match e {
        JobError::NotMade(e) => e.into(),
        JobError::NotProven { ref source, .. } => Failure::of(source.exit(), &e),
    })?;
    let name = backup.name.clone();
    if args.json {
        output::json(&Shown::of(backup))?;
    } else {
        let messages = Summary::of(&manifest).rows.get("messages").copied().unwrap_or(0);
        let size = size(backup.bytes);
        output::line(format!("{name}: {messages} messages in {size}. {}", sentence(Some(&proof))))?;
        if let Some(sentence) = manifest.undelivered.and_then(Undelivered::sentence) {
            output::line(sentence)?;
        }
        if !manifest.compared_with_source {
            output::line("Somebody kept writing, so it was not compared with the database row by row.")?;
        }
        if let Some(Ok(copy)) = &copied {
            output::line(super::remote::sentence(copy))?;
        }
    }
    let pruned = match pruned {
        Some(pruned) => pruned.map_err(Failure::from).and_then(|pruned| prune::tell(pruned, args.json)),
        None => Ok(()),
    };
    match copied {
        Some(Err(e)) => {
            Err(Failure::because(e.exit(), format!("{name} is good, and its copy elsewhere failed"), e))
        }
        _ => pruned,
    }
}
