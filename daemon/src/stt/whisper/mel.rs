//! Whisper's log-mel spectrogram: 80 bands, 25 ms windows every 10 ms.
//!
//! As defined by openai/whisper `audio.py` (Hann window of 400, power spectrum, Slaney-scale mel filters with
//! area normalisation, log10, floor 8 below the maximum, (x + 4) / 4), with the padding of faster-whisper:
//! frames after the sound are 0 in the feature, not the log-mel of silence.

use std::fmt;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use crate::units::SAMPLE_RATE_HZ;

pub const BANDS: usize = 80;
/// Samples from one frame to the next.
pub const HOP: usize = 160;
const WINDOW: usize = 400;
const BINS: usize = WINDOW / 2 + 1;

/// One triangular filter: its first bin and its weights.
struct Filter {
    start: usize,
    weights: Vec<f32>,
}

pub struct LogMel {
    filters: Vec<Filter>,
    window: Vec<f32>,
    fft: Arc<dyn RealToComplex<f32>>,
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    power: Vec<f32>,
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel").finish_non_exhaustive()
    }
}

impl Default for LogMel {
    fn default() -> Self {
        Self::new()
    }
}

/// Slaney's mel scale: linear to 1000 Hz (15 mel), logarithmic above.
fn mel_to_hz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * (6.4_f64.ln() / 27.0 * (mel - 15.0)).exp() }
}

fn hz_to_mel(hz: f64) -> f64 {
    if hz < 1000.0 { hz * 3.0 / 200.0 } else { 15.0 + (hz / 1000.0).ln() * 27.0 / 6.4_f64.ln() }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "filter weights and the window are kept in single precision"
)]
fn single(x: f64) -> f32 {
    x as f32
}

fn filters() -> Vec<Filter> {
    let rate = f64::from(SAMPLE_RATE_HZ);
    let top = hz_to_mel(rate / 2.0);
    let edge = |i: usize| mel_to_hz(top * i as f64 / (BANDS + 1) as f64);
    (0..BANDS)
        .map(|band| {
            let (left, centre, right) = (edge(band), edge(band + 1), edge(band + 2));
            let weights: Vec<f32> = (0..BINS)
                .map(|bin| {
                    let hz = bin as f64 * rate / WINDOW as f64;
                    let slope = ((hz - left) / (centre - left)).min((right - hz) / (right - centre));
                    single(slope.max(0.0) * 2.0 / (right - left))
                })
                .collect();
            let start = weights.iter().position(|w| *w > 0.0).unwrap_or(0);
            let end = weights.iter().rposition(|w| *w > 0.0).map_or(start, |last| last + 1);
            Filter { start, weights: weights.get(start..end).unwrap_or_default().to_vec() }
        })
        .collect()
}

impl LogMel {
    pub fn new() -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(WINDOW);
        let angle = |i: usize| 2.0 * std::f64::consts::PI * i as f64 / WINDOW as f64;
        Self {
            filters: filters(),
            window: (0..WINDOW).map(|i| single(0.5 - 0.5 * angle(i).cos())).collect(),
            frame: vec![0.0; WINDOW],
            spectrum: fft.make_output_vec(),
            power: vec![0.0; BINS],
            fft,
        }
    }

    /// Frames that `samples` samples fill.
    pub fn frames_of(samples: usize) -> usize {
        samples / HOP
    }

    /// `[BANDS, frames]` in row-major order; sound beyond `frames` is cut off, frames beyond the sound are 0.
    pub fn compute(&mut self, samples: &[f32], frames: usize) -> Vec<f32> {
        let filled = Self::frames_of(samples.len()).min(frames);
        let mut out = vec![0.0; BANDS * frames];
        let mut highest = f32::MIN;
        for t in 0..filled {
            self.power_of(samples, t);
            for (band, filter) in self.filters.iter().enumerate() {
                let bins = self.power.iter().skip(filter.start);
                let energy: f32 = filter.weights.iter().zip(bins).map(|(w, p)| w * p).sum();
                let log = energy.max(1e-10).log10();
                highest = highest.max(log);
                if let Some(value) = out.get_mut(band * frames + t) {
                    *value = log;
                }
            }
        }
        let floor = highest - 8.0;
        for row in out.chunks_exact_mut(frames.max(1)) {
            for value in row.iter_mut().take(filled) {
                *value = (value.max(floor) + 4.0) / 4.0;
            }
        }
        out
    }

    /// Power spectrum of frame `t`: centred on sample `t * HOP`, the sound mirrored at its ends after one hop
    /// of zeros behind it.
    fn power_of(&mut self, samples: &[f32], t: usize) {
        let length = samples.len() + HOP;
        for (i, (slot, window)) in self.frame.iter_mut().zip(&self.window).enumerate() {
            let at = (t * HOP + i).abs_diff(WINDOW / 2);
            let at = if at < length { at } else { (2 * (length - 1)).saturating_sub(at) };
            *slot = samples.get(at).copied().unwrap_or(0.0) * window;
        }
        // The planner made all three buffers, so their lengths fit and this cannot fail.
        if self.fft.process(&mut self.frame, &mut self.spectrum).is_err() {
            self.power.fill(0.0);
            return;
        }
        for (power, bin) in self.power.iter_mut().zip(&self.spectrum) {
            *power = bin.norm_sqr();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The features of [`signal`] by faster-whisper's extractor; models/export/whisper/log_mel_reference.py
    /// writes them.
    const REFERENCE: &[u8] = include_bytes!("log_mel.reference.f32");

    /// 1 s: a rising tone, a burst of noise, silence.
    fn signal() -> Vec<f32> {
        let mut state = 1u32;
        (0..16_000)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = f64::from(state >> 8) / f64::from(1 << 23) - 1.0;
                let t = f64::from(i) / 16_000.0;
                let tone = 0.5 * (2.0 * std::f64::consts::PI * (200.0 * t + 1500.0 * t * t)).sin();
                let burst = if (0.5..0.6).contains(&t) { 0.2 * noise } else { 0.0 };
                if t < 0.8 { single(tone + burst) } else { 0.0 }
            })
            .collect()
    }

    #[test]
    fn features_equal_those_of_an_independent_implementation() {
        let expected: Vec<f32> =
            REFERENCE.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let found = LogMel::new().compute(&signal(), 100);
        assert_eq!(found.len(), expected.len());
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "largest difference {worst}");
    }

    #[test]
    fn frames_beyond_the_sound_are_zero_and_sound_beyond_the_frames_is_cut_off() {
        let (mut mel, samples) = (LogMel::new(), signal());
        let wide = mel.compute(&samples, 150);
        assert!(wide.chunks_exact(150).all(|row| row[100..].iter().all(|x| *x == 0.0)));
        assert_eq!(mel.compute(&samples, 50).len(), 50 * BANDS);
        for (samples, frames) in [(&[][..], 10), (&samples[..1], 10), (&samples, 0), (&samples[..159], 1)] {
            let features = mel.compute(samples, frames);
            assert!(features.len() == frames * BANDS && features.iter().all(|x| *x == 0.0));
        }
    }
}
