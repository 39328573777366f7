//! Models, voices and word errors for the tests of this module.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Recognizer, Transcript, text};
use crate::inference::ModelStore;

/// Where `scripts/fetch-models.sh` puts models.
pub fn fetched_dir() -> PathBuf {
    let from = |name: &str, below: &str| std::env::var_os(name).map(|v| PathBuf::from(v).join(below));
    from("JARVIS_MODELS_DIR", "")
        .or_else(|| from("XDG_DATA_HOME", "jarvis/models"))
        .or_else(|| from("HOME", ".local/share/jarvis/models"))
        .unwrap_or_default()
}

/// The committed manifest over the committed and the fetched files; `None`, with a line, where Whisper was
/// not fetched.
pub fn whisper_store() -> Option<ModelStore> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let store = ModelStore::open(&[committed, fetched_dir()]).unwrap();
    if store.file("whisper-tiny-en-decoder").is_ok() {
        return Some(store);
    }
    crate::testdata::skipped("Whisper is not on this machine; scripts/fetch-models.sh fetches it");
    None
}

/// Samples of a file as 16 kHz mono in −1 to 1, by sox; `None`, with a line, where sox is absent.
pub fn sox(arguments: &[&str]) -> Option<Vec<f32>> {
    let arguments =
        [arguments, &["-t", "raw", "-r", "16000", "-c", "1", "-e", "signed", "-b", "16", "-"]].concat();
    run("sox", &arguments).map(|bytes| {
        bytes.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0).collect()
    })
}

/// `words` spoken by the flite voice `voice`, with silence around; `None`, with a line, where flite or sox is
/// absent.
pub fn say(voice: &str, words: &str) -> Option<Vec<f32>> {
    let dir = tempfile::tempdir().unwrap();
    let wav = dir.path().join("a.wav");
    let wav = wav.to_str().unwrap();
    run("flite", &["-voice", voice, "-t", words, "-o", wav])?;
    let samples = sox(&["-R", wav])?;
    let silence = |ms: usize| vec![0.0; ms * 16];
    Some([silence(300), samples, silence(600)].concat())
}

fn run(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Some(output.stdout),
        Ok(output) => panic!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            crate::testdata::skipped(format!("{program} is not on this machine ({error})"));
            None
        }
    }
}

/// Feeds a whole utterance in blocks of `block` samples.
pub fn transcribe(recognizer: &mut dyn Recognizer, samples: &[f32], block: usize) -> Transcript {
    for block in samples.chunks(block) {
        recognizer.accept(block).unwrap();
    }
    recognizer.finish().unwrap()
}

/// Word errors of `heard` against `said` (insertions, deletions, substitutions) and the number of words said.
pub fn word_errors(said: &str, heard: &str) -> (usize, usize) {
    let (said, heard) = (text::normalise(said), text::normalise(heard));
    let heard: Vec<&str> = heard.split_whitespace().collect();
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    let mut count = 0;
    for (i, word) in said.split_whitespace().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in heard.iter().enumerate() {
            let substituted = diagonal + usize::from(word != *other);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
        count = i + 1;
    }
    (row[heard.len()], count)
}

#[test]
fn word_errors_are_counted() {
    assert_eq!(word_errors("turn on the lamp", "Turn on the lamp."), (0, 4));
    assert_eq!(word_errors("turn on the lamp", "turn the lamps please"), (3, 4));
    assert_eq!(word_errors("a", ""), (1, 1));
}
