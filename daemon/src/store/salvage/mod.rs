//! What can be read of a damaged database, in a new one.
//!
//! SQLite refuses a table when one inner page of it is broken. So the pages are read one by one (`pages`,
//! which knows no table of ours), every record that is whole is taken, told apart by its columns (`shape`),
//! and written to a new file of the present schema. Then the new file is made consistent:
//!
//! * a row whose parent is lost gets a new parent: messages without a conversation are a conversation again,
//!   what belongs to nobody any more belongs to a "Recovered person"; ids and names come from their indexes
//!   where these are whole;
//! * `next_seq` and the number of messages are counted anew, the full-text index is written anew;
//! * what was deleted stays deleted: tombstones are applied;
//! * the queue is kept, and where Postgres is used the device uploads everything again and pulls from the
//!   beginning, because entries may be among what was lost (`FORGET_POSTGRES`).
//!
//! No row is made up. A row of which only the words were changed in place cannot be told from a sound one:
//! SQLite keeps no checksums.

pub mod alive;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod pages;
mod shape;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use self::pages::{Image, Record, Schema, Value, read};
use super::open::PAGE_BYTES;
use super::sqlite::classify;
use super::tables::file::{self, Added, FileTable, OPEN_TURNS};
use super::tables::{self, Table};
use super::{StoreError, holder, schema};

/// What came of a damaged database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Salvaged {
    /// Rows by what they are.
    pub saved: BTreeMap<String, u64>,
    /// Messages that conversations counted and that are not there: what is certainly lost.
    pub lost_messages: i64,
    /// People and conversations whose own row was lost while rows of theirs were saved.
    pub recovered_people: u64,
    pub recovered_conversations: u64,
}

impl Salvaged {
    pub fn saved(&self, what: &str) -> u64 {
        self.saved.get(what).copied().unwrap_or(0)
    }

    /// Neither people nor anything that they said.
    pub fn is_nothing(&self) -> bool {
        let told = tables::all().into_iter().filter(|table| table.kind.is_some());
        told.map(|table| table.file.called).all(|called| self.saved(called) == 0)
            && self.recovered_people + self.recovered_conversations == 0
    }

    /// For a person, without a full stop.
    pub fn sentence(&self) -> String {
        if self.is_nothing() {
            return "nothing that was stored could be read, and an empty one took its place".to_owned();
        }
        let lost = match self.lost_messages {
            0 if self.saved("messages") == 0 => "nothing that was said could be read".to_owned(),
            0 => "no loss is known".to_owned(),
            n => format!("at least {n} messages are lost"),
        };
        format!(
            "{} messages in {} conversations of {} people were saved, {lost}",
            self.saved("messages"),
            self.saved("conversations") + self.recovered_conversations,
            self.saved("people") + self.recovered_people,
        )
    }
}

super::sql::statements! {
    BEGIN = "BEGIN";
    COMMIT = "COMMIT";
    SOURCE = "INSERT OR IGNORE INTO message_sources (source, message)
        SELECT s.rid, a.rid FROM messages s, messages a
        WHERE s.rid = ?1 AND a.rid = ?2 AND s.owner = a.owner";
    SEQUENCE_GONE = "DELETE FROM sqlite_sequence WHERE name = 'queue'";
    SEQUENCE = "INSERT INTO sqlite_sequence (name, seq)
        SELECT 'queue', max(?1, (SELECT coalesce(max(seq), 0) FROM queue), (SELECT coalesce(max(seq), 0)
        FROM dead_letter))";
    DELETED_OPEN_TURNS = "DELETE FROM open_turns WHERE owner IN
            (SELECT rid FROM users WHERE id IN (SELECT id FROM tombstones WHERE kind = 'user'))
        OR conversation IN
            (SELECT rid FROM conversations WHERE id IN (SELECT id FROM tombstones
            WHERE kind = 'conversation'))";
    LOST_CONVERSATIONS = "SELECT conversation AS rid, min(owner) AS owner, min(device) AS device,
        max(boot) AS boot,
            min(wall_unix_ms) AS began, max(wall_unix_ms) AS ended
        FROM messages WHERE conversation NOT IN (SELECT rid FROM conversations) GROUP BY conversation
        ORDER BY max(rid)";
    ADOPT = "INSERT INTO conversations (rid, id, owner, activity, created_unix_ms, created_synced,
        updated_unix_ms,
            updated_synced, updated_monotonic_ns, boot, device)
        VALUES (?1, ?2, ?3, (SELECT coalesce(min(activity), 1) - 1 FROM conversations
        WHERE owner = ?3), ?4, 0, ?5, 0, 0, ?6,
            ?7)";
    // A message that says another owner than its conversation belongs to nobody who may see it.
    STRAY_MESSAGES = "DELETE FROM messages WHERE NOT EXISTS
        (SELECT 1 FROM conversations c WHERE c.rid = messages.conversation AND c.owner = messages.owner)";
    USER_IDS = "SELECT id FROM users";
    CONVERSATION_IDS = "SELECT id FROM conversations";
    LOST_AUDITED = "UPDATE audit SET owner = NULL WHERE owner NOT IN (SELECT rid FROM users)";
    MISFIT_OPEN_TURNS = "DELETE FROM open_turns WHERE owner NOT IN (SELECT rid FROM users)";
    /// The turn begins a new conversation where its own is lost.
    HOMELESS_OPEN_TURNS = "UPDATE open_turns SET conversation = NULL
        WHERE conversation NOT IN (SELECT rid FROM conversations)";
    MISFIT_SOURCES = "DELETE FROM message_sources WHERE source NOT IN (SELECT rid FROM messages)
        OR message NOT IN (SELECT rid FROM messages)";
    HOMELESS = "UPDATE conversations SET device = coalesce(
        (SELECT m.device FROM messages m WHERE m.conversation = conversations.rid ORDER BY m.seq LIMIT 1),
        (SELECT min(d.rid) FROM devices d)) WHERE device IS NULL";
    // A sum that overflows is an error.
    LOST = "SELECT coalesce(sum(min(max(c.messages - (SELECT count(*) FROM messages m
        WHERE m.conversation = c.rid), 0),
        4294967296)), 0) AS lost FROM conversations c";
    COUNT_ANEW = "UPDATE conversations SET
        messages = (SELECT count(*) FROM messages m WHERE m.conversation = conversations.rid),
        next_seq = max(next_seq, 1 + coalesce((SELECT max(m.seq) FROM messages m
        WHERE m.conversation = conversations.rid), 0)),
        summary = CASE WHEN summary_seq < next_seq THEN summary ELSE '' END,
        summary_seq = CASE WHEN summary_seq < next_seq THEN summary_seq ELSE 0 END";
    // Which database of the house this device knows and how far it has read it: forgotten, so that everything
    // is sent and read again.
    FORGET_POSTGRES = "DELETE FROM settings WHERE key LIKE 'postgres%' OR key LIKE 'pull%'
        OR key LIKE 'house%'";
    /// Where its page was lost, the repaired file is still the memory of this device.
    HOLDS_ID = "INSERT OR IGNORE INTO settings (key, value, updated_unix_ms) VALUES (?1, ?2, ?3)";
    REPORT = "INSERT INTO settings (key, value, updated_unix_ms) VALUES (?3, ?1, ?2)
        ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_unix_ms = excluded.updated_unix_ms";
    BROKEN_KEYS = "SELECT count(*) AS n FROM pragma_foreign_key_check";
}

super::sql::built! {
    LOST_OWNERS = {
        let owned = tables::all().into_iter().filter(|table| table.kind.is_some() && table.is_owned);
        let owned = owned.map(|table| table.name).chain([OPEN_TURNS.name]);
        let owners = owned.map(|table| format!("SELECT owner AS rid FROM {table}"));
        format!("{} EXCEPT SELECT rid FROM users", owners.collect::<Vec<_>>().join(" UNION "))
    };
    // With a piece of chance, because anything may be called lost-1.
    LOST_BOOTS = format!("INSERT OR IGNORE INTO boots (rid, boot_id)
        SELECT boot, 'lost-' || boot || '-' || hex(randomblob(4)) FROM ({})
        WHERE boot NOT IN (SELECT rid FROM boots)", every("boot"));
    LOST_DEVICES = format!("INSERT OR IGNORE INTO devices (rid, id, created_unix_ms)
        SELECT device, 'lost-' || device || '-' || hex(randomblob(4)), 0 FROM ({})
        WHERE device IS NOT NULL AND device NOT IN (SELECT rid FROM devices)", every("device"));
}

/// The sizes of pages that this program has ever written.
const PAGE_SIZES: [usize; 2] = [1024, 4096];

/// Key of the newest [`Salvaged`] among the settings of the file.
pub const SALVAGED: &str = "salvaged";

/// Columns with the row number of another table.
const REFERENCES: [(&str, &str); 4] =
    [("owner", "users"), ("conversation", "conversations"), ("boot", "boots"), ("device", "devices")];

/// The values of the column of this name in all tables.
fn every(column: &str) -> String {
    let with = tables::all().into_iter().filter(|table| table.file.columns().any(|name| name == column));
    with.map(|table| format!("SELECT {column} FROM {}", table.name)).collect::<Vec<_>>().join(" UNION ")
}

/// Deletes what is buried, alone or with what it belongs to: children first, since foreign keys are not acted
/// upon while the rows come in.
fn delete_buried() -> Vec<String> {
    let all = tables::all();
    let buried = |kind: &str| format!("SELECT id FROM tombstones WHERE kind = '{kind}'");
    let delete = |table: &&Table| {
        let own = format!("id IN ({})", buried(table.kind?));
        let with = table.buried_with.iter().filter_map(|(kind, column)| {
            let parent = all.iter().find(|parent| parent.kind == Some(kind))?.name;
            Some(format!(" OR {column} IN (SELECT rid FROM {parent} WHERE id IN ({}))", buried(kind)))
        });
        Some(format!("DELETE FROM {} WHERE {own}{}", table.name, with.collect::<String>()))
    };
    all.iter().rev().filter_map(delete).collect()
}

/// Deletes the rows that found no place in spite of all that: a memory without them is better than none.
fn delete_misfits() -> Vec<String> {
    let delete = |table: &Table| {
        let known = REFERENCES.iter().filter(|(column, _)| table.file.columns().any(|name| name == *column));
        let misfit = known.map(|(column, parent)| format!("{column} NOT IN (SELECT rid FROM {parent})"));
        let misfit: Vec<String> = misfit.collect();
        (!misfit.is_empty()).then(|| format!("DELETE FROM {} WHERE {}", table.name, misfit.join(" OR ")))
    };
    tables::all().into_iter().filter_map(delete).collect()
}

/// Statements that follow from the list of tables, for the test that prepares them.
#[cfg(test)]
pub(crate) fn mending() -> Vec<String> {
    delete_buried().into_iter().chain(delete_misfits()).collect()
}

/// Writes what can be read of the database `damaged` into a new database at `fresh`, which must not exist.
///
/// # Errors
/// What the disk has to say: nothing of the damage itself is an error.
pub(super) async fn salvage(damaged: &Path, fresh: &Path, now_unix_ms: i64) -> Result<Salvaged, StoreError> {
    let disk = |e: std::io::Error| StoreError::Open { path: damaged.into(), source: e.into() };
    let image = Image::open(damaged, PAGE_SIZES).map_err(disk)?;
    let mut connect = SqliteConnectOptions::new()
        .filename(fresh)
        .create_if_missing(true)
        .page_size(PAGE_BYTES)
        .foreign_keys(false)
        .pragma("journal_mode", "MEMORY") // a half-written copy is thrown away as a whole
        .pragma("synchronous", "OFF") // it is synced as a whole before it takes its place
        .pragma("temp_store", "MEMORY")
        .pragma("secure_delete", "ON"); // what tombstones delete from what was saved
    connect = connect.log_statements(log::LevelFilter::Off);
    let mut conn = connect.connect().await.map_err(|e| classify(e, fresh))?;
    schema::migrate(&mut conn, fresh).await?;
    let mut into = Into { conn, path: fresh, done: Salvaged::default() };
    into.run(sqlx::query(BEGIN)).await?;
    into.load(&image).await?;
    into.mend(&image, now_unix_ms).await?;
    into.run(sqlx::query(COMMIT)).await?;
    let Into { conn, done, .. } = into;
    conn.close().await.map_err(|e| classify(e, fresh))?;
    std::fs::File::open(fresh).and_then(|file| file.sync_all()).map_err(disk)?;
    Ok(done)
}

/// The new database while it is being written.
struct Into<'a> {
    conn: SqliteConnection,
    path: &'a Path,
    done: Salvaged,
}

type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

impl Into<'_> {
    async fn run(&mut self, query: Query) -> Result<u64, StoreError> {
        let done = query.execute(&mut self.conn).await.map_err(|e| classify(e, self.path))?;
        Ok(done.rows_affected())
    }

    /// A row; one that breaks a rule of the schema is not whole and is left out.
    async fn insert(&mut self, query: Query) -> Result<bool, StoreError> {
        match self.run(query).await {
            Ok(rows) => Ok(rows > 0),
            Err(StoreError::Constraint { .. }) => Ok(false),
            // "datatype mismatch": a strict table refused a type.
            Err(StoreError::Sql(sqlx::Error::Database(e))) if e.code().as_deref() == Some("20") => Ok(false),
            Err(e) => Err(e),
        }
    }

    async fn run_all(&mut self, statements: Vec<String>) -> Result<(), StoreError> {
        for sql in statements {
            self.run(sqlx::query(AssertSqlSafe(sql))).await?;
        }
        Ok(())
    }

    async fn all(&mut self, sql: &'static str) -> Result<Vec<sqlx::sqlite::SqliteRow>, StoreError> {
        sqlx::query(sql).fetch_all(&mut self.conn).await.map_err(|e| classify(e, self.path))
    }

    /// Every whole row of every table, parents first.
    async fn load(&mut self, image: &Image) -> Result<(), StoreError> {
        let pages = self.sort(image).await;
        let mut sequence = 0;
        for table in shape::TABLES.iter() {
            let FileTable { name, called, .. } = table.of;
            for number in pages.get(name).into_iter().flatten() {
                for record in read(image, *number) {
                    if shape::table_of(&record).is_none_or(|of| of.of.name != name) {
                        continue;
                    }
                    if name == file::SEQUENCE.name {
                        if let [Value::Text(name), Value::Int(seq)] = record.values.as_slice()
                            && name == "queue"
                        {
                            sequence = sequence.max(*seq);
                        }
                    } else if self.insert(row(table, record)).await? {
                        *self.done.saved.entry(called.to_owned()).or_default() += 1;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        for record in Schema::read(image).entries(image, "message_sources") {
            if let [Value::Int(source), Value::Int(message)] = record.values.as_slice() {
                self.insert(sqlx::query(SOURCE).bind(*source).bind(*message)).await?;
            }
        }
        self.run(sqlx::query(SEQUENCE_GONE)).await?;
        self.run(sqlx::query(SEQUENCE).bind(sequence)).await?;
        Ok(())
    }

    /// Which pages hold rows of which table.
    async fn sort(&self, image: &Image) -> HashMap<&'static str, Vec<u32>> {
        let mut pages: HashMap<&str, Vec<u32>> = HashMap::new();
        for number in image.numbers() {
            let found = read(image, number);
            let tables = found.iter().filter_map(shape::table_of);
            let tables: HashSet<&'static str> = tables.map(|table| table.of.name).collect();
            for table in tables {
                pages.entry(table).or_default().push(number);
            }
            if number % 256 == 0 {
                tokio::task::yield_now().await;
            }
        }
        pages
    }

    /// Makes the rows consistent.
    async fn mend(&mut self, image: &Image, now_unix_ms: i64) -> Result<(), StoreError> {
        // Children first: foreign keys are not acted upon while the rows come in.
        self.run(sqlx::query(DELETED_OPEN_TURNS)).await?;
        self.run_all(delete_buried()).await?;
        let schema = Schema::read(image);
        for (index, table) in
            [("sqlite_autoindex_devices_1", "devices"), ("sqlite_autoindex_boots_1", "boots")]
        {
            for record in schema.entries(image, index) {
                if let [Value::Text(id), Value::Int(rid)] = record.values.as_slice() {
                    let mut insert = sqlx::query(shape::insert_into(table)).bind(*rid).bind(id.clone());
                    if table == "devices" {
                        insert = insert.bind(0);
                    }
                    self.insert(insert).await?;
                }
            }
        }
        self.mend_people(image, &schema, now_unix_ms).await?;
        self.mend_conversations(image, &schema).await?;
        for sql in [STRAY_MESSAGES, *LOST_BOOTS, *LOST_DEVICES, LOST_AUDITED] {
            self.run(sqlx::query(sql)).await?;
        }
        self.run_all(delete_misfits()).await?;
        for sql in [MISFIT_OPEN_TURNS, HOMELESS_OPEN_TURNS, MISFIT_SOURCES, HOMELESS] {
            self.run(sqlx::query(sql)).await?;
        }
        let lost = self.all(LOST).await?;
        self.done.lost_messages =
            lost.first().map_or(Ok(0), |row| row.try_get("lost")).map_err(StoreError::Sql)?;
        for sql in [COUNT_ANEW, FORGET_POSTGRES] {
            self.run(sqlx::query(sql)).await?;
        }
        let holds = sqlx::query(HOLDS_ID).bind(holder::KEY).bind(holder::TAKES_OVER).bind(now_unix_ms);
        self.run(holds).await?;
        let report = serde_json::json!(self.done).to_string();
        self.run(sqlx::query(REPORT).bind(report).bind(now_unix_ms).bind(SALVAGED)).await?;
        let broken = self.all(BROKEN_KEYS).await?;
        match broken.first().map_or(Ok(0), |row| row.try_get::<i64, _>("n")).map_err(StoreError::Sql)? {
            0 => Ok(()),
            n => Err(StoreError::Damaged {
                path: self.path.into(),
                detail: format!("{n} salvaged rows do not fit together"),
            }),
        }
    }

    async fn ids(&mut self, sql: &'static str) -> Result<HashSet<Vec<u8>>, StoreError> {
        let rows = self.all(sql).await?;
        rows.iter().map(|row| row.try_get("id").map_err(StoreError::Sql)).collect()
    }

    /// People whose row is lost, by what the indexes say of them.
    async fn mend_people(
        &mut self,
        image: &Image,
        schema: &Schema,
        now_unix_ms: i64,
    ) -> Result<(), StoreError> {
        let ids = schema.by_row(image, "sqlite_autoindex_users_1");
        let names = schema.by_row(image, "sqlite_autoindex_users_2");
        let mut there = self.ids(USER_IDS).await?;
        for (n, row) in self.all(*LOST_OWNERS).await?.iter().enumerate() {
            let rid: i64 = row.try_get("rid").map_err(StoreError::Sql)?;
            let id = id_or_new(ids.get(&rid), &mut there);
            let name = match names.get(&rid) {
                Some(Value::Text(name)) if !name.is_empty() => name.clone(),
                _ => format!("Recovered person {}", n + 1),
            };
            for attempt in 1..=u8::MAX {
                let free = if attempt == 1 { name.clone() } else { format!("{name} ({attempt})") };
                let add = sqlx::query(shape::insert_into("users")).bind(rid).bind(id.clone());
                let add = add.bind(free.clone()).bind(free.to_lowercase());
                let add = add
                    .bind(None::<i64>)
                    .bind(now_unix_ms)
                    .bind(0)
                    .bind(NEVER_NAMED.as_slice())
                    .bind(None::<String>);
                if self.insert(add).await? {
                    self.done.recovered_people += 1;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Conversations whose row is lost while messages of theirs are there.
    async fn mend_conversations(&mut self, image: &Image, schema: &Schema) -> Result<(), StoreError> {
        let ids = schema.by_row(image, "sqlite_autoindex_conversations_1");
        let mut there = self.ids(CONVERSATION_IDS).await?;
        for row in self.all(LOST_CONVERSATIONS).await? {
            let get = |column: &str| row.try_get::<i64, _>(column).map_err(StoreError::Sql);
            let rid = get("rid")?;
            let id = id_or_new(ids.get(&rid), &mut there);
            let adopt = sqlx::query(ADOPT).bind(rid).bind(id).bind(get("owner")?).bind(get("began")?);
            let adopt = adopt.bind(get("ended")?).bind(get("boot")?).bind(get("device")?);
            if self.insert(adopt).await? {
                self.done.recovered_conversations += 1;
            }
        }
        Ok(())
    }
}

/// The id that an index gives to a row number. A row with another number may have that id already, if the
/// damage is in the number; then it gets a new one, as where the index says nothing.
fn id_or_new(of_index: Option<&Value>, there: &mut HashSet<Vec<u8>>) -> Vec<u8> {
    match of_index {
        Some(Value::Blob(id)) if id.len() == 16 && there.insert(id.clone()) => id.clone(),
        _ => Uuid::now_v7().as_bytes().to_vec(),
    }
}

/// `named` of a row whose moment is not known: every other is later.
const NEVER_NAMED: [u8; 16] = [0; 16];

/// The statement that writes a row whose shape was checked.
fn row(table: &shape::Table, record: Record) -> Query {
    let added = table.of.added;
    let mut values = record.values;
    let missing = table.of.columns().count().saturating_sub(values.len());
    values.extend(added.iter().skip(added.len().saturating_sub(missing)).map(|added| match added {
        Added::Null => Value::Null,
        Added::Zero => Value::Int(0),
        Added::Empty => Value::Text(String::new()),
        Added::NeverNamed => Value::Blob(NEVER_NAMED.to_vec()),
    }));
    let mut query = sqlx::query(table.insert);
    for (at, value) in values.into_iter().enumerate() {
        query = match value {
            // The row number stands outside the record.
            Value::Null if at == 0 => query.bind(record.rowid),
            Value::Null => query.bind(None::<i64>),
            Value::Int(n) => query.bind(n),
            Value::Real(x) => query.bind(x),
            Value::Text(text) => query.bind(text),
            Value::Blob(bytes) => query.bind(bytes),
        };
    }
    query
}
