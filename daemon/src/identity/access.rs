//! Access without a verified voice: the PIN, and the pause after failures, in which nobody gets in.
//!
//! One count for both: a wrong PIN is a failure like a strange voice, and during the pause neither is looked
//! at. Count and grant are settings in the database of the device, so that a PIN counts wherever it was given
//! (MQTT, the command line), in one process as in two, and a restart ends no pause.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pins::{self, PinsError};
use crate::clock::Stamp;
use crate::error::chain;
use crate::events::PinOutcome;
use crate::memory::{Memory, MemoryError, NewAudit, User, UserId};
use crate::speaker::FailureGate;
use crate::speaker::pin::Pin;

/// Names among the settings that survive a restart.
const GATE: &str = "failure_gate";
const GRANT: &str = "voice_grant";

/// Somebody gave their PIN.
#[derive(Debug, Serialize, Deserialize)]
struct Grant {
    user: String,
    /// Boot id that the monotonic time belongs to.
    boot: String,
    until_ns: i64,
}

/// The outcome of a PIN entry.
#[derive(Debug)]
pub struct Entry {
    pub outcome: PinOutcome,
    /// The person whose PIN it is; only if it was accepted.
    pub user: Option<User>,
    /// Milliseconds until the next attempt is looked at; 0 if one is now.
    pub pause_ms: i64,
}

/// The count as it was last read or changed here, for a database that does not work.
#[derive(Debug, Default)]
pub struct Access(Mutex<FailureGate>);

/// The stored count of failures, from every process.
///
/// # Errors
/// A database that does not work.
pub async fn gate(memory: &Memory) -> Result<FailureGate, MemoryError> {
    Ok(memory.setting(GATE).await?.unwrap_or_default())
}

impl Access {
    /// Reads the count, and the person who gave a PIN that still counts, here or in another process: an
    /// utterance of nobody's voice is taken for theirs. A database that does not work grants nothing, and the
    /// count stays.
    pub async fn read(&self, memory: &Memory) -> (FailureGate, Option<User>) {
        let read = async {
            *self.gate() = gate(memory).await?;
            granted(memory).await
        };
        let granted = read.await.unwrap_or_else(|error: MemoryError| {
            log::error!("the count of failed attempts cannot be read: {}", chain(&error));
            None
        });
        (*self.gate(), granted)
    }

    /// Counts a failure.
    pub async fn failed(&self, memory: &Memory) {
        let now = memory.clock().now_unix_ms();
        let counted = memory.update_setting(GATE, |gate: &mut FailureGate| {
            gate.failed(now);
            *gate
        });
        let gate = counted.await.unwrap_or_else(|error| {
            log::error!("the count of failed attempts cannot be stored: {}", chain(&error));
            let mut gate = *self.gate();
            gate.failed(now);
            gate
        });
        *self.gate() = gate;
        warn_of_pause(&gate, now);
    }

    /// Whether an attempt during the pause is compared ([`FailureGate::try_in_pause`]). A database that does
    /// not work allows none: they could not be counted.
    pub async fn try_in_pause(&self, memory: &Memory) -> bool {
        let counted = memory.update_setting(GATE, |gate: &mut FailureGate| (gate.try_in_pause(), *gate));
        match counted.await {
            Ok((allowed, gate)) => {
                *self.gate() = gate;
                allowed
            }
            Err(error) => {
                log::error!("the count of attempts cannot be stored: {}", chain(&error));
                false
            }
        }
    }

    /// A verified voice ends the row of failures.
    pub async fn succeeded(&self, memory: &Memory) {
        if self.gate().failures == 0 {
            return;
        }
        let none = FailureGate::default();
        *self.gate() = none;
        if let Err(error) = memory.set_setting(GATE, &none).await {
            log::error!("the count of failed attempts cannot be stored: {}", chain(&error));
        }
    }

    fn gate(&self) -> MutexGuard<'_, FailureGate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody gives the PIN of `name`; if it is right, it counts for `valid`. It is an attempt, with its row in
/// the audit log. It counts as a failure before it is checked, so that many at once are not checked for the
/// price of one.
///
/// # Errors
/// See [`PinsError`]; an error lets nobody in.
pub async fn enter(memory: &Memory, name: &str, pin: Pin, valid: Duration) -> Result<Entry, PinsError> {
    let now = memory.clock().now_unix_ms();
    let counted = memory.update_setting(GATE, |gate: &mut FailureGate| match gate.remaining_ms(now) {
        0 => {
            gate.failed(now);
            Ok(*gate)
        }
        pause_ms => Err(pause_ms),
    });
    let entry = match counted.await? {
        Err(pause_ms) => Entry { outcome: PinOutcome::Paused, user: None, pause_ms },
        Ok(gate) => match pins::check(memory, name, pin).await? {
            Some(user) => {
                memory.set_setting(GATE, &FailureGate::default()).await?;
                grant(memory, &user, valid).await?;
                if !pins::is_set(memory, user.id).await? {
                    // Another process cleared it between the check and the grant.
                    revoke(memory, user.id).await?;
                }
                Entry { outcome: PinOutcome::Accepted, user: Some(user), pause_ms: 0 }
            }
            None => {
                warn_of_pause(&gate, now);
                Entry { outcome: PinOutcome::Refused, user: None, pause_ms: gate.remaining_ms(now) }
            }
        },
    };
    let user = entry.user.as_ref().map(|user| user.id);
    let row = NewAudit { user, action: "pin", outcome: entry.outcome.as_str(), detail: None };
    memory.append_audit(&row).await?;
    Ok(entry)
}

async fn grant(memory: &Memory, user: &User, valid: Duration) -> Result<(), MemoryError> {
    let Stamp { boot_id, monotonic_ns, .. } = memory.clock().stamp();
    let valid_ns = i64::try_from(valid.as_nanos()).unwrap_or(i64::MAX);
    let until_ns = monotonic_ns.saturating_add(valid_ns);
    let grant = Grant { user: user.id.to_string(), boot: boot_id.to_string(), until_ns };
    memory.set_setting(GRANT, &Some(grant)).await
}

/// Ends the access that `user`'s PIN granted.
///
/// # Errors
/// A database that does not work.
pub async fn revoke(memory: &Memory, user: UserId) -> Result<(), MemoryError> {
    let theirs = user.to_string();
    let taken = |grant: &mut Option<Grant>| {
        grant.take_if(|grant| grant.user == theirs);
    };
    memory.update_setting(GRANT, taken).await
}

/// The person whose PIN counts now. Their voice may have been deleted since.
async fn granted(memory: &Memory) -> Result<Option<User>, MemoryError> {
    let Some(Some(grant)) = memory.setting::<Option<Grant>>(GRANT).await? else { return Ok(None) };
    let now = memory.clock().stamp();
    let Ok(user) = grant.user.parse::<UserId>() else { return Ok(None) };
    if *now.boot_id != *grant.boot
        || now.monotonic_ns >= grant.until_ns
        || memory.voiceprint(user).await?.is_none()
    {
        return Ok(None);
    }
    match memory.user(user).await {
        Ok(user) => Ok(Some(user)),
        Err(MemoryError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn warn_of_pause(gate: &FailureGate, now_unix_ms: i64) {
    let pause_ms = gate.remaining_ms(now_unix_ms);
    if pause_ms > 0 {
        let (failures, pause_s) = (gate.failures, pause_ms / 1000);
        log::warn!("{failures} attempts in a row failed; the device pauses for {pause_s} s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::memory::Device;

    #[tokio::test]
    async fn of_many_guesses_at_once_five_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let device = Device { id: "kitchen".into() };
        let memory = Memory::open(&dir.path().join("jarvis.db"), &device, Clock::System).await.unwrap();
        memory.add_user("anna").await.unwrap();
        let guess = || async {
            let pin = Pin::typed("274913").unwrap();
            enter(&memory, "anna", pin, Duration::from_secs(60)).await.unwrap()
        };
        let entries = futures_util::future::join_all((0..20).map(|_| guess())).await;
        let refused = entries.iter().filter(|entry| entry.outcome == PinOutcome::Refused).count();
        let paused = entries.iter().filter(|entry| entry.outcome == PinOutcome::Paused && entry.pause_ms > 0);
        assert_eq!((refused, paused.count()), (5, 15));
        assert_eq!(memory.list_audit(None, None, 50).await.unwrap().len(), 20);
        let (gate, granted) = Access::default().read(&memory).await;
        assert!(granted.is_none() && gate.failures == 5);
    }
}
