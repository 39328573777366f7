//! The tables that devices share, each described once: a file with the row, its columns in both databases and
//! its differences from a plain table, and a line of the list below.
//!
//! The list yields the operations of the queue, the rows of a batch, and the cursors of reading and of
//! queueing again. It also yields the tables that `store check` compares, that are salvaged and that backups
//! hash. A description yields the statements of both databases (`table::Table`). A new table also needs its
//! migrations, a line in `memory/replica/tables.rs` (more if it is no plain one), and its part of exports.

macro_rules! synced {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty = $column:expr,)+ }
        table: $spec:expr;
        file: $file:expr;
        $($rest:tt)*
    ) => {
        row! { $(#[$meta])* $name { $($(#[$doc])* $field: $type,)+ } }

        impl $crate::store::tables::Synced for $name {
            fn table() -> &'static $crate::store::tables::Table {
                use std::sync::LazyLock;
                use $crate::store::tables::column::*;
                static TABLE: LazyLock<$crate::store::tables::Table> = LazyLock::new(|| {
                    let columns = [$($column.named(stringify!($field))),+];
                    $crate::store::tables::Table::of(&$spec, &columns, $file)
                });
                &TABLE
            }

            fn id(&self) -> uuid::Uuid {
                self.id
            }

            fn bind<'q>(
                rows: &'q [Self],
                query: $crate::store::tables::PgQuery<'q>,
                looked_for: bool,
            ) -> $crate::store::tables::PgQuery<'q> {
                use $crate::store::tables::column::*;
                $(let query = if !looked_for || $column.is_looked_for() {
                    query.bind(rows.iter().map(|row| &row.$field).collect::<Vec<_>>())
                } else {
                    query
                };)+
                query
            }

            fn bind_here<'q>(
                &'q self,
                owner: i64,
                query: $crate::store::tables::SqliteQuery<'q>,
            ) -> $crate::store::tables::SqliteQuery<'q> {
                $(let query = match stringify!($field) {
                    "owner" => query.bind(owner),
                    _ => query.bind(&self.$field),
                };)+
                query
            }

            $($rest)*
        }
    };
}

/// Declares a row. Every statement calls a column by its field.
macro_rules! row {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for $name
        where
            &'static str: sqlx::ColumnIndex<R>,
            $($type: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)+
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: row.try_get(stringify!($field))?,)+ })
            }
        }
    };
}

mod audit;
mod column;
mod conversations;
pub(crate) mod file;
mod messages;
#[cfg(test)]
pub(crate) mod probes;
mod table;
mod users;
mod voiceprints;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{FromRow, Postgres, Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;

pub use self::audit::AuditRow;
pub use self::conversations::ConversationRow;
pub(crate) use self::file::FileTable;
pub use self::messages::MessageRow;
#[cfg(test)]
pub use self::probes::ProbeRow;
use self::table::Spec;
pub(crate) use self::table::Table;
pub use self::users::UserRow;
pub use self::voiceprints::VoiceprintRow;
use super::postgres::{Pg, PgError};
use super::queue::Op;

pub(crate) type PgQuery<'q> = Query<'q, Postgres, PgArguments>;
pub(crate) type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// The list: passes every synced table to a macro, parents first. An entry is the name of the table, its row,
/// and the operations that send and delete a row; rows of the audit log are only sent. Names of operations
/// and tables, and the order, are formats: they are stored, and other versions read them.
macro_rules! for_tables {
    ($callback:ident) => {
        $callback! {
            { users UserRow UpsertUser "upsert_user" DeleteUser "delete_user" }
            { voiceprints VoiceprintRow UpsertVoiceprint "upsert_voiceprint"
                DeleteVoiceprint "delete_voiceprint" }
            { conversations ConversationRow UpsertConversation "upsert_conversation"
                DeleteConversation "delete_conversation" }
            { messages MessageRow InsertMessage "insert_message" DeleteMessage "delete_message" }
            { #[cfg(test)] probes ProbeRow UpsertProbe "upsert_probe" DeleteProbe "delete_probe" }
            sent { audit AuditRow AppendAudit "append_audit" }
        }
    };
}
pub(crate) use for_tables;

/// A row of a synced table.
pub(crate) trait Synced:
    Debug + Send + Sync + Unpin + 'static + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow>
{
    fn table() -> &'static Table;

    fn id(&self) -> Uuid;

    /// The person who owns the row.
    fn owner(&self) -> Option<Uuid>;

    /// The device that the row names.
    fn device(&self) -> Option<&str> {
        None
    }

    /// Binds an array for each column, or for each column that is `looked_for`.
    fn bind<'q>(rows: &'q [Self], query: PgQuery<'q>, looked_for: bool) -> PgQuery<'q>;

    /// Binds each column, with the local row number of a person in place of their id.
    fn bind_here<'q>(&'q self, owner: i64, query: SqliteQuery<'q>) -> SqliteQuery<'q>;
}

row! {
    /// A deleted row.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Tombstone {
        kind: String,
        id: Uuid,
        owner: Uuid,
        deleted_unix_ms: i64,
    }
}

macro_rules! lists {
    (
        $({ $(#[$on:meta])* $rows:ident $row:ident $put:ident $put_name:literal $($delete:tt)+ })+
        sent $({ $sent:ident $sent_row:ident $append:ident $append_name:literal })+
    ) => {
        /// Every synced table, parents first.
        pub(crate) fn all() -> Vec<&'static Table> {
            let all = [$($(#[$on])* $row::table(),)+ $($sent_row::table(),)+].to_vec();
            #[cfg(test)]
            let all = probes::unless_unwanted(all);
            all
        }

        /// Rows of every synced table.
        #[derive(Debug, Default)]
        pub struct Rows {
            $($(#[$on])* pub $rows: Vec<$row>,)+
            $(pub $sent: Vec<$sent_row>,)+
        }

        impl Rows {
            pub fn is_empty(&self) -> bool {
                $($(#[$on])* if !self.$rows.is_empty() { return false; })+
                $(if !self.$sent.is_empty() { return false; })+
                true
            }

            /// Ids of all rows.
            pub(super) fn ids(&self) -> HashSet<Uuid> {
                let mut ids = HashSet::new();
                $($(#[$on])* ids.extend(self.$rows.iter().map(Synced::id));)+
                $(ids.extend(self.$sent.iter().map(Synced::id));)+
                ids
            }

            /// The owners of the rows that other devices read.
            pub(super) fn owners(&self) -> BTreeSet<Uuid> {
                let mut owners = BTreeSet::new();
                $($(#[$on])* owners.extend(self.$rows.iter().filter_map(Synced::owner));)+
                owners
            }

            /// Every device named by a row.
            pub(super) fn devices(&self) -> BTreeSet<&str> {
                let mut devices = BTreeSet::new();
                $($(#[$on])* devices.extend(self.$rows.iter().filter_map(Synced::device));)+
                $(devices.extend(self.$sent.iter().filter_map(Synced::device));)+
                devices
            }

            /// Reads the rows named by the entries `between` two numbers, for the tables of `ops`.
            pub(super) async fn read(
                conn: &mut SqliteConnection,
                ops: &BTreeSet<Op>,
                between: (i64, i64),
            ) -> Result<Self, sqlx::Error> {
                let mut rows = Self::default();
                $($(#[$on])* if ops.contains(&Op::$put) { rows.$rows = waiting(conn, between).await?; })+
                $(if ops.contains(&Op::$append) { rows.$sent = waiting(conn, between).await?; })+
                Ok(rows)
            }

            /// Sends all rows, one statement for each table.
            pub(super) async fn send(&self, pg: &mut Pg, device: &str) -> Result<(), PgError> {
                $($(#[$on])* pg.put(&self.$rows, device).await?;)+
                $(pg.put(&self.$sent, device).await?;)+
                Ok(())
            }
        }

        /// Change numbers, one for each table that is read: the last one read, or the highest there.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Changes {
            $($(#[$on])* pub $rows: i64,)+
            pub tombstones: i64,
        }

        impl Changes {
            /// Reads a row with a column for each of [`numbered`].
            pub(super) fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
                let mut changes = Self::default();
                for table in numbered() {
                    if let Some(change) = changes.of_mut(table) {
                        *change = row.try_get(table)?;
                    }
                }
                Ok(changes)
            }

            /// The greater number of both, table by table.
            pub(super) fn or_further(self, other: Self) -> Self {
                Self {
                    $($(#[$on])* $rows: self.$rows.max(other.$rows),)+
                    tombstones: self.tombstones.max(other.tombstones),
                }
            }

            pub(super) fn highest(self) -> i64 {
                numbered().into_iter().map(|table| self.of(table)).max().unwrap_or(0)
            }

            fn of_mut(&mut self, table: &str) -> Option<&mut i64> {
                $($(#[$on])* if table == stringify!($rows) { return Some(&mut self.$rows); })+
                (table == TOMBSTONES).then_some(&mut self.tombstones)
            }

            /// The number of the table of this name; 0 if it is not read.
            pub(super) fn of(mut self, table: &str) -> i64 {
                self.of_mut(table).map_or(0, |change| *change)
            }
        }
    };
}
for_tables!(lists);

pub(crate) const TOMBSTONES: &str = "tombstones";

/// The tables with change numbers; the tombstones come last.
pub(crate) fn numbered() -> Vec<&'static str> {
    let read = all().into_iter().filter(|table| table.kind.is_some()).map(|table| table.name);
    read.chain([TOMBSTONES]).collect()
}

async fn waiting<T: Synced>(
    conn: &mut SqliteConnection,
    (after, last): (i64, i64),
) -> Result<Vec<T>, sqlx::Error> {
    sqlx::query_as(T::table().here.waiting).bind(after).bind(last).fetch_all(conn).await
}
