//! Sources and sinks of sound.
//!
//! [`Source`] is a seam because a microphone and a recording differ in everything but what they yield:
//! periods of mono sound at the source's own rate. The capture thread copies each period into a bounded ring;
//! the front end takes it out.
//!
//! ```text
//!  alsa::AlsaSource ─┐                      rtrb ring of periods
//!                    ├─▶ capture::run ─▶ [P][P][P][P][ ][ ][ ] ─▶ dsp::FrontEnd
//!  file::FileSource ─┘   thread `capture`                         thread `frontend`
//! ```
//!
//! Invariant: sound that is lost (overrun, full ring, unplugged device) is never lost silently. It is counted
//! in [`CaptureStats`] and travels with the next sound as [`Period::lost`], so the audio clock stays true.

pub mod alsa;
pub mod capture;
mod clock;
mod decode;
pub mod file;
mod flac;
pub mod loudspeaker;
mod measure;
pub mod playback;
pub mod realtime;
pub mod resample;
mod sample;
pub mod section;
mod stats;
pub mod wav;

use std::io;
use std::path::PathBuf;

use crate::error::Exit;

pub use measure::{Measure, SoundFault};
pub use stats::{CaptureStats, CaptureStatus};

/// Most samples one period can hold: 20 ms at 96 kHz.
pub const MAX_PERIOD_SAMPLES: usize = 1_920;
/// Most channels that a device may have.
pub const MAX_CHANNELS: u16 = 8;
/// Most channels that a recording may have.
pub const MAX_FILE_CHANNELS: u16 = 32;

/// One period of mono sound as it left the device, after channel selection. Plain data, so the ring never
/// allocates.
///
/// Samples are f32 in [-1, 1] rather than i16: a 24-bit I2S microphone keeps quiet speech in its low bits.
#[derive(Debug, Clone)]
pub struct Period {
    pub rate_hz: u32,
    /// Samples known to be lost just before this period (overrun, full ring, re-opened device), at `rate_hz`.
    pub lost: u32,
    /// Valid samples in `samples`.
    pub len: usize,
    pub samples: [f32; MAX_PERIOD_SAMPLES],
}

impl Default for Period {
    fn default() -> Self {
        Self { rate_hz: 0, lost: 0, len: 0, samples: [0.0; MAX_PERIOD_SAMPLES] }
    }
}

impl Period {
    /// The samples that hold sound.
    pub fn sound(&self) -> &[f32] {
        self.samples.get(..self.len).unwrap_or(&self.samples)
    }
}

/// Which of a device's channels are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Mean,
    /// Zero-based.
    Nth(u16),
}

impl Channel {
    pub const LEFT: Self = Self::Nth(0);
    pub const RIGHT: Self = Self::Nth(1);

    /// The channel heard of a recording with `channels` channels: this one, or the mean if the recording
    /// lacks it.
    pub fn of_recording(self, channels: u16) -> Self {
        if self.fits(channels) { self } else { Self::Mean }
    }

    /// Whether a device with `channels` channels has this one.
    pub fn fits(self, channels: u16) -> bool {
        match self {
            Self::Mean => channels > 0,
            Self::Nth(n) => n < channels,
        }
    }
}

/// The result of one call of [`Source::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The period holds new sound.
    Period,
    /// Nothing yet (no data within the poll time-out, device away): look whether to stop, then call again.
    Nothing,
    /// The recording is over.
    End,
}

/// A microphone or a recording.
pub trait Source: Send {
    /// Describes the source for people: the device name or the file.
    fn describe(&self) -> String;

    /// Real time: sound that finds the ring full is dropped and counted. Otherwise the source waits for room.
    fn paced(&self) -> bool;

    /// Fills `period`. Returns after 100 ms at most, so that the caller can stop.
    ///
    /// # Errors
    /// Only faults that waiting cannot mend: an unusable file, a device that lacks the configured channel or
    /// rate. A device that is away is not an error but [`Read::Nothing`].
    fn read(&mut self, period: &mut Period) -> Result<Read, SourceError>;
}

/// Why a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{} cannot be read", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not a recording that can be read ({what}); give a WAV or FLAC file", path.display())]
    NotAudio { path: PathBuf, what: String },
    #[error("{} holds no sound; record it again", path.display())]
    Empty { path: PathBuf },
    #[error(
        "{} is {format}, which is not supported; convert it with `ffmpeg -i {} -ar 48000 new.wav`",
        path.display(),
        path.display()
    )]
    Unsupported { path: PathBuf, format: String },
    #[error(
        "{} has {what}, which is not supported; convert it with `sox {} -r 48000 new.wav remix 1`",
        path.display(),
        path.display()
    )]
    Shape { path: PathBuf, what: String },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} is longer than the {max_s} seconds that are allowed here; cut it into \
             pieces", path.display())]
    TooLong { path: PathBuf, max_s: u32 },
    #[error(
        "audio device {device} has {channels} channel(s), so there is no channel {}; set audio.channel \
         to \"mean\" or another number",
        wanted + 1
    )]
    NoSuchDeviceChannel { device: String, wanted: u16, channels: u16 },
    #[error(
        "audio device {device} offers no {what}; set audio.device to another one (`arecord -L` lists them)"
    )]
    UnusableDevice { device: String, what: String },
    #[error("audio.device {device:?} is not a device name")]
    BadDeviceName { device: String },
}

impl SourceError {
    /// How a command ends that meets this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NoSuchDeviceChannel { .. } | Self::UnusableDevice { .. } | Self::BadDeviceName { .. } => {
                Exit::Config
            }
            _ => Exit::Data,
        }
    }
}
