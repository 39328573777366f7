//! Recognises a recording that was given before: the same sound moved, cut, louder or softer, or in another
//! format.
//!
//! ```text
//!  x, y ─▶ differences ─▶ r(lag) = Σ x[n]·y[n + lag]  (one FFT)     e(lag) = energy of each where they overlap
//!                         share(lag) = |r| / √(e_x·e_y)             1 for the same sound, near 0 for any other
//! ```
//!
//! Two readings of one sentence by one person do not repeat each other to the wave, so the share tells a copy
//! from a voice that is merely alike, which no distance of embeddings does. Differences of neighbouring
//! samples are compared rather than the samples, so that a hum under both recordings does not count.

use realfft::RealFftPlanner;
use realfft::num_complex::Complex;

use crate::units::SAMPLE_RATE_HZ;

/// Length of a recording that is examined, in seconds: an enrolment sample is a sentence.
const LOOKED_AT_S: usize = 30;
/// Share from which two recordings count as one. Measured on a synthetic voice, which repeats itself more
/// than any person: copies have 0.88 or more after a cut, another gain, another rate or Vorbis, and 0.57 even
/// after a telephone's 8 kHz or a low-pass; different sentences 0.14 at most, one sentence at another pace
/// 0.06 (`docs/design/speaker.md`).
const COPY_FROM: f32 = 0.4;
/// Least part of the energy of one of the two in their overlap: a common second says nothing.
const LEAST_PART: f64 = 0.5;

/// The fingerprint by which a recording is known again. Only in memory, only while an enrolment lasts.
#[derive(Clone)]
pub struct Sound {
    differences: Vec<f32>,
    /// Energy of the first `n` differences.
    energies: Vec<f64>,
}

impl std::fmt::Debug for Sound {
    /// Somebody's words: never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sound(..)")
    }
}

impl Sound {
    /// Takes 16 kHz mono samples; NaN and infinity count as silence.
    pub fn of(samples: &[f32]) -> Self {
        let samples = samples.get(..LOOKED_AT_S * SAMPLE_RATE_HZ as usize).unwrap_or(samples);
        let finite = |x: &f32| if x.is_finite() { x.clamp(-1.0, 1.0) } else { 0.0 };
        let differences: Vec<f32> =
            samples.iter().zip(samples.iter().skip(1)).map(|(a, b)| finite(b) - finite(a)).collect();
        let mut sum = 0.0;
        let mut energies = vec![0.0];
        energies.extend(differences.iter().map(|d| {
            sum += f64::from(*d) * f64::from(*d);
            sum
        }));
        Self { differences, energies }
    }

    /// Whether this is the sound of `earlier`.
    pub fn repeats(&self, earlier: &Self) -> bool {
        self.share(earlier) >= COPY_FROM
    }

    /// The largest share at any lag, 0 to 1.
    fn share(&self, other: &Self) -> f32 {
        let own = self.energy(0, self.differences.len());
        let others = other.energy(0, other.differences.len());
        // Silence has no share of anything.
        if own.min(others) < f64::EPSILON {
            return 0.0;
        }
        let Some(products) = correlate(&self.differences, &other.differences) else { return 0.0 };
        let size = products.len();
        let mut best = 0.0_f64;
        for lag in 0..self.differences.len() + other.differences.len() {
            // `other` begins `lag − its length` samples after `self`.
            let shift = lag.cast_signed() - other.differences.len().cast_signed();
            let (start, other_start) = (shift.max(0).cast_unsigned(), (-shift).max(0).cast_unsigned());
            let length = (self.differences.len().saturating_sub(start))
                .min(other.differences.len().saturating_sub(other_start));
            let (e, other_e) = (self.energy(start, length), other.energy(other_start, length));
            if e < LEAST_PART * own && other_e < LEAST_PART * others || e.min(other_e) < f64::EPSILON {
                continue;
            }
            let product = products.get(shift.rem_euclid(size.cast_signed()).cast_unsigned()).copied();
            best = best.max(f64::from(product.unwrap_or(0.0)).abs() / (e * other_e).sqrt());
        }
        #[expect(clippy::cast_possible_truncation, reason = "a share needs no f64")]
        let share = best.min(1.0) as f32;
        share
    }

    fn energy(&self, start: usize, length: usize) -> f64 {
        let at = |n: usize| self.energies.get(n).copied().unwrap_or(0.0);
        at(start + length) - at(start)
    }
}

/// `Σ x[n + shift]·y[n]` at index `shift` modulo the length, for every shift at which the two overlap.
fn correlate(x: &[f32], y: &[f32]) -> Option<Vec<f32>> {
    let size = (x.len() + y.len()).next_power_of_two();
    let mut planner = RealFftPlanner::<f32>::new();
    let (forward, back) = (planner.plan_fft_forward(size), planner.plan_fft_inverse(size));
    let spectrum = |sound: &[f32]| -> Option<Vec<Complex<f32>>> {
        let mut padded = sound.to_vec();
        padded.resize(size, 0.0);
        let mut spectrum = forward.make_output_vec();
        forward.process(&mut padded, &mut spectrum).ok()?;
        Some(spectrum)
    };
    let (mut product, other) = (spectrum(x)?, spectrum(y)?);
    for (a, b) in product.iter_mut().zip(&other) {
        *a *= b.conj();
    }
    // Real by construction; rounding leaves specks that the inverse transform would refuse.
    for end in [0, product.len().saturating_sub(1)] {
        if let Some(value) = product.get_mut(end) {
            value.im = 0.0;
        }
    }
    let mut out = back.make_output_vec();
    back.process(&mut product, &mut out).ok()?;
    let scale = size as f32;
    out.iter_mut().for_each(|v| *v /= scale);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::testing;

    const READER: &str = "audio/librispeech_train_clean_1each/103-1240-0000.flac";

    fn share(a: &[f32], b: &[f32]) -> f32 {
        let (a, b) = (Sound::of(a), Sound::of(b));
        assert!((a.share(&b) - b.share(&a)).abs() < 1e-3, "it does not matter which came first");
        a.share(&b)
    }

    /// Noise like nothing else: deterministic, white.
    fn noise(seed: u32, length: usize) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 24) as f32 - 0.5
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn a_copy_is_known_however_it_was_cut_moved_or_turned_up() {
        let sound = noise(1, 64_000);
        let hidden = noise(2, 64_000);
        let moved = [vec![0.0; 7_777], sound.clone()].concat();
        let louder: Vec<f32> = sound.iter().map(|s| s * -0.3).collect();
        let noisy: Vec<f32> = sound.iter().zip(&hidden).map(|(a, b)| a + b * 0.3).collect();
        for (name, copy) in
            [("itself", &sound[..]), ("cut", &sound[9_999..30_001]), ("moved", &moved), ("turned", &louder)]
        {
            assert!(share(copy, &sound) > 0.99, "{name}: {}", share(copy, &sound));
        }
        assert!(
            share(&sound[9_999..30_001], &louder) > 0.99,
            "cut and turned: {}",
            share(&sound[9_999..30_001], &louder)
        );
        assert!(share(&noisy, &sound) > 0.9, "noise over it: {}", share(&noisy, &sound));
        assert!(share(&hidden, &sound) < 0.1);
    }

    #[test]
    fn a_common_second_a_common_hum_silence_and_nonsense_are_no_copy() {
        let (a, b) = (noise(1, 64_000), noise(2, 64_000));
        let mixed = [&a[..16_000], &b[..48_000]].concat();
        assert!(share(&mixed, &a) < COPY_FROM, "{}", share(&mixed, &a));
        let hum = |sound: &[f32]| -> Vec<f32> {
            let wave = |n: usize| (n as f32 * 50.0 * std::f32::consts::TAU / 16_000.0).sin() * 0.4;
            sound.iter().enumerate().map(|(n, s)| s * 0.1 + wave(n)).collect()
        };
        assert!(share(&hum(&a), &hum(&b)) < 0.3, "{}", share(&hum(&a), &hum(&b)));
        for (one, other) in [(&[][..], &a[..]), (&[0.5], &a), (&[0.0; 16_000], &[0.0; 16_000])] {
            assert_eq!(share(one, other), 0.0);
        }
        assert!(share(&[f32::NAN; 16_000], &a) < 0.1 && share(&[f32::INFINITY; 16_000], &a) < 0.1);
    }

    #[test]
    fn pieces_of_one_reading_are_no_copies_of_each_other() {
        let Some((samples, _)) = testing::recording(READER) else { return };
        let pieces: Vec<&[f32]> = samples.chunks_exact(48_000).collect();
        for (i, a) in pieces.iter().enumerate() {
            for b in &pieces[i + 1..] {
                assert!(share(a, b) < 0.3, "{}", share(a, b));
            }
            assert!(share(&a[8_000..40_000], a) > 0.98);
        }
    }
}
