//! Settings of a role, a database or the environment: sending and backing up read them the same way, or the
//! commands say so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::{Root, ask, device, drain, server};

/// The lines of `doctor` about Postgres that are not ok.
fn warnings(root: &Root) -> String {
    let output = root.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = report["findings"].as_array().unwrap().iter();
    lines.filter(|f| f["check"] == "Postgres" && f["state"] != "ok").map(|f| format!("{f}\n")).collect()
}

#[test]
fn settings_of_the_role_change_neither_what_is_sent_nor_what_is_backed_up() {
    let postgres = server();
    postgres.execute(
        "ALTER ROLE jarvis CREATEDB;
        ALTER ROLE jarvis SET client_encoding = 'LATIN1';
        ALTER ROLE jarvis SET row_security = off;
        ALTER ROLE jarvis SET search_path = nowhere;
        ALTER ROLE jarvis SET standard_conforming_strings = off;
        ALTER ROLE jarvis SET idle_session_timeout = '2s';
        ALTER ROLE jarvis SET default_transaction_isolation = 'serializable';
        ALTER ROLE jarvis SET datestyle = 'German';
        ALTER ROLE jarvis SET bytea_output = 'escape';
        ALTER ROLE jarvis SET statement_timeout = '100ms'",
    );
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    ask(&root, "anna", "remember that the key 🙂 열쇠 is in the drawer");
    drain(&root);
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages WHERE text LIKE '%🙂 열쇠%'"), "2");
    assert_eq!(root.json(&["backup", "create"])["proven"], true);
    root.ok(&["store", "pull"]);
    root.ok(&["store", "check"]);
    assert_eq!(warnings(&root), "");
}

#[test]
fn a_password_of_the_environment_is_one_for_sending_and_for_backups() {
    let postgres = server();
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    let mut root = Root::with_config(&format!(
        "[device]\nid = \"kitchen\"\n[store]\npostgres_url = {:?}\n",
        postgres.url()
    ));
    root.ok(&["user", "add", "anna"]);
    root.env("PGPASSWORD", postgres.password());
    // Another place, which the programs of Postgres would go to by themselves.
    root.env("PGSERVICE", "elsewhere");
    root.env("PGCLIENTENCODING", "LATIN1");
    ask(&root, "anna", "remember that the key 🙂 is in the drawer");
    drain(&root);
    assert_eq!(root.json(&["backup", "create"])["proven"], true);

    // A file of passwords as the programs of Postgres have it.
    let mut other = Root::with_config(&format!(
        "[device]\nid = \"bedroom\"\n[store]\npostgres_url = {:?}\n",
        postgres.url()
    ));
    let passfile = other.path().join("pgpass");
    fs::write(&passfile, format!("*:*:*:*:{}\n", postgres.password())).unwrap();
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    other.env("PGPASSFILE", &passfile);
    other.ok(&["user", "add", "ben"]);
    drain(&other);
    assert_eq!(other.json(&["backup", "create"])["proven"], true);
}

#[test]
fn doctor_names_the_right_that_the_role_lacks() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    assert!(warnings(&root).contains("CREATEDB"), "{}", warnings(&root));
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    assert_eq!(warnings(&root), "");

    postgres.execute("ALTER ROLE jarvis SET default_transaction_read_only = on");
    assert!(warnings(&root).contains("default_transaction_read_only"), "{}", warnings(&root));
    let told = super::stderr_of(&root, &["store", "take-over", "--yes"], 75);
    assert!(told.contains("default_transaction_read_only"), "{told}");
    postgres.execute("ALTER ROLE jarvis RESET default_transaction_read_only");

    postgres.execute("ALTER TABLE jarvis.messages OWNER TO postgres");
    assert!(warnings(&root).contains("may not bring its tables up to date"), "{}", warnings(&root));
    postgres.lose_database();
    postgres.execute("ALTER DATABASE jarvis OWNER TO postgres");
    assert!(warnings(&root).contains("CREATE SCHEMA jarvis AUTHORIZATION"), "{}", warnings(&root));
}
