//! Jarvis: a voice appliance that knows who speaks, remembers, and loses nothing.
//!
//! ```text
//!  ALSA ──period──▶ ring ──▶ front end ───────frame──▶ detect ────utterance──▶ ┌ verify speaker (tract) ┐
//!  thread `capture`  SPSC    48 kHz → RNNoise →        VAD (tract)             │                        ├─▶ turn
//!                            16 kHz mono, 10 ms        wake word (tract)       └ transcribe (Vosk/…)    ┘
//!                            thread `frontend`         endpointing                thread `stt`
//!
//!  turn ──▶ dialogue ──▶ memory ──▶ SQLite (journal + queue)
//!              │            └ recall
//!              ├──▶ speech out (ALSA playback)
//!              └──▶ MQTT state and events, journal
//! ```

pub mod board;
pub mod clock;
pub mod durable;
pub mod error;
pub mod plain;
mod text;
pub mod units;

pub mod config;
pub mod health;
pub mod logging;
pub mod privilege;
pub mod supervisor;

pub mod app;
pub mod audio;
pub mod backup;
pub mod control;
pub mod detect;
pub mod dialogue;
pub mod dsp;
pub mod events;
pub mod identity;
pub mod inference;
pub mod memory;
pub mod mqtt;
pub mod notify;
pub mod panel;
pub mod speaker;
pub mod speed;
pub mod store;
pub mod stt;

pub mod cli;
pub mod daemon;
pub mod pipeline;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod testdata;

/// Runs the command line of this process to its end.
pub fn run() -> std::process::ExitCode {
    cli::main(std::env::args_os())
}
