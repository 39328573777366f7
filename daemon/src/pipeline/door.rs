//! Who may come in without a verified voice, and when nobody may: the pause after failures, and the PIN.
//!
//! One count for both: a wrong PIN is a failure like a strange voice, and during the pause neither is looked at.

use std::time::Duration;

use tokio::time::Instant;

use super::enrolling::Enrolling;
use crate::memory::User;
use crate::speaker::FailureGate;

/// What the turn task remembers between two attempts.
#[derive(Debug, Default)]
pub struct Door {
    pub gate: FailureGate,
    /// Somebody gave their PIN, and how long that counts.
    grant: Option<(User, Instant)>,
    /// What is said now is a sample of this enrolment; nobody is answered.
    pub enrolling: Option<Enrolling>,
}

impl Door {
    pub fn new(gate: FailureGate) -> Self {
        Self { gate, ..Self::default() }
    }

    /// From now on for `time` an utterance of a voice that is nobody's is taken for `user`'s.
    pub fn grant(&mut self, user: User, time: Duration) {
        self.grant = Some((user, Instant::now() + time));
    }

    /// Who gave a PIN that still counts.
    pub fn granted(&self) -> Option<&User> {
        self.grant.as_ref().filter(|(_, until)| Instant::now() < *until).map(|(user, _)| user)
    }
}
