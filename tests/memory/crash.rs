//! Killed at any moment: no acknowledged turn is lost, and none is there by half.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use crate::support::{Daemon, Root, Voice, join, of};
use serde_json::Value;

/// Every message id of the user's conversations, after checking that each turn is whole.
fn stored_ids(root: &Root, user: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for conversation in root.json(&["conversation", "list", "--user", user]).as_array().unwrap() {
        let id = conversation["id"].as_str().unwrap();
        let shown = root.json(&["conversation", "show", id, "--user", user]);
        let messages = shown["messages"].as_array().unwrap();
        assert_eq!(messages.len() % 2, 0, "half a turn: {shown:#}");
        for (i, message) in messages.iter().enumerate() {
            assert_eq!(message["role"], if i % 2 == 0 { "user" } else { "assistant" }, "{shown:#}");
            assert!(ids.insert(message["id"].as_str().unwrap().to_string()), "twice: {message}");
        }
    }
    ids
}

fn acknowledged(events: &[Value]) -> Vec<String> {
    of(events, "stored")
        .iter()
        .flat_map(|e| e["message_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_string()))
        .collect()
}

#[test]
fn a_kill_between_transcript_and_answer_leaves_whole_turns_and_the_conversation_goes_on() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let command = Voice::Rms.says("hey jarvis, remember that the bicycle is in the cellar");
    let mut args = vec!["listen"];
    let recordings = vec![command.to_str().unwrap(); 20];
    args.extend(&recordings);
    let mut promised = BTreeSet::new();
    for round in 0..6 {
        let mut daemon = Daemon::start(root.command(&args));
        for _ in 0..=round % 3 {
            daemon.wait_event("transcript");
        }
        std::thread::sleep(Duration::from_millis(round));
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        daemon.drain();
        promised.extend(acknowledged(&daemon.seen));
        let there = stored_ids(&root, "anna");
        let lost: Vec<_> = promised.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    }
    let after = root.listen(&[&Voice::Rms.says("hey jarvis, what do you remember about the bicycle")]);
    let reply = of(&after, "reply")[0]["text"].as_str().unwrap();
    assert!(reply.contains("cellar"), "{reply}");
}

#[test]
fn turns_of_text_survive_kills_at_random_moments() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let ask = |text: &str| root.command(&["ask", "--user", "anna", "--json", text]).spawn().unwrap();
    // The duration of a turn here and now, so that kills fall before, into and behind its commit.
    let begun = Instant::now();
    assert!(ask("remember that the first item is on the first shelf").wait().unwrap().success());
    let whole = begun.elapsed();
    let mut promised = BTreeSet::new();
    let (mut killed, mut acknowledged) = (0, 0);
    for round in 0..40_u32 {
        let mut child = ask(&format!("remember that item {round} is on shelf {round}"));
        std::thread::sleep(whole * (round % 10) / 6);
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        killed += u32::from(output.status.signal().is_some());
        if let Ok(reply) = serde_json::from_slice::<Value>(&output.stdout) {
            acknowledged += 1;
            for half in ["user_message_id", "assistant_message_id"] {
                promised.insert(reply[half].as_str().unwrap().to_owned());
            }
        }
        if round % 10 == 9 {
            let there = stored_ids(&root, "anna");
            let lost: Vec<_> = promised.difference(&there).collect();
            assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");
            if killed >= 5 && acknowledged >= 2 {
                return;
            }
        }
    }
    panic!("{killed} killed and {acknowledged} acknowledged turns show nothing");
}

#[test]
fn a_conversation_interrupted_by_a_restart_goes_on_where_it_was() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let tape = root.path().join("tape.wav");
    join(&[&Voice::Rms.says("hey jarvis, remember that the bicycle is in the cellar")], 1.0, &tape);
    let mut first = Daemon::start(root.command(&["listen", tape.to_str().unwrap()]));
    let stored = first.wait_event("stored");
    first.child.kill().unwrap();
    let second = root.listen(&[&Voice::Rms.says("hey jarvis, what did we talk about")]);
    assert_eq!(of(&second, "stored")[0]["conversation_id"], stored["conversation_id"]);
    let reply = of(&second, "reply")[0]["text"].as_str().unwrap();
    assert!(reply.to_lowercase().contains("bicycle"), "{reply}");
}
