//! A damaged database is moved aside, what can be read of it takes its place, and it is said.
//!
//! ```text
//!  jarvis.db ─damaged─▶ jarvis.db.corrupt.<UTC> ─salvage─▶ jarvis.db.salvage ─whole, synced─▶ jarvis.db
//! ```
//!
//! The order makes it safe to be interrupted anywhere: `jarvis.db.salvage` is there before the damaged file
//! is moved, so while it is there and `jarvis.db` is not, the newest damaged copy is what the next start
//! salvages. A copy alone is one of a repair that was finished: a database that vanishes later is not
//! replaced by it. One process at a time repairs (a lock on the folder).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StoreError;
use super::salvage::{self, Salvaged};
use super::vanished::{self, Vanished};
use crate::clock::Clock;
use crate::durable::{self, create_file, folder_of, leads_nowhere, remove_if_there, sync_name};
use crate::notify::start::{self, REPAIR_OF_ANOTHER, Wait};

/// Ending of the file that a repair writes.
const SALVAGE: &str = ".salvage";
/// Damaged files that are kept; older ones are deleted.
pub const KEPT_COPIES: usize = 3;

/// A repair that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healed {
    /// What was wrong.
    pub detail: String,
    /// Where the damaged file is kept.
    pub aside: PathBuf,
    pub salvaged: Salvaged,
}

impl Healed {
    /// For a person, without a full stop.
    pub fn sentence(&self) -> String {
        format!(
            "the database was damaged ({}) and has been repaired: {}; the damaged file is kept as {}, delete \
             it when \
             nothing is missed",
            self.detail,
            self.salvaged.sentence(),
            self.aside.display()
        )
    }
}

/// What is at the path of a database before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileState {
    /// A file with something in it.
    Something,
    /// Nothing, and nothing tells that there was ever more.
    Nothing,
    /// Nothing any more, though there was a database: what tells so.
    Gone { evidence: String },
    /// Nothing, because a repair was interrupted or the file was lost with its log left: what to salvage.
    Unfinished { aside: Option<PathBuf> },
}

/// Looks without touching anything.
pub(super) fn inspect(path: &Path) -> FileState {
    if fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return FileState::Something;
    }
    let newest = copies(path).pop().filter(|_| !path.exists());
    let log = beside(path, "-wal");
    if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        // Left by a repair that had not unlinked it yet, or all that is left.
        let id = |path: &Path| FileId::of(path).ok().flatten();
        return FileState::Unfinished { aside: newest.filter(|copy| id(&beside(copy, "-wal")) == id(&log)) };
    }
    // An empty file may be one that another process is creating at this moment.
    if let Some(newest) = newest.filter(|_| beside(path, SALVAGE).exists()) {
        return FileState::Unfinished { aside: Some(newest) };
    }
    let copy = || Some(format!("a damaged copy of it is kept: {}", copies(path).pop()?.display()));
    match vanished::beside(path).or_else(copy) {
        Some(evidence) => FileState::Gone { evidence },
        None => FileState::Nothing,
    }
}

/// The damaged copies beside `path`, oldest first.
pub fn copies(path: &Path) -> Vec<PathBuf> {
    let part = |path: &PathBuf| {
        let name = path.to_string_lossy().into_owned();
        name.ends_with("-wal") || name.ends_with("-shm")
    };
    let mut found = set_aside(path);
    found.retain(|path| !part(path));
    found
}

/// Every file of every damaged copy.
fn set_aside(path: &Path) -> Vec<PathBuf> {
    let Some(name) = path.file_name() else { return Vec::new() };
    let mut prefix = name.to_os_string();
    prefix.push(".corrupt.");
    let prefix = prefix.to_string_lossy().into_owned();
    let entries = fs::read_dir(folder_of(path));
    let mut found: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().unwrap_or_default().to_string_lossy().starts_with(&prefix))
        .collect();
    found.sort();
    found
}

/// Deletes the damaged copies beside `path`: they hold text that is to be forgotten. Returns how many.
pub(super) fn remove_copies(path: &Path) -> io::Result<usize> {
    let copies = set_aside(path);
    for copy in &copies {
        remove_if_there(copy)?;
    }
    Ok(copies.len())
}

/// Moves the damaged `path` aside and puts what can be read of it in its place.
///
/// `still` looks again once no other process can be repairing: `false`, and it is sound by now. Where nothing
/// can be read and something tells that there was a memory, the new file is held apart if `policy` lets the
/// owner decide.
///
/// # Errors
/// What the disk has to say. Then the next start goes on with the copy.
pub(super) async fn heal(
    path: &Path,
    detail: &str,
    policy: &Vanished,
    still: impl AsyncFnOnce() -> bool,
) -> Result<Option<Healed>, StoreError> {
    let _lock = lock(path).await?;
    let disk = |e: io::Error| open_error(path, e);
    let now_unix_ms = Clock::System.now_unix_ms();
    let aside = match inspect(path) {
        FileState::Unfinished { aside } => aside,
        FileState::Something if still().await => None,
        _ => return Ok(None),
    };
    log::error!("the database {} is damaged ({detail}); repairing it", path.display());
    let fresh = beside(path, SALVAGE);
    remove_database(&fresh).map_err(disk)?;
    create_file(&fresh).and_then(|_| sync_name(&fresh)).map_err(disk)?;
    let aside = match aside {
        Some(aside) => aside,
        None => move_aside(path, now_unix_ms).map_err(disk)?,
    };
    let salvaged = salvage::salvage(&aside, &fresh, now_unix_ms).await?;
    if salvaged.is_nothing()
        && policy.lets_the_owner_decide()
        && let Some(evidence) = vanished::evidence(path, policy)
    {
        vanished::mark_file(&fresh, &evidence).await?;
    }
    put_in_place(&fresh, path).map_err(disk)?;
    let kept = copies(path);
    for old in kept.iter().take(kept.len().saturating_sub(KEPT_COPIES)) {
        if let Err(e) = remove_database(old) {
            log::warn!("an old damaged copy of the database was not deleted: {e}");
        }
    }
    let healed = Healed { detail: detail.to_owned(), aside, salvaged };
    log::error!("{}", healed.sentence());
    Ok(Some(healed))
}

/// Gives `fresh` the place of the database, durably. A log that was left there belongs to another file.
pub(crate) fn put_in_place(fresh: &Path, path: &Path) -> io::Result<()> {
    if let Some(target) = leads_nowhere(path) {
        let target = target.display();
        let why = format!("it is a link to {target}, which is not there: mount the disk that holds it");
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    for ending in ["-wal", "-shm"] {
        remove_if_there(&beside(path, ending))?;
    }
    // Else the disk may keep the other name and not that the log is gone, and the log would be read into the
    // wrong file.
    sync_name(path)?;
    fs::rename(fresh, path)?;
    sync_name(path)
}

/// The database and its log under another name: `jarvis.db.corrupt.20261122T120000Z`.
pub(crate) fn move_aside(path: &Path, now_unix_ms: i64) -> io::Result<PathBuf> {
    let time = jiff::Timestamp::from_millisecond(now_unix_ms).unwrap_or_default();
    let name = format!(".corrupt.{}", time.strftime("%Y%m%dT%H%M%SZ"));
    let mut aside = beside(path, &name);
    let mut n = 1;
    while aside.exists() {
        n += 1;
        aside = beside(path, &format!("{name}-{n}"));
    }
    // The log gets its second name first and loses the other one last, each step durable before the next, so
    // that wherever this is interrupted database and log are found together.
    if let Err(e) = fs::hard_link(beside(path, "-wal"), beside(&aside, "-wal"))
        && e.kind() != io::ErrorKind::NotFound
    {
        fs::rename(beside(path, "-wal"), beside(&aside, "-wal"))?;
    }
    sync_name(path)?;
    match fs::rename(path, &aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    sync_name(path)?;
    for ending in ["-wal", "-shm"] {
        remove_if_there(&beside(path, ending))?;
    }
    if !aside.exists() {
        // Only the log was left.
        create_file(&aside)?;
    }
    sync_name(path)?;
    Ok(aside)
}

/// Device and inode: which file it is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// `None`: there is no such file.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(file) => Ok(Some(Self::from(&file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl From<&fs::Metadata> for FileId {
    fn from(file: &fs::Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

/// `path` with `ending` behind its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name: OsString = path.to_path_buf().into_os_string();
    name.push(ending);
    name.into()
}

/// Held while one process repairs.
pub(crate) async fn lock(path: &Path) -> Result<File, StoreError> {
    const PAUSE: Duration = Duration::from_millis(50);
    let folder = File::open(folder_of(path)).map_err(|e| open_error(path, e))?;
    let mut waited = Duration::ZERO;
    let _waiting = start::waits(Wait::RepairOfAnother);
    while !durable::try_lock(&folder).map_err(|e| open_error(path, e))? {
        if waited >= REPAIR_OF_ANOTHER {
            return Err(StoreError::Busy { path: path.into() });
        }
        tokio::time::sleep(PAUSE).await;
        waited += PAUSE;
    }
    Ok(folder)
}

pub(crate) fn remove_database(path: &Path) -> io::Result<()> {
    for ending in ["-wal", "-shm", "-journal", ""] {
        remove_if_there(&beside(path, ending))?;
    }
    Ok(())
}

/// A failure of the file system, sorted by what can be done about it.
pub(super) fn open_error(path: &Path, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { path: path.into() }
        }
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path: path.into() },
        _ => StoreError::Open { path: path.into(), source: error.into() },
    }
}
