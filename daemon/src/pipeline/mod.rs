//! The joints of the data path: the queues between the stages, and which stage waits for which.
//!
//! ```text
//!  ring ─▶ hearing (thread `frontend`) ─Heard─▶ turns (task) ─inputs─▶ machine ─acts─▶ turns ─┬─▶ voices, stt
//!                 ▲                                                                           ├─▶ dialogue
//!                 └─────────────── HearingControl ◀───────────────────────────────────────────┴─▶ answer
//! ```
//!
//! The machine decides the steps of a turn, and the task performs them. Its states are drawn in `machine`.
//!
//! The ring drops the newest sound when it is full and counts it; everything behind it waits instead, so
//! there is one place where sound can be lost and none where an utterance can.

pub mod answer;
mod attention;
pub mod deadline;
pub mod dispatch;
pub mod enrolling;
pub mod hearing;
mod jobs;
pub mod live;
mod machine;
pub mod pause;
mod refusals;
pub mod switches;
pub mod turns;
