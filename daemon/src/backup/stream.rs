//! Streams the files of a backup: plain bytes → columns, if they are a dump → zstd → age, if there are
//! recipients → disk, hashed on the way; and back.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::thread::available_parallelism;

use super::progress::Progress;
use age::stream::{StreamReader, StreamWriter};
use age::x25519::Recipient;
use sha2::{Digest as _, Sha256};

use super::BackupError;
use super::cancel::Cancel;
use super::columns::{Columns, Lines};
use super::keys::Keys;
use super::manifest::{CHUNK_BYTES, FileEntry, Manifest, Role, Sums, damaged};
use crate::durable;
use crate::text::hex;

/// Measured: see docs/lab/backup.md.
const ZSTD_LEVEL: i32 = 3;
/// Columns leave little for a longer search to find.
const ZSTD_LEVEL_COLUMNS: i32 = 2;
/// Matches are found at most 2^24 bytes (16 MiB) back: a Pi has memory for that, in both directions.
const ZSTD_WINDOW_LOG: u32 = 24;
/// Largest window accepted when reading: a hostile file cannot demand more than 128 MiB of memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const ZSTD_MAX_WORKERS: u32 = 4;
const BUFFER_BYTES: usize = 256 << 10;

/// A file that is being written.
pub(super) struct Sealed {
    role: Role,
    columns: Option<Columns>,
    zstd: zstd::Encoder<'static, Sink>,
    plain_bytes: u64,
}

enum Sink {
    Plain(Box<Tally>),
    Age(Box<StreamWriter<Tally>>),
}

/// Hashes the bytes written to the disk.
struct Tally {
    file: File,
    bytes: u64,
    whole: Sha256,
    chunk: Sha256,
    in_chunk: u64,
    chunks: Vec<String>,
}

impl Write for Tally {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buffer)?;
        let mut rest = buffer.get(..n).unwrap_or_default();
        self.bytes += n as u64;
        self.whole.update(rest);
        while !rest.is_empty() {
            let room = usize::try_from(CHUNK_BYTES - self.in_chunk).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.chunk.update(now);
            self.in_chunk += now.len() as u64;
            if self.in_chunk == CHUNK_BYTES {
                self.end_chunk();
            }
            rest = later;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Tally {
    fn end_chunk(&mut self) {
        self.chunks.push(hex(&std::mem::take(&mut self.chunk).finalize()));
        self.in_chunk = 0;
    }
}

impl Write for Sink {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tally) => tally.write(buffer),
            Self::Age(age) => age.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tally) => tally.flush(),
            Self::Age(age) => age.flush(),
        }
    }
}

impl Sealed {
    /// Begins the file of this role in `folder`, for `recipients` if there are any. `columns` is for lines of
    /// tab-separated fields.
    pub(super) fn create(
        folder: &Path,
        role: Role,
        recipients: &[Recipient],
        columns: Option<Columns>,
    ) -> Result<Self, BackupError> {
        let path = folder.join(role.file(!recipients.is_empty()));
        let disk = BackupError::disk("a file of the backup could not be written", &path);
        let file = durable::create_file(&path).map_err(&disk)?;
        let tally = Tally {
            file,
            bytes: 0,
            whole: Sha256::new(),
            chunk: Sha256::new(),
            in_chunk: 0,
            chunks: Vec::new(),
        };
        let sink = if recipients.is_empty() {
            Sink::Plain(Box::new(tally))
        } else {
            let them = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
            let encryptor = age::Encryptor::with_recipients(them)
                .map_err(|e| BackupError::Key(format!("backup.recipients cannot be used: {e}")))?;
            Sink::Age(Box::new(encryptor.wrap_output(tally).map_err(&disk)?))
        };
        // One core stays free for turns.
        let cores = available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let workers = cores.saturating_sub(1).max(1);
        let level = if columns.is_some() { ZSTD_LEVEL_COLUMNS } else { ZSTD_LEVEL };
        let start = || {
            let mut zstd = zstd::Encoder::new(sink, level)?;
            zstd.multithread(workers.min(ZSTD_MAX_WORKERS))?;
            zstd.long_distance_matching(true)?;
            zstd.window_log(ZSTD_WINDOW_LOG)?;
            zstd.include_checksum(true)?;
            Ok(zstd)
        };
        Ok(Self { role, columns, zstd: start().map_err(disk)?, plain_bytes: 0 })
    }

    /// Takes all bytes of `source`.
    pub(super) fn take(
        &mut self,
        source: impl Read,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<(), BackupError> {
        let role = self.role;
        let disk = |source| BackupError::Disk {
            step: "a file of the backup could not be written",
            path: role.file(false).into(),
            source,
        };
        each_part(source, (progress, cancel), disk, |part| {
            self.plain_bytes += part.len() as u64;
            match &mut self.columns {
                Some(columns) => columns.push(part, &mut self.zstd),
                None => self.zstd.write_all(part),
            }
            .map_err(disk)
        })
    }

    /// Ends the file; it is on the disk when this returns.
    pub(super) fn finish(self, tables: Sums) -> Result<FileEntry, BackupError> {
        let Self { role, columns, mut zstd, plain_bytes } = self;
        let in_columns = columns.is_some();
        let end = || {
            if let Some(mut columns) = columns {
                columns.end_block(&mut zstd)?;
            }
            let mut tally = match zstd.finish()? {
                Sink::Plain(tally) => *tally,
                Sink::Age(age) => age.finish()?,
            };
            if tally.in_chunk > 0 {
                tally.end_chunk();
            }
            tally.file.sync_all()?;
            Ok(tally)
        };
        let tally = end().map_err(|source| BackupError::Disk {
            step: "a file of the backup could not be written",
            path: role.file(false).into(),
            source,
        })?;
        Ok(FileEntry {
            role,
            bytes: tally.bytes,
            sha256: hex(&tally.whole.finalize()),
            chunks: tally.chunks,
            plain_bytes,
            columns: in_columns,
            tables,
        })
    }
}

/// Reads a whole file of the backup in `folder` and compares its hashes.
///
/// # Errors
/// `Damaged` with the changed chunks.
pub(super) fn check_hashes(
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    let file_name = entry.role.file(manifest.encrypted);
    let wrong = |detail: String| damaged(&manifest.name, format!("{file_name}: {detail}"));
    let file = File::open(folder.join(&file_name)).map_err(|e| wrong(e.to_string()))?;
    let bytes = file.metadata().map_err(|e| wrong(e.to_string()))?.len();
    let mut checker = Checker::new(manifest.chunk_bytes);
    let at = Cell::new(0);
    let unread = |e| wrong(format!("reading at byte {} failed: {e}", at.get()));
    // One byte more than there should be tells that it is too long.
    each_part(file.take(entry.bytes.saturating_add(1)), (progress, cancel), unread, |part| {
        checker.push(part);
        at.set(checker.read());
        Ok(())
    })?;
    if bytes != entry.bytes {
        return Err(wrong(format!("it has {bytes} bytes instead of {}", entry.bytes)));
    }
    checker.finish(entry).map_err(wrong)
}

/// Compares bytes with the hashes of a manifest as they arrive.
pub(super) struct Checker {
    chunk_bytes: u64,
    whole: Sha256,
    chunk: Sha256,
    in_chunk: u64,
    chunks: Vec<String>,
    read: u64,
}

impl Checker {
    pub(super) fn new(chunk_bytes: u64) -> Self {
        let (whole, chunk) = (Sha256::new(), Sha256::new());
        Self { chunk_bytes: chunk_bytes.max(1), whole, chunk, in_chunk: 0, chunks: Vec::new(), read: 0 }
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        self.read += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = usize::try_from(self.chunk_bytes - self.in_chunk).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.chunk.update(now);
            self.in_chunk += now.len() as u64;
            if self.in_chunk == self.chunk_bytes {
                self.end_chunk();
            }
            bytes = later;
        }
    }

    fn end_chunk(&mut self) {
        self.chunks.push(hex(&std::mem::take(&mut self.chunk).finalize()));
        self.in_chunk = 0;
    }

    /// # Errors
    /// The difference, with the numbers of the chunks.
    pub(super) fn finish(mut self, entry: &FileEntry) -> Result<(), String> {
        if self.in_chunk > 0 {
            self.end_chunk();
        }
        if self.read != entry.bytes {
            return Err(format!("it has {} bytes instead of {}", self.read, entry.bytes));
        }
        let bad: Vec<String> = self
            .chunks
            .iter()
            .zip(&entry.chunks)
            .enumerate()
            .filter(|(_, (found, wanted))| found != wanted)
            .map(|(n, _)| (n + 1).to_string())
            .take(10)
            .collect();
        if !bad.is_empty() {
            let (bad, all) = (bad.join(", "), self.chunks.len());
            return Err(format!("{bad} of its {all} chunks are not as they were written"));
        }
        if self.chunks.len() != entry.chunks.len() || hex(&self.whole.finalize()) != entry.sha256 {
            return Err("it is not as it was written".to_owned());
        }
        Ok(())
    }
}

/// The plain bytes of a file of the backup. Reading fails if the file is damaged, or longer or shorter than
/// the manifest says.
pub(super) fn open(
    folder: &Path,
    manifest: &Manifest,
    entry: &FileEntry,
    keys: &Keys,
) -> Result<Box<dyn Read + Send>, BackupError> {
    let file_name = entry.role.file(manifest.encrypted);
    let wrong = |detail: String| damaged(&manifest.name, format!("{file_name}: {detail}"));
    let file = File::open(folder.join(&file_name)).map_err(|e| wrong(e.to_string()))?;
    let file = BufReader::with_capacity(BUFFER_BYTES, file);
    if !manifest.encrypted {
        return plain(file, entry).map_err(|e| wrong(e.to_string()));
    }
    let decryptor = age::Decryptor::new_buffered(file).map_err(|e| wrong(e.to_string()))?;
    let opened: StreamReader<_> = decryptor.decrypt(keys.identities()).map_err(|e| match e {
        age::DecryptError::NoMatchingKeys | age::DecryptError::KeyDecryptionFailed => {
            BackupError::Key(format!(
                "no key at hand opens the backup {}: it is for {}; name the file with the secret key of one \
                 of them (backup.identity_file, --identity)",
                manifest.name,
                manifest.recipients.join(", ")
            ))
        }
        e => wrong(e.to_string()),
    })?;
    plain(BufReader::with_capacity(BUFFER_BYTES, opened), entry).map_err(|e| wrong(e.to_string()))
}

fn plain(source: impl io::BufRead + Send + 'static, entry: &FileEntry) -> io::Result<Box<dyn Read + Send>> {
    let mut zstd = zstd::Decoder::with_buffer(source)?;
    zstd.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    let left = entry.plain_bytes;
    Ok(if entry.columns {
        Box::new(Exactly { source: Lines::new(zstd), left })
    } else {
        Box::new(Exactly { source: zstd, left })
    })
}

/// Fails unless exactly this many bytes arrive.
struct Exactly<R> {
    source: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(buffer)?;
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        if n == 0 && !buffer.is_empty() && self.left > 0 {
            return wrong("it is shorter than it says");
        }
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return wrong("it is longer than it says"),
        }
        Ok(n)
    }
}

/// Hands `source` to `take` in parts, to its end.
fn each_part(
    mut source: impl Read,
    (progress, cancel): (&Progress, &Cancel),
    unread: impl Fn(io::Error) -> BackupError,
    mut take: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        cancel.check()?;
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                take(buffer.get(..n).unwrap_or_default())?;
                progress.advance(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(unread(e)),
        }
    }
}

/// Copies `source` to `sink` to its end.
///
/// # Errors
/// `Damaged` if reading fails, `Disk` (with `to` as its path) if writing does, `Cancelled`.
pub(super) fn pour(
    source: impl Read,
    mut sink: impl Write,
    (name, to): (&str, &Path),
    progress: &Progress,
    cancel: &Cancel,
) -> Result<(), BackupError> {
    let disk = BackupError::disk("what is restored could not be written", to);
    let unread = |e: io::Error| damaged(name, e.to_string());
    each_part(source, (progress, cancel), unread, |part| sink.write_all(part).map_err(&disk))?;
    sink.flush().map_err(disk)
}

/// Input: a switch, the length of the file before compression (u16), and the file. The file is used
/// unchanged, or, with the switch, compressed first, so that its columns are reached.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) -> bool {
    let Some(([switch, low, high], file)) = bytes.split_first_chunk() else { return false };
    let compress = || zstd::encode_all(file, 1).unwrap_or_default();
    let file = if switch & 1 > 0 { compress() } else { file.to_vec() };
    let plain_bytes = u64::from(u16::from_le_bytes([*low, *high]));
    let entry = |bytes: u64, chunks: Vec<String>, sha256: String| FileEntry {
        role: Role::Database,
        bytes,
        sha256,
        chunks,
        plain_bytes,
        columns: switch & 2 > 0,
        tables: Sums::new(),
    };
    let read = |source: Box<dyn io::BufRead + Send>| -> io::Result<()> {
        let mut reader = plain(source, &entry(0, Vec::new(), String::new()))?;
        let mut buffer = vec![0; 4_096];
        let mut all = 0;
        loop {
            match reader.read(&mut buffer)? {
                0 => break,
                n => all += n as u64,
            }
            assert!(all <= plain_bytes, "more than the manifest says");
        }
        assert_eq!(all, plain_bytes, "less than the manifest says");
        Ok(())
    };
    let accepted = read(Box::new(io::Cursor::new(file.clone()))).is_ok();
    let whole = io::Cursor::new(file.clone());
    if let Ok(decryptor) = age::Decryptor::new_buffered(whole)
        && let Ok(opened) = decryptor.decrypt(std::iter::once(&age::x25519::Identity::generate() as _))
    {
        let _ = read(Box::new(BufReader::new(opened)));
    }

    // The hashes depend only on the bytes, not on how they arrive.
    let chunk_bytes = plain_bytes + 1;
    let chunks: Vec<String> = file
        .chunks(usize::try_from(chunk_bytes).unwrap_or(usize::MAX))
        .map(|chunk| hex(&Sha256::digest(chunk)))
        .collect();
    let right = entry(file.len() as u64, chunks, hex(&Sha256::digest(&file)));
    let checked = |bytes: &[u8], piece: usize| {
        let mut checker = Checker::new(chunk_bytes);
        bytes.chunks(piece).for_each(|part| checker.push(part));
        checker.finish(&right)
    };
    assert_eq!(checked(&file, usize::from(*low).max(1)), Ok(()));
    let mut changed = file;
    if let Some(byte) = changed.last_mut() {
        *byte ^= 1;
        assert!(checked(&changed, 4_096).is_err());
    }
    accepted
}
