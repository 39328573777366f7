//! Records out of single pages. Nothing is believed: every length is checked, a record must fill its cell
//! exactly, text must be UTF-8 without NUL; what does not fit is no row.

use std::collections::HashSet;

use super::image::{Image, word};

/// A stored value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// What a page is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Rows with row numbers: leaf pages of a table.
    Table,
    /// Records without: an index, or a table that has no row numbers. Leaf and inner pages hold them.
    Index,
}

/// Payload in bytes: a length above it counts as damage, so that none of them costs more than this.
const MAX_PAYLOAD: usize = 1 << 21;

/// What kind of page this is, if it holds records.
pub fn tree_of(number: u32, page: &[u8]) -> Option<Tree> {
    match page.get(header_at(number)) {
        Some(0x0d) => Some(Tree::Table),
        Some(0x0a | 0x02) => Some(Tree::Index),
        _ => None,
    }
}

/// A record of a page: its row number (0 in an index), its values, the pages behind the first that it lies
/// on.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub tree: Tree,
    pub rowid: i64,
    pub values: Vec<Value>,
    pub overflow: Vec<u32>,
}

/// Overflow bytes that are read for one page: of its cells at most ten go on elsewhere, because a tenth of a
/// page or more stays in the cell (section 1.6 of the format).
const MAX_OVERFLOW: usize = 16 * MAX_PAYLOAD;

/// The room that records of a page still have. The cells of a sound page do not overlap and share no overflow
/// page; those of a damaged one may all be the same megabytes, thousands of times.
struct Room {
    on_page: usize,
    /// Bytes on other pages, also of what turns out to be no record.
    overflow: usize,
    /// Overflow pages that belong to a record.
    taken: HashSet<u32>,
}

/// The records of page `number` that can be read.
pub fn read(image: &Image, number: u32) -> Vec<Record> {
    let Ok(page) = image.page(number) else { return Vec::new() };
    let page = page.as_slice();
    let Some(tree) = tree_of(number, page) else { return Vec::new() };
    let mut room = Room { on_page: page.len(), overflow: MAX_OVERFLOW, taken: HashSet::new() };
    cells(number, page)
        .into_iter()
        .filter_map(|at| record(image, page, at, (tree, inner(number, page)), &mut room))
        .collect()
}

/// Pages below the inner page `number`, left to right.
pub fn children(number: u32, page: &[u8]) -> Vec<u32> {
    let head = header_at(number);
    if !matches!(page.get(head), Some(0x02 | 0x05)) {
        return Vec::new();
    }
    let mut below: Vec<u32> = cells(number, page).into_iter().map(|at| word(page, at)).collect();
    below.push(word(page, head + 8));
    below
}

fn header_at(number: u32) -> usize {
    if number == 1 { 100 } else { 0 }
}

fn inner(number: u32, page: &[u8]) -> bool {
    page.get(header_at(number)) == Some(&0x02)
}

/// How many cells a page says that it has.
pub fn count(number: u32, page: &[u8]) -> usize {
    half(page, header_at(number) + 3)
}

fn half(page: &[u8], at: usize) -> usize {
    page.get(at..at + 2).map_or(0, |b| usize::from(u16::from_be_bytes([b[0], b[1]])))
}

/// Where the cells of a page begin.
fn cells(number: u32, page: &[u8]) -> Vec<usize> {
    let head = header_at(number);
    let first = head + if matches!(page.get(head), Some(0x02 | 0x05)) { 12 } else { 8 };
    let count = count(number, page).min(page.len().saturating_sub(first) / 2);
    let mut seen = HashSet::new();
    let starts = (0..count).map(|n| half(page, first + 2 * n));
    starts.filter(|at| *at >= first + 2 * count && *at < page.len() && seen.insert(*at)).collect()
}

fn record(
    image: &Image,
    page: &[u8],
    at: usize,
    (tree, inner): (Tree, bool),
    room: &mut Room,
) -> Option<Record> {
    let cell = page.get(at + if inner { 4 } else { 0 }..)?;
    let (size, mut used) = varint(cell)?;
    let size = usize::try_from(size).ok().filter(|size| *size <= MAX_PAYLOAD)?;
    let mut rowid = 0;
    if tree == Tree::Table {
        let (number, more) = varint(cell.get(used..)?)?;
        rowid = i64::from_be_bytes(number.to_be_bytes());
        used += more;
    }
    let local = local_size(size, tree, page.len());
    let mut payload = cell.get(used..used + local)?.to_vec();
    let mut overflow = Vec::new();
    if local < size {
        let mut next = word(cell.get(used + local..)?, 0);
        while payload.len() < size {
            let twice = overflow.contains(&next) || room.taken.contains(&next);
            if next == 0 || next > image.pages() || twice {
                return None;
            }
            overflow.push(next);
            room.overflow = room.overflow.checked_sub(page.len())?;
            let more = image.page(next).ok()?;
            let wanted = (size - payload.len()).min(more.len().saturating_sub(4));
            payload.extend_from_slice(more.get(4..4 + wanted)?);
            next = word(&more, 0);
        }
        // The last page of a chain says so; anything else is a chain that was torn.
        if next != 0 {
            return None;
        }
    }
    let values = values(&payload)?;
    room.on_page = room.on_page.checked_sub(local)?;
    room.taken.extend(&overflow);
    Some(Record { tree, rowid, values, overflow })
}

/// Bytes of a payload that lie on the page of `page` bytes itself (section 1.6 of the format).
fn local_size(size: usize, tree: Tree, page: usize) -> usize {
    let least = (page - 12) * 32 / 255 - 23;
    let most = match tree {
        Tree::Table => page - 35,
        Tree::Index => (page - 12) * 64 / 255 - 23,
    };
    if size <= most {
        return size;
    }
    let kept = least + (size - least) % (page - 4);
    if kept <= most { kept } else { least }
}

fn values(payload: &[u8]) -> Option<Vec<Value>> {
    let (head, mut at) = varint(payload)?;
    let head = usize::try_from(head).ok().filter(|head| *head <= payload.len())?;
    let mut body = head;
    let mut values = Vec::new();
    while at < head {
        let (kind, used) = varint(payload.get(at..head)?)?;
        at += used;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            12.. => usize::try_from((kind - 12) / 2).ok()?,
            _ => return None,
        };
        let bytes = payload.get(body..body.checked_add(size)?)?;
        body += size;
        values.push(match kind {
            0 => Value::Null,
            1..=6 => Value::Int(integer(bytes)),
            7 => Value::Real(f64::from_be_bytes(bytes.try_into().ok()?)),
            8 => Value::Int(0),
            9 => Value::Int(1),
            even if even % 2 == 0 => Value::Blob(bytes.to_vec()),
            // A sector that reads as zeros shows so.
            _ => Value::Text(std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))?.to_owned()),
        });
    }
    (at == head && body == payload.len()).then_some(values)
}

fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|first| *first >= 0x80) { -1 } else { 0 };
    bytes.iter().fold(sign, |value, byte| (value << 8) | i64::from(*byte))
}

/// A variable-length integer and how many bytes it has.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (n, byte) in bytes.iter().take(9).enumerate() {
        if n == 8 {
            return Some(((value << 8) | u64::from(*byte), 9));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, n + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_all_lengths_are_read() {
        assert_eq!(varint(&[0x7f]), Some((127, 1)));
        assert_eq!(varint(&[0x81, 0x00]), Some((128, 2)));
        assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, 9)));
        assert_eq!(varint(&[0x80; 8]), None);
        assert_eq!(integer(&[0xff]), -1);
        assert_eq!(integer(&[0x01, 0x00]), 256);
        assert_eq!(integer(&[]), 0);
    }

    #[test]
    fn a_record_that_does_not_fill_its_cell_is_none() {
        assert_eq!(values(&[3, 1, 15, 7, b'x']), Some(vec![Value::Int(7), Value::Text("x".into())]));
        for odd in [
            &[3, 1, 15, 7][..],
            &[3, 1, 15, 7, b'x', b'y'],
            &[3, 1, 15, 7, 0xff],
            &[9, 1],
            &[2, 10],
            &[],
            &[0x80],
        ] {
            assert_eq!(values(odd), None, "{odd:?}");
        }
    }
}
