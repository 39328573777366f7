//! Kaldi-compatible log mel filter bank: the only front end the speaker model was trained with.
//!
//! The numbers follow Kaldi's `feature-window.cc`, `mel-computations.cc` and `feature-fbank.cc` step by step,
//! because an embedding is only as good as the agreement with training: a Hamming window instead of the Povey
//! window already moves the cosine to the right answer to 0.997. Within 1e-3 of `kaldi-native-fbank` on the
//! fixtures in `tests/data/fbank`.
//!
//! The transform runs in f64. In bins some 80 dB and more below the loudest of their frame, Kaldi's f32
//! rounding and ours can differ by more than 1e-3; how often is in `docs/design/speaker.md`.

use std::f64::consts::PI;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

pub use jarvis_kernels::campplus::BINS;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use crate::units::SAMPLE_RATE_HZ;

/// Samples under one analysis window: 25 ms.
pub const WINDOW_SAMPLES: usize = 400;
/// Samples from one window to the next: 10 ms.
pub const SHIFT_SAMPLES: usize = 160;

const FFT_SAMPLES: usize = 512;
const LOW_HZ: f64 = 20.0;
const HIGH_HZ: f64 = 8_000.0;
const PRE_EMPHASIS: f32 = 0.97;
const POVEY_EXPONENT: f64 = 0.85;
/// The model was trained on 16-bit samples taken as numbers.
const SCALE: f32 = 32_768.0;

/// The parameters in a canonical form; its hash is the front end's identity (see
/// `embedding::front_end_sha256`).
pub const DESCRIPTION: &str = "fbank v1: 16000 Hz, scale 32768, window 400 povey 0.85, shift 160, snip \
                               edges, dither 0, remove dc, pre-emphasis 0.97, fft 512, power, mel 80 bins \
                               20-8000 Hz 1127*ln(1+f/700), ln floor 1.1920929e-7, subtract mean over time";

/// Bins below 230 Hz, with the fundamental of a calm voice; bins that every microphone and every line passes
/// (300 Hz to 3 kHz); bins above 4.2 kHz.
const LOW: Range<usize> = 0..8;
const MIDDLE: Range<usize> = 12..52;
const HIGH: Range<usize> = 62..BINS;

/// Traces of band, room and effort in speech, measured on its frames before the mean is taken out. Natural
/// logarithms of power.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Acoustics {
    /// Loud frames (the 90th percentile of each bin) above 4.2 kHz against the middle: 0 is usual, a
    /// telephone has -4, a sampling rate of 8 kHz -10.
    pub high: f32,
    /// Loud frames below 230 Hz against the middle: -3 is usual, -6 in a raised voice, -8 on the telephone.
    pub low: f32,
    /// From soft (the 10th percentile) to loud frames in the middle: 8 beside the mouth, 5 in a live room, 4
    /// in noise.
    pub range: f32,
}

impl Acoustics {
    /// The mean of several; `None` of none.
    pub fn mean(all: impl IntoIterator<Item = Self>) -> Option<Self> {
        let (mut high, mut low, mut range, mut count) = (0.0, 0.0, 0.0, 0.0);
        for one in all {
            high += one.high;
            low += one.low;
            range += one.range;
            count += 1.0;
        }
        (count > 0.0).then(|| Self { high: high / count, low: low / count, range: range / count })
    }
}

/// Value below which the share `part` of `sorted` lies, interpolated; 0 of nothing.
fn percentile(sorted: &[f32], part: f32) -> f32 {
    let at = part * sorted.len().saturating_sub(1) as f32;
    let at_floor = at.floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the slice")]
    let index = at_floor as usize;
    let low = sorted.get(index).copied().unwrap_or_default();
    let high = sorted.get(index + 1).copied().unwrap_or(low);
    low + (at - at_floor) * (high - low)
}

/// Frames of [`BINS`] natural-log mel energies, one after another.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Features {
    values: Vec<f32>,
}

impl Features {
    /// Number of 10 ms frames.
    pub fn frames(&self) -> usize {
        self.values.len() / BINS
    }

    /// Row-major `[frames, BINS]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Row-major values of `count` frames from frame `start` on; beyond the last frame zeros, which after
    /// [`Features::subtract_mean`] are the mean frame.
    pub fn padded(&self, start: usize, count: usize) -> Vec<f32> {
        let mut values: Vec<f32> =
            self.values.iter().skip(start * BINS).take(count * BINS).copied().collect();
        values.resize(count * BINS, 0.0);
        values
    }

    /// As [`Features::padded`], but taken around the end as often as needed.
    pub fn wrapped(&self, start: usize, count: usize) -> Vec<f32> {
        self.values.chunks_exact(BINS).cycle().skip(start).take(count).flatten().copied().collect()
    }

    /// Band and room. `None` for less than half a second of frames, which say nothing.
    pub fn acoustics(&self) -> Option<Acoustics> {
        const LEAST_FRAMES: usize = 50;
        if self.frames() < LEAST_FRAMES {
            return None;
        }
        let mut column = Vec::with_capacity(self.frames());
        let mut of_bin = |bin: usize| {
            column.clear();
            column.extend(self.values.iter().skip(bin).step_by(BINS).copied());
            column.sort_unstable_by(f32::total_cmp);
            (percentile(&column, 0.1), percentile(&column, 0.9))
        };
        let mut mean = |bins: Range<usize>| {
            let count = bins.len() as f32;
            let (soft, loud) = bins.map(&mut of_bin).fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
            (soft / count, loud / count)
        };
        let (soft, loud) = mean(MIDDLE);
        let (_, high) = mean(HIGH);
        let (_, low) = mean(LOW);
        Some(Acoustics { high: high - loud, low: low - loud, range: loud - soft })
    }

    /// Subtracts from each bin its mean over all frames, which removes the channel's constant colour.
    pub fn subtract_mean(&mut self) {
        let frames = self.frames();
        if frames == 0 {
            return;
        }
        let mut mean = [0f64; BINS];
        for frame in self.values.chunks_exact(BINS) {
            for (sum, &value) in mean.iter_mut().zip(frame) {
                *sum += f64::from(value);
            }
        }
        for sum in &mut mean {
            *sum /= frames as f64;
        }
        for frame in self.values.chunks_exact_mut(BINS) {
            for (value, mean) in frame.iter_mut().zip(mean) {
                *value = narrow(f64::from(*value) - mean);
            }
        }
    }
}

/// The filter bank: tables made once, then a pure function of the sound.
pub struct Fbank {
    fft: Arc<dyn RealToComplex<f64>>,
    window: Vec<f32>,
    filters: Vec<Filter>,
}

/// One triangular filter: weights of consecutive power-spectrum bins.
struct Filter {
    first: usize,
    weights: Vec<f32>,
}

impl fmt::Debug for Fbank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fbank")
    }
}

impl Default for Fbank {
    fn default() -> Self {
        Self {
            fft: RealFftPlanner::new().plan_fft_forward(FFT_SAMPLES),
            window: povey_window(),
            filters: mel_filters(),
        }
    }
}

impl Fbank {
    /// Frames that `samples` samples yield: `1 + (n − 400) / 160`, 0 below one window ("snip edges").
    pub fn frames_of(samples: usize) -> usize {
        samples.checked_sub(WINDOW_SAMPLES).map_or(0, |rest| 1 + rest / SHIFT_SAMPLES)
    }

    /// Log mel energies of 16 kHz mono sound in [-1, 1], without mean normalisation.
    pub fn compute(&self, samples: &[f32]) -> Features {
        let mut frame = vec![0f64; FFT_SAMPLES];
        let mut spectrum = vec![Complex::default(); FFT_SAMPLES / 2 + 1];
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0f32; FFT_SAMPLES / 2];
        let mut values = Vec::with_capacity(Self::frames_of(samples.len()) * BINS);
        for sound in samples.windows(WINDOW_SAMPLES).step_by(SHIFT_SAMPLES) {
            self.condition(sound, &mut frame);
            if self.fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch).is_err() {
                // Lengths are constants of this module and agree; realfft reports only length faults here.
                return Features::default();
            }
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = narrow(bin.norm_sqr());
            }
            values.extend(self.filters.iter().map(|filter| filter.log_energy(&power)));
        }
        Features { values }
    }

    /// Scale, DC removal, pre-emphasis, window, zero padding: one frame ready for the FFT.
    fn condition(&self, sound: &[f32], frame: &mut [f64]) {
        let mean = sound.iter().map(|&s| f64::from(s)).sum::<f64>() / WINDOW_SAMPLES as f64;
        let mean = narrow(mean * f64::from(SCALE));
        // Kaldi emphasises the first sample against itself.
        let mut previous = sound.first().map_or(0.0, |&s| s * SCALE - mean);
        for ((out, &sample), &weight) in frame.iter_mut().zip(sound).zip(&self.window) {
            let centred = sample * SCALE - mean;
            *out = f64::from((centred - PRE_EMPHASIS * previous) * weight);
            previous = centred;
        }
        if let Some(padding) = frame.get_mut(WINDOW_SAMPLES..) {
            padding.fill(0.0);
        }
    }
}

impl Filter {
    fn log_energy(&self, power: &[f32]) -> f32 {
        let energy: f32 =
            power.iter().skip(self.first).zip(&self.weights).map(|(power, weight)| power * weight).sum();
        energy.max(f32::EPSILON).ln()
    }
}

/// Kaldi's own window: a Hann window to the power 0.85, which unlike Hamming reaches zero at the edges.
fn povey_window() -> Vec<f32> {
    let step = 2.0 * PI / (WINDOW_SAMPLES - 1) as f64;
    (0..WINDOW_SAMPLES).map(|n| narrow((0.5 - 0.5 * (step * n as f64).cos()).powf(POVEY_EXPONENT))).collect()
}

fn mel(hz: f64) -> f64 {
    1127.0 * (1.0 + hz / 700.0).ln()
}

/// Triangles that are linear on the mel scale, half overlapping; the Nyquist bin is left out, as in Kaldi.
fn mel_filters() -> Vec<Filter> {
    let bin_hz = f64::from(SAMPLE_RATE_HZ) / FFT_SAMPLES as f64;
    let low = mel(LOW_HZ);
    let step = (mel(HIGH_HZ) - low) / (BINS + 1) as f64;
    (0..BINS)
        .map(|bin| {
            let left = low + bin as f64 * step;
            let (centre, right) = (left + step, left + 2.0 * step);
            let weight = |index: usize| {
                let at = mel(bin_hz * index as f64);
                if at <= left || at >= right {
                    0.0
                } else if at <= centre {
                    (at - left) / (centre - left)
                } else {
                    (right - at) / (right - centre)
                }
            };
            let first = (0..FFT_SAMPLES / 2).find(|&i| weight(i) > 0.0).unwrap_or(0);
            let weights = (first..FFT_SAMPLES / 2).map(weight).take_while(|&w| w > 0.0).map(narrow).collect();
            Filter { first, weights }
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "tables and means are computed in f64 and used in f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        signal: String,
        samples: usize,
        frames: usize,
        /// Rows: frame index, then 80 values.
        rows: Vec<(usize, Vec<f32>)>,
    }

    /// The signals of `scripts/lab/fbank-fixtures.py`, by the same formulas in f64, rounded to 16-bit steps.
    fn signal(name: &str, samples: usize) -> Vec<f32> {
        let mut state: u32 = 12_345;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1u32 << 24) - 0.5
        };
        (0..samples)
            .map(|n| {
                let t = n as f64 / 16_000.0;
                let value = match name {
                    "chirp_noise" => 0.1 * (2.0 * PI * (50.0 * t + 3_500.0 * t * t)).sin() + 0.2 * noise(),
                    "quiet_noise" => 0.002 * noise() + 0.001,
                    "loud_noise" => (2.0 * noise()).clamp(-0.99, 0.99),
                    "silence" => 0.0,
                    other => panic!("unknown signal {other}"),
                };
                narrow((value * 32_768.0).round() / 32_768.0)
            })
            .collect()
    }

    #[test]
    fn the_filter_bank_equals_kaldi_native_fbank_to_a_thousandth() {
        let fixtures: Vec<Fixture> =
            serde_json::from_str(include_str!("../../../tests/data/fbank/kaldi.json")).unwrap();
        assert_eq!(fixtures.len(), 4);
        for fixture in fixtures {
            let features = Fbank::default().compute(&signal(&fixture.signal, fixture.samples));
            assert_eq!(features.frames(), fixture.frames, "{}", fixture.signal);
            for (frame, expected) in fixture.rows {
                let row = &features.values()[frame * BINS..(frame + 1) * BINS];
                for (bin, (got, want)) in row.iter().zip(expected).enumerate() {
                    assert!(
                        (got - want).abs() < 1e-3,
                        "{} frame {frame} bin {bin}: {got}, Kaldi has {want}",
                        fixture.signal
                    );
                }
            }
        }
    }

    #[test]
    fn the_frame_count_snips_edges() {
        for (samples, frames) in [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (48_000, 298)] {
            assert_eq!(Fbank::frames_of(samples), frames);
            assert_eq!(Fbank::default().compute(&vec![0.1; samples]).frames(), frames);
        }
    }

    #[test]
    fn mean_normalised_features_have_no_mean_and_are_padded_or_wrapped() {
        let mut features = Fbank::default().compute(&signal("chirp_noise", 8_000));
        features.subtract_mean();
        let frames = features.frames();
        for bin in 0..BINS {
            let mean: f32 = features.values().iter().skip(bin).step_by(BINS).sum::<f32>() / frames as f32;
            assert!(mean.abs() < 1e-4);
        }
        let padded = features.padded(3, frames);
        assert_eq!(padded[..(frames - 3) * BINS], features.values()[3 * BINS..]);
        assert!(padded.len() == frames * BINS && padded[(frames - 3) * BINS..].iter().all(|v| *v == 0.0));
        let wrapped = features.wrapped(3, frames + 5);
        assert_eq!(wrapped.len(), (frames + 5) * BINS);
        assert_eq!(wrapped[..BINS], features.values()[3 * BINS..4 * BINS]);
        assert_eq!(wrapped[frames * BINS..(frames + 1) * BINS], features.values()[3 * BINS..4 * BINS]);
    }
}
