//! Links to other disks: the file is replaced, not the link, so that no old words stay at its target.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{backup, backups, holds, home, remember};
use crate::support::{Root, Voice, refused};

/// Moves the file at `path` elsewhere and puts a link in its place.
fn moved(root: &Root, path: &Path) -> PathBuf {
    let elsewhere = root.path().join("ssd");
    fs::create_dir_all(&elsewhere).unwrap();
    let target = elsewhere.join(path.file_name().unwrap());
    fs::rename(path, &target).unwrap();
    symlink(&target, path).unwrap();
    target
}

fn words_below(dir: &Path, words: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap_or_default();
        if bytes.windows(words.len()).any(|window| window == words.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn a_memory_behind_a_link_is_replaced_where_it_lies() {
    let root = home();
    let name = backup(&root);
    let data = root.path().join("var/lib/jarvis");
    let target = moved(&root, &data.join("jarvis.db"));
    remember(&root, "anna", "the spare key is under the pot");
    // Words in the log beside the file itself.
    let restored = root.json(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert!(data.join("jarvis.db").symlink_metadata().unwrap().is_symlink());
    assert!(holds(&root, "anna", "bicycle") && !holds(&root, "anna", "spare key"));
    for dir in [&data, &root.path().join("ssd")] {
        assert_eq!(words_below(dir, "the spare key is under"), [""; 0]);
    }
    assert!(data.join("restore.log").exists());
    assert_eq!(restored["to"], target.to_str().unwrap());
    // A damaged file is set aside beside itself, and does not stay in use.
    fs::write(&target, vec![0x5a; 50_000]).unwrap();
    let restored = root.json(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert!(restored["set_aside"].as_str().unwrap().starts_with(target.to_str().unwrap()), "{restored}");
    assert!(holds(&root, "ben", "ladder"));
}

#[test]
fn a_key_behind_a_link_is_replaced_where_it_lies() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let link = root.path().join("var/lib/jarvis/voiceprint.key");
    let target = moved(&root, &link);
    let old = fs::read(&target).unwrap();
    root.ok(&["vault", "rotate-key"]);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_ne!(fs::read(&target).unwrap(), old, "the old key stayed where the link leads");
}

#[test]
fn the_data_folder_and_the_folder_of_the_backups_may_be_links() {
    let root = home();
    moved(&root, &root.path().join("var/lib/jarvis"));
    fs::create_dir_all(backups(&root)).unwrap();
    let target = root.path().join("ssd/backups");
    fs::rename(backups(&root), &target).unwrap();
    symlink(&target, backups(&root)).unwrap();
    let name = backup(&root);
    assert!(target.join(&name).is_dir());
    remember(&root, "anna", "the spare key is under the pot");
    root.ok(&["backup", "restore", "latest", "--in-place", "--yes"]);
    assert!(!holds(&root, "anna", "spare key"));
    assert_eq!(words_below(&root.path().join("ssd/jarvis"), "the spare key is under"), [""; 0]);
    assert!(backups(&root).symlink_metadata().unwrap().is_symlink());
}

#[test]
fn a_memory_behind_a_link_to_a_disk_that_is_away_is_not_replaced() {
    let root = home();
    backup(&root);
    let link = root.path().join("var/lib/jarvis/jarvis.db");
    let target = moved(&root, &link);
    let (disk, away) = (target.parent().unwrap(), root.path().join("unplugged"));
    fs::rename(disk, &away).unwrap();
    let told = refused(&root, &["backup", "restore", "latest", "--in-place", "--yes"], 1);
    assert!(told.contains("is a link to") && told.contains("mount the disk"), "{told}");
    assert!(link.is_symlink());
    fs::rename(&away, disk).unwrap();
    assert!(holds(&root, "anna", "bicycle"));
}
