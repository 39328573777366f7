//! A test whose tool, data or right is missing on this machine: listed as skipped, and a failure where
//! nothing may be missing.

use std::fmt::Display;
use std::io::Write as _;

/// The file in which `scripts/test.sh` collects skipped tests. Without it, as in continuous integration, a
/// missing tool is a failure.
const LIST: &str = "JARVIS_TEST_SKIPPED";

/// Notes that the running test is skipped, because `what` ("flite is not on this machine").
///
/// # Panics
///
/// If no list is kept: a test that was not run must not count as passed.
pub fn skipped(what: impl Display) {
    let Some(list) = std::env::var_os(LIST) else {
        panic!(
            "{what}; scripts/test.sh installs what tests need, and lists what it could not run as skipped"
        );
    };
    let thread = std::thread::current();
    let line = format!("{}: {what}\n", thread.name().unwrap_or("a test"));
    // One write of one line: tests run side by side.
    let file = std::fs::OpenOptions::new().append(true).create(true).open(list);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skipped tests");
}
