//! Speech to text: one utterance of 16 kHz sound in, its words out.
//!
//! ```text
//!            accept(samples) … ┌──────────────┐ partial words (Vosk)
//!  utterance ────────────────▶ │ Recognizer   │ ───────────────▶ local terminal
//!            finish()          │ Vosk │ Whisper│ ───────────────▶ Transcript → turn
//!                              └──────────────┘ thread `stt`, see [`worker`]
//! ```
//!
//! [`Recognizer`] is a seam because there are two engines that have nothing in common: Vosk decodes while the
//! person speaks, Whisper (run by tract) takes the finished utterance. The wake word is cut off before the
//! sound comes here.
//!
//! Every engine runs on the device. An engine that sends sound away may get it only behind a `verified`
//! verdict. An early verdict that did not rule the voice out (`speaker::verification`) is not enough.
//!
//! Invariants: the text of an utterance depends on its samples alone, not on their division into blocks nor
//! on earlier sound; sound without speech gives an empty text, and an invented one only where that cannot be
//! helped.

pub mod section;
pub mod text;
#[cfg(feature = "vosk")]
mod vosk;
mod vosk_model;
pub mod whisper;
pub mod worker;

#[cfg(test)]
mod measure;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod vosk_tests;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::chain;
use crate::inference::{ModelError, ModelStore, install_dir, into_folder, list};

use section::Stt;
#[cfg(feature = "vosk")]
pub use vosk::VoskRecognizer;
pub use vosk_model::{VoskModelDir, installed as installed_vosk_models};
pub use whisper::WhisperRecognizer;

/// Sound that stays below this (−66 dBFS, behind [`crate::dsp::level`]'s filter) is silence, which both
/// engines would fill with invented words.
const SILENCE_PEAK: f32 = 5e-4;

/// Which engine transcribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// An installed Vosk model, else Whisper, else none.
    #[default]
    Auto,
    Vosk,
    Whisper,
    Off,
}

/// The words of one utterance, as the engine writes them (Whisper: capitals and punctuation; Vosk: neither).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transcript {
    /// Empty if no words were recognised.
    pub text: String,
    pub engine: &'static str,
    /// Mean probability of the tokens, 0 to 1. Vosk gives none: its word confidence is always 1.
    pub confidence: Option<f32>,
}

/// Turns the sound of one utterance after the other into text.
pub trait Recognizer: Send {
    /// The engine's name as events carry it.
    fn engine(&self) -> &'static str;

    /// Takes the next samples of the utterance: 16 kHz mono, −1 to 1; anything not finite counts as silence.
    /// Returns the words so far if they changed (engines that cannot say return `None`).
    fn accept(&mut self, samples: &[f32]) -> Result<Option<String>, SttError>;

    /// Ends the utterance and returns its words. Afterwards, also after an error, the next utterance can
    /// begin.
    fn finish(&mut self) -> Result<Transcript, SttError>;

    /// Drops the utterance so far.
    fn reset(&mut self);
}

/// The reason why an utterance cannot be transcribed or an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SttError {
    #[error("loading Whisper tiny.en")]
    Model(#[source] ModelError),
    #[error("loading Whisper tiny.en: {what}; {fix}")]
    Whisper { what: String, fix: String },
    #[error("{step}")]
    Tract { step: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{step} gave a value that is not a number")]
    NotFinite { step: &'static str },
    #[error(
        "there is no Vosk model in {}; run `{}` or set [stt] vosk_model",
        list(.dirs),
        fetch_vosk(install_dir(.dirs))
    )]
    NoVoskModel { dirs: Vec<PathBuf> },
    #[error(
        "{} cannot be used as a Vosk model: {fault}; run `{}` or set [stt] vosk_model to another folder",
        .path.display(),
        fetch_vosk(.path.parent().filter(|folder| folder.is_dir()))
    )]
    VoskModel { path: PathBuf, fault: String },
    #[error("Vosk failed while {step}")]
    Vosk { step: &'static str },
    #[error(
        "this program was built without Vosk; set [stt] engine = \"whisper\", or build with the feature \
         `vosk`"
    )]
    BuiltWithoutVosk,
    #[error("the speech-to-text thread has ended")]
    WorkerGone,
}

/// The command that fetches a Vosk model into `folder`.
fn fetch_vosk(folder: Option<&Path>) -> String {
    into_folder("scripts/fetch-models.sh --vosk-model en-us-small", folder)
}

/// Result of [`open`].
pub enum Opened {
    Ready(Box<dyn Recognizer>),
    /// Switched off.
    Off,
    /// `auto` finds no usable engine. The sentence gives the reason and the remedy; everything that needs no
    /// words goes on.
    Unusable {
        sentence: String,
    },
}

/// Opens the engine that `settings` asks for. Without `vosk_model` the first `vosk*` folder in `dirs` is
/// taken.
///
/// An engine or model that was named and cannot be used is an error. The models that `auto` finds are
/// optional: one that is missing, damaged or does not run is passed over, and the next one is taken.
pub fn open(settings: &Stt, dirs: &[PathBuf], store: &ModelStore) -> Result<Opened, SttError> {
    match settings.engine {
        Engine::Off => Ok(Opened::Off),
        Engine::Whisper => Ok(Opened::Ready(Box::new(WhisperRecognizer::load(store)?))),
        Engine::Vosk => {
            let found = match &settings.vosk_model {
                Some(path) => path.clone(),
                None => installed_vosk_models(dirs)
                    .into_iter()
                    .next()
                    .ok_or_else(|| SttError::NoVoskModel { dirs: dirs.to_vec() })?,
            };
            open_vosk(&found).map(Opened::Ready)
        }
        Engine::Auto => open_best(settings, dirs, store),
    }
}

fn open_best(settings: &Stt, dirs: &[PathBuf], store: &ModelStore) -> Result<Opened, SttError> {
    if let Some(path) = &settings.vosk_model {
        return open_vosk(path).map(Opened::Ready);
    }
    let installed = installed_vosk_models(dirs);
    if installed.len() > 1 && cfg!(feature = "vosk") {
        log::warn!(
            "several Vosk models are installed ({}): set [stt] vosk_model to choose",
            list(&installed)
        );
    }
    for path in installed {
        match open_vosk(&path) {
            Ok(recognizer) => return Ok(Opened::Ready(recognizer)),
            Err(error) => log::warn!("not using the Vosk model {}: {}", path.display(), chain(&error)),
        }
    }
    match WhisperRecognizer::load(store) {
        Ok(recognizer) => Ok(Opened::Ready(Box::new(recognizer))),
        Err(error) => Ok(Opened::Unusable { sentence: format!("speech to text is off: {}", chain(&error)) }),
    }
}

#[cfg(feature = "vosk")]
fn open_vosk(path: &Path) -> Result<Box<dyn Recognizer>, SttError> {
    Ok(Box::new(VoskRecognizer::load(path)?))
}

#[cfg(not(feature = "vosk"))]
fn open_vosk(_path: &Path) -> Result<Box<dyn Recognizer>, SttError> {
    Err(SttError::BuiltWithoutVosk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty_store(dir: &Path) -> ModelStore {
        std::fs::write(dir.join("manifest.toml"), "").unwrap();
        ModelStore::open(&[dir.to_path_buf()]).unwrap()
    }

    fn open_in(dir: &Path, engine: Engine, vosk_model: Option<PathBuf>) -> Result<Opened, SttError> {
        let settings = Stt { engine, vosk_model, ..Stt::default() };
        open(&settings, &[dir.to_path_buf()], &empty_store(dir))
    }

    fn is_unusable(opened: Opened) -> bool {
        matches!(opened, Opened::Unusable { sentence } if sentence.starts_with("speech to text is off"))
    }

    #[test]
    fn with_nothing_installed_auto_and_off_give_no_engine_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open_in(dir.path(), Engine::Off, None).unwrap(), Opened::Off));
        assert!(is_unusable(open_in(dir.path(), Engine::Auto, None).unwrap()));
    }

    #[test]
    fn a_named_engine_without_its_model_is_an_error_that_names_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let Err(error) = open_in(dir.path(), Engine::Vosk, None) else { panic!("opened nothing") };
        assert!(error.to_string().contains("fetch-models.sh --vosk-model"), "{error}");
        assert!(open_in(dir.path(), Engine::Whisper, None).is_err());
    }

    #[test]
    fn auto_passes_over_a_broken_model_it_found_but_not_one_it_was_told_to_use() {
        let dir = tempfile::tempdir().unwrap();
        let broken = dir.path().join("vosk-broken");
        std::fs::create_dir_all(broken.join("am")).unwrap();
        assert!(is_unusable(open_in(dir.path(), Engine::Auto, None).unwrap()));
        assert!(open_in(dir.path(), Engine::Auto, Some(broken)).is_err());
    }

    #[test]
    fn engines_are_written_in_lower_case() {
        for (text, engine) in [
            ("\"auto\"", Engine::Auto),
            ("\"vosk\"", Engine::Vosk),
            ("\"whisper\"", Engine::Whisper),
            ("\"off\"", Engine::Off),
        ] {
            assert_eq!(serde_json::from_str::<Engine>(text).unwrap(), engine);
        }
    }
}
