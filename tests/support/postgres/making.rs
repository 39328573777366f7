//! Making a server: programs, folders, accounts, configuration, certificates.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::thread::sleep;
use std::time::Duration;

use super::{Account, Certificate, Options, Postgres};

impl Postgres {
    /// Chooses the folder, the port and the account; nothing is in them yet.
    pub(super) fn empty(options: Options, password: String) -> Self {
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

    pub(super) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A program of the server, run as its account.
    pub(super) fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(self.dir.path()).env("LC_ALL", "C.UTF-8").env_remove("PGPASSWORD");
        if let Some(Account { uid, gid }) = self.account {
            command.uid(uid).gid(gid);
        }
        command
    }

    pub(super) fn must(&self, command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", said(&output));
    }

    pub(super) fn write_conf(&self) {
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
    pub(super) fn put(&self, name: &str, text: &str) {
        let path = self.data().join(name);
        fs::write(&path, text).unwrap();
        give(&path, self.account);
    }

    pub(super) fn install(&self, certificate: Certificate) {
        let (name, authority, host, days) = match certificate {
            Certificate::Good => ("good", "ca", "DNS:localhost,IP:127.0.0.1", "30"),
            Certificate::OtherHost => ("other-host", "ca", "DNS:somewhere.else.example", "30"),
            // A certificate that expires at the moment it is made.
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

    pub(super) fn make_authority(&self, name: &str) {
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

    pub(super) fn sign(&self, name: &str, authority: &str, subject: &str, extensions: &str, days: &str) {
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

    pub(super) fn openssl(&self, args: &[&str]) {
        self.must(Command::new("openssl").args(args).current_dir(self.dir.path()));
    }
}

/// Removes server and folder if the test process ends in any way without having done so.
fn guard(dir: &Path) -> Child {
    Command::new("/bin/sh")
        .args([
            "-c",
            "read _; p=$(head -n 1 \"$0/data/postmaster.pid\" 2>/dev/null) && kill -QUIT \"$p\" && \
                      sleep 1; rm -rf \"$0\"",
        ])
        .arg(dir)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
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

pub(super) fn write_secret(path: &Path, text: &str, account: Option<Account>) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    give(path, account);
}

pub(super) fn random_hex() -> String {
    let draw = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", draw(), draw())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The superuser may always come in through the socket, whatever a test allows others.
pub(super) fn hba(lines: &str) -> String {
    format!("local all postgres scram-sha-256\n{lines}\n")
}

/// Major version of the programs in `/usr/lib/postgresql/VERSION/bin`.
pub(super) fn version_of(bin: &Path) -> u32 {
    let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}
