//! An older dump that the owner of the server puts back by hand: the database keeps its id.

use serde_json::json;

use super::{Root, ask, device, drain, house, pull, server, texts, with_microphone};
use crate::support::wait_until;

const TOLD: &str = "Postgres was put back to an older state";

fn doctor(root: &Root) -> String {
    String::from_utf8(root.run(&["doctor"]).stdout).unwrap()
}

#[test]
fn what_an_older_dump_lacks_is_sent_again_by_every_device_and_told_once() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    ask(&kitchen, "anna", "remember that the ladder is in the shed");
    drain(&kitchen);
    pull(&bedroom);
    drain(&bedroom);
    let dump = postgres.dump();
    ask(&kitchen, "anna", "remember that the bicycle is in the cellar");
    drain(&kitchen);
    pull(&bedroom);
    // The bedroom has sent none of the lost rows, and has read the present ones.
    postgres.execute(&dump);
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "2");

    let output = kitchen.run(&["queue", "drain"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains(TOLD), "{told}");
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "4");
    assert!(doctor(&kitchen).contains(TOLD));
    let again = kitchen.run(&["queue", "drain"]);
    assert!(!String::from_utf8(again.stderr).unwrap().contains(TOLD));

    // New rows have numbers that the bedroom has passed already.
    ask(&kitchen, "anna", "remember that the kite is in the attic");
    drain(&kitchen);
    drain(&bedroom);
    pull(&bedroom);
    pull(&kitchen);
    assert_eq!((texts(&bedroom, "anna").len(), texts(&kitchen, "anna").len()), (6, 6));
    for root in [&kitchen, &bedroom] {
        assert_eq!(root.json(&["store", "check"])["findings"], json!([]));
    }
}

#[test]
fn a_device_that_only_read_what_is_gone_notices_it_too() {
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    drain(&kitchen);
    pull(&bedroom);
    let dump = postgres.dump();
    ask(&kitchen, "anna", "remember that the bicycle is in the cellar");
    drain(&kitchen);
    pull(&bedroom);
    postgres.execute(&dump);
    drain(&bedroom);
    assert!(doctor(&bedroom).contains(TOLD));
    assert_ne!(kitchen.json(&["queue", "drain"])["sent"], 0);
    assert_eq!(postgres.value("SELECT count(*) FROM jarvis.messages"), "2");
}

#[test]
fn the_daemon_sends_again_what_an_older_dump_lacks_that_is_put_back_under_its_connection() {
    let postgres = server();
    let (root, mic) = with_microphone(device(&postgres, "kitchen"));
    root.ok(&["user", "add", "anna"]);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    ask(&root, "anna", "remember that the ladder is in the shed");
    postgres.wait_for("SELECT count(*) FROM jarvis.messages", "2");
    wait_until("the queue to be empty", || root.json(&["queue", "status"])["entries"] == 0);
    let dump = postgres.dump();
    ask(&root, "anna", "remember that the bicycle is in the cellar");
    postgres.wait_for("SELECT count(*) FROM jarvis.messages", "4");
    wait_until("the queue to be empty", || root.json(&["queue", "status"])["entries"] == 0);
    postgres.execute(&dump);
    ask(&root, "anna", "remember that the kite is in the attic");
    postgres.wait_for("SELECT count(*) FROM jarvis.messages", "6");
    daemon.wait_log(TOLD);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    drop(mic);
    assert_eq!(root.json(&["store", "check"])["findings"], json!([]));
}

#[test]
fn a_server_that_crashes_is_not_taken_for_one_that_was_put_back() {
    let mut postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    for n in 0..3 {
        ask(&kitchen, "anna", &format!("remember that item {n} is in the shed"));
        drain(&kitchen);
        pull(&bedroom);
        postgres.restart(crate::support::postgres::Stop::Kill);
    }
    let id = postgres.value("SELECT id FROM jarvis.house");
    drain(&kitchen);
    drain(&bedroom);
    assert_eq!(postgres.value("SELECT id FROM jarvis.house"), id);
    assert!(!doctor(&kitchen).contains(TOLD));
}
