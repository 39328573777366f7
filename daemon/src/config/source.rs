//! The places where values are written: the file, the files beside it, the environment. The later wins, key
//! by key.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::fault::{Fault, Origin, quote};
use super::suggest::closest;
use super::value::Raw;
use crate::plain::without_mark;

/// No configuration is longer; a longer file is the wrong file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most files in `conf.d`.
const MAX_FILES: usize = 256;
/// Faults that one file may report; past that more of them help nobody.
const MAX_FAULTS_PER_FILE: usize = 100;

/// Prefix of the environment variables that set keys.
const ENV_PREFIX: &str = "JARVIS__";

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub raw: Raw,
    /// The same as plain text, where quotes are optional.
    pub bare: Option<Raw>,
    pub origin: Origin,
}

/// A key with the value in force and the place that set it.
#[derive(Debug, Clone)]
pub struct Effective {
    /// `section.key`.
    pub key: String,
    /// As TOML with secrets masked; `None` if not set.
    pub value: Option<String>,
    pub origin: Origin,
    /// A reload applies it.
    pub live: bool,
}

/// The known keys of a section.
pub type KnownKeys = BTreeMap<&'static str, Vec<&'static str>>;

/// The values of all layers, the later over the earlier.
#[derive(Debug)]
pub struct Layers {
    known: KnownKeys,
    entries: BTreeMap<(&'static str, &'static str), Entry>,
    /// Filled while the sections are read, in their order.
    pub effective: Vec<Effective>,
    /// Files that were read.
    pub files: Vec<PathBuf>,
    /// Entries that are no fault and probably a mistake.
    pub warnings: Vec<String>,
}

impl Layers {
    pub(super) fn new(known: KnownKeys) -> Self {
        Self {
            known,
            entries: BTreeMap::new(),
            effective: Vec::new(),
            files: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, section: &'static str, key: &'static str) -> Option<Entry> {
        self.entries.remove(&(section, key))
    }

    pub(super) fn note(&mut self, key: String, value: Option<String>, origin: Origin, live: bool) {
        self.effective.push(Effective { key, value, origin, live });
    }

    /// Where a key in force was set.
    pub fn origin(&self, key: &str) -> Origin {
        self.effective.iter().find(|e| e.key == key).map_or(Origin::Default, |e| e.origin.clone())
    }

    /// Reads one file. A missing file is a fault only if it is `required`.
    pub(super) fn read_file(&mut self, path: &Path, required: bool, faults: &mut Vec<Fault>) {
        let shared: Arc<Path> = path.into();
        match read_text(path) {
            Ok(Some(text)) => {
                self.files.push(path.to_owned());
                self.read_text(&shared, &text, faults);
            }
            Ok(None) if !required => {}
            Ok(None) => {
                faults.push(Fault::new(Origin::file(&shared, 0), None, "the file does not exist"));
            }
            Err((line, sentence)) => faults.push(Fault::new(Origin::file(&shared, line), None, sentence)),
        }
    }

    /// Reads `*.toml` of a folder in the order of their names; a folder that does not exist has none.
    pub(super) fn read_folder(&mut self, folder: &Path, faults: &mut Vec<Fault>) {
        let fail = |sentence: String| {
            let place: Arc<Path> = folder.into();
            Fault::new(Origin::file(&place, 0), None, sentence)
        };
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // A link that leads nowhere, or a file, was meant to be read.
            Err(_) if folder.symlink_metadata().is_err() => return,
            Err(e) => return faults.push(fail(format!("the folder cannot be read: {e}"))),
        };
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension() == Some(OsStr::new("toml")))
            .filter(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")))
            .collect();
        paths.sort();
        if paths.len() > MAX_FILES {
            return faults.push(fail(format!("holds {} files; at most {MAX_FILES} are read", paths.len())));
        }
        for path in paths {
            // Opening a named pipe would wait for its writer.
            if path.metadata().is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
                let place: Arc<Path> = path.into();
                faults.push(Fault::new(Origin::file(&place, 0), None, "is not a regular file"));
                continue;
            }
            self.read_file(&path, true, faults);
        }
    }

    fn read_text(&mut self, path: &Arc<Path>, text: &str, faults: &mut Vec<Fault>) {
        let lines = Lines::of(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        // Sets: a file that is no TOML at all has half a million lines that are none.
        let (mut found, mut told, mut broken) = (Vec::new(), HashSet::new(), HashSet::new());
        for error in &errors {
            let line = error.span().map_or(0, |span| lines.at(span.start));
            let sentence = format!("is not TOML: {}", quote_message(error.message()));
            broken.insert(line);
            if told.insert((line, sentence.clone())) {
                found.push(Fault::new(Origin::file(path, line), None, sentence));
            }
        }
        let mut page = Page { path, lines: &lines, broken: &broken, found: Vec::new() };
        for (name, value) in document.get_ref() {
            self.read_section(name.get_ref(), page.line(name), value.get_ref(), &mut page);
        }
        found.append(&mut page.found);
        let more = found.len().saturating_sub(MAX_FAULTS_PER_FILE);
        found.truncate(MAX_FAULTS_PER_FILE);
        found.sort_by_key(|fault| line_of(&fault.origin));
        faults.append(&mut found);
        if more > 0 {
            faults.push(Fault::new(
                Origin::file(path, 0),
                None,
                format!("has {more} more faults like these"),
            ));
        }
    }

    fn read_section(&mut self, name: &str, line: usize, value: &DeValue<'_>, page: &mut Page<'_>) {
        let Some((section, keys)) = self.known.get_key_value(name).map(|(s, keys)| (*s, keys.clone())) else {
            return page.fault(line, quote(name), self.unknown_section(name, value));
        };
        let DeValue::Table(table) = value else {
            let sentence = match value {
                DeValue::Array(_) => format!("is a section and stands once, as [{section}], not as a list"),
                _ => format!("is a section: write [{section}] on a line of its own and its keys below"),
            };
            return page.fault(line, section.to_owned(), sentence);
        };
        for (key, value) in table {
            let line = page.line(key);
            let Some(known) = keys.iter().find(|known| *known == key.get_ref()) else {
                let shown = format!("{section}.{}", quote(key.get_ref()));
                page.fault(line, shown, self.unknown_key(section, key.get_ref()));
                continue;
            };
            if !page.broken.contains(&line) {
                let origin = Origin::file(page.path, line);
                self.entries
                    .insert((section, known), Entry { raw: Raw::of(value.get_ref()), bare: None, origin });
            }
        }
    }

    /// Finds variables that look like settings and set none: one underscore, other letters.
    pub(super) fn find_near_misses(&mut self, env: &[(OsString, OsString)], faults: &mut Vec<Fault>) {
        for (name, _) in env {
            let Some(name) = name.to_str().filter(|name| !name.starts_with(ENV_PREFIX)) else { continue };
            let upper = name.to_uppercase().replace('-', "_");
            let Some(rest) = upper.trim_start_matches('_').strip_prefix("JARVIS") else { continue };
            let rest = rest.trim_start_matches('_').to_lowercase();
            let meant = self.key_meant(&rest);
            let shown = quote(name);
            match (meant, rest.contains("__")) {
                (Some((section, key)), true) => faults.push(Fault::new(
                    Origin::Env(shown),
                    None,
                    format!("sets nothing; did you mean {}?", variable(section, key)),
                )),
                (None, true) => faults.push(Fault::new(
                    Origin::Env(shown),
                    None,
                    format!("sets nothing; variables are written {ENV_PREFIX}SECTION__KEY"),
                )),
                (Some((section, key)), false) => self
                    .warnings
                    .push(format!("{shown} sets nothing; did you mean {}?", variable(section, key))),
                (None, false) => {}
            }
        }
    }

    /// The key that `section_key`, with any number of underscores between, means or nearly means.
    fn key_meant(&self, name: &str) -> Option<(&'static str, &'static str)> {
        let whole = |(section, keys): (&&'static str, &Vec<&'static str>)| {
            let rest = name.strip_prefix(section)?.strip_prefix('_')?.trim_start_matches('_');
            keys.iter().find(|key| **key == rest).map(|key| (*section, *key))
        };
        if let Some(found) = self.known.iter().find_map(whole) {
            return Some(found);
        }
        let (section, key) = name.split_once("__")?;
        let section = closest(section, self.known.keys().copied())?;
        let (section, keys) = self.known.get_key_value(section)?;
        Some((section, closest(key.trim_start_matches('_'), keys.iter().copied())?))
    }

    /// Reads the variables `JARVIS__SECTION__KEY`.
    pub(super) fn read_env(&mut self, env: &[(OsString, OsString)], faults: &mut Vec<Fault>) {
        let mut ours: Vec<_> = env
            .iter()
            .filter(|(name, _)| name.as_encoded_bytes().starts_with(ENV_PREFIX.as_bytes()))
            .collect();
        ours.sort();
        for (name, value) in ours {
            let shown = quote(&name.to_string_lossy());
            let origin = Origin::Env(shown.clone());
            let mut fail = |sentence: String| faults.push(Fault::new(origin.clone(), None, sentence));
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
                fail("is not UTF-8 text".to_owned());
                continue;
            };
            if value.len() as u64 > MAX_FILE_BYTES {
                fail(format!("is longer than {MAX_FILE_BYTES} bytes"));
                continue;
            }
            let lower = name.strip_prefix(ENV_PREFIX).unwrap_or_default().to_lowercase();
            let Some((section, key)) = lower.split_once("__") else {
                fail(match self.key_meant(&lower) {
                    Some((section, key)) => {
                        format!("names no key; did you mean {}?", variable(section, key))
                    }
                    None => format!("names no key; variables are written {ENV_PREFIX}SECTION__KEY"),
                });
                continue;
            };
            let known = self.known.get_key_value(section);
            let Some((section, keys)) = known else {
                fail(self.unknown_section(section, &DeValue::Table(DeTable::new())));
                continue;
            };
            let Some(known_key) = keys.iter().find(|known| **known == key) else {
                fail(self.unknown_key(section, key));
                continue;
            };
            let bare = Raw::Text(value.to_owned());
            // A bare text such as `left` is no TOML value; `3`, `true`, `"left"` and `["a", "b"]` are.
            let raw = DeValue::parse(value).map_or_else(|_| bare.clone(), |v| Raw::of(v.get_ref()));
            let (section, known_key) = (*section, *known_key);
            self.entries.insert((section, known_key), Entry { raw, bare: Some(bare), origin });
        }
    }

    fn unknown_section(&self, name: &str, value: &DeValue<'_>) -> String {
        if !matches!(value, DeValue::Table(_)) {
            let home = self.known.iter().find(|(_, keys)| keys.contains(&name)).map(|(section, _)| *section);
            return match home {
                Some(section) => format!("stands before the first section; it belongs below [{section}]"),
                None => "is no section; every key stands below a [section]".to_owned(),
            };
        }
        match closest(name, self.known.keys().copied()) {
            Some(section) => format!("no such section; did you mean [{section}]?"),
            None => {
                let all: Vec<&str> = self.known.keys().copied().collect();
                format!("no such section; the sections are {}", all.join(", "))
            }
        }
    }

    fn unknown_key(&self, section: &str, key: &str) -> String {
        let keys = self.known.get(section).map(Vec::as_slice).unwrap_or_default();
        if let Some(near) = closest(key, keys.iter().copied()) {
            return format!("no such key; did you mean {section}.{near}?");
        }
        let elsewhere = self.known.iter().find(|(_, keys)| keys.contains(&key));
        match elsewhere {
            Some((home, _)) => format!("no such key; did you mean {home}.{key}?"),
            None => format!("no such key; the keys of [{section}] are {}", keys.join(", ")),
        }
    }
}

/// A file while its tables are read.
struct Page<'a> {
    path: &'a Arc<Path>,
    lines: &'a Lines,
    /// Lines that are not TOML, and so were not read as they were meant.
    broken: &'a HashSet<usize>,
    found: Vec<Fault>,
}

impl Page<'_> {
    fn line(&self, key: &Spanned<DeString<'_>>) -> usize {
        self.lines.at(key.span().start)
    }

    fn fault(&mut self, line: usize, key: String, sentence: String) {
        if !self.broken.contains(&line) {
            self.found.push(Fault::new(Origin::file(self.path, line), Some(key), sentence));
        }
    }
}

/// The variable that sets a key.
fn variable(section: &str, key: &str) -> String {
    format!("{ENV_PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase())
}

fn line_of(origin: &Origin) -> usize {
    match origin {
        Origin::File { line, .. } => *line,
        _ => 0,
    }
}

/// The parser's message on one line.
fn quote_message(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The text of a file, `None` if there is no such file, else the line and its fault.
fn read_text(path: &Path) -> Result<Option<String>, (usize, String)> {
    let fail = |sentence: String| Err((0, sentence));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return fail(format!("the file cannot be opened: {e}")),
    };
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return fail("is a folder, not a file".to_owned());
    }
    let mut bytes = Vec::new();
    if let Err(e) = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes) {
        return fail(format!("the file cannot be read: {e}"));
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return fail(format!("is longer than {MAX_FILE_BYTES} bytes, so it is not a configuration"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(without_mark(&text).to_owned())),
        Err(e) => {
            let valid = e.utf8_error().valid_up_to();
            let line = e.as_bytes().iter().take(valid).filter(|b| **b == b'\n').count() + 1;
            Err((line, "is not UTF-8 text; save the file as UTF-8".to_owned()))
        }
    }
}

/// Where the lines of a text begin.
#[derive(Debug)]
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    /// Line number from 1 of a byte.
    fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|newline| *newline < byte) + 1
    }
}
