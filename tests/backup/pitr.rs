//! `scripts/pitr.sh` on a real server: pgBackRest is set up, checks its archive, and the house goes back to a
//! moment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::postgres::{kitchen, server};
use super::{holds, remember};
use crate::support::free_port;
use crate::support::postgres::{Postgres, Stop};

struct Pitr<'a> {
    server: &'a Postgres,
    dir: tempfile::TempDir,
}

impl Pitr<'_> {
    /// Runs the script, at the server or at the restored one.
    fn run_at(&self, socket: &Path, port: u16, args: &[&str]) -> Output {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/pitr.sh");
        let mut command = Command::new(script);
        command.args(args).env("PGHOST", socket).env("PGPORT", port.to_string());
        command.env("PGPASSWORD", self.server.password()).env("PGUSER", "postgres");
        command.env("PGUSER_OS", account()).env("PITR_CONFIG", self.dir.path().join("pgbackrest.conf"));
        command.output().unwrap()
    }

    fn run(&self, args: &[&str]) -> Output {
        self.run_at(&self.server.socket_dir(), self.server.port(), args)
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The account that the test server runs as.
fn account() -> String {
    if rustix::process::geteuid().is_root() {
        return "postgres".to_owned();
    }
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A file somewhere below `dir` with this ending.
fn find(dir: &Path, ending: &str) -> PathBuf {
    let found =
        Command::new("find").arg(dir).args(["-type", "f", "-name", &format!("*{ending}")]).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(!found.is_empty(), "no {ending} in {}", dir.display());
    found.lines().min().unwrap().into()
}

#[test]
fn a_house_goes_back_to_a_moment_and_takes_from_its_devices_what_it_lacks() {
    Command::new("pgbackrest").arg("version").output().unwrap();
    let mut server = server();
    let root = kitchen(&server);
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let repo = dir.path().join("repo");
    let repo = repo.to_str().unwrap();
    let setup = ["setup", "--repo", repo];
    // Debian's package brings a settings file of its own, which no owner wrote. Only root may read it.
    if let Ok(brought) = std::fs::read("/etc/pgbackrest.conf") {
        std::fs::write(dir.path().join("pgbackrest.conf"), brought).unwrap();
    }
    let first = Pitr { server: &server, dir };
    let told = first.run(&setup);
    assert_eq!(told.status.code(), Some(75), "{}", text(&told));
    assert!(text(&told).contains("restart the server"), "{}", text(&told));
    let dir = first.dir;
    server.restart(Stop::Fast);
    let pitr = Pitr { server: &server, dir };
    pitr.ok(&setup);
    pitr.ok(&["backup"]);
    assert!(pitr.ok(&["check"]).contains("status: ok"));
    assert!(pitr.ok(&["verify"]).contains("every file"));

    let moment = server.value("SELECT now()");
    std::thread::sleep(Duration::from_millis(1_100));
    remember(&root, "anna", "this came after the moment");
    root.ok(&["queue", "drain"]);
    server.execute("DELETE FROM jarvis.message_sources");
    server.execute("DELETE FROM jarvis.messages");
    server.execute("SELECT pg_switch_wal()");
    assert!(pitr.ok(&["check"]).contains("status: ok"));
    let then = pitr.dir.path().join("then");
    let to = then.to_str().unwrap();
    let told = pitr.ok(&["restore", "--time", &moment, "--to", to]);
    assert!(told.contains("holds the server as of"), "{told}");
    let again = pitr.run(&["restore", "--time", &moment, "--to", to]);
    assert!(again.status.code() == Some(1) && text(&again).contains("is there already"), "{}", text(&again));
    let early = pitr.dir.path().join("early");
    let args = ["restore", "--time", "2001-01-01 00:00:00+00", "--to", early.to_str().unwrap()];
    assert_eq!(pitr.run(&args).status.code(), Some(1));
    assert!(!early.exists());

    // The restored one beside the old one.
    let restored = Restored::start(&pitr, &then);
    assert_eq!(restored.value("SELECT count(*) FROM jarvis.messages"), "2");
    let house = restored.value("SELECT id FROM jarvis.house");
    let told = pitr.run_at(&server.socket_dir(), restored.port, &["new-house"]);
    assert!(told.status.success(), "{}", text(&told));
    assert_ne!(restored.value("SELECT id FROM jarvis.house"), house);
    let url = server.url_at(restored.port);
    root.write_config(&format!(
        "[device]\nid = \"kitchen\"\n[store]\npostgres_url = {url:?}\npostgres_password_file = {:?}\n",
        server.password_file()
    ));
    root.ok(&["queue", "drain"]);
    assert_eq!(restored.value("SELECT count(*) FROM jarvis.messages"), "4", "what a device has is not lost");
    assert!(holds(&root, "anna", "after the moment"));
    drop(restored);

    // A byte of the archive changes.
    let file = find(&pitr.dir.path().join("repo/archive"), ".zst");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let found = pitr.run(&["verify"]);
    assert_eq!(found.status.code(), Some(65), "{}", text(&found));
}

/// The restored server, stopped when dropped.
struct Restored<'a> {
    pitr: &'a Pitr<'a>,
    data: PathBuf,
    port: u16,
}

impl<'a> Restored<'a> {
    fn start(pitr: &'a Pitr<'a>, data: &Path) -> Self {
        let restored = Self { pitr, data: data.into(), port: free_port() };
        let (socket, port) = (pitr.server.socket_dir(), restored.port);
        let options = format!("-p {port} -k {} -c listen_addresses=127.0.0.1", socket.display());
        let log = data.join("log");
        restored.control(&["-w", "-l", log.to_str().unwrap(), "-o", &options, "start"]);
        crate::support::wait_until("the end of the recovery", || {
            restored.value("SELECT pg_is_in_recovery()") == "f"
        });
        restored
    }

    fn control(&self, args: &[&str]) {
        let version = self.pitr.server.version();
        let program = format!("/usr/lib/postgresql/{version}/bin/pg_ctl");
        let mut command = match rustix::process::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", &program]);
                command
            }
            false => Command::new(&program),
        };
        let status =
            command.arg("-D").arg(&self.data).args(args).stdout(std::process::Stdio::null()).status();
        assert!(status.unwrap().success(), "pg_ctl {args:?}");
    }

    fn value(&self, sql: &str) -> String {
        let output = Command::new("psql")
            .args(["-XAtq", "-d", "jarvis", "-U", "postgres", "-h"])
            .arg(self.pitr.server.socket_dir())
            .args(["-p", &self.port.to_string(), "-c", sql])
            .env("PGPASSWORD", self.pitr.server.password())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.control(&["-m", "immediate", "stop"]);
    }
}
