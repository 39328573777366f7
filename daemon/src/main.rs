//! `jarvisd`: see the library for how it works and `jarvisd --help` for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    jarvisd::run()
}
