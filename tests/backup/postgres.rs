//! The same for a real Postgres, which the devices of a house share.

use std::fs;
use std::io::Seek as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Root, backup, backups, holds, leftovers, listed, much, refused, remember, texts};
use crate::support::postgres::{Options, Postgres};
use crate::support::random::Random;

pub fn server() -> Postgres {
    server_with(Options { fsync: false, ..Options::default() })
}

fn server_with(options: Options) -> Postgres {
    let server = Postgres::with(options);
    server.execute("ALTER ROLE jarvis CREATEDB");
    server
}

pub fn device(server: &Postgres, id: &str) -> Root {
    Root::with_config(&format!(
        "[device]\nid = {id:?}\n[store]\npostgres_url = {:?}\npostgres_password_file = {:?}\n",
        server.url(),
        server.password_file()
    ))
}

pub fn kitchen(server: &Postgres) -> Root {
    let root = device(server, "kitchen");
    root.ok(&["user", "add", "anna"]);
    remember(&root, "anna", "the bicycle is in the cellar");
    root.ok(&["queue", "drain"]);
    root
}

fn messages(server: &Postgres) -> String {
    server.value("SELECT count(*) FROM jarvis.messages")
}

fn scratch_databases(server: &Postgres) -> String {
    server.value("SELECT count(*) FROM pg_database WHERE datname LIKE 'jarvis_scratch%'")
}

#[test]
fn a_backup_is_restored_in_place_and_what_was_said_since_reaches_the_database_again() {
    let server = server();
    let root = kitchen(&server);
    let name = backup(&root);
    assert_eq!(scratch_databases(&server), "0");
    let house = server.value("SELECT id FROM jarvis.house");
    remember(&root, "anna", "this was delivered after the backup");
    root.ok(&["queue", "drain"]);
    remember(&root, "anna", "this waited in the queue");
    server.execute("DELETE FROM jarvis.messages");

    let restored = root.json(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert_eq!(restored["messages"], 2, "{restored}");
    assert_eq!(messages(&server), "2");
    assert_ne!(server.value("SELECT id FROM jarvis.house"), house);
    root.ok(&["queue", "drain"]);
    assert_eq!(messages(&server), "6", "nothing that a device has is lost");
    let check = root.json(&["store", "check"]);
    assert_eq!(check["findings"], serde_json::json!([]), "{check}");
    assert_eq!(listed(&root).len(), 2, "the one before and the safety backup");
}

#[test]
fn the_password_is_in_no_argument_no_environment_and_on_no_disk() {
    let server = server();
    let mut root = kitchen(&server);
    let bin = root.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let seen = root.path().join("seen");
    for tool in ["pg_dump", "pg_restore"] {
        let shim = bin.join(tool);
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && exec /usr/bin/{tool} --version\n\
             {{ echo \"$0 $*\"; env; }} >> {}\nexec /usr/bin/{tool} \"$@\"\n",
            seen.display()
        );
        fs::write(&shim, text).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    root.env("PATH", path);
    let folder = backups(&root).join(backup(&root));
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("pg_dump") && seen.contains("pg_restore"), "{seen}");
    assert!(!seen.contains(server.password()), "{seen}");
    for file in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        let secret = server.password().as_bytes();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret));
    }
    // The same with the password in the address.
    root.write_config(&format!(
        "[device]\nid = \"kitchen\"\n[store]\npostgres_url = {:?}\n",
        server.url_with_password()
    ));
    backup(&root);
}

#[test]
fn without_the_right_to_create_databases_a_backup_is_made_and_says_that_it_is_not_proven() {
    let server = server();
    server.execute("ALTER ROLE jarvis NOCREATEDB");
    let root = kitchen(&server);
    let told = refused(&root, &["backup", "create"], 1);
    assert!(told.contains("is not proven") && told.contains("CREATEDB"), "{told}");
    assert_eq!(listed(&root)[0]["proven"], false);
    root.ok(&["backup", "verify", "latest", "--level", "full"]);
}

#[test]
fn a_policy_that_hides_rows_from_the_backup_is_refused_loudly() {
    let server = server();
    let root = kitchen(&server);
    server.execute("CREATE POLICY hidden ON jarvis.messages AS RESTRICTIVE USING (seq <> 1)");
    let told = refused(&root, &["backup", "create"], 1);
    assert!(told.contains("row-level security") && told.contains("messages"), "{told}");
    assert!(listed(&root).is_empty());
    assert_eq!(leftovers(&root), [""; 0]);
}

#[test]
fn a_device_that_lost_its_card_delivers_what_was_in_its_queue_when_the_backup_was_made() {
    let server = server();
    let root = kitchen(&server);
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    remember(&root, "anna", "this was never delivered");
    let name = backup(&root);
    fs::remove_dir_all(root.path().join("var/lib/jarvis")).unwrap();
    assert_eq!(messages(&server), "2");
    root.ok(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert!(db.exists());
    root.ok(&["queue", "drain"]);
    assert_eq!(messages(&server), "4");
    root.ok(&["store", "pull"]);
    assert!(holds(&root, "anna", "never delivered") && holds(&root, "anna", "bicycle"));
}

#[test]
fn another_database_takes_a_backup_and_one_that_is_in_use_does_not() {
    let server = server();
    let root = kitchen(&server);
    backup(&root);
    let restored = root.json(&["backup", "restore", "latest", "--to", "rebuilt"]);
    assert_eq!(restored["messages"], 2, "{restored}");
    for to in ["rebuilt", "jarvis"] {
        let told = refused(&root, &["backup", "restore", "latest", "--to", to], 1);
        assert!(told.contains("already"), "{told}");
    }
    let told = refused(&root, &["backup", "restore", "latest", "--to", "x\"; DROP DATABASE jarvis"], 1);
    assert!(told.contains("cannot be the name"), "{told}");
    // A device that is pointed there goes on.
    root.write_config(&format!(
        "[device]\nid = \"kitchen\"\n[store]\npostgres_url = {:?}\npostgres_password_file = {:?}\n",
        server.url().trim_end_matches("jarvis").to_owned() + "rebuilt",
        server.password_file()
    ));
    remember(&root, "anna", "a new house");
    root.ok(&["queue", "drain"]);
    assert_eq!(root.json(&["store", "check"])["there"]["messages"], 4);
}

#[test]
fn one_person_and_one_conversation_come_back_out_of_postgres() {
    let server = server();
    let root = kitchen(&server);
    let name = backup(&root);
    let id = root.json(&["conversation", "list", "--user", "anna"])[0]["id"].as_str().unwrap().to_owned();
    root.ok(&["conversation", "delete", &id, "--user", "anna", "--yes"]);
    root.ok(&["queue", "drain"]);
    assert_eq!(messages(&server), "0");
    root.ok(&["backup", "restore", &name, "--conversation", &id]);
    root.ok(&["queue", "drain"]);
    assert_eq!(messages(&server), "2");
    let merged = root.json(&["backup", "restore", &name, "--user", "Anna"]);
    assert_eq!(merged["added"], false, "{merged}");
    assert_eq!(scratch_databases(&server), "0");
}

#[test]
fn the_programs_of_postgres_check_the_certificate_as_the_daemon_does() {
    let server = server_with(Options { fsync: false, tls: true, ..Options::default() });
    let root = kitchen(&server);
    let with = |ca: PathBuf| {
        root.write_config(&format!(
            "[device]\nid = \"kitchen\"\n[store]\npostgres_url = {:?}\npostgres_password_file = {:?}\n\
             postgres_ca_file = {ca:?}\n",
            server.url(),
            server.password_file()
        ));
    };
    with(server.ca_file());
    backup(&root);
    with(server.other_ca_file());
    let told = refused(&root, &["backup", "create"], 69);
    assert!(told.contains("certificate"), "{told}");
}

#[test]
fn a_damaged_dump_is_found_at_every_level_and_nothing_of_it_is_restored() {
    let server = server();
    let root = kitchen(&server);
    much(&root, 5);
    root.ok(&["queue", "drain"]);
    let name = backup(&root);
    let before = messages(&server);
    let mut random = Random::for_test("a_damaged_dump");
    for file in ["database.zst", "queue.zst", "config.zst", "manifest.json"] {
        let path = backups(&root).join(&name).join(file);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
        fs::write(&path, bytes).unwrap();
        for level in ["quick", "full", "restore"] {
            refused(&root, &["backup", "verify", &name, "--level", level], 65);
        }
        refused(&root, &["backup", "restore", &name, "--in-place", "--yes"], 65);
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(messages(&server), before);
    root.ok(&["backup", "verify", &name]);
}

#[test]
fn a_restore_or_a_backup_that_is_killed_leaves_the_database_whole_and_nothing_that_stays() {
    let server = server();
    let root = kitchen(&server);
    much(&root, 100);
    root.ok(&["queue", "drain"]);
    let name = backup(&root);
    remember(&root, "anna", "later");
    root.ok(&["queue", "drain"]);
    let (old, new) = ("5002", "5004");
    assert_eq!(messages(&server), new);
    let mut random = Random::for_test("kill_postgres");
    let started = Instant::now();
    root.ok(&["backup", "create"]);
    let whole = usize::try_from(started.elapsed().as_millis()).unwrap();
    for n in 0..10 {
        let restore = ["backup", "restore", &name, "--in-place", "--yes"];
        let args = if n % 2 == 0 { &restore[..] } else { &["backup", "create"] };
        let mut child = root.command(args).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(u64::try_from(random.below(whole)).unwrap()));
        let _ = child.kill();
        child.wait().unwrap();
        let found = messages(&server);
        assert!([old, new].contains(&found.as_str()), "{found} messages");
        assert!(listed(&root).iter().all(|found| found.get("fault").is_none()));
    }
    // Sessions of the killed ones may still be ending.
    root.ok(&["backup", "restore", &name, "--in-place", "--yes"]);
    assert_eq!(messages(&server), old);
    root.ok(&["queue", "drain"]);
    assert_eq!(messages(&server), new, "the device sends what the backup lacks");
    backup(&root);
    assert_eq!((scratch_databases(&server).as_str(), leftovers(&root)), ("0", Vec::new()));
    assert_eq!(texts(&root, "anna").len(), 5_004);
}

/// Of format 1, when rows were hashed as text, and of format 2.
/// The schema as it was before the latest migration.
const SCHEMA_OF_BEFORE: &str = "ALTER TABLE jarvis.devices DROP COLUMN memory, DROP COLUMN token;
    DELETE FROM jarvis.schema_version WHERE version = 4";

#[test]
fn before_the_schema_of_the_house_changes_a_backup_is_made_and_without_a_place_it_changes_all_the_same() {
    let server = server();
    let root = kitchen(&server);
    let version = || server.value("SELECT max(version) FROM jarvis.schema_version");
    let newest = version();
    server.execute(SCHEMA_OF_BEFORE);
    // The first to connect is a command …
    root.ok(&["queue", "drain"]);
    assert_eq!(version(), newest);
    let all = listed(&root);
    let (kind, made) = (&all[0]["kind"], &all[0]["manifest"]);
    assert_eq!((all.len(), kind, &made["origin"]), (1, &json!("safety"), &json!("postgres")));
    assert_eq!(made["schema_version"], 3);
    assert_eq!(root.json(&["backup", "verify", "latest"])["proven"], true);
    root.ok(&["queue", "drain"]);
    assert_eq!(listed(&root).len(), 1, "the schema is the present one");
    let restored = root.json(&["backup", "restore", "latest", "--to", "jarvis_before", "--yes"]);
    assert_eq!(restored["messages"], 2, "{restored}");

    // … or the daemon, first with something in the way.
    fs::remove_dir_all(backups(&root)).unwrap();
    fs::write(backups(&root), "a file in the way").unwrap();
    for (place, told) in [(false, "without a backup of it"), (true, "is a backup of Postgres")] {
        server.execute(SCHEMA_OF_BEFORE);
        if place {
            fs::remove_file(backups(&root)).unwrap();
        }
        let mut daemon = root.daemon();
        daemon.wait_log(told);
        server.wait_for("SELECT max(version) FROM jarvis.schema_version", &newest);
        assert_eq!(daemon.stop(), Some(0));
    }
    assert_eq!(listed(&root)[0]["manifest"]["schema_version"], 3);
}

#[test]
fn a_backup_of_each_format_still_proves_and_restores() {
    for fixture in ["backup-v1-postgres", "backup-v2-postgres"] {
        let server = server();
        let root = device(&server, "kitchen");
        let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(fixture);
        assert_eq!(super::put(&root, &fixture), 1);
        assert_eq!(root.json(&["backup", "verify", "latest"])["proven"], true);
        root.ok(&["backup", "restore", "latest", "--in-place", "--yes"]);
        assert_eq!(messages(&server), "2");
    }
}

#[test]
fn a_backup_can_be_read_without_the_program() {
    let server = server();
    let root = kitchen(&server);
    much(&root, 30);
    root.ok(&["queue", "drain"]);
    let file = fs::File::open(backups(&root).join(backup(&root)).join("database.zst")).unwrap();
    let mut columns = tempfile::tempfile().unwrap();
    zstd::stream::copy_decode(file, &mut columns).unwrap();
    columns.rewind().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/dump-columns.py");
    let mut lines = Command::new(script).arg("--back").stdin(columns).stdout(Stdio::piped()).spawn().unwrap();
    let dump = lines.stdout.take().unwrap();
    let read = Command::new("pg_restore").arg("--file=-").stdin(dump).output().unwrap();
    assert!(lines.wait().unwrap().success() && read.status.success(), "{read:?}");
    let read = String::from_utf8(read.stdout).unwrap();
    for text in texts(&root, "anna") {
        assert!(read.contains(&text), "{text}");
    }
}

#[tokio::test]
async fn a_cut_and_a_flipped_bit_in_a_dump_are_found_and_no_database_is_made_of_it() {
    let server = server();
    let root = kitchen(&server);
    much(&root, 20);
    root.ok(&["queue", "drain"]);
    let folder = backups(&root).join(backup(&root));
    let keys = jarvisd::backup::keys::Keys::default();
    super::damage::cuts_and_flips(&root, &folder, &keys, "a_cut_and_a_flipped_bit_in_a_dump_are_found").await;
    assert_eq!(server.value("SELECT count(*) FROM pg_database WHERE datname = 'restored'"), "0");
    assert_eq!(scratch_databases(&server), "0");
    assert_eq!(root.json(&["backup", "verify", "latest"])["proven"], true, "whole again, it is good");
}
