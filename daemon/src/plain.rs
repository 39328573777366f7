//! Text and numbers as they leave the program: nothing in them drives a terminal, and a figure is a figure.
//!
//! Stored words, names, file contents and answers of other machines are foreign text. Every line on standard
//! output and standard error, every line of the journal and every JSON document goes through here.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// Whether a terminal could take `c` for an order, or show the text behind it in another order. C1 controls
/// count: some terminals obey them.
pub fn drives_a_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text without anything that drives a terminal; line breaks stay.
pub fn visible(text: &str) -> String {
    let shown = |c: char| {
        if drives_a_terminal(c) && c != '\n' { c.escape_default().to_string() } else { c.to_string() }
    };
    text.chars().map(shown).collect()
}

/// As [`visible`], on one line.
pub fn visible_line(text: &str) -> String {
    visible(text).replace('\n', " ")
}

/// Text as it was meant: editors of Windows put a byte order mark in front of a file.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The password in the text of a file: its first line.
///
/// # Errors
/// The fault, completing "the file …".
pub fn password(text: &str) -> Result<&str, &'static str> {
    match first_line(text) {
        "" => Err("has no password on its first line"),
        line if has_control(line) => Err(
            "holds a control character on its first line, so it is not a password; write it as plain text",
        ),
        line => Ok(line),
    }
}

/// Whether `text` holds a character that no keyboard types into a password. A tab can be typed.
pub fn has_control(text: &str) -> bool {
    text.contains(|c: char| c.is_control() && c != '\t')
}

/// The secret in the text of a file: its first line, without the line break. Blanks belong to it.
pub fn first_line(text: &str) -> &str {
    without_mark(text).lines().next().unwrap_or_default()
}

/// A number with so many digits behind the point: never a negative zero, and "unknown" for NaN and infinity.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    value: f64,
    digits: usize,
}

pub fn figure(value: impl Into<f64>, digits: usize) -> Figure {
    Figure { value: value.into(), digits }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.value.is_finite() {
            return f.write_str("unknown");
        }
        let text = format!("{:.*}", self.digits, self.value);
        let zero = text.strip_prefix('-').filter(|rest| rest.bytes().all(|b| matches!(b, b'0' | b'.')));
        f.write_str(zero.unwrap_or(&text))
    }
}

/// A value as JSON on one line. Characters that drive a terminal are escaped, zero has no sign, NaN is null.
///
/// # Errors
/// As [`serde_json::to_string`].
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut out = Vec::new();
    json_to(&mut out, value)?;
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

/// [`json`] to a writer.
///
/// # Errors
/// As [`serde_json::to_writer`].
pub fn json_to(to: impl Write, value: &impl Serialize) -> serde_json::Result<()> {
    value.serialize(&mut Serializer::with_formatter(to, Plain(CompactFormatter)))
}

/// As [`json`], indented.
///
/// # Errors
/// As [`serde_json::to_string_pretty`].
pub fn json_indented(value: &impl Serialize) -> serde_json::Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, Plain(PrettyFormatter::new())))?;
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

struct Plain<F>(F);

macro_rules! as_inner {
    ($($name:ident($($arg:ident: $kind:ty),*);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, to: &mut W $(, $arg: $kind)*) -> io::Result<()> {
            self.0.$name(to $(, $arg)*)
        })*
    };
}

impl<F: Formatter> Formatter for Plain<F> {
    as_inner! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_f32<W: ?Sized + Write>(&mut self, to: &mut W, value: f32) -> io::Result<()> {
        self.0.write_f32(to, if value == 0.0 { 0.0 } else { value })
    }

    fn write_f64<W: ?Sized + Write>(&mut self, to: &mut W, value: f64) -> io::Result<()> {
        self.0.write_f64(to, if value == 0.0 { 0.0 } else { value })
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, to: &mut W, text: &str) -> io::Result<()> {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| drives_a_terminal(*c)) {
            self.0.write_string_fragment(to, rest.get(..at).unwrap_or_default())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(to, "\\u{unit:04x}")?;
            }
            rest = rest.get(at + c.len_utf8()..).unwrap_or_default();
        }
        self.0.write_string_fragment(to, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = "a\u{1b}[31m\u{9b}2J\u{7f}\u{202e}b\u{feff}é🙂\n\"";

    #[test]
    fn what_drives_a_terminal_is_written_out() {
        assert_eq!(visible(ODD), "a\\u{1b}[31m\\u{9b}2J\\u{7f}\\u{202e}b\\u{feff}é🙂\n\"");
        assert_eq!(visible_line("a\r\nb"), "a\\r b");
        // Characters that join letters and emoji are left alone.
        assert_eq!(visible("علی\u{200c}رضا 👩\u{200d}👧"), "علی\u{200c}رضا 👩\u{200d}👧");
    }

    #[test]
    fn json_says_the_same_without_driving_anything() {
        let text = json(&ODD).unwrap();
        assert!(!text.chars().any(drives_a_terminal), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), ODD);
        assert_eq!(json_indented(&[1, 2]).unwrap(), serde_json::to_string_pretty(&[1, 2]).unwrap());
        let indented = json_indented(&serde_json::json!({ ODD: [{}, [], null, -0.0, -0.5] })).unwrap();
        assert!(
            indented.contains(" 0.0") && indented.contains("-0.5") && !indented.contains("-0.0"),
            "{indented}"
        );
        assert_eq!(json(&[-0.0_f32, f32::NAN]).unwrap(), "[0.0,null]");
    }

    #[test]
    fn a_figure_has_no_negative_zero() {
        let shown: Vec<String> =
            [-0.0, -0.04, -0.06, 0.0, 2.25].iter().map(|v: &f64| figure(*v, 1).to_string()).collect();
        assert_eq!(shown, ["0.0", "0.0", "-0.1", "0.0", "2.2"]);
        assert_eq!(figure(-0.3_f32, 0).to_string(), "0");
        assert_eq!(figure(f32::NAN, 1).to_string(), "unknown");
    }
}
