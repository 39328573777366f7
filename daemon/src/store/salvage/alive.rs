//! Which messages a damaged file had when it broke, where that is certain.
//!
//! A row, its entries in the indexes and the note of its deletion change in one transaction. So the index of
//! ids names a message although the page with its text cannot be read, and does not name one that was
//! deleted. That is believed only as a whole: both trees, the index and the deletions, are there from root to
//! leaves with every record in its order, and no part of the log is damaged. A page that a disk put back to
//! an older state, and that fits in all the same, cannot be told: SQLite keeps no checksums. For a deleted
//! message to count as alive it takes two of them, of both trees.

use std::collections::BTreeSet;
use std::path::Path;

use uuid::Uuid;

use super::pages::{Image, Schema, Value};
use super::{PAGE_SIZES, shape};
use crate::store::StoreError;

/// Why nobody knows which messages there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncertain {
    #[error("the log of the damaged database is damaged as well")]
    Log,
    #[error("the list of deletions is damaged as well")]
    Deletions,
    #[error("the list of messages is damaged as well")]
    Messages,
}

/// The ids of the messages that the file had.
///
/// # Errors
/// The outer one is of the disk.
pub fn messages(damaged: &Path) -> Result<Result<BTreeSet<Uuid>, Uncertain>, StoreError> {
    let image = Image::open(damaged, PAGE_SIZES)
        .map_err(|e| StoreError::Open { path: damaged.into(), source: e.into() })?;
    Ok(in_image(&image))
}

fn in_image(image: &Image) -> Result<BTreeSet<Uuid>, Uncertain> {
    if !image.log_is_sound() {
        return Err(Uncertain::Log);
    }
    let schema = Schema::read(image);
    let deletions = schema.whole(image, "tombstones").ok_or(Uncertain::Deletions)?;
    let is_one =
        |record| shape::table_of(record).is_some_and(|table: &shape::Table| table.of.name == "tombstones");
    if !deletions.iter().all(is_one) {
        return Err(Uncertain::Deletions);
    }
    let entries = schema.whole(image, "sqlite_autoindex_messages_1").ok_or(Uncertain::Messages)?;
    let id = |record: super::pages::Record| match record.values.as_slice() {
        [Value::Blob(id), Value::Int(_)] => Uuid::from_slice(id).map_err(|_| Uncertain::Messages),
        _ => Err(Uncertain::Messages),
    };
    entries.into_iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::{damaged, household};
    use super::*;

    /// A household that has forgotten things, and the messages that it has.
    async fn home(path: &Path) -> BTreeSet<Uuid> {
        household(path, 25).await.close().await;
        let alive = messages(path).unwrap().unwrap();
        assert!(alive.len() > 150, "{}", alive.len());
        alive
    }

    #[tokio::test]
    async fn whatever_page_is_damaged_no_message_is_named_that_was_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jarvis.db");
        let alive = home(&path).await;
        let bytes = fs::read(&path).unwrap();
        let size = Image::open(&path, PAGE_SIZES).unwrap().size();
        let pages = bytes.len() / size;
        let (mut certain, mut whole, mut uncertain) = (0, 0, BTreeSet::new());
        let mut look = |file: &[u8], what: &str| {
            fs::write(&path, file).unwrap();
            match messages(&path).unwrap() {
                Ok(found) => {
                    assert!(found.is_subset(&alive), "{what}: names a message that was not there");
                    whole += usize::from(found == alive);
                    certain += 1;
                }
                Err(why) => drop(uncertain.insert(why.to_string())),
            }
        };
        for page in 0..pages {
            for (what, from) in [("filled", None), ("as the one before", Some(page.wrapping_sub(1)))] {
                let mut file = bytes.clone();
                match from {
                    Some(from) if from < pages => {
                        file.copy_within(from * size..(from + 1) * size, page * size);
                    }
                    _ => file[page * size..(page + 1) * size].fill(0xA5),
                }
                look(&file, &format!("page {page} {what}"));
            }
        }
        for seed in 1..=200 {
            let (file, _, what) = damaged(&bytes, size, seed);
            look(&file, &what);
        }
        // A leaf in the place of its root is a smaller tree, which names nothing that was not there.
        assert!(whole > pages / 2 && certain - whole < 10, "{whole} and {certain} of {pages}");
        assert!(uncertain.len() == 2, "{uncertain:?}");
    }

    #[tokio::test]
    async fn nothing_is_certain_beside_a_log_that_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jarvis.db");
        let memory = household(&path, 5).await;
        let cut = tempfile::tempdir().unwrap();
        let copy = super::super::tests::copy(&path, cut.path());
        memory.close().await;
        let log = crate::store::heal::beside(&copy, "-wal");
        let bytes = fs::read(&log).unwrap();
        assert!(bytes.len() > 4_000 && messages(&copy).unwrap().is_ok());
        for at in [0, 60, 100, bytes.len() / 2] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&log, damaged).unwrap();
            assert_eq!(messages(&copy).unwrap(), Err(Uncertain::Log), "byte {at}");
        }
        fs::write(&log, b"").unwrap();
        assert!(!matches!(messages(&copy).unwrap(), Err(Uncertain::Log)), "an empty one is none");
    }
}
