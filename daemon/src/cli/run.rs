//! `jarvisd run`: the daemon.

use super::Common;
use crate::error::{Exit, Failure};

/// Runs the daemon until it is told to stop.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args, common: &Common) -> Result<(), Failure> {
    common.settings()?;
    Err(Failure::new(Exit::Failed, "the pipeline is not part of this build"))
}
