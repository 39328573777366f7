//! The progress of a long step, for display.

use std::fmt;
use std::sync::Arc;

/// The progress of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// A step with this many bytes begins.
    Begun(u64),
    /// This many more bytes are done.
    By(u64),
    /// This many bytes are done in total.
    To(u64),
    /// All steps are over.
    Ended,
}

/// Reports the progress of a step. Cloning shares the listener.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Moved) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress(..)")
    }
}

impl Progress {
    /// Calls `listener` for every piece of some 100 KiB, from any thread.
    pub fn told_to(listener: impl Fn(Moved) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// A progress without a listener.
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

    /// Ends the display of this progress.
    pub fn end(&self) {
        (self.0)(Moved::Ended);
    }
}
