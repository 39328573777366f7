//! Noise and rooms by formulas, the same in every run.

const RATE_HZ: usize = 16_000;

/// Deterministic noise, uniform in [-1, 1].
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
    }

    /// Pink-ish noise (Kellet's economy filter): like rooms, most of it is low.
    fn pink(&mut self, count: usize) -> Vec<f32> {
        let (mut b0, mut b1, mut b2) = (0.0f32, 0.0f32, 0.0f32);
        (0..count)
            .map(|_| {
                let white = self.next();
                b0 = 0.997_65 * b0 + white * 0.099_046;
                b1 = 0.963 * b1 + white * 0.296_516_4;
                b2 = 0.57 * b2 + white * 1.052_691_3;
                b0 + b1 + b2 + white * 0.184_8
            })
            .collect()
    }
}

pub fn power(samples: &[f32]) -> f32 {
    samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32
}

pub fn with_noise(samples: &[f32], snr_db: f32, seed: u64) -> Vec<f32> {
    let noise = Noise(seed).pink(samples.len());
    let gain = (power(samples) / power(&noise) / 10f32.powf(snr_db / 10.0)).sqrt();
    samples.iter().zip(noise).map(|(s, n)| (s + gain * n).clamp(-1.0, 1.0)).collect()
}

/// A simulated other room and microphone: exponentially decaying reflections (RT60 0.25–0.55 s, direct sound
/// 6 dB above them), a first-order tilt of the spectrum, half the level, noise at 20 dB of its own seed.
pub fn other_room(samples: &[f32], seed: u64, noise_seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed);
    let rt60_s = 0.4 + 0.15 * noise.next();
    let taps: Vec<(usize, f32)> = (0..400)
        .map(|_| {
            let at = (noise.next().abs() * rt60_s * RATE_HZ as f32) as usize + 30;
            let decay = (-6.9 * at as f32 / (rt60_s * RATE_HZ as f32)).exp();
            (at, decay * noise.next())
        })
        .collect();
    let energy: f32 = taps.iter().map(|(_, g)| g * g).sum();
    let scale = (0.25 / energy).sqrt();
    let mut wet = samples.to_vec();
    for (delay, gain) in taps {
        for (out, dry) in wet.iter_mut().skip(delay).zip(samples) {
            *out += scale * gain * dry;
        }
    }
    let tilt = 0.5 * noise.next();
    let mut previous = 0.0;
    for s in &mut wet {
        let now = *s;
        *s = 0.5 * (now - tilt * previous);
        previous = now;
    }
    with_noise(&wet, 20.0, noise_seed)
}
