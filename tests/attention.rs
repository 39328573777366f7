//! When the device listens: not to itself, not while it is muted, and without the wake word only when it was asked to.

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::mic::Mic;
use support::{Broker, Daemon, Root, Voice, of};

const WHO: &str = "hey jarvis, who am i";
const SOUND: &str = "[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n";
/// A command without the wake word, long enough to tell who speaks.
const BARE: &str = "remember that the bicycle is in the cellar beside the old wooden shelf";
/// Longer than any of the sentences and everything that would follow from one.
const A_WHILE: Duration = Duration::from_secs(9);

fn household(more: &str) -> (Root, Mic) {
    let mut root = Root::with_config(&format!("{SOUND}{more}"));
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    (root, mic)
}

fn with_broker(broker: &Broker) -> (Root, Mic) {
    household(&format!("[device]\nid = \"kitchen\"\n[mqtt]\nurl = \"{}\"\n", broker.url()))
}

/// Every answer is this recording.
fn answers_with(recording: &Path) -> String {
    format!("[speech]\ncommand = [\"cat\", \"{}\"]\n", recording.display())
}

fn count(daemon: &mut Daemon, kind: &str) -> usize {
    daemon.drain();
    of(&daemon.seen, kind).len()
}

#[test]
fn what_the_device_says_itself_does_not_wake_it() {
    // Worst case: the device answers in the owner's voice, with the wake word in the answer.
    let (root, mic) = household(&answers_with(&Voice::Rms.says(WHO)));
    mic.hear_loudspeaker(40);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    mic.wait_until_answered(0);
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut daemon, "wake"), 1, "{:#?}", daemon.seen);
    assert_eq!(count(&mut daemon, "speech_start"), 1, "{:#?}", daemon.seen);

    // Was there anything to hear? A room that repeats the answer when the device listens again does wake it.
    mic.hear_loudspeaker(6_000);
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    let echo = daemon.wait_event("wake");
    assert_eq!(echo["event"], "wake");
    daemon.wait_event("stored");
}

#[test]
fn after_an_answer_a_follow_up_needs_no_wake_word_until_the_window_closes() {
    let (root, mic) = household("[dialogue]\nfollow_up_s = 8\n");
    // The device's own answer is no follow-up.
    mic.hear_loudspeaker(40);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    mic.wait_until_answered(0);
    let answered = mic.played().len();
    mic.hears(&Voice::Rms.says(BARE));
    let second = daemon.wait_event("stored");
    assert_eq!(second["conversation_id"], of(&daemon.seen, "stored")[0]["conversation_id"]);
    mic.wait_until_answered(answered);
    // Nobody uses the next window.
    std::thread::sleep(Duration::from_secs(10));
    mic.hears(&Voice::Rms.says(BARE));
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut daemon, "wake"), 1, "{:#?}", daemon.seen);
    assert_eq!(count(&mut daemon, "speech_start"), 2, "{:#?}", daemon.seen);
    assert_eq!(count(&mut daemon, "rejected"), 0, "a window that nobody used is no attempt");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    assert_eq!(count(&mut daemon, "wake"), 2);
}

#[test]
fn a_device_that_is_muted_over_mqtt_hears_nothing_until_it_is_unmuted() {
    let broker = Broker::start();
    let (root, mic) = with_broker(&broker);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    broker.publish("jarvis/kitchen/mute/set", "ON");
    topics.wait_for("the switch", |l| l == "jarvis/kitchen/mute ON");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state muted");
    mic.hears(&Voice::Rms.says(WHO));
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut daemon, "wake"), 0, "{:#?}", daemon.seen);

    broker.publish("jarvis/kitchen/mute/set", "OFF");
    topics.wait_for("the switch", |l| l == "jarvis/kitchen/mute OFF");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(count(&mut daemon, "wake"), 0, "what was said while muted is not heard afterwards");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");

    // In the middle of a command.
    mic.wait_until_answered(0);
    mic.hears(&Voice::Rms.says(&format!("hey jarvis, {BARE}")));
    daemon.wait_event("wake");
    broker.publish("jarvis/kitchen/mute/set", "ON");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state muted");
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut daemon, "stored"), 1, "{:#?}", daemon.seen);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_press_over_mqtt_opens_the_microphone_as_the_wake_word_does() {
    let broker = Broker::start();
    let (root, mic) = with_broker(&broker);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says(BARE));
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut daemon, "speech_start"), 0, "nothing had asked the device to listen");

    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    broker.publish("jarvis/kitchen/listen", "PRESS");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state listening");
    mic.hears(&Voice::Rms.says(BARE));
    daemon.wait_event("stored");
    assert_eq!(count(&mut daemon, "wake"), 0, "{:#?}", daemon.seen);
    mic.wait_until_answered(0);

    broker.publish("jarvis/kitchen/listen", "PRESS");
    let unused: Value = daemon.wait_event("rejected");
    assert_eq!(unused["reason"], "no_speech");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state listening");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    mic.hears(&Voice::Rms.says(BARE));
    std::thread::sleep(A_WHILE);
    assert_eq!(count(&mut daemon, "stored"), 1, "the window has closed: {:#?}", daemon.seen);
    assert_eq!(daemon.stop(), Some(0));
}
