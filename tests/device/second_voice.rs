//! Two voices in one breath, short orders, and a sentence that is cut into several: the right person is
//! answered, and the parts left out are reported.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Root, Voice, join, of, sox};

/// Every utterance is an order, and a breath may hold a pause.
const ANY_SPEECH: &str = "[wake]\nmodel = \"none\"\n[endpoint]\nend_silence_ms = 2500\n";
const ORDER: &str = "remember that the spare key is under the blue pot in the garden";
const STRANGE: &str = "and send a message to my brother about the money in the cellar";

fn breath(root: &Root, said: &[&PathBuf]) -> PathBuf {
    let tape = root.path().join("breath.wav");
    // The recordings have silence around them; less of it, as in one breath.
    let parts: Vec<PathBuf> = said
        .iter()
        .enumerate()
        .map(|(n, file)| {
            let close = root.path().join(format!("close-{n}.wav"));
            sox(&[file.to_str().unwrap(), close.to_str().unwrap(), "trim", "0.35", "-0.9"]);
            close
        })
        .collect();
    let parts: Vec<&Path> = parts.iter().map(PathBuf::as_path).collect();
    join(&parts, 0.0, &tape);
    let padded = root.path().join("tape.wav");
    sox(&[tape.to_str().unwrap(), padded.to_str().unwrap(), "pad", "0.5", "3"]);
    padded
}

fn words(events: &[Value]) -> String {
    let all: Vec<&str> = of(events, "transcript").iter().map(|e| e["text"].as_str().unwrap()).collect();
    all.join(" | ").to_lowercase()
}

#[test]
fn the_owner_is_answered_whether_a_stranger_speaks_before_or_behind() {
    let root = Root::with_config(ANY_SPEECH);
    root.enrol("anna", Voice::Rms);
    let (hers, strange) = (Voice::Rms.says(ORDER), Voice::Kal.says(STRANGE));
    for said in [[&strange, &hers], [&hers, &strange]] {
        let events = root.listen(&[breath(&root, &said)]);
        let words = words(&events);
        assert!(words.contains("spare key") && words.contains("garden"), "{events:#?}");
        for strange in ["message", "brother", "money", "cellar"] {
            assert!(!words.contains(strange), "{words}");
        }
        assert_eq!((of(&events, "stored").len(), of(&events, "rejected").len()), (1, 0), "{events:#?}");
        let dropped = of(&events, "dropped");
        assert!(dropped.iter().any(|e| e["speech_s"].as_f64().unwrap() > 1.0), "{events:#?}");
        assert!(of(&events, "verified")[0]["other_s"].as_f64().unwrap() > 1.0, "{events:#?}");
    }
    let audit = root.json(&["audit", "list"]).to_string();
    assert!(audit.contains("dropped") && !audit.contains("brother"), "{audit}");
    // A stranger alone is still nobody, and no part counts as dropped beside anybody.
    let events = root.listen(&[breath(&root, &[&strange])]);
    assert_eq!(of(&events, "rejected").len(), 1, "{events:#?}");
    assert!(of(&events, "transcript").is_empty() && of(&events, "dropped").is_empty(), "{events:#?}");
}

#[test]
fn two_enrolled_people_in_one_breath_are_answered_one_after_the_other_from_their_own_memory() {
    let root = Root::with_config(ANY_SPEECH);
    root.enrol("anna", Voice::Rms);
    root.enrol("ben", Voice::Slt);
    let hers = Voice::Rms.says(ORDER);
    let his = Voice::Slt.says("remember that the dinner is at seven on friday evening");
    let events = root.listen(&[breath(&root, &[&hers, &his])]);
    let users: Vec<_> = of(&events, "verified").iter().map(|e| e["user"].clone()).collect();
    assert_eq!(users, ["anna", "ben"], "{events:#?}");
    assert_eq!(of(&events, "stored").len(), 2, "{events:#?}");
    let texts: Vec<String> =
        of(&events, "transcript").iter().map(|e| e["text"].as_str().unwrap().to_lowercase()).collect();
    assert!(texts[0].contains("spare key") && !texts[0].contains("dinner"), "{texts:?}");
    assert!(texts[1].contains("dinner") && !texts[1].contains("spare key"), "{texts:?}");
    let of_user = |user: &str| root.ok(&["conversation", "list", "--user", user]);
    assert!(!of_user("ben").contains("spare key") && !of_user("anna").contains("dinner"));

    root.write_config(&format!("[voice]\nsecond_voice = \"refuse\"\n{ANY_SPEECH}"));
    let events = root.listen(&[breath(&root, &[&hers, &his])]);
    assert_eq!(of(&events, "rejected")[0]["reason"], "multiple_speakers", "{events:#?}");
    assert!(of(&events, "transcript").is_empty(), "{events:#?}");
}

#[test]
fn a_short_order_needs_no_wake_phrase_to_be_answered_and_a_strangers_is_no_failure() {
    let root = Root::with_config(ANY_SPEECH);
    root.enrol("anna", Voice::Rms);
    let (order, short) = (Voice::Rms.says(ORDER), Voice::Rms.says("what can you do"));
    let events = root.listen(&[&order, &short]);
    let verified = of(&events, "verified");
    assert_eq!(verified.len(), 2, "{events:#?}");
    assert!(verified[1]["net_speech_s"].as_f64().unwrap() < 1.0, "{events:#?}");
    let events = root.listen(&[&order, &Voice::Kal.says("what can you do")]);
    assert_eq!(of(&events, "verified").len(), 1, "{events:#?}");
    let refused = of(&events, "rejected");
    assert!(refused.iter().all(|e| e["reason"] == "too_short" || e["reason"] == "rejected"), "{events:#?}");
}

#[test]
fn one_sentence_on_television_that_is_cut_into_seven_is_one_failure() {
    let root = Root::with_config("[wake]\nmodel = \"none\"\n");
    root.enrol("anna", Voice::Rms);
    let part = Voice::Kal.says("the weather tomorrow will be cold and windy in the north");
    let tape = root.path().join("television.wav");
    join(&[part.as_path(); 7], 0.0, &tape);
    let events = root.listen(&[&tape]);
    let reasons: Vec<&str> = of(&events, "rejected").iter().map(|e| e["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["rejected"; 7], "{events:#?}");
    assert!(of(&events, "pause").is_empty(), "{events:#?}");
    // Every one of them is in the audit log.
    let rows = root.json(&["audit", "list"]);
    assert_eq!(
        rows.as_array().unwrap().iter().filter(|row| row["outcome"] == "rejected").count(),
        7,
        "{rows}"
    );
}
