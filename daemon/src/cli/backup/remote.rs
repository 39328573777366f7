//! `jarvisd backup upload` and `fetch`: copies elsewhere.

use jiff::SignedDuration;

use super::{BACKUP_UNIT, Run, Shown, size};
use crate::backup::remote::{self, Check, CopyNote};
use crate::backup::{self, Backup, BackupError, known, watch};
use crate::cli::output;
use crate::error::Failure;

/// No run of the unit is longer.
const LONGEST_RUN: SignedDuration = SignedDuration::from_hours(12);

#[derive(Debug, clap::Args)]
pub struct Upload {
    /// Name of the backup, from `backup list`, or "latest".
    name: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Fetch {
    /// Name of the copy, from `backup list --remote`, or "latest".
    name: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn upload(run: &Run<'_>, args: &Upload) -> Result<(), Failure> {
    let backup = backup::find(run.lock.dir(), &args.name, run.clock)?;
    let bad = backup.last_proof().filter(|proof| !proof.ok).and_then(|proof| proof.detail.clone());
    if let Some(detail) = backup.fault.clone().or(bad) {
        return Err(BackupError::Damaged { name: backup.name, detail }.into());
    }
    let copied = remote::upload(run, &backup).await;
    match &copied {
        Ok(_) if ends_the_failure(run, &backup) => watch::well(run),
        _ => watch::recheck(run),
    }
    let copy = copied?;
    run.progress.end();
    if args.json {
        return output::json(&Shown::of(backup::find(run.lock.dir(), &backup.name, run.clock)?));
    }
    output::line(format!("{}: {}", backup.name, sentence(&copy)))
}

/// Whether the last nightly run made this backup and failed to copy it.
fn ends_the_failure(run: &Run<'_>, backup: &Backup) -> bool {
    let failed = watch::noted(&run.settings.paths.data)
        .filter(|last| last.failed_unit.as_deref() == Some(BACKUP_UNIT));
    let at_the_copy = backup.copy.as_ref().is_some_and(|copy| !copy.ok);
    let before = |at: jiff::Timestamp| at.duration_since(backup.taken_at);
    at_the_copy && failed.is_some_and(|last| !before(last.at).is_negative() && before(last.at) < LONGEST_RUN)
}

pub async fn fetch(run: &Run<'_>, args: &Fetch) -> Result<(), Failure> {
    let backup = remote::fetch(run, &args.name).await?;
    known::learn_or_warn(run, true);
    run.progress.end();
    if args.json {
        return output::json(&Shown::of(backup));
    }
    output::line(format!("{} is here again, {}, and its hashes are right.", backup.name, size(backup.bytes)))
}

/// The state of a copy, as a sentence.
pub fn sentence(copy: &CopyNote) -> String {
    match copy.check {
        Check::Content => format!("Copied to {} and read back: it is the same.", copy.remote),
        Check::Sizes => format!("Copied to {}: the sizes are right, it was not read back.", copy.remote),
    }
}
