//! Stops the threads of a run and the programs it waits for.

use tokio_util::sync::CancellationToken;

use super::BackupError;

/// Shared by all parts of one run.
#[derive(Debug, Clone, Default)]
pub struct Cancel(CancellationToken);

impl Cancel {
    /// Asks all threads to stop; the programs that they wait for are killed.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    pub fn is_asked(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until [`Cancel::cancel`] is called.
    pub(super) async fn asked(&self) {
        self.0.cancelled().await;
    }

    /// Returns the error to report: after a cancellation, the cancellation rather than its consequence.
    pub fn explains(&self, error: BackupError) -> BackupError {
        if self.is_asked() { BackupError::Cancelled } else { error }
    }

    /// # Errors
    /// [`BackupError::Cancelled`] once [`Cancel::cancel`] was called.
    pub fn check(&self) -> Result<(), BackupError> {
        if self.is_asked() { Err(BackupError::Cancelled) } else { Ok(()) }
    }
}
