//! The pause after repeated failures: what makes guessing with many voices slow.
//!
//! ```text
//!  failures in a row   1 2 3 4   5     6     7    …
//!  pause after it      –         30 s  60 s  120 s  … 15 min at most
//! ```
//!
//! Pure state: time is passed in and whoever owns memory stores it, so a restart does not end a pause. A verified attempt
//! resets it.

use serde::{Deserialize, Serialize};

/// Failures in a row that start the first pause.
const FREE_FAILURES: u32 = 5;
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
}

impl FailureGate {
    /// Counts a failed attempt. Returns the pause that begins now, in ms; 0 if none does.
    pub fn failed(&mut self, now_unix_ms: i64) -> i64 {
        self.failures = self.failures.saturating_add(1);
        self.last_failure_unix_ms = now_unix_ms;
        self.pause_ms()
    }

    /// A verified attempt ends the row.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Milliseconds until the next attempt is heard; 0 if one is heard now.
    ///
    /// A wall clock that jumped (a Pi has no clock battery) can prolong a pause up to its full length once more, never beyond.
    pub fn remaining_ms(&self, now_unix_ms: i64) -> i64 {
        let elapsed = now_unix_ms.saturating_sub(self.last_failure_unix_ms).max(0);
        self.pause_ms().saturating_sub(elapsed).max(0)
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
