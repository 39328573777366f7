//! Loudness as an ear hears it: levels are measured behind a high-pass filter, never on the raw signal.
//!
//! A cheap sound card adds a constant (DC offset), a bad cable the hum of the mains at 50 or 60 Hz. Neither
//! hides a voice from a person or from the models, and both drown it in a plain mean power. The filter is a
//! Butterworth high-pass of order 8 at 100 Hz: -48 dB at 50 Hz, -35 dB at 60 Hz, -3 dB at 100 Hz, flat from
//! 130 Hz on. A voice has nearly all of its power above that. The recogniser gets the sound unfiltered; this
//! filter is for the numbers only.

use std::f64::consts::{PI, TAU};

use crate::units::SAMPLE_RATE_HZ;

const CUT_OFF_HZ: f64 = 100.0;
/// Quality of each second-order section of a Butterworth filter of order 8: 1 / (2·cos((2k + 1)·π / 16)).
const QUALITIES: [f64; 4] = [0.509_796, 0.601_345, 0.899_976, 2.562_915];
/// Length of the sound whose mean counts as the constant before the first sample: whole periods of 50 and 60
/// Hz.
const SETTLES_IN_MS: u32 = 100;

/// One second-order section, transposed direct form II.
#[derive(Debug, Clone, Copy)]
struct Section {
    b: [f64; 3],
    a: [f64; 2],
    state: [f64; 2],
}

impl Section {
    /// High-pass of the "Cookbook formulae for audio equalizer biquad filter coefficients" (R.
    /// Bristow-Johnson).
    fn new(rate_hz: u32, quality: f64) -> Self {
        let w = TAU * CUT_OFF_HZ / f64::from(rate_hz.max(1_000));
        let (sin, cos) = w.sin_cos();
        let alpha = sin / (2.0 * quality);
        let a0 = 1.0 + alpha;
        let b = (1.0 + cos) / (2.0 * a0);
        Self { b: [b, -2.0 * b, b], a: [-2.0 * cos / a0, (1.0 - alpha) / a0], state: [0.0; 2] }
    }

    /// As if `constant` had been the input for ever: the output is 0.
    fn settle(&mut self, constant: f64) {
        let [b0, _, b2] = self.b;
        self.state = [-b0 * constant, b2 * constant];
    }

    fn next(&mut self, x: f64) -> f64 {
        let y = self.b[0] * x + self.state[0];
        self.state = [self.b[1] * x - self.a[0] * y + self.state[1], self.b[2] * x - self.a[1] * y];
        y
    }
}

/// The filter, for sound that comes piece by piece.
#[derive(Debug, Clone)]
pub struct HighPass {
    sections: [Section; 4],
    settle_samples: usize,
    settled: bool,
}

impl HighPass {
    pub fn new(rate_hz: u32) -> Self {
        Self {
            sections: QUALITIES.map(|quality| Section::new(rate_hz, quality)),
            settle_samples: (rate_hz / 1_000 * SETTLES_IN_MS) as usize,
            settled: false,
        }
    }

    /// The next samples without inaudible frequencies; NaN and infinity count as silence.
    pub fn filter(&mut self, samples: &[f32]) -> Vec<f32> {
        let finite = |x: &f32| if x.is_finite() { f64::from(*x) } else { 0.0 };
        if !self.settled && !samples.is_empty() {
            let start = samples.get(..self.settle_samples).unwrap_or(samples);
            let mean = start.iter().map(finite).sum::<f64>() / start.len() as f64;
            if let Some(first) = self.sections.first_mut() {
                first.settle(mean);
            }
            self.settled = true;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the input was f32")]
        samples
            .iter()
            .map(|x| self.sections.iter_mut().fold(finite(x), |x, section| section.next(x)) as f32)
            .collect()
    }
}

/// A whole stretch of 16 kHz sound without inaudible frequencies.
pub fn audible(samples: &[f32]) -> Vec<f32> {
    HighPass::new(SAMPLE_RATE_HZ).filter(samples)
}

/// Mean power.
pub fn power(samples: &[f32]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    samples.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / samples.len() as f64
}

/// Largest magnitude.
pub fn peak(samples: &[f32]) -> f32 {
    samples.iter().fold(0.0, |peak, x| peak.max(x.abs()))
}

/// Power relative to full scale in dB, with a floor below the quantisation noise of 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "a level in dB needs no f64")]
pub fn decibel(power: f64) -> f32 {
    (10.0 * power.max(1e-10).log10()) as f32
}

/// The hum of the mains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hum {
    /// 50 or 60.
    pub mains_hz: u32,
    /// Power of the mains frequency and its first harmonics together, relative to full scale.
    pub level_db: f32,
}

/// Hum below this is quieter than a voice from across the room.
const LEAST_HUM_DB: f32 = -50.0;
/// A line of the mains exceeds its neighbourhood by this much: 10 dB, as a ratio of powers.
const STANDS_OUT: f64 = 10.0;

/// Finds the hum of the mains in at least half a second of sound.
pub fn hum(samples: &[f32], rate_hz: u32) -> Option<Hum> {
    // Whole periods of 50 and 60 Hz, so that neither leaks into the lines beside it.
    let block = (rate_hz / 10) as usize;
    let whole = samples.len().checked_div(block)? * block;
    let samples = samples.get(..whole).filter(|s| s.len() >= 5 * block)?;
    [50, 60]
        .into_iter()
        .filter_map(|mains_hz| {
            let line = |hz: f64| line_power(samples, rate_hz, hz);
            let mains = f64::from(mains_hz);
            let beside = line(mains - 6.0).max(line(mains + 6.0));
            let power: f64 = (1..=3).map(|harmonic| line(f64::from(harmonic) * mains)).sum();
            let level_db = decibel(power);
            let loud = level_db >= LEAST_HUM_DB && line(mains) > STANDS_OUT * beside;
            loud.then_some(Hum { mains_hz, level_db })
        })
        .max_by(|a, b| a.level_db.total_cmp(&b.level_db))
}

/// Power of the sine at `hz`, by the Goertzel algorithm.
fn line_power(samples: &[f32], rate_hz: u32, hz: f64) -> f64 {
    let w = 2.0 * PI * hz / f64::from(rate_hz);
    let double_cos = 2.0 * w.cos();
    let (mut s1, mut s2) = (0.0, 0.0);
    for &x in samples {
        let x = if x.is_finite() { f64::from(x) } else { 0.0 };
        (s2, s1) = (s1, x + double_cos * s1 - s2);
    }
    let magnitude = s1 * s1 + s2 * s2 - double_cos * s1 * s2;
    let length = samples.len() as f64;
    2.0 * magnitude.max(0.0) / (length * length)
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test signals are computed in f64 and in numbers that fit"
)]
mod tests {
    use super::*;

    fn tone(hz: f64, level: f64, seconds: f64, rate_hz: u32) -> Vec<f32> {
        let samples = (seconds * f64::from(rate_hz)) as u32;
        (0..samples).map(|n| (level * (TAU * hz * f64::from(n) / f64::from(rate_hz)).sin()) as f32).collect()
    }

    /// Level of a tone behind the filter, its first half second left out, relative to the tone.
    fn gain_db(hz: f64, rate_hz: u32) -> f32 {
        let out = HighPass::new(rate_hz).filter(&tone(hz, 0.5, 2.0, rate_hz));
        decibel(power(&out[rate_hz as usize / 2..])) - decibel(0.125)
    }

    #[test]
    fn hum_goes_and_a_voice_stays_at_every_rate() {
        for rate in [8_000, 16_000, 44_100, 48_000, 96_000] {
            for (hz, most) in [(50.0, -45.0), (60.0, -33.0)] {
                assert!(gain_db(hz, rate) < most, "{hz} Hz at {rate}: {}", gain_db(hz, rate));
            }
            assert!((gain_db(100.0, rate) + 3.0).abs() < 0.2, "{}", gain_db(100.0, rate));
            for hz in [140.0, 200.0, 1_000.0, 3_000.0] {
                assert!(gain_db(hz, rate).abs() < 0.5, "{hz} Hz at {rate}: {}", gain_db(hz, rate));
            }
        }
    }

    #[test]
    fn a_constant_is_nothing_from_the_first_sample_on() {
        let mut sound = tone(1_000.0, 0.1, 1.0, 16_000);
        let without = audible(&sound);
        sound.iter_mut().for_each(|x| *x += 0.3);
        let worst = audible(&sound).iter().zip(&without).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
        assert!(peak(&audible(&vec![f32::NAN; 100])) == 0.0 && audible(&[]).is_empty());
    }

    #[test]
    fn hum_is_named_by_its_mains_and_a_voice_is_none() {
        for (hz, mains_hz) in [(50.0, 50), (60.0, 60), (50.03, 50)] {
            for level in [0.01, 0.1, 0.5] {
                let hum = hum(&tone(hz, level, 1.5, 48_000), 48_000).unwrap();
                assert_eq!(hum.mains_hz, mains_hz);
                assert!((hum.level_db - decibel(level * level / 2.0)).abs() < 0.5, "{hum:?} {level}");
            }
        }
        for (hz, level) in [(50.0, 0.001), (110.0, 0.5), (220.0, 0.5), (55.0, 0.3), (0.0, 0.0)] {
            assert_eq!(hum(&tone(hz, level, 1.5, 48_000), 48_000), None, "{hz} Hz");
        }
        assert_eq!(hum(&[0.5; 100], 48_000), None);
        assert_eq!(hum(&[], 16_000), None);
    }
}
