//! The front end: periods at any rate in, 10 ms frames of 16 kHz mono sound out, each with RNNoise's speech
//! probability.
//!
//! ```text
//!                    ┌──────────(16 kHz source)──────────┐
//!  period ──▶ to 48 kHz ──┬───▶ 48 → 16 kHz ─────────────┴─▶ raw ────────────────┐
//!             (rubato)    └──▶ RNNoise, 480 samples ───────▶ speech probability ─┴─▶ Frame
//! ```
//!
//! Every step keeps its output on the time line of its input: the delay of each filter is cut off its start.
//! So `raw` and its probability are the same instant, `FramePos` is true source time, and the steps cost
//! look-ahead: the delay between a frame's end and its output.
//!
//! RNNoise also removes noise. Its sound is not used: voice activity, wake word and voices were measured to
//! do better on the raw sound.
//!
//! | step | look-ahead | CPU a second of sound (one x86-64 core) |
//! |---|---|---|
//! | to 48 kHz (not for 48 kHz sources) | 5 ms filter + 10 ms block | 0.4 ms |
//! | RNNoise | 10 ms | 5.1 ms; 0.1 ms in digital silence |
//! | 48 → 16 kHz | 5 ms filter + 10 ms block | 0.4 to 0.6 ms |
//! | whole | 10 ms at 48 kHz, 20 ms at the other usual rates | 6 ms, whatever is heard |
//!
//! The filters are rubato's FFT resampler with blocks of 10 ms and a squared Hann window. Measured
//! (`measure_filters` in the tests prints the table): flat to 7.4 kHz, -0.9 dB at 7.6 kHz, nothing above 8.05
//! kHz (below -70 dB; -140 dB from 8.2 kHz). rubato's default window, Blackman-Harris squared, has lost 2 dB
//! at 7.2 kHz and 10 dB at 7.4 kHz with blocks of this length, and speaker models look up to 7.6 kHz; blocks
//! of 20 ms would keep that too, but cost 10 ms more.

mod denoise;
pub mod level;

use std::collections::VecDeque;

use rubato::WindowFunction;

use crate::audio::Period;
use crate::units::{FRAME_SAMPLES, FRAMES_PER_S, FramePos, SAMPLE_RATE_HZ};

use crate::audio::resample::{ResampleError, Resampler};
pub use denoise::{DENOISE_FRAME, Denoiser};

/// Rate at which RNNoise works, in Hz.
const DENOISE_RATE_HZ: u32 = 48_000;
const FRAME_NS: u128 = 1_000_000_000 / FRAMES_PER_S as u128;
/// Block and filter length of the step to 48 kHz, in output samples.
const UP_BLOCK: usize = 480;
/// Block and filter length of the step to 16 kHz, in output samples.
const DOWN_BLOCK: usize = FRAME_SAMPLES;
const WINDOW: WindowFunction = WindowFunction::Hann2;

/// 10 ms of sound at 16 kHz.
#[derive(Debug, Clone)]
pub struct Frame {
    pub pos: FramePos,
    /// [-1, 1], not denoised.
    pub raw: [f32; FRAME_SAMPLES],
    /// RNNoise's speech probability, 0 to 1.
    pub speech_probability: f32,
    /// Sound was lost just before this frame; streaming models must start afresh.
    pub discontinuity: bool,
}

/// The front end failed; only a fault in this program can cause it.
#[derive(Debug, thiserror::Error)]
pub enum DspError {
    #[error("changing the sample rate of the sound")]
    Resample(#[from] ResampleError),
}

/// Turns periods into frames. One per source; it lives on one thread.
#[derive(Debug, Default)]
pub struct FrontEnd {
    chain: Option<Chain>,
    /// Source time at which the running stretch of uninterrupted sound began, in ns. Never later than its
    /// first sample.
    origin_ns: u128,
    /// Position of the next frame.
    next: FramePos,
    discontinuity: bool,
}

impl FrontEnd {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a period and emits the frames that it completes.
    ///
    /// At a loss of sound, the sound before it is emitted to its end (the rest of its last frame is silence).
    /// Then all filters start afresh, and the next frame is marked and stands at its true time. It begins on
    /// the next frame boundary, so up to 10 ms after a gap are left out.
    ///
    /// # Errors
    /// Only after a fault in this program.
    pub fn push(&mut self, period: &Period, emit: &mut dyn FnMut(&Frame)) -> Result<(), DspError> {
        let changed = self.chain.as_ref().is_some_and(|chain| chain.rate_hz != period.rate_hz);
        if period.rate_hz == 0 {
            return Ok(());
        }
        if period.lost > 0 || changed {
            self.flush(emit)?;
            self.discontinuity = true;
            self.origin_ns += samples_to_ns(u64::from(period.lost), period.rate_hz);
            if changed {
                self.chain = None;
            }
        }
        let chain = match &mut self.chain {
            Some(chain) => chain,
            None => self.chain.insert(Chain::new(period.rate_hz)?),
        };
        if chain.received == 0 {
            self.next = FramePos(frame_from(self.origin_ns).max(self.next.0));
            let late_ns = (u128::from(self.next.0) * FRAME_NS).saturating_sub(self.origin_ns);
            chain.to_skip = ns_to_samples(late_ns, period.rate_hz);
        }
        chain.push(period.sound())?;
        Self::drain(chain, &mut self.next, &mut self.discontinuity, u64::MAX, emit);
        Ok(())
    }

    /// Emits the sound still inside, to its end. Afterwards the front end is ready for more: the next sound
    /// is taken to follow without a gap, but through fresh filters.
    ///
    /// # Errors
    /// Only after a fault in this program.
    pub fn flush(&mut self, emit: &mut dyn FnMut(&Frame)) -> Result<(), DspError> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let received = chain.received;
        if received == 0 {
            return Ok(());
        }
        let heard = received.saturating_sub(chain.skipped);
        let frames = (u128::from(heard) * u128::from(FRAMES_PER_S)).div_ceil(u128::from(chain.rate_hz));
        let frames = u64::try_from(frames).unwrap_or(u64::MAX);
        let silence = [0.0; 1_024];
        while chain.emitted < frames {
            chain.push(&silence)?;
            Self::drain(chain, &mut self.next, &mut self.discontinuity, frames, emit);
        }
        self.origin_ns += samples_to_ns(received, chain.rate_hz);
        chain.reset();
        Ok(())
    }

    fn drain(
        chain: &mut Chain,
        next: &mut FramePos,
        discontinuity: &mut bool,
        until: u64,
        emit: &mut dyn FnMut(&Frame),
    ) {
        while chain.emitted < until
            && let Some(mut frame) = chain.pop()
        {
            frame.pos = *next;
            frame.discontinuity = std::mem::take(discontinuity);
            next.0 += 1;
            emit(&frame);
        }
    }
}

/// The filters for one source rate, and the sound that waits between them.
#[derive(Debug)]
struct Chain {
    rate_hz: u32,
    /// `None` where the source has 48 kHz.
    up: Option<Resampler>,
    /// `None` where the source has 16 kHz: it passes untouched.
    raw_down: Option<Resampler>,
    denoiser: Denoiser,
    /// 48 kHz, less than a frame after every push.
    wide: Vec<f32>,
    /// 16 kHz.
    raw: Vec<f32>,
    /// One per frame of `raw`.
    speech: VecDeque<f32>,
    /// Source samples to leave out, so that the first frame begins on its boundary.
    to_skip: u64,
    skipped: u64,
    /// Source samples since the stretch began, skipped ones included.
    received: u64,
    /// Frames since the stretch began.
    emitted: u64,
}

impl Chain {
    fn new(rate_hz: u32) -> Result<Self, ResampleError> {
        let down = || Resampler::new(DENOISE_RATE_HZ, SAMPLE_RATE_HZ, DOWN_BLOCK, WINDOW);
        let up = || Resampler::new(rate_hz, DENOISE_RATE_HZ, UP_BLOCK, WINDOW);
        Ok(Self {
            rate_hz,
            up: (rate_hz != DENOISE_RATE_HZ).then(up).transpose()?,
            raw_down: (rate_hz != SAMPLE_RATE_HZ).then(down).transpose()?,
            denoiser: Denoiser::default(),
            wide: Vec::new(),
            raw: Vec::new(),
            speech: VecDeque::new(),
            to_skip: 0,
            skipped: 0,
            received: 0,
            emitted: 0,
        })
    }

    fn push(&mut self, sound: &[f32]) -> Result<(), ResampleError> {
        self.received += sound.len() as u64;
        let skip = usize::try_from(self.to_skip - self.skipped).unwrap_or(usize::MAX).min(sound.len());
        self.skipped += skip as u64;
        let sound = sound.get(skip..).unwrap_or_default();

        let before = self.wide.len();
        match &mut self.up {
            Some(up) => up.push(sound, &mut self.wide)?,
            None => self.wide.extend_from_slice(sound),
        }
        match &mut self.raw_down {
            Some(down) => down.push(self.wide.get(before..).unwrap_or_default(), &mut self.raw)?,
            None => self.raw.extend_from_slice(sound),
        }
        let (frames, _) = self.wide.as_chunks::<DENOISE_FRAME>();
        let used = frames.len() * DENOISE_FRAME;
        self.speech.extend(frames.iter().filter_map(|frame| self.denoiser.push(frame)));
        self.wide.drain(..used);
        Ok(())
    }

    /// The next frame, if it is complete; the caller fills in its place on the time line.
    fn pop(&mut self) -> Option<Frame> {
        let raw = *self.raw.first_chunk::<FRAME_SAMPLES>()?;
        let speech_probability = self.speech.pop_front()?;
        self.raw.drain(..FRAME_SAMPLES);
        self.emitted += 1;
        Some(Frame { pos: FramePos(0), raw, speech_probability, discontinuity: false })
    }

    fn reset(&mut self) {
        for resampler in self.up.iter_mut().chain(&mut self.raw_down) {
            resampler.reset();
        }
        self.denoiser.reset();
        self.wide.clear();
        self.raw.clear();
        self.speech.clear();
        (self.to_skip, self.skipped, self.received, self.emitted) = (0, 0, 0, 0);
    }
}

fn samples_to_ns(samples: u64, rate_hz: u32) -> u128 {
    u128::from(samples) * 1_000_000_000 / u128::from(rate_hz.max(1))
}

fn ns_to_samples(ns: u128, rate_hz: u32) -> u64 {
    let samples = (ns * u128::from(rate_hz) + 500_000_000) / 1_000_000_000;
    u64::try_from(samples).unwrap_or(u64::MAX)
}

/// The first frame that begins at `ns` or later.
fn frame_from(ns: u128) -> u64 {
    u64::try_from(ns.div_ceil(FRAME_NS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test signals are computed in f64 and in numbers that fit"
)]
mod tests;
