//! `kill -9` at every stage, and a full disk: an older good backup stays, nothing half-made counts as one,
//! and the next run is not affected.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Root, backup, backups, home, leftovers, listed, much, remember, texts};
use crate::support::random::Random;

fn kill(mut child: Child) {
    let _ = child.kill();
    child.wait().unwrap();
}

/// Whether a file of this name is somewhere below a folder that begins so.
fn appeared(folder: &Path, start: &str, file: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        entry.file_name().to_string_lossy().starts_with(start) && entry.path().join(file).exists()
    })
}

/// Kills `child` as soon as `stage` is reached; `false` if it ended before.
fn kill_at(mut child: Child, mut stage: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + crate::support::PATIENCE;
    while !stage() {
        assert!(Instant::now() < deadline, "the stage is never reached");
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    kill(child);
    true
}

fn all_is_well(root: &Root, good: &str) {
    let all = listed(root);
    for found in &all {
        assert!(
            found.get("fault").is_none_or(serde_json::Value::is_null),
            "half of a backup is listed: {found}"
        );
    }
    assert!(all.iter().any(|found| found["name"] == good && found["proven"] == true), "{all:?}");
}

#[test]
fn a_backup_that_is_killed_at_any_stage_leaves_the_older_one_and_the_next_run_heals() {
    let root = home();
    much(&root, 200);
    let good = backup(&root);
    let dir = backups(&root);
    let stages = [
        (".partial-", "copy.db"),
        (".partial-", "database.zst"),
        (".partial-", "config.zst"),
        (".partial-", "manifest.json"),
        (".scratch-", "jarvis.db"),
    ];
    let mut hit = 0;
    for (start, file) in stages {
        let child = root.command(&["backup", "create"]).stdout(Stdio::null()).spawn().unwrap();
        hit += usize::from(kill_at(child, || appeared(&dir, start, file)));
        all_is_well(&root, &good);
    }
    assert!(hit >= 3, "only {hit} stages were met");
    let mut random = Random::for_test("kill_create");
    let started = Instant::now();
    backup(&root);
    let whole = usize::try_from(started.elapsed().as_millis()).unwrap();
    for _ in 0..10 {
        let child = root.command(&["backup", "create"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(u64::try_from(random.below(whole)).unwrap()));
        kill(child);
        all_is_well(&root, &good);
    }
    backup(&root);
    assert_eq!(leftovers(&root), [""; 0], "the next run cleans up");
    // A backup that got its name before the kill is whole.
    for found in listed(&root) {
        assert_eq!(root.json(&["backup", "verify", found["name"].as_str().unwrap()])["proven"], true);
    }
}

#[test]
fn a_backup_that_is_asked_to_stop_stops_in_the_middle_of_a_statement_and_leaves_nothing() {
    let root = home();
    much(&root, 200);
    let good = backup(&root);
    let dir = backups(&root);
    let mut stopped = 0;
    // While SQLite copies, and while it checks the restored file.
    for (start, file) in [(".partial-", "copy.db"), (".scratch-", "jarvis.db")] {
        let child =
            root.command(&["backup", "create"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let id = child.id().to_string();
        let ended = std::thread::Builder::new().spawn(move || child.wait_with_output().unwrap()).unwrap();
        while !ended.is_finished() && !appeared(&dir, start, file) {
            std::thread::sleep(Duration::from_micros(200));
        }
        // A process that has just ended is not there any more.
        let _ = Command::new("kill").args(["-TERM", &id]).stderr(Stdio::null()).status().unwrap();
        let ended = ended.join().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        if !ended.status.success() {
            assert!(told.contains("cancelled: nothing was left behind"), "{told}");
            stopped += 1;
        }
        assert_eq!(leftovers(&root), [""; 0]);
        all_is_well(&root, &good);
        // An interrupted backup is no proof of damage.
        assert!(listed(&root).iter().all(|found| found["last_proof"]["ok"] != false));
    }
    assert!(stopped > 0, "each of them had ended before it was told");
}

#[test]
fn a_restore_that_is_killed_at_any_moment_leaves_the_old_or_the_new_memory_and_never_half() {
    let root = home();
    much(&root, 100);
    let good = backup(&root);
    let old = texts(&root, "anna").len();
    remember(&root, "anna", "this is later");
    let new = old + 2;
    let data = root.path().join("var/lib/jarvis");
    let mut random = Random::for_test("kill_restore");
    let started = Instant::now();
    root.ok(&["backup", "restore", &good, "--in-place", "--yes"]);
    let whole = usize::try_from(started.elapsed().as_millis()).unwrap();
    for n in 0..12 {
        if texts(&root, "anna").len() == old {
            remember(&root, "anna", "this is later");
        }
        let child =
            root.command(&["backup", "restore", &good, "--in-place", "--yes"]).stdout(Stdio::null()).spawn();
        let child = child.unwrap();
        let dir = backups(&root);
        match n {
            0 => drop(kill_at(child, || data.join("jarvis.db.restore").exists())),
            1 => drop(kill_at(child, || appeared(&dir, ".partial-", "copy.db"))),
            2 => drop(kill_at(child, || appeared(&dir, ".partial-", "manifest.json"))),
            _ => {
                std::thread::sleep(Duration::from_millis(u64::try_from(random.below(whole)).unwrap()));
                kill(child);
            }
        }
        let found = texts(&root, "anna").len();
        assert!(found == old || found == new, "{found} messages, neither {old} nor {new}");
        all_is_well(&root, &good);
    }
    root.ok(&["backup", "restore", &good, "--in-place", "--yes"]);
    assert_eq!(texts(&root, "anna").len(), old);
    assert!(!data.join("jarvis.db.restore").exists());
    assert_eq!(leftovers(&root), [""; 0]);
}

#[test]
fn without_room_nothing_is_begun_and_nothing_is_left() {
    let root = home();
    much(&root, 400);
    let may = Command::new("unshare")
        .args(["-r", "-m", "mount", "-t", "tmpfs", "tmpfs", root.path().to_str().unwrap()])
        .stderr(Stdio::null())
        .status();
    if !may.is_ok_and(|status| status.success()) {
        crate::support::missing::skipped("no file system can be mounted on this machine (unshare -r -m)");
        return;
    }
    fs::create_dir_all(backups(&root)).unwrap();
    let script = "mount -t tmpfs -o size=$1 tmpfs \"$2\"; d=$2; shift 2
        (until test -e \"$d\"/.partial-*/copy.db; do :; done; head -c 1G /dev/zero > \"$d/filler\") \
        2>/dev/null & filler=$!
        \"$@\"; code=$?; kill $filler; ls -A \"$d\"; exit $code";
    let dir = backups(&root);
    let inner = root.command(&["backup", "create"]);
    // 6 MiB are less than it requires before it begins; another process fills 200 MiB while it works.
    for size in ["6m", "200m"] {
        let mut command = Command::new("unshare");
        command.args(["-r", "-m", "sh", "-c", script, "sh", size, dir.to_str().unwrap()]);
        command.arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = command.output().unwrap();
        let (left, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(75), "{told}");
        assert!(told.contains("free some space"), "{told}");
        assert!(!left.contains(".partial") && !left.contains(".scratch"), "{left}");
        let named = left.contains("jarvis-backup");
        assert!(!named || told.contains("was made and is not proven"), "{told}\n{left}");
    }
}

#[test]
fn a_restore_onto_a_full_disk_leaves_the_memory_as_it_was() {
    let root = home();
    much(&root, 200);
    let good = backup(&root);
    remember(&root, "anna", "this is later");
    let data = root.path().join("var/lib/jarvis");
    // The memory on a disk that has room for itself and little more.
    let script = "cp -a \"$1\" \"$1.there\" && mount -t tmpfs -o size=$2 tmpfs \"$1\" && cp \
                  -a \"$1.there/.\" \"$1\" || exit 99
        d=$1; shift 2; program=$1; root=$2; shift 2
        \"$program\" --root \"$root\" \"$@\"; code=$?; ls -A \"$d\"
        \"$program\" --root \"$root\" conversation export --user anna | grep -c 'this is later'; exit $code";
    let inner = root.command(&[]);
    let kib = fs::metadata(data.join("jarvis.db")).unwrap().len() / 1024;
    let mut command = Command::new("unshare");
    command.args([
        "-r",
        "-m",
        "sh",
        "-c",
        script,
        "sh",
        data.to_str().unwrap(),
        &format!("{}k", kib + kib / 2),
    ]);
    command.arg(inner.get_program()).arg(root.path());
    command.args(["backup", "restore", &good, "--in-place", "--yes"]);
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.output().unwrap();
    let (left, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(99) || told.starts_with("unshare:") {
        crate::support::missing::skipped("no file system can be mounted on this machine (unshare -r -m)");
        return;
    }
    assert_eq!(output.status.code(), Some(75), "{told}");
    assert!(told.contains("free some space") && told.lines().count() == 1, "{told}");
    assert!(!left.contains("jarvis.db.restore"), "{left}");
    let found: usize = left.lines().last().unwrap().parse().unwrap();
    assert!(found >= 1, "the memory is not what it was: {left}");
    assert_eq!(leftovers(&root), [""; 0]);
    all_is_well(&root, &good);
}
