//! `jarvisd run`: the daemon.

use tokio::sync::mpsc;

use super::{Common, lines, pipeline_runtime};
use crate::config::{Options, Settings};
use crate::daemon;
use crate::error::Failure;

/// Runs the daemon until it is told to stop (SIGTERM, Ctrl-C); SIGHUP reads the configuration again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print what happens to standard output, one JSON object a line, as `jarvisd listen` does.
    #[arg(long)]
    events: bool,
}

pub fn run(args: Args, common: &Common) -> Result<(), Failure> {
    crate::supervisor::install_panic_hook();
    let settings = common.settings()?;
    pipeline_runtime()?.block_on(with_events(settings, common.options(), args.events))
}

/// Runs the daemon; with `events` it prints what it does to standard output as `jarvisd listen` does.
///
/// # Errors
/// See [`daemon::run`].
async fn with_events(settings: Settings, options: Options, events: bool) -> Result<(), Failure> {
    if !events {
        return daemon::run(settings, options, None).await;
    }
    let (lines_in, lines_out) = mpsc::channel(64);
    let (printed, ran) =
        tokio::join!(lines::print(lines_out), daemon::run(settings, options, Some(lines_in)));
    if let Err(error) = printed {
        log::warn!("events are no longer printed: {error}");
    }
    ran
}
