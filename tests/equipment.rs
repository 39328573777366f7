//! The test equipment itself: a fault that does not happen would let every test that relies on it pass.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use support::postgres::{Certificate, Options, Postgres, Stop};

/// What psql says when it connects as libpq does with these parameters.
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
