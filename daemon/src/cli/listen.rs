//! `jarvisd listen`: recordings through the very pipeline of the daemon.

use std::path::PathBuf;

use super::Common;
use crate::error::{Exit, Failure};

/// Plays recordings through the pipeline of the daemon and prints its events, one JSON object a line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// WAV or FLAC files, heard one after the other.
    #[arg(required = true, value_name = "WAV")]
    pub files: Vec<PathBuf>,
    /// Take as long as the recording lasts, as a microphone would.
    #[arg(long)]
    pub realtime: bool,
    /// Database to use instead of the device's own.
    #[arg(long, value_name = "FILE")]
    pub user_db: Option<PathBuf>,
}

pub fn run(_args: Args, common: &Common) -> Result<(), Failure> {
    common.settings()?;
    Err(Failure::new(Exit::Failed, "the pipeline is not part of this build"))
}
