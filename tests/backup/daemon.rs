//! Beside a running `jarvisd run`: turns spoken while the memory is replaced, and the daemon's reports on the
//! backups.

use std::fs;

use serde_json::Value;

use super::{backup, home_with, listed, texts};
use crate::support::mic::Mic;
use crate::support::{Broker, Root, Voice};

#[test]
fn a_running_daemon_goes_on_with_the_memory_that_was_restored_under_it() {
    let mut root = Root::with_config("[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n");
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut said = 0;
    let mut say = |daemon: &mut crate::support::Daemon, what: &str| {
        mic.hears(&Voice::Rms.says(&format!("hey jarvis, remember that {what}")));
        daemon.wait_for("an end of the turn", |e| e["event"] == "stored" || e["event"] == "error");
        mic.wait_until_answered(said);
        said += 1;
    };
    say(&mut daemon, "the spare key is under the blue pot");
    let name = backup(&root);
    say(&mut daemon, "the ladder is behind the old shed");
    assert_eq!(texts(&root, "anna").len(), 4);

    let restoring =
        root.command(&["backup", "restore", &name, "--in-place", "--yes", "--json"]).spawn().unwrap();
    // Spoken into the replacement: stored here or in the safety backup, or reported as not stored.
    say(&mut daemon, "the garden hose is in the cellar");
    let ended =
        daemon.seen.iter().rev().find(|e| e["event"] == "stored" || e["event"] == "error").unwrap().clone();
    let output = restoring.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    say(&mut daemon, "the bicycle is in the cellar");
    let live = texts(&root, "anna");
    let has = |texts: &[String], word: &str| texts.iter().any(|text| text.to_lowercase().contains(word));
    assert!(has(&live, "blue pot") && has(&live, "bicycle"), "{live:?}\n{}", daemon.log());
    assert!(!has(&live, "ladder"), "what was replaced came back: {live:?}");
    assert!(daemon.child.try_wait().unwrap().is_none(), "the daemon ended: {}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));

    let safety = listed(&root).into_iter().find(|b| b["kind"] == "safety").unwrap();
    root.ok(&["backup", "restore", safety["name"].as_str().unwrap(), "--in-place", "--yes"]);
    let before = texts(&root, "anna");
    assert!(has(&before, "ladder"), "{before:?}");
    if ended["event"] == "stored" {
        assert!(has(&live, "hose") || has(&before, "hose"), "acknowledged and nowhere: {live:?} {before:?}");
    }
}

#[test]
fn the_state_of_the_backups_is_published_where_there_are_any() {
    let broker = Broker::start();
    let root = home_with(&format!("[device]\nid = \"kitchen\"\n[mqtt]\nurl = {:?}\n", broker.url()));
    let mut all = broker.subscribe("jarvis/kitchen/#");
    let mut daemon = root.daemon();
    all.wait_for("the health", |l| {
        l.starts_with("jarvis/kitchen/health ") && l.contains("nothing is backed up")
    });
    assert_eq!(daemon.stop(), Some(0));
    all.wait_for("offline", |l| l.ends_with("availability offline"));
    assert!(!all.seen.iter().any(|l| l.starts_with("jarvis/kitchen/backup ")), "{:#?}", all.seen);

    let name = backup(&root);
    let mut daemon = root.daemon();
    let line = all.wait_for("the backups", |l| l.starts_with("jarvis/kitchen/backup "));
    let told: Value = serde_json::from_str(line.split_once(' ').unwrap().1).unwrap();
    assert_eq!((told["problem"].as_bool(), told["count"].as_u64()), (Some(false), Some(1)), "{told}");
    let time = told["newest_proven"].as_str().unwrap().replace(['-', ':'], "").replace('T', "-");
    assert_eq!(format!("jarvis-backup-{}", time.trim_end_matches('Z')), name);
    assert_eq!(told["newest"], told["newest_proven"]);
    assert!(told["newest_copied"].is_null(), "{told}");
    daemon.stop();

    // It goes bad, and the next look says so.
    let file = super::backups(&root).join(&name).join("manifest.json");
    fs::write(file, "{}").unwrap();
    let mut daemon = root.daemon();
    let line = all.wait_for("the problem", |l| l.contains("\"problem\":true"));
    assert!(line.contains("no backup is proven"), "{line}");
    daemon.stop();
}
