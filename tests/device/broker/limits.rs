//! Brokers that can do less than others: the device works within their limits, and says so.

use serde_json::Value;

use super::{Broker, household, payload};
use crate::support::{Root, Subscriber, Voice};

fn limited(by: &str) -> Broker {
    Broker::configured(&format!("listener PORT 127.0.0.1\nallow_anonymous true\n{by}"), |_| {})
}

fn doctor(root: &Root) -> String {
    String::from_utf8(root.run(&["doctor"]).stdout).unwrap()
}

fn wait_for_health(all: &mut Subscriber, wanted: &str) {
    all.wait_for(wanted, |l| l.starts_with("jarvis/kitchen/health {") && l.contains(wanted));
}

#[test]
fn without_retained_messages_home_assistant_is_told_everything_when_it_starts() {
    let broker = limited("retain_available false");
    let (root, _mic) = household(&broker.url());
    let mut all = broker.subscribe("#");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    wait_for_health(&mut all, "it keeps no retained messages");
    assert!(all.seen.iter().any(|l| l == "jarvis/kitchen/availability online"), "{:#?}", all.seen);
    assert!(all.seen.iter().any(|l| l.starts_with("homeassistant/device/jarvis_kitchen/config {")));
    let mut late = broker.subscribe("#");
    late.sync(|word| broker.publish("a/start", word));
    broker.publish("homeassistant/status", "online");
    late.wait_for("the announcement", |l| l.starts_with("homeassistant/device/jarvis_kitchen/config {"));
    late.wait_for("whether it is there", |l| l == "jarvis/kitchen/availability online");
    late.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    let said = doctor(&root);
    assert!(said.contains("it keeps no retained messages"), "{said}");
    assert_eq!(daemon.stop(), Some(0));
    late.wait_for("gone", |l| l == "jarvis/kitchen/availability offline");
}

#[test]
fn with_qos_0_alone_events_states_and_commands_go_through() {
    let broker = limited("max_qos 0");
    let (root, mic) = household(&broker.url());
    let mut all = broker.subscribe("#");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    wait_for_health(&mut all, "it takes QoS 0 only");
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    daemon.wait_event("stored");
    all.wait_for("the turn", |l| l.starts_with("jarvis/kitchen/last_turn {"));
    broker.publish("jarvis/kitchen/mute/set", "ON");
    all.wait_for("muted", |l| l == "jarvis/kitchen/mute ON");
    let said = doctor(&root);
    assert!(said.contains("it takes QoS 0 only"), "{said}");
    let mut late = broker.subscribe("jarvis/kitchen/availability");
    late.wait_for("online", |l| l.ends_with(" online"));
    daemon.child.kill().unwrap();
    late.wait_for("the last will", |l| l.ends_with(" offline"));
}

#[test]
fn what_is_too_large_for_the_broker_is_named_and_the_rest_goes_through() {
    let broker = limited("max_packet_size 1200");
    let (root, _mic) = household(&broker.url());
    let mut all = broker.subscribe("#");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    wait_for_health(&mut all, "homeassistant/device/jarvis_kitchen/config of ");
    all.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    let announced = all.seen.iter().any(|l| l.starts_with("homeassistant/"));
    assert!(!announced, "{:#?}", all.seen);
    let said = doctor(&root);
    assert!(said.contains("too few to announce the device"), "{said}");
    assert_eq!(daemon.stop(), Some(0));
}

const CONFIG: &str = "homeassistant/device/jarvis_kitchen/config";

/// The newest announcement that a new client gets.
fn announced(broker: &Broker, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut late = broker.subscribe(CONFIG);
    payload(&late.wait_for("the announcement", |l| l.contains(" {") && wanted(&payload(l))))
}

#[test]
fn a_device_that_was_deleted_in_home_assistant_is_there_again_when_that_starts() {
    let broker = Broker::start();
    let (root, _mic) = household(&broker.url());
    let mut all = broker.subscribe("homeassistant/#");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    all.wait_for("the announcement", |l| l.starts_with(CONFIG) && l.contains("jarvis_kitchen_state"));
    // Home Assistant does this when its user deletes the device.
    broker.retain(CONFIG, "");
    all.wait_for("the deletion", |l| l == format!("{CONFIG} (null)"));
    broker.publish("homeassistant/status", "offline");
    broker.publish("homeassistant/status", "online");
    all.wait_for("the announcement again", |l| l.starts_with(CONFIG) && l.contains("jarvis_kitchen_state"));
    announced(&broker, |message| message["components"]["state"].is_object());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_is_switched_off_is_taken_back() {
    let broker = Broker::start();
    let (root, _mic) = household(&broker.url());
    let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
    root.ok(&["backup", "create"]);
    let run_once = |more: &str, wanted: &dyn Fn(&Value) -> bool| {
        root.write_config(&format!("{config}{more}"));
        let mut daemon = root.daemon();
        daemon.wait_event("ready");
        let message = announced(&broker, wanted);
        assert_eq!(daemon.stop(), Some(0));
        message
    };
    let first = run_once("", &|message| message["components"]["backup"].is_object());
    let components = &first["components"];
    assert_eq!(components["mute"]["platform"], "switch");
    assert!(components.get("muted").is_none() && components.get("backup_copied").is_none(), "{first}");

    let without =
        run_once("accept_commands = false\n", &|message| message["components"]["muted"].is_object());
    let components = &without["components"];
    // The platform alone takes an entity back; another platform gets a key of its own.
    assert_eq!(components["mute"], serde_json::json!({ "platform": "switch" }));
    assert_eq!(components["listen"], serde_json::json!({ "platform": "button" }));
    assert_eq!(components["muted"]["platform"], "binary_sensor");
    assert_eq!(components["muted"]["unique_id"], "jarvis_kitchen_muted");

    let copied = "[backup]\nremote = \"nas:jarvis\"\n";
    let with = run_once(copied, &|message| message["components"]["backup_copied"].is_object());
    assert_eq!(with["components"]["muted"], serde_json::json!({ "platform": "binary_sensor" }));
    assert_eq!(with["components"]["mute"]["command_topic"], "jarvis/kitchen/mute/set");
    let again = run_once("", &|message| {
        message["components"]["backup"]["state_topic"].is_string()
            && message["components"]["backup_copied"] == serde_json::json!({ "platform": "sensor" })
    });
    assert_eq!(again["components"]["backup_proven"]["platform"], "sensor");

    // The whole device: announced under another name, and then not at all.
    let gone = |topic: &str| {
        let mut late = broker.subscribe("homeassistant/#");
        late.sync(|word| broker.publish("homeassistant/start", word));
        !late.seen.iter().any(|line| line.starts_with(topic))
    };
    root.write_config(&config.replace("\"kitchen\"", "\"hall\""));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    crate::support::wait_until("the old announcement is gone", || gone(CONFIG));
    assert!(!gone("homeassistant/device/jarvis_hall/config"));
    assert_eq!(daemon.stop(), Some(0));
    root.write_config(&format!("{}discovery = false\n", config.replace("\"kitchen\"", "\"hall\"")));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    crate::support::wait_until("no announcement is left", || gone("homeassistant/device"));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn two_devices_without_a_name_have_different_names() {
    let broker = Broker::start();
    let mut all = broker.subscribe("homeassistant/#");
    let mut names = Vec::new();
    for id in ["kitchen", "bedroom"] {
        let (root, _mic) = household(&broker.url());
        let config = std::fs::read_to_string(root.path().join("etc/jarvis/jarvis.toml")).unwrap();
        root.write_config(&config.replace("\"kitchen\"", &format!("\"{id}\"")));
        let mut daemon = root.daemon();
        daemon.wait_event("ready");
        let topic = format!("homeassistant/device/jarvis_{id}/config {{");
        let line = all.wait_for("the announcement", |l| l.starts_with(&topic));
        names.push(payload(&line)["device"]["name"].as_str().unwrap().to_owned());
        assert_eq!(daemon.stop(), Some(0));
    }
    assert_eq!(names, ["Jarvis kitchen", "Jarvis bedroom"]);
}

#[test]
fn a_flood_of_commands_does_not_flood_the_journal() {
    let broker = Broker::start();
    let (root, _mic) = household(&broker.url());
    let mut all = broker.subscribe("jarvis/kitchen/#");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    all.wait_for("the connection", |l| l == "jarvis/kitchen/availability online");
    let commands = "ON\nOFF\n".repeat(200);
    broker.publish_lines("jarvis/kitchen/mute/set", &commands);
    broker.publish("jarvis/kitchen/listen", "PRESS");
    all.wait_for("the last of them", |l| l == "jarvis/kitchen/state listening");
    assert_eq!(daemon.stop(), Some(0));
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains("told over MQTT")).count();
    assert!((1..30).contains(&lines), "{lines} lines: {log}");
    assert!(log.contains("more times"), "what was left out is counted: {log}");
}
