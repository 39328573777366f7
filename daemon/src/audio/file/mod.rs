//! Recordings: WAV (8, 16, 24, 32-bit PCM, 32 and 64-bit float) and FLAC, 4 to 768 kHz, 1 to 32 channels,
//! also with ID3 tags in front, even if such a tag states a wrong length.
//!
//! A recording is streamed: a file of ten hours takes no more memory than one of ten seconds. A file that
//! ends before the length in its header is read to its end, with a warning: streaming writers cannot know the
//! length. A file without any sound is refused.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

use std::fs::File;
use std::io::{BufReader, Cursor, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::decode::{Decoder, Fault, Input, behind_wrong_tag};
use super::{Channel, MAX_PERIOD_SAMPLES, Period, Read, SoundFault, Source, SourceError};

/// Periods a second: 20 ms, the longest that DESIGN allows. At more than 96 kHz they are shorter to fit a
/// [`Period`].
const PERIODS_PER_S: u32 = 50;
/// Longest single wait when pacing, so that the capture thread sees a stop in time.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// Length of a recording that is examined before it is heard.
const LOOK_AHEAD_S: u64 = 120;

/// Samples of a recording that are held in memory at once, 110 MiB: ten minutes at 48 kHz. Kilobytes of FLAC
/// can be ten minutes of silence at 640 kHz, which are 1.5 GiB.
const MAX_SAMPLES: u32 = 600 * 48_000;

/// A recording as a [`Source`].
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    decoder: Decoder,
    channel: Channel,
    rate_hz: u32,
    period_samples: usize,
    /// The first period, decoded at open to be sure that there is sound.
    first: Option<Box<Period>>,
    pace: Option<Pace>,
    warned: bool,
}

/// Hands sound out no sooner than a microphone would.
#[derive(Debug)]
struct Pace {
    started: Option<Instant>,
    samples: u64,
}

impl FileSource {
    /// Opens a recording. With `realtime` it is read at the speed at which it was recorded.
    ///
    /// A channel that the recording does not have is no error: such a recording is heard as the mean of all
    /// its channels. If that mean is nearly nothing, because one channel is the other inverted, one of them
    /// is heard and the log says so.
    ///
    /// # Errors
    /// A file that cannot be read, is no WAV or FLAC, has an unsupported codec, rate or number of channels,
    /// is damaged in its header, or holds no sound. All of them are [`Exit::Data`](crate::error::Exit::Data).
    pub fn open(path: &Path, channel: Channel, realtime: bool) -> Result<Self, SourceError> {
        let source = Self::from_input(input(path)?, path, channel, realtime)?;
        // Only a file can be read twice.
        if source.channel != Channel::Mean || source.decoder.channels() < 2 || !path.is_file() {
            return Ok(source);
        }
        match look_ahead(path) {
            Ok(Some(fault @ SoundFault::Cancelling(loudest))) => {
                log::warn!("{} has {}", path.display(), fault.words());
                Self::from_input(input(path)?, path, Channel::Nth(loudest), realtime)
            }
            // The reader meets an error at its place.
            Ok(_) | Err(_) => Ok(source),
        }
    }

    fn from_input(input: Input, path: &Path, wanted: Channel, realtime: bool) -> Result<Self, SourceError> {
        let decoder = Decoder::new(input).map_err(|fault| fault.of(path))?;
        let channels = decoder.channels();
        let channel = wanted.of_recording(channels);
        if let Channel::Nth(n) = wanted
            && channel != wanted
            && channels > 1
        {
            log::warn!("{} has no channel {n}; the mean of its {channels} is heard", path.display());
        }
        let rate_hz = decoder.rate_hz();
        let mut source = Self {
            path: path.to_owned(),
            decoder,
            channel,
            rate_hz,
            period_samples: MAX_PERIOD_SAMPLES.min((rate_hz / PERIODS_PER_S) as usize),
            first: None,
            pace: realtime.then_some(Pace { started: None, samples: 0 }),
            warned: false,
        };
        let mut first = Box::new(Period::default());
        if !source.decode(&mut first)? {
            let fault = if source.decoder.ended_early() {
                Fault::Damaged("it ends right after its header".into())
            } else {
                Fault::Empty
            };
            return Err(fault.of(path));
        }
        source.first = Some(first);
        Ok(source)
    }

    /// Sample rate of the recording, in Hz.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Decodes the next period; false at the end.
    fn decode(&mut self, period: &mut Period) -> Result<bool, SourceError> {
        let room = period.samples.get_mut(..self.period_samples).unwrap_or_default();
        let (len, lost) = self.decoder.next(room, self.channel).map_err(|fault| fault.of(&self.path))?;
        period.rate_hz = self.rate_hz;
        period.lost = lost;
        period.len = len;
        if lost > 0 {
            log::warn!("{}: {lost} damaged samples are left out", self.path.display());
        }
        if len == 0 && self.decoder.ended_early() && !self.warned && self.first.is_none() {
            self.warned = true;
            log::warn!("{} ends earlier than its header says; what is there is used", self.path.display());
        }
        Ok(len > 0)
    }
}

fn input(path: &Path) -> Result<Input, SourceError> {
    let io = |e| Fault::Io(e).of(path);
    let mut file = File::open(path).map_err(io)?;
    // Only a file can be read twice.
    if file.metadata().is_ok_and(|file| file.is_file()) {
        let start = behind_wrong_tag(&mut file).map_err(io)?;
        if start.is_some() {
            log::warn!("{}: the tag in front of the recording states a wrong length", path.display());
        }
        file.seek(SeekFrom::Start(start.unwrap_or(0))).map_err(io)?;
    }
    Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
}

/// Looks for a fault of the channels in the first minutes of a recording.
fn look_ahead(path: &Path) -> Result<Option<SoundFault>, SourceError> {
    let mut decoder = Decoder::new(input(path)?).map_err(|fault| fault.of(path))?;
    decoder.measure();
    let most = u64::from(decoder.rate_hz()) * LOOK_AHEAD_S;
    let mut samples = vec![0.0; MAX_PERIOD_SAMPLES];
    let mut seen = 0;
    while seen < most {
        match decoder.next(&mut samples, Channel::Mean).map_err(|fault| fault.of(path))? {
            (0, _) => break,
            (read, _) => seen += read as u64,
        }
    }
    Ok(decoder.measured().and_then(|measure| measure.verdict(Channel::Mean)))
}

impl Source for FileSource {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn paced(&self) -> bool {
        self.pace.is_some()
    }

    fn read(&mut self, period: &mut Period) -> Result<Read, SourceError> {
        if let Some(pace) = &mut self.pace {
            // A microphone delivers a period when it is over, not when it begins.
            let due_samples = pace.samples + self.period_samples as u64;
            let due = Duration::from_secs_f64(due_samples as f64 / f64::from(self.rate_hz));
            let wait = due.saturating_sub(pace.started.get_or_insert_with(Instant::now).elapsed());
            std::thread::sleep(wait.min(MAX_WAIT));
            if wait > MAX_WAIT {
                return Ok(Read::Nothing);
            }
        }
        let more = match self.first.take() {
            Some(first) => {
                *period = *first;
                true
            }
            None => self.decode(period)?,
        };
        if let Some(pace) = &mut self.pace {
            pace.samples += period.len as u64 + u64::from(period.lost);
        }
        Ok(if more { Read::Period } else { Read::End })
    }
}

/// A whole recording in memory: mono samples in [-1, 1] and the rate in Hz. For enrolment and speech output.
///
/// # Errors
/// As [`FileSource::open`], and [`SourceError::TooLong`] beyond `max_s` seconds or the limit of memory
/// (reading stops there).
pub fn read_all(path: &Path, channel: Channel, max_s: u32) -> Result<(Vec<f32>, u32), SourceError> {
    collect(FileSource::open(path, channel, false)?, max_s)
}

/// As [`read_all`], for a recording that is already in memory; `name` stands for it in errors.
///
/// # Errors
/// As [`read_all`].
pub fn read_bytes(
    bytes: Vec<u8>,
    name: &str,
    channel: Channel,
    max_s: u32,
) -> Result<(Vec<f32>, u32), SourceError> {
    let length = bytes.len() as u64;
    let input = Box::new(Cursor::new(bytes).take(length));
    collect(FileSource::from_input(input, Path::new(name), channel, false)?, max_s)
}

fn collect(mut source: FileSource, max_s: u32) -> Result<(Vec<f32>, u32), SourceError> {
    let max_s = max_s.min(MAX_SAMPLES / source.rate_hz);
    let most = u64::from(max_s) * u64::from(source.rate_hz);
    let mut samples = Vec::new();
    let mut period = Period::default();
    while source.read(&mut period)? == Read::Period {
        // A hole in a damaged recording becomes silence here, so that later sound keeps its place.
        let hole = usize::try_from(period.lost).unwrap_or(usize::MAX);
        if (samples.len() as u64) + (hole as u64) + (period.len as u64) > most {
            return Err(SourceError::TooLong { path: source.path, max_s });
        }
        samples.resize(samples.len() + hole, 0.0);
        samples.extend_from_slice(period.sound());
    }
    Ok((samples, source.rate_hz))
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test signals are computed in f64 and in numbers that fit"
)]
mod tests;
