//! Root runs commands on a device whose data belong to somebody else: nothing of it is root's afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::mic::Mic;
use crate::support::{Root, copy_program};

/// An account that every system has, and that is nobody's here.
const OWNER: u32 = 65_534;

/// Whether files can be given away here.
fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn give(path: &Path) {
    let status = Command::new("chown").arg("-R").arg(OWNER.to_string()).arg(path).status();
    assert!(status.unwrap().success());
}

/// An installed device: folders as `systemd/jarvis.tmpfiles` makes them.
fn installed() -> Root {
    let mut root = Root::new();
    for variable in ["SUDO_UID", "SUDO_GID"] {
        root.env(variable, "0");
    }
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for folder in ["var/lib/jarvis", "var/backups/jarvis"] {
        let folder = root.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        give(&folder);
    }
    root
}

/// Files and folders at and below `path` that are not the owner's.
fn foreign(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if fs::symlink_metadata(path).unwrap().uid() != OWNER {
        found.push(path.to_owned());
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            found.extend(foreign(&entry.unwrap().path()));
        }
    }
    found
}

#[track_caller]
fn all_is_the_owners(root: &Root) {
    for folder in ["var/lib/jarvis", "var/backups/jarvis"] {
        assert_eq!(foreign(&root.path().join(folder)), Vec::<PathBuf>::new());
    }
    // The files that the daemon would find.
    let database = root.path().join("var/lib/jarvis/jarvis.db");
    let can = Command::new("setpriv")
        .args([
            "--reuid",
            &OWNER.to_string(),
            "--clear-groups",
            "sh",
            "-c",
            "test -r \"$1\" && test -w \"$1\"",
            "sh",
        ])
        .arg(database)
        .status();
    assert!(can.unwrap().success());
}

/// A folder of the user who types the commands; nobody else may look into it.
fn home_of_the_caller() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    home
}

#[test]
fn root_acts_as_the_owner_of_the_data() {
    if !is_root() {
        crate::support::missing::skipped("only root can act as the owner of the data");
        return;
    }
    let root = installed();
    let home = home_of_the_caller();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    root.ok(&["user", "add", "anna"]);
    root.ok(&["ask", "--user", "anna", "remember that the bicycle is in the cellar"]);
    all_is_the_owners(&root);
    root.ok(&["backup", "create"]);
    root.ok(&["backup", "verify", "latest"]);
    root.ok(&["backup", "failed", "jarvis-backup"]);
    root.ok(&["backup", "prune", "--trust-clock"]);
    all_is_the_owners(&root);

    // Files of the caller are read and written where only the caller may, and stay the caller's.
    root.ok(&["conversation", "export", "--user", "anna", "--out", &at("said.json")]);
    root.ok(&["user", "export", "anna", "--out", &at("anna.json")]);
    root.ok(&["backup", "export", "--out", &at("all.jsonl")]);
    root.ok(&["backup", "restore", "latest", "--to", &at("look.db")]);
    for name in ["said.json", "anna.json", "all.jsonl", "look.db"] {
        assert_eq!(fs::metadata(at(name)).unwrap().uid(), 0, "{name}");
    }
    root.ok(&["conversation", "import", "--user", "anna", &at("said.json")]);
    root.ok(&["backup", "import", &at("all.jsonl")]);
    all_is_the_owners(&root);

    root.ok(&["backup", "restore", "latest", "--in-place", "--yes"]);
    root.ok(&["queue", "status"]);
    root.ok(&["audit", "list"]);
    root.ok(&["check-config"]);
    root.run(&["doctor"]);
    all_is_the_owners(&root);
}

#[test]
fn a_daemon_that_root_starts_by_hand_is_the_owners() {
    if !is_root() {
        crate::support::missing::skipped("only root can act as the owner of the data");
        return;
    }
    let mut root = installed();
    root.write_config("[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n");
    let mic = Mic::plug_into(&mut root);
    give(&root.path().join("sound"));
    // It makes the folder itself, where only root may.
    fs::remove_dir(root.path().join("var/lib/jarvis")).unwrap();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("Uid:").split_whitespace().skip(1).all(|uid| uid == OWNER.to_string()), "{status}");
    assert!(line("CapEff:").ends_with("0000000000000004"), "it may read and nothing else: {status}");
    root.ok(&["user", "add", "anna"]);
    all_is_the_owners(&root);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    all_is_the_owners(&root);
    drop(mic);
}

#[test]
fn a_folder_that_is_made_is_of_whoever_owns_what_is_there() {
    if !is_root() {
        crate::support::missing::skipped("only root can act as the owner of the data");
        return;
    }
    // A card with nothing but the backups on it.
    let root = installed();
    root.ok(&["user", "add", "anna"]);
    root.ok(&["backup", "create"]);
    fs::remove_dir_all(root.path().join("var/lib/jarvis")).unwrap();
    root.ok(&["backup", "restore", "latest", "--in-place"]);
    all_is_the_owners(&root);
    // A trial in somebody's folder.
    let trial = Root::new();
    chown(trial.path(), Some(OWNER), None).unwrap();
    trial.ok(&["user", "add", "anna"]);
    trial.ok(&["backup", "create"]);
    assert_eq!(foreign(&trial.path().join("var")), Vec::<PathBuf>::new());
    // And one of root's own.
    let own = Root::new();
    own.ok(&["user", "add", "anna"]);
    assert_eq!(fs::metadata(own.path().join("var/lib/jarvis/jarvis.db")).unwrap().uid(), 0);
}

#[test]
fn a_command_without_the_rights_to_the_data_says_how_to_get_them() {
    if !is_root() {
        crate::support::missing::skipped("only root can act as somebody else");
        return;
    }
    let root = installed();
    root.ok(&["user", "add", "anna"]);
    let public = tempfile::tempdir().unwrap();
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = copy_program(public.path());
    // Neither root nor the owner.
    let other = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--root").arg(root.path()).args(args).current_dir("/");
        command.env_clear().env("PATH", "/usr/bin:/bin").env("JARVIS__STT__ENGINE", "whisper");
        let output = command.gid(OWNER - 1).uid(OWNER - 1).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for args in [&["user", "list"][..], &["ask", "--user", "anna", "hello"], &["backup", "list"]] {
        let (code, said) = other(args);
        assert_ne!(code, Some(0), "{args:?}: {said}");
        assert!(said.contains("Permission denied"), "{args:?}: {said}");
        assert!(said.trim_end().ends_with("; try it with sudo"), "{args:?}: {said}");
    }
    let (code, said) = other(&["doctor"]);
    assert_ne!(code, Some(0), "{said}");
    assert!(said.contains("jarvis.db cannot be read: Permission denied"), "{said}");
    assert!(said.contains("run doctor with sudo"), "{said}");
}
