//! The pages of a database file as its log leaves them, read past SQLite: what it refuses as a whole is
//! mostly whole.
//!
//! The log counts up to its last commit whose checksums are right, as SQLite itself reads it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Sizes of pages that there can be.
const SIZES: std::ops::RangeInclusive<usize> = 512..=65_536;

/// A database file with its log.
#[derive(Debug)]
pub struct Image {
    file: File,
    /// Bytes of a page.
    size: usize,
    log: Option<File>,
    /// Where in the log the latest version of a page is.
    newer: HashMap<u32, u64>,
    pages: u32,
    /// How many of them the file itself has room for.
    in_file: u32,
    log_is_sound: bool,
}

impl Image {
    /// Opens `path` and, if it is there, its log. Where neither says how large a page is, it is one of
    /// `sizes`.
    pub fn open(path: &Path, sizes: [usize; 2]) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut name = path.to_path_buf().into_os_string();
        name.push("-wal");
        let log = File::open(name).ok();
        let told = size_in_file(&file).or_else(|| size_in_log(log.as_ref()?));
        let size = told.unwrap_or_else(|| guess_size(&file, sizes));
        let in_file = u32::try_from(file.metadata()?.len().div_ceil(size as u64)).unwrap_or(u32::MAX);
        let mut image = Self {
            file,
            size,
            log: None,
            newer: HashMap::new(),
            pages: in_file,
            in_file,
            log_is_sound: true,
        };
        if let Some(log) = log {
            match read_log(&log, size) {
                Some(Log { newer, pages, is_sound }) => {
                    image.newer = newer;
                    image.pages = pages.max(if pages == 0 { in_file } else { 0 });
                    image.log_is_sound = is_sound;
                }
                None => image.log_is_sound = log.metadata()?.len() == 0,
            }
            image.log = Some(log);
        }
        Ok(image)
    }

    /// No part of the log is damaged. Where one is, the pages may be of different moments: some of what was
    /// committed is in the file already, and the rest was in the log.
    pub fn log_is_sound(&self) -> bool {
        self.log_is_sound
    }

    /// Number of pages; they count from 1.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// The pages that are somewhere, in their order. The log may claim any number of pages: of those that are
    /// neither in the file nor in the log there is nothing to read, and to count to four billion takes hours.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + use<> {
        let behind = self.in_file.saturating_add(1)..=self.pages;
        let mut of_log: Vec<u32> =
            self.newer.keys().copied().filter(|number| behind.contains(number)).collect();
        of_log.sort_unstable();
        (1..=self.pages.min(self.in_file)).chain(of_log)
    }

    /// Bytes of a page.
    #[cfg(any(test, fuzzing))]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Page `number`; what is missing of it (a file that was cut) is zero.
    pub fn page(&self, number: u32) -> io::Result<Vec<u8>> {
        let mut page = vec![0; self.size];
        match (self.newer.get(&number), &self.log) {
            (Some(at), Some(log)) => log.read_exact_at(&mut page, *at)?,
            _ => {
                let start = u64::from(number.saturating_sub(1)) * self.size as u64;
                // A sector that the disk cannot read: the rest of the file may be fine.
                if fill(&self.file, &mut page, start).is_err() {
                    page.fill(0);
                }
            }
        }
        Ok(page)
    }
}

/// Reads as much as there is.
fn fill(file: &File, bytes: &mut [u8], start: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Bytes of a page as the header of the database says, if it is one.
fn size_in_file(file: &File) -> Option<usize> {
    let mut header = [0; 100];
    file.read_exact_at(&mut header, 0).ok()?;
    let size = usize::from(u16::from_be_bytes([header[16], header[17]]));
    // 65536 does not fit and is written as 1.
    let size = if size == 1 { 65_536 } else { size };
    (header.starts_with(b"SQLite format 3\0") && SIZES.contains(&size) && size.is_power_of_two())
        .then_some(size)
}

/// Bytes of a page as the header of the log says, if it is one.
fn size_in_log(log: &File) -> Option<usize> {
    let mut header = [0; 12];
    log.read_exact_at(&mut header, 0).ok()?;
    let size = word(&header, 8) as usize;
    (word(&header, 0) | 1 == 0x377f_0683 && SIZES.contains(&size) && size.is_power_of_two()).then_some(size)
}

/// Without a header: of two sizes the one at whose multiples pages begin. At the larger one's a page begins
/// either way, at the smaller one's there is something from the middle of a page three times out of four, if
/// it is too small.
fn guess_size(file: &File, mut sizes: [usize; 2]) -> usize {
    sizes.sort_unstable();
    let [smaller, larger] = sizes.map(|size| size.clamp(*SIZES.start(), *SIZES.end()));
    const LOOKED_AT: u64 = 1000;
    let begins = |size: usize| {
        let pages = file.metadata().map_or(0, |file| file.len()) / size as u64;
        let step = usize::try_from(pages.div_ceil(LOOKED_AT).max(1)).unwrap_or(usize::MAX);
        let (mut like_one, mut all) = (0_u64, 0_u64);
        for page in (1..pages).step_by(step) {
            let mut head = [0; 8];
            let read = file.read_exact_at(&mut head, page * size as u64).is_ok();
            let content = usize::from(u16::from_be_bytes([head[5], head[6]]));
            like_one +=
                u64::from(read && matches!(head[0], 2 | 5 | 10 | 13) && (8..=size).contains(&content));
            all += 1;
        }
        (like_one, all)
    };
    let ((small, of_small), (large, of_large)) = (begins(smaller), begins(larger));
    if 2 * small * of_large > large * of_small { smaller } else { larger }
}

/// The committed part of a log.
struct Log {
    /// Where the latest version of each page is.
    newer: HashMap<u32, u64>,
    /// How many pages the database has then.
    pages: u32,
    /// Nothing behind it was written into the same log: what is left of an earlier one has other numbers.
    is_sound: bool,
}

/// `None`: its header is none, or is not whole.
fn read_log(log: &File, size: usize) -> Option<Log> {
    const HEADER: usize = 32;
    const FRAME: usize = 24;
    let mut header = [0; HEADER];
    log.read_exact_at(&mut header, 0).ok()?;
    let magic = word(&header, 0);
    let sum = |data: &[u8], seed| checksum(data, seed, magic == 0x377f_0683);
    let mut seed = sum(header.get(..24).unwrap_or_default(), (0, 0));
    let sound = matches!(magic, 0x377f_0682 | 0x377f_0683)
        && word(&header, 8) as usize == size
        && seed == (word(&header, 24), word(&header, 28));
    if !sound {
        return None;
    }
    let mut found = Log { newer: HashMap::new(), pages: 0, is_sound: true };
    let mut pending = Vec::new();
    let mut frame = vec![0; FRAME + size];
    let mut at = HEADER as u64;
    while log.read_exact_at(&mut frame, at).is_ok() {
        let (head, data) = frame.split_at(FRAME);
        seed = sum(head.get(..8).unwrap_or_default(), seed);
        seed = sum(data, seed);
        let same_log = head.get(8..16) == header.get(16..24);
        if !same_log || seed != (word(head, 16), word(head, 20)) {
            found.is_sound = !same_log;
            break;
        }
        pending.push((word(head, 0), at + FRAME as u64));
        if word(head, 4) > 0 {
            found.newer.extend(pending.drain(..));
            found.pages = word(head, 4);
        }
        at += frame.len() as u64;
    }
    found.is_sound &= pending.is_empty();
    Some(found)
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

/// Gives a log the checksums that its content asks for.
#[cfg(any(test, fuzzing))]
pub fn sign(log: &mut [u8]) {
    let big_endian = word(log, 0) == 0x377f_0683;
    let frame = (word(log, 8) as usize).saturating_add(24);
    let Some((header, frames)) = log.split_at_mut_checked(32) else { return };
    let mut seed = checksum(header.get(..24).unwrap_or_default(), (0, 0), big_endian);
    let put = |(a, b): (u32, u32), at: &mut [u8]| {
        for (to, from) in at.iter_mut().zip(a.to_be_bytes().into_iter().chain(b.to_be_bytes())) {
            *to = from;
        }
    };
    put(seed, header.get_mut(24..32).unwrap_or_default());
    for frame in frames.chunks_exact_mut(frame) {
        let (head, data) = frame.split_at_mut(24);
        seed = checksum(data, checksum(head.get(..8).unwrap_or_default(), seed, big_endian), big_endian);
        put(seed, head.get_mut(16..).unwrap_or_default());
    }
}
