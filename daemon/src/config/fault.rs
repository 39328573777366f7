//! Faults of a configuration, and their places.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::error::visible;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the value is the built-in default.
    Default,
    /// `line` counts from 1; 0 means the file as a whole.
    File { path: Arc<Path>, line: usize },
    /// An environment variable, by its name.
    Env(String),
}

impl Origin {
    pub(super) fn file(path: &Arc<Path>, line: usize) -> Self {
        Self::File { path: path.clone(), line }
    }

    /// The folder that relative paths of this value start from.
    pub(super) fn base(&self) -> Option<PathBuf> {
        match self {
            Self::File { path, .. } => path.parent().map(Path::to_owned),
            Self::Default | Self::Env(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => f.write_str(&shown(path)),
            Self::File { path, line } => write!(f, "{}:{line}", shown(path)),
            Self::Env(name) => f.write_str(name),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One fault: `place: key: sentence`. The sentence names the fault and the right form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// `FILE:LINE` or the name of the environment variable.
    #[serde(rename = "place")]
    pub origin: Origin,
    /// `section.key` as written; absent when the file itself is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub sentence: String,
}

impl Fault {
    pub(crate) fn new(origin: Origin, key: Option<String>, sentence: impl Into<String>) -> Self {
        Self { origin, key, sentence: sentence.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Fault {}

/// A path on one line, for any characters in its name.
fn shown(path: &Path) -> String {
    visible(&path.display().to_string()).replace('\n', "\\n")
}

/// Longest piece of foreign text that a message repeats, in characters.
const QUOTE_CHARS: usize = 60;

/// Text from a file, made fit for one line of a terminal: control characters escaped, long text cut.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTE_CHARS).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTE_CHARS).is_some() {
        quoted.push('…');
    }
    quoted
}
