//! The device does not listen to itself, nor while it is muted, and without the wake word only on request.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::mic::Mic;
use crate::support::{Broker, Daemon, Root, Voice, of};
use serde_json::Value;

const WHO: &str = "hey jarvis, who am i";
const SOUND: &str = "[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n";
/// A command without the wake word, long enough to identify the speaker.
const BARE: &str = "remember that the bicycle is in the cellar beside the old wooden shelf";

fn household(more: &str) -> (Root, Mic) {
    let mut root = Root::with_config(&format!("{SOUND}{more}"));
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    (root, mic)
}

fn with_broker(broker: &Broker, more: &str) -> (Root, Mic) {
    household(&format!("[device]\nid = \"kitchen\"\n[mqtt]\nurl = \"{}\"\n{more}", broker.url()))
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
    let answered = mic.played().len();
    // Events come in order: the answer would have woken the device before the next command does.
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    assert_eq!(count(&mut daemon, "wake"), 2, "{:#?}", daemon.seen);
    assert_eq!(count(&mut daemon, "speech_start"), 2, "{:#?}", daemon.seen);
    mic.wait_until_answered(answered);

    // This proves that there was sound to hear: a room that repeats the answer when the device listens again
    // does wake it.
    mic.hear_loudspeaker(6_000);
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    let echo = daemon.wait_event("wake");
    assert_eq!(echo["event"], "wake");
    daemon.wait_event("stored");
}

#[test]
fn after_an_answer_a_follow_up_needs_no_wake_word_until_the_window_closes() {
    let broker = Broker::start();
    let (root, mic) = with_broker(&broker, "[dialogue]\nfollow_up_s = 8\n");
    // The device's own answer is no follow-up.
    mic.hear_loudspeaker(40);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    topics.wait_for("the window", |l| l == "jarvis/kitchen/state follow_up");
    mic.hears(&Voice::Rms.says(BARE));
    let second = daemon.wait_event("stored");
    assert_eq!(second["conversation_id"], of(&daemon.seen, "stored")[0]["conversation_id"]);
    // Nobody uses the next window.
    topics.wait_for("the window", |l| l == "jarvis/kitchen/state follow_up");
    topics.wait_for("its end", |l| l == "jarvis/kitchen/state idle");
    mic.hears_all(&Voice::Rms.says(BARE));
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    assert_eq!(count(&mut daemon, "wake"), 2, "{:#?}", daemon.seen);
    assert_eq!(count(&mut daemon, "speech_start"), 3, "{:#?}", daemon.seen);
    assert_eq!(count(&mut daemon, "rejected"), 0, "a window that nobody used is no attempt");
}

#[test]
fn a_device_that_is_muted_over_mqtt_hears_nothing_until_it_is_unmuted() {
    let broker = Broker::start();
    let (root, mic) = with_broker(&broker, "");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    broker.publish("jarvis/kitchen/mute/set", "ON");
    topics.wait_for("the switch", |l| l == "jarvis/kitchen/mute ON");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state muted");
    mic.hears_all(&Voice::Rms.says(WHO));

    broker.publish("jarvis/kitchen/mute/set", "OFF");
    topics.wait_for("the switch", |l| l == "jarvis/kitchen/mute OFF");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    assert_eq!(
        count(&mut daemon, "wake"),
        1,
        "said while muted, it is not heard then or later: {:#?}",
        daemon.seen
    );

    // In the middle of a command.
    mic.wait_until_answered(0);
    mic.hears(&Voice::Rms.says(&format!("hey jarvis, {BARE}")));
    daemon.wait_event("wake");
    broker.publish("jarvis/kitchen/mute/set", "ON");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state muted");
    let answered = mic.played().len();
    broker.publish("jarvis/kitchen/mute/set", "OFF");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    assert_eq!(count(&mut daemon, "stored"), 2, "{:#?}", daemon.seen);
    assert_eq!(count(&mut daemon, "transcript"), 2, "{:#?}", daemon.seen);
    mic.wait_until_answered(answered);
    assert_eq!(daemon.stop(), Some(0));
}

/// Many messages on one topic, as fast as one client sends them.
fn flood(broker: &Broker, topic: &str, messages: &[&str]) {
    use std::io::Write as _;
    let mut client = Command::new("mosquitto_pub")
        .args(["-p", &broker.port.to_string(), "-q", "1", "-l", "-t", topic])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all((messages.join("\n") + "\n").as_bytes()).unwrap();
    assert!(client.wait().unwrap().success());
}

fn health(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_prefix("jarvis/kitchen/health ")?).ok()
}

#[test]
fn the_last_of_many_mutes_counts_and_survives_a_kill_and_a_restart() {
    const MUTE: &str = "jarvis/kitchen/mute/set";
    let broker = Broker::start();
    let (root, mic) = with_broker(&broker, "");
    for (last, shown) in [("ON", "muted"), ("OFF", "idle"), ("ON", "muted")] {
        let other = if last == "ON" { "OFF" } else { "ON" };
        let mut daemon = root.daemon();
        daemon.wait_event("ready");
        let flooded: Vec<&str> = (0..300).map(|n| if n % 2 == 0 { other } else { last }).collect();
        flood(&broker, MUTE, &flooded);
        // The broker has all of them; the device has them soon after.
        std::thread::sleep(Duration::from_secs(2));
        let mut topics = broker.subscribe("jarvis/kitchen/#");
        topics.shows("the switch", |l| l == format!("jarvis/kitchen/mute {last}"));
        topics.shows("the parts", |l| health(l).is_some_and(|h| h["muted"] == (last == "ON")));
        // Published is stored.
        daemon.child.kill().unwrap();
        daemon.child.wait().unwrap();
        topics.wait_for("its death", |l| l == "jarvis/kitchen/availability offline");

        let mut daemon = root.daemon();
        daemon.wait_event("ready");
        topics.wait_for("the device again", |l| l == "jarvis/kitchen/availability online");
        std::thread::sleep(Duration::from_secs(1));
        let mut late = broker.subscribe("jarvis/kitchen/#");
        late.shows("the state", |l| l == format!("jarvis/kitchen/state {shown}"));
        late.shows("the switch", |l| l == format!("jarvis/kitchen/mute {last}"));
        if last == "ON" {
            mic.hears_all(&Voice::Rms.says(WHO));
        }
        assert_eq!(daemon.stop(), Some(0));
        assert_eq!(count(&mut daemon, "wake"), 0, "{:#?}", daemon.seen);
    }
}

#[test]
fn a_mute_ends_an_answer_that_is_spoken_also_behind_other_commands() {
    let broker = Broker::start();
    let long = tempfile::tempdir().unwrap();
    let answer = long.path().join("answer.wav");
    crate::support::sox(&[Voice::Rms.says(BARE).to_str().unwrap(), answer.to_str().unwrap(), "repeat", "9"]);
    let (root, mic) = household(&format!(
        "[device]\nid = \"kitchen\"\n[mqtt]\nurl = \"{}\"\n[voice]\npin_valid_s = 60\nenrol_by_mqtt = true\n\
         {}",
        broker.url(),
        answers_with(&answer)
    ));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    mic.hears(&Voice::Rms.says(WHO));
    daemon.wait_event("stored");
    crate::support::wait_until("the answer to begin", || !mic.played().is_empty());
    // More commands than can wait for their turn, so that some are lost; the mute is not among them.
    for _ in 0..12 {
        broker.publish("jarvis/kitchen/pin", r#"{"user":"anna","pin":"274914"}"#);
    }
    broker.publish("jarvis/kitchen/enrolment/set", r#"{"start":"ben"}"#);
    broker.publish("jarvis/kitchen/mute/set", "ON");
    topics.wait_for("the switch", |l| l == "jarvis/kitchen/mute ON");
    std::thread::sleep(Duration::from_secs(1));
    let played = mic.played().len();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(mic.played().len(), played, "the answer goes on");
    let whole = std::fs::metadata(&answer).unwrap().len() * 3;
    assert!((played as u64) < whole / 2, "{played} of {whole} bytes were played");
    assert_eq!(count(&mut daemon, "stored"), 1, "the turn itself is on the disk");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_mute_that_cannot_be_stored_is_in_force_and_said() {
    use std::io::Write as _;
    let broker = Broker::start();
    let (root, mic) = with_broker(&broker, "");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    let db = root.path().join("var/lib/jarvis/jarvis.db");
    let mut other = Command::new("sqlite3").arg(&db).stdin(Stdio::piped()).spawn().unwrap();
    let mut tell = other.stdin.take().unwrap();
    let locked = root.path().join("locked");
    let order = format!(".timeout 5000\nBEGIN IMMEDIATE;\n.shell touch {}\n", locked.display());
    tell.write_all(order.as_bytes()).unwrap();
    crate::support::wait_until("the lock", || locked.exists());
    broker.publish("jarvis/kitchen/mute/set", "ON");
    topics.wait_for("the switch", |l| l == "jarvis/kitchen/mute ON");
    topics.shows("why", |l| {
        health(l).is_some_and(|h| {
            let sentence = h["components"]["mute"]["sentence"].as_str().unwrap_or_default();
            h["state"] == "muted" && h["problem"] == true && sentence.contains("only until a restart")
        })
    });
    mic.hears_all(&Voice::Rms.says(WHO));
    drop(tell);
    other.wait().unwrap();
    topics.shows("that it is stored", |l| {
        health(l).is_some_and(|h| h["problem"] == false && h["muted"] == true)
    });
    assert_eq!(count(&mut daemon, "wake"), 0, "{:#?}", daemon.seen);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    topics.wait_for("its death", |l| l == "jarvis/kitchen/availability offline");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    topics.wait_for("the device again", |l| l == "jarvis/kitchen/availability online");
    std::thread::sleep(Duration::from_secs(1));
    broker.subscribe("jarvis/kitchen/#").shows("the switch", |l| l == "jarvis/kitchen/mute ON");
}

#[test]
fn an_enrolment_that_was_cancelled_does_not_begin_and_one_that_is_asked_for_aloud_ends_at_once() {
    let broker = Broker::start();
    let long = tempfile::tempdir().unwrap();
    let question = long.path().join("question.wav");
    crate::support::sox(&[
        Voice::Rms.says(BARE).to_str().unwrap(),
        question.to_str().unwrap(),
        "repeat",
        "9",
    ]);
    let (root, mic) = household(&format!(
        "[device]\nid = \"kitchen\"\n[mqtt]\nurl = \"{}\"\n[voice]\nenrol_by_mqtt = true\n{}",
        broker.url(),
        answers_with(&question)
    ));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    let tell = |text: &str| broker.publish("jarvis/kitchen/enrolment/set", text);
    let state = |l: &str, wanted: &str| l.starts_with("jarvis/kitchen/enrolment ") && l.contains(wanted);
    tell(r#"{"start":"Ben"}"#);
    topics.wait_for("the first sentence", |l| state(l, "waiting"));
    crate::support::wait_until("the question to begin", || !mic.played().is_empty());
    // Waits in the queue while the device speaks, and is cancelled there.
    tell(r#"{"start":"Cleo"}"#);
    tell("CANCEL");
    topics.wait_for("its end", |l| state(l, "cancelled"));
    mic.wait_until_answered(0);
    let (played, whole) = (mic.played().len() as u64, std::fs::metadata(&question).unwrap().len() * 3);
    assert!(played < whole / 2, "{played} of {whole} bytes were played");
    // Commands are carried out in order: the one in between would have begun before.
    tell(r#"{"start":"Dora"}"#);
    topics.wait_for("another one", |l| state(l, "waiting") && l.contains("Dora"));
    // The command itself comes back to a subscriber of all topics.
    let mut told = topics.seen.iter().filter(|l| !l.starts_with("jarvis/kitchen/enrolment/set "));
    assert!(!told.any(|l| l.contains("Cleo")), "{:#?}", topics.seen);
    daemon.drain();
    assert!(of(&daemon.seen, "enrolment").iter().all(|e| e["user"] != "Cleo"), "{:#?}", daemon.seen);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_press_over_mqtt_opens_the_microphone_as_the_wake_word_does() {
    let broker = Broker::start();
    let (root, mic) = with_broker(&broker, "");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears_all(&Voice::Rms.says(BARE));

    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    broker.publish("jarvis/kitchen/listen", "PRESS");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state listening");
    mic.hears(&Voice::Rms.says(BARE));
    daemon.wait_event("stored");
    assert_eq!(count(&mut daemon, "speech_start"), 1, "nothing had asked the device to listen before");
    assert_eq!(count(&mut daemon, "wake"), 0, "{:#?}", daemon.seen);
    mic.wait_until_answered(0);

    broker.publish("jarvis/kitchen/listen", "PRESS");
    let unused: Value = daemon.wait_event("rejected");
    assert_eq!(unused["reason"], "no_speech");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state listening");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    mic.hears_all(&Voice::Rms.says(BARE));
    broker.publish("jarvis/kitchen/listen", "PRESS");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state listening");
    mic.hears(&Voice::Rms.says(BARE));
    daemon.wait_event("stored");
    assert_eq!(count(&mut daemon, "speech_start"), 2, "the window had closed: {:#?}", daemon.seen);
    assert_eq!(daemon.stop(), Some(0));
}
