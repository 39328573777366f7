//! `jarvisd voice score`: error rates on a list of trials, from the real binary.

use std::fs;

use crate::support::{ENROLMENT, Root, Voice};

const COMMAND: &str = "hey jarvis, remember that the spare key is under the blue pot";

/// A list in the root's folder: each of the voices against itself and against the others.
fn list(root: &Root, voices: &[Voice]) -> String {
    let mut text = "# every voice against every voice\n\n".to_owned();
    for &owner in voices {
        let enrol: Vec<String> = ENROLMENT.iter().map(|p| owner.says(p).display().to_string()).collect();
        for &speaker in voices {
            let label = u8::from(owner == speaker);
            text.push_str(&format!("{label} {} {}\n", enrol.join(","), speaker.says(COMMAND).display()));
        }
    }
    let path = root.path().join("trials.txt");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_list_of_trials_gives_error_rates_as_json_and_scores_as_csv() {
    let root = Root::new();
    let trials = list(&root, &[Voice::Rms, Voice::Slt, Voice::Ked]);
    let scores = root.path().join("scores.csv");
    let report = root.json(&["voice", "score", "--trials", &trials, "--out", scores.to_str().unwrap()]);
    assert_eq!((report["trials"].as_u64(), report["same"].as_u64()), (Some(9), Some(3)));
    assert_eq!(report["too_short"], 0);
    assert_eq!(report["eer"], 0.0);
    assert_eq!((report["far"].as_f64(), report["frr"].as_f64()), (Some(0.0), Some(0.0)));
    assert!(report["cllr"].as_f64().unwrap() < 0.1, "{report}");
    let bins: u64 = report["bins"].as_array().unwrap().iter().map(|b| b["trials"].as_u64().unwrap()).sum();
    assert_eq!(bins, 9);

    let csv = fs::read_to_string(&scores).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "label,enrol,test,net_speech_s,score,log_odds,confidence,accepted");
    assert_eq!(lines.len(), 10);
    for line in &lines[1..] {
        assert_eq!(line.starts_with('1'), line.ends_with(",1"), "label and verdict differ: {line}");
    }

    let said = root.run(&["voice", "score", "--trials", &trials, "--out", scores.to_str().unwrap()]);
    assert_eq!(said.status.code(), Some(2), "a file is not overwritten");
    assert_eq!(fs::read_to_string(&scores).unwrap(), csv);
}

#[test]
fn files_are_found_beside_the_list_and_silence_is_a_trial_too_short() {
    let root = Root::new();
    fs::copy(Voice::Rms.says(COMMAND), root.path().join("one.wav")).unwrap();
    let silence = root.path().join("silence.wav");
    crate::support::sox(&[
        "-n",
        "-r",
        "16000",
        "-c",
        "1",
        "-b",
        "16",
        silence.to_str().unwrap(),
        "trim",
        "0",
        "2",
    ]);
    let trials = root.path().join("trials.txt");
    fs::write(&trials, "1 one.wav one.wav\n1 one.wav silence.wav\n").unwrap();
    let report = root.json(&["voice", "score", "--trials", trials.to_str().unwrap()]);
    assert_eq!((report["trials"].as_u64(), report["too_short"].as_u64()), (Some(2), Some(1)));
    assert_eq!(report["frr"], 0.5);
    assert!(report["eer"].is_null(), "there is no other speaker: {report}");
}

#[test]
fn a_bad_list_is_refused_with_line_and_reason() {
    let root = Root::new();
    let trials = root.path().join("trials.txt");
    let no_sound = root.path().join("text.wav");
    fs::write(&no_sound, "this is no sound").unwrap();
    for (text, expected) in [
        ("", "no trial"),
        ("1 a.wav\n", "line 1: it has fewer than three fields"),
        ("0 x.wav y.wav\n2 a.wav b.wav\n", "line 2: the label is neither 1 nor 0"),
        ("1 missing.wav missing.wav\n", "missing.wav"),
        ("1 text.wav text.wav\n", "text.wav"),
    ] {
        fs::write(&trials, text).unwrap();
        let output = root.run(&["voice", "score", "--trials", trials.to_str().unwrap()]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(65), "{text:?}: {said}");
        assert!(said.contains(expected), "{text:?}: {said}");
        assert!(output.stdout.is_empty());
    }
    fs::write(&trials, b"\xff\xfe\x00").unwrap();
    let output = root.run(&["voice", "score", "--trials", trials.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65));
}
