//! Watches the sound from outside the audio threads. It logs for the capture thread, which may not log, tells
//! the service manager when sound runs, and measures the progress of the sound for the watchdog.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::audio::{CaptureStats, CaptureStatus};
use crate::events::bus::Events;
use crate::events::{Event, What};
use crate::health::State;
use crate::health::{self, Condition, Health, Status};
use crate::notify::{self, Progress};
use crate::pipeline::deadline::Pulse;
use crate::pipeline::hearing::HearingControl;
use crate::units::FramePos;

/// Name of the microphone in [`Health`].
pub const COMPONENT: &str = health::MICROPHONE;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A missing microphone is no reason to keep the service in `activating`. After this long it is reported as
/// away, the service counts as started, and everything that needs no microphone works.
const GIVE_UP_WAITING: Duration = Duration::from_secs(5);
/// Longer than the longest pause between two looks of the capture thread at a device that is away.
pub const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);

/// The progress of the sound, on which [`notify::feed_watchdog`] feeds.
///
/// An open device that yields nothing is not away: re-opening it was tried, so only a restart is left.
pub fn progress(stats: &CaptureStats, control: &HearingControl, turns: &Pulse) -> Progress {
    let stalled = stats.last_error().is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut);
    Progress {
        capture_ms: stats.last_progress_ms.load(Relaxed),
        front_end: control.frames(),
        recovering: stats.status() != CaptureStatus::Running && !stalled,
        attempts: Some(stats.reads.load(Relaxed)),
        turn_due_ms: turns.due_ms(),
    }
}

/// The event for a problem that came or went since the last look.
fn change_of_problem(was: &mut bool, now: &Status) -> Option<What> {
    if std::mem::replace(was, now.problem) == now.problem {
        return None;
    }
    let (part, message) = match now.worst() {
        Some((part, component)) => (Some(part), component.condition.sentence().map(str::to_owned)),
        None => (None, None),
    };
    Some(What::Problem { problem: now.problem, part, message })
}

pub struct SoundWatch {
    pub device: String,
    pub stats: Arc<CaptureStats>,
    pub control: Arc<HearingControl>,
    pub health: Health,
    pub events: Events,
}

/// Counters as they were at the last look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counters {
    xruns: u64,
    suspends: u64,
    reopens: u64,
    dropped: u64,
}

impl SoundWatch {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut status = self.health.watch();
        let mut seen = Counters::default();
        let mut problem = false;
        let (mut told_ready, mut heard_anything) = (false, false);
        let mut not_running = 0_u32;
        let started = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Ok(()) = status.changed() => {
                    let now = status.borrow_and_update().clone();
                    notify::status(&now.words());
                    if let Some(what) = change_of_problem(&mut problem, &now) {
                        self.events.emit(Event::at(self.control.position(), what)).await;
                    }
                    continue;
                }
                _ = ticks.tick() => {}
            }
            self.report_losses(&mut seen);
            let capture = self.stats.status();
            // One overrun caught by one look is not a microphone that is away.
            not_running = if capture == CaptureStatus::Running { 0 } else { not_running + 1 };
            if not_running != 1 {
                self.report_condition(capture, started.elapsed());
            }
            if capture == CaptureStatus::Running && !heard_anything {
                heard_anything = true;
                self.health.set_stage(State::Idle);
                self.events.emit(Event::at(FramePos(0), What::Ready { source: self.device.clone() })).await;
            }
            if !told_ready && (heard_anything || started.elapsed() > GIVE_UP_WAITING) {
                told_ready = true;
                if !heard_anything {
                    self.health.set_stage(State::Idle);
                }
                notify::ready(&self.health.status().words());
            }
        }
    }

    fn report_losses(&self, seen: &mut Counters) {
        let now = Counters {
            xruns: self.stats.xruns.load(Relaxed),
            suspends: self.stats.suspends.load(Relaxed),
            reopens: self.stats.reopens.load(Relaxed),
            dropped: self.stats.dropped_periods.load(Relaxed),
        };
        if now == *seen {
            return;
        }
        let lost = self.stats.lost_samples.load(Relaxed);
        for (what, before, after) in [
            ("overruns of the microphone's buffer", seen.xruns, now.xruns),
            ("suspends of the microphone", seen.suspends, now.suspends),
            ("re-opens of the microphone", seen.reopens, now.reopens),
            ("periods of sound dropped because the front end was late", seen.dropped, now.dropped),
        ] {
            if after > before {
                log::warn!(total = after, lost_samples = lost; "{} more {what}", after - before);
            }
        }
        *seen = now;
    }

    fn report_condition(&self, capture: CaptureStatus, waited: Duration) {
        let condition = match capture {
            CaptureStatus::Running => match self.stats.sound_fault() {
                None => Condition::Ok,
                Some(fault) => Condition::degraded(format!(
                    "the microphone {:?} gives {}; {}",
                    self.device,
                    fault.words(),
                    fault.fix()
                )),
            },
            CaptureStatus::Starting if waited < Duration::from_secs(1) => return,
            CaptureStatus::Starting | CaptureStatus::Recovering => {
                let why =
                    self.stats.last_error().map_or_else(|| "no sound yet".to_owned(), |e| e.to_string());
                Condition::away(format!(
                    "the microphone {:?} is away ({why}) and is being tried again; typed and remembered \
                     things still work",
                    self.device
                ))
            }
        };
        self.health.set(COMPONENT, condition);
    }
}
