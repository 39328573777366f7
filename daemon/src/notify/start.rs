//! A long start: its limits, and the reports to the service manager that it goes on.
//!
//! ```text
//!  TimeoutStartSec=60 ──▶ killed            every 5 s: the process has worked (CPU, bytes), or it waits in a step that
//!        ▲                                  may wait ──▶ EXTEND_TIMEOUT_USEC, 60 s from then
//!        └── moved on by every extension    else nothing: 60 s later the service manager ends it
//! ```
//!
//! `EXTEND_TIMEOUT_USEC` counts from its sending, so one at the start does not help the step after it. Work
//! is seen from outside: a migration, a repair or a check of a large file, models on a slow card all use the
//! processor or move bytes. A wait does neither, so each wait has an entry here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

/// `TimeoutStartSec=` of `systemd/jarvisd.service`; each extension is as long.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for another process that repairs the database: a large file takes its time.
pub const REPAIR_OF_ANOTHER: Duration = Duration::from_secs(120);
/// Longest safety backup before a migration.
pub const SAFETY_BACKUP: Duration = Duration::from_secs(45);

/// A start that works for longer than this goes round in circles.
const LONGEST: Duration = Duration::from_secs(6 * 3_600);
const LOOK_EVERY: Duration = Duration::from_secs(5);
const SLEEP: Duration = Duration::from_millis(100);
/// Less than this between two looks is no work: the looks themselves and a waiting loop use as much.
const LEAST_CPU: Duration = Duration::from_millis(20);
const LEAST_BYTES: u64 = 4_096;

/// A step of start-up in which this process may stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    RepairOfAnother,
    SafetyBackup,
}

impl Wait {
    fn at_most(self) -> Duration {
        match self {
            Self::RepairOfAnother => REPAIR_OF_ANOTHER,
            Self::SafetyBackup => SAFETY_BACKUP,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::RepairOfAnother => "starting: waiting for another program that repairs the database",
            Self::SafetyBackup => "starting: a backup before the database is brought up to date",
        }
    }
}

static READY: AtomicBool = AtomicBool::new(false);
static WAITING: Mutex<Option<(Wait, Instant)>> = Mutex::new(None);

fn waiting() -> MutexGuard<'static, Option<(Wait, Instant)>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives a [`Wait`] goes on.
#[derive(Debug)]
pub struct Waiting(());

impl Drop for Waiting {
    fn drop(&mut self) {
        *waiting() = None;
    }
}

/// Begins a wait. Outside of a start it changes nothing.
pub fn waits(what: Wait) -> Waiting {
    *waiting() = Some((what, Instant::now()));
    if !READY.load(Ordering::Relaxed) {
        super::status(what.words());
    }
    Waiting(())
}

/// The start is over.
pub(super) fn is_over() {
    READY.store(true, Ordering::Relaxed);
}

/// The work of the process so far.
#[derive(Debug, Clone, Copy)]
struct Work {
    cpu: Duration,
    /// Read and written, by the kernel's count.
    bytes: u64,
}

impl Work {
    fn so_far() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let part = |n: i64| u64::try_from(n).unwrap_or(0);
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let bytes = io
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| matches!(*name, "rchar" | "wchar" | "read_bytes" | "write_bytes"))
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        let cpu = Duration::from_secs(part(cpu.tv_sec)) + Duration::from_nanos(part(cpu.tv_nsec));
        Self { cpu, bytes }
    }

    fn since(self, earlier: Self) -> bool {
        self.cpu.saturating_sub(earlier.cpu) >= LEAST_CPU
            || self.bytes.saturating_sub(earlier.bytes) >= LEAST_BYTES
    }
}

/// Runs on a thread of its own until the service manager got READY, or `stop`.
pub fn keep_alive(stop: &CancellationToken) {
    let began = Instant::now();
    let mut work = Work::so_far();
    let mut told = false;
    super::extend_timeout(TIMEOUT);
    let over = || READY.load(Ordering::Relaxed) || stop.is_cancelled();
    while began.elapsed() < LONGEST {
        let look = Instant::now() + LOOK_EVERY;
        while Instant::now() < look {
            if over() {
                return;
            }
            std::thread::sleep(SLEEP);
        }
        let now = Work::so_far();
        let may_wait = waiting().is_some_and(|(what, since)| since.elapsed() <= what.at_most());
        if now.since(work) || may_wait {
            super::extend_timeout(TIMEOUT);
            told = false;
        } else if !std::mem::replace(&mut told, true) {
            log::warn!(
                "the start stands still; the service manager ends it if this lasts {} s",
                TIMEOUT.as_secs()
            );
        }
        work = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_and_a_wait_is_none() {
        let before = Work::so_far();
        std::thread::sleep(Duration::from_millis(50));
        let mut sum = 0_u64;
        let end = Instant::now() + Duration::from_secs(5);
        // Until this thread has had the processor for long enough, even if other programs run.
        while !Work::so_far().since(before) && Instant::now() < end {
            sum = (0..100_000_u64).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        assert!(Work::so_far().since(before), "{sum}");
        assert!(!before.since(before));
    }

    /// The unit's value of `key`, in seconds.
    fn unit(key: &str) -> Duration {
        let unit = include_str!("../../../systemd/jarvisd.service");
        let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Duration::from_secs(value.unwrap().parse().unwrap())
    }

    #[test]
    fn the_unit_gives_the_time_that_is_reckoned_with() {
        assert_eq!(unit("TimeoutStartSec"), TIMEOUT);
        assert!(TIMEOUT >= 4 * LOOK_EVERY, "a look or two may come late on a busy machine");
        assert!(unit("TimeoutStopSec") > crate::daemon::STOPS_WITHIN);
        for wait in [Wait::RepairOfAnother, Wait::SafetyBackup] {
            assert!(wait.at_most() < LONGEST && wait.words().starts_with("starting"), "{wait:?}");
        }
    }
}
