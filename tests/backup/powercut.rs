//! The power goes at any stage of making, deleting and restoring backups: an older good one always remains,
//! nothing half made counts as one, the memory is the old or the restored one, and the next run is not
//! affected.
//!
//! `powercut.c` records the file operations of the real program. The disk is then rebuilt as it may be after
//! a cut behind each write, sync and change of a name. Unsynced data are lost, torn, or kept in another
//! order. The real program runs on a sample of these disks. Equal disks are tried once.
//!
//! `JARVIS_POWER_STATES` sets how many are tried in each test (40), `JARVIS_TEST_SEED` repeats a run.

mod promise;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::support::Root;
use crate::support::postgres::{Options, Postgres};
use crate::support::powercut::{Disk, Event, Left, Luck, Opened, read_log};
use crate::support::preload;
use crate::support::random::Random;
use crate::support::sealed::aged;
use promise::{Before, Promise};
use serde_json::{Value, json};

const KEEP_THREE: &str = "[backup]\nkeep_daily = 3\nkeep_weekly = 0\nkeep_monthly = 0\n";
const KEEP_ONE: &str = "[backup]\nkeep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n";

/// A memory of some hundred messages, and a proven backup of it made by the timer.
fn home(config: &str) -> (Root, String) {
    let root = Root::with_config(config);
    root.ok(&["user", "add", "anna"]);
    let message = |c: usize, m: usize| {
        json!({
            "id": format!("0190a000-{c:04x}-7000-8000-{:012x}", m + 1), "seq": m + 1,
            "role": if m.is_multiple_of(2) { "user" } else { "assistant" }, "kind": "say",
            "text": format!("message {m} of conversation {c}"),
            "wall_unix_ms": 1_760_000_000_000_i64, "clock_synced": true,
        })
    };
    let conversation = |c: usize| {
        json!({
            "id": format!("0190b000-0000-7000-8000-{c:012x}"), "title": format!("Conversation {c}"),
            "created_unix_ms": 1_760_000_000_000_i64, "updated_unix_ms": 1_760_000_000_000_i64,
            "messages": (0..50).map(|m| message(c, m)).collect::<Vec<_>>(),
        })
    };
    let file = root.path().join("much.json");
    fs::write(&file, serde_json::to_vec(&(0..6).map(conversation).collect::<Vec<_>>()).unwrap()).unwrap();
    root.ok(&["conversation", "import", "--user", "anna", file.to_str().unwrap()]);
    if config.contains("postgres_url") {
        root.ok(&["queue", "drain"]);
    }
    let made = root.json(&["backup", "create", "--kind", "scheduled"]);
    assert_eq!(made["proven"], true, "{made}");
    let name = made["name"].as_str().unwrap().to_owned();
    (root, name)
}

fn var(root: &Root) -> PathBuf {
    root.path().join("var")
}

fn backups(root: &Root) -> PathBuf {
    var(root).join("backups/jarvis")
}

/// Runs a command that must succeed, under the recorder.
fn record(root: &Root, args: &[&str]) -> Vec<Event> {
    let before = Disk::of(&var(root));
    let home = tempfile::tempdir().unwrap();
    let log = home.path().join("log");
    let mut command = root.command(args);
    command.env("LD_PRELOAD", preload::powercut());
    command.env("JARVIS_POWERCUT_DIR", var(root)).env("JARVIS_POWERCUT_LOG", &log);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let events = read_log(&log);
    let mut after = before;
    events.iter().for_each(|event| after.apply(event));
    assert_eq!(after.differs(&var(root)), None, "something went past the recorder");
    events
}

/// A root with these files.
fn root_of(config: &str, left: &Left) -> Root {
    let root = Root::with_config(config);
    fs::create_dir(var(&root)).unwrap();
    left.write(&var(&root));
    root
}

/// The disk that the next process sees when the process of `events` is killed behind the first that is
/// `last`.
fn killed(disk: &mut Disk, config: &str, events: &[Event], last: impl Fn(&Event) -> bool) -> Root {
    let end = events.iter().position(last).unwrap();
    events[..=end].iter().for_each(|event| disk.apply(event));
    disk.next_process();
    root_of(config, &disk.after_power_cut(Luck::Everything, &mut Random::new(0)))
}

/// The text of all messages of Anna's conversations; `None` if she is not known.
fn texts(root: &Root) -> Result<Option<BTreeSet<String>>, String> {
    let output = root.run(&["conversation", "export", "--user", "anna", "--json"]);
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let none = ["there is no user named", "the memory is missing"];
        return if none.iter().any(|words| told.contains(words)) { Ok(None) } else { Err(told) };
    }
    let exported: Value = serde_json::from_slice(&output.stdout).unwrap();
    let conversations = exported.as_array().unwrap().iter();
    let messages = conversations.flat_map(|c| c["messages"].as_array().unwrap());
    Ok(Some(messages.map(|m| m["text"].as_str().unwrap().to_owned()).collect()))
}

fn run(root: &Root, args: &[&str]) -> Result<Value, String> {
    let output = root.run(&[args, &["--json"]].concat());
    match output.status.success() {
        true => serde_json::from_slice(&output.stdout).map_err(|e| e.to_string()),
        false => Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// A disk after a power cut: the number of events before it, and its treatment of unsynced data.
struct Cut {
    at: usize,
    luck: Luck,
    seed: u64,
    said: bool,
}

/// Every different disk that a cut may leave: behind renames, behind other changes of names and syncs, behind
/// writes.
fn cuts(mut disk: Disk, events: &[Event], random: &mut Random) -> (usize, [Vec<Cut>; 3]) {
    use Luck::{Any, Everything, Nothing, Prefix, Scattered};
    let (mut seen, mut tried, mut found) = (BTreeSet::new(), 0, [Vec::new(), Vec::new(), Vec::new()]);
    let mut said = false;
    for at in 0..=events.len() {
        let event = at.checked_sub(1).map(|at| &events[at]);
        event.into_iter().for_each(|event| disk.apply(event));
        said |= matches!(event, Some(Event::Said(_)));
        let class = match event {
            Some(Event::Open { how: Opened::Found, .. }) => continue,
            Some(Event::Rename { .. }) => 0,
            Some(Event::Write { .. } | Event::Truncate { .. }) => 2,
            _ => 1,
        };
        tried += 1;
        // Many orders of names are possible where one has just changed; a write adds little to the earlier
        // possibilities.
        let orders = std::iter::repeat_n(Scattered, if class == 2 { 1 } else { 16 });
        for luck in [Nothing, Everything, Prefix, Any].into_iter().chain(orders) {
            let seed = random.next();
            let left = disk.after_power_cut(luck, &mut Random::new(seed));
            if seen.insert((left.digest(), said)) {
                found[class].push(Cut { at, luck, seed, said });
            }
        }
    }
    (tried, found)
}

#[expect(clippy::print_stdout, reason = "how much was tried is what the test says")]
/// Tries a sample of the disks that cuts along `events` leave of `disk`, and checks the promise on each.
fn cut(name: &str, disk: Disk, events: &[Event], promise: &Promise<'_>) {
    let mut random = Random::for_test(name);
    let started = Instant::now();
    let sample: usize = std::env::var("JARVIS_POWER_STATES").map_or(40, |n| n.parse().unwrap());
    // Each of these restores into a Postgres three times. They run one after the other: each would clear away
    // the supposed leftovers of its own device.
    let on_postgres = promise.config.contains("postgres_url");
    let sample = if on_postgres { sample.div_ceil(4) } else { sample };
    let (moments, mut found) = cuts(disk.clone(), events, &mut random);
    let distinct: usize = found.iter().map(Vec::len).sum();
    let mut chosen = Vec::new();
    // Half of them are at replacements of a file by another.
    for class in [0, 1, 0, 2].into_iter().cycle().take(4 * distinct) {
        if chosen.len() < sample && !found[class].is_empty() {
            let cut = random.below(found[class].len());
            chosen.push(found[class].swap_remove(cut));
        }
    }
    chosen.sort_by_key(|cut| cut.at);
    let (next, broken) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        let (mut disk, mut done) = (disk.clone(), 0);
        while let Some(cut) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            events[done..cut.at].iter().for_each(|event| disk.apply(event));
            done = cut.at;
            let root = root_of(promise.config, &disk.after_power_cut(cut.luck, &mut Random::new(cut.seed)));
            if let Err(why) = promise.broken(&root, cut.said) {
                let event = cut.at.checked_sub(1).map(|at| format!("{:.200}", format!("{:?}", events[at])));
                let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
                broken.push(format!("behind {event:?}, {:?}: {why}", cut.luck));
            }
        }
    };
    std::thread::scope(|scope| {
        if !on_postgres {
            scope.spawn(work);
        }
        work();
    });
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    println!(
        "{name}: {} records, {} syncs, {moments} moments of a cut, {distinct} different disks, {} tried in \
         {:.1} s",
        events.len(),
        count(|e| matches!(e, Event::Sync { .. } | Event::DirSync { .. })),
        chosen.len(),
        started.elapsed().as_secs_f32()
    );
    let broken = broken.into_inner().unwrap();
    assert!(
        broken.is_empty(),
        "{} of {} broke a promise: {:#?}",
        broken.len(),
        chosen.len(),
        &broken[..broken.len().min(10)]
    );
}

#[test]
fn a_cut_while_a_backup_is_made_leaves_the_older_one_and_no_half_one() {
    let (root, good) = home("");
    let there = texts(&root).unwrap();
    let disk = Disk::of(&var(&root));
    let args = ["backup", "create"];
    let events = record(&root, &args);
    let promise = Promise { proven: (1, 2), ..Promise::of(&args, vec![good], there) };
    cut("create", disk, &events, &promise);
}

#[test]
fn a_cut_while_a_backup_of_postgres_is_made_leaves_the_older_one_and_no_half_one() {
    let server = Postgres::with(Options { fsync: false, ..Options::default() });
    server.execute("ALTER ROLE jarvis CREATEDB");
    let config = format!(
        "[store]\npostgres_url = {:?}\npostgres_password_file = {:?}\n",
        server.url(),
        server.password_file()
    );
    let (root, good) = home(&config);
    root.ok(&["ask", "--user", "anna", "remember that this one waits"]);
    let there = texts(&root).unwrap();
    let disk = Disk::of(&var(&root));
    let args = ["backup", "create"];
    let events = record(&root, &args);
    let promise = Promise { config: &config, proven: (1, 2), ..Promise::of(&args, vec![good], there) };
    cut("create from Postgres", disk, &events, &promise);
}

/// Three backups that stay and four that go.
fn much_to_prune() -> (Root, Vec<String>, Vec<String>) {
    let (root, newest) = home(KEEP_THREE);
    let dir = backups(&root);
    let stay = [2, 1].map(|days| aged(&dir, &newest, days));
    let go = [40, 30, 20, 10].map(|days| aged(&dir, &newest, days));
    (root, [stay.as_slice(), &[newest]].concat(), go.into())
}

#[test]
fn a_cut_while_backups_are_deleted_leaves_the_others_and_no_half_one() {
    let (root, good, doomed) = much_to_prune();
    let there = texts(&root).unwrap();
    let disk = Disk::of(&var(&root));
    let args = ["backup", "prune", "--trust-clock"];
    let events = record(&root, &args);
    let promise = Promise { config: KEEP_THREE, doomed, ..Promise::of(&args, good, there) };
    cut("prune", disk, &events, &promise);
}

#[test]
fn a_cut_while_the_leftovers_of_a_killed_run_are_removed_brings_no_half_backup_back() {
    let (root, good, doomed) = much_to_prune();
    let there = texts(&root).unwrap();
    let mut disk = Disk::of(&var(&root));
    let args = ["backup", "prune", "--trust-clock"];
    let events = record(&root, &args);
    let renamed = |event: &Event| matches!(event, Event::Rename { to, .. } if to.contains(".deleting-"));
    let root = killed(&mut disk, KEEP_THREE, &events, renamed);
    let events = record(&root, &args);
    let promise = Promise { config: KEEP_THREE, doomed, ..Promise::of(&args, good, there) };
    cut("prune after a killed prune", disk, &events, &promise);
}

#[test]
fn nothing_is_deleted_for_the_sake_of_a_proof_that_is_not_on_the_disk() {
    let (root, old) = home(KEEP_ONE);
    aged(&backups(&root), &old, 9);
    fs::remove_dir_all(backups(&root).join(&old)).unwrap();
    let there = texts(&root).unwrap();
    let mut disk = Disk::of(&var(&root));
    let events = record(&root, &["backup", "create", "--kind", "scheduled"]);
    // Killed when everybody sees the proof, and before the disk must have it.
    let proof = |event: &Event| matches!(event, Event::Rename { to, .. } if to.ends_with("/proofs.json"));
    let root = killed(&mut disk, KEEP_ONE, &events, proof);
    let args = ["backup", "prune", "--trust-clock"];
    let events = record(&root, &args);
    let promise = Promise { config: KEEP_ONE, proven: (1, 1), ..Promise::of(&args, Vec::new(), there) };
    cut("prune after a killed create", disk, &events, &promise);
}

/// [`cut`] while the backup `good` is restored in place.
fn cut_restore(name: &str, root: &Root, good: String, before: Before, after: Option<BTreeSet<String>>) {
    let disk = Disk::of(&var(root));
    let args = ["backup", "restore", &good, "--in-place", "--yes"];
    let events = record(root, &args);
    let promise = Promise { before, ..Promise::of(&args, vec![good.clone()], after) };
    cut(name, disk, &events, &promise);
}

#[test]
fn a_cut_while_a_backup_is_restored_leaves_the_old_or_the_restored_memory_and_all_backups() {
    let (root, good) = home("");
    let after = texts(&root).unwrap();
    // The memory as a power cut behind the last answer leaves it: the answer is in the log and not in the
    // database yet.
    let mut disk = Disk::of(&var(&root));
    let events = record(&root, &["ask", "--user", "anna", "remember that this is later", "--json"]);
    let root = killed(&mut disk, "", &events, |event| matches!(event, Event::Said(_)));
    let before = texts(&root_of("", &disk.after_power_cut(Luck::Everything, &mut Random::new(0)))).unwrap();
    assert_eq!(before.as_ref().unwrap().len(), after.as_ref().unwrap().len() + 2);
    assert!(var(&root).join("lib/jarvis/jarvis.db-wal").metadata().unwrap().len() > 0);
    cut_restore("restore", &root, good, Before::Texts(before), after);
}

#[test]
fn a_cut_while_a_backup_is_restored_on_a_new_card_leaves_nothing_or_all_of_it() {
    let (root, good) = home("");
    let after = texts(&root).unwrap();
    fs::remove_dir_all(var(&root).join("lib")).unwrap();
    cut_restore("restore on a new card", &root, good, Before::Texts(None), after);
}

#[test]
fn a_cut_while_a_damaged_memory_is_replaced_leaves_it_or_the_restored_one() {
    let (root, good) = home("");
    let after = texts(&root).unwrap();
    let db = var(&root).join("lib/jarvis/jarvis.db");
    let mut bytes = fs::read(&db).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xa5);
    fs::write(&db, &bytes).unwrap();
    cut_restore("restore over a damaged memory", &root, good, Before::Damaged(bytes), after);
    assert!(!db.with_file_name("jarvis.db-wal").exists());
}

#[test]
fn the_first_backup_is_there_once_it_was_told() {
    let (root, _) = home("");
    let there = texts(&root).unwrap();
    fs::remove_dir_all(var(&root).join("backups")).unwrap();
    let disk = Disk::of(&var(&root));
    let args = ["backup", "create"];
    let events = record(&root, &args);
    let promise = Promise { proven: (0, 1), ..Promise::of(&args, Vec::new(), there) };
    cut("the first create", disk, &events, &promise);
}

#[test]
fn a_file_that_was_told_as_written_is_on_the_disk() {
    let (root, good) = home("");
    let file = |name: &str| var(&root).join(name).to_str().unwrap().to_owned();
    let (copy, lines, conversations) = (file("copy.db"), file("all.jsonl"), file("anna.json"));
    for args in [
        &["backup", "restore", &good, "--to", &copy][..],
        &["backup", "export", "--out", &lines],
        &["conversation", "export", "--user", "anna", "--out", &conversations],
    ] {
        let mut disk = Disk::of(&var(&root));
        record(&root, args).iter().for_each(|event| disk.apply(event));
        let left = disk.after_power_cut(Luck::Nothing, &mut Random::new(0));
        let written = Path::new(args.last().unwrap());
        let name = written.file_name().unwrap().to_str().unwrap();
        let found = left.files().find(|(path, _)| *path == name);
        assert_eq!(
            found.map(|(_, content)| content),
            Some(fs::read(written).unwrap().as_slice()),
            "{args:?}"
        );
    }
}
