//! The numeric loops of jarvisd that take most of its time: the network of the speaker check, and the scores
//! of Whisper's tokens.
//!
//! They are a crate of their own because a development build leaves the daemon unoptimised, so that it is
//! built in a fifth of the time. An enrolment then took twice as long. Cargo optimises whole crates, and this
//! one changes seldom. It knows tract and nothing of the daemon.

pub mod campplus;
pub mod integers;
