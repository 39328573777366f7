//! A throwaway PostgreSQL server: real `initdb`, real certificates, on a free port and a socket of its own.
//!
//! The newest version under `/usr/lib/postgresql` is used, or the one that `JARVIS_TEST_PG_VERSION` names. As root it
//! runs as the system account `postgres`, because the server refuses root. Everything is stopped and removed when the
//! value is dropped, in a panic too; should the test process itself be killed, a small shell that waits on a pipe
//! does it.
//!
//! Two roles: `postgres`, the superuser of [`Postgres::query`], and the ordinary `jarvis`, which owns the database
//! `jarvis` and is what Jarvis connects as.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long the server may take for anything, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(90);

/// The role and the database of Jarvis.
pub const ROLE: &str = "jarvis";

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// `fsync` of the server. On, as in a household; a test that does not crash the machine may say otherwise.
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

    /// The folder, the port, the account; nothing in them yet.
    fn empty(options: Options, password: String) -> Self {
        let bin = binaries();
        let dir = tempfile::tempdir().unwrap();
        // The server's account must reach its folder below this one.
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let account = rustix::process::geteuid().is_root().then(|| account_of("postgres"));
        for (name, mode) in [("data", 0o700), ("sock", 0o755)] {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
            give(&folder, account);
        }
        let guard = guard(dir.path());
        let (port, has_database) = (free_port(), AtomicBool::new(false));
        let made = Self { bin, server: None, port, password, options, account, guard, has_database, dir };
        write_secret(&made.password_file(), &made.password, None);
        made
    }

    // ---- Addresses ---------------------------------------------------------------------------------------------

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

    /// A file (0600, of whoever runs the tests) with the password of `jarvis`.
    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// The authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// An authority that signed nothing which this server shows as [`Certificate::Good`].
    pub fn other_ca_file(&self) -> PathBuf {
        self.dir.path().join("stranger.crt")
    }

    /// Major version of the server.
    pub fn version(&self) -> u32 {
        version_of(&self.bin)
    }

    // ---- Asking ------------------------------------------------------------------------------------------------

    /// Rows of a statement as the superuser, who sees every row; NULL is the empty string.
    pub fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_query(sql).unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    pub fn try_query(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        self.psql("postgres", sql)
    }

    /// The same as the role `jarvis`, who is held by row-level security.
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

    /// What the server has written to its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    // ---- Settings ----------------------------------------------------------------------------------------------

    /// Changes a setting of the running server; those that need a restart have to be followed by one.
    pub fn set(&self, name: &str, value: &str) {
        self.execute(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        self.reload();
    }

    pub fn reset(&self, name: &str) {
        self.execute(&format!("ALTER SYSTEM RESET {name}"));
        self.reload();
    }

    /// Every new transaction is read-only, as on a server that is being moved.
    pub fn read_only(&self, on: bool) {
        if on {
            self.set("default_transaction_read_only", "on");
        } else {
            // Such a server refuses this very statement in a transaction of the default kind.
            self.execute(
                "SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only",
            );
            self.reload();
        }
        let wanted = if on { "on" } else { "off" };
        self.wait_for("SHOW default_transaction_read_only", wanted);
    }

    /// Replaces `pg_hba.conf`. The first line is always the superuser's own, through the socket.
    pub fn set_hba(&self, lines: &str) {
        fs::write(self.data().join("pg_hba.conf"), hba(lines)).unwrap();
        self.reload();
    }

    /// The password that the server knows; Jarvis's file keeps the old one.
    pub fn set_password(&self, password: &str) {
        self.execute(&format!("ALTER ROLE {ROLE} PASSWORD '{password}'"));
    }

    /// Shows another certificate from the next connection on.
    pub fn show(&self, certificate: Certificate) {
        self.install(certificate);
        self.reload();
        // The postmaster reads it when it handles the signal; what comes later meets the new one.
        sleep(Duration::from_millis(300));
    }

    /// Certificate and key (of whoever runs the tests) by which the server knows the role `name`.
    pub fn client_certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let stem = format!("client-{name}");
        self.sign(&stem, "ca", &format!("/CN={name}"), "extendedKeyUsage=clientAuth", "30");
        let path = |ending| self.dir.path().join(format!("{stem}.{ending}"));
        (path("crt"), path("key"))
    }

    /// Cuts every connection of `jarvis`. Returns how many there were.
    pub fn cut_connections(&self) -> usize {
        self.query(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
        ))
        .len()
    }

    /// Throws the database away and makes an empty one in its place.
    pub fn lose_database(&self) {
        self.has_database.store(false, Relaxed);
        self.execute(&format!("DROP DATABASE {ROLE} WITH (FORCE)"));
        self.execute(&format!("CREATE DATABASE {ROLE} OWNER {ROLE}"));
        self.has_database.store(true, Relaxed);
    }

    // ---- Life --------------------------------------------------------------------------------------------------

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
        // A backend that outlives the postmaster keeps the shared memory, and the next start would be refused.
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
            // A process of the server before may take a moment longer to die.
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

    // ---- A second server with the same data --------------------------------------------------------------------

    /// A hot standby of this server, read-only until [`Postgres::promote`]. From here on this server answers a COMMIT
    /// only after the standby has it, so that a failover loses nothing which was answered.
    pub fn standby(&self) -> Self {
        let mut other = Self::empty(self.options.clone(), self.password.clone());
        other.must(
            other
                .tool("pg_basebackup")
                .args([
                    "-U",
                    "postgres",
                    "-p",
                    &self.port.to_string(),
                    "-X",
                    "stream",
                    "-c",
                    "fast",
                    "-R",
                    "-h",
                ])
                .arg(self.socket_dir())
                .arg("-D")
                .arg(other.data())
                .env("PGPASSWORD", &self.password),
        );
        if self.options.tls {
            for file in ["ca.crt", "ca.key", "stranger.crt", "stranger.key"] {
                fs::copy(self.dir.path().join(file), other.dir.path().join(file)).unwrap();
            }
            other.install(Certificate::Good);
        }
        other.write_conf();
        other.has_database.store(true, Relaxed);
        other.boot();
        self.set("synchronous_standby_names", "*");
        self.wait_for("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
        other
    }

    /// Makes a standby the server that takes writes.
    pub fn promote(&self) {
        assert_eq!(self.value("SELECT pg_promote(true, 60)"), "t");
        self.set("synchronous_standby_names", "");
        self.wait_for("SELECT pg_is_in_recovery()", "f");
    }

    /// With `diskfull.c` preloaded: from now on no file of a table can grow, or it can again.
    pub fn disk_full(&self, full: bool) {
        assert!(self.options.preload.is_some(), "start it with diskfull.c preloaded");
        let flag = self.dir.path().join("disk-is-full");
        if full {
            fs::write(flag, "").unwrap();
        } else {
            fs::remove_file(flag).unwrap();
        }
    }

    // ---- Making it ---------------------------------------------------------------------------------------------

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A program of the server, run as its account.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(self.dir.path()).env("LC_ALL", "C.UTF-8").env_remove("PGPASSWORD");
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn must(&self, command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", said(&output));
    }

    fn write_conf(&self) {
        let Options { fsync, tls, max_connections, conf, .. } = &self.options;
        let on = |yes: &bool| if *yes { "on" } else { "off" };
        let text = format!(
            "listen_addresses = '127.0.0.1'\n\
             port = {port}\n\
             unix_socket_directories = '{socket}'\n\
             max_connections = {max_connections}\n\
             fsync = {fsync}\n\
             ssl = {ssl}\n\
             ssl_cert_file = 'server.crt'\n\
             ssl_key_file = 'server.key'\n\
             ssl_ca_file = '{ca}'\n\
             shared_buffers = 32MB\n\
             # What a killed server leaves behind stays in its own folder.\n\
             dynamic_shared_memory_type = mmap\n\
             logging_collector = off\n\
             log_line_prefix = '%m [%p] %u '\n\
             timezone = 'UTC'\n\
             {more}\n",
            port = self.port,
            socket = self.socket_dir().display(),
            fsync = on(fsync),
            ssl = on(tls),
            ca = if *tls { self.ca_file().display().to_string() } else { String::new() },
            more = conf.join("\n"),
        );
        self.put("postgresql.conf", &text);
        let everyone = "local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n\
            local replication postgres scram-sha-256\n";
        self.put("pg_hba.conf", &hba(everyone));
    }

    /// Writes a file of the data folder as the server's account.
    fn put(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        give(&path, self.account);
    }

    fn install(&self, certificate: Certificate) {
        let (name, authority, host, days) = match certificate {
            Certificate::Good => ("good", "ca", "DNS:localhost,IP:127.0.0.1", "30"),
            Certificate::OtherHost => ("other-host", "ca", "DNS:somewhere.else.example", "30"),
            // Valid for no time at all from the moment it is made.
            Certificate::Expired => ("expired", "ca", "DNS:localhost,IP:127.0.0.1", "0"),
            Certificate::OtherAuthority => ("other-ca", "stranger", "DNS:localhost,IP:127.0.0.1", "30"),
        };
        let usage = format!("subjectAltName={host}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE");
        self.sign(name, authority, "/CN=postgres", &usage, days);
        if days == "0" {
            sleep(Duration::from_secs(2));
        }
        for (from, to) in [("crt", "server.crt"), ("key", "server.key")] {
            let to = self.data().join(to);
            fs::copy(self.dir.path().join(format!("{name}.{from}")), &to).unwrap();
            fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
            give(&to, self.account);
        }
    }

    fn make_authority(&self, name: &str) {
        self.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.crt"),
            "-subj",
            &format!("/CN=Jarvis test {name}"),
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign",
        ]);
    }

    fn sign(&self, name: &str, authority: &str, subject: &str, extensions: &str, days: &str) {
        let file = |ending: &str| format!("{name}.{ending}");
        self.openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            &file("key"),
            "-out",
            &file("csr"),
            "-subj",
            subject,
        ]);
        fs::write(self.dir.path().join(file("ext")), extensions).unwrap();
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            &format!("{authority}.crt"),
            "-CAkey",
            &format!("{authority}.key"),
            "-CAcreateserial",
            "-days",
            days,
            "-out",
            &file("crt"),
            "-extfile",
            &file("ext"),
        ]);
    }

    fn openssl(&self, args: &[&str]) {
        self.must(Command::new("openssl").args(args).current_dir(self.dir.path()));
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

/// Removes server and folder when the test process ends without having done it, however it ends.
fn guard(dir: &Path) -> Child {
    Command::new("/bin/sh")
        .args(["-c", "read _; p=$(head -n 1 \"$0/data/postmaster.pid\" 2>/dev/null) && kill -QUIT \"$p\" && sleep 1; rm -rf \"$0\""])
        .arg(dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The superuser may always come in through the socket, whatever a test allows others.
fn hba(lines: &str) -> String {
    format!("local all postgres scram-sha-256\n{lines}\n")
}

/// Folder with the server's programs.
fn binaries() -> PathBuf {
    let base = Path::new("/usr/lib/postgresql");
    if let Some(version) = std::env::var_os("JARVIS_TEST_PG_VERSION") {
        let bin = base.join(version).join("bin");
        assert!(bin.join("initdb").exists(), "no PostgreSQL in {}", bin.display());
        return bin;
    }
    let found = fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let found = found.filter(|bin| bin.join("initdb").exists());
    found.max_by_key(|bin| version_of(bin)).expect("PostgreSQL is installed (scripts/test.sh does it)")
}

/// Major version of the programs in `/usr/lib/postgresql/VERSION/bin`.
fn version_of(bin: &Path) -> u32 {
    let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn account_of(name: &str) -> Account {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("as root, the tests need the system account {name}"));
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Account { uid: fields.next().unwrap(), gid: fields.next().unwrap() }
}

fn give(path: &Path, account: Option<Account>) {
    if let Some(Account { uid, gid }) = account {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn write_secret(path: &Path, text: &str, account: Option<Account>) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    give(path, account);
}

fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let listed = fs::read_to_string(path).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_postgres(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "postgres")
}

fn random_hex() -> String {
    let draw = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", draw(), draw())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
