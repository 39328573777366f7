//! The tables that the owner of a board sends in.

use std::fs;

use crate::support::{Root, Voice, sox};
use serde_json::Value;

fn json(root: &Root, args: &[&str]) -> Value {
    serde_json::from_str(&root.ok(args)).unwrap()
}

/// The values of a key in a list.
fn of<'a>(list: &'a Value, key: &str) -> Vec<&'a Value> {
    list.as_array().unwrap().iter().map(|entry| &entry[key]).collect()
}

#[test]
fn every_stage_of_a_turn_and_every_model_is_timed_and_nothing_is_left_behind() {
    let root = Root::new();
    let order = Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot");
    let order = order.to_str().unwrap();
    let turn = json(&root, &["bench", "turn", order, "--rounds", "1", "--json"]);
    assert_eq!(turn["woken"], true, "{turn:#}");
    assert!(turn["words"].as_u64().unwrap() >= 8 && turn["utterance_s"].as_f64().unwrap() > 3.0, "{turn:#}");
    let stages = of(&turn["turn"], "stage");
    for wanted in ["speaker check", "whisper, after the command's end", "answer found and stored"] {
        assert!(stages.iter().any(|stage| stage.as_str().unwrap().starts_with(wanted)), "{stages:?}");
    }
    assert_eq!(of(&turn["listening"], "stage").len(), 3);
    for stage in ["turn", "listening", "after_the_end"] {
        assert!(of(&turn[stage], "wall_ms").iter().all(|ms| ms.as_f64().unwrap() > 0.0), "{turn:#}");
    }
    assert!(turn["board"]["processor"].is_string() && turn["before"].is_object(), "{turn:#}");
    // The memory of the device was not touched, and the folder for the turns is gone.
    let data = root.path().join("var/lib/jarvis");
    let left: Vec<_> = fs::read_dir(&data).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");

    let models = json(&root, &["bench", "models", order, "--json"]);
    let names = of(&models["models"], "model");
    for name in ["silero-vad", "hey-jarvis", "campplus", "pyannote-segmentation", "whisper"] {
        assert!(names.iter().any(|of| *of == name), "{name} is missing: {names:?}");
    }
    let table = root.ok(&["bench", "turn", order, "--rounds", "1"]);
    assert!(table.contains("| speaker check ") && table.contains("throttled  "), "{table}");
}

#[test]
fn a_recording_without_speech_and_one_that_is_none_are_refused() {
    let root = Root::new();
    let noise = root.path().join("noise.wav");
    sox(&[
        "-n",
        "-r",
        "16000",
        "-b",
        "16",
        noise.to_str().unwrap(),
        "synth",
        "2",
        "whitenoise",
        "vol",
        "0.01",
    ]);
    let refused = root.run(&["bench", "turn", noise.to_str().unwrap(), "--rounds", "1"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(65), "{said}");
    assert!(said.contains("no speech is found"), "{said}");
    fs::write(&noise, "no sound").unwrap();
    let refused = root.run(&["bench", "models", noise.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(65), "{refused:?}");
}
