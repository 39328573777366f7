//! What the service manager is told (`sd_notify(3)`), and the watchdog that only sound can feed.
//!
//! Without `NOTIFY_SOCKET` every call does nothing, so the daemon runs the same from a terminal. A message that cannot be
//! sent is logged at debug level: there is nobody to tell.
//!
//! # The watchdog
//!
//! A timer that pings proves only that timers work. [`Watchdog`] looks at how far the sound has come, several times per
//! watchdog interval, and allows a ping only when
//!
//! * a period has arrived from the source **and** the front end has worked on since the last ping, or
//! * the source is known to be away (unplugged, reported, being re-opened) **and** attempts to re-open it go on.
//!
//! So a clock that freezes without an error, a front end that hangs, and a re-open that never returns all silence it and
//! systemd restarts the daemon; an unplugged microphone does not, because a restart would not plug it in again.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

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
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(words))]);
}

/// Sets the status line of `systemctl status`.
pub fn status(words: &str) {
    send(&[NotifyState::Status(&one_line(words))]);
}

/// A reload begins. `Type=notify-reload` wants the time at which it was received along with it; [`ready`] ends it.
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

/// A line break inside a status would start another assignment, such as a READY=1 nobody meant.
fn one_line(words: &str) -> String {
    words.chars().take(MAX_STATUS_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How far the sound has come, as seen from outside the audio threads. Times are `CLOCK_MONOTONIC` in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// When the source last delivered a period; 0 = never.
    pub capture_ms: u64,
    /// When the front end last finished a frame, or any counter that grows with its work; 0 = never.
    pub front_end: u64,
    /// The source is known to be away, and this was reported.
    pub recovering: bool,
    /// Attempts to re-open the source so far, or any counter that grows with them.
    pub attempts: u64,
}

/// Why the watchdog is not fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// No period arrived, and the source says that nothing is wrong with it.
    Capture,
    /// Periods arrive, but the front end does not take them.
    FrontEnd,
    /// The source is away and nobody tries to re-open it any more.
    Recovery,
}

impl Silence {
    pub fn words(self) -> &'static str {
        match self {
            Self::Capture => "no sound arrives although the microphone reports no error",
            Self::FrontEnd => "sound arrives but the front end does not take it",
            Self::Recovery => "the microphone is away and re-opening it hangs",
        }
    }
}

/// Decides whether a ping is deserved. Pure: time and progress are passed in.
#[derive(Debug)]
pub struct Watchdog {
    at_last_ping: Progress,
    /// Last time at which `attempts` was seen to have changed, and its value then.
    attempt_ms: u64,
    attempts: u64,
    /// Longest pause between two attempts to re-open that is still normal.
    patience_ms: u64,
}

impl Watchdog {
    /// `patience`: longer than the capped back-off between two attempts to re-open the source.
    pub fn new(patience: Duration, now_ms: u64) -> Self {
        Self {
            at_last_ping: Progress::default(),
            attempt_ms: now_ms,
            attempts: 0,
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// `Ok` = ping now.
    pub fn look(&mut self, now_ms: u64, now: Progress) -> Result<(), Silence> {
        if now.attempts != self.attempts || !now.recovering {
            self.attempts = now.attempts;
            self.attempt_ms = now_ms;
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

/// `CLOCK_MONOTONIC` in milliseconds, the clock of [`Progress`].
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)).unwrap_or(0)
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
            // One missed look may be a hiccup of a quarter interval; the second in a row is worth a line.
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
