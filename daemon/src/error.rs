//! The end of a command: one sentence for the person, an exit code for the script.

use std::error::Error;
use std::fmt;

pub use crate::plain::visible;

/// Exit codes, after `sysexits.h` where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    /// Input that cannot be used (`EX_DATAERR`).
    Data = 65,
    /// A service is unavailable (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// Try again later (`EX_TEMPFAIL`).
    TryAgain = 75,
    /// Configuration (`EX_CONFIG`); systemd does not restart on it.
    Config = 78,
}

/// The error of a subcommand that cannot do its work.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// The failure and its remedy, in one sentence.
    pub message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None }
    }

    /// A failure whose error names its step itself and gives the remedy: nothing is put in front of it.
    pub fn of(exit: Exit, error: &(dyn Error + 'static)) -> Self {
        Self::new(exit, chain(error))
    }

    /// A failure whose sentence is completed by the chain of its cause.
    pub fn because(
        exit: Exit,
        message: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { exit, message: message.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

/// An error and its causes as one line: `step: cause: cause of the cause`.
///
/// Libraries print their cause as part of themselves, or over several lines: the line repeats nothing, and
/// holds no foreign line break or control character.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut last = line.clone();
    let mut cause = error.source();
    while let Some(e) = cause {
        let text = one_line(&e.to_string());
        // "x" caused by "x: y" is "x: y".
        let goes_on = text.strip_prefix(last.as_str()).filter(|rest| rest.starts_with([':', ' ', ';', ',']));
        if let Some(rest) = goes_on.filter(|_| line.ends_with(last.as_str())) {
            line.push_str(rest);
            last = text;
        } else if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
            last = text;
        }
        cause = e.source();
    }
    line
}

/// Longest part of a chain, in characters: libraries repeat statements and whole inputs.
const MOST_OF_A_CAUSE: usize = 400;

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = visible(&words.join(" "));
    if line.chars().count() <= MOST_OF_A_CAUSE {
        return line;
    }
    line.chars().take(MOST_OF_A_CAUSE).chain(['…']).collect()
}

/// The fault of a TOML text, on one line: the parser draws the place over several.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct TomlFault {
    /// From 1.
    line: usize,
    message: String,
}

impl TomlFault {
    /// The fault that `error` tells about `text`.
    pub fn of(error: &toml::de::Error, text: &str) -> Self {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.as_bytes().get(..at).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Self { line, message: one_line(error.message()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Step(&'static str, Option<Box<Step>>);

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Step {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    fn said(steps: &[&'static str]) -> String {
        let mut error: Option<Box<Step>> = None;
        for text in steps.iter().rev() {
            error = Some(Box::new(Step(text, error)));
        }
        chain(&*error.unwrap())
    }

    #[test]
    fn a_chain_names_every_step_once() {
        assert_eq!(said(&["opening a", "no such file"]), "opening a: no such file");
        assert_eq!(
            said(&["opening a", "code 14: no such file", "no such file"]),
            "opening a: code 14: no such file"
        );
        assert_eq!(said(&["asking", "asking: refused", "refused"]), "asking: refused");
        assert_eq!(said(&["asking", "asking again"]), "asking again");
        assert_eq!(said(&["asking", "askings are refused"]), "asking: askings are refused");
    }

    #[test]
    fn a_cause_of_many_lines_or_control_characters_is_one_harmless_line() {
        assert_eq!(said(&["reading", "at 1\n  |\n1 | x\u{1b}[31m\n"]), "reading: at 1 | 1 | x\\u{1b}[31m");
    }

    #[test]
    fn a_fault_of_toml_has_its_line_and_no_drawing() {
        let text = "a = 1\nb = [\n";
        let error = toml::from_str::<toml::Table>(text).unwrap_err();
        assert!(error.to_string().lines().count() > 2, "the parser draws");
        let fault = TomlFault::of(&error, text).to_string();
        assert!(
            fault.starts_with("line ") && fault.contains("unclosed array") && !fault.contains('\n'),
            "{fault}"
        );
    }
}
