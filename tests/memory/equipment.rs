//! The test equipment itself: a fault that fails to happen would let every test that relies on it pass.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::postgres::{Certificate, Options, Postgres, Stop};
use crate::support::proxy::{Mode, Proxy};

/// The answer of psql when it connects as libpq does with these parameters.
fn connect(server: &Postgres, ca: &std::path::Path) -> Result<(), String> {
    let address = format!(
        "host=127.0.0.1 port={} user=jarvis dbname=jarvis sslmode=verify-full sslrootcert={}",
        server.port(),
        ca.display()
    );
    let output = Command::new("psql")
        .args(["-X", "-c", "SELECT 1", &address])
        .env("PGPASSWORD", server.password())
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[test]
fn a_postgres_keeps_its_data_and_its_port_however_it_is_stopped() {
    let mut server = Postgres::start();
    let port = server.port();
    server.try_query_as_jarvis("CREATE TABLE t (n int)").unwrap();
    for (n, how) in [Stop::Fast, Stop::Immediate, Stop::Kill, Stop::Kill].into_iter().enumerate() {
        server.execute(&format!("INSERT INTO t VALUES ({n})"));
        server.stop(how);
        assert!(!server.is_running());
        assert!(server.try_query("SELECT 1").is_err());
        server.boot();
    }
    assert_eq!(server.port(), port);
    assert_eq!(
        server.query("SELECT n, NULL FROM t ORDER BY n"),
        [["0", ""], ["1", ""], ["2", ""], ["3", ""]]
    );
    server.read_only(true);
    let why = server.try_query_as_jarvis("INSERT INTO t VALUES (9)").unwrap_err();
    assert!(why.contains("read-only transaction"), "{why}");
    server.read_only(false);
    server.try_query_as_jarvis("INSERT INTO t VALUES (9)").unwrap();
    server.lose_database();
    assert!(server.try_query("SELECT * FROM t").is_err());
}

#[test]
fn each_certificate_is_wrong_in_its_own_way() {
    let server = Postgres::with(Options { tls: true, ..Options::default() });
    connect(&server, &server.ca_file()).unwrap();
    let refused = |ca: &std::path::Path, word: &str| {
        let why = connect(&server, ca).unwrap_err();
        assert!(why.contains(word), "{why}");
    };
    refused(&server.other_ca_file(), "verify failed");
    server.show(Certificate::OtherHost);
    refused(&server.ca_file(), "does not match host name");
    server.show(Certificate::OtherAuthority);
    refused(&server.ca_file(), "verify failed");
    server.show(Certificate::Expired);
    refused(&server.ca_file(), "verify failed");
    server.show(Certificate::Good);
    connect(&server, &server.ca_file()).unwrap();
}

#[test]
fn a_promoted_standby_has_everything_that_was_answered() {
    let mut server = Postgres::start();
    server.try_query_as_jarvis("CREATE TABLE t (n int)").unwrap();
    let standby = server.standby();
    server.try_query_as_jarvis("INSERT INTO t VALUES (1)").unwrap();
    server.stop(Stop::Kill);
    assert!(standby.try_query_as_jarvis("INSERT INTO t VALUES (2)").unwrap_err().contains("read-only"));
    standby.promote();
    standby.try_query_as_jarvis("INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(standby.query("SELECT n FROM t ORDER BY n"), [["1"], ["2"]]);
}

/// A session of psql through the proxy, in which each statement is a message of its own.
fn through(proxy: &Proxy, server: &Postgres, statements: &[&str], timeout_s: u32) -> (bool, String) {
    let address = format!("host=127.0.0.1 port={} user=jarvis dbname=jarvis sslmode=prefer", proxy.port());
    let mut command = Command::new("timeout");
    command.args([
        "-k",
        "1",
        &timeout_s.to_string(),
        "psql",
        "-X",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        &address,
    ]);
    for statement in statements {
        command.args(["-c", statement]);
    }
    let output = command.env("PGPASSWORD", server.password()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_proxy_does_what_its_mode_says_and_a_lost_commit_is_ambiguous() {
    let server = Postgres::start();
    let proxy = Proxy::to(server.port());
    server.try_query_as_jarvis("CREATE TABLE t (n int)").unwrap();
    let ask = |statements: &[&str]| through(&proxy, &server, statements, 3);
    assert_eq!(ask(&["SELECT 1"]), (true, "1\n".into()));

    let insert = |n: u32| ask(&["BEGIN", &format!("INSERT INTO t VALUES ({n})"), "COMMIT"]).0;
    assert!(insert(1));
    proxy.set(Mode::LoseCommitAnswer);
    assert!(!insert(2));
    proxy.set(Mode::LoseCommit);
    assert!(!insert(3));
    assert_eq!(proxy.lost_commits(), 2);
    proxy.set(Mode::Pass);
    assert_eq!(server.query("SELECT n FROM t ORDER BY n"), [["1"], ["2"]], "2 was committed, 3 was not");

    for silent in [Mode::Hang, Mode::HalfOpen] {
        proxy.set(silent);
        let started = Instant::now();
        assert!(!ask(&["SELECT 1"]).0);
        assert!(started.elapsed() > Duration::from_secs(2), "{silent:?} answered");
    }
    proxy.set(Mode::Refuse);
    let started = Instant::now();
    assert!(!ask(&["SELECT 1"]).0);
    assert!(TcpStream::connect(("127.0.0.1", proxy.port())).is_err());
    assert!(started.elapsed() < Duration::from_secs(2), "refused is refused at once");
    proxy.set(Mode::Drip(200));
    let started = Instant::now();
    assert!(through(&proxy, &server, &["SELECT 1"], 60).0);
    assert!(started.elapsed() > Duration::from_secs(1));
    proxy.set(Mode::Pass);

    let session = std::thread::scope(|scope| {
        let session = scope.spawn(|| ask(&["SELECT pg_sleep(30)"]).0);
        server.wait_for(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)' AND usename = 'jarvis'",
            "1",
        );
        proxy.cut();
        session.join().unwrap()
    });
    assert!(!session);

    let other = Postgres::start();
    other.set_password(server.password());
    proxy.retarget(other.port());
    assert!(ask(&["SELECT 1"]).0);
    assert!(!ask(&["SELECT n FROM t"]).0, "the other server has no such table");
}
