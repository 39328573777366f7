//! A memory in the simplest form: lists in a map. The model test does everything both here and with the real
//! store, and compares.

use std::collections::{BTreeMap, BTreeSet};

use jarvisd::memory::{ConversationId, MessageId, UserId, VoiceprintId};
use uuid::Uuid;

#[derive(Debug, Clone, Default)]
pub struct Twin {
    pub people: BTreeMap<UserId, Person>,
    /// (kind, id, owner)
    pub buried: BTreeSet<(&'static str, Uuid, Uuid)>,
}

#[derive(Debug, Clone, Default)]
pub struct Person {
    pub name: String,
    pub voiceprint: Option<Voiceprint>,
    pub conversations: BTreeMap<ConversationId, Conversation>,
}

#[derive(Debug, Clone)]
pub struct Voiceprint {
    pub id: VoiceprintId,
    pub blob: String,
}

/// When something was written.
#[derive(Debug, Clone)]
pub struct Time {
    pub wall_unix_ms: i64,
    /// Monotonic time, where the wall clock was not set.
    pub guessed_at_ns: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct Conversation {
    /// The title that the person gave it.
    pub title: Option<String>,
    /// The name that a client gave it.
    pub session: Option<String>,
    pub next_seq: i64,
    pub messages: Vec<Message>,
}

#[derive(Debug, Clone)]
pub struct Message {
    pub id: MessageId,
    pub seq: i64,
    pub text: String,
    pub time: Time,
    /// Messages that it was made from.
    pub sources: BTreeSet<MessageId>,
}

impl Conversation {
    pub fn new(title: Option<String>) -> Self {
        Self { title, session: None, next_seq: 1, messages: Vec::new() }
    }

    /// A turn: two messages.
    pub fn append(&mut self, halves: [(MessageId, String); 2], time: &Time, sources: BTreeSet<MessageId>) {
        let [question, answer] = halves;
        for ((id, text), sources) in [(question, BTreeSet::new()), (answer, sources)] {
            self.messages.push(Message { id, seq: self.next_seq, text, time: time.clone(), sources });
            self.next_seq += 1;
        }
    }
}

impl Person {
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.conversations.values().flat_map(|conversation| &conversation.messages)
    }

    /// The other half of the turn of a message: questions have odd numbers.
    fn mate(&self, id: MessageId) -> Option<MessageId> {
        self.conversations.values().find_map(|conversation| {
            let seq = conversation.messages.iter().find(|m| m.id == id)?.seq;
            let other = if seq % 2 == 1 { seq + 1 } else { seq - 1 };
            conversation.messages.iter().find(|m| m.seq == other).map(|m| m.id)
        })
    }

    /// A message, the other half of its turn, every turn whose answer was made from one of them, and so on.
    fn closure(&self, id: MessageId) -> BTreeSet<MessageId> {
        let mut gone = BTreeSet::from([id]);
        loop {
            let mates = gone.iter().filter_map(|id| self.mate(*id));
            let repeats = self
                .messages()
                .filter(|m| m.sources.iter().any(|source| gone.contains(source)))
                .map(|m| m.id);
            let more: BTreeSet<MessageId> = mates.chain(repeats).collect();
            let before = gone.len();
            gone.extend(more);
            if gone.len() == before {
                return gone;
            }
        }
    }
}

impl Twin {
    pub fn forget(&mut self, user: UserId, id: MessageId) -> usize {
        let Some(person) = self.people.get_mut(&user) else { return 0 };
        let gone = person.closure(id);
        for conversation in person.conversations.values_mut() {
            conversation.messages.retain(|m| !gone.contains(&m.id));
            for message in &mut conversation.messages {
                message.sources.retain(|source| !gone.contains(source));
            }
        }
        self.buried.extend(gone.iter().map(|id| ("message", id.0, user.0)));
        gone.len()
    }

    pub fn delete_conversation(&mut self, user: UserId, id: ConversationId) {
        let Some(person) = self.people.get_mut(&user) else { return };
        let Some(deleted) = person.conversations.remove(&id) else { return };
        let gone: BTreeSet<MessageId> = deleted.messages.iter().map(|m| m.id).collect();
        for message in person.conversations.values_mut().flat_map(|conversation| &mut conversation.messages) {
            message.sources.retain(|source| !gone.contains(source));
        }
        self.buried.insert(("conversation", id.0, user.0));
    }

    pub fn enrol(&mut self, user: UserId, voiceprint: Voiceprint) {
        self.unenrol(user);
        let Some(person) = self.people.get_mut(&user) else { return };
        person.voiceprint = Some(voiceprint);
    }

    /// Deletes the voiceprint; tells whether there was one.
    pub fn unenrol(&mut self, user: UserId) -> bool {
        let gone = self.people.get_mut(&user).and_then(|person| person.voiceprint.take());
        self.buried.extend(gone.iter().map(|gone| ("voiceprint", gone.id.0, user.0)));
        gone.is_some()
    }

    /// `now` is right: a guessed time becomes `now` minus the time passed since.
    pub fn restamp(&mut self, now: &Time, monotonic_ns: i64) {
        if now.guessed_at_ns.is_some() {
            return;
        }
        let places = self.people.values_mut().flat_map(|person| person.conversations.values_mut());
        for message in places.flat_map(|place| &mut place.messages) {
            if let Some(then) = message.time.guessed_at_ns.take() {
                message.time.wall_unix_ms = now.wall_unix_ms - (monotonic_ns - then) / 1_000_000;
            }
        }
    }

    pub fn delete_user(&mut self, user: UserId) {
        self.people.remove(&user);
        self.buried.retain(|(_, _, owner)| *owner != user.0);
        self.buried.insert(("user", user.0, user.0));
    }

    /// Rows in the form of the queries to both databases, one list a table.
    pub fn rows(&self) -> Rows {
        let mut rows = Rows::default();
        for (user, person) in &self.people {
            rows.add("users", format!("{}|{}", user.0.simple(), person.name));
            if let Some(Voiceprint { id, blob }) = &person.voiceprint {
                rows.add("voiceprints", format!("{}|{}|{blob}", id.0.simple(), user.0.simple()));
            }
            for (id, conversation) in &person.conversations {
                let title = conversation.title.as_deref().unwrap_or("*");
                let (id, owner) = (id.0.simple(), user.0.simple());
                let session = conversation.session.as_deref().unwrap_or_default();
                rows.add(
                    "conversations",
                    format!("{id}|{owner}|{}|{session}|{title}", conversation.next_seq),
                );
                for message in &conversation.messages {
                    let role = if message.seq % 2 == 1 { "user" } else { "assistant" };
                    rows.add(
                        "messages",
                        format!(
                            "{}|{id}|{owner}|{}|{role}|{}|{}",
                            message.id.0.simple(),
                            message.seq,
                            message.time.wall_unix_ms,
                            message.text
                        ),
                    );
                    for source in &message.sources {
                        rows.add("sources", format!("{}|{}", message.id.0.simple(), source.0.simple()));
                    }
                }
            }
        }
        for (kind, id, owner) in &self.buried {
            rows.add("tombstones", format!("{kind}|{}|{}", id.simple(), owner.simple()));
        }
        rows
    }
}

/// Rows of each table, in no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows(BTreeMap<&'static str, BTreeSet<String>>);

impl Rows {
    pub fn add(&mut self, table: &'static str, row: String) {
        assert!(self.0.entry(table).or_default().insert(row), "the same row twice in {table}");
    }

    /// The first few differences, for people.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let tables: BTreeSet<&str> = self.0.keys().chain(other.0.keys()).copied().collect();
        let none = BTreeSet::new();
        let mut found = Vec::new();
        for table in tables {
            let (here, there) = (self.0.get(table).unwrap_or(&none), other.0.get(table).unwrap_or(&none));
            found.extend(here.difference(there).take(3).map(|row| format!("{table}: only first: {row}")));
            found.extend(there.difference(here).take(3).map(|row| format!("{table}: only second: {row}")));
        }
        found
    }
}

/// How SQLite is asked for [`Rows`].
pub const LOCAL: [(&str, &str); 6] = [
    ("users", "SELECT lower(hex(id)) || '|' || name FROM users"),
    (
        "voiceprints",
        "SELECT lower(hex(v.id)) || '|' || lower(hex(u.id)) || '|' || CAST(v.blob AS TEXT)
        FROM voiceprints v JOIN users u ON u.rid = v.owner",
    ),
    (
        "conversations",
        "SELECT lower(hex(c.id)) || '|' || lower(hex(u.id)) || '|' || c.next_seq || '|'
            || coalesce(c.session_id, '') || '|' || CASE c.title_by_user WHEN 1 THEN c.title ELSE '*' END
        FROM conversations c JOIN users u ON u.rid = c.owner",
    ),
    (
        "messages",
        "SELECT lower(hex(m.id)) || '|' || lower(hex(c.id)) || '|' || lower(hex(u.id)) || '|' || m.seq
            || '|' || m.role || '|' || m.wall_unix_ms || '|' || m.text
        FROM messages m JOIN conversations c ON c.rid = m.conversation JOIN users u ON u.rid = m.owner",
    ),
    (
        "sources",
        "SELECT lower(hex(m.id)) || '|' || lower(hex(o.id)) FROM message_sources s JOIN messages m
            ON m.rid = s.message JOIN messages o ON o.rid = s.source",
    ),
    ("tombstones", "SELECT kind || '|' || lower(hex(id)) || '|' || lower(hex(user_id)) FROM tombstones"),
];

/// How Postgres is asked for [`Rows`].
pub const REMOTE: [(&str, &str); 6] = [
    ("users", "SELECT replace(id::text, '-', '') || '|' || name FROM jarvis.users"),
    (
        "voiceprints",
        "SELECT replace(id::text, '-', '') || '|' || replace(owner::text, '-', '') || '|'
        || convert_from(blob, 'UTF8') FROM jarvis.voiceprints",
    ),
    (
        "conversations",
        "SELECT replace(id::text, '-', '') || '|' || replace(owner::text, '-', '') || '|' || next_seq || '|'
            || coalesce(session_id, '') || '|' || CASE WHEN title_by_user THEN title ELSE '*' END
            FROM jarvis.conversations",
    ),
    (
        "messages",
        "SELECT replace(id::text, '-', '') || '|' || replace(conversation::text, '-', '') || '|'
            || replace(owner::text, '-', '') || '|' || seq || '|' || role || '|'
            || (extract(epoch FROM wall_time) * 1000)::bigint || '|' || text FROM jarvis.messages",
    ),
    (
        "sources",
        "SELECT replace(message::text, '-', '') || '|' || replace(source::text, '-', '')
            FROM jarvis.message_sources",
    ),
    (
        "tombstones",
        "SELECT kind || '|' || replace(id::text, '-', '') || '|' || replace(owner::text, '-', '')
            FROM jarvis.tombstones",
    ),
];

/// Columns that the twin does not predict and both databases must agree on: titles made of first words,
/// stamps, the audit log.
pub const AGREED_LOCAL: [(&str, &str); 2] = [
    (
        "conversations",
        "SELECT lower(hex(c.id)) || '|' || c.title || '|' || c.title_by_user || '|' || c.created_unix_ms
            || '|' || c.updated_unix_ms || '|' || c.updated_synced || '|' || d.id
        FROM conversations c JOIN devices d ON d.rid = c.device",
    ),
    (
        "audit",
        "SELECT lower(hex(a.id)) || '|' || coalesce(lower(hex(u.id)), '') || '|' || a.action || '|'
            || a.outcome || '|' || a.wall_unix_ms FROM audit a LEFT JOIN users u ON u.rid = a.owner",
    ),
];

pub const AGREED_REMOTE: [(&str, &str); 2] = [
    (
        "conversations",
        "SELECT replace(id::text, '-', '') || '|' || title || '|' || title_by_user::int || '|'
            || (extract(epoch FROM created_at) * 1000)::bigint || '|' || (extract(epoch
            FROM updated_at) * 1000)::bigint
            || '|' || updated_synced::int || '|' || device FROM jarvis.conversations",
    ),
    (
        "audit",
        "SELECT replace(id::text, '-', '') || '|' || coalesce(replace(owner::text, '-', ''), '') || '|'
            || action || '|'
            || outcome || '|' || (extract(epoch FROM wall_time) * 1000)::bigint FROM jarvis.audit
        WHERE device = 'kitchen'",
    ),
];
