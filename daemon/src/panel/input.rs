//! An input device of the kernel: which of its keys and switches are on.
//!
//! The kernel hands over records of a time, a type, a code and a value (`struct input_event`,
//! Documentation/input/input.rst). A pipe that carries such records is taken as well; it cannot be asked for
//! its state.

use std::collections::{BTreeSet, VecDeque};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::ioctl::{self, opcode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Types of records, from linux/input-event-codes.h.
const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_SW: u16 = 5;
/// Records were lost, because nobody read them in time.
const SYN_DROPPED: u16 = 3;

/// Bytes of a record: its time has two long integers.
const RECORD: usize = size_of::<libc::input_event>();
/// Records that are read at once.
const AT_ONCE: usize = 64;
/// Keys and switches that count as pressed at one time; a hand has no more fingers.
const MOST_DOWN: usize = 32;

/// Bytes of a bit for each key (KEY_MAX is 0x2ff), and for each switch (SW_MAX is 0x10).
const KEY_BYTES: usize = 96;
const SWITCH_BYTES: usize = 4;

/// A record without its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    kind: u16,
    code: u16,
    value: i32,
}

impl Record {
    fn of(bytes: &[u8; RECORD]) -> Self {
        let [.., k0, k1, c0, c1, v0, v1, v2, v3] = *bytes;
        Self {
            kind: u16::from_ne_bytes([k0, k1]),
            code: u16::from_ne_bytes([c0, c1]),
            value: i32::from_ne_bytes([v0, v1, v2, v3]),
        }
    }
}

/// The keys and switches that are on.
#[derive(Debug, Default)]
struct Keys {
    /// The code that counts; any without one.
    wanted: Option<u16>,
    down: BTreeSet<(u16, u16)>,
}

impl Keys {
    /// Takes a record; `false` if records before it were lost.
    fn take(&mut self, record: Record) -> bool {
        let Record { kind, code, value } = record;
        if (kind, code) == (EV_SYN, SYN_DROPPED) {
            return false;
        }
        if (kind == EV_KEY || kind == EV_SW) && self.wanted.is_none_or(|wanted| wanted == code) {
            match value {
                0 => {
                    self.down.remove(&(kind, code));
                }
                1 if self.down.len() < MOST_DOWN => {
                    self.down.insert((kind, code));
                }
                // 2 is a key that repeats itself.
                _ => {}
            }
        }
        true
    }

    /// Takes the state of all keys or switches, a bit each.
    fn replace(&mut self, kind: u16, bits: &[u8]) {
        self.down.retain(|(of, _)| *of != kind);
        for code in 0..u16::try_from(bits.len() * 8).unwrap_or(u16::MAX) {
            let is_on = bits.get(usize::from(code / 8)).is_some_and(|byte| byte >> (code % 8) & 1 == 1);
            if is_on {
                self.take(Record { kind, code, value: 1 });
            }
        }
    }

    fn any(&self) -> bool {
        !self.down.is_empty()
    }
}

/// An open input device.
#[derive(Debug)]
pub struct Input {
    file: AsyncFd<OwnedFd>,
    reader: Reader,
}

/// The way from bytes to changes.
#[derive(Debug, Default)]
struct Reader {
    keys: Keys,
    /// Bytes of a record that has not come whole.
    rest: Vec<u8>,
    /// Whether a key is on; `None` where the device has not told yet.
    is_on: Option<bool>,
    /// Changes of it that nobody has taken yet, at most [`AT_ONCE`] and one.
    changes: VecDeque<bool>,
}

impl Input {
    /// Opens the device and asks which of its keys are on. With `code` no other key counts. Must be called
    /// inside the runtime.
    ///
    /// # Errors
    /// A device that is away, may not be read, or is no input device.
    pub fn open(path: &Path, code: Option<u32>) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let kind = file.metadata()?.file_type();
        if !(kind.is_char_device() || kind.is_fifo()) {
            return Err(io::Error::other("it is not an input device"));
        }
        let wanted = code.and_then(|code| u16::try_from(code).ok());
        let reader = Reader { keys: Keys { wanted, ..Keys::default() }, ..Reader::default() };
        #[expect(unsafe_code, reason = "tokio has no safe function for the descriptor of a device")]
        // SAFETY: the descriptor is owned by the AsyncFd from here on; nothing closes or replaces it.
        let file = unsafe { AsyncFd::register_with_interest(OwnedFd::from(file), Interest::READABLE) }?;
        let mut input = Self { file, reader };
        input.ask();
        input.reader.changes.clear();
        Ok(input)
    }

    /// Whether a key is on; `None` where the device has not told yet.
    pub fn is_on(&self) -> Option<bool> {
        self.reader.is_on
    }

    /// Waits for the next change, and gives whether a key is on now. Cancel safe.
    ///
    /// # Errors
    /// The device is away.
    pub async fn next(&mut self) -> io::Result<bool> {
        loop {
            // A device that never stops sending must not keep its thread: a read that succeeds does not wait.
            tokio::task::coop::consume_budget().await;
            if let Some(change) = self.reader.changes.pop_front() {
                return Ok(change);
            }
            let mut bytes = [0; RECORD * AT_ONCE];
            let mut ready = self.file.readable().await?;
            let Ok(read) = ready.try_io(|file| Ok(rustix::io::read(file.get_ref(), &mut bytes)?)) else {
                continue;
            };
            let read = read?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is unplugged"));
            }
            if !self.reader.take(bytes.get(..read).unwrap_or_default()) {
                self.ask();
            }
        }
    }

    /// Asks the device for its state; a pipe has none to give.
    fn ask(&mut self) {
        let keys = state::<{ opcode::read::<[u8; KEY_BYTES]>(b'E', 0x18) }, KEY_BYTES>(self.file.get_ref());
        let switches =
            state::<{ opcode::read::<[u8; SWITCH_BYTES]>(b'E', 0x1b) }, SWITCH_BYTES>(self.file.get_ref());
        if let Some(bits) = keys {
            self.reader.keys.replace(EV_KEY, &bits);
            self.reader.settle();
        }
        if let Some(bits) = switches {
            self.reader.keys.replace(EV_SW, &bits);
            self.reader.settle();
        }
    }
}

impl Reader {
    /// Takes bytes as they come; `false` if records were lost, so that the device has to be asked.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.rest.extend_from_slice(bytes);
        let whole = self.rest.len() / RECORD * RECORD;
        let whole: Vec<u8> = self.rest.drain(..whole).collect();
        let mut all_came = true;
        for record in whole.as_chunks::<RECORD>().0 {
            let record = Record::of(record);
            all_came &= self.keys.take(record);
            if record.kind == EV_KEY || record.kind == EV_SW {
                self.settle();
            }
        }
        all_came
    }

    /// Notes whether a key is on now.
    fn settle(&mut self) {
        let now = self.keys.any();
        if self.is_on.replace(now) != Some(now) {
            self.changes.push_back(now);
        }
    }
}

/// The bits of all keys (`EVIOCGKEY`) or switches (`EVIOCGSW`); `None` from what is no input device.
fn state<const OPCODE: ioctl::Opcode, const BYTES: usize>(device: &OwnedFd) -> Option<[u8; BYTES]> {
    #[expect(unsafe_code, reason = "rustix has no function for these requests")]
    // SAFETY: the size of the array is part of both opcodes, and the kernel writes at most that much. Every
    // value of its bytes is valid.
    let bits = unsafe { ioctl::ioctl(device, ioctl::Getter::<OPCODE, [u8; BYTES]>::new()) };
    bits.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u16 = 582;

    fn record(kind: u16, code: u16, value: i32) -> Vec<u8> {
        let mut bytes = vec![7; RECORD - 8];
        bytes.extend([kind.to_ne_bytes(), code.to_ne_bytes()].concat());
        bytes.extend(value.to_ne_bytes());
        bytes
    }

    fn changes(reader: &mut Reader) -> Vec<bool> {
        reader.changes.drain(..).collect()
    }

    #[test]
    fn a_press_and_its_release_in_one_read_are_two_changes() {
        let mut reader = Reader::default();
        let both = [record(EV_KEY, KEY, 1), record(EV_SYN, 0, 0), record(EV_KEY, KEY, 0)].concat();
        assert!(reader.take(&both));
        assert_eq!(changes(&mut reader), [true, false]);
        // In pieces, as a pipe may deliver them.
        let torn = both.chunks(5).all(|piece| reader.take(piece));
        assert!(torn);
        assert_eq!(changes(&mut reader), [true, false]);
    }

    #[test]
    fn only_the_wanted_key_counts_and_repeats_are_no_change() {
        let mut reader = Reader { keys: Keys { wanted: Some(KEY), ..Keys::default() }, ..Reader::default() };
        for code in [1, 2, KEY] {
            reader.take(&record(EV_KEY, code, 1));
            reader.take(&record(EV_KEY, code, 2));
        }
        assert_eq!(changes(&mut reader), [false, true]);
        assert_eq!(reader.is_on, Some(true));
        reader.take(&record(EV_KEY, KEY, 0));
        assert_eq!(reader.is_on, Some(false));
    }

    #[test]
    fn a_switch_is_on_as_long_as_one_of_its_contacts_is() {
        let mut reader = Reader::default();
        for (code, value) in [(14, 1), (15, 1), (14, 0)] {
            reader.take(&record(EV_SW, code, value));
        }
        assert_eq!(changes(&mut reader), [true]);
        reader.take(&record(EV_SW, 15, 0));
        assert_eq!(changes(&mut reader), [false]);
    }

    #[test]
    fn the_state_that_a_device_tells_replaces_what_was_known() {
        let mut reader = Reader::default();
        reader.take(&record(EV_KEY, 100, 1));
        assert!(!reader.take(&record(EV_SYN, SYN_DROPPED, 0)), "lost records are told");
        reader.keys.replace(EV_KEY, &[0; KEY_BYTES]);
        reader.settle();
        assert_eq!(reader.is_on, Some(false));
        let mut bits = [0; KEY_BYTES];
        bits[usize::from(KEY / 8)] = 1 << (KEY % 8);
        reader.keys.replace(EV_KEY, &bits);
        reader.settle();
        assert_eq!((reader.is_on, reader.keys.down.first()), (Some(true), Some(&(EV_KEY, KEY))));
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow() {
        let mut reader = Reader::default();
        let mut seed = 1_u32;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..97)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Small numbers, so that types and values are often known ones.
                    u8::try_from(seed >> 30).unwrap()
                })
                .collect();
            reader.take(&bytes);
            reader.changes.clear();
            assert!(reader.rest.len() < RECORD && reader.keys.down.len() <= MOST_DOWN);
        }
        reader.keys.replace(EV_KEY, &[0xff; KEY_BYTES]);
        assert_eq!(reader.keys.down.len(), MOST_DOWN);
    }

    #[tokio::test]
    async fn a_pipe_is_read_and_its_end_and_a_plain_file_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("event");
        std::fs::write(&path, record(EV_KEY, KEY, 1)).unwrap();
        assert!(Input::open(&path, None).is_err(), "a file is no input device");
        std::fs::remove_file(&path).unwrap();
        assert!(Input::open(&path, None).is_err(), "it is away");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let mut hand = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut input = Input::open(&path, Some(KEY.into())).unwrap();
        assert_eq!(input.is_on(), None, "a pipe does not tell");
        use std::io::Write as _;
        hand.write_all(&record(EV_KEY, KEY, 1)).unwrap();
        assert!(input.next().await.unwrap());
        hand.write_all(&record(EV_KEY, KEY, 0)).unwrap();
        assert!(!input.next().await.unwrap());
        drop(hand);
        assert!(input.next().await.is_err());
    }
}
