//! The commands of the device, and its entities in Home Assistant.
//!
//! ```text
//!  payload ─▶ COMMANDS ─┬─ not understood, too long, … ────────────────▶ Outcome
//!                       └─ Command ─┬─ Switch: set at once ────────────▶ Outcome
//!                                   └─ Task: a Request, in its turn ───▶ accepted, then an Outcome
//! ```
//!
//! [`COMMANDS`] is the one list of commands: topics, access checks, entities and the documentation come from
//! it. A new command is a row there, and its effect goes where `Switch` or `Task` is carried out.

pub mod command;
pub mod entity;
pub mod outcome;
pub mod page;
pub mod refused;
pub mod request;

pub use command::{COMMANDS, Command, CommandSpec, EnrolmentRequest, Switch, Task};
pub use outcome::Outcome;
pub use refused::{Face, Refused};
pub use request::{Authority, Request, RequestId};
