//! Commands that a person can give the device at a distance.

use super::enrolling::Wanted;
use crate::speaker::pin::Pin;

/// Something a person asked for at a distance that takes its turn. Printing one shows no PIN. What is a state
/// (the mute, the listening window, the end of an enrolment) is none: see [`super::switches`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Take whoever speaks next for `user`.
    Pin { user: String, pin: Pin },
    /// Enrol the voice of this person, before the microphone.
    Enrol {
        user: String,
        wanted: Wanted,
        /// `Switches::cancels` when it was asked for: what was cancelled since does not begin any more.
        cancels: u64,
    },
}
