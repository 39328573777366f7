//! How far a long step has come, for whoever shows it.

use std::fmt;
use std::sync::Arc;

/// The progress of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// A step begins that has so many bytes.
    Begun(u64),
    /// So many more bytes are done.
    By(u64),
    /// So many bytes are done.
    To(u64),
    /// All steps are over.
    Ended,
}

/// Tells how far a step has come. Cloning shares the listener.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Moved) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(..)")
    }
}

impl Progress {
    /// `listener` is called for every piece of some 100 KiB, by any thread.
    pub fn told_to(listener: impl Fn(Moved) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Nobody is told.
    pub fn hidden() -> Self {
        Self::told_to(|_| {})
    }

    pub(super) fn begin(&self, bytes: u64) {
        (self.0)(Moved::Begun(bytes));
    }

    pub(super) fn advance(&self, bytes: u64) {
        (self.0)(Moved::By(bytes));
    }

    pub(super) fn reach(&self, bytes: u64) {
        (self.0)(Moved::To(bytes));
    }

    /// Something else is shown from here on.
    pub fn end(&self) {
        (self.0)(Moved::Ended);
    }
}
