//! The store as an owner meets it: its size, its queue, the clock, long conversations.

mod forgetting;
mod searching;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::mic::Mic;
use crate::support::postgres::Postgres;
use crate::support::{Daemon, Root, wait_until};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};

/// Runs statements without the program, and returns the first column of the last one.
fn behind(root: &Root, statements: &[&str]) -> Vec<String> {
    let path = root.path().join("var/lib/jarvis/jarvis.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conn = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        let mut rows = Vec::new();
        for sql in statements {
            rows = sqlx::query(AssertSqlSafe(*sql)).fetch_all(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    })
}

/// An export of one conversation of so many turns; `words` are the words of each.
fn exported(turns: usize, words: &str) -> Value {
    let id = |n: usize| format!("0193a000-0000-7000-8000-{n:012x}");
    let message = |n: usize| {
        let (role, text) = match n % 2 {
            1 => ("user", format!("Turn {n}: {words}.")),
            _ => ("assistant", "I see.".to_owned()),
        };
        json!({
            "id": id(n), "seq": n, "role": role, "kind": "say", "text": text,
            "wall_unix_ms": 1_795_000_000_000_i64, "clock_synced": true, "sources": [],
        })
    };
    json!({
        "id": id(0xFFFF), "title": "", "created_unix_ms": 1_795_000_000_000_i64,
        "updated_unix_ms": 1_795_000_000_000_i64,
        "messages": (1..=2 * turns).map(message).collect::<Vec<_>>(),
    })
}

fn import(root: &Root, conversation: &Value) -> std::process::Output {
    let file = root.path().join("export.json");
    fs::write(&file, conversation.to_string()).unwrap();
    root.run(&["conversation", "import", "--user", "anna", file.to_str().unwrap()])
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_full_store_refuses_what_is_too_much_and_keeps_what_it_has() {
    let root = Root::with_config("[store]\nmax_mib = 16\n");
    root.ok(&["user", "add", "anna"]);
    root.ok(&["ask", "--user", "anna", "remember that the roof leaks"]);
    // Words that differ, or the index would be small.
    let long = |n: usize| (0..25_000).map(|k| format!("w{:x} ", k * 7919 + n)).collect::<String>();
    let mut whole = exported(60, "");
    for (n, message) in whole["messages"].as_array_mut().unwrap().iter_mut().enumerate() {
        if n % 2 == 0 {
            message["text"] = long(n).into();
        }
    }
    let refused = import(&root, &whole);
    assert_eq!(refused.status.code(), Some(75), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("full") && stderr(&refused).lines().count() == 1,
        "{}",
        stderr(&refused)
    );
    let size = || fs::metadata(root.path().join("var/lib/jarvis/jarvis.db")).unwrap().len();
    assert!(size() <= 16 << 20, "{}", size());
    // No part of it is there, all other rows are, and there is room again.
    assert_eq!(root.json(&["conversation", "list", "--user", "anna"]).as_array().unwrap().len(), 1);
    let answer = root.json(&["ask", "--user", "anna", "what do you remember"]);
    assert!(answer["reply"].as_str().unwrap().contains("the roof leaks"), "{answer}");
    assert_eq!(answer["stored"], true);
}

#[test]
fn the_check_of_the_queue_finds_what_is_not_sound() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let asked = root.json(&["ask", "--user", "anna", "remember that the roof leaks"]);
    let id = asked["conversation_id"].as_str().unwrap();
    root.ok(&["conversation", "delete", id, "--yes", "--user", "anna"]);
    let sound = root.json(&["queue", "check"]);
    assert_eq!(
        sound,
        json!({"ok": true, "unknown_operations": 0, "unburied_deletions": 0, "without_row": 0})
    );
    assert!(root.ok(&["queue", "check"]).contains("sound"));

    behind(
        &root,
        &[
            "INSERT INTO queue (op, entity_id, created_unix_ms) VALUES ('teleport_message', randomblob(16),
                0)",
            "INSERT INTO queue (op, entity_id, created_unix_ms) VALUES ('insert_message', randomblob(16), 0)",
            "DELETE FROM tombstones",
        ],
    );
    let output = root.run(&["queue", "check", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        found,
        json!({"ok": false, "unknown_operations": 1, "unburied_deletions": 1, "without_row": 1})
    );
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("1 entries are of a newer version") && said.contains("1 deletions lack"), "{said}");
}

/// Processes that change PINs at the same time: none takes back a change of another.
#[test]
fn pins_that_are_set_and_cleared_at_the_same_time_all_count() {
    let root = Root::new();
    let people = ["anna", "ben", "carla", "dora"];
    people.iter().for_each(|name| drop(root.ok(&["user", "add", name])));
    // A PIN stands in for a voice; this test does not ask whether it opens.
    behind(
        &root,
        &["INSERT INTO voiceprints (owner, id, wrapped_key, blob, model_sha256, front_end_sha256, samples,
            net_speech_s, quality, created_unix_ms, created_synced)
            SELECT rid, randomblob(16), randomblob(97), randomblob(60), hex(randomblob(32)),
            hex(randomblob(32)), 3, 12.0, '{}', 1, 1 FROM users"],
    );
    let pin = |args: &[&str]| {
        let mut command = root.command(&[&["voice", "pin"], args].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"274913\n").unwrap();
        child
    };
    let ended = |child: Child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    };
    ended(pin(&["set", "anna"]));
    let path = root.path().join("var/lib/jarvis/jarvis.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // All of them have read the present state before the first can write.
    let children = runtime.block_on(async {
        let mut conn = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut conn).await.unwrap();
        let children =
            [pin(&["set", "ben"]), pin(&["set", "carla"]), pin(&["set", "dora"]), pin(&["clear", "anna"])];
        tokio::time::sleep(Duration::from_secs(2)).await;
        sqlx::query("ROLLBACK").execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        children
    });
    children.into_iter().for_each(ended);
    assert_eq!(root.json(&["voice", "pin", "list"]), json!(["ben", "carla", "dora"]));
}

/// Rows of the audit log that are too old go, here and in Postgres, and do not come back.
#[test]
fn the_audit_log_is_kept_as_long_as_the_configuration_says() {
    let postgres = Postgres::start();
    let mut root = Root::with_config("");
    let mic = Mic::plug_into(&mut root);
    let config = |days: u32| {
        format!(
            "[device]\nid = \"kitchen\"\n[audio]\ndevice = {0:?}\nplayback_device = {0:?}\n[speech]\nenabled \
             = false\n[store]\npostgres_url = {1:?}\npostgres_password_file = {2:?}\naudit_days = {days}\n",
            crate::support::mic::DEVICE,
            postgres.url(),
            postgres.password_file()
        )
    };
    root.write_config(&config(365));
    let Some(run) = with_a_clock_that_is_set(&root.command(&["run", "--events"])) else {
        crate::support::missing::skipped("it needs root to say to the daemon that the clock is set");
        return;
    };
    for name in ["anna", "ben", "carla"] {
        root.ok(&["user", "add", name]);
        root.ok(&["user", "delete", "--yes", name]);
    }
    // The first is two years old, the second was written before the clock was set, by then.
    behind(
        &root,
        &[
            "UPDATE audit SET clock_synced = 1",
            "UPDATE audit SET wall_unix_ms = wall_unix_ms - 2 * 365 * 86400000
                WHERE rid <> (SELECT max(rid) FROM audit)",
            "UPDATE audit SET wall_unix_ms = 4000, clock_synced = 0, boot = (SELECT min(rid) FROM boots)
                WHERE rid = (SELECT min(rid) FROM audit)",
            "INSERT INTO boots (boot_id) VALUES ('another')",
            "UPDATE audit SET boot = (SELECT max(rid) FROM boots)",
        ],
    );
    root.json(&["queue", "drain"]);
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.audit"), "3");
    let mut daemon = Daemon::start(run);
    daemon.wait_event("ready");
    wait_until("the old rows to go here", || behind(&root, &["SELECT '' || count(*) FROM audit"]) == ["1"]);
    wait_until("the old row to go there", || {
        postgres.value("SELECT count(*) FROM jarvis.audit WHERE clock_synced") == "1"
    });
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    root.ok(&["store", "pull"]);
    assert_eq!(root.json(&["audit", "list"]).as_array().unwrap().len(), 1);
    drop(mic);
}

/// `command` on a system whose clock systemd-timesyncd has set: in a file system of its own, with the sign of
/// it in place.
fn with_a_clock_that_is_set(command: &Command) -> Option<Command> {
    let shell = |script: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-ec", script, "sh"]);
        shell
    };
    let sign = "mount --make-rprivate /; mount -t tmpfs none /run; mkdir -p /run/systemd/timesync
        touch /run/systemd/timesync/synchronized";
    if !shell(sign).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return None;
    }
    let mut run = shell(&format!("{sign}; exec \"$@\""));
    run.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        run.env(key, value.unwrap_or_default());
    }
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(run)
}

/// The daemon gives rows of this boot their time as soon as the kernel says that the clock is set.
#[test]
fn what_was_said_before_the_clock_was_set_is_dated_again_by_the_daemon() {
    let mut root = Root::new();
    let mic = Mic::plug_into(&mut root);
    root.write_config(&format!(
        "[audio]\ndevice = {0:?}\nplayback_device = {0:?}\n[speech]\nenabled = false\n",
        crate::support::mic::DEVICE
    ));
    let Some(run) = with_a_clock_that_is_set(&root.command(&["run", "--events"])) else {
        crate::support::missing::skipped("it needs root to say to the daemon that the clock is set");
        return;
    };
    root.ok(&["user", "add", "anna"]);
    root.ok(&["ask", "--user", "anna", "remember that the roof leaks"]);
    // Written as by a device without a clock battery.
    behind(
        &root,
        &[
            "UPDATE messages SET wall_unix_ms = 4000, clock_synced = 0",
            "UPDATE conversations SET updated_unix_ms = 4000, updated_synced = 0, created_synced = 0",
            "DELETE FROM queue",
        ],
    );
    let mut daemon = Daemon::start(run);
    daemon.wait_event("ready");
    let rows = || {
        behind(
            &root,
            &["SELECT clock_synced || ' ' || (abs(wall_unix_ms / 1000.0 - unixepoch()) < 600) FROM messages"],
        )
    };
    wait_until("the true time", || rows() == ["1 1", "1 1"]);
    assert_eq!(
        behind(&root, &["SELECT op || count(*) FROM queue GROUP BY op"]),
        ["insert_message2", "upsert_conversation1"]
    );
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    drop(mic);
}

#[test]
fn a_long_conversation_gets_a_summary_that_forgets_with_it() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let words = "Today the zamboni was late again, and nobody at the station could tell why that was";
    let imported = import(&root, &exported(80, words));
    assert!(imported.status.success(), "{}", stderr(&imported));
    let list = root.json(&["conversation", "list", "--user", "anna"]);
    let id = list[0]["id"].as_str().unwrap().to_owned();
    root.ok(&["ask", "--user", "anna", "--conversation", &id, "hello"]);
    let summary = || behind(&root, &["SELECT summary FROM conversations"]).remove(0);
    assert!(summary().contains("zamboni"), "{}", summary());
    root.ok(&["ask", "--user", "anna", "--conversation", &id, "forget everything about zamboni"]);
    assert!(!summary().contains("zamboni"), "{}", summary());
    let folder = root.path().join("var/lib/jarvis");
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap_or_default();
        assert!(!bytes.windows(7).any(|w| w == b"zamboni"), "{}", path.display());
    }
}

/// SQLite's own shell, as a curious owner uses it.
fn shell(database: &std::path::Path, sql: &str) -> String {
    let shell = Command::new("sqlite3").arg(database).arg(sql).output().unwrap();
    String::from_utf8(shell.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_program_that_looks_into_the_database_does_not_take_the_log_of_the_daemon_away() {
    let mut root = Root::new();
    let mic = Mic::plug_into(&mut root);
    root.write_config(&format!(
        "[audio]\ndevice = {0:?}\nplayback_device = {0:?}\n[speech]\nenabled = false\n",
        crate::support::mic::DEVICE
    ));
    root.ok(&["user", "add", "anna"]);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let database = root.path().join("var/lib/jarvis/jarvis.db");
    let inode = |path: &std::path::Path| fs::metadata(path).map(|file| file.ino()).ok();
    let log = || inode(&database.with_extension("db-wal"));
    let before = log();
    assert!(before.is_some(), "the daemon has no log");
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let lock = format!(":{} ", inode(&database).unwrap());
    let pid = format!(" {} ", daemon.child.id());
    assert!(locks.lines().any(|line| line.contains(&pid) && line.contains(&lock)), "no lock:\n{locks}");
    for n in 0..8 {
        assert_eq!(shell(&database, "SELECT count(*) FROM messages"), (2 * n).to_string());
        assert_eq!(log(), before, "round {n}: the log is another one, or gone");
        root.ok(&["ask", "--user", "anna", &format!("remember that item {n} is in box {n}")]);
    }
    let kept = root.ok(&["conversation", "search", "--user", "anna", "item"]);
    assert!((0..8).all(|n| kept.contains(&format!("box {n}"))), "{kept}");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(!daemon.log().contains("removed"), "{}", daemon.log());
    drop(mic);
}
