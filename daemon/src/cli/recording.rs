//! Recordings for enrolment and for trying a voice: heard through the very front end and voice activity of
//! the daemon.

use std::path::Path;

use crate::audio::file::FileSource;
use crate::audio::{Channel, Period, Read, Source, SourceError};
use crate::detect::vad::Vad;
use crate::dsp::{Frame, FrontEnd};
use crate::error::{Exit, Failure, chain};
use crate::units::SAMPLE_RATE_HZ;

/// A recording of a voice is a sentence or a few; this bounds the memory that a wrong file can take.
const MAX_S: usize = 120;

/// A recording as the speaker check hears it.
#[derive(Debug)]
pub struct Recording {
    /// 16 kHz mono in [-1, 1], not denoised, a whole number of 10 ms frames.
    pub raw: Vec<f32>,
    /// VAD speech probability per 10 ms frame.
    pub speech: Vec<f32>,
}

impl Recording {
    /// What was recorded in this form before.
    ///
    /// # Errors
    /// A model that does not work.
    pub fn of(raw: Vec<f32>, vad: &mut Vad) -> Result<Self, Failure> {
        let speech = vad.speech_of(&raw).map_err(super::models::failure)?;
        Ok(Self { raw, speech })
    }

    /// Length in seconds.
    pub fn length_s(&self) -> f32 {
        self.raw.len() as f32 / SAMPLE_RATE_HZ as f32
    }
}

/// Reads a WAV or FLAC file.
///
/// # Errors
/// Exit code 65 for a file that cannot be read, is no recording, or is longer than two minutes.
pub fn read(path: &Path, channel: Channel, vad: &mut Vad) -> Result<Recording, Failure> {
    let damaged = |e: SourceError| Failure::new(e.exit(), chain(&e));
    let mut source = FileSource::open(path, channel, false).map_err(damaged)?;
    let mut front_end = FrontEnd::new();
    let mut raw: Vec<f32> = Vec::new();
    let mut keep = |frame: &Frame| {
        // The audio clock goes on over damaged parts; silence in their place keeps the words apart.
        let due = usize::try_from(frame.pos.0).unwrap_or(usize::MAX).saturating_mul(frame.raw.len());
        raw.resize(raw.len().max(due.min(MAX_S * SAMPLE_RATE_HZ as usize + 1)), 0.0);
        raw.extend_from_slice(&frame.raw);
        raw.len()
    };
    let mut length = 0;
    let mut period = Period::default();
    let front_end_failed =
        |e| Failure::because(Exit::Failed, format!("{} could not be resampled", path.display()), e);
    while source.read(&mut period).map_err(damaged)? != Read::End {
        front_end.push(&period, &mut |frame| length = keep(frame)).map_err(front_end_failed)?;
        if length > MAX_S * SAMPLE_RATE_HZ as usize {
            let message = format!("{} is longer than {MAX_S} s; give one sentence a file", path.display());
            return Err(Failure::new(Exit::Data, message));
        }
    }
    front_end.flush(&mut |frame| length = keep(frame)).map_err(front_end_failed)?;
    Recording::of(raw, vad)
}
