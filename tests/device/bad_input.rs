//! Inputs on which a device must not choke: one row of the design's table after another.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Root, Voice, events_of, of, sox};

/// Ways of damaging a wake word; the second half of them makes the library panic.
const WAKE_SEEDS: [u64; 14] = [1, 2, 3, 8, 16, 20, 33, 100, 134, 163, 202, 220, 293, 378];

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
    let formats: [(&str, &[&str]); 11] = [
        ("16bit-44k1-stereo.wav", &["-r", "44100", "-c", "2", "-b", "16"]),
        ("24bit-48k.wav", &["-r", "48000", "-b", "24"]),
        ("32bit-48k-stereo.wav", &["-r", "48000", "-c", "2", "-b", "32"]),
        ("float-48k.wav", &["-r", "48000", "-e", "floating-point", "-b", "32"]),
        ("8bit-16k.wav", &["-r", "16000", "-b", "8", "-e", "unsigned-integer"]),
        ("8ch-16k.wav", &["-r", "16000", "-c", "8", "-b", "16"]),
        ("22k.wav", &["-r", "22050"]),
        ("96k.wav", &["-r", "96000"]),
        ("48k.flac", &["-r", "48000"]),
        ("32ch-16k.wav", &["-r", "16000", "-c", "32", "-b", "16"]),
        ("768k.wav", &["-r", "768000"]),
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
    refused(
        &root,
        "header-only.wav",
        b"RIFF\x24\x00\x00\x00WAVEfmt \
        \x10\x00\x00\x00\x01\x00\x01\x00\x80\x3e\x00\x00\x00\x7d\x00\x00\x02\x00\x10\x00\
        data\x00\x00\x00\x00",
    );
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
    sox(&[
        Voice::Rms.says(crate::support::ENROLMENT[0]).to_str().unwrap(),
        loud.to_str().unwrap(),
        "vol",
        "20",
    ]);
    for bad in [&short, &silence, &loud] {
        let output = root.run(&["voice", "enroll", "--user", "anna", bad.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(65), "{}: {stderr}", bad.display());
        assert!(stderr.len() > 20, "{stderr}");
    }
    // Two voices in one enrolment.
    let mixed: Vec<PathBuf> = vec![
        Voice::Rms.says(crate::support::ENROLMENT[0]),
        Voice::Slt.says(crate::support::ENROLMENT[1]),
        Voice::Rms.says(crate::support::ENROLMENT[2]),
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

/// Folders of this machine with models that are not part of the repository.
fn fetched() -> PathBuf {
    PathBuf::from(std::env::var_os("JARVIS_MODELS_DIR").expect("JARVIS_MODELS_DIR names the fetched models"))
}

/// `bytes` with some of them changed, differently for each `seed`; now and then cut off.
fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut bytes = bytes.to_vec();
    if seed.is_multiple_of(8) {
        bytes.truncate(random(bytes.len()));
        return bytes;
    }
    // Names, shapes and wiring of the graph stand at both ends; the weights between them are numbers.
    for n in 0..=random(3) {
        let (last, near) = (bytes.len() - 1, random(bytes.len().min(4_000)));
        let at = if n % 2 == 0 { near } else { last - near };
        bytes[at] ^= 1 << random(5);
    }
    bytes
}

#[test]
fn a_damaged_wake_word_of_the_owners_own_is_refused_and_never_ends_the_program_by_force() {
    let mut root = Root::new();
    let recording = Voice::Rms.says("hello");
    let path = root.path().join("own.onnx");
    root.env("JARVIS__WAKE__MODEL", path.to_str().unwrap());
    root.env("JARVIS__STT__ENGINE", "off");
    let whole = fs::read(fetched().join("hey_jarvis_v0.1.onnx")).unwrap();
    let (mut refused, mut caught) = (0, 0);
    for seed in WAKE_SEEDS {
        fs::write(&path, damaged(&whole, seed)).unwrap();
        let output = root.run(&["listen", recording.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            // Other numbers in its weights make a bad wake word, and not an impossible one.
            Some(0) => {}
            Some(78) => {
                refused += 1;
                caught += usize::from(said.contains("the library panicked"));
                assert!(said.contains("own") && said.contains("set another"), "seed {seed}: {said}");
            }
            code => panic!("seed {seed}: {code:?}, {}: {said}", output.status),
        }
    }
    assert!(refused >= WAKE_SEEDS.len() / 2, "{refused} of {} were refused", WAKE_SEEDS.len());
    assert!(caught > 0, "the library panics at none of these files any more: look for others");
}

/// A folder of models in which `name` is damaged and the manifest states the damaged hash.
fn models_with(root: &Root, file: &str, seed: u64) -> PathBuf {
    let folder = root.path().join(format!("models-{seed}-{file}"));
    fs::create_dir_all(&folder).unwrap();
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let from = [tree.join(file), fetched().join(file)].into_iter().find(|path| path.exists()).unwrap();
    let bytes = damaged(&fs::read(from).unwrap(), seed);
    let changed = folder.join(file);
    fs::write(&changed, bytes).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(&changed).output().unwrap();
    let hash = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    let manifest = fs::read_to_string(tree.join("manifest.toml")).unwrap();
    let at = manifest.find(&format!("file = \"{file}\"")).unwrap();
    let (before, entry) = manifest.split_at(at);
    let begin = entry.find("sha256 = \"").unwrap() + "sha256 = \"".len();
    fs::write(
        folder.join("manifest.toml"),
        format!("{before}{}{hash}{}", &entry[..begin], &entry[begin + 64..]),
    )
    .unwrap();
    folder
}

#[test]
fn damaged_models_of_every_kind_are_refused_and_never_end_the_program_by_force() {
    let recording = Voice::Rms.says("hey jarvis, what time is it");
    let files = [
        "silero_vad_16k.onnx",
        "oww_melspectrogram.onnx",
        "oww_embedding_stream.onnx",
        "campplus_zh_en_192.f16.onnx",
        "pyannote_segmentation_3.onnx",
        "whisper_tiny_en_encoder.f16.onnx",
        "whisper_tiny_en_decoder.f16.onnx",
        "whisper_tiny_en_vocabulary.bin",
    ];
    for file in files {
        let root = Root::with_config("[voice]\nrefuse_overlap = true\n");
        for seed in [3, 8, 21] {
            let folder = models_with(&root, file, seed);
            // Found before the models of this machine, and the others are found there.
            let mut command = root.command(&["listen", recording.to_str().unwrap()]);
            let models = root.path().join("var/lib/jarvis/models");
            let _ = fs::remove_dir_all(&models);
            fs::create_dir_all(models.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(fetched(), &models).unwrap();
            let output = command.env("JARVIS_MODELS_DIR", &folder).output().unwrap();
            let _ = fs::remove_file(&models);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                matches!(output.status.code(), Some(0 | 1 | 78)),
                "{file}, seed {seed}: {}: {said}",
                output.status
            );
            assert!(!said.contains("bug:"), "{file}, seed {seed}: {said}");
        }
    }
}

#[test]
fn a_damaged_whisper_file_switches_words_off_like_a_missing_one() {
    let recording = Voice::Rms.says("hey jarvis, what time is it");
    for file in ["whisper_tiny_en_decoder.f16.onnx", "whisper_tiny_en_vocabulary.bin"] {
        for missing in [true, false] {
            let mut root = Root::with_config("[voice]\nenabled = false\n");
            root.env("JARVIS__STT__ENGINE", "auto");
            // The models of an installed device, beside the manifest.
            let folder = root.path().join("usr/share/jarvis/models");
            fs::create_dir_all(&folder).unwrap();
            for from in [Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"), fetched()] {
                for entry in fs::read_dir(from).unwrap() {
                    let path = entry.unwrap().path();
                    let name = path.file_name().unwrap();
                    if path.is_file() && name != file {
                        std::os::unix::fs::symlink(&path, folder.join(name)).unwrap();
                    }
                }
            }
            if !missing {
                fs::write(folder.join(file), b"half a file").unwrap();
            }
            root.env("JARVIS_MODELS_DIR", "");
            let home = root.path().to_path_buf();
            root.env("HOME", home);
            root.env("XDG_DATA_HOME", root.path().join("none"));
            let output = root.run(&["listen", recording.to_str().unwrap()]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{file}, missing {missing}: {said}");
            let events = events_of(&String::from_utf8(output.stdout).unwrap());
            assert_eq!(of(&events, "wake").len(), 1, "the rest works: {events:#?}");
            assert_eq!(of(&events, "transcript").len(), 0, "{events:#?}");
            let advice = format!("scripts/fetch-models.sh --dest {}", folder.display());
            assert!(said.contains("speech to text is off") && said.contains(&advice), "{said}");
            assert_eq!(said.contains("missing"), missing, "{said}");
            let report: serde_json::Value =
                serde_json::from_slice(&root.run(&["doctor", "--json"]).stdout).unwrap();
            let findings = report["findings"].as_array().unwrap();
            let found = findings.iter().find(|f| f["check"] == "speech to text").unwrap();
            assert!(found["fix"].as_str().unwrap().contains(&advice), "{found}");
            // An engine requested by name that cannot be used is an error.
            root.env("JARVIS__STT__ENGINE", "whisper");
            assert_eq!(root.run(&["listen", recording.to_str().unwrap()]).status.code(), Some(78));
        }
    }
}

#[test]
fn a_recording_with_tags_in_front_is_read_and_other_formats_are_named_with_a_tool_that_reads_them() {
    let root = Root::new();
    root.enrol("anna", Voice::Rms);
    let command = Voice::Rms.says("hey jarvis, who am i");
    let flac = root.path().join("plain.flac");
    convert(&command, &flac, &[]);
    // ID3v2.4, 300 bytes, once with a footer and once twice; the length has seven bits a byte.
    let tag = |flags: u8| {
        let mut tag = vec![b'I', b'D', b'3', 4, 0, flags, 0, 0, 2, 44];
        tag.resize(10 + 300, 0);
        if flags != 0 {
            tag.extend(b"3DI\x04\0\x10\0\0\x02\x2c");
        }
        tag
    };
    for (name, from, front) in [
        ("tagged.wav", &command, tag(0)),
        ("tagged.flac", &flac, tag(0)),
        ("footer.flac", &flac, tag(0x10)),
        ("twice.wav", &command, [tag(0), tag(0)].concat()),
        ("empty-tag.wav", &command, b"ID3\x04\0\0\0\0\0\0".to_vec()),
        // The length is too small, too large, and larger than the file.
        ("short-tag.wav", &command, [&b"ID3\x04\0\0\0\0\0\x05"[..], &[7; 300]].concat()),
        ("long-tag.wav", &command, [&b"ID3\x04\0\0\0\0\x10\0"[..], &[7; 300]].concat()),
        ("longer-tag.flac", &flac, [&b"ID3\x04\0\0\x7f\x7f\x7f\x7f"[..], &[7; 300]].concat()),
    ] {
        let path = root.path().join(name);
        fs::write(&path, [front, fs::read(from).unwrap()].concat()).unwrap();
        assert_eq!(of(&root.listen(&[&path]), "verified").len(), 1, "{name}");
        root.ok(&["voice", "verify", "--user", "anna", path.to_str().unwrap()]);
    }
    for (name, head) in [
        ("song.mp3", &[&tag(0)[..], &[0xFF, 0xFB, 0x90, 0x64]].concat()[..]),
        ("memo.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0"),
        ("call.webm", b"\x1A\x45\xDF\xA3\0\0\0\0\0\0\0\0"),
        ("tag-alone.wav", &tag(0)),
    ] {
        let said = refused(&root, name, &[head, &[0; 4_000]].concat());
        assert!(said.contains("`ffmpeg -i "), "{name}: {said}");
        assert!(!said.contains("sox"), "{name}: {said}");
    }
    // Shapes that no microphone has: a sentence with a command that repairs the file.
    let wide = root.path().join("wide.wav");
    convert(&command, &wide, &["-c", "33"]);
    let fast = root.path().join("fast.wav");
    convert(&command, &fast, &["-r", "800000"]);
    for (path, words) in [(&wide, "33 channels"), (&fast, "800000 samples a second")] {
        let output = root.run(&["listen", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{said}");
        assert!(said.contains(words) && said.contains("sox "), "{said}");
        let mended = root.path().join("new.wav");
        sox(&[path.to_str().unwrap(), "-r", "48000", mended.to_str().unwrap(), "remix", "1"]);
        assert_eq!(of(&root.listen(&[&mended]), "verified").len(), 1, "the command of the advice works");
    }
}
