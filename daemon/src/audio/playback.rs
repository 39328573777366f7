//! Mono sound out of a loudspeaker, to its end or until it is cut. The thread of it is `loudspeaker.rs`.

use std::ffi::CString;
use std::time::{Duration, Instant};

use alsa::pcm::{Access, Format, HwParams, PCM, State};
use alsa::{Direction, Output, ValueOr};
use tokio_util::sync::CancellationToken;

use super::resample::{ResampleError, resample_all};

use super::MAX_CHANNELS;
use super::wav::to_i16;

const FORMATS: [Format; 3] = [Format::S16LE, Format::S32LE, Format::FloatLE];
const BUFFER_US: u32 = 200_000;
const PERIOD_US: u32 = 20_000;
/// Longest wait between two looks at `cut`.
const WAIT_MS: u32 = 50;
/// A device that takes nothing for this long is given up.
const STALL: Duration = Duration::from_secs(3);

/// Why nothing, or not everything, was heard.
#[derive(Debug, thiserror::Error)]
pub enum PlaybackError {
    /// There is no loudspeaker: say so once and go on with text.
    #[error("there is no playback device {device}; set audio.playback_device (`aplay -L` lists them)")]
    NoDevice { device: String, source: alsa::Error },
    #[error("playback device {device} is in use by another program")]
    Busy { device: String, source: alsa::Error },
    #[error("playback device {device} offers no {what}; set audio.playback_device to another one")]
    Unusable { device: String, what: &'static str },
    #[error("playback on {device} failed")]
    Device { device: String, source: alsa::Error },
    #[error("playback device {device} takes no sound")]
    Stalled { device: String },
    #[error("converting speech to the rate of the playback device")]
    Resample(#[from] ResampleError),
}

impl PlaybackError {
    /// Whether there is no device to play on, as opposed to a fault.
    pub fn is_no_device(&self) -> bool {
        matches!(self, Self::NoDevice { .. })
    }
}

/// A playback device (any ALSA PCM name) that is opened with the first sound and stays open until the end.
/// Everything here blocks: call it from a thread that may. An underrun between two sounds is no error.
pub struct Player<'a> {
    device: &'a str,
    speaker: Option<Speaker<'a>>,
}

impl<'a> Player<'a> {
    pub fn new(device: &'a str) -> Self {
        Self { device, speaker: None }
    }

    /// Plays mono `samples` in [-1, 1] at `rate_hz`; returns when the device has taken them all, or shortly
    /// after `cut` is cancelled.
    ///
    /// # Errors
    /// See [`PlaybackError`].
    pub fn play(
        &mut self,
        samples: &[f32],
        rate_hz: u32,
        cut: &CancellationToken,
    ) -> Result<(), PlaybackError> {
        if samples.is_empty() || cut.is_cancelled() {
            return Ok(());
        }
        let speaker: &Speaker<'a> = match &self.speaker {
            Some(speaker) => speaker,
            None => self.speaker.insert(Speaker::open(self.device, rate_hz)?),
        };
        let resampled;
        let samples = if speaker.rate_hz == rate_hz {
            samples
        } else {
            resampled = resample_all(samples, rate_hz, speaker.rate_hz)?;
            &resampled
        };
        speaker.write(&speaker.encode(samples), cut)?;
        speaker.start(cut)
    }

    /// Returns when the last sample was heard, or shortly after `cut` is cancelled.
    pub fn finish(self, cut: &CancellationToken) {
        if let Some(speaker) = &self.speaker {
            speaker.finish(cut);
        }
    }
}

struct Speaker<'a> {
    device: &'a str,
    pcm: PCM,
    format: Format,
    channels: usize,
    rate_hz: u32,
    period_frames: usize,
}

impl<'a> Speaker<'a> {
    fn open(device: &'a str, rate_hz: u32) -> Result<Self, PlaybackError> {
        // Keeps alsa-lib from printing to stderr; its failures come back as errors.
        let _ = Output::local_error_handler();
        let invalid =
            || PlaybackError::Unusable { device: device.into(), what: "name that ALSA understands" };
        let name = CString::new(device).map_err(|_| invalid())?;
        let pcm = PCM::open(&name, Direction::Playback, true).map_err(|source| {
            let device = device.to_owned();
            match source.errno().abs() {
                libc::EBUSY | libc::EAGAIN => PlaybackError::Busy { device, source },
                libc::EACCES | libc::EPERM => PlaybackError::Device { device, source },
                _ => PlaybackError::NoDevice { device, source },
            }
        })?;
        let mut speaker = Self { device, pcm, format: Format::S16LE, channels: 1, rate_hz, period_frames: 1 };
        speaker.negotiate()?;
        Ok(speaker)
    }

    fn negotiate(&mut self) -> Result<(), PlaybackError> {
        let fail = |source| PlaybackError::Device { device: self.device.into(), source };
        let unusable = |what| PlaybackError::Unusable { device: self.device.into(), what };
        let hw = HwParams::any(&self.pcm).map_err(fail)?;
        hw.set_access(Access::RWInterleaved).map_err(fail)?;
        // Our resampler is better than the plug layer's; devices without a plug layer refuse the setting.
        let _ = hw.set_rate_resample(false);
        let format = FORMATS
            .into_iter()
            .find(|format| hw.test_format(*format).is_ok())
            .ok_or_else(|| unusable("sample format that is understood (S16, S32 or float)"))?;
        hw.set_format(format).map_err(fail)?;
        let channels = hw.set_channels_near(1).map_err(fail)? as usize;
        if channels > usize::from(MAX_CHANNELS) {
            return Err(unusable("mode with 8 channels or fewer"));
        }
        let rate_hz = hw.set_rate_near(self.rate_hz, ValueOr::Nearest).map_err(fail)?;
        hw.set_period_time_near(PERIOD_US, ValueOr::Nearest).map_err(fail)?;
        hw.set_buffer_time_near(BUFFER_US, ValueOr::Nearest).map_err(fail)?;
        self.pcm.hw_params(&hw).map_err(fail)?;
        let buffer = hw.get_buffer_size().map_err(fail)?;
        let period = hw.get_period_size().map_err(fail)?;
        let sw = self.pcm.sw_params_current().map_err(fail)?;
        // Starts when the buffer is all but full, so that the first write does not run dry.
        sw.set_start_threshold((buffer - period).max(1)).map_err(fail)?;
        sw.set_avail_min(period).map_err(fail)?;
        self.pcm.sw_params(&sw).map_err(fail)?;
        drop(sw);
        drop(hw);
        let period_frames = usize::try_from(period).unwrap_or(1).max(1);
        (self.format, self.channels, self.rate_hz, self.period_frames) =
            (format, channels, rate_hz, period_frames);
        Ok(())
    }

    /// Interleaved bytes in the device's format, the same sound on every channel, followed by one period of
    /// silence so that the last sample is not held back in an unfinished period.
    fn encode(&self, samples: &[f32]) -> Vec<u8> {
        let silence = std::iter::repeat_n(0.0, self.period_frames);
        let all = samples.iter().copied().chain(silence);
        let mut bytes = Vec::with_capacity((samples.len() + self.period_frames) * self.frame_bytes());
        for sample in all {
            for _ in 0..self.channels {
                match self.format {
                    Format::S16LE => bytes.extend_from_slice(&to_i16(sample).to_le_bytes()),
                    Format::S32LE => {
                        bytes.extend_from_slice(&(i32::from(to_i16(sample)) << 16).to_le_bytes());
                    }
                    _ => bytes.extend_from_slice(&sample.clamp(-1.0, 1.0).to_le_bytes()),
                }
            }
        }
        bytes
    }

    fn frame_bytes(&self) -> usize {
        self.channels * if self.format == Format::S16LE { 2 } else { 4 }
    }

    fn write(&self, mut bytes: &[u8], cut: &CancellationToken) -> Result<(), PlaybackError> {
        let block = self.period_frames * self.frame_bytes();
        let mut progress = Instant::now();
        while !bytes.is_empty() && !cut.is_cancelled() {
            let next = bytes.get(..block).unwrap_or(bytes);
            match self.pcm.io_bytes().writei(next) {
                Ok(0) => {}
                Ok(frames) => {
                    bytes = bytes.get(frames * self.frame_bytes()..).unwrap_or_default();
                    progress = Instant::now();
                    continue;
                }
                Err(error) if error.errno().abs() == libc::EAGAIN => {}
                Err(error) => self.recover(error)?,
            }
            if progress.elapsed() > STALL {
                return Err(PlaybackError::Stalled { device: self.device.into() });
            }
            if let Err(error) = self.pcm.wait(Some(WAIT_MS)) {
                self.recover(error)?;
            }
        }
        Ok(())
    }

    /// An underrun or a suspend starts the stream afresh; anything else ends it.
    fn recover(&self, error: alsa::Error) -> Result<(), PlaybackError> {
        let failed = |source| PlaybackError::Device { device: self.device.into(), source };
        match error.errno().abs() {
            libc::EPIPE | libc::ESTRPIPE => self.pcm.prepare().map_err(failed),
            libc::EINTR => Ok(()),
            _ => Err(failed(error)),
        }
    }

    /// Sound shorter than the start threshold does not start by itself.
    fn start(&self, cut: &CancellationToken) -> Result<(), PlaybackError> {
        if self.pcm.state() == State::Prepared && !cut.is_cancelled() {
            let failed = |source| PlaybackError::Device { device: self.device.into(), source };
            self.pcm.start().map_err(failed)?;
        }
        Ok(())
    }

    /// Waits until everything written has been heard. Not `snd_pcm_drain`: it blocks in some plug-ins and
    /// cannot be cut.
    fn finish(&self, cut: &CancellationToken) {
        let delay = self.pcm.delay().map_or(0.0, |frames| frames as f64).max(0.0);
        let left = Duration::from_secs_f64(delay / f64::from(self.rate_hz));
        let deadline = Instant::now() + left.max(Duration::from_micros(BUFFER_US.into())) + STALL;
        while !cut.is_cancelled() && Instant::now() < deadline {
            // An underrun is the awaited end; `delay` fails then.
            match (self.pcm.state(), self.pcm.delay()) {
                (State::Running, Ok(1..)) => std::thread::sleep(Duration::from_millis(5)),
                _ => break,
            }
        }
    }
}

impl Drop for Speaker<'_> {
    fn drop(&mut self) {
        // The rest of the buffer must not be heard: it was cut, or it is silence.
        let _ = self.pcm.drop();
    }
}
