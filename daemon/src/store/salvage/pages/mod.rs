//! The pages of an SQLite file, read past SQLite: pages in, records of trees out.
//!
//! ```text
//!  file + log ─image─▶ pages ─record─▶ records of one page        any page, whatever leads to it
//!                        └────tree───▶ records below one root     only what can be reached, in order
//! ```
//!
//! Nothing here knows the tables of this program, its ids or its errors: every fault is one of the disk.
//! Format: <https://www.sqlite.org/fileformat2.html>. Reads only.

pub mod image;
pub mod record;
pub mod tree;

pub use image::Image;
pub use record::{Record, Tree, Value, read};
pub use tree::Schema;
