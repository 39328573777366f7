//! `systemctl reload` (SIGHUP): reads the configuration again and applies the keys that can change while the
//! daemon runs.

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::app::{self, LiveSections, Settings};
use crate::config::Options;
use crate::health::Health;
use crate::health::State;
use crate::notify;

/// Runs until `stop`. A faulty configuration changes nothing; the log names every fault of it.
pub async fn run(
    mut hang_up: Signal,
    options: Options,
    settings: Settings,
    live: LiveSections,
    health: Health,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _ = hang_up.recv() => {}
        }
        notify::reloading();
        let from = options.clone();
        let loaded = tokio::task::spawn_blocking(move || app::load(&from)).await;
        match loaded {
            Err(e) => log::error!("reading the configuration was interrupted: {e}"),
            Ok(Ok(new)) => {
                let changed = live.adopt(&new);
                log::info!(
                    "the configuration was read again; {}",
                    if changed { "changes are in force" } else { "nothing changed that can change now" }
                );
                for key in settings.restart_needed(&new) {
                    log::warn!("{key} has changed: restart the service to apply it");
                }
            }
            Ok(Err(faults)) => {
                log::error!(
                    "the configuration has {} fault(s); the running one stays in force",
                    faults.len()
                );
                for fault in &faults {
                    log::error!("{fault}");
                }
            }
        }
        // A reload before the first READY must not send it.
        if health.status().state == State::Starting {
            continue;
        }
        notify::ready(&health.status().words());
    }
}
