//! Identity: voices, PINs, the count of failed attempts, and enrolments.
//!
//! ```text
//!  samples ─▶ session ─▶ ownership ─▶ voiceprint (memory), recordings (a sealed file, where asked for)
//!  utterance ─▶ voices ─▶ whose it is
//!  PIN ─▶ access ─▶ grant, or a failure; `access` also counts failures of voices and begins the pause
//! ```
//!
//! Every face uses this one interface: the command line, the broker, the microphone of the device. Refusals
//! are typed ([`crate::control::Refused`]) and worded by the face.

pub mod access;
mod ownership;
pub mod pins;
pub mod recordings;
pub mod sentences;
pub mod session;
pub mod sound;
pub mod voices;
