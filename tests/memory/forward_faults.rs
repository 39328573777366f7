//! Faults of Postgres and of the way there. A person is answered as fast as ever, and the device names the
//! fault. In the end every acknowledged turn is in Postgres exactly once and in order.
//!
//! The latencies are printed (`--nocapture`), not judged: the machine that runs the tests does other things
//! as well.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::household::{DEVICE, Household, percentiles, settings};
use crate::support::postgres::{Certificate, Options, Postgres, Stop};
use crate::support::preload;
use crate::support::proxy::{Mode, Proxy};
use crate::support::random::Random;
use jarvisd::health::Condition;
use jarvisd::store::postgres::PgSettings;

const WHILE: Duration = Duration::from_secs(2);

/// A household whose forwarder works, with some turns in Postgres already.
async fn household(name: &str, settings: PgSettings, server: &Postgres) -> Household {
    let mut house = Household::new(Random::for_test(name)).await;
    house.forward(settings);
    house.turns_for(WHILE / 2).await;
    house.settle().await;
    healthy(&house, name).await;
    house.compare(server);
    house
}

/// Turns before, during and after a fault. While it lasts the health must say one of `words`, if there are
/// any.
async fn suffer(
    house: &mut Household,
    name: &str,
    begin: impl FnOnce(),
    words: &[&str],
    end: impl FnOnce(),
) -> String {
    let before = house.turns_for(WHILE).await;
    begin();
    let mut during = house.turns_for(WHILE).await;
    let mut said = String::new();
    if !words.is_empty() {
        let (sentence, times) = house.turns_until(words).await;
        said = sentence;
        during.extend(times);
    }
    end();
    let after = house.turns_for(WHILE / 2).await;
    println!(
        "{name:>28}: turn p50 / p99 / longest {} before, {} during, {} after: {said}",
        percentiles(&before),
        percentiles(&during),
        percentiles(&after)
    );
    house.settle().await;
    healthy(house, name).await;
    said
}

/// The health says so a moment after the last entry was sent.
async fn healthy(house: &Household, name: &str) {
    let deadline = Instant::now() + PATIENCE;
    while house.condition() != Condition::Ok {
        assert!(Instant::now() < deadline, "{name} is over: {:?}", house.condition());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_network_that_refuses_cuts_or_loses_commits_costs_nothing() {
    let server = Postgres::start();
    let proxy = Proxy::to(server.port());
    let mut house = household("network", settings(&server, proxy.port()), &server).await;
    let pass = || proxy.set(Mode::Pass);
    suffer(&mut house, "refuse", || proxy.set(Mode::Refuse), &["Connection refused"], pass).await;
    suffer(&mut house, "cut", || proxy.cut(), &[], || proxy.cut()).await;
    for (name, mode) in [("answer to COMMIT lost", Mode::LoseCommitAnswer), ("COMMIT lost", Mode::LoseCommit)]
    {
        let before = proxy.lost_commits();
        let said =
            suffer(&mut house, name, || proxy.set(mode), &["the connection was closed", "reset"], pass).await;
        assert!(proxy.lost_commits() > before, "no commit was lost: {said}");
    }
    house.compare(&server);
    house.stop_forwarding().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_network_that_is_silent_or_slow_is_noticed_and_outlived() {
    let server = Postgres::start();
    let proxy = Proxy::to(server.port());
    let mut house = household("silence", settings(&server, proxy.port()), &server).await;
    let pass = || proxy.set(Mode::Pass);
    suffer(&mut house, "hang", || proxy.set(Mode::Hang), &["no answer within"], pass).await;
    suffer(&mut house, "half-open", || proxy.set(Mode::HalfOpen), &["no answer within"], pass).await;
    suffer(&mut house, "drip, 8 kB/s", || proxy.set(Mode::Drip(8_000)), &[], pass).await;
    let drip = || {
        proxy.set(Mode::Drip(100));
        proxy.cut();
    };
    suffer(&mut house, "drip, 100 B/s", drip, &["no answer within"], pass).await;
    house.compare(&server);
    house.stop_forwarding().await;
}

/// Holds every connection that the server has for ordinary roles, and ends those of the forwarder.
fn occupy(server: &Postgres) -> Vec<Child> {
    let address = format!("host=127.0.0.1 port={} user=jarvis dbname=jarvis", server.port());
    let count = |sql: &str| server.value(sql).parse::<usize>().unwrap();
    let places = count(
        "SELECT current_setting('max_connections')::integer
            - current_setting('superuser_reserved_connections')::integer",
    );
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut sessions: Vec<Child> = Vec::new();
    loop {
        // A session that found no place has ended, and is tried again.
        sessions.retain_mut(|session| session.try_wait().unwrap().is_none());
        let held = count(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%'
                AND pid <> pg_backend_pid()",
        );
        if held == places {
            return sessions;
        }
        assert!(Instant::now() < deadline, "{held} of {places} connections could be held");
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name LIKE 'jarvisd%'",
        );
        while sessions.len() < places {
            let session = Command::new("psql")
                .args(["-X", "-c", "SELECT pg_sleep(600)", &address])
                .env("PGPASSWORD", server.password())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            sessions.push(session.unwrap());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_that_will_not_have_us_is_named_and_asked_again() {
    let mut server = Postgres::with(Options { max_connections: 10, ..Options::default() });
    let port = server.port();
    let mut house = household("server", settings(&server, port), &server).await;

    let lock_out = || {
        server.set_password("another");
        server.cut_connections();
    };
    let words = ["password authentication failed"];
    let said =
        suffer(&mut house, "wrong password", lock_out, &words, || server.set_password(server.password()))
            .await;
    assert!(said.contains("postgres_password_file") && !said.contains(server.password()), "{said}");

    let said = suffer(
        &mut house,
        "read-only",
        || server.read_only(true),
        &["read-only"],
        || server.read_only(false),
    )
    .await;
    assert!(said.contains("primary"), "{said}");

    let mut taken = Vec::new();
    let occupied = || taken = occupy(&server);
    let words = ["max_connections"];
    let said = suffer(&mut house, "no connection left", occupied, &words, || {
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%'
            AND pid <> pg_backend_pid()",
        );
    })
    .await;
    assert!(said.contains("connection"), "{said}");
    for mut session in taken {
        session.wait().unwrap();
    }

    suffer(&mut house, "schema dropped", || server.execute("DROP SCHEMA jarvis CASCADE"), &[], || {}).await;
    house.compare(&server);
    suffer(&mut house, "another, empty database", || server.lose_database(), &[], || {}).await;
    house.compare(&server);

    for how in [Stop::Fast, Stop::Immediate, Stop::Kill] {
        let server = std::cell::RefCell::new(&mut server);
        let words = ["refused", "closed", "shutting down", "terminating", "reset"];
        let name = format!("stopped ({how:?})");
        suffer(&mut house, &name, || server.borrow_mut().stop(how), &words, || server.borrow_mut().boot())
            .await;
    }
    house.compare(&server);
    house.stop_forwarding().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_server_without_space_is_named_and_gets_everything_later() {
    let server = Postgres::with(Options { preload: Some(preload::diskfull()), ..Options::default() });
    let mut house = household("disk full", settings(&server, server.port()), &server).await;
    let words = ["disk of the Postgres server is full"];
    suffer(&mut house, "disk full", || server.disk_full(true), &words, || server.disk_full(false)).await;
    assert!(server.log().contains("No space left on device"));
    house.compare(&server);
    house.stop_forwarding().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_certificate_that_proves_nothing_is_refused_and_named() {
    let server = Postgres::with(Options { tls: true, ..Options::default() });
    let settings = PgSettings { ca_file: Some(server.ca_file().into()), ..settings(&server, server.port()) };
    let mut house = household("TLS", settings, &server).await;
    assert_eq!(
        server.value(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'jarvis'"
        ),
        "t"
    );
    let show = |certificate| {
        server.show(certificate);
        server.cut_connections();
    };
    for (certificate, words) in [
        (Certificate::OtherAuthority, ["UnknownIssuer", "unknown issuer"]),
        (Certificate::OtherHost, ["NotValidForName", "not valid for name"]),
        (Certificate::Expired, ["Expired", "expired"]),
    ] {
        let name = format!("{certificate:?}");
        let said = suffer(&mut house, &name, || show(certificate), &words, || show(Certificate::Good)).await;
        assert!(said.contains("store.postgres_ca_file"), "what to do is missing: {said}");
    }
    house.compare(&server);
    house.stop_forwarding().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_failover_to_a_server_with_the_same_data_goes_on_where_the_other_ended() {
    let mut server = Postgres::start();
    let standby = server.standby();
    let proxy = Proxy::to(server.port());
    let mut house = household("failover", settings(&server, proxy.port()), &server).await;
    let to_the_standby = || {
        server.stop(Stop::Kill);
        proxy.retarget(standby.port());
    };
    let said = suffer(&mut house, "failover", to_the_standby, &["read-only"], || standby.promote()).await;
    assert!(said.contains("primary"), "{said}");
    house.compare(&standby);
    assert_eq!(
        standby.query("SELECT id FROM jarvis.devices"),
        [[DEVICE]],
        "the standby knows the device by its one name"
    );
    house.stop_forwarding().await;
}
