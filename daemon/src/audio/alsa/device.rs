//! Opening a capture device: the parameters to ask for, their substitutes, and the buffers that go with it.

use std::ffi::CStr;

use alsa::pcm::{Access, Format, HwParams, PCM};
use alsa::poll::{Descriptors, pollfd};
use alsa::{Direction, Output, ValueOr};

use crate::audio::sample::Encoding;
use crate::audio::section::Audio;
use crate::audio::{Channel, MAX_CHANNELS, MAX_PERIOD_SAMPLES, SourceError};

/// Formats in order of preference: the widest first, because an I2S microphone keeps quiet speech in its low
/// bits.
const FORMATS: [(Format, Encoding); 5] = [
    (Format::S32LE, Encoding::S32),
    (Format::FloatLE, Encoding::F32),
    (Format::S24LE, Encoding::S24In32),
    (Format::S243LE, Encoding::S24Packed),
    (Format::S16LE, Encoding::S16),
];
const DEFAULT_RATE_HZ: u32 = 48_000;
const MIN_RATE_HZ: u32 = 8_000;
const MAX_RATE_HZ: u32 = 96_000;
/// The longest delay of the thread before sound is lost.
const BUFFER_US: u32 = 400_000;

/// An open, running capture device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) pcm: PCM,
    pub(super) descriptors: Vec<pollfd>,
    pub(super) encoding: Encoding,
    pub(super) channels: u16,
    pub(super) rate_hz: u32,
    pub(super) frame_bytes: usize,
    /// Room for one period of interleaved sound.
    pub(super) buffer: Vec<u8>,
}

pub(super) enum OpenError {
    /// Waiting may help: the device is absent, busy, or not permitted yet. Holds the errno.
    Away(i32),
    /// The device answers but cannot be used as configured.
    Unusable(SourceError),
}

impl From<alsa::Error> for OpenError {
    fn from(error: alsa::Error) -> Self {
        Self::Away(errno(&error))
    }
}

/// alsa-rs keeps the sign of some errors as alsa-lib returned it.
pub(super) fn errno(error: &alsa::Error) -> i32 {
    error.errno().abs()
}

/// The parameters that device and settings agreed on.
struct Agreed {
    encoding: Encoding,
    channels: u16,
    rate_hz: u32,
    period_frames: usize,
}

impl Device {
    pub(super) fn open(name: &CStr, settings: &Audio) -> Result<Self, OpenError> {
        // alsa-lib prints every failure in here to stderr, every two seconds; the counters report it once.
        // The handler keeps the text of this attempt only.
        let _ = Output::local_error_handler();
        let pcm = PCM::open(name, Direction::Capture, true)?;
        let agreed = negotiate(&pcm, settings)?;
        let frame_bytes = agreed.encoding.bytes() * usize::from(agreed.channels);
        let mut descriptors = vec![pollfd { fd: -1, events: 0, revents: 0 }; pcm.count()];
        let filled = pcm.fill(&mut descriptors)?;
        descriptors.truncate(filled);
        pcm.prepare()?;
        pcm.start()?;
        Ok(Self {
            pcm,
            descriptors,
            encoding: agreed.encoding,
            channels: agreed.channels,
            rate_hz: agreed.rate_hz,
            frame_bytes,
            buffer: vec![0; agreed.period_frames * frame_bytes],
        })
    }

    /// Starts the stream again after an overrun.
    pub(super) fn restart(&mut self) -> Result<(), alsa::Error> {
        self.pcm.prepare()?;
        self.pcm.start()
    }

    /// Frames captured and not yet read.
    pub(super) fn avail(&self) -> u64 {
        self.pcm.avail_update().ok().and_then(|frames| u64::try_from(frames).ok()).unwrap_or(0)
    }
}

fn negotiate(pcm: &PCM, settings: &Audio) -> Result<Agreed, OpenError> {
    let unusable = |what: &str| {
        OpenError::Unusable(SourceError::UnusableDevice {
            device: settings.device.clone(),
            what: what.into(),
        })
    };
    let hw = HwParams::any(pcm)?;
    hw.set_access(Access::RWInterleaved)?;
    // The plug layer's resampler is linear; ours is not. Devices without a plug layer refuse the setting.
    let _ = hw.set_rate_resample(false);
    let (format, encoding) = FORMATS
        .into_iter()
        .find(|(format, _)| hw.test_format(*format).is_ok())
        .ok_or_else(|| unusable("sample format that is understood (S16, S24, S32 or float)"))?;
    hw.set_format(format)?;
    let channels = choose_channels(&hw, settings)?;
    let rate_hz = hw.set_rate_near(settings.rate_hz.unwrap_or(DEFAULT_RATE_HZ), ValueOr::Nearest)?;
    if !(MIN_RATE_HZ..=MAX_RATE_HZ).contains(&rate_hz) {
        return Err(unusable("sample rate between 8 and 96 kHz"));
    }
    hw.set_period_time_near(settings.period_ms * 1_000, ValueOr::Nearest)?;
    hw.set_buffer_time_near(BUFFER_US, ValueOr::Nearest)?;
    pcm.hw_params(&hw)?;

    let buffer_frames = usize::try_from(hw.get_buffer_size()?).unwrap_or(0);
    // The size of a read does not depend on the device's own period, which some sound servers make very
    // long.
    let period_frames = (rate_hz as usize * settings.period_ms as usize / 1_000)
        .clamp(1, MAX_PERIOD_SAMPLES)
        .min((buffer_frames / 2).max(1));
    let sw = pcm.sw_params_current()?;
    let frames = alsa::pcm::Frames::try_from(period_frames).unwrap_or(1);
    sw.set_avail_min(frames)?;
    sw.set_start_threshold(1)?;
    pcm.sw_params(&sw)?;
    Ok(Agreed { encoding, channels, rate_hz, period_frames })
}

/// One channel where the mean is wanted and the device can do it; else as few as include the wanted one. A
/// layer that converts (it offers any number of channels) is asked for at least two. Asked for one it would
/// mix them, and nobody could hear that one of the channels is dead.
fn choose_channels(hw: &HwParams<'_>, settings: &Audio) -> Result<u16, OpenError> {
    let converts = hw.get_channels_max().is_ok_and(|most| most > u32::from(MAX_CHANNELS));
    let want = match settings.channel {
        Channel::Mean if converts => 2,
        Channel::Mean => 1,
        Channel::Nth(n) => u32::from(n).saturating_add(1).max(2),
    };
    let channels = u16::try_from(hw.set_channels_near(want)?).unwrap_or(u16::MAX);
    let device = || settings.device.clone();
    match settings.channel {
        Channel::Nth(wanted) if !settings.channel.fits(channels) => {
            Err(OpenError::Unusable(SourceError::NoSuchDeviceChannel { device: device(), wanted, channels }))
        }
        _ if channels > MAX_CHANNELS => Err(OpenError::Unusable(SourceError::UnusableDevice {
            device: device(),
            what: format!("mode with {MAX_CHANNELS} channels or fewer"),
        })),
        _ => Ok(channels),
    }
}
