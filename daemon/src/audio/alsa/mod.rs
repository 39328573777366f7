//! A microphone through ALSA: opens it, reads it, and recovers after any fault of the device.
//!
//! ```text
//!            open ok                    data
//!  Closed ───────────▶ Open, silent ───────────▶ Open, running ◀──┐
//!    ▲ ▲                 │                         │              │ prepare + start
//!    │ └─ back-off ──────┤ ENODEV, EIO, POLLERR,   │ EPIPE ───────┤ (xrun)
//!    │    100 ms … 2 s   │ no data for 5 s, …      │ ESTRPIPE ────┘ (suspend)
//!    └───────────────────┴─────────────────────────┘
//! ```
//!
//! Invariants:
//! * While the device runs, `read` allocates nothing, takes no lock, writes no log line and does no I/O but
//!   ALSA's. Opening a device allocates (alsa-lib does, and the buffers are sized for what the device
//!   offers); nothing is lost by that, because there is no sound to wait for.
//! * No call takes longer than about 100 ms, so that the thread can be stopped. alsa-lib itself may block
//!   while it opens a device of a sound server.
//! * A device that is away is waited for, at start too. Only a device that answers and cannot be used is an
//!   error.

mod device;

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use alsa::pcm::State as PcmState;
use alsa::poll::{Descriptors, Flags, poll};

use super::measure::Watch;
use super::sample::to_mono;
use super::section::Audio;
use super::{CaptureStats, CaptureStatus, Channel, Measure, Period, Read, SoundFault, Source, SourceError};
use crate::clock::monotonic_ns;
use device::{Device, OpenError};

/// Longest wait for data in one call.
const POLL_MS: i32 = 100;
const MAX_SLEEP_NS: u64 = 100_000_000;
const FIRST_BACK_OFF_NS: u64 = 100_000_000;
const MAX_BACK_OFF_NS: u64 = 2_000_000_000;
/// A device that is open and yields nothing for this long is closed and opened again (USB microphones can
/// hang).
const STALL_NS: u64 = 5_000_000_000;
/// Wait after a wake-up without data: some plug-ins signal too early, and the thread must not spin.
const FALSE_WAKE: Duration = Duration::from_millis(2);
/// Wait between attempts to resume a suspended device.
const RESUME_WAIT: Duration = Duration::from_millis(50);

/// A microphone as a [`Source`].
#[derive(Debug)]
pub struct AlsaSource {
    settings: Audio,
    name: CString,
    stats: Arc<CaptureStats>,
    state: State,
    watch: Watch,
    back_off_ns: u64,
    opened_before: bool,
    /// When the newest sound that was read left the microphone; `CLOCK_MONOTONIC`.
    heard_until_ns: Option<u64>,
    /// The stream was interrupted since `heard_until_ns`: the next period says how much is missing.
    interrupted: bool,
}

#[derive(Debug)]
enum State {
    Closed { retry_at_ns: u64 },
    Open { device: Device, progress_at_ns: u64 },
}

/// The result of one look at an open device.
enum Step {
    /// So many bytes are in the buffer.
    Sound(usize),
    Nothing,
    Overrun,
    Suspended,
    /// The device must be closed and opened again.
    Broken(i32),
}

impl AlsaSource {
    /// Does not touch the device yet: a microphone that is not plugged in is waited for.
    ///
    /// # Errors
    /// [`SourceError::BadDeviceName`] for a name that cannot be passed to ALSA.
    pub fn new(settings: Audio, stats: Arc<CaptureStats>) -> Result<Self, SourceError> {
        let bad = |_| SourceError::BadDeviceName { device: settings.device.clone() };
        let name = CString::new(settings.device.as_str()).map_err(bad)?;
        if name.is_empty() {
            return Err(SourceError::BadDeviceName { device: settings.device });
        }
        Ok(Self {
            settings,
            name,
            stats,
            state: State::Closed { retry_at_ns: 0 },
            watch: Watch::default(),
            back_off_ns: FIRST_BACK_OFF_NS,
            opened_before: false,
            heard_until_ns: None,
            interrupted: false,
        })
    }

    /// The sound so far, for a judgement before a minute is over.
    pub fn measured(&self) -> Measure {
        self.watch.whole()
    }

    /// The configured channel; where the mean of the channels cancels out, one of them.
    fn heard(&self) -> Channel {
        match self.stats.sound_fault() {
            Some(SoundFault::Cancelling(loudest)) if self.settings.channel == Channel::Mean => {
                Channel::Nth(loudest)
            }
            _ => self.settings.channel,
        }
    }

    /// One attempt to open the device, if it is time for one.
    fn open(&mut self, retry_at_ns: u64) -> Result<(), SourceError> {
        let now = monotonic_ns();
        if now < retry_at_ns {
            std::thread::sleep(Duration::from_nanos((retry_at_ns - now).min(MAX_SLEEP_NS)));
            return Ok(());
        }
        match Device::open(&self.name, &self.settings) {
            Ok(device) => {
                if self.opened_before {
                    CaptureStats::count(&self.stats.reopens, 1);
                }
                self.opened_before = true;
                self.state = State::Open { device, progress_at_ns: monotonic_ns() };
                Ok(())
            }
            Err(OpenError::Away(errno)) => {
                self.close(errno);
                Ok(())
            }
            Err(OpenError::Unusable(error)) => Err(error),
        }
    }

    /// Closes the device and sets the time of the next attempt.
    fn close(&mut self, errno: i32) {
        self.stats.set_errno(errno);
        self.stats.set_status(CaptureStatus::Recovering);
        self.interrupted = true;
        self.state = State::Closed { retry_at_ns: monotonic_ns() + self.back_off_ns };
        self.back_off_ns = (self.back_off_ns * 2).min(MAX_BACK_OFF_NS);
    }

    /// The device stopped; starts it again where it is.
    fn restart(&mut self, errno: i32) {
        self.stats.set_errno(errno);
        self.stats.set_status(CaptureStatus::Recovering);
        self.interrupted = true;
        if let State::Open { device, .. } = &mut self.state
            && let Err(error) = device.restart()
        {
            self.close(device::errno(&error));
        }
    }

    /// A device in suspend is resumed where it can be, else started afresh.
    fn resume(&mut self) {
        let State::Open { device, .. } = &self.state else { return };
        match device.pcm.resume().map_err(|e| device::errno(&e)) {
            Ok(()) => {}
            Err(libc::EAGAIN) => std::thread::sleep(RESUME_WAIT),
            Err(_) => self.restart(libc::ESTRPIPE),
        }
    }
}

impl Source for AlsaSource {
    fn describe(&self) -> String {
        self.settings.device.clone()
    }

    fn paced(&self) -> bool {
        true
    }

    fn read(&mut self, period: &mut Period) -> Result<Read, SourceError> {
        let heard = self.heard();
        let (device, progress_at_ns) = match &mut self.state {
            State::Closed { retry_at_ns } => {
                let retry_at_ns = *retry_at_ns;
                self.open(retry_at_ns)?;
                return Ok(Read::Nothing);
            }
            State::Open { device, progress_at_ns } => (device, progress_at_ns),
        };
        match device.step(period, heard) {
            Step::Sound(bytes) => {
                let now = monotonic_ns();
                let raw = device.buffer.get(..bytes).unwrap_or(&device.buffer);
                let raw = (raw, device.encoding, device.channels);
                if let Some(fault) = self.watch.add(raw, period.rate_hz, self.settings.channel) {
                    self.stats.set_sound_fault(fault);
                }
                *progress_at_ns = now;
                let behind = device.avail() + period.len as u64;
                let began_ns = now.saturating_sub(samples_to_ns(behind, period.rate_hz));
                period.lost = match self.heard_until_ns {
                    Some(until) if self.interrupted => {
                        ns_to_samples(began_ns.saturating_sub(until), period.rate_hz)
                    }
                    _ => 0,
                };
                self.heard_until_ns = Some(began_ns + samples_to_ns(period.len as u64, period.rate_hz));
                self.interrupted = false;
                self.back_off_ns = FIRST_BACK_OFF_NS;
                return Ok(Read::Period);
            }
            Step::Nothing => {
                if monotonic_ns().saturating_sub(*progress_at_ns) > STALL_NS {
                    self.close(libc::ETIMEDOUT);
                }
            }
            Step::Overrun => {
                CaptureStats::count(&self.stats.xruns, 1);
                self.restart(libc::EPIPE);
            }
            Step::Suspended => {
                if !self.interrupted {
                    CaptureStats::count(&self.stats.suspends, 1);
                }
                self.interrupted = true;
                self.stats.set_errno(libc::ESTRPIPE);
                self.stats.set_status(CaptureStatus::Recovering);
                self.resume();
            }
            Step::Broken(errno) => self.close(errno),
        }
        Ok(Read::Nothing)
    }
}

impl Device {
    /// Waits for data and reads at most one period of it.
    fn step(&mut self, period: &mut Period, channel: Channel) -> Step {
        match poll(&mut self.descriptors, POLL_MS).map_err(|e| device::errno(&e)) {
            Ok(0) => return self.fault_by_state().unwrap_or(Step::Nothing),
            Ok(_) => {}
            Err(libc::EINTR) => return Step::Nothing,
            Err(errno) => return Step::Broken(errno),
        }
        let flags = match self.pcm.revents(&self.descriptors) {
            Ok(flags) => flags,
            Err(error) => return self.step_of(device::errno(&error), Flags::ERR),
        };
        if flags.is_empty() {
            return self.fault_by_state().unwrap_or_else(|| {
                std::thread::sleep(FALSE_WAKE);
                Step::Nothing
            });
        }
        match self.pcm.io_bytes().readi(&mut self.buffer) {
            Ok(0) => Step::Nothing,
            Ok(frames) => {
                let read = frames * self.frame_bytes;
                let bytes = self.buffer.get(..read).unwrap_or(&self.buffer);
                period.rate_hz = self.rate_hz;
                period.len = to_mono(bytes, self.encoding, self.channels, channel, &mut period.samples);
                Step::Sound(read)
            }
            Err(error) => self.step_of(device::errno(&error), flags),
        }
    }

    fn step_of(&self, errno: i32, flags: Flags) -> Step {
        match errno {
            libc::EPIPE => Step::Overrun,
            libc::ESTRPIPE => Step::Suspended,
            libc::EINTR => Step::Nothing,
            libc::EAGAIN if !flags.intersects(Flags::ERR | Flags::HUP | Flags::NVAL) => {
                std::thread::sleep(FALSE_WAKE);
                Step::Nothing
            }
            // An error was signalled that the read does not explain.
            libc::EAGAIN => self.fault_by_state().unwrap_or(Step::Broken(libc::EIO)),
            errno => self.fault_by_state().unwrap_or(Step::Broken(errno)),
        }
    }

    fn fault_by_state(&self) -> Option<Step> {
        match self.pcm.state() {
            PcmState::XRun => Some(Step::Overrun),
            PcmState::Suspended => Some(Step::Suspended),
            PcmState::Disconnected => Some(Step::Broken(libc::ENODEV)),
            _ => None,
        }
    }
}

fn samples_to_ns(samples: u64, rate_hz: u32) -> u64 {
    samples.saturating_mul(1_000_000_000) / u64::from(rate_hz.max(1))
}

fn ns_to_samples(ns: u64, rate_hz: u32) -> u32 {
    let samples = u128::from(ns) * u128::from(rate_hz) / 1_000_000_000;
    u32::try_from(samples).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "test signals are computed in f64 and in numbers that fit"
)]
mod tests;
