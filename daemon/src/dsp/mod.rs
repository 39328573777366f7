//! The front end: periods at any rate in, 10 ms frames of 16 kHz mono sound out, raw and denoised side by side.

use crate::units::{FRAME_SAMPLES, FramePos};

/// 10 ms of sound at 16 kHz. `raw` and `clean` cover the same instant.
#[derive(Debug, Clone)]
pub struct Frame {
    pub pos: FramePos,
    /// [-1, 1], not denoised.
    pub raw: [f32; FRAME_SAMPLES],
    /// [-1, 1], denoised by RNNoise.
    pub clean: [f32; FRAME_SAMPLES],
    /// RNNoise's own speech probability, 0 to 1.
    pub speech_probability: f32,
    /// Sound was lost just before this frame; streaming models must start afresh.
    pub discontinuity: bool,
}
