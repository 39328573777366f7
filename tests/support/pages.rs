//! Damage on chosen pages of a database file.

use std::fs;
use std::path::Path;

/// The kind of page that holds rows of a table.
const ROWS: u8 = 13;

/// Overwrites the pages of `db` that hold rows and for which `hit` is true; returns how many.
pub fn overwrite_rows(db: &Path, hit: impl Fn(&[u8]) -> bool) -> usize {
    overwrite(db, |number, page| number > 1 && page[0] == ROWS && hit(page))
}

/// Overwrites page `number`, which counts from 1.
pub fn overwrite_page(db: &Path, number: usize) {
    assert_eq!(overwrite(db, |page, _| page == number), 1);
}

fn overwrite(db: &Path, hit: impl Fn(usize, &[u8]) -> bool) -> usize {
    let mut bytes = fs::read(db).unwrap();
    let size = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    let mut pages = 0;
    for (n, page) in bytes.chunks_mut(size).enumerate().filter(|(_, page)| page.len() == size) {
        if hit(n + 1, page) {
            page.fill(0xA5);
            pages += 1;
        }
    }
    fs::write(db, bytes).unwrap();
    pages
}

/// Whether a page holds this text.
pub fn has(page: &[u8], text: &str) -> bool {
    page.windows(text.len()).any(|part| part == text.as_bytes())
}
