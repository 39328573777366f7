//! The answer to a command.

use super::refused::{Face, Refused};

/// The result of a command. Printing one shows nothing of its payload.
#[derive(Debug)]
pub enum Outcome {
    Done,
    /// It waits its turn; another outcome follows.
    Accepted,
    Refused(Refused),
    /// Too many wait already.
    Busy,
    NotUnderstood {
        /// Forms that are.
        form: &'static str,
    },
    TooLong {
        max_bytes: usize,
    },
    Retained,
    /// The configuration does not allow this command.
    SwitchedOff {
        /// The key that would.
        key: &'static str,
    },
}

impl Outcome {
    /// Stable name, as in answers.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Accepted => "accepted",
            Self::Refused(_) => "refused",
            Self::Busy => "busy",
            Self::NotUnderstood { .. } => "not_understood",
            Self::TooLong { .. } => "too_long",
            Self::Retained => "retained",
            Self::SwitchedOff { .. } => "switched_off",
        }
    }

    /// Whether the command is in force, or will be in its turn.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Done | Self::Accepted)
    }

    /// Whether the payload was a command, regardless of its outcome.
    pub fn is_understood(&self) -> bool {
        matches!(self, Self::Done | Self::Accepted | Self::Refused(_) | Self::Busy)
    }

    /// One sentence: the outcome and, for a refusal, the remedy.
    pub fn sentence(&self, face: Face) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::Accepted => "it waits its turn".to_owned(),
            Self::Refused(refused) => refused.sentence(face),
            Self::Busy => "too many commands wait; send it again later".to_owned(),
            Self::NotUnderstood { form } => {
                format!("the payload is not understood; send {}", form.replace('`', ""))
            }
            Self::TooLong { max_bytes } => {
                format!("the payload is too long; send {max_bytes} bytes at most")
            }
            Self::Retained => "the message is retained; publish commands without the retain flag".to_owned(),
            Self::SwitchedOff { key } => format!("the command is switched off; set {key} to switch it on"),
        }
    }
}
