//! The runbook of docs/backup-recovery.md on a house with a large memory, while people go on talking: after
//! each disaster the earlier memory is unchanged byte for byte, and every acknowledged turn is there once.
//!
//! 5,000 messages in the ordinary run. For a million, and the figures of docs/lab/backup.md:
//!
//! ```text
//! JARVIS_TEST_MESSAGES=1000000 JARVIS_TEST_PROGRAM=target/release/jarvisd \
//!     cargo test --test memory recovery:: -- --test-threads=1 --nocapture
//! ```

mod house;
use std::fs;
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::support::postgres::{Postgres, Stop};
use crate::support::{Root, Voice, key_pair, refused};
use house::{
    Divide, Running, Talker, backup, configuration, copy, database, device, filled_server, ready, restore,
    same_everywhere, server, settle, size, timed,
};
use serde_json::Value;

/// A device that knows everything, to which `who` may talk.
fn kitchen(server: &Postgres, who: &str, more: &str) -> Arc<Root> {
    let kitchen = device(server, "kitchen", more);
    ready(&kitchen, who);
    kitchen
}

fn backups(root: &Root) -> std::path::PathBuf {
    root.path().join("var/backups/jarvis")
}

#[test]
fn the_card_of_a_device_dies() {
    let server = filled_server();
    let card = device(&server, "kitchen", "");
    let hall = device(&server, "hall", "");
    ready(&hall, "tom");
    card.ok(&["user", "add", "mia"]);
    card.ok(&["queue", "drain"]);
    let divide = Divide::now();
    let before = divide.fingerprint(&server);

    // The daemon of the kitchen does not run, so that its turns wait.
    let daemon = Running::start(&hall);
    let mia = Talker::start(&card, "mia");
    mia.wait_for_a_turn();
    let in_the_queue = mia.stop_answered();
    let tom = Talker::start(&hall, "tom");
    tom.during(|| backup(&card));
    // Another disk, which holds the copy of the backups.
    let shelf = tempfile::tempdir().unwrap();
    copy(&backups(&card), &shelf.path().join("jarvis"));
    drop(card);

    let card = device(&server, "kitchen", "");
    copy(&shelf.path().join("jarvis"), &backups(&card));
    let restored =
        tom.during(|| restore(&card, "restore latest --in-place", &["latest", "--in-place", "--yes"]));
    assert!(restored["safety"].is_string(), "{restored}");
    assert_eq!(divide.fingerprint(&server), before, "what was restored is what was backed up");
    daemon.wait_for_another_server(&hall, 1);
    timed(&card, "queue drain", &["queue", "drain"]);
    let said = tom.stop_answered();
    same_everywhere(&[&hall, &card]);
    daemon.stop(&hall);
    assert_eq!(divide.fingerprint(&server), before);
    divide.all_there(&server, &[&in_the_queue, &said]);
}

#[test]
fn the_server_dies() {
    let old = filled_server();
    let kitchen = kitchen(&old, "mia", "");
    let hall = device(&old, "hall", "");
    ready(&hall, "tom");
    let divide = Divide::now();
    let before = divide.fingerprint(&old);
    let (in_the_kitchen, in_the_hall) = (Running::start(&kitchen), Running::start(&hall));
    let (mia, tom) = (Talker::start(&kitchen, "mia"), Talker::start(&hall, "tom"));
    mia.during(|| backup(&kitchen));
    drop(old);
    mia.wait_for_a_turn();
    tom.wait_for_a_turn();

    let new = server();
    kitchen.write_config(&configuration(&new, "kitchen", "jarvis", ""));
    let restored = tom.during(|| {
        mia.during(|| restore(&kitchen, "restore latest --in-place", &["latest", "--in-place", "--yes"]))
    });
    assert_eq!(restored["safety"], Value::Null, "there was nothing to be saved: {restored}");
    assert_eq!(divide.fingerprint(&new), before, "what was restored is what was backed up");
    in_the_kitchen.stop(&kitchen);
    let in_the_kitchen = Running::start(&kitchen);
    hall.write_config(&configuration(&new, "hall", "jarvis", ""));
    in_the_hall.stop(&hall);
    let in_the_hall = Running::start(&hall);
    mia.wait_for_a_turn();
    tom.wait_for_a_turn();
    let (by_mia, by_tom) = (mia.stop_answered(), tom.stop_answered());
    same_everywhere(&[&kitchen, &hall]);
    in_the_kitchen.stop(&kitchen);
    in_the_hall.stop(&hall);
    assert_eq!(divide.fingerprint(&new), before);
    divide.all_there(&new, &[&by_mia, &by_tom]);
}

#[test]
fn the_database_is_damaged() {
    let mut server = filled_server();
    let kitchen = kitchen(&server, "mia", "");
    let divide = Divide::now();
    let before = divide.fingerprint(&server);
    let mut daemon = Running::start(&kitchen);
    let mia = Talker::start(&kitchen, "mia");
    mia.during(|| backup(&kitchen));

    // Rows are lost: the devices have them.
    server.execute("DELETE FROM jarvis.messages WHERE seq % 10 = 3 AND device = 'study'");
    let lost = divide.fingerprint(&server);
    assert_ne!(lost, before);
    mia.during(|| timed(&kitchen, "store check --repair", &["store", "check", "--repair"]));
    timed(&kitchen, "queue drain", &["queue", "drain"]);
    let count = |fingerprint: &std::collections::BTreeMap<_, String>| {
        fingerprint["messages"].split(' ').next().unwrap().to_owned()
    };
    assert_eq!(count(&divide.fingerprint(&server)), count(&before));

    // Words are garbled: only the backup has the true ones.
    server.execute("UPDATE jarvis.messages SET text = reverse(text) WHERE seq % 10 = 4 AND device = 'study'");
    let told = refused(&kitchen, &["store", "check"], 1);
    assert!(told.contains("differences"), "{told}");
    let restored =
        mia.during(|| restore(&kitchen, "restore latest --in-place", &["latest", "--in-place", "--yes"]));
    assert_eq!(divide.fingerprint(&server), before, "what was restored is what was backed up");
    daemon.wait_for_another_server(&kitchen, 1);
    timed(&kitchen, "queue drain", &["queue", "drain"]);
    let safety = restored["safety"].as_str().unwrap();
    assert_eq!(kitchen.json(&["backup", "verify", safety, "--level", "quick"])["last_proof"]["ok"], true);
    let name = mia.during(|| backup(&kitchen));

    // A table of the server cannot be read any more.
    let file = server
        .value("SELECT current_setting('data_directory') || '/' || pg_relation_filepath('jarvis.messages')");
    server.stop(Stop::Fast);
    let table = fs::File::options().read(true).write(true).open(file).unwrap();
    let pages = table.metadata().unwrap().len() / 8192;
    table.write_all_at(&[0xa5; 8192], pages / 2 * 8192).unwrap();
    server.boot();
    let why = server.try_query("SELECT sum(length(text)) FROM jarvis.messages").unwrap_err();
    assert!(why.contains("invalid page"), "{why}");
    mia.wait_for_a_turn();
    let told = refused(&kitchen, &["backup", "restore", &name, "--in-place", "--yes"], 1);
    assert!(told.contains("pg_dump failed") || told.contains("invalid page"), "{told}");
    mia.during(|| restore(&kitchen, "restore latest --to rebuilt", &["latest", "--to", "rebuilt"]));
    kitchen.write_config(&configuration(&server, "kitchen", "rebuilt", ""));
    daemon.stop(&kitchen);
    daemon = Running::start(&kitchen);
    let said = mia.stop_answered();
    same_everywhere(&[&kitchen]);
    daemon.stop(&kitchen);
    let rebuilt = divide.of_database("rebuilt");
    assert_eq!(rebuilt.fingerprint(&server), before);
    rebuilt.all_there(&server, &[&said]);
}

/// Has the device refuse every entry of this kind, so that a process that queues everything again stops at
/// that step.
fn held_at(device: &Root, op: &str) {
    let when = format!("NEW.op LIKE '{op}' BEGIN SELECT RAISE(ABORT, 'held'); END");
    let held = format!("CREATE TRIGGER held BEFORE INSERT ON queue WHEN {when};");
    sqlite(device, &format!("BEGIN IMMEDIATE; DROP TRIGGER IF EXISTS held; {held} COMMIT;"));
}

/// A lasting connection to the file. As long as there is one, nobody who closes another removes the log,
/// which the daemon would take for a replaced file.
fn kept_open(device: &Root) -> std::process::Child {
    let mut command = std::process::Command::new("sqlite3");
    let pipe = std::process::Stdio::piped;
    let mut held = command.arg(database(device)).stdin(pipe()).stdout(pipe()).spawn().unwrap();
    held.stdin.as_mut().unwrap().write_all(b"SELECT count(*) FROM settings;\n").unwrap();
    let mut line = String::new();
    std::io::BufReader::new(held.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    held
}

fn let_go(device: &Root) {
    sqlite(device, "DROP TRIGGER held;");
}

fn sqlite(device: &Root, sql: &str) -> String {
    try_sqlite(device, sql, 60_000).map_err(|why| format!("{sql}: {why}")).unwrap()
}

fn try_sqlite(device: &Root, sql: &str, patience_ms: u32) -> Result<String, String> {
    let mut command = std::process::Command::new("sqlite3");
    command.args(["-bail", "-cmd", &format!(".timeout {patience_ms}")]);
    let done = command.arg(database(device)).arg(sql).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

/// Asserts that neither command reports an end, in figures, in words and by its exit code; returns the output
/// of the check.
fn nothing_is_done(device: &Root) -> Value {
    let status = device.json(&["queue", "status"]);
    assert_eq!(status["complete"], false, "{status}");
    let told = device.ok(&["queue", "status"]);
    assert!(told.contains("another database") && !told.contains("Nothing waits"), "{told}");
    for check in [&["store", "check"][..], &["store", "check", "--repair"]] {
        let told = refused(device, check, 75);
        assert!(told.contains("not everything could be compared"), "{told}");
    }
    let output = device.run(&["store", "check", "--json"]);
    assert_eq!(output.status.code(), Some(75));
    let check: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&check["everything_compared"], &check["findings"]),
        (&false.into(), &serde_json::json!([])),
        "{check}"
    );
    let left = &check["left"];
    assert!(left["queueing"] == true || left["another_database"] == true, "{check}");
    assert!(!device.run(&["store", "check"]).stdout.ends_with(b"same on both sides.\n"));
    check
}

#[test]
fn nobody_reports_an_end_while_the_daemon_is_held_at_any_step() {
    let server = filled_server();
    let kitchen = kitchen(&server, "mia", "");
    kitchen.ok(&["store", "pull"]);
    kitchen.ok(&["ask", "--user", "mia", "remember that the ladder is behind the shed"]);
    kitchen.ok(&["queue", "drain"]);
    kitchen.ok(&["store", "check"]);
    // Another database that lacks the last turn, as a restored backup does.
    server.execute(
        "UPDATE jarvis.house SET id = gen_random_uuid(); UPDATE jarvis.devices SET memory = NULL,
        token = NULL; DELETE FROM jarvis.messages WHERE device = 'kitchen'",
    );
    // Nobody has met it yet: the queue is empty, and nothing must be queued.
    let check = nothing_is_done(&kitchen);
    assert_eq!(
        (&check["left"]["entries"], &check["left"]["queueing"]),
        (&0.into(), &false.into()),
        "{check}"
    );

    // Nor does a backup take the present rows for everything: words that only the device has go into it.
    let manifest = fs::read(backups(&kitchen).join(backup(&kitchen)).join("manifest.json")).unwrap();
    let manifest = &serde_json::from_slice::<Value>(&manifest).unwrap()["manifest"];
    let queue = manifest["files"].as_array().unwrap().iter().find(|file| file["role"] == "queue").unwrap();
    assert_eq!(queue["tables"]["messages"]["rows"], check["here"]["messages"], "{manifest}");
    assert_eq!(manifest["undelivered"]["everything"], true, "{manifest}");

    // The device has met it, and the queue is still empty: an empty queue was once taken for an end at this
    // step.
    let mut held = kept_open(&kitchen);
    held_at(&kitchen, "delete!_%' ESCAPE '!");
    let daemon = Running::start(&kitchen);
    let mark = |stage: &str| {
        crate::support::wait_until(&format!("the daemon to be held at the {stage}"), || {
            sqlite(
                &kitchen,
                "SELECT json_extract(value, '$.stage') FROM settings WHERE key = 'postgres_again'",
            ) == stage
        });
    };
    mark("deletions");
    let check = nothing_is_done(&kitchen);
    assert_eq!((&check["left"]["entries"], &check["left"]["queueing"]), (&0.into(), &true.into()), "{check}");
    assert_eq!(check["waiting"], check["here"]["conversations"], "{check}");
    // Nor does the drain, which meets the same obstacle.
    assert_eq!(kitchen.run(&["queue", "drain", "--json"]).status.code(), Some(75));

    for (op, stage) in [("upsert_conversation", "conversations"), ("insert_message", "messages")] {
        held_at(&kitchen, op);
        mark(stage);
        let check = nothing_is_done(&kitchen);
        assert!(
            check["left"]["still_to_queue"].as_i64().unwrap() > i64::try_from(size()).unwrap(),
            "{check}"
        );
    }

    // With the daemon held, another process completes everything before it says so.
    crate::support::wait_until("the daemon to be held without the lock of the file", || {
        daemon.signal("STOP");
        let free = try_sqlite(&kitchen, "BEGIN IMMEDIATE; COMMIT;", 2_000).is_ok();
        if !free {
            daemon.signal("CONT");
        }
        free
    });
    let_go(&kitchen);
    let drained = timed(&kitchen, "queue drain", &["queue", "drain"]);
    assert_eq!(
        (&drained["complete"], &drained["entries"], &drained["queueing"]),
        (&true.into(), &0.into(), &false.into())
    );
    // The new database was not read yet, and the output says that as well.
    assert_eq!(drained["read"], false, "{drained}");
    assert!(kitchen.ok(&["queue", "drain"]).contains("still to be read"));
    assert_eq!(kitchen.json(&["queue", "status"])["complete"], true);
    assert_eq!(server.value("SELECT count(*) FROM jarvis.messages WHERE device = 'kitchen'"), "2");
    kitchen.ok(&["store", "pull"]);
    assert!(!kitchen.ok(&["queue", "drain"]).contains("still to be read"));
    daemon.signal("CONT");
    drop(held.stdin.take());
    held.wait().unwrap();
    same_everywhere(&[&kitchen]);
    daemon.stop(&kitchen);
}

/// The content of a conversation, without its ids.
const CONTENT: &str = "SELECT md5(string_agg(concat_ws('|', m.seq, m.role, m.kind, m.text, m.meta,
    m.wall_time, m.clock_synced),
    ',' ORDER BY c.title, m.seq)) FROM jarvis.messages m JOIN jarvis.conversations c
    ON c.id = m.conversation";

#[test]
fn conversations_are_deleted() {
    let server = filled_server();
    let kitchen = kitchen(&server, "mia", "");
    let divide = Divide::now();
    let daemon = Running::start(&kitchen);
    let mia = Talker::start(&kitchen, "mia");
    mia.during(|| backup(&kitchen));
    let annas = "SELECT id FROM jarvis.users WHERE name = 'anna'";
    let of_anna = format!("{CONTENT} WHERE m.owner = ({annas})");
    let of_ben = format!("{CONTENT} WHERE m.owner = (SELECT id FROM jarvis.users WHERE name = 'ben')");
    let (all, others) = (server.value(&of_anna), server.value(&of_ben));
    let ids = server.query(&format!(
        "SELECT id, title FROM jarvis.conversations WHERE owner = ({annas}) ORDER BY md5(id::text) LIMIT 3"
    ));
    let (one, title) = (ids[0][0].as_str(), ids[0][1].as_str());

    // One, by its id.
    let content = server.value(&format!("{CONTENT} WHERE c.id = '{one}'"));
    kitchen.ok(&["conversation", "delete", one, "--user", "anna", "--yes"]);
    server.wait_for(&format!("SELECT count(*) FROM jarvis.messages WHERE conversation = '{one}'"), "0");
    let restored = mia
        .during(|| restore(&kitchen, "restore latest --conversation ID", &["latest", "--conversation", one]));
    assert_eq!((&restored["conversations"], &restored["messages"]), (&1.into(), &50.into()), "{restored}");
    kitchen.ok(&["queue", "drain"]);
    let again = format!("{CONTENT} WHERE c.title = '{title}' AND c.id <> '{one}'");
    assert_eq!(server.value(&again), content);

    // All that she deleted, by the day.
    for id in &ids[1..] {
        kitchen.ok(&["conversation", "delete", &id[0], "--user", "anna", "--yes"]);
    }
    kitchen.ok(&["queue", "drain"]);
    assert_ne!(server.value(&of_anna), all);
    let today = server.value("SELECT (now() + interval '1 day')::date");
    let restored =
        mia.during(|| restore(&kitchen, "restore --at DAY --user anna", &["--at", &today, "--user", "anna"]));
    assert_eq!((&restored["conversations"], &restored["messages"]), (&2.into(), &100.into()), "{restored}");
    let again = restore(&kitchen, "the same once more", &["--at", &today, "--user", "anna"]);
    assert_eq!((&again["conversations"], &again["messages"]), (&0.into(), &0.into()), "{again}");
    let said = mia.stop_answered();
    same_everywhere(&[&kitchen]);
    daemon.stop(&kitchen);
    assert_eq!((server.value(&of_anna), server.value(&of_ben)), (all, others));
    divide.all_there(&server, &[&said]);
}

#[test]
fn an_update_goes_wrong() {
    let server = filled_server();
    let kitchen = kitchen(&server, "mia", "");
    let hall = device(&server, "hall", "");
    ready(&hall, "tom");
    let divide = Divide::now();
    let before = divide.fingerprint(&server);
    let daemon = Running::start(&kitchen);
    let in_the_hall = Running::start(&hall);
    let (mia, tom) = (Talker::start(&kitchen, "mia"), Talker::start(&hall, "tom"));
    let name = mia.during(|| backup(&kitchen));
    mia.wait_for_a_turn();
    let by_mia = mia.stop_answered();
    settle(&kitchen);
    daemon.stop(&kitchen);
    // A device makes this backup of its own database just before a newer program changes it.
    kitchen.write_config("[device]\nid = \"kitchen\"\n");
    let safety = backup(&kitchen);
    kitchen.write_config(&configuration(&server, "kitchen", "jarvis", ""));
    kitchen.ok(&["ask", "--user", "mia", "what is the time"]);

    // The newer program has changed the server and the device like this, and has been removed again.
    server.execute(
        "BEGIN; UPDATE jarvis.messages SET text = ''; ALTER TABLE jarvis.messages RENAME COLUMN meta TO extra;
        ALTER TABLE jarvis.users ADD COLUMN mood text;
        INSERT INTO jarvis.schema_version (version, program) SELECT max(version) + 1, 'newer' FROM \
        jarvis.schema_version; COMMIT",
    );
    let db = kitchen.path().join("var/lib/jarvis/jarvis.db");
    let file = fs::File::options().write(true).open(&db).unwrap();
    file.write_all_at(&99_u32.to_be_bytes(), 60).unwrap();
    let told = refused(&kitchen, &["ask", "--user", "mia", "hello"], 78);
    assert!(told.contains("schema version 99"), "{told}");
    let told = refused(&hall, &["queue", "drain"], 69);
    assert!(told.contains("newer"), "{told}");

    // The device first, then the server.
    drop(file);
    restore(&kitchen, "restore SAFETY --in-place", &[&safety, "--in-place", "--yes"]);
    let restored =
        tom.during(|| restore(&kitchen, "restore NAME --in-place", &[&name, "--in-place", "--yes"]));
    assert!(restored["safety"].is_string(), "what the newer program made is kept: {restored}");
    assert_eq!(divide.fingerprint(&server), before, "what was restored is what was backed up");
    let daemon = Running::start(&kitchen);
    let mia = Talker::start(&kitchen, "mia");
    mia.wait_for_a_turn();
    let later = mia.stop_answered();
    let by_tom = tom.stop_answered();
    same_everywhere(&[&kitchen, &hall]);
    daemon.stop(&kitchen);
    in_the_hall.stop(&hall);
    assert_eq!(divide.fingerprint(&server), before);
    divide.all_there(&server, &[&by_mia, &later, &by_tom]);
}

#[test]
fn keys_are_lost() {
    let (owner, secret) = key_pair();
    let (_, stranger) = key_pair();
    let server = filled_server();
    let encrypted = format!("[backup]\nrecipients = [{owner:?}]\n");
    let kitchen = kitchen(&server, "mia", &encrypted);
    let phrases = crate::support::ENROLMENT.map(|phrase| Voice::Rms.says(phrase));
    let [a, b, c] = phrases.each_ref().map(|path| path.to_str().unwrap());
    let enrol = ["voice", "enroll", "--user", "mia", a, b, c];
    kitchen.ok(&enrol);
    kitchen.ok(&["queue", "drain"]);
    let divide = Divide::now();
    let before = divide.fingerprint(&server);
    let daemon = Running::start(&kitchen);
    let mia = Talker::start(&kitchen, "mia");
    let name = mia.during(|| backup(&kitchen));
    let (right, wrong) = (kitchen.path().join("right"), kitchen.path().join("wrong"));
    fs::write(&right, secret).unwrap();
    fs::write(&wrong, stranger).unwrap();
    server.execute("DELETE FROM jarvis.messages WHERE device = 'study'");

    // The key of the backups.
    for identity in [&[][..], &["--identity", wrong.to_str().unwrap()]] {
        let args = [&["backup", "restore", &name, "--in-place", "--yes"], identity].concat();
        let told = refused(&kitchen, &args, 78);
        assert!(told.contains("no key at hand opens the backup") && told.contains(&owner), "{told}");
    }
    let args = [name.as_str(), "--in-place", "--yes", "--identity", right.to_str().unwrap()];
    mia.during(|| restore(&kitchen, "restore latest --in-place, encrypted", &args));
    assert_eq!(divide.fingerprint(&server), before, "what was restored is what was backed up");
    kitchen.ok(&["queue", "drain"]);

    // The password of Postgres: nothing reaches it, everything is answered.
    server.set_password("another");
    server.cut_connections();
    let told = refused(&kitchen, &["queue", "drain"], 69);
    assert!(told.contains("password"), "{told}");
    mia.wait_for_a_turn();
    fs::write(server.password_file(), "another").unwrap();

    // The key of the voiceprints.
    let said = mia.stop_answered();
    settle(&kitchen);
    daemon.stop(&kitchen);
    assert_eq!(identified(&kitchen, a)["user"], "mia");
    fs::remove_file(kitchen.path().join("var/lib/jarvis/voiceprint.key")).unwrap();
    let told = refused(&kitchen, &["voice", "identify", a], 78);
    assert!(told.contains("their key is missing"), "{told}");
    kitchen.ok(&["voice", "delete", "--user", "mia", "--yes"]);
    kitchen.ok(&enrol);
    assert_eq!(identified(&kitchen, a)["user"], "mia");
    let daemon = Running::start(&kitchen);
    same_everywhere(&[&kitchen]);
    daemon.stop(&kitchen);
    divide.all_there(&server, &[&said]);
}

fn identified(root: &Root, recording: &str) -> Value {
    root.json(&["voice", "identify", recording])
}
