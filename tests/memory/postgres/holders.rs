//! One device id and two memories: the second is held back, nothing is lost, and the rightful one goes on.

use std::fs;
use std::path::Path;

use super::{Root, ask, device, drain, pull, server, stderr_of, texts, with_microphone};
use crate::support::postgres::Postgres;

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The card of `root`, copied.
fn clone_of(postgres: &Postgres, root: &Root) -> Root {
    let copy = device(postgres, "raspberrypi");
    copy_folder(&root.path().join("var/lib/jarvis"), &copy.path().join("var/lib/jarvis"));
    copy
}

fn held_back(root: &Root) {
    let told = stderr_of(root, &["queue", "drain"], 75);
    for part in ["another memory sends as \"raspberrypi\"", "device.id", "jarvisd store take-over"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let status = root.json(&["queue", "status"]);
    assert_eq!(status["dead_letters"], 0, "{status}");
    assert!(status["entries"].as_i64().unwrap() > 0, "{status}");
    assert!(status["error"].as_str().unwrap().contains("another memory"), "{status}");
}

fn messages(postgres: &Postgres, like: &str) -> String {
    postgres.value(&format!("SELECT count(*) FROM jarvis.messages WHERE text LIKE '%{like}%'"))
}

#[test]
fn the_second_of_two_memories_with_one_id_is_held_back_until_it_has_an_id_of_its_own() {
    let postgres = server();
    let first = device(&postgres, "raspberrypi");
    first.ok(&["user", "add", "anna"]);
    ask(&first, "anna", "remember that the ladder is in the shed");
    drain(&first);
    let (mut second, mic) = with_microphone(device(&postgres, "raspberrypi"));
    second.ok(&["user", "add", "ben"]);
    ask(&second, "ben", "remember that the bicycle is in the cellar");
    held_back(&second);
    let doctor = String::from_utf8(second.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("another memory sends"), "{doctor}");
    let mut daemon = second.daemon();
    daemon.wait_event("ready");
    daemon.wait_log("another memory sends as");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    drop(mic);
    // The first goes on.
    ask(&first, "anna", "remember that the umbrella is in the hall");
    drain(&first);
    assert_eq!(messages(&postgres, "bicycle"), "0");

    second.env("JARVIS__DEVICE__ID", "pantry");
    drain(&second);
    assert_eq!(messages(&postgres, "bicycle"), "2");
    pull(&second);
    assert_eq!(texts(&second, "anna").len(), 4, "it reads what was written under the id that it had");
    drain(&first);
}

#[test]
fn a_copied_card_loses_no_word_although_both_went_on_with_one_conversation() {
    let postgres = server();
    let first = device(&postgres, "raspberrypi");
    first.ok(&["user", "add", "anna"]);
    ask(&first, "anna", "remember that the ladder is in the shed");
    drain(&first);
    let mut second = clone_of(&postgres, &first);
    let one = ask(&first, "anna", "remember that the umbrella is in the hall");
    let other = ask(&second, "anna", "remember that the bicycle is in the cellar");
    ask(&second, "anna", "remember that the trumpet is in the attic");
    assert_eq!(one["conversation_id"], other["conversation_id"]);
    drain(&first);
    held_back(&second);

    second.env("JARVIS__DEVICE__ID", "pantry");
    let drained = drain(&second);
    assert_eq!((&drained["set_aside"], &drained["dead_letters"]), (&0.into(), &0.into()), "{drained}");
    let all = postgres.value("SELECT string_agg(seq::text, ',' ORDER BY seq) FROM jarvis.messages");
    assert_eq!(all.split(',').count(), 8, "{all}");
    for root in [&first, &second] {
        pull(root);
        let texts = texts(root, "anna");
        assert_eq!(texts.len(), 8, "{texts:?}");
    }
    second.ok(&["store", "check"]);
    drain(&first);
}

#[test]
fn whoever_takes_over_goes_on_and_the_other_is_held_back_and_may_take_it_back() {
    let postgres = server();
    let first = device(&postgres, "raspberrypi");
    first.ok(&["user", "add", "anna"]);
    drain(&first);
    let second = clone_of(&postgres, &first);
    drain(&first);
    ask(&second, "anna", "remember that the bicycle is in the cellar");
    held_back(&second);
    stderr_of(&second, &["store", "take-over"], 2);
    second.ok(&["store", "take-over", "--yes"]);
    drain(&second);
    ask(&first, "anna", "remember that the ladder is in the shed");
    held_back(&first);
    let told = first.run(&["store", "check"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("another memory sends"), "{told:?}");
    first.ok(&["store", "take-over", "--yes"]);
    drain(&first);
    assert_eq!((messages(&postgres, "bicycle"), messages(&postgres, "ladder")), ("2".into(), "2".into()));
    pull(&first);
    assert_eq!(texts(&first, "anna").len(), 4);
}

#[test]
fn a_memory_whose_predecessor_is_long_silent_takes_over_by_itself() {
    let postgres = server();
    let first = device(&postgres, "raspberrypi");
    first.ok(&["user", "add", "anna"]);
    ask(&first, "anna", "remember that the ladder is in the shed");
    drain(&first);
    let second = device(&postgres, "raspberrypi");
    // With nothing to send it blocks nobody, and may read.
    drain(&second);
    second.ok(&["user", "add", "ben"]);
    held_back(&second);
    postgres.execute("UPDATE jarvis.devices SET last_seen = now() - interval '11 min'");
    drain(&second);
    pull(&second);
    assert_eq!(texts(&second, "anna").len(), 2);
    // A wrong server clock holds nobody back for ever.
    postgres.execute("UPDATE jarvis.devices SET last_seen = now() + interval '1 year'");
    drain(&first);
}

#[test]
fn a_device_of_before_holders_and_a_postgres_put_back_by_hand_go_on() {
    let postgres = server();
    let root = device(&postgres, "kitchen");
    root.ok(&["user", "add", "anna"]);
    drain(&root);
    let token = postgres.value("SELECT token FROM jarvis.devices WHERE id = 'kitchen'");
    for n in 0..3 {
        ask(&root, "anna", &format!("remember that the ladder {n} is in the shed"));
        drain(&root);
    }
    postgres.execute(&format!("UPDATE jarvis.devices SET token = '{token}' WHERE id = 'kitchen'"));
    ask(&root, "anna", "remember that the umbrella is in the hall");
    drain(&root);
    postgres.execute("UPDATE jarvis.devices SET token = NULL, memory = NULL");
    ask(&root, "anna", "remember that the bicycle is in the cellar");
    drain(&root);
    assert_eq!(messages(&postgres, "bicycle"), "2");
}

#[test]
fn the_configuration_warns_of_an_id_that_another_device_may_have() {
    let warned = |toml: &str| Root::with_config(toml).ok(&["check-config"]).contains("an id of its own");
    let postgres = "[store]\npostgres_url = \"postgres://jarvis@/jarvis?host=/run/postgresql\"\n";
    let broker = "[mqtt]\nurl = \"mqtt://127.0.0.1\"\n";
    assert!(warned(postgres) && warned(broker));
    assert!(warned(&format!("[device]\nid = \"raspberrypi\"\n{broker}")));
    assert!(!warned("") && !warned(&format!("[device]\nid = \"kitchen\"\n{postgres}{broker}")));
}

#[test]
fn commands_beside_the_daemon_are_the_same_memory() {
    let postgres = server();
    let (root, mic) = with_microphone(device(&postgres, "kitchen"));
    root.ok(&["user", "add", "anna"]);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    for n in 0..5 {
        ask(&root, "anna", &format!("remember that the ladder {n} is in the shed"));
        drain(&root);
    }
    ask(&root, "anna", "remember that the bicycle is in the cellar");
    postgres.wait_for("SELECT count(*) FROM jarvis.messages", "12");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    drop(mic);
    assert!(!daemon.log().contains("another memory"), "{}", daemon.log());
}

#[test]
fn a_new_card_that_has_read_everything_need_not_read_it_again_to_take_over() {
    let postgres = server();
    let old = device(&postgres, "kitchen");
    old.ok(&["user", "add", "anna"]);
    ask(&old, "anna", "remember that the ladder is in the shed");
    drain(&old);
    let (quiet, late) = (device(&postgres, "kitchen"), device(&postgres, "kitchen"));
    pull(&quiet);
    ask(&quiet, "anna", "remember that the umbrella is in the hall");
    assert_eq!(drain(&quiet)["read"], true);
    quiet.ok(&["store", "check"]);
    // The writes of the device before, made in between, are read.
    pull(&late);
    ask(&quiet, "anna", "remember that the bicycle is in the cellar");
    drain(&quiet);
    late.ok(&["user", "add", "ben"]);
    assert_eq!(drain(&late)["read"], false);
    pull(&late);
    assert_eq!(texts(&late, "anna").len(), 6);
}
