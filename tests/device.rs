//! The daemon on a sound device: ALSA with a test plugin that is paced in real time and can fail like hardware.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::mic::Mic;
use support::{Daemon, PATIENCE, Root, Voice, wait_until};

const CONFIG: &str = "[audio]\ndevice = \"room\"\nplayback_device = \"room\"\n";

fn household() -> (Root, Mic) {
    let mut root = Root::with_config(CONFIG);
    let mic = Mic::plug_into(&mut root);
    root.enrol("anna", Voice::Rms);
    (root, mic)
}

/// Stops the daemon as systemd does, which takes less than the 10 s that are promised.
#[track_caller]
fn stops_in_time(daemon: &mut Daemon) {
    let asked = Instant::now();
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

/// What a turn amounts to, without its times.
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
    // What was not acknowledged may be missing; what is there is whole.
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

/// Whether a process runs that has `mark` on its command line.
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

/// Collects what the daemon tells its service manager.
struct Manager {
    socket: UnixDatagram,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn watch(root: &mut Root) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        root.env("NOTIFY_SOCKET", &path);
        root.env("WATCHDOG_USEC", "2000000");
        Self { socket, _dir: dir }
    }

    /// The messages that arrive within `window`.
    fn during(&self, window: Duration) -> Vec<String> {
        let end = Instant::now() + window;
        let mut messages = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            self.socket.set_read_timeout(Some(left)).unwrap();
            if let Ok(n) = self.socket.recv(&mut buffer) {
                messages.extend(String::from_utf8_lossy(&buffer[..n]).lines().map(str::to_owned));
            }
        }
        messages
    }

    fn wait_for(&self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.during(Duration::from_millis(100)).iter().any(|m| m.starts_with(wanted)) {
                return;
            }
        }
        panic!("the service manager was not told {wanted}");
    }
}

#[test]
fn the_watchdog_is_fed_by_sound_and_falls_silent_when_sound_freezes() {
    let (mut root, mic) = household();
    let manager = Manager::watch(&mut root);
    let mut daemon = root.daemon();
    manager.wait_for("READY=1");
    let pings = |window_s| {
        manager.during(Duration::from_secs(window_s)).iter().filter(|m| *m == "WATCHDOG=1").count()
    };
    assert!(pings(4) >= 2, "sound moves, so the watchdog is fed");
    mic.freeze(true);
    // The last pings may still be on their way; reading them takes them out of the socket.
    manager.during(Duration::from_secs(1));
    // Longer than WATCHDOG_USEC: systemd would have acted by now.
    assert_eq!(pings(3), 0, "frozen sound must starve the watchdog; log:\n{}", daemon.log());
    mic.freeze(false);
    wait_until("the watchdog to be fed again", || pings(1) > 0);
    daemon.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert_eq!(daemon.exit_code(), Some(0));
}

#[test]
fn sighup_applies_what_can_change_without_a_restart() {
    let (root, mic) = household();
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    root.write_config(&format!("{CONFIG}[speech]\nenabled = false\n"));
    daemon.signal("HUP");
    daemon.wait_log("read again");
    mic.hears(&Voice::Rms.says("hey jarvis, what time is it"));
    daemon.wait_event("stored");
    std::thread::sleep(Duration::from_secs(2));
    assert!(mic.played().is_empty(), "answers are no longer spoken");
    root.write_config("[audio]\ndevice = 7\nnonsense = true\n");
    daemon.signal("HUP");
    daemon.wait_log("nonsense");
    assert_eq!(daemon.stop(), Some(0), "a faulty new configuration does not stop a running daemon");
}
