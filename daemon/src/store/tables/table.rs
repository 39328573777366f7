//! A synced table: its differences from a plain one, and the resulting statements of both databases.

use super::column::Column;
use super::file::FileTable;
use crate::store::queue::Op;

/// The differences of a table from a plain one, whose rows belong to a person and are replaced as a whole by
/// the last sender. In expressions for SQLite `r` is the row and `u` its person. In those for Postgres `t` is
/// the present row, `x` the sent one, and `s.sender` the device that sends it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// Name in both databases.
    pub(super) name: &'static str,
    /// Kind of its tombstones. Without one its rows are only sent: no device reads or deletes them.
    pub(super) kind: Option<&'static str>,
    /// The operation that sends a row.
    pub(super) put: Op,
    /// Column with the person; `None`: the row is a person.
    pub(super) owner: Option<&'static str>,
    /// Column with the row number in SQLite.
    pub(super) number: &'static str,
    /// Tables of SQLite that its columns need besides the person's.
    pub(super) joins: &'static str,
    /// Other kinds of tombstones that bury a row, and the columns with their ids.
    pub(super) buried_with: &'static [(&'static str, &'static str)],
    /// The action there on an existing row; empty: it is replaced if it differs.
    pub(super) on_conflict: &'static str,
    /// Whether `t` is as new as `x`, although nothing was written.
    pub(super) as_sent: &'static str,
    /// The source of a page of rows; `None`: the table, by its change numbers.
    pub(super) page: Option<&'static str>,
    /// Whether `store check` compares its rows one by one.
    pub(super) compared: bool,
    /// Whether a memory takes all its rows back from the queue file of a Postgres backup.
    pub(super) taken_back: bool,
}

impl Spec {
    pub(super) const fn of(name: &'static str, kind: Option<&'static str>, put: Op) -> Self {
        Self {
            name,
            kind,
            put,
            owner: Some("owner"),
            number: "rid",
            joins: "",
            buried_with: &[("user", "owner")],
            on_conflict: "",
            as_sent: "true",
            page: None,
            compared: true,
            taken_back: true,
        }
    }
}

/// A synced table with its statements.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) kind: Option<&'static str>,
    pub(crate) put: Op,
    /// Whether its rows belong to people, rather than being people.
    pub(crate) is_owned: bool,
    pub(crate) taken_back: bool,
    /// Other kinds of tombstones that bury a row, and the columns with their ids.
    pub(crate) buried_with: &'static [(&'static str, &'static str)],
    /// The table in the file.
    pub(crate) file: FileTable,
    pub(crate) here: SqliteStatements,
    pub(crate) there: PgStatements,
}

/// Statements for SQLite.
#[derive(Debug)]
pub(crate) struct SqliteStatements {
    /// Rows named by entries after ?1 up to ?2.
    pub(crate) waiting: &'static str,
    pub(crate) by_id: &'static str,
    /// The id of the owner of row ?1.
    pub(crate) owner: &'static str,
    pub(crate) delete: &'static str,
    /// Ids of the list ?1 that exist here.
    pub(crate) known: &'static str,
    /// The last of the next ?2 rows after number ?1.
    pub(crate) up_to: &'static str,
    /// Queues the rows after number ?1 up to ?2 with their owners; the owner of an audit row may be gone.
    pub(crate) queue: &'static str,
    /// The highest row number.
    pub(crate) last: &'static str,
    /// A page of rows to compare: the id, the owner, the compared values, and whether it waits.
    pub(crate) compared: Option<&'static str>,
    /// Writes a row as it was sent, with the person's number as owner; empty if a table needs more than that.
    pub(crate) put: &'static str,
}

/// Statements for Postgres.
#[derive(Debug)]
pub(crate) struct PgStatements {
    /// Writes a batch: an array for each column, then the sending device.
    pub(crate) send: &'static str,
    /// One row of a batch that is neither as sent nor buried.
    pub(crate) swallowed: &'static str,
    /// Rows after change $1 that $2 did not write, or all if $3; at most $4.
    pub(crate) page: Option<&'static str>,
    pub(crate) by_id: &'static str,
    /// Rows of these people.
    pub(crate) of_owners: &'static str,
    pub(crate) delete: &'static str,
    /// Rows of a deletion that are not buried or still exist.
    pub(crate) undeleted: &'static str,
    /// As [`SqliteStatements::compared`]; a row newer than $4 that $5 did not write is not read yet.
    pub(crate) compared: Option<&'static str>,
}

impl Table {
    pub(super) fn of(spec: &Spec, columns: &[Column], file: FileTable) -> Self {
        Self {
            name: spec.name,
            kind: spec.kind,
            put: spec.put,
            is_owned: spec.owner.is_some(),
            taken_back: spec.taken_back,
            buried_with: spec.buried_with,
            file,
            here: SqliteStatements::of(spec, columns),
            there: PgStatements::of(spec, columns),
        }
    }

    /// SQL that is true of an entry `of` that sends a missing row.
    pub(crate) fn has_no_row(&self, of: &str) -> String {
        let (op, name) = (self.put, self.name);
        format!("({of}.op = '{op}' AND NOT EXISTS (SELECT 1 FROM {name} r WHERE r.id = {of}.entity_id))")
    }

    /// Every statement, for the tests that prepare them.
    #[cfg(test)]
    pub(crate) fn statements_here(&self) -> Vec<(&'static str, &'static str)> {
        let SqliteStatements { waiting, by_id, owner, delete, known, up_to, queue, last, compared, put } =
            &self.here;
        let all = [waiting, by_id, owner, delete, known, up_to, queue, last].map(|sql| Some(*sql));
        let put = Some(*put).filter(|put| !put.is_empty());
        all.into_iter().chain([*compared, put]).flatten().map(|sql| (self.name, sql)).collect()
    }

    /// Every statement, for the tests that prepare them.
    #[cfg(test)]
    pub(crate) fn statements_there(&self) -> Vec<(&'static str, &'static str)> {
        let PgStatements { send, swallowed, page, by_id, of_owners, delete, undeleted, compared } =
            &self.there;
        let read = page.map(|page| [page, by_id, of_owners, delete, undeleted]).into_iter().flatten();
        let all = read.chain([*send, *swallowed]).chain(*compared);
        all.map(|sql| (self.name, sql)).collect()
    }
}

fn list<T>(of: impl IntoIterator<Item = T>, text: impl Fn(T) -> String) -> String {
    of.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The compared values, with a bar between two values.
fn sum(columns: &[Column], text: impl Fn(&Column) -> String) -> String {
    let values: Vec<String> = columns.iter().filter(|c| c.is_compared()).map(text).collect();
    if values.is_empty() { "''".to_owned() } else { values.join(" || '|' || ") }
}

impl SqliteStatements {
    fn of(spec: &Spec, columns: &[Column]) -> Self {
        let Spec { name, put: op, number, joins, .. } = spec;
        let (person, owner) = match spec.owner {
            Some(owner) => (format!(" LEFT JOIN users u ON u.rid = r.{owner}"), "u.id"),
            None => (String::new(), "r.id"),
        };
        let values = list(columns, |c| format!("{} AS {}", c.value_here(), c.field));
        let row = format!("SELECT {values} FROM {name} r{person} {joins} WHERE r.id");
        let (sum, id) = (sum(columns, Column::sum_here), "r.id");
        let compared = format!(
            "SELECT {id} AS id, {owner} AS owner, {sum} AS sum,
                EXISTS (SELECT 1 FROM queue q WHERE q.entity_id = {id}) AS waits
            FROM {name} r{person} WHERE {id} > ?1 ORDER BY {id} LIMIT ?2"
        );
        let queue = format!(
            "INSERT INTO queue (op, entity_id, user_id, created_unix_ms)
            SELECT '{op}', {id}, {owner}, ?3 FROM {name} r{person}
            WHERE r.{number} > ?1 AND r.{number} <= ?2 ORDER BY r.{number}"
        );
        Self {
            waiting: String::leak(format!(
                "{row} IN (SELECT entity_id FROM queue WHERE seq > ?1 AND seq <= ?2 AND op = '{op}')
                ORDER BY r.{number}"
            )),
            by_id: String::leak(format!("{row} = ?1")),
            owner: String::leak(format!("SELECT {owner} AS id FROM {name} r{person} WHERE {id} = ?1")),
            delete: String::leak(format!("DELETE FROM {name} WHERE id = ?1")),
            known: String::leak(format!(
                "SELECT id FROM {name} WHERE id IN (SELECT unhex(value) FROM json_each(?1))"
            )),
            up_to: String::leak(format!(
                "SELECT max(rid) AS rid FROM
                    (SELECT {number} AS rid FROM {name} WHERE {number} > ?1 ORDER BY {number} LIMIT ?2)"
            )),
            queue: String::leak(queue),
            last: String::leak(format!("SELECT coalesce(max({number}), 0) AS rid FROM {name}")),
            compared: spec.compared.then(|| &*String::leak(compared)),
            put: put_here(spec, columns).leak(),
        }
    }
}

/// The statement [`SqliteStatements::put`]; empty if a column is not stored as it is sent.
fn put_here(spec: &Spec, columns: &[Column]) -> String {
    if !spec.joins.is_empty() || spec.owner.is_none() {
        return String::new();
    }
    let name = spec.name;
    let names = list(columns, |c| c.name_here().to_owned());
    let values = list(1..=columns.len(), |n| format!("?{n}"));
    let insert = format!("INSERT INTO {name} ({names}) VALUES ({values})");
    if !spec.on_conflict.is_empty() {
        return insert;
    }
    let sent: Vec<&str> =
        columns.iter().map(Column::name_here).filter(|name| !["id", "owner"].contains(name)).collect();
    let set = list(&sent, |name| format!("{name} = excluded.{name}"));
    let (ours, theirs) = (sent.join(", "), list(&sent, |n| format!("excluded.{n}")));
    format!(
        "{insert} ON CONFLICT (id) DO UPDATE SET {set}
        WHERE owner = excluded.owner AND ({ours}) IS NOT ({theirs})"
    )
}

impl PgStatements {
    fn of(spec: &Spec, columns: &[Column]) -> Self {
        let name = spec.name;
        let owner = spec.owner.unwrap_or("id");
        let row =
            format!("SELECT change, {}", list(columns, |c| format!("{} AS {}", c.value_read(), c.field)));
        let page = spec.page.map_or_else(
            || {
                format!(
                    "jarvis.{name} WHERE change > $1 AND (origin IS DISTINCT FROM $2 OR $3)
                    ORDER BY change LIMIT $4"
                )
            },
            str::to_owned,
        );
        // Rows without a kind have no number either.
        let unread = match spec.kind {
            Some(_) => "change > $4 AND (origin IS DISTINCT FROM $5 OR $6)",
            None => "$4::bigint IS NULL AND $5::text IS NULL AND $6::boolean",
        };
        let sum = sum(columns, Column::sum_there);
        let compared = format!(
            "SELECT id, {owner} AS owner, {sum} AS sum, {unread} AS unread FROM jarvis.{name}
            WHERE id > $1 AND ($2::uuid IS NULL OR id <= $2) ORDER BY id LIMIT $3"
        );
        let looked_for: Vec<Column> = columns.iter().copied().filter(Column::is_looked_for).collect();
        let (sent, buried) = (rows(&looked_for), buried(spec));
        let as_sent = spec.as_sent;
        Self {
            send: send(spec, columns).leak(),
            swallowed: String::leak(format!(
                "SELECT 1 FROM {sent} WHERE NOT EXISTS
                    (SELECT FROM jarvis.{name} t WHERE t.id = x.id AND {as_sent}){buried} LIMIT 1"
            )),
            page: spec.kind.map(|_| &*String::leak(format!("{row} FROM {page}"))),
            by_id: String::leak(format!("{row} FROM jarvis.{name} WHERE id = ANY($1)")),
            of_owners: String::leak(format!(
                "{row} FROM jarvis.{name} WHERE {owner} = ANY($1) ORDER BY change"
            )),
            delete: String::leak(format!(
                "DELETE FROM jarvis.{name} t USING unnest($1::uuid[], $2::uuid[]) AS x (id, owner)
                WHERE t.id = x.id AND t.{owner} = x.owner"
            )),
            undeleted: String::leak(format!(
                "SELECT 1 FROM unnest($2::uuid[], $3::uuid[]) AS x (id, owner)
                WHERE NOT EXISTS (SELECT FROM jarvis.tombstones d
                        WHERE (d.kind = $1 AND d.id = x.id) OR (d.kind = 'user' AND d.id = x.owner))
                    OR EXISTS (SELECT FROM jarvis.{name} t WHERE t.id = x.id AND t.{owner} = x.owner) LIMIT 1"
            )),
            compared: spec.compared.then(|| &*String::leak(compared)),
        }
    }
}

/// The rows of a batch, an array for each column.
fn rows(columns: &[Column]) -> String {
    let arrays = list(columns.iter().zip(1..), |(c, n)| format!("${n}::{}", c.array()));
    format!("unnest({arrays}) AS x ({})", list(columns, |c| c.field.to_owned()))
}

/// Leaves out buried rows, whether buried alone or with a parent.
fn buried(spec: &Spec) -> String {
    let own = spec.kind.map(|kind| (kind, "id"));
    let each = |(kind, id): (&str, &str)| {
        format!(" AND NOT EXISTS (SELECT FROM jarvis.tombstones d WHERE d.kind = '{kind}' AND d.id = x.{id})")
    };
    own.into_iter().chain(spec.buried_with.iter().copied()).map(each).collect()
}

fn send(spec: &Spec, columns: &[Column]) -> String {
    let (name, device) = (spec.name, columns.len() + 1);
    let names = list(columns, |c| c.name_there().to_owned());
    let values = list(columns, Column::value_written);
    let (numbers, numbered) = match spec.kind {
        Some(_) => (", origin, change", ", s.sender, nextval('jarvis.changes')"),
        None => ("", ""),
    };
    let on_conflict = if spec.on_conflict.is_empty() {
        let sent: Vec<&str> = columns.iter().map(Column::name_there).filter(|name| *name != "id").collect();
        let set = list(&sent, |name| format!("{name} = excluded.{name}"));
        let (ours, theirs) =
            (list(&sent, |name| format!("t.{name}")), list(&sent, |n| format!("excluded.{n}")));
        format!(
            "DO UPDATE SET {set}, origin = excluded.origin, change = excluded.change
            WHERE ({ours}) IS DISTINCT FROM ({theirs})"
        )
    } else {
        spec.on_conflict.to_owned()
    };
    format!(
        "INSERT INTO jarvis.{name} AS t ({names}{numbers})
        SELECT {values}{numbered} FROM {} CROSS JOIN (SELECT ${device}::text) AS s (sender)
        WHERE true{}
        ON CONFLICT (id) {on_conflict}",
        rows(columns),
        buried(spec)
    )
}
