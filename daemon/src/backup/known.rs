//! The device's record of its backups, in its own data folder, so that their absence is noticed.
//!
//! ```text
//!  create, verify, fetch ─learn─▶ <data>/backups.json ◀─forget─ prune (before it deletes)
//!                                        │  `accept`: only the backups there now
//!                                        ▼
//!            listing of the folder ─▶ [`lost`] ─▶ list, metrics, health, MQTT, doctor; [`may_write`] ─▶ create, fetch
//! ```
//!
//! Invariant: a backup in the note was proven, and its folder and proof were durable before. If the program
//! itself deletes a backup, the note loses it first. So a backup that is in the note and not in the folder
//! was taken away by somebody else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use serde::{Deserialize, Serialize};

use super::context::Context;
use super::create::Run;
use super::{Backup, BackupError, list, lock};
use crate::durable;
use crate::error::chain;

pub(super) const NOTE: &str = "backups.json";
/// Largest note; some hundred backups are far below this.
const MAX_BYTES: u64 = 4 << 20;
const ACCEPT: &str = "`jarvisd backup accept` takes the folder as it is now";

/// The note.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known {
    /// The folder, as configured at that time.
    dir: String,
    #[serde(flatten)]
    place: Place,
    /// The highest number given to a backup.
    highest: u64,
    /// The proven backups, with their numbers.
    proven: BTreeMap<String, Option<u64>>,
}

/// The real location of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Place {
    /// Whether a mount lies between the folder and the data folder: without the mount the path means another
    /// folder.
    apart: bool,
    /// Identifier of the file system.
    file_system: String,
    /// The folder within the file system.
    inside: String,
}

impl Place {
    fn is(&self, other: &Self) -> bool {
        (&self.file_system, &self.inside) == (&other.file_system, &other.inside)
    }
}

/// Reads the note; `None` if there is none, because no backup was made or only older versions made them.
///
/// # Errors
/// [`BackupError::Refused`] if the note is there but unusable.
pub fn read(data: &Path) -> Result<Option<Known>, BackupError> {
    let path = data.join(NOTE);
    let unusable = |why: &dyn std::fmt::Display| {
        BackupError::Refused(format!(
            "what this device knows of its backups cannot be read ({}: {why}), so nobody would notice that \
             one is missing: {ACCEPT}",
            path.display()
        ))
    };
    let bytes = durable::read_if_there(&path, MAX_BYTES).map_err(|e| unusable(&e))?;
    bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|e| unusable(&e))
}

fn write(data: &Path, known: &Known) -> Result<(), BackupError> {
    let failed = "what is known of the backups could not be noted";
    durable::create_folder(data).map_err(BackupError::disk(failed, &data.join(NOTE)))?;
    lock::note(data, NOTE, known, failed)?;
    lock::sync_folder(data)
}

/// The note, or an empty one if it is unusable: then only the present backups are known.
fn read_or_new(data: &Path) -> Known {
    read(data)
        .unwrap_or_else(|e| {
            log::warn!("{}", chain(&e));
            None
        })
        .unwrap_or_default()
}

/// The highest number in the note and the folder.
///
/// # Errors
/// [`BackupError::Disk`] if the folder cannot be read.
pub(super) fn highest(run: &Run<'_>) -> Result<Option<u64>, BackupError> {
    let here = list(run.lock.dir(), run.clock)?;
    let noted = Some(read_or_new(&run.settings.paths.data).highest).filter(|highest| *highest > 0);
    Ok(here.iter().map(|backup| backup.seq).max().flatten().max(noted))
}

/// Adds the backups that are proven now to the note, and the place, if a backup was `put` there. No missing
/// backup is forgotten, unless the configuration names another folder.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn learn(run: &Run<'_>, put: bool) -> Result<(), BackupError> {
    let data = &run.settings.paths.data;
    let dir = run.lock.dir();
    let before = read(data).ok().flatten();
    let mut known = before.clone().unwrap_or_default();
    if known.dir != as_text(dir) {
        known.proven.clear();
        known.dir = as_text(dir);
    }
    let level = run.settings.backup.verify;
    let here = list(dir, run.clock)?;
    // A missing note says nothing about a device on which no backup was ever proven.
    if before.is_none() && !here.iter().any(|backup| backup.is_proven_to(level)) {
        return Ok(());
    }
    if put || known.missing(&here).is_empty() {
        known.place = place(dir, data);
    }
    for backup in &here {
        known.highest = known.highest.max(backup.seq.unwrap_or(0));
        if backup.is_proven_to(level) {
            known.proven.insert(backup.name.clone(), backup.seq);
        } else if backup.last_proof().is_some_and(|proof| !proof.ok) {
            // The failed verification was reported.
            known.proven.remove(&backup.name);
        }
    }
    if before.as_ref() == Some(&known) { Ok(()) } else { write(data, &known) }
}

/// As [`learn`]; a failure to write the note does not fail the backup.
pub fn learn_or_warn(run: &Run<'_>, put: bool) {
    if let Err(e) = learn(run, put) {
        log::warn!("{}", chain(&e));
    }
}

/// Removes backups from the note before they are deleted.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn forget<'a>(data: &Path, names: impl Iterator<Item = &'a Backup>) -> Result<(), BackupError> {
    let Some(mut known) = read(data).ok().flatten() else { return Ok(()) };
    let before = known.proven.len();
    for backup in names {
        known.proven.remove(&backup.name);
    }
    if known.proven.len() == before { Ok(()) } else { write(data, &known) }
}

/// Accepts the folder as it is. Returns the number of proven backups in it.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn accept(run: &Run<'_>) -> Result<usize, BackupError> {
    let data = &run.settings.paths.data;
    let highest = highest(run)?.unwrap_or(0);
    let level = run.settings.backup.verify;
    let here = list(run.lock.dir(), run.clock)?;
    let proven = here.into_iter().filter(|b| b.is_proven_to(level)).map(|b| (b.name, b.seq));
    let known = Known {
        dir: as_text(run.lock.dir()),
        place: place(run.lock.dir(), data),
        highest,
        proven: proven.collect(),
    };
    write(data, &known)?;
    Ok(known.proven.len())
}

/// The missing backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Names of proven backups, the oldest first.
    pub names: Vec<String>,
    /// Whether the folder holds no backup at all.
    pub all: bool,
    /// Whether a missing one is newer than the newest present one.
    pub newer: bool,
    /// The fault and the remedy, without a full stop.
    pub sentence: String,
}

/// The known backups that are missing in the folder, which holds `here`.
pub fn lost(settings: &Context, here: &[Backup]) -> Option<Lost> {
    let (data, dir) = (&settings.paths.data, &settings.paths.backups);
    let shown = dir.display();
    let known = match read(data) {
        Ok(known) => known,
        Err(e) => {
            let all = here.is_empty();
            return Some(Lost { names: Vec::new(), all, newer: false, sentence: chain(&e) });
        }
    };
    let nothing = |sentence: String| {
        here.is_empty().then_some(Lost { names: Vec::new(), all: true, newer: false, sentence })
    };
    let Some(known) = known else {
        // Older versions noted only the last run.
        let ran = data.join(super::watch::RECORD).exists();
        let sentence =
            || format!("{shown} holds no backup though some were made: `jarvisd backup create` makes one");
        return if ran { nothing(sentence()) } else { None };
    };
    if known.dir != as_text(dir) {
        return nothing(format!(
            "{shown} is the folder of the backups now and holds none, earlier ones are in {}: `jarvisd \
             backup create` makes the first",
            known.dir
        ));
    }
    let names = known.missing(here);
    let Some(newest) = names.last() else {
        return nothing(format!("{shown} holds no backup: `jarvisd backup create` makes one"));
    };
    let (count, of) = (names.len(), known.proven.len());
    let elsewhere = known.place.apart && !place(dir, data).is(&known.place);
    let sentence = if elsewhere && count == of {
        format!(
            "the disk of the backups is gone: {shown} is not on the file system on which {newest} was made, \
             and {count} proven backups are missing: mount it again, or {ACCEPT}"
        )
    } else if fs::metadata(dir).is_err() {
        format!(
            "the folder of the backups is gone: {shown} held {count} proven backups, the newest {newest}: \
             bring it back, or `jarvisd backup create` makes a new one and {ACCEPT}"
        )
    } else {
        format!(
            "{count} of {of} proven backups in {shown} are missing, unreadable or without their proof, the \
             newest of these {newest}: put them back, or, if that was on purpose, {ACCEPT}"
        )
    };
    let of_newest = known.proven.get(newest).copied().flatten();
    let newer = here.last().is_none_or(|last| of_newest > last.seq);
    Some(Lost { all: here.is_empty(), newer, names, sentence })
}

impl Known {
    /// The newest proven backup, present or not.
    pub(super) fn newest_proven(&self) -> Option<&str> {
        let newest = self.proven.iter().max_by_key(|(name, seq)| (**seq, *name));
        newest.map(|(name, _)| name.as_str())
    }

    /// Names of backups that are missing, unreadable or without their proof, the oldest first.
    fn missing(&self, here: &[Backup]) -> Vec<String> {
        let is_good = |name: &String| {
            let found = here.iter().find(|backup| backup.name == *name);
            found.is_some_and(|backup| backup.fault.is_none() && backup.last_proof().is_some())
        };
        let mut missing: Vec<_> = self.proven.iter().filter(|(name, _)| !is_good(name)).collect();
        missing.sort_by_key(|(name, seq)| (**seq, (*name).clone()));
        missing.into_iter().map(|(name, _)| name.clone()).collect()
    }
}

/// Refuses to write a backup if the disk that held the backups is gone. The backup would fill the memory's
/// disk, and be hidden after the other disk is back.
///
/// # Errors
/// [`BackupError::Refused`].
pub fn may_write(settings: &Context, clock: &crate::clock::Clock) -> Result<(), BackupError> {
    let (data, dir) = (&settings.paths.data, &settings.paths.backups);
    let Some(known) = read(data).ok().flatten() else { return Ok(()) };
    let now = place(dir, data);
    if known.dir != as_text(dir) || !known.place.apart || now.is(&known.place) {
        return Ok(());
    }
    let missing = known.missing(&list(dir, clock)?).len();
    let some = missing < known.proven.len();
    if some && (missing == 0 || now.apart) {
        return Ok(());
    }
    Err(BackupError::Refused(format!(
        "no backup was made, because the disk of the backups is gone: {} is not on the file system on which \
         the {} proven backups are that this device knows: mount it again, or {ACCEPT}",
        dir.display(),
        known.proven.len()
    )))
}

/// Whether the folder lies on another file system than the memory.
pub fn is_apart(settings: &Context) -> bool {
    place(&settings.paths.backups, &settings.paths.data).apart
}

fn as_text(dir: &Path) -> String {
    dir.to_string_lossy().into_owned()
}

fn place(dir: &Path, data: &Path) -> Place {
    let ((dir, rest), (data, _)) = (existing(dir), existing(data));
    let dev = |path: &Path| fs::metadata(path).map_or(0, |found| found.dev());
    // Device numbers change with the order in which disks are found; the identifier of the file system does
    // not, if it has one.
    let file_system = match statvfs(&dir).map_or(0, |stat| stat.f_fsid) {
        0 => format!("device {:x}", dev(&dir)),
        id => format!("{id:x}"),
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Rebuilt from its parts, so that the text is the same whether the folder is there or not.
    let inside = on_disk(&mounts, &dir).map(|inside| inside.join(rest).components().collect::<PathBuf>());
    let apart = dev(&dir) != dev(&data) || is_mounted_between(&mounts, &dir, &data);
    Place { apart, file_system, inside: as_text(&inside.unwrap_or_default()) }
}

/// Whether a mount of another folder of the same file system lies on the way to `dir`. A mount of the folder
/// onto itself, which a service manager makes for writable folders, changes nothing.
fn is_mounted_between(mounts: &str, dir: &Path, data: &Path) -> bool {
    let shared = dir.components().zip(data.components()).map_while(|(a, b)| (a == b).then_some(a));
    let shared: PathBuf = shared.collect();
    let (Some(above), Some(below)) = (on_disk(mounts, &shared), on_disk(mounts, dir)) else { return false };
    dir.strip_prefix(&shared).is_ok_and(|rest| above.join(rest) != below)
}

/// The place of `path` within its file system, by the lines of `/proc/self/mountinfo`.
fn on_disk(mounts: &str, path: &Path) -> Option<PathBuf> {
    let mount = |line: &str| {
        // 36 35 98:0 /root/of/it /mounted/here …
        let mut fields = line.split(' ').skip(3);
        Some((PathBuf::from(fields.next()?), PathBuf::from(fields.next()?)))
    };
    let over = mounts.lines().filter_map(mount).filter(|(_, at)| path.starts_with(at));
    // The last of several mounts on one folder counts.
    let (root, at) = over.max_by_key(|(_, at)| at.components().count())?;
    Some(root.join(path.strip_prefix(at).ok()?))
}

/// Splits `path` into the existing part, all links resolved, and the rest. A dangling link leads to its
/// target.
fn existing(path: &Path) -> (PathBuf, PathBuf) {
    const STEPS: usize = 64;
    let (mut at, mut rest) = (path.to_path_buf(), PathBuf::new());
    for _ in 0..STEPS {
        if let Ok(found) = fs::canonicalize(&at) {
            return (found, rest);
        }
        if let Ok(target) = fs::read_link(&at) {
            at = crate::durable::folder_of(&at).join(target);
            continue;
        }
        let (Some(name), Some(above)) = (at.file_name(), at.parent()) else { break };
        rest = Path::new(name).join(&rest);
        at = above.to_path_buf();
    }
    (PathBuf::from("/"), PathBuf::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_on_the_way_is_seen_and_one_of_a_folder_onto_itself_is_none() {
        let root = "22 1 8:2 / / rw - ext4 /dev/sda2 rw\n";
        let between = |more: &str, dir: &str| {
            is_mounted_between(&format!("{root}{more}"), Path::new(dir), Path::new("/var/lib/jarvis"))
        };
        let dir = "/var/backups/jarvis";
        assert!(!between("", dir));
        assert!(!between("40 22 8:2 /var/backups/jarvis /var/backups/jarvis rw - ext4 /dev/sda2 rw\n", dir));
        assert!(between("40 22 8:2 /srv/disk /var/backups/jarvis rw - ext4 /dev/sda2 rw\n", dir));
        assert!(between("40 22 8:17 / /mnt/usb rw - ext4 /dev/sdb1 rw\n", "/mnt/usb/jarvis"));
        // A partition of /var holds both.
        assert!(!between("40 22 8:3 / /var rw - ext4 /dev/sda3 rw\n", dir));
    }

    #[test]
    fn what_is_missing_is_named_oldest_first_and_a_lost_proof_counts() {
        let known = Known {
            proven: [("b", Some(2)), ("a", Some(3)), ("old", None)]
                .map(|(name, seq)| (format!("jarvis-backup-{name}"), seq))
                .into(),
            ..Known::default()
        };
        assert_eq!(known.missing(&[]), ["jarvis-backup-old", "jarvis-backup-b", "jarvis-backup-a"]);
    }

    #[test]
    fn a_link_to_what_is_not_there_leads_to_where_it_would_be() {
        let home = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(home.path()).unwrap();
        std::os::unix::fs::symlink(home.path().join("usb/jarvis"), home.path().join("link")).unwrap();
        assert_eq!(existing(&home.path().join("link")), (real, PathBuf::from("usb/jarvis")));
    }
}
