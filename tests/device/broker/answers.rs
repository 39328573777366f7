//! Every command is answered with its outcome and the reason.

use serde_json::{Value, json};

use super::{Broker, PIN, household, payload, pin_of, set_pin};
use crate::support::mic::Mic;
use crate::support::{Daemon, Root, Subscriber, wait_until};

/// A device that takes every command, with its answers.
struct Rig {
    broker: Broker,
    root: Root,
    mic: Mic,
    daemon: Daemon,
    answers: Subscriber,
}

impl Rig {
    fn start(settings: &str) -> Self {
        let broker = Broker::start();
        let (root, mic) = household(&broker.url());
        let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
        root.write_config(&format!("{config}[speech]\nenabled = false\n{settings}"));
        assert!(set_pin(&root, "anna", PIN).status.success());
        let mut answers = broker.subscribe("jarvis/kitchen/+");
        let mut daemon = root.daemon();
        daemon.wait_event("ready");
        answers.wait_for("the connection", |l| l == "jarvis/kitchen/availability online");
        Self { broker, root, mic, daemon, answers }
    }

    fn tell(&self, topic: &str, payload: &str) {
        self.broker.publish(&format!("jarvis/kitchen/{topic}"), payload);
    }

    fn answer(&mut self) -> Value {
        payload(&self.answers.wait_for("an answer", |l| l.starts_with("jarvis/kitchen/answer ")))
    }

    /// The answer to a command.
    #[track_caller]
    fn told(&mut self, topic: &str, payload: &str) -> Value {
        self.tell(topic, payload);
        self.answer()
    }

    fn stop(mut self) {
        assert_eq!(self.daemon.stop(), Some(0));
        let mut answers = self.answers.seen.iter().filter(|l| l.starts_with("jarvis/kitchen/answer "));
        let told = answers.find(|l| l.contains(PIN) || l.contains("a secret"));
        assert!(told.is_none() && !self.daemon.log().contains(PIN), "{told:?}");
    }
}

const ALL_ON: &str = "[voice]\npin_valid_s = 60\nenrol_by_mqtt = true\n";

fn with_id(payload: &str, id: &str) -> String {
    let mut payload: Value = serde_json::from_str(payload).unwrap();
    payload["id"] = id.into();
    payload.to_string()
}

#[test]
fn a_device_without_sound_does_not_listen_now_and_not_when_the_sound_is_back() {
    let mut rig = Rig::start("");
    rig.mic.unplug();
    // A window from before the notice lapses with the sound.
    wait_until("a refusal to listen", || {
        let answer = rig.told("listen", "PRESS");
        answer["outcome"] == "refused" && answer["reason"].as_str().unwrap().contains("microphone")
    });
    let before = rig.answers.seen.len();
    rig.mic.plug_back();
    rig.answers.wait_for("sound", |l| {
        l.starts_with("jarvis/kitchen/health ") && payload(l)["components"]["microphone"]["condition"] == "ok"
    });
    let listened = rig.answers.seen[before..].iter().find(|l| *l == "jarvis/kitchen/state listening");
    assert_eq!(listened, None);
    assert_eq!(rig.told("listen", "PRESS")["outcome"], "done");
    rig.answers.wait_for("a window", |l| l == "jarvis/kitchen/state listening");
    rig.stop();
}

#[test]
fn each_command_is_answered_with_what_became_of_it() {
    let mut rig = Rig::start(ALL_ON);
    let done = |command: &str| json!({ "command": command, "outcome": "done" });
    assert_eq!(rig.told("listen", "PRESS"), done("listen"));
    assert_eq!(rig.told("mute/set", "ON"), done("mute"));
    let refused = rig.told("listen", "PRESS");
    assert_eq!(refused["outcome"], "refused");
    assert!(refused["reason"].as_str().unwrap().contains("unmute"), "{refused}");
    assert_eq!(rig.told("mute/set", "OFF"), done("mute"));

    let right = with_id(&pin_of("anna", PIN), "7");
    assert_eq!(rig.told("pin", &right), json!({ "command": "pin", "outcome": "accepted", "id": "7" }));
    assert_eq!(rig.answer(), json!({ "command": "pin", "outcome": "done", "id": "7" }));
    // The answer does not show whether there is such a person.
    let wrong: Vec<Value> = ["anna", "nobody"]
        .iter()
        .map(|name| {
            assert_eq!(rig.told("pin", &pin_of(name, "274914"))["outcome"], "accepted");
            rig.answer()
        })
        .collect();
    assert_eq!((&wrong[0], &wrong[0]["outcome"]), (&wrong[1], &"refused".into()));

    let begin = with_id(r#"{"start":"Ben"}"#, &"i".repeat(64));
    assert_eq!(rig.told("enrolment/set", &begin)["outcome"], "accepted");
    let begun = rig.answer();
    assert_eq!((&begun["outcome"], &begun["id"]), (&"done".into(), &"i".repeat(64).into()));
    // An id that is too long is none.
    let again = rig.told("enrolment/set", &with_id(r#"{"start":"Cleo"}"#, &"i".repeat(65)));
    assert_eq!(again, json!({ "command": "enrolment", "outcome": "accepted" }));
    let refused = rig.answer();
    assert_eq!(refused["outcome"], "refused");
    assert!(refused["reason"].as_str().unwrap().contains("another enrolment"), "{refused}");
    assert_eq!(rig.told("enrolment/set", "CANCEL"), done("enrolment"));
    rig.tell("enrolment/set", r#"{"add":"Nobody known"}"#);
    assert_eq!(rig.answer()["outcome"], "accepted");
    let refused = rig.answer();
    assert!(refused["outcome"] == "refused" && !refused.to_string().contains("Nobody known"), "{refused}");
    rig.stop();
}

#[test]
fn what_is_no_command_is_answered_with_its_word_and_without_an_echo() {
    let mut rig = Rig::start("[voice]\nenrol_by_mqtt = true\n");
    let long = "a secret ".repeat(60);
    for (topic, payload, word) in [
        ("mute/set", "a secret", "not_understood"),
        ("listen", "ON", "not_understood"),
        ("enrolment/set", r#"{"start":"a secret","id":"9","more":1}"#, "not_understood"),
        ("mute/set", &long, "too_long"),
        ("enrolment/set", &long, "too_long"),
        ("pin", &pin_of("anna", PIN), "switched_off"),
    ] {
        let answer = rig.told(topic, payload);
        assert_eq!(answer["outcome"], word, "{topic}: {answer}");
        assert!(answer["reason"].as_str().unwrap().len() > 20, "{answer}");
        assert_eq!(answer.get("id").is_some(), payload.contains("\"id\""), "{answer}");
    }
    rig.broker.retain("jarvis/kitchen/listen", "PRESS");
    assert_eq!(rig.answer()["outcome"], "retained");
    rig.broker.retain("jarvis/kitchen/listen", "");
    rig.daemon.drain();
    assert!(!rig.daemon.log().contains("told over MQTT"), "nothing of it was carried out");
    // A broker that is asked later has kept none of the answers.
    let mut late = rig.broker.subscribe("jarvis/kitchen/+");
    late.sync(|word| rig.broker.publish("jarvis/kitchen/start", word));
    assert!(!late.seen.iter().any(|l| l.starts_with("jarvis/kitchen/answer ")), "{:#?}", late.seen);
    rig.stop();
}

#[test]
fn more_tasks_than_wait_are_busy() {
    let mut rig = Rig::start(ALL_ON);
    rig.broker.publish_lines("jarvis/kitchen/pin", &format!("{}\n", pin_of("anna", "274914")).repeat(40));
    let mut outcomes = Vec::new();
    while !outcomes.contains(&"busy".into()) || !outcomes.contains(&"refused".into()) {
        outcomes.push(rig.answer()["outcome"].clone());
    }
    assert_eq!(outcomes[0], "accepted");
    // No request answered as busy is looked at later.
    let attempts = rig.root.json(&["audit", "list"]);
    let attempts = attempts.as_array().unwrap().iter().filter(|row| row["outcome"] == "refused").count();
    assert!(attempts <= 5, "{attempts}");
    rig.stop();
}

#[test]
fn a_flood_of_garbage_gives_a_bounded_number_of_answers() {
    let mut rig = Rig::start("");
    rig.broker.publish_lines("jarvis/kitchen/mute/set", &"a secret\n".repeat(5_000));
    rig.tell("mute/set", "ON");
    while rig.answer()["outcome"] != "done" {}
    rig.answers.wait_for("muted", |l| l == "jarvis/kitchen/mute ON");
    let answers = rig.answers.seen.iter().filter(|l| l.starts_with("jarvis/kitchen/answer ")).count();
    assert!((2..=11).contains(&answers), "{answers}");
    rig.stop();
}
