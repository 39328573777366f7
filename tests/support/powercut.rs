//! The files and folders that a power cut leaves, of those that `powercut.c` recorded.
//!
//! The disk keeps everything that was synced. Of the rest it keeps any subset of the writes, each possibly
//! torn at a sector, in any order. A name is durable once its folder was synced. Names (created, removed,
//! renamed files) follow each other as in a journalled file system, where those that were not synced are kept
//! up to some point; or, with [`Luck::Scattered`], any of them are kept without the others, in any order. A
//! rename is done or not, never by half. Losing the names of files that were themselves synced is stricter
//! than ext4, and allowed by POSIX.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::random::Random;

/// Smallest piece that a disk writes whole, in bytes.
const SECTOR: usize = 512;
const MARK: u64 = 0x4a52_5643;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `handle` stands for the file or folder from here on.
    Open {
        handle: u64,
        path: String,
        how: Opened,
    },
    Write {
        handle: u64,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        handle: u64,
        length: usize,
    },
    Sync {
        handle: u64,
    },
    DirSync {
        handle: u64,
    },
    Unlink {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Said(String),
    MakeDir {
        path: String,
    },
    RemoveDir {
        path: String,
    },
    Link {
        from: String,
        to: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    Found,
    Made,
    Emptied,
}

/// Reads the log of a process; a record that was cut off at the end is left out.
pub fn read_log(path: &Path) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while rest.len() >= 40 {
        let number = |at: usize| u64::from_le_bytes(rest[at * 8..at * 8 + 8].try_into().unwrap());
        let (kind, handle, offset, length) = (number(0), number(1), size(number(2)), size(number(3)));
        assert_eq!(number(4), MARK, "the log is out of step after {} records", events.len());
        let Some(data) = rest.get(40..40 + length) else { break };
        let path = || String::from_utf8(data.to_vec()).unwrap();
        let both = || {
            let both = path();
            let (from, to) = both.split_once('\0').unwrap();
            (from.to_owned(), to.to_owned())
        };
        events.push(match kind {
            1 => {
                let how = [Opened::Found, Opened::Made, Opened::Emptied][offset];
                Event::Open { handle, path: path(), how }
            }
            2 => Event::Write { handle, offset, data: data.to_vec() },
            3 => Event::Truncate { handle, length: offset },
            4 => Event::Sync { handle },
            5 => Event::DirSync { handle },
            6 => Event::Unlink { path: path() },
            7 => {
                let (from, to) = both();
                Event::Rename { from, to }
            }
            8 => Event::Said(String::from_utf8_lossy(data).into_owned()),
            9 => Event::MakeDir { path: path() },
            10 => Event::RemoveDir { path: path() },
            11 => {
                let (from, to) = both();
                Event::Link { from, to }
            }
            other => panic!("record of kind {other}"),
        });
        rest = &rest[40 + length..];
    }
    events
}

/// A file or folder under any name.
type Id = usize;
type Names = BTreeMap<String, Id>;
/// The names in each folder.
type Folders = BTreeMap<Id, Names>;
const ROOT: Id = 0;

/// The disk below the folder, up to some event of the log.
#[derive(Debug, Clone)]
pub struct Disk {
    files: BTreeMap<Id, File>,
    /// Names that are durable.
    durable: Folders,
    /// Names that programs see.
    seen: Folders,
    /// Changes of names that lead from `durable` to `seen`, oldest first.
    naming: Vec<Naming>,
    handles: BTreeMap<u64, Id>,
}

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate { length: usize },
}

/// A file or folder loses a name, or gets one, or both at once: the folder, and the name in it.
#[derive(Debug, Clone)]
struct Naming {
    of: Id,
    loses: Option<(Id, String)>,
    gets: Option<(Id, String)>,
}

/// The disk's treatment of unsynced data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// Nothing of it is there.
    Nothing,
    /// All of it is there.
    Everything,
    /// The writes up to some write are there, and a part of that one.
    Prefix,
    /// Some writes are there, some are not, some are by half.
    Any,
    /// As before, differently for each file, and names have no order either.
    Scattered,
}

impl Default for Disk {
    /// An empty folder.
    fn default() -> Self {
        let folders = Folders::from([(ROOT, Names::new())]);
        let (files, handles) = (BTreeMap::new(), BTreeMap::new());
        Self { files, durable: folders.clone(), seen: folders, naming: Vec::new(), handles }
    }
}

impl Disk {
    /// Everything below `folder`, durable.
    pub fn of(folder: &Path) -> Self {
        let mut disk = Self::default();
        for (path, content) in Left::of(folder).0 {
            match content {
                Some(durable) => {
                    let id = disk.make_file(&path);
                    disk.files.insert(id, File { durable, pending: Vec::new() });
                }
                None => disk.make_folder(&path),
            }
        }
        disk.naming.clear();
        disk.durable = disk.seen.clone();
        disk
    }

    /// Another process begins: it opens its own files, and sees those that the one before it left.
    pub fn next_process(&mut self) {
        self.handles.clear();
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Open { handle, path, how } => {
                let id = if *how == Opened::Made { self.make_file(path) } else { self.find(path) };
                self.handles.insert(*handle, id);
                if *how == Opened::Emptied {
                    self.file(*handle).pending.push(Change::Truncate { length: 0 });
                }
            }
            Event::Write { handle, offset, data } => {
                self.file(*handle).pending.push(Change::Write { offset: *offset, data: data.clone() });
            }
            Event::Truncate { handle, length } => {
                self.file(*handle).pending.push(Change::Truncate { length: *length });
            }
            Event::Sync { handle } => {
                let File { durable, pending } = self.file(*handle);
                std::mem::take(pending).iter().for_each(|change| change.make(durable));
            }
            Event::DirSync { handle } => {
                let folder = self.handles[handle];
                let (done, rest): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.naming).into_iter().partition(|naming| naming.is_in(folder));
                self.naming = rest;
                done.iter().for_each(|naming| naming.carry_out(&mut self.durable));
            }
            Event::Unlink { path } | Event::RemoveDir { path } => {
                self.name(self.find(path), Some(self.place(path)), None);
            }
            Event::Rename { from, to } => {
                assert!(!from.is_empty(), "{to} came from elsewhere");
                let gets = (!to.is_empty()).then(|| self.place(to));
                self.name(self.find(from), Some(self.place(from)), gets);
            }
            Event::MakeDir { path } => self.make_folder(path),
            Event::Link { from, to } => {
                assert!(!from.is_empty() && !to.is_empty(), "a link across the folder: {event:?}");
                self.name(self.find(from), None, Some(self.place(to)));
            }
            Event::Said(_) => {}
        }
    }

    fn make_file(&mut self, path: &str) -> Id {
        let id = self.files.len() + self.seen.len();
        self.files.insert(id, File::default());
        self.name(id, None, Some(self.place(path)));
        id
    }

    fn make_folder(&mut self, path: &str) {
        let id = self.files.len() + self.seen.len();
        self.seen.insert(id, Names::new());
        self.durable.insert(id, Names::new());
        self.name(id, None, Some(self.place(path)));
    }

    /// The file or folder that programs find under this path.
    fn find(&self, path: &str) -> Id {
        let names = path.split('/').filter(|name| !name.is_empty());
        let inside = |at: Id, name: &str| self.seen.get(&at)?.get(name).copied();
        names.fold(ROOT, |at, name| {
            inside(at, name).unwrap_or_else(|| panic!("nobody was seen to make {path}"))
        })
    }

    /// The folder that holds a path, and the name in it.
    fn place(&self, path: &str) -> (Id, String) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(folder), name.to_owned())
    }

    fn file(&mut self, handle: u64) -> &mut File {
        self.files.get_mut(&self.handles[&handle]).expect("a folder is used as a file")
    }

    fn name(&mut self, of: Id, loses: Option<(Id, String)>, gets: Option<(Id, String)>) {
        let naming = Naming { of, loses, gets };
        naming.carry_out(&mut self.seen);
        self.naming.push(naming);
    }

    /// The files and folders that are there when the power comes back.
    pub fn after_power_cut(&self, luck: Luck, random: &mut Random) -> Left {
        let mut folders = self.durable.clone();
        self.kept(luck, random).iter().for_each(|naming| naming.carry_out(&mut folders));
        let mut left = Left::default();
        let mut below = vec![(String::new(), ROOT)];
        while let Some((path, folder)) = below.pop() {
            for (name, id) in &folders[&folder] {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                let content = self.files.get(id).map(|file| file.after_power_cut(luck, random));
                if content.is_none() {
                    below.push((path.clone(), *id));
                }
                left.0.insert(path, content);
            }
        }
        left
    }

    /// The changes of names that reach the disk, in their order there.
    fn kept(&self, luck: Luck, random: &mut Random) -> Vec<&Naming> {
        let some = match luck {
            Luck::Nothing => 0,
            Luck::Everything => self.naming.len(),
            Luck::Prefix | Luck::Any => random.below(self.naming.len() + 1),
            Luck::Scattered => {
                let mut kept: Vec<&Naming> = self.naming.iter().filter(|_| random.one_in(2)).collect();
                // Any order between files, but the true order for each file: a folder never has two names.
                let mut rank: BTreeMap<Id, u64> = kept.iter().map(|naming| (naming.of, 0)).collect();
                rank.values_mut().for_each(|rank| *rank = random.next());
                kept.sort_by_key(|naming| rank[&naming.of]);
                return kept;
            }
        };
        self.naming[..some].iter().collect()
    }

    /// A path in `folder` that differs from the sum of the records; `None` if they are complete.
    pub fn differs(&self, folder: &Path) -> Option<String> {
        let told = self.after_power_cut(Luck::Everything, &mut Random::new(0)).0;
        let there = Left::of(folder).0;
        told.keys().chain(there.keys()).find(|path| told.get(*path) != there.get(*path)).cloned()
    }
}

impl Naming {
    fn carry_out(&self, folders: &mut Folders) {
        if let Some((folder, name)) = &self.loses {
            let names = folders.get_mut(folder).unwrap();
            if names.get(name) == Some(&self.of) {
                names.remove(name);
            }
        }
        if let Some((folder, name)) = &self.gets {
            folders.get_mut(folder).unwrap().insert(name.clone(), self.of);
        }
    }

    /// Whether the name is durable once this folder was synced. A move between folders is durable once the
    /// other folder was synced.
    fn is_in(&self, folder: Id) -> bool {
        self.gets.as_ref().or(self.loses.as_ref()).is_some_and(|(at, _)| *at == folder)
    }
}

/// The content of a folder: paths, with the contents of files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left(BTreeMap<String, Option<Vec<u8>>>);

impl Left {
    pub fn of(folder: &Path) -> Self {
        let mut left = Self::default();
        let mut below = vec![String::new()];
        while let Some(path) = below.pop() {
            for entry in std::fs::read_dir(folder.join(&path)).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                if entry.file_type().unwrap().is_dir() {
                    below.push(path.clone());
                    left.0.insert(path, None);
                } else if !path.ends_with("-shm") {
                    left.0.insert(path, Some(std::fs::read(entry.path()).unwrap()));
                }
            }
        }
        left
    }

    /// Files, with their paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|(path, content)| Some((path.as_str(), content.as_deref()?)))
    }

    /// Equal ones have equal numbers.
    pub fn digest(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        self.0.hash(&mut hash);
        hash.finish()
    }

    /// Writes it into the folder `dir`.
    pub fn write(&self, dir: &Path) {
        for (path, content) in &self.0 {
            match content {
                None => std::fs::DirBuilder::new().mode(0o750).create(dir.join(path)).unwrap(),
                Some(content) => {
                    let mut options = std::fs::OpenOptions::new();
                    let file = options.write(true).create_new(true).mode(0o600).open(dir.join(path));
                    file.unwrap().write_all(content).unwrap();
                }
            }
        }
    }
}

impl File {
    fn after_power_cut(&self, luck: Luck, random: &mut Random) -> Vec<u8> {
        let Self { durable, pending } = self;
        let mut content = durable.clone();
        let luck = match luck {
            Luck::Scattered => *random.pick(&[Luck::Nothing, Luck::Everything, Luck::Prefix, Luck::Any]),
            luck => luck,
        };
        match luck {
            Luck::Nothing => {}
            Luck::Everything => pending.iter().for_each(|change| change.make(&mut content)),
            Luck::Prefix => {
                let cut = random.below(pending.len() + 1);
                pending[..cut].iter().for_each(|change| change.make(&mut content));
                if let Some(change) = pending.get(cut) {
                    change.tear(&mut content, random);
                }
            }
            Luck::Any | Luck::Scattered => {
                for change in pending {
                    match random.below(4) {
                        0 => {}
                        1 => change.tear(&mut content, random),
                        _ => change.make(&mut content),
                    }
                }
            }
        }
        content
    }
}

impl Change {
    fn make(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => put(content, *offset, data),
            Self::Truncate { length } => content.resize(*length, 0),
        }
    }

    /// Some sectors of a write arrive, others do not. A change of length arrives or does not.
    fn tear(&self, content: &mut Vec<u8>, random: &mut Random) {
        let Self::Write { offset, data } = self else {
            if random.one_in(2) {
                self.make(content);
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
}

fn put(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap()
}
