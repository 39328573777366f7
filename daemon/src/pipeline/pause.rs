//! The pause after too many failed attempts, for people who meet it: it is shown, and a refused person hears
//! why.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::hearing::HearingControl;
use crate::error::chain;
use crate::events::bus::Events;
use crate::events::{Event, What};
use crate::health::{Health, rfc3339};
use crate::identity::access;
use crate::memory::Memory;

/// The interval at which the count is read: another process may have taken a wrong PIN, or a right one.
const LOOK: Duration = Duration::from_secs(5);
/// A speaker who meets the pause again within this time has just been told.
pub(super) const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Shows the pause, whichever process began or ended it.
pub struct PauseWatch {
    pub memory: Memory,
    pub health: Health,
    pub events: Events,
    pub control: Arc<HearingControl>,
    /// The count has changed: look now.
    pub changed: Arc<Notify>,
}

impl PauseWatch {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut told = 0;
        loop {
            let mut wait = LOOK;
            match access::gate(&self.memory).await {
                Ok(gate) => {
                    let now = self.memory.clock().now_unix_ms();
                    let until = gate.paused_until(now);
                    self.health.set_paused_until(until);
                    let remaining_ms = gate.remaining_ms(now);
                    if let Some(until) = until.filter(|_| gate.failures > told).and_then(rfc3339) {
                        let pause_s = u64::try_from(remaining_ms / 1000).unwrap_or(0);
                        let what = What::Pause { until, pause_s, failures: gate.failures };
                        self.events.emit(Event::at(self.control.position(), what)).await;
                    }
                    told = gate.failures;
                    if until.is_some() {
                        wait = wait.min(Duration::from_millis(u64::try_from(remaining_ms).unwrap_or(0) + 50));
                    }
                }
                // The counting code reports this error.
                Err(error) => log::debug!("the count of failed attempts cannot be read: {}", chain(&error)),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// The sentence for a speaker who meets the pause.
pub(super) fn why(remaining_ms: i64) -> String {
    let seconds = remaining_ms.div_euclid(1000) + 1;
    let long = if seconds < 120 {
        format!("{seconds} second{}", if seconds == 1 { "" } else { "s" })
    } else {
        format!("{} minutes", (seconds + 59).div_euclid(60))
    };
    format!(
        "I do not answer at the moment, because too many voices that I do not know have spoken to me. Try \
         again in {long}."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_rounds_up() {
        assert!(why(400).ends_with("in 1 second."));
        assert!(why(29_500).ends_with("in 30 seconds."));
        assert!(why(899_000).ends_with("in 15 minutes."));
    }
}
