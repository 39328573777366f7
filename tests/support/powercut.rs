//! What a power cut leaves of the files that `powercut.c` recorded.
//!
//! The disk keeps what was synced, and of what was not it keeps whatever it likes: any subset of the writes, each
//! possibly torn at a sector, in any order. Names (created, removed, renamed files) follow each other as in a journalled
//! file system: those since the last sync of the folder are kept up to some point. Losing the names of files that were
//! themselves synced is stricter than ext4, and allowed by POSIX.

use std::collections::BTreeMap;
use std::path::Path;

use super::random::Random;

/// Smallest piece that a disk writes whole, in bytes.
const SECTOR: usize = 512;
const MARK: u64 = 0x4a52_5643;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Create { file: u64, name: String },
    Write { file: u64, offset: usize, data: Vec<u8> },
    Truncate { file: u64, length: usize },
    Sync { file: u64 },
    DirSync,
    Unlink { name: String },
    Rename { from: String, to: String },
    Said(String),
}

/// Reads the log of a process; a record that was cut off at the end is left out.
pub fn read_log(path: &Path) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while rest.len() >= 40 {
        let number = |at: usize| u64::from_le_bytes(rest[at * 8..at * 8 + 8].try_into().unwrap());
        let (kind, file, offset, length) = (number(0), number(1), number(2), size(number(3)));
        assert_eq!(number(4), MARK, "the log is out of step after {} records", events.len());
        let Some(data) = rest.get(40..40 + length) else { break };
        let text = || String::from_utf8_lossy(data).into_owned();
        events.push(match kind {
            1 => Event::Create { file, name: text() },
            2 => Event::Write { file, offset: size(offset), data: data.to_vec() },
            3 => Event::Truncate { file, length: size(offset) },
            4 => Event::Sync { file },
            5 => Event::DirSync,
            6 => Event::Unlink { name: text() },
            7 => {
                let both = text();
                let (from, to) = both.split_once('\0').unwrap();
                Event::Rename { from: from.into(), to: to.into() }
            }
            8 => Event::Said(text()),
            other => panic!("record of kind {other}"),
        });
        rest = &rest[40 + length..];
    }
    events
}

/// The disk under the folder, up to some event of the log.
#[derive(Debug, Default)]
pub struct Disk {
    files: BTreeMap<u64, File>,
    /// Names that are durable.
    names: BTreeMap<String, u64>,
    /// What happened to names since.
    renaming: Vec<Event>,
}

#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Event>,
}

/// How the disk treats what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// Nothing of it is there.
    Nothing,
    /// All of it is there.
    Everything,
    /// It is there up to some write, and a part of that one.
    Prefix,
    /// Some writes are, some are not, some are by half.
    Any,
}

impl Disk {
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Create { file, .. } => {
                self.files.insert(*file, File::default());
                self.renaming.push(event.clone());
            }
            Event::Unlink { .. } | Event::Rename { .. } => self.renaming.push(event.clone()),
            Event::Write { file, .. } | Event::Truncate { file, .. } => {
                self.files.entry(*file).or_default().pending.push(event.clone());
            }
            Event::Sync { file } => {
                let file = self.files.entry(*file).or_default();
                for write in std::mem::take(&mut file.pending) {
                    change(&mut file.durable, &write);
                }
            }
            Event::DirSync => {
                for event in std::mem::take(&mut self.renaming) {
                    rename(&mut self.names, &event);
                }
            }
            Event::Said(_) => {}
        }
    }

    /// Writes into `dir` what is there when the power comes back.
    pub fn after_power_cut(&self, dir: &Path, luck: Luck, random: &mut Random) {
        let mut names = self.names.clone();
        let kept = match luck {
            Luck::Nothing => 0,
            Luck::Everything => self.renaming.len(),
            Luck::Prefix | Luck::Any => random.below(self.renaming.len() + 1),
        };
        for event in &self.renaming[..kept] {
            rename(&mut names, event);
        }
        for (name, file) in names {
            std::fs::write(dir.join(name), self.files[&file].after_power_cut(luck, random)).unwrap();
        }
    }
}

impl File {
    fn after_power_cut(&self, luck: Luck, random: &mut Random) -> Vec<u8> {
        let mut content = self.durable.clone();
        match luck {
            Luck::Nothing => {}
            Luck::Everything => self.pending.iter().for_each(|event| change(&mut content, event)),
            Luck::Prefix => {
                let cut = random.below(self.pending.len() + 1);
                self.pending[..cut].iter().for_each(|event| change(&mut content, event));
                if let Some(event) = self.pending.get(cut) {
                    tear(&mut content, event, random);
                }
            }
            Luck::Any => {
                for event in &self.pending {
                    match random.below(4) {
                        0 => {}
                        1 => tear(&mut content, event, random),
                        _ => change(&mut content, event),
                    }
                }
            }
        }
        content
    }
}

fn change(content: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { offset, data, .. } => put(content, *offset, data),
        Event::Truncate { length, .. } => content.resize(*length, 0),
        _ => {}
    }
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

/// Some sectors of a write arrive, others do not. A change of length arrives or does not.
fn tear(content: &mut Vec<u8>, event: &Event, random: &mut Random) {
    let Event::Write { offset, data, .. } = event else {
        if random.one_in(2) {
            change(content, event);
        }
        return;
    };
    let mut at = 0;
    while at < data.len() {
        let end = ((offset + at) / SECTOR * SECTOR + SECTOR - offset).min(data.len());
        if random.one_in(2) {
            put(content, offset + at, &data[at..end]);
        }
        at = end;
    }
}

fn rename(names: &mut BTreeMap<String, u64>, event: &Event) {
    match event {
        Event::Create { file, name } => {
            names.insert(name.clone(), *file);
        }
        Event::Unlink { name } => {
            names.remove(name);
        }
        Event::Rename { from, to } => {
            if let Some(file) = names.remove(from)
                && !to.is_empty()
            {
                names.insert(to.clone(), file);
            }
        }
        _ => {}
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap()
}
