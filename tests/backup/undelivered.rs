//! Words that Postgres did not have when a backup was made: they come back to whichever device restores it,
//! or the command says that they do not.

use std::fs;

use super::postgres::{device, server};
use super::{Root, backup, backups, holds, refused, remember};
use crate::support::postgres::Postgres;

/// A kitchen whose last words Postgres does not have, and a new card beside it that has nothing but its
/// backups and its configuration.
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
