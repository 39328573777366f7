//! The newest backup is found, and not the one whose clock was ahead.

use std::fs;

use serde_json::Value;

use super::{backup, backups, holds, home, listed, remember};
use crate::support::sealed::aged;
use crate::support::{Root, preload};

fn sample(root: &Root, name: &str) -> Option<i64> {
    let told = root.ok(&["backup", "list", "--metrics"]);
    let line = told.lines().find_map(|line| line.strip_prefix(&format!("jarvis_backup_{name} ")));
    line.map(|n| n.parse().unwrap())
}

/// The same backup under the name of a clock that is ahead by `days`, in its place.
fn moved(root: &Root, name: &str, days: i64) -> String {
    let other = aged(&backups(root), name, -days);
    fs::remove_dir_all(backups(root).join(name)).unwrap();
    root.ok(&["backup", "accept"]);
    other
}

#[test]
fn a_backup_of_a_clock_that_was_ahead_is_never_the_newest() {
    let root = home();
    let ahead = backup(&root);
    let ahead = moved(&root, &ahead, 1500);
    remember(&root, "anna", "the spare key is under the pot");
    let good = backup(&root);
    for args in [&["backup", "verify", "latest"][..], &["backup", "restore", "latest", "--in-place", "--yes"]]
    {
        let told = root.json(args);
        let name = if args[1] == "verify" { &told["name"] } else { &told["backup"] };
        assert_eq!(name, &Value::from(good.clone()), "{told}");
    }
    assert!(holds(&root, "anna", "spare key"));
    let all = listed(&root);
    assert_eq!(
        (&all[0]["name"], &all[0]["dated"]),
        (&Value::from(ahead.clone()), &Value::from("wrong")),
        "{all:?}"
    );
    assert!(all[0]["seq"].as_u64() < all[1]["seq"].as_u64(), "{all:?}");
    assert!(root.ok(&["backup", "list"]).contains("CLOCK WRONG"));
    let newest = |name: &str| sample(&root, name).unwrap();
    // Names of one second are counted on.
    let soon = jarvisd::clock::Clock::System.now_unix_ms() / 1000 + 600;
    assert!(newest("newest_timestamp_seconds") < soon && newest("newest_proven_timestamp_seconds") < soon);
    // Nobody knows its day: so it is kept, and takes no other's day.
    root.write_config("[backup]\nkeep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    root.ok(&["backup", "release", &good]);
    let fates = root.json(&["backup", "prune", "--trust-clock", "--dry-run"]);
    assert!(fates["backups"].as_array().unwrap().iter().all(|fate| fate["keep"] == true), "{fates}");
    // A requested time finds the backup that surely existed then.
    let tomorrow = jarvisd::clock::Clock::System.now_unix_ms() + 86_400_000;
    let tomorrow = jiff::Timestamp::from_millisecond(tomorrow).unwrap();
    let plan = root.json(&["backup", "restore", "--at", &tomorrow.to_string(), "--in-place", "--dry-run"]);
    assert_ne!(plan["backup"], Value::from(ahead), "{plan}");
}

#[test]
fn no_wrong_time_and_no_guess_silences_the_alarm_of_age() {
    let mut root = home();
    root.env("LD_PRELOAD", preload::clockset());
    let made = backup(&root);
    assert_eq!(sample(&root, "problem"), Some(0));
    assert_eq!(listed(&root)[0]["dated"], "sure");
    let old = moved(&root, &made, -10);
    assert_eq!(sample(&root, "problem"), Some(1), "ten days old");
    let ahead = aged(&backups(&root), &old, -1000);
    assert_eq!(sample(&root, "problem"), Some(1), "and one from the future");
    let listing = root.ok(&["backup", "list"]);
    assert!(listing.contains("CLOCK WRONG"), "{listing}");
    fs::remove_dir_all(backups(&root).join(&old)).unwrap();
    root.ok(&["backup", "accept"]);
    assert_eq!(sample(&root, "problem"), Some(1), "its age is not known");
    assert_eq!(sample(&root, "newest_proven_timestamp_seconds"), None);
    let doctor = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains(&ahead) && doctor.contains("is not known"), "{doctor}");
    backup(&root);
    assert_eq!(sample(&root, "problem"), Some(0));
    assert_eq!(root.json(&["backup", "verify", "latest"])["dated"], "sure");
}

#[test]
fn a_backup_of_an_older_version_stands_by_its_time_unless_that_is_to_come() {
    let root = Root::new();
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/backup-v1");
    assert_eq!(super::put(&root, &fixture), 1);
    root.ok(&["user", "add", "ben"]);
    let good = backup(&root);
    assert_eq!(root.json(&["backup", "verify", "latest"])["name"], Value::from(good.clone()));
    let old = listed(&root)[0]["name"].as_str().unwrap().to_owned();
    assert!(listed(&root)[0]["seq"].is_null());
    let ahead = aged_without_proof(&root, &old);
    assert_eq!(root.json(&["backup", "verify", "latest"])["name"], Value::from(good));
    assert_eq!(listed(&root)[0]["name"], Value::from(ahead));
}

/// As `aged`, by twenty years to come, of a backup that has no proofs.
fn aged_without_proof(root: &Root, name: &str) -> String {
    let proofs = backups(root).join(name).join("proofs.json");
    if !proofs.exists() {
        root.ok(&["backup", "verify", name]);
    }
    aged(&backups(root), name, -7300)
}
