//! From frames to utterances: voice activity, wake word, endpointing.

use crate::units::FramePos;

/// What the detector found in the sound.
#[derive(Debug, Clone)]
pub enum Detection {
    Wake {
        word: String,
        score: f32,
        pos: FramePos,
    },
    /// Speech of a command began (after the wake word, in a follow-up window, or at any time without a wake word).
    SpeechStart {
        pos: FramePos,
    },
    /// The next piece of the open command, 16 kHz mono in [-1, 1], for a streaming recogniser. `raw` and `clean` have equal lengths.
    Speech {
        raw: Vec<f32>,
        clean: Vec<f32>,
    },
    SpeechEnd {
        utterance: Utterance,
    },
    /// The wake word was said (or a follow-up window opened) and nothing came after it.
    NoSpeech {
        pos: FramePos,
    },
}

/// One command from its pre-roll to its end silence, with the wake phrase in front of it if there was one.
#[derive(Debug, Clone)]
pub struct Utterance {
    /// Position of the first frame of `raw`/`clean`.
    pub start: FramePos,
    /// One past the last frame.
    pub end: FramePos,
    /// 16 kHz mono in [-1, 1], not denoised; a whole number of frames.
    pub raw: Vec<f32>,
    /// The same, denoised.
    pub clean: Vec<f32>,
    /// VAD speech probability per 10 ms frame of `raw`.
    pub speech: Vec<f32>,
    /// Sample index in `raw`/`clean` at which the words after the wake phrase begin (0 without a wake phrase).
    pub command_start: usize,
    /// Cut off at the maximum length.
    pub truncated: bool,
}
