//! Memory that is shared through a real Postgres: what was said while it was away, two devices, deletions, refusals.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::Value;
use support::Root;
use support::postgres::{Options, Postgres, Stop};

/// A device that knows the database.
fn device(postgres: &Postgres, id: &str) -> Root {
    device_with(postgres, id, &format!("postgres_url = {:?}\n", postgres.url()))
}

fn device_with(postgres: &Postgres, id: &str, store: &str) -> Root {
    let root = Root::with_config(&format!(
        "[device]\nid = {id:?}\n[store]\npostgres_password_file = {:?}\n{store}",
        postgres.password_file()
    ));
    root
}

fn ask(root: &Root, user: &str, text: &str) -> Value {
    root.json(&["ask", "--user", user, text])
}

fn stderr_of(root: &Root, args: &[&str], exit: i32) -> String {
    let output = root.run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {text}");
    text
}

fn server() -> Postgres {
    Postgres::with(Options { fsync: false, ..Options::default() })
}

#[test]
fn what_was_said_while_postgres_was_away_arrives_exactly_once_and_in_order() {
    let mut postgres = server();
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    postgres.stop(Stop::Fast);
    for n in 0..5 {
        ask(&root, "anna", &format!("remember that item {n} is on shelf {n}"));
    }
    let away = stderr_of(&root, &["queue", "drain"], 75);
    assert!(away.contains("connecting to Postgres") && away.contains("127.0.0.1"), "{away}");
    let status = root.json(&["queue", "status"]);
    assert_eq!((&status["entries"], &status["reachable"]), (&12.into(), &false.into()), "{status}");

    postgres.boot();
    let drained = root.json(&["queue", "drain"]);
    assert_eq!((&drained["sent"], &drained["entries"]), (&12.into(), &0.into()), "{drained}");
    let rows = postgres.query("SELECT seq, role, text FROM jarvis.messages ORDER BY seq");
    assert_eq!(rows.len(), 10);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row[0], (i + 1).to_string());
        assert_eq!(row[1], if i % 2 == 0 { "user" } else { "assistant" });
        assert!(row[2].contains(&format!("item {}", i / 2)), "{row:?}");
    }
    assert_eq!(root.json(&["queue", "drain"])["sent"], 0);
    assert_eq!(postgres.value("SELECT next_seq FROM jarvis.conversations"), "11");
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.users WHERE name = 'anna'"), "1");
}
