//! Values that may hold a secret: shown nowhere, or only where they are no secret.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::value::{Raw, Value, invisible, path_from, toml_text};

/// Stands for a value that is not shown.
pub(crate) const MASK: &str = "***";

/// The path of a file. A relative one that names no file may be a password in the wrong place, so it shows as
/// `***` until there is such a file.
#[derive(Clone, PartialEq, Eq)]
pub struct FilePath {
    path: PathBuf,
    relative: bool,
}

impl FilePath {
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    fn is_hidden(&self) -> bool {
        self.relative && !matches!(self.path.try_exists(), Ok(true))
    }

    /// The path for callers that repeat it in their messages.
    ///
    /// # Errors
    /// The path must not be shown.
    pub fn to_be_shown(&self) -> io::Result<&Path> {
        if self.is_hidden() {
            let why = "there is no such file, and what may be a password is not shown";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(&self.path)
    }
}

impl AsRef<Path> for FilePath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

/// A path that is shown in any case.
impl From<PathBuf> for FilePath {
    fn from(path: PathBuf) -> Self {
        Self { path, relative: false }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_hidden() { f.write_str(MASK) } else { self.path.display().fmt(f) }
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Value for FilePath {
    fn type_words() -> String {
        PathBuf::type_words()
    }

    fn read(raw: &Raw, base: &Path) -> Result<Self, String> {
        let text = unquoted(raw, "the path of a file in quotes")?;
        let path = path_from(text, base).map_err(|_| "needs a whole path, which begins with /".to_owned())?;
        Ok(Self { path, relative: Path::new(text).is_relative() })
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.to_string()))
    }
}

/// A text that may be a secret, such as the name of a user for which some brokers take a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Masked(pub String);

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Value for Masked {
    fn type_words() -> String {
        String::type_words()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        unquoted(raw, "a text").map(|text| Self(text.to_owned()))
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(MASK))
    }
}

/// Text on one line, as of [`super::value::line`]; no fault repeats it.
fn unquoted<'a>(raw: &'a Raw, wanted: &str) -> Result<&'a str, String> {
    match raw {
        Raw::Text(text) if text.trim().is_empty() => Err(format!("is empty; it needs {wanted}")),
        Raw::Text(text) if text.chars().any(|c| c.is_control() || invisible(c)) => {
            Err(format!("holds control or invisible characters; it needs {wanted}, on one line"))
        }
        Raw::Text(text) if text.len() > 4096 => {
            Err(format!("is {} bytes long; at most 4096 fit", text.len()))
        }
        Raw::Text(text) => Ok(text.as_str()),
        _ => Err(format!("needs {wanted}")),
    }
}

/// `words` of a command, with likely secrets as `***`: the value behind a name such as `--api-key=`,
/// `--token` or `Authorization:`, and the password of `user:password@`.
pub(crate) fn masked_words(words: &[String]) -> Vec<String> {
    let mut value_of_a_secret = false;
    let mut shown = Vec::with_capacity(words.len());
    for word in words {
        if std::mem::take(&mut value_of_a_secret) {
            shown.push(MASK.to_owned());
            continue;
        }
        let separator = word.find(['=', ':']);
        let name = separator.map_or(word.as_str(), |at| &word[..at]);
        shown.push(match separator {
            Some(at) if names_a_secret(name) => format!("{}{MASK}", &word[..=at]),
            _ => without_password(word),
        });
        value_of_a_secret = separator.is_none_or(|at| at + 1 == word.len())
            && (word.starts_with('-') || separator.is_some())
            && names_a_secret(name);
    }
    shown
}

/// Whether a value of this name is a secret.
fn names_a_secret(name: &str) -> bool {
    const WORDS: [&str; 6] = ["key", "token", "secret", "passw", "auth", "bearer"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// `word` without the password of an address `user:password@host`.
fn without_password(word: &str) -> String {
    let Some((before, host)) = word.rsplit_once('@') else { return word.to_owned() };
    let from = before.find("://").map_or(0, |at| at + 3);
    match before[from..].find(':') {
        Some(colon) => format!("{}{MASK}@{host}", &before[..=from + colon]),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_command_are_masked() {
        let shown =
            |text: &str| masked_words(&text.split(' ').map(str::to_owned).collect::<Vec<_>>()).join(" ");
        for (written, expected) in [
            ("espeak-ng -v en+f3 --stdout", "espeak-ng -v en+f3 --stdout"),
            ("say --api-key=abc {text}", "say --api-key=*** {text}"),
            ("say --token abc {text}", "say --token *** {text}"),
            ("curl -H Authorization: abc -d {text}", "curl -H Authorization:*** *** -d {text}"),
            ("curl https://me:abc@host/say", "curl https://me:***@host/say"),
            ("curl -u me:abc@host", "curl -u me:***@host"),
            ("env XI_API_KEY=abc say", "env XI_API_KEY=*** say"),
            ("mail a@b", "mail a@b"),
        ] {
            assert_eq!(shown(written), expected);
        }
    }
}
