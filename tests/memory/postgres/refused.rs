//! Words that Postgres will never take: they are kept, they come back, and the commands say so.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{Root, ask, device, drain, drain_refused, server, stderr_of, texts, with_microphone};
use crate::support::Voice;
use crate::support::postgres::Postgres;

const XYLOPHONE: &str =
    "ALTER TABLE jarvis.messages ADD CONSTRAINT no_xylophone CHECK (text NOT LIKE '%xylophone%')";

/// A device of which Postgres refuses two notes with their answers (a rule) and one message of an import (a
/// NUL in `meta`).
fn refused(postgres: &Postgres) -> Root {
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    let root = device(postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    ask(&root, "anna", "remember that the ladder is in the shed");
    drain(&root);
    postgres.execute(XYLOPHONE);
    ask(&root, "anna", "remember that the xylophone is under the stairs 🙂 열쇠");
    let file = root.path().join("import.json");
    let document = json!({
        "id": "0190a000-0001-7000-8000-000000000001", "title": "letters",
        "created_unix_ms": 1_700_000_000_000_i64, "updated_unix_ms": 1_700_000_000_000_i64,
        "messages": [{
            "id": "0190a000-0001-7000-8000-000000000002", "seq": 1, "role": "user", "kind": "say",
            "text": "the trombone",
            "wall_unix_ms": 1_700_000_000_000_i64, "clock_synced": true, "meta": {"engine": "a\u{0}b"},
        }],
    });
    fs::write(&file, document.to_string()).unwrap();
    root.ok(&["conversation", "import", file.to_str().unwrap(), "--user", "anna"]);
    assert_eq!(drain_refused(&root)["set_aside"], 3);
    assert_eq!(root.json(&["queue", "status"])["complete"], false, "Postgres does not have everything");
    root
}

fn findings(root: &Root) -> String {
    let output = root.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = report["findings"].as_array().unwrap().clone();
    let ours: Vec<String> =
        all.iter().filter(|f| f["check"] == "Postgres" && f["state"] != "ok").map(Value::to_string).collect();
    ours.join("\n")
}

fn lose_card(root: &Root) {
    fs::remove_dir_all(root.path().join("var/lib/jarvis")).unwrap();
}

fn sent(postgres: &Postgres) -> String {
    let all = "SELECT count(*) FROM jarvis.messages WHERE text LIKE '%xylophone%' OR text LIKE '%trombone%'";
    postgres.value(all)
}

#[test]
fn what_postgres_refused_is_in_the_backup_is_counted_comes_back_and_is_sent_after_the_mend() {
    let postgres = server();
    let root = refused(&postgres);
    assert!(findings(&root).contains("3 messages are not in Postgres"), "{}", findings(&root));
    let (root, mic) = with_microphone(root);
    let mut daemon = root.daemon();
    daemon.wait_log("3 messages are not in Postgres");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    drop(mic);
    let made = root.json(&["backup", "create"]);
    assert_eq!((&made["proven"], &made["manifest"]["undelivered"]["messages"]), (&true.into(), &3.into()));
    for args in [vec!["backup", "list"], vec!["backup", "verify", "latest"]] {
        let told = root.ok(&args);
        assert!(told.contains("3 messages are not in Postgres"), "{told}");
    }

    lose_card(&root);
    let told = root.ok(&["backup", "restore", "latest", "--in-place", "--yes"]);
    assert!(told.contains("3 messages that were not in Postgres are back"), "{told}");
    let letters = root.json(&["queue", "dead-letter", "list"]);
    assert_eq!(letters.as_array().unwrap().len(), 3, "{letters}");
    let kept = texts(&root, "anna").join("\n");
    assert!(kept.contains("xylophone") && kept.contains("열쇠") && kept.contains("trombone"), "{kept}");

    postgres.execute("ALTER TABLE jarvis.messages DROP CONSTRAINT no_xylophone");
    root.json(&["queue", "dead-letter", "retry", "--all"]);
    let drained = drain_refused(&root);
    assert_eq!((&drained["without_row"], &drained["set_aside"]), (&0.into(), &1.into()), "{drained}");
    assert_eq!(sent(&postgres), "2", "the NUL stays refused");
    assert!(findings(&root).contains("1 message is not in Postgres"), "{}", findings(&root));
}

/// A trigger that returns NULL drops a row and reports nothing.
#[test]
fn rows_that_a_trigger_swallows_are_set_aside_and_sent_after_the_mend() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    root.enrol("anna", Voice::Rms);
    root.ok(&["user", "add", "ben"]);
    drain(&root);
    postgres
        .execute("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'");
    let count = |table: &str| postgres.value(&format!("SELECT count(*) FROM jarvis.{table}"));
    let told = |letters: &Value, table: &str| {
        let letters = letters.as_array().unwrap();
        let error = |letter: &Value| letter["error"].as_str().unwrap().to_owned();
        assert!(!letters.is_empty(), "{table}");
        assert!(
            letters.iter().all(|letter| error(letter).contains(&format!("jarvis.{table} "))),
            "{letters:?}"
        );
    };
    let note = "remember that the ladder is in the shed";
    let recall = "what do you remember about the ladder";
    let id = root.json(&["user", "show", "anna"])["id"].as_str().unwrap().to_owned();
    let acts: [(&str, &str, &[&str]); 7] = [
        ("conversations", "INSERT", &["ask", "--user", "anna", "--new", note]),
        ("messages", "INSERT", &["ask", "--user", "anna", note]),
        ("message_sources", "INSERT", &["ask", "--user", "anna", recall]),
        ("users", "UPDATE", &["user", "rename", "anna", "Anne"]),
        ("audit", "INSERT", &["user", "delete", "ben", "--yes"]),
        ("voiceprints", "DELETE", &["voice", "delete", "--user", "anne", "--yes"]),
        ("users", "DELETE", &["user", "delete", "anne", "--yes"]),
    ];
    for (table, event, act) in acts {
        postgres.execute(&format!(
            "CREATE TRIGGER swallow BEFORE {event} ON jarvis.{table} FOR EACH ROW EXECUTE FUNCTION swallow()"
        ));
        let before = count(table);
        root.ok(act);
        let drained = drain_refused(&root);
        assert_ne!(drained["set_aside"], 0, "{table}: {drained}");
        assert_eq!(count(table), before, "{table}");
        told(&root.json(&["queue", "dead-letter", "list"]), table);
        postgres.execute(&format!("DROP TRIGGER swallow ON jarvis.{table}"));
        root.json(&["queue", "dead-letter", "retry", "--all"]);
        let drained = drain(&root);
        assert_eq!(
            (&drained["set_aside"], &drained["complete"]),
            (&0.into(), &true.into()),
            "{table}: {drained}"
        );
        root.ok(&["store", "check"]);
        // Rows that are there already are no fault.
        root.ok(&["store", "check", "--repair"]);
    }
    assert_eq!(postgres.value(&format!("SELECT count(*) FROM jarvis.users WHERE id = '{id}'")), "0");
}

#[test]
fn what_postgres_refused_comes_back_into_the_memory_of_a_card_that_has_read_the_house_already() {
    let postgres = server();
    let root = refused(&postgres);
    // A dropped entry is not thrown away: it is on this device only, so it is in its backups.
    root.ok(&["queue", "dead-letter", "drop", "--all", "--yes"]);
    assert_eq!(root.json(&["queue", "status"])["dead_letters"], 0);
    let given_up = "3 messages that were given up are not in Postgres";
    for told in [root.ok(&["queue", "status"]), String::from_utf8(root.run(&["doctor"]).stdout).unwrap()] {
        assert!(told.contains(given_up), "{told}");
    }
    assert_eq!(findings(&root), "", "there is nothing to be done about them");
    let made = root.json(&["backup", "create"]);
    let undelivered = json!({"messages": 3, "refused": 3, "given_up": 3});
    assert_eq!(made["manifest"]["undelivered"], undelivered, "{made}");
    let told = root.ok(&["backup", "list"]);
    assert!(told.contains("refused 3, which somebody gave up") && !told.contains("dead-letter"), "{told}");
    lose_card(&root);
    root.ok(&["store", "pull"]);
    assert!(!texts(&root, "anna").join("\n").contains("xylophone"));
    let restored = root.json(&["backup", "restore", "latest", "--in-place", "--yes"]);
    assert_eq!(restored["brought_back"], 3, "{restored}");
    let kept = texts(&root, "anna").join("\n");
    assert!(kept.contains("xylophone") && kept.contains("trombone"), "{kept}");
    postgres.execute("ALTER TABLE jarvis.messages DROP CONSTRAINT no_xylophone");
    drain_refused(&root);
    assert_eq!(sent(&postgres), "2");
}

#[test]
fn one_person_is_restored_with_the_words_that_were_never_in_postgres() {
    let postgres = server();
    let root = refused(&postgres);
    root.ok(&["backup", "create"]);
    lose_card(&root);
    root.ok(&["backup", "restore", "latest", "--user", "anna"]);
    let kept = texts(&root, "anna").join("\n");
    assert!(kept.contains("ladder") && kept.contains("xylophone") && kept.contains("trombone"), "{kept}");
    // Postgres knows her and her words: they are the same person's.
    postgres.execute("ALTER TABLE jarvis.messages DROP CONSTRAINT no_xylophone");
    root.ok(&["store", "take-over", "--yes"]);
    drain_refused(&root);
    assert_eq!(sent(&postgres), "2");
    root.ok(&["store", "pull"]);
    assert_eq!(root.json(&["user", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn one_person_is_restored_on_another_device_of_the_house_as_the_same_person() {
    let postgres = server();
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    let kitchen = device(&postgres, "kitchen");
    kitchen.ok(&["user", "add", "anna"]);
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    drain(&kitchen);
    kitchen.ok(&["backup", "create"]);
    // The hall has met Postgres, where it has sent somebody of the same name, and has read nothing yet.
    let hall = device(&postgres, "hall");
    hall.ok(&["user", "add", "anna"]);
    drain(&hall);
    let backups = |root: &Root| root.path().join("var/backups");
    let copied = Command::new("cp").arg("-a").args([backups(&kitchen), backups(&hall)]).status();
    assert!(copied.unwrap().success());
    hall.ok(&["backup", "restore", "latest", "--user", "anna"]);
    ask(&hall, "anna", "remember that the bicycle is in the cellar");
    drain(&hall);
    assert_eq!(hall.json(&["queue", "status"])["dead_letters"], 0);
    assert_eq!(hall.json(&["store", "check"])["findings"], serde_json::json!([]));
}

#[test]
fn an_export_is_read_on_another_device_of_the_house_which_learns_first_whose_the_words_are() {
    let postgres = server();
    let kitchen = device(&postgres, "kitchen");
    kitchen.ok(&["user", "add", "anna"]);
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    drain(&kitchen);
    // The hall has met Postgres, where it has sent somebody of the same name, and has read nothing yet.
    let mut hall = device(&postgres, "hall");
    hall.ok(&["user", "add", "anna"]);
    drain(&hall);
    let file = |name: &str| hall.path().join(name).to_str().unwrap().to_owned();
    let (hers, all) = (file("hers.json"), file("all.jsonl"));
    kitchen.ok(&["conversation", "export", "--user", "anna", "--out", &hers]);
    kitchen.ok(&["backup", "export", "--out", &all]);
    let imports = [&["conversation", "import", "--user", "anna", &hers][..], &["backup", "import", &all]];
    for import in imports {
        hall.ok(import);
    }
    let kept = texts(&hall, "anna").join("\n");
    assert!(kept.contains("ladder"), "{kept}");
    ask(&hall, "anna", "remember that the bicycle is in the cellar");
    drain(&hall);
    assert_eq!(hall.json(&["queue", "status"])["dead_letters"], 0);
    assert_eq!(hall.json(&["store", "check"])["findings"], json!([]));

    // At another address the ids are unknown again, regardless of earlier reads; nothing is stored while it
    // is away.
    hall.env("JARVIS__STORE__POSTGRES_URL", "postgres://jarvis@127.0.0.1:1/elsewhere");
    let before = texts(&hall, "anna");
    for import in imports {
        let told = stderr_of(&hall, import, 75);
        assert!(told.contains("may be another person's") && told.contains("try again"), "{told}");
    }
    assert_eq!(texts(&hall, "anna"), before);
}

#[test]
fn a_retry_of_what_is_not_on_the_device_any_more_says_so_and_sends_nothing() {
    let postgres = server();
    let root = refused(&postgres);
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let delete = "DELETE FROM messages WHERE text LIKE '%xylophone%'";
    assert!(Command::new("sqlite3").arg(&db).arg(delete).status().unwrap().success());
    postgres.execute("ALTER TABLE jarvis.messages DROP CONSTRAINT no_xylophone");
    let told = stderr_of(&root, &["queue", "dead-letter", "retry", "--all"], 1);
    assert!(told.contains("2 of them name rows that are not on this device any more"), "{told}");
    assert_eq!(root.json(&["queue", "dead-letter", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(drain_refused(&root)["sent"], 0);
    root.ok(&["queue", "dead-letter", "drop", "--all", "--yes"]);
}

#[test]
fn what_another_database_takes_is_no_dead_letter_any_more() {
    let postgres = server();
    let root = refused(&postgres);
    postgres.lose_database();
    drain_refused(&root);
    let letters = root.json(&["queue", "dead-letter", "list"]);
    assert_eq!(letters.as_array().unwrap().len(), 1, "only the NUL is refused again: {letters}");
    assert_eq!(sent(&postgres), "2");
}

#[test]
fn a_database_of_another_encoding_is_refused_once_and_nothing_is_set_aside() {
    let postgres = server();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        postgres.lose_database_to(&format!(
            "TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
        let root = device(&postgres, "kitchen");
        root.ok(&["user", "add", "anna"]);
        ask(&root, "anna", "remember that the key 🙂 열쇠 is in the drawer");
        for args in [["queue", "drain"], ["store", "pull"], ["backup", "create"]] {
            let told = stderr_of(&root, &args, 69);
            assert!(told.contains(encoding) && told.contains("UTF8") && told.contains("createdb"), "{told}");
        }
        let status = root.json(&["queue", "status"]);
        assert_eq!(status["dead_letters"], 0, "{status}");
        assert!(status["entries"].as_i64().unwrap() > 0, "{status}");
        assert!(findings(&root).contains(encoding), "{}", findings(&root));
    }
}
