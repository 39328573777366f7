//! The findings of `doctor` on microphone and loudspeaker, from a stretch of sound.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use alsa::Direction;
use alsa::pcm::PCM;

use super::Finding;
use crate::app::Settings;
use crate::audio::alsa::AlsaSource;
use crate::audio::{CaptureStats, Period, Read, SoundFault, Source};
use crate::dsp::level::{self, HighPass};
use crate::error::chain;
use crate::plain::figure;

const NAMES: &str = "`arecord -L` lists the names for audio.device; the user of the daemon must be in group \
                     audio";

/// Sound of the microphone, as the daemon hears it.
pub struct Recording {
    pub sound: Vec<f32>,
    pub rate_hz: u32,
    verdict: Option<SoundFault>,
    overruns: u64,
    lost_samples: u64,
}

/// Hears the microphone for `length`; `meanwhile` is told how many samples there are, after each period.
///
/// # Errors
/// The finding that says why nothing was heard.
pub fn record(
    settings: &Settings,
    length: Duration,
    mut meanwhile: impl FnMut(usize, u32),
) -> Result<Recording, Finding> {
    const CHECK: &str = "microphone";
    let audio = &settings.audio;
    let stats = Arc::new(CaptureStats::default());
    let mut source =
        AlsaSource::new(audio.clone(), stats.clone()).map_err(|e| Finding::fail(CHECK, chain(&e), NAMES))?;
    let mut period = Period::default();
    let mut sound: Vec<f32> = Vec::new();
    let end = Instant::now() + length;
    while Instant::now() < end {
        match source.read(&mut period) {
            Ok(Read::Period) => {
                sound.extend_from_slice(period.sound());
                meanwhile(sound.len(), period.rate_hz);
            }
            Ok(Read::Nothing) => {}
            Ok(Read::End) => break,
            Err(e) => return Err(Finding::fail(CHECK, chain(&e), NAMES)),
        }
    }
    if sound.is_empty() {
        let why = stats.last_error().map_or_else(|| "no sound came".to_owned(), |e| e.to_string());
        let busy = "; stop the daemon first if it is using the microphone";
        let message = format!("\"{}\" gives no sound: {why}", audio.device);
        return Err(Finding::fail(CHECK, message, format!("{NAMES}{busy}")));
    }
    Ok(Recording {
        sound,
        rate_hz: period.rate_hz,
        verdict: source.measured().verdict(audio.channel),
        overruns: stats.xruns.load(Relaxed),
        lost_samples: stats.lost_samples.load(Relaxed),
    })
}

/// Hears the microphone for `length`.
pub fn microphone(settings: &Settings, length: Duration) -> Finding {
    match record(settings, length, |_, _| {}) {
        Ok(recording) => judge(&settings.audio.device, &recording, length),
        Err(finding) => finding,
    }
}

fn judge(device: &str, recording: &Recording, length: Duration) -> Finding {
    const CHECK: &str = "microphone";
    let Levels { floor_db, loudest_db, mean_db } = Levels::of(recording);
    let mut heard = format!("\"{device}\", {} Hz, {} dB", recording.rate_hz, figure(mean_db, 0));
    if loudest_db - floor_db >= 1.0 {
        heard += &format!(
            " ({} dB at its quietest, {} dB at its loudest)",
            figure(floor_db, 0),
            figure(loudest_db, 0)
        );
    }
    let mut faults = sound_faults(recording.verdict, &recording.sound, recording.rate_hz);
    // The levels of a microphone that is wired wrongly say nothing.
    if recording.verdict.is_none() {
        faults.extend(level_faults(recording.rate_hz, floor_db, loudest_db));
    }
    if recording.overruns > 0 {
        let lost_ms = recording.lost_samples * 1_000 / u64::from(recording.rate_hz.max(1));
        let fix = "the machine was too busy to take the sound in time: stop what else runs, look at \
                   temperature and power, set audio.period_ms to 20, and for a USB microphone take \
                   another socket";
        let seconds = figure(length.as_secs_f64(), 0);
        faults.push((
            format!("{} overrun(s) in {seconds} s, {lost_ms} ms of sound lost", recording.overruns),
            fix.to_owned(),
        ));
    }
    let (faults, fixes): (Vec<String>, Vec<String>) = faults.into_iter().unzip();
    if faults.is_empty() {
        return Finding::ok(CHECK, heard);
    }
    Finding::warn(CHECK, format!("{heard}: {}", faults.join("; ")), fixes.join("; "))
}

/// Levels behind the high-pass filter, in dB of full scale.
struct Levels {
    /// Of the quietest tenth of the blocks: the noise of room and microphone between the sounds.
    floor_db: f32,
    loudest_db: f32,
    mean_db: f32,
}

impl Levels {
    fn of(recording: &Recording) -> Self {
        let heard = HighPass::new(recording.rate_hz).filter(&recording.sound);
        let block = (recording.rate_hz as usize / 10).max(1);
        let mut blocks: Vec<f32> =
            heard.chunks(block).map(|block| level::decibel(level::power(block))).collect();
        blocks.sort_by(f32::total_cmp);
        let mean_db = level::decibel(level::power(&heard));
        let at = |n: usize| blocks.get(n).copied().unwrap_or(mean_db);
        Self { floor_db: at(blocks.len() / 10), loudest_db: at(blocks.len().saturating_sub(1)), mean_db }
    }
}

/// Noise above this hides a voice from across the room, which arrives with some -45 to -30 dB.
const NOISY_DB: f32 = -40.0;
/// Below this not even a quiet room was heard: 16 bits end at -98 dB.
const DEAF_DB: f32 = -90.0;
/// Words and voices need sound up to 8 kHz.
const LEAST_RATE_HZ: u32 = 16_000;

fn level_faults(rate_hz: u32, floor_db: f32, loudest_db: f32) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    if rate_hz < LEAST_RATE_HZ {
        let fix = "set audio.rate_hz to 16000 or more, or use another microphone";
        faults.push(("at this rate the upper half of a voice is missing".to_owned(), fix.to_owned()));
    }
    if floor_db > NOISY_DB {
        let fix = "find the noise (a fan, a television, a gain that is too high in `alsamixer`), or check \
                   again when it is quiet";
        faults.push(("much noise: only who is near is understood".to_owned(), fix.to_owned()));
    }
    if loudest_db < DEAF_DB {
        let fix = "speak during the check; if the level stays, raise the gain in `alsamixer` (F4)";
        faults.push(("very quiet: nothing but the microphone's own noise".to_owned(), fix.to_owned()));
    }
    faults
}

fn is_no_sound(fault: SoundFault) -> bool {
    matches!(fault, SoundFault::Silent | SoundFault::Constant | SoundFault::Flicker)
}

/// Faults of the microphone's sound, each with the remedy.
fn sound_faults(verdict: Option<SoundFault>, sound: &[f32], rate_hz: u32) -> Vec<(String, String)> {
    /// Share of full scale from which a DC offset is worth a word: a loud voice is clipped by this much.
    const LEAST_OFFSET: f64 = 0.02;
    let mut faults = Vec::new();
    match verdict {
        // A value that never changes is also an offset; nothing to add.
        Some(fault) if is_no_sound(fault) => return vec![(fault.words(), fault.fix())],
        Some(fault) => faults.push((fault.words(), fault.fix())),
        None => {}
    }
    if level::peak(sound) >= 0.99 {
        let fix = "lower the gain in `alsamixer`, or say nothing during the check";
        faults.push(("overdriven".to_owned(), fix.to_owned()));
    }
    let offset = sound.iter().map(|&x| f64::from(x)).sum::<f64>() / sound.len() as f64;
    if offset.abs() >= LEAST_OFFSET {
        let fix = "the device hears in spite of the offset, but loud words are cut off sooner: switch on the \
                   high-pass filter of the sound card in `alsamixer`, or use another one";
        faults
            .push((format!("a DC offset of {} % of full scale", figure(100.0 * offset, 0)), fix.to_owned()));
    }
    if let Some(hum) = level::hum(sound, rate_hz) {
        let fix = "the device hears in spite of the hum, but not from afar: keep the cable away from the \
                   mains, or use another power supply or a shielded cable";
        faults.push((
            format!("hum of the mains at {} Hz, {} dB", hum.mains_hz, figure(hum.level_db, 0)),
            fix.to_owned(),
        ));
    }
    faults
}

pub fn loudspeaker(settings: &Settings) -> Finding {
    const CHECK: &str = "loudspeaker";
    let device = &settings.audio.playback_device;
    if !settings.speech.enabled {
        return Finding::ok(CHECK, "not needed: speech.enabled is false");
    }
    // alsa-lib would print its own lines about a device that does not open.
    let _ = alsa::Output::local_error_handler();
    match PCM::new(device, Direction::Playback, true) {
        Ok(_) => Finding::ok(CHECK, format!("\"{device}\" opens")),
        Err(e) => Finding::warn(
            CHECK,
            format!("\"{device}\" does not open ({e}); answers are text only"),
            "`aplay -L` lists the names for audio.playback_device",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    const RATE_HZ: u32 = 16_000;

    /// Two seconds of noise that is `amplitude` at most, with a loud second half.
    fn heard(amplitude: f32, loud: f32, overruns: u64) -> Finding {
        let mut state = 1_u32;
        let sound = (0..2 * RATE_HZ)
            .map(|n| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0;
                noise * if n < RATE_HZ { amplitude } else { loud }
            })
            .collect();
        let recording =
            Recording { sound, rate_hz: RATE_HZ, verdict: None, overruns, lost_samples: overruns * 800 };
        judge("mic", &recording, Duration::from_secs(2))
    }

    #[test]
    fn the_gain_is_judged_by_the_quietest_and_the_loudest_tenth_of_a_second() {
        let good = heard(0.002, 0.05, 0);
        assert_eq!(good.state, State::Ok, "{good:?}");
        assert_eq!(good.message, "\"mic\", 16000 Hz, -34 dB (-59 dB at its quietest, -31 dB at its loudest)");
        for (finding, words) in [
            (heard(0.00003, 0.00003, 0), "very quiet"),
            (heard(0.1, 0.2, 0), "much noise"),
            (heard(0.002, 1.0, 0), "overdriven"),
            (heard(0.002, 0.05, 3), "3 overrun(s) in 2 s, 150 ms of sound lost"),
        ] {
            assert_eq!(finding.state, State::Warn, "{finding:?}");
            assert!(finding.message.contains(words), "{finding:?}");
            assert!(!finding.message.contains(';'), "one fault: {finding:?}");
        }
    }
}
