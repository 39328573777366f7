//! Results on standard output: lines, tables, JSON. A reader that went away (`| head`) is no failure.

use std::io::{ErrorKind, Write};
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::durable;
use crate::error::{Exit, Failure, visible};
use crate::privilege;

/// The arguments of a command that takes no other.
#[derive(Debug, clap::Args)]
pub struct Json {
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints one or several lines of text. Characters that could drive a terminal are escaped.
pub fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", visible(text.as_ref())).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::because(Exit::Failed, "the result could not be written to standard output", e))
        }
        _ => Ok(()),
    }
}

/// One value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    line(to_json(value)?)
}

/// A value as JSON into a file, or to standard output without one. A file is not overwritten.
pub fn json_to(file: Option<&Path>, value: &impl Serialize) -> Result<(), Failure> {
    match file {
        None => json(value),
        Some(path) => text_to(path, &format!("{}\n", to_json(value)?)),
    }
}

/// Text into a file, which is not overwritten.
pub fn text_to(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        // These are a person's words: not for every account of the machine.
        let mut file = durable::create_file(path)?;
        privilege::hand_over(&file)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        durable::sync_name(path)
    };
    write().map_err(|e| {
        let message = format!("{} could not be written; name a file that does not exist yet", path.display());
        Failure::because(Exit::Failed, message, e)
    })
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    crate::plain::json_indented(value)
        .map_err(|e| Failure::because(Exit::Failed, "the result could not be written as JSON", e))
}

/// Rows under a heading, columns aligned. Cells may hold people's words: control characters are escaped.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.clone().map(|cell| plain(&cell))).collect();
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        line(padded.join("  ").trim_end())
    };
    show(heading.to_vec())?;
    rows.iter().try_for_each(|row| show(row.iter().map(String::as_str).collect()))
}

/// Text on one line, without anything that drives a terminal.
pub fn plain(text: &str) -> String {
    crate::plain::visible_line(text)
}

/// A time in local form, to the minute.
pub fn time(unix_ms: i64) -> String {
    match Timestamp::from_millisecond(unix_ms) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// `text` as one word of a shell.
pub fn shell_word(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_./:@%+=,-".contains(c);
    if !text.is_empty() && text.chars().all(safe) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb c");
    }
}
