//! Everybody's conversations as JSON Lines: the same after a round trip, cut files are noticed.

use std::fs;

use serde_json::{Value, json};

use super::{Root, home, much, refused};

fn exported(root: &Root, name: &str) -> String {
    let file = root.path().join(name);
    root.ok(&["backup", "export", "--out", file.to_str().unwrap()]);
    fs::read_to_string(file).unwrap()
}

fn import(root: &Root, text: &str) -> Value {
    let file = root.path().join("in.jsonl");
    fs::write(&file, text).unwrap();
    root.json(&["backup", "import", file.to_str().unwrap()])
}

#[test]
fn an_export_that_is_imported_elsewhere_is_exported_there_byte_by_byte_the_same() {
    let root = home();
    much(&root, 120);
    // An answer made from words of another conversation.
    root.ok(&["ask", "--user", "anna", "--new", "what do you remember"]);
    root.ok(&["ask", "--user", "ben", "--new", "remember that quotes \" and \\ and \u{1f600} are fine"]);
    let first = exported(&root, "first.jsonl");
    let lines: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"type": "jarvis-export", "format": 1}));
    assert_eq!(lines.last().unwrap()["people"], 2, "{first}");
    assert!(first.contains("\"sources\""), "an answer names what it was made from");

    let other = Root::new();
    let done = import(&other, &first);
    assert_eq!((&done["people_added"], &done["skipped"]), (&json!(2), &json!(0)), "{done}");
    assert_eq!(exported(&other, "second.jsonl"), first);
    let again = import(&other, &first);
    assert_eq!((&again["conversations"], &again["people_added"]), (&json!(0), &json!(0)), "{again}");
    assert_eq!(exported(&other, "third.jsonl"), first);

    let one = root.ok(&["backup", "export", "--user", "ben"]);
    assert!(one.contains("ladder") && !one.contains("bicycle"), "{one}");
    refused(&root, &["backup", "export", "--user", "nobody"], 1);
    refused(&root, &["backup", "export", "--out", root.path().join("first.jsonl").to_str().unwrap()], 1);
}

#[test]
fn a_file_that_is_cut_or_is_no_export_is_refused_with_the_line() {
    let root = home();
    let whole = exported(&root, "whole.jsonl");
    let other = Root::new();
    let file = other.path().join("in.jsonl");
    let try_it = |text: String, why: &str| {
        fs::write(&file, text).unwrap();
        let told = refused(&other, &["backup", "import", file.to_str().unwrap()], 65);
        assert!(told.contains(why) && told.contains("line "), "{why}: {told}");
    };
    let lines: Vec<&str> = whole.lines().collect();
    let join = |lines: &[&str]| lines.join("\n") + "\n";
    try_it(String::new(), "not the beginning");
    try_it("hello\n".to_owned(), "not what `backup export` writes");
    try_it(join(&lines[1..]), "not the beginning");
    try_it(join(&lines[..lines.len() - 1]), "cut off");
    try_it(whole[..whole.len() - 40].to_owned(), "not what `backup export` writes");
    let mut without = lines.clone();
    without.remove(2);
    try_it(join(&without), "other conversations than came before");
    let mut stranger = lines.clone();
    stranger.remove(1);
    try_it(join(&stranger), "somebody else");
    fs::write(&file, whole.replace("\"format\":1", "\"format\":9")).unwrap();
    refused(&other, &["backup", "import", file.to_str().unwrap()], 78);
    let done = import(&other, &whole);
    assert_eq!(done["skipped"].as_u64().unwrap() + done["conversations"].as_u64().unwrap(), 2, "{done}");
}
