//! Words that Postgres did not have when a backup was made: they come back to the device that restores it, or
//! the command says that they do not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::postgres::{device, server};
use super::{Root, backup, backups, holds, refused, remember};
use crate::support::Broker;
use crate::support::postgres::{Postgres, Stop};

/// A kitchen whose last words Postgres does not have, and beside it a new card with only its backups and its
/// configuration.
struct House {
    server: Postgres,
    backup: String,
    card: Root,
}

impl House {
    fn new(id: &str) -> Self {
        let server = server();
        let kitchen = device(&server, "kitchen");
        kitchen.ok(&["user", "add", "anna"]);
        remember(&kitchen, "anna", "the bicycle is in the cellar");
        kitchen.ok(&["queue", "drain"]);
        remember(&kitchen, "anna", "the lemon is sour");
        let backup = backup(&kitchen);
        let card = device(&server, id);
        fs::create_dir_all(backups(&card).parent().unwrap()).unwrap();
        fs::rename(backups(&kitchen), backups(&card)).unwrap();
        Self { server, backup, card }
    }

    fn messages(&self) -> String {
        self.server.value("SELECT count(*) FROM jarvis.messages")
    }

    fn is_whole(&self) {
        self.card.ok(&["queue", "drain"]);
        self.card.ok(&["store", "pull"]);
        assert_eq!(self.messages(), "4");
        assert!(holds(&self.card, "anna", "lemon") && holds(&self.card, "anna", "bicycle"));
    }
}

/// A new card on which a command made the database before its backups were put there.
fn ran_once(house: &House) {
    let aside = house.card.path().join("aside");
    fs::rename(backups(&house.card), &aside).unwrap();
    house.card.ok(&["user", "list"]);
    fs::remove_dir_all(backups(&house.card)).ok();
    fs::rename(&aside, backups(&house.card)).unwrap();
}

#[test]
fn they_come_back_to_a_card_whose_database_is_there_and_empty() {
    let house = House::new("kitchen");
    ran_once(&house);
    let restored = house.card.json(&["backup", "restore", &house.backup, "--in-place", "--yes"]);
    assert_eq!(restored["brought_back"], 2, "{restored}");
    house.is_whole();
}

#[test]
fn they_come_back_to_a_device_of_another_name() {
    for first in [false, true] {
        let house = House::new("attic");
        if first {
            ran_once(&house);
        }
        let restored = house.card.json(&["backup", "restore", &house.backup, "--in-place", "--yes"]);
        assert_eq!(restored["brought_back"], 2, "{restored}");
        house.is_whole();
    }
}

#[test]
fn they_come_back_alone_and_nothing_else_changes() {
    let house = House::new("attic");
    let id = house.server.value("SELECT id FROM jarvis.house");
    let restored = house.card.json(&["backup", "restore", &house.backup, "--undelivered"]);
    assert_eq!(restored["brought_back"], 2, "{restored}");
    house.is_whole();
    assert_eq!(house.server.value("SELECT id FROM jarvis.house"), id, "Postgres is the one that it was");
    let again = house.card.json(&["backup", "restore", &house.backup, "--undelivered"]);
    assert!(again.get("brought_back").is_none(), "{again}");
}

#[test]
fn a_restore_into_another_database_says_that_they_are_not_there() {
    for way in [&["--undelivered"][..], &["--user", "anna"]] {
        let house = House::new("attic");
        let told = refused(&house.card, &["backup", "restore", "latest", "--to", "rebuilt"], 1);
        assert!(told.contains("2 messages") && told.contains(&house.backup), "{told}");
        assert!(told.contains("--undelivered") && told.contains("--user"), "{told}");
        house.card.write_config(&format!(
            "[device]\nid = \"attic\"\n[store]\npostgres_url = {:?}\npostgres_password_file = {:?}\n",
            house.server.url().trim_end_matches("jarvis").to_owned() + "rebuilt",
            house.server.password_file()
        ));
        house.card.ok(&[&["backup", "restore", &house.backup], way].concat());
        house.card.ok(&["queue", "drain"]);
        house.card.ok(&["store", "pull"]);
        assert!(holds(&house.card, "anna", "lemon") && holds(&house.card, "anna", "bicycle"), "{way:?}");
    }
}

/// The finding of `doctor` about the database.
fn database_finding(root: &Root) -> String {
    let told = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    told.lines().find(|line| line.contains(" database ")).unwrap().to_owned()
}

/// A kitchen that lost its memory; the backup made before holds two messages that Postgres does not have.
fn lost_memory() -> House {
    let house = House::new("kitchen");
    let key = house.card.path().join("var/lib/jarvis/voiceprint.key");
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    house
}

#[track_caller]
fn says_what_is_missing(house: &House, reachable: bool) {
    let wanted = format!("jarvisd backup restore {} --undelivered", house.backup);
    let line = database_finding(&house.card);
    assert!(line.starts_with("FAIL") && line.contains("2 messages"), "{line}");
    let doctor = String::from_utf8(house.card.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains(&wanted), "{doctor}");
    let told = house.card.run(&["user", "list"]);
    let said = String::from_utf8(told.stderr).unwrap();
    assert!(told.status.success() && said.contains("2 messages") && said.contains(&wanted), "{said}");
    if reachable {
        let said = refused(&house.card, &["backup", "create"], 1);
        assert!(said.contains("no backup was made") && said.contains(&wanted), "{said}");
    }
    let listed = super::listed(&house.card);
    assert_eq!(listed.len(), 1, "the backup with the words stays the latest: {listed:?}");
}

#[test]
fn a_memory_that_vanished_beside_postgres_says_which_words_are_only_in_a_backup_until_they_are_back() {
    let house = lost_memory();
    says_what_is_missing(&house, true);
    house.card.ok(&["store", "pull"]);
    says_what_is_missing(&house, true);
    house.card.ok(&["backup", "restore", &house.backup, "--undelivered"]);
    house.is_whole();
    let line = database_finding(&house.card);
    assert!(line.contains("is sound, people: 1"), "{line}");
    backup(&house.card);
}

#[test]
fn the_words_that_only_a_backup_has_can_be_given_up() {
    let house = lost_memory();
    house.card.ok(&["user", "list"]);
    house.card.ok(&["store", "accept-empty"]);
    house.card.ok(&["store", "pull"]);
    let line = database_finding(&house.card);
    assert!(line.contains("is sound, people: 1"), "{line}");
    backup(&house.card);
    assert_eq!(house.messages(), "2");
}

#[test]
fn a_memory_that_vanished_is_told_where_postgres_is_away_as_well() {
    let mut house = lost_memory();
    house.server.stop(Stop::Kill);
    says_what_is_missing(&house, false);
}

#[test]
fn the_health_says_which_words_are_only_in_a_backup_until_they_are_back_or_given_up() {
    let broker = Broker::start();
    for give_up in [false, true] {
        let house = lost_memory();
        house.card.write_config(&format!(
            "[device]\nid = \"kitchen\"\n[store]\npostgres_url = {:?}\npostgres_password_file = {:?}\n\
             [mqtt]\nurl = {:?}\n",
            house.server.url(),
            house.server.password_file(),
            broker.url()
        ));
        let mut daemon = house.card.daemon();
        let told = |line: &str| -> Value {
            let health = line.strip_prefix("jarvis/kitchen/health ").unwrap();
            serde_json::from_str::<Value>(health).unwrap()["components"]["memory"].clone()
        };
        let wanted = format!("jarvisd backup restore {} --undelivered", house.backup);
        let mut health = broker.subscribe("jarvis/kitchen/health");
        let line = health.wait_for("the missing words", |l| told(l)["condition"] == "failed");
        assert!(line.contains("2 messages") && line.contains(&wanted), "{line}");
        // It is retained: a later subscriber sees it as well.
        let mut later = broker.subscribe("jarvis/kitchen/health");
        later.wait_for("the retained health", |l| told(l)["condition"] == "failed");
        assert!(database_finding(&house.card).starts_with("FAIL"));
        if give_up {
            house.card.ok(&["store", "accept-empty"]);
        } else {
            house.card.ok(&["backup", "restore", &house.backup, "--undelivered"]);
        }
        health.wait_for("the end of it", |l| told(l)["condition"] == "ok");
        let line = database_finding(&house.card);
        assert!(!line.starts_with("FAIL") && !line.contains("messages that Postgres"), "{line}");
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    }
}

#[test]
fn a_message_whose_id_somebody_else_has_here_stays_in_the_backup_and_is_told() {
    let house = House::new("attic");
    house.card.ok(&["backup", "restore", &house.backup, "--undelivered"]);
    house.card.ok(&["user", "add", "bob"]);
    let database = house.card.path().join("var/lib/jarvis/jarvis.db");
    let to_bob = "UPDATE conversations SET owner = (SELECT rid FROM users WHERE name = 'bob');
        UPDATE messages SET owner = (SELECT rid FROM users WHERE name = 'bob');";
    let moved = std::process::Command::new("sqlite3").arg(&database).arg(to_bob).status();
    assert!(moved.unwrap().success());
    let told = refused(&house.card, &["backup", "restore", &house.backup, "--undelivered"], 1);
    assert!(told.contains("2 messages") && told.contains("another conversation or person"), "{told}");
    assert!(told.contains(&house.backup), "{told}");
    assert!(!holds(&house.card, "anna", "lemon"));
    house.card.ok(&["backup", "restore", &house.backup, "--user", "anna"]);
    assert!(holds(&house.card, "anna", "lemon") && holds(&house.card, "bob", "lemon"));
}
