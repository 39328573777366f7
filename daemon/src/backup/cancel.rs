//! Stops the threads of a run and the programs it waits for.

use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::BackupError;

/// Shared by all parts of one run.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    asked: AtomicBool,
    programs: Mutex<Vec<Arc<Mutex<Child>>>>,
}

impl Cancel {
    /// Asks all threads to stop, and kills the running programs.
    pub fn cancel(&self) {
        self.inner.asked.store(true, Ordering::Release);
        for program in self.programs().iter() {
            // A program that has ended by itself needs no signal.
            let _ = program.lock().unwrap_or_else(PoisonError::into_inner).kill();
        }
    }

    pub fn is_asked(&self) -> bool {
        self.inner.asked.load(Ordering::Acquire)
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

    /// Makes `child` end with the run.
    pub fn watch(&self, child: Child) -> Program {
        let child = Arc::new(Mutex::new(child));
        self.programs().push(child.clone());
        if self.check().is_err() {
            self.cancel();
        }
        Program { child, cancel: self.clone() }
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Mutex<Child>>>> {
        self.inner.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running program; dropping the value kills it.
#[derive(Debug)]
pub struct Program {
    child: Arc<Mutex<Child>>,
    cancel: Cancel,
}

impl Program {
    /// Kills the program.
    pub fn kill(&self) {
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// The error of the system.
    pub fn wait(&self) -> std::io::Result<ExitStatus> {
        const PAUSE: Duration = Duration::from_millis(5);
        loop {
            // The lock is not held while waiting: a cancellation must get through.
            let ended = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?;
            match ended {
                Some(status) => return Ok(status),
                None => std::thread::sleep(PAUSE),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(child);
        self.cancel.programs().retain(|other| !Arc::ptr_eq(other, &self.child));
    }
}
