//! The pages of a database file as its log leaves them, read past SQLite: what it refuses as a whole is mostly whole.
//!
//! Format: <https://www.sqlite.org/fileformat2.html>. The log counts up to its last commit whose checksums are right, as
//! SQLite itself reads it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Size of our pages: the default of SQLite, which nothing changes.
pub const PAGE: usize = 4096;

pub type Page = [u8; PAGE];

/// A database file with its log.
#[derive(Debug)]
pub struct Image {
    file: File,
    log: Option<File>,
    /// Where in the log the latest version of a page is.
    newer: HashMap<u32, u64>,
    pages: u32,
}

impl Image {
    /// Opens `path` and, if it is there, its log.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let in_file = u32::try_from(file.metadata()?.len().div_ceil(PAGE as u64)).unwrap_or(u32::MAX);
        let mut image = Self { file, log: None, newer: HashMap::new(), pages: in_file };
        let mut name = path.to_path_buf().into_os_string();
        name.push("-wal");
        if let Ok(log) = File::open(name) {
            if let Some((newer, pages)) = read_log(&log)? {
                image.newer = newer;
                image.pages = pages.max(if pages == 0 { in_file } else { 0 });
            }
            image.log = Some(log);
        }
        Ok(image)
    }

    /// Number of pages; they count from 1.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Page `number`; what is missing of it (a file that was cut) is zero.
    pub fn page(&self, number: u32) -> io::Result<Page> {
        let mut page = [0; PAGE];
        match (self.newer.get(&number), &self.log) {
            (Some(at), Some(log)) => log.read_exact_at(&mut page, *at)?,
            _ => {
                let start = u64::from(number.saturating_sub(1)) * PAGE as u64;
                let mut filled = 0;
                while filled < PAGE {
                    let Some(rest) = page.get_mut(filled..) else { break };
                    match self.file.read_at(rest, start + filled as u64) {
                        Ok(0) => break,
                        Ok(n) => filled += n,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        // A sector that the disk cannot read: the rest of the file may be fine.
                        Err(_) => return Ok([0; PAGE]),
                    }
                }
            }
        }
        Ok(page)
    }
}

/// The committed part of a log: where the latest version of each page is, and how many pages the database has then.
fn read_log(log: &File) -> io::Result<Option<(HashMap<u32, u64>, u32)>> {
    const HEADER: usize = 32;
    const FRAME: usize = 24;
    let mut header = [0; HEADER];
    if log.read_exact_at(&mut header, 0).is_err() {
        return Ok(None);
    }
    let magic = word(&header, 0);
    let sum = |data: &[u8], seed| checksum(data, seed, magic == 0x377f_0683);
    let mut seed = sum(header.get(..24).unwrap_or_default(), (0, 0));
    let sound = matches!(magic, 0x377f_0682 | 0x377f_0683)
        && word(&header, 8) as usize == PAGE
        && seed == (word(&header, 24), word(&header, 28));
    if !sound {
        return Ok(None);
    }
    let (mut pending, mut newer, mut pages) = (Vec::new(), HashMap::new(), 0);
    let mut frame = [0; FRAME + PAGE];
    let mut at = HEADER as u64;
    while log.read_exact_at(&mut frame, at).is_ok() {
        let (head, data) = frame.split_at(FRAME);
        seed = sum(head.get(..8).unwrap_or_default(), seed);
        seed = sum(data, seed);
        let same_log = head.get(8..16) == header.get(16..24);
        if !same_log || seed != (word(head, 16), word(head, 20)) {
            break;
        }
        pending.push((word(head, 0), at + FRAME as u64));
        if word(head, 4) > 0 {
            newer.extend(pending.drain(..));
            pages = word(head, 4);
        }
        at += frame.len() as u64;
    }
    Ok(Some((newer, pages)))
}

/// The checksum of the log (section 4.2 of the format) over pairs of words.
fn checksum(data: &[u8], seed: (u32, u32), big_endian: bool) -> (u32, u32) {
    let (mut a, mut b) = seed;
    for pair in data.chunks_exact(8) {
        let read = |at: usize| {
            let bytes = pair.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
            if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        a = a.wrapping_add(read(0)).wrapping_add(b);
        b = b.wrapping_add(read(4)).wrapping_add(a);
    }
    (a, b)
}

/// Four bytes, big endian; 0 behind the end.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}
