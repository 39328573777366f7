//! The finding of `doctor` on the way from the loudspeaker to the microphone: a rising tone is played, and
//! looked for in what the microphone hears.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Finding;
use super::sound::record;
use crate::app::Settings;
use crate::audio::playback::Player;
use crate::audio::resample::resample_all;
use crate::dsp::level;
use crate::error::chain;
use crate::plain::figure;
use crate::units::SAMPLE_RATE_HZ;

const CHECK: &str = "echo";
/// Rate at which the tone is looked for: more than twice its highest frequency.
const RATE_HZ: u32 = 8_000;
const FROM_HZ: f64 = 400.0;
const TO_HZ: f64 = 3_000.0;
const TONE_S: f64 = 0.5;
/// A quarter of full scale: loud, and far from the limit.
const LEVEL: f64 = 0.25;
/// The microphone is open for this long before the tone.
const BEFORE: Duration = Duration::from_millis(500);
const LISTEN: Duration = Duration::from_secs(3);
/// Share of the power at the place found that the tone must have: noise has less than a hundredth.
const LEAST_SHARE: f64 = 0.1;

/// Plays the tone once. `None` where no loudspeaker is wanted.
pub fn echo(settings: &Settings) -> Option<Finding> {
    if !settings.speech.enabled {
        return None;
    }
    let device = settings.audio.playback_device.clone();
    let (begin, begun) = sync_channel::<()>(1);
    let (ended, end) = sync_channel(1);
    let play = move || {
        if begun.recv().is_ok() {
            let played =
                Player::new(&device).play(&tone(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, &CancellationToken::new());
            let _ = ended.send(played.map_err(|e| chain(&e)));
        }
    };
    if let Err(e) = std::thread::Builder::new().name("echo".to_owned()).spawn(play) {
        return Some(Finding::warn(CHECK, format!("the tone cannot be played ({e})"), "try again"));
    }
    let mut played_at = None;
    let recording = record(settings, LISTEN, |samples, rate_hz| {
        let before = u128::from(rate_hz) * BEFORE.as_millis() / 1_000;
        if played_at.is_none() && samples as u128 >= before {
            played_at = Some(samples);
            let _ = begin.try_send(());
        }
    });
    // The line of the microphone says why nothing was heard.
    let recording = recording.ok()?;
    // With less sound than that the tone was never asked for, and the loudspeaker is not to blame.
    let played_at = played_at?;
    match end.recv_timeout(LISTEN) {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            let fix = "`aplay -L` lists the names for audio.playback_device";
            return Some(Finding::warn(CHECK, why, fix));
        }
        Err(_) => {
            let fix =
                "the loudspeaker takes no sound: plug it in again, or set another audio.playback_device";
            return Some(Finding::warn(CHECK, "the tone was not played to its end", fix));
        }
    }
    let heard = recording.sound.get(played_at..)?;
    let peak = level::peak(heard);
    let heard = resample_all(heard, recording.rate_hz, RATE_HZ).ok()?;
    Some(judge(&heard, peak))
}

/// `heard`: what the microphone heard since the tone was handed to the loudspeaker, at [`RATE_HZ`].
fn judge(heard: &[f32], peak: f32) -> Finding {
    let tone = tone(RATE_HZ);
    let Some(Found { at, share, level_db }) = find(&tone, heard).filter(|found| found.share >= LEAST_SHARE)
    else {
        let fix = "if you did not hear a rising tone: raise the volume in `alsamixer`, check cable and \
                   audio.playback_device; a speakerphone that takes its own loudspeaker out is as it \
                   should be";
        return Finding::warn(CHECK, "the microphone does not hear the loudspeaker", fix);
    };
    let delay_ms = at * 1_000 / RATE_HZ as usize;
    let message = format!(
        "the microphone hears the loudspeaker {delay_ms} ms later, {} dB, {} % of it undistorted",
        figure(level_db, 0),
        figure(share * 100.0, 0)
    );
    if peak >= 0.99 {
        let fix = "move them apart, or lower the volume or the gain in `alsamixer`";
        return Finding::warn(CHECK, format!("{message}; it overdrives the microphone"), fix);
    }
    Finding::ok(CHECK, message)
}

/// A tone that rises from [`FROM_HZ`] to [`TO_HZ`] and begins and ends softly.
#[expect(clippy::cast_possible_truncation, reason = "samples within -1 and 1")]
fn tone(rate_hz: u32) -> Vec<f32> {
    let rate = f64::from(rate_hz);
    let octaves = (TO_HZ / FROM_HZ).ln();
    let length = rate_hz / 2;
    (0..length)
        .map(|n| {
            let t = f64::from(n) / rate;
            let phase =
                std::f64::consts::TAU * FROM_HZ * TONE_S / octaves * ((t / TONE_S * octaves).exp() - 1.0);
            let edge = (t.min(TONE_S - t) / 0.02).clamp(0.0, 1.0);
            (LEVEL * edge * phase.sin()) as f32
        })
        .collect()
}

/// The place where the tone is found.
struct Found {
    /// Samples from the start.
    at: usize,
    /// Power of the tone as a share of all power there.
    share: f64,
    /// Power of the tone.
    level_db: f32,
}

/// The place in `heard` that is most like `tone` (normalised cross-correlation).
fn find(tone: &[f32], heard: &[f32]) -> Option<Found> {
    let own: f64 = tone.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let found = heard.windows(tone.len()).enumerate().map(|(at, window)| {
        let (mut like, mut power) = (0.0_f32, 0.0_f32);
        for (a, b) in tone.iter().zip(window) {
            like += a * b;
            power += b * b;
        }
        let of_tone = f64::from(like) * f64::from(like) / own;
        let share = of_tone / f64::from(power).max(1e-9);
        Found { at, share, level_db: level::decibel(of_tone / tone.len() as f64) }
    });
    found.max_by(|a, b| a.share.total_cmp(&b.share))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn noise(length: usize) -> Vec<f32> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0) * 0.003
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn the_tone_is_found_in_noise_at_its_place_and_not_where_it_is_not() {
        let mut heard = noise(12_000);
        let none = judge(&heard, 0.01);
        assert_eq!(
            (none.state, none.message.as_str()),
            (State::Warn, "the microphone does not hear the loudspeaker")
        );
        for (to, from) in heard[1_600..].iter_mut().zip(tone(RATE_HZ)) {
            *to += from * 0.2;
        }
        let found = judge(&heard, 0.1);
        assert_eq!(found.state, State::Ok, "{found:?}");
        assert!(
            found.message.starts_with("the microphone hears the loudspeaker 200 ms later, -29 dB"),
            "{found:?}"
        );
        assert!(judge(&heard, 1.0).message.ends_with("it overdrives the microphone"));
    }
}
