//! From a stretch of sound and its voice activity to net speech and its quality.

use crate::dsp::level::{audible, decibel, power};
use crate::units::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// VAD probability from which a frame counts as speech.
const SPEECH_PROBABILITY: f32 = 0.5;
/// Pauses up to this many frames stay in: a stop consonant is silent for that long.
const BRIDGED_PAUSE_FRAMES: usize = 8;
/// Runs of speech shorter than this are clicks, not speech.
const SHORTEST_RUN_FRAMES: usize = 5;
/// Reported SNR where the noise is digital silence.
const SNR_CEILING_DB: f32 = 60.0;
/// A sample at or above this magnitude has reached the end of the converter's scale.
const CLIPPED_LEVEL: f32 = 0.9985;

/// Only the speech of a stretch of sound, and its quality. The one definition of "net speech" in the program.
#[derive(Debug, Clone, PartialEq)]
pub struct NetSpeech {
    /// 16 kHz mono in [-1, 1]: the speech frames, joined.
    pub samples: Vec<f32>,
    /// Which frames of the sound these are, rising.
    pub frames: Vec<usize>,
    pub quality: Quality,
}

/// Measured on the speech of one sample. Levels are those of audible sound: a DC offset and the hum of the
/// mains count neither as voice nor as noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    pub net_speech_s: f32,
    /// Mean power of the speech relative to full scale.
    pub level_db: f32,
    /// Mean power of the speech over that of the noise behind it; at most 60 dB.
    pub snr_db: f32,
    /// Share of speech samples at the end of the converter's scale, 0 to 1. Measured on the raw sound, which
    /// is what reaches the end.
    pub clipped: f32,
}

impl NetSpeech {
    /// Cuts `samples` (16 kHz mono) down to its speech. `speech` holds a VAD probability per 10 ms frame;
    /// frames that it does not cover count as silence, and so does NaN.
    pub fn of(samples: &[f32], speech: &[f32]) -> Self {
        let mask = speech_mask(speech);
        let mut kept = Vec::with_capacity(samples.len());
        let mut frames = Vec::new();
        let mut speech_power = Mean::default();
        let mut rest = Vec::new();
        let mut all = Vec::new();
        let mut clipped = 0usize;
        let heard = audible(samples);
        let frames_heard = heard.chunks_exact(FRAME_SAMPLES);
        for (index, (frame, heard)) in samples.chunks_exact(FRAME_SAMPLES).zip(frames_heard).enumerate() {
            let power = power(heard);
            all.push(power);
            if mask.get(index).copied().unwrap_or(false) {
                // One bad sample would make every feature, and so every score, meaningless.
                kept.extend(frame.iter().map(|&s| if s.is_finite() { s.clamp(-1.0, 1.0) } else { 0.0 }));
                frames.push(index);
                speech_power.add(power);
                clipped += frame.iter().filter(|s| s.abs() >= CLIPPED_LEVEL).count();
            } else {
                rest.push(power);
            }
        }
        let speech_db = decibel(speech_power.value());
        let snr_db = speech_db - decibel(noise_power(rest, all));
        let quality = Quality {
            net_speech_s: kept.len() as f32 / SAMPLE_RATE_HZ as f32,
            level_db: speech_db,
            snr_db: snr_db.clamp(-SNR_CEILING_DB, SNR_CEILING_DB),
            clipped: if kept.is_empty() { 0.0 } else { clipped as f32 / kept.len() as f32 },
        };
        Self { samples: kept, frames, quality }
    }
}

/// Power of the background: the quiet quarter of the frames that are not speech, because the rest of them may
/// hold the ends of words that the VAD cut off. With too few of them, the quiet tenth of all frames.
fn noise_power(rest: Vec<f64>, all: Vec<f64>) -> f64 {
    const LEAST_FRAMES: usize = 10;
    let (mut powers, part) = if rest.len() >= LEAST_FRAMES { (rest, 4) } else { (all, 10) };
    powers.retain(|p| p.is_finite());
    powers.sort_by(f64::total_cmp);
    powers.get(powers.len() / part).copied().unwrap_or(0.0)
}

/// Marks the frames that are speech: over the threshold, short pauses bridged, clicks removed.
fn speech_mask(speech: &[f32]) -> Vec<bool> {
    let mut mask: Vec<bool> = speech.iter().map(|&p| p >= SPEECH_PROBABILITY).collect();
    replace_short_runs(&mut mask, false, BRIDGED_PAUSE_FRAMES);
    replace_short_runs(&mut mask, true, SHORTEST_RUN_FRAMES - 1);
    mask
}

/// Inverts runs of `value` of at most `longest` frames that have the other value on both sides, or for speech
/// on any side.
fn replace_short_runs(mask: &mut [bool], value: bool, longest: usize) {
    let mut start = 0;
    while start < mask.len() {
        let run = mask.get(start..).map_or(0, |rest| rest.iter().take_while(|&&m| m == value).count());
        if run == 0 {
            start += 1;
            continue;
        }
        let inside = start > 0 && start + run < mask.len();
        if run <= longest && (inside || value) {
            for m in mask.iter_mut().skip(start).take(run) {
                *m = !value;
            }
        }
        start += run;
    }
}

#[derive(Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum += value;
            self.count += 1;
        }
    }

    fn value(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(frames: usize, level: f32) -> Vec<f32> {
        (0..frames * FRAME_SAMPLES).map(|n| level * (n as f32 * 0.3).sin()).collect()
    }

    #[test]
    fn only_speech_is_kept_and_short_pauses_stay_in() {
        let mut speech = vec![0.0; 100];
        speech[20..40].fill(0.9);
        speech[45..60].fill(0.9); // 50 ms pause: bridged
        speech[80..83].fill(0.9); // 30 ms: a click
        let net = NetSpeech::of(&tone(100, 0.1), &speech);
        assert_eq!(net.samples.len(), 40 * FRAME_SAMPLES);
        assert!((net.quality.net_speech_s - 0.4).abs() < 1e-6);
    }

    #[test]
    fn level_and_snr_are_measured_in_decibel() {
        let mut sound = tone(50, 0.001);
        sound.extend(tone(50, 0.1));
        let speech: Vec<f32> = (0..100).map(|i| if i < 50 { 0.0 } else { 1.0 }).collect();
        let quality = NetSpeech::of(&sound, &speech).quality;
        assert!((quality.level_db + 23.0).abs() < 0.2, "{quality:?}");
        assert!((quality.snr_db - 40.0).abs() < 0.5, "{quality:?}");
    }

    #[test]
    fn a_dc_offset_and_hum_change_no_level() {
        let mut sound = tone(50, 0.001);
        sound.extend(tone(50, 0.1));
        let speech: Vec<f32> = (0..100).map(|i| if i < 50 { 0.0 } else { 1.0 }).collect();
        let plain = NetSpeech::of(&sound, &speech);
        let hum = |hz: f32, n: usize| 0.2 * (std::f32::consts::TAU * hz * n as f32 / 16_000.0).sin();
        for (offset, hz) in [(0.07, 0.0), (-0.5, 0.0), (0.0, 50.0), (0.1, 60.0)] {
            let dirty: Vec<f32> = sound.iter().enumerate().map(|(n, x)| x + offset + hum(hz, n)).collect();
            let net = NetSpeech::of(&dirty, &speech);
            let (want, got) = (plain.quality, net.quality);
            assert!((got.level_db - want.level_db).abs() < 0.3, "{offset} {hz}: {got:?}, {want:?}");
            assert!(got.snr_db > if hz > 0.0 { 20.0 } else { want.snr_db - 0.5 }, "{offset} {hz}: {got:?}");
            // The model hears the sound as it was recorded.
            assert_eq!(net.samples, dirty[50 * FRAME_SAMPLES..]);
        }
    }

    #[test]
    fn steady_sound_is_noise_even_where_the_vad_hears_speech_throughout() {
        let quality = NetSpeech::of(&tone(100, 0.1), &[1.0; 100]).quality;
        assert!(quality.snr_db < 3.0, "{quality:?}");
    }

    #[test]
    fn clipped_sound_is_noticed() {
        let sound: Vec<f32> = tone(50, 3.0).into_iter().map(|s| s.clamp(-1.0, 1.0)).collect();
        assert!(NetSpeech::of(&sound, &[1.0; 50]).quality.clipped > 0.5);
        assert!(NetSpeech::of(&tone(50, 0.9), &[1.0; 50]).quality.clipped < 1e-6);
    }

    #[test]
    fn damaged_and_empty_input_yields_finite_numbers() {
        let sound = vec![f32::NAN; 1_600];
        for (sound, speech) in
            [(&sound[..], &[1.0; 10][..]), (&[][..], &[1.0; 10][..]), (&sound[..], &[f32::NAN; 3][..])]
        {
            let net = NetSpeech::of(sound, speech);
            assert!(net.samples.iter().all(|s| s.is_finite()));
            let q = net.quality;
            assert!([q.net_speech_s, q.level_db, q.snr_db, q.clipped].iter().all(|v| v.is_finite()));
        }
    }
}
