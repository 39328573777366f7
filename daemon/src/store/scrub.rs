//! Removes deleted rows from the file, a few pages at a time.
//!
//! `secure_delete` zeroes deleted rows. But when SQLite splits or merges pages, it moves rows by copying them
//! and leaves the old copies in the unused middle of the page. These copies outlive the row. SQLite never
//! reads that part and never copies it to another page. So it can be zeroed page by page, in any order, while
//! turns are written in between:
//!
//! ```text
//!  header │ cell pointers │ unused: zeroed here │ cells, free blocks (zeroed when they were freed)
//! ```
//!
//! Pages are read and written through SQLite (`sqlite_dbpage`), each batch in its own transaction. SQLite
//! therefore handles a power cut, another process and the log. Pages that are no B-tree begin with a zero
//! byte in files below 64 GiB (overflow and free pages begin with a page number); `secure_delete` itself
//! zeroes them, or they are written as a whole.

use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::sqlite::Store;
use super::{StoreError, Tx};

/// Pages read at once: 1 MiB in a file made by this version.
const READ_AT_ONCE: i64 = 1024;
/// Pages written in one transaction: a turn waits for that long.
const WRITE_AT_ONCE: usize = 512;
/// From this number of pages on, the first byte of a page number is not zero.
const MAX_PAGES: i64 = 1 << 24;

super::sql::statements! {
    CAN = "SELECT count(*) AS n FROM pragma_module_list WHERE name = 'sqlite_dbpage'";
    PAGES = "SELECT page_count AS n FROM pragma_page_count";
    /// The pages from ?1 up to ?2; the table itself selects only one page or all.
    READ = "WITH RECURSIVE wanted (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM wanted WHERE n < ?2)
        SELECT p.pgno AS pgno, p.data AS data FROM wanted CROSS JOIN sqlite_dbpage p ON p.pgno = wanted.n";
    READ_ONE = "SELECT data FROM sqlite_dbpage WHERE pgno = ?1";
    WRITE = "UPDATE sqlite_dbpage SET data = ?2 WHERE pgno = ?1";
}

/// The result of a round.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbed {
    pub pages: i64,
    /// Pages with old data in their unused part.
    pub cleaned: usize,
}

/// Zeroes the unused part of every page and empties the log. Returns `None` if SQLite was built without
/// `sqlite_dbpage`, or if the file is too large to tell pages apart.
///
/// # Errors
/// [`StoreError::Busy`] also if a reader kept the log from being emptied: old copies of rows may still be
/// there.
pub(super) async fn scrub(store: &Store) -> Result<Option<Scrubbed>, StoreError> {
    // A separate connection, so that a long listing and the scrub do not block each other.
    let mut conn = store.connect_to_read().await?;
    let scrubbed = scrub_with(store, &mut conn).await;
    let closed = conn.close().await.map_err(|e| store.classify(e));
    let Some(scrubbed) = scrubbed? else { return Ok(None) };
    closed?;
    // Most of the log is moved while turns go on, so emptying it takes only a moment.
    store.checkpoint_passive().await?;
    if store.checkpoint_truncate().await? {
        Ok(Some(scrubbed))
    } else {
        Err(StoreError::Busy { path: store.path().into() })
    }
}

async fn scrub_with(store: &Store, conn: &mut SqliteConnection) -> Result<Option<Scrubbed>, StoreError> {
    if number(store, conn, CAN).await? == 0 {
        return Ok(None);
    }
    let mut done = Scrubbed { pages: number(store, conn, PAGES).await?, cleaned: 0 };
    if done.pages >= MAX_PAGES {
        return Ok(None);
    }
    let mut first = 1;
    // Pages added meanwhile hold nothing that was deleted before.
    while first <= done.pages {
        let last = (first + READ_AT_ONCE - 1).min(done.pages);
        let rows = sqlx::query(READ).bind(first).bind(last).fetch_all(&mut *conn).await;
        let mut dirty: Vec<i64> = Vec::new();
        for row in &rows.map_err(|e| store.classify(e))? {
            let read = || Ok((row.try_get("pgno")?, row.try_get::<Vec<u8>, _>("data")?));
            let (number, mut page): (i64, _) = read().map_err(StoreError::Sql)?;
            if clean(number, &mut page) {
                dirty.push(number);
            }
        }
        for numbers in dirty.chunks(WRITE_AT_ONCE) {
            let mut tx = store.begin().await?;
            done.cleaned += write(&mut tx, numbers).await?;
            tx.commit().await?;
            store.checkpoint().await?;
        }
        first = last + 1;
        tokio::task::yield_now().await;
    }
    Ok(Some(done))
}

/// Cleans these pages in their present state.
async fn write(tx: &mut Tx<'_>, numbers: &[i64]) -> Result<usize, StoreError> {
    let mut cleaned = 0;
    for number in numbers {
        let Some(row) = tx.optional(sqlx::query(READ_ONE).bind(number)).await? else { continue };
        let mut page: Vec<u8> = row.try_get("data").map_err(StoreError::Sql)?;
        if clean(*number, &mut page) {
            tx.execute(sqlx::query(WRITE).bind(number).bind(page)).await?;
            cleaned += 1;
        }
    }
    Ok(cleaned)
}

async fn number(store: &Store, conn: &mut SqliteConnection, sql: &'static str) -> Result<i64, StoreError> {
    let row = sqlx::query(sql).fetch_one(conn).await.map_err(|e| store.classify(e))?;
    row.try_get("n").map_err(StoreError::Sql)
}

/// Zeroes the unused part of the B-tree page `number`, and returns whether it held anything. Other pages, and
/// inconsistent pages, are left alone. Format: <https://www.sqlite.org/fileformat2.html#b_tree_pages>.
fn clean(number: i64, page: &mut [u8]) -> bool {
    // The first page begins with the header of the file.
    let header = if number == 1 { 100 } else { 0 };
    let pointers = match page.get(header) {
        Some(2 | 5) => header + 12,
        Some(10 | 13) => header + 8,
        _ => return false,
    };
    let number_at = |page: &[u8], at: usize| {
        page.get(at..at + 2).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    let (Some(block), Some(cells), Some(content)) =
        (number_at(page, header + 1), number_at(page, header + 3), number_at(page, header + 5))
    else {
        return false;
    };
    // 65536 does not fit and is written as 0.
    let content = if content == 0 { 65_536 } else { content };
    let unused = pointers + 2 * cells;
    let Some(gap) = page.get_mut(unused..content) else { return false };
    let mut found = zero(gap);
    // Free blocks are zeroed when they are freed; those in a file of another program are not.
    let mut at = block;
    while at >= content
        && let (Some(next), Some(size)) = (number_at(page, at), number_at(page, at + 2))
        && let Some(free) = page.get_mut(at + 4..at + size.max(4))
    {
        found |= zero(free);
        if next <= at {
            break;
        }
        at = next;
    }
    found
}

/// Zeroes the bytes, and returns whether any was not zero.
fn zero(bytes: &mut [u8]) -> bool {
    let found = bytes.iter().any(|byte| *byte != 0);
    if found {
        bytes.fill(0);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leaf of a table with two cells at its end, a free block between them and old data in the middle.
    fn leaf(header: usize) -> Vec<u8> {
        let mut page = vec![0; 512];
        page[header..header + 8].copy_from_slice(&[13, 1, 0xE0, 0, 2, 1, 0xC0, 0]);
        page[header + 8..header + 12].copy_from_slice(&[1, 0xF0, 1, 0xC0]);
        page[0x1C0..0x1E0].fill(7);
        page[0x1E0..0x1E4].copy_from_slice(&[0, 0, 0, 16]);
        page[0x1F0..].fill(7);
        page
    }

    #[test]
    fn what_a_page_does_not_use_is_zeroed_and_nothing_else() {
        for (number, header) in [(1, 100), (2, 0)] {
            let sound = leaf(header);
            let mut page = sound.clone();
            assert!(!clean(number, &mut page), "there is nothing to clean");
            page[header + 12..0x1C0].fill(9);
            page[0x1E4..0x1F0].fill(9);
            assert!(clean(number, &mut page));
            assert_eq!(page, sound);
        }
    }

    #[test]
    fn pages_that_are_no_trees_or_contradict_themselves_are_left_alone() {
        let sound = leaf(0);
        let changed = |at: usize, bytes: &[u8]| {
            let mut page = sound.clone();
            page[at..at + bytes.len()].copy_from_slice(bytes);
            page
        };
        let other_kind =
            (0..=u8::MAX).filter(|kind| ![2, 5, 10, 13].contains(kind)).map(|kind| changed(0, &[kind]));
        let odd =
            [changed(3, &[0xFF, 0xFF]), changed(5, &[0xFF, 0xFF]), changed(5, &[0, 0]), changed(5, &[0, 3])];
        for mut page in other_kind.chain(odd) {
            page[20..40].fill(9);
            let before = page.clone();
            assert!(!clean(2, &mut page));
            assert_eq!(page, before);
        }
        for mut page in [vec![], vec![13], vec![13; 5], vec![2; 100]] {
            clean(1, &mut page);
            clean(2, &mut page);
        }
        // Free blocks that lead nowhere, or in a circle.
        for block in [[0, 1], [1, 0xC0], [1, 0xFF], [0xFF, 0xFF]] {
            clean(2, &mut changed(1, &block));
        }
    }

    #[test]
    fn any_bytes_are_looked_at_without_harm() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..20_000 {
            let mut page = vec![0; 64];
            for byte in &mut page {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = state.to_be_bytes()[0];
            }
            page[0] = [2, 5, 10, 13][usize::from(page[1] % 4)];
            page[1] = 0;
            page[3] = 0;
            page[5] = 0;
            clean(2, &mut page);
        }
    }
}
