//! `jarvisd run`: the daemon.

use tokio::sync::mpsc;

use super::lines;
use crate::config::{Options, Settings};
use crate::daemon;
use crate::error::Failure;

/// Runs the daemon; with `events` it prints what it does to standard output as `jarvisd listen` does.
///
/// # Errors
/// See [`daemon::run`].
pub async fn run(settings: Settings, options: Options, events: bool) -> Result<(), Failure> {
    if !events {
        return daemon::run(settings, options, None).await;
    }
    let (lines_in, lines_out) = mpsc::channel(64);
    let (printed, ran) = tokio::join!(lines::print(lines_out), daemon::run(settings, options, Some(lines_in)));
    if let Err(error) = printed {
        log::warn!("events are no longer printed: {error}");
    }
    ran
}
