//! Finds `pg_dump` and `pg_restore`, and passes their password.
//!
//! The password is passed in a file that exists only in memory and that the child inherits: it is in no
//! argument, no environment and on no disk.

use std::fs::File;
use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};

use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
use tokio::process::{Child, Command};

use super::BackupError;
use super::cancel::Cancel;
use crate::store::postgres::PgSettings;

/// Bytes kept of a program's standard error.
const MAX_SAID_BYTES: u64 = 4096;

/// A program of Postgres found on this machine.
#[derive(Debug, Clone)]
pub(super) struct Tool {
    path: PathBuf,
    /// The version as the program prints it.
    pub(super) version: String,
    pub(super) major: u32,
}

impl Tool {
    /// Finds the program of this name with at least version `major`: the one of the search path, or of a
    /// versioned folder of Debian.
    pub(super) fn find(name: &'static str, major: u32) -> Result<Self, BackupError> {
        let mut places = vec![PathBuf::from(name)];
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        places.extend(versions.map(|version| version.path().join("bin").join(name)));
        let mut found: Vec<Self> = places.into_iter().filter_map(|path| Self::ask(path, name)).collect();
        found.sort_by_key(|tool| tool.major);
        let newest = found.last().map(|tool| tool.version.clone());
        // The first that is new enough.
        found.into_iter().find(|tool| tool.major >= major).ok_or_else(|| {
            BackupError::Refused(match newest {
                None => format!("{name} is not installed: install postgresql-client-{major} or newer"),
                Some(newest) => format!(
                    "{newest} cannot serve a Postgres of version {major}: install postgresql-client-{major} \
                     or newer"
                ),
            })
        })
    }

    fn ask(path: PathBuf, name: &str) -> Option<Self> {
        let mut asking = std::process::Command::new(&path);
        let output = asking.arg("--version").stdin(Stdio::null()).output().ok()?;
        let version = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        // "pg_dump (PostgreSQL) 15.10 (Debian 15.10-0+deb12u1)"
        let number = version.split_whitespace().nth(2).filter(|_| version.starts_with(name))?;
        let major = number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        Some(Self { path, version, major })
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // The programs get only the values made from the address and from these variables, and read none
        // themselves.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
        command
    }
}

/// The credentials for a program: variables, and the password in memory.
#[derive(Debug)]
pub(super) struct PgAccess {
    env: Vec<(&'static str, String)>,
    password: Option<OwnedFd>,
}

impl PgAccess {
    pub(super) fn to(settings: &PgSettings, schema_version: i64) -> Result<Self, BackupError> {
        let shown = &settings.shown;
        let env = settings.client_env(schema_version).map_err(|e| BackupError::postgres(&e, shown))?;
        let password = settings.password().map_err(|e| BackupError::postgres(&e, shown))?;
        let keep = || {
            let Some(password) = password else { return Ok(None) };
            // Not closed when a program is started, so that the child inherits it.
            let memory = memfd_create(c"pgpass", MemfdFlags::empty())?;
            fchmod(&memory, Mode::RUSR | Mode::WUSR)?;
            let mut file = File::from(memory);
            let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
            file.write_all(format!("*:*:*:*:{escaped}\n").as_bytes())?;
            Ok::<_, std::io::Error>(Some(OwnedFd::from(file)))
        };
        let kept =
            keep().map_err(BackupError::disk("the password could not be passed on", Path::new("memory")))?;
        Ok(Self { env, password: kept })
    }

    pub(super) fn apply(&self, command: &mut Command) {
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(password) = &self.password {
            command.env("PGPASSFILE", format!("/proc/self/fd/{}", password.as_raw_fd()));
        }
    }
}

/// A running program whose standard error is kept. Dropping the value kills it.
pub(super) struct Running {
    child: Child,
    name: String,
    said: File,
}

impl Running {
    pub(super) fn start(mut command: Command) -> Result<Self, BackupError> {
        let name = Path::new(command.as_std().get_program()).file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let mut start = || {
            let said = File::from(memfd_create(c"stderr", MemfdFlags::CLOEXEC)?);
            let child = command.stderr(said.try_clone()?).kill_on_drop(true).spawn()?;
            Ok::<_, std::io::Error>((said, child))
        };
        let (said, child) =
            start().map_err(BackupError::disk("a program could not be started", Path::new(&name)))?;
        Ok(Self { child, name, said })
    }

    /// Waits for `work` on the pipes of the program, then for the end of the program. A cancelled run kills
    /// the program, and so does a failure of `work`: otherwise it would wait for a reader.
    ///
    /// # Errors
    /// Those of `work`; `Tool` with the last words of the program, unless it succeeded.
    pub(super) async fn with<T>(
        mut self,
        cancel: &Cancel,
        work: impl Future<Output = Result<T, BackupError>>,
    ) -> (Result<T, BackupError>, Result<(), BackupError>) {
        let mut work = pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = cancel.asked() => {
                let _ = self.child.start_kill();
                work.await
            }
        };
        if done.is_err() {
            let _ = self.child.start_kill();
        }
        let ended = tokio::select! {
            ended = self.child.wait() => ended,
            () = cancel.asked() => {
                let _ = self.child.start_kill();
                self.child.wait().await
            }
        };
        (done, self.judge(ended))
    }

    fn judge(mut self, ended: std::io::Result<ExitStatus>) -> Result<(), BackupError> {
        let failed = |detail: String| BackupError::Tool { program: self.name.clone(), detail };
        let status = ended.map_err(|e| failed(e.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let mut said = String::new();
        let read =
            self.said.rewind().and_then(|()| (&self.said).take(MAX_SAID_BYTES).read_to_string(&mut said));
        let words: Vec<&str> = said.split_whitespace().collect();
        Err(failed(match read {
            Ok(_) if !words.is_empty() => words.join(" "),
            _ => format!("it ended with {status}"),
        }))
    }
}

/// A pipe between us and the program `name`.
pub(super) fn pipe(name: &str) -> Result<(PipeReader, PipeWriter), BackupError> {
    std::io::pipe().map_err(BackupError::disk("a program could not be started", Path::new(name)))
}

/// A piece of the script that `pg_restore` makes of a dump.
#[derive(Debug)]
pub(super) enum Piece {
    /// Statements.
    Sql(String),
    /// `COPY table (columns) FROM stdin`, whose rows follow.
    Copy { table: String, statement: String },
    /// Whole rows, each with its line break.
    Rows { bytes: Vec<u8>, rows: u64 },
    /// The rows of a table end.
    CopyEnd,
}

/// Splits the script into pieces. Commands of psql in it are refused, except the two with which newer
/// versions of `pg_restore` guard a script. So a shell never runs any part of a dump.
pub(super) fn split(
    script: impl Read,
    mut take: impl FnMut(Piece) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    const PIECE_BYTES: usize = 256 << 10;
    let bad =
        |detail: &str| BackupError::Tool { program: "pg_restore".to_owned(), detail: detail.to_owned() };
    let mut script = BufReader::with_capacity(PIECE_BYTES, script);
    let (mut sql, mut rows, mut count, mut in_copy) = (String::new(), Vec::new(), 0_u64, false);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = script.read_until(b'\n', &mut line).map_err(|e| bad(&e.to_string()))?;
        if in_copy {
            let end = line == b"\\.\n";
            if n == 0 {
                return Err(bad("it ended in the middle of a table"));
            }
            if !end {
                rows.extend_from_slice(&line);
                count += 1;
            }
            if (end && count > 0) || rows.len() >= PIECE_BYTES {
                take(Piece::Rows { bytes: std::mem::take(&mut rows), rows: std::mem::take(&mut count) })?;
            }
            if end {
                take(Piece::CopyEnd)?;
                in_copy = false;
            }
            continue;
        }
        if n == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|_| bad("what it wrote is not UTF-8"))?;
        if text.starts_with("\\restrict ") || text.starts_with("\\unrestrict ") || text.starts_with("--") {
            continue;
        }
        if text.starts_with('\\') {
            return Err(bad("the dump holds a command for psql, which no dump of Jarvis does"));
        }
        let copied = text.strip_prefix("COPY ").filter(|rest| rest.trim_end().ends_with(" FROM stdin;"));
        match copied {
            None => sql.push_str(text),
            Some(rest) => {
                if !sql.trim().is_empty() {
                    take(Piece::Sql(std::mem::take(&mut sql)))?;
                }
                let table = rest.split(' ').next().unwrap_or_default().to_owned();
                take(Piece::Copy { table, statement: text.trim_end().trim_end_matches(';').to_owned() })?;
                in_copy = true;
            }
        }
    }
    if sql.trim().is_empty() { Ok(()) } else { take(Piece::Sql(sql)) }
}
