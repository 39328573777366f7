//! Trees from their root on: what leads where, as far as the pages can be read.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use super::image::Image;
use super::record::{Record, Tree, Value, children, count, read, tree_of};

/// Pages of the longest path from a root to a leaf: a tree of four billion pages has less.
const MOST_LEVELS: usize = 64;

/// Where tables and indexes begin, as far as the first pages can be read.
#[derive(Debug)]
pub struct Schema {
    pub roots: HashMap<String, u32>,
}

impl Schema {
    pub fn read(image: &Image) -> Self {
        let mut roots = HashMap::new();
        for number in below(image, 1) {
            for record in read(image, number) {
                if let [_, Value::Text(name), _, Value::Int(root), _] = record.values.as_slice()
                    && let Ok(root) = u32::try_from(*root)
                {
                    roots.insert(name.clone(), root);
                }
            }
        }
        Self { roots }
    }

    /// The records of the index, or the table without row numbers, that is called `name`.
    pub fn entries(&self, image: &Image, name: &str) -> Vec<Record> {
        let pages = self.roots.get(name).map(|root| below(image, *root)).unwrap_or_default();
        let found = pages.into_iter().flat_map(|number| read(image, number));
        found.filter(|record| record.tree == Tree::Index).collect()
    }

    /// As [`Schema::entries`], if not one of them can be missing: each page of the tree is there once, each
    /// of its cells is a record, all leaves are equally deep, and the records ascend.
    pub fn whole(&self, image: &Image, name: &str) -> Option<Vec<Record>> {
        let root = *self.roots.get(name)?;
        let mut walk = Walk { image, seen: HashSet::new(), records: Vec::new(), depth: None };
        walk.down(root, 0)?;
        let ascends = walk.records.windows(2).all(|pair| match pair {
            [before, after] => order(&before.values, &after.values) == Ordering::Less,
            _ => true,
        });
        ascends.then_some(walk.records)
    }

    /// The last value of each record of an index of one column is the row number: that column by it.
    pub fn by_row(&self, image: &Image, index: &str) -> HashMap<i64, Value> {
        let pair = |record: Record| match <[Value; 2]>::try_from(record.values) {
            Ok([value, Value::Int(rid)]) => Some((rid, value)),
            _ => None,
        };
        self.entries(image, index).into_iter().filter_map(pair).collect()
    }
}

/// The pages of a tree from its root on, as far as they can be reached.
pub fn below(image: &Image, root: u32) -> Vec<u32> {
    let (mut seen, mut open) = (HashSet::new(), vec![root]);
    let mut pages = Vec::new();
    while let Some(number) = open.pop() {
        if number == 0 || number > image.pages() || !seen.insert(number) {
            continue;
        }
        pages.push(number);
        if let Ok(page) = image.page(number) {
            open.extend(children(number, &page));
        }
    }
    pages
}

/// A walk through an index in the order of its records.
struct Walk<'a> {
    image: &'a Image,
    seen: HashSet<u32>,
    records: Vec<Record>,
    /// Of the leaves.
    depth: Option<usize>,
}

impl Walk<'_> {
    /// `None`: something below `number` is not as it was written.
    fn down(&mut self, number: u32, depth: usize) -> Option<()> {
        let there = number > 0 && number <= self.image.pages() && depth < MOST_LEVELS;
        if !there || !self.seen.insert(number) {
            return None;
        }
        let page = self.image.page(number).ok()?;
        let records = read(self.image, number);
        let sound = tree_of(number, &page) == Some(Tree::Index) && records.len() == count(number, &page);
        // No page belongs to two things, so that the records are never more than the file.
        let mut overflow = records.iter().flat_map(|record| record.overflow.iter().copied());
        if !sound || !overflow.all(|page| self.seen.insert(page)) {
            return None;
        }
        let children = children(number, &page);
        if children.is_empty() {
            self.records.extend(records);
            return (*self.depth.get_or_insert(depth) == depth).then_some(());
        }
        // Between two pages below stands the record that separates them.
        let mut between = records.into_iter();
        for child in children {
            self.down(child, depth + 1)?;
            self.records.extend(between.next());
        }
        Some(())
    }
}

/// The order of an index whose columns compare bytes and all ascend.
fn order(left: &[Value], right: &[Value]) -> Ordering {
    let pairs = left.iter().zip(right);
    let first = pairs.map(|(left, right)| compare(left, right)).find(|order| *order != Ordering::Equal);
    first.unwrap_or_else(|| left.len().cmp(&right.len()))
}

/// Numbers of two kinds are equal here, so that nothing follows from their order.
fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => left.cmp(right),
        (Value::Real(left), Value::Real(right)) => left.total_cmp(right),
        (Value::Text(left), Value::Text(right)) => left.as_bytes().cmp(right.as_bytes()),
        (Value::Blob(left), Value::Blob(right)) => left.cmp(right),
        _ => rank(left).cmp(&rank(right)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Int(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    }
}
