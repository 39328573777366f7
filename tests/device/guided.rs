//! An enrolment before the microphone from the command line, and the commands that show its sound.

use std::path::PathBuf;

use crate::support::mic::Mic;
use crate::support::{Daemon, ENROLMENT, Root, Voice, join, on_disk};
use crate::voice::changed;
use serde_json::Value;

const FURTHER: &str =
    "the weather this morning was bright and cold so i walked along the river before breakfast";
const LAST: &str = "whoever asks for the spare key in the garden house should ask my sister about it first";

fn root() -> (Root, Mic) {
    let mut root = Root::with_config("[audio]\ndevice = \"room\"\n[speech]\nenabled = false\n");
    let mic = Mic::plug_into(&mut root);
    (root, mic)
}

/// The command in the background; its lines come as events.
fn begin(root: &Root, args: &[&str]) -> Daemon {
    Daemon::start(root.command(&[&["voice", "enroll", "--user", "Anna"], args].concat()))
}

/// Waits for a line with this text.
fn told(running: &mut Daemon, text: &str) -> String {
    let line = running.wait_for(text, |line| line.as_str().is_some_and(|line| line.contains(text)));
    line.as_str().unwrap().to_owned()
}

/// "Hey jarvis", three times: a busy machine may lose sound of one.
pub(crate) fn call(root: &Root) -> PathBuf {
    let (once, thrice) = (Voice::Rms.says("hey jarvis"), root.path().join("thrice.wav"));
    join(&[&once, &once, &once], 1.0, &thrice);
    thrice
}

#[test]
fn somebody_is_led_through_an_enrolment_and_the_voice_is_tried_before_it_is_stored() {
    let (root, mic) = root();
    let mut running = begin(&root, &[]);
    let asked = told(&mut running, "1 of 3:");
    assert!(asked.contains("lighthouse"), "a sentence to read: {asked}");
    mic.hears(&Voice::Rms.says(ENROLMENT[0]));
    let kept = told(&mut running, "kept:");
    assert!(kept.contains("s of speech") && kept.contains("of 10 s"), "{kept}");
    told(&mut running, "2 of 3:");

    // Somebody else in between, and a word alone.
    mic.hears(&Voice::Slt.says(ENROLMENT[1]));
    let refused = told(&mut running, "once more:");
    assert!(refused.contains("does not sound like"), "{refused}");
    assert_eq!(told(&mut running, "2 of 3:").matches("Thursday").count(), 1, "the same sentence again");
    mic.hears(&Voice::Rms.says("the kettle"));
    let refused = told(&mut running, "once more:");
    assert!(refused.contains("say a whole sentence"), "{refused}");

    for sentence in &ENROLMENT[1..] {
        told(&mut running, " of 3:");
        mic.hears(&Voice::Rms.says(sentence));
        told(&mut running, "kept:");
    }
    assert_eq!(root.json(&["user", "list"]), serde_json::json!([]), "nothing is stored yet");
    told(&mut running, "from across the room");
    mic.hears(&Voice::Rms.says(FURTHER));
    let left_out = told(&mut running, "not kept:");
    assert!(left_out.contains("known like this already"), "{left_out}");
    told(&mut running, "To try it");
    mic.hears(&Voice::Rms.says(LAST));
    let tried = told(&mut running, "that is Anna");
    let confidence: f64 = tried.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(confidence >= 0.85, "{tried}");
    told(&mut running, "Enrolled Anna");
    assert_eq!(running.exit_code(), Some(0), "{}", running.log());
    assert!(!running.log().contains('#'), "no level is drawn where there is no terminal: {}", running.log());

    assert_eq!(root.json(&["voice", "list"])[0]["samples"], 3);
    let file = Voice::Rms.says(LAST);
    root.ok(&["voice", "verify", "--user", "Anna", file.to_str().unwrap()]);
    let wav = std::fs::read(&file).unwrap();
    let heart = &wav[(wav.len() / 2) & !1..][..64];
    assert!(!on_disk(&root.path().join("var"), heart), "the sound lies on the disk");
}

#[test]
fn an_interrupted_enrolment_leaves_the_voice_from_before() {
    let (root, mic) = root();
    root.enrol("Anna", Voice::Slt);
    let before = root.json(&["voice", "list"]);
    let mut running = begin(&root, &["--replace", "--json"]);
    // With --json standard output belongs to the result.
    running.wait_log("1 of 3:");
    mic.hears(&changed(&root, "quiet.wav", &Voice::Rms.says(ENROLMENT[0]), &[], &["gain", "-36"]));
    running.wait_log("once more:");
    assert!(running.log().contains("come closer"), "{}", running.log());
    mic.hears(&Voice::Rms.says(ENROLMENT[1]));
    running.wait_log("kept:");
    running.signal("INT");
    assert_eq!(running.exit_code(), Some(1), "{}", running.log());
    assert!(running.log().contains("nothing was changed"), "{}", running.log());
    assert_eq!(root.json(&["voice", "list"]), before);
    root.ok(&["voice", "verify", "--user", "Anna", Voice::Slt.says(LAST).to_str().unwrap()]);
}

#[test]
fn a_microphone_that_is_in_use_or_away_is_named_with_the_remedy() {
    let (root, mic) = root();
    let refused = |args: &[&str], exit: i32| {
        let output = root.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {said}");
        said
    };
    mic.busy(true);
    let said = refused(&["voice", "enroll", "--user", "Anna"], 75);
    assert!(said.contains("\"room\" is in use") && said.contains("systemctl stop jarvisd"), "{said}");
    mic.busy(false);
    mic.unplug();
    let said = refused(&["sound", "level", "--seconds", "8"], 69);
    assert!(said.contains("No such device") && said.contains("jarvisd sound list"), "{said}");
    let said = refused(&["sound", "level", "--device", "plughw:CARD=Nowhere"], 69);
    assert!(said.contains("Nowhere"), "{said}");
}

#[test]
fn the_sound_commands_list_the_devices_show_the_level_and_hear_the_wake_word() {
    let (root, mic) = root();
    let devices = root.json(&["sound", "list"]);
    let room =
        serde_json::json!([{"name": "room", "description": "Microphone and loudspeaker of the tests"}]);
    assert_eq!((&devices["microphones"], &devices["loudspeakers"]), (&room, &room));
    let text = root.ok(&["sound", "list"]);
    assert!(text.contains("microphone   room"), "{text}");

    let kettle = Voice::Rms.says("the kettle");
    let mut running = Daemon::start(root.command(&["sound", "level", "--seconds", "4"]));
    mic.hears(&kettle);
    let line = told(&mut running, "loudest");
    assert!(line.starts_with("\"room\", 48000 Hz: quietest -9"), "{line}");
    let loudest: f64 = line.split(' ').rev().nth(1).unwrap().parse().unwrap();
    assert!((-30.0..-5.0).contains(&loudest), "{line}");
    assert_eq!(running.exit_code(), Some(0));
    mic.own_noise(false);
    let silent = root.json(&["sound", "level", "--seconds", "1"]);
    assert!(silent["fault"].as_str().unwrap().contains("digital silence"), "{silent}");

    let mut running = Daemon::start(root.command(&["sound", "wake", "--seconds", "30"]));
    mic.hears(&call(&root));
    told(&mut running, "Heard \"hey-jarvis\"");
    assert_eq!(running.exit_code(), Some(0));
    let output = root.run(&["sound", "wake", "--seconds", "1", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(serde_json::from_slice::<Value>(&output.stdout).is_err(), "no result");
    let mut silent = root.command(&["sound", "wake"]);
    silent.env("JARVIS__WAKE__MODEL", "none");
    assert_eq!(silent.output().unwrap().status.code(), Some(2));
}
