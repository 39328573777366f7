//! MQTT against a real Mosquitto that comes and goes: Home Assistant sees the device, the household never
//! notices.

mod answers;
mod doctor;
mod limits;

use crate::support::mic::Mic;
use crate::support::{Broker, Root, Subscriber, Voice, free_port, of, on_disk};
use serde_json::Value;

fn household(url: &str) -> (Root, Mic) {
    let mut root = Root::with_config(&format!(
        "[device]\nid = \"kitchen\"\n[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n[mqtt]\n\
         url = \"{url}\"\n"
    ));
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    (root, mic)
}

fn payload(line: &str) -> Value {
    serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()
}

#[test]
fn state_events_and_availability_are_published_and_a_strangers_words_are_not() {
    let broker = Broker::start();
    let (mut root, mic) = household(&broker.url());
    root.env("JARVIS_LOG", "debug");
    let mut all = broker.subscribe("jarvis/kitchen/#");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    all.wait_for("availability", |l| l == "jarvis/kitchen/availability online");
    mic.hears(&Voice::Kal.says("hey jarvis, the password is pineapple"));
    daemon.wait_event("rejected");
    mic.hears(&Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot"));
    daemon.wait_event("stored");
    all.wait_for("the stored event", |l| {
        l.starts_with("jarvis/kitchen/event ") && payload(l)["event"] == "stored"
    });
    let spoken = |lines: &[String]| lines.iter().any(|l| l.to_lowercase().contains("pineapple"));
    assert!(!spoken(&all.seen), "{:#?}", all.seen);
    assert!(!daemon.log().to_lowercase().contains("pineapple"), "{}", daemon.log());
    // The owner's same words are published: the search would have found those of the stranger.
    mic.wait_until_answered(0);
    mic.hears(&Voice::Rms.says("hey jarvis, the password is pineapple"));
    daemon.wait_event("stored");
    all.wait_for("the owner's words", |l| l.to_lowercase().contains("pineapple"));
    assert_eq!(daemon.stop(), Some(0));
    all.wait_for("offline", |l| l == "jarvis/kitchen/availability offline");
    assert!(all.seen.iter().any(|l| l.starts_with("jarvis/kitchen/state ")), "{:#?}", all.seen);
}

#[test]
fn a_daemon_that_is_killed_is_announced_by_its_last_will() {
    let broker = Broker::start();
    let (root, _mic) = household(&broker.url());
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut availability = broker.subscribe("jarvis/kitchen/availability");
    availability.wait_for("online", |l| l.ends_with(" online"));
    daemon.child.kill().unwrap();
    availability.wait_for("the last will", |l| l.ends_with(" offline"));
}

#[test]
fn what_happens_during_an_outage_is_told_afterwards_in_order_and_says_how_late_it_is() {
    let memory = tempfile::tempdir().unwrap();
    let port = free_port();
    let broker = Broker::start_remembering(port, memory.path());
    let (root, mic) = household(&broker.url());
    let mut before = broker.subscribe_lastingly("jarvis/kitchen/#");
    let mut daemon = root.daemon();
    before.wait_for("online", |l| l == "jarvis/kitchen/availability online");
    daemon.wait_event("ready");
    before.wait_for("an event", |l| l.starts_with("jarvis/kitchen/event "));
    drop(before);
    broker.stop();

    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    daemon.wait_event("stored");
    std::thread::sleep(std::time::Duration::from_secs(2));

    // Earlier subscribers are told, for any order in which broker, listener and device come back.
    let broker = Broker::start_remembering(port, memory.path());
    let mut after = broker.subscribe_lastingly("jarvis/kitchen/#");
    after.wait_for("the late event", |l| {
        l.starts_with("jarvis/kitchen/event ") && payload(l)["event"] == "stored"
    });
    let events: Vec<Value> =
        after.seen.iter().filter(|l| l.starts_with("jarvis/kitchen/event ")).map(|l| payload(l)).collect();
    let of_the_outage: Vec<&Value> = events.iter().filter(|e| e["event"] != "ready").collect();
    let mut names: Vec<&str> = of_the_outage.iter().map(|e| e["event"].as_str().unwrap()).collect();
    // At least once: an event may come again, but none is missing and none overtakes another.
    names.dedup();
    assert_eq!(
        names,
        ["wake", "speech_start", "speech_end", "verified", "transcript", "reply", "stored"],
        "{events:#?}"
    );
    for event in of_the_outage {
        assert!(event["delay_ms"].as_u64().unwrap() > 1_000, "{event}");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn the_broker_may_go_and_come_back_while_commands_are_answered() {
    let port = free_port();
    let (root, mic) = household(&format!("mqtt://127.0.0.1:{port}"));
    // No broker at all to begin with.
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    daemon.wait_event("stored");
    mic.wait_until_answered(0);

    let broker = Broker::start_on(port);
    let mut first = broker.subscribe("jarvis/kitchen/#");
    first.wait_for("online", |l| l == "jarvis/kitchen/availability online");
    drop(first);
    drop(broker);

    mic.hears(&Voice::Rms.says("hey jarvis, what time is it"));
    daemon.wait_event("stored");

    let broker = Broker::start_on(port);
    let mut second = broker.subscribe("jarvis/kitchen/#");
    second.wait_for("online again", |l| l == "jarvis/kitchen/availability online");
    second.wait_for("the state again", |l| l.starts_with("jarvis/kitchen/state "));
    assert_eq!(of(&daemon.seen, "stored").len(), 2);
    assert_eq!(daemon.stop(), Some(0));
}

const PIN: &str = "274913";

fn set_pin(root: &Root, user: &str, typed: &str) -> std::process::Output {
    type_pin(root, "set", user, typed)
}

fn type_pin(root: &Root, what: &str, user: &str, typed: &str) -> std::process::Output {
    use std::io::Write as _;
    let mut command = root.command(&["voice", "pin", what, user]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn pin_of(user: &str, pin: &str) -> String {
    serde_json::json!({ "user": user, "pin": pin }).to_string()
}

#[test]
fn a_pin_lets_its_owner_in_for_a_while_and_is_found_nowhere() {
    let broker = Broker::start();
    let (mut root, mic) = household(&broker.url());
    root.env("JARVIS_LOG", "debug");
    let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
    root.write_config(&format!("{config}[voice]\npin_valid_s = 60\n[speech]\nenabled = false\n"));
    for (typed, why) in [("12345\n", "6 to 12 digits"), ("123456\n", "first that anybody"), ("", "digits")] {
        let output = set_pin(&root, "anna", typed);
        assert_eq!(output.status.code(), Some(65), "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(why));
    }
    root.ok(&["user", "add", "ben"]);
    let output = set_pin(&root, "ben", PIN);
    assert!(String::from_utf8(output.stderr).unwrap().contains("no voice"), "a PIN stands in for a voice");
    // As a file from Windows would give it.
    assert!(set_pin(&root, "anna", &format!("\u{feff}{PIN}\r\n")).status.success());
    assert_eq!(root.json(&["voice", "pin", "list"]), serde_json::json!(["anna"]));

    let mut events = broker.subscribe("jarvis/kitchen/event");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    events.wait_for("an event", |l| payload(l)["event"] == "ready");
    let question = Voice::Kal.says("hey jarvis, who am i");
    mic.hears(&question);
    daemon.wait_event("rejected");

    let pin = |user: &str, pin: &str| broker.publish("jarvis/kitchen/pin", &pin_of(user, pin));
    pin("anna", "274914");
    assert_eq!(daemon.wait_event("pin")["outcome"], "refused");
    pin("nobody", PIN);
    assert_eq!(daemon.wait_event("pin")["outcome"], "refused");
    pin("anna", PIN);
    let accepted = daemon.wait_event("pin");
    assert_eq!((&accepted["outcome"], &accepted["user"]), (&"accepted".into(), &"anna".into()));
    mic.hears(&question);
    let accepted = daemon.wait_event("accepted");
    assert_eq!((&accepted["user"], &accepted["by"]), (&"anna".into(), &"pin".into()));
    let reply = daemon.wait_event("reply");
    assert!(reply["text"].as_str().unwrap().contains("anna"), "{reply}");
    daemon.wait_event("stored");
    events.wait_for("the answer", |l| payload(l)["event"] == "reply" && payload(l)["text"].is_string());

    // Guessing is slowed down as with voices, and a right PIN is not looked at meanwhile.
    for _ in 0..5 {
        pin("anna", "274914");
        assert_eq!(daemon.wait_event("pin")["outcome"], "refused");
    }
    pin("anna", PIN);
    assert_eq!(daemon.wait_event("pin")["outcome"], "paused");
    mic.hears(&question);
    events.wait_for("the attempt", |l| payload(l)["reason"] == "paused");
    // Each attempt, and each PIN, is told and is a row in the audit log.
    let told: Vec<String> = events
        .seen
        .iter()
        .map(|l| payload(l))
        .filter_map(|e| match e["event"].as_str()? {
            "rejected" => Some(e["reason"].as_str()?.to_owned()),
            "accepted" => Some("pin".to_owned()),
            "pin" => Some(e["outcome"].as_str()?.to_owned()),
            _ => None,
        })
        .collect();
    let audit = root.json(&["audit", "list"]);
    let rows = audit.as_array().unwrap().iter().rev();
    let rows = rows.filter(|row| {
        ["pin", "verify"].contains(&row["action"].as_str().unwrap()) && row["outcome"] != "set"
    });
    let rows: Vec<&str> = rows.map(|row| row["outcome"].as_str().unwrap()).collect();
    assert_eq!(told, rows, "{audit:#}");
    assert_eq!(rows.len(), 12, "{rows:?}");
    assert_eq!(daemon.stop(), Some(0));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    std::thread::sleep(std::time::Duration::from_secs(1));
    pin("anna", PIN);
    assert_eq!(daemon.wait_event("pin")["outcome"], "paused", "a restart does not end the pause");
    assert_eq!(daemon.stop(), Some(0));

    let audit = root.json(&["audit", "list", "--user", "anna"]);
    let of_pin: Vec<_> = audit.as_array().unwrap().iter().filter(|row| row["action"] == "pin").collect();
    let outcomes: Vec<_> = of_pin.iter().map(|row| row["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["accepted", "set"], "{audit:#}");
    assert!(audit.to_string().contains(r#""outcome":"pin""#), "{audit:#}");
    assert!(!daemon.log().contains(PIN) && !events.seen.iter().any(|l| l.contains(PIN)));
    let data = root.path().join("var");
    assert!(on_disk(&data, b"$argon2id$") && !on_disk(&data, PIN.as_bytes()));
    root.ok(&["voice", "pin", "clear", "anna"]);
    assert_eq!(root.json(&["voice", "pin", "list"]), serde_json::json!([]));
}

/// Renders a template of the announcement with a value, in the few forms that there are.
fn rendered(template: &str, value: &str) -> String {
    let template = template.trim_start_matches("{{ ").trim_end_matches(" }}");
    let json = || serde_json::from_str::<serde_json::Value>(value).unwrap();
    let field = |text: &str| {
        let name = text.strip_prefix("value_json.").unwrap();
        json().get(name).unwrap_or_else(|| panic!("{name} is not in {value}")).clone()
    };
    if let Some(condition) = template.strip_prefix("'ON' if ").and_then(|t| t.strip_suffix(" else 'OFF'")) {
        let on = match condition.strip_prefix("value in ") {
            Some(list) => list.contains(&format!("'{value}'")),
            None => field(condition).as_bool().unwrap(),
        };
        return if on { "ON" } else { "OFF" }.to_owned();
    }
    match field(template) {
        serde_json::Value::Null => "None".to_owned(),
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    }
}

#[test]
fn home_assistant_is_told_of_entities_whose_topics_say_what_they_promise() {
    let broker = Broker::start();
    let (root, _mic) = household(&broker.url());
    let announced = |all: &mut Subscriber, what: &str, wanted: &str| {
        let line = all.wait_for(what, |l| l.starts_with("homeassistant/") && l.contains(wanted));
        let (topic, payload) = line.split_once(' ').unwrap();
        assert_eq!(topic, "homeassistant/device/jarvis_kitchen/config");
        serde_json::from_str::<serde_json::Value>(payload).unwrap()
    };
    let mut all = broker.subscribe("#");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let first = announced(&mut all, "the announcement", "jarvis_kitchen_state");
    assert!(first["components"].get("backup").is_none(), "there are none: {first}");
    assert_eq!(daemon.stop(), Some(0));

    root.ok(&["backup", "create"]);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let message = announced(&mut all, "the announcement with backups", "backup_proven");
    assert_eq!(message["device"]["name"], "Jarvis kitchen");
    // Home Assistant comes later than the device: everything is retained.
    let mut late = broker.subscribe("jarvis/kitchen/#");
    let wanted = ["jarvis/kitchen/state idle", "jarvis/kitchen/backup {", "jarvis/kitchen/mute OFF"];
    while !wanted.iter().all(|wanted| late.seen.iter().any(|line| line.starts_with(wanted))) {
        late.wait_for("what is retained", |_| true);
    }
    let value_of = |topic: &str| {
        let lines = late.seen.iter().filter_map(|line| line.split_once(' '));
        lines.rev().find(|(t, _)| *t == topic).map(|(_, value)| value.to_owned())
    };
    for (key, entity) in message["components"].as_object().unwrap() {
        let Some(topic) = entity["state_topic"].as_str() else { continue };
        let value = value_of(topic).unwrap_or_else(|| panic!("{key}: nothing is retained on {topic}"));
        let shown = entity["value_template"].as_str().map_or(value.clone(), |t| rendered(t, &value));
        match (entity["platform"].as_str().unwrap(), entity["device_class"].as_str()) {
            ("binary_sensor" | "switch", _) => assert!(shown == "ON" || shown == "OFF", "{key}: {shown}"),
            (_, Some("enum")) => assert!(entity["options"].as_array().unwrap().contains(&shown.into())),
            (_, Some("timestamp")) => {
                let none = key == "paused_until";
                assert!(if none { shown == "None" } else { shown.ends_with('Z') }, "{key}: {shown}");
            }
            (_, Some("data_size")) => assert!(shown.parse::<u64>().unwrap() > 0, "{key}: {shown}"),
            other => panic!("{key}: {other:?}"),
        }
        if let Some(attributes) = entity["json_attributes_topic"].as_str() {
            let value = value_of(attributes).unwrap();
            assert!(serde_json::from_str::<serde_json::Value>(&value).unwrap().is_object());
        }
    }
    // The effects of its commands.
    let mute = &message["components"]["mute"];
    broker.publish(mute["command_topic"].as_str().unwrap(), "ON");
    late.wait_for("muted", |l| l == "jarvis/kitchen/mute ON");
    broker.publish(mute["command_topic"].as_str().unwrap(), "OFF");
    late.wait_for("heard again", |l| l == "jarvis/kitchen/mute OFF");
    broker.publish(message["components"]["listen"]["command_topic"].as_str().unwrap(), "PRESS");
    late.wait_for("listening", |l| l == "jarvis/kitchen/state listening");
    assert_eq!(daemon.stop(), Some(0));
    late.wait_for("gone", |l| l == "jarvis/kitchen/availability offline");
}

#[test]
fn a_pin_given_at_the_command_line_counts_as_one_over_mqtt() {
    let broker = Broker::start();
    let (root, mic) = household(&broker.url());
    let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
    assert!(set_pin(&root, "anna", PIN).status.success());
    let enter = |user: &str, typed: &str| {
        let output = type_pin(&root, "enter", user, typed);
        let told = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!told.contains(typed) && !on_disk(&root.path().join("var"), typed.as_bytes()), "{told}");
        (output.status.code(), told)
    };
    let (code, told) = enter("anna", PIN);
    assert!(code == Some(78) && told.contains("voice.pin_valid_s"), "{told}");

    root.write_config(&format!("{config}[voice]\npin_valid_s = 600\n[speech]\nenabled = false\n"));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let question = Voice::Kal.says("hey jarvis, who am i");
    for (user, pin) in [("anna", "274914"), ("nobody", PIN)] {
        let (code, told) = enter(user, pin);
        assert!(code == Some(1) && told.contains("not right"), "{told}");
    }
    mic.hears(&question);
    assert_eq!(daemon.wait_event("rejected")["reason"], "rejected");
    let (code, told) = enter("anna", PIN);
    assert!(code == Some(0) && told.contains("for 600 s") && told.contains("anna"), "{told}");
    mic.hears(&question);
    let accepted = daemon.wait_event("accepted");
    assert_eq!((&accepted["user"], &accepted["by"]), (&"anna".into(), &"pin".into()));
    daemon.wait_event("stored");
    root.ok(&["voice", "pin", "clear", "anna"]);
    mic.hears(&question);
    assert_eq!(daemon.wait_event("rejected")["reason"], "rejected", "what it granted is gone with it");

    // There is one count for all; the voice just now was the first failure.
    for n in 2..6 {
        let (code, told) = enter("anna", "274914");
        assert_eq!((code, told.contains("30 s")), (Some(1), n == 5), "{n}: {told}");
    }
    let (code, told) = enter("anna", PIN);
    assert!(code == Some(75) && told.contains("not looked at"), "{told}");
    mic.hears(&question);
    assert_eq!(daemon.wait_event("rejected")["reason"], "paused");
    let audit = root.json(&["audit", "list"]);
    let of_pin = audit.as_array().unwrap().iter().rev().filter(|row| row["action"] == "pin");
    let outcomes: Vec<&str> = of_pin.map(|row| row["outcome"].as_str().unwrap()).collect();
    let wrong = ["refused"; 4];
    let expected = [&["set", "refused", "refused", "accepted", "cleared"][..], &wrong, &["paused"]].concat();
    assert_eq!(outcomes, expected);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn the_pause_after_failures_shows_until_when_whoever_counted_and_is_said_to_whoever_meets_it() {
    let broker = Broker::start();
    let (root, mic) = household(&broker.url());
    assert!(set_pin(&root, "anna", PIN).status.success());
    let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
    root.write_config(&format!("{config}[voice]\npin_valid_s = 600\n"));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let health =
        |l: &str| l.strip_prefix("jarvis/kitchen/health ").map(|h| serde_json::from_str::<Value>(h).unwrap());
    let mut all = broker.subscribe("jarvis/kitchen/#");
    all.wait_for("no pause", |l| {
        health(l).is_some_and(|h| h["state"] == "idle" && h["paused_until"].is_null())
    });
    for _ in 0..5 {
        assert_eq!(type_pin(&root, "enter", "anna", "274914").status.code(), Some(1));
    }
    let shown = all.wait_for("the pause", |l| health(l).is_some_and(|h| h["state"] == "paused"));
    let until = health(&shown).unwrap()["paused_until"].as_str().unwrap().to_owned();
    assert!(until.ends_with('Z') && until.contains('T'), "{until}");
    let event = daemon.wait_event("pause");
    assert!(event["until"].is_string() && event["failures"].as_u64().unwrap() >= 5, "{event}");
    // A longer pause, so that no slow machine outlasts it.
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let longer = "UPDATE settings SET value = json_set(value, '$.failures', 9) WHERE key = 'failure_gate';";
    assert!(std::process::Command::new("sqlite3").arg(&db).arg(longer).status().unwrap().success());
    mic.hears(&Voice::Kal.says("hey jarvis, who am i"));
    assert_eq!(daemon.wait_event("rejected")["reason"], "paused");
    mic.wait_until_answered(0);
    mic.hears(&Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot"));
    daemon.wait_event("stored");
    all.wait_for("the end of the pause", |l| health(l).is_some_and(|h| h["paused_until"].is_null()));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_retained_pin_and_one_that_nobody_asked_for_are_ignored() {
    let broker = Broker::start();
    let (root, _mic) = household(&broker.url());
    let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
    assert!(set_pin(&root, "anna", PIN).status.success());
    let retained = std::process::Command::new("mosquitto_pub")
        .args(["-p", &broker.port.to_string(), "-r", "-t", "jarvis/kitchen/pin", "-m", &pin_of("anna", PIN)])
        .status();
    assert!(retained.unwrap().success());
    for (setting, taken) in [("", false), ("[voice]\npin_valid_s = 60\n", true)] {
        root.write_config(&format!("{config}{setting}"));
        let mut all = broker.subscribe("jarvis/kitchen/state");
        let mut daemon = root.daemon();
        daemon.wait_event("ready");
        all.wait_for("the connection", |l| l.ends_with(" idle"));
        std::thread::sleep(std::time::Duration::from_secs(1));
        broker.publish("jarvis/kitchen/pin", &pin_of("anna", PIN));
        broker.publish("jarvis/kitchen/listen", "PRESS");
        if taken {
            daemon.wait_event("pin");
        }
        std::thread::sleep(std::time::Duration::from_secs(2));
        daemon.drain();
        assert_eq!(of(&daemon.seen, "pin").len(), usize::from(taken), "{:#?}", daemon.seen);
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn a_voice_is_enrolled_before_the_microphone_step_by_step() {
    let broker = Broker::start();
    let (root, mic) = household(&broker.url());
    let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
    root.write_config(&format!("{config}[voice]\nenrol_by_mqtt = true\n[speech]\nenabled = false\n"));
    let mut shown = broker.subscribe("jarvis/kitchen/enrolment");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    shown.wait_for("no enrolment", |l| payload(l)["state"] == "none");
    let tell = |text: &str| broker.publish("jarvis/kitchen/enrolment/set", text);
    let mut state = |wanted: &str| payload(&shown.wait_for(wanted, |l| payload(l)["state"] == wanted));

    tell(r#"{"start":"Ben","keep_recordings":true}"#);
    let begun = state("waiting");
    assert_eq!((&begun["user"], &begun["percent"], &begun["phrase"]), (&"Ben".into(), &0.into(), &1.into()));
    assert!(begun["say"].as_str().unwrap().len() > 40, "{begun}");
    let overdriven = root.path().join("overdriven.wav");
    crate::support::sox(&[
        Voice::Slt.says(crate::support::ENROLMENT[0]).to_str().unwrap(),
        overdriven.to_str().unwrap(),
        "gain",
        "30",
    ]);
    mic.hears(&overdriven);
    let refused = state("refused");
    assert!(refused["reason"].as_str().unwrap().contains("overdriven"), "{refused}");
    assert_eq!((&refused["percent"], &refused["phrase"]), (&0.into(), &1.into()));
    let mut percent = 0;
    for sentence in &crate::support::ENROLMENT[..2] {
        mic.hears(&Voice::Slt.says(sentence));
        let kept = state("kept");
        assert!(kept["percent"].as_u64().unwrap() > percent, "{kept}");
        percent = kept["percent"].as_u64().unwrap();
    }
    mic.hears(&Voice::Slt.says(crate::support::ENROLMENT[2]));
    let finished = state("finished");
    assert_eq!((&finished["percent"], finished.get("say")), (&100.into(), None), "{finished}");
    assert_eq!(root.json(&["voice", "list"]).as_array().unwrap().len(), 2);
    // The refused sentence is not among the kept recordings; Anna asked to keep none.
    let kept = root.json(&["voice", "recordings", "list"]);
    assert_eq!((kept.as_array().unwrap().len(), &kept[0]["user"]), (1, &"Ben".into()), "{kept}");
    let out = root.path().join("kept");
    let exported =
        root.json(&["voice", "recordings", "export", "--user", "Ben", "--out", out.to_str().unwrap()]);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3, "{exported}");

    // Nothing of it was taken for a command, and the new voice is answered.
    daemon.drain();
    assert!(of(&daemon.seen, "transcript").is_empty(), "{:#?}", daemon.seen);
    mic.hears(&Voice::Slt.says("hey jarvis, who am i"));
    assert_eq!(daemon.wait_event("verified")["user"], "Ben");
    daemon.wait_event("stored");

    // Somebody's voice under another name is refused, as on the command line.
    tell(r#"{"start":"Cleo"}"#);
    state("waiting");
    for (nth, sentence) in crate::support::ENROLMENT.iter().enumerate() {
        mic.hears(&Voice::Rms.says(sentence));
        if nth < 2 {
            state("kept");
        }
    }
    let failed = state("failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("already enrolled as anna"), "{reason}");
    assert!(
        !reason.contains("--") && !reason.contains("voice enroll"),
        "no words of the command line: {reason}"
    );
    tell(r#"{"start":"Dora"}"#);
    state("waiting");
    tell("CANCEL");
    state("cancelled");
    tell(r#"{"start":" "}"#);
    assert!(state("failed")["reason"].as_str().unwrap().contains("empty"));
    tell(r#"{"start":"anonymous"}"#);
    assert!(state("failed")["reason"].as_str().unwrap().contains("name of their own"));
    assert_eq!(root.json(&["user", "list"]).as_array().unwrap().len(), 2, "nobody else was added");
    assert_eq!(daemon.stop(), Some(0));
}
