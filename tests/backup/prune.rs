//! `jarvisd backup prune` on real backups: the calendar, the reasons, and the leftovers of an interrupted
//! run.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::Root;
use crate::support::random::Random;
use crate::support::sealed::{aged, change as sealed};
use serde_json::Value;

/// A root with one backup that was just made and proven, and the folder of the backups.
fn backed_up(config: &str) -> (Root, PathBuf, String) {
    let root = Root::with_config(config);
    root.ok(&["user", "add", "Anna"]);
    root.ok(&["ask", "--user", "Anna", "remember that the spare key is under the blue pot"]);
    let made = root.json(&["backup", "create", "--kind", "scheduled"]);
    assert_eq!(made["proven"], true, "{made}");
    let dir = root.path().join("var/backups/jarvis");
    (root, dir, made["name"].as_str().unwrap().to_owned())
}

fn names(root: &Root) -> Vec<String> {
    let listed = root.json(&["backup", "list"]);
    listed.as_array().unwrap().iter().map(|backup| backup["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_no_day_week_or_month_needs_is_deleted_and_every_decision_has_a_reason() {
    let (root, dir, newest) = backed_up("[backup]\nkeep_daily = 3\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let older: Vec<String> = (1..6).map(|days| aged(&dir, &newest, days)).collect();
    let asked = root.json(&["backup", "list"]);
    assert!(asked.as_array().unwrap().iter().all(|backup| backup["proven"] == true), "{asked}");

    let plan = root.json(&["backup", "prune", "--dry-run", "--trust-clock"]);
    assert_eq!((&plan["deleted"], &plan["dry_run"]), (&Value::from(3), &Value::from(true)), "{plan}");
    assert_eq!(names(&root).len(), 6, "a dry run deletes nothing");
    for fate in plan["backups"].as_array().unwrap() {
        assert!(!fate["reasons"].as_array().unwrap().is_empty(), "{fate}");
    }
    let text = root.ok(&["backup", "prune", "--trust-clock"]);
    assert!(text.contains("no day, week or month needs it") && text.contains("daily"), "{text}");
    assert!(text.contains("3 deleted"), "{text}");
    assert_eq!(names(&root), [older[1].clone(), older[0].clone(), newest.clone()]);
    assert_eq!(
        root.json(&["backup", "prune", "--trust-clock"])["deleted"],
        0,
        "a second run finds nothing to do"
    );
    root.ok(&["backup", "verify", &older[0], "--level", "restore"]);
}

#[test]
fn the_last_proven_backup_stays_whatever_is_newer() {
    let (root, dir, newest) = backed_up("[backup]\nkeep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let proven = aged(&dir, &newest, 40);
    aged(&dir, &newest, 50);
    // The newest one goes bad on the disk, and a check finds that out.
    let file = dir.join(&newest).join("database.zst");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&file, bytes).unwrap();
    assert_eq!(root.run(&["backup", "verify", &newest]).status.code(), Some(65));
    let done = root.json(&["backup", "prune", "--trust-clock"]);
    assert_eq!(names(&root), [proven], "{done}");
    assert!(
        done.to_string().contains("failed its proof") && done.to_string().contains("the newest proven one"),
        "{done}"
    );
}

#[test]
fn what_was_asked_for_stays_until_it_is_released() {
    let (root, dir, newest) = backed_up("[backup]\nkeep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let asked = aged(&dir, &newest, 400);
    sealed(&dir.join(&asked).join("manifest.json"), |body| body.replace("\"scheduled\"", "\"on_demand\""));
    assert_eq!(root.json(&["backup", "prune", "--trust-clock"])["deleted"], 0);
    root.ok(&["backup", "release", &asked]);
    assert_eq!(root.json(&["backup", "prune", "--trust-clock"])["deleted"], 1);
    assert_eq!(names(&root), [newest]);
}

#[test]
fn a_deletion_that_was_cut_off_leaves_no_half_backup_and_the_next_run_ends_it() {
    let (root, dir, newest) = backed_up("[backup]\nkeep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let doomed = aged(&dir, &newest, 9);
    // The state that a power cut leaves between the two steps, with some of the files gone already.
    let half = dir.join(format!(".deleting-{doomed}"));
    fs::rename(dir.join(&doomed), &half).unwrap();
    fs::remove_file(half.join("manifest.json")).unwrap();
    assert_eq!(names(&root), std::slice::from_ref(&newest));
    root.ok(&["backup", "prune", "--trust-clock"]);
    assert!(!half.exists());
    assert_eq!(names(&root), [newest]);
}

#[test]
fn a_run_that_is_killed_at_any_moment_leaves_whole_backups_and_the_next_one_ends_it() {
    let (root, dir, newest) = backed_up("[backup]\nkeep_daily = 3\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let kept: Vec<String> = [2, 1].iter().map(|days| aged(&dir, &newest, *days)).collect();
    let old: Vec<String> = (3..43).map(|days| aged(&dir, &newest, days)).collect();
    let prune = || root.command(&["backup", "prune", "--trust-clock"]).stdout(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    root.ok(&["backup", "prune", "--trust-clock", "--dry-run"]);
    let whole = usize::try_from(started.elapsed().as_millis()).unwrap();
    let mut random = Random::for_test("kill_prune");
    let half_deleted = || {
        fs::read_dir(&dir)
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with(".deleting-"))
    };
    let (mut met, mut ended) = (0, false);
    for n in 0..60 {
        let mut child = prune();
        if n % 2 == 0 {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !half_deleted() && child.try_wait().unwrap().is_none() {
                assert!(Instant::now() < deadline);
            }
        } else {
            std::thread::sleep(Duration::from_millis(u64::try_from(random.below(whole * 2)).unwrap()));
        }
        let _ = child.kill();
        ended |= child.wait().unwrap().success();
        met += usize::from(half_deleted());
        let listed = root.json(&["backup", "list"]);
        for backup in listed.as_array().unwrap() {
            assert!(backup.get("fault").is_none_or(Value::is_null), "half a backup is listed: {backup}");
            assert_eq!(backup["proven"], true, "{backup}");
        }
        let there = names(&root);
        assert!(kept.iter().chain([&newest]).all(|name| there.contains(name)), "{there:?}");
        if ended && met > 0 {
            break;
        }
        if ended {
            // It was done before it could be killed: once more.
            ended = false;
            assert!(there.len() <= kept.len() + 1, "{there:?}");
            (3..43).for_each(|days| drop(aged(&dir, &newest, days)));
        }
    }
    assert!(met >= 1, "no deletion was met half done");
    root.ok(&["backup", "prune", "--trust-clock"]);
    assert_eq!(names(&root), [kept[0].clone(), kept[1].clone(), newest.clone()]);
    assert!(!half_deleted());
    assert!(old.iter().all(|name| !dir.join(name).exists()));
    root.ok(&["backup", "verify", "latest"]);
}
