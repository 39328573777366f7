//! The types a key can have: how each is read from TOML, checked, and shown again.

use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::fault::quote;
use super::suggest::closest;

/// A TOML value without its place.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    Text(String),
    /// `None`: too large for 64 bits.
    Int(Option<i64>),
    Float(f64),
    Bool(bool),
    Date,
    List(Vec<Raw>),
    Table,
}

impl Raw {
    pub(super) fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(n) => Self::Int(i64::from_str_radix(n.as_str(), n.radix()).ok()),
            DeValue::Float(x) => Self::Float(x.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(b) => Self::Bool(*b),
            DeValue::Datetime(_) => Self::Date,
            DeValue::Array(items) => Self::List(items.iter().map(|i| Self::of(i.get_ref())).collect()),
            DeValue::Table(_) => Self::Table,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("the text \"{}\"", quote(text)),
            Self::Int(Some(n)) => format!("the number {n}"),
            Self::Int(None) => "a number of more than 64 bits".to_owned(),
            Self::Float(x) => format!("the number {x:?}"),
            Self::Bool(b) => format!("{b}"),
            Self::Date => "a date".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Table => "a table".to_owned(),
        }
    }

    pub(crate) fn instead_of(&self, wanted: &str) -> String {
        format!("needs {wanted}, not {}", self.describe())
    }
}

/// A value of a key: read from TOML with a sentence on failure, shown as TOML with secrets masked.
pub trait Value: Sized {
    /// The type in the words of the reference page.
    fn type_words() -> String;

    /// `base` is the folder that relative paths start from.
    fn read(raw: &Raw, base: &Path) -> Result<Self, String>;

    /// The value as TOML; `None` if it is not set.
    fn show(&self) -> Option<String>;
}

/// A basic TOML string.
pub(crate) fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Texts as a list of TOML.
pub(crate) fn toml_list<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| toml_text(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

/// A list of texts, or one of them, each as of [`line`]; the empty text is the empty list.
pub(crate) fn lines(raw: &Raw, wanted: &str) -> Result<Vec<String>, String> {
    match raw {
        Raw::Text(text) if text.is_empty() => Ok(Vec::new()),
        Raw::Text(_) => Ok(vec![line(raw, wanted)?]),
        Raw::List(items) => items.iter().map(|item| line(item, wanted)).collect(),
        other => Err(other.instead_of(wanted)),
    }
}

/// Text that is not empty and fits on a line; C libraries get it as it is, so no NUL either.
pub(crate) fn line(raw: &Raw, wanted: &str) -> Result<String, String> {
    match raw {
        Raw::Text(text) if text.trim().is_empty() => Err(format!("is empty; it needs {wanted}")),
        Raw::Text(text) if text.chars().any(char::is_control) => {
            Err(format!("\"{}\" holds control characters; it needs {wanted} on one line", quote(text)))
        }
        Raw::Text(text) if text.chars().any(invisible) => {
            Err(format!("\"{}\" holds invisible characters; type it again", quote(text)))
        }
        Raw::Text(text) if text.len() > 4096 => {
            Err(format!("is {} bytes long; at most 4096 fit", text.len()))
        }
        Raw::Text(text) => Ok(text.clone()),
        other => Err(other.instead_of(wanted)),
    }
}

/// Characters that a person cannot see, and that make two texts look alike or turn the direction of the rest.
/// The joiners U+200C and U+200D stay allowed: some scripts and emoji need them.
pub(super) fn invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A path; relative ones start from `base`. In the environment there is no file to start from, and `base` is
/// empty. A service and a shell stand in different folders, so only an absolute path means the same to both.
pub(crate) fn path_from(text: &str, base: &Path) -> Result<PathBuf, String> {
    if text == "~" || text.starts_with("~/") {
        return Err(format!("\"{}\": ~ stands for nobody's folder here; write the whole path", quote(text)));
    }
    let path = base.join(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(format!("\"{}\" is relative; in the environment a path begins with /", quote(text)))
}

impl Value for String {
    fn type_words() -> String {
        "text".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        line(raw, "a text")
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(self))
    }
}

impl Value for bool {
    fn type_words() -> String {
        "true or false".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        match raw {
            Raw::Bool(b) => Ok(*b),
            other => Err(other.instead_of("true or false")),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// End of the sentence about a number that fits no `u32`; callers that know the range add it.
pub(super) const OUT_OF_RANGE: &str = "is out of range";

impl Value for u32 {
    fn type_words() -> String {
        "whole number".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        match raw {
            Raw::Int(Some(n)) => Self::try_from(*n).map_err(|_| format!("{n} {OUT_OF_RANGE}")),
            Raw::Int(None) => Err(format!("the number {OUT_OF_RANGE}")),
            other => Err(other.instead_of("a whole number")),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for f32 {
    fn type_words() -> String {
        "number".to_owned()
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let x = match raw {
            Raw::Int(Some(n)) => *n as f64,
            Raw::Float(x) => *x,
            other => return Err(other.instead_of("a number")),
        };
        #[expect(clippy::cast_possible_truncation, reason = "checked to be finite after the conversion")]
        let x = x as Self;
        if x.is_finite() { Ok(x) } else { Err("needs a finite number".to_owned()) }
    }

    fn show(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl Value for PathBuf {
    fn type_words() -> String {
        "path".to_owned()
    }

    fn read(raw: &Raw, base: &Path) -> Result<Self, String> {
        line(raw, "a path in quotes").and_then(|path| path_from(&path, base))
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.to_string_lossy()))
    }
}

impl<T: Value> Value for Option<T> {
    fn type_words() -> String {
        T::type_words()
    }

    /// The empty text takes back the value of an earlier file.
    fn read(raw: &Raw, base: &Path) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text.is_empty() => Ok(None),
            raw => T::read(raw, base).map(Some),
        }
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

/// A value that is one of a few words.
pub trait Words: Copy + PartialEq + 'static {
    /// In the order of the reference page.
    const ALL: &'static [Self];

    fn word(self) -> &'static str;
}

impl<T: Words> Value for T {
    fn type_words() -> String {
        let quoted: Vec<String> = T::ALL.iter().map(|value| format!("\"{}\"", value.word())).collect();
        match quoted.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, before)) => format!("{} or {last}", before.join(", ")),
            None => String::new(),
        }
    }

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let Raw::Text(text) = raw else { return Err(raw.instead_of(&Self::type_words())) };
        T::ALL.iter().copied().find(|value| value.word() == text).ok_or_else(|| {
            let hint = closest(text, T::ALL.iter().map(|value| value.word()));
            let hint = hint.map_or(String::new(), |word| format!("; did you mean \"{word}\"?"));
            format!("\"{}\" is none of {}{hint}", quote(text), Self::type_words())
        })
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(self.word()))
    }
}
