//! The salvage against an oracle: `sqlite3 DB ".recover --ignore-freelist"`, on every file of the damage
//! matrix.
//!
//! The salvage saves every row of a synced table that `.recover` brings out as it was stored, in its table or
//! among the lost and found. The only difference that is allowed is content that was deleted: `.recover` may
//! bring it back, and the salvage must not. Rows that `.recover` made up or that damage has changed in place
//! count on neither side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::pages::Tree;
use super::tests::{copy, damaged, household, places};
use super::*;

/// The program, with a library that it can recover with.
struct Oracle {
    library: Option<PathBuf>,
}

impl Oracle {
    /// Debian 12 builds its library without the table that `.recover` reads pages from: there the program
    /// runs on the SQLite that is built into ours, which says the name of the other one.
    fn find(folder: &Path) -> Result<Self, String> {
        let version = Command::new("sqlite3").arg("--version").output();
        let version = version.map_err(|e| format!("sqlite3 is not on this machine ({e})"))?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        let plain = Self { library: None };
        let probe = folder.join("probe.db");
        let sql = "CREATE TABLE t (x); INSERT INTO t VALUES (1)";
        assert!(Command::new("sqlite3").arg(&probe).arg(sql).status().unwrap().success());
        if plain.recovers(&probe) {
            return Ok(plain);
        }
        let id = version.split_once(' ').ok_or("sqlite3 does not say its version")?.1;
        let id = id.split(" (").next().unwrap_or(id);
        let built = Self { library: Some(build(folder, id)?) };
        if built.recovers(&probe) { Ok(built) } else { Err("sqlite3 cannot .recover here".to_owned()) }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("sqlite3");
        if let Some(library) = &self.library {
            command.env("LD_LIBRARY_PATH", library.parent().unwrap());
        }
        command
    }

    fn recovers(&self, probe: &Path) -> bool {
        let output = self.command().arg(probe).arg(".recover --ignore-freelist").output().unwrap();
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("INSERT")
    }

    /// Recovers `damaged` into the new database `to`; returns whether anything came out.
    fn recover(&self, damaged: &Path, to: &Path) -> bool {
        let mut from = self.command();
        let from = from.arg(damaged).arg(".recover --ignore-freelist").stdout(Stdio::piped());
        let mut from = from.stderr(Stdio::null()).spawn().unwrap();
        let mut into = self.command();
        let into = into.arg(to).stdin(from.stdout.take().unwrap()).stdout(Stdio::null());
        into.stderr(Stdio::null()).status().unwrap();
        from.wait().unwrap();
        fs::metadata(to).is_ok_and(|file| file.len() > 0)
    }
}

/// The SQLite of this program as a library that calls itself `id`.
fn build(folder: &Path, id: &str) -> Result<PathBuf, String> {
    let mut cargo = Command::new(env!("CARGO"));
    // Crates for other machines may not be here.
    let here = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cargo.args(["metadata", "--offline", "--format-version", "1", "--filter-platform", &here]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    let metadata = cargo.output().map_err(|e| format!("cargo is not on this machine ({e})"))?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).map_err(|e| e.to_string())?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let ours = packages.iter().find(|package| package["name"] == "libsqlite3-sys");
    let manifest = ours.and_then(|package| package["manifest_path"].as_str()).ok_or("no libsqlite3-sys")?;
    let source = Path::new(manifest).with_file_name("sqlite3").join("sqlite3.c");
    let code = format!(
        "#define sqlite3_sourceid built_in_sourceid\n#include {source:?}\n#undef sqlite3_sourceid\n\
         const char *sqlite3_sourceid(void) {{ return {id:?}; }}\n"
    );
    let (wrapper, library) = (folder.join("library.c"), folder.join("libsqlite3.so.0"));
    fs::write(&wrapper, code).unwrap();
    let features = ["DBPAGE_VTAB", "FTS5", "SESSION", "PREUPDATE_HOOK", "COLUMN_METADATA", "STMTVTAB"];
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wl,-soname,libsqlite3.so.0", "-o"]).arg(&library).arg(&wrapper);
    compiler.args(features.map(|feature| format!("-DSQLITE_ENABLE_{feature}"))).arg("-lm");
    match compiler.output() {
        Ok(done) if done.status.success() => Ok(library),
        Ok(done) => Err(format!("SQLite cannot be built: {}", String::from_utf8_lossy(&done.stderr))),
        Err(e) => Err(format!("cc is not on this machine ({e})")),
    }
}

/// Columns that a repair counts anew or that name what may be lost.
const COUNTED: [(&str, &[&str]); 2] =
    [("conversations", &["next_seq", "messages", "summary", "summary_seq"]), ("audit", &["owner"])];

/// (table, id) → content of the columns that a repair leaves alone.
type Rows = BTreeMap<(&'static str, Vec<u8>), Vec<Option<Vec<u8>>>>;

/// The content of `values`, one a column.
fn content(table: &FileTable, values: &[Option<Vec<u8>>]) -> Vec<Option<Vec<u8>>> {
    let counted =
        COUNTED.iter().find(|(name, _)| *name == table.name).map_or(&[][..], |(_, columns)| *columns);
    let pairs = table.columns().zip(values).filter(|(column, _)| !counted.contains(column));
    pairs.map(|(_, value)| value.clone()).collect()
}

/// Every row of the synced tables of a database, and those among its lost and found that have their shape.
async fn rows(path: &Path) -> Rows {
    let mut connect = SqliteConnectOptions::new().filename(path).create_if_missing(false);
    connect = connect.log_statements(log::LevelFilter::Off);
    let mut conn = connect.connect().await.unwrap();
    let mut found = Rows::new();
    let synced: Vec<FileTable> = tables::all().into_iter().map(|table| table.file).collect();
    for table in &synced {
        let columns: Vec<String> =
            table.columns().map(|name| format!("CAST({name} AS BLOB) AS {name}")).collect();
        let sql = format!("SELECT {} FROM {}", columns.join(", "), table.name);
        // Without its schema a table is among the lost and found.
        let Ok(read) = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut conn).await else { continue };
        for row in read {
            let values: Vec<Option<Vec<u8>>> = (0..columns.len()).map(|n| row.get(n)).collect();
            if let Some(Some(id)) = values.get(1) {
                found.insert((table.name, id.clone()), content(table, &values));
            }
        }
    }
    for record in lost_and_found(&mut conn).await {
        let Some(of) = shape::table_of(&record).map(|table| table.of) else { continue };
        let Some(table) = synced.iter().find(|table| table.name == of.name) else { continue };
        let mut values: Vec<Option<Vec<u8>>> = record.values.iter().map(bytes).collect();
        values[0] = bytes(&Value::Int(record.rowid));
        if let Some(Some(id)) = values.get(1) {
            found.insert((table.name, id.clone()), content(table, &values));
        }
    }
    conn.close().await.unwrap();
    found
}

/// As SQLite casts it.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::Int(n) => Some(n.to_string().into_bytes()),
        Value::Real(x) => Some(format!("{x:?}").into_bytes()),
        Value::Text(text) => Some(text.clone().into_bytes()),
        Value::Blob(bytes) => Some(bytes.clone()),
    }
}

/// Rows that `.recover` could not give to a table.
async fn lost_and_found(conn: &mut SqliteConnection) -> Vec<Record> {
    let query = sqlx::query("SELECT * FROM lost_and_found");
    let Ok(read) = query.fetch_all(conn).await else { return Vec::new() };
    let value = |row: &sqlx::sqlite::SqliteRow, n: usize| {
        use sqlx::{TypeInfo as _, ValueRef as _};
        let raw = row.try_get_raw(n).unwrap();
        match raw.type_info().name() {
            _ if raw.is_null() => Value::Null,
            "INTEGER" => Value::Int(row.get_unchecked(n)),
            "REAL" => Value::Real(row.get_unchecked(n)),
            // Damage may have left text that is none.
            "TEXT" => match String::from_utf8(row.get_unchecked(n)) {
                Ok(text) => Value::Text(text),
                Err(e) => Value::Blob(e.into_bytes()),
            },
            _ => Value::Blob(row.get_unchecked(n)),
        }
    };
    let record = |row: sqlx::sqlite::SqliteRow| {
        let fields = usize::try_from(row.get::<i64, _>("nfield")).unwrap();
        // rootpgno, pgno, nfield, id, then the fields.
        let rowid = row.get::<Option<i64>, _>("id");
        let tree = if rowid.is_some() { Tree::Table } else { Tree::Index };
        let values = (4..4 + fields).map(|n| value(&row, n)).collect();
        Record { tree, rowid: rowid.unwrap_or(0), values, overflow: Vec::new() }
    };
    read.into_iter().map(record).collect()
}

#[tokio::test]
async fn whatever_recover_of_sqlite_saves_is_saved_and_what_was_deleted_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let oracle = match Oracle::find(folder.path()) {
        Ok(oracle) => oracle,
        Err(why) => return crate::testdata::skipped(why),
    };
    let original = folder.path().join("jarvis.db");
    household(&original, 40).await.close().await;
    let before = rows(&original).await;
    let image = Image::open(&original, PAGE_SIZES).unwrap();
    let bytes = fs::read(&original).unwrap();
    let mut files = Vec::new();
    for (what, lost) in places(&image) {
        let mut file = bytes.clone();
        for page in lost {
            let start = (page as usize - 1) * image.size();
            file[start..start + image.size()].fill(0xA5);
        }
        files.push((file, what.to_owned()));
    }
    let seeds = std::env::var("JARVIS_SALVAGE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40_u64);
    for seed in 1..=seeds {
        let (file, _, what) = damaged(&bytes, image.size(), seed);
        files.push((file, what));
    }
    let (mut by_oracle, mut by_us, mut partly) = (0, 0, 0);
    for (n, (file, what)) in files.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = copy(&original, folder.path());
        fs::write(&path, &file).unwrap();
        let (recovered, fresh) = (folder.path().join("recovered.db"), folder.path().join("fresh.db"));
        let theirs = if oracle.recover(&path, &recovered) { rows(&recovered).await } else { Rows::new() };
        salvage(&path, &fresh, 1_700_000_000_000).await.unwrap();
        let ours = rows(&fresh).await;
        let true_to = |rows: &Rows| -> BTreeSet<(&'static str, Vec<u8>)> {
            rows.iter()
                .filter(|(key, row)| before.get(key) == Some(row))
                .map(|(key, _)| key.clone())
                .collect()
        };
        let (theirs_true, ours_true) = (true_to(&theirs), true_to(&ours));
        let less: Vec<_> = theirs_true.difference(&ours_true).collect();
        assert!(less.is_empty(), "{n} {what}: {} rows less, such as {:?}", less.len(), less.first());
        let secret = |row: &[Option<Vec<u8>>]| {
            row.iter().flatten().any(|value| String::from_utf8_lossy(value).contains("qwsecret"))
        };
        assert!(!ours.values().any(|row| secret(row)), "{n} {what}: brings back what was deleted");
        by_oracle += theirs_true.len();
        by_us += ours_true.len();
        partly += usize::from(!theirs_true.is_empty() && theirs_true.len() < before.len());
    }
    println!("rows of {} a file: {by_oracle} by .recover, {by_us} by the salvage", before.len());
    assert!(partly > 20, "the oracle saved a part of {partly} files");
}
