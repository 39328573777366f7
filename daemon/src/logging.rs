//! Log lines go to the systemd journal when standard error is connected to it, and otherwise to standard
//! error as plain lines.
//!
//! `JARVIS_LOG` (else `RUST_LOG`) selects the records: `debug`, or `info,jarvisd::mqtt=debug,rumqttc=off`.
//! The message holds all that a person needs; key-values become fields of the journal and `key=value` at the
//! end of a plain line.

use std::io::Write;

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

use crate::clock::Clock;
use crate::plain::{drives_a_terminal, visible};

/// Libraries that say more at `info` than an owner wants to read.
const QUIET: [(&str, LevelFilter); 5] = [
    ("rumqttc", LevelFilter::Warn),
    ("rustls", LevelFilter::Warn),
    ("sqlx", LevelFilter::Warn),
    ("symphonia", LevelFilter::Warn),
    // tract warns of every model whose operator set is newer than those it was tested with; ours are tested
    // here.
    ("tract", LevelFilter::Error),
];

/// Selects the records to log: the longest matching target prefix decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    default: LevelFilter,
    /// Sorted by length of the prefix, the longest first.
    rules: Vec<(String, LevelFilter)>,
}

impl Filter {
    /// Reads `level` and `target=level` parts separated by commas. Parts that cannot be read are handed back.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let mut default = LevelFilter::Info;
        let mut rules: Vec<(String, LevelFilter)> =
            QUIET.iter().map(|(target, level)| ((*target).to_owned(), *level)).collect();
        let mut unread = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=') {
                None => match part.parse() {
                    Ok(level) => default = level,
                    Err(_) => unread.push(part.to_owned()),
                },
                Some((target, level)) => match level.trim().parse() {
                    Ok(level) => {
                        let target = target.trim();
                        rules.retain(|(known, _)| known != target);
                        rules.push((target.to_owned(), level));
                    }
                    Err(_) => unread.push(part.to_owned()),
                },
            }
        }
        rules.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        (Self { default, rules }, unread)
    }

    /// Most that any target may log; lets the `log` macros skip the rest cheaply.
    fn most(&self) -> LevelFilter {
        self.rules.iter().map(|(_, level)| *level).fold(self.default, Ord::max)
    }

    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let level = self
            .rules
            .iter()
            .find(|(prefix, _)| {
                // `tract` covers `tract_core` and `tract::x`, but `sqlx` must not cover a module called
                // `sqlxyz`.
                target
                    .strip_prefix(prefix.as_str())
                    .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b':' | b'_')))
            })
            .map_or(self.default, |(_, level)| *level);
        metadata.level() <= level
    }
}

enum Sink {
    Journal(systemd_journal_logger::JournalLog),
    Stderr,
}

struct Logger {
    filter: Filter,
    sink: Sink,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.allows(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.allows(record.metadata()) {
            return;
        }
        match &self.sink {
            Sink::Journal(journal) => {
                let message = visible(&record.args().to_string());
                let mut visible = record.to_builder();
                journal.log(&visible.args(format_args!("{message}")).build());
            }
            Sink::Stderr => {
                let line = plain_line(record, Clock::System.now_unix_ms());
                // One write a line, so that threads do not mix; a closed standard error is no fault.
                let _ = std::io::stderr().lock().write_all(line.as_bytes());
            }
        }
    }

    fn flush(&self) {
        if let Sink::Stderr = self.sink {
            let _ = std::io::stderr().lock().flush();
        }
    }
}

/// `2026-01-31T12:00:00.123Z WARN  jarvisd::mqtt: message key=value`
fn plain_line(record: &Record<'_>, unix_ms: i64) -> String {
    struct Pairs(String);
    impl<'kvs> VisitSource<'kvs> for Pairs {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            self.0.push_str(&format!(" {key}={value}"));
            Ok(())
        }
    }
    let mut pairs = Pairs(String::new());
    // Only our own visitor could fail, and it does not.
    let _ = record.key_values().visit(&mut pairs);
    let time = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or_default();
    let text = format!("{time:.3} {:5} {}: {}{}", record.level(), record.target(), record.args(), pairs.0);
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\n    "),
            // Text from outside (a broker, a device name) must not drive the terminal.
            c if drives_a_terminal(c) => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

/// Installs the logger of this process. A second call changes nothing, so tests may call it.
pub fn init() {
    let (name, text) = ["JARVIS_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().map(|text| (name, text)))
        .unwrap_or(("JARVIS_LOG", String::new()));
    let (filter, unread) = Filter::parse(&text);
    let most = filter.most();
    let (sink, journal_error) = if systemd_journal_logger::connected_to_journal() {
        match systemd_journal_logger::JournalLog::empty() {
            Ok(journal) => (Sink::Journal(journal.with_syslog_identifier("jarvisd".to_owned())), None),
            Err(error) => (Sink::Stderr, Some(error)),
        }
    } else {
        (Sink::Stderr, None)
    };
    if log::set_boxed_logger(Box::new(Logger { filter, sink })).is_err() {
        return;
    }
    log::set_max_level(most);
    if let Some(error) = journal_error {
        log::warn!("cannot reach the journal, so log lines go to standard error: {error}");
    }
    if !unread.is_empty() {
        log::warn!(
            "{name} has parts that are neither a level nor target=level and are ignored: {}; levels are off, \
             error, warn, info, debug, trace",
            unread.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn allows(filter: &Filter, target: &str, level: Level) -> bool {
        filter.allows(&Metadata::builder().target(target).level(level).build())
    }

    #[test]
    fn the_longest_matching_target_decides() {
        let (filter, unread) = Filter::parse("warn, jarvisd=info,jarvisd::mqtt=trace,tract=off");
        assert!(unread.is_empty());
        assert!(allows(&filter, "jarvisd::audio", Level::Info));
        assert!(!allows(&filter, "jarvisd::audio", Level::Debug));
        assert!(allows(&filter, "jarvisd::mqtt::session", Level::Trace));
        assert!(!allows(&filter, "other", Level::Info));
        assert!(!allows(&filter, "tract_core::plan", Level::Error));
        assert!(allows(&filter, "tractor", Level::Warn), "a target that only begins alike");
    }

    #[test]
    fn without_a_setting_the_libraries_are_quiet() {
        let (filter, _) = Filter::parse("");
        assert!(allows(&filter, "jarvisd::daemon", Level::Info));
        assert!(!allows(&filter, "rumqttc::v5::state", Level::Info));
        assert!(allows(&filter, "rumqttc::v5::state", Level::Warn));
        assert_eq!(filter.most(), LevelFilter::Info);
    }

    #[test]
    fn what_cannot_be_read_is_handed_back() {
        let (filter, unread) = Filter::parse("loud,jarvisd=debug,a=b");
        assert_eq!(unread, ["loud", "a=b"]);
        assert!(allows(&filter, "jarvisd", Level::Debug));
    }

    #[test]
    fn a_plain_line_has_time_level_target_message_and_pairs_and_is_safe_to_print() {
        let pairs: &[(&str, &str)] = &[("user", "anna"), ("n", "3")];
        let line = plain_line(
            &Record::builder()
                .args(format_args!("two\nlines \x1b[31m"))
                .level(Level::Warn)
                .target("jarvisd::x")
                .key_values(&pairs)
                .build(),
            1_700_000_000_123,
        );
        assert_eq!(
            line,
            "2023-11-14T22:13:20.123Z WARN  jarvisd::x: two\n    lines \\u{1b}[31m user=anna n=3\n"
        );
    }
}
