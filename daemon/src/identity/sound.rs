//! Recordings for enrolment and for trying a voice, heard through the front end and the voice activity
//! detector of the daemon.

use std::path::{Path, PathBuf};

use crate::audio::file::FileSource;
use crate::audio::{Channel, Period, Read, Source, SourceError};
use crate::detect::vad::Vad;
use crate::dsp::{DspError, Frame, FrontEnd};
use crate::error::{Exit, Failure, chain};
use crate::inference::ModelError;
use crate::units::SAMPLE_RATE_HZ;

/// A recording of a voice is a sentence or a few; this bounds the memory that a wrong file can take.
const MAX_S: usize = 120;
const MOST_SAMPLES: usize = MAX_S * SAMPLE_RATE_HZ as usize;

/// Why a recording cannot be heard.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{} could not be resampled", .path.display())]
    Resampled { path: PathBuf, source: DspError },
    #[error("{} is longer than {MAX_S} s; give one sentence a file", .0.display())]
    TooLong(PathBuf),
    #[error(transparent)]
    Vad(#[from] ModelError),
}

impl From<RecordingError> for Failure {
    fn from(error: RecordingError) -> Self {
        let exit = match &error {
            RecordingError::Source(source) => source.exit(),
            RecordingError::Resampled { .. } => Exit::Failed,
            RecordingError::TooLong(_) => Exit::Data,
            RecordingError::Vad(_) => Exit::Config,
        };
        Self::new(exit, chain(&error))
    }
}

/// A recording as the speaker check hears it.
#[derive(Debug)]
pub struct Recording {
    /// 16 kHz mono in [-1, 1], not denoised, a whole number of 10 ms frames.
    pub raw: Vec<f32>,
    /// VAD speech probability per 10 ms frame.
    pub speech: Vec<f32>,
}

impl Recording {
    /// Takes sound that was recorded in this form before.
    ///
    /// # Errors
    /// A model that does not work.
    pub fn of(raw: Vec<f32>, vad: &mut Vad) -> Result<Self, RecordingError> {
        let speech = vad.speech_of(&raw)?;
        Ok(Self { raw, speech })
    }

    /// Reads a WAV or FLAC file.
    ///
    /// # Errors
    /// A file that cannot be read, is no recording, or is longer than two minutes.
    pub fn read(path: &Path, channel: Channel, vad: &mut Vad) -> Result<Self, RecordingError> {
        let mut source = FileSource::open(path, channel, false)?;
        let mut front_end = FrontEnd::new();
        let mut raw: Vec<f32> = Vec::new();
        let mut keep = |frame: &Frame| {
            // The audio clock goes on over damaged parts; silence in their place keeps the words apart.
            let due = usize::try_from(frame.pos.0).unwrap_or(usize::MAX).saturating_mul(frame.raw.len());
            raw.resize(raw.len().max(due.min(MOST_SAMPLES + 1)), 0.0);
            raw.extend_from_slice(&frame.raw);
            raw.len()
        };
        let mut length = 0;
        let mut period = Period::default();
        let resampled = |source| RecordingError::Resampled { path: path.to_owned(), source };
        while source.read(&mut period)? != Read::End {
            front_end.push(&period, &mut |frame| length = keep(frame)).map_err(resampled)?;
            if length > MOST_SAMPLES {
                return Err(RecordingError::TooLong(path.to_owned()));
            }
        }
        front_end.flush(&mut |frame| length = keep(frame)).map_err(resampled)?;
        Self::of(raw, vad)
    }

    /// Length in seconds.
    pub fn length_s(&self) -> f32 {
        self.raw.len() as f32 / SAMPLE_RATE_HZ as f32
    }
}
