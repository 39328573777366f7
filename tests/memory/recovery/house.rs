//! A house with a large memory: a filled server, devices with a daemon to which somebody talks all the while,
//! and the comparisons afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::household::percentiles;
use crate::support::postgres::{Options, Postgres};
use crate::support::{Root, scratch, wait_until, wait_within};

/// Messages of the earlier speakers; two hundred times as many with `JARVIS_TEST_MESSAGES=1000000`.
pub fn size() -> u64 {
    std::env::var("JARVIS_TEST_MESSAGES").ok().map_or(5_000, |n| n.parse().unwrap())
}

/// Time limit for sending or reading a large memory; never an assertion about speed.
fn patience() -> Duration {
    Duration::from_secs(120 + size() / 1_000)
}

#[expect(clippy::print_stdout, reason = "the figures of docs/lab/backup.md")]
pub fn note(what: &str, took: Duration, more: &str) {
    println!("{what:<52} {:>8.1} s  {more}", took.as_secs_f64());
}

/// A server with rights to make the scratch databases.
pub fn server() -> Postgres {
    let conf = vec!["max_wal_size = '4GB'".to_owned()];
    let server = Postgres::with(Options { fsync: false, conf, ..Options::default() });
    server.execute("ALTER ROLE jarvis CREATEDB");
    server
}

pub fn configuration(server: &Postgres, device: &str, database: &str, more: &str) -> String {
    let url = server.url();
    let place = url.rsplit_once('/').unwrap().0;
    format!(
        "[device]\nid = {device:?}\n[store]\npostgres_url = \"{place}/{database}\"\n\
         postgres_password_file = {:?}\n{more}",
        server.password_file()
    )
}

/// A device; nothing in it yet.
pub fn device(server: &Postgres, id: &str, more: &str) -> Arc<Root> {
    Arc::new(Root::with_config(&configuration(server, id, "jarvis", more)))
}

/// Runs a child process; returns its output, its duration and its peak memory.
pub fn watched(root: &Root, args: &[&str]) -> (std::process::Output, Duration, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let started = Instant::now();
    let mut child = root
        .command(args)
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let mut largest = 0;
    let status = loop {
        largest = largest.max(resident_mib(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        sleep(Duration::from_millis(10));
    };
    let output =
        std::process::Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() };
    (output, started.elapsed(), largest)
}

/// The most that a process had in memory so far.
pub fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}

/// Runs a command that must succeed, notes its figures, and parses what it prints.
pub fn timed(root: &Root, what: &str, args: &[&str]) -> Value {
    let (output, took, mib) = watched(root, &[args, &["--json"]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {told}{}", String::from_utf8_lossy(&output.stdout));
    note(what, took, &format!("{mib} MiB"));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Makes a backup, which must be proven, and returns its name.
pub fn backup(root: &Root) -> String {
    let made = timed(root, "backup create", &["backup", "create"]);
    assert_eq!(made["proven"], true, "{made}");
    made["name"].as_str().unwrap().to_owned()
}

pub fn restore(root: &Root, what: &str, args: &[&str]) -> Value {
    timed(root, what, &[&["backup", "restore"], args].concat())
}

// ---- The memory of before ---------------------------------------------------------------------------------

/// A filled server, and the data folder of a device that has read all of it. Made once a run, and copied for
/// each test.
struct Made {
    dump: PathBuf,
    replica: PathBuf,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = scratch().join(format!("recovery-{}", size()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let made = Made { dump: folder.join("dump"), replica: folder.join("jarvis.db") };
        let server = server();
        let kitchen = device(&server, "kitchen", "");
        fill(&server, &kitchen);
        timed(&kitchen, "store pull, the first time", &["store", "pull"]);
        fs::copy(database(&kitchen), &made.replica).unwrap();
        let dump = made.dump.to_str().unwrap();
        tool(&server, "pg_dump", &["--format=custom", "--compress=0", "--dbname=jarvis", "--file", dump]);
        made
    })
}

/// A program of Postgres, as the superuser.
fn tool(server: &Postgres, name: &str, args: &[&str]) {
    let mut command = Command::new(name);
    command.args(args).args(["--username=postgres", "--port", &server.port().to_string(), "--host"]);
    let done = command.arg(server.socket_dir()).env("PGPASSWORD", server.password()).status().unwrap();
    assert!(done.success(), "{command:?}");
}

/// The file of a device.
pub fn database(device: &Root) -> PathBuf {
    device.path().join("var/lib/jarvis/jarvis.db")
}

/// A server with the memory of before.
pub fn filled_server() -> Postgres {
    let server = server();
    let dump = made().dump.to_str().unwrap();
    tool(&server, "pg_restore", &["--exit-on-error", "--dbname=jarvis", dump]);
    // The device that filled it is gone, and nobody holds its id.
    server.execute("UPDATE jarvis.devices SET memory = NULL, token = NULL; ANALYZE");
    server
}

/// Lets the device learn everything, and adds this person.
pub fn ready(device: &Root, who: &str) {
    let to = database(device);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(&made().replica, to).unwrap();
    device.ok(&["user", "add", who]);
    device.ok(&["queue", "drain"]);
}

/// Fills the server with earlier conversations, of 50 messages each, of a device that is not there any more.
fn fill(server: &Postgres, kitchen: &Root) {
    let started = Instant::now();
    let n = size();
    for user in ["anna", "ben"] {
        kitchen.ok(&["user", "add", user]);
    }
    kitchen.ok(&["queue", "drain"]);
    server.execute(&format!(
        r#"
CREATE FUNCTION pg_temp.id(kind text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(1760000000000 + n * 1000), 12, '0') || '7' || substr(md5(kind || n), 1, 3) || '8'
        || substr(md5(n || kind), 1, 15))::uuid $$;
CREATE TEMP TABLE people AS SELECT id, row_number() OVER (ORDER BY name) - 1 AS k FROM jarvis.users;
INSERT INTO jarvis.devices (id) VALUES ('study');
INSERT INTO jarvis.conversations
    SELECT pg_temp.id('c', g * 50), p.id, 'study', NULL, 'Conversation ' || g, g % 10 = 0, 51,
    now() - interval '300 days', true, now() - interval '299 days', true, g, 'boot', 'study',
    nextval('jarvis.changes')
    FROM generate_series(0::bigint, ({n} - 1) / 50) g JOIN people p ON p.k = g % 2;
INSERT INTO jarvis.messages SELECT pg_temp.id('m', g), pg_temp.id('c', g / 50 * 50), p.id, 1 + g % 50,
    CASE g % 2 WHEN 0 THEN 'user' ELSE 'assistant' END, CASE g % 7 WHEN 0 THEN 'note' ELSE 'say' END,
    (ARRAY['remember that the ladder is behind the shed', E'tab\there\nand a line',
        'Käsespätzle für 🎉 zwei', 'C:\temp \N \.', 'what do you know of the bicycle', '',
        'set a timer for ' || g % 90 || ' minutes'])[1 + g % 7] || ' ' || md5(g::text),
    CASE g % 3 WHEN 0 THEN NULL ELSE jsonb_build_object('confidence', 0.9, 'n', g) END,
    '2025-10-09'::timestamptz + g * interval '1 second', g % 11 <> 0, g * 1000000, 'boot', 'study', 'study',
    nextval('jarvis.changes')
    FROM generate_series(0::bigint, {n} - 1) g JOIN people p ON p.k = g / 50 % 2;
INSERT INTO jarvis.message_sources SELECT a.id, q.id, a.owner FROM jarvis.messages a JOIN jarvis.messages q
    ON q.conversation = a.conversation AND q.seq = 1 WHERE a.seq = 50;
INSERT INTO jarvis.voiceprints
    SELECT pg_temp.id('v', k), id, decode(repeat('5a', 60), 'hex'), decode(repeat('a5', 3000), 'hex'),
    repeat('0', 64), repeat('1', 64), 3, 12.5, '{{}}', now() - interval '300 days', true, 'study',
    nextval('jarvis.changes') FROM people;
INSERT INTO jarvis.audit
    SELECT pg_temp.id('a', g), p.id, 'verify', 'verified', '{{"confidence": 0.9}}', now(), true, g, 'boot',
    'study' FROM generate_series(0::bigint, {n} / 100) g JOIN people p ON p.k = g % 2;
INSERT INTO jarvis.tombstones
    SELECT 'message', pg_temp.id('t', g), p.id, now(), 'study', nextval('jarvis.changes')
    FROM generate_series(0::bigint, {n} / 1000) g JOIN people p ON p.k = g % 2;
ANALYZE;"#
    ));
    assert_eq!(server.value("SELECT count(*) FROM jarvis.messages"), n.to_string());
    note("filling the server", started.elapsed(), &format!("{n} messages"));
}

/// The moment that divides earlier rows from later ones, as the smallest id of that time.
#[derive(Debug, Clone)]
pub struct Divide {
    first_id: String,
    database: String,
}

impl Divide {
    /// Now, in a millisecond in which no id was made.
    pub fn now() -> Self {
        sleep(Duration::from_millis(5));
        let ms = jarvisd::clock::Clock::System.now_unix_ms();
        sleep(Duration::from_millis(5));
        let first_id = uuid::Uuid::from_u128(u128::try_from(ms).unwrap() << 80).to_string();
        Self { first_id, database: "jarvis".into() }
    }

    /// The same moment, for another database of the server.
    pub fn of_database(&self, name: &str) -> Self {
        Self { database: name.into(), ..self.clone() }
    }

    fn query(&self, server: &Postgres, sql: &str) -> Vec<Vec<String>> {
        server.query(&format!("\\connect {}\n{sql}", self.database))
    }

    /// A hash for each table, over all columns of all earlier rows, made by the server from the rows in their
    /// order. Backups are compared in a different way.
    pub fn fingerprint(&self, server: &Postgres) -> BTreeMap<&'static str, String> {
        let tables = [
            ("users", "id", "id"),
            ("voiceprints", "id", "id"),
            ("conversations", "id", "id"),
            ("messages", "id", "id"),
            ("message_sources", "message", "message, source"),
            ("audit", "id", "id"),
            ("tombstones", "id", "kind, id"),
        ];
        let mut found = BTreeMap::new();
        for (table, id, order) in tables {
            let sql = format!(
                "SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY {order})), '')
                FROM jarvis.{table} t WHERE {id} < '{}'",
                self.first_id
            );
            found.insert(table, self.query(server, &sql)[0][0].clone());
        }
        found
    }

    /// Each acknowledged turn is on the server, once, and there are no other turns since then.
    pub fn all_there(&self, server: &Postgres, said: &[&[Said]]) {
        let sql = format!("SELECT id, text FROM jarvis.messages WHERE id >= '{}'", self.first_id);
        let rows = self.query(server, &sql);
        let mut found: BTreeMap<&str, &str> =
            rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
        assert_eq!(found.len(), rows.len());
        for turn in said.iter().copied().flatten() {
            let text = found.remove(turn.question.as_str());
            assert_eq!(text, Some(turn.text.as_str()), "was acknowledged and is nowhere");
            assert!(found.remove(turn.answer.as_str()).is_some(), "the answer to {:?} is lost", turn.text);
        }
        assert!(found.is_empty(), "nobody was told that these are stored: {found:?}");
        let twice = "SELECT count(*) - count(DISTINCT text) FROM jarvis.messages
            WHERE text LIKE 'remember that number %'";
        assert_eq!(self.query(server, twice)[0][0], "0", "something was stored twice");
    }
}

/// Asserts that both devices and the server hold the same, and nothing waits or was refused.
pub fn same_everywhere(devices: &[&Root]) {
    for device in devices {
        settle(device);
    }
    for device in devices {
        timed(device, "store pull", &["store", "pull"]);
        let check = timed(device, "store check", &["store", "check"]);
        assert_eq!(
            (&check["everything_compared"], &check["here"]),
            (&true.into(), &check["there"]),
            "{check}"
        );
        assert_eq!(
            (&check["waiting"], check["findings"].as_array().map(Vec::len)),
            (&0.into(), Some(0)),
            "{check}"
        );
        let dead = device.json(&["queue", "status"]);
        assert_eq!(dead["dead_letters"], 0, "{dead}");
    }
}

/// Waits until the daemon of this device has sent everything. An empty queue is no sign of it: everything may
/// be about to be queued for another database.
pub fn settle(device: &Root) {
    let started = Instant::now();
    let status = || device.json(&["queue", "status"]);
    let most = status()["entries"].clone();
    wait_within(patience(), "everything to be sent", || status()["complete"] == true);
    note("sending what waits", started.elapsed(), &format!("{most} entries seen first"));
}

// ---- Talking ----------------------------------------------------------------------------------------------

/// A turn that was acknowledged.
#[derive(Debug)]
pub struct Said {
    pub question: String,
    pub answer: String,
    pub text: String,
    pub took: Duration,
}

/// A person who talks to a device without a pause until told to stop.
pub struct Talker {
    stop: Arc<AtomicBool>,
    /// Without a pause between two turns.
    eager: Arc<AtomicBool>,
    begun: Arc<AtomicUsize>,
    said: Arc<AtomicUsize>,
    thread: JoinHandle<(Vec<Said>, Vec<String>)>,
    who: &'static str,
}

impl Talker {
    #[expect(clippy::disallowed_methods, reason = "tests have no supervisor")]
    pub fn start(root: &Arc<Root>, who: &'static str) -> Self {
        let (stop, eager) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (begun, said) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let (root, stopped, unpaused) = (root.clone(), stop.clone(), eager.clone());
        let (begins, count) = (begun.clone(), said.clone());
        let thread = std::thread::spawn(move || {
            let (mut turns, mut refused) = (Vec::new(), Vec::new());
            while !stopped.load(SeqCst) {
                begins.fetch_add(1, SeqCst);
                match turn(&root, who, NUMBER.fetch_add(1, SeqCst)) {
                    Ok(said) => {
                        turns.push(said);
                        count.fetch_add(1, SeqCst);
                    }
                    Err(why) => refused.push(why),
                }
                if !unpaused.load(SeqCst) {
                    sleep(Duration::from_millis(50));
                }
            }
            (turns, refused)
        });
        Self { stop, eager, begun, said, thread, who }
    }

    pub fn wait_for_a_turn(&self) {
        let before = self.said.load(SeqCst);
        wait_until(&format!("an answer to {}", self.who), || self.said.load(SeqCst) >= before + 2);
    }

    /// Runs `work` while somebody talks: the turn under way at its end is acknowledged, or one before it was.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.eager.store(true, SeqCst);
        self.wait_for_a_turn();
        let before = self.said.load(SeqCst);
        let done = work();
        assert!(self.begun.load(SeqCst) > before, "nobody talked meanwhile: nothing was tried");
        wait_until("what was said meanwhile to be acknowledged", || self.said.load(SeqCst) > before);
        self.eager.store(false, SeqCst);
        done
    }

    /// The acknowledged turns, and the reasons why others were not.
    pub fn stop(self) -> (Vec<Said>, Vec<String>) {
        self.wait_for_a_turn();
        self.stop.store(true, SeqCst);
        let (turns, refused) = self.thread.join().unwrap();
        let times: Vec<Duration> = turns.iter().map(|turn| turn.took).collect();
        let more = format!("p50 / p99 / longest {}, {} refused", percentiles(&times), refused.len());
        note(&format!("turns of {}, the process included", self.who), times.iter().sum(), &more);
        (turns, refused)
    }

    /// The acknowledged turns, where every turn must be acknowledged.
    pub fn stop_answered(self) -> Vec<Said> {
        let (turns, refused) = self.stop();
        assert!(refused.is_empty(), "{refused:?}");
        turns
    }
}

fn turn(root: &Root, who: &str, n: usize) -> Result<Said, String> {
    let text = format!("remember that number {n} was said by {who}");
    let started = Instant::now();
    let output = root.run(&["ask", "--user", who, "--json", &text]);
    let took = started.elapsed();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if !output.status.success() || told["stored"] != true {
        return Err(format!("{told} {}", String::from_utf8_lossy(&output.stderr)));
    }
    let id = |key: &str| told[key].as_str().unwrap().to_owned();
    Ok(Said { question: id("user_message_id"), answer: id("assistant_message_id"), text, took })
}

/// The daemon of a device, ended when dropped.
pub struct Running(std::process::Child);

impl Running {
    pub fn start(root: &Root) -> Self {
        let log = fs::File::options().create(true).append(true).open(root.path().join("log")).unwrap();
        let mut command = root.command(&["run"]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Waits until the daemon has found for the `n`th time that its server is a different one, which gets
    /// everything again.
    pub fn wait_for_another_server(&self, root: &Root, n: usize) {
        let started = Instant::now();
        let log = || fs::read_to_string(root.path().join("log")).unwrap_or_default();
        while log().matches("Postgres is another database than before").count() < n {
            assert!(started.elapsed() < patience(), "the restore was not noticed: {}", log());
            sleep(Duration::from_millis(50));
        }
    }

    /// Holds it where it is, or lets it go on.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Ends it as systemd does.
    pub fn stop(mut self, root: &Root) {
        let mib = resident_mib(self.0.id());
        let started = Instant::now();
        let killed = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(killed.success());
        let status = self.0.wait().unwrap();
        let log = fs::read_to_string(root.path().join("log")).unwrap_or_default();
        assert!(status.success(), "{status}: {log}");
        note("stopping the daemon", started.elapsed(), &format!("at most {mib} MiB all the while"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}
