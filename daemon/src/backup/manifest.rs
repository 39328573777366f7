//! A backup's description (`manifest.json`), its later proofs (`proofs.json`), and the result of copying it
//! to the remote (`remote.json`).
//!
//! Each is `{"sha256": HASH, "manifest": BODY}` with the hash of the body's exact bytes, so that a changed
//! byte anywhere is noticed. The body holds no content: names of tables, numbers and hashes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::remote::CopyNote;
use super::{BackupError, Kind, Proof, lock};
use crate::durable;
use crate::text::hex;

/// Version of the format; a test restores one of each. 2: the dump of a Postgres column by column.
pub const FORMAT: u32 = 2;
/// Bytes of a chunk, each of which has its own hash.
pub const CHUNK_BYTES: u64 = 1 << 20;

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const PROOFS: &str = "proofs.json";
const COPY: &str = "remote.json";
/// Largest manifest; that of a backup of 1 TiB is smaller.
const MAX_BYTES: u64 = 128 << 20;
/// Proofs kept for one backup.
const KEPT_PROOFS: usize = 20;

/// The source of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Sqlite,
    Postgres,
}

/// The role of a file in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Database,
    Queue,
    Config,
}

impl Role {
    /// Name of the file.
    pub fn file(self, encrypted: bool) -> String {
        let stem = match self {
            Self::Database => "database",
            Self::Queue => "queue",
            Self::Config => "config",
        };
        format!("{stem}.zst{}", if encrypted { ".age" } else { "" })
    }
}

/// One table: its number of rows, and a hash of their content that does not depend on their order on the
/// disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSum {
    pub rows: u64,
    pub hash: String,
}

/// Tables by name.
pub type Sums = BTreeMap<String, TableSum>;

/// One file on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub role: Role,
    pub bytes: u64,
    pub sha256: String,
    /// SHA-256 of each [`CHUNK_BYTES`] in turn.
    pub chunks: Vec<String>,
    /// Bytes before compression.
    pub plain_bytes: u64,
    /// Whether it was put in columns before compression, see `columns.rs`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub columns: bool,
    /// The tables in the file, if it is a database.
    #[serde(default, skip_serializing_if = "Sums::is_empty")]
    pub tables: Sums,
}

/// Messages that were only on the device when a backup of Postgres was made: they are in the queue file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undelivered {
    pub messages: u64,
    /// Messages among them that Postgres had refused for good.
    pub refused: u64,
    /// Refused messages that a person had given up. An older program did not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub given_up: u64,
    /// Whether the device had never sent anything to this database, or not all of it yet: all of its memory
    /// counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Undelivered {
    /// A sentence about the messages; `None` if Postgres had everything.
    pub fn sentence(self) -> Option<String> {
        let what = match self.messages {
            0 => return None,
            1 => "1 message is not in Postgres; this device keeps it, and it is in the backup".to_owned(),
            n => format!(
                "{n} messages are not in Postgres; this device keeps them, and they are in the backup"
            ),
        };
        Some(match (self.refused.saturating_sub(self.given_up), self.given_up) {
            (0, 0) => format!("{what}."),
            (n, 0) => format!("{what}. Postgres refused {n}: `jarvisd queue dead-letter list` says why."),
            (0, g) => format!("{what}. Postgres refused {g}, which somebody gave up."),
            (n, g) => format!(
                "{what}. Postgres refused {n}: `jarvisd queue dead-letter list` says why; \
                 and {g} that somebody gave up."
            ),
        })
    }
}

/// A moment since the kernel started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    pub id: String,
    pub monotonic_ns: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// The name of the folder, so that a manifest moved to another backup is noticed.
    pub name: String,
    pub kind: Kind,
    pub taken_unix_ms: i64,
    /// Whether NTP had set the clock at that time.
    pub clock_synced: bool,
    /// Its position among the backups of this device, which grows whatever the clock does (`order.rs`).
    /// Backups of older versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Boot of the kernel in which it was made, and the time since that boot. They give a backup of the
    /// present boot an age that no clock can change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    pub took_ms: u64,
    pub device: String,
    /// The program that made it, with its version.
    pub program: String,
    pub origin: Origin,
    pub schema_version: i64,
    /// Version of the database: SQLite or the Postgres server.
    pub server_version: String,
    /// The program that wrote the dump, with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Whether the hashes of the tables were also made from the database itself, and were equal.
    pub compared_with_source: bool,
    pub encrypted: bool,
    /// The public keys of its readers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    pub chunk_bytes: u64,
    /// The messages that Postgres did not have, in backups of Postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undelivered: Option<Undelivered>,
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// The file of this role.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] if there is none.
    pub fn file(&self, role: Role) -> Result<&FileEntry, BackupError> {
        let missing = || damaged(&self.name, format!("its manifest has no {}", role.file(self.encrypted)));
        self.files.iter().find(|file| file.role == role).ok_or_else(missing)
    }
}

/// A manifest with the right hash.
#[derive(Debug, Clone)]
pub struct Read {
    pub manifest: Manifest,
    /// SHA-256 of the body, to which proofs refer.
    pub sha256: String,
}

/// Reads and checks the manifest of the backup at `path`.
///
/// # Errors
/// `Damaged`, `Newer`.
pub fn read(path: &Path) -> Result<Read, BackupError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    parse(&bytes(path)?, &name)
}

/// The bytes of the manifest of the backup at `path`.
///
/// # Errors
/// `Damaged` if it cannot be read, `Disk` if permission is denied.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, BackupError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = path.join(MANIFEST);
    read_bounded(&file).map_err(|e| match e.kind() {
        // A denied permission says nothing about its content.
        std::io::ErrorKind::PermissionDenied => BackupError::disk("the manifest cannot be read", &file)(e),
        _ => damaged(&name, format!("{MANIFEST}: {e}")),
    })
}

/// Checks a manifest that must belong to the backup called `name`.
///
/// # Errors
/// `Damaged`, `Newer`.
pub(super) fn parse(bytes: &[u8], name: &str) -> Result<Read, BackupError> {
    let wrong = |detail: String| damaged(name, detail);
    let (body, sha256) =
        unwrap("manifest", bytes).ok_or_else(|| wrong(format!("{MANIFEST} is not as it was written")))?;
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let version: Version =
        serde_json::from_str(body).map_err(|_| wrong(format!("{MANIFEST} has no format version")))?;
    if version.format > FORMAT {
        let detail = format!("format {}, this program knows up to {FORMAT}", version.format);
        return Err(BackupError::Newer { name: name.to_owned(), detail });
    }
    let manifest: Manifest =
        serde_json::from_str(body).map_err(|e| wrong(format!("{MANIFEST} lacks something: {e}")))?;
    if manifest.name != name {
        return Err(wrong(format!("its manifest is that of {}", manifest.name)));
    }
    let mut roles: Vec<Role> = manifest.files.iter().map(|file| file.role).collect();
    roles.sort_unstable();
    roles.dedup();
    // Later readers add up the lengths.
    let total = |of: fn(&FileEntry) -> u64| {
        manifest.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(of(file)))
    };
    let adds_up = total(|file| file.bytes).is_some() && total(|file| file.plain_bytes).is_some();
    if roles.len() != manifest.files.len() || manifest.chunk_bytes == 0 || !adds_up {
        return Err(wrong(format!("{MANIFEST} contradicts itself")));
    }
    Ok(Read { manifest, sha256 })
}

/// Writes the manifest into the folder of the backup, synced.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn write(folder: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let path = folder.join(MANIFEST);
    let disk = BackupError::disk("the manifest could not be written", &path);
    let text = wrap("manifest", manifest).map_err(&disk)?;
    let mut file = durable::create_file(&path).map_err(&disk)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(disk)
}

#[derive(Debug, Serialize, Deserialize)]
struct Proofs {
    /// The manifest that the proofs are about.
    manifest_sha256: String,
    proofs: Vec<Proof>,
}

/// The proofs of the backup whose manifest has this hash, oldest first. A proofs file that is damaged, or
/// about another manifest, proves nothing.
pub fn read_proofs(path: &Path, manifest_sha256: &str) -> Vec<Proof> {
    let bytes = read_bounded(&path.join(PROOFS)).unwrap_or_default();
    parse_note("proofs", &bytes)
        .filter(|read: &Proofs| read.manifest_sha256 == manifest_sha256)
        .map(|read| read.proofs)
        .unwrap_or_default()
}

/// Adds the result of one verification of the backup.
///
/// # Errors
/// [`BackupError::Disk`].
pub fn add_proof(path: &Path, manifest_sha256: &str, proof: Proof) -> Result<(), BackupError> {
    let mut proofs = read_proofs(path, manifest_sha256);
    proofs.push(proof);
    write_proofs(path, manifest_sha256, proofs)
}

/// Writes the proofs of the backup, of which the newest are kept.
///
/// # Errors
/// [`BackupError::Disk`].
pub(super) fn write_proofs(
    path: &Path,
    manifest_sha256: &str,
    mut proofs: Vec<Proof>,
) -> Result<(), BackupError> {
    let surplus = proofs.len().saturating_sub(KEPT_PROOFS);
    proofs.drain(..surplus);
    note(path, PROOFS, "proofs", &Proofs { manifest_sha256: manifest_sha256.to_owned(), proofs })
}

#[derive(Debug, Serialize, Deserialize)]
struct NotedCopy {
    /// The manifest of the copied backup.
    manifest_sha256: String,
    copy: CopyNote,
}

/// The result of the last copy to the remote; `None` if there was none, or it was of another backup.
pub(super) fn read_copy(path: &Path, manifest_sha256: &str) -> Option<CopyNote> {
    let bytes = read_bounded(&path.join(COPY)).ok()?;
    let read: NotedCopy = parse_note("copy", &bytes)?;
    (read.manifest_sha256 == manifest_sha256).then_some(read.copy)
}

/// Notes the result of a copy to the remote.
///
/// # Errors
/// [`BackupError::Disk`].
pub(super) fn note_copy(path: &Path, manifest_sha256: &str, copy: CopyNote) -> Result<(), BackupError> {
    note(path, COPY, "copy", &NotedCopy { manifest_sha256: manifest_sha256.to_owned(), copy })
}

/// Removes the note that there is a copy at the remote.
///
/// # Errors
/// [`BackupError::Disk`].
pub(super) fn forget_copy(path: &Path) -> Result<(), BackupError> {
    let file = path.join(COPY);
    durable::remove_if_there(&file).map_err(BackupError::disk("the result could not be noted", &file))?;
    lock::sync_folder(path)
}

/// Writes a note beside the backup and replaces the previous one.
fn note(path: &Path, file: &str, what: &str, body: &impl Serialize) -> Result<(), BackupError> {
    let target = path.join(file);
    let disk = BackupError::disk("the result could not be noted", &target);
    let text = wrap(what, body).map_err(&disk)?;
    let fresh = path.join(format!(".{file}"));
    let _ = fs::remove_file(&fresh);
    lock::replace_file(&target, &fresh, text.as_bytes()).map_err(disk)?;
    lock::sync_folder(path)
}

/// The body of a note; `None` if it was changed.
fn parse_note<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Option<T> {
    let (body, _) = unwrap(what, bytes)?;
    serde_json::from_str(body).ok()
}

fn wrap(what: &str, body: &impl Serialize) -> std::io::Result<String> {
    let body = serde_json::to_string_pretty(body)?;
    Ok(framed(what, &body, &hex(&Sha256::digest(body.as_bytes()))))
}

fn framed(what: &str, body: &str, sha256: &str) -> String {
    format!("{{\n\"sha256\": \"{sha256}\",\n\"{what}\": {body}\n}}\n")
}

/// The body and its hash, if the text is exactly the output of [`wrap`].
fn unwrap<'a>(what: &str, bytes: &'a [u8]) -> Option<(&'a str, String)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let start = framed(what, "", &"0".repeat(64)).len().checked_sub("\n}\n".len())?;
    let body = text.get(start..)?.strip_suffix("\n}\n")?;
    let sha256 = hex(&Sha256::digest(body.as_bytes()));
    (framed(what, body, &sha256) == text).then_some((body, sha256))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn damaged(name: &str, detail: impl Into<String>) -> BackupError {
    BackupError::Damaged { name: name.to_owned(), detail: detail.into() }
}

/// Any bytes as a manifest and as the notes beside it, unchanged and with the right hash.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) -> bool {
    use crate::fuzzing::sure;

    let _ = parse(bytes, "20260101-000000-full");
    let Ok(body) = std::str::from_utf8(bytes) else { return false };
    let mut accepted = false;
    let framed = |what: &str| framed(what, body, &hex(&Sha256::digest(body.as_bytes()))).into_bytes();
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    if let Ok(Named { name }) = serde_json::from_str(body)
        && let Ok(Read { manifest, sha256 }) = parse(&framed("manifest"), &name)
    {
        assert_eq!(sha256.len(), 64);
        let written = sure(wrap("manifest", &manifest), "JSON");
        assert_eq!(sure(parse(written.as_bytes(), &name), &written).manifest, manifest);
        for role in [Role::Database, Role::Queue, Role::Config] {
            let _ = manifest.file(role);
        }
        let files = || manifest.files.iter();
        let _: [u64; 2] = [files().map(|f| f.bytes).sum(), files().map(|f| f.plain_bytes).sum()];
        let _ = super::order::Moment::of(&manifest);
        let _ = manifest.undelivered.map(Undelivered::sentence);
        accepted = true;
    }
    if let Some(Proofs { manifest_sha256, proofs }) = parse_note("proofs", &framed("proofs")) {
        let written = sure(wrap("proofs", &Proofs { manifest_sha256, proofs: proofs.clone() }), "JSON");
        let again: Option<Proofs> = parse_note("proofs", written.as_bytes());
        assert_eq!(again.map(|again| again.proofs), Some(proofs));
    }
    let _: Option<NotedCopy> = parse_note("copy", &framed("copy"));
    accepted
}
