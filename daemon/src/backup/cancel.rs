//! Asking work in other threads, and programs that it waits for, to stop.

use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::BackupError;

/// Shared by everything that belongs to one run.
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
    /// Asks everything to stop, and ends the programs that run.
    pub fn cancel(&self) {
        self.inner.asked.store(true, Ordering::Release);
        for program in self.programs().iter() {
            // One that has ended by itself needs no signal.
            let _ = program.lock().unwrap_or_else(PoisonError::into_inner).kill();
        }
    }

    pub fn is_asked(&self) -> bool {
        self.inner.asked.load(Ordering::Acquire)
    }

    /// The error to tell: once everything was asked to stop, it is the stop and no fault of what it
    /// broke off.
    pub fn explains(&self, error: BackupError) -> BackupError {
        if self.is_asked() { BackupError::Cancelled } else { error }
    }

    /// # Errors
    /// [`BackupError::Cancelled`] once [`Cancel::cancel`] was called.
    pub fn check(&self) -> Result<(), BackupError> {
        if self.is_asked() { Err(BackupError::Cancelled) } else { Ok(()) }
    }

    /// Has `child` end with the run.
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

/// A program that runs; killed if the value is dropped before it ended.
#[derive(Debug)]
pub struct Program {
    child: Arc<Mutex<Child>>,
    cancel: Cancel,
}

impl Program {
    /// Ends it.
    pub fn kill(&self) {
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&self) -> std::io::Result<ExitStatus> {
        const PAUSE: Duration = Duration::from_millis(5);
        loop {
            // Not held while waiting: a cancellation must get through.
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
