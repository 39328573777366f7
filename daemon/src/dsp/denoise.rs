//! RNNoise (crate nnnoiseless): a cheap speech probability, 10 ms at 48 kHz at a time.

use nnnoiseless::DenoiseState;

/// Samples per frame at 48 kHz: 10 ms.
pub const DENOISE_FRAME: usize = DenoiseState::FRAME_SIZE;

/// Frames of digital silence after which RNNoise holds no sound any more: its pitch buffer holds 36 ms, and
/// its high-pass filter forgets with a time constant of about 10 ms.
const SILENT_FRAMES: u32 = 25;
/// RNNoise was trained on 16-bit samples and expects their scale.
const SCALE: f32 = 32_768.0;

/// Frames in, probabilities out: output `k` belongs to input `k` and comes one call later.
///
/// RNNoise works on windows of 20 ms that overlap by half, so a call returns the probability of the frame of
/// the call before; the first output belongs to no frame and is dropped here.
pub struct Denoiser {
    state: Box<DenoiseState<'static>>,
    scaled: [f32; DENOISE_FRAME],
    /// The denoised sound, which nothing reads.
    out: [f32; DENOISE_FRAME],
    primed: bool,
    /// Frames of digital silence in a row.
    silent: u32,
}

impl std::fmt::Debug for Denoiser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Denoiser").field("primed", &self.primed).finish_non_exhaustive()
    }
}

impl Default for Denoiser {
    fn default() -> Self {
        Self {
            state: DenoiseState::new(),
            scaled: [0.0; DENOISE_FRAME],
            out: [0.0; DENOISE_FRAME],
            primed: false,
            silent: 0,
        }
    }
}

impl Denoiser {
    /// Takes a frame in [-1, 1] and returns the speech probability of the previous one.
    pub fn push(&mut self, frame: &[f32; DENOISE_FRAME]) -> Option<f32> {
        // A muted microphone costs nothing.
        self.silent = if frame.iter().all(|s| *s == 0.0) { self.silent.saturating_add(1) } else { 0 };
        if self.silent > SILENT_FRAMES {
            return std::mem::replace(&mut self.primed, true).then_some(0.0);
        }
        for (to, from) in self.scaled.iter_mut().zip(frame) {
            *to = from * SCALE;
        }
        let speech = self.state.process_frame(&mut self.out, &self.scaled);
        std::mem::replace(&mut self.primed, true).then_some(speech)
    }

    /// Forgets all sound.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}
