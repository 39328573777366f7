//! Which table a record is a row of, told by its columns alone: the pages that would say so may be the
//! damaged ones.
//!
//! The order and types of columns are those of `store/tables`; an `INTEGER PRIMARY KEY` is stored as
//! NULL, its value is the row number. Rows from before a column was added are shorter.

use std::sync::LazyLock;

use super::pages::{Record, Tree, Value};
use crate::store::tables;
use crate::store::tables::file::{FileTable, LOCAL, OPEN_TURNS, SEQUENCE};

/// A table whose rows are salvaged, with the statement that writes one.
#[derive(Debug)]
pub struct Table {
    pub(super) of: FileTable,
    pub(super) insert: &'static str,
}

/// In the order in which they are written.
pub static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    let synced = tables::all().into_iter().map(|table| table.file);
    let all = LOCAL.into_iter().chain(synced).chain([OPEN_TURNS, SEQUENCE]).filter(|of| !of.shape.is_empty());
    all.map(|of| Table { of, insert: of.insert().leak() }).collect()
});

/// The statement that writes a row of the table of this name.
pub fn insert_into(name: &str) -> &'static str {
    TABLES.iter().find(|table| table.of.name == name).map_or("", |table| table.insert)
}

/// Integers of a sound row are nearer to 0: milliseconds since 1970, nanoseconds since a start, numbers that
/// grew one by one. A database with a number at the end of what there is can be opened, and takes nothing
/// more.
const NO_LARGER: u64 = 1 << 62;
/// As `memory/replica.rs` takes it from other devices.
const NO_MORE_MESSAGES: i64 = 1 << 52;

/// The table that `record` is a row of.
pub fn table_of(record: &Record) -> Option<&'static Table> {
    let values = &record.values;
    if record.rowid.unsigned_abs() > NO_LARGER {
        return None;
    }
    let fits = |of: &FileTable| {
        of.without_rowid == (record.tree == Tree::Index)
            && (of.shape.len() == values.len() || of.older.contains(&values.len()))
            && of.shape.chars().zip(values).all(|(c, v)| column(c, v))
    };
    TABLES.iter().find(|table| fits(&table.of))
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
