//! The memory is gone, empty or garbage, and there is a sign that it existed: nothing takes the empty one for
//! sound.

use std::fs;
use std::path::PathBuf;

use super::{backup, backups, holds, home, home_with, listed, remember, texts};
use crate::support::mic::Mic;
use crate::support::{Broker, Root, Voice, refused, wait_until};

const DATABASE: &str = "var/lib/jarvis/jarvis.db";

fn database(root: &Root) -> PathBuf {
    root.path().join(DATABASE)
}

/// A fate of the file: its name and the action.
type Fate = (&'static str, fn(&Root));
const FATES: [Fate; 3] = [
    ("removed", |root| fs::remove_file(database(root)).unwrap()),
    ("emptied", |root| fs::write(database(root), "").unwrap()),
    ("garbage", |root| fs::write(database(root), "nothing of this is a database ".repeat(4_000)).unwrap()),
];

/// Every command that uses the memory refuses, and says how it comes back.
#[track_caller]
fn is_missing(root: &Root, name: &str) {
    let file = root.path().join("conversations.json");
    fs::write(&file, "[]").unwrap();
    for args in [
        &["ask", "--user", "anna", "what do you remember"][..],
        &["user", "list"],
        &["user", "add", "carla"],
        &["conversation", "list", "--user", "anna"],
        &["conversation", "import", "--user", "anna", file.to_str().unwrap()],
        &["audit", "list"],
        &["queue", "status"],
        &["backup", "create"],
        &["backup", "export"],
    ] {
        let said = refused(root, args, 1);
        assert!(said.contains("memory is missing"), "{args:?}: {said}");
        assert!(said.contains(&format!("jarvisd backup restore {name} --in-place")), "{args:?}: {said}");
        assert!(said.contains("jarvisd store accept-empty"), "{args:?}: {said}");
    }
    let doctor = root.run(&["doctor"]);
    let told = String::from_utf8(doctor.stdout).unwrap();
    let line = told.lines().find(|line| line.contains(" database ")).unwrap();
    assert!(line.starts_with("FAIL") && line.contains("memory is missing"), "{told}");
    assert!(told.contains(name) && told.contains("store accept-empty"), "{told}");
}

#[test]
fn a_memory_that_vanished_is_refused_everywhere_until_it_is_restored() {
    for (what, happens) in FATES {
        let root = home();
        let name = backup(&root);
        remember(&root, "anna", "the spare key is under the pot");
        happens(&root);
        is_missing(&root, &name);
        is_missing(&root, &name);
        let names: Vec<_> = listed(&root).iter().map(|b| b["name"].clone()).collect();
        assert_eq!(names, [name.as_str()], "{what}: no other backup is there, so it is the latest");
        // Nothing is replaced, so nobody is asked.
        let restored = root.json(&["backup", "restore", "latest", "--in-place"]);
        assert_eq!(restored["backup"], name.as_str(), "{what}");
        assert!(holds(&root, "anna", "bicycle") && holds(&root, "ben", "ladder"), "{what}");
        backup(&root);
        let told = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
        assert!(told.contains("is sound, people: 2") || told.contains("damaged copies"), "{what}: {told}");
    }
}

#[test]
fn each_trace_alone_tells_that_there_was_a_memory() {
    for trace in ["jarvis.db.mark", "voiceprint.key", "backup.json", "backups.json", "backups"] {
        let root = home();
        let data = root.path().join("var/lib/jarvis");
        fs::write(data.join("voiceprint.key"), [7; 32]).unwrap();
        let name = backup(&root);
        for entry in fs::read_dir(&data).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !path.ends_with(trace) {
                fs::remove_file(path).unwrap();
            }
        }
        assert!(trace == "backups" || data.join(trace).exists(), "{trace} was there");
        if trace != "backups" {
            fs::remove_dir_all(backups(&root)).unwrap();
        }
        let said = refused(&root, &["user", "list"], 1);
        assert!(said.contains("memory is missing") && said.contains("accept-empty"), "{trace}: {said}");
        assert!(!database(&root).exists(), "{trace}: a command touches nothing");
        assert!(!trace.starts_with("backups") || said.contains(&name), "{trace}: {said}");
    }
}

#[test]
fn a_first_start_stays_easy() {
    let root = Root::new();
    assert!(String::from_utf8(root.run(&["doctor"]).stdout).unwrap().contains("made at the first start"));
    root.ok(&["user", "list"]);
    // The timer ran before anybody was known, and the folder of backups is that of another device as well.
    let fresh = Root::with_config("[device]\nid = \"bedroom\"\n");
    fs::create_dir_all(fresh.path().join("var/lib/jarvis")).unwrap();
    fresh.ok(&["backup", "failed", "jarvis-backup"]);
    let other = home_with("[device]\nid = \"kitchen\"\n");
    backup(&other);
    let shared = format!("[device]\nid = \"bedroom\"\n[backup]\ndir = {:?}\n", backups(&other));
    fresh.write_config(&shared);
    fresh.ok(&["user", "add", "dora"]);
}

#[test]
fn the_owner_can_go_on_with_an_empty_memory_on_purpose() {
    let root = home();
    let name = backup(&root);
    assert!(refused(&root, &["store", "accept-empty"], 1).contains("no memory is missing"));
    fs::remove_file(database(&root)).unwrap();
    is_missing(&root, &name);
    root.ok(&["store", "accept-empty"]);
    assert_eq!(root.ok(&["user", "list", "--json"]).trim(), "[]");
    let told = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    assert!(told.contains("is sound, people: 0"), "nobody is missed in it: {told}");
    root.ok(&["user", "add", "carla"]);
    assert_ne!(backup(&root), name);
    assert!(listed(&root).iter().any(|b| b["name"] == name.as_str()), "the earlier one stays");
    // Once more: the new one counts like the one before.
    fs::remove_file(database(&root)).unwrap();
    refused(&root, &["user", "list"], 1);
}

/// A device that answers everybody, so that it has turns to hold apart.
struct Open {
    root: Root,
    mic: Mic,
    broker: Broker,
}

impl Open {
    fn new() -> Self {
        let broker = Broker::start();
        let mut root = Root::with_config(&format!(
            "[device]\nid = \"kitchen\"\n[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n[voice]\n\
             enabled = false\n[mqtt]\nurl = {:?}\n",
            broker.url()
        ));
        let mic = Mic::plug_into(&mut root);
        root.ok(&["user", "add", "anna"]);
        remember(&root, "anna", "the bicycle is in the cellar");
        Self { root, mic, broker }
    }

    /// Says something to a daemon that has lost its memory; returns the stored answer.
    fn say_without_memory(&self, what: &str) -> String {
        let mut health = self.broker.subscribe("jarvis/kitchen/#");
        let mut daemon = self.root.daemon();
        daemon.wait_event("ready");
        health.wait_for("the problem", |l| {
            l.starts_with("jarvis/kitchen/health ") && l.contains("memory is missing")
        });
        self.mic.hears(&Voice::Rms.says(&format!("hey jarvis, remember that {what}")));
        let reply = daemon.wait_event("reply")["text"].as_str().unwrap().to_owned();
        daemon.wait_event("stored");
        self.mic.wait_until_answered(0);
        assert!(refused(&self.root, &["user", "list"], 1).contains("memory is missing"), "beside the daemon");
        assert_eq!(daemon.stop(), Some(0));
        reply
    }
}

#[test]
fn what_is_said_without_the_memory_is_held_apart_and_comes_back_with_it() {
    let device = Open::new();
    let name = backup(&device.root);
    fs::remove_file(database(&device.root)).unwrap();
    let reply = device.say_without_memory("the ladder is behind the old shed");
    assert!(reply.contains("memory is missing"), "{reply}");
    let restored = device.root.json(&["backup", "restore", &name, "--in-place"]);
    assert_eq!(restored["held_apart"]["messages"], 2, "{restored}");
    assert!(holds(&device.root, "anna", "bicycle"));
    let said = texts(&device.root, "anonymous");
    assert!(said.iter().any(|text| text.to_lowercase().contains("ladder")), "{said:?}");
    assert_eq!(listed(&device.root).len(), 1, "of what was held apart no backup was made");
}

#[test]
fn what_is_said_without_the_memory_is_the_memory_if_the_owner_says_so() {
    let device = Open::new();
    backup(&device.root);
    fs::write(database(&device.root), "").unwrap();
    device.say_without_memory("the garden hose is in the shed");
    let mut health = device.broker.subscribe("jarvis/kitchen/health");
    let mut daemon = device.root.daemon();
    daemon.wait_event("ready");
    health.wait_for("the problem", |l| l.contains("memory is missing"));
    device.root.ok(&["store", "accept-empty"]);
    health.wait_for("no problem", |l| !l.contains("memory is missing"));
    assert_eq!(daemon.stop(), Some(0));
    let said = texts(&device.root, "anonymous");
    assert!(said.iter().any(|text| text.to_lowercase().contains("hose")), "{said:?}");
    backup(&device.root);
}

#[test]
fn a_memory_that_is_restored_under_the_daemon_ends_its_complaint() {
    let device = Open::new();
    let name = backup(&device.root);
    fs::remove_file(database(&device.root)).unwrap();
    let mut health = device.broker.subscribe("jarvis/kitchen/health");
    let mut daemon = device.root.daemon();
    daemon.wait_event("ready");
    health.wait_for("the problem", |l| l.contains("memory is missing") && l.contains(&name));
    device.root.ok(&["backup", "restore", &name, "--in-place"]);
    wait_until("the memory", || device.root.run(&["user", "show", "anna"]).status.success());
    health.wait_for("no problem", |l| !l.contains("memory is missing"));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn an_empty_memory_beside_backups_with_words_is_not_taken_for_the_memory() {
    let root = home();
    let name = backup(&root);
    // A new card on which the program ran before the backups were put back.
    let aside = root.path().join("aside");
    fs::rename(backups(&root), &aside).unwrap();
    fs::remove_dir_all(root.path().join("var/lib/jarvis")).unwrap();
    assert_eq!(root.ok(&["user", "list", "--json"]).trim(), "[]");
    fs::rename(&aside, backups(&root)).unwrap();
    is_missing(&root, &name);
    root.ok(&["backup", "restore", "latest", "--in-place"]);
    assert!(holds(&root, "anna", "bicycle") && holds(&root, "ben", "ladder"));
    backup(&root);
}

#[test]
fn an_empty_memory_that_the_owner_wants_is_not_doubted_again() {
    let root = home();
    let name = backup(&root);
    fs::remove_dir_all(root.path().join("var/lib/jarvis")).unwrap();
    is_missing(&root, &name);
    root.ok(&["store", "accept-empty"]);
    assert_eq!(root.ok(&["user", "list", "--json"]).trim(), "[]");
    // This does not make its backup the one that brings the words back.
    let empty = backup(&root);
    let told = refused(&root, &["backup", "restore", "latest", "--in-place", "--yes"], 2);
    assert!(told.contains(&empty) && told.contains(&name) && told.contains("4"), "{told}");
    root.ok(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert!(holds(&root, "anna", "bicycle"));
}
