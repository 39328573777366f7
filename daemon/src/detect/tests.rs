//! The detector with its real models: silence costs nothing, speech is found where it is, the wake word is
//! cut off.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::section::{WakeModel, WakeModels};
use super::*;
use crate::audio::Channel;
use crate::audio::Period;
use crate::audio::file::read_all;
use crate::dsp::FrontEnd;
use crate::testdata::{models, shared};
use crate::units::FRAME_SAMPLES;

const S: usize = 16_000;

fn wake_of(models: Vec<WakeModel>) -> Wake {
    Wake { model: WakeModels(models), ..Wake::default() }
}

/// A detector of "hey jarvis", where the head has been fetched.
fn jarvis() -> Option<Detector> {
    match Detector::new(&models(), &Wake::default(), &Endpoint::default()) {
        Ok(detector) => Some(detector),
        Err(ModelError::Missing { .. }) => {
            crate::testdata::skipped(
                "the wake-word head is not on this machine (scripts/fetch-models.sh --wake-word)",
            );
            None
        }
        Err(e) => panic!("{e}"),
    }
}

/// A detector to which every stretch of speech is a command.
fn always() -> Detector {
    Detector::new(&models(), &wake_of(Vec::new()), &Endpoint::default()).unwrap()
}

fn frames_of(samples: &[f32]) -> Vec<Frame> {
    let mut front_end = FrontEnd::new();
    let mut frames = Vec::new();
    for piece in samples.chunks(FRAME_SAMPLES) {
        let mut period = Period { rate_hz: 16_000, len: piece.len(), ..Period::default() };
        period.samples[..piece.len()].copy_from_slice(piece);
        front_end.push(&period, &mut |frame| frames.push(frame.clone())).unwrap();
    }
    front_end.flush(&mut |frame| frames.push(frame.clone())).unwrap();
    frames
}

fn detect(detector: &mut Detector, samples: &[f32]) -> Vec<Detection> {
    let mut out = Vec::new();
    for frame in frames_of(samples) {
        detector.push(&frame, &mut out).unwrap();
    }
    detector.finish(&mut out).unwrap();
    out
}

fn utterances(out: &[Detection]) -> Vec<&Utterance> {
    out.iter()
        .filter_map(|d| if let Detection::SpeechEnd { utterance } = d { Some(utterance) } else { None })
        .collect()
}

fn wakes(out: &[Detection]) -> Vec<FramePos> {
    out.iter().filter_map(|d| if let Detection::Wake { pos, .. } = d { Some(*pos) } else { None }).collect()
}

fn noise(samples: usize, peak: f32) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0) * peak
    };
    (0..samples).map(|_| next()).collect()
}

/// A speech sound and where it ends, in seconds.
type Phone = (String, f64);

/// A sentence by a flite voice with 1 s of silence before and after it, and its sounds.
fn say(voice: &str, text: &str) -> Option<(Vec<f32>, Vec<Phone>)> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.wav");
    let made = Command::new("flite").args(["-voice", voice, "-psdur", "-t", text, "-o"]).arg(&file).output();
    let Ok(made) = made else {
        crate::testdata::skipped("flite is not on this machine");
        return None;
    };
    let (mut speech, rate) = read_all(&file, Channel::Mean, 60).unwrap();
    assert_eq!(rate, 16_000);
    let peak = speech.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    speech.iter_mut().for_each(|x| *x *= 0.5 / peak);
    let samples = [vec![0.0; S], speech, vec![0.0; S]].concat();
    let text = String::from_utf8(made.stdout).unwrap();
    let sounds = text.split_whitespace().filter_map(|s| s.split_once(':'));
    Some((samples, sounds.map(|(name, end)| (name.to_owned(), end.parse::<f64>().unwrap() + 1.0)).collect()))
}

fn recording(relative: &str) -> Option<Vec<f32>> {
    Some(read_all(&shared(relative)?, Channel::Mean, 60).unwrap().0)
}

fn librispeech(count: usize) -> Vec<Vec<f32>> {
    let Some(folder) = shared("audio/librispeech_train_clean_1each") else { return Vec::new() };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let step = (files.len() / count).max(1);
    files.iter().step_by(step).take(count).map(|f| read_all(f, Channel::Mean, 60).unwrap().0).collect()
}

#[test]
fn a_silent_room_runs_no_network() {
    let mut detector = always();
    assert!(detect(&mut detector, &vec![0.0; 10 * S]).is_empty());
    let work = detector.work();
    assert_eq!((work.vad_runs, work.wake_runs, work.listened), (0, 0, 0), "{work:?}");
    // RNNoise needs a moment to learn what a room's own noise is.
    let mut out = Vec::new();
    let frames = frames_of(&noise(10 * S, 0.001));
    let mut settled = detector.work();
    for frame in &frames {
        detector.push(frame, &mut out).unwrap();
        if frame.pos == FramePos(250) {
            settled = detector.work();
        }
    }
    assert_eq!(detector.work().vad_runs, settled.vad_runs);
    assert!(out.is_empty() && detector.work().frames > settled.frames + 700);
}

#[test]
fn a_silent_room_runs_no_wake_word_network_either() {
    let Some(mut detector) = jarvis() else { return };
    let primed = detector.work().wake_runs;
    assert!(detect(&mut detector, &noise(5 * S, 0.001)).is_empty());
    assert_eq!(detector.work().wake_runs, primed);
}

#[test]
fn noise_of_any_kind_wakes_nothing_and_is_no_command() {
    let Some(mut detector) = jarvis() else { return };
    for peak in [0.01, 0.1, 0.9] {
        assert!(detect(&mut detector, &noise(4 * S, peak)).is_empty());
    }
    let tone: Vec<f32> = (0..3 * S).map(|n| (n as f32 * 0.17).sin() * 0.5).collect();
    assert!(detect(&mut detector, &tone).is_empty());
    for n in 2..=3 {
        let Some(noise) = recording(&format!("audio/speechbrain/noise_noise{n}.flac")) else { return };
        assert!(wakes(&detect(&mut detector, &noise)).is_empty(), "noise {n}");
    }
}

#[test]
fn hey_jarvis_is_heard_from_every_voice_and_cut_off_its_command() {
    let Some(mut detector) = jarvis() else { return };
    for (voice, text) in [
        ("kal16", "hey jarvis what time is it"),
        ("slt", "hey jarvis what time is it"),
        ("rms", "hey jarvis turn on the kitchen light"),
        ("awb", "hey jarvis remember that the spare key is under the blue pot"),
        ("rms", "hey jarvis, what time is it"),
    ] {
        let Some((samples, sounds)) = say(voice, text) else { return };
        let word = sounds.iter().skip(5).position(|(name, _)| name == "s").unwrap() + 5;
        let word_end = sounds[word].1;
        let next = if sounds[word + 1].0 == "pau" { sounds[word + 1].1 } else { word_end };
        let out = detect(&mut detector, &samples);
        assert_eq!(wakes(&out).len(), 1, "{voice}: {text}: {}", out.len());
        let found = utterances(&out);
        let [u] = found.as_slice() else { panic!("{voice}: {text}: {} utterances", found.len()) };
        let command = u.start.0 as f64 / 100.0 + (u.command_start / FRAME_SAMPLES) as f64 / 100.0;
        assert!(command < next + 0.06, "{voice}: {text}: {:.3} s of the command are lost", command - next);
        assert!(
            command > word_end - 0.2,
            "{voice}: {text}: {:.3} s of the wake word are left",
            word_end - command
        );
        let lead = word_end - u.start.0 as f64 / 100.0;
        assert!((0.5..2.0).contains(&lead), "{voice}: the phrase is in front: {lead:.3} s");
        let last = sounds.iter().rfind(|(name, _)| name != "pau").unwrap().1;
        let end = u.end.0 as f64 / 100.0;
        assert!(end > last + 0.4 && end < last + 1.1, "{voice}: ends {:.3} s after the speech", end - last);
        assert!(!u.truncated);
    }
}

#[test]
fn a_wake_word_and_nothing_after_it_is_no_speech() {
    let Some(mut detector) = jarvis() else { return };
    for voice in ["kal16", "slt", "rms", "awb"] {
        let Some((mut samples, _)) = say(voice, "hey jarvis") else { return };
        samples.extend(vec![0.0; 6 * S]);
        let out = detect(&mut detector, &samples);
        assert!(
            matches!(out.as_slice(), [Detection::Wake { .. }, Detection::NoSpeech { .. }]),
            "{voice}: {out:?}"
        );
    }
}

#[test]
fn while_held_nothing_is_heard_and_afterwards_everything_is() {
    let Some(mut detector) = jarvis() else { return };
    let Some((samples, _)) = say("rms", "hey jarvis what time is it") else { return };
    let once = frames_of(&samples);
    let mut out = Vec::new();
    for round in 0..3_u64 {
        detector.set_held(round == 1);
        for frame in &once {
            let pos = FramePos(frame.pos.0 + round * once.len() as u64);
            detector.push(&Frame { pos, ..frame.clone() }, &mut out).unwrap();
        }
    }
    let found = wakes(&out);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].0 > 2 * once.len() as u64);
    assert_eq!(utterances(&out).len(), 2);
}

#[test]
fn other_words_and_other_peoples_sentences_do_not_wake() {
    let Some(mut detector) = jarvis() else { return };
    for file in [
        "raven/hey-mycroft-00",
        "raven/okay-rhasspy-01",
        "willow/hi_esp_turn_off_dining_room",
        "rhasspy3/set_timer",
    ] {
        let Some(samples) = recording(&format!("audio/{file}.flac")) else { return };
        assert!(detect(&mut detector, &samples).is_empty(), "{file}");
    }
    for samples in librispeech(3) {
        assert!(detect(&mut detector, &samples).is_empty());
    }
}

#[test]
fn without_a_wake_word_every_sentence_is_an_utterance_that_holds_its_speech() {
    let mut detector = always();
    let mut vad = Vad::new(&models()).unwrap();
    for samples in librispeech(3) {
        let padded = [vec![0.0; S], samples, vec![0.0; S]].concat();
        let out = detect(&mut detector, &padded);
        let found = utterances(&out);
        assert!(!found.is_empty());
        let speech = vad.speech_of(&padded).unwrap();
        let inside = |n: usize| found.iter().any(|u| (u.start.0..u.end.0).contains(&(n as u64)));
        let spoken: Vec<usize> = (0..speech.len()).filter(|n| speech[*n] >= 0.5).collect();
        let lost = spoken.iter().filter(|n| !inside(**n)).count();
        assert!(lost * 100 <= spoken.len(), "{lost} of {} speech frames are in no utterance", spoken.len());
    }
}

#[test]
fn korean_speech_is_speech() {
    let Some(samples) = recording("audio/picovoice_leopard/test_ko.flac") else { return };
    let out = detect(&mut always(), &[samples, vec![0.0; S]].concat());
    assert_eq!(utterances(&out).len(), 1);
}

#[test]
fn a_short_hole_in_a_command_is_bridged_a_longer_one_ends_it_and_one_of_a_second_drops_it() {
    let Some(samples) = librispeech(1).pop() else { return };
    let frames = frames_of(&[vec![0.0; S / 2], samples].concat());
    for (hole, whole, dropped) in [(10, true, false), (70, false, false), (200, false, true)] {
        let mut detector = always();
        let mut out = Vec::new();
        for frame in &frames[..300] {
            detector.push(frame, &mut out).unwrap();
        }
        for (index, frame) in frames[300..500].iter().enumerate() {
            let frame =
                Frame { pos: FramePos(frame.pos.0 + hole), discontinuity: index == 0, ..frame.clone() };
            detector.push(&frame, &mut out).unwrap();
        }
        detector.finish(&mut out).unwrap();
        let found = utterances(&out);
        assert!(
            found.iter().all(|u| u.raw.len() as u64 == u.end.since(u.start) * 160),
            "positions stay true"
        );
        let across = found.iter().any(|u| u.start.0 < 300 && u.end.0 > 310);
        assert_eq!(across, whole, "hole of {hole} frames");
        assert_eq!(found.iter().any(|u| u.truncated), !whole && !dropped);
        assert_eq!(found.iter().any(|u| u.start.0 < 300), !dropped);
        assert_eq!(out.iter().any(|found| matches!(found, Detection::Lost { .. })), dropped);
    }
}

#[test]
fn any_frames_in_any_order_give_ordered_bounded_utterances_and_finite_numbers() {
    // Noise would not do: nothing is found in it, and then nothing is checked.
    let sentence = "the old cat sleeps beside the warm kitchen fire while the rain falls on the roof of the \
                    house, and nobody in the village remembers a summer that was as long and as quiet as \
                    this one";
    let Some(speech) = librispeech(1).pop().or_else(|| say("rms", sentence).map(|(speech, _)| speech)) else {
        return;
    };
    let frames = frames_of(&speech[..speech.len().min(10 * S)]);
    let mut seed = 7_u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut detector = always();
    let mut out = Vec::new();
    let mut pos = 0_u64;
    for _ in 0..40 {
        let from = usize::try_from(random(frames.len() as u64)).unwrap();
        for frame in frames.iter().skip(from).take(usize::try_from(random(250)).unwrap()) {
            let mut frame = Frame { pos: FramePos(pos), ..frame.clone() };
            match random(400) {
                0 => frame.raw = [f32::NAN; FRAME_SAMPLES],
                1 => frame.raw[3] = f32::INFINITY,
                2 => frame.speech_probability = f32::NAN,
                3 => frame.raw = [1e30; FRAME_SAMPLES],
                4 => frame.discontinuity = true,
                _ => {}
            }
            detector.push(&frame, &mut out).unwrap();
            pos += 1;
        }
        match random(8) {
            0 => pos += random(40),
            1 => pos += 50 + random(10_000),
            2 => detector.set_held(true),
            3 | 4 => detector.set_held(false),
            5 => detector.open_follow_up(u32::try_from(random(5_000)).unwrap()),
            6 => detector.finish(&mut out).unwrap(),
            _ => {}
        }
    }
    detector.finish(&mut out).unwrap();
    let found = utterances(&out);
    assert!(!found.is_empty());
    let mut free = FramePos(0);
    for u in found {
        assert!(u.start >= free && u.end.since(u.start) <= 1_500, "{:?}..{:?}", u.start, u.end);
        free = u.end;
        assert_eq!(u.raw.len() as u64, u.end.since(u.start) * 160);
        assert_eq!(u.raw.len() / 160, u.speech.len());
        assert!(u.raw.iter().chain(&u.speech).all(|x| x.is_finite() && x.abs() <= 1.0));
    }
}

#[test]
fn speech_of_gives_one_probability_a_frame_for_any_length() {
    let mut vad = Vad::new(&models()).unwrap();
    for samples in [0, 1, 159, 160, 161, 511, 512, 513, 1_536, 1_600, 5_000, 16_000] {
        let speech = vad.speech_of(&vec![0.0; samples]).unwrap();
        assert_eq!(speech.len(), samples.div_ceil(FRAME_SAMPLES), "{samples} samples");
        assert!(speech.iter().all(|p| *p < 0.5));
    }
    assert!(vad.speech_of(&[f32::NAN; 4_000]).unwrap().iter().all(|p| p.is_finite()));
    for samples in librispeech(1) {
        let speech = vad.speech_of(&samples).unwrap();
        let spoken = speech.iter().filter(|p| **p >= 0.5).count();
        assert!(
            spoken * 2 > speech.len(),
            "{spoken} of {} frames of a read sentence are speech",
            speech.len()
        );
    }
}

#[test]
fn a_head_that_is_no_head_is_refused_with_its_path() {
    let vad = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/silero_vad_16k.onnx");
    let model = vad.to_string_lossy().into_owned();
    let file = wake_of(vec![WakeModel::File(model.clone().into())]);
    let error = Detector::new(&models(), &file, &Endpoint::default()).unwrap_err();
    assert!(crate::error::chain(&error).contains("silero_vad_16k.onnx"), "{error}");
    let unknown = wake_of(vec![WakeModel::Named("hey-nobody".into())]);
    let error = Detector::new(&models(), &unknown, &Endpoint::default()).unwrap_err();
    assert!(error.to_string().contains("hey-nobody"), "{error}");
}
