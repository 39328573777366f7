//! Recordings through the whole pipeline: the right person is answered, everybody else is refused, and the
//! turn is remembered.

use std::path::{Path, PathBuf};

use crate::support::{Root, Voice, join, kinds, of};

const REMEMBER: &str = "hey jarvis, remember that the spare key is under the blue pot";
const RECALL: &str = "hey jarvis, what do you remember about the spare key";

#[test]
fn the_owner_is_remembered_across_runs_and_a_stranger_is_refused() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);

    let first = root.listen(&[&Voice::Rms.says(REMEMBER)]);
    assert_eq!(
        kinds(&first).into_iter().filter(|k| *k != "partial").collect::<Vec<_>>(),
        ["ready", "wake", "speech_start", "speech_end", "verified", "transcript", "reply", "stored", "end"],
        "{first:#?}"
    );
    let verified = of(&first, "verified")[0];
    assert_eq!(verified["user"], "anna");
    assert!(verified["confidence"].as_f64().unwrap() >= 0.85);
    assert!(of(&first, "transcript")[0]["text"].as_str().unwrap().to_lowercase().contains("blue pot"));

    let stranger = root.listen(&[&Voice::Slt.says(RECALL)]);
    assert_eq!(of(&stranger, "verified").len(), 0, "{stranger:#?}");
    assert_eq!(of(&stranger, "rejected").len(), 1, "{stranger:#?}");
    for kind in ["transcript", "reply", "stored"] {
        assert_eq!(of(&stranger, kind).len(), 0, "a stranger caused {kind}: {stranger:#?}");
    }

    let second = root.listen(&[&Voice::Rms.says(RECALL)]);
    let reply = of(&second, "reply")[0]["text"].as_str().unwrap();
    assert!(reply.contains("blue pot"), "{reply}");
    let conversation = |events: &[serde_json::Value]| of(events, "stored")[0]["conversation_id"].clone();
    assert_eq!(conversation(&first), conversation(&second), "the conversation goes on after a restart");

    let listed = root.json(&["conversation", "list", "--user", "anna"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed:#}");
}

#[test]
fn events_stand_in_the_order_of_the_audio_clock_and_carry_their_times() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let tape = root.path().join("tape.wav");
    join(
        &[&Voice::Rms.says("hey jarvis, who am i"), &Voice::Rms.says("hey jarvis, what time is it")],
        2.0,
        &tape,
    );
    let events = root.listen(&[&tape]);
    let times: Vec<u64> = events.iter().map(|e| e["at_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{events:#?}");
    assert_eq!(of(&events, "stored").len(), 2, "{events:#?}");
    for kind in ["verified", "transcript", "reply", "stored"] {
        for event in of(&events, kind) {
            assert!(event["took_ms"].as_f64().unwrap() >= 0.0, "{event}");
        }
    }
    assert!(of(&events, "reply")[1]["text"].as_str().unwrap().starts_with("It is"), "{events:#?}");
    // Two utterances are two turns, each from its wake word to its stored rows.
    let turns: Vec<_> = of(&events, "wake").into_iter().map(|wake| wake["turn"].as_str().unwrap()).collect();
    assert_ne!(turns[0], turns[1]);
    for event in &events {
        let kind = event["event"].as_str().unwrap();
        let outside = ["ready", "end"].contains(&kind);
        let later = event["at_ms"].as_u64() >= of(&events, "wake")[1]["at_ms"].as_u64();
        let expected = (!outside).then_some(turns[usize::from(later)]);
        assert_eq!(event["turn"].as_str(), expected, "{event}");
    }
}

#[test]
fn nothing_of_the_wake_phrase_is_left_in_a_transcript_and_nothing_of_the_command_is_cut_off() {
    let mut root = Root::new();
    root.env("JARVIS__VOICE__ENABLED", "false");
    // They begin with a consonant, a vowel, and the hiss with which "Jarvis" ends.
    let commands =
        ["remind me to water the plants", "is it raining", "stop", "set the timer to five minutes"];
    for voice in [Voice::Rms, Voice::Awb, Voice::Kal] {
        let spoken: Vec<PathBuf> =
            commands.iter().map(|command| voice.says(&format!("hey jarvis, {command}"))).collect();
        let tape = root.path().join("tape.wav");
        join(&spoken.iter().map(PathBuf::as_path).collect::<Vec<_>>(), 2.0, &tape);
        let events = root.listen(&[&tape]);
        let first_words = |texts: &[&str]| -> Vec<String> {
            texts.iter().map(|text| text.split([' ', '.', ',']).next().unwrap().to_lowercase()).collect()
        };
        let heard: Vec<&str> =
            of(&events, "transcript").into_iter().map(|event| event["text"].as_str().unwrap()).collect();
        assert_eq!(first_words(&heard), first_words(&commands), "{voice:?}: {heard:?}");
    }
}

#[test]
fn speech_without_the_wake_word_does_nothing() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let events = root.listen(&[&Voice::Rms.says("remember that the garage door is open")]);
    assert_eq!(kinds(&events), ["ready", "end"], "{events:#?}");
}

#[test]
fn without_a_wake_word_in_the_settings_every_sentence_is_a_command() {
    let mut root = Root::new();
    root.env("JARVIS__WAKE__MODEL", "none");
    root.enrol("anna", Voice::Rms);
    let events = root.listen(&[&Voice::Rms.says("remember that the garage door is open")]);
    assert_eq!(of(&events, "wake").len(), 0);
    assert_eq!(of(&events, "stored").len(), 1, "{events:#?}");
}

#[test]
fn nobody_is_answered_before_someone_is_enrolled() {
    let root = Root::new();
    let events = root.listen(&[&Voice::Rms.says(REMEMBER)]);
    assert_eq!(of(&events, "rejected")[0]["reason"], "not_enrolled", "{events:#?}");
    assert_eq!(of(&events, "stored").len(), 0);
}

#[test]
fn with_verification_off_everyone_is_answered_as_anonymous() {
    let root = Root::with_config("[voice]\nenabled = false\n");
    let events = root.listen(&[&Voice::Slt.says("hey jarvis, who am i")]);
    assert_eq!(of(&events, "stored").len(), 1, "{events:#?}");
    assert_eq!(of(&events, "verified").len(), 0, "nothing was verified, so nothing says so");
}

/// Files below `dir` that hold `word`, in any case.
fn files_with(word: &str, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else if contains(&std::fs::read(&path).unwrap(), word) {
                found.push(path);
            }
        }
    }
    found
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.to_ascii_lowercase().windows(word.len()).any(|w| w == word.as_bytes())
}

#[test]
fn speech_of_a_stranger_is_found_nowhere_on_the_disk_nor_in_the_log() {
    // A word that is said nowhere else.
    const WORD: &str = "pineapple";
    // Under another name: events and the log name the file.
    let elsewhere = tempfile::tempdir().unwrap();
    let strange = elsewhere.path().join("stranger.wav");
    std::fs::copy(Voice::Kal.says("hey jarvis, the password is pineapple"), &strange).unwrap();
    let heard = |root: &Root| {
        let output = root.run(&["listen", strange.to_str().unwrap(), strange.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        output
    };

    // A device that answers everybody understands the word and keeps it, and the search finds it.
    let mut open = Root::with_config("[voice]\nenabled = false\n");
    open.env("JARVIS_LOG", "debug");
    assert!(contains(&heard(&open).stdout, WORD), "the recogniser does not understand the word");
    assert!(!files_with(WORD, open.path()).is_empty(), "the search does not find what is there");

    let mut root = Root::new();
    root.env("JARVIS_LOG", "debug");
    root.enrol("anna", Voice::Rms);
    let output = heard(&root);
    let audit = root.json(&["audit", "list"]);
    assert!(audit.as_array().unwrap().len() >= 2, "each attempt leaves a row: {audit:#}");
    let holding = files_with(WORD, root.path());
    assert!(holding.is_empty(), "{holding:?} hold what a stranger said");
    // Only the terminal may show words of a voice that is not verified yet.
    let lines = String::from_utf8(output.stdout).unwrap();
    let shown: Vec<&str> = lines.lines().filter(|l| contains(l.as_bytes(), WORD)).collect();
    assert!(shown.iter().all(|l| l.contains("\"partial\"")), "{shown:?}");
    assert!(!output.stderr.is_empty(), "the log is on");
    assert!(!contains(&output.stderr, WORD), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn five_failures_in_a_row_make_the_device_pause() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let strange = Voice::Kal.says(RECALL);
    let events = root.listen(&[&strange; 7]);
    let reasons: Vec<&str> = of(&events, "rejected").iter().map(|e| e["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), 7, "{events:#?}");
    assert!(reasons[..5].iter().all(|r| *r != "paused"), "{reasons:?}");
    assert_eq!(reasons[5..], ["paused", "paused"], "{reasons:?}");
}

#[test]
fn a_television_does_not_lock_the_owner_out_and_guessing_stays_slow() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let (strange, owner) = (Voice::Kal.says(RECALL), Voice::Rms.says(RECALL));
    let mut heard = vec![&strange; 6];
    heard.push(&owner);
    let events = root.listen(&heard);
    assert_eq!(of(&events, "rejected").len(), 6, "{events:#?}");
    let verified = of(&events, "verified");
    assert!(verified[0]["confidence"].as_f64().unwrap() >= 0.99, "{events:#?}");
    assert_eq!(of(&events, "stored").len(), 1, "{events:#?}");

    // A long pause, so that no slow machine outlasts it: of many attempts a few are compared, and later ones
    // are not.
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let order = "UPDATE settings SET value = json_object('failures', 12, 'looks', 0, 'last_failure_unix_ms', \
                 1000 * strftime('%s', 'now')) WHERE key = 'failure_gate';";
    let status = std::process::Command::new("sqlite3").arg(&db).arg(order).status();
    assert!(status.unwrap().success());
    let rows = root.json(&["audit", "list"]).as_array().unwrap().len();
    let mut heard = vec![&strange; 5];
    heard.push(&owner);
    let events = root.listen(&heard);
    let rejected = of(&events, "rejected");
    assert_eq!(rejected.len(), 6, "the owner comes after too many: {events:#?}");
    for refused in rejected {
        assert_eq!((&refused["reason"], refused.get("confidence")), (&"paused".into(), None), "{refused}");
    }
    assert!(of(&events, "transcript").is_empty(), "{events:#?}");
    assert_eq!(
        root.json(&["audit", "list"]).as_array().unwrap().len(),
        rows + 6,
        "each attempt leaves a row"
    );
}

#[test]
fn a_voice_that_is_surely_a_strangers_is_never_transcribed_and_the_owners_is() {
    const LONG: &str =
        "hey jarvis, remember that the money lies behind the green door of the old garden house";
    let mut root = Root::new();
    root.env("JARVIS_LOG", "debug");
    let heard = |root: &Root, voice: Voice| {
        let output = root.run(&["listen", voice.says(LONG).to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        let events = crate::support::events_of(&String::from_utf8(output.stdout).unwrap());
        // The recogniser says each time that it has run.
        let runs = String::from_utf8(output.stderr).unwrap().matches("Whisper took").count();
        (events, runs)
    };
    let (events, runs) = heard(&root, Voice::Rms);
    assert_eq!(of(&events, "rejected")[0]["reason"], "not_enrolled", "{events:#?}");
    assert_eq!((runs, &of(&events, "rejected")[0]["early"]), (0, &true.into()), "nobody can be answered");

    root.enrol("anna", Voice::Rms);
    let (events, runs) = heard(&root, Voice::Kal);
    let rejected = of(&events, "rejected")[0];
    assert_eq!((&rejected["reason"], &rejected["early"]), (&"rejected".into(), &true.into()), "{events:#?}");
    assert_eq!(runs, 0, "{events:#?}");
    let row = &root.json(&["audit", "list"])[0];
    assert_eq!((&row["outcome"], &row["detail"]["early"]), (&"rejected".into(), &true.into()), "{row}");

    let (events, runs) = heard(&root, Voice::Rms);
    assert!(of(&events, "transcript")[0]["text"].as_str().unwrap().contains("green door"), "{events:#?}");
    assert_eq!((runs, of(&events, "rejected").len()), (1, 0), "{events:#?}");
}
