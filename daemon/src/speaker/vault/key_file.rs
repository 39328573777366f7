//! The master key: read from a credential or a file that only we can read, or made once and atomically.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{CREDENTIAL, KEY_BYTES, Key, KeySources, VaultError};
use crate::durable::{create_file, create_folder, folder_of, sync_name, try_lock};

/// The key of the first source that has one; the key file is made where there is none.
pub fn obtain(sources: &KeySources) -> Result<Key, VaultError> {
    match existing(sources) {
        Err(VaultError::NoKey { .. }) => {}
        other => return other,
    }
    let path = &sources.key_file;
    make(path).map_err(|source| VaultError::MakeKey { path: path.clone(), source })?;
    // Read back rather than kept: if another process was faster, its key is on the disk.
    read(path, Guard::Mode)
}

/// The key of the first source that has one, or [`VaultError::NoKey`].
pub fn existing(sources: &KeySources) -> Result<Key, VaultError> {
    if let Some(dir) = &sources.credentials_dir {
        let path = dir.join(CREDENTIAL);
        // systemd guards credentials with an ACL, which shows as group bits in the mode; its folder is ours
        // alone.
        match read(&path, Guard::Systemd) {
            Err(VaultError::ReadKey { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
    }
    let path = &sources.key_file;
    match read(path, Guard::Mode) {
        Err(VaultError::ReadKey { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(VaultError::NoKey { path: path.clone() })
        }
        other => other,
    }
}

/// Holds off every other rotation until it is dropped. It locks the folder, because the key file is replaced;
/// a repair of the database in it takes the same lock.
pub fn lock(path: &Path) -> Result<File, VaultError> {
    let failed = |source| VaultError::ReadKey { path: path.into(), source };
    let dir = File::open(folder_of(path)).map_err(failed)?;
    if try_lock(&dir).map_err(failed)? { Ok(dir) } else { Err(VaultError::Rotating) }
}

/// The place where the next key waits: beside the key file.
pub fn next_to(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".next");
    path.with_file_name(name)
}

/// Puts the waiting key in the place of the key file, durably. If none waits, another process was faster.
pub fn install_next(path: &Path) -> Result<(), VaultError> {
    let failed = |source| VaultError::ReplaceKey { path: path.into(), source };
    match std::fs::rename(next_to(path), path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    }
    sync_name(path).map_err(failed)
}

#[derive(Clone, Copy, PartialEq)]
enum Guard {
    Mode,
    Systemd,
}

fn read(path: &Path, guard: Guard) -> Result<Key, VaultError> {
    let failed = |source| VaultError::ReadKey { path: path.into(), source };
    // Not blocking: a FIFO in its place must be refused, not waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(VaultError::NotAFile { path: path.into() });
    }
    if guard == Guard::Mode {
        if meta.mode() & 0o077 != 0 {
            return Err(VaultError::KeyMode { path: path.into(), mode: meta.mode() & 0o777 });
        }
        let us = rustix::process::geteuid();
        if meta.uid() != us.as_raw() && !us.is_root() {
            return Err(VaultError::KeyOwner { path: path.into() });
        }
    }
    if meta.len() != KEY_BYTES as u64 {
        return Err(VaultError::KeySize { path: path.into(), bytes: meta.len() });
    }
    let mut key: Key = Zeroizing::new([0; KEY_BYTES]);
    (&file).read_exact(key.as_mut_slice()).map_err(failed)?;
    Ok(key)
}

/// Makes a key file. It appears under its name complete, durable and unreadable for others, or not at all; a
/// file that is there already stays.
fn make(path: &Path) -> io::Result<()> {
    let mut key: Key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(key.as_mut_slice()).map_err(io::Error::other)?;
    let dir = folder_of(path);
    create_folder(dir)?;
    let draft = Draft(dir.join(format!(".{CREDENTIAL}.{}", uuid::Uuid::now_v7())));
    let mut file = create_file(&draft.0)?;
    file.write_all(key.as_slice())?;
    file.sync_all()?;
    // A hard link fails where a name exists; a rename would replace the key of a process that was faster.
    match std::fs::hard_link(&draft.0, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    drop(draft);
    sync_name(path)
}

/// A file that goes away with its owner.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            log::warn!("cannot remove the draft of the voiceprint key {}: {e}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn sources(dir: &Path, credentials: bool) -> KeySources {
        KeySources {
            credentials_dir: credentials.then(|| dir.join("credentials")),
            key_file: dir.join("state/voiceprint.key"),
        }
    }

    #[test]
    fn a_key_is_made_once_with_mode_0600_and_no_draft_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = obtain(&sources(dir.path(), true)).unwrap();
        assert_eq!(first, obtain(&sources(dir.path(), false)).unwrap());
        assert_ne!(*first, [0; KEY_BYTES]);
        let state = dir.path().join("state");
        let names: Vec<_> = state.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["voiceprint.key"]);
        assert_eq!(state.join("voiceprint.key").metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(state.metadata().unwrap().mode() & 0o027, 0, "others may not look into the folder");
    }

    #[test]
    fn looking_for_a_key_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path(), true);
        assert!(matches!(existing(&sources), Err(VaultError::NoKey { .. })));
        assert!(!dir.path().join("state").exists());
        assert_eq!(obtain(&sources).unwrap(), existing(&sources).unwrap());
    }

    #[test]
    fn processes_that_start_together_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<Key> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| obtain(&sources(dir.path(), false)).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn a_credential_comes_first_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        std::fs::create_dir(&credentials).unwrap();
        std::fs::write(credentials.join(CREDENTIAL), [7; KEY_BYTES]).unwrap();
        assert_eq!(*obtain(&sources(dir.path(), true)).unwrap(), [7; KEY_BYTES]);
        assert!(!dir.path().join("state").exists());
        std::fs::write(credentials.join(CREDENTIAL), [7; 31]).unwrap();
        assert!(matches!(obtain(&sources(dir.path(), true)), Err(VaultError::KeySize { bytes: 31, .. })));
    }

    #[test]
    fn a_key_that_others_can_read_or_of_another_size_or_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let sources = sources(dir.path(), false);
        obtain(&sources).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            std::fs::set_permissions(&sources.key_file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(obtain(&sources), Err(VaultError::KeyMode { mode: m, .. }) if m == mode));
        }
        std::fs::set_permissions(&sources.key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        for size in [0, 31, 33, 64] {
            std::fs::write(&sources.key_file, vec![1; size]).unwrap();
            assert!(matches!(obtain(&sources), Err(VaultError::KeySize { .. })), "{size} bytes");
        }
        std::fs::remove_file(&sources.key_file).unwrap();
        std::fs::create_dir(&sources.key_file).unwrap();
        assert!(matches!(obtain(&sources), Err(VaultError::NotAFile { .. })));
    }
}
