//! The folder of backups: one writer at a time, nothing left of an interrupted one, space, priority.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::BackupError;
use crate::durable;

/// What an interrupted run leaves behind begins with one of these.
const LEFTOVERS: [&str; 3] = [".partial-", ".scratch-", ".deleting-"];

/// Held while backups are written, verified, deleted or restored; the kernel lets go of it when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    dir: PathBuf,
}

impl Lock {
    /// Takes the folder, which is made where it is missing, and removes what an interrupted run left in it.
    ///
    /// # Errors
    /// `Locked` if another process has it, `Disk`.
    pub fn take(dir: &Path) -> Result<Self, BackupError> {
        let disk = BackupError::disk("the folder of the backups cannot be used", dir);
        durable::create_folder(dir).map_err(&disk)?;
        let path = dir.join(".lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(&disk)?;
        if !durable::try_lock(&file).map_err(&disk)? {
            return Err(BackupError::Locked { dir: dir.into() });
        }
        let left = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            LEFTOVERS.iter().any(|start| name.to_string_lossy().starts_with(start))
        };
        let leftovers: Vec<fs::DirEntry> = fs::read_dir(dir).map_err(&disk)?.flatten().filter(left).collect();
        if !leftovers.is_empty() {
            // A run that was killed may not have made these names durable: what is emptied must not be a backup again after a
            // power cut.
            sync_folder(dir)?;
        }
        for entry in leftovers {
            log::info!(
                "removing {}, which an interrupted run left behind",
                entry.file_name().to_string_lossy()
            );
            fs::remove_dir_all(entry.path()).map_err(&disk)?;
        }
        Ok(Self { _file: file, dir: dir.into() })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A folder of its own that goes away with the value.
    ///
    /// # Errors
    /// [`BackupError::Disk`].
    pub fn scratch(&self) -> Result<Scratch, BackupError> {
        let path = self.dir.join(format!(".scratch-{}", uuid::Uuid::now_v7().simple()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(BackupError::disk("a scratch folder could not be made", &path))?;
        Ok(Scratch { path, kept: false })
    }

    /// # Errors
    /// [`BackupError::NoSpace`] if less than `need` bytes are free.
    pub fn needs(&self, need: u64) -> Result<(), BackupError> {
        let stat = statvfs(&self.dir).map_err(io::Error::from);
        let stat = stat.map_err(BackupError::disk("the free space is not known", &self.dir))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < need { Err(BackupError::NoSpace { dir: self.dir.clone(), free, need }) } else { Ok(()) }
    }
}

/// A folder that goes away with the value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    kept: bool,
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it stay, under another name.
    pub(super) fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.kept = true;
        Ok(())
    }

    pub(super) fn of(path: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path, kept: false })
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

/// Puts a file with `bytes` in the place of `path`, in one step or not at all; it is written as `draft`, in the same folder.
/// The name is durable once the folder was synced ([`sync_folder`]).
pub(super) fn replace_file(path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let written =
        durable::create_file(draft).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(draft, path)).inspect_err(|_| {
        let _ = fs::remove_file(draft);
    })
}

/// Makes names in `folder` durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    durable::sync_folder(folder).map_err(BackupError::disk("the folder could not be synced", folder))
}

/// Lets everything else go first, for processor and disk. Threads and programs that are started later inherit it; a refusal
/// is no fault.
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
