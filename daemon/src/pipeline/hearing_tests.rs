//! The thread's body on real speech with the real detector, examined long after it was heard.

use std::process::Command;

use super::*;
use crate::audio::Channel;
use crate::audio::file::read_all;
use crate::detect::Utterance;
use crate::detect::section::{Endpoint, Wake, WakeModels};
use crate::inference::ModelError;
use crate::testdata::models;

const RATE_HZ: usize = 16_000;

/// Begin and end, in seconds.
type Span = (f64, f64);

/// 1 s of silence, a sentence, 3 s of silence, the sentence again, 1.5 s of silence; and where each sentence
/// begins and ends, in seconds. `None` without a synthesiser.
fn two_sentences() -> Option<(Vec<f32>, [Span; 2])> {
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("a.wav");
    let text = "remember that the garage door is open";
    if Command::new("flite").args(["-voice", "rms", "-t", text, "-o"]).arg(&wav).status().is_err() {
        crate::testdata::skipped("flite is not on this machine");
        return None;
    }
    let (speech, rate_hz) = read_all(&wav, Channel::Mean, 60).unwrap();
    assert_eq!(rate_hz as usize, RATE_HZ);
    let peak = speech.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let speech: Vec<f32> = speech.iter().map(|x| x * 0.5 / peak).collect();
    let silence = |tenths: usize| vec![0.0; tenths * RATE_HZ / 10];
    let sound = [silence(10), speech.clone(), silence(30), speech.clone(), silence(15)].concat();
    let length = speech.len() as f64 / RATE_HZ as f64;
    Some((sound, [(1.0, 1.0 + length), (4.0 + length, 4.0 + 2.0 * length)]))
}

fn detector(wake: bool) -> Option<Detector> {
    let mut words = Wake::default();
    if !wake {
        words.model = WakeModels(Vec::new());
    }
    match Detector::new(&models(), &words, &Endpoint::default()) {
        Ok(detector) => Some(detector),
        Err(ModelError::Missing { .. }) => {
            crate::testdata::skipped(
                "the wake word is not on this machine (scripts/fetch-models.sh --wake-word)",
            );
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// All detections in `sound`, all of which waits in the ring when the thread begins.
fn hear_late(sound: &[f32], detector: &mut Detector, control: &HearingControl) -> Vec<Detection> {
    let pieces = sound.chunks(RATE_HZ / 100);
    let (mut ring_in, ring) = rtrb::RingBuffer::new(pieces.len());
    for piece in pieces {
        let mut period = Period { rate_hz: 16_000, len: piece.len(), ..Period::default() };
        period.samples[..piece.len()].copy_from_slice(piece);
        ring_in.push(period).unwrap();
    }
    drop(ring_in);
    let (out, mut found) = mpsc::channel(4_096);
    let hearing = Hearing { ring, front: FrontEnd::new(), detector, control, out, lockstep: false };
    // The missing receiver answers the last question, whether all turns are over.
    std::thread::scope(|scope| {
        scope.spawn(|| hearing.run(&CancellationToken::new()));
        std::iter::from_fn(|| found.blocking_recv()).filter_map(|heard| heard.detection).collect()
    })
}

/// A control whose sound has come up to `s` seconds.
fn sound_is_at(stats: &CaptureStats, s: f64) {
    stats.sound_came(u64::try_from(Duration::from_secs_f64(s).as_nanos()).unwrap());
}

fn utterances(found: &[Detection]) -> Vec<&Utterance> {
    found
        .iter()
        .filter_map(|d| if let Detection::SpeechEnd { utterance } = d { Some(utterance) } else { None })
        .collect()
}

fn seconds(pos: FramePos) -> f64 {
    pos.0 as f64 / 100.0
}

#[test]
fn what_was_heard_while_the_device_spoke_is_left_out_however_late_it_is_looked_at() {
    let Some((sound, [first, second])) = two_sentences() else { return };
    let stats = Arc::new(CaptureStats::default());
    let control = HearingControl::new(stats.clone());
    let mut always = detector(false).unwrap();
    assert_eq!(utterances(&hear_late(&sound, &mut always, &control)).len(), 2, "a device that is silent");

    sound_is_at(&stats, first.0 - 0.3);
    let hold = control.hold(250);
    sound_is_at(&stats, first.1 + 0.1);
    drop(hold);
    let found = hear_late(&sound, &mut detector(false).unwrap(), &control);
    let heard = utterances(&found);
    assert_eq!(heard.len(), 1, "{found:?}");
    assert!(seconds(heard[0].start) > first.1, "{:?}", heard[0].start);
    assert!((seconds(heard[0].end) - second.1 - 0.7).abs() < 0.3, "{:?}", heard[0].end);
}

#[test]
fn speech_right_behind_the_answer_is_heard_from_its_first_word_on() {
    let Some((sound, [first, _])) = two_sentences() else { return };
    let stats = Arc::new(CaptureStats::default());
    let control = HearingControl::new(stats.clone());
    // The answer ends where the sentence begins; the device notices when the sentence is over.
    sound_is_at(&stats, 0.2);
    let hold = control.hold(0);
    sound_is_at(&stats, first.0);
    drop(hold);
    sound_is_at(&stats, first.1);
    let found = hear_late(&sound, &mut detector(false).unwrap(), &control);
    let heard = utterances(&found);
    assert_eq!(heard.len(), 2, "{found:?}");
    assert!((seconds(heard[0].start) - first.0).abs() < 0.3, "{:?}", heard[0].start);
}

#[test]
fn a_follow_up_window_begins_at_the_end_of_the_answer_and_not_before_it() {
    let Some((sound, [first, second])) = two_sentences() else { return };
    let Some(mut woken_by_word) = detector(true) else { return };
    let stats = Arc::new(CaptureStats::default());
    let control = HearingControl::new(stats.clone());
    assert!(hear_late(&sound, &mut woken_by_word, &control).is_empty(), "no wake word, no window");

    sound_is_at(&stats, 0.2);
    let hold = control.hold(0);
    // An answer longer than the window.
    sound_is_at(&stats, first.1 + 1.5);
    drop(hold);
    control.open_window(Window::FollowUp, 2_000);
    let found = hear_late(&sound, &mut detector(true).unwrap(), &control);
    let heard = utterances(&found);
    assert_eq!(heard.len(), 1, "{found:?}");
    assert!((seconds(heard[0].start) - second.0).abs() < 0.4, "{:?}", heard[0].start);
}

#[test]
fn what_was_said_while_muted_is_not_heard_when_the_device_is_unmuted() {
    let Some((sound, [first, _])) = two_sentences() else { return };
    let stats = Arc::new(CaptureStats::default());
    let control = HearingControl::new(stats.clone());
    control.set_muted(true);
    sound_is_at(&stats, first.1 + 0.2);
    control.set_muted(false);
    let found = hear_late(&sound, &mut detector(false).unwrap(), &control);
    let heard = utterances(&found);
    assert_eq!(heard.len(), 1, "{found:?}");
    assert!(seconds(heard[0].start) > first.1);
}
