//! The types a key can have: how each is read from TOML, checked, and shown again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::fault::quote;
use crate::audio::Channel;
use crate::memory::name_key;

use crate::backup::Level;
use crate::backup::remote::Check;
use crate::speaker::SecondVoice;
use crate::stt::Engine;

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
            Self::Float(x) => format!("the number {x}"),
            Self::Bool(b) => format!("{b}"),
            Self::Date => "a date".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Table => "a table".to_owned(),
        }
    }

    fn instead_of(&self, wanted: &str) -> String {
        format!("needs {wanted}, not {}", self.describe())
    }
}

/// A value of a key: read from TOML with a sentence on failure, shown as TOML with secrets masked.
pub trait Value: Sized {
    /// The type in the words of the reference page.
    const TYPE: &'static str;

    /// `base` is the folder that relative paths start from.
    fn read(raw: &Raw, base: &Path) -> Result<Self, String>;

    /// The value as TOML; `None` if it is not set.
    fn show(&self) -> Option<String>;
}

/// A basic TOML string.
pub(super) fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Text that is not empty and fits on a line; C libraries get it as it is, so no NUL either.
fn line(raw: &Raw, wanted: &str) -> Result<String, String> {
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

/// Characters that a person cannot see and that make two texts look alike or turn the direction of the rest. The joiners
/// U+200C and U+200D stay allowed: some scripts and emoji need them.
fn invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A path; relative ones start from `base`. Where there is no file to start from (the environment) `base` is empty: a
/// service and a shell stand in different folders, so only an absolute path means the same to both.
fn path_from(text: &str, base: &Path) -> Result<PathBuf, String> {
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
    const TYPE: &'static str = "text";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        line(raw, "a text")
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(self))
    }
}

impl Value for bool {
    const TYPE: &'static str = "true or false";

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

impl Value for u32 {
    const TYPE: &'static str = "whole number";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        match raw {
            Raw::Int(Some(n)) => Self::try_from(*n).map_err(|_| format!("{n} is out of range")),
            Raw::Int(None) => Err("the number is out of range".to_owned()),
            other => Err(other.instead_of("a whole number")),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for f32 {
    const TYPE: &'static str = "number";

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
    const TYPE: &'static str = "path";

    fn read(raw: &Raw, base: &Path) -> Result<Self, String> {
        line(raw, "a path in quotes").and_then(|path| path_from(&path, base))
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.to_string_lossy()))
    }
}

impl<T: Value> Value for Option<T> {
    const TYPE: &'static str = T::TYPE;

    /// The empty text takes back what an earlier file has set.
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

impl Value for SocketAddr {
    const TYPE: &'static str = "address and port";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let text = line(raw, "an address and port such as \"127.0.0.1:8080\"")?;
        let address: Self = text.parse().map_err(|_| {
            format!(
                "\"{}\" is not an address and port such as \"127.0.0.1:8080\" or \"[::]:8080\"",
                quote(&text)
            )
        })?;
        if address.port() == 0 {
            return Err("port 0 is a different one at every start; name a port".to_owned());
        }
        Ok(address)
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.to_string()))
    }
}

/// Highest channel number of any sound card that ALSA describes.
const MAX_CHANNEL: i64 = 63;

impl Value for Channel {
    const TYPE: &'static str = "\"mean\", \"left\", \"right\" or a number from 0";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let number = match raw {
            Raw::Text(text) => match text.as_str() {
                "mean" => return Ok(Self::Mean),
                "left" => return Ok(Self::Nth(0)),
                "right" => return Ok(Self::Nth(1)),
                _ => None,
            },
            Raw::Int(Some(n)) if (0..=MAX_CHANNEL).contains(n) => u16::try_from(*n).ok(),
            _ => None,
        };
        number.map(Self::Nth).ok_or_else(|| {
            raw.instead_of(&format!(
                "\"mean\", \"left\", \"right\" or a channel number from 0 to {MAX_CHANNEL}"
            ))
        })
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Self::Mean => toml_text("mean"),
            Self::Nth(0) => toml_text("left"),
            Self::Nth(1) => toml_text("right"),
            Self::Nth(n) => n.to_string(),
        })
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

/// The wake words that are listened for; none at all means that every utterance is a command.
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
            (WakeModel::Named(a), WakeModel::Named(b)) => {
                crate::inference::normal_name(a) == crate::inference::normal_name(b)
            }
            (a, b) => a == b,
        };
        models.iter().enumerate().find(|(n, a)| models.iter().take(*n).any(|b| same(a, b))).map(|(_, a)| a)
    }
}

impl Value for WakeModels {
    const TYPE: &'static str = "name, path, list of these, or \"none\"";

    fn read(raw: &Raw, base: &Path) -> Result<Self, String> {
        let texts = match raw {
            Raw::List(items) => {
                items.iter().map(|item| line(item, Self::WANTED)).collect::<Result<Vec<_>, _>>()?
            }
            Raw::Text(_) => vec![line(raw, Self::WANTED)?],
            other => return Err(other.instead_of(Self::WANTED)),
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
        let one = |model: &WakeModel| match model {
            WakeModel::Named(name) => toml_text(name),
            WakeModel::File(path) => toml_text(&path.to_string_lossy()),
        };
        Some(match self.0.as_slice() {
            [] => toml_text("none"),
            [model] => one(model),
            models => format!("[{}]", models.iter().map(one).collect::<Vec<_>>().join(", ")),
        })
    }
}

/// One of a few words, each of which stands for something; `kind` lists them.
fn one_of<T: Copy>(raw: &Raw, kind: &str, words: &[(T, &'static str)]) -> Result<T, String> {
    let Raw::Text(text) = raw else { return Err(raw.instead_of(kind)) };
    words.iter().find(|(_, word)| word == text).map(|(meaning, _)| *meaning).ok_or_else(|| {
        let hint = super::suggest::closest(text, words.iter().map(|(_, word)| *word));
        let hint = hint.map_or(String::new(), |word| format!("; did you mean \"{word}\"?"));
        format!("\"{}\" is none of {kind}{hint}", quote(text))
    })
}

const ENGINES: [(Engine, &str); 4] =
    [(Engine::Auto, "auto"), (Engine::Vosk, "vosk"), (Engine::Whisper, "whisper"), (Engine::Off, "off")];

impl Value for Engine {
    const TYPE: &'static str = "\"auto\", \"vosk\", \"whisper\" or \"off\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        one_of(raw, Self::TYPE, &ENGINES)
    }

    fn show(&self) -> Option<String> {
        ENGINES.iter().find(|(engine, _)| engine == self).map(|(_, name)| toml_text(name))
    }
}

impl Value for SecondVoice {
    const TYPE: &'static str = "\"cut\", \"refuse\" or \"answer\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        one_of(raw, Self::TYPE, &[Self::Cut, Self::Refuse, Self::Answer].map(|what| (what, what.as_str())))
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(self.as_str()))
    }
}

impl Value for Level {
    const TYPE: &'static str = "\"quick\", \"full\" or \"restore\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        one_of(
            raw,
            Self::TYPE,
            &[Self::Quick, Self::Full, Self::Restore].map(|level| (level, level.as_str())),
        )
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(self.as_str()))
    }
}

impl Value for Check {
    const TYPE: &'static str = "\"sizes\" or \"content\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        one_of(raw, Self::TYPE, &[Self::Sizes, Self::Content].map(|check| (check, check.as_str())))
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(self.as_str()))
    }
}

/// A remote of rclone and a path in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote(pub String);

impl Value for Remote {
    const TYPE: &'static str = "remote of rclone";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const WANTED: &str = "a remote of rclone and a folder in it, such as \"nas:jarvis\"";
        let text = line(raw, WANTED)?;
        let wrong = |why: &str| Err(format!("\"{}\" {why}; it needs {WANTED}", quote(&text)));
        let Some((name, path)) = text.split_once(':') else { return wrong("has no \":\"") };
        // Without these it could be an option, or settings with a password in them, which would show in a list of programs.
        let plain = |c: char| c.is_alphanumeric() || "_-.+@".contains(c);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
            return wrong("does not begin with the name of a remote");
        }
        if path.split('/').any(|part| part == "..") {
            return wrong("leads out of its folder");
        }
        Ok(Self(text))
    }

    fn show(&self) -> Option<String> {
        Some(toml_text(&self.0))
    }
}

/// Public keys of age; none means that backups are not encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipients(pub Vec<String>);

impl Value for Recipients {
    const TYPE: &'static str = "list of recipients of age";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const MAX: usize = 16;
        const WANTED: &str = "recipients of age such as [\"age1…\"]";
        let texts: Vec<String> = match raw {
            Raw::Text(text) if text.is_empty() => Vec::new(),
            Raw::Text(_) => vec![line(raw, WANTED)?],
            Raw::List(items) => items.iter().map(|item| line(item, WANTED)).collect::<Result<_, _>>()?,
            other => return Err(other.instead_of(WANTED)),
        };
        if texts.len() > MAX {
            return Err(format!("names {} recipients; at most {MAX} fit", texts.len()));
        }
        for text in &texts {
            if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY") {
                // Not repeated: it is a secret.
                return Err(
                    "holds a secret key; recipients are the public ones, which begin with age1".to_owned()
                );
            }
            crate::backup::keys::recipient(text)?;
        }
        Ok(Self(texts))
    }

    fn show(&self) -> Option<String> {
        let texts: Vec<String> = self.0.iter().map(|text| toml_text(text)).collect();
        Some(format!("[{}]", texts.join(", ")))
    }
}

/// A program and its arguments; empty means "the first of the usual ones that is installed".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine(pub Vec<String>);

impl CommandLine {
    /// What is spoken is partly what people said: it must not choose the program, nor be read as commands by a shell.
    fn checked(self) -> Result<Self, String> {
        const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "fish"];
        let Some((program, arguments)) = self.0.split_first() else { return Ok(self) };
        let name = Path::new(program).file_name().unwrap_or_default();
        let spoken = |word: &String| word.contains("{text}");
        if spoken(program) {
            Err("begins with the program; {text} can only stand in an argument".to_owned())
        } else if SHELLS.iter().any(|shell| name == *shell) && arguments.iter().any(spoken) {
            Err("puts {text} into a shell, which would run what people say; leave {text} out, and the text comes on \
                 standard input"
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
    const TYPE: &'static str = "list of program and arguments, or one text split at spaces";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        const WANTED: &str = "a program and its arguments, such as [\"espeak-ng\", \"--stdout\"]";
        let words: Vec<String> = match raw {
            Raw::Text(text) if text.is_empty() => Vec::new(),
            Raw::Text(_) => line(raw, WANTED)?.split_whitespace().map(str::to_owned).collect(),
            Raw::List(items) => items.iter().map(|i| line(i, WANTED)).collect::<Result<_, _>>()?,
            other => return Err(other.instead_of(WANTED)),
        };
        Self(words).checked()
    }

    fn show(&self) -> Option<String> {
        let words: Vec<String> = self.0.iter().map(|word| toml_text(word)).collect();
        Some(format!("[{}]", words.join(", ")))
    }
}

/// Thresholds of single people, which go before the common one: `["Anna=0.9"]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserThresholds(pub Vec<(String, f32)>);

impl UserThresholds {
    /// What the speaker check may ask for: below, every second stranger would be let in; above, nobody.
    pub(super) const RANGE: (f32, f32) = (0.5, 0.999);
    const WANTED: &'static str = "a list of names with their probability, such as [\"Anna=0.9\"]";

    /// The threshold of the person called `name`; names are compared as everywhere, without regard to case.
    pub fn of(&self, name: &str) -> Option<f32> {
        let key = name_key(name);
        self.0.iter().find(|(own, _)| name_key(own) == key).map(|(_, threshold)| *threshold)
    }

    fn one(text: &str) -> Result<(String, f32), String> {
        let (low, high) = Self::RANGE;
        let (name, number) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("\"{}\" has no =; it needs {}", quote(text), Self::WANTED))?;
        let threshold = number.trim().parse().ok().filter(|t| (low..=high).contains(t));
        let threshold = threshold.ok_or_else(|| {
            format!("\"{}\" needs a probability from {low:?} to {high:?} behind the =", quote(text))
        })?;
        match name.trim() {
            "" => Err(format!("\"{}\" needs a name before the =", quote(text))),
            name => Ok((name.to_owned(), threshold)),
        }
    }
}

impl Value for UserThresholds {
    const TYPE: &'static str = "list of \"NAME=PROBABILITY\"";

    fn read(raw: &Raw, _: &Path) -> Result<Self, String> {
        let texts: Vec<String> = match raw {
            Raw::Text(text) if text.is_empty() => Vec::new(),
            Raw::Text(_) => vec![line(raw, Self::WANTED)?],
            Raw::List(items) => {
                items.iter().map(|item| line(item, Self::WANTED)).collect::<Result<_, _>>()?
            }
            other => return Err(other.instead_of(Self::WANTED)),
        };
        let mut all = Self::default();
        for text in &texts {
            let (name, threshold) = Self::one(text)?;
            if all.of(&name).is_some() {
                return Err(format!("names \"{}\" twice", quote(&name)));
            }
            all.0.push((name, threshold));
        }
        Ok(all)
    }

    fn show(&self) -> Option<String> {
        let all: Vec<String> =
            self.0.iter().map(|(name, threshold)| toml_text(&format!("{name}={threshold:?}"))).collect();
        Some(format!("[{}]", all.join(", ")))
    }
}
