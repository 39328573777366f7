//! Stores lines of tab-separated fields column by column instead of line by line.
//!
//! Identifiers, times and texts each compress better among their own kind. A dump of Postgres, whose rows are
//! such lines, takes a third less room (docs/design/backup.md). The input is not parsed and need not have
//! that form: any bytes come back unchanged.
//!
//! ```text
//! block   = bytes of the block, u32 · bytes of each of the 24 columns, u32 each · the columns, one after the other
//! column  = its fields of all lines, each with the tab or newline that ends it
//! ```
//!
//! Numbers are little-endian. The columns together are as long as the block. A field that ends with a newline
//! is the last of its line; further tabs belong to the last column. A block starts at the first column; only
//! its last field may lack an end.

use std::io::{self, Read, Write};

/// Fields of a line that have a column of their own.
const COLUMNS: usize = 24;
/// Bytes of a block. Larger blocks were not smaller on the disk.
const BLOCK_BYTES: usize = 2 << 20;
/// Largest block accepted when reading.
const MAX_BLOCK_BYTES: usize = 16 << 20;
const HEADER_BYTES: usize = 4 * (1 + COLUMNS);

/// Converts lines to blocks of columns.
#[derive(Debug, Default)]
pub(super) struct Columns {
    columns: [Vec<u8>; COLUMNS],
    bytes: usize,
    /// The column of the next byte.
    at: usize,
}

impl Columns {
    /// Takes `bytes` and writes the full blocks.
    pub(super) fn push(&mut self, mut bytes: &[u8], sink: &mut impl Write) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at_checked(BLOCK_BYTES - self.bytes).unwrap_or((bytes, &[]));
            self.bytes += now.len();
            self.sort(now);
            if self.bytes == BLOCK_BYTES {
                self.end_block(sink)?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn sort(&mut self, mut bytes: &[u8]) {
        while let Some(column) = self.columns.get_mut(self.at) {
            let Some(end) = end_of_field(bytes, self.at) else {
                column.extend_from_slice(bytes);
                return;
            };
            let (field, later) = bytes.split_at_checked(end + 1).unwrap_or((bytes, &[]));
            column.extend_from_slice(field);
            self.at = if field.ends_with(b"\n") { 0 } else { self.at + 1 };
            bytes = later;
        }
    }

    /// Writes the rest.
    pub(super) fn end_block(&mut self, sink: &mut impl Write) -> io::Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let lengths = std::iter::once(self.bytes).chain(self.columns.iter().map(Vec::len));
        let header: Vec<u8> =
            lengths.flat_map(|length| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()).collect();
        sink.write_all(&header)?;
        for column in &mut self.columns {
            sink.write_all(column)?;
            column.clear();
        }
        (self.bytes, self.at) = (0, 0);
        Ok(())
    }
}

/// Converts blocks of columns back to lines.
pub(super) struct Lines<R> {
    source: R,
    block: Vec<u8>,
    lines: Vec<u8>,
    /// Bytes of `lines` already read.
    read: usize,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, block: Vec::new(), lines: Vec::new(), read: 0 }
    }

    /// Reads the next block; `lines` is empty after the last one.
    fn next_block(&mut self) -> io::Result<()> {
        self.lines.clear();
        self.read = 0;
        self.block.clear();
        if self.source.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut self.block)? == 0 {
            return Ok(());
        }
        let header = self.block.as_chunks::<4>().0;
        let lengths: Vec<usize> = header.iter().map(|length| u32::from_le_bytes(*length) as usize).collect();
        let Some((&bytes, lengths)) = lengths.split_first() else { return Err(wrong()) };
        let possible = lengths.len() == COLUMNS
            && bytes <= MAX_BLOCK_BYTES
            && lengths.iter().all(|length| *length <= bytes)
            && lengths.iter().sum::<usize>() == bytes;
        if !possible {
            return Err(wrong());
        }
        self.block.clear();
        if self.source.by_ref().take(bytes as u64).read_to_end(&mut self.block)? != bytes {
            return Err(wrong());
        }
        let mut rest = self.block.as_slice();
        let mut columns = [rest; COLUMNS];
        for (column, length) in columns.iter_mut().zip(lengths) {
            (*column, rest) = rest.split_at_checked(*length).ok_or_else(wrong)?;
        }
        let mut at = 0;
        while self.lines.len() < bytes {
            let column = columns.get_mut(at).ok_or_else(wrong)?;
            let end = end_of_field(column, at).map_or(column.len(), |end| end + 1);
            let (field, later) = column.split_at_checked(end).ok_or_else(wrong)?;
            self.lines.extend_from_slice(field);
            *column = later;
            at = match field.last() {
                Some(b'\n') => 0,
                Some(b'\t') if at + 1 < COLUMNS => at + 1,
                // Without a tab or newline, only the end of the block ends a field.
                _ if self.lines.len() == bytes => at,
                _ => return Err(wrong()),
            };
        }
        Ok(())
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.lines.len() {
            self.next_block()?;
        }
        let mut left = self.lines.get(self.read..).unwrap_or_default();
        let n = left.read(buffer)?;
        self.read += n;
        Ok(n)
    }
}

/// The end of the field at the start of `bytes`.
fn end_of_field(bytes: &[u8], column: usize) -> Option<usize> {
    if column + 1 < COLUMNS { memchr::memchr2(b'\t', b'\n', bytes) } else { memchr::memchr(b'\n', bytes) }
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a block of its columns contradicts itself")
}

/// Any bytes as blocks, and to columns and back.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(bytes: &[u8]) {
    use crate::fuzzing::sure;

    let mut lines = Vec::new();
    if Lines::new(bytes).read_to_end(&mut lines).is_ok() {
        assert!(lines.len() < bytes.len() || bytes.is_empty(), "{} bytes of {}", lines.len(), bytes.len());
    }
    let (mut columns, mut stored) = (Columns::default(), Vec::new());
    sure(columns.push(bytes, &mut stored), "columns");
    sure(columns.end_block(&mut stored), "columns");
    lines.clear();
    sure(Lines::new(stored.as_slice()).read_to_end(&mut lines), "lines");
    assert!(lines == bytes, "other bytes came back");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there(parts: &[&[u8]]) -> Vec<u8> {
        let (mut columns, mut stored) = (Columns::default(), Vec::new());
        for part in parts {
            columns.push(part, &mut stored).unwrap();
        }
        columns.end_block(&mut stored).unwrap();
        stored
    }

    fn back(stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        Lines::new(stored).read_to_end(&mut lines)?;
        Ok(lines)
    }

    #[test]
    fn fields_of_a_kind_stand_together() {
        let stored = there(&[b"1\tAnna\n2\tBen\n"]);
        assert_eq!(&stored[HEADER_BYTES..], b"1\t2\tAnna\nBen\n");
    }

    #[test]
    fn nothing_is_no_block() {
        assert_eq!(there(&[b""]), b"");
        assert_eq!(back(b"").unwrap(), b"");
    }

    #[test]
    fn blocks_end_anywhere() {
        let lines: Vec<u8> =
            (0..600_000).flat_map(|n| format!("{n}\ta text of {n}\t\n").into_bytes()).collect();
        assert!(lines.len() > 5 * BLOCK_BYTES);
        let stored = there(&[&lines]);
        assert!(back(&stored).unwrap() == lines);
        assert!(back(&stored[..stored.len() - 1]).is_err());
        assert!(back(&stored[..HEADER_BYTES - 1]).is_err());
    }

    /// Mostly separators, in lines of any length, with more tabs than there are columns.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(b'\t'), 1 => Just(b'\n'), 2 => any::<u8>()];
        prop::collection::vec(byte, 0..400)
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_in_whatever_pieces_they_came(
            all in bytes(),
            cut in any::<prop::sample::Index>(),
        ) {
            let (first, second) = all.split_at(cut.index(all.len() + 1));
            let stored = there(&[first, second]);
            prop_assert_eq!(&stored, &there(&[&all]));
            prop_assert_eq!(back(&stored).unwrap(), all);
        }

        #[test]
        fn damage_is_an_error_or_other_bytes_but_never_more_than_there_were(
            all in bytes(), at in any::<prop::sample::Index>(), to in any::<u8>()
        ) {
            let mut stored = there(&[&all]);
            if !stored.is_empty() {
                let at = at.index(stored.len());
                stored[at] = to;
            }
            if let Ok(read) = back(&stored) {
                prop_assert_eq!(read.len(), all.len());
            }
        }
    }
}
