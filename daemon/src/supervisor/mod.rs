//! The only place that starts threads and tasks.
//!
//! ```text
//!            token cancelled, or a member ends early
//!  running ────────────────────────────────────────▶ draining ───▶ last words ───▶ drained
//!                                                     members of    members of
//!                                                     the data path `reporter`
//! ```
//!
//! * Every member has a name of at most 15 bytes (the kernel keeps no more of a thread name).
//! * A member of [`Supervisor::task`] or [`Supervisor::thread`] works until it is told to stop. An earlier
//!   end is a fault, whether it failed or not. A *job* ([`Supervisor::job`], [`Supervisor::job_thread`]) may
//!   end well at any time.
//! * [`Supervisor::token`] asks everything to stop at once; stages that are fed by a queue end when the stage
//!   before them closes it, so sound already heard is worked off in the order in which it flows. Members that
//!   report about the others (broker, service manager) get [`Supervisor::last_words`], which is cancelled
//!   after the data path has ended.
//! * A panic is a bug: [`install_panic_hook`] logs it and aborts, so that systemd restarts a process whose
//!   state is known. Only code in [`guarded`] (foreign models, foreign libraries) may panic without that.

mod panic;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::chain;

#[cfg(any(test, fuzzing))]
pub(crate) use panic::is_guarded;
pub use panic::{Caught, guarded, install_panic_hook};

/// Most bytes that the kernel keeps of a thread name.
pub const MAX_NAME_BYTES: usize = 15;

/// Part of a drain's deadline kept for the reporters.
const LAST_WORDS: Duration = Duration::from_secs(2);

type Cause = Box<dyn Error + Send + Sync>;
type Outcome = Result<(), Cause>;

/// A member that ended although nobody had asked it to.
#[derive(Debug)]
pub struct Fault {
    pub name: &'static str,
    cause: Option<Cause>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Some(_) => write!(f, "{} failed", self.name),
            None => write!(f, "{} ended although nothing had asked it to stop", self.name),
        }
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("the name {0:?} of a thread or task is longer than {MAX_NAME_BYTES} bytes")]
    Name(&'static str),
    #[error("cannot start the thread {name}")]
    Thread { name: &'static str, source: std::io::Error },
}

/// Why [`Supervisor::wait`] returned.
#[derive(Debug)]
pub enum Ended {
    /// The token was cancelled.
    Asked,
    /// Every member was a job and all of them are done.
    AllDone,
    Fault(Fault),
}

/// The result of a drain.
#[derive(Debug)]
pub struct Drained {
    /// Members that had not ended at the deadline, in data-flow order. Their threads still run: leave the
    /// process.
    pub late: Vec<&'static str>,
    /// Errors with which members ended after they were asked to stop.
    pub faults: Vec<Fault>,
    pub took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stage,
    Job,
    Reporter,
}

#[derive(Debug)]
struct Member {
    id: Id,
    name: &'static str,
    kind: Kind,
    running: bool,
}

/// Owner of every thread and task. Members are drained in the order in which they were started, so start them
/// in data-flow order.
#[derive(Debug, Default)]
pub struct Supervisor {
    stop: CancellationToken,
    last_words: CancellationToken,
    set: JoinSet<Outcome>,
    members: Vec<Member>,
}

impl Supervisor {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when everything must stop; anyone may cancel it.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when the data path has ended; for members of [`Supervisor::reporter`].
    pub fn last_words(&self) -> CancellationToken {
        self.last_words.clone()
    }

    /// Starts a task that works until it is told to stop. Must be called inside the runtime, like all of
    /// these.
    pub fn task<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Result<(), SpawnError> {
        self.spawn(name, Kind::Stage, work)
    }

    /// Starts a task that may also end well by itself.
    pub fn job<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Result<(), SpawnError> {
        self.spawn(name, Kind::Job, work)
    }

    /// Starts a task that reports on others, until the data path has ended: see [`Supervisor::last_words`].
    pub fn reporter<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Result<(), SpawnError> {
        self.spawn(name, Kind::Reporter, work)
    }

    /// Starts a thread that works until it is told to stop. The handle lets a producer wake it.
    pub fn thread<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<Thread, SpawnError> {
        self.start_thread(name, Kind::Stage, work)
    }

    /// Starts a thread that may also end well by itself.
    pub fn job_thread<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<Thread, SpawnError> {
        self.start_thread(name, Kind::Job, work)
    }

    /// Starts a thread that calls a device whose driver may never return. It ends by itself when nobody needs
    /// it any more. Nobody waits for it once `given_up` is cancelled.
    pub fn device_thread<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        given_up: CancellationToken,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<(), SpawnError> {
        let (_, ended) = spawn_thread(name, work)?;
        self.spawn(name, Kind::Job, async move {
            tokio::select! {
                biased;
                outcome = end_of(ended) => outcome,
                () = given_up.cancelled() => Ok(()),
            }
        })
    }

    fn start_thread<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        kind: Kind,
        work: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<Thread, SpawnError> {
        let (handle, ended) = spawn_thread(name, work)?;
        self.spawn(name, kind, end_of(ended))?;
        Ok(handle)
    }

    fn spawn<E: Into<Cause>>(
        &mut self,
        name: &'static str,
        kind: Kind,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Result<(), SpawnError> {
        check(name)?;
        let id = self.set.spawn(async { work.await.map_err(Into::into) }).id();
        log::debug!("started {name}");
        self.members.push(Member { id, name, kind, running: true });
        Ok(())
    }

    /// Waits until a stop is requested, a member faults, or (with jobs only) everything is done.
    pub async fn wait(&mut self) -> Ended {
        loop {
            let only_jobs =
                !self.members.is_empty() && self.members.iter().all(|m| m.kind == Kind::Job || !m.running);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ended::Asked,
                joined = self.set.join_next_with_id(), if !self.set.is_empty() => {
                    let Some((member, outcome)) = self.note(joined) else { continue };
                    match outcome {
                        Err(cause) => return Ended::Fault(Fault { name: member.0, cause: Some(cause) }),
                        Ok(()) if member.1 != Kind::Job && !self.stop.is_cancelled() => {
                            return Ended::Fault(Fault { name: member.0, cause: None });
                        }
                        Ok(()) => log::debug!("{} is done", member.0),
                    }
                }
                () = std::future::ready(()), if only_jobs && self.set.is_empty() => return Ended::AllDone,
            }
        }
    }

    /// Asks everything to stop and waits for it: first the data path and the jobs, then the reporters.
    ///
    /// Late tasks are dropped. Threads cannot be, so a caller that finds a name in [`Drained::late`] leaves
    /// the process instead of waiting for it.
    pub async fn drain(mut self, deadline: Duration) -> Drained {
        let started = Instant::now();
        let until = started + deadline;
        self.stop.cancel();
        let mut faults = Vec::new();
        self.join_until(until - LAST_WORDS.min(deadline / 4), |kind| kind != Kind::Reporter, &mut faults)
            .await;
        self.last_words.cancel();
        self.join_until(until, |_| true, &mut faults).await;

        let late: Vec<_> = self.members.iter().filter(|m| m.running).map(|m| m.name).collect();
        let took = started.elapsed();
        if late.is_empty() {
            log::info!("everything stopped within {} ms", took.as_millis());
        } else {
            log::error!(
                "{} did not stop within {} s; whatever was acknowledged is on the disk",
                late.join(", "),
                deadline.as_secs()
            );
        }
        self.set.abort_all();
        Drained { late, faults, took }
    }

    async fn join_until(&mut self, until: Instant, wanted: impl Fn(Kind) -> bool, faults: &mut Vec<Fault>) {
        while self.members.iter().any(|m| m.running && wanted(m.kind)) {
            let Ok(joined) = tokio::time::timeout_at(until, self.set.join_next_with_id()).await else {
                return;
            };
            let Some((member, outcome)) = self.note(joined) else { return };
            match outcome {
                Ok(()) => log::debug!("{} stopped", member.0),
                Err(cause) => {
                    let fault = Fault { name: member.0, cause: Some(cause) };
                    log::warn!("while stopping: {}", chain(&fault));
                    faults.push(fault);
                }
            }
        }
    }

    /// Finds the member that a finished task belongs to. `None` when there is no task left.
    fn note(
        &mut self,
        joined: Option<Result<(Id, Outcome), JoinError>>,
    ) -> Option<((&'static str, Kind), Outcome)> {
        let (id, outcome) = match joined? {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(error.into())),
        };
        let member = self.members.iter_mut().find(|m| m.id == id)?;
        member.running = false;
        Some(((member.name, member.kind), outcome))
    }
}

/// A thread, and its outcome when it ends.
fn spawn_thread<E: Into<Cause>>(
    name: &'static str,
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(Thread, oneshot::Receiver<Outcome>), SpawnError> {
    check(name)?;
    let (done, ended) = oneshot::channel::<Outcome>();
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // The supervisor may be gone at the end of a test or after a late drain; then nobody needs the
            // result.
            let _ = done.send(work().map_err(Into::into));
        })
        .map_err(|source| SpawnError::Thread { name, source })?;
    Ok((thread.thread().clone(), ended))
}

async fn end_of(thread: oneshot::Receiver<Outcome>) -> Outcome {
    // A thread that panics drops its sender. In the daemon the panic hook has aborted the process before
    // that.
    thread.await.unwrap_or_else(|_| Err("the thread panicked".into()))
}

fn check(name: &'static str) -> Result<(), SpawnError> {
    if name.len() > MAX_NAME_BYTES { Err(SpawnError::Name(name)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
