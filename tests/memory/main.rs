//! The memory of a house: the file, the queue, the shared Postgres, and their faults. One binary, because
//! linking costs more than most of its tests.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot set up must fail loudly")]
#![expect(clippy::print_stdout, reason = "long tests print the figures that the docs quote")]

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod equipment;
mod forward_crash;
mod forward_faults;
mod forward_isolation;
mod forward_model;
mod postgres;
mod powercut;
mod recovery;
mod store;
