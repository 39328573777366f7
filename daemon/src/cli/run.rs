//! `jarvisd run`: the daemon.

use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Common, lines, pipeline_runtime};
use crate::app::Settings;
use crate::config::Options;
use crate::daemon;
use crate::error::Failure;
use crate::events::bus::Lines;

/// Events that wait for the reader of standard output; more are left out.
const LINES_DEPTH: usize = 256;

/// Runs the daemon until it is told to stop (SIGTERM, Ctrl-C); SIGHUP reads the configuration again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jarvisd run                                   as systemd starts it
  jarvisd --root ~/jarvis-trial run --events    a trial in a folder of its own, showing its events")]
pub struct Args {
    /// Print the daemon's events to standard output, one JSON object a line, as `jarvisd listen` does. Words
    /// of a speaker who is not verified yet are shown on a terminal only.
    #[arg(long)]
    events: bool,
}

pub fn run(args: Args, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    let runtime = pipeline_runtime()?;
    let ran = runtime.block_on(with_events(settings, common.options(), args.events));
    // A hanging playback or reader of the events must not keep a stopped daemon alive.
    runtime.shutdown_background();
    ran
}

/// Runs the daemon; with `events` it prints its events to standard output as `jarvisd listen` does.
///
/// # Errors
/// See [`daemon::run`].
async fn with_events(settings: Settings, options: Options, events: bool) -> Result<(), Failure> {
    if !events {
        return daemon::run(settings, options, None).await;
    }
    let (sender, receiver) = mpsc::channel(LINES_DEPTH);
    let printer = tokio::task::spawn_blocking(move || lines::print(receiver));
    let lines = Lines { sender, lossless: false, partials: std::io::stdout().is_terminal() };
    let ran = daemon::run(settings, options, Some(lines)).await;
    match tokio::time::timeout(Duration::from_secs(1), printer).await {
        Ok(Ok(Err(error))) => log::warn!("events are no longer printed: {error}"),
        Ok(_) => {}
        Err(_) => log::warn!("the last events were not printed: nobody reads standard output"),
    }
    ran
}
