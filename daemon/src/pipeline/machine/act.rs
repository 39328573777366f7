//! The inputs and the acts of the turn machine: everything that passes between it and its driver.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::control::{EnrolmentRequest, Face, Outcome, Refused, Request};
use crate::detect::Detection;
use crate::dialogue::{DialogueError, TurnOutcome};
use crate::events::{Event, PinOutcome, TurnId, What};
use crate::health::{Condition, State};
use crate::identity::pins::PinsError;
use crate::memory::{Durable, User, UserId};
use crate::pipeline::answer::Sentence;
use crate::pipeline::deadline::Stage;
use crate::pipeline::hearing::Window;
use crate::speaker::pin::Pin;
use crate::speaker::{FailureGate, JustHeard, Part, Progress};
use crate::stt::Transcript;

/// Names one job. A result under a number that the machine does not wait for is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// The news for the machine.
#[derive(Debug)]
pub enum Input {
    Heard(Detection),
    /// The recogniser was given a piece of the command ([`Act::Feed`]).
    Fed {
        /// It took all of it.
        whole: bool,
        /// The words so far.
        words: String,
    },
    Request(Request),
    /// The device was muted or unmuted.
    Muted(bool),
    /// The enrolments that were cancelled since the start.
    Cancelled(u64),
    /// A sentence of the answer that this job makes is on the disk.
    Sentence(Ticket, Durable),
    /// A job has come to an end.
    Done(Ticket, Done),
    /// [`super::TurnMachine::next_deadline`] has passed.
    Deadline,
    /// The device stops. A turn that has begun is brought to its end, without a spoken word.
    Stop,
}

/// The result of a job.
#[derive(Debug)]
pub enum Done {
    Gate {
        gate: FailureGate,
        granted: Option<User>,
    },
    Chance(bool),
    /// An early verdict, if it is certain.
    EarlyVerdict(Option<Box<Part>>),
    Voices(Result<Vec<Part>, String>),
    Person(Result<User, String>),
    Words(Result<Transcript, String>),
    Answered {
        result: Result<TurnOutcome, DialogueError>,
        took: Duration,
    },
    /// The end of a spoken sentence, or the reason why it was not spoken.
    Spoken(Result<(), String>),
    /// Whether the memory of this device is missing.
    Apart(bool),
    Pin(Result<(PinOutcome, Option<User>), PinsError>),
    /// An enrolment has begun, with its state, or was refused.
    Begun(Result<Progress, Refused>),
    Sampled {
        progress: Progress,
        over: bool,
    },
}

/// Work that takes time. Its result comes back as [`Input::Done`].
#[derive(Debug)]
pub enum Job {
    /// Reads the count of failures and the person who gave a PIN.
    Gate,
    /// Takes one of the few attempts of a pause.
    Chance,
    /// Compares the utterance so far.
    EarlyVerdict {
        raw: Vec<f32>,
        speech: Vec<f32>,
    },
    /// Finds out whose voices are in the utterance.
    Voices {
        raw: Arc<Vec<f32>>,
        speech: Arc<Vec<f32>>,
        just: Option<Box<JustHeard>>,
    },
    /// Reads a person that the verdict names.
    Person {
        id: String,
        name: String,
    },
    /// Reads the user for everybody who is answered without verification.
    Anonymous,
    /// Waits for the words of the sound that the recogniser was fed.
    Words,
    /// Transcribes this sound alone.
    OwnWords(Vec<f32>),
    /// Answers, and stores question and answer.
    Answer {
        user: User,
        text: String,
        engine: &'static str,
        confidence: Option<f32>,
    },
    /// Speaks this sentence and those of [`Act::Say`] until [`Act::Said`], and waits until all was heard.
    Say(Sentence),
    Apart,
    Pin {
        user: String,
        pin: Pin,
    },
    Enrol {
        user: String,
        wanted: EnrolmentRequest,
    },
    Sample {
        raw: Vec<f32>,
        speech: Vec<f32>,
    },
    /// Nothing was said for a sample.
    Silence,
}

impl Job {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Gate | Self::Chance | Self::Person { .. } | Self::Anonymous | Self::Apart => Stage::Memory,
            Self::Enrol { .. } => Stage::Memory,
            Self::EarlyVerdict { .. } | Self::Voices { .. } | Self::Pin { .. } => Stage::Verify,
            Self::Words | Self::OwnWords(_) => Stage::Transcribe,
            Self::Answer { .. } => Stage::Answer,
            Self::Say(_) => Stage::Speak,
            Self::Sample { .. } | Self::Silence => Stage::Enrol,
        }
    }
}

/// The work of the driver, in this order. It waits for the disk where an act says so.
#[derive(Debug)]
pub enum Act {
    Start(Ticket, Job),
    /// Nobody waits for this job any more.
    GiveUp(Ticket),
    Show(State),
    Health(&'static str, Condition),
    Emit(Event),
    /// An event at where the sound stands.
    Tell(Option<TurnId>, What),
    /// Waits until the attempt is in the audit log.
    Audit {
        outcome: &'static str,
        user: Option<UserId>,
        detail: Option<serde_json::Value>,
    },
    /// Waits until a failure is counted.
    CountFailure,
    /// Waits until the row of failures is ended.
    EndFailures,
    /// The count of failures may have changed.
    Counted,
    /// Hands the next piece of the command to the recogniser; answered by [`Input::Fed`] at once.
    Feed(Vec<f32>),
    /// The recogniser drops the sound that it was fed.
    Forget,
    /// Reads the writes of other devices, while somebody speaks.
    Refresh,
    OpenWindow(Window, u32),
    /// Says this behind the present sentence.
    Say(Sentence),
    /// Nothing more follows the present sentence.
    Said,
    /// Ends the present speech.
    Cut,
    /// Tells, in the words of this face, that another enrolment goes on.
    Busy(Face),
    /// Answers a request.
    Answer(oneshot::Sender<Outcome>, Outcome),
    /// Tells that the enrolment is cancelled, and drops it.
    CancelEnrolment,
    /// Drops an enrolment that is over.
    EndEnrolment,
    /// Gives back the storage that the models needed for this turn.
    GiveBack,
}
