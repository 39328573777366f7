//! A throwaway PostgreSQL server: real `initdb`, real certificates, on a free port and a socket of its own.
//!
//! The newest version under `/usr/lib/postgresql` is used, or the one that `JARVIS_TEST_PG_VERSION` names. As
//! root it runs as the system account `postgres`, because the server refuses root. Everything is stopped and
//! removed when the value is dropped, in a panic too. If the test process itself is killed, a small shell
//! that waits on a pipe does that.
//!
//! Two roles: `postgres`, the superuser of [`Postgres::query`], and the ordinary `jarvis`, which owns the
//! database `jarvis` and as which Jarvis connects.

#[path = "postgres/change.rs"]
mod change;
#[path = "postgres/making.rs"]
mod making;

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use making::{random_hex, version_of, write_secret};

/// Time limit of the server for anything, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(90);

/// The role and the database of Jarvis.
pub const ROLE: &str = "jarvis";

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// `fsync` of the server. On, as in a household; a test that does not crash the machine may say
    /// otherwise.
    pub fsync: bool,
    /// Certificates of a throwaway authority, and TLS offered (not demanded) on TCP.
    pub tls: bool,
    pub max_connections: u32,
    /// Further lines of `postgresql.conf`.
    pub conf: Vec<String>,
    /// A library that the server's processes load first (see `diskfull.c`).
    pub preload: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { fsync: true, tls: false, max_connections: 30, conf: Vec::new(), preload: None }
    }
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Connections are cut, open transactions rolled back, a checkpoint is written.
    Fast,
    /// `pg_ctl stop -m immediate`: no clean-up; the next start recovers from the WAL.
    Immediate,
    /// `kill -9` of the postmaster and of every process of it.
    Kill,
}

/// A certificate that the server may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// For `localhost` and `127.0.0.1`, by the authority of [`Postgres::ca_file`].
    Good,
    /// By that authority, for another host.
    OtherHost,
    /// By that authority, valid until a moment ago.
    Expired,
    /// For the right host, by an authority nobody knows.
    OtherAuthority,
}

/// A running (or stopped) server.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    server: Option<Child>,
    port: u16,
    password: String,
    options: Options,
    account: Option<Account>,
    guard: Child,
    /// Whether the database of Jarvis is there to connect to.
    has_database: AtomicBool,
    // Last: removed after the server is gone.
    dir: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Postgres {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let mut made = Self::empty(options, random_hex());
        let pwfile = made.dir.path().join("admin-password");
        write_secret(&pwfile, &made.password, made.account);
        made.must(
            made.tool("initdb")
                .args([
                    "-U",
                    "postgres",
                    "-A",
                    "scram-sha-256",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                ])
                .arg("--pwfile")
                .arg(&pwfile)
                .arg("-D")
                .arg(made.data()),
        );
        if made.options.tls {
            made.make_authority("ca");
            made.make_authority("stranger");
            made.install(Certificate::Good);
        }
        made.write_conf();
        made.boot();
        made.execute(&format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{}'", made.password));
        made.execute(&format!("CREATE DATABASE {ROLE} OWNER {ROLE}"));
        made.has_database.store(true, Relaxed);
        made
    }

    // ---- Addresses ----------------------------------------------------------------------------------------

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address over TCP, without the password.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same through a proxy on `port` of this machine.
    pub fn url_at(&self, port: u16) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{port}/{ROLE}")
    }

    /// Address with the password in it.
    pub fn url_with_password(&self) -> String {
        format!("postgres://{ROLE}:{}@127.0.0.1:{}/{ROLE}", self.password, self.port)
    }

    /// Folder of the unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Password of both roles.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// A file (0600, of the user who runs the tests) with the password of `jarvis`.
    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// The authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// An authority that signed none of the certificates shown as [`Certificate::Good`].
    pub fn other_ca_file(&self) -> PathBuf {
        self.dir.path().join("stranger.crt")
    }

    /// Major version of the server.
    pub fn version(&self) -> u32 {
        version_of(&self.bin)
    }

    // ---- Asking -------------------------------------------------------------------------------------------

    /// Rows of a statement as the superuser, who sees every row; NULL is the empty string.
    pub fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_query(sql).unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    pub fn try_query(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        self.psql("postgres", sql)
    }

    /// The same as the role `jarvis`, to which row-level security applies.
    pub fn try_query_as_jarvis(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        self.psql(ROLE, sql)
    }

    pub fn execute(&self, sql: &str) {
        self.query(sql);
    }

    /// The one value of a statement that has one.
    pub fn value(&self, sql: &str) -> String {
        let mut rows = self.query(sql);
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.remove(0).remove(0)
    }

    fn psql(&self, role: &str, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let database = if role == ROLE || self.has_database.load(Relaxed) { ROLE } else { "postgres" };
        let mut child = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-F", "\x1f", "-R", "\x1e", "-f", "-"])
            .args(["-U", role, "-d", database, "-p", &self.port.to_string(), "-h"])
            .arg(self.socket_dir())
            .env("PGPASSWORD", &self.password)
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let rows = text.split('\x1e').filter(|row| !row.is_empty());
        Ok(rows.map(|row| row.split('\x1f').map(str::to_owned).collect()).collect())
    }

    /// The server's log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    // ---- Life ---------------------------------------------------------------------------------------------

    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| matches!(server.try_wait(), Ok(None)))
    }

    pub fn stop(&mut self, how: Stop) {
        let Some(mut server) = self.server.take() else { return };
        let pid = Pid::from_child(&server);
        let children = children_of(server.id());
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
            Stop::Kill => Signal::KILL,
        };
        let _ = kill_process(pid, signal);
        if how == Stop::Kill {
            for child in &children {
                if let Some(pid) = i32::try_from(*child).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
        let deadline = Instant::now() + PATIENCE;
        while matches!(server.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = server.kill();
                let _ = server.wait();
                break;
            }
            sleep(Duration::from_millis(5));
        }
        // A backend that outlives the postmaster keeps the shared memory, and the next start would be
        // refused.
        while children.iter().any(|pid| is_postgres(*pid)) && Instant::now() < deadline {
            sleep(Duration::from_millis(5));
        }
    }

    /// Starts the stopped server on the same port with the same data.
    pub fn boot(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
            let mut command = self.tool("postgres");
            command.arg("-D").arg(self.data());
            if let Some(library) = &self.options.preload {
                command.env("LD_PRELOAD", library);
                command.env("JARVIS_DISKFULL", self.dir.path().join("disk-is-full"));
            }
            let mut server = command
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            while matches!(server.try_wait(), Ok(None)) {
                if self.is_ready() {
                    self.server = Some(server);
                    return;
                }
                assert!(Instant::now() < deadline, "Postgres did not become ready:\n{}", self.log());
                sleep(Duration::from_millis(20));
            }
            // A process of the previous server may take a moment longer to die.
            assert!(Instant::now() < deadline, "Postgres does not start:\n{}", self.log());
            sleep(Duration::from_millis(200));
        }
    }

    pub fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.boot();
    }

    fn is_ready(&self) -> bool {
        let asked = Command::new(self.bin.join("pg_isready"))
            .args(["-q", "-p", &self.port.to_string(), "-t", "2", "-h"])
            .arg(self.socket_dir())
            .status();
        asked.is_ok_and(|status| status.success())
    }

    fn reload(&self) {
        if let Some(server) = &self.server {
            kill_process(Pid::from_child(server), Signal::HUP).unwrap();
        }
    }

    /// Waits until a statement has this value.
    pub fn wait_for(&self, sql: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = self.value(sql);
        while last != wanted {
            assert!(Instant::now() < deadline, "{sql} stays {last:?}, not {wanted:?}");
            sleep(Duration::from_millis(20));
            last = self.value(sql);
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop(Stop::Immediate);
        // The end of its input tells the guard to finish as well.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let listed = fs::read_to_string(path).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_postgres(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "postgres")
}
