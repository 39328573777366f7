//! A device with its memory and its forwarder, as the daemon runs them, in this process; a person who talks
//! to it; and a comparison of the rows of Postgres with the promises to the person.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jarvisd::clock::Clock;
use jarvisd::health::{Condition, Health, Need};
use jarvisd::memory::{
    Appended, ConversationId, Device, Kind, Memory, MessageId, NewTurn, Target, TurnMeta, UserId,
};
use jarvisd::store::forward::{COMPONENT, Forwarder};
use jarvisd::store::postgres::PgSettings;
use jarvisd::store::queue;
use jarvisd::supervisor::Supervisor;

use super::PATIENCE;
use super::postgres::Postgres;
use super::random::Random;

/// Name of the one device of most tests.
pub const DEVICE: &str = "kitchen";

/// A person at a device.
pub struct Household {
    pub memory: Memory,
    pub user: UserId,
    pub health: Health,
    pub random: Random,
    conversation: Option<ConversationId>,
    promised: Promised,
    forwarding: Option<Supervisor>,
    path: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

/// The acknowledged turns: per conversation the texts in order.
#[derive(Debug, Clone, Default)]
pub struct Promised {
    pub turns: Rows,
}

impl Promised {
    pub fn note(&mut self, stored: &Appended, text: &str, reply: &str) {
        let turns = self.turns.entry(stored.conversation_id).or_default();
        turns.push((stored.user_message_id, text.to_owned()));
        turns.push((stored.assistant_message_id, reply.to_owned()));
    }

    pub fn len(&self) -> usize {
        self.turns.values().map(Vec::len).sum()
    }
}

/// The settings of a device of this server, through `port` (a proxy's, or the server's own).
pub fn settings(server: &Postgres, port: u16) -> PgSettings {
    PgSettings {
        password_file: Some(server.password_file().into()),
        ..PgSettings::new(&server.url_at(port), DEVICE).unwrap()
    }
}

impl Household {
    pub async fn new(random: Random) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jarvis.db");
        let mut made = Self::open(&path, random).await;
        made._dir = Some(dir);
        made
    }

    pub async fn open(path: &Path, random: Random) -> Self {
        let device = Device { id: DEVICE.into() };
        let memory = Memory::open(path, &device, Clock::System).await.unwrap();
        let user = match memory.user_by_name("Anna").await {
            Ok(user) => user.id,
            Err(_) => memory.add_user("Anna").await.unwrap().id,
        };
        let health = Health::default();
        health.register(COMPONENT, Need::Optional);
        Self {
            memory,
            user,
            health,
            random,
            conversation: None,
            promised: Promised::default(),
            forwarding: None,
            path: path.to_owned(),
            _dir: None,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the forwarder as the daemon does.
    pub fn forward(&mut self, settings: PgSettings) {
        let mut supervisor = Supervisor::new();
        let forwarder = Forwarder::new(self.memory.store().clone(), self.memory.clock().clone(), settings);
        supervisor.task("forward", forwarder.run(self.health.clone(), supervisor.token())).unwrap();
        self.forwarding = Some(supervisor);
    }

    /// Stops it as the daemon does.
    pub async fn stop_forwarding(&mut self) {
        if let Some(supervisor) = self.forwarding.take() {
            supervisor.drain(Duration::from_secs(20)).await;
        }
    }

    /// Takes a turn; returns the time until it was on the disk.
    pub async fn turn(&mut self) -> Duration {
        let n = self.promised.len() / 2;
        let (text, reply) =
            (format!("question {n}"), format!("answer {n} {}", "word ".repeat(self.random.below(60))));
        if self.random.one_in(10) {
            self.conversation = None;
        }
        let target = self.conversation.map_or(Target::New, Target::Existing);
        let meta = TurnMeta::default();
        let turn = NewTurn {
            text: &text,
            kind: Kind::Say,
            reply: &reply,
            responder: "builtin",
            sources: &[],
            forget: &[],
            meta: &meta,
        };
        let started = Instant::now();
        let stored = self.memory.append_turn(self.user, target, &turn).await.unwrap();
        let took = started.elapsed();
        self.conversation = Some(stored.conversation_id);
        self.promised.note(&stored, &text, &reply);
        took
    }

    /// Takes turns for `time`, a few a second as in a busy household; returns their latencies.
    pub async fn turns_for(&mut self, time: Duration) -> Vec<Duration> {
        let until = Instant::now() + time;
        let mut times = Vec::new();
        while Instant::now() < until {
            times.push(self.turn().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        times
    }

    /// Waits until nothing is queued.
    pub async fn settle(&self) {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let depth = queue::depth(self.memory.store()).await.unwrap();
            if depth.entries == 0 {
                assert_eq!(
                    depth.dead_letters,
                    0,
                    "refused: {:#?}",
                    queue::list_dead(self.memory.store(), 0, 10).await
                );
                return;
            }
            assert!(Instant::now() < deadline, "{depth:?} stays; {:?}", self.condition());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn condition(&self) -> Condition {
        self.health.watch().borrow().components[COMPONENT].condition.clone()
    }

    /// Talks on until the health says one of `words` about Postgres. Returns the sentence and the latencies.
    pub async fn turns_until(&mut self, words: &[&str]) -> (String, Vec<Duration>) {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut times = Vec::new();
        loop {
            times.extend(self.turns_for(Duration::from_millis(200)).await);
            let condition = self.condition();
            if let Some(sentence) = condition.sentence()
                && words.iter().any(|word| sentence.contains(word))
            {
                return (sentence.to_owned(), times);
            }
            assert!(Instant::now() < deadline, "nobody says any of {words:?}: {condition:?}");
        }
    }

    /// Asserts that Postgres holds the promised messages: each once, in order, and no others.
    pub fn compare(&self, server: &Postgres) {
        compare(&self.promised, server);
    }
}

/// Asserts that Postgres holds the promised messages: each once, in order, and no others.
pub fn compare(promised: &Promised, server: &Postgres) {
    let mut found = rows_in(server);
    for (conversation, turns) in &promised.turns {
        let there = found.remove(conversation).unwrap_or_default();
        assert_eq!(&there, turns, "conversation {conversation}");
    }
    assert!(found.is_empty(), "in Postgres and never said: {found:?}");
    let next_seq =
        "SELECT count(*) FROM jarvis.conversations WHERE next_seq <> 1 + (SELECT coalesce(max(seq), 0)
        FROM jarvis.messages m WHERE m.conversation = conversations.id)";
    assert_eq!(server.value(next_seq), "0", "next_seq is not the next one");
}

/// Messages of each conversation, in order.
pub type Rows = BTreeMap<ConversationId, Vec<(MessageId, String)>>;

/// The rows of Postgres, where nothing was ever forgotten: `seq` without a gap.
pub fn rows_in(server: &Postgres) -> Rows {
    let rows =
        server.query("SELECT conversation, id, text, seq FROM jarvis.messages ORDER BY conversation, seq");
    let mut found = Rows::new();
    for row in &rows {
        let place = found.entry(row[0].parse().unwrap()).or_default();
        place.push((row[1].parse().unwrap(), row[2].clone()));
        assert_eq!(row[3], place.len().to_string(), "a gap or a repeat in {}", row[0]);
    }
    found
}

/// The device's own rows of `user`.
pub async fn local_rows(memory: &Memory, user: UserId) -> Rows {
    let mut found = Rows::new();
    let mut from = None;
    loop {
        let page = memory.list_conversations(user, from, 100).await.unwrap();
        for conversation in &page.items {
            let messages = memory.history(user, conversation.id, None, 1_000_000).await.unwrap();
            found.insert(conversation.id, messages.into_iter().map(|m| (m.id, m.text)).collect());
        }
        from = page.next;
        if from.is_none() {
            return found;
        }
    }
}

/// `p50 / p99 / longest` in milliseconds.
pub fn percentiles(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| {
        sorted
            .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
            .map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    format!("{:.1} / {:.1} / {:.1} ms of {}", at(50), at(99), at(100), sorted.len())
}
