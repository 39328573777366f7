//! `jarvisd doctor` on sound and board: the real program, the simulated card, files of the kernel's shape.

use std::fs;

use crate::microphone::CONFIG;
use crate::support::Root;
use crate::support::mic::Mic;
use serde_json::Value;

#[test]
fn doctor_names_a_dc_offset_and_the_hum_of_the_mains() {
    let mut root = Root::with_config(CONFIG);
    let mic = Mic::plug_into(&mut root);
    let sine =
        |n: i32, hz: f64, level: f64| level * (std::f64::consts::TAU * hz * f64::from(n) / 48_000.0).sin();
    for (offset, hz, level, wanted, other) in [
        (2_300.0, 0.0, 0.0, "a DC offset of 7 % of full scale", "hum"),
        (0.0, 50.0, 1_000.0, "hum of the mains at 50 Hz, -33 dB", "offset"),
        (0.0, 60.0, 3_000.0, "hum of the mains at 60 Hz, -24 dB", "offset"),
    ] {
        #[expect(clippy::cast_possible_truncation, reason = "within 16 bits")]
        let sample = |n: i32| (offset + sine(n, hz, level)).round() as i16 + i16::from(n % 3 == 0);
        mic.delivers((0..4 * 48_000).map(sample));
        let report: Value = serde_json::from_slice(&root.run(&["doctor", "--json"]).stdout).unwrap();
        let found = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .find(|f| f["check"] == "microphone")
            .unwrap()
            .clone();
        let message = found["message"].as_str().unwrap();
        assert!(message.contains(wanted) && !message.contains(other), "{found}");
        assert_eq!(found["state"], "warn");
        assert!(found["fix"].as_str().unwrap().contains("the device hears in spite of"), "{found}");
    }
}

/// The findings of one check.
fn found(root: &Root, args: &[&str], check: &str) -> Vec<Value> {
    let output = root.run(&[&["doctor", "--json"], args].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["findings"].as_array().unwrap().iter().filter(|f| f["check"] == check).cloned().collect()
}

#[test]
fn doctor_judges_the_gain_and_the_noise_of_a_room() {
    let mut root = Root::with_config(CONFIG);
    let mic = Mic::plug_into(&mut root);
    // Noise that is different in every sample, of at most this many steps of 16 bits.
    let noise = |n: i32, most: i32| {
        let mixed = n.wrapping_mul(1_103_515_245) ^ (n.wrapping_mul(69_069) >> 7);
        i16::try_from((mixed >> 16) * most / 32_768).unwrap()
    };
    for (most, state, wanted) in [
        (40, "ok", "dB"),
        (2, "warn", "very quiet: nothing but the microphone's own noise"),
        (6_000, "warn", "much noise: only who is near is understood"),
        (32_767, "warn", "overdriven"),
    ] {
        mic.delivers((0..5 * 48_000).map(|n| noise(n, most)));
        let finding = &found(&root, &[], "microphone")[0];
        assert_eq!(finding["state"], state, "{most}: {finding}");
        assert!(finding["message"].as_str().unwrap().contains(wanted), "{most}: {finding}");
        assert_eq!(finding["fix"].is_string(), state == "warn", "{finding}");
    }
    // Left noise, right nothing.
    root.write_config("[audio]\ndevice = \"pair\"\n");
    mic.delivers((0..2 * 5 * 48_000).map(|n| if n % 2 == 0 { noise(n, 400) } else { 0 }));
    let finding = &found(&root, &["--seconds", "1"], "microphone")[0];
    assert!(finding["message"].as_str().unwrap().contains("no sound in channel 1"), "{finding}");
}

#[test]
fn doctor_takes_a_full_look_at_sound_and_speed() {
    let mut root = Root::with_config(CONFIG);
    let mic = Mic::plug_into(&mut root);
    mic.hear_loudspeaker(150);
    let output = root.run(&["doctor", "--json", "--full", "--seconds", "1"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |check: &str| -> Vec<&Value> {
        report["findings"].as_array().unwrap().iter().filter(|f| f["check"] == check).collect()
    };
    // The simulated room gives back half of it, 150 ms and the buffers of the card later.
    let echo = of("echo")[0];
    assert_eq!(echo["state"], "ok", "{echo}");
    let words = echo["message"].as_str().unwrap();
    let ms: u32 = words.split(" ms later").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((150..700).contains(&ms) && words.contains("dB"), "{echo}");
    let speed: Vec<&str> = of("speed").iter().map(|f| f["message"].as_str().unwrap()).collect();
    for stage in [
        "front end (rnnoise)",
        "wake word (hey-jarvis)",
        "speaker check (campplus)",
        "speech to text (whisper)",
    ] {
        assert!(
            speed.iter().any(|line| line.starts_with(stage) && line.contains("budget")),
            "{stage}: {speed:#?}"
        );
    }
    // A loudspeaker that nobody hears.
    fs::remove_file(root.path().join("sound/echo")).unwrap();
    let deaf = &found(&root, &["--full", "--seconds", "1"], "echo")[0];
    assert_eq!(
        (&deaf["state"], deaf["message"].as_str()),
        (&"warn".into(), Some("the microphone does not hear the loudspeaker"))
    );
}

#[test]
fn doctor_reads_what_the_kernel_says_of_board_and_card() {
    let mut root = Root::new();
    let board = root.path().join("board");
    for (path, text) in [
        ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
        (
            "proc/asound/cards",
            " 0 [vc4hdmi0       ]: vc4-hdmi - vc4-hdmi-0\n                      vc4-hdmi-0\n",
        ),
        ("proc/asound/pcm", "00-00: MAI PCM i2s-hifi-0 : MAI PCM i2s-hifi-0 : playback 1\n"),
        ("boot/firmware/config.txt", "dtparam=i2s=on\ndtoverlay=wm8960-soundcard\n"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", "81790\n"),
        ("sys/bus/platform/devices/soc:firmware/get_throttled", "50005\n"),
    ] {
        let path = board.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root.env("JARVIS_TEST_BOARD", &board);
    let output = root.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (check, wanted) in [
        (
            "sound card",
            "/boot/firmware/config.txt has the overlay wm8960-soundcard, and its card wm8960soundcard is not",
        ),
        ("temperature", "the processor has 82 °C, at which it slows down"),
        ("power", "the supply voltage is too low, it is throttled, now"),
    ] {
        let finding = report["findings"].as_array().unwrap().iter().find(|f| f["check"] == check).unwrap();
        assert!(finding["message"].as_str().unwrap().starts_with(wanted), "{finding}");
        assert!(finding["state"] == "warn" && finding["fix"].is_string(), "{finding}");
    }
}
