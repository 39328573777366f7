//! Reads the first bytes of a database file without SQLite.
//!
//! A POSIX lock belongs to the process: when any descriptor of a file is closed, every lock that SQLite holds
//! on that file in this process is gone (<https://www.sqlite.org/howtocorrupt.html>, 2.2). Another program
//! that closes the database then believes that it is the last one, and removes the log with the data that is
//! only there. So a descriptor opened here stays open for as long as its file has a name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::heal::FileId;

static OPEN: Mutex<Vec<(FileId, File)>> = Mutex::new(Vec::new());

/// Reads the beginning of the file at `path` into `bytes`; returns how many there are.
///
/// # Errors
/// The error of the file system.
pub(super) fn first_bytes(path: &Path, bytes: &mut [u8]) -> io::Result<usize> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    // No process opens a file without a name any more, so its locks matter to nobody.
    open.retain(|(_, file)| file.metadata().is_ok_and(|file| file.nlink() > 0));
    let id = FileId::from(&fs::metadata(path)?);
    let at = match open.iter().position(|(of, _)| *of == id) {
        Some(at) => at,
        None => {
            let file = File::open(path)?;
            // Another file may have taken the path by now.
            open.push((FileId::from(&file.metadata()?), file));
            open.len() - 1
        }
    };
    let Some((_, file)) = open.get(at) else { return Ok(0) };
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}
