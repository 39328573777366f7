//! The device as a household meets it: microphone, voices, broker, command line. One binary, because linking
//! costs more than most of its tests.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot set up must fail loudly"
)]

#[path = "../support/mod.rs"]
mod support;

mod attention;
mod bad_input;
mod bench;
mod broker;
mod cli;
mod disk;
mod doctor;
mod enrolment;
mod guided;
mod listen;
mod microphone;
mod panel;
mod recordings;
mod score;
mod second_voice;
mod service;
mod setup;
mod voice;
