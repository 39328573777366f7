//! A deadline for every stage of a turn, and the sign of life of the turn task.
//!
//! A stage that does not end in time is given up: the person hears a sentence, an event names the stage, and
//! the next command is heard. The watchdog knows when the present stage must be over, so it notices a turn
//! task that hangs nevertheless (`notify.rs`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::monotonic_ms;

/// The thing that a turn waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The identity of the speaker.
    Verify,
    /// The last words of the recogniser.
    Transcribe,
    /// One read or write of the memory.
    Memory,
    /// The answer and its place on the disk; a damaged database is repaired meanwhile.
    Answer,
    /// A sample of an enrolment; the last one is stored.
    Enrol,
    /// An answer is spoken. [`super::answer::Answer`] has deadlines of its own for every step of it.
    Speak,
}

impl Stage {
    /// Several times the need of the slowest board on a bad day.
    pub(super) fn most(self) -> Duration {
        Duration::from_secs(match self {
            Self::Verify => 20,
            // A busy device needs ten times as long as an idle one for the longest command.
            Self::Transcribe => 45,
            Self::Enrol => 30,
            Self::Memory => 10,
            Self::Answer => 60,
            Self::Speak => 720,
        })
    }

    /// As in the event `error`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Verify | Self::Enrol => "voice",
            Self::Transcribe => "stt",
            Self::Memory => "store",
            Self::Answer => "dialogue",
            Self::Speak => "speech",
        }
    }

    /// The failure, for the journal and the event.
    pub(super) fn overdue(self) -> String {
        let what = match self {
            Self::Verify => "the check of who speaks",
            Self::Enrol => "the check of the sample",
            Self::Transcribe => "speech to text",
            Self::Memory => "the database",
            Self::Answer => "the answer",
            Self::Speak => "the spoken answer",
        };
        format!("{what} did not come within {} s and was given up", self.most().as_secs())
    }
}

/// The time by which the turn task must finish its work.
#[derive(Debug, Default)]
pub struct Pulse {
    /// A recording is heard: nobody waits, and the same file gives the same turns on any machine, however
    /// slow it is.
    recording: bool,
    /// `CLOCK_MONOTONIC` in milliseconds; 0 while it waits for something to do.
    due_ms: AtomicU64,
}

impl Pulse {
    /// For recordings: no stage is given up.
    pub fn of_recording() -> Self {
        Self { recording: true, ..Self::default() }
    }

    pub(super) fn is_patient(&self) -> bool {
        self.recording
    }

    /// 0 while nothing is to be done.
    pub fn due_ms(&self) -> u64 {
        self.due_ms.load(Ordering::Relaxed)
    }

    pub(super) fn rest(&self) {
        self.due_ms.store(0, Ordering::Relaxed);
    }

    /// Work goes on that must be over within `most`.
    pub(super) fn expect(&self, most: Duration) {
        let most_ms = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        self.due_ms.store(monotonic_ms().saturating_add(most_ms), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_knows_when_what_goes_on_must_be_over() {
        let pulse = Pulse::default();
        assert_eq!(pulse.due_ms(), 0);
        pulse.expect(Stage::Transcribe.most());
        let left_ms = pulse.due_ms() - monotonic_ms();
        assert!((35_000..=45_000).contains(&left_ms), "{left_ms}");
        pulse.rest();
        assert_eq!(pulse.due_ms(), 0);
        assert_eq!(Stage::Transcribe.overdue(), "speech to text did not come within 45 s and was given up");
    }
}
