//! Recordings of an enrolment that are kept on request: encrypted, for their person alone, gone with the
//! voice.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{ENROLMENT, Root, Voice, on_disk};
use serde_json::{Value, json};

fn enroll(root: &Root, voice: Voice, user: &str, options: &[&str]) -> (Option<i32>, Value, String) {
    let files: Vec<PathBuf> = ENROLMENT.iter().map(|text| voice.says(text)).collect();
    crate::support::enroll(root, user, &files, options)
}

fn recordings(root: &Root) -> PathBuf {
    root.path().join("var/lib/jarvis/recordings")
}

fn kept(root: &Root) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(recordings(root)) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn export(root: &Root, user: &str, to: &Path) -> (Option<i32>, String) {
    let args = ["voice", "recordings", "export", "--user", user, "--out", to.to_str().unwrap()];
    let output = root.run(&args);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn recordings_are_kept_only_where_asked_for_and_come_back_as_they_were_said() {
    let root = Root::new();
    let (code, report, _) = enroll(&root, Voice::Slt, "anna", &[]);
    assert_eq!((code, &report["recordings_kept"]), (Some(0), &json!(0)));
    assert!(!recordings(&root).exists());
    assert!(root.ok(&["voice", "show", "--user", "anna"]).contains("not kept"));
    assert_eq!(root.json(&["voice", "recordings", "list"]), json!([]));
    assert_eq!(export(&root, "anna", &root.path().join("none")).0, Some(1));

    let (code, report, said) = enroll(&root, Voice::Slt, "anna", &["--keep-recordings"]);
    assert_eq!((code, &report["recordings_kept"]), (Some(0), &json!(ENROLMENT.len())), "{said}");
    let files = kept(&root);
    assert_eq!(files.len(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&recordings(&root)), mode(&files[0])), (0o700, 0o600));
    let bytes = fs::metadata(&files[0]).unwrap().len();
    assert_eq!(root.json(&["voice", "recordings", "list"]), json!([{ "user": "anna", "bytes": bytes }]));
    assert_eq!(root.json(&["voice", "show", "--user", "anna"])["recordings_bytes"], bytes);

    let out = root.path().join("out");
    assert_eq!(export(&root, "anna", &out).0, Some(0));
    assert_eq!(fs::read_dir(&out).unwrap().count(), ENROLMENT.len());
    for n in 1..=ENROLMENT.len() {
        let file = out.join(format!("{n}.wav"));
        assert_eq!(mode(&file), 0o600);
        let compared = root.json(&["voice", "verify", "--user", "anna", file.to_str().unwrap()]);
        assert_eq!(compared["outcome"], "verified", "{compared}");
        let wav = fs::read(&file).unwrap();
        let heart = &wav[(wav.len() / 2) & !1..][..64];
        assert!(!on_disk(&root.path().join("var"), heart), "the sound itself lies on the disk");
    }
    let (code, told) = export(&root, "anna", &out);
    assert!(code == Some(1) && told.contains("empty folder"), "{told}");

    // They are in no backup, and the command mentions them where they leave the device.
    root.ok(&["backup", "create"]);
    let sealed = fs::read(&files[0]).unwrap();
    assert!(!on_disk(&root.path().join("var/backups"), &sealed[100..164]));
    let audit = root.json(&["audit", "list"]).to_string();
    assert!(
        audit.contains(r#""action":"recordings""#) && audit.contains(r#""outcome":"exported""#),
        "{audit}"
    );

    // Another key for everything, and more samples: they stay.
    root.ok(&["vault", "rotate-key"]);
    assert_eq!(export(&root, "anna", &root.path().join("rotated")).0, Some(0));
    let more = Voice::Slt.says("the weather this morning was bright and cold so i walked along the river");
    let added = root.json(&["voice", "enroll", "--add", "--user", "anna", more.to_str().unwrap()]);
    assert_eq!(added["recordings_kept"], ENROLMENT.len(), "{added}");
    let added = root.json(&[
        "voice",
        "enroll",
        "--add",
        "--keep-recordings",
        "--user",
        "anna",
        Voice::Slt
            .says("please remember the things that i tell you and answer nobody else")
            .to_str()
            .unwrap(),
    ]);
    assert_eq!(added["recordings_kept"], ENROLMENT.len() + 1, "{added}");
    assert_eq!(export(&root, "anna", &root.path().join("more")).0, Some(0));
}

#[test]
fn a_voice_is_enrolled_anew_from_what_was_kept_also_when_its_template_opens_no_more() {
    let root = Root::new();
    let anew = |user: &str| root.run(&["voice", "enroll", "--user", user, "--kept", "--json"]);
    assert_eq!(anew("anna").status.code(), Some(1), "nobody of that name");
    enroll(&root, Voice::Slt, "anna", &[]);
    let told = String::from_utf8(anew("anna").stderr).unwrap();
    assert!(told.contains("no recordings of anna are kept"), "{told}");
    enroll(&root, Voice::Slt, "anna", &["--keep-recordings"]);
    let question = Voice::Slt.says("who am i and what do you know about me");
    let verify = || root.run(&["voice", "verify", "--user", "anna", question.to_str().unwrap(), "--json"]);
    assert!(verify().status.success());
    // The damaged template does not matter: the recordings have the key of the voice, and a nonce of their
    // own.
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let damage = "UPDATE voiceprints SET blob = zeroblob(length(blob))";
    assert!(std::process::Command::new("sqlite3").arg(&db).arg(damage).status().unwrap().success());
    assert!(!verify().status.success());

    let output = anew("anna");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report}");
    assert_eq!((&report["enrolled"], &report["recordings_kept"]), (&json!(true), &json!(ENROLMENT.len())));
    assert_eq!(report["samples"][0]["file"], "1");
    let verified: Value = serde_json::from_slice(&verify().stdout).unwrap();
    assert_eq!(verified["outcome"], "verified", "{verified}");
    // And once more, from the recordings kept by that.
    assert!(anew("anna").status.success());
    assert_eq!(export(&root, "anna", &root.path().join("out")).0, Some(0));
    for args in [&["--kept", "a.wav"][..], &["--kept", "--add"], &["--kept", "--keep-recordings"]] {
        let output = root.run(&[&["voice", "enroll", "--user", "anna"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn what_was_changed_is_refused_and_nothing_is_left_of_who_is_gone() {
    let root = Root::new();
    for (user, voice) in [("anna", Voice::Slt), ("ben", Voice::Rms)] {
        let (code, _, said) = enroll(&root, voice, user, &["--keep-recordings"]);
        assert_eq!(code, Some(0), "{said}");
    }
    let files = kept(&root);
    let [one, two] = [0, 1].map(|n: usize| fs::read(&files[n]).unwrap());
    let out = root.path().join("out");
    let refused = |why: &str| {
        for user in ["anna", "ben"] {
            let (code, told) = export(&root, user, &out);
            assert!(code == Some(78) && told.contains("the kept recordings"), "{why}: {told}");
            assert!(!out.exists());
        }
    };
    fs::write(&files[0], &two).unwrap();
    fs::write(&files[1], &one).unwrap();
    refused("exchanged");
    for (file, bytes) in files.iter().zip([&one, &two]) {
        let mut bytes = bytes.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(file, &bytes).unwrap();
    }
    refused("one bit changed");
    for (file, bytes) in files.iter().zip([&one, &two]) {
        fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
    }
    refused("cut");
    for file in &files {
        fs::write(file, "").unwrap();
    }
    refused("emptied");
    for (file, bytes) in files.iter().zip([&one, &two]) {
        fs::write(file, bytes).unwrap();
    }
    assert_eq!(export(&root, "ben", &out).0, Some(0), "whole again, they open");

    // Enrolled anew without it, or deleted.
    let (code, report, said) = enroll(&root, Voice::Slt, "anna", &[]);
    assert_eq!((code, &report["recordings_kept"]), (Some(0), &json!(0)), "{said}");
    assert_eq!(kept(&root).len(), 1);
    root.ok(&["voice", "recordings", "delete", "--user", "ben", "--yes"]);
    assert_eq!(kept(&root).len(), 0);
    assert_eq!(root.run(&["voice", "recordings", "delete", "--user", "ben", "--yes"]).status.code(), Some(1));
    for gone in
        [["voice", "delete", "--user", "anna", "--yes"].as_slice(), &["user", "delete", "anna", "--yes"]]
    {
        assert_eq!(enroll(&root, Voice::Slt, "anna", &["--keep-recordings"]).0, Some(0));
        assert_eq!(kept(&root).len(), 1);
        root.ok(gone);
        assert_eq!(kept(&root).len(), 0, "{gone:?}");
    }
}

#[test]
fn of_a_voice_that_was_deleted_elsewhere_nothing_stays_and_of_one_that_is_yet_to_come_everything() {
    let root = Root::new();
    assert_eq!(enroll(&root, Voice::Slt, "anna", &["--keep-recordings"]).0, Some(0));
    let file = kept(&root).remove(0);
    let sealed = fs::read(&file).unwrap();
    // Deleted as by another device: here the file stays until a command looks.
    root.ok(&["voice", "delete", "--user", "anna", "--yes"]);
    fs::write(&file, &sealed).unwrap();
    assert_eq!(root.json(&["voice", "recordings", "list"]), json!([]));
    assert!(!file.exists());
    // As on a device with a new memory, before it has read Postgres.
    assert_eq!(enroll(&root, Voice::Slt, "ben", &["--keep-recordings"]).0, Some(0));
    for name in ["jarvis.db", "jarvis.db-wal", "jarvis.db-shm"] {
        let _ = fs::remove_file(root.path().join("var/lib/jarvis").join(name));
    }
    root.ok(&["store", "accept-empty"]);
    assert_eq!(root.json(&["voice", "recordings", "list"]), json!([]));
    assert_eq!(kept(&root).len(), 1);
}

#[test]
fn a_voice_is_not_enrolled_where_its_recordings_cannot_be_kept() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    fs::write(recordings(&root), "in the way").unwrap();
    let (code, _, said) = enroll(&root, Voice::Slt, "anna", &["--keep-recordings"]);
    assert!(code == Some(1) && said.contains("could not be kept"), "{said}");
    assert_eq!(root.json(&["voice", "list"]), json!([]));
    assert_eq!(fs::read_to_string(recordings(&root)).unwrap(), "in the way");
}
