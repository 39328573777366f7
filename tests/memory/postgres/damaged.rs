//! The database of a device is damaged, and all of it was delivered: Postgres gives back the rows that the
//! repair could not read.

use serde_json::{Value, json};

use super::{ask, drain, house, pull, server, texts};
use crate::support::pages::{has, overwrite_rows};
use crate::support::{Root, wait_until};

/// The words of all people here, sorted, so that the order of conversations does not count.
fn conversations(root: &Root) -> Vec<Value> {
    let exported = root.json(&["conversation", "export", "--user", "anna"]);
    let all = exported.as_array().unwrap().iter();
    let mut all: Vec<Value> = all.map(|one| json!([one["id"], one["title"], one["messages"]])).collect();
    all.sort_by_key(|one| one[0].to_string());
    all
}

/// Stores three conversations of 40 messages as Anna's.
fn much(root: &Root) {
    let message = |c: usize, m: usize| {
        json!({
            "id": format!("0190a000-{c:04x}-7000-8000-{:012x}", m + 1), "seq": m + 1,
            "role": if m.is_multiple_of(2) { "user" } else { "assistant" }, "kind": "say",
            "text": format!("message {m} of conversation {c}"), "wall_unix_ms": 1_760_000_000_000_i64,
            "clock_synced": true,
        })
    };
    let all: Vec<Value> = (0..3)
        .map(|c| {
            json!({
                "id": format!("0190b000-0000-7000-8000-{c:012x}"), "title": format!("Conversation {c}"),
                "created_unix_ms": 1_760_000_000_000_i64, "updated_unix_ms": 1_760_000_000_000_i64,
                "messages": (0..40).map(|m| message(c, m)).collect::<Vec<_>>(),
            })
        })
        .collect();
    let file = root.path().join("much.json");
    std::fs::write(&file, serde_json::to_vec(&all).unwrap()).unwrap();
    root.ok(&["conversation", "import", "--user", "anna", file.to_str().unwrap()]);
}

#[test]
fn what_a_repair_could_not_read_comes_back_from_postgres_and_nothing_that_was_deleted() {
    const DIGEST: &str = "SELECT count(*), md5(string_agg(concat_ws('|', id, conversation, seq, role, text),
        ',' ORDER BY id)) FROM jarvis.messages";
    let postgres = server();
    let (kitchen, bedroom) = house(&postgres);
    much(&kitchen);
    ask(&kitchen, "anna", "remember that the zamboni is in the shed");
    drain(&kitchen);
    pull(&bedroom);
    ask(&bedroom, "anna", "remember that the parrot is called otto");
    drain(&bedroom);
    pull(&kitchen);
    ask(&kitchen, "anna", "forget everything about the zamboni");
    drain(&kitchen);
    let (before, there) = (conversations(&kitchen), postgres.query(DIGEST));
    assert!(texts(&kitchen, "anna").len() > 122, "{before:?}");

    // Every message, and every conversation by its title.
    let db = kitchen.path().join("var/lib/jarvis/jarvis.db");
    let lost = overwrite_rows(&db, |page| {
        [" of conversation ", "Conversation 1", "parrot", "otto"].iter().any(|text| has(page, text))
    });
    assert!(lost > 8, "{lost} pages");
    let mut daemon = kitchen.daemon();
    daemon.wait_log("has been repaired");
    wait_until("everything to be back", || {
        kitchen.run(&["store", "check"]).status.success() && conversations(&kitchen) == before
    });
    wait_until("an empty queue", || kitchen.json(&["queue", "status"])["complete"] == true);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(postgres.query(DIGEST), there);
    assert!(!super::on_disk(&kitchen, "zamboni"));
    pull(&bedroom);
    let sorted = |root: &Root| {
        let mut texts = texts(root, "anna");
        texts.sort();
        texts
    };
    assert_eq!(sorted(&bedroom), sorted(&kitchen));
}
