//! The position of the sound, published by the capture thread for readers that must tell which sound is
//! which.

use crate::units::FRAMES_PER_S;

const FRAME_NS: i128 = 1_000_000_000 / FRAMES_PER_S as i128;

/// Adds up the sound of one source, lost sound included, as the front end does: both count from the first
/// sample.
#[derive(Debug, Default)]
pub(super) struct SoundClock {
    rate_hz: u32,
    /// Samples since the rate last changed.
    samples: u64,
    /// Sound before the rate last changed, in ns.
    before_ns: u64,
}

impl SoundClock {
    pub(super) fn advance(&mut self, samples: u64, rate_hz: u32) {
        if rate_hz != self.rate_hz {
            self.before_ns = self.ns();
            (self.rate_hz, self.samples) = (rate_hz, 0);
        }
        self.samples = self.samples.saturating_add(samples);
    }

    /// Sound so far, in ns.
    pub(super) fn ns(&self) -> u64 {
        let ns = u128::from(self.samples) * 1_000_000_000 / u128::from(self.rate_hz.max(1));
        self.before_ns.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

/// The index of the frame in which the instant `ns` lies; the first frame for anything before it.
pub(super) fn frame_of(ns: i128) -> u64 {
    u64::try_from(ns.max(0) / FRAME_NS).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_adds_up_without_rounding_and_across_rates() {
        let mut clock = SoundClock::default();
        // 1,024 samples at 44.1 kHz are no whole number of nanoseconds: a day of them is still a day.
        let periods = 24 * 3_600 * 44_100 / 1_024;
        for _ in 0..periods {
            clock.advance(1_024, 44_100);
        }
        let day_ns = u64::try_from(u128::from(periods * 1_024_u64) * 1_000_000_000 / 44_100).unwrap();
        assert_eq!(clock.ns(), day_ns);
        clock.advance(480, 48_000);
        clock.advance(240, 48_000);
        assert_eq!(clock.ns(), day_ns + 15_000_000);
    }

    #[test]
    fn an_instant_lies_in_the_frame_that_holds_it() {
        assert_eq!([-1, 0, 9_999_999, 10_000_000].map(frame_of), [0, 0, 0, 1]);
    }
}
