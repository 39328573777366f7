//! Messages to the service manager (`sd_notify(3)`), and the watchdog that only sound can feed.
//!
//! Without `NOTIFY_SOCKET` every call does nothing, so the daemon runs the same from a terminal. An unsent
//! message is logged at debug level: there is nobody to tell.
//!
//! # The watchdog
//!
//! A timer that pings proves only that timers work. [`Watchdog`] looks at the progress of the sound several
//! times per watchdog interval. It allows a ping only when
//!
//! * a period has arrived from the source **and** the front end has worked on since the last ping, or
//! * the source is known to be away (unplugged, reported, being re-opened) **and** attempts to re-open it go
//!   on,
//!
//! and only while the turn task is idle or within the deadline of its work ([`GRACE`] on top). So these
//! silence it, and systemd restarts the daemon: a clock that freezes without an error, a front end that
//! hangs, a re-open that never returns, a turn that never ends. An unplugged microphone does not silence it,
//! because a restart would not plug it in again.

pub mod start;

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use crate::clock::monotonic_ms;

/// Variables of the service manager that no child process may inherit: with them it could report in our name.
pub const PRIVATE_ENV: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "CREDENTIALS_DIRECTORY",
];

/// Longest `STATUS=` that is sent, in characters.
const MAX_STATUS_CHARS: usize = 300;

/// Start-up, or a reload, is finished; `words` becomes the status line.
pub fn ready(words: &str) {
    start::is_over();
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(words))]);
}

/// Sets the status line of `systemctl status`.
pub fn status(words: &str) {
    send(&[NotifyState::Status(&one_line(words))]);
}

/// A reload begins. `Type=notify-reload` wants the time at which it was received; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => log::debug!("cannot read the monotonic clock for the reload message: {error}"),
    }
}

pub fn stopping(words: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&one_line(words))]);
}

/// Asks for `more` time from now on: a slow step of start-up, reload or stop is progress, not a hang.
pub fn extend_timeout(more: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(more.as_micros()).unwrap_or(u32::MAX))]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("cannot reach the service manager: {error}");
    }
}

/// A line break inside a status would start another assignment, such as an unwanted READY=1.
fn one_line(words: &str) -> String {
    words.chars().take(MAX_STATUS_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The progress of the sound, as seen from outside the audio threads. Times are `CLOCK_MONOTONIC` in
/// milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Time at which the source last delivered a period; 0 = never.
    pub capture_ms: u64,
    /// Time at which the front end last finished a frame, or any counter that grows with its work; 0 = never.
    pub front_end: u64,
    /// The source is known to be away, and this was reported.
    pub recovering: bool,
    /// A counter that grows while the source tries to come back. `None` where the source cannot tell; then it
    /// is believed.
    pub attempts: Option<u64>,
    /// Time by which the turn task must finish its work; 0 = it waits for work.
    pub turn_due_ms: u64,
}

/// Time that a turn may exceed its deadline. The deadline itself ends a turn, unless the task does not run
/// any more.
pub const GRACE: Duration = Duration::from_secs(10);

/// Why the watchdog is not fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// No period arrived, and the source says that nothing is wrong with it.
    Capture,
    /// Periods arrive, but the front end does not take them.
    FrontEnd,
    /// The source is away and nobody tries to re-open it any more.
    Recovery,
    /// A turn goes on after its last deadline.
    Turns,
}

impl Silence {
    pub fn words(self) -> &'static str {
        match self {
            Self::Capture => "no sound arrives although the microphone reports no error",
            Self::FrontEnd => "sound arrives but the front end does not take it",
            Self::Recovery => "the microphone is away and re-opening it hangs",
            Self::Turns => "a turn does not end",
        }
    }
}

/// Decides whether a ping is deserved. Pure: time and progress are passed in.
#[derive(Debug)]
pub struct Watchdog {
    at_last_ping: Progress,
    /// Last time at which `attempts` was seen to have changed, and its value then.
    attempt_ms: u64,
    attempts: Option<u64>,
    /// Longest pause between two attempts to re-open that is still normal.
    patience_ms: u64,
}

impl Watchdog {
    /// `patience`: longer than the capped back-off between two attempts to re-open the source.
    pub fn new(patience: Duration, now_ms: u64) -> Self {
        Self {
            at_last_ping: Progress::default(),
            attempt_ms: now_ms,
            attempts: None,
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// `Ok` = ping now.
    pub fn look(&mut self, now_ms: u64, now: Progress) -> Result<(), Silence> {
        if now.attempts != self.attempts || now.attempts.is_none() || !now.recovering {
            self.attempts = now.attempts;
            self.attempt_ms = now_ms;
        }
        let grace_ms = u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX);
        if now.turn_due_ms != 0 && now_ms > now.turn_due_ms.saturating_add(grace_ms) {
            return Err(Silence::Turns);
        }
        if now.recovering {
            if now_ms.saturating_sub(self.attempt_ms) > self.patience_ms {
                return Err(Silence::Recovery);
            }
        } else if now.capture_ms == self.at_last_ping.capture_ms {
            return Err(Silence::Capture);
        } else if now.front_end == self.at_last_ping.front_end {
            return Err(Silence::FrontEnd);
        }
        self.at_last_ping = now;
        Ok(())
    }
}

/// Feeds the watchdog of the service manager, if it has one, until `stop`.
///
/// `progress` is read four times per watchdog interval. `patience` as in [`Watchdog::new`].
pub async fn feed_watchdog(
    progress: impl Fn() -> Progress + Send,
    patience: Duration,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        log::debug!("the service manager asks for no watchdog");
        stop.cancelled().await;
        return Ok(());
    };
    let mut watchdog = Watchdog::new(patience, monotonic_ms());
    let mut ticks = tokio::time::interval((interval / 4).max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        match watchdog.look(monotonic_ms(), progress()) {
            Ok(()) => {
                send(&[NotifyState::Watchdog]);
                silent = None;
            }
            // One missed look may be a hiccup of a quarter interval; the second in a row is logged.
            Err(why) if silent == Some(why) => {}
            Err(why) => {
                log::warn!(
                    "the watchdog is not fed because {}; systemd restarts the daemon if this lasts {} s",
                    why.words(),
                    interval.as_secs_f32()
                );
                silent = Some(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::{Child, Command};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn progress(capture_ms: u64, front_end: u64) -> Progress {
        Progress { capture_ms, front_end, ..Progress::default() }
    }

    fn away(attempts: u64) -> Progress {
        Progress {
            capture_ms: 100,
            front_end: 5,
            recovering: true,
            attempts: Some(attempts),
            ..Progress::default()
        }
    }

    #[test]
    fn sound_that_moves_feeds_the_watchdog() {
        let mut watchdog = Watchdog::new(PATIENCE, 0);
        assert_eq!(watchdog.look(100, progress(95, 5)), Ok(()));
        assert_eq!(watchdog.look(200, progress(195, 15)), Ok(()));
    }

    #[test]
    fn a_clock_that_freezes_without_an_error_silences_it() {
        let mut watchdog = Watchdog::new(PATIENCE, 0);
        assert_eq!(watchdog.look(100, progress(0, 0)), Err(Silence::Capture), "before the first period");
        assert_eq!(watchdog.look(200, progress(195, 15)), Ok(()));
        assert_eq!(watchdog.look(300, progress(195, 16)), Err(Silence::Capture));
        assert_eq!(watchdog.look(9_000, progress(195, 16)), Err(Silence::Capture));
        assert_eq!(watchdog.look(9_100, progress(9_095, 17)), Ok(()), "and it may come back");
    }

    #[test]
    fn a_front_end_that_hangs_silences_it() {
        let mut watchdog = Watchdog::new(PATIENCE, 0);
        assert_eq!(watchdog.look(100, progress(95, 5)), Ok(()));
        assert_eq!(watchdog.look(200, progress(195, 5)), Err(Silence::FrontEnd));
    }

    #[test]
    fn a_turn_that_does_not_end_silences_it_and_a_long_one_does_not() {
        let mut watchdog = Watchdog::new(PATIENCE, 0);
        let turn = |now: u64, due| Progress { turn_due_ms: due, ..progress(now, now) };
        assert_eq!(watchdog.look(1_000, turn(1_000, 60_000)), Ok(()));
        assert_eq!(watchdog.look(69_000, turn(69_000, 60_000)), Ok(()), "its deadline is about to end it");
        assert_eq!(watchdog.look(70_001, turn(70_001, 60_000)), Err(Silence::Turns));
        let away = Progress { turn_due_ms: 60_000, ..away(1) };
        assert_eq!(watchdog.look(71_000, away), Err(Silence::Turns), "also without a microphone");
        assert_eq!(watchdog.look(72_000, turn(72_000, 0)), Ok(()), "it has ended");
    }

    #[test]
    fn a_microphone_that_is_away_and_retried_feeds_it_for_ever() {
        let mut watchdog = Watchdog::new(PATIENCE, 0);
        for minute in 0..1_000 {
            assert_eq!(watchdog.look(minute * 50_000, away(minute)), Ok(()), "{minute}");
        }
        let cannot_tell = Progress { attempts: None, ..away(0) };
        assert_eq!(watchdog.look(u64::MAX, cannot_tell), Ok(()));
    }

    #[test]
    fn a_re_open_that_hangs_silences_it() {
        let mut watchdog = Watchdog::new(PATIENCE, 0);
        assert_eq!(watchdog.look(1_000, away(3)), Ok(()));
        assert_eq!(watchdog.look(60_000, away(3)), Ok(()), "a long back-off");
        assert_eq!(watchdog.look(61_001, away(3)), Err(Silence::Recovery));
        assert_eq!(watchdog.look(61_100, away(4)), Ok(()));
    }

    #[test]
    fn a_status_is_one_line_whatever_it_holds() {
        assert_eq!(one_line("idle\nREADY=1"), "idle READY=1");
        assert_eq!(one_line(&"x".repeat(1_000)).len(), MAX_STATUS_CHARS);
    }

    /// Runs the ignored test `name` of this binary as a service, with this process as its manager.
    fn service(name: &str, watchdog_usec: Option<u64>) -> (Child, UnixDatagram, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([name, "--exact", "--ignored", "--nocapture"])
            .env("NOTIFY_SOCKET", &path)
            .env("JARVIS_TEST_CHILD", "1");
        if let Some(usec) = watchdog_usec {
            command.env("WATCHDOG_USEC", usec.to_string());
        }
        (command.spawn().unwrap(), socket, folder)
    }

    fn receive(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4_096];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    #[test]
    #[ignore = "the service half of the next test"]
    fn service_talks() {
        if std::env::var_os("JARVIS_TEST_CHILD").is_none() {
            return;
        }
        ready("waiting\nfor the wake word");
        status("listening");
        extend_timeout(Duration::from_secs(5));
        reloading();
        stopping("good bye");
    }

    #[test]
    fn the_service_manager_hears_what_it_expects() {
        let (mut child, socket, _folder) = service("notify::tests::service_talks", None);
        assert_eq!(receive(&socket).unwrap(), "READY=1\nSTATUS=waiting for the wake word\n");
        assert_eq!(receive(&socket).unwrap(), "STATUS=listening\n");
        assert_eq!(receive(&socket).unwrap(), "EXTEND_TIMEOUT_USEC=5000000\n");
        let reload = receive(&socket).unwrap();
        let usec: u64 = reload.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim().parse().unwrap();
        assert!(usec / 1000 <= monotonic_ms() && monotonic_ms() - usec / 1000 < 60_000, "{usec}");
        assert_eq!(receive(&socket).unwrap(), "STOPPING=1\nSTATUS=good bye\n");
        assert!(child.wait().unwrap().success());
    }

    /// Sound moves for half a second, then freezes without an error.
    #[tokio::test]
    #[ignore = "the service half of the next test"]
    async fn service_freezes() {
        if std::env::var_os("JARVIS_TEST_CHILD").is_none() {
            return;
        }
        let started = monotonic_ms();
        let frames = AtomicU64::new(0);
        let stop = CancellationToken::new();
        let sound = || {
            let at = monotonic_ms().min(started + 500);
            Progress {
                capture_ms: at,
                front_end: frames.fetch_add(1, Ordering::Relaxed),
                ..Progress::default()
            }
        };
        let end = stop.clone();
        let work = feed_watchdog(sound, PATIENCE, stop);
        tokio::select! {
            done = work => done.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(1_500)) => end.cancel(),
        }
        status("over");
    }

    #[test]
    fn the_watchdog_goes_silent_when_the_sound_freezes() {
        let (mut child, socket, _folder) = service("notify::tests::service_freezes", Some(200_000));
        let mut pings = Vec::new();
        let begin = std::time::Instant::now();
        while let Some(message) = receive(&socket) {
            if message == "STATUS=over\n" {
                break;
            }
            assert_eq!(message, "WATCHDOG=1\n");
            pings.push(begin.elapsed());
        }
        let silent = begin.elapsed() - *pings.last().unwrap();
        assert!(pings.len() >= 4, "{pings:?}");
        assert!(silent > Duration::from_millis(600), "{silent:?}");
        assert!(child.wait().unwrap().success());
    }
}
