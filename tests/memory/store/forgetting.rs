//! Forgetting as a person meets it: the answer names the things forgotten, asks if there are several, and can
//! be undone for ten minutes.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::behind;
use crate::support::mic::{self, Mic};
use crate::support::mount::Mount;
use crate::support::{Root, on_disk, wait_within};

const TEN_MINUTES: &str = "UPDATE forgotten SET monotonic_ns = monotonic_ns - 601000000000 RETURNING hex(id)";

/// A home in which somebody has told of two keys.
fn home() -> Root {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    say(&root, "remember that the qwbike key is in the drawer");
    say(&root, "remember that the qwcar key is under the pot");
    root
}

fn say(root: &Root, text: &str) -> String {
    root.ok(&["ask", "--user", "anna", text]).trim().to_owned()
}

fn data(root: &Root) -> std::path::PathBuf {
    root.path().join("var/lib/jarvis")
}

/// Files with the key of something that can still be undone.
fn keys(root: &Root) -> usize {
    let names = fs::read_dir(data(root)).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().contains(".undo-")).count()
}

fn left(root: &Root) -> String {
    behind(root, &["SELECT CAST(count(*) AS TEXT) FROM forgotten"]).remove(0)
}

#[test]
fn yes_does_not_choose_and_no_ends_the_question() {
    let root = home();
    let asked = say(&root, "forget the key");
    assert!(asked.contains("Tell me which one I shall forget, or both."), "{asked}");
    for answer in ["yes", "Yeah.", "yes please"] {
        let again = say(&root, answer);
        assert!(again.contains("qwbike") && again.contains("qwcar"), "{answer}: {again}");
        assert!(again.contains("Tell me which one I shall forget, or both."), "{answer}: {again}");
    }
    assert_eq!(say(&root, "no"), "All right, I forget nothing.");
    assert!(on_disk(&data(&root), b"qwbike") && on_disk(&data(&root), b"qwcar"));
    say(&root, "forget the key");
    say(&root, "yes");
    say(&root, "both");
    assert!(!on_disk(&data(&root), b"qwbike") && !on_disk(&data(&root), b"qwcar"));
}

#[test]
fn an_emoji_alone_is_remembered_and_told_as_it_is() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    assert_eq!(say(&root, "remember 🙂"), "I will remember 🙂.");
    assert_eq!(say(&root, "what do you remember"), "You asked me to remember 🙂.");
    assert!(say(&root, "remember 👩\u{200d}👧 🎂, please").contains("👩\u{200d}👧 🎂"));
    for order in
        ["remember that 🍓", "remember this: 🍓.", "note that 🍓", "make a note: 🍓", "don't forget that 🍓"]
    {
        assert_eq!(say(&root, order), "I will remember 🍓.", "{order}");
        assert!(say(&root, "what do you remember").starts_with("You asked me to remember 🍓."), "{order}");
    }
    assert_eq!(say(&root, "never mind 🙂"), "All right.");
    // Words that order nothing are not taken for an order.
    assert_eq!(say(&root, "🙂"), "I did not hear any words.");
}

#[test]
fn with_two_keys_it_asks_which_and_the_next_turn_answers() {
    let root = home();
    let asked = root.json(&["ask", "--user", "anna", "forget the key"]);
    let reply = asked["reply"].as_str().unwrap();
    assert!(reply.starts_with("I know two things about the key: "), "{reply}");
    assert!(reply.contains("qwbike") && reply.contains("qwcar") && reply.contains("both"), "{reply}");
    assert_eq!(asked["effects"], json!([]));
    let forgot = root.json(&["ask", "--user", "anna", "the one in the drawer"]);
    let reply = forgot["reply"].as_str().unwrap();
    assert!(reply.contains("the qwbike key is in the drawer") && reply.contains("10 minutes"), "{reply}");
    assert_eq!(forgot["effects"][0]["effect"], "forgot");
    assert!(!on_disk(&data(&root), b"qwbike") && on_disk(&data(&root), b"qwcar"));
    assert_eq!(
        say(&root, "what do you remember about the key"),
        "You told me that the qwcar key is under the pot."
    );
    // One thing is forgotten at once; with nothing to forget the answer does not claim otherwise.
    assert!(
        say(&root, "forget the key").starts_with("I have forgotten that the qwcar key is under the pot.")
    );
    assert_eq!(say(&root, "forget the key"), "I remember nothing about that.");
    assert!(!on_disk(&data(&root), b"qwcar"));
}

#[test]
fn a_forgetting_is_undone_by_another_process_and_only_in_its_conversation() {
    let root = home();
    assert!(say(&root, "forget everything about the key").starts_with("I have forgotten two things: "));
    assert!(!on_disk(&data(&root), b"qwbike") && !on_disk(&data(&root), b"qwcar"));
    assert_eq!((keys(&root), left(&root).as_str()), (1, "1"));
    let back = root.json(&["ask", "--user", "anna", "undo that"]);
    assert!(back["reply"].as_str().unwrap().starts_with("I remember two things again: "), "{back}");
    assert_eq!(back["effects"], json!([{ "effect": "brought_back", "messages": 4 }]));
    let found: Value = root.json(&["conversation", "search", "--user", "anna", "qwbike"]);
    assert!(found.to_string().contains("the qwbike key is in the drawer"), "{found}");
    assert_eq!((keys(&root), left(&root).as_str()), (0, "0"));
    assert!(say(&root, "bring it back").starts_with("There is nothing that I can bring back."));
    // Another conversation of the person ends it, and then nothing is left.
    say(&root, "forget everything about the key");
    assert_eq!(keys(&root), 1);
    root.ok(&["ask", "--user", "anna", "--new", "hello"]);
    assert_eq!((keys(&root), left(&root).as_str()), (0, "0"));
    assert!(say(&root, "undo the last forgetting").starts_with("There is nothing"));
    let integrity = behind(
        &root,
        &[
            "PRAGMA integrity_check",
            "INSERT INTO messages_fts (messages_fts, rank) VALUES ('integrity-check', 1)",
        ],
    );
    assert!(integrity.is_empty());
}

#[test]
fn what_could_be_undone_is_gone_after_its_time_also_after_a_kill() {
    let mut root = home();
    let mic = Mic::plug_into(&mut root);
    root.write_config(&format!(
        "[audio]\ndevice = {0:?}\nplayback_device = {0:?}\n[speech]\nenabled = false\n",
        mic::DEVICE
    ));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    say(&root, "forget everything about the key");
    let sealed = behind(&root, &["SELECT hex(substr(sealed, 1, 32)) FROM forgotten"]).remove(0);
    let sealed: Vec<u8> =
        (0..32).map(|n| u8::from_str_radix(&sealed[2 * n..2 * n + 2], 16).unwrap()).collect();
    assert!(on_disk(&data(&root), &sealed));
    behind(&root, &[TEN_MINUTES]);
    wait_within(Duration::from_secs(120), "the sealed copy is gone", || {
        keys(&root) == 0 && !on_disk(&data(&root), &sealed)
    });
    assert_eq!(left(&root), "0");
    assert!(say(&root, "undo that").starts_with("There is nothing that I can bring back."));

    // Killed, and started after the time: the next process to open the file takes it out.
    say(&root, "remember that the qwboat is blue");
    say(&root, "forget the qwboat");
    daemon.signal("KILL");
    daemon.exit_code();
    assert_eq!(keys(&root), 1);
    behind(&root, &[TEN_MINUTES]);
    root.ok(&["user", "list"]);
    assert_eq!((keys(&root), left(&root).as_str()), (0, "0"));
    assert!(!on_disk(&data(&root), b"qwboat"));
    assert!(say(&root, "undo that").starts_with("There is nothing"));
    drop(mic);
}

#[test]
fn a_person_and_a_conversation_take_along_what_could_be_undone() {
    let root = home();
    say(&root, "forget everything about the key");
    let id = root.json(&["conversation", "list", "--user", "anna"])[0]["id"].as_str().unwrap().to_owned();
    root.ok(&["conversation", "delete", "--user", "anna", "--yes", &id]);
    assert_eq!((keys(&root), left(&root).as_str()), (0, "0"));
    say(&root, "remember that the qwboat is blue");
    say(&root, "forget the qwboat");
    assert_eq!(keys(&root), 1);
    root.ok(&["user", "delete", "--yes", "anna"]);
    assert_eq!((keys(&root), left(&root).as_str()), (0, "0"));
}

#[test]
fn a_note_keeps_its_emoji_and_what_must_not_be_forgotten_is_one() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    assert_eq!(say(&root, "remember that Bob likes 🍓"), "I will remember that Bob likes 🍓.");
    assert_eq!(say(&root, "what does Bob like?"), "You told me that Bob likes 🍓.");
    assert_eq!(say(&root, "do not forget the milk"), "I will remember the milk.");
    assert_eq!(say(&root, "what do you remember about the milk"), "You asked me to remember the milk.");
}

#[test]
fn a_note_comes_back_with_its_first_and_last_mark() {
    for (order, note) in [
        ("remember that", "the wifi password is hunter2!"),
        ("remember that the alarm code is", "*1234#"),
        ("remember that my language is", "C++"),
        ("remember that the safe opens with", "0042 (don't tell)"),
        ("remember that", "x = {a: [1,2]}"),
        ("remember that the folder is", "/etc/jarvis/"),
        ("remember that the sign says", "\"no dogs\""),
        ("remember that", "#me is the tag"),
        ("remember", "'open sesame'"),
        ("don't forget that", ".gitignore hides it.."),
        ("remember to call", "+49 30 1234-#"),
    ] {
        let root = Root::new();
        root.ok(&["user", "add", "anna"]);
        let first = say(&root, &format!("{order} {note}"));
        let found = say(&root, "what do you remember");
        let gone = say(&root, "forget that");
        let back = say(&root, "undo that");
        for answer in [&first, &found, &gone, &back] {
            assert!(answer.contains(note), "{order} {note}: {answer}");
            assert!(!answer.contains("!.") && !answer.contains("..."), "{order} {note}: {answer}");
        }
        let unknown = say(&root, "what do you remember about the weather of *99#?");
        assert!(unknown.contains("about the weather of *99# that"), "{unknown}");
    }
}

#[test]
fn an_order_that_names_nothing_is_asked_about_and_takes_no_words_as_a_topic() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    for said in ["both doors are then open", "it is right to wait", "the qwkey is here"] {
        say(&root, &format!("remember that {said}"));
    }
    for order in ["remember that", "Remember this.", "note that down", "make a note"] {
        let asked = say(&root, order);
        assert!(asked.starts_with("Please say what I should remember"), "{order}: {asked}");
    }
    for order in ["forget both", "forget them", "delete all of them", "forget the first one"] {
        assert_eq!(say(&root, order), "Please say what I should forget.", "{order}");
    }
    for order in ["forget it then", "oh, forget it right now"] {
        let gone = say(&root, order);
        assert!(gone.starts_with("I have forgotten that the qwkey is here."), "{order}: {gone}");
        say(&root, "undo that");
    }
    assert!(on_disk(&data(&root), b"both doors") && on_disk(&data(&root), b"right to wait"));
}

#[test]
fn a_word_keeps_its_signs_when_it_is_forgotten_recalled_or_searched() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let notes = [
        "vitamin C is healthy",
        "the net is in the garage",
        "the AC needs DC",
        "you drive in R, then in D",
        "Bob learns C#",
    ];
    for note in notes {
        say(&root, &format!("remember that {note}"));
    }
    root.ok(&["conversation", "rename", "--user", "anna", &conversation(&root), "Cooking"]);
    for word in ["C++", ".NET", "AC/DC", "R&D"] {
        assert_eq!(say(&root, &format!("forget {word}")), "I remember nothing about that.", "{word}");
        let told = say(&root, &format!("what do you remember about {word}"));
        assert!(told.starts_with("You have not told me anything about"), "{word}: {told}");
        let found = root.json(&["conversation", "search", "--user", "anna", word]).to_string();
        assert!(!notes.iter().any(|note| found.contains(note)), "{word}: {found}");
    }
    let listed = root.json(&["conversation", "list", "--user", "anna"]).to_string();
    assert!(listed.contains("Cooking"), "{listed}");
    for (word, note) in [
        ("C++", "Anna teaches C++"),
        (".NET", "the .NET course is on Monday"),
        ("AC/DC", "AC/DC plays in May"),
        ("R&D", "Carl works in R&D"),
        ("C", "vitamin C is healthy"),
        ("C#", "Bob learns C#"),
    ] {
        if !notes.contains(&note) {
            say(&root, &format!("remember that {note}"));
        }
        let told = say(&root, &format!("what do you remember about {word}"));
        assert!(told.contains(note) && !told.contains("also"), "{word}: {told}");
        let found = root.json(&["conversation", "search", "--user", "anna", word]).to_string();
        assert!(found.contains(note), "{word}: {found}");
        let forgotten = say(&root, &format!("forget {word}"));
        assert!(forgotten.starts_with(&format!("I have forgotten that {note}.")), "{word}: {forgotten}");
    }
}

fn conversation(root: &Root) -> String {
    root.json(&["conversation", "list", "--user", "anna"])[0]["id"].as_str().unwrap().to_owned()
}

/// Takes every free byte of the file system of `file`.
fn fill_up(file: &std::path::Path) {
    let mut filler = fs::File::create(file).unwrap();
    for block in [64 * 1024, 4_096, 1] {
        while filler.write_all(&vec![0; block]).is_ok() {}
    }
}

#[test]
fn an_order_on_a_full_disk_is_answered_with_the_full_disk_and_changes_nothing() {
    let root = Root::new();
    let Some(disk) = Mount::disk(&data(&root), "size=4m") else { return };
    root.ok(&["user", "add", "anna"]);
    say(&root, "remember that the qwbike key is in the drawer");
    say(&root, "remember that the qwcar key is under the pot");
    say(&root, "forget the qwbike");
    let filler = data(&root).join("filler");
    fill_up(&filler);
    for order in [
        "forget the qwcar",
        "forget the qwboat",
        "forget that",
        "undo that",
        "remember that the qwboat is blue",
    ] {
        let asked = root.run(&["ask", "--user", "anna", order]);
        let told = String::from_utf8(asked.stdout).unwrap();
        assert_eq!(asked.status.code(), Some(75), "{order}: {told}");
        assert!(told.starts_with("(not stored) I could not do that: the disk is full"), "{order}: {told}");
    }
    assert_eq!(keys(&root), 1, "the key of the forgetting before, and no other");
    fs::remove_file(filler).unwrap();
    assert!(
        say(&root, "undo that").starts_with("I remember it again: that the qwbike key is in the drawer.")
    );
    assert!(
        say(&root, "forget the qwcar").starts_with("I have forgotten that the qwcar key is under the pot.")
    );
    drop(disk);
}

#[test]
fn what_cannot_be_brought_back_is_not_said_to_be() {
    let root = Root::new();
    let Some(disk) = Mount::disk(&data(&root), "size=16m,nr_inodes=64") else { return };
    root.ok(&["user", "add", "anna"]);
    say(&root, "remember that the qwbike key is in the drawer");
    let filler = |n: usize| data(&root).join(format!("filler-{n}"));
    let fillers = (0..).take_while(|n| fs::File::create(filler(*n)).is_ok()).count();
    // As many files as a turn needs, and none for the key of a forgetting.
    let turn = (0..fillers).position(|n| {
        fs::remove_file(filler(n)).unwrap();
        root.run(&["ask", "--user", "anna", "hello"]).status.success()
    });
    assert!(turn.is_some(), "no turn was stored");
    let told = say(&root, "forget the qwbike");
    assert_eq!(told, "I have forgotten that the qwbike key is in the drawer. It cannot be brought back.");
    assert_eq!(keys(&root), 0);
    drop(disk);
}
