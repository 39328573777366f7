//! Switches that others may set at any moment: the mute, the listening window, the end of an enrolment.
//!
//! These are states, not commands in a queue: the last value counts, setting one never waits, and none is
//! lost because something else goes on. A request that takes its turn (a PIN, the start of an enrolment) is a
//! `Task`.
//!
//! ```text
//!  set_muted ──▶ HearingControl (at once: detection, the answer that is spoken)
//!           └──▶ keep ──▶ SQLite, durable ──▶ Health: only now it is published as muted or not
//! ```
//!
//! Invariants: a device that was muted is muted again before it hears its first sound; a mute that cannot be
//! stored is in force, and [`Health`] says that a restart would end it. A switch at the device mutes it
//! besides: what is wanted and stored is one thing, the position of the switch another, and either mutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::hearing::{HearingControl, Window};
use crate::control::{Outcome, Refused, Switch};
use crate::error::chain;
use crate::health::{Condition, Health};
use crate::memory::{Memory, MemoryError};

/// Name of the stored mute in [`Health`].
pub const COMPONENT: &str = "mute";
/// Its name among the settings that survive a restart.
const MUTED: &str = "muted";
/// Time that a window opened at a distance (push to talk) stays open.
const PUSH_TO_TALK_MS: u32 = 5_000;
/// A slower database does not delay the published state.
const STORE_WITHIN: Duration = Duration::from_secs(3);
/// A database may be repaired meanwhile, from a copy in which the mute is older.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const TRY_AGAIN: Duration = Duration::from_secs(3);

/// The sending side, cheap to clone.
#[derive(Debug, Clone)]
pub struct Switches {
    control: Arc<HearingControl>,
    /// `None` until it is known.
    muted: Arc<watch::Sender<Option<bool>>>,
    /// The switch at the device mutes it.
    switched_off: Arc<AtomicBool>,
    /// The number of enrolments cancelled so far.
    cancels: Arc<watch::Sender<u64>>,
}

impl Switches {
    pub fn new(control: Arc<HearingControl>) -> Self {
        Self { control, muted: Arc::default(), switched_off: Arc::default(), cancels: Arc::default() }
    }

    /// In force when this returns; stored and published by [`Switches::keep_muted`].
    pub fn set_muted(&self, muted: bool) {
        // Inside, so that with two callers the same one wins both.
        self.muted.send_modify(|wanted| {
            self.control.set_muted(muted || self.is_switched_off());
            *wanted = Some(muted);
        });
    }

    /// Takes the position of the switch at the device. In force when this returns; what the household wanted
    /// counts again when the switch goes back.
    pub fn set_switch(&self, mutes: bool) {
        self.muted.send_if_modified(|wanted| {
            let changed = self.switched_off.swap(mutes, Ordering::AcqRel) != mutes;
            if mutes {
                self.control.set_muted(true);
            } else if let Some(muted) = *wanted {
                self.control.set_muted(muted);
            }
            changed
        });
    }

    /// Whether the switch at the device mutes it.
    pub fn is_switched_off(&self) -> bool {
        self.switched_off.load(Ordering::Acquire)
    }

    /// Whether the device hears nothing, for whatever reason.
    pub fn is_muted(&self) -> bool {
        self.control.is_muted()
    }

    /// Sets a switch.
    pub fn set(&self, switch: Switch) -> Outcome {
        match switch {
            Switch::Mute(false) if self.is_switched_off() => {
                return Outcome::Refused(Refused::MutedBySwitch);
            }
            Switch::Mute(muted) => self.set_muted(muted),
            Switch::Listen if self.control.is_muted() => return Outcome::Refused(Refused::Muted),
            Switch::Listen if self.control.is_interrupted() => return Outcome::Refused(Refused::NoSound),
            Switch::Listen => self.control.open_window(Window::Asked, PUSH_TO_TALK_MS),
            Switch::CancelEnrolment => self.cancel_enrolment(),
        }
        Outcome::Done
    }

    /// Ends the running enrolment, and those requested and not begun.
    fn cancel_enrolment(&self) {
        self.cancels.send_modify(|count| *count += 1);
    }

    /// Grows with every enrolment that is cancelled.
    pub fn cancels(&self) -> u64 {
        *self.cancels.borrow()
    }

    pub fn watch_cancels(&self) -> watch::Receiver<u64> {
        self.cancels.subscribe()
    }

    /// Mutes a device whose last setting was muted, before it hears anything. If that cannot be read it is
    /// muted: a person who switched listening off must not be listened to.
    pub async fn restore_muted(&self, memory: &Memory, health: &Health) {
        let (stored, condition) = match timeout(STORE_WITHIN, memory.setting::<bool>(MUTED)).await {
            Ok(Ok(stored)) => (Some(stored.unwrap_or(false)), Condition::Ok),
            failed => {
                let why = why_not(failed.map(|read| read.map(|_| ())));
                let sentence = format!(
                    "it cannot be read whether the device was muted ({why}), so it is; unmute it to be heard"
                );
                (None, Condition::degraded(sentence))
            }
        };
        self.muted.send_if_modified(|wanted| {
            if wanted.is_none() {
                let muted = stored.unwrap_or(true) || self.is_switched_off();
                self.control.set_muted(muted);
                health.set_muted(muted);
                health.set(COMPONENT, condition);
                *wanted = stored;
            }
            false
        });
    }

    /// Stores the mute and then publishes it, until `stop`.
    pub async fn keep_muted(
        self,
        memory: Memory,
        health: Health,
        stop: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        let mut wanted = self.muted.subscribe();
        // Includes a value set before this began.
        wanted.mark_changed();
        let mut wait = LOOK_AGAIN;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = wanted.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(wait) => {}
            }
            let value = *wanted.borrow_and_update();
            let Some(muted) = value else {
                self.restore_muted(&memory, &health).await;
                wait = TRY_AGAIN;
                continue;
            };
            let stored = timeout(STORE_WITHIN, store(&memory, muted)).await;
            let damaged = matches!(&stored, Ok(Err(error)) if error.is_worth_repeating());
            let condition = match stored {
                Ok(Ok(())) => Condition::Ok,
                failed => Condition::degraded(not_kept(muted, &why_not(failed))),
            };
            wait = if condition == Condition::Ok { LOOK_AGAIN } else { TRY_AGAIN };
            health.set(COMPONENT, condition);
            health.set_muted(muted || self.is_switched_off());
            if damaged {
                // Storing takes its time; the state in force is published already.
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    mended = memory.mend() => if let Err(error) = mended {
                        log::debug!("the database is not repaired: {}", chain(&error));
                    }
                }
            }
        }
    }
}

fn not_kept(muted: bool, why: &str) -> String {
    if muted {
        format!(
            "the device is muted, but only until a restart, because it cannot be stored ({why}); check the \
             disk"
        )
    } else {
        format!(
            "the device listens, but a restart may mute it, because it cannot be stored ({why}); check the \
             disk"
        )
    }
}

/// Writes only a change: a look every half minute must not wear the disk.
async fn store(memory: &Memory, muted: bool) -> Result<(), MemoryError> {
    if memory.setting::<bool>(MUTED).await?.unwrap_or(false) == muted {
        return Ok(());
    }
    memory.set_setting(MUTED, &muted).await
}

fn why_not(outcome: Result<Result<(), MemoryError>, tokio::time::error::Elapsed>) -> String {
    match outcome {
        Ok(Err(error)) => chain(&error),
        _ => format!("the database does not answer within {} s", STORE_WITHIN.as_secs()),
    }
}
