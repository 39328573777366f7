//! Costs of transcription on this machine: `cargo test --release --lib stt::measure -- --ignored
//! --nocapture`.
//!
//! Times are CPU time of the working thread, so that other programs on the machine do not change them.

use std::time::Duration;

use super::testing::{say, sox, transcribe, whisper_store};
use super::{Recognizer, WhisperRecognizer};
use crate::testdata::shared;

/// CPU time of this thread.
fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// A line of /proc/self/status, in MB.
fn memory_mb(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn report(load: impl FnOnce() -> Box<dyn Recognizer>, utterances: &[Vec<f32>]) {
    let (before, start) = (memory_mb("VmRSS"), now());
    let mut recognizer = load();
    println!(
        "{}: load {:.2} s, resident {before:.0} → {:.0} MB (peak {:.0})",
        recognizer.engine(),
        (now() - start).as_secs_f64(),
        memory_mb("VmRSS"),
        memory_mb("VmHWM")
    );
    for samples in utterances {
        let seconds = samples.len() as f64 / 16_000.0;
        let best = (0..3)
            .map(|_| {
                let start = now();
                let text = transcribe(recognizer.as_mut(), samples, 1600).text;
                (now() - start, text)
            })
            .min()
            .unwrap();
        let ms = best.0.as_secs_f64() * 1e3;
        println!("  {seconds:5.2} s: {ms:5.0} ms, {:.3} of real time: {}", ms / 1e3 / seconds, best.1);
    }
    println!("  resident {:.0} MB (peak {:.0})", memory_mb("VmRSS"), memory_mb("VmHWM"));
}

#[test]
#[ignore = "measures; see docs/design/stt.md"]
fn whisper() {
    let Some(store) = whisper_store() else { return };
    let phrases = [
        "what time is it",
        "remember that the spare key is under the blue pot",
        "my sister comes on friday with the children and we want to go to the mountains",
        "the doctor said that he should drink more water and sleep longer than before",
    ];
    let mut utterances: Vec<Vec<f32>> = phrases.iter().filter_map(|p| say("rms", p)).collect();
    utterances.push(utterances.concat());
    report(|| Box::new(WhisperRecognizer::load(&store).unwrap()), &utterances);
}

#[cfg(feature = "vosk")]
#[test]
#[ignore = "measures; see docs/design/stt.md"]
fn vosk() {
    let (Some(model), Some(samples)) = (super::vosk_tests::korean(), super::vosk_tests::speech()) else {
        return;
    };
    report(|| Box::new(super::VoskRecognizer::load(&model).unwrap()), &[samples]);
}

/// The rates of words heard where none were said, and of none heard where words were said.
#[test]
#[ignore = "measures; see docs/design/stt.md"]
fn whisper_rejection() {
    let Some(store) = whisper_store() else { return };
    let Some(audio) = shared("audio") else { return };
    let mut whisper = WhisperRecognizer::load(&store).unwrap();
    let files = |folder: &str, prefix: &str| {
        let mut files: Vec<_> =
            std::fs::read_dir(audio.join(folder)).unwrap().map(|e| e.unwrap().path()).collect();
        files.retain(|f| f.file_name().unwrap().to_str().unwrap().starts_with(prefix));
        files.sort();
        files
    };
    let noises = [files("speechbrain", "noise"), files("deepfilternet", "noise_")].concat();
    let speech: Vec<_> = files("librispeech_train_clean_1each", "").into_iter().step_by(8).collect();
    for (what, files) in [("noise", noises), ("speech", speech)] {
        let (mut words, mut count) = (0, 0);
        for file in files {
            let Some(samples) = sox(&[file.to_str().unwrap()]) else { return };
            for piece in samples.chunks(3 * 16_000).filter(|p| p.len() >= 16_000) {
                let text = transcribe(&mut whisper, piece, 1600).text;
                if !text.is_empty() && what == "noise" {
                    println!("{}: {text}", file.file_name().unwrap().display());
                }
                count += 1;
                words += usize::from(!text.is_empty());
            }
        }
        println!("{what}: {words} of {count} pieces of up to 3 s give words");
    }
}
