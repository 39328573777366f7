//! The tables of the file of a device in their stored form: for copies of the file, and for a damaged file.

/// The value of a column in rows from before it was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    Null,
    Zero,
    Empty,
    /// `named` of a row with an unknown moment: every other value is later.
    NeverNamed,
}

/// A table that backups hash, and whose rows are salvaged from a damaged file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileTable {
    pub(crate) name: &'static str,
    /// The name of its rows in messages to a person.
    pub(crate) called: &'static str,
    /// Columns of the primary key: equal tables are read in the same order.
    pub(crate) key: &'static str,
    /// Whether its rows are stored in the order of the key, without row numbers.
    pub(crate) without_rowid: bool,
    /// Names of the columns, in the order of the file, which is that of `migrations/sqlite`.
    pub(crate) columns: &'static str,
    /// One letter for each column: `r` row number (NULL), `u` uuid, `b` bytes, `t` text, `i` integer, `s` a
    /// number that counts messages, `f` flag (0 or 1), `n` number; a capital letter may also be NULL. Empty:
    /// its rows are not recognised by their shape.
    pub(crate) shape: &'static str,
    /// Column counts of rows from before columns were added at the end. A new column adds the count before it
    /// here, its value to `added`, and its name and letter above; without the count, rows that no newer
    /// program has written are not recognised in a damaged file.
    pub(crate) older: &'static [usize],
    /// The values of the last columns in rows without them.
    pub(crate) added: &'static [Added],
}

impl FileTable {
    pub(crate) const fn of(name: &'static str) -> Self {
        Self {
            name,
            called: name,
            key: "rid",
            without_rowid: false,
            columns: "",
            shape: "",
            older: &[],
            added: &[],
        }
    }

    pub(crate) fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.columns.split_ascii_whitespace()
    }

    /// Selects all rows, in the same order for equal tables.
    pub(crate) fn select(&self) -> String {
        format!("SELECT * FROM {} ORDER BY {}", self.name, self.key)
    }

    /// Inserts a whole row; an existing row stays.
    pub(crate) fn insert(&self) -> String {
        let columns: Vec<&str> = self.columns().collect();
        let values: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        let (columns, values) = (columns.join(", "), values.join(", "));
        format!("INSERT OR IGNORE INTO {} ({columns}) VALUES ({values})", self.name)
    }
}

/// Tables that no other device reads, and bookkeeping tables of the synced ones.
pub(crate) const LOCAL: [FileTable; 7] = [
    FileTable { columns: "rid boot_id", shape: "rt", ..FileTable::of("boots") },
    FileTable { columns: "rid id created_unix_ms", shape: "rti", ..FileTable::of("devices") },
    FileTable {
        key: "kind, id",
        without_rowid: true,
        columns: "kind id user_id deleted_unix_ms",
        shape: "tuui",
        ..FileTable::of("tombstones")
    },
    FileTable {
        called: "queue entries",
        key: "seq",
        columns: "seq op entity_id user_id payload created_unix_ms",
        shape: "rtuUti",
        ..FileTable::of("queue")
    },
    FileTable {
        called: "dead letters",
        key: "seq",
        columns: "seq op entity_id user_id payload created_unix_ms failed_unix_ms attempts sqlstate error",
        shape: "rtuUtiiiTt",
        ..FileTable::of("dead_letter")
    },
    FileTable {
        key: "key",
        without_rowid: true,
        columns: "key value updated_unix_ms",
        shape: "tti",
        ..FileTable::of("settings")
    },
    // A pair of numbers has no recognisable shape: the rows are found by the name of their table.
    FileTable { key: "source, message", without_rowid: true, ..FileTable::of("message_sources") },
];

/// Turns being answered. The rows last for minutes, in a table that older files lack, so backups do not hash
/// it.
pub(crate) const OPEN_TURNS: FileTable = FileTable {
    called: "open answers",
    columns: "rid id owner conversation turn",
    shape: "ruiIt",
    ..FileTable::of("open_turns")
};

/// A table of SQLite itself: it holds the last number of the queue.
pub(crate) const SEQUENCE: FileTable =
    FileTable { called: "sequences", columns: "name seq", shape: "ti", ..FileTable::of("sqlite_sequence") };

/// Every table of the file, except derived ones (the full-text index), `forgotten` and [`OPEN_TURNS`].
pub(crate) fn kept() -> Vec<FileTable> {
    let synced = super::all().into_iter().map(|table| table.file);
    LOCAL.into_iter().chain(synced).collect()
}
