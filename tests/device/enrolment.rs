//! Further samples of an enrolment: kept where they help, and nothing else; from files and before the
//! microphone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::mic::Mic;
use crate::support::{Broker, ENROLMENT, Root, Voice, enroll, sox};
use crate::voice::changed;
use serde_json::Value;

const FURTHER: &str =
    "the weather this morning was bright and cold so i walked along the river before breakfast";
const QUESTION: &str = "hey jarvis, what do you remember about the spare key in the garden house";

/// A recording by a bad second microphone, which passes less than a telephone.
fn telephone(root: &Root, recording: &Path, name: &str) -> PathBuf {
    changed(root, name, recording, &[], &["sinc", "-n", "512", "350-2600"])
}

/// Adds further samples to Anna's voice; returns exit code, report and standard error.
fn further(root: &Root, options: &[(&str, &Path)]) -> (Option<i32>, Value, String) {
    let options: Vec<&str> =
        options.iter().flat_map(|(style, file)| [*style, file.to_str().unwrap()]).collect();
    enroll(root, "Anna", &[], &options)
}

fn samples(root: &Root) -> u64 {
    root.json(&["voice", "list"])[0]["samples"].as_u64().unwrap()
}

fn confidence(root: &Root, recording: &Path) -> f64 {
    let output = root.run(&["voice", "identify", "--json", recording.to_str().unwrap()]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    found["confidence"].as_f64().unwrap()
}

#[test]
fn the_next_command_is_told_as_a_shell_takes_it() {
    let root = Root::new();
    let name = "O'Brien $x";
    root.ok(&["user", "add", name]);
    let samples: Vec<PathBuf> = ENROLMENT.iter().map(|phrase| Voice::Rms.says(phrase)).collect();
    let mut args = vec!["voice", "enroll", "--user", name];
    args.extend(samples.iter().map(|path| path.to_str().unwrap()));
    let told = root.ok(&args);
    let command = told.lines().find(|line| line.contains("--far")).unwrap_or_else(|| panic!("{told}"));
    let shell = format!("jarvisd() {{ printf '%s\\n' \"$@\"; }}; {command}");
    let output = std::process::Command::new("sh").args(["-c", &shell]).output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    let expected = format!("--root\n{}\nvoice\nenroll\n--user\n{name}\n--far\n", root.path().display());
    assert!(words.starts_with(&expected), "{words}");
}

#[test]
fn a_sample_by_a_second_microphone_is_kept_and_what_is_known_already_is_not() {
    let root = Root::new();
    root.enrol("Anna", Voice::Rms);
    let question = Voice::Rms.says(QUESTION);
    let by_telephone = telephone(&root, &question, "question.wav");
    let (usual, before) = (confidence(&root, &question), confidence(&root, &by_telephone));
    let first = root.json(&["voice", "list"])[0]["id"].clone();

    let normal = Voice::Rms.says(FURTHER);
    let (code, report, said) = further(&root, &[("--far", &normal)]);
    assert_eq!((code, &report["enrolled"]), (Some(0), &true.into()), "{report} {said}");
    let sample = &report["samples"][0];
    assert_eq!((&sample["style"], &sample["accepted"]), (&"far".into(), &false.into()), "{sample}");
    assert_eq!(sample["left_out"], "not_needed", "{sample}");
    assert!(sample["reason"].as_str().unwrap().contains("known like this already"), "{sample}");
    assert_eq!(root.json(&["voice", "list"])[0]["id"], first, "nothing is stored anew");

    let narrow = telephone(&root, &normal, "narrow.wav");
    let (code, report, said) = further(&root, &[("--second-microphone", &narrow)]);
    assert_eq!(code, Some(0), "{report} {said}");
    let sample = &report["samples"][0];
    assert_eq!(sample["accepted"], true, "{sample}");
    let of = |key: &str| sample[key].as_f64().unwrap();
    assert!(of("confidence_after") > of("confidence_before"), "{sample}");
    assert_eq!(samples(&root), 4);
    assert!(confidence(&root, &by_telephone) > before, "{before}");
    assert!(confidence(&root, &question) > usual.min(0.99), "{usual}");
    let stranger = telephone(&root, &Voice::Kal.says(QUESTION), "stranger.wav");
    assert!(confidence(&root, &stranger) < 0.5);

    // The same recording once more.
    let (code, report, _) = further(&root, &[("--second-microphone", &narrow)]);
    assert_eq!(code, Some(65), "{report}");
    assert!(report["samples"][0]["reason"].as_str().unwrap().contains("given before"), "{report}");
    assert_eq!(samples(&root), 4);
}

#[test]
fn they_are_given_with_the_normal_ones_or_offered_in_words() {
    let root = Root::new();
    let files: Vec<PathBuf> = ENROLMENT.iter().map(|text| Voice::Rms.says(text)).collect();
    let narrow = telephone(&root, &Voice::Rms.says(FURTHER), "narrow.wav");
    let (code, report, said) = enroll(
        &root,
        "Anna",
        &files,
        &["--second-microphone", narrow.to_str().unwrap(), "--keep-recordings"],
    );
    assert_eq!(code, Some(0), "{report} {said}");
    assert_eq!(report["samples"].as_array().unwrap().len(), 4, "{report}");
    assert_eq!(report["samples"][3]["style"], "second_microphone");
    assert_eq!((report["samples"][3]["accepted"].clone(), samples(&root)), (true.into(), 4), "{report}");
    assert_eq!(report["recordings_kept"], 4, "{report}");
    // Kept recordings stay kept; a recording added without the option is not kept.
    let hurry = changed(&root, "hurry.wav", &Voice::Rms.says(FURTHER), &[], &["tempo", "1.3"]);
    let (code, report, said) = further(&root, &[("--hurry", &hurry)]);
    assert_eq!((code, &report["recordings_kept"]), (Some(0), &4.into()), "{report} {said}");

    // A bad one does not spoil the enrolment.
    let root = Root::new();
    let stranger = Voice::Slt.says(FURTHER);
    let (code, report, said) = enroll(&root, "Anna", &files, &["--loud", stranger.to_str().unwrap()]);
    assert_eq!((code, &report["enrolled"]), (Some(0), &true.into()), "{report} {said}");
    assert_eq!(report["samples"][3]["accepted"], false);
    assert_eq!(samples(&root), 3);

    let root = Root::new();
    let mut args = vec!["voice", "enroll", "--user", "Anna"];
    args.extend(files.iter().map(|file| file.to_str().unwrap()));
    let text = root.ok(&args);
    for option in ["--far", "--second-microphone", "--loud", "--hurry"] {
        assert!(text.contains(option), "{text}");
    }
    let text =
        root.ok(&["voice", "enroll", "--user", "Anna", "--second-microphone", narrow.to_str().unwrap()]);
    assert!(text.contains("kept: by the second microphone") && text.contains("rises from"), "{text}");
}

#[test]
fn a_bad_further_sample_is_refused_with_the_reason_and_changes_nothing() {
    let root = Root::new();
    let nobody = Voice::Rms.says(FURTHER);
    let (code, report, said) = further(&root, &[("--far", &nobody)]);
    assert_eq!(code, Some(65), "nobody is enrolled: {report} {said}");
    assert_eq!(root.json(&["user", "list"]), serde_json::json!([]), "{said}");

    root.enrol("Anna", Voice::Rms);
    root.enrol("Ben", Voice::Slt);
    let voices = root.json(&["voice", "list"]);
    let own = Voice::Rms.says(FURTHER);
    let silence = root.path().join("silence.wav");
    sox(&["-n", "-r", "16000", "-c", "1", "-b", "16", silence.to_str().unwrap(), "trim", "0", "4"]);
    let cases = [
        ("an enrolled person", Voice::Slt.says(FURTHER), "does not sound like"),
        ("a stranger", Voice::Kal.says(FURTHER), "does not sound like"),
        ("silence", silence, "whole sentence"),
        ("short", changed(&root, "short.wav", &own, &[], &["trim", "0.5", "1.2"]), "at least 2 s"),
        ("overdriven", changed(&root, "loud.wav", &own, &[], &["gain", "30"]), "overdriven"),
        ("quiet", changed(&root, "quiet.wav", &own, &[], &["gain", "-50"]), "too quiet"),
        ("an enrolled sentence", Voice::Rms.says(ENROLMENT[0]), "given before"),
    ];
    for (what, file, reason) in &cases {
        let (code, report, said) = further(&root, &[("--loud", file)]);
        assert_eq!(code, Some(65), "{what}: {report} {said}");
        assert_eq!(report["enrolled"], false, "{what}: {report}");
        assert!(said.contains(reason), "{what}: {said}");
        assert_eq!(root.json(&["voice", "list"]), voices, "{what}");
    }
    let (code, _, said) = further(&root, &[("--loud", Path::new("/nowhere.wav"))]);
    assert!(code == Some(65) && said.contains("nowhere.wav"), "{code:?} {said}");
    for options in [&["--kept", "--far", "x.wav"][..], &["--whispered", "x.wav"]] {
        let (code, _, said) = enroll(&root, "Anna", &[], options);
        assert_eq!(code, Some(2), "{options:?}: {said}");
    }
    assert_eq!(root.json(&["voice", "list"]), voices);
}

#[test]
fn whoever_is_interrupted_keeps_the_voice_from_before() {
    let root = Root::new();
    root.enrol("Anna", Voice::Rms);
    let voices = root.json(&["voice", "list"]);
    let narrow = telephone(&root, &Voice::Rms.says(FURTHER), "narrow.wav");
    for wait_ms in [50, 300, 600] {
        let args = ["voice", "enroll", "--user", "Anna", "--second-microphone", narrow.to_str().unwrap()];
        let mut child = root.command(&args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        let _ = child.kill();
        let _ = child.wait();
        let now = root.json(&["voice", "list"]);
        assert!(now == voices || now[0]["samples"] == 4, "before or after, nothing between: {now}");
        assert!(confidence(&root, &Voice::Rms.says(QUESTION)) > 0.85);
    }
}

#[test]
fn the_device_asks_for_them_only_where_somebody_wants_them_and_silence_leaves_them_out() {
    let broker = Broker::start();
    let mut root = Root::with_config(&format!(
        "[device]\nid = \"kitchen\"\n[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n[mqtt]\n\
         url = \"{}\"\n[voice]\nenrol_by_mqtt = true\n[speech]\nenabled = false\n",
        broker.url()
    ));
    let mic = Mic::plug_into(&mut root);
    root.enrol("Anna", Voice::Slt);
    let mut shown = broker.subscribe("jarvis/kitchen/enrolment");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let tell = |text: &str| broker.publish("jarvis/kitchen/enrolment/set", text);
    let payload = |line: &str| -> Value { serde_json::from_str(line.split_once(' ').unwrap().1).unwrap() };
    let mut state = |wanted: &str| payload(&shown.wait_for(wanted, |l| payload(l)["state"] == wanted));
    state("none");

    tell(r#"{"add":"Ben"}"#);
    let failed = state("failed");
    assert_eq!(failed["user"], "Ben");
    assert!(failed["reason"].as_str().unwrap().contains("no voice of this name"), "{failed}");

    tell(r#"{"start":"Ben","further":["second_microphone","loud","hurry"]}"#);
    assert_eq!(state("waiting").get("style"), None);
    for sentence in &ENROLMENT[..2] {
        mic.hears(&Voice::Rms.says(sentence));
        assert_eq!(state("kept").get("style"), None);
    }
    mic.hears(&Voice::Rms.says(ENROLMENT[2]));
    let asked = state("kept");
    assert_eq!((&asked["style"], &asked["percent"]), (&"second_microphone".into(), &100.into()), "{asked}");
    assert!(asked["say"].is_string(), "{asked}");
    assert_eq!(root.json(&["voice", "list"]).as_array().unwrap().len(), 2, "the voice is stored before");

    mic.hears(&telephone(&root, &Voice::Rms.says(FURTHER), "narrow.wav"));
    let kept = state("kept");
    assert_eq!((&kept["style"], kept.get("reason")), (&"loud".into(), None), "{kept}");
    // Somebody else, who is enrolled.
    mic.hears(&Voice::Slt.says(FURTHER));
    let refused = state("refused");
    assert_eq!(refused["style"], "hurry", "the next one is asked for: {refused}");
    assert!(refused["reason"].as_str().unwrap().contains("does not sound like"), "{refused}");
    // Nobody says anything.
    let finished = state("finished");
    assert_eq!((finished.get("style"), finished.get("say")), (None, None), "{finished}");
    let voices = root.json(&["voice", "list"]);
    let ben = voices.as_array().unwrap().iter().find(|voice| voice["user_name"] == "Ben").unwrap();
    assert_eq!(ben["samples"], 4, "{voices}");

    // Later, one alone; cancelled, and the voice stays.
    tell(r#"{"add":"ben","further":["far"]}"#);
    let asked = state("waiting");
    assert_eq!((&asked["user"], &asked["style"]), (&"Ben".into(), &"far".into()), "{asked}");
    tell("CANCEL");
    state("finished");
    assert_eq!(root.json(&["voice", "list"]), voices);
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    assert_eq!(daemon.wait_event("verified")["user"], "Ben");
    assert_eq!(daemon.stop(), Some(0));
}
