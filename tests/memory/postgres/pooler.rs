//! A real PgBouncer between the device and the server.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Root, ask, config, device_with, server, stderr_of, texts, with_microphone};
use crate::support::postgres::Postgres;
use crate::support::{free_port, wait_until};

struct PgBouncer {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// As Debian ships it but for the address, the users and the mode.
    fn start(postgres: &Postgres, mode: &str) -> Self {
        Self::with(postgres, &format!("pool_mode = {mode}"))
    }

    /// The same with these lines in its section.
    fn with(postgres: &Postgres, lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("users.txt"), format!("\"jarvis\" \"{}\"\n", postgres.password())).unwrap();
        let ini = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n{lines}\n",
            postgres.port(),
            file("users.txt").display(),
        );
        fs::write(file("pgbouncer.ini"), ini).unwrap();
        let mut command = Command::new("/usr/sbin/pgbouncer");
        // It refuses to run as root.
        if let Some((uid, gid)) = account() {
            for path in [dir.path().to_path_buf(), file("users.txt"), file("pgbouncer.ini")] {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
            command.uid(uid).gid(gid);
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        command.arg("-q").arg(file("pgbouncer.ini")).stdin(Stdio::null()).current_dir("/");
        let child = command.spawn().unwrap();
        wait_until("PgBouncer", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, _dir: dir }
    }

    fn device(&self, postgres: &Postgres) -> Root {
        device_with(postgres, "kitchen", &self.store(postgres))
    }

    /// The line of the configuration that leads through it.
    fn store(&self, postgres: &Postgres) -> String {
        format!("postgres_url = {:?}\n", postgres.url_at(self.port))
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of the system account `postgres`, where the tests run as root.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).unwrap();
    let mut fields = line.split(':').skip(2).map(|id| id.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

#[test]
fn a_pooler_that_keeps_sessions_is_as_good_as_the_server() {
    let postgres = server();
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    let pooler = PgBouncer::start(&postgres, "session");
    let (root, mic) = with_microphone(pooler.device(&postgres));
    root.ok(&["user", "add", "anna"]);
    let mut daemon = root.daemon();
    daemon.wait_event("ready");
    ask(&root, "anna", "remember that the key 🙂 열쇠 is in the drawer");
    postgres.wait_for("SELECT count(*) FROM jarvis.messages", "2");
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.log());
    drop(mic);
    root.ok(&["queue", "drain"]);
    root.ok(&["store", "pull"]);
    root.ok(&["store", "check"]);
    let made = root.json(&["backup", "create"]);
    assert_eq!((&made["proven"], &made["manifest"]["rows"]["messages"]), (&true.into(), &2.into()), "{made}");
    root.ok(&["backup", "restore", "latest", "--in-place", "--yes"]);
    assert_eq!(texts(&root, "anna").len(), 2);
    let doctor = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    assert!(!doctor.contains("pooler"), "{doctor}");
}

#[test]
fn a_pooler_that_does_not_keep_sessions_is_refused_with_what_must_be_set() {
    let postgres = server();
    for mode in ["transaction", "statement"] {
        let pooler = PgBouncer::start(&postgres, mode);
        let root = pooler.device(&postgres);
        root.ok(&["user", "add", "anna"]);
        let told = stderr_of(&root, &["queue", "drain"], 69);
        assert!(told.contains("pool_mode = session"), "{mode}: {told}");
        assert_eq!(root.json(&["queue", "status"])["dead_letters"], 0);
        let doctor = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
        assert!(doctor.contains("pool_mode = session"), "{mode}: {doctor}");
    }
}

#[test]
fn a_pooler_that_keeps_sessions_and_does_not_reset_them_is_refused_with_what_must_be_set() {
    let postgres = server();
    let pooler = PgBouncer::with(&postgres, "pool_mode = session\nserver_reset_query =");
    let root = pooler.device(&postgres);
    root.ok(&["user", "add", "anna"]);
    let told = stderr_of(&root, &["queue", "drain"], 69);
    assert!(told.contains("server_reset_query = DISCARD ALL"), "{told}");
    assert!(told.contains("as another client has left it"), "{told}");
    assert_eq!(root.json(&["queue", "status"])["dead_letters"], 0);
    let doctor = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("server_reset_query = DISCARD ALL"), "{doctor}");
}

#[test]
fn a_pooler_with_too_few_sessions_is_named_and_what_can_do_with_one_is_done() {
    let postgres = server();
    postgres.execute("ALTER ROLE jarvis CREATEDB");
    let sized = |n: u32| PgBouncer::with(&postgres, &format!("pool_mode = session\ndefault_pool_size = {n}"));
    let through = |root: &Root, pooler: &PgBouncer| {
        root.write_config(&config(&postgres, "kitchen", &pooler.store(&postgres)));
    };
    let (one, two, three) = (sized(1), sized(2), sized(3));
    let root = one.device(&postgres);
    root.ok(&["user", "add", "anna"]);
    ask(&root, "anna", "remember that the ladder is in the shed");
    root.ok(&["queue", "drain"]);
    let told = stderr_of(&root, &["backup", "create"], 75);
    assert!(told.contains("another session") && told.contains("default_pool_size"), "{told}");
    assert_eq!(root.json(&["backup", "list"]), serde_json::json!([]));
    let doctor = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("default_pool_size"), "{doctor}");

    through(&root, &two);
    assert_eq!(root.json(&["backup", "create"])["proven"], true);
    let doctor = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    assert!(!doctor.contains("default_pool_size"), "{doctor}");
    let restore = ["backup", "restore", "latest", "--in-place", "--yes"];
    for (pooler, what) in [(&one, "one"), (&two, "two")] {
        through(&root, pooler);
        let told = stderr_of(&root, &restore, 75);
        assert!(told.contains("default_pool_size"), "{what}: {told}");
        root.ok(&["backup", "verify", "latest", "--level", "restore"]);
    }
    through(&root, &three);
    root.ok(&restore);
    assert_eq!(texts(&root, "anna").len(), 2);
}
