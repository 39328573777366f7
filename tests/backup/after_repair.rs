//! The database was damaged and repaired: what the repair could not read comes back out of the newest proven
//! backup, and what was deleted since that backup does not.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{backup, holds, home, leftovers, much, remember, texts};
use crate::support::pages::{has, overwrite_page, overwrite_rows};
use crate::support::{Root, on_disk};

/// Conversation 2 as [`much`] makes it.
const CONVERSATION: &str = "0190b000-0000-7000-8000-000000000002";

fn database(root: &Root) -> PathBuf {
    root.path().join("var/lib/jarvis/jarvis.db")
}

/// Damaged files that are kept.
fn copies(root: &Root) -> Vec<String> {
    let entries = database(root).parent().unwrap().read_dir().unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(".corrupt.")).collect()
}

/// Overwrites every page with messages of [`much`], except where a message stands that no backup has.
fn lose_messages(root: &Root) {
    let kept = |page: &[u8]| has(page, "otto") || has(page, "ladder");
    let lost = overwrite_rows(&database(root), |page| has(page, " of conversation ") && !kept(page));
    assert!(lost > 5, "{lost} pages");
}

/// The log of the daemon about the repair.
fn mended(root: &Root, text: &str) -> String {
    let mut daemon = root.daemon();
    daemon.wait_log(text);
    let log = daemon.log();
    assert_eq!(daemon.stop(), Some(0));
    log
}

/// The log of a daemon that has nothing to mend. It searches when it starts, and gets time for that.
fn idle(root: &Root) -> String {
    let mut daemon = root.daemon();
    std::thread::sleep(std::time::Duration::from_secs(6));
    let log = daemon.log();
    assert_eq!(daemon.stop(), Some(0));
    log
}

/// The finding of `doctor` about the database.
fn doctor(root: &Root) -> String {
    let output = root.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter().filter(|f| f["check"] == "database");
    findings.map(ToString::to_string).collect()
}

/// A home with a proven backup, in which a conversation and a word were deleted since and one was added.
fn home_since() -> (Root, String) {
    let root = home();
    much(&root, 4);
    let name = backup(&root);
    root.ok(&["conversation", "delete", CONVERSATION, "--user", "anna", "--yes"]);
    root.ok(&["ask", "--user", "anna", "forget everything about the bicycle"]);
    remember(&root, "anna", "the parrot is called otto");
    (root, name)
}

#[test]
fn what_a_repair_could_not_read_comes_back_from_the_newest_proven_backup_and_nothing_that_was_deleted() {
    let (root, name) = home_since();
    let before = root.json(&["conversation", "export", "--user", "anna"]);
    let mut said = texts(&root, "anna");
    said.sort();
    lose_messages(&root);
    let log = mended(&root, "messages that the repair could not read are back from");
    assert!(log.contains("has been repaired") && log.contains(&name), "{log}");
    let mut after = texts(&root, "anna");
    after.sort();
    assert_eq!(after, said);
    assert!(holds(&root, "anna", "otto") && holds(&root, "ben", "ladder"));
    // Order and numbers as well; titles are those of the rows that were saved.
    let of = |export: &Value| -> Vec<Value> {
        let all = export.as_array().unwrap().iter();
        let mut all: Vec<Value> = all.map(|one| one["messages"].clone()).collect();
        all.sort_by_key(ToString::to_string);
        all
    };
    assert_eq!(of(&root.json(&["conversation", "export", "--user", "anna"])), of(&before));
    assert!(!on_disk(&root.path().join("var/lib/jarvis"), b"bicycle"));
    let deleted = root.run(&["conversation", "show", CONVERSATION, "--user", "anna"]);
    assert!(!deleted.status.success(), "it came back");
    let told = doctor(&root);
    assert!(told.contains("are back from") && told.contains(&name), "{told}");
    // It is done once, and not again.
    root.ok(&["ask", "--user", "anna", "forget everything about otto"]);
    assert!(!idle(&root).contains("are back from"));
    assert_eq!(leftovers(&root), [""; 0]);
}

#[test]
fn where_the_deletions_cannot_be_read_nothing_comes_back_by_itself_and_a_command_is_named() {
    let (root, name) = home_since();
    let kept = texts(&root, "anna").len();
    let root_page = Command::new("sqlite3")
        .arg(database(&root))
        .arg("SELECT rootpage FROM sqlite_schema WHERE name = 'tombstones'")
        .output()
        .unwrap();
    let root_page = String::from_utf8(root_page.stdout).unwrap().trim().parse().unwrap();
    lose_messages(&root);
    overwrite_page(&database(&root), root_page);
    let command = format!("jarvisd backup restore {name} --lost");
    let log = mended(&root, &command);
    assert!(
        log.contains("the list of deletions is damaged as well") && log.contains("deleted since"),
        "{log}"
    );
    let without = texts(&root, "anna").len();
    assert!(without < kept, "{without} of {kept}");
    assert!(doctor(&root).contains(&command), "{}", doctor(&root));

    let plan = root.ok(&["backup", "restore", &name, "--lost", "--dry-run"]);
    assert!(plan.contains("messages that are missing here"), "{plan}");
    assert_eq!(texts(&root, "anna").len(), without, "a dry run changes nothing");
    let back = root.json(&["backup", "restore", &name, "--lost"]);
    assert!(back["messages"].as_u64().unwrap() > 100, "{back}");
    for conversation in [0, 1, 3] {
        assert!(holds(&root, "anna", &format!("message 49 of conversation {conversation}")));
    }
    assert!(holds(&root, "anna", "otto"));
    assert!(!doctor(&root).contains("--lost"), "{}", doctor(&root));
    assert_eq!(root.json(&["backup", "restore", &name, "--lost"])["messages"], 0);
}

/// The repair had lost it, so that nobody could find it to forget it.
#[test]
fn what_is_forgotten_after_the_repair_does_not_come_back() {
    let (root, _) = home_since();
    lose_messages(&root);
    // A command repairs it, and no daemon has looked into the backups yet.
    assert!(!holds(&root, "anna", "message 7 of conversation 1,"));
    assert!(!copies(&root).is_empty());
    root.ok(&["ask", "--user", "anna", "forget everything about otto"]);
    assert!(copies(&root).is_empty());
    let log = idle(&root);
    assert!(!log.contains("are back from"), "{log}");
    assert!(!holds(&root, "anna", "message 7 of conversation 1,"));
}

#[test]
fn without_a_proven_backup_the_loss_is_said() {
    let root = home();
    much(&root, 2);
    lose_messages(&root);
    let log = mended(&root, "no proven backup of this device holds them");
    assert!(log.contains("has been repaired"), "{log}");
    assert!(holds(&root, "ben", "ladder"));
}
