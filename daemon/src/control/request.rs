//! A task on its way to the code that carries it out, and the authority to give it.

use serde::Deserialize;
use tokio::sync::oneshot;

use super::command::Task;
use super::outcome::Outcome;
use super::refused::Face;
use crate::memory::UserId;

/// The authority behind a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// A client that may publish to the broker.
    Broker,
    /// A person at the button of the device.
    Panel,
    /// A person who is signed in.
    Person(UserId),
    /// The person who looks after the device: the local command line, or the admin token.
    Owner,
}

/// The reach of an authority; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Household,
    Person,
    Owner,
}

impl Authority {
    pub fn level(self) -> Level {
        match self {
            Self::Broker | Self::Panel => Level::Household,
            Self::Person(_) => Level::Person,
            Self::Owner => Level::Owner,
        }
    }

    /// The face whose words a refusal is told in.
    pub fn face(self) -> Face {
        match self {
            Self::Broker | Self::Panel | Self::Person(_) => Face::Mqtt,
            Self::Owner => Face::CommandLine,
        }
    }
}

/// A task that waits its turn.
#[derive(Debug)]
pub struct Request {
    pub task: Task,
    pub from: Authority,
    /// Enrolments cancelled before it was given: a request cancelled since does not begin.
    pub cancels: u64,
    pub answer: oneshot::Sender<Outcome>,
}

/// The name that a caller gives a request, to know its answer by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RequestId(String);

/// Longest [`RequestId`], in bytes.
pub const MAX_ID: usize = 64;

impl TryFrom<String> for RequestId {
    type Error = &'static str;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        if id.len() <= MAX_ID { Ok(Self(id)) } else { Err("an id of more than 64 bytes") }
    }
}

impl RequestId {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `id` of a payload of JSON, regardless of its other keys.
    pub fn of(payload: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct WithId {
            id: Option<RequestId>,
        }
        serde_json::from_slice::<WithId>(payload).ok()?.id
    }
}
