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
    // The owner's same words are published: had the stranger's been, they would have been found.
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

    // Whoever subscribed before is told, in whatever order broker, listener and device come back.
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
