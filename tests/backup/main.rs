//! Backups on the real binary: the restored memory equals the old one, damage is found, an interruption
//! leaves the older backup.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod after_repair;
mod daemon;
mod damage;
mod kill;
mod lines;
mod links;
mod lost;
mod newest;
mod offsite;
mod pitr;
mod postgres;
mod powercut;
mod prune;
mod undelivered;
mod unwritable;
mod vanished;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Root, key_pair, refused, wait_until};

/// A home in which Anna and Ben have said something.
fn home() -> Root {
    home_with("")
}

fn home_with(config: &str) -> Root {
    let root = Root::with_config(config);
    root.ok(&["user", "add", "anna"]);
    root.ok(&["user", "add", "ben"]);
    remember(&root, "anna", "the bicycle is in the cellar");
    remember(&root, "ben", "the ladder is behind the shed");
    root
}

fn remember(root: &Root, user: &str, what: &str) -> Value {
    root.json(&["ask", "--user", user, &format!("remember that {what}")])
}

/// Stores `conversations` conversations of 50 messages each as Anna's.
fn much(root: &Root, conversations: usize) {
    let message = |c: usize, m: usize| {
        json!({
            "id": format!("0190a000-{:04x}-7000-8000-{:012x}", c, m + 1), "seq": m + 1,
            "role": if m.is_multiple_of(2) { "user" } else { "assistant" }, "kind": "say",
            "text": format!("message {m} of conversation {c}, about {} and \
                             {}", c * 7919 % 1000, m * 104_729 % 997),
            "wall_unix_ms": 1_760_000_000_000_i64 + i64::try_from(c * 60_000 + m).unwrap(),
            "clock_synced": true,
        })
    };
    let all: Vec<Value> = (0..conversations)
        .map(|c| {
            json!({
                "id": format!("0190b000-0000-7000-8000-{c:012x}"), "title": format!("Conversation {c}"),
                "created_unix_ms": 1_760_000_000_000_i64, "updated_unix_ms": 1_760_000_000_000_i64,
                "messages": (0..50).map(|m| message(c, m)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let file = root.path().join("much.json");
    fs::write(&file, serde_json::to_vec(&all).unwrap()).unwrap();
    root.ok(&["conversation", "import", "--user", "anna", file.to_str().unwrap()]);
}

/// Texts of all of a person's messages.
fn texts(root: &Root, user: &str) -> Vec<String> {
    let exported = root.json(&["conversation", "export", "--user", user]);
    let conversations = exported.as_array().unwrap().iter();
    let messages = conversations.flat_map(|c| c["messages"].as_array().unwrap().clone());
    messages.map(|m| m["text"].as_str().unwrap().to_owned()).collect()
}

fn holds(root: &Root, user: &str, text: &str) -> bool {
    texts(root, user).iter().any(|found| found.contains(text))
}

fn backups(root: &Root) -> PathBuf {
    root.path().join("var/backups/jarvis")
}

/// Makes a backup, which must be proven, and returns its name.
fn backup(root: &Root) -> String {
    let made = root.json(&["backup", "create"]);
    assert_eq!(made["proven"], true, "{made}");
    made["name"].as_str().unwrap().to_owned()
}

fn listed(root: &Root) -> Vec<Value> {
    root.json(&["backup", "list"]).as_array().unwrap().clone()
}

/// The leftovers of an interrupted run.
fn leftovers(root: &Root) -> Vec<String> {
    let entries = fs::read_dir(backups(root)).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.') && name != ".lock").collect()
}

#[test]
fn a_restore_in_place_brings_back_what_was_and_keeps_what_came_since_in_a_safety_backup() {
    let root = home();
    let name = backup(&root);
    let before = root.json(&["conversation", "export", "--user", "anna"]);
    remember(&root, "anna", "the spare key is under the pot");

    let told = refused(&root, &["backup", "restore", &name, "--in-place"], 2);
    assert!(told.contains("--yes"), "{told}");
    let plan = root.json(&["backup", "restore", &name, "--in-place", "--dry-run"]);
    assert_eq!(plan["rows"]["messages"], 4, "{plan}");
    assert!(holds(&root, "anna", "spare key"), "a dry run changes nothing");

    let restored = root.json(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert_eq!(restored["messages"], 4, "{restored}");
    assert_eq!(root.json(&["conversation", "export", "--user", "anna"]), before);
    let safety = restored["safety"].as_str().unwrap();
    let log = fs::read_to_string(root.path().join("var/lib/jarvis/restore.log")).unwrap();
    assert!(log.contains(&name) && log.contains(safety), "{log}");
    let kinds: Vec<Value> = listed(&root).iter().map(|b| b["kind"].clone()).collect();
    assert_eq!(kinds, ["on_demand", "safety"]);

    root.ok(&["backup", "restore", safety, "--in-place", "--yes"]);
    assert!(holds(&root, "anna", "spare key"));
    remember(&root, "anna", "it goes on");
    assert_eq!(leftovers(&root), [""; 0]);
}

#[test]
fn the_metrics_tell_what_a_collector_needs_for_an_alarm() {
    let root = home();
    let samples = || {
        let told = root.ok(&["backup", "list", "--metrics"]);
        for line in told.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert!(line.starts_with("# TYPE jarvis_backup") && line.ends_with(" gauge"), "{line}");
        }
        let samples = told.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.map(|line| line.split_once(' ').unwrap());
        samples.map(|(name, n)| (name.to_owned(), n.parse::<i64>().unwrap())).collect::<BTreeMap<_, _>>()
    };
    let none = samples();
    assert_eq!((none.len(), none["jarvis_backups"], none["jarvis_backup_problem"]), (2, 0, 0), "{none:?}");
    let before = jarvisd::clock::Clock::System.now_unix_ms() / 1000;
    let name = backup(&root);
    let good = samples();
    assert_eq!((good["jarvis_backups"], good["jarvis_backup_problem"]), (1, 0), "{good:?}");
    let newest = good["jarvis_backup_newest_timestamp_seconds"];
    assert!(newest >= before && good["jarvis_backup_newest_proven_timestamp_seconds"] == newest, "{good:?}");
    assert!(good["jarvis_backup_last_proof_timestamp_seconds"] >= newest, "{good:?}");
    assert_eq!(listed(&root)[0]["bytes"], good["jarvis_backup_newest_size_bytes"]);
    assert!(!good.contains_key("jarvis_backup_newest_copied_timestamp_seconds"), "{good:?}");
    // It is not good any more, and that is known.
    let file = backups(&root).join(&name).join("database.zst");
    let size = fs::metadata(&file).unwrap().len();
    fs::File::options().write(true).open(&file).unwrap().set_len(size / 2).unwrap();
    assert!(!root.run(&["backup", "verify", "latest"]).status.success());
    let bad = samples();
    assert_eq!(bad["jarvis_backup_problem"], 1, "{bad:?}");
    assert!(!bad.contains_key("jarvis_backup_newest_proven_timestamp_seconds"), "{bad:?}");
    root.ok(&["backup", "failed", "jarvis-backup"]);
    assert_eq!(samples()["jarvis_backup_problem"], 1);
}

#[test]
fn a_backup_that_was_not_restored_says_that_it_is_not_proven() {
    let mut root = home();
    root.env("JARVIS__BACKUP__VERIFY", "quick");
    let told = root.ok(&["backup", "create"]);
    assert!(told.contains("not proven by restoring it yet"), "{told}");
    assert_eq!(listed(&root)[0]["proven"], false);
    assert_eq!(listed(&root)[0]["last_proof"]["level"], "quick");
    let full = root.json(&["backup", "verify", "latest", "--level", "full"]);
    assert_eq!((&full["proven"], &full["last_proof"]["level"]), (&json!(false), &json!("full")));
    assert_eq!(root.json(&["backup", "verify", "latest"])["proven"], true);
    assert!(root.ok(&["backup", "list"]).contains("proven 20"));
    // A proof is about the manifest that it names and no other.
    let folder = backups(&root).join(listed(&root)[0]["name"].as_str().unwrap());
    let proofs = fs::read_to_string(folder.join("proofs.json")).unwrap();
    fs::write(folder.join("proofs.json"), proofs.replace("\"ok\": true", "\"ok\": tRue")).unwrap();
    assert_eq!(listed(&root)[0]["proven"], false);
    assert!(root.ok(&["backup", "list"]).contains("not proven yet"));
}

#[test]
fn the_files_of_a_backup_are_for_their_owner_and_the_configuration_in_it_has_no_secret() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut root = home();
    root.env("JARVIS__STORE__POSTGRES_PASSWORD_FILE", "/etc/hostname");
    let folder = backups(&root).join(backup(&root));
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in fs::read_dir(&folder).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    let manifest = fs::read_to_string(folder.join("manifest.json")).unwrap();
    assert!(!manifest.contains("bicycle") && !manifest.contains("anna"), "{manifest}");
    assert!(fs::read(folder.join("database.zst")).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
}

#[test]
fn the_newest_backup_before_a_time_is_the_one_that_is_taken() {
    let root = home();
    let first = backup(&root);
    remember(&root, "anna", "the second time");
    std::thread::sleep(Duration::from_millis(1_100));
    let second = backup(&root);
    let at = |name: &str| {
        let time = name.trim_start_matches("jarvis-backup-");
        let part = |range| time.get(range).unwrap();
        format!(
            "{}-{}-{}T{}:{}:{}Z",
            part(0..4),
            part(4..6),
            part(6..8),
            part(9..11),
            part(11..13),
            part(13..15)
        )
    };
    for name in [&first, &second] {
        let plan = root.json(&["backup", "restore", "--at", &at(name), "--in-place", "--dry-run"]);
        assert_eq!(plan["backup"], **name);
    }
    let told = refused(&root, &["backup", "restore", "--at", "2020-01-01", "--in-place", "--dry-run"], 1);
    assert!(told.contains("backup list"), "{told}");
}

#[test]
fn a_deleted_conversation_and_a_deleted_person_come_back_beside_what_there_is() {
    let root = home();
    let name = backup(&root);
    let id = root.json(&["conversation", "list", "--user", "anna"])[0]["id"].as_str().unwrap().to_owned();
    root.ok(&["conversation", "delete", &id, "--user", "anna", "--yes"]);
    remember(&root, "anna", "something new");
    let merged = root.json(&["backup", "restore", &name, "--conversation", &id]);
    assert_eq!((&merged["messages"], &merged["added"]), (&json!(2), &json!(false)), "{merged}");
    assert!(holds(&root, "anna", "bicycle") && holds(&root, "anna", "something new"));

    root.ok(&["user", "delete", "ben", "--yes"]);
    let planned = root.ok(&["backup", "restore", &name, "--user", "ben", "--dry-run"]);
    assert!(planned.contains("Nothing was changed"), "{planned}");
    let merged = root.json(&["backup", "restore", &name, "--user", "ben"]);
    assert_eq!(merged["added"], true, "{merged}");
    assert!(holds(&root, "ben", "ladder"));
    let again = root.json(&["backup", "restore", &name, "--user", "anna"]);
    assert!(holds(&root, "anna", "something new"), "{again}");
    refused(&root, &["backup", "restore", &name, "--user", "nobody"], 1);
}

#[test]
fn a_restore_to_a_file_makes_a_new_one_and_overwrites_none() {
    let root = home();
    backup(&root);
    let file = root.path().join("look.db");
    let args = ["backup", "restore", "latest", "--to", file.to_str().unwrap()];
    root.ok(&args);
    assert!(fs::read(&file).unwrap().starts_with(b"SQLite format 3"));
    refused(&root, &args, 2);
    let live = root.path().join("var/lib/jarvis/jarvis.db");
    refused(&root, &["backup", "restore", "latest", "--to", live.to_str().unwrap()], 2);
    assert!(holds(&root, "anna", "bicycle"));
}

#[test]
fn a_damaged_or_lost_database_is_replaced_and_the_damaged_one_is_kept() {
    let root = home();
    let name = backup(&root);
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    fs::write(&db, vec![0x5a; 50_000]).unwrap();
    let restored = root.json(&["backup", "restore", &name, "--in-place", "--yes"]);
    let aside = PathBuf::from(restored["set_aside"].as_str().unwrap());
    assert_eq!(fs::read(aside).unwrap().len(), 50_000);
    assert!(holds(&root, "anna", "bicycle"));

    fs::remove_dir_all(root.path().join("var/lib/jarvis")).unwrap();
    root.ok(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert!(holds(&root, "ben", "ladder"));
}

#[test]
fn a_newer_schema_is_refused_and_the_memory_stays_as_it_is() {
    let root = home();
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let version = |n: u8| {
        let mut bytes = fs::read(&db).unwrap();
        bytes[63] = n; // PRAGMA user_version, big-endian, in the header
        fs::write(&db, bytes).unwrap();
    };
    let old = fs::read(&db).unwrap()[63];
    version(99);
    root.ok(&["backup", "create", "--level", "quick"]);
    version(old);
    let told = refused(&root, &["backup", "restore", "latest", "--in-place", "--yes"], 78);
    assert!(told.contains("schema version 99") && told.contains("install the newer jarvisd"), "{told}");
    assert!(holds(&root, "anna", "bicycle"));
}

/// Puts the backups of a folder of fixtures among those of `root`; returns their number.
pub fn put(root: &Root, fixture: &Path) -> usize {
    fs::create_dir_all(backups(root)).unwrap();
    let mut found = 0;
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        if !entry.path().is_dir() {
            continue;
        }
        found += 1;
        let folder = backups(root).join(entry.file_name());
        fs::create_dir(&folder).unwrap();
        for file in fs::read_dir(entry.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    found
}

#[test]
fn a_backup_of_the_first_format_still_restores() {
    let root = Root::new();
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/backup-v1");
    assert_eq!(put(&root, &fixture), 1);
    assert_eq!(root.json(&["backup", "verify", "latest"])["proven"], true);
    root.ok(&["backup", "restore", "latest", "--in-place", "--yes"]);
    assert_eq!(
        texts(&root, "anna"),
        ["remember that the bicycle is in the cellar", "I will remember that the bicycle is in the cellar."]
    );
}

#[test]
fn two_never_run_together_and_a_signal_leaves_nothing_behind() {
    let root = home();
    much(&root, 200);
    backup(&root);
    let lock = fs::File::open(backups(&root).join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let told = refused(&root, &["backup", "create"], 75);
    assert!(told.contains("another backup"), "{told}");
    drop(lock);

    let mut creating = root.command(&["backup", "create"]).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the backup to begin", || !leftovers(&root).is_empty());
    let pid = rustix::process::Pid::from_child(&creating);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(creating.wait().unwrap().code(), Some(1));
    assert_eq!(leftovers(&root), [""; 0]);
    assert_eq!(listed(&root).len(), 1);
}

#[test]
fn an_encrypted_backup_is_proven_without_the_key_and_restored_only_with_it() {
    let (owner, secret) = key_pair();
    let (_, stranger) = key_pair();
    let root = home_with(&format!("[backup]\nrecipients = [{owner:?}]\n"));
    let name = backup(&root);
    let folder = backups(&root).join(&name);
    assert!(fs::read(folder.join("database.zst.age")).unwrap().starts_with(b"age-encryption.org/v1"));
    let (right, wrong) = (root.path().join("right"), root.path().join("wrong"));
    fs::write(&right, secret).unwrap();
    fs::write(&wrong, stranger).unwrap();
    let (right, wrong) = (right.to_str().unwrap(), wrong.to_str().unwrap());

    root.ok(&["backup", "verify", &name, "--level", "quick"]);
    for args in [&["--identity", wrong][..], &[]] {
        for level in ["full", "restore"] {
            let told = refused(&root, &[&["backup", "verify", &name, "--level", level], args].concat(), 78);
            assert!(told.contains("no key at hand") && told.contains(&owner), "{told}");
        }
        refused(&root, &[&["backup", "restore", &name, "--in-place", "--yes"], args].concat(), 78);
    }
    assert_eq!(listed(&root)[0]["proven"], true, "what was proven stays so until something is found wrong");
    assert_eq!(root.json(&["backup", "verify", &name, "--identity", right])["proven"], true);
    remember(&root, "anna", "later");
    root.ok(&["backup", "restore", &name, "--in-place", "--yes", "--identity", right]);
    assert!(!holds(&root, "anna", "later") && holds(&root, "anna", "bicycle"));
}

#[test]
fn turns_spoken_while_it_is_restored_are_in_the_memory_or_in_the_safety_backup() {
    let root = home();
    much(&root, 100);
    let name = backup(&root);
    let mut restoring = root.command(&["backup", "restore", &name, "--in-place", "--yes"]).spawn().unwrap();
    let mut acknowledged = Vec::new();
    let mut after = 0;
    while after < 2 {
        after += usize::from(restoring.try_wait().unwrap().is_some());
        let text = format!("number {} was said", acknowledged.len());
        let asked = root.run(&["ask", "--user", "ben", &format!("remember that {text}"), "--json"]);
        let stored =
            serde_json::from_slice::<Value>(&asked.stdout).is_ok_and(|a| a["stored"] != json!(false));
        if asked.status.success() && stored {
            acknowledged.push(text);
        }
    }
    assert!(restoring.wait().unwrap().success());
    let live = texts(&root, "ben");
    let safety = listed(&root).into_iter().find(|b| b["kind"] == "safety").unwrap();
    root.ok(&["backup", "restore", safety["name"].as_str().unwrap(), "--in-place", "--yes"]);
    let before = texts(&root, "ben");
    assert!(acknowledged.len() >= 2);
    for text in acknowledged {
        let found = live.iter().chain(&before).any(|found| found.contains(&text));
        assert!(found, "{text} was acknowledged and is nowhere");
    }
}

/// A database as the first version made it.
async fn old_database(root: &Root) {
    use sqlx::{ConnectOptions as _, Connection as _};
    let data = root.path().join("var/lib/jarvis");
    fs::create_dir_all(&data).unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("jarvis.db"));
    let mut db = options.create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(include_str!("../../migrations/sqlite/0001_initial.sql")).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

#[tokio::test]
async fn before_the_schema_changes_a_backup_is_made_and_without_a_place_for_it_the_device_works_all_the_same()
{
    let root = Root::new();
    old_database(&root).await;
    root.ok(&["user", "add", "anna"]);
    let all = listed(&root);
    assert_eq!(
        (all.len(), &all[0]["kind"], &all[0]["manifest"]["schema_version"]),
        (1, &json!("safety"), &json!(1))
    );
    assert_eq!(root.json(&["backup", "verify", "latest"])["proven"], true);
    root.ok(&["user", "add", "ben"]);
    assert_eq!(listed(&root).len(), 1, "the schema is the present one");

    let root = Root::new();
    old_database(&root).await;
    fs::create_dir_all(root.path().join("var/backups")).unwrap();
    fs::write(backups(&root), "a file in the way").unwrap();
    let added = root.run(&["user", "add", "anna"]);
    let told = String::from_utf8_lossy(&added.stderr);
    assert!(added.status.success() && told.contains("without a backup"), "{told}");
}

/// Some network shares have no locks, some cannot write a file through to their disk: the error says so in
/// words, without a number.
#[test]
fn a_share_that_lacks_locks_or_syncing_is_said_in_words() {
    let mut root = home();
    let folder = backups(&root).to_str().unwrap().to_owned();
    root.env("LD_PRELOAD", support::preload::share());
    for (variable, value) in [("JARVIS_NO_LOCKS", "1"), ("JARVIS_NO_SYNC", folder.as_str())] {
        let mut command = root.command(&["backup", "create"]);
        let output = command.env(variable, value).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{variable}: {said}");
        assert!(said.contains("use a disk of this machine"), "{variable}: {said}");
        assert!(!said.contains("os error"), "{variable}: {said}");
        assert_eq!(leftovers(&root), Vec::<String>::new(), "{variable}");
    }
    // The daemon, and a repair of the database, lock the data folder.
    fs::write(root.path().join("var/lib/jarvis/jarvis.db"), "garbage").unwrap();
    for args in [&["run"][..], &["user", "list"]] {
        let output = root.command(args).env("JARVIS_NO_LOCKS", "1").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("has no locks"), "{args:?}: {said}");
    }
}
