use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::{Fault, Options};
use crate::detect::section::{WakeModel, WakeModels};
use crate::stt::Engine;

/// A root folder with the given files below `etc/jarvis`.
fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join("etc/jarvis").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn load_with(files: &[(&str, &[u8])], env: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let dir = root(files);
    let env = env.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
    let options = Options { root: Some(dir.path().to_owned()), config_file: None, env };
    let short =
        |fault: &Fault| fault.to_string().replace(&format!("{}/etc/jarvis/", dir.path().display()), "");
    load(&options).map_err(|faults| faults.iter().map(short).collect())
}

fn load_text(text: &str) -> Result<Settings, Vec<String>> {
    load_with(&[("jarvis.toml", text.as_bytes())], &[])
}

#[track_caller]
fn faults(text: &str) -> Vec<String> {
    load_text(text).expect_err("the configuration should be refused")
}

/// A search through all faults for each of them would take hours.
#[test]
fn a_file_that_is_no_toml_at_all_is_refused_at_once() {
    let found = faults(&"x\n".repeat(400_000));
    assert_eq!(found.len(), 101);
    assert!(found[100].contains("more faults like these"), "{}", found[100]);
}

#[test]
fn an_empty_configuration_has_every_default() {
    let settings = load_with(&[], &[]).unwrap();
    assert_eq!(settings.audio.device, "default");
    assert_eq!(settings.audio.channel, crate::audio::Channel::Mean);
    assert_eq!(settings.wake.model, WakeModels(vec![WakeModel::Named("hey-jarvis".into())]));
    assert_eq!(settings.voice.threshold, 0.85);
    assert_eq!(settings.stt.engine, Engine::Auto);
    assert!(settings.mqtt.url.is_none());
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    assert!(settings.files.is_empty());
}

#[test]
fn the_root_moves_every_path() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
    let paths = load(&options).unwrap().paths;
    assert_eq!(paths.db, dir.path().join("var/lib/jarvis/jarvis.db"));
    assert_eq!(paths.runtime, dir.path().join("run/jarvis"));
    assert_eq!(paths.backups, dir.path().join("var/backups/jarvis"));
    assert_eq!(paths.models[0], dir.path().join("var/lib/jarvis/models"));
    assert_eq!(paths.models[1], dir.path().join("usr/share/jarvis/models"));
}

#[test]
fn a_root_that_is_no_folder_is_a_fault_and_one_that_is_not_there_is_empty() {
    let options = Options { root: Some("/no/such/folder".into()), ..Options::default() };
    assert!(load(&options).is_ok());
    let options = Options { root: Some("/dev/null".into()), ..Options::default() };
    assert!(load(&options).unwrap_err()[0].to_string().contains("--root names a file"));
}

#[test]
fn a_models_folder_in_the_environment_is_searched_first() {
    let settings = load_with(&[], &[("JARVIS_MODELS_DIR", "/elsewhere")]).unwrap();
    assert_eq!(settings.paths.models[0], Path::new("/elsewhere"));
}

#[test]
fn a_source_tree_that_the_current_folder_stands_in_lends_its_models() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/manifest.toml");
    if !models.exists() {
        crate::testdata::skipped("this tree has no models");
        return;
    }
    let settings = load_with(&[], &[]).unwrap();
    let found = settings.paths.models.iter().any(|dir| dir.join("manifest.toml").is_file());
    assert!(found, "{:?}", settings.paths.models);
}

#[test]
fn later_layers_win_key_by_key() {
    let settings = load_with(
        &[
            ("jarvis.toml", b"[audio]\ndevice = \"a\"\nchannel = \"left\"\nperiod_ms = 12\n"),
            ("conf.d/20-b.toml", b"[audio]\nchannel = 3\n"),
            ("conf.d/10-a.toml", b"[audio]\nchannel = \"right\"\ndevice = \"b\"\n"),
            ("conf.d/ignored.txt", b"[nonsense"),
            ("conf.d/.hidden.toml", b"[nonsense"),
        ],
        &[("JARVIS__AUDIO__PERIOD_MS", "20"), ("JARVIS_OTHER", "x")],
    )
    .unwrap();
    assert_eq!(settings.audio.device, "b");
    assert_eq!(settings.audio.channel, crate::audio::Channel::Nth(3));
    assert_eq!(settings.audio.period_ms, 20);
    assert_eq!(settings.files.len(), 3);
}

#[test]
fn the_environment_takes_bare_texts_and_toml_values() {
    let settings = load_with(
        &[],
        &[
            ("JARVIS__WAKE__MODEL", "[\"alexa\", \"/m/custom.onnx\"]"),
            ("JARVIS__WAKE__THRESHOLD", "0.7"),
            ("JARVIS__VOICE__ENABLED", "false"),
            ("JARVIS__AUDIO__DEVICE", "plughw:CARD=mic,DEV=0"),
            ("JARVIS__AUDIO__CHANNEL", "left"),
            ("JARVIS__DEVICE__NAME", "1234"),
            ("JARVIS__SPEECH__COMMAND", "flite -voice slt"),
        ],
    )
    .unwrap();
    let models = [WakeModel::Named("alexa".into()), WakeModel::File("/m/custom.onnx".into())];
    assert_eq!(settings.wake.model.0, models);
    assert_eq!(settings.wake.threshold, 0.7);
    assert_eq!(settings.audio.device, "plughw:CARD=mic,DEV=0");
    assert_eq!(settings.device.name(), "1234");
    assert_eq!(settings.speech.command.0, ["flite", "-voice", "slt"]);
    assert!(!settings.voice.enabled);
}

#[test]
fn every_fault_is_reported_at_once_with_file_line_and_key() {
    let found = load_with(
        &[
            (
                "jarvis.toml",
                b"[audio]\ndevcie = \"x\"\nperiod_ms = 500\n\n[vioce]\nenabled = true\n[wake]\n\
                              threshold = \"high\"\n",
            ),
            ("conf.d/a.toml", b"device = \"y\"\n[stt]\nengine = \"wisper\"\n"),
        ],
        &[("JARVIS__AUDIO__CHANEL", "left"), ("JARVIS__VOICE__THRESHOLD", "7")],
    )
    .unwrap_err();
    let expected = [
        "jarvis.toml:2: audio.devcie: no such key; did you mean audio.device?",
        "jarvis.toml:5: vioce: no such section; did you mean [voice]?",
        "conf.d/a.toml:1: device: is a section: write [device] on a line of its own and its keys below",
        "JARVIS__AUDIO__CHANEL: no such key; did you mean audio.channel?",
        "jarvis.toml:3: audio.period_ms: 500 is not allowed; it may be 10 to 20",
        "jarvis.toml:8: wake.threshold: needs a number, not the text \"high\"",
        "JARVIS__VOICE__THRESHOLD: voice.threshold: 7.0 is not allowed; it may be 0.5 to 0.999",
        "conf.d/a.toml:3: stt.engine: \"wisper\" is none of \"auto\", \"vosk\", \"whisper\" or \"off\"; did \
         you mean \"whisper\"?",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_key_in_the_wrong_place_is_shown_its_place() {
    assert_eq!(
        faults("vosk_model = \"/m\"\n[voice]\nvosk_model = \"/m\"\n"),
        [
            "jarvis.toml:1: vosk_model: stands before the first section; it belongs below [stt]",
            "jarvis.toml:3: voice.vosk_model: no such key; did you mean stt.vosk_model?",
        ]
    );
    assert!(faults("[[audio]]\ndevice = \"x\"\n")[0].contains("not as a list"));
    assert!(faults("[audio.device]\nname = \"x\"\n")[0].contains("needs a text, not a table"));
}

#[test]
fn text_that_is_not_toml_is_reported_with_the_rest() {
    let found = faults("[audio]\ndevice = \nperiod_ms = 11\nperiod_ms = 12\n[wake]\nthreshold = 9\n");
    assert!(found.iter().any(|f| f.starts_with("jarvis.toml:2: is not TOML")), "{found:?}");
    assert!(found.iter().any(|f| f.starts_with("jarvis.toml:4: is not TOML: duplicate key")), "{found:?}");
    assert!(found.iter().any(|f| f.starts_with("jarvis.toml:6: wake.threshold")), "{found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn hostile_files_are_refused_with_a_sentence() {
    let deep = format!("[audio]\ndevice = {}", "[".repeat(100_000));
    let dotted = format!("{}x = 1", "a.".repeat(100_000));
    let wide: String = (0..20_000).map(|n| format!("[section{n}]\n")).collect();
    let huge = vec![b'#'; 2 << 20];
    let cases: [(&str, &[u8]); 12] = [
        ("UTF-8", b"[audio]\n# caf\xe9\n"),
        ("is not TOML", b"\0\0\0\0"),
        ("is not TOML", b"[audio]\ndevice = \"a\0b\"\n"),
        ("control characters", b"[audio]\ndevice = \"a\\u0000b\"\n"),
        ("longer than", &huge),
        ("is not TOML", deep.as_bytes()),
        ("is not TOML", dotted.as_bytes()),
        ("more faults", wide.as_bytes()),
        ("UTF-8", b"\x1f\x8b\x08"),
        ("out of range", b"[endpoint]\npre_roll_ms = 99999999999999999999999\n"),
        ("out of range", b"[endpoint]\npre_roll_ms = -1\n"),
        ("finite", b"[wake]\nthreshold = nan\n"),
    ];
    for (expected, content) in cases {
        let found = load_with(&[("jarvis.toml", content)], &[]).unwrap_err();
        let all = found.join("\n");
        let name = String::from_utf8_lossy(&content[..content.len().min(40)]);
        assert!(all.contains(expected), "{name}: {all}");
        assert!(!all.contains('\0') && all.len() < 40_000, "{name}");
    }
}

#[test]
fn folders_and_missing_files_are_refused_where_a_file_is_needed() {
    let dir = root(&[("jarvis.toml/x", b"")]);
    let options = |config_file| Options { root: Some(dir.path().to_owned()), config_file, env: Vec::new() };
    assert!(load(&options(None)).unwrap_err()[0].to_string().contains("is a folder, not a file"));
    let found = load(&options(Some(PathBuf::from("/no/such.toml")))).unwrap_err();
    assert_eq!(found[0].to_string(), "/no/such.toml: the file does not exist");
}

#[test]
fn a_named_pipe_in_conf_d_does_not_stop_the_start() {
    let dir = root(&[("conf.d/a.toml", b"")]);
    let pipe = dir.path().join("etc/jarvis/conf.d/pipe.toml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if !made.is_ok_and(|status| status.success()) {
        crate::testdata::skipped("no mkfifo");
        return;
    }
    let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
    assert!(load(&options).unwrap_err()[0].to_string().contains("not a regular file"));
}

#[test]
fn an_environment_that_is_not_utf8_is_a_fault() {
    use std::os::unix::ffi::OsStringExt;
    let env = vec![(OsString::from("JARVIS__DEVICE__NAME"), OsString::from_vec(vec![0xff]))];
    let found = load(&Options { env, ..Options::default() }).unwrap_err();
    assert_eq!(found[0].to_string(), "JARVIS__DEVICE__NAME: is not UTF-8 text");
}

#[test]
fn values_that_contradict_each_other_are_faults() {
    let found = faults(
        "[endpoint]\nend_silence_ms = 3000\nmax_utterance_ms = 2000\n\
         [mqtt]\nurl = \"mqtt://h\"\npassword_file = \"/p\"\nca_file = \"/ca\"\n",
    );
    for key in ["endpoint.end_silence_ms", "mqtt.ca_file", "mqtt.password_file"] {
        assert!(found.iter().any(|fault| fault.contains(key)), "{key}: {found:?}");
    }
    let short = "[endpoint]\npre_roll_ms = 2000\nend_silence_ms = 300\nmax_utterance_ms = 2000\n";
    assert!(faults(short)[0].contains("endpoint.max_utterance_ms: must be longer"), "{:?}", faults(short));
    assert!(faults("[stt]\nengine = \"whisper\"\nlanguage = \"ko\"\n")[0].contains("English only"));
    assert!(faults("[wake]\nmodel = [\"none\", \"alexa\"]\n")[0].contains("contradicts itself"));
}

#[test]
fn a_server_that_is_not_verified_is_warned_about_and_the_folder_of_backups_moves() {
    let settings = load_text(
        "[device]\nid = \"kitchen\"\n[store]\npostgres_url = \"postgres://u:hunter2@h/db\"\n[backup]\n\
         dir = \"/b\"\n",
    )
    .unwrap();
    assert_eq!(settings.warnings.len(), 1);
    assert!(settings.warnings.iter().any(|w| w.contains("the server is not verified")));
    assert_eq!(settings.paths.backups, Path::new("/b"));
}

#[test]
fn a_reload_takes_the_live_keys_and_names_the_others() {
    let settings = load_text("[voice]\nthreshold = 0.9\n").unwrap();
    let live = LiveSections::of(&settings);
    // The readers have their handles from the start.
    let (voice, dialogue, speech) = (live.voice.clone(), live.dialogue.clone(), live.speech.clone());
    let new = load_text(
        "[voice]\nthreshold = 0.8\nuser_thresholds = [\"Anna=0.7\"]\npin_valid_s = 30\n\
         [dialogue]\nfollow_up_s = 5\ncontinue_conversation_min = 1\n[speech]\nenabled = false\n\
         timeout_s = 3\n",
    )
    .unwrap();
    assert!(live.adopt(&new));
    assert!(!live.adopt(&new), "nothing has changed since");
    assert_eq!((voice.load().threshold, voice.load().user_thresholds.of("anna")), (0.8, Some(0.7)));
    assert_eq!((dialogue.load().follow_up_s, speech.load().enabled), (5, false));
    // Otherwise one half of a change would be in force without the half that only a start reads.
    let unchanged =
        (voice.load().pin_valid_s, dialogue.load().continue_conversation_min, speech.load().timeout_s);
    let (voice, dialogue, speech) = (&settings.voice, &settings.dialogue, &settings.speech);
    assert_eq!(unchanged, (voice.pin_valid_s, dialogue.continue_conversation_min, speech.timeout_s));
    let named = ["voice.pin_valid_s", "dialogue.continue_conversation_min", "speech.timeout_s"];
    assert_eq!(settings.restart_needed(&new), named);
}

#[test]
fn every_live_key_has_a_reader_that_follows_a_reload() {
    let settings = load_text("").unwrap();
    let live: Vec<&str> = settings.effective.iter().filter(|key| key.live).map(|key| &*key.key).collect();
    // The reader of a new live key gets the `config::Live` of the section and reads it anew for each piece of
    // work; then the key is added here.
    let read_anew = ["voice.threshold", "voice.user_thresholds", "dialogue.follow_up_s", "speech.enabled"];
    assert_eq!(live, read_anew);
}

#[test]
fn an_address_of_postgres_holds_nothing_that_would_be_ignored() {
    let with = |query: &str| format!("[store]\npostgres_url = \"postgres://u@h/db?{query}\"\n");
    assert!(faults(&with("passwrod=hunter2"))[0].contains("did you mean password?"));
    assert!(!faults(&with("passwrod=hunter2"))[0].contains("hunter2"));
    assert!(faults(&with("sslmode=verify"))[0].contains("verify-full"));
    let kitchen = "[device]\nid = \"kitchen\"\n";
    let verified = format!("{kitchen}{}", with("sslmode=verify-full"));
    assert!(load_text(&verified).unwrap().warnings.is_empty());
    let socket = "[store]\npostgres_url = \"postgres://u@/db?host=/run/postgresql\"\n";
    assert!(load_text(&format!("{kitchen}{socket}")).unwrap().warnings.is_empty());
    let nameless = load_text(socket).unwrap().warnings;
    assert!(nameless.len() == 1 && nameless[0].contains("device.id is not set"), "{nameless:?}");
    let half = faults(&format!("{socket}postgres_client_key = \"/k\"\n"));
    assert!(half[0].contains("belong together"), "{half:?}");
}

#[test]
fn relative_paths_start_from_the_file_that_names_them() {
    let dir =
        root(&[("jarvis.toml", b"[stt]\nvosk_model = \"models/vosk\"\n[wake]\nmodel = \"./mine.onnx\"\n")]);
    let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
    let settings = load(&options).unwrap();
    assert_eq!(settings.stt.vosk_model, Some(dir.path().join("etc/jarvis/models/vosk")));
    assert_eq!(settings.wake.model.0, [WakeModel::File(dir.path().join("etc/jarvis/./mine.onnx"))]);
}

#[test]
fn an_empty_text_takes_back_what_an_earlier_file_set() {
    let settings = load_with(
        &[("jarvis.toml", b"[mqtt]\nurl = \"mqtt://h\"\n"), ("conf.d/off.toml", b"[mqtt]\nurl = \"\"\n")],
        &[],
    );
    assert!(settings.unwrap().mqtt.url.is_none());
}

#[test]
fn the_password_is_in_its_file_or_in_the_credential() {
    let dir = root(&[
        ("jarvis.toml", b"[mqtt]\nurl = \"mqtt://h\"\nusername = \"u\"\npassword_file = \"secret\"\n"),
        ("secret", b"hunter2\n"),
        ("credentials/mqtt-password", b"hunter3"),
    ]);
    let etc = dir.path().join("etc/jarvis");
    let env = vec![("CREDENTIALS_DIRECTORY".into(), etc.join("credentials").into_os_string())];
    let options = Options { root: Some(dir.path().to_owned()), config_file: None, env };
    let settings = load(&options).unwrap();
    let file = |settings: &Settings| settings.mqtt.password_file.as_ref().unwrap().as_path().to_owned();
    assert_eq!(file(&settings), etc.join("secret"));
    assert!(settings.faults_of_files().is_empty());

    fs::write(etc.join("jarvis.toml"), "[mqtt]\nurl = \"mqtt://h\"\nusername = \"u\"\n").unwrap();
    let settings = load(&options).unwrap();
    assert_eq!(file(&settings), etc.join("credentials/mqtt-password"));
    assert!(!format!("{settings:?}{}", settings.print()).contains("hunter"));
}

#[test]
fn a_password_file_that_cannot_be_used_is_a_fault_of_its_key() {
    let dir = root(&[(
        "jarvis.toml",
        b"[mqtt]\nurl = \"mqtts://h\"\nusername = \"u\"\npassword_file = \"none\"\nca_file = \"ca\"\n",
    )]);
    let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
    let found = load(&options).unwrap().faults_of_files();
    assert_eq!(found.len(), 2);
    assert!(found[0].to_string().contains("jarvis.toml:4: mqtt.password_file: "), "{}", found[0]);
}

/// One key after the other, with values of an owner who has not read the page, or who means harm.
#[test]
fn a_value_that_cannot_work_is_refused_with_its_key() {
    let cases = [
        ("device.id", "\"\"", "is empty"),
        ("device.id", "\"Kitchen Radio\"", "lower-case"),
        ("device.name", "\"   \"", "is empty"),
        ("device.name", "\"a\\u202Eb\"", "invisible"),
        ("device.name", "\"a\\u001Bb\"", "control"),
        ("device.name", "\"a\\nb\"", "control"),
        ("device.name", "1", "needs a text"),
        ("audio.device", "\"\"", "is empty"),
        ("audio.device", "\"/dev/snd/pcmC0D0c\"", "ALSA name"),
        ("audio.device", "\" hw:1\"", "ALSA name"),
        ("audio.device", "\"null\"", "ALSA name"),
        ("audio.device", "\"hw:\\u200B1\"", "invisible"),
        ("audio.playback_device", "\"../x\"", "ALSA name"),
        ("audio.playback_device", "\":\"", "ALSA name"),
        ("audio.channel", "-1", "from 0"),
        ("audio.channel", "\"middle\"", "mean"),
        ("audio.rate_hz", "0", "8000"),
        ("audio.rate_hz", "44100.5", "whole number"),
        ("audio.period_ms", "true", "whole number"),
        ("wake.model", "[]", "empty list"),
        ("wake.model", "[\"\"]", "is empty"),
        ("wake.model", "[\"hey-jarvis\", \"Hey_Jarvis\"]", "twice"),
        ("wake.model", "[\"/a.onnx\", \"/a.onnx\"]", "twice"),
        ("wake.model", "\"~/a.onnx\"", "whole path"),
        ("wake.threshold", "0", "0.01"),
        ("wake.threshold", "inf", "finite"),
        ("wake.threshold", "-nan", "finite"),
        ("endpoint.max_utterance_ms", "0", "1000"),
        ("voice.threshold", "1", "0.5"),
        ("voice.threshold", "nan", "finite"),
        ("voice.user_thresholds", "0.9", "a list of names"),
        ("voice.user_thresholds", "[\"Anna\"]", "no ="),
        ("voice.user_thresholds", "[\"=0.9\"]", "needs a name"),
        ("voice.user_thresholds", "[\"Anna=1\"]", "from 0.5 to 0.999"),
        ("voice.user_thresholds", "[\"Anna=NaN\"]", "from 0.5 to 0.999"),
        ("voice.user_thresholds", "[\"Anna=0.9\", \"ANNA = 0.8\"]", "twice"),
        ("voice.enabled", "\"yes\"", "true or false"),
        ("stt.engine", "\"\"", "none of"),
        ("stt.vosk_model", "\"~\"", "whole path"),
        ("stt.vosk_model", "7", "path"),
        ("stt.language", "\"English\"", "code"),
        ("dialogue.follow_up_s", "61", "0 to 60"),
        ("dialogue.continue_conversation_min", "0", "1 to"),
        ("speech.command", "[\"\"]", "is empty"),
        ("speech.command", "\"./say\"", "whole path"),
        ("speech.command", "[\"{text}\"]", "program"),
        ("speech.command", "[\"/bin/sh\", \"-c\", \"espeak-ng '{text}'\"]", "shell"),
        ("speech.timeout_s", "0", "1 to 300"),
        ("store.postgres_url", "\"postgres://\"", "host"),
        ("store.postgres_url", "\"postgres://h:0/x\"", "port"),
        ("mqtt.url", "\"mqtt://\"", "host"),
        ("mqtt.url", "\"mqtt://:1883\"", "host"),
        ("mqtt.url", "\"mqtt://h:0\"", "port"),
        ("mqtt.url", "\"mqtt://h:\"", "port"),
        ("mqtt.url", "\"h\"", "scheme"),
        ("mqtt.url", "\"mqtt://[h]\"", "host"),
        ("mqtt.username", "\" \"", "is empty"),
        ("mqtt.base_topic", "\"a//b\"", "topic"),
        ("mqtt.base_topic", "\"$SYS\"", "topic"),
        ("mqtt.base_topic", "\"jarvis/#\"", "topic"),
        ("backup.dir", "[\"/b\"]", "path"),
    ];
    for (name, value, expected) in cases {
        let (section, key) = name.split_once('.').unwrap();
        let found = faults(&format!("[{section}]\n{key} = {value}\n"));
        assert_eq!(found.len(), 1, "{name} = {value}: {found:?}");
        assert!(found[0].starts_with(&format!("jarvis.toml:2: {name}: ")), "{name} = {value}: {found:?}");
        assert!(found[0].contains(expected), "{name} = {value}: {found:?}");
        assert!(!found[0].chars().any(char::is_control), "{found:?}");
    }
    let long = "x".repeat(65);
    assert!(faults(&format!("[mqtt]\nbase_topic = \"{long}\"\n"))[0].contains("64 bytes"));
    assert!(load_text(&format!("[mqtt]\nbase_topic = \"{}\"\n", &long[1..])).is_ok());
}

#[test]
fn unusual_values_that_work_are_taken() {
    load_text(
        "[device]\nname = \"Küche \\U0001F469\\u200D\\U0001F373\"\n\
         [audio]\ndevice = \"plughw:CARD=Device,DEV=0\"\nplayback_device = \"null\"\n\
         [wake]\nmodel = [\"hey jarvis\", \"mine.onnx\", \"/mine.onnx\"]\n\
         [voice]\nuser_thresholds = [\"Anna Maria = 0.9\", \"x=y=0.5\"]\n\
         [speech]\ncommand = [\"espeak-ng\", \"--stdout\", \"{text}\"]\n\
         [mqtt]\nurl = \"mqtt://[fe80::1%eth0]\"\nbase_topic = \"home/voice\"\n",
    )
    .unwrap();
    load_text(
        "[speech]\ncommand = [\"/bin/sh\", \"-c\", \"espeak-ng --stdout | sox - -t wav - tempo 1.1\"]\n",
    )
    .unwrap();
    load_text("[audio]\ndevice = \"{ type hw card 0 }\"\n").unwrap();
}

#[test]
fn a_path_in_the_environment_is_absolute_because_there_is_no_file_to_start_from() {
    for (name, value) in [
        ("JARVIS__STT__VOSK_MODEL", "models/vosk"),
        ("JARVIS__WAKE__MODEL", "./mine.onnx"),
        ("JARVIS__BACKUP__DIR", "backups"),
    ] {
        let found = load_with(&[], &[(name, value)]).unwrap_err();
        assert!(found[0].starts_with(name) && found[0].contains("begins with /"), "{found:?}");
    }
    assert!(load_with(&[], &[("JARVIS__BACKUP__DIR", "/backups")]).is_ok());
}

#[test]
fn what_keys_point_to_must_be_there_and_be_of_its_kind() {
    let dir = root(&[
        (
            "jarvis.toml",
            b"[wake]\nmodel = [\"no-such-word\", \"silero-vad\", \"none.onnx\", \"folder.onnx\"]\n\
              [stt]\nvosk_model = \"folder.onnx\"\n\
              [speech]\ncommand = \"no-such-program --stdout\"\n\
              [mqtt]\nurl = \"mqtts://h\"\nusername = \"u\"\npassword_file = \"pipe\"\nca_file = \"ca\"\n\
              [backup]\ndir = \"ca/backups\"\n",
        ),
        ("ca", b"not a certificate"),
        ("folder.onnx/x", b""),
    ]);
    let pipe = dir.path().join("etc/jarvis/pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success(), "mkfifo is part of coreutils");
    let options = Options { root: Some(dir.path().to_owned()), ..Options::default() };
    let found: Vec<String> = load(&options).unwrap().faults_of_files().iter().map(Fault::to_string).collect();
    let expected = [
        ("wake.model", "no-such-word"),
        ("wake.model", "silero-vad"),
        ("wake.model", "none.onnx cannot be opened"),
        ("wake.model", "is a folder"),
        ("stt.vosk_model", "as a Vosk model"),
        ("speech.command", "no-such-program"),
        ("mqtt.password_file", "not a regular file"),
        ("mqtt.ca_file", "no certificate"),
        ("backup.dir", "is a file"),
    ];
    for (fault, (key, sentence)) in found.iter().zip(expected) {
        assert!(fault.contains(&format!(": {key}: ")) && fault.contains(sentence), "{key}: {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(
        load_text("").unwrap().faults_of_files().is_empty(),
        "defaults point to nothing that may be missing"
    );
}

#[test]
fn a_file_with_a_name_of_many_lines_is_reported_on_one() {
    let found = load_with(&[("conf.d/a\n\u{1b}[31m.toml", b"[nonsense]\n")], &[]).unwrap_err();
    assert!(found[0].contains("nonsense") && !found[0].chars().any(char::is_control), "{found:?}");
}

#[test]
fn what_is_printed_can_be_read_back() {
    let text = "[audio]\ndevice = \"hw:\\\"x\\\"\"\nchannel = 5\n[wake]\nmodel = [\"a\", \"/b.onnx\"]\n\
                [mqtt]\nurl = \"mqtt://h:1\"\n";
    let first = load_text(text).unwrap();
    let second = load_text(&first.print()).unwrap();
    assert_eq!(first.audio, second.audio);
    assert_eq!(first.wake, second.wake);
    assert_eq!(first.mqtt, second.mqtt);
    assert_eq!(first.endpoint, second.endpoint);
}

#[test]
fn every_default_is_allowed_by_its_own_rule() {
    let printed = load_with(&[], &[]).unwrap().print();
    load_text(&printed).unwrap();
}

/// Set `JARVIS_BLESS=1` to write the page anew.
#[test]
fn the_reference_page_agrees_with_the_code() {
    const BEGIN: &str = "<!-- keys: begin -->\n";
    const END: &str = "<!-- keys: end -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = fs::read_to_string(&path).expect("docs/configuration.md");
    let (head, rest) = page.split_once(BEGIN).expect("the begin mark");
    let (keys, tail) = rest.split_once(END).expect("the end mark");
    let wanted = reference_page();
    if std::env::var_os("JARVIS_BLESS").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
        return;
    }
    assert!(
        keys == wanted,
        "docs/configuration.md is behind the code; JARVIS_BLESS=1 cargo test --lib reference_page writes it"
    );
}
