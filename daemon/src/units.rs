//! Units shared by every stage: the 10 ms frame is the clock of the audio path.

use serde::Serialize;

/// Sample rate of everything behind the front end, in Hz.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
/// Samples in one frame: 10 ms at [`SAMPLE_RATE_HZ`].
pub const FRAME_SAMPLES: usize = 160;
/// Frames in one second.
pub const FRAMES_PER_S: u64 = 100;

/// A place on the audio clock: the index of a 10 ms frame since the source started.
///
/// Lost sound moves the clock on, so the difference of two positions is a true duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct FramePos(pub u64);

impl FramePos {
    /// Milliseconds since the source started.
    pub fn at_ms(self) -> u64 {
        self.0 * 1000 / FRAMES_PER_S
    }

    /// Frames from `earlier` to `self`; 0 if `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Whole 10 ms frames in `ms` milliseconds, rounded up.
pub fn frames_in_ms(ms: u32) -> usize {
    (ms as usize).div_ceil(10)
}
