//! The folder of backups: one writer at a time, no leftovers of an interrupted run, space, priority.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::{BackupError, is_unwritable};
use crate::durable;

/// Name prefixes of the leftovers of an interrupted run.
const LEFTOVERS: [&str; 3] = [".partial-", ".scratch-", ".deleting-"];

/// Attempts at making a private folder, since another process may take it for a leftover.
const ATTEMPTS: usize = 3;
/// Free space that stays free behind a large file.
pub(super) const SPARE_BYTES: u64 = 16 << 20;
/// Room for small things: manifests, one conversation after the other.
const SMALL_BYTES: u64 = 16 << 20;
/// Name prefix of scratch folders elsewhere.
const SCRATCH_ELSEWHERE: &str = ".jarvis-scratch-";

/// Held while backups are written, verified, deleted or restored; the kernel releases it when the process
/// ends.
#[derive(Debug)]
pub struct Lock {
    /// `None` if nothing can be locked: the folder is missing, or others may not open it.
    _file: Option<File>,
    dir: PathBuf,
    /// Places for scratch folders if `dir` has no room or is read-only.
    elsewhere: Vec<PathBuf>,
}

impl Lock {
    /// Locks the folder, creates it if it is missing, and removes the leftovers of an interrupted run.
    ///
    /// # Errors
    /// `Locked` if another process has it, `Disk`.
    pub fn take(dir: &Path) -> Result<Self, BackupError> {
        let disk = BackupError::disk("the folder of the backups cannot be used", dir);
        durable::create_folder(dir).map_err(&disk)?;
        let file = open(dir, true).map_err(&disk)?;
        hold(durable::try_lock(&file), dir)?;
        remove_leftovers(dir)?;
        Ok(Self { _file: Some(file), dir: dir.into(), elsewhere: Vec::new() })
    }

    /// Locks the folder for reading. It works as [`Lock::take`] if possible. A folder that is read-only,
    /// full, missing or owned by another user is still read, and scratch folders are made `elsewhere`.
    ///
    /// # Errors
    /// `Locked` if another process writes there, `Disk`.
    pub fn shared(dir: &Path, elsewhere: Vec<PathBuf>) -> Result<Self, BackupError> {
        let disk = BackupError::disk("the folder of the backups cannot be used", dir);
        for place in &elsewhere {
            sweep(place);
        }
        let of = |file| Self { _file: file, dir: dir.into(), elsewhere };
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none()) {
            // The folder is empty, and perhaps not the right one.
            return Ok(of(None));
        }
        let file = match open(dir, true) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(of(None)),
            Err(e) if is_unwritable(&e) => {
                // A writer holds the lock alone; readers share it. Without a lock file no process has ever
                // written.
                let Ok(file) = open(dir, false) else { return Ok(of(None)) };
                return match hold(durable::try_lock_shared(&file), dir) {
                    Err(e @ BackupError::Locked { .. }) => Err(e),
                    _ => Ok(of(Some(file))),
                };
            }
            Err(e) => return Err(disk(e)),
        };
        hold(durable::try_lock(&file), dir)?;
        match remove_leftovers(dir) {
            Err(e) if !e.is_unwritable() => Err(e),
            _ => Ok(of(Some(file))),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As [`Lock::shared`]: scratch folders go `elsewhere` if the folder has no place for them.
    #[must_use]
    pub fn or_elsewhere(self, elsewhere: Vec<PathBuf>) -> Self {
        Self { elsewhere, ..self }
    }

    /// A private folder for small files, removed with the value.
    ///
    /// # Errors
    /// [`BackupError::Disk`], [`BackupError::NoSpace`].
    pub fn scratch(&self) -> Result<Scratch, BackupError> {
        self.scratch_for(SMALL_BYTES)
    }

    /// A private folder with room for `need` bytes, removed with the value.
    ///
    /// # Errors
    /// [`BackupError::Disk`], [`BackupError::NoSpace`].
    pub fn scratch_for(&self, need: u64) -> Result<Scratch, BackupError> {
        let path = self.dir.join(format!(".scratch-{}", uuid::Uuid::now_v7().simple()));
        let here = self.needs(need).and_then(|()| {
            Scratch::of(path.clone()).map_err(BackupError::disk("a scratch folder could not be made", &path))
        });
        let Err(why) = here else { return here };
        let not_here = |e: &BackupError| {
            let gone =
                matches!(e, BackupError::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound);
            gone || e.is_unwritable()
        };
        if !not_here(&why) {
            return Err(why);
        }
        self.elsewhere.iter().find_map(|place| Scratch::elsewhere(place, need).ok()).ok_or(why)
    }

    /// # Errors
    /// [`BackupError::NoSpace`] if less than `need` bytes are free.
    pub fn needs(&self, need: u64) -> Result<(), BackupError> {
        needs(&self.dir, need)
    }
}

/// Opens the lock file, and creates it if it is missing and opened to `write`.
fn open(dir: &Path, write: bool) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.custom_flags(libc::O_NOFOLLOW);
    if write {
        options.create(true).truncate(false).write(true).mode(0o600);
    } else {
        options.read(true);
    }
    options.open(dir.join(".lock"))
}

fn hold(locked: io::Result<bool>, dir: &Path) -> Result<(), BackupError> {
    match locked.map_err(BackupError::disk("the folder of the backups cannot be used", dir))? {
        true => Ok(()),
        false => Err(BackupError::Locked { dir: dir.into() }),
    }
}

fn needs(dir: &Path, need: u64) -> Result<(), BackupError> {
    let stat = statvfs(dir).map_err(io::Error::from);
    let stat = stat.map_err(BackupError::disk("the free space is not known", dir))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < need { Err(BackupError::NoSpace { dir: dir.into(), free, need }) } else { Ok(()) }
}

fn remove_leftovers(dir: &Path) -> Result<(), BackupError> {
    let disk = BackupError::disk("the folder of the backups cannot be used", dir);
    let left = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        LEFTOVERS.iter().any(|start| name.to_string_lossy().starts_with(start))
    };
    let leftovers: Vec<fs::DirEntry> = fs::read_dir(dir).map_err(&disk)?.flatten().filter(left).collect();
    if !leftovers.is_empty() {
        // A killed run may not have made these names durable: an emptied folder must not be a backup again
        // after a power cut.
        sync_folder(dir)?;
    }
    for entry in leftovers {
        log::info!("removing {}, which an interrupted run left behind", entry.file_name().to_string_lossy());
        fs::remove_dir_all(entry.path()).map_err(&disk)?;
    }
    Ok(())
}

/// Removes the scratch folders at `place` that no process holds any more.
fn sweep(place: &Path) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(SCRATCH_ELSEWHERE)) {
        let Ok(folder) = File::open(entry.path()) else { continue };
        if durable::try_lock(&folder).is_ok_and(|free| free)
            && let Err(e) = fs::remove_dir_all(entry.path())
        {
            log::debug!("{} was not removed: {e}", entry.path().display());
        }
    }
}

/// A folder that is removed with the value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    kept: bool,
    /// Lock on the folder while it is in use, if no other lock protects it.
    _held: Option<File>,
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the folder under another name.
    pub(super) fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.kept = true;
        Ok(())
    }

    pub(super) fn of(path: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, kept: false, _held: None })
    }

    /// Makes a folder at `place`, which is not the folder of the backups.
    fn elsewhere(place: &Path, need: u64) -> Result<Self, BackupError> {
        needs(place, need)?;
        let disk = BackupError::disk("a scratch folder could not be made", place);
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ATTEMPTS {
            let path = place.join(format!("{SCRATCH_ELSEWHERE}{}", uuid::Uuid::now_v7().simple()));
            let mut scratch = Self::of(path).map_err(&disk)?;
            match File::open(&scratch.path) {
                Ok(folder) if durable::try_lock_shared(&folder).is_ok_and(|ours| ours) => {
                    if scratch.path.exists() {
                        scratch._held = Some(folder);
                        return Ok(scratch);
                    }
                }
                Ok(_) => {}
                Err(e) => last = e,
            }
            // Another process that sweeps there has it.
            scratch.kept = true;
        }
        Err(disk(last))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.kept
            && let Err(e) = fs::remove_dir_all(&self.path)
        {
            log::warn!("{} was not removed: {e}", self.path.display());
        }
    }
}

/// Puts a file with `bytes` in the place of `path`, in one step or not at all. It is written as `draft`, in
/// the same folder. The name is durable after [`sync_folder`].
pub(super) fn replace_file(path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let written =
        durable::create_file(draft).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(draft, path)).inspect_err(|_| {
        let _ = fs::remove_file(draft);
    })
}

/// Puts `body` as JSON in the place of the note `name` in `folder`.
pub(super) fn note(
    folder: &Path,
    name: &str,
    body: &impl serde::Serialize,
    failed: &'static str,
) -> Result<(), BackupError> {
    let path = folder.join(name);
    let disk = BackupError::disk(failed, &path);
    let text = serde_json::to_string_pretty(body).map_err(io::Error::from).map_err(&disk)?;
    let draft = folder.join(format!(".{name}.{}", uuid::Uuid::now_v7().simple()));
    replace_file(&path, &draft, text.as_bytes()).map_err(disk)
}

/// Makes names in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    durable::sync_folder(folder).map_err(BackupError::disk("the folder could not be synced", folder))
}

/// Gives every other process priority for processor and disk. Threads and programs started later inherit it;
/// a refusal is no fault.
pub fn be_polite() {
    const NICE: i32 = 10;
    if let Err(e) = rustix::process::setpriority_process(None, NICE) {
        log::debug!("the priority was not lowered: {e}");
    }
    const WHO_PROCESS: libc::c_long = 1;
    const BEST_EFFORT_LOWEST: libc::c_long = (2 << 13) | 7;
    #[expect(unsafe_code, reason = "no safe wrapper of ioprio_set in our crates")]
    // SAFETY: ioprio_set takes three numbers and touches no memory of ours; 0 is the calling thread.
    let set =
        unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0 as libc::c_long, BEST_EFFORT_LOWEST) };
    if set != 0 {
        log::debug!("the priority at the disk was not lowered: {}", io::Error::last_os_error());
    }
}
