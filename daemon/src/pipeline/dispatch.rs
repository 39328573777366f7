//! The way of a command from a face to its effect.
//!
//! A state is set at once ([`super::switches`]). Work takes its turn in a bounded queue, between two
//! utterances. A command's sender never waits here, and always gets an outcome.

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::switches::Switches;
use crate::control::{Authority, Command, Outcome, Refused, Request};

/// Tasks that wait for the turn task; one more is answered with [`Outcome::Busy`].
pub const TASKS: usize = 8;

/// The side of the faces, cheap to clone.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    switches: Switches,
    tasks: mpsc::Sender<Request>,
}

/// The answer to a command.
#[derive(Debug)]
pub enum Given {
    Now(Outcome),
    /// It waits its turn; the outcome comes then.
    Later(oneshot::Receiver<Outcome>),
}

impl Dispatcher {
    /// With the side of the turn task.
    pub fn new(switches: Switches) -> (Self, mpsc::Receiver<Request>) {
        let (tasks, requests) = mpsc::channel(TASKS);
        (Self { switches, tasks }, requests)
    }

    pub fn give(&self, command: Command, from: Authority) -> Given {
        let task = match command {
            Command::Switch(switch) => return Given::Now(self.switches.set(switch)),
            Command::Task(task) => task,
        };
        let (answer, outcome) = oneshot::channel();
        let request = Request { task, from, cancels: self.switches.cancels(), answer };
        match self.tasks.try_send(request) {
            Ok(()) => Given::Later(outcome),
            Err(TrySendError::Full(_)) => Given::Now(Outcome::Busy),
            Err(TrySendError::Closed(_)) => Given::Now(Outcome::Refused(Refused::Stopping)),
        }
    }
}
