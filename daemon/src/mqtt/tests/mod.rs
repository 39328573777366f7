//! Against a real Mosquitto, seen by its own command-line clients; a broker that misbehaves is a socket of
//! ours.

mod rig;

#[expect(dead_code, reason = "shared with the black-box tests, which use the rest")]
#[path = "../../../../tests/support/proxy.rs"]
mod proxy;

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::config::Masked;
use crate::events::{Attribution, Reason, What};
use crate::health::Need;
use crate::health::State;
use crate::memory::{User, UserId};
use crate::speaker::Verdict;
use crate::units::FramePos;
use proxy::{Mode, Proxy};
use rig::{Device, Manner, Mosquitto, broker_at, free_port, nobody, wait_for};

/// The event that Anna is verified, and the attribution of her words.
fn anna() -> (What, Attribution) {
    let id = UserId::new();
    let user = User { id, name: "anna".into(), consent_unix_ms: None, created_unix_ms: 0 };
    let verdict = Verdict::Verified {
        user_id: id.to_string(),
        user_name: "anna".into(),
        confidence: 0.97,
        score: 3.1,
        net_speech_s: 2.5,
        other_s: None,
    };
    let (event, whose) = Event::verified(FramePos(100), &verdict, &user).unwrap();
    (event.what, whose)
}

fn transcript(whose: Attribution, text: &str) -> What {
    What::transcript(whose, text, "vosk")
}

fn wake() -> What {
    What::Wake { word: "hey jarvis".into(), score: 0.9 }
}

fn speech_end() -> What {
    What::SpeechEnd { speech_s: 2.0, truncated: false }
}

fn stored(whose: Attribution) -> What {
    What::Stored { whose, conversation_id: "c1".into(), message_ids: vec!["m1".into(), "m2".into()] }
}

fn whole_turn(device: &Device, text: &str) {
    let (verified, whose) = anna();
    for what in [
        wake(),
        What::SpeechStart,
        What::Partial { text: "partial words".into() },
        speech_end(),
        verified,
        transcript(whose, text),
        stored(whose),
        What::reply(whose, format!("answer to {text}")),
    ] {
        device.say(what);
    }
}

/// The settings of a device whose section `[mqtt]` is not the default.
fn changed(broker: BrokerUrl, id: &str, change: impl FnOnce(&mut section::Mqtt)) -> MqttSettings {
    let mut settings = MqttSettings::new(broker, id);
    change(&mut settings.mqtt);
    settings
}

/// With a user name, and without an announcement, which the access list of the test does not allow.
fn signs_in(mqtt: &mut section::Mqtt) {
    mqtt.username = Some(Masked("jarvis".into()));
    mqtt.discovery = false;
}

#[test]
fn state_and_availability_are_retained_and_follow_the_device() {
    let Some(broker) = Mosquitto::open() else { return };
    let mut device = Device::start(MqttSettings::new(broker.url(), "k1"));
    broker.wait_retained("jarvis/k1/availability", "online");
    broker.wait_retained("jarvis/k1/state", "idle");
    assert_eq!(broker.retained("jarvis/k1/mute").as_deref(), Some("OFF"));
    let info: serde_json::Value = serde_json::from_str(&broker.retained("jarvis/k1/info").unwrap()).unwrap();
    assert_eq!(
        (info["id"].as_str(), info["version"].as_str()),
        (Some("k1"), Some(env!("CARGO_PKG_VERSION")))
    );
    device.wait_condition("ok");
    device.health.set_muted(true);
    broker.wait_retained("jarvis/k1/state", "muted");
    broker.wait_retained("jarvis/k1/mute", "ON");
    device.health.register("microphone", Need::Required);
    device.health.set("microphone", Condition::away("unplugged"));
    wait_for("health", || broker.retained("jarvis/k1/health").unwrap().contains(r#""sentence":"unplugged""#));

    let took = device.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(broker.retained("jarvis/k1/availability").as_deref(), Some("offline"));
    let log = std::fs::read_to_string(broker.path("log")).unwrap();
    assert!(log.contains("Received DISCONNECT from jarvis-k1"), "a clean goodbye");
}

#[test]
fn a_turn_is_published_as_events_and_as_one_last_turn_and_nothing_of_it_is_retained() {
    let Some(broker) = Mosquitto::open() else { return };
    let device = Device::start(MqttSettings::new(broker.url(), "k2"));
    device.wait_condition("ok");
    let watch = broker.watch("jarvis/k2/+");
    whole_turn(&device, "remember the key");
    let lines = watch.until("last_turn");
    let events: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("0 jarvis/k2/event ")).collect();
    let names: Vec<String> = events
        .iter()
        .map(|e| serde_json::from_str::<serde_json::Value>(e).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["wake", "speech_start", "speech_end", "verified", "transcript", "stored", "reply"]);
    assert!(!lines.iter().any(|line| line.contains("partial words")));
    let turn = lines.last().unwrap().strip_prefix("0 jarvis/k2/last_turn ").unwrap();
    let turn: serde_json::Value = serde_json::from_str(turn).unwrap();
    assert_eq!(turn["outcome"], "answered");
    assert_eq!(turn["user"], "anna");
    assert_eq!(turn["transcript"], "remember the key");
    assert_eq!(turn["reply"], "answer to remember the key");
    assert_eq!(turn["conversation_id"], "c1");
    assert!(events.iter().all(|event| event.contains(turn["turn"].as_str().unwrap())), "{events:#?}");
    assert_eq!(broker.retained("jarvis/k2/last_turn"), None);
    assert_eq!(broker.retained("jarvis/k2/event"), None);
}

#[test]
fn text_of_a_speaker_who_is_not_verified_never_leaves_the_device() {
    let Some(broker) = Mosquitto::open() else { return };
    let device = Device::start(MqttSettings::new(broker.url(), "k3"));
    device.wait_condition("ok");
    let watch = broker.watch("jarvis/k3/#");
    let (verified, whose) = anna();
    for what in [
        // Text counts by its attribution, not by its place, however near the verdict is.
        transcript(Attribution::ANONYMOUS, "secret 1"),
        verified,
        transcript(whose, "fine"),
        What::reply(Attribution::NOBODY, "secret 2"),
        What::reply(whose, "fine too"),
        transcript(Attribution::ANONYMOUS, "secret 3"),
        wake(),
        What::Partial { text: "secret 4".into() },
        speech_end(),
        transcript(Attribution::NOBODY, "secret 5"),
        What::Rejected { reason: Reason::Rejected, confidence: Some(0.02), early: false },
        What::reply(Attribution::ANONYMOUS, "secret 6"),
        What::End,
    ] {
        device.say(what);
    }
    let lines = watch.until(r#""event":"end""#).join("\n");
    assert!(lines.contains("fine too") && !lines.contains("secret"), "{lines}");
    assert!(lines.contains(r#""outcome":"rejected""#) && lines.contains(r#""reason":"rejected""#), "{lines}");
}

#[test]
fn with_publish_text_off_events_carry_no_text() {
    let Some(broker) = Mosquitto::open() else { return };
    let settings = changed(broker.url(), "k4", |mqtt| mqtt.publish_text = false);
    let device = Device::start(settings);
    device.wait_condition("ok");
    let watch = broker.watch("jarvis/k4/+");
    whole_turn(&device, "private words");
    let lines = watch.until("last_turn").join("\n");
    assert!(!lines.contains("private words") && lines.contains(r#""event":"transcript""#), "{lines}");
}

#[test]
fn after_a_broker_restart_everything_is_there_again_and_events_in_between_arrive() {
    let Some(mut broker) = Mosquitto::open() else { return };
    // In between, so that nothing comes through before somebody watches.
    let between = Proxy::to(broker.port);
    let url = format!("mqtt://127.0.0.1:{}", between.port());
    let device = Device::start(MqttSettings::new(broker_at(url), "k5"));
    device.wait_condition("ok");
    broker.kill();
    device.wait_condition("trying again");
    device.health.set_stage(State::Thinking);
    device.say(wake());
    whole_turn(&device, "while it was away");
    std::thread::sleep(Duration::from_millis(1_200));
    between.set(Mode::Refuse);
    broker.up();
    // The broker kept nothing: all retained topics come from the device.
    let watch = broker.watch("jarvis/k5/#");
    between.set(Mode::Pass);
    let lines = watch.until("last_turn");
    assert!(
        lines.iter().any(|line| line.contains("while it was away") && line.contains("delay_ms")),
        "{lines:#?}"
    );
    broker.wait_retained("jarvis/k5/availability", "online");
    broker.wait_retained("jarvis/k5/state", "thinking");
    device.wait_condition("ok");
    // And a second time, with the commands still subscribed.
    broker.kill();
    device.wait_condition("trying again");
    broker.up();
    broker.wait_retained("jarvis/k5/availability", "online");
    broker.publish(&["-t", "jarvis/k5/mute/set", "-m", "ON"]);
    wait_for("the mute", || device.control.is_muted());
}

#[test]
fn a_device_that_dies_is_reported_by_its_last_will() {
    let Some(broker) = Mosquitto::open() else { return };
    let mut device = Device::start(MqttSettings::new(broker.url(), "k6"));
    broker.wait_retained("jarvis/k6/availability", "online");
    device.kill();
    broker.wait_retained("jarvis/k6/availability", "offline");
}

#[test]
fn a_last_will_that_comes_late_does_not_leave_the_device_offline() {
    let Some(broker) = Mosquitto::open() else { return };
    let device = Device::start(MqttSettings::new(broker.url(), "k7"));
    broker.wait_retained("jarvis/k7/availability", "online");
    device.wait_condition("ok");
    broker.publish(&["-t", "jarvis/k7/availability", "-m", "offline", "-r", "-q", "1"]);
    broker.wait_retained("jarvis/k7/availability", "online");
}

#[test]
fn commands_arrive_and_nonsense_is_ignored() {
    let Some(broker) = Mosquitto::open() else { return };
    // Retained commands from before the start must not be carried out.
    broker.publish(&["-t", "jarvis/k8/listen", "-m", "PRESS", "-r", "-q", "1"]);
    let mut device = Device::start(MqttSettings::new(broker.url(), "k8"));
    device.wait_condition("ok");
    let huge = broker.path("huge");
    std::fs::write(&huge, vec![0xff; 300_000]).unwrap();
    let huge = huge.display().to_string();
    broker.publish(&["-t", "jarvis/k8/mute/set", "-f", &huge, "-q", "1"]);
    broker.publish(&["-t", "jarvis/k8/mute/set", "-m", "maybe"]);
    broker.publish(&["-t", "jarvis/k8/listen", "-n"]);
    assert!(!device.control.is_muted());
    broker.publish(&["-t", "jarvis/k8/mute/set", "-m", "ON", "-q", "2"]);
    wait_for("the mute", || device.control.is_muted());
    broker.publish(&["-t", "jarvis/k8/mute/set", "-m", "OFF"]);
    wait_for("the end of the mute", || !device.control.is_muted());
    assert!(device.requests.try_recv().is_err());
    let log = std::fs::read_to_string(broker.path("log")).unwrap();
    assert_eq!(log.matches("as jarvis-k8").count(), 1, "still the first connection");
}

#[test]
fn with_commands_off_nothing_is_subscribed() {
    let Some(broker) = Mosquitto::open() else { return };
    let settings = changed(broker.url(), "k9", |mqtt| mqtt.accept_commands = false);
    let mut device = Device::start(settings);
    device.wait_condition("ok");
    broker.publish(&["-t", "jarvis/k9/mute/set", "-m", "ON", "-q", "1"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(device.requests.try_recv().is_err());
}

#[test]
fn a_wrong_password_is_named_and_a_corrected_file_is_used_without_a_restart() {
    let Some(mut broker) = Mosquitto::open() else { return };
    let made = Process::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(broker.path("pw"))
        .args(["jarvis", "right"])
        .status();
    assert!(made.unwrap().success());
    std::fs::write(
        broker.path("acl"),
        "user jarvis\ntopic readwrite jarvis/k10/availability\ntopic write jarvis/k10/state\n",
    )
    .unwrap();
    let config = std::fs::read_to_string(broker.path("m.conf")).unwrap().replace("allow_anonymous true", "");
    let folder = broker.folder.path().display();
    let config = format!("{config}\npassword_file {folder}/pw\nacl_file {folder}/acl\n");
    std::fs::write(broker.path("m.conf"), config).unwrap();
    broker.kill();
    broker.up();

    std::fs::write(broker.path("secret"), "wrong\n").unwrap();
    let settings = changed(broker.url(), "k10", |mqtt| {
        signs_in(mqtt);
        mqtt.password_file = Some(broker.path("secret").into());
    });
    let mut device = Device::start(settings);
    device.wait_condition("refused the user name or the password");
    assert!(!format!("{:?}", device.health.status()).contains("wrong"));
    std::fs::remove_file(broker.path("secret")).unwrap();
    device.wait_condition("cannot read the password file");
    std::fs::write(broker.path("secret"), "right\nsecond line\n").unwrap();
    // The access list lets some topics through and not others: the device works and says so.
    device.wait_condition("does not let the device publish on jarvis/k10/");
    assert!(matches!(device.condition(), Condition::Degraded { .. }));
    let took = device.stop();
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn where_only_the_announcement_is_refused_the_rest_works_and_it_is_said() {
    let Some(mut broker) = Mosquitto::open() else { return };
    std::fs::write(broker.path("acl"), "topic readwrite jarvis/k15/#\n").unwrap();
    let config = std::fs::read_to_string(broker.path("m.conf")).unwrap();
    std::fs::write(broker.path("m.conf"), format!("{config}\nacl_file {}\n", broker.path("acl").display()))
        .unwrap();
    broker.kill();
    broker.up();
    let device = Device::start(MqttSettings::new(broker.url(), "k15"));
    device.wait_condition(
        "homeassistant/device/jarvis_k15/config (NotAuthorized); see its access list, or \
                           switch mqtt.discovery off",
    );
    broker.wait_retained("jarvis/k15/state", "idle");
    let silent = changed(broker.url(), "k15", |mqtt| mqtt.discovery = false);
    drop(device);
    Device::start(silent).wait_condition("ok");
}

#[test]
fn whatever_answers_at_the_address_the_device_goes_on_and_stops_quickly() {
    let end = Arc::new(AtomicBool::new(false));
    let cases = [
        (Manner::Garbage, "trying again"),
        (Manner::Closes, "trying again"),
        (Manner::Web, "trying again"),
        (Manner::GoodThenGarbage, "trying again"),
        (Manner::Hangs, ""),
        (Manner::GoodThenSilent, ""),
    ];
    for (manner, sentence) in cases {
        let (port, count) = nobody(manner, &end);
        let mut device =
            Device::start(MqttSettings::new(broker_at(format!("mqtt://127.0.0.1:{port}")), "k11"));
        let (_, whose) = anna();
        for n in 0..600 {
            device.say(transcript(whose, &format!("event {n}")));
            if n % 50 == 0 {
                device.health.set_stage(if n % 100 == 0 { State::Idle } else { State::Listening });
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if sentence.is_empty() {
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(count.load(Ordering::Relaxed), 1);
        } else {
            device.wait_condition(sentence);
            wait_for("another attempt", || count.load(Ordering::Relaxed) >= 3);
        }
        let took = device.stop();
        assert!(took < Duration::from_millis(2_500), "{took:?}");
    }
    end.store(true, Ordering::Relaxed);
}

#[test]
fn a_broker_that_is_not_there_is_reported_and_a_stop_does_not_wait_for_it() {
    let mut device =
        Device::start(MqttSettings::new(broker_at(format!("mqtt://127.0.0.1:{}", free_port())), "k12"));
    device.wait_condition("cannot reach the broker at mqtt://127.0.0.1:");
    let took = device.stop();
    assert!(took < Duration::from_millis(200), "{took:?}");
}

#[test]
fn two_devices_with_one_id_are_told_so() {
    let Some(broker) = Mosquitto::open() else { return };
    let first = Device::start(MqttSettings::new(broker.url(), "k13"));
    first.wait_condition("ok");
    let _second = Device::start(MqttSettings::new(broker.url(), "k13"));
    first.wait_condition("another client uses the id of this device");
}

fn openssl(folder: &Path, arguments: &str) {
    let output =
        Process::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tls_works_with_the_right_authority_and_only_with_it() {
    if Process::new("openssl").arg("version").output().is_err() {
        crate::testdata::skipped("openssl is not installed");
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let dir = keys.path();
    for name in ["ca", "other"] {
        openssl(
            dir,
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out \
                 {name}.pem"
            ),
        );
    }
    openssl(dir, "req -newkey rsa:2048 -nodes -subj /CN=broker -keyout broker.key -out broker.csr");
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        dir,
        "x509 -req -in broker.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out \
         broker.pem",
    );
    let at = dir.display();
    let Some(broker) = Mosquitto::start(&format!(
        "listener PORT\nallow_anonymous true\ncafile {at}/ca.pem\ncertfile {at}/broker.pem\n\
         keyfile {at}/broker.key"
    )) else {
        return;
    };
    let url = format!("mqtts://localhost:{}", broker.port);
    let settings = |url: &str, ca: Option<&str>| {
        changed(broker_at(url), "k14", |mqtt| mqtt.ca_file = ca.map(|name| dir.join(name).into()))
    };
    assert!(check(&settings(&url, Some("ca.pem"))).is_ok());
    let mut device = Device::start(settings(&url, Some("ca.pem")));
    device.wait_condition("ok");
    device.stop();
    let mut device = Device::start(settings(&url, Some("other.pem")));
    device.wait_condition("no trusted connection");
    device.stop();
    // The certificate names localhost only.
    let mut device = Device::start(settings(&format!("mqtts://127.0.0.1:{}", broker.port), Some("ca.pem")));
    device.wait_condition("no trusted connection");
    device.stop();
    let mut device = Device::start(settings(&format!("mqtt://localhost:{}", broker.port), None));
    device.wait_condition("trying again");
    device.stop();
    assert!(matches!(check(&settings(&url, Some("ext"))), Err(MqttError::NoAuthority { .. })));
    assert!(matches!(check(&settings(&url, Some("absent"))), Err(MqttError::File { .. })));
}

#[test]
fn settings_that_can_never_work_are_refused() {
    let with = |change: fn(&mut MqttSettings)| {
        let mut settings = MqttSettings::new(broker_at("mqtt://b"), "id");
        change(&mut settings);
        check(&settings)
    };
    assert!(with(|_| {}).is_ok());
    assert!(matches!(with(|s| s.device_id = "a/b".into()), Err(MqttError::Topic { .. })));
    assert!(matches!(
        with(|s| s.mqtt.password_file = Some(PathBuf::from("/x").into())),
        Err(MqttError::PasswordWithoutUser)
    ));
}
