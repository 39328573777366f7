//! `jarvisd backup prune`: deletes what the calendar does not need, here and elsewhere.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{look_again, size};
use crate::backup::create::Run;
use crate::backup::prune::{self, Fate};
use crate::backup::remote::{self, Copied};
use crate::backup::retention::Policy;
use crate::backup::{self, Backup, BackupError, known};
use crate::cli::output;
use crate::error::Failure;

/// After this long half a copy is not being made any more.
const PARTIAL_STAYS: SignedDuration = SignedDuration::from_hours(7 * 24);

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

/// What became of the backups of one place.
#[derive(Debug, Serialize)]
struct Place {
    deleted: usize,
    freed_bytes: u64,
    backups: Vec<Fate>,
    /// Half copies that were removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partial: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Pruned {
    dry_run: bool,
    #[serde(flatten)]
    here: Place,
    /// The copies at `backup.remote`.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<Place>,
    #[serde(skip)]
    failed: Option<BackupError>,
}

impl Place {
    fn of(backups: Vec<Fate>, partial: Vec<String>) -> Self {
        let going = || backups.iter().filter(|fate| !fate.keep).map(|fate| &fate.backup);
        let freed_bytes = going().map(|b| b.bytes).fold(0, u64::saturating_add);
        Self { deleted: going().count(), freed_bytes, backups, partial }
    }

    fn going(&self) -> impl Iterator<Item = &Backup> {
        self.backups.iter().filter(|fate| !fate.keep).map(|fate| &fate.backup)
    }
}

pub async fn run(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    // What deletes nothing may go by any clock.
    if args.dry_run && !args.trust_clock && !run.clock.stamp().synced {
        log::warn!("the clock is not set by NTP: this goes by the time that it shows");
    }
    let pruned = carry_out(run, args.dry_run, args.trust_clock || args.dry_run).await?;
    run.bar.finish_and_clear();
    if args.json {
        output::json(&pruned)?;
        return pruned.told(true);
    }
    table(&pruned.here)?;
    if let Some(remote) = &pruned.remote {
        output::line(format!("At {}:", place(run)))?;
        table(remote)?;
    }
    pruned.told(false)
}

/// Prunes here, then elsewhere if there is a place for copies. A failure there is told when what was done here was.
pub async fn carry_out(run: &Run<'_>, dry_run: bool, trust_clock: bool) -> Result<Pruned, Failure> {
    let all = backup::list(run.lock.dir(), run.clock)?;
    let released: Vec<String> = all.iter().filter(|b| b.released).map(|b| b.name.clone()).collect();
    let here = Place::of(decide(run, all, trust_clock)?, Vec::new());
    if !dry_run && here.deleted > 0 {
        prune::settle(run.lock, &here.backups)?;
        // First, or a power cut would leave a note of what nobody has any more.
        let forgotten = known::forget(&run.settings.paths.data, here.going());
        for backup in here.going() {
            run.cancel.check()?;
            prune::remove(run.lock, backup)?;
        }
        if forgotten.is_err() {
            // A full disk has room now.
            known::forget(&run.settings.paths.data, here.going())?;
        }
    }
    let mut pruned = Pruned { dry_run, here, remote: None, failed: None };
    if run.settings.backup.remote.is_some() {
        match elsewhere(run, &released, dry_run, trust_clock).await {
            Ok(place) => pruned.remote = Some(place),
            Err(e) => pruned.failed = Some(e),
        }
    }
    Ok(pruned)
}

fn decide(run: &Run<'_>, all: Vec<Backup>, trust_clock: bool) -> Result<Vec<Fate>, BackupError> {
    let level = run.settings.backup.verify;
    prune::decide(all, &Policy::of(run.settings), level, &run.clock.stamp(), trust_clock)
}

async fn elsewhere(
    run: &Run<'_>,
    released: &[String],
    dry_run: bool,
    trust_clock: bool,
) -> Result<Place, BackupError> {
    let index = remote::index(run).await?;
    if !dry_run && remote::miss(run, &index)? {
        look_again(run);
    }
    let device = &run.settings.device;
    // What another device put there is not ours to delete, nor is what cannot be read.
    let ours = |copied: &Copied| copied.manifest.as_ref().is_ok_and(|read| read.manifest.device == *device);
    let copies = index.copies.into_iter().filter(ours).map(|copied| {
        let mut backup = copied.backup;
        backup.released |= released.contains(&backup.name);
        backup
    });
    let fates = decide(run, copies.collect(), trust_clock)?;
    let now = Timestamp::from_millisecond(run.clock.now_unix_ms()).unwrap_or_default();
    let old =
        |name: &String| backup::time_of(name).is_some_and(|taken| now.duration_since(taken) > PARTIAL_STAYS);
    let place = Place::of(fates, index.partial.into_iter().filter(old).collect());
    if !dry_run {
        for name in place.going().map(|backup| &backup.name).chain(&place.partial) {
            run.cancel.check()?;
            remote::remove(run, name).await?;
        }
    }
    Ok(place)
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

impl Pruned {
    /// Says how much it was, unless `silent`.
    ///
    /// # Errors
    /// What failed elsewhere.
    pub fn told(self, silent: bool) -> Result<(), Failure> {
        let done = if self.dry_run { "would be deleted" } else { "deleted" };
        let line = |place: &Place| {
            let kept = place.backups.len() - place.deleted;
            format!("{} {done} ({}), {kept} kept", place.deleted, size(place.freed_bytes))
        };
        if !silent {
            let here = line(&self.here);
            let remote = self.remote.as_ref().map(|remote| format!("; of the copies {}", line(remote)));
            output::line(format!("{here}{}.", remote.unwrap_or_default()))?;
        }
        match self.failed {
            None => Ok(()),
            Some(e) => Err(Failure::because(e.exit(), "the copies elsewhere were not pruned", e)),
        }
    }
}
