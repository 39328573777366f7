//! Section `[stt]` of the configuration.

use std::path::PathBuf;

use super::Engine;
use crate::config::{Words, section};

section! {
    /// Speech to text, on the device.
    Stt = "stt" {
        /// The recogniser: Vosk, Whisper (English), none, or Vosk where a model of it is installed and
        /// Whisper otherwise.
        engine: Engine = Engine::Auto, Rule::any();
        /// Folder of a Vosk model.
        vosk_model: Option<PathBuf> = None, Rule::any().default_is("the first Vosk model among the models");
        /// Language spoken, as in `en` or `ko`; Whisper as shipped knows English.
        language: String = "en".to_owned(), Rule::when("a code of two or three letters such \
            as \"en\"", language_is_code);
    }
}

#[expect(clippy::ptr_arg, reason = "the rule of a String key checks a &String")]
fn language_is_code(code: &String) -> bool {
    (2..=3).contains(&code.len()) && code.chars().all(|c| c.is_ascii_lowercase())
}

impl Words for Engine {
    const ALL: &'static [Self] = &[Self::Auto, Self::Vosk, Self::Whisper, Self::Off];

    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Vosk => "vosk",
            Self::Whisper => "whisper",
            Self::Off => "off",
        }
    }
}
