//! Which table a record is a row of, told by its columns alone: the pages that would say so may be the
//! damaged ones.
//!
//! The order and types of columns are those of `migrations/sqlite`; an `INTEGER PRIMARY KEY` is stored as
//! NULL, its value is the row number. Rows from before a column was added are shorter.

use super::record::{Record, Tree, Value};

/// A table whose rows are salvaged, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Boots,
    Devices,
    Users,
    Voiceprints,
    Tombstones,
    Conversations,
    Messages,
    OpenTurns,
    Audit,
    Queue,
    DeadLetter,
    Settings,
    Sequence,
}

impl Table {
    pub const ALL: [Self; 13] = [
        Self::Boots,
        Self::Devices,
        Self::Users,
        Self::Voiceprints,
        Self::Tombstones,
        Self::Conversations,
        Self::Messages,
        Self::OpenTurns,
        Self::Audit,
        Self::Queue,
        Self::DeadLetter,
        Self::Settings,
        Self::Sequence,
    ];

    /// What a person calls its rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boots => "boots",
            Self::Devices => "devices",
            Self::Users => "people",
            Self::Voiceprints => "voiceprints",
            Self::Tombstones => "tombstones",
            Self::Conversations => "conversations",
            Self::Messages => "messages",
            Self::OpenTurns => "open answers",
            Self::Audit => "audit rows",
            Self::Queue => "queue entries",
            Self::DeadLetter => "dead letters",
            Self::Settings => "settings",
            Self::Sequence => "sequences",
        }
    }
}

/// One letter a column: `r` row number (NULL), `u` uuid, `b` bytes, `t` text, `i` integer, `s` a number that
/// counts messages, `f` flag (0 or 1), `n` number; a capital letter may also be NULL.
const SHAPES: &[(Table, Tree, &str)] = &[
    (Table::Boots, Tree::Table, "rt"),
    (Table::Devices, Tree::Table, "rti"),
    (Table::Users, Tree::Table, "ruttIif"),
    (Table::Users, Tree::Table, "ruttIifuT"),
    (Table::Voiceprints, Tree::Table, "rubbttintif"),
    (Table::Tombstones, Tree::Index, "tuui"),
    (Table::Conversations, Tree::Table, "ruitfssiififii"),
    // Written by the migration that added the column.
    (Table::Conversations, Tree::Table, "ruitfssiififiiI"),
    (Table::Conversations, Tree::Table, "ruitfssiififiiITts"),
    (Table::Conversations, Tree::Table, "ruitfssiififiiITtsu"),
    (Table::Messages, Tree::Table, "ruiistttTifiii"),
    (Table::OpenTurns, Tree::Table, "ruiIt"),
    (Table::Audit, Tree::Table, "ruIttTifiii"),
    (Table::Queue, Tree::Table, "rtuUti"),
    (Table::DeadLetter, Tree::Table, "rtuUtiiiTt"),
    (Table::Settings, Tree::Index, "tti"),
    (Table::Sequence, Tree::Table, "ti"),
];

/// Integers of a sound row are nearer to 0: milliseconds since 1970, nanoseconds since a start, numbers that
/// grew one by one. A database with a number at the end of what there is can be opened, and takes nothing
/// more.
const NO_LARGER: u64 = 1 << 62;
/// As `memory/replica.rs` takes it from other devices.
const NO_MORE_MESSAGES: i64 = 1 << 52;

/// The table that `record` is a row of.
pub fn table_of(tree: Tree, record: &Record) -> Option<Table> {
    let values = &record.values;
    let fits =
        |shape: &str| shape.len() == values.len() && shape.chars().zip(values).all(|(c, v)| column(c, v));
    if record.rowid.unsigned_abs() > NO_LARGER {
        return None;
    }
    SHAPES.iter().find(|(_, of, shape)| *of == tree && fits(shape)).map(|(table, _, _)| *table)
}

fn column(kind: char, value: &Value) -> bool {
    match (kind.to_ascii_lowercase(), value) {
        (_, Value::Null) => kind == 'r' || kind.is_ascii_uppercase(),
        ('u', Value::Blob(bytes)) => bytes.len() == 16,
        ('b', Value::Blob(_)) | ('t', Value::Text(_)) | ('f', Value::Int(0 | 1)) => true,
        ('i', Value::Int(n)) => n.unsigned_abs() <= NO_LARGER,
        ('s', Value::Int(n)) => (0..=NO_MORE_MESSAGES).contains(n),
        ('n', Value::Int(_) | Value::Real(_)) => true,
        _ => false,
    }
}
