//! `jarvisd backup accept`: declares the folder of the backups right, with its present content.

use super::Run;
use crate::backup::known;
use crate::cli::output;
use crate::error::Failure;

pub fn run(run: &Run<'_>, args: &output::Json) -> Result<(), Failure> {
    let proven = known::accept(run)?;
    let dir = run.lock.dir();
    if args.json {
        return output::json(&serde_json::json!({ "dir": dir, "proven": proven }));
    }
    output::line(format!("{} is the folder of the backups, with {proven} proven ones.", dir.display()))
}
