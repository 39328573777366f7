//! `systemctl reload` (SIGHUP): reads the configuration again and applies what can change while the daemon runs.

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::live::{Live, LiveSettings};
use crate::config::{self, Options, Settings};
use crate::events::State;
use crate::health::Health;
use crate::notify;

/// Runs until `stop`. A faulty configuration changes nothing and is named in the log, every fault of it.
pub async fn run(
    mut hang_up: Signal,
    options: Options,
    started_with: Settings,
    live: LiveSettings,
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
        let loaded = tokio::task::spawn_blocking(move || config::load(&from)).await;
        match loaded {
            Err(e) => log::error!("reading the configuration was interrupted: {e}"),
            Ok(Ok(new)) => {
                let changes = Live::of(&new);
                let changed = changes != **live.load();
                live.store(changes.into());
                log::info!(
                    "the configuration was read again; {}",
                    if changed { "changes are in force" } else { "nothing changed that can change now" }
                );
                for key in restart_needed(&started_with, &new) {
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
        // Before the first READY a reload must not give it.
        if health.status().state == State::Starting {
            continue;
        }
        notify::ready(&health.status().words());
    }
}

/// Keys whose value has changed and that only a start reads.
fn restart_needed(old: &Settings, new: &Settings) -> Vec<String> {
    const LIVE: [&str; 4] =
        ["voice.threshold", "voice.user_thresholds", "dialogue.follow_up_s", "speech.enabled"];
    old.effective
        .iter()
        .zip(&new.effective)
        .filter(|(before, after)| before.value != after.value && !LIVE.contains(&before.key.as_str()))
        .map(|(before, _)| before.key.clone())
        .collect()
}
