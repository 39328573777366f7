//! Backups that count only after they were restored.
//!
//! ```text
//!  create ─▶ .partial-NAME/ ─every file synced, renamed─▶ NAME/ ─verify─▶ proofs.json
//!
//!  jarvis-backup-20261122-020000/      UTC
//!    manifest.json    the content: sizes, SHA-256 (also of each chunk), rows and a content hash of every table
//!    database.zst     SQLite: a compact copy of jarvis.db; Postgres: pg_dump in custom format
//!    queue.zst        with Postgres: the rows this device had not delivered yet, as a small jarvis.db
//!    config.zst       the configuration in force, secrets masked
//!    proofs.json      the verifications: level, time, result
//!    remote.json      the result of the last copy to the remote
//!    released         (empty) an on-demand backup that need not be kept any longer
//! ```
//!
//! Invariants:
//!
//! 1. A folder under a backup's name is complete: it got that name after everything in it was on the disk.
//! 2. One process at a time writes in the folder of backups ([`lock`]). The leftovers of an interrupted one
//!    begin with a dot and are removed by the next.
//! 3. A file is restored only if its hashes match its manifest, and a manifest is used only if its own hash
//!    is right.
//! 4. Verifying never touches the live database: it restores to a file or a database made a moment before.
//! 5. A restore in place backs up the present data first, and replaces it in one step or not at all.
//!
//! `docs/design/backup.md` says why.

pub mod after_repair;
mod bring_back;
pub mod cancel;
mod columns;
pub mod context;
pub mod create;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod job;
pub mod keys;
pub mod known;
pub mod lock;
pub mod manifest;
pub mod merge;
pub mod metrics;
pub mod order;
pub(crate) mod pg;
mod pg_tools;
pub mod pre_migration;
pub mod progress;
pub mod prune;
pub mod remote;
pub mod restore;
pub mod restore_pg;
pub mod retention;
mod scratch;
pub mod section;
pub(crate) mod sqlite;
mod stream;
mod undelivered;
pub mod verify;
pub mod watch;
pub mod way_back;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use self::order::{Dated, Moment};
use self::remote::CopyNote;
use crate::clock::Clock;
use crate::durable;
use crate::error::Exit;
use crate::memory::MemoryError;
use crate::store::StoreError;
use crate::store::postgres::PgError;

/// Prefix of every backup's name.
pub const PREFIX: &str = "jarvis-backup-";
const NAME_TIME: &str = "%Y%m%d-%H%M%S";
const RELEASED: &str = "released";

/// Why a backup was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub enum Kind {
    /// By the timer.
    Scheduled,
    /// By a person; kept until it is released.
    OnDemand,
    /// Before a restore in place, and before the schema is brought up to date.
    Safety,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::OnDemand => "on_demand",
            Self::Safety => "safety",
        }
    }
}

/// How thoroughly a backup was looked at; each level includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Every byte is the one that was written (hashes).
    Quick,
    /// All of it can be read: decompressed, parsed, structure and row counts.
    Full,
    /// It was restored into a scratch database, which has the same rows.
    Restore,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
            Self::Restore => "restore",
        }
    }
}

/// One verification of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub level: Level,
    pub at: Timestamp,
    pub ok: bool,
    /// The fault found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A backup in the listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    pub name: String,
    pub path: PathBuf,
    /// The time in its name; [`Backup::dated`] says how reliable it is.
    pub taken_at: Timestamp,
    pub dated: Dated,
    /// Its position among the backups of its device; backups of older versions have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    pub kind: Kind,
    /// Whether it is an on-demand backup that need not be kept any longer.
    pub released: bool,
    /// All kept verifications, the oldest first; a listing shows the last.
    #[serde(rename = "last_proof", serialize_with = "last_of")]
    pub proofs: Vec<Proof>,
    /// The result of the last copy to the remote, or of the last verification of that copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyNote>,
    /// Size of all files together.
    pub bytes: u64,
    /// The fault of an unusable manifest. The kind is then unknown and reads as on demand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    #[serde(skip)]
    moment: Moment,
    /// The earliest certain time of its making: its age counts from here.
    #[serde(skip)]
    surely_at: Option<Timestamp>,
    /// Its date in the calendar; `None` if its own is wrong and no later one bounds it.
    #[serde(skip)]
    day_of: Option<Timestamp>,
}

fn last_of<S: serde::Serializer>(proofs: &[Proof], serializer: S) -> Result<S::Ok, S::Error> {
    proofs.last().serialize(serializer)
}

impl Backup {
    /// The newest verification.
    pub fn last_proof(&self) -> Option<&Proof> {
        self.proofs.last()
    }

    /// Whether it was restored into a scratch database and found equal, with no fault found since.
    pub fn is_proven(&self) -> bool {
        self.is_proven_to(Level::Restore)
    }

    /// Whether a verification as thorough as `level`, and every later one, found it good.
    pub fn is_proven_to(&self, level: Level) -> bool {
        let mut newest_first = self.proofs.iter().rev().take_while(|proof| proof.ok);
        self.fault.is_none() && newest_first.any(|proof| proof.level >= level)
    }
}

#[cfg(test)]
impl Backup {
    /// A listed backup with these verifications, the oldest first.
    fn sample(name: &str, kind: Kind, proofs: &[(Level, bool)]) -> Self {
        let taken_at = time_of(name).unwrap();
        let proof = |&(level, ok): &(Level, bool)| Proof { level, at: taken_at, ok, detail: None };
        let proofs: Vec<Proof> = proofs.iter().map(proof).collect();
        Self {
            name: name.to_owned(),
            path: name.into(),
            taken_at,
            dated: Dated::Sure,
            seq: None,
            kind,
            released: false,
            proofs,
            copy: None,
            bytes: 1,
            fault: None,
            moment: Moment { synced: true, boot: None },
            surely_at: Some(taken_at),
            day_of: Some(taken_at),
        }
    }
}

/// The backups in `dir`, oldest first ([`order`]); none if the folder is missing. Folders left by an
/// interrupted run are left out.
///
/// # Errors
/// [`BackupError::Disk`] if the folder cannot be read.
pub fn list(dir: &Path, clock: &Clock) -> Result<Vec<Backup>, BackupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(BackupError::disk("the folder of the backups cannot be read", dir)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(BackupError::disk("the folder of the backups cannot be read", dir))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(taken_at) = time_of(&name) else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(inspect(entry.path(), name, taken_at));
        }
    }
    order::arrange(&mut found, &clock.stamp());
    Ok(found)
}

fn inspect(path: PathBuf, name: String, taken_at: Timestamp) -> Backup {
    let mut backup = Backup {
        name,
        path,
        taken_at,
        dated: Dated::default(),
        seq: None,
        kind: Kind::OnDemand,
        released: false,
        proofs: Vec::new(),
        copy: None,
        bytes: 0,
        fault: None,
        moment: Moment::default(),
        surely_at: None,
        day_of: None,
    };
    let path = &backup.path;
    match manifest::read(path) {
        Ok(read) => {
            backup.proofs = manifest::read_proofs(path, &read.sha256);
            backup.copy = manifest::read_copy(path, &read.sha256);
            backup.moment = Moment::of(&read.manifest);
            (backup.kind, backup.seq) = (read.manifest.kind, read.manifest.seq);
        }
        Err(e) => backup.fault = Some(crate::error::chain(&e)),
    }
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    backup.bytes = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    backup.released = path.join(RELEASED).exists();
    backup
}

/// The backup called `which`; `latest` is the newest one.
///
/// # Errors
/// [`BackupError::NotFound`].
pub fn find(dir: &Path, which: &str, clock: &Clock) -> Result<Backup, BackupError> {
    let mut all = list(dir, clock)?;
    let found = if which == "latest" {
        all.pop()
    } else {
        all.into_iter().find(|backup| backup.name == which.trim_end_matches('/'))
    };
    found.ok_or_else(|| BackupError::NotFound { which: which.to_owned(), dir: dir.into() })
}

/// The newest backup taken at `time` or before.
///
/// # Errors
/// [`BackupError::NotFound`].
pub fn find_at(dir: &Path, time: Timestamp, clock: &Clock) -> Result<Backup, BackupError> {
    let by_then = |backup: &Backup| backup.day_of.is_some_and(|day| day <= time);
    let newest = list(dir, clock)?.into_iter().rfind(by_then);
    newest.ok_or_else(|| BackupError::NotFound { which: format!("from before {time}"), dir: dir.into() })
}

/// Marks an on-demand backup as no longer needed.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn release(backup: &Backup) -> Result<(), BackupError> {
    let mark = backup.path.join(RELEASED);
    let disk = BackupError::disk("the backup could not be marked", &mark);
    durable::create_file(&mark).and_then(|file| file.sync_all()).or_else(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(disk(e)),
    })?;
    lock::sync_folder(&backup.path)
}

/// The name of a backup taken at `time`.
fn name_at(time: Timestamp) -> String {
    format!("{PREFIX}{}", time.strftime(NAME_TIME))
}

/// When the backup with this name was taken; `None` if it is no backup's name.
pub fn time_of(name: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(NAME_TIME, name.strip_prefix(PREFIX)?).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    (name_at(time) == name).then_some(time)
}

/// The reason why a backup was not made, not proven or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{step} ({}){}", path.display(), if is_full(source) { "; free some space" } else { "" })]
    Disk {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the disk that holds {} has {} MiB free and this needs about {} MiB: free some space or set \
         backup.dir to another disk",
        dir.display(), free >> 20, (need >> 20) + 1
    )]
    NoSpace { dir: PathBuf, free: u64, need: u64 },
    #[error("another backup, verification or restore is at work in {}: try again when it is \
             done", dir.display())]
    Locked { dir: PathBuf },
    #[error("cancelled: nothing was left behind")]
    Cancelled,
    #[error("there is no backup {which} in {}: `jarvisd backup list` shows what there is", dir.display())]
    NotFound { which: String, dir: PathBuf },
    /// The backup differs from the data written.
    #[error(
        "the backup {name} is damaged ({detail}): use another one; `jarvisd backup list` shows which are \
         proven"
    )]
    Damaged { name: String, detail: String },
    /// The copy at the remote differs from the data written.
    #[error(
        "the copy of {name} at {remote} is damaged ({detail}): `jarvisd backup upload {name}` sends it again \
         if the backup is still here"
    )]
    CopyDamaged { name: String, remote: String, detail: String },
    #[error("there is no copy {which} at {remote}: `jarvisd backup list --remote` shows what there is")]
    NoCopy { which: String, remote: String },
    #[error(
        "there is no place for copies elsewhere: set backup.remote to one of rclone's, such as \"nas:jarvis\""
    )]
    NoRemote,
    #[error("{remote} cannot be used: {detail}")]
    Remote { remote: String, detail: String, exit: Exit },
    #[error("the backup {name} was made by a newer version ({detail}): install the newer jarvisd")]
    Newer { name: String, detail: String },
    #[error("{0}")]
    Key(String),
    /// An obstacle; the sentence says how to remove it.
    #[error("{0}")]
    Refused(String),
    /// An external program failed.
    #[error("{program} failed: {detail}")]
    Tool { program: String, detail: String },
    #[error("{}", match .0 {
        StoreError::Vanished(_) => "there is nothing to back up",
        _ => "the database could not be read for the backup",
    })]
    Store(#[source] StoreError),
    #[error("the memory could not take what was restored")]
    Memory(#[source] MemoryError),
    #[error("{0}")]
    Postgres(String, Exit),
}

impl BackupError {
    /// Whether the place to write to is full, read-only, or another user's.
    pub fn is_unwritable(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Disk { source, .. } => is_unwritable(source),
            _ => false,
        }
    }

    fn disk(step: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Disk { step, path: path.clone(), source: durable::in_words(source) }
    }

    /// A failure at Postgres, whose address is shown as `shown`.
    fn postgres(error: &PgError, shown: &str) -> Self {
        Self::Postgres(error.sentence(shown), error.exit())
    }

    /// The exit code of a command that fails with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Disk { source, .. } if is_full(source) => Exit::TryAgain,
            Self::NoSpace { .. } | Self::Locked { .. } => Exit::TryAgain,
            Self::Damaged { .. } | Self::CopyDamaged { .. } => Exit::Data,
            Self::Newer { .. } | Self::Key(_) | Self::NoRemote => Exit::Config,
            Self::Remote { exit, .. } => *exit,
            Self::Memory(error) => error.exit(),
            Self::Postgres(_, exit) => *exit,
            Self::Store(StoreError::Busy { .. } | StoreError::DiskFull { .. }) => Exit::TryAgain,
            _ => Exit::Failed,
        }
    }
}

fn is_unwritable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
        || is_full(error)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<MemoryError> for BackupError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}
