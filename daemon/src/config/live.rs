//! A section whose live keys change while the program runs.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Section;

/// A section that a reload may change. Clones share it, so each reader is given one and asks it anew for each
/// piece of work; a section that is held by value never changes.
#[derive(Debug)]
pub struct Live<S>(Arc<ArcSwap<S>>);

impl<S> Clone for Live<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Section + Clone + PartialEq> Default for Live<S> {
    fn default() -> Self {
        Self::new(S::default())
    }
}

impl<S: Section + Clone + PartialEq> Live<S> {
    pub fn new(section: S) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(section)))
    }

    /// The values of this moment.
    pub fn load(&self) -> Arc<S> {
        self.0.load_full()
    }

    /// Takes the live keys of `new`; returns whether one of them has changed.
    pub fn adopt(&self, new: &S) -> bool {
        let before = self.load();
        let mut section = S::clone(&before);
        section.adopt_live(new);
        let changed = section != *before;
        if changed {
            self.0.store(Arc::new(section));
        }
        changed
    }
}
