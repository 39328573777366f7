//! `jarvisd backup`: backups of the memory, proven by restoring them.

mod accept;
mod create;
mod lines;
mod list;
mod prune;
mod remote;
mod restore;
mod verify;

use std::io::IsTerminal as _;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, block_on, output, with_memory};
use crate::backup::cancel::Cancel;
use crate::backup::context::Context;
use crate::backup::create::Run;
use crate::backup::keys::Keys;
use crate::backup::lock::{Lock, be_polite};
use crate::backup::manifest::{self, Manifest, Origin, Undelivered};
use crate::backup::progress::{Moved, Progress};
use crate::backup::watch::{self, LastRun};
use crate::backup::{self, Backup, Level, Proof, known};
use crate::clock::Clock;
use crate::config::FilePath;
use crate::error::{Exit, Failure};

/// The unit that makes a backup every night.
const BACKUP_UNIT: &str = "jarvis-backup";
/// The unit that looks at the newest backup every week.
const VERIFY_UNIT: &str = "jarvis-backup-verify";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a backup, prove it as `backup.verify` says, and copy it to `backup.remote`. The daemon may be
    /// running.
    Create(create::Args),
    /// List the backups, and whether they are proven.
    List(list::Args),
    /// Look whether a backup is good: its hashes, its content, or by restoring it into a scratch database.
    Verify(verify::Args),
    /// Put a backup back: all of it, one person, or one conversation. The daemon may be running.
    Restore(restore::Args),
    /// Copy a backup to `backup.remote`, or the missing rest of it, and check the copy.
    Upload(remote::Upload),
    /// Bring a copy back from `backup.remote`, to restore it from here.
    Fetch(remote::Fetch),
    /// Mark an on-demand backup as one that need not be kept any longer.
    Release(Release),
    /// Delete backups that no day, week or month needs, and say why for each. The newest proven one always
    /// stays.
    Prune(prune::Args),
    /// Take the folder of the backups as it is: missing backups are not expected any more, and new ones go
    /// there.
    Accept(output::Json),
    /// Write everybody's conversations as JSON Lines, one conversation a line. This is not a backup: it lacks
    /// voices and the audit log.
    Export(lines::Export),
    /// Read a file that `backup export` wrote. Conversations that are here already are left as they are.
    Import(lines::Import),
    /// Note that a unit failed, so that the daemon reports it; systemd calls this.
    #[command(hide = true)]
    Failed(Unit),
}

#[derive(Debug, clap::Args)]
pub struct Unit {
    /// Name of the unit, without its ending.
    unit: String,
}

#[derive(Debug, clap::Args)]
pub struct Release {
    /// Name of the backup, from `backup list`.
    name: String,
    /// The copy at `backup.remote` instead of the backup here.
    #[arg(long)]
    remote: bool,
}

/// The output of `create` and `verify`.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    backup: Backup,
    proven: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Summary>,
}

#[derive(Debug, Serialize)]
struct Summary {
    origin: Origin,
    schema_version: i64,
    plain_bytes: u64,
    took_ms: u64,
    compared_with_source: bool,
    encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    undelivered: Option<Undelivered>,
    rows: std::collections::BTreeMap<String, u64>,
}

impl Summary {
    fn of(manifest: &Manifest) -> Self {
        let database = manifest.file(manifest::Role::Database).ok();
        let tables = database.map(|file| file.tables.clone()).unwrap_or_default();
        Self {
            origin: manifest.origin,
            schema_version: manifest.schema_version,
            plain_bytes: manifest.files.iter().map(|file| file.plain_bytes).sum(),
            took_ms: manifest.took_ms,
            compared_with_source: manifest.compared_with_source,
            encrypted: manifest.encrypted,
            undelivered: manifest.undelivered,
            rows: tables.into_iter().map(|(name, sum)| (name, sum.rows)).collect(),
        }
    }
}

impl Shown {
    fn of(backup: Backup) -> Self {
        let manifest = manifest::read(&backup.path).ok().map(|read| Summary::of(&read.manifest));
        Self { proven: backup.is_proven(), backup, manifest }
    }
}

/// The entries that a backup of Postgres keeps and Postgres did not have, as a sentence.
fn undelivered(backup: &Backup) -> Option<String> {
    manifest::read(&backup.path).ok()?.manifest.undelivered?.sentence()
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    let context = settings.backups();
    match command {
        Command::List(args) if args.remote => {
            work(&context, Folder::Read, async |run| list::elsewhere(run, &args).await)
        }
        Command::List(args) => list::here(&context, &args),
        Command::Release(args) if args.remote => work(&context, Folder::Read, async |run| {
            backup::remote::release(run, &args.name).await?;
            output::line(format!("The copy of {} need not be kept any longer.", args.name))
        }),
        Command::Release(args) => {
            let backup = backup::find(&settings.paths.backups, &args.name, &Clock::System)?;
            backup::release(&backup)?;
            output::line(format!("{} need not be kept any longer.", backup.name))
        }
        Command::Create(args) => {
            be_polite();
            work(&context, Folder::Write, async |run| create::run(run, &args).await)
        }
        Command::Verify(args) => {
            be_polite();
            work(&context, Folder::Read, async |run| verify::run(run, &args).await)
        }
        Command::Upload(args) => {
            be_polite();
            work(&context, Folder::Read, async |run| remote::upload(run, &args).await)
        }
        Command::Fetch(args) => work(&context, Folder::Write, async |run| remote::fetch(run, &args).await),
        Command::Accept(args) => work(&context, Folder::Accept, async |run| accept::run(run, &args)),
        Command::Export(args) => with_memory(&settings, async |memory| lines::export(memory, &args).await),
        Command::Import(args) => {
            with_memory(&settings, async |memory| lines::import(&settings, memory, &args).await)
        }
        Command::Failed(Unit { unit }) => {
            // Only letters that stand in unit names: the name is shown to people and used in a command.
            let plain = unit.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c));
            if unit.is_empty() || unit.len() > 255 || !plain {
                return Err(Failure::new(Exit::Usage, "that is no name of a unit"));
            }
            Ok(watch::note(&settings.paths.data, &LastRun::now(&Clock::System, Some(unit)))?)
        }
        Command::Prune(args) => work(&context, Folder::Change, async |run| prune::run(run, &args).await),
        Command::Restore(args) => {
            work(&context, Folder::Read, async |run| restore::run(&settings, run, &args).await)
        }
    }
}

/// The purpose for which a command needs the folder of backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Folder {
    /// To look at the backups, which works wherever they can be read.
    Read,
    /// To delete from the folder.
    Change,
    /// To put something there.
    Write,
    /// As [`Folder::Write`], regardless of the known state of the folder.
    Accept,
}

impl Folder {
    fn take(self, settings: &Context) -> Result<Lock, Failure> {
        let dir = &settings.paths.backups;
        let gone = || std::fs::metadata(dir).is_err();
        let elsewhere = vec![settings.paths.data.clone(), std::env::temp_dir()];
        Ok(match self {
            Self::Write => {
                known::may_write(settings, &Clock::System)?;
                Lock::take(dir)?.or_elsewhere(elsewhere)
            }
            Self::Change if !gone() => Lock::take(dir)?.or_elsewhere(elsewhere),
            Self::Accept => Lock::take(dir)?,
            Self::Read | Self::Change => Lock::shared(dir, elsewhere)?,
        })
    }
}

/// Takes the folder of backups and runs `work`, which a signal cancels.
fn work(
    settings: &Context,
    folder: Folder,
    work: impl AsyncFnOnce(&Run<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let lock = folder.take(settings)?;
    let (cancel, progress) = (Cancel::default(), shown_by(progress_bar()));
    let run = Run { settings, clock: &Clock::System, lock: &lock, cancel: &cancel, progress: &progress };
    let done = block_on(async {
        let unheard = |e| Failure::because(Exit::TryAgain, "signals cannot be heard", e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
        let mut working = std::pin::pin!(work(&run));
        loop {
            tokio::select! {
                biased;
                done = &mut working => break done,
                _ = interrupt.recv() => cancel.cancel(),
                _ = terminate.recv() => cancel.cancel(),
            }
        }
    });
    progress.end();
    done
}

/// Reports on standard error a missing backup that is newer than the newest one here.
fn mind_newer(run: &Run<'_>, which: Option<&str>) {
    if which == Some("latest")
        && let Ok(here) = backup::list(run.lock.dir(), run.clock)
        && let Some(lost) = known::lost(run.settings, &here).filter(|lost| lost.newer)
    {
        log::warn!("a newer backup than the newest that is here is known: {}", lost.sentence);
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

/// The result of a proof, as a sentence.
fn sentence(proof: Option<&Proof>) -> String {
    match proof {
        None => "Not proven yet: `jarvisd backup verify`.".to_owned(),
        Some(Proof { ok: false, detail, .. }) => {
            format!("DAMAGED: {}.", detail.as_deref().unwrap_or("see the log"))
        }
        Some(Proof { level: Level::Restore, .. }) => {
            "Proven: it was restored, and every row is there.".to_owned()
        }
        Some(Proof { level: Level::Full, .. }) => {
            "All of it can be read; not proven by restoring it yet.".to_owned()
        }
        Some(Proof { level: Level::Quick, .. }) => {
            "Its hashes are right; not proven by restoring it yet.".to_owned()
        }
    }
}

fn keys(run: &Run<'_>, identity: Option<&Path>, needed: bool, backup: &Backup) -> Result<Keys, Failure> {
    let encrypted = manifest::read(&backup.path).is_ok_and(|read| read.manifest.encrypted);
    if !encrypted || !needed {
        return Ok(Keys::default());
    }
    let named = identity.map(|path| FilePath::from(path.to_owned()));
    Ok(Keys::read(named.as_ref().or(run.settings.backup.identity_file.as_ref()))?)
}

fn shown_by(bar: ProgressBar) -> Progress {
    Progress::told_to(move |moved| match moved {
        Moved::Begun(bytes) => {
            bar.set_length(bytes);
            bar.set_position(0);
        }
        Moved::By(bytes) => bar.inc(bytes),
        Moved::To(bytes) => bar.set_position(bytes),
        Moved::Ended => bar.finish_and_clear(),
    })
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}")
    {
        bar.set_style(style);
    }
    bar
}
