//! Counters and states that the capture thread publishes: atomics only, because it must neither lock nor log.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::clock::frame_of;
use super::measure::SoundFault;
use crate::clock::monotonic_ns;
use crate::units::FramePos;

/// After this long without sound, sound is not assumed to have gone on: the device may stand still. If it is
/// away instead, the position jumps when it comes back.
const MOST_AHEAD: Duration = Duration::from_secs(1);

/// The state of the capture thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CaptureStatus {
    /// No sound has come yet.
    Starting = 0,
    Running = 1,
    /// The device is away or being re-opened.
    Recovering = 2,
}

/// Counters of one capture thread. They only grow; a watcher logs the differences.
#[derive(Debug)]
pub struct CaptureStats {
    /// Calls of the source, with or without sound: they go on while a device is away, and stop if a call
    /// hangs.
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
    /// Samples lost for any reason, at the rate of the source.
    pub lost_samples: AtomicU64,
    /// `CLOCK_MONOTONIC` in milliseconds when sound last came; 0 before the first.
    pub last_progress_ms: AtomicU64,
    /// Position on the audio clock minus `CLOCK_MONOTONIC`, in ns, when sound last came; one number, so that
    /// it is never read by half. `UNKNOWN` before the first sound.
    ahead_ns: AtomicI64,
    status: AtomicU8,
    last_errno: AtomicI32,
    /// [`SoundFault::code`]; 0 for none.
    sound_fault: AtomicU32,
}

const UNKNOWN: i64 = i64::MIN;

impl Default for CaptureStats {
    fn default() -> Self {
        Self {
            reads: AtomicU64::new(0),
            periods: AtomicU64::new(0),
            xruns: AtomicU64::new(0),
            suspends: AtomicU64::new(0),
            reopens: AtomicU64::new(0),
            dropped_periods: AtomicU64::new(0),
            lost_samples: AtomicU64::new(0),
            last_progress_ms: AtomicU64::new(0),
            ahead_ns: AtomicI64::new(UNKNOWN),
            status: AtomicU8::new(CaptureStatus::Starting as u8),
            last_errno: AtomicI32::new(0),
            sound_fault: AtomicU32::new(0),
        }
    }
}

impl CaptureStats {
    /// The position on the audio clock of the sound that the device hears now. Its frames come out of the
    /// front end later; the position identifies them. It is early by the sound that waits in the device's
    /// buffer.
    pub fn position(&self) -> FramePos {
        let ahead = self.ahead_ns.load(Ordering::Relaxed);
        if ahead == UNKNOWN {
            return FramePos(0);
        }
        let now = monotonic_ns();
        let last = self.last_progress_ms.load(Ordering::Relaxed).saturating_mul(1_000_000);
        let most = last.saturating_add(u64::try_from(MOST_AHEAD.as_nanos()).unwrap_or(u64::MAX));
        FramePos(frame_of(i128::from(now.min(most)) + i128::from(ahead)))
    }

    /// Says that sound has come up to `sound_ns` after the first sample.
    pub(crate) fn sound_came(&self, sound_ns: u64) {
        let now = monotonic_ns();
        let ahead = i128::from(sound_ns) - i128::from(now);
        self.ahead_ns.store(i64::try_from(ahead).unwrap_or(UNKNOWN), Ordering::Relaxed);
        self.last_progress_ms.store(now / 1_000_000, Ordering::Relaxed);
    }

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

    /// The fault of the sound itself that has lasted for a minute or longer.
    pub fn sound_fault(&self) -> Option<SoundFault> {
        SoundFault::of_code(self.sound_fault.load(Ordering::Relaxed))
    }

    pub(super) fn set_sound_fault(&self, fault: Option<SoundFault>) {
        self.sound_fault.store(fault.map_or(0, SoundFault::code), Ordering::Relaxed);
    }

    pub(super) fn count(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_moves_on_with_time_and_stands_still_with_a_device_that_does() {
        let stats = CaptureStats::default();
        assert_eq!(stats.position(), FramePos(0), "no sound yet");
        stats.sound_came(5_000_000_000);
        let soon = stats.position();
        assert!((500..510).contains(&soon.0), "{soon:?}");
        std::thread::sleep(Duration::from_millis(60));
        assert!((506..550).contains(&stats.position().0), "{:?}", stats.position());
        // Sound last came long ago.
        let long_ago = monotonic_ns() - 10_000_000_000;
        stats.ahead_ns.store(5_000_000_000 - i64::try_from(long_ago).unwrap(), Ordering::Relaxed);
        stats.last_progress_ms.store(long_ago / 1_000_000, Ordering::Relaxed);
        assert!((599..=600).contains(&stats.position().0), "{:?}", stats.position());
    }
}
