//! A memory that vanished: the file is missing, empty or holds nothing readable, and there is evidence that
//! it existed.
//!
//! ```text
//!  evidence ─┬─ beside the file: its mark, the key of the voices, the log of restores, damaged copies
//!            └─ known to the caller: backups ([`Backups`])
//!
//!  command ─▶ refused with the way back        daemon ─▶ a new file, marked in its table `settings` as held apart
//!                                                          ├─ restore: its turns go into the restored file, which replaces it
//!                                                          └─ accept: the mark is deleted, it is the memory
//! ```
//!
//! Until the owner has decided, the file held apart is not backed up, so the earlier backups stay the newest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::heal::{self, FileState};
use super::open::{self, PAGE_BYTES};
use super::sqlite::classify;
use super::{StoreError, schema, settings};
use crate::clock::Clock;
use crate::durable;

/// Key of [`OnlyInBackup`] among the settings of the file.
pub(super) const ONLY_IN_BACKUP: &str = "only_in_backup";
/// Settings key: the owner wants this file although it is empty.
pub(super) const ACCEPTED: &str = "accepted_empty";
/// Settings key of the mark.
pub(super) const APART: &str = "apart";
/// Ending of the mark file, which says that there is a memory: `jarvis.db.mark`.
const MARK: &str = ".mark";
const MARK_TEXT: &str = "People and their words are stored in the database beside this file. Where this file \
    is and the database \
    is not, jarvisd does not take an empty memory for the right one.\n";

crate::store::sql::statements! {
    MARKED = "SELECT value FROM settings WHERE key = 'apart'";
    /// Whether nobody was ever known in this file, and no owner has said that it shall be empty.
    PRISTINE = "SELECT NOT EXISTS (SELECT 1 FROM users) AND NOT EXISTS (SELECT 1 FROM tombstones)
        AND NOT EXISTS (SELECT 1 FROM audit WHERE action = 'user_delete')
        AND NOT EXISTS (SELECT 1 FROM settings WHERE key = 'accepted_empty')";
    pub(super) ACCEPT = "DELETE FROM settings WHERE key IN ('apart', 'only_in_backup')";
    ANYBODY = "SELECT 1 FROM users LIMIT 1";
}

/// The policy for a vanished memory.
#[derive(Debug, Clone, Default)]
pub enum Vanished {
    /// Begins a new memory and says so: the file is one that nobody keeps.
    #[default]
    Begin,
    /// Begins a new memory and says so: Postgres gives back its rows. The messages it lacks are noted in the
    /// new memory until they are brought back or given up.
    PullBack(Backups),
    /// Touches nothing until the owner has decided.
    Refuse(Backups),
    /// Begins a new memory and holds it apart until the owner has decided.
    HoldApart(Backups),
}

impl Vanished {
    /// The backups, if the owner decides.
    fn backups(&self) -> Option<&Backups> {
        match self {
            Self::Begin | Self::PullBack(_) => None,
            Self::Refuse(backups) | Self::HoldApart(backups) => Some(backups),
        }
    }

    pub(super) fn lets_the_owner_decide(&self) -> bool {
        self.backups().is_some()
    }

    /// Whether the file is kept, so that a mark is left beside it.
    pub(super) fn is_kept(&self) -> bool {
        !matches!(self, Self::Begin)
    }
}

/// Facts about an earlier memory from the backups.
#[derive(Debug, Clone, Default)]
pub struct KnownBackups {
    /// Evidence that there was a memory, completing "there was one (…)".
    pub evidence: Option<String>,
    /// How the owner gets it back, a clause.
    pub way_back: String,
    /// Evidence that a backup holds people or words, completing "there was one (…)".
    pub contents: Option<String>,
    /// The messages of the newest backup that Postgres did not have.
    pub undelivered: Option<OnlyInBackup>,
}

/// Messages of a vanished memory that only a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnlyInBackup {
    pub backup: String,
    pub messages: u64,
}

impl OnlyInBackup {
    /// The fault, without a full stop.
    pub fn fault(&self) -> String {
        let Self { backup, messages } = self;
        let (noun, are) = if *messages == 1 { ("message", "is") } else { ("messages", "are") };
        format!(
            "the memory was missing, and {messages} {noun} that Postgres did not have {are} only in the \
             backup {backup}"
        )
    }

    /// The owner's choices, without a full stop.
    pub fn choice(&self) -> String {
        format!(
            "`jarvisd backup restore {} --undelivered` brings them back, and `jarvisd store accept-empty` \
             gives them up",
            self.backup
        )
    }
}

impl std::fmt::Display for OnlyInBackup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.fault(), self.choice())
    }
}

/// Asks the backups, which lie outside the data folder; only after a memory vanished.
#[derive(Clone)]
pub struct Backups(Arc<dyn Fn() -> KnownBackups + Send + Sync>);

impl Backups {
    pub fn new(look: impl Fn() -> KnownBackups + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Backups")
    }
}

/// A memory that vanished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub path: PathBuf,
    /// The evidence that there was a memory.
    pub evidence: String,
    /// How the owner gets it back.
    pub way_back: String,
}

impl Missing {
    /// The fault, without a full stop.
    pub fn fault(&self) -> String {
        let Self { path, evidence, .. } = self;
        format!("the memory is missing: there was one ({evidence}), and {} does not hold it", path.display())
    }

    /// The owner's choices, without a full stop.
    pub fn choice(&self) -> String {
        format!("{}, and `jarvisd store accept-empty` goes on with an empty one", self.way_back)
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.fault(), self.choice())
    }
}

/// The mark in a file that is held apart.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    evidence: String,
    since_unix_ms: i64,
}

/// Notes in a new memory the part of the earlier one that only a backup holds.
pub(super) async fn note_only_in_backup(
    path: &Path,
    policy: &Vanished,
    conn: &mut SqliteConnection,
) -> Result<(), StoreError> {
    let Vanished::PullBack(backups) = policy else { return Ok(()) };
    let Some(only) = (backups.0)().undelivered else { return Ok(()) };
    let value = serde_json::to_string(&only).map_err(|e| StoreError::Sql(sqlx::Error::Encode(e.into())))?;
    let note = sqlx::query(settings::SET).bind(ONLY_IN_BACKUP).bind(value);
    let noted = note.bind(Clock::System.now_unix_ms()).execute(conn).await;
    noted.map(drop).map_err(|e| classify(e, path))
}

/// Evidence beside `path` that there was a memory.
pub(super) fn beside(path: &Path) -> Option<String> {
    let has = |path: &Path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0);
    // The key of the voices lies in the same folder and is made after the database.
    let traces = [
        (path.with_file_name("voiceprint.key"), "the key of its voices is there"),
        (heal::beside(path, MARK), "its mark is there"),
        (path.with_file_name("restore.log"), "it was restored before"),
    ];
    let found = traces.into_iter().find(|(trace, _)| has(trace));
    found.map(|(trace, words)| format!("{words}: {}", trace.display()))
}

/// Evidence that there was a memory at `path`; `None` if there is none.
pub(super) fn evidence(path: &Path, policy: &Vanished) -> Option<String> {
    beside(path).or_else(|| match policy {
        Vanished::Begin => None,
        Vanished::PullBack(backups) => {
            (backups.0)().undelivered.map(|only| format!("{} holds words of it", only.backup))
        }
        Vanished::Refuse(backups) | Vanished::HoldApart(backups) => (backups.0)().evidence,
    })
}

/// The error of a command and the message of the daemon.
pub(super) fn missing(path: &Path, evidence: String, policy: &Vanished) -> Missing {
    let way_back = match policy.backups() {
        Some(backups) => (backups.0)().way_back,
        None => "`jarvisd backup list` shows the backups".to_owned(),
    };
    Missing { path: path.into(), evidence, way_back }
}

/// Checks whether the memory at `path` vanished, without changing anything.
///
/// # Errors
/// [`StoreError`] if a database cannot tell whether it is held apart.
pub async fn inspect(path: &Path, policy: &Vanished) -> Result<Option<Missing>, StoreError> {
    let gone = |evidence| missing(path, evidence, policy);
    match heal::inspect(path) {
        FileState::Gone { evidence } => return Ok(Some(gone(evidence))),
        FileState::Nothing | FileState::Unfinished { .. } => return Ok(evidence(path, policy).map(gone)),
        // Opening the file later finds how much of it is readable.
        FileState::Something if !open::begins_as_database(path) => return Ok(None),
        FileState::Something if policy.lets_the_owner_decide() => {}
        FileState::Something => return Ok(None),
    }
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .read_only(true)
        .log_statements(log::LevelFilter::Off);
    let mut conn = connect.connect().await.map_err(|e| classify(e, path))?;
    let apart = apart(&mut conn, path, policy).await;
    let _ = conn.close().await;
    Ok(apart?.map(gone))
}

/// The evidence that the file is not the memory: its mark, or that it is empty beside backups which are not.
/// A file of an older schema is checked after its migration.
pub(super) async fn apart(
    conn: &mut SqliteConnection,
    path: &Path,
    policy: &Vanished,
) -> Result<Option<String>, StoreError> {
    if let Some(evidence) = marked(conn, path).await? {
        return Ok(Some(evidence));
    }
    let Some(backups) = policy.backups() else { return Ok(None) };
    let pristine: bool = sqlx::query_scalar(PRISTINE).fetch_one(conn).await.map_err(|e| classify(e, path))?;
    Ok(if pristine { (backups.0)().contents } else { None })
}

/// Marks the file written by `conn` as held apart.
pub(super) async fn mark(conn: &mut SqliteConnection, path: &Path, evidence: &str) -> Result<(), StoreError> {
    let since_unix_ms = Clock::System.now_unix_ms();
    let mark = Mark { evidence: evidence.to_owned(), since_unix_ms };
    let value = serde_json::to_string(&mark).map_err(|e| StoreError::Sql(sqlx::Error::Encode(e.into())))?;
    let set = sqlx::query(settings::SET).bind(APART).bind(value).bind(since_unix_ms);
    set.execute(conn).await.map(drop).map_err(|e| classify(e, path))
}

/// Leaves the mark of a memory beside `path` once somebody is known. A disk that cannot take it causes no
/// error here.
pub(super) async fn leave_mark(path: &Path, conn: &mut SqliteConnection) {
    let mark = heal::beside(path, MARK);
    if mark.exists() || !matches!(sqlx::query(ANYBODY).fetch_optional(conn).await, Ok(Some(_))) {
        return;
    }
    let left = durable::create_file(&mark).and_then(|mut file| {
        std::io::Write::write_all(&mut file, MARK_TEXT.as_bytes())?;
        file.sync_all()?;
        durable::sync_name(&mark)
    });
    if let Err(e) = left
        && e.kind() != std::io::ErrorKind::AlreadyExists
    {
        log::debug!("the mark {} was not made: {e}", mark.display());
    }
}

/// Whether the mark is beside `path`.
pub(super) fn has_mark(path: &Path) -> bool {
    heal::beside(path, MARK).exists()
}

/// Removes the mark of a memory that was given up: the next person leaves another.
pub(super) fn remove_mark(path: &Path) {
    let mark = heal::beside(path, MARK);
    if let Err(e) = fs::remove_file(&mark)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        log::debug!("the mark {} was not removed: {e}", mark.display());
    }
}

/// Puts a new database at `path` that is held apart, in one step, unless another process has put one there.
pub(super) async fn begin_apart(path: &Path, evidence: &str) -> Result<(), StoreError> {
    let disk = |e| heal::open_error(path, e);
    open::prepare_folder(path).map_err(disk)?;
    let _lock = heal::lock(path).await?;
    if fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let fresh = heal::beside(path, ".apart");
    heal::remove_database(&fresh).map_err(disk)?;
    open::create(&fresh).map_err(disk)?;
    mark_file(&fresh, evidence).await?;
    heal::put_in_place(&fresh, path).map_err(disk)
}

/// Marks the new file `fresh` as held apart; nobody else has it open and it may still be empty.
pub(super) async fn mark_file(fresh: &Path, evidence: &str) -> Result<(), StoreError> {
    let sql = |e| classify(e, fresh);
    let connect = SqliteConnectOptions::new()
        .filename(fresh)
        .create_if_missing(false)
        .page_size(PAGE_BYTES)
        .log_statements(log::LevelFilter::Off);
    let mut conn = connect.connect().await.map_err(sql)?;
    let made = async {
        schema::migrate(&mut conn, fresh).await?;
        mark(&mut conn, fresh, evidence).await
    };
    let made = made.await;
    conn.close().await.map_err(sql)?;
    made?;
    fs::File::open(fresh).and_then(|file| file.sync_all()).map_err(|e| heal::open_error(fresh, e))
}

/// The evidence that there was a memory, if the file is held apart.
pub(crate) async fn marked(conn: &mut SqliteConnection, path: &Path) -> Result<Option<String>, StoreError> {
    let row = sqlx::query(MARKED).fetch_optional(conn).await.map_err(|e| classify(e, path))?;
    let Some(row) = row else { return Ok(None) };
    let value: String = row.try_get("value").map_err(StoreError::Sql)?;
    let mark = serde_json::from_str(&value).map(|mark: Mark| mark.evidence);
    Ok(Some(mark.unwrap_or_else(|_| "it is marked so".to_owned())))
}
