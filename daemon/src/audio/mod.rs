//! Where sound comes from and goes to.
//!
//! [`Source`] is a seam because a microphone and a recording differ in everything but what they yield: periods of mono
//! sound at the source's own rate. The capture thread copies each period into a bounded ring; the front end takes it out.

/// Most samples one period can hold: 20 ms at 96 kHz.
pub const MAX_PERIOD_SAMPLES: usize = 1_920;

/// One period of mono sound as it left the device, after channel selection. Plain data, so the ring never allocates.
///
/// Samples are f32 in [-1, 1] rather than i16: a 24-bit I2S microphone keeps quiet speech in its low bits.
#[derive(Debug, Clone)]
pub struct Period {
    pub rate_hz: u32,
    /// Samples known to be lost just before this period (overrun, full ring, re-opened device), at `rate_hz`.
    pub lost: u32,
    /// Valid samples in `samples`.
    pub len: usize,
    pub samples: [f32; MAX_PERIOD_SAMPLES],
}

impl Default for Period {
    fn default() -> Self {
        Self { rate_hz: 0, lost: 0, len: 0, samples: [0.0; MAX_PERIOD_SAMPLES] }
    }
}

/// Which of a device's channels are heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Mean,
    /// Zero-based.
    Nth(u16),
}
