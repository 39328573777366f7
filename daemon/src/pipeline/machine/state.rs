//! The states of the turn machine, and the facts that it gets about its surroundings.

use std::time::Instant;

use tokio::sync::oneshot;

use super::act::Ticket;
use super::answer::Speaker;
use super::judge::Turn;
use super::listening::Listening;
use crate::control::{Face, Outcome};
use crate::detect::Utterance;
use crate::events::{Moment, TurnId};
use crate::pipeline::deadline::Stage;
use crate::speaker::{Part, Progress};

/// The moment of a step.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub at: Instant,
    /// Wall clock, as the count of failures has it.
    pub unix_ms: i64,
}

/// The settings and the equipment, as far as they affect decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Verified voices only are answered; otherwise everyone is.
    pub verify: bool,
    /// There is a recogniser.
    pub transcribes: bool,
    /// Answers are spoken.
    pub speaks: bool,
    /// 0: none.
    pub follow_up_ms: u32,
    /// How long a PIN counts; 0: PINs are not taken.
    pub pin_valid_s: u64,
    /// A recording is heard: no stage is given up, so that a slow machine gives the same result.
    pub patient: bool,
}

/// The activity of the device.
#[derive(Debug)]
pub(super) enum Doing {
    /// Nothing, or somebody speaks.
    Listening(Listening),
    /// A PIN is checked, and the present utterance waits.
    Pin(Listening, Answer),
    /// The command is over and its early verdict is not.
    Looking(Listening, Utterance),
    /// The count of failures and the given PIN are read.
    Gate(Turn),
    /// The device pauses; the attempt may still be compared.
    Chance(Turn),
    /// Speaker and words are found out side by side.
    Judging(Turn),
    /// The memory is asked for the person of this part.
    Finding(Turn, Box<Part>),
    Transcribing(Turn, Speaker),
    Answering(Turn, Speaker),
    Speaking(Option<TurnId>, Then),
    /// The turn is over; the machine asks whether the memory is missing.
    Closing(Moment),
    /// An enrolment begins.
    Beginning(Face, Answer),
    /// A sample of an enrolment is looked at.
    Sampling,
}

impl Default for Doing {
    fn default() -> Self {
        Self::Listening(Listening::default())
    }
}

/// The way back to the sender of a command.
pub(super) type Answer = oneshot::Sender<Outcome>;

/// The continuation behind a spoken sentence.
#[derive(Debug)]
pub(super) enum Then {
    /// An answer was given: the next person of the utterance.
    Answered(Turn),
    /// A sentence took the place of an answer: the next person of the utterance.
    NextPerson(Turn),
    /// The last sentence of a turn.
    Close(Turn),
    /// Somebody heard that the device pauses.
    ToldOfPause(Turn),
    /// Nothing: the turn is closed already.
    Rest,
    /// The next phrase of an enrolment is asked for.
    AskPhrase(Box<Progress>),
    /// The window for a phrase is opened.
    AwaitPhrase,
}

/// A running enrolment: each utterance is a sample of it, and nobody is answered.
#[derive(Debug)]
pub(super) struct Enrolment {
    pub(super) user: String,
    /// The recordings for it are kept.
    pub(super) keeps: bool,
    /// It ends as soon as its running job is over.
    pub(super) cancelled: bool,
}

/// A job whose result is waited for.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) stage: Stage,
    /// `None`: it is waited for without end.
    pub(super) due: Option<Instant>,
}
