//! The wall-clock seam. Monotonic time is passed in by callers; only this module reads the wall clock.
//!
//! A Raspberry Pi has no clock battery: until NTP has set it, the wall clock is a guess. Every stored row
//! keeps a [`Stamp`] so that it can be re-stamped later.

mod timedated;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::time::{ClockId, clock_gettime};

pub const DAY_MS: i64 = 86_400_000;

/// The time of an event, as well as this device can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Wall clock, milliseconds since 1970 UTC. A guess unless `synced`.
    pub wall_unix_ms: i64,
    /// Whether the kernel says that the wall clock is disciplined by NTP.
    pub synced: bool,
    /// Kernel boot id: monotonic times of different boots do not compare.
    pub boot_id: Arc<str>,
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub monotonic_ns: i64,
}

/// The source of time: the system, or a test.
#[derive(Debug, Clone)]
pub enum Clock {
    System,
    /// A wall clock that a test sets (milliseconds since 1970 UTC), synced; the monotonic time is the
    /// system's.
    Fixed(Arc<AtomicI64>),
    /// All of it is driven by a test.
    Driven(Arc<DrivenClock>),
}

/// A clock that a test drives in every part: it can be unset, jump, and go on in another boot.
#[derive(Debug)]
pub struct DrivenClock {
    pub wall_unix_ms: AtomicI64,
    pub monotonic_ns: AtomicI64,
    pub synced: AtomicBool,
    pub boot_id: Arc<str>,
}

impl DrivenClock {
    pub fn new(boot_id: &str, wall_unix_ms: i64, synced: bool) -> Arc<Self> {
        Arc::new(Self {
            wall_unix_ms: AtomicI64::new(wall_unix_ms),
            monotonic_ns: AtomicI64::new(1_000_000_000),
            synced: AtomicBool::new(synced),
            boot_id: boot_id.into(),
        })
    }

    /// Lets time pass: both clocks go on.
    pub fn pass(&self, ms: i64) {
        self.wall_unix_ms.fetch_add(ms, Ordering::Relaxed);
        self.monotonic_ns.fetch_add(ms.saturating_mul(1_000_000), Ordering::Relaxed);
    }

    /// Sets the wall clock, as NTP does: the monotonic one does not notice.
    pub fn set(&self, wall_unix_ms: i64, synced: bool) {
        self.wall_unix_ms.store(wall_unix_ms, Ordering::Relaxed);
        self.synced.store(synced, Ordering::Relaxed);
    }
}

impl Clock {
    pub fn stamp(&self) -> Stamp {
        if let Self::Driven(driven) = self {
            return Stamp {
                wall_unix_ms: self.now_unix_ms(),
                synced: driven.synced.load(Ordering::Relaxed),
                boot_id: driven.boot_id.clone(),
                monotonic_ns: driven.monotonic_ns.load(Ordering::Relaxed),
            };
        }
        let boot = clock_gettime(ClockId::Boottime);
        Stamp {
            wall_unix_ms: self.now_unix_ms(),
            synced: match self {
                Self::System => wall_clock_synced(),
                Self::Fixed(_) | Self::Driven(_) => true,
            },
            boot_id: boot_id(),
            monotonic_ns: boot.tv_sec.saturating_mul(1_000_000_000).saturating_add(boot.tv_nsec),
        }
    }

    /// Wall clock in milliseconds since 1970 UTC.
    pub fn now_unix_ms(&self) -> i64 {
        match self {
            Self::System => {
                let now = clock_gettime(ClockId::Realtime);
                now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
            }
            Self::Fixed(ms) => ms.load(Ordering::Relaxed),
            Self::Driven(driven) => driven.wall_unix_ms.load(Ordering::Relaxed),
        }
    }
}

/// systemd-timesyncd leaves this file behind once it has set the clock; other NTP daemons clear the kernel's
/// unsynchronised bit, which `adjtimex` reports. In the sandbox of the units nobody may call that, and
/// [`timedated`] is asked.
fn wall_clock_synced() -> bool {
    const TIMESYNCD_MARK: &str = "/run/systemd/timesync/synchronized";
    if std::path::Path::new(TIMESYNCD_MARK).exists() {
        return true;
    }
    #[expect(unsafe_code, reason = "no safe wrapper of adjtimex in our crates")]
    // SAFETY: `modes` = 0 makes adjtimex a pure read into a zeroed struct that lives for the whole call.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    let forbidden =
        state < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::PermissionDenied;
    if forbidden { timedated::synced() } else { state >= 0 && state != libc::TIME_ERROR }
}

fn boot_id() -> Arc<str> {
    static ID: OnceLock<Arc<str>> = OnceLock::new();
    ID.get_or_init(|| {
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".into(), |id| id.trim().into())
    })
    .clone()
}

/// `CLOCK_MONOTONIC` in milliseconds.
pub(crate) fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
