//! Sections `[wake]` and `[endpoint]` of the configuration.

use std::path::{Path, PathBuf};

use super::WakeWord;
use crate::config::{Raw, Value, line, lines, path_from, quote, section, toml_list, toml_text};
use crate::inference::normal_name;

section! {
    /// The wake word.
    Wake = "wake" {
        /// Wake word to listen for: models of `jarvisd models list` by name, `.onnx` files of openWakeWord
        /// heads by path, or a list of both. With `"none"` every utterance is taken as a command.
        model: WakeModels = WakeModels::default(), Rule::any();
        /// Score from which a wake word counts as said. Lower wakes more easily, also by mistake.
        threshold: f32 = 0.5, Rule::between(0.01, 0.99);
    }
}

section! {
    /// Where a command begins and ends.
    Endpoint = "endpoint" {
        /// Sound kept from before the first speech, so that no first consonant is lost.
        pre_roll_ms: u32 = 300, Rule::between(0, 2_000);
        /// Silence that ends a command.
        end_silence_ms: u32 = 700, Rule::between(200, 5_000);
        /// Longest command; one that goes on is cut there and answered.
        max_utterance_ms: u32 = 15_000, Rule::between(1_000, 60_000);
        /// Time after the wake word within which a command may begin.
        no_speech_timeout_ms: u32 = 5_000, Rule::between(500, 60_000);
    }
}

impl Wake {
    /// The wake words, each with its threshold.
    pub(super) fn words(&self) -> Vec<WakeWord> {
        let threshold = self.threshold;
        self.model.0.iter().map(|model| WakeWord { model: model.clone(), threshold }).collect()
    }
}

/// One wake word: a model of the manifest, or a file of the owner's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WakeModel {
    /// A name in `models/manifest.toml`.
    Named(String),
    /// An openWakeWord head in ONNX form.
    File(PathBuf),
}

/// The wake words to listen for; with none, every utterance is a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeModels(pub Vec<WakeModel>);

impl WakeModels {
    /// Most models that are evaluated side by side.
    const MAX: usize = 16;
    const WANTED: &'static str =
        "\"none\", the name of a model, the path of an .onnx file, or a list of these";

    fn one(text: &str, base: &Path) -> Result<WakeModel, String> {
        if text.contains('/') || Path::new(text).extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx")) {
            path_from(text, base).map(WakeModel::File)
        } else {
            Ok(WakeModel::Named(text.to_owned()))
        }
    }

    /// The first model that is named twice: it would wake twice.
    fn repeated(models: &[WakeModel]) -> Option<&WakeModel> {
        let same = |a: &WakeModel, b: &WakeModel| match (a, b) {
            (WakeModel::Named(a), WakeModel::Named(b)) => normal_name(a) == normal_name(b),
            (a, b) => a == b,
        };
        models.iter().enumerate().find(|(n, a)| models.iter().take(*n).any(|b| same(a, b))).map(|(_, a)| a)
    }
}

impl Default for WakeModels {
    fn default() -> Self {
        Self(vec![WakeModel::Named("hey-jarvis".to_owned())])
    }
}

impl Value for WakeModels {
    fn type_words() -> String {
        "name, path, list of these, or \"none\"".to_owned()
    }

    fn read(raw: &Raw, base: &Path) -> Result<Self, String> {
        let texts = match raw {
            // An empty text is no empty list here.
            Raw::Text(_) => vec![line(raw, Self::WANTED)?],
            _ => lines(raw, Self::WANTED)?,
        };
        if texts.len() > Self::MAX {
            return Err(format!("names {} models; at most {} can listen at once", texts.len(), Self::MAX));
        }
        match texts.as_slice() {
            [none] if none == "none" => Ok(Self(Vec::new())),
            texts if texts.iter().any(|t| t == "none") => {
                Err("contradicts itself: \"none\" cannot stand beside other models".to_owned())
            }
            [] => Err(format!("is an empty list; it needs {}", Self::WANTED)),
            texts => {
                let models = texts.iter().map(|text| Self::one(text, base)).collect::<Result<Vec<_>, _>>()?;
                match Self::repeated(&models) {
                    None => Ok(Self(models)),
                    Some(WakeModel::Named(name)) => Err(format!("names \"{}\" twice", quote(name))),
                    Some(WakeModel::File(path)) => {
                        Err(format!("names {} twice", quote(&path.to_string_lossy())))
                    }
                }
            }
        }
    }

    fn show(&self) -> Option<String> {
        let texts: Vec<_> = self
            .0
            .iter()
            .map(|model| match model {
                WakeModel::Named(name) => name.into(),
                WakeModel::File(path) => path.to_string_lossy(),
            })
            .collect();
        Some(match texts.as_slice() {
            [] => toml_text("none"),
            [model] => toml_text(model),
            models => toml_list(models),
        })
    }
}
