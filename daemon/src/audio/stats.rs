//! What the capture thread tells the rest of the daemon: atomics only, because it must neither lock nor log.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// What the capture thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CaptureStatus {
    /// No sound has come yet.
    Starting = 0,
    Running = 1,
    /// The device is away or being re-opened.
    Recovering = 2,
}

/// Counters of one capture thread. They only grow; whoever watches them logs the differences.
#[derive(Debug, Default)]
pub struct CaptureStats {
    /// Calls of the source, with or without sound: they go on while a device is away, and stop if a call hangs.
    pub reads: AtomicU64,
    /// Periods read from the source.
    pub periods: AtomicU64,
    /// Overruns reported by the device (EPIPE).
    pub xruns: AtomicU64,
    /// Suspends of the device (ESTRPIPE).
    pub suspends: AtomicU64,
    /// Successful opens after the first.
    pub reopens: AtomicU64,
    /// Periods dropped because the ring was full.
    pub dropped_periods: AtomicU64,
    /// Samples lost for whatever reason, at the rate of the source.
    pub lost_samples: AtomicU64,
    /// `CLOCK_MONOTONIC` in milliseconds when sound last came; 0 before the first.
    pub last_progress_ms: AtomicU64,
    status: AtomicU8,
    last_errno: AtomicI32,
}

impl CaptureStats {
    pub fn status(&self) -> CaptureStatus {
        match self.status.load(Ordering::Relaxed) {
            1 => CaptureStatus::Running,
            2 => CaptureStatus::Recovering,
            _ => CaptureStatus::Starting,
        }
    }

    pub fn set_status(&self, status: CaptureStatus) {
        self.status.store(status as u8, Ordering::Relaxed);
    }

    /// The error of the last failed call to the device, if there was one.
    pub fn last_error(&self) -> Option<std::io::Error> {
        match self.last_errno.load(Ordering::Relaxed) {
            0 => None,
            errno => Some(std::io::Error::from_raw_os_error(errno)),
        }
    }

    pub(super) fn set_errno(&self, errno: i32) {
        self.last_errno.store(errno, Ordering::Relaxed);
    }

    pub(super) fn count(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// `CLOCK_MONOTONIC` in milliseconds, the unit of [`CaptureStats::last_progress_ms`].
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(super) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
