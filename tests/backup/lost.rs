//! Backups that have vanished: the disk was unmounted, somebody deleted them, a note cannot be read.

use std::fs;

use serde_json::Value;

use super::{backup, backups, home, home_with, listed};
use crate::support::mount::Mount;
use crate::support::{Broker, Root, refused};

fn problem(root: &Root) -> bool {
    let told = root.ok(&["backup", "list", "--metrics"]);
    told.lines().any(|line| line == "jarvis_backup_problem 1")
}

/// The findings of `doctor` on the backups.
fn doctor(root: &Root) -> String {
    let output = root.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter().filter(|f| f["check"] == "backups");
    findings.map(ToString::to_string).collect()
}

fn stderr_of(root: &Root, args: &[&str]) -> String {
    let output = root.run(args);
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_disk_of_backups_that_is_gone_is_said_everywhere_and_nothing_is_written_in_its_place() {
    let broker = Broker::start();
    let root = home_with(&format!("[device]\nid = \"kitchen\"\n[mqtt]\nurl = {:?}\n", broker.url()));
    let Some(_disk) = Mount::disk(&root.path().join("disk"), "size=64m") else { return };
    fs::create_dir(root.path().join("disk/jarvis")).unwrap();
    let plug = || Mount::of(&root.path().join("disk/jarvis"), &backups(&root)).unwrap();
    let mounted = plug();
    let name = backup(&root);
    assert!(!problem(&root) && doctor(&root).contains("a disk of its own"), "{}", doctor(&root));

    let mut all = broker.subscribe("jarvis/kitchen/#");
    let mut daemon = root.daemon();
    all.wait_for("no problem", |l| {
        l.starts_with("jarvis/kitchen/backup ") && l.contains("\"problem\":false")
    });
    mounted.end();
    let line = all.wait_for("the problem", |l| {
        l.starts_with("jarvis/kitchen/backup ") && l.contains("\"problem\":true")
    });
    assert!(line.contains("the disk of the backups is gone") && line.contains("mount it again"), "{line}");
    let in_health = |l: &String| l.starts_with("jarvis/kitchen/health ") && l.contains("disk of the backups");
    if !all.seen.iter().any(in_health) {
        all.wait_for("the health", |l| in_health(&l.to_owned()));
    }

    let told = refused(&root, &["backup", "list"], 69);
    assert!(
        told.contains(&name) && told.contains("jarvisd backup accept") && !told.contains("yet"),
        "{told}"
    );
    let json = root.run(&["backup", "list", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&json[0]["name"], &json[0]["missing"]),
        (&Value::from(name.clone()), &Value::from(true)),
        "{json}"
    );
    assert!(problem(&root));
    let told = doctor(&root);
    assert!(told.contains("disk of the backups is gone") && told.contains("\"warn\""), "{told}");
    for args in [&["backup", "create"][..], &["backup", "create", "--kind", "scheduled", "--prune"]] {
        let told = refused(&root, args, 1);
        assert!(told.contains("mount it again") && told.contains("jarvisd backup accept"), "{told}");
    }
    refused(&root, &["backup", "verify", "latest"], 1);
    assert_eq!(
        fs::read_dir(backups(&root)).unwrap().count(),
        0,
        "something was written to the disk of the memory"
    );

    let mounted = plug();
    all.wait_for("it is back", |l| {
        l.starts_with("jarvis/kitchen/backup ") && l.contains("\"problem\":false")
    });
    assert!(!problem(&root));
    assert_eq!(root.json(&["backup", "verify", "latest"])["name"], Value::from(name));
    daemon.stop();
    mounted.end();
    // Its owner has no such disk any more.
    root.ok(&["backup", "accept"]);
    assert!(problem(&root), "there is none yet");
    backup(&root);
    assert!(!problem(&root));
}

#[test]
fn a_folder_on_a_disk_that_took_it_along_is_not_made_anew() {
    let root = Root::new();
    let Some(disk) = Mount::disk(&root.path().join("media/usb"), "size=64m") else { return };
    let dir = root.path().join("media/usb/jarvis");
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    root.ok(&["user", "add", "anna"]);
    for configured in [&dir, &link] {
        root.write_config(&format!("[backup]\ndir = {:?}\n", configured.to_str().unwrap()));
        fs::create_dir_all(&dir).unwrap();
        backup(&root);
    }
    disk.end();
    fs::remove_dir(root.path().join("media/usb")).unwrap();
    let told = refused(&root, &["backup", "create"], 1);
    assert!(told.contains("the disk of the backups is gone"), "{told}");
    assert!(refused(&root, &["backup", "list"], 69).contains("gone"));
    assert!(!dir.exists());
    // A different folder, on purpose, takes nothing but the key.
    root.write_config("");
    let told = root.ok(&["backup", "list"]);
    assert!(told.contains("earlier ones are in"), "{told}");
    backup(&root);
    assert!(!problem(&root));
}

#[test]
fn backups_that_somebody_deleted_are_missed_and_those_that_prune_deletes_are_not() {
    let root = home();
    let config = "[backup]\nkeep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n";
    root.write_config(config);
    let names: Vec<String> = (0..3)
        .map(|_| root.json(&["backup", "create", "--kind", "scheduled"])["name"].as_str().unwrap().into())
        .collect();
    assert_eq!(root.json(&["backup", "prune", "--trust-clock"])["deleted"], 2);
    assert!(!problem(&root) && stderr_of(&root, &["backup", "list"]).is_empty());

    let one = backup(&root);
    fs::remove_dir_all(backups(&root).join(&names[2])).unwrap();
    assert!(problem(&root));
    let told = stderr_of(&root, &["backup", "list"]);
    assert!(told.contains("1 of 2 proven backups") && told.contains(&names[2]), "{told}");
    let json = listed(&root);
    assert_eq!((json.len(), &json[1]["missing"]), (2, &Value::from(true)), "{json:?}");
    assert!(doctor(&root).contains("1 of 2 proven backups"), "{}", doctor(&root));
    // The newest is gone and an older one is there: latest has changed.
    fs::remove_dir_all(backups(&root).join(&one)).unwrap();
    let told = refused(&root, &["backup", "list"], 69);
    assert!(told.contains("2 of 2 proven backups"), "{told}");
    // In the old place a new backup is made, and does not silence the question after the others.
    backup(&root);
    assert!(problem(&root));
    root.ok(&["backup", "accept"]);
    assert!(!problem(&root));
    // With the folder itself it is the same.
    fs::remove_dir_all(backups(&root)).unwrap();
    assert!(refused(&root, &["backup", "list"], 69).contains("is gone"));
    assert!(problem(&root));
    backup(&root);
}

#[test]
fn latest_says_that_a_newer_one_is_missing() {
    let root = home();
    let older = backup(&root);
    let newer = backup(&root);
    fs::remove_dir_all(backups(&root).join(&newer)).unwrap();
    let output = root.run(&["backup", "restore", "latest", "--in-place", "--dry-run"]);
    let (told, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(told.contains(&older) && said.contains(&newer), "{told} {said}");
}

#[test]
fn a_note_that_cannot_be_read_is_a_problem_and_not_silence() {
    let root = home();
    backup(&root);
    let data = root.path().join("var/lib/jarvis");
    for note in ["backups.json", "backup.json"] {
        let good = fs::read(data.join(note)).unwrap();
        fs::write(data.join(note), &good[..good.len() / 2]).unwrap();
        assert!(problem(&root), "{note}");
        assert!(doctor(&root).contains(note), "{}", doctor(&root));
        fs::write(data.join(note), good).unwrap();
        assert!(!problem(&root));
    }
    fs::write(data.join("backups.json"), "{").unwrap();
    assert!(stderr_of(&root, &["backup", "list"]).contains("jarvisd backup accept"));
    root.ok(&["backup", "accept"]);
    assert!(!problem(&root));
    // A proof that is gone makes nothing proven.
    let (older, _) = (backup(&root), backup(&root));
    fs::remove_file(backups(&root).join(&older).join("proofs.json")).unwrap();
    assert!(problem(&root));
    root.ok(&["backup", "verify", &older]);
    assert!(!problem(&root));
    // An older version left only the note of its last run.
    fs::remove_file(data.join("backups.json")).unwrap();
    assert!(!problem(&root));
    fs::remove_dir_all(backups(&root)).unwrap();
    assert!(problem(&root));
    assert!(root.ok(&["backup", "list"]).contains("though some were made"));
}
