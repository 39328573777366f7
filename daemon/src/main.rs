//! `jarvisd`: the library documents how it works, and `jarvisd --help` its use.

use std::process::ExitCode;

fn main() -> ExitCode {
    jarvisd::run()
}
