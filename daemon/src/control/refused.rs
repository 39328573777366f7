//! The reasons for refusing a command, in the words of the face that it came from.

use crate::error::{Exit, Failure, chain};
use crate::memory::{ANONYMOUS, MemoryError};
use crate::speaker::Refusal;

/// The origin of a command. Each has other means to go on, and its messages name no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    CommandLine,
    /// Also the device's spoken sentences.
    Mqtt,
}

/// Why a command is refused.
#[derive(Debug)]
pub enum Refused {
    /// The caller may not give it.
    NotAllowed,
    /// The device is stopping.
    Stopping,
    /// It was cancelled before its turn came.
    Cancelled,
    /// The PIN is not this person's, or nobody's.
    WrongPin,
    /// Too many failures in a row: the PIN was not looked at.
    Paused,
    /// The name stands for speakers who are answered without verification.
    Anonymous,
    NameLength,
    /// Nobody of this name has a voice that could be added to.
    NoVoice(String),
    /// Another enrolment goes on.
    Busy,
    Muted,
    /// The switch at the device mutes it.
    MutedBySwitch,
    /// The microphone delivers nothing.
    NoSound,
    /// The voice is enrolled under this name.
    EnrolledAs(String),
    /// The person with this name has another voice.
    AnotherVoice(String),
    /// The sample, or all of them together, are not good enough.
    Samples(Refusal),
    /// The sample was lost in the program.
    Lost,
    /// A stage did not end in time; the sentence names it.
    Overdue(String),
    /// A database, a key or a disk that does not work, or a name that the memory does not take.
    Device(Failure),
}

impl From<MemoryError> for Refused {
    fn from(error: MemoryError) -> Self {
        Self::Device(error.into())
    }
}

impl Refused {
    /// The sentence: the failure and the way out.
    pub fn sentence(&self, face: Face) -> String {
        let at_terminal = face == Face::CommandLine;
        match self {
            Self::NotAllowed => "this needs the owner of the device; ask them to do it".to_owned(),
            Self::Stopping => "the device is stopping; send it again when it runs".to_owned(),
            Self::Cancelled => "it was cancelled before its turn came; start again".to_owned(),
            Self::WrongPin => "the PIN is not right; check the name and the PIN".to_owned(),
            Self::Paused => "too many attempts in a row failed; try again when the pause is over".to_owned(),
            Self::Anonymous => format!(
                "\"{ANONYMOUS}\" is whoever is answered while voice verification is switched off, and has \
                 no voice; \
                 enrol the person under a name of their own"
            ),
            Self::NameLength => "the name is empty or too long; give another one".to_owned(),
            Self::NoVoice(name) if at_terminal => format!("no voice of {name} is enrolled; enrol it first"),
            Self::NoVoice(_) => "no voice of this name is enrolled; enrol it first".to_owned(),
            Self::Busy => "another enrolment goes on; cancel it first".to_owned(),
            Self::Muted => "the device is muted; unmute it first".to_owned(),
            Self::MutedBySwitch => {
                "the switch at the device mutes it; move the switch, nothing else lifts that".to_owned()
            }
            Self::NoSound => "the microphone delivers no sound; check that it is plugged in".to_owned(),
            Self::EnrolledAs(other) => {
                let way_out = if at_terminal {
                    "Add the recordings there (`voice enroll --add --user`) or delete that voice (`voice \
                     delete --user`); \
                     if these are two people who sound alike, say --another-person"
                } else {
                    "If these are two people who sound alike, whoever looks after the device can enrol \
                     the voice there"
                };
                format!(
                    "this voice is already enrolled as {other}; enrolled twice, the device could not tell \
                     which of the two \
                     speaks, and would answer neither. {way_out}"
                )
            }
            Self::AnotherVoice(name) => {
                let way_out = if at_terminal {
                    "check --user, or say --replace to put this voice in its place"
                } else {
                    "start again with the name of whoever speaks; whoever looks after the device can \
                     replace the voice there"
                };
                format!("this does not sound like the voice that is enrolled as {name}; {way_out}")
            }
            Self::Samples(refusal) => chain(refusal),
            Self::Overdue(why) => format!("{why}; try again"),
            Self::Lost => "the last sample could not be looked at; start again".to_owned(),
            Self::Device(failure) if at_terminal || failure.exit == Exit::Data => chain(failure),
            Self::Device(_) => "the device could not do it; its journal says why".to_owned(),
        }
    }

    /// Writes the cause that [`Face::Mqtt`] does not see into the journal.
    pub fn log(&self) {
        if let Self::Device(failure) = self
            && failure.exit != Exit::Data
        {
            log::error!("a command failed: {}", chain(failure));
        }
    }

    /// For the command line.
    pub fn failure(self) -> Failure {
        match self {
            Self::Device(failure) => failure,
            other => Failure::new(Exit::Data, other.sentence(Face::CommandLine)),
        }
    }
}
