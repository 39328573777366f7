//! Everything a device may be fed that it must not choke on: one row of the design's table after another.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Root, Voice, events_of, of, sox};

fn convert(wav: &Path, to: &Path, format: &[&str]) {
    let mut args = vec![wav.to_str().unwrap()];
    args.extend(format);
    args.push(to.to_str().unwrap());
    sox(&args);
}

#[test]
fn the_same_command_is_understood_in_every_recording_format() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let command = Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot");
    let formats: [(&str, &[&str]); 9] = [
        ("16bit-44k1-stereo.wav", &["-r", "44100", "-c", "2", "-b", "16"]),
        ("24bit-48k.wav", &["-r", "48000", "-b", "24"]),
        ("32bit-48k-stereo.wav", &["-r", "48000", "-c", "2", "-b", "32"]),
        ("float-48k.wav", &["-r", "48000", "-e", "floating-point", "-b", "32"]),
        ("8bit-16k.wav", &["-r", "16000", "-b", "8", "-e", "unsigned-integer"]),
        ("8ch-16k.wav", &["-r", "16000", "-c", "8", "-b", "16"]),
        ("22k.wav", &["-r", "22050"]),
        ("96k.wav", &["-r", "96000"]),
        ("48k.flac", &["-r", "48000"]),
    ];
    for (name, format) in formats {
        let path = root.path().join(name);
        convert(&command, &path, format);
        let events = root.listen(&[&path]);
        assert_eq!(of(&events, "stored").len(), 1, "{name}: {events:#?}");
    }
}

/// Runs `listen` on bytes that are no usable recording: exit 65, one sentence, no panic.
fn refused(root: &Root, name: &str, bytes: &[u8]) -> String {
    let path: PathBuf = root.path().join(name);
    fs::write(&path, bytes).unwrap();
    let output = root.run(&["listen", path.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(65), "{name}: {stderr}");
    assert!(stderr.contains(name), "the sentence names the file: {stderr}");
    assert!(!stderr.contains("panicked"), "{name}: {stderr}");
    events_of(&String::from_utf8(output.stdout).unwrap());
    stderr
}

#[test]
fn files_that_are_no_recordings_are_refused_with_a_sentence() {
    let root = Root::new();
    refused(&root, "empty.wav", b"");
    refused(&root, "text.wav", b"this is not a recording at all, it is a sentence in a file");
    refused(&root, "header-only.wav", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00data\x00\x00\x00\x00");
    let mp3 = [0xff, 0xfb, 0x90, 0x64].repeat(400);
    refused(&root, "song.mp3", &mp3);
    let good = fs::read(Voice::Rms.says("hello")).unwrap();
    refused(&root, "cut-in-the-header.wav", &good[..20]);
    let mut adpcm = good.clone();
    adpcm[20] = 0x50;
    refused(&root, "codec.wav", &adpcm);
    let missing = root.run(&["listen", "/no/such/file.wav"]);
    assert_eq!(missing.status.code(), Some(65));
    let folder = root.run(&["listen", root.path().to_str().unwrap()]);
    assert_eq!(folder.status.code(), Some(65));
}

#[test]
fn a_recording_cut_off_in_the_middle_is_used_as_far_as_it_goes() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let whole =
        fs::read(Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot")).unwrap();
    let path = root.path().join("cut.wav");
    fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
    let events = root.listen(&[&path]);
    assert_eq!(of(&events, "wake").len(), 1, "{events:#?}");
}

#[test]
fn silence_noise_and_clipped_sound_wake_nobody() {
    let root = Root::new();
    for (name, effect) in [
        ("silence.wav", "synth 20 sine 0 vol 0"),
        ("noise.wav", "synth 20 whitenoise vol 0.3"),
        ("clipped.wav", "synth 20 pinknoise vol 30"),
        ("tone.wav", "synth 20 sine 440 vol 0.9"),
    ] {
        let path = root.path().join(name);
        let mut args = vec!["-n", "-r", "16000", "-c", "1", "-b", "16", path.to_str().unwrap()];
        args.extend(effect.split(' '));
        sox(&args);
        let events = root.listen(&[&path]);
        assert_eq!(of(&events, "wake").len(), 0, "{name}: {events:#?}");
    }
}

#[test]
fn a_long_recording_is_read_in_bounded_memory() {
    let root = Root::new();
    let path = root.path().join("long.wav");
    let mut args = vec!["-n", "-r", "8000", "-c", "1", "-b", "8", path.to_str().unwrap()];
    args.extend("synth 1200 sine 0 vol 0".split(' '));
    sox(&args);
    let report = root.path().join("time");
    let command = root.command(&["listen", path.to_str().unwrap()]);
    let script = format!("ulimit -v 3000000; exec \"$@\" 2>{}", report.display());
    let status = std::process::Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .status();
    assert!(status.unwrap().success(), "{}", fs::read_to_string(report).unwrap());
}

#[test]
fn a_missing_or_damaged_model_is_named_with_the_command_that_fixes_it() {
    let root = Root::new();
    let models = root.path().join("var/lib/jarvis/models");
    fs::create_dir_all(&models).unwrap();
    // A file found first under the right name and with wrong content is refused, not skipped.
    fs::write(models.join("silero_vad_16k.onnx"), b"not a model").unwrap();
    let output = root.run(&["listen", Voice::Rms.says("hello").to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "a restart would not mend it: {stderr}");
    for part in ["silero_vad_16k.onnx", "expected d61e0ed3", "its SHA-256 is 708811cc"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let status = root.run(&["models", "verify"]);
    assert_eq!(status.status.code(), Some(78), "{status:?}");
}

#[test]
fn enrolment_refuses_bad_samples_and_says_what_to_do() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let short = Voice::Rms.says("hello");
    let silence = root.path().join("silence.wav");
    sox(&["-n", "-r", "16000", "-c", "1", "-b", "16", silence.to_str().unwrap(), "trim", "0", "6"]);
    let loud = root.path().join("clipped.wav");
    sox(&[Voice::Rms.says(support::ENROLMENT[0]).to_str().unwrap(), loud.to_str().unwrap(), "vol", "20"]);
    for bad in [&short, &silence, &loud] {
        let output = root.run(&["voice", "enroll", "--user", "anna", bad.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(65), "{}: {stderr}", bad.display());
        assert!(stderr.len() > 20, "{stderr}");
    }
    // Two voices in one enrolment.
    let mixed: Vec<PathBuf> = vec![
        Voice::Rms.says(support::ENROLMENT[0]),
        Voice::Slt.says(support::ENROLMENT[1]),
        Voice::Rms.says(support::ENROLMENT[2]),
    ];
    let mut args = vec!["voice", "enroll", "--user", "anna"];
    args.extend(mixed.iter().map(|p| p.to_str().unwrap()));
    assert_eq!(root.run(&args).status.code(), Some(65));
    assert_eq!(
        root.json(&["voice", "list"]).as_array().unwrap().len(),
        0,
        "a refused enrolment stores nothing"
    );
}

#[test]
fn a_database_newer_than_the_program_is_refused_with_both_versions() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let status = std::process::Command::new("sqlite3")
        .args([db.to_str().unwrap(), "PRAGMA user_version=999"])
        .status();
    assert!(status.unwrap().success());
    let output = root.run(&["user", "list"]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(stderr.contains("999"), "{stderr}");
}
