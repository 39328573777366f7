//! A naive twin in memory and the real thing — memory, queue, forwarder, a real Postgres behind a faulty
//! network — do the same at random, and are compared whenever the queue is empty. A second device of the
//! house reads along and now and then forgets, renames or deletes something itself.
//!
//! `PROPTEST_CASES` sets the number of stories (24). The stories of `forward_model.seeds` come first, those
//! that fail are added to it.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::actions::{Action, Change, Fault, action};
use crate::support::household::{DEVICE, settings};
use crate::support::postgres::{Options, Postgres, Stop};
use crate::support::proxy::{Mode, Proxy};
use crate::support::twin::{
    AGREED_LOCAL, AGREED_REMOTE, Conversation, LOCAL, Person, REMOTE, Rows, Time, Twin, Voiceprint,
};
use jarvisd::clock::{Clock, DrivenClock};
use jarvisd::memory::pull::Puller;
use jarvisd::memory::{
    ConversationId, Device, Kind, Memory, MessageId, NewTurn, NewVoiceprint, SessionId, Target, TurnMeta,
    UserId,
};
use jarvisd::store::forward::{Forwarder, Progress};
use jarvisd::store::opener::Opener;
use jarvisd::store::postgres::PgSettings;
use jarvisd::store::queue;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use sqlx::{Connection as _, Row as _, SqliteConnection};

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/memory/forward_model.seeds");
/// The second device of the house.
const OTHER: &str = "parlour";
const START_MS: i64 = 1_800_000_000_000;
/// Few at once, so that there are several batches: one is read while another is on its way.
const AT_ONCE: usize = 4;
/// The parts of people's words.
const WORDS: [&str; 7] =
    ["", "tea", "ünïcode 🙂 \u{1D11E}", "it's \"quoted\" \\ % _ $1 ?1", "a\0b", "line\nand\ttab", "long"];

/// The equipment that all stories share: the server is emptied in between.
struct Lab {
    server: RefCell<Postgres>,
    proxy: Proxy,
    compared: Cell<usize>,
    acted: Cell<usize>,
}

/// The second device: its time is that of the first, its boot is its own.
struct Other {
    path: PathBuf,
    clock: Arc<DrivenClock>,
    memory: Memory,
    forwarder: Forwarder,
}

/// One story.
struct Story<'a> {
    lab: &'a Lab,
    path: PathBuf,
    clock: Arc<DrivenClock>,
    memory: Memory,
    forwarder: Forwarder,
    other: Other,
    twin: Twin,
    said: usize,
    /// The latest that the clock has ever shown.
    latest: i64,
    _dir: tempfile::TempDir,
}

impl<'a> Story<'a> {
    async fn begin(lab: &'a Lab) -> Self {
        lab.server.borrow().lose_database();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jarvis.db");
        let clock = DrivenClock::new("a boot", START_MS, true);
        let memory = open(&path, &clock, DEVICE).await;
        let sender = forwarder(lab, &memory, DEVICE);
        let path_there = dir.path().join("other.db");
        let clock_there = DrivenClock::new("a boot there", START_MS, true);
        let memory_there = open(&path_there, &clock_there, OTHER).await;
        let sender_there = forwarder(lab, &memory_there, OTHER);
        let other =
            Other { path: path_there, clock: clock_there, memory: memory_there, forwarder: sender_there };
        Self {
            lab,
            path,
            clock,
            memory,
            forwarder: sender,
            other,
            twin: Twin::default(),
            said: 0,
            latest: START_MS,
            _dir: dir,
        }
    }

    fn now(&self) -> i64 {
        self.clock.wall_unix_ms.load(Ordering::Relaxed)
    }

    /// The stamp of rows written now.
    fn time(&self) -> Time {
        let synced = self.clock.synced.load(Ordering::Relaxed);
        let monotonic_ns = self.clock.monotonic_ns.load(Ordering::Relaxed);
        Time { wall_unix_ms: self.now(), guessed_at_ns: (!synced).then_some(monotonic_ns) }
    }

    /// Sets the wall clock.
    fn set_clock(&mut self, wall_unix_ms: i64, synced: bool) {
        self.clock.set(wall_unix_ms, synced);
        self.other.clock.set(wall_unix_ms, synced);
        self.latest = self.latest.max(wall_unix_ms);
    }

    fn person(&self, n: usize) -> Option<UserId> {
        self.twin.people.keys().nth(n % self.twin.people.len().max(1)).copied()
    }

    fn conversation(&self, n: usize) -> Option<(UserId, ConversationId)> {
        let all: Vec<_> = self
            .twin
            .people
            .iter()
            .flat_map(|(user, person)| person.conversations.keys().map(|id| (*user, *id)))
            .collect();
        all.get(n % all.len().max(1)).copied()
    }

    fn message(&self, user: UserId, n: usize) -> Option<MessageId> {
        let all: Vec<MessageId> = self.twin.people[&user].messages().map(|m| m.id).collect();
        all.get(n % all.len().max(1)).copied()
    }

    fn text(&mut self, n: usize) -> String {
        self.said += 1;
        let word = WORDS[n % WORDS.len()];
        let word = if word == "long" { "long and longer ".repeat(200) } else { word.to_owned() };
        format!("{} {word}", self.said)
    }

    async fn act(&mut self, action: &Action) {
        self.clock.pass(1_003);
        self.other.clock.pass(1_003);
        self.latest = self.latest.max(self.now());
        match *action {
            Action::AddUser => {
                self.said += 1;
                let user = self.memory.add_user(&format!("user {}", self.said)).await.unwrap();
                self.twin.people.insert(user.id, Person { name: user.name, ..Person::default() });
            }
            Action::RenameUser(n) => {
                let Some(user) = self.person(n) else { return };
                self.said += 1;
                let name = format!("user {}", self.said);
                self.memory.rename_user(user, &name).await.unwrap();
                self.twin.people.get_mut(&user).unwrap().name = name;
            }
            Action::DeleteUser(n) => {
                let Some(user) = self.person(n) else { return };
                self.memory.delete_user(user).await.unwrap();
                self.twin.delete_user(user);
            }
            Action::NewConversation(n, titled) => {
                let Some(user) = self.person(n) else { return };
                let title = titled.then(|| format!("title {n}"));
                let id = self.memory.new_conversation(user, title.as_deref()).await.unwrap();
                let person = self.twin.people.get_mut(&user).unwrap();
                person.conversations.insert(id, Conversation::new(title));
            }
            Action::Rename(n) => {
                let Some((user, id)) = self.conversation(n) else { return };
                let title = format!("called {n}");
                self.memory.rename_conversation(user, id, &title).await.unwrap();
                let person = self.twin.people.get_mut(&user).unwrap();
                person.conversations.get_mut(&id).unwrap().title = Some(title);
            }
            Action::DeleteConversation(n) => {
                let Some((user, id)) = self.conversation(n) else { return };
                self.memory.delete_conversation(user, id).await.unwrap();
                self.twin.delete_conversation(user, id);
            }
            Action::Turn(a, b, c, d) => self.turn(a, b, c, d, None).await,
            Action::BrokenTurn(n, us) => self.turn(n, n, n, n, Some(Duration::from_micros(us))).await,
            Action::Forget(n) => {
                let Some(user) = self.person(n) else { return };
                let Some(message) = self.message(user, n) else { return };
                let gone = self.memory.forget(user, &[message]).await.unwrap();
                assert_eq!(gone, self.twin.forget(user, message));
            }
            Action::Reopen(closing) => {
                self.forwarder.close().await;
                if closing {
                    self.memory.close().await;
                }
                self.memory = open(&self.path, &self.clock, DEVICE).await;
                self.forwarder = forwarder(self.lab, &self.memory, DEVICE);
            }
            Action::ClockJumps(ms, synced) => {
                self.set_clock(self.now().saturating_add(ms), synced);
            }
            Action::Restamp => self.restamp().await,
            Action::Enrol(n) => {
                let Some(user) = self.person(n) else { return };
                self.said += 1;
                let blob = format!("sealed {}", self.said);
                let id = self.memory.put_voiceprint(user, &voiceprint(&blob)).await.unwrap();
                self.twin.enrol(user, Voiceprint { id, blob });
            }
            Action::Unenrol(n) => {
                let Some(user) = self.person(n) else { return };
                let deleted = self.memory.delete_voiceprint(user).await;
                assert_eq!(deleted.is_ok(), self.twin.unenrol(user));
            }
            Action::Round => self.round().await,
            Action::BrokenRound(ms) => {
                let _ = tokio::time::timeout(Duration::from_millis(ms), self.round()).await;
            }
            Action::FaultyRound(fault) => {
                match fault {
                    Fault::Refuse => self.lab.proxy.set(Mode::Refuse),
                    Fault::Cut => self.lab.proxy.cut(),
                    Fault::LoseCommit => self.lab.proxy.set(Mode::LoseCommit),
                    Fault::LoseCommitAnswer => self.lab.proxy.set(Mode::LoseCommitAnswer),
                }
                self.round().await;
                self.lab.proxy.set(Mode::Pass);
            }
            Action::TwoRounds => {
                let mut other = forwarder(self.lab, &self.memory, DEVICE);
                let _ = tokio::join!(self.forwarder.run_once(), other.run_once());
                other.close().await;
            }
            Action::SendAgain => self.send_again().await,
            Action::PostgresDies => self.lab.server.borrow_mut().restart(Stop::Immediate),
            Action::AnotherDatabase { empty: true } => self.lab.server.borrow().lose_database(),
            // There is none yet, or there is.
            Action::AnotherDatabase { empty: false } => {
                let _ = self.lab.server.borrow().try_query("UPDATE jarvis.house SET id = gen_random_uuid()");
            }
            Action::Elsewhere(change, n) => self.elsewhere(change, n).await,
            Action::Apart { first, second, n, here_first, here_sends_first } => {
                self.apart((first, second), n, here_first, here_sends_first).await;
            }
            Action::SessionTurn(n, session) => self.session_turn(n, &format!("tablet {session}")).await,
            Action::Settle => self.settle().await,
        }
    }

    async fn turn(&mut self, a: usize, b: usize, c: usize, d: usize, broken: Option<Duration>) {
        let Some(user) = self.person(b) else { return };
        let own: Vec<ConversationId> = self.twin.people[&user].conversations.keys().copied().collect();
        let target = match own.get(b % own.len().max(1)) {
            Some(id) if !a.is_multiple_of(4) => Target::Existing(*id),
            _ => Target::New,
        };
        let source = if c.is_multiple_of(3) { self.message(user, c) } else { None };
        let sources: Vec<MessageId> = source.into_iter().collect();
        let (text, reply) = (self.text(d), self.text(a));
        let turn = NewTurn {
            text: &text,
            kind: Kind::Say,
            reply: &reply,
            responder: "builtin",
            sources: &sources,
            forget: &[],
            meta: &TurnMeta::default(),
        };
        let append = self.memory.append_turn(user, target, &turn);
        let stored = match broken {
            None => Some(append.await.unwrap()),
            Some(after) => tokio::time::timeout(after, append).await.ok().map(Result::unwrap),
        };
        let halves = |question, answer| {
            [(question, text.replace('\0', "\u{fffd}")), (answer, reply.replace('\0', "\u{fffd}"))]
        };
        let (conversation, halves) = match stored {
            Some(stored) => {
                (stored.conversation_id, halves(stored.user_message_id, stored.assistant_message_id))
            }
            None => {
                // Nobody got an answer, so both are right: the whole turn or no part of it.
                self.memory.store().begin().await.unwrap().commit().await.unwrap();
                let query = format!(
                    "SELECT lower(hex(c.id)) || '|' || lower(hex(m.id)) FROM messages m JOIN conversations c
                        ON c.rid = m.conversation WHERE m.text LIKE '{} %' OR m.text LIKE '{} %'
                        ORDER BY m.seq",
                    self.said - 1,
                    self.said
                );
                let rows = ask(&self.path, &query).await;
                if rows.is_empty() {
                    return;
                }
                assert_eq!(rows.len(), 2, "half a turn: {rows:?}");
                let ids: Vec<(&str, &str)> = rows.iter().map(|row| row.split_once('|').unwrap()).collect();
                let message = |n: usize| ids[n].1.parse::<MessageId>().unwrap();
                (ids[0].0.parse().unwrap(), halves(message(0), message(1)))
            }
        };
        let now = self.time();
        let person = self.twin.people.get_mut(&user).unwrap();
        let place = person.conversations.entry(conversation).or_insert_with(|| Conversation::new(None));
        place.append(halves, &now, sources.into_iter().collect());
    }

    /// Rows written while the clock was not set get their true time, if it is set now.
    async fn restamp(&mut self) {
        self.memory.restamp().await.unwrap();
        self.other.memory.restamp().await.unwrap();
        self.twin.restamp(&self.time(), self.clock.monotonic_ns.load(Ordering::Relaxed));
    }

    /// One attempt. It may fail: a part may be broken on purpose.
    async fn round(&mut self) {
        if let Ok(done) = self.forwarder.run_once().await {
            assert_ne!(done, Progress::Buried, "{:#?}", queue::list_dead(self.memory.store(), 0, 10).await);
        }
    }

    async fn send_again(&mut self) {
        let mut conn = SqliteConnection::connect(self.path.to_str().unwrap()).await.unwrap();
        for sql in [
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                SELECT 'upsert_user', id, id, 0 FROM users",
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                SELECT 'upsert_conversation', c.id, u.id, 0 FROM conversations c JOIN users u
                ON u.rid = c.owner",
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                SELECT 'insert_message', m.id, u.id, 0 FROM messages m JOIN users u ON u.rid = m.owner",
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                SELECT 'upsert_voiceprint', v.id, u.id, 0 FROM voiceprints v JOIN users u ON u.rid = v.owner",
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                SELECT 'delete_' || kind, id, user_id, 0 FROM tombstones",
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                SELECT 'insert_message', id, user_id, 0 FROM tombstones",
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                SELECT 'append_audit', a.id, NULL, 0 FROM audit a",
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
                VALUES ('insert_message', randomblob(16), randomblob(16), 0), ('upsert_user',
                randomblob(16), NULL, 0)",
        ] {
            sqlx::query(sql).execute(&mut conn).await.unwrap();
        }
        conn.close().await.unwrap();
    }

    /// Nothing is broken any more: the queues empty, both devices read each other's writes, and all agree.
    async fn settle(&mut self) {
        self.lab.proxy.set(Mode::Pass);
        for exchange in 0.. {
            drain(&self.memory, &mut self.forwarder).await;
            let there = pull(self.lab, &self.other.memory, OTHER).await;
            drain(&self.other.memory, &mut self.other.forwarder).await;
            let here = pull(self.lab, &self.memory, DEVICE).await;
            let waiting = queue::waits(self.memory.store()).await.unwrap();
            if here == 0 && there == 0 && !waiting {
                break;
            }
            assert!(exchange < 6, "the devices keep telling each other the same: {there} there, {here} here");
        }
        let expected = self.twin.rows();
        let local = local_rows(&self.path, &LOCAL).await;
        assert_eq!(local.differences(&expected), Vec::<String>::new(), "this device (first) and the twin");
        let remote = self.remote_rows(&REMOTE);
        assert_eq!(remote.differences(&expected), Vec::<String>::new(), "Postgres (first) and the twin");
        let other = local_rows(&self.other.path, &LOCAL).await;
        let differences = other.differences(&expected);
        // Deletions of rows that a device never saw may or may not be noted there.
        let differences: Vec<_> = differences.iter().filter(|line| !line.starts_with("tombstones")).collect();
        assert_eq!(differences, Vec::<&String>::new(), "the other device (first) and the twin");
        let (local, remote) = (local_rows(&self.path, &AGREED_LOCAL).await, self.remote_rows(&AGREED_REMOTE));
        assert_eq!(local.differences(&remote), Vec::<String>::new(), "this device (first) and Postgres");
        self.lab.compared.set(self.lab.compared.get() + 1);
    }

    async fn elsewhere(&mut self, change: Change, n: usize) {
        self.settle().await;
        let there = self.other.memory.clone();
        match change {
            Change::Rename => {
                let Some((user, id)) = self.conversation(n) else { return };
                let title = format!("called {n} elsewhere");
                there.rename_conversation(user, id, &title).await.unwrap();
                let person = self.twin.people.get_mut(&user).unwrap();
                person.conversations.get_mut(&id).unwrap().title = Some(title);
            }
            Change::Forget => {
                let Some(user) = self.person(n) else { return };
                let Some(message) = self.message(user, n) else { return };
                assert_eq!(there.forget(user, &[message]).await.unwrap(), self.twin.forget(user, message));
            }
            Change::DeleteConversation => {
                let Some((user, id)) = self.conversation(n) else { return };
                there.delete_conversation(user, id).await.unwrap();
                self.twin.delete_conversation(user, id);
            }
            Change::RenameUser => {
                let Some(user) = self.person(n) else { return };
                self.said += 1;
                let name = format!("user {} elsewhere", self.said);
                there.rename_user(user, &name).await.unwrap();
                self.twin.people.get_mut(&user).unwrap().name = name;
            }
            Change::DeleteUser => {
                let Some(user) = self.person(n) else { return };
                there.delete_user(user).await.unwrap();
                self.twin.delete_user(user);
            }
        }
        self.settle_from_there().await;
    }

    /// Both devices know the same, then each makes a change before it knows of the other's.
    async fn apart(&mut self, changes: (Change, Change), n: usize, here_first: bool, here_sends_first: bool) {
        self.settle().await;
        // Changes unknown to each other are ordered by their clocks, so the clocks must not be behind the
        // existing names.
        let synced = self.clock.synced.load(Ordering::Relaxed);
        self.set_clock(self.latest + 100_000, synced);
        let (here, there) = (self.memory.clone(), self.other.memory.clone());
        let both = if here_first { [here, there] } else { [there, here] };
        let (user, conversation) = (self.person(n), self.conversation(n));
        let message = user.and_then(|user| self.message(user, n));
        for (memory, change) in both.into_iter().zip([changes.0, changes.1]) {
            self.set_clock(self.latest + 1, synced);
            self.said += 1;
            match (change, user, conversation, message) {
                (Change::Rename, _, Some((user, id)), _) => {
                    let title = format!("called {} apart", self.said);
                    memory.rename_conversation(user, id, &title).await.unwrap();
                    let person = self.twin.people.get_mut(&user).unwrap();
                    person.conversations.get_mut(&id).unwrap().title = Some(title);
                }
                (Change::RenameUser, Some(user), _, _) => {
                    let name = format!("user {} apart", self.said);
                    memory.rename_user(user, &name).await.unwrap();
                    self.twin.people.get_mut(&user).unwrap().name = name;
                }
                (Change::Forget, Some(user), _, Some(message)) => {
                    memory.forget(user, &[message]).await.unwrap();
                    self.twin.forget(user, message);
                }
                _ => {}
            }
        }
        // This one goes on with its conversations, under any title that the other one gives them.
        self.turn(1, n, 1, n, None).await;
        if here_sends_first {
            drain(&self.memory, &mut self.forwarder).await;
        }
        self.settle_from_there().await;
    }

    async fn session_turn(&mut self, n: usize, session: &str) {
        let Some(user) = self.person(n) else { return };
        let (text, reply) = (self.text(n), self.text(n / 7));
        let turn = NewTurn {
            text: &text,
            kind: Kind::Say,
            reply: &reply,
            responder: "builtin",
            sources: &[],
            forget: &[],
            meta: &TurnMeta::default(),
        };
        let id = SessionId::new(session).unwrap();
        let stored = self.memory.append_turn(user, Target::Session(&id), &turn).await.unwrap();
        let now = self.time();
        let halves = [
            (stored.user_message_id, text.replace('\0', "\u{fffd}")),
            (stored.assistant_message_id, reply.replace('\0', "\u{fffd}")),
        ];
        let conversations = &mut self.twin.people.get_mut(&user).unwrap().conversations;
        let known = conversations.iter().find(|(_, place)| place.session.as_deref() == Some(session));
        assert_eq!(known.map(|(id, _)| *id), (!stored.created).then_some(stored.conversation_id));
        let place = conversations.entry(stored.conversation_id).or_insert_with(|| Conversation::new(None));
        place.session = Some(session.to_owned());
        place.append(halves, &now, std::collections::BTreeSet::new());
    }

    /// The other device sends first, before this one can send anything else.
    async fn settle_from_there(&mut self) {
        drain(&self.other.memory, &mut self.other.forwarder).await;
        pull(self.lab, &self.memory, DEVICE).await;
        self.settle().await;
    }

    fn remote_rows(&self, tables: &[(&'static str, &str)]) -> Rows {
        let mut rows = Rows::default();
        let server = self.lab.server.borrow();
        for (table, sql) in tables {
            server.query(sql).into_iter().for_each(|mut row| rows.add(table, row.remove(0)));
        }
        rows
    }
}

async fn open(path: &Path, clock: &Arc<DrivenClock>, device: &str) -> Memory {
    Memory::open(path, &Device { id: device.into() }, Clock::Driven(clock.clone())).await.unwrap()
}

fn settings_of(lab: &Lab, device: &str) -> PgSettings {
    PgSettings { device: device.into(), ..settings(&lab.server.borrow(), lab.proxy.port()) }
}

fn forwarder(lab: &Lab, memory: &Memory, device: &str) -> Forwarder {
    Forwarder::new(memory.store().clone(), memory.clock().clone(), settings_of(lab, device)).at_most(AT_ONCE)
}

fn voiceprint(blob: &str) -> NewVoiceprint {
    NewVoiceprint {
        wrapped_key: b"wrapped".to_vec(),
        blob: blob.as_bytes().to_vec(),
        model_sha256: "a".repeat(64),
        front_end_sha256: "b".repeat(64),
        samples: 3,
        net_speech_s: 10.5,
        quality: serde_json::json!({}),
    }
}

/// Sends all that is queued. All faults are mended by now; at most a dead connection is still to be noticed.
async fn drain(memory: &Memory, forwarder: &mut Forwarder) {
    let deadline = Instant::now() + crate::support::PATIENCE;
    loop {
        match forwarder.run_once().await {
            Ok(Progress::Empty) => return,
            Ok(Progress::Sent(_) | Progress::NotYet) => {}
            Ok(Progress::Buried) => panic!("{:#?}", queue::list_dead(memory.store(), 0, 10).await),
            Err(e) => {
                assert!(Instant::now() < deadline, "{e:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Reads the other device's writes; returns their number.
async fn pull(lab: &Lab, memory: &Memory, device: &str) -> usize {
    let opener = Opener { name: Arc::new(|| "one key".into()), opens: Arc::new(|_| true) };
    let mut puller = Puller::new(memory.clone(), settings_of(lab, device), Some(opener));
    let brought = puller.run_once().await.unwrap();
    assert_eq!(brought.refused, 0, "{device} refuses rows of the other device");
    brought.changed
}

async fn ask(path: &Path, sql: &str) -> Vec<String> {
    let mut conn = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect()
}

async fn local_rows(path: &Path, tables: &[(&'static str, &str)]) -> Rows {
    let mut rows = Rows::default();
    for (table, sql) in tables {
        ask(path, sql).await.into_iter().for_each(|row| rows.add(table, row));
    }
    rows
}

impl Lab {
    fn new() -> Self {
        // The faults here kill processes, not the machine.
        let server = Postgres::with(Options { fsync: false, ..Options::default() });
        let proxy = Proxy::to(server.port());
        Self { server: RefCell::new(server), proxy, compared: Cell::new(0), acted: Cell::new(0) }
    }

    fn tell(&self, runtime: &tokio::runtime::Runtime, actions: &[Action]) {
        self.proxy.set(Mode::Pass);
        runtime.block_on(async {
            let mut story = Story::begin(self).await;
            story.act(&Action::AddUser).await;
            for action in actions {
                story.act(action).await;
            }
            story.settle().await;
        });
        self.acted.set(self.acted.get() + actions.len());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_turn_that_is_forgotten_before_it_was_sent_still_counts_in_its_conversation() {
    let actions = [
        Action::Turn(0, 0, 1, 0),
        Action::Settle,
        Action::Turn(1, 0, 1, 0),
        Action::Forget(2),
        Action::Settle,
        Action::Turn(1, 0, 1, 0),
    ];
    Lab::new().tell(&runtime(), &actions);
}

#[test]
fn a_client_that_begins_anew_keeps_its_name_for_the_conversation_on_every_device() {
    let again =
        [Action::SessionTurn(0, 2), Action::Settle, Action::DeleteConversation(0), Action::SessionTurn(0, 2)];
    Lab::new().tell(&runtime(), &again);
}

#[test]
fn an_empty_database_gets_everything_also_from_a_device_that_has_nothing_to_say() {
    let actions = [Action::DeleteUser(0), Action::Settle, Action::AnotherDatabase { empty: true }];
    Lab::new().tell(&runtime(), &actions);
}

#[test]
fn of_two_names_that_were_given_apart_the_later_one_stays_whoever_sends_it_first() {
    let lab = Lab::new();
    let runtime = runtime();
    for (here_first, here_sends_first) in [(true, true), (true, false), (false, true), (false, false)] {
        let apart = |first, second| Action::Apart { first, second, n: 0, here_first, here_sends_first };
        let actions = [
            Action::SessionTurn(0, 1),
            apart(Change::Rename, Change::Rename),
            apart(Change::RenameUser, Change::RenameUser),
            apart(Change::Rename, Change::Forget),
            Action::SessionTurn(0, 1),
        ];
        lab.tell(&runtime, &actions);
    }
}

#[test]
fn the_real_thing_and_a_naive_twin_tell_the_same_story() {
    let lab = Lab::new();
    let runtime = runtime();
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").map_or(24, |n| n.parse().unwrap()),
        max_shrink_iters: 150,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(SEEDS))),
        ..Config::default()
    };
    let cases = config.cases;
    let mut runner = TestRunner::new(config);
    let stories = prop::collection::vec(action(), 5..60);
    let told = runner.run(&stories, |actions| {
        lab.tell(&runtime, &actions);
        Ok(())
    });
    if let Err(why) = told {
        panic!("{why}");
    }
    println!(
        "{cases} stories and those of {SEEDS}, {} actions, {} comparisons",
        lab.acted.get(),
        lab.compared.get()
    );
}
