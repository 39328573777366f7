//! Runs rclone: passes data in and out, cancels it, and never lets it hang for ever.
//!
//! rclone gets no secret from this program: it reads its own configuration.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::backup::progress::Progress;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::backup::BackupError;
use crate::backup::cancel::Cancel;
use crate::backup::create::Run;
use crate::config::FilePath;
use crate::error::Exit;

/// Interval of the checks whether the run was cancelled or stalls.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 64 << 10;
/// Most bytes kept of a line of its output, and of its last words.
const MAX_LINE_BYTES: usize = 64 << 10;
const MAX_SAID_CHARS: usize = 500;
/// Exit codes for "there is no such folder" and "… file".
const NOTHING_THERE: [i32; 2] = [3, 4];

/// The result of a command that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Well,
    /// The file or folder to read or delete is missing.
    NothingThere,
}

/// The configured remote, and the settings needed to reach it.
#[derive(Debug)]
pub(super) struct Rclone<'a> {
    pub(super) remote: &'a str,
    config: Option<PathBuf>,
    /// Longest time without progress.
    stall: Duration,
    cancel: &'a Cancel,
    pub(super) progress: &'a Progress,
}

impl<'a> Rclone<'a> {
    /// # Errors
    /// `NoRemote` if none is configured, `Remote` if rclone's configuration file is missing.
    pub(super) fn of(run: &'a Run<'_>) -> Result<Self, BackupError> {
        let backup = &run.settings.backup;
        let remote = backup.remote.as_ref().ok_or(BackupError::NoRemote)?;
        let config = backup.rclone_config_file.as_ref().map(FilePath::to_be_shown).transpose();
        let config = config.map_err(|e| BackupError::Remote {
            remote: remote.0.clone(),
            detail: format!("backup.rclone_config_file: {e}"),
            exit: Exit::Config,
        })?;
        Ok(Self {
            remote: &remote.0,
            config: config.map(Path::to_owned),
            stall: Duration::from_secs(backup.remote_stall_s.into()),
            cancel: run.cancel,
            progress: run.progress,
        })
    }

    /// The place of `path` at the remote; the remote itself if `path` is empty.
    pub(super) fn at(&self, path: &str) -> String {
        match self.remote.strip_suffix('/').unwrap_or(self.remote) {
            all if path.is_empty() => all.to_owned(),
            root if root.ends_with(':') => format!("{root}{path}"),
            folder => format!("{folder}/{path}"),
        }
    }

    /// Runs one command to its end and passes its output to `sink`, whose failure ends it.
    ///
    /// # Errors
    /// `Remote` with its last words, or if it stalled; `Cancelled`; the error of `sink`.
    pub(super) async fn run<A: AsRef<OsStr>>(
        &self,
        args: &[A],
        mut sink: impl FnMut(&[u8]) -> Result<(), BackupError>,
    ) -> Result<Ended, BackupError> {
        self.cancel.check()?;
        let mut child = self.start(args)?;
        let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(self.failed("it cannot be heard"));
        };
        let (mut out, mut err) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
        let (mut out_open, mut err_open) = (true, true);
        let mut said = Said::default();
        let mut moved = Instant::now();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let status = loop {
            tokio::select! {
                _ = look.tick() => {
                    self.cancel.check()?;
                    if moved.elapsed() > self.stall {
                        let seconds = self.stall.as_secs();
                        return Err(self.failed(&format!(
                            "nothing happened for {seconds} s (backup.remote_stall_s): is the network or the \
                             server stuck?"
                        )));
                    }
                }
                n = stdout.read(&mut out), if out_open => {
                    let n = n.map_err(|e| self.failed(&e.to_string()))?;
                    out_open = n > 0;
                    sink(out.get(..n).unwrap_or_default())?;
                    moved = Instant::now();
                }
                n = stderr.read(&mut err), if err_open => {
                    let n = n.map_err(|e| self.failed(&e.to_string()))?;
                    err_open = n > 0;
                    if said.hear(err.get(..n).unwrap_or_default()) {
                        moved = Instant::now();
                        self.progress.reach(said.bytes);
                    }
                }
                status = child.wait(), if !out_open && !err_open => {
                    break status.map_err(|e| self.failed(&e.to_string()))?;
                }
            }
        };
        match status.code() {
            Some(0) => Ok(Ended::Well),
            Some(code) if NOTHING_THERE.contains(&code) => Ok(Ended::NothingThere),
            _ => Err(self.failed(&said.last().unwrap_or_else(|| format!("it ended with {status}")))),
        }
    }

    /// Runs a command that writes a text of at most `max` bytes; `None` if the file or folder is missing.
    pub(super) async fn text<A: AsRef<OsStr>>(
        &self,
        args: &[A],
        max: usize,
    ) -> Result<Option<Vec<u8>>, BackupError> {
        let mut text = Vec::new();
        let ended = self
            .run(args, |bytes| {
                text.extend_from_slice(bytes);
                if text.len() > max { Err(self.failed("what is there is too large")) } else { Ok(()) }
            })
            .await?;
        Ok((ended == Ended::Well).then_some(text))
    }

    /// Runs a command without output whose file or folder must exist.
    pub(super) async fn command<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<(), BackupError> {
        match self.run(args, |_| Ok(())).await? {
            Ended::Well => Ok(()),
            Ended::NothingThere => Err(self.failed("it is not there")),
        }
    }

    fn start<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<Child, BackupError> {
        let stall = format!("{}s", self.stall.as_secs());
        let mut command = Command::new("rclone");
        command
            .args(args)
            .args(["--use-json-log", "--ask-password=false", "--retries", "2", "--low-level-retries", "3"])
            .args([
                "--stats",
                "1s",
                "--stats-log-level",
                "NOTICE",
                "--contimeout",
                "30s",
                "--timeout",
                &stall,
            ]);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().map_err(|e| match e.kind() {
            ErrorKind::NotFound => BackupError::Remote {
                remote: self.remote.to_owned(),
                detail: "rclone is not installed: install the package rclone".to_owned(),
                exit: Exit::Config,
            },
            _ => self.failed(&format!("rclone did not start: {e}")),
        })
    }

    pub(super) fn failed(&self, detail: &str) -> BackupError {
        // The message names the missing section but not the configuration file.
        let unknown = detail.contains("didn't find section in config file");
        let detail = match (unknown, &self.config) {
            (false, _) => detail.to_owned(),
            (true, Some(config)) => format!(
                "the configuration of rclone in {} has no such remote: `rclone config --config {0}` adds one",
                config.display()
            ),
            (true, None) => {
                "rclone has no such remote: name its configuration in backup.rclone_config_file".to_owned()
            }
        };
        let exit = if unknown { Exit::Config } else { Exit::Unavailable };
        BackupError::Remote { remote: self.remote.to_owned(), detail, exit }
    }
}

/// Its standard error: one object of JSON per line, and the last words in plain text.
#[derive(Debug, Default)]
struct Said {
    line: Vec<u8>,
    error: Option<String>,
    plain: Option<String>,
    bytes: u64,
    done: u64,
}

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
    stats: Option<Stats>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stats {
    bytes: u64,
    checks: u64,
    deletes: u64,
    transfers: u64,
}

impl Said {
    /// Returns whether it made progress.
    fn hear(&mut self, bytes: &[u8]) -> bool {
        let mut moved = false;
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    moved |= self.take(&line);
                }
                byte if self.line.len() < MAX_LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
        moved
    }

    fn take(&mut self, line: &[u8]) -> bool {
        let Ok(Line { level, msg, stats }) = serde_json::from_slice(line) else {
            let text = String::from_utf8_lossy(line);
            // "2026/11/23 07:11:28 Failed to …"
            let text = text.trim_start_matches(|c: char| c.is_ascii_digit() || "/: ".contains(c)).trim();
            if !text.is_empty() {
                self.plain = Some(text.to_owned());
            }
            return false;
        };
        if let Some(Stats { bytes, checks, deletes, transfers }) = stats {
            let done = checks.saturating_add(deletes).saturating_add(transfers);
            let moved = (bytes, done) != (self.bytes, self.done);
            (self.bytes, self.done) = (bytes, done);
            return moved;
        }
        if matches!(level.as_str(), "error" | "critical" | "fatal") {
            self.error = Some(msg);
        }
        false
    }

    fn last(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        self.take(&line);
        let said = self.plain.take().or_else(|| self.error.take())?;
        let words: Vec<&str> = said.split_whitespace().collect();
        Some(words.join(" ").chars().take(MAX_SAID_CHARS).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_and_the_last_words_are_told_from_each_other() {
        let mut said = Said::default();
        let stats = |bytes: u64| {
            format!("{{\"level\":\"warning\",\"msg\":\"…\",\"stats\":{{\"bytes\":{bytes},\"eta\":null}}}}\n")
        };
        assert!(!said.hear(stats(0).as_bytes()), "a report of nothing is no progress");
        let text = stats(7);
        let (front, back) = text.split_at(9);
        assert!(!said.hear(front.as_bytes()));
        assert!(said.hear(back.as_bytes()));
        assert!(!said.hear(stats(7).as_bytes()));
        assert_eq!(said.last(), None);
        said.hear(b"{\"level\":\"error\",\"msg\":\"error listing: directory not found\"}\n");
        said.hear(b"2026/11/23 07:11:28 Failed to create file system: 401\n  Unauthorized");
        assert_eq!(said.last().as_deref(), Some("Unauthorized"));
        said.hear(b"{\"level\":\"error\",\"msg\":\"line\\nbreak\"}\n\xff\xfe{{{");
        assert!(said.last().is_some());
        said.hear(&vec![b'x'; 3 * MAX_LINE_BYTES]);
        assert_eq!(said.last().unwrap().len(), MAX_SAID_CHARS);
    }
}
