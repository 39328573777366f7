//! Files for their owner alone, and names that outlast a power cut.
//!
//! A synced file is on the disk. Its name is there once the folder that holds the name was synced. Until then
//! each creation, rename and removal in a folder may be there or not, one without the other.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Makes every creation, rename and removal in `folder` durable.
///
/// # Errors
/// Those of the file system; one that cannot sync folders (some network shares) is no error.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(()),
        synced => synced,
    }
}

/// Takes the lock of an open file or folder, released when it is closed; `false` if somebody else holds it.
///
/// # Errors
/// Those of the file system, in words where it has no locks.
pub fn try_lock(file: &File) -> io::Result<bool> {
    lock(file, FlockOperation::NonBlockingLockExclusive)
}

/// As [`try_lock`], together with others that do the same.
///
/// # Errors
/// As [`try_lock`].
pub fn try_lock_shared(file: &File) -> io::Result<bool> {
    lock(file, FlockOperation::NonBlockingLockShared)
}

fn lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(in_words(e.into())),
    }
}

/// A failure of a file system that lacks locks or syncing (some network shares), as a sentence instead of an
/// error number.
pub fn in_words(error: io::Error) -> io::Error {
    let lacks = match error.raw_os_error() {
        Some(libc::ENOLCK) => "has no locks",
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => {
            "cannot lock files or write them through to its disk"
        }
        _ => return error,
    };
    let sentence = format!("the file system there {lacks}: use a disk of this machine, or a share that can");
    io::Error::new(error.kind(), sentence)
}

/// Makes the name of `path` durable.
///
/// # Errors
/// As [`sync_folder`].
pub fn sync_name(path: &Path) -> io::Result<()> {
    sync_folder(folder_of(path))
}

/// The folder that holds the name of `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The file itself where `path` is a link to an existing one. A writer that replaces a file must not replace
/// the link, or the old content stays where it lies.
pub fn behind_link(path: &Path) -> PathBuf {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    let target = is_link.then(|| fs::canonicalize(path).ok()).flatten();
    target.unwrap_or_else(|| path.to_path_buf())
}

/// The target of the link `path` if nothing is there, as with a disk that is not mounted.
pub fn leads_nowhere(path: &Path) -> Option<PathBuf> {
    let target = fs::read_link(path).ok()?;
    fs::metadata(path).is_err().then(|| folder_of(path).join(target))
}

/// Makes `folder` and its missing ancestors, durably, for owner and group. An existing folder stays as it is.
///
/// # Errors
/// The error of the file system.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    let missing = folder.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists());
    let missing: Vec<&Path> = missing.collect();
    if missing.is_empty() && folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    missing.iter().rev().try_for_each(|made| sync_name(made))
}

/// Makes an empty file that only its owner may read.
///
/// # Errors
/// `AlreadyExists`, and those of the file system.
pub fn create_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The bytes of a file, at most `most` of them; `None` if it is not there.
///
/// # Errors
/// What the disk has to say.
pub fn read_if_there(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a file; returns whether it was there.
///
/// # Errors
/// Those of the file system.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_is_made_with_what_is_missing_above_it_and_one_that_is_there_stays() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("var/lib/jarvis");
        create_folder(&deep).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&deep), mode(&home.path().join("var"))), (0o750, 0o750));
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
        create_folder(&deep).unwrap();
        assert_eq!(mode(&deep), 0o700);
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("var");
        fs::write(&file, "").unwrap();
        assert_eq!(create_folder(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(create_folder(&file.join("lib")).is_err());
    }

    #[test]
    fn a_link_leads_to_its_file_and_one_that_leads_nowhere_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(home.path()).unwrap();
        let (file, link) = (real.join("file"), home.path().join("link"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_eq!(behind_link(&link), link);
        fs::write(&file, "").unwrap();
        assert_eq!(behind_link(&link), file);
        assert_eq!(behind_link(&home.path().join("file")), home.path().join("file"));
    }

    #[test]
    fn a_name_without_a_folder_is_in_the_present_one() {
        assert_eq!(folder_of(Path::new("jarvis.db")), Path::new("."));
        assert_eq!(folder_of(Path::new("/var/jarvis.db")), Path::new("/var"));
    }
}
