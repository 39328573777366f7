//! How a command ends: one sentence for the person, an exit code for the script.

use std::error::Error;
use std::fmt;

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

/// What a subcommand returns when it cannot do its work.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    /// What failed and what to do about it, in one sentence.
    pub message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), source: None }
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
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        line.push_str(": ");
        line.push_str(&e.to_string());
        cause = e.source();
    }
    line
}
