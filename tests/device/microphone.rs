//! The daemon on a sound device: ALSA with a test plugin that is paced in real time and can fail like
//! hardware.

use std::time::{Duration, Instant};

use crate::support::manager::Manager;
use crate::support::mic::Mic;
use crate::support::{Broker, Daemon, Root, Voice, of, wait_until};
use serde_json::Value;

pub const CONFIG: &str = "[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n";

pub fn household() -> (Root, Mic) {
    let mut root = Root::with_config(CONFIG);
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    (root, mic)
}

/// Stops the daemon as systemd does, within the promised 10 s.
#[track_caller]
fn stops_in_time(daemon: &mut Daemon) {
    let asked = Instant::now();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

/// The essence of a turn, without its times.
fn essence(events: &[Value]) -> Vec<(String, String)> {
    events
        .iter()
        .filter(|e| ["verified", "transcript", "rejected"].contains(&e["event"].as_str().unwrap()))
        .map(|e| {
            let what = ["user", "text", "reason"].iter().find_map(|k| e[*k].as_str()).unwrap();
            (e["event"].as_str().unwrap().to_string(), what.to_string())
        })
        .collect()
}

#[test]
fn the_same_sound_gives_the_same_turn_through_alsa_and_from_a_file() {
    let (root, mic) = household();
    let command = Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&command);
    daemon.wait_event("stored");
    wait_until("the spoken answer", || mic.played().iter().any(|b| *b != 0));
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    let from_file = root.listen(&[&command]);
    assert_eq!(essence(&daemon.seen), essence(&from_file));
}

#[test]
fn a_microphone_unplugged_and_plugged_back_is_heard_again() {
    let (root, mic) = household();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.unplug();
    daemon.wait_log("microphone");
    std::thread::sleep(Duration::from_secs(2));
    mic.plug_back();
    std::thread::sleep(Duration::from_secs(3));
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    let stored = daemon.wait_event("stored");
    assert!(stored["conversation_id"].is_string());
    assert_eq!(daemon.stop(), Some(0));
}

/// A household with a broker, and all messages that its device publishes.
fn with_broker(more: &str) -> (Root, Mic, Broker) {
    let broker = Broker::start();
    let mut root = Root::with_config(&format!(
        "{CONFIG}[device]\nid = \"kitchen\"\n[mqtt]\nurl = \"{}\"\n{more}",
        broker.url()
    ));
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    (root, mic, broker)
}

fn health(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_prefix("jarvis/kitchen/health ")?).ok()
}

/// A sentence that takes some seconds to say.
pub const LONG: &str = "hey jarvis, remember that the bicycle is in the cellar and the pump is in the \
                    attic and the lamp is in the garden house behind the green door";

#[test]
fn a_command_torn_by_a_microphone_that_stops_is_dropped_at_once_and_for_ever() {
    let (root, mic, broker) = with_broker("");
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics.wait_for("the state", |l| l == "jarvis/kitchen/state idle");
    let stops: [(&str, &dyn Fn(bool)); 3] = [
        ("unplugged", &|on| if on { mic.unplug() } else { mic.plug_back() }),
        ("frozen", &|on| mic.freeze(on)),
        ("suspended", &|on| mic.suspend(on)),
    ];
    for (how, stop) in stops {
        mic.hears(&Voice::Rms.says(LONG));
        topics.wait_for(how, |l| l == "jarvis/kitchen/state listening");
        daemon.wait_event("speech_start");
        stop(true);
        // Nothing comes any more: the device does not wait for the rest of it.
        topics.wait_for(how, |l| health(l).is_some_and(|h| h["problem"] == true && h["state"] == "degraded"));
        let told = daemon.wait_event("error");
        assert_eq!(told["stage"], "microphone", "{how}: {told}");
        std::thread::sleep(Duration::from_secs(2));
        stop(false);
        topics.wait_for(how, |l| health(l).is_some_and(|h| h["problem"] == false));
        std::thread::sleep(Duration::from_secs(6));
        daemon.drain();
        for answered in ["verified", "transcript", "reply"] {
            assert!(of(&daemon.seen, answered).is_empty(), "{how}: {:#?}", daemon.seen);
        }
    }
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    daemon.wait_event("stored");
    let told: Vec<bool> =
        of(&daemon.seen, "problem").iter().map(|e| e["problem"].as_bool().unwrap()).collect();
    assert!(told.iter().filter(|on| **on).count() >= 3 && told.last() == Some(&false), "{:#?}", daemon.seen);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_problem_shows_during_turns_and_while_muted_and_everywhere_alike() {
    let (mut root, mic, broker) = with_broker("[speech]\nenabled = false\n");
    let manager = Manager::listen(&mut root);
    let mut daemon = root.daemon();
    manager.wait_for("READY=1");
    daemon.wait_event("ready");
    let mut topics = broker.subscribe("jarvis/kitchen/#");
    topics
        .wait_for("no problem", |l| health(l).is_some_and(|h| h["state"] == "idle" && h["problem"] == false));
    mic.unplug();
    topics.wait_for("the problem", |l| health(l).is_some_and(|h| h["problem"] == true));
    let event = daemon.wait_event("problem");
    assert_eq!((&event["problem"], &event["part"]), (&true.into(), &"microphone".into()), "{event}");
    broker.publish("jarvis/kitchen/mute/set", "ON");
    let muted = topics.wait_for("muted", |l| health(l).is_some_and(|h| h["state"] == "muted"));
    assert_eq!(health(&muted).unwrap()["problem"], true, "{muted}");
    manager.wait_for("STATUS=muted; the microphone");
    // The retained values say the same to a later client.
    let mut late = broker.subscribe("jarvis/kitchen/#");
    late.shows("the state", |l| l == "jarvis/kitchen/state muted");
    late.shows("the parts", |l| health(l).is_some_and(|h| h["problem"] == true && h["muted"] == true));
    broker.publish("jarvis/kitchen/mute/set", "OFF");
    topics.wait_for("heard again", |l| health(l).is_some_and(|h| h["state"] == "degraded"));
    // A stage of a turn: the window is open as soon as there is sound, and closes.
    mic.plug_back();
    topics.wait_for("no problem", |l| health(l).is_some_and(|h| h["problem"] == false));
    broker.publish("jarvis/kitchen/listen", "PRESS");
    topics.wait_for("listening", |l| health(l).is_some_and(|h| h["state"] == "listening"));
    mic.unplug();
    topics.wait_for("the problem", |l| health(l).is_some_and(|h| h["problem"] == true));
    assert_eq!(daemon.stop(), Some(0));
}

/// The folder whose files make calls of the daemon hang: see `hang.c`.
pub fn hanging(root: &mut Root) -> std::path::PathBuf {
    let dir = root.path().join("hang");
    std::fs::create_dir_all(&dir).unwrap();
    root.env("JARVIS_TEST_HANG", &dir);
    root.env("LD_PRELOAD", crate::support::preload::hang());
    dir
}

#[test]
fn a_disk_that_hangs_ends_one_turn_with_a_sentence_and_the_next_one_is_stored() {
    let (mut root, mic) = household();
    let dir = hanging(&mut root);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    std::fs::write(dir.join("disk"), "").unwrap();
    mic.hears(&Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot"));
    let told = daemon.wait_event("error");
    assert!(["store", "dialogue"].contains(&told["stage"].as_str().unwrap()), "{told}");
    mic.wait_until_answered(0);
    let answered = mic.played().len();
    assert!(of(&daemon.seen, "stored").is_empty(), "{:#?}", daemon.seen);
    std::fs::remove_file(dir.join("disk")).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    mic.hears(&Voice::Rms.says("hey jarvis, remember that the bicycle is in the cellar"));
    daemon.wait_event("stored");
    mic.wait_until_answered(answered);
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_device_that_is_not_there_at_the_start_is_waited_for() {
    let (root, mic) = household();
    mic.unplug();
    let mut daemon = root.daemon();
    daemon.wait_log("microphone");
    mic.plug_back();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    daemon.wait_event("stored");
}

#[test]
fn an_overrun_is_counted_and_the_next_command_is_heard() {
    let (root, mic) = household();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    // A stopped process does not read: the device's buffer overruns, as under a stalled system.
    daemon.signal("STOP");
    std::thread::sleep(Duration::from_secs(2));
    daemon.signal("CONT");
    daemon.wait_log("overrun");
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    daemon.wait_event("stored");
}

#[test]
fn sigterm_in_the_middle_of_a_command_ends_cleanly_and_in_time() {
    let (root, mic) = household();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(
        &Voice::Rms
            .says("hey jarvis, remember that the bicycle is in the cellar and the pump is in the attic"),
    );
    daemon.wait_event("wake");
    stops_in_time(&mut daemon);
    // Unacknowledged turns may be missing; those that are there are whole.
    for conversation in root.json(&["conversation", "list", "--user", "anna"]).as_array().unwrap() {
        let id = conversation["id"].as_str().unwrap();
        let shown = root.json(&["conversation", "show", id, "--user", "anna"]);
        assert_eq!(shown["messages"].as_array().unwrap().len() % 2, 0, "{shown:#}");
    }
}

#[test]
fn sigterm_after_the_verdict_still_stores_the_turn() {
    let (root, mic) = household();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says("hey jarvis, remember that the bicycle is in the cellar"));
    daemon.wait_event("verified");
    daemon.signal("TERM");
    let stored = daemon.wait_event("stored");
    assert_eq!(daemon.exit_code(), Some(0), "{}", daemon.log());
    let hits = root.json(&["conversation", "search", "cellar", "--user", "anna"]);
    assert!(!hits.as_array().unwrap().is_empty());
    let id = stored["conversation_id"].as_str().unwrap();
    let shown = root.json(&["conversation", "show", id, "--user", "anna"]);
    assert_eq!(shown["messages"].as_array().unwrap().len(), 2, "{shown:#}");
}

/// Whether a process runs with `mark` on its command line.
fn runs(mark: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.windows(mark.len()).any(|w| w == mark.as_bytes())
    })
}

#[test]
fn a_speech_program_that_hangs_does_not_hold_up_a_stop_and_does_not_outlive_it() {
    let (root, mic) = household();
    let mark = root.path().join("speaking").to_str().unwrap().to_owned();
    let script = format!("touch {mark}; while :; do sleep 1; done");
    root.write_config(&format!(
        "{CONFIG}[speech]\ncommand = [\"sh\", \"-c\", \"{script}\"]\ntimeout_s = 60\n"
    ));
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says("hey jarvis, what time is it"));
    daemon.wait_event("stored");
    wait_until("the speech program", || std::path::Path::new(&mark).exists());
    assert!(runs(&mark));
    stops_in_time(&mut daemon);
    assert!(!runs(&mark), "the speech program outlives the daemon");
}

#[test]
fn a_loudspeaker_that_hangs_makes_the_device_mute_and_nothing_else() {
    let (root, mic) = household();
    mic.hang_loudspeaker();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says("hey jarvis, what time is it"));
    daemon.wait_event("stored");
    daemon.wait_log("the playback device room hangs");
    mic.hears(&Voice::Rms.says("hey jarvis, who am i"));
    daemon.wait_event("stored");
    stops_in_time(&mut daemon);
    assert!(mic.played().is_empty());
}

#[test]
fn a_stop_while_the_loudspeaker_hangs_is_in_time() {
    let (root, mic) = household();
    mic.hang_loudspeaker();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    mic.hears(&Voice::Rms.says("hey jarvis, what time is it"));
    daemon.wait_event("stored");
    // The answer is rendered, and the sound device has the first of it.
    std::thread::sleep(Duration::from_secs(3));
    stops_in_time(&mut daemon);
    assert!(daemon.log().contains("the playback device room hangs"), "{}", daemon.log());
}

/// The last sentence about the microphone that the service manager shows within `window`; empty if there is
/// none.
fn told_of_the_microphone(manager: &Manager, window: Duration) -> String {
    let told = manager.during(window);
    let status = told.into_iter().rev().find(|line| line.starts_with("STATUS="));
    status.filter(|line| line.contains("microphone")).unwrap_or_default()
}

/// Runs a daemon on a microphone that delivers `samples` (a frame of `channels` for each number) for 90 s and
/// then its own noise. Compares its reports with those of `doctor`.
fn a_microphone_without_sound(channels: i32, wanted: &str, samples: impl Fn(i32) -> i16) {
    let device = if channels == 1 { "room" } else { "pair" };
    let config = format!(
        "[audio]\ndevice = \"{device}\"\n[speech]\nenabled = false\n[stt]\nengine = \"off\"\n[wake]\n\
         model = \"none\"\n"
    );
    let mut root = Root::with_config(&config);
    root.env("JARVIS__STT__ENGINE", "off");
    let mic = Mic::plug_into(&mut root);
    mic.delivers((0..90 * 48_000 * channels).map(samples));
    let manager = Manager::watch(&mut root);
    let mut daemon = root.daemon();
    manager.wait_for("READY=1");
    let early = told_of_the_microphone(&manager, Duration::from_secs(30));
    assert_eq!(early, "", "half a minute of it is no fault yet");
    let mut told = String::new();
    wait_until(wanted, || {
        told = told_of_the_microphone(&manager, Duration::from_secs(1));
        !told.is_empty()
    });
    assert!(told.contains(wanted), "{told}");

    let report: Value = serde_json::from_slice(&root.run(&["doctor", "--json"]).stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|f| f["check"] == "microphone").unwrap();
    assert_eq!(found["state"], "warn", "{found}");
    assert!(found["message"].as_str().unwrap().contains(wanted), "{found}");
    assert!(
        told.contains(found["fix"].as_str().unwrap()),
        "doctor and the device say the same: {told} {found}"
    );

    if wanted.contains("cancel") {
        // Over when something as loud does not cancel.
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
        return;
    }
    // The end of the 90 s: the noise behind it is alive.
    wait_until("the microphone to be well again", || {
        manager
            .during(Duration::from_secs(1))
            .iter()
            .any(|line| line.starts_with("STATUS=") && !line.contains("microphone"))
    });
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
}

#[test]
fn a_microphone_that_delivers_no_sound_is_told_after_a_minute_and_well_again_by_itself() {
    std::thread::scope(|scope| {
        scope.spawn(|| a_microphone_without_sound(1, "digital silence", |_| 0));
        scope.spawn(|| a_microphone_without_sound(1, "the same value in every sample", |_| 1_234));
        scope.spawn(|| a_microphone_without_sound(1, "flicker of the last bit", |n| i16::from(n % 100 == 0)));
    });
}

#[test]
fn a_dead_channel_of_two_and_channels_that_cancel_are_told() {
    // Noise of 12 bits or so, different in every sample.
    let noise = |n: i32| {
        let mixed = (n / 2).wrapping_mul(1_103_515_245) ^ ((n / 2).wrapping_mul(69_069) >> 7);
        i16::try_from(mixed >> 20).unwrap()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            a_microphone_without_sound(2, "no sound in channel 1", |n| if n % 2 == 0 { noise(n) } else { 0 });
        });
        scope.spawn(|| {
            a_microphone_without_sound(2, "cancel each other out", |n| {
                if n % 2 == 0 { noise(n) } else { -noise(n) }
            });
        });
    });
}

#[test]
fn a_microphone_in_a_quiet_room_is_well_for_longer_than_a_minute() {
    let (mut root, _mic) = household();
    let manager = Manager::watch(&mut root);
    let mut daemon = root.daemon();
    manager.wait_for("READY=1");
    let told = manager.during(Duration::from_secs(75));
    assert!(!told.iter().any(|line| line.contains("microphone")), "{told:?}");
    assert_eq!(daemon.stop(), Some(0));
}
