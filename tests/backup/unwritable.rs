//! Reading needs no write access: a folder of backups that is read-only, full, or somebody else's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use serde_json::Value;

use super::{backup, backups, holds, home, remember};
use crate::support::missing::skipped;
use crate::support::mount::Mount;
use crate::support::{Root, refused};

/// Runs every read-only command, for a device that has its memory and the backup called `name`.
fn looks(root: &Root, name: &str) {
    for which in [name, "latest"] {
        for level in ["quick", "full", "restore"] {
            let verified = root.json(&["backup", "verify", which, "--level", level]);
            assert_eq!(
                (&verified["name"], &verified["noted"]),
                (&Value::from(name), &Value::from(false)),
                "{verified}"
            );
            assert_eq!(verified["proven"], true, "{verified}");
        }
    }
    assert_eq!(root.json(&["backup", "list"])[0]["proven"], true);
    let to = root.path().join("looked-at.db");
    let _ = fs::remove_file(&to);
    root.ok(&["backup", "restore", name, "--to", to.to_str().unwrap()]);
    assert!(fs::read(&to).unwrap().starts_with(b"SQLite format 3"));
    let plan = root.json(&["backup", "restore", name, "--in-place", "--dry-run"]);
    assert_eq!(plan["rows"]["messages"], 4, "{plan}");
    root.ok(&["backup", "restore", name, "--user", "anna", "--dry-run"]);
    let left = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("scratch")).collect::<Vec<_>>()
    };
    assert_eq!(left(&root.path().join("var/lib/jarvis")), [""; 0]);
}

#[test]
fn a_backup_is_looked_at_and_restored_from_a_disk_that_is_read_only() {
    let root = home();
    let name = backup(&root);
    let disk = root.path().join("disk");
    fs::rename(backups(&root), &disk).unwrap();
    for with_lock in [true, false] {
        if !with_lock {
            fs::remove_file(disk.join(".lock")).unwrap();
        }
        let Some(mounted) = Mount::read_only(&disk, &backups(&root)) else { return };
        looks(&root, &name);
        // A damaged backup is still found.
        mounted.end();
    }
    let Some(mounted) = Mount::read_only(&disk, &backups(&root)) else { return };
    remember(&root, "anna", "the spare key is under the pot");
    let told = refused(&root, &["backup", "restore", &name, "--in-place", "--yes"], 1);
    assert!(told.contains("cannot be written to") && told.contains("--to FILE"), "{told}");
    assert!(holds(&root, "anna", "spare key"));
    refused(&root, &["backup", "create"], 1);
    refused(&root, &["backup", "prune", "--trust-clock"], 1);
    // On a new card nothing is replaced, so nothing must be written there.
    fs::remove_dir_all(root.path().join("var/lib/jarvis")).unwrap();
    root.ok(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert!(holds(&root, "anna", "bicycle") && !holds(&root, "anna", "spare key"));
    mounted.end();
}

#[test]
fn a_backup_is_looked_at_on_a_disk_that_is_full() {
    let root = home();
    let name = backup(&root);
    let kept = root.path().join("kept");
    fs::rename(backups(&root), &kept).unwrap();
    let Some(disk) = Mount::disk(&backups(&root), "size=256k") else { return };
    let copied =
        std::process::Command::new("cp").arg("-a").arg(kept.join(&name)).arg(backups(&root)).status();
    assert!(copied.unwrap().success());
    let filler = backups(&root).join("filler");
    let mut bytes = 256 << 10;
    while bytes > 0 && fs::write(&filler, vec![7; bytes]).is_err() {
        bytes -= 1 << 10;
    }
    while fs::write(backups(&root).join(format!("filler-{bytes}")), vec![7; 4096]).is_ok() {
        bytes += 1;
    }
    looks(&root, &name);
    let told = refused(&root, &["backup", "create", "--level", "quick"], 75);
    assert!(told.contains("free"), "{told}");
    disk.end();
}

#[test]
fn a_backup_of_somebody_else_is_looked_at_by_whoever_may_read_it() {
    const NOBODY: u32 = 65_534;
    let owner = home();
    let name = backup(&owner);
    let open = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let looker = Root::with_config(&format!("[backup]\ndir = {:?}\n", backups(&owner).to_str().unwrap()));
    if !rustix::process::geteuid().is_root() {
        return skipped("becoming somebody else takes root");
    }
    for path in [
        owner.path(),
        looker.path(),
        &owner.path().join("var"),
        &owner.path().join("var/backups"),
        &backups(&owner),
    ] {
        open(path, 0o755);
    }
    let folder = backups(&owner).join(&name);
    open(&folder, 0o755);
    for file in fs::read_dir(&folder).unwrap() {
        open(&file.unwrap().path(), 0o644);
    }
    let to = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(to.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let file = to.path().join("looked-at.db");
    let program = crate::support::copy_program(to.path());
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.arg("--root").arg(looker.path()).args(args).current_dir("/");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("JARVIS__STT__ENGINE", "whisper");
        let output = command.gid(NOBODY).uid(NOBODY).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["backup", "list"]).contains(&name));
    let told = run(&["backup", "verify", "latest"]);
    assert!(told.contains("Proven") && told.contains("not noted"), "{told}");
    run(&["backup", "restore", "latest", "--to", file.to_str().unwrap()]);
    assert!(fs::read(&file).unwrap().starts_with(b"SQLite format 3"));
    // An unreadable backup is not called damaged.
    open(&folder.join("manifest.json"), 0o600);
    assert!(run(&["backup", "list"]).contains("UNREADABLE"));
}
