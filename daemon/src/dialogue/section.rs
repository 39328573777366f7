//! Sections `[dialogue]` and `[speech]` of the configuration.

use std::path::Path;

use crate::config::{Raw, Value, line, lines, masked_words, quote, section, toml_list};

section! {
    /// Conversations.
    Dialogue = "dialogue" {
        /// Time after an answer within which a command needs no wake word; 0 switches it off. Voices are
        /// still verified.
        follow_up_s: u32 = 0, Rule::between(0, 60).live();
        /// Silence after which a new conversation is begun instead of continuing the last.
        continue_conversation_min: u32 = 240, Rule::between(1, 10_080);
    }
}

section! {
    /// Answers out loud.
    Speech = "speech" {
        /// Speak the answers.
        enabled: bool = true, Rule::any().live();
        /// Program that turns text into speech: it reads the text from standard input, or gets it in place of
        /// `{text}` in an argument, and writes WAV to standard output. Secrets in it, such as
        /// `--api-key=…` or `user:password@`, are not shown.
        command: CommandLine = CommandLine::default(), Rule::any()
            .default_is("`espeak-ng` or `flite`, whichever is installed");
        /// How long the program may take for one answer.
        timeout_s: u32 = 20, Rule::between(1, 300);
    }
}

/// A program and its arguments; empty means "the first of the usual ones that is installed".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine(pub Vec<String>);

impl CommandLine {
    /// The spoken text is partly people's words: it must not choose the program, nor be read as commands by a
    /// shell.
    fn checked(self) -> Result<Self, String> {
        const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "fish"];
        let Some((program, arguments)) = self.0.split_first() else { return Ok(self) };
        let name = Path::new(program).file_name().unwrap_or_default();
        let spoken = |word: &String| word.contains("{text}");
        if spoken(program) {
            Err("begins with the program; {text} can only stand in an argument".to_owned())
        } else if SHELLS.iter().any(|shell| name == *shell) && arguments.iter().any(spoken) {
            Err("puts {text} into a shell, which would run what people say; leave {text} out, and the text \
                 comes on standard input"
                .to_owned())
        } else if program.contains('/') && !Path::new(program).is_absolute() {
            Err(format!(
                "\"{}\" is relative; write the whole path of the program, or its name alone",
                quote(program)
            ))
        } else {
            Ok(self)
        }
    }
}

impl Value for CommandLine {
    fn type_words() -> String {
        "list of program and arguments, or one text split at spaces".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const WANTED: &str = "a program and its arguments, such as [\"espeak-ng\", \"--stdout\"]";
        let words = match raw {
            Raw::Text(text) if !text.is_empty() => {
                line(raw, WANTED)?.split_whitespace().map(str::to_owned).collect()
            }
            _ => lines(raw, WANTED)?,
        };
        Self(words).checked()
    }

    fn show(&self) -> Option<String> {
        Some(toml_list(masked_words(&self.0)))
    }
}
