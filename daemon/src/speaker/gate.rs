//! The pause after repeated failures: it makes guessing with many voices slow.
//!
//! ```text
//!  failures in a row   1 2 3 4   5     6     7    …
//!  pause after it      –         30 s  60 s  120 s  … 15 min at most
//! ```
//!
//! During a pause the first few attempts are still compared, and a surely known voice ([`SURELY_KNOWN`]) gets
//! through and ends it. So a television cannot lock the owner out. Guessing gains `LOOKS_IN_A_PAUSE` attempts
//! a pause, at a bar that far fewer strangers reach.
//!
//! Pure state: time is passed in and the owner of the memory stores it, so a restart does not end a pause. A
//! verified attempt resets it.

use serde::{Deserialize, Serialize};

/// Failures in a row that start the first pause.
const FREE_FAILURES: u32 = 5;
/// Attempts that are compared during one pause.
const LOOKS_IN_A_PAUSE: u32 = 5;
/// Probability from which a voice is answered during a pause, if it is verified as well.
pub const SURELY_KNOWN: f32 = 0.99;
const FIRST_PAUSE_MS: i64 = 30_000;
const LONGEST_PAUSE_MS: i64 = 15 * 60_000;

/// Failed attempts in a row on this device and the pause they earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureGate {
    /// Failed attempts since the last verified one.
    pub failures: u32,
    /// Wall clock of the last failure, milliseconds since 1970 UTC.
    pub last_failure_unix_ms: i64,
    /// Attempts that were compared during the pause that the last failure began.
    #[serde(default)]
    pub looks: u32,
}

impl FailureGate {
    /// Counts a failed attempt. Returns the pause that begins now, in ms; 0 if none does.
    pub fn failed(&mut self, now_unix_ms: i64) -> i64 {
        self.failures = self.failures.saturating_add(1);
        self.last_failure_unix_ms = now_unix_ms;
        self.looks = 0;
        self.pause_ms()
    }

    /// A verified attempt ends the row.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Milliseconds until the next attempt is heard; 0 if one is heard now.
    ///
    /// A wall clock that jumped (a Pi has no clock battery) can prolong a pause up to its full length once
    /// more, never beyond.
    pub fn remaining_ms(&self, now_unix_ms: i64) -> i64 {
        let elapsed = now_unix_ms.saturating_sub(self.last_failure_unix_ms).max(0);
        self.pause_ms().saturating_sub(elapsed).max(0)
    }

    /// The end of the pause at `now_unix_ms`; `None` if there is none. It stays the same while the clock runs
    /// as it should.
    pub fn paused_until(&self, now_unix_ms: i64) -> Option<i64> {
        let remaining_ms = self.remaining_ms(now_unix_ms);
        let from = self.last_failure_unix_ms.min(now_unix_ms);
        (remaining_ms > 0).then(|| from.saturating_add(self.pause_ms()).max(now_unix_ms))
    }

    /// Whether an attempt during a pause is compared; it then counts as one of the few.
    pub fn try_in_pause(&mut self) -> bool {
        let left = self.looks < LOOKS_IN_A_PAUSE;
        self.looks += u32::from(left);
        left
    }

    fn pause_ms(&self) -> i64 {
        match self.failures.checked_sub(FREE_FAILURES) {
            None => 0,
            Some(more) => FIRST_PAUSE_MS.saturating_mul(1 << more.min(20)).min(LONGEST_PAUSE_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_failure_in_a_row_starts_a_pause_that_doubles() {
        let mut gate = FailureGate::default();
        for _ in 0..4 {
            assert_eq!(gate.failed(1_000), 0);
            assert_eq!(gate.remaining_ms(1_000), 0);
        }
        assert_eq!(gate.failed(2_000), 30_000);
        assert_eq!(gate.remaining_ms(12_000), 20_000);
        assert_eq!(gate.remaining_ms(32_000), 0);
        assert_eq!(gate.failed(40_000), 60_000);
        assert_eq!(gate.failed(200_000), 120_000);
    }

    #[test]
    fn a_few_attempts_a_pause_are_compared_and_no_more() {
        let mut gate = FailureGate::default();
        for n in 0..6 {
            gate.failed(1_000 * n);
        }
        assert_eq!(gate.paused_until(6_000), Some(65_000));
        assert_eq!((0..20).filter(|_| gate.try_in_pause()).count(), 5);
        let stored: FailureGate = serde_json::from_str(&serde_json::to_string(&gate).unwrap()).unwrap();
        assert!(!stored.clone().try_in_pause(), "a restart gives no more");
        assert_eq!(gate.paused_until(65_000), None);
        gate.failed(70_000);
        assert!(gate.try_in_pause(), "the next pause has its own");
        // As an earlier version wrote it.
        let old: FailureGate = serde_json::from_str(r#"{"failures":5,"last_failure_unix_ms":9}"#).unwrap();
        assert_eq!((old.looks, old.paused_until(10)), (0, Some(30_009)));
        assert_eq!(old.paused_until(-5), Some(29_995), "a clock that jumped back");
    }

    #[test]
    fn ten_thousand_failures_pause_for_a_quarter_of_an_hour_and_success_ends_it() {
        let mut gate = FailureGate::default();
        let mut now = 0;
        for _ in 0..10_000 {
            now += gate.failed(now) + 1;
        }
        assert_eq!(gate.failed(now), 900_000);
        gate.succeeded();
        assert_eq!(gate, FailureGate::default());
        assert_eq!(gate.remaining_ms(now), 0);
    }

    #[test]
    fn a_pause_survives_storing_and_a_clock_that_jumped_back() {
        let mut gate = FailureGate::default();
        for _ in 0..5 {
            gate.failed(1_000_000);
        }
        let stored: FailureGate = serde_json::from_str(&serde_json::to_string(&gate).unwrap()).unwrap();
        assert_eq!(stored.remaining_ms(1_010_000), 20_000);
        assert_eq!(stored.remaining_ms(5), 30_000);
        assert_eq!(stored.remaining_ms(i64::MIN), 30_000);
    }
}
