//! Tests of the schema and the statements on a real server.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sqlx::{AssertSqlSafe, Row as _};

use super::*;
use crate::clock::{Clock, DrivenClock};
use crate::memory::pull::Puller;
use crate::memory::{Device, Kind, Memory, NewAudit, NewTurn, Target, TurnMeta};
use crate::store::forward::{Forwarder, Progress};
use crate::store::queue::{self, Op};
use crate::store::{compare, holder, outgoing, put_back, renumber, tables};

#[expect(dead_code, reason = "shared with the black-box tests, which use the rest")]
#[path = "../../../../tests/support/postgres.rs"]
pub(crate) mod server;

use server::{Options, Postgres};

/// Every statement for Postgres, except those of the comparison.
fn statements() -> Vec<&'static [(&'static str, &'static str)]> {
    vec![
        survey::STATEMENTS,
        read::STATEMENTS,
        schema::STATEMENTS,
        swallowed::STATEMENTS,
        write::STATEMENTS,
        crate::backup::pg::STATEMENTS,
        crate::backup::restore_pg::STATEMENTS,
    ]
}

fn start() -> (Postgres, PgSettings) {
    let postgres = Postgres::with(Options { fsync: false, ..Options::default() });
    let settings = PgSettings::new(&postgres.url_with_password(), "kitchen").unwrap();
    (postgres, settings)
}

#[tokio::test]
async fn every_statement_prepares_on_the_real_schema() {
    let (_server, settings) = start();
    let mut pg = Pg::connect(&settings).await.unwrap();
    let mut count = 0;
    let of_the_rest = [holder::STATEMENTS_THERE, put_back::STATEMENTS_THERE, renumber::STATEMENTS_THERE];
    let constants =
        statements().into_iter().chain(compare::STATEMENTS_THERE).chain(of_the_rest).flatten().copied();
    let built = [read::built(), crate::backup::pg::built()].into_iter().flatten();
    let of_tables = tables::all().into_iter().flat_map(|table| table.statements_there());
    for (name, sql) in constants.chain(built).chain(of_tables) {
        let control = ["BEGIN", "COMMIT", "ROLLBACK", "CREATE SCHEMA", "DROP SCHEMA"]
            .iter()
            .any(|word| sql.starts_with(word));
        if !control {
            let prepare = AssertSqlSafe(format!("PREPARE s{count} AS {sql}"));
            sqlx::raw_sql(prepare).execute(&mut pg.conn).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        count += 1;
    }
    assert!(count > 30, "{count} statements");
}

#[tokio::test]
async fn an_attempt_that_was_sent_before_the_clock_was_set_is_dated_again() {
    let (server, settings) = start();
    let folder = tempfile::tempdir().unwrap();
    let clock = DrivenClock::new("a boot", 5_000, false);
    let device = Device { id: "kitchen".into() };
    let memory =
        Memory::open(&folder.path().join("j.db"), &device, Clock::Driven(clock.clone())).await.unwrap();
    let attempt = NewAudit { user: None, action: "verify", outcome: "rejected", detail: None };
    memory.append_audit(&attempt).await.unwrap();
    let mut forwarder = Forwarder::new(memory.store().clone(), memory.clock().clone(), settings);
    let sent = "SELECT (extract(epoch FROM wall_time) * 1000)::bigint, clock_synced FROM jarvis.audit";
    for (at, synced) in [("5000", "f"), ("1800000000000", "t")] {
        while forwarder.run_once().await.unwrap() != Progress::Empty {}
        assert_eq!(server.query(sent), [[at, synced]]);
        clock.set(1_800_000_000_000, true);
        memory.restamp().await.unwrap();
    }
    forwarder.close().await;
    memory.close().await;
}

/// Columns, constraints, indexes and policies, as any version of the server describes them.
const CATALOGUE: [(&str, &str); 5] = [
    (
        "column",
        "SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
            || CASE WHEN a.attnotnull THEN ' NOT NULL'
            ELSE '' END || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d
        ON (d.adrelid, d.adnum) = (c.oid, a.attnum)
        WHERE c.relnamespace = 'jarvis'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
        ORDER BY c.relname, a.attnum",
    ),
    (
        "constraint",
        "SELECT conrelid::regclass || ': ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'jarvis'::regnamespace AND contype <> 'n' ORDER BY 1",
    ),
    ("index", "SELECT indexdef FROM pg_indexes WHERE schemaname = 'jarvis' ORDER BY 1"),
    (
        "policy",
        "SELECT tablename || '.' || policyname || ' ' || cmd || ' ' || regexp_replace(qual, '\\s+', ' ', 'g')
        FROM pg_policies WHERE schemaname = 'jarvis' ORDER BY 1",
    ),
    (
        "row security",
        "SELECT relname || CASE WHEN relrowsecurity AND relforcerowsecurity THEN ' forced' ELSE ' none' END
            FROM pg_class
        WHERE relnamespace = 'jarvis'::regnamespace AND relkind = 'r' ORDER BY 1",
    ),
];

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/postgres/schema.txt")
}

#[tokio::test]
async fn migrations_produce_exactly_the_frozen_schema() {
    let (_server, settings) = start();
    let mut pg = Pg::connect(&settings).await.unwrap();
    let mut dump = format!(
        "What the migrations produce, schema version {VERSION}, as the catalogue describes it. A test \
         compares it.\n\
         After adding a migration: JARVIS_BLESS=1 cargo test --lib migrations_produce\n"
    );
    // The names below are written without the schema.
    sqlx::raw_sql("SET search_path = jarvis, pg_catalog").execute(&mut pg.conn).await.unwrap();
    for (what, sql) in CATALOGUE {
        for row in sqlx::query(sql).fetch_all(&mut pg.conn).await.unwrap() {
            writeln!(dump, "{what:12} {}", row.get::<String, _>(0)).unwrap();
        }
    }
    if std::env::var_os("JARVIS_BLESS").is_some() {
        std::fs::write(frozen(), &dump).unwrap();
    }
    assert_eq!(dump, std::fs::read_to_string(frozen()).unwrap());
}

#[tokio::test]
async fn every_table_is_described_and_everything_of_a_person_is_guarded() {
    let (server, settings) = start();
    Pg::connect(&settings).await.unwrap().close().await;
    let bare = server.query(
        "SELECT relname FROM pg_class WHERE relnamespace = 'jarvis'::regnamespace AND relkind = 'r'
            AND obj_description(oid, 'pg_class') IS NULL",
    );
    assert!(bare.is_empty(), "{bare:?}");
    let open = server.query(
        "SELECT DISTINCT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'jarvis'::regnamespace AND c.relkind = 'r'
        AND (a.attname = 'owner' OR c.relname = 'users')
            AND NOT (c.relrowsecurity AND c.relforcerowsecurity)",
    );
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test]
async fn devices_that_come_at_the_same_moment_make_one_schema() {
    let (server, settings) = start();
    let come = || Pg::connect(&settings);
    let (a, b, c, d) = tokio::join!(come(), come(), come(), come());
    let houses: Vec<Uuid> = [a, b, c, d].into_iter().map(|pg| pg.unwrap().house).collect();
    assert!(houses.iter().all(|house| *house == houses[0]));
    assert_eq!(server.value("SELECT count(*) FROM jarvis.schema_version"), VERSION.to_string());
}

#[tokio::test]
async fn a_session_is_durable_and_ends_by_itself() {
    let (server, settings) = start();
    server.set("synchronous_commit", "off");
    let mut pg = Pg::connect(&settings).await.unwrap();
    for (setting, wanted) in [
        ("synchronous_commit", "on"),
        ("statement_timeout", "30s"),
        ("lock_timeout", "15s"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("jarvis.role", "forwarder"),
    ] {
        let sql = AssertSqlSafe(format!("SHOW {setting}"));
        let row = sqlx::raw_sql(sql).fetch_one(&mut pg.conn).await.unwrap();
        assert_eq!(row.get::<String, _>(0), wanted, "{setting}");
    }
}

/// The server plans this once a session, perhaps while the tables are empty: every plan must be good on full
/// tables.
#[tokio::test]
async fn the_parent_of_a_message_is_found_without_reading_its_siblings() {
    const CONVERSATIONS: usize = 300;
    let (server, settings) = start();
    let folder = tempfile::tempdir().unwrap();
    let device = Device { id: "kitchen".into() };
    let memory = Memory::open(&folder.path().join("jarvis.db"), &device, Clock::System).await.unwrap();
    let anna = memory.add_user("Anna").await.unwrap().id;
    for n in 0..CONVERSATIONS {
        let text = format!("thing {n} is in the shed");
        let turn = NewTurn {
            text: &text,
            kind: Kind::Note,
            reply: "I will remember.",
            responder: "builtin",
            sources: &[],
            forget: &[],
            meta: &TurnMeta::default(),
        };
        memory.append_turn(anna, Target::New, &turn).await.unwrap();
    }
    let mut forwarder = Forwarder::new(memory.store().clone(), Clock::System, settings);
    while forwarder.run_once().await.unwrap() != Progress::Empty {}
    forwarder.close().await;
    memory.close().await;
    // A session reports its statistics when it ends.
    server.wait_for("SELECT count(*) FROM pg_stat_activity WHERE usename = 'jarvis'", "0");
    let read = server.value(
        "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'jarvis'
            AND relname = 'conversations'",
    );
    let read: usize = read.parse().unwrap();
    assert!(read >= CONVERSATIONS, "{read}: the server counts");
    assert!(read <= 10 * CONVERSATIONS, "{read} rows read for {CONVERSATIONS} conversations of two messages");
}

/// A table of the tests on both sides, as a migration would make it.
mod probes {
    pub(super) const THERE: &str = "CREATE TABLE jarvis.probes (id uuid PRIMARY KEY,
            owner uuid NOT NULL REFERENCES jarvis.users ON DELETE CASCADE, text text NOT NULL,
            created_at timestamptz NOT NULL, origin text NOT NULL REFERENCES jarvis.devices,
            change bigint NOT NULL);
        ALTER TABLE jarvis.tombstones DROP CONSTRAINT tombstones_kind_check";
    pub(super) const HERE: [&str; 3] = [
        "CREATE TABLE probes (rid INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,
            owner INTEGER NOT NULL REFERENCES users (rid) ON DELETE CASCADE, text TEXT NOT NULL,
            created_unix_ms INTEGER NOT NULL) STRICT",
        "DROP TABLE tombstones",
        "CREATE TABLE tombstones (kind TEXT NOT NULL, id BLOB NOT NULL, user_id BLOB NOT NULL,
            deleted_unix_ms INTEGER NOT NULL, PRIMARY KEY (kind, id)) STRICT, WITHOUT ROWID",
    ];
    pub(super) const PUT: &str = "INSERT INTO probes (id, owner, text, created_unix_ms)
        SELECT ?1, rid, ?2, 1800000000000 FROM users WHERE id = ?3
        ON CONFLICT (id) DO UPDATE SET text = excluded.text";
    pub(super) const DELETE: &str = "DELETE FROM probes WHERE id = ?1";
    pub(super) const TEXTS: &str = "SELECT text FROM probes";
}

/// A device of the house with that table.
struct Probed {
    memory: Memory,
    settings: PgSettings,
    _folder: tempfile::TempDir,
}

impl Probed {
    async fn new(name: &str, server: &Postgres) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = Device { id: name.into() };
        let memory = Memory::open(&folder.path().join("jarvis.db"), &device, Clock::System).await.unwrap();
        let mut tx = memory.store().begin().await.unwrap();
        for sql in probes::HERE {
            tx.execute(sqlx::query(sql)).await.unwrap();
        }
        tx.commit().await.unwrap();
        let settings = PgSettings::new(&server.url_with_password(), name).unwrap();
        Self { memory, settings, _folder: folder }
    }

    /// Writes or deletes a row and queues the change.
    async fn put(&self, id: Uuid, user: Uuid, text: Option<&str>) {
        let mut tx = self.memory.store().begin().await.unwrap();
        let op = match text {
            Some(text) => {
                tx.execute(sqlx::query(probes::PUT).bind(id).bind(text).bind(user)).await.unwrap();
                Op::UpsertProbe
            }
            None => {
                tx.execute(sqlx::query(probes::DELETE).bind(id)).await.unwrap();
                Op::DeleteProbe
            }
        };
        queue::enqueue(&mut tx, op, id, Some(user), 1_800_000_000_000).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn send(&self) {
        let store = self.memory.store().clone();
        let mut forwarder = Forwarder::new(store, Clock::System, self.settings.clone());
        while forwarder.run_once().await.unwrap() != Progress::Empty {}
        forwarder.close().await;
        assert_eq!(queue::refused(self.memory.store()).await.unwrap().entries, 0);
    }

    async fn texts(&self) -> Vec<String> {
        let mut reader = self.memory.store().reader().await.unwrap();
        sqlx::query_scalar(probes::TEXTS).fetch_all(&mut *reader).await.unwrap()
    }

    /// The rows of the table on the device after a pull.
    async fn pull(&self) -> Vec<String> {
        Puller::new(self.memory.clone(), self.settings.clone(), None).run_once().await.unwrap();
        self.texts().await
    }

    /// Returns (here, there, missing there, missing here, differing), and with `repair` queues the missing
    /// rows.
    async fn compare(&self, repair: bool) -> [usize; 5] {
        let repair = repair.then_some(1_800_000_000_000);
        let found =
            compare::compare(self.memory.store(), &self.settings, None, repair, |_| ()).await.unwrap();
        let table = found.tables.into_iter().find(|table| table.table == "probes").unwrap();
        let rows = [table.here, table.there].map(|rows| usize::try_from(rows).unwrap());
        [rows[0], rows[1], table.missing_there, table.missing_here, table.differ]
    }
}

#[tokio::test]
async fn a_table_that_is_described_once_is_sent_read_compared_and_kept() {
    if std::env::var_os(tables::probes::WANTED).is_none() {
        let mut story = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "store::postgres::tests::a_table_that_is_described_once_is_sent_read_compared_and_kept";
        let done = story.args(["--exact", name]).env(tables::probes::WANTED, "1").output().unwrap();
        let said =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let (server, settings) = start();
    let mut pg = Pg::connect(&settings).await.unwrap();
    sqlx::raw_sql(probes::THERE).execute(&mut pg.conn).await.unwrap();
    pg.close().await;
    let (kitchen, parlour) = (Probed::new("kitchen", &server).await, Probed::new("parlour", &server).await);
    let (anna, id) = (kitchen.memory.add_user("Anna").await.unwrap().id.0, Uuid::now_v7());
    let there = || server.query("SELECT text, origin FROM jarvis.probes");

    // Sent, read by another device, changed on that one, read back.
    kitchen.put(id, anna, Some("first")).await;
    kitchen.send().await;
    assert_eq!(there(), [["first", "kitchen"]]);
    assert_eq!(parlour.pull().await, ["first"]);
    parlour.put(id, anna, Some("second")).await;
    // A row that waits here is not replaced by the one there.
    assert_eq!(parlour.pull().await, ["second"]);
    parlour.send().await;
    assert_eq!(there(), [["second", "parlour"]]);
    assert_eq!(kitchen.pull().await, ["second"]);

    // Compared, and mended.
    assert_eq!(kitchen.compare(false).await, [1, 1, 0, 0, 0]);
    server.execute("UPDATE jarvis.probes SET text = 'of another program'");
    assert_eq!(kitchen.compare(true).await, [1, 1, 0, 0, 1]);
    kitchen.send().await;
    assert_eq!(there(), [["second", "kitchen"]]);
    server.execute("DELETE FROM jarvis.probes");
    assert_eq!(kitchen.compare(true).await, [1, 0, 1, 0, 0]);
    kitchen.send().await;
    assert_eq!(there(), [["second", "kitchen"]]);

    // Another database gets everything.
    server.execute("DELETE FROM jarvis.probes; UPDATE jarvis.house SET id = gen_random_uuid()");
    kitchen.send().await;
    assert_eq!(there(), [["second", "kitchen"]]);

    // An undelivered row comes out of a backup into another memory.
    kitchen.put(id, anna, Some("third")).await;
    let card = Probed::new("kitchen", &server).await;
    let mut batch = outgoing::read(kitchen.memory.store(), 0, 100, u64::MAX).await.unwrap().unwrap();
    outgoing::add_parents(kitchen.memory.store(), &mut batch).await.unwrap();
    card.memory.take_back(&batch).await.unwrap();
    assert_eq!(card.texts().await, ["third"]);
    assert!(crate::backup::pg::tables_there().contains(&"probes"));
    let mut reader = kitchen.memory.store().reader().await.unwrap();
    let kept = tables::file::kept().into_iter().find(|table| table.name == "probes").unwrap();
    assert_eq!(sqlx::query(AssertSqlSafe(kept.select())).fetch_all(&mut *reader).await.unwrap().len(), 1);
    drop(reader);

    // A deletion on one device reaches the other.
    kitchen.put(id, anna, None).await;
    kitchen.send().await;
    assert!(there().is_empty());
    assert_eq!(parlour.pull().await, [""; 0]);
    assert_eq!(server.value("SELECT count(*) FROM jarvis.tombstones WHERE kind = 'probe'"), "1");
    parlour.send().await;
    assert!(there().is_empty());
    for device in [kitchen, parlour, card] {
        device.memory.close().await;
    }
}
