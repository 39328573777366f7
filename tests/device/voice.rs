//! Enrolling voices as people do it, and as they should not: twice, with copies, over somebody else's, with a
//! lost key.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::support::{ENROLMENT, Root, Voice, enroll, join, sox};
use serde_json::Value;

/// Three more sentences, for a second enrolment of the same voice.
const AGAIN: [&str; 3] = [
    "my voice is the key to this device and it will know me whenever i speak to it from across the room",
    "the weather this morning was bright and cold so i walked along the river before going home for \
     breakfast",
    "please remember the things that i tell you and answer nobody else when they ask you about them",
];

fn sentences(voice: Voice, texts: &[&str]) -> Vec<PathBuf> {
    texts.iter().map(|text| voice.says(text)).collect()
}

#[track_caller]
fn enrolled(root: &Root, user: &str, files: &[PathBuf], options: &[&str]) {
    let (code, report, said) = enroll(root, user, files, options);
    assert_eq!((code, &report["enrolled"]), (Some(0), &Value::Bool(true)), "{report} {said}");
}

#[track_caller]
fn refused(root: &Root, user: &str, files: &[PathBuf], options: &[&str]) -> (Value, String) {
    let (code, report, said) = enroll(root, user, files, options);
    assert_eq!(code, Some(65), "{report} {said}");
    (report, said)
}

fn identified(root: &Root, recording: &Path) -> Value {
    let output = root.run(&["voice", "identify", "--json", recording.to_str().unwrap()]);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The findings of `doctor` on voiceprints.
fn voiceprints(root: &Root) -> Vec<Value> {
    let output = root.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().clone();
    findings.into_iter().filter(|finding| finding["check"] == "voiceprints").collect()
}

#[test]
fn one_voice_has_one_name() {
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    let again = sentences(Voice::Rms, &AGAIN);
    let (report, said) = refused(&root, "Ben", &again, &[]);
    assert!(said.contains("already enrolled as Anna"), "{said}");
    assert_eq!(report["enrolled"], false);
    assert!(report["reason"].as_str().unwrap().contains("already enrolled"), "{report}");
    assert_eq!(said.matches("already enrolled").count(), 1, "{said}");
    // The message gives no likeness: that number belongs to Anna.
    assert!(!said.chars().any(|c| c.is_ascii_digit()), "{said}");
    let users = root.json(&["user", "list"]);
    assert_eq!(users.as_array().unwrap().len(), 1, "nobody is added by a refused enrolment");
    let question = Voice::Rms.says("hey jarvis, what do you remember about the spare key");
    assert_eq!(identified(&root, &question)["user"], "Anna");

    // Two people who truly sound alike: the owner's word counts, and the device then says that it cannot
    // tell.
    enrolled(&root, "Ben", &again, &["--another-person"]);
    assert_eq!(identified(&root, &question)["outcome"], "ambiguous");
}

#[test]
fn different_people_are_enrolled_side_by_side() {
    let root = Root::new();
    for (user, voice) in [("Anna", Voice::Slt), ("Ben", Voice::Rms), ("Cleo", Voice::Ked)] {
        enrolled(&root, user, &sentences(voice, &ENROLMENT), &[]);
    }
    for (user, voice) in [("Anna", Voice::Slt), ("Ben", Voice::Rms), ("Cleo", Voice::Ked)] {
        let question = voice.says("hey jarvis, what do you remember about the spare key");
        assert_eq!(identified(&root, &question)["user"], user);
    }
    let open = voiceprints(&root);
    assert!(open.len() == 1 && open[0]["state"] == "ok", "{open:?}");
    assert!(open[0]["message"].as_str().unwrap().contains("3 of 3 open: Anna, Ben, Cleo"), "{open:?}");
}

#[test]
fn the_same_recording_counts_once_however_it_is_dressed_up() {
    let root = Root::new();
    let original = Voice::Rms.says(ENROLMENT[0]);
    let dressed = |name: &str, effects: &[&str], format: &[&str]| {
        let file = root.path().join(name);
        let mut args = vec![original.to_str().unwrap()];
        args.extend(format);
        args.push(file.to_str().unwrap());
        args.extend(effects);
        sox(&args);
        file
    };
    let files = [
        original.clone(),
        original.clone(),
        dressed("renamed.wav", &[], &[]),
        dressed("trimmed.wav", &["trim", "0.6", "3.5"], &[]),
        dressed("softer.wav", &["gain", "-12"], &[]),
        dressed("later.flac", &["pad", "1.234", "0.5"], &["-r", "48000", "-b", "24"]),
    ];
    let (report, said) = refused(&root, "Anna", &files, &[]);
    let samples = report["samples"].as_array().unwrap();
    assert_eq!(samples[0]["accepted"], true);
    for sample in &samples[1..] {
        assert_eq!(sample["accepted"], false, "{sample}");
        assert!(sample["reason"].as_str().unwrap().contains("given before"), "{sample}");
    }
    assert!(said.contains("1 of at least 3 samples"), "{said}");

    // The same words once more, at another pace, are another sample.
    let spoken = sentences(Voice::Rms, &ENROLMENT);
    enrolled(&root, "Anna", &spoken, &[]);
    let (report, _) = refused_or_not(&root, &spoken[0]);
    assert_eq!(report["samples"][0]["accepted"], false, "also when it is added later: {report}");
    let new = Voice::Rms.says(AGAIN[0]);
    enrolled(&root, "Anna", &[new], &["--add"]);
    assert_eq!(root.json(&["voice", "list"])[0]["samples"], 4);
}

/// Adding one recording to Anna's voice.
fn refused_or_not(root: &Root, file: &Path) -> (Value, String) {
    let (_, report, said) = enroll(root, "Anna", &[file.to_owned()], &["--add"]);
    (report, said)
}

#[test]
fn a_voice_is_replaced_by_its_own_at_once_and_by_another_only_when_told_to() {
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    let first = root.json(&["voice", "list"])[0]["id"].clone();
    enrolled(&root, "anna", &sentences(Voice::Rms, &AGAIN), &[]);
    let second = root.json(&["voice", "list"])[0]["id"].clone();
    assert_ne!(first, second, "enrolled anew");

    let other = sentences(Voice::Slt, &ENROLMENT);
    let (_, said) = refused(&root, "Anna", &other, &[]);
    assert!(said.contains("does not sound like") && said.contains("--replace"), "{said}");
    assert_eq!(root.json(&["voice", "list"])[0]["id"], second, "nothing changed");
    enrolled(&root, "Anna", &other, &["--replace"]);
    let question = Voice::Slt.says("hey jarvis, who am i");
    assert_eq!(identified(&root, &question)["user"], "Anna");
    assert_eq!(identified(&root, &Voice::Rms.says("hey jarvis, who am i"))["user"], Value::Null);
    // Somebody else's voice is no replacement either way.
    enrolled(&root, "Ben", &sentences(Voice::Rms, &ENROLMENT), &[]);
    let (_, said) = refused(&root, "Ben", &sentences(Voice::Slt, &AGAIN), &["--replace"]);
    assert!(said.contains("already enrolled as Anna"), "{said}");
}

#[test]
fn the_name_of_everyone_has_no_voice() {
    // With verification off everybody is answered, and the user "anonymous" is created.
    let mut root = Root::with_config("[voice]\nenabled = false\n");
    root.env("JARVIS__WAKE__MODEL", "none");
    root.listen(&[Voice::Rms.says("hello")]);
    let users = root.json(&["user", "list"]);
    assert!(users.to_string().contains("anonymous"), "{users}");
    for name in ["anonymous", "Anonymous", "  ANONYMOUS "] {
        let (_, said) = refused(&root, name, &sentences(Voice::Rms, &ENROLMENT), &[]);
        assert!(said.contains("name of their own"), "{said}");
    }
    assert_eq!(root.json(&["voice", "list"]), serde_json::json!([]));
}

#[test]
fn doctor_opens_every_voiceprint_and_names_those_that_cannot_be_used() {
    let root = Root::new();
    assert_eq!(voiceprints(&root)[0]["state"], "ok", "nobody is enrolled, and that is no fault");
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    enrolled(&root, "Ben", &sentences(Voice::Slt, &ENROLMENT), &[]);
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let sql = "UPDATE voiceprints SET blob = zeroblob(length(blob)) \
               WHERE owner = (SELECT rid FROM users WHERE name = 'Ben')";
    let done = std::process::Command::new("sqlite3").args([db.to_str().unwrap(), sql]).status();
    assert!(done.unwrap().success());
    let found = voiceprints(&root);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0]["message"].as_str().unwrap().contains("1 of 2 open: Anna"), "{found:?}");
    assert_eq!(found[1]["state"], "fail");
    assert!(found[1]["message"].as_str().unwrap().contains("1 of 2 cannot be used (Ben)"), "{found:?}");
    assert!(found[1]["fix"].as_str().unwrap().contains("voice enroll --user Ben …"), "{found:?}");
    // Its advice works, and Anna's is still good.
    enrolled(&root, "Ben", &sentences(Voice::Slt, &AGAIN), &[]);
    assert!(voiceprints(&root)[0]["message"].as_str().unwrap().contains("2 of 2 open"));
}

#[test]
fn a_key_that_is_wrong_or_gone_or_open_to_others_is_one_clear_problem() {
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    enrolled(&root, "Ben", &sentences(Voice::Slt, &ENROLMENT), &[]);
    let key = root.path().join("var/lib/jarvis/voiceprint.key");
    let copy = fs::read(&key).unwrap();
    let put = |bytes: &[u8]| {
        use std::io::Write as _;
        let _ = fs::remove_file(&key);
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&key)
            .unwrap()
            .write_all(bytes)
            .unwrap();
    };

    put(&[7; 32]);
    let found = voiceprints(&root);
    assert!(found.len() == 1 && found[0]["state"] == "fail", "{found:?}");
    let message = found[0]["message"].as_str().unwrap();
    assert!(
        message.contains("2 of 2 cannot be used (Anna, Ben)") && message.contains("another master key"),
        "{message}"
    );
    assert!(found[0]["fix"].as_str().unwrap().contains("voiceprint.key"), "{found:?}");
    let question = Voice::Rms.says("hey jarvis, who am i");
    let said = root.run(&["voice", "identify", question.to_str().unwrap()]).stderr;
    assert!(String::from_utf8(said).unwrap().contains("another master key"));

    put(&copy[..31]);
    let told = voiceprints(&root)[0]["message"].as_str().unwrap().to_owned();
    assert!(told.contains("31 bytes") && told.contains("no backup holds it"), "{told}");
    put(&copy);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(voiceprints(&root)[0]["message"].as_str().unwrap().contains("chmod 600"));
    fs::remove_file(&key).unwrap();
    assert!(voiceprints(&root)[0]["message"].as_str().unwrap().contains("their key is missing"));
    assert!(!key.exists(), "doctor makes no key");
    put(&copy);
    assert_eq!(voiceprints(&root)[0]["state"], "ok");
    assert_eq!(identified(&root, &question)["user"], "Anna");
}

#[test]
fn the_key_is_rotated_while_the_voices_stay_enrolled() {
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    enrolled(&root, "Ben", &sentences(Voice::Slt, &ENROLMENT), &[]);
    let dir = root.path().join("var/lib/jarvis");
    let (key, next) = (dir.join("voiceprint.key"), dir.join("voiceprint.key.next"));
    let question = Voice::Rms.says("hey jarvis, who am i");
    let old = fs::read(&key).unwrap();
    assert_eq!(root.json(&["vault", "rotate-key"])["rotated"], 2);
    let new = fs::read(&key).unwrap();
    assert_ne!(old, new);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(identified(&root, &question)["user"], "Anna");
    let audit = root.json(&["audit", "list"]);
    assert!(audit.to_string().contains("key_rotate"), "{audit}");

    // As a power cut leaves it between the transaction and the end: both keys are there, and the voices have
    // the new one.
    fs::rename(&key, &next).unwrap();
    fs::write(&key, &old).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(voiceprints(&root)[0]["state"], "ok");
    assert_eq!(identified(&root, &question)["user"], "Anna");
    assert!(!next.exists() && fs::read(&key).unwrap() == new, "brought to its end");

    // A voiceprint that does not open is not lost on the way: nothing is rotated.
    let db = dir.join("jarvis.db");
    let sql = "UPDATE voiceprints SET wrapped_key = zeroblob(length(wrapped_key)) \
               WHERE owner = (SELECT rid FROM users WHERE name = 'Ben')";
    let done = std::process::Command::new("sqlite3").args([db.to_str().unwrap(), sql]).status();
    assert!(done.unwrap().success());
    let output = root.run(&["vault", "rotate-key"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not rotated") && said.contains("voice delete --user Ben"), "{said}");
    assert_eq!(fs::read(&key).unwrap(), new);
    assert_eq!(identified(&root, &question)["user"], "Anna");
    root.ok(&["voice", "delete", "--yes", "--user", "Ben"]);
    assert_eq!(root.json(&["vault", "rotate-key"])["rotated"], 1);
    assert_eq!(identified(&root, &question)["user"], "Anna");
    assert_eq!(
        root.run(&["vault", "rotate-key", "--to", "x.key"]).status.code(),
        Some(2),
        "there is no credential"
    );
}

#[test]
fn a_person_may_have_a_threshold_of_their_own_and_an_enrolment_can_be_looked_at() {
    let root = Root::new();
    assert_eq!(root.run(&["voice", "show", "--user", "Anna"]).status.code(), Some(1));
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    enrolled(&root, "Anna", &[Voice::Rms.says(AGAIN[0])], &["--add"]);
    let shown = root.json(&["voice", "show", "--user", "anna"]);
    assert_eq!((&shown["samples"], &shown["user_name"]), (&Value::from(4), &Value::from("Anna")), "{shown}");
    assert_eq!(shown["quality"]["samples"].as_array().unwrap().len(), 4, "{shown}");
    assert!(
        shown["consent_unix_ms"].is_i64() && shown["quality"]["cohesion"].as_f64().unwrap() > 0.5,
        "{shown}"
    );
    assert!(!shown.to_string().contains("blob") && !shown.to_string().contains("wrapped"), "{shown}");
    let text = root.ok(&["voice", "show", "--user", "Anna"]);
    assert!(text.contains("Sample 4") && text.contains("0.85"), "{text}");

    // Raised by three semitones a voice is still likely its owner's, but no longer certain.
    let question = root.path().join("raised.wav");
    sox(&[
        Voice::Rms.says("hey jarvis, who am i").to_str().unwrap(),
        question.to_str().unwrap(),
        "pitch",
        "300",
    ]);
    let before = identified(&root, &question);
    let confidence = before["confidence"].as_f64().unwrap();
    assert!(before["outcome"] == "verified" && confidence < 0.999, "{before}");
    root.write_config("[voice]\nuser_thresholds = [\"ANNA = 0.999\", \"Ben = 0.5\"]\n");
    let after = identified(&root, &question);
    assert_eq!(
        (&after["outcome"], &after["confidence"]),
        (&Value::from("uncertain"), &before["confidence"]),
        "{after}"
    );
    assert_eq!(root.json(&["voice", "show", "--user", "Anna"])["threshold"], 0.999);
    root.write_config("[voice]\nthreshold = 0.999\nuser_thresholds = [\"Anna=0.6\"]\n");
    assert_eq!(identified(&root, &question)["user"], "Anna");
}

#[test]
fn two_people_at_once_are_answered_unless_the_owner_asks_otherwise() {
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    let (hers, another) = (
        Voice::Rms.says("hey jarvis, what do you remember about the spare key under the blue pot"),
        Voice::Slt.says(
            "the weather this morning was bright and cold so i walked along the river before breakfast",
        ),
    );
    let both = root.path().join("both.wav");
    sox(&[
        "-m",
        "-v",
        "0.6",
        hers.to_str().unwrap(),
        "-v",
        "0.3",
        another.to_str().unwrap(),
        both.to_str().unwrap(),
    ]);
    assert_eq!(identified(&root, &hers)["outcome"], "verified");
    assert_eq!(identified(&root, &both)["outcome"], "verified", "words of both count as hers");
    root.write_config("[voice]\nrefuse_overlap = true\n[wake]\nmodel = \"none\"\n");
    assert_eq!(identified(&root, &hers)["outcome"], "verified");
    let refused = identified(&root, &both);
    assert_eq!(
        (&refused["outcome"], &refused["user"]),
        (&Value::from("multiple_speakers"), &Value::Null),
        "{refused}"
    );
    // In the pipeline: no words, no failure, and a row in the audit log.
    let heard = root.listen(&[&both]);
    assert!(crate::support::of(&heard, "transcript").is_empty(), "{heard:?}");
    let reasons: Vec<_> =
        crate::support::of(&heard, "rejected").iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["multiple_speakers"], "{heard:?}");
    assert!(root.json(&["audit", "list"]).to_string().contains("multiple_speakers"));
}

#[test]
fn what_somebody_else_says_behind_the_owner_is_not_taken_for_theirs() {
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    // The recordings begin and end with half a second of silence.
    root.write_config("[wake]\nmodel = \"none\"\n[endpoint]\nend_silence_ms = 3000\n");
    let hers = Voice::Rms.says("hey jarvis, what do you remember about the spare key under the blue pot");
    let theirs = Voice::Kal.says("and send a message to my brother about the garden");
    let both = root.path().join("both.wav");
    join(&[&hers, &theirs], 0.0, &both);
    let verdict = identified(&root, &both);
    assert_eq!((&verdict["outcome"], &verdict["user"]), (&"verified".into(), &"Anna".into()), "{verdict}");
    assert!(verdict["other_s"].as_f64().unwrap() > 1.0, "{verdict}");
    assert_eq!(identified(&root, &hers)["other_s"], Value::Null);

    let heard = root.listen(&[&both]);
    let transcripts = crate::support::of(&heard, "transcript");
    let words = transcripts[0]["text"].as_str().unwrap().to_lowercase();
    assert!(
        words.contains("spare key") && !words.contains("brother") && !words.contains("garden"),
        "{words}"
    );
    assert!(crate::support::of(&heard, "verified")[0]["other_s"].as_f64().unwrap() > 1.0, "{heard:?}");
    assert!(!root.ok(&["conversation", "list", "--user", "Anna"]).contains("brother"));
    assert!(root.json(&["audit", "list"]).to_string().contains("other_s"));

    root.write_config(
        "[voice]\nsecond_voice = \"refuse\"\n[wake]\nmodel = \"none\"\n[endpoint]\nend_silence_ms = 3000\n",
    );
    let heard = root.listen(&[&both]);
    assert!(crate::support::of(&heard, "transcript").is_empty(), "{heard:?}");
    assert_eq!(crate::support::of(&heard, "rejected")[0]["reason"], "multiple_speakers", "{heard:?}");

    root.write_config(
        "[voice]\nsecond_voice = \"answer\"\n[wake]\nmodel = \"none\"\n[endpoint]\nend_silence_ms = 3000\n",
    );
    let heard = root.listen(&[&both]);
    let words = crate::support::of(&heard, "transcript")[0]["text"].as_str().unwrap().to_lowercase();
    assert!(words.contains("spare key") && words.contains("garden"), "{words}");
}

#[test]
fn a_sample_in_which_a_second_person_goes_on_is_refused() {
    let root = Root::new();
    let own = sentences(Voice::Rms, &ENROLMENT);
    let theirs = Voice::Kal.says("and send a message to my brother about the garden");
    let two = root.path().join("two.wav");
    join(&[&own[0], &theirs], 0.0, &two);
    let (report, _) = refused(&root, "Anna", &[two, own[1].clone(), own[2].clone()], &[]);
    assert!(report.to_string().contains("two voices were heard"), "{report}");
}

#[test]
fn a_calibration_that_was_tampered_with_is_refused_before_anyone_is_compared() {
    let mut root = Root::new();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/calibration");
    let models = root.path().join("models");
    fs::create_dir_all(models.join("calibration")).unwrap();
    root.env("JARVIS_MODELS_DIR", &models);
    // Constants that make everyone more likely to be verified, and still look plausible.
    let text = fs::read_to_string(source.join("campplus.toml")).unwrap();
    let changed: Vec<&str> =
        text.lines().map(|l| if l.starts_with("b = ") { "b = 50.0" } else { l }).collect();
    fs::write(models.join("calibration/campplus.toml"), changed.join("\n")).unwrap();

    let question = Voice::Rms.says("hey jarvis, who am i");
    let output = root.run(&["voice", "identify", question.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("campplus.toml") && said.contains("SHA-256") && said.contains("reinstall"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
    let output = root.run(&["models", "verify"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("campplus-calibration"));
}

/// A recording changed by sox, beside the others of this test.
pub(crate) fn changed(root: &Root, name: &str, from: &Path, format: &[&str], effects: &[&str]) -> PathBuf {
    let file = root.path().join(name);
    let mut args = vec![from.to_str().unwrap()];
    args.extend(format);
    args.push(file.to_str().unwrap());
    args.extend(effects);
    sox(&args);
    file
}

/// White noise of this level mixed into a recording.
fn noisy(root: &Root, name: &str, from: &Path, voice: &str, noise: &str) -> PathBuf {
    let hiss = changed(root, &format!("hiss-{name}"), from, &[], &["synth", "whitenoise", "vol", noise]);
    let file = root.path().join(name);
    let (from, hiss) = (from.to_str().unwrap(), hiss.to_str().unwrap());
    sox(&["-m", "-v", voice, from, "-v", "1", hiss, file.to_str().unwrap()]);
    file
}

#[test]
fn the_owner_is_known_through_other_equipment_and_a_stranger_never_is() {
    const QUESTION: &str = "hey jarvis, what do you remember about the spare key under the blue pot";
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    for (voice, owner) in [(Voice::Rms, true), (Voice::Slt, false), (Voice::Kal, false)] {
        let said = voice.says(QUESTION);
        let heard = [
            ("8 kHz", changed(&root, "8k.wav", &said, &["-r", "8000"], &[]), true),
            ("one dead channel", changed(&root, "dead.wav", &said, &[], &["remix", "1", "0"]), true),
            ("the other dead channel", changed(&root, "dead2.wav", &said, &[], &["remix", "0", "1"]), true),
            ("noise", noisy(&root, "noise.wav", &said, "1", "0.03"), true),
            // A third of all samples is cut off: likely its owner's, but no longer certain.
            ("overdriven", changed(&root, "over.wav", &said, &[], &["gain", "25"]), false),
        ];
        for (what, file, clear) in heard {
            let verdict = identified(&root, &file);
            let outcome = verdict["outcome"].as_str().unwrap();
            if !owner {
                assert_eq!(outcome, "rejected", "{voice:?}, {what}: {verdict}");
            } else if clear {
                assert_eq!((outcome, &verdict["user"]), ("verified", &"Anna".into()), "{what}");
            } else {
                assert!(["verified", "uncertain"].contains(&outcome), "{what}: {verdict}");
            }
        }
    }
    // The dead side alone is silence.
    root.write_config("[audio]\nchannel = \"right\"\n[wake]\nmodel = \"none\"\n");
    let dead = changed(&root, "dead3.wav", &Voice::Rms.says(QUESTION), &[], &["remix", "1", "0"]);
    let heard = root.listen(&[&dead]);
    assert!(crate::support::of(&heard, "verified").is_empty(), "{heard:?}");
}

#[test]
fn bad_equipment_and_other_people_are_refused_at_enrolment_with_what_to_do() {
    let root = Root::new();
    let spoken = sentences(Voice::Rms, &ENROLMENT);
    let more = sentences(Voice::Rms, &AGAIN);
    let joined = root.path().join("joined.wav");
    crate::support::join(&[&spoken[0], &more[0]], 0.5, &joined);
    let files = [
        spoken[0].clone(),
        changed(&root, "over.wav", &spoken[1], &[], &["gain", "25"]),
        noisy(&root, "noise.wav", &spoken[1], "0.5", "0.2"),
        changed(&root, "quiet.wav", &spoken[1], &["-b", "24"], &["gain", "-50"]),
        changed(&root, "short.wav", &spoken[1], &[], &["trim", "0", "1.5"]),
        Voice::Slt.says(ENROLMENT[1]),
        // An earlier recording, with something new behind it.
        joined,
    ];
    let (report, _) = refused(&root, "Anna", &files, &[]);
    let reasons: Vec<&str> =
        report["samples"].as_array().unwrap().iter().map(|s| s["reason"].as_str().unwrap_or("")).collect();
    for (nth, advice) in
        ["", "overdriven", "too much noise", "too quiet", "whole sentence", "let one person", "given before"]
            .into_iter()
            .enumerate()
    {
        assert!(reasons[nth].contains(advice) && reasons[nth].is_empty() == advice.is_empty(), "{report}");
    }
    // 8 kHz and a dead channel cost quality and are no reason to refuse.
    let files = [
        changed(&root, "8k.wav", &spoken[0], &["-r", "8000"], &[]),
        changed(&root, "8k2.wav", &spoken[1], &["-r", "8000"], &[]),
        changed(&root, "dead.wav", &spoken[2], &[], &["remix", "1", "0"]),
    ];
    enrolled(&root, "Anna", &files, &[]);
    let question = Voice::Rms.says("hey jarvis, what do you remember about the spare key");
    assert_eq!(identified(&root, &question)["user"], "Anna");
    assert_eq!(identified(&root, &Voice::Kal.says("hey jarvis, who am i"))["user"], Value::Null);
}

fn sqlite(db: &Path, sql: &str) -> String {
    let done = std::process::Command::new("sqlite3").args([db.to_str().unwrap(), sql]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_voiceprint_that_was_tampered_with_or_is_of_another_model_verifies_nobody_and_is_named() {
    let root = Root::new();
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    enrolled(&root, "Ben", &sentences(Voice::Slt, &ENROLMENT), &[]);
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let copy = fs::read(&db).unwrap();
    let (anna, ben) = (Voice::Rms.says("hey jarvis, who am i"), Voice::Slt.says("hey jarvis, who am i"));
    let last =
        "substr(blob, 1, length(blob) - 1) || CASE substr(blob, -1) WHEN x'00' THEN x'01' ELSE x'00' END";
    let of = |user: &str| format!("WHERE owner = (SELECT rid FROM users WHERE name = '{user}')");
    for (what, change) in [
        ("the last bit", format!("UPDATE voiceprints SET blob = CAST({last} AS BLOB) {}", of("Anna"))),
        ("cut", format!("UPDATE voiceprints SET blob = substr(blob, 1, 100) {}", of("Anna"))),
        (
            "another's",
            format!(
                "UPDATE voiceprints SET blob = (SELECT blob FROM voiceprints {}), \
                 wrapped_key = (SELECT wrapped_key FROM voiceprints {}) {}",
                of("Ben"),
                of("Ben"),
                of("Anna")
            ),
        ),
        (
            "another model",
            format!("UPDATE voiceprints SET model_sha256 = lower(hex(randomblob(32))) {}", of("Anna")),
        ),
        (
            "another front end",
            format!("UPDATE voiceprints SET front_end_sha256 = lower(hex(randomblob(32))) {}", of("Anna")),
        ),
    ] {
        fs::write(&db, &copy).unwrap();
        assert_eq!(identified(&root, &anna)["user"], "Anna");
        sqlite(&db, &change);
        assert_eq!(identified(&root, &anna)["user"], Value::Null, "{what}");
        assert_eq!(identified(&root, &ben)["user"], "Ben", "{what}: the others are still known");
        let found = voiceprints(&root);
        let named = found.iter().find(|f| f["state"] == "fail");
        assert!(named.is_some_and(|f| f["message"].as_str().unwrap().contains("Anna")), "{what}: {found:?}");
    }
}

#[test]
fn of_a_deleted_voice_no_byte_is_left_in_the_database_its_log_the_queue_or_a_later_backup() {
    // Postgres is configured and away, so everything waits in the queue.
    let root = Root::with_config("[store]\npostgres_url = \"postgres://jarvis@127.0.0.1:1/jarvis\"\n");
    enrolled(&root, "Anna", &sentences(Voice::Rms, &ENROLMENT), &[]);
    enrolled(&root, "Ben", &sentences(Voice::Slt, &ENROLMENT), &[]);
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let secret = |user: &str, column: &str| -> Vec<u8> {
        let sql = format!(
            "SELECT hex({column}) FROM voiceprints WHERE owner = (SELECT rid FROM users
                WHERE name = '{user}')"
        );
        let digits = sqlite(&db, &sql);
        digits
            .as_bytes()
            .chunks(2)
            .map(|b| u8::from_str_radix(std::str::from_utf8(b).unwrap(), 16).unwrap())
            .collect()
    };
    let of = |user: &str| [secret(user, "blob"), secret(user, "wrapped_key")];
    let (annas, bens) = (of("Anna"), of("Ben"));
    // Any twelve bytes of it in a row: no other file holds those by chance.
    let holds = |dir: &Path, secrets: &[Vec<u8>]| {
        let mut stack = vec![dir.to_path_buf()];
        let wanted: std::collections::HashSet<&[u8]> = secrets.iter().flat_map(|s| s.windows(12)).collect();
        while let Some(path) = stack.pop() {
            if path.is_dir() {
                stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if fs::read(&path).unwrap_or_default().windows(12).any(|part| wanted.contains(part)) {
                return true;
            }
        }
        false
    };
    let data = root.path().join("var/lib/jarvis");
    assert!(holds(&data, &annas) && holds(&data, &bens), "the search finds what is there");
    root.ok(&["voice", "delete", "--yes", "--user", "Anna"]);
    assert!(!holds(&data, &annas), "of Anna's voice something is left in {}", data.display());
    assert!(holds(&data, &bens), "Ben's stays");

    // Postgres is not there, so the device's own database is backed up without it.
    root.write_config("");
    root.ok(&["backup", "create", "--json"]);
    let restored = root.path().join("restored");
    fs::create_dir(&restored).unwrap();
    let file = restored.join("look.db");
    root.ok(&["backup", "restore", "latest", "--to", file.to_str().unwrap()]);
    assert!(holds(&restored, &bens), "a backup has who is enrolled");
    assert!(!holds(&restored, &annas), "and nothing of who was deleted before");
    let backups = root.path().join("var/backups/jarvis");
    assert!(backups.is_dir() && !holds(&backups, &annas));
}

/// `file` with the hum of the mains under it.
fn humming(root: &Root, file: &Path, hz: u32, level: &str) -> PathBuf {
    let hum = root.path().join(format!("hum-{hz}-{level}.wav"));
    let sine = format!("{hz}");
    sox(&[
        "-n",
        "-r",
        "16000",
        "-c",
        "1",
        "-b",
        "16",
        hum.to_str().unwrap(),
        "synth",
        "30",
        "sine",
        &sine,
        "vol",
        level,
    ]);
    let to = root.path().join(format!("with-{hz}-{level}-{}", file.file_name().unwrap().to_str().unwrap()));
    let length = format!("{}", (fs::metadata(file).unwrap().len() - 44) / 2);
    let length = format!("{length}s");
    sox(&[
        "-m",
        "-v",
        "1",
        file.to_str().unwrap(),
        "-v",
        "1",
        hum.to_str().unwrap(),
        to.to_str().unwrap(),
        "trim",
        "0",
        &length,
    ]);
    to
}

#[test]
fn a_dc_offset_or_hum_is_no_noise_to_an_enrolment() {
    let question = Voice::Rms.says("hey jarvis, what do you remember about the spare key");
    type Dirt = (&'static str, Box<dyn Fn(&Root, &Path) -> PathBuf>);
    let shifted = |by: &'static str| -> Dirt {
        let shift = move |root: &Root, file: &Path| {
            let name = format!("shifted-{}", file.file_name().unwrap().to_str().unwrap());
            changed(root, &name, file, &[], &["gain", "-3", "dcshift", by])
        };
        (by, Box::new(shift))
    };
    let hum = |hz: u32, level: &'static str| -> Dirt {
        (level, Box::new(move |root: &Root, file: &Path| humming(root, file, hz, level)))
    };
    for (name, dirty) in
        [shifted("0.07"), shifted("-0.3"), hum(50, "0.02"), hum(50, "0.1"), hum(60, "0.02"), hum(60, "0.1")]
    {
        let root = Root::new();
        let files: Vec<PathBuf> =
            sentences(Voice::Rms, &ENROLMENT).iter().map(|file| dirty(&root, file)).collect();
        enrolled(&root, "Anna", &files, &[]);
        // Clean and dirty recordings of the voice are verified, and another's is not.
        for file in [question.clone(), dirty(&root, &question)] {
            let verdict = identified(&root, &file);
            assert_eq!(
                (&verdict["outcome"], &verdict["user"]),
                (&"verified".into(), &"Anna".into()),
                "{name}: {verdict}"
            );
        }
        let stranger = dirty(&root, &Voice::Kal.says("hey jarvis, what do you remember about the spare key"));
        assert_ne!(identified(&root, &stranger)["outcome"], "verified", "{name}");
    }
}

#[test]
fn true_noise_is_still_refused() {
    let root = Root::new();
    let noise = |(n, file): (usize, &PathBuf)| noisy(&root, &format!("noisy-{n}.wav"), file, "1", "0.3");
    let files: Vec<PathBuf> = sentences(Voice::Rms, &ENROLMENT).iter().enumerate().map(noise).collect();
    let (report, _) = refused(&root, "Anna", &files, &[]);
    assert!(report["samples"][0]["reason"].as_str().unwrap().contains("too much noise"), "{report}");
}

/// A stereo recording: left and right.
fn stereo(root: &Root, left: &Path, right: &Path, name: &str) -> PathBuf {
    let to = root.path().join(name);
    sox(&["-M", left.to_str().unwrap(), right.to_str().unwrap(), to.to_str().unwrap()]);
    to
}

#[test]
fn the_channel_that_the_device_hears_is_the_one_that_recordings_are_heard_by() {
    // Anna on the right; on the left somebody else, as loud.
    let mut root = Root::new();
    root.env("JARVIS__AUDIO__CHANNEL", "right");
    let pairs: Vec<PathBuf> = ENROLMENT
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let (left, right) = (Voice::Kal.says(ENROLMENT[(n + 1) % 3]), Voice::Rms.says(text));
            stereo(&root, &left, &right, &format!("pair-{n}.wav"))
        })
        .collect();
    enrolled(&root, "Anna", &pairs, &[]);
    let text = "hey jarvis, remember that the spare key is under the blue pot";
    let (right, left) = (Voice::Rms.says(text), Voice::Kal.says("hey jarvis, what time is it now"));
    let both = stereo(&root, &left, &right, "both.wav");
    let swapped = stereo(&root, &right, &left, "swapped.wav");
    assert_eq!(identified(&root, &both)["user"], "Anna");
    assert_ne!(identified(&root, &swapped)["outcome"], "verified");
    // A recording of one channel is heard as it is.
    assert_eq!(identified(&root, &right)["user"], "Anna");
    let verify =
        |file: &Path| root.run(&["voice", "verify", "--user", "Anna", file.to_str().unwrap()]).status.code();
    assert_eq!((verify(&both), verify(&swapped)), (Some(0), Some(1)));
    // The same turn as from the right side alone.
    let heard = |file: &Path| {
        root.listen(&[file]).iter().find(|e| e["event"] == "verified").map(|e| e["user"].clone())
    };
    assert_eq!(
        (heard(&both), heard(&right), heard(&swapped)),
        (Some("Anna".into()), Some("Anna".into()), None)
    );

    let trials = root.path().join("trials.txt");
    fs::write(&trials, "1 pair-0.wav,pair-1.wav both.wav\n0 pair-0.wav,pair-1.wav swapped.wav\n").unwrap();
    let scores = root.path().join("scores.csv");
    root.ok(&["voice", "score", "--trials", trials.to_str().unwrap(), "--out", scores.to_str().unwrap()]);
    let text = fs::read_to_string(&scores).unwrap();
    let accepted: Vec<&str> = text.lines().skip(1).map(|line| line.rsplit(',').next().unwrap()).collect();
    assert_eq!(accepted, ["1", "0"], "{text}");
}

#[test]
fn channels_that_cancel_each_other_are_told_and_one_of_them_is_heard() {
    let root = Root::new();
    let upside_down = |file: &Path| {
        let to = root.path().join(format!("anti-{}", file.file_name().unwrap().to_str().unwrap()));
        sox(&[file.to_str().unwrap(), to.to_str().unwrap(), "remix", "1", "1v-1"]);
        to
    };
    let files: Vec<PathBuf> =
        sentences(Voice::Rms, &ENROLMENT).iter().map(|file| upside_down(file)).collect();
    let (code, report, said) = enroll(&root, "Anna", &files, &[]);
    assert_eq!((code, &report["enrolled"]), (Some(0), &Value::Bool(true)), "{report} {said}");
    assert_eq!(said.matches("cancel each other out").count(), 3, "{said}");
    let question = upside_down(&Voice::Rms.says("hey jarvis, who am i"));
    let output = root.run(&["voice", "identify", "--json", question.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cancel each other out"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Anna"), "{output:?}");
    assert!(root.listen(&[&question]).iter().any(|e| e["event"] == "verified"));
    // FLAC as well; plain stereo does not count as inverted.
    let flac = root.path().join("anti.flac");
    sox(&[question.to_str().unwrap(), flac.to_str().unwrap()]);
    assert_eq!(identified(&root, &flac)["user"], "Anna");
    let plain = root.path().join("plain.wav");
    sox(&[question.to_str().unwrap(), plain.to_str().unwrap(), "remix", "1", "1"]);
    let output = root.run(&["voice", "identify", plain.to_str().unwrap()]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
