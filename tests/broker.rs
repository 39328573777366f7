//! MQTT against a real Mosquitto that comes and goes: Home Assistant sees the device, the household never notices.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::Value;
use support::mic::Mic;
use support::{Broker, Root, Voice, free_port, of};

fn household(url: &str) -> (Root, Mic) {
    let mut root = Root::with_config(&format!(
        "[device]\nid = \"kitchen\"\n[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n[mqtt]\nurl = \"{url}\"\n"
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
    let (root, mic) = household(&broker.url());
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
    assert_eq!(daemon.stop(), Some(0));
    all.wait_for("offline", |l| l == "jarvis/kitchen/availability offline");
    assert!(!all.seen.iter().any(|l| l.contains("pineapple")), "{:#?}", all.seen);
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
