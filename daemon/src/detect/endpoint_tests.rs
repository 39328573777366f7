//! The endpointing state machine alone: its events for any sequence of frames, wake words and gaps.

use super::endpoint::{Endpointer, Limits, after_hiss};
use super::sound::Sound;
use super::{Detection, Utterance};
use crate::dsp::Frame;
use crate::units::{FRAME_SAMPLES, FramePos};

fn limits(always: bool) -> Limits {
    Limits {
        threshold: 0.5,
        pre_roll: 30,
        end_silence: 70,
        max_utterance: 1_500,
        no_speech_timeout: 500,
        min_speech: 16,
        early_verdict: 150,
        always,
    }
}

/// An endpointer with sound whose samples tell their position.
struct Bench {
    endpointer: Endpointer,
    sound: Sound,
    out: Vec<Detection>,
}

impl Bench {
    fn new(always: bool) -> Self {
        Self { endpointer: Endpointer::new(limits(always)), sound: Sound::default(), out: Vec::new() }
    }

    fn frame(&mut self, probability: f32) {
        let pos = self.sound.end();
        let value = sample_at(pos);
        self.sound.push(&Frame {
            pos,
            raw: [value; FRAME_SAMPLES],
            speech_probability: probability,
            discontinuity: false,
        });
        let decided = self.sound.decide(probability);
        assert_eq!(decided, pos);
        self.endpointer.frame(pos, &self.sound, &mut self.out);
        self.sound.forget_before(self.endpointer.needed_from(self.sound.decided()));
    }

    fn frames(&mut self, count: u64, probability: f32) -> &mut Self {
        for _ in 0..count {
            self.frame(probability);
        }
        self
    }

    fn wake(&mut self, end: u64) -> bool {
        self.endpointer.wake(FramePos(end), true, &self.sound, &mut self.out)
    }

    /// The events in a line: s(tart), p(iece), l(ook), e(nd), t(runcated end), n(o speech).
    fn story(&self) -> String {
        let letter = |d: &Detection| match d {
            Detection::Wake { .. } => 'w',
            Detection::SpeechStart { .. } => 's',
            Detection::Speech { .. } => 'p',
            Detection::SoFar { .. } => 'l',
            Detection::SpeechEnd { utterance } if utterance.truncated => 't',
            Detection::SpeechEnd { .. } => 'e',
            Detection::NoSpeech { .. } => 'n',
            Detection::Dropped { .. } | Detection::Lost { .. } => 'd',
            Detection::Asked { .. } => 'a',
        };
        let mut story: Vec<char> = self.out.iter().map(letter).collect();
        story.dedup();
        story.into_iter().collect()
    }

    fn utterances(&self) -> Vec<&Utterance> {
        let ends = self.out.iter().filter_map(|d| match d {
            Detection::SpeechEnd { utterance } => Some(utterance),
            _ => None,
        });
        ends.collect()
    }
}

fn sample_at(pos: FramePos) -> f32 {
    f32::from(u16::try_from(pos.0 % 30_000).unwrap()) / 32_768.0
}

/// Sound of vowels (`-`), hiss (`s`) and silence (`.`), a letter a frame.
fn sound_of(letters: &str) -> Sound {
    let mut sound = Sound::default();
    let mut seed = 1_u32;
    for (n, letter) in letters.chars().enumerate() {
        let sample = |k: usize| match letter {
            '-' => (f32::from(u16::try_from(n * FRAME_SAMPLES + k).unwrap()) * 0.08).sin() * 0.3,
            's' => {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (f32::from(u16::try_from(seed >> 16).unwrap()) / 32_768.0 - 1.0) * 0.05
            }
            _ => 0.0,
        };
        let raw: [f32; FRAME_SAMPLES] = std::array::from_fn(sample);
        let pos = FramePos(n as u64);
        let frame = Frame { pos, raw, speech_probability: 1.0, discontinuity: false };
        sound.push(&frame);
    }
    sound
}

#[test]
fn the_end_of_a_phrase_is_where_its_s_ends_and_no_s_of_the_command_is_taken() {
    // "jarvis remind": however early or late the estimate is.
    let remind = sound_of(&format!("{}ssssssss{}", "-".repeat(60), "-".repeat(60)));
    for estimate in 54..=72 {
        assert_eq!(after_hiss(FramePos(estimate), &remind).0, 68, "{estimate}");
    }
    // "jarvis is it": the hiss of the command follows soon.
    let is_it = sound_of(&format!("{}ssssssss--------sssss{}", "-".repeat(60), "-".repeat(60)));
    for estimate in 54..=72 {
        assert_eq!(after_hiss(FramePos(estimate), &is_it).0, 68, "{estimate}");
    }
    // "jarvis turn on": the burst of the "t" is no part of the phrase.
    let turn = sound_of(&format!("{}ssssssss...sssss{}", "-".repeat(60), "-".repeat(60)));
    for estimate in 54..=74 {
        assert_eq!(after_hiss(FramePos(estimate), &turn).0, 68, "{estimate}");
    }
    // "jarvis, stop": a pause between the two.
    let stop = sound_of(&format!("{}ssssssss......ssssss{}", "-".repeat(60), "-".repeat(60)));
    assert_eq!(after_hiss(FramePos(62), &stop).0, 68);
    // "jarvis stop": one long hiss, of which the command keeps its part. A shorter one may be shared or not.
    let stop = sound_of(&format!("{}ssssssssssssssssssss{}", "-".repeat(60), "-".repeat(60)));
    assert_eq!(after_hiss(FramePos(62), &stop).0, 69);
    assert_eq!(after_hiss(FramePos(71), &stop).0, 71, "never earlier than it was");
    let add = sound_of(&format!("{}ssssssssssssss{}", "-".repeat(60), "-".repeat(60)));
    assert_eq!(after_hiss(FramePos(62), &add).0, 71);
    // No hiss, and nothing but hiss: the estimate stays.
    assert_eq!(after_hiss(FramePos(62), &sound_of(&"-".repeat(120))).0, 62);
    assert_eq!(after_hiss(FramePos(62), &sound_of(&"s".repeat(120))).0, 62);
    assert_eq!(after_hiss(FramePos(62), &Sound::default()).0, 62);
}

#[test]
fn speech_without_a_wake_word_is_nothing_to_a_device_that_has_one() {
    let mut bench = Bench::new(false);
    bench.frames(100, 0.0).frames(300, 0.9).frames(200, 0.0);
    assert_eq!(bench.story(), "");
}

#[test]
fn a_command_after_the_wake_word_is_one_utterance_with_the_phrase_in_front() {
    let mut bench = Bench::new(false);
    bench.frames(200, 0.0).frames(80, 0.9).frames(15, 0.0);
    assert!(bench.wake(280));
    bench.frames(60, 0.0).frames(150, 0.9).frames(100, 0.0);
    assert_eq!(bench.story(), "splpe");
    let utterances = bench.utterances();
    let [u] = utterances.as_slice() else { panic!("{utterances:?}") };
    assert_eq!(u.start, FramePos(170), "the phrase began at 200, the pre-roll is 30");
    let command = u.start.0 + (u.command_start / FRAME_SAMPLES) as u64;
    assert_eq!(command, 355 - 30, "the command began at 355");
    assert_eq!(u.end, FramePos(505 + 70));
    assert!(!u.truncated);
}

#[test]
fn a_speaker_who_runs_on_loses_nothing_after_the_wake_word() {
    let mut bench = Bench::new(false);
    // The verdict on a phrase that ended at 280 comes at 300, in the middle of the command.
    bench.frames(200, 0.0).frames(100, 0.9);
    assert!(bench.wake(280));
    bench.frames(100, 0.9).frames(100, 0.0);
    let utterances = bench.utterances();
    let [u] = utterances.as_slice() else { panic!("{utterances:?}") };
    assert_eq!(u.start.0 + (u.command_start / FRAME_SAMPLES) as u64, 280);
}

#[test]
fn the_last_sound_of_the_wake_word_is_not_a_command() {
    let mut bench = Bench::new(false);
    bench.frames(200, 0.0).frames(90, 0.9);
    assert!(bench.wake(270));
    bench.frames(510, 0.0);
    assert_eq!(bench.story(), "n");
}

#[test]
fn after_the_timeout_the_device_waits_for_the_wake_word_again() {
    let mut bench = Bench::new(false);
    bench.frames(100, 0.0);
    assert!(bench.wake(100));
    bench.frames(502, 0.0).frames(300, 0.9).frames(100, 0.0);
    assert_eq!(bench.story(), "n");
}

#[test]
fn a_follow_up_window_needs_no_wake_word_and_closes() {
    let mut bench = Bench::new(false);
    bench.frames(100, 0.0);
    bench.endpointer.follow_up(FramePos(100), 300);
    bench.frames(100, 0.0).frames(50, 0.9).frames(80, 0.0).frames(100, 0.9).frames(80, 0.0);
    assert_eq!(bench.story(), "spe", "one command, then the window is used up");
    bench.endpointer.follow_up(bench.sound.end(), 300);
    bench.frames(301, 0.0);
    assert_eq!(bench.story(), "spen");
}

#[test]
fn a_wake_word_said_in_a_follow_up_window_is_cut_off_too() {
    let mut bench = Bench::new(false);
    bench.frames(100, 0.0);
    bench.endpointer.follow_up(FramePos(100), 500);
    bench.frames(50, 0.0).frames(90, 0.9);
    assert!(bench.endpointer.is_open(), "the phrase itself has opened a command");
    assert!(bench.wake(220), "and restarts it");
    bench.frames(100, 0.9).frames(100, 0.0);
    let utterances = bench.utterances();
    let [u] = utterances.as_slice() else { panic!("{utterances:?}") };
    assert_eq!(u.start.0 + (u.command_start / FRAME_SAMPLES) as u64, 220);
}

#[test]
fn a_wake_word_late_in_a_command_is_a_part_of_it() {
    let mut bench = Bench::new(false);
    bench.frames(100, 0.0);
    bench.wake(100);
    bench.frames(400, 0.9);
    assert!(!bench.wake(480));
    bench.frames(100, 0.0);
    assert_eq!(bench.utterances().len(), 1);
}

#[test]
fn a_command_that_does_not_end_is_cut_at_the_maximum_and_says_so() {
    let mut bench = Bench::new(true);
    bench.frames(100, 0.0).frames(3_200, 0.9).frames(100, 0.0);
    let utterances = bench.utterances();
    assert_eq!(bench.story(), "splptsplptsplpe");
    assert!(utterances.iter().all(|u| u.end.since(u.start) <= 1_500), "{utterances:?}");
    assert_eq!(utterances[0].end, utterances[1].start, "nothing is lost between two of them");
}

#[test]
fn a_click_and_a_cough_are_not_speech_and_a_pause_in_a_sentence_is_not_its_end() {
    let mut bench = Bench::new(true);
    bench.frames(100, 0.0).frames(10, 0.9).frames(100, 0.0).frames(15, 0.9).frames(100, 0.0);
    assert_eq!(bench.story(), "");
    bench.frames(60, 0.9).frames(65, 0.1).frames(60, 0.9).frames(80, 0.1);
    assert_eq!(bench.utterances().len(), 1);
}

#[test]
fn the_end_of_the_source_ends_what_is_open() {
    let mut bench = Bench::new(false);
    bench.frames(100, 0.0);
    bench.wake(100);
    bench.frames(50, 0.0).frames(60, 0.9);
    bench.endpointer.cut(bench.sound.end(), false, &bench.sound, &mut bench.out);
    assert_eq!(bench.story(), "spe");
    assert!(!bench.utterances()[0].truncated);
}

/// A small reproducible generator: no property may depend on the run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[test]
fn whatever_happens_utterances_are_ordered_bounded_and_equal_to_the_pieces_handed_out() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut bench = Bench::new(seed % 3 == 0);
        for _ in 0..60 {
            match random.below(12) {
                0..=4 => _ = bench.frames(random.below(250), 0.0),
                5..=8 => _ = bench.frames(random.below(400), 0.95),
                9 => {
                    for _ in 0..random.below(200) {
                        let probability = f32::from(u8::try_from(random.below(100)).unwrap()) / 100.0;
                        bench.frame(probability);
                    }
                }
                10 => {
                    let end = bench.sound.end().0.saturating_sub(random.below(60));
                    bench.wake(end);
                }
                _ => match random.below(4) {
                    0 => bench.endpointer.follow_up(bench.sound.end(), random.below(800)),
                    1 => bench.endpointer.reset(),
                    2 => bench.endpointer.cut(bench.sound.end(), true, &bench.sound, &mut bench.out),
                    _ => {}
                },
            }
        }
        bench.endpointer.cut(bench.sound.end(), false, &bench.sound, &mut bench.out);
        check(seed, &bench.out);
    }
}

#[test]
fn a_look_at_who_speaks_comes_once_and_only_where_there_is_enough_speech() {
    let looks = |speech: u64| {
        let mut bench = Bench::new(true);
        bench.frames(50, 0.0).frames(speech, 0.9).frames(40, 0.1).frames(30, 0.9).frames(100, 0.0);
        assert_eq!(bench.utterances().len(), 1);
        bench.out.iter().filter(|d| matches!(d, Detection::SoFar { .. })).count()
    };
    assert_eq!((looks(50), looks(115), looks(130), looks(600)), (0, 0, 1, 1));
}

fn check(seed: u64, out: &[Detection]) {
    let mut free = FramePos(0);
    let mut pieces: Option<Vec<f32>> = None;
    let mut look: Option<&[f32]> = None;
    for detection in out {
        match detection {
            Detection::SpeechStart { .. } => {
                pieces = Some(Vec::new());
                look = None;
            }
            Detection::SoFar { raw, speech } => {
                assert!(look.is_none() && pieces.is_some(), "seed {seed}: one look in an open command");
                assert_eq!(raw.len(), speech.len() * FRAME_SAMPLES, "seed {seed}");
                assert!(speech.iter().filter(|p| **p >= 0.5).count() >= 150, "seed {seed}");
                look = Some(raw);
            }
            Detection::Speech { raw } => {
                assert!(!raw.is_empty() && raw.len().is_multiple_of(FRAME_SAMPLES), "seed {seed}");
                pieces.as_mut().expect("a piece belongs to a started command").extend_from_slice(raw);
            }
            Detection::SpeechEnd { utterance: u } => {
                let raw = pieces.take().expect("an end has a start");
                assert!(u.start >= free && u.end > u.start, "seed {seed}: {:?}..{:?}", u.start, u.end);
                free = u.end;
                let frames = usize::try_from(u.end.since(u.start)).unwrap();
                assert_eq!((u.raw.len(), u.speech.len()), (frames * 160, frames));
                if let Some(look) = look.take() {
                    assert!(u.raw.starts_with(look), "seed {seed}: what was looked at is how it began");
                }
                assert_eq!(u.raw[0], sample_at(u.start), "seed {seed}: the sound is that of the position");
                assert!(u.raw[u.command_start..] == raw, "seed {seed}");
                assert!(raw.len() <= 1_500 * FRAME_SAMPLES, "seed {seed}: command of {} samples", raw.len());
                assert!(frames <= 1_500 + 150 + 30 + 500 + 40, "seed {seed}: {frames} frames");
            }
            Detection::Dropped { .. } | Detection::Lost { .. } | Detection::Asked { .. } => {
                panic!("seed {seed}: the detector itself never says so")
            }
            Detection::NoSpeech { .. } | Detection::Wake { .. } => {}
        }
    }
}
