//! From bytes of interleaved samples to mono f32 in [-1, 1]. Nothing here allocates: the capture thread uses
//! it.

use super::Channel;

/// How one sample is written, little-endian throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Unsigned, 128 is silence (WAV only).
    U8,
    S16,
    /// Three bytes.
    S24Packed,
    /// The low 24 bits of four bytes; the top byte means nothing.
    S24In32,
    S32,
    F32,
    F64,
}

impl Encoding {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::S16 => 2,
            Self::S24Packed => 3,
            Self::S24In32 | Self::S32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// A float that is not a number, or infinite, is silence: one such value would poison every filter behind it
/// for good. Finite floats above full scale are cut off at [`FLOAT_LIMIT`], which no real recording reaches,
/// for the same reason.
pub(super) fn tame(value: f32) -> f32 {
    if value.is_finite() { value.clamp(-FLOAT_LIMIT, FLOAT_LIMIT) } else { 0.0 }
}

/// +18 dB over full scale: float recordings may legitimately overshoot 1.0.
const FLOAT_LIMIT: f32 = 8.0;

/// Writes one mono sample per frame of `bytes` to `out` and returns how many there were.
///
/// `bytes` holds whole frames of `channels` interleaved samples; a rest of less than a frame is left out.
/// Frames beyond `out` are left out too.
pub(super) fn to_mono(
    bytes: &[u8],
    encoding: Encoding,
    channels: u16,
    channel: Channel,
    out: &mut [f32],
) -> usize {
    match encoding {
        Encoding::U8 => mix(bytes, channels, channel, out, u8_sample),
        Encoding::S16 => mix(bytes, channels, channel, out, s16_sample),
        Encoding::S24Packed => mix(bytes, channels, channel, out, s24_packed_sample),
        Encoding::S24In32 => mix(bytes, channels, channel, out, s24_sample),
        Encoding::S32 => mix(bytes, channels, channel, out, s32_sample),
        Encoding::F32 => mix(bytes, channels, channel, out, f32_sample),
        Encoding::F64 => mix(bytes, channels, channel, out, f64_sample),
    }
}

/// i32 full scale to [-1, 1); the division is exact for 24-bit values.
pub(super) fn scale_s32(value: i32) -> f32 {
    value as f32 / 2_147_483_648.0
}

/// Shows every sample of `bytes` to `see`, in their order.
pub(super) fn visit(bytes: &[u8], encoding: Encoding, see: impl FnMut(f32)) {
    fn each<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32, see: impl FnMut(f32)) {
        bytes.as_chunks::<N>().0.iter().copied().map(decode).for_each(see);
    }
    match encoding {
        Encoding::U8 => each(bytes, u8_sample, see),
        Encoding::S16 => each(bytes, s16_sample, see),
        Encoding::S24Packed => each(bytes, s24_packed_sample, see),
        Encoding::S24In32 => each(bytes, s24_sample, see),
        Encoding::S32 => each(bytes, s32_sample, see),
        Encoding::F32 => each(bytes, f32_sample, see),
        Encoding::F64 => each(bytes, f64_sample, see),
    }
}

fn u8_sample([b]: [u8; 1]) -> f32 {
    (f32::from(b) - 128.0) / 128.0
}

fn s16_sample(bytes: [u8; 2]) -> f32 {
    f32::from(i16::from_le_bytes(bytes)) / 32_768.0
}

fn s24_packed_sample([a, b, c]: [u8; 3]) -> f32 {
    scale_s32(i32::from_le_bytes([0, a, b, c]))
}

fn s24_sample([a, b, c, _]: [u8; 4]) -> f32 {
    scale_s32(i32::from_le_bytes([0, a, b, c]))
}

fn s32_sample(bytes: [u8; 4]) -> f32 {
    scale_s32(i32::from_le_bytes(bytes))
}

fn f32_sample(bytes: [u8; 4]) -> f32 {
    tame(f32::from_le_bytes(bytes))
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is what the rest of the path works with")]
fn f64_sample(bytes: [u8; 8]) -> f32 {
    tame(f64::from_le_bytes(bytes) as f32)
}

fn mix<const N: usize>(
    bytes: &[u8],
    channels: u16,
    channel: Channel,
    out: &mut [f32],
    decode: impl Fn([u8; N]) -> f32,
) -> usize {
    let width = usize::from(channels).max(1);
    let frames = bytes.chunks_exact(N * width);
    let mut written = 0;
    match channel {
        Channel::Nth(n) => {
            let at = usize::from(n) * N;
            for (frame, out) in frames.zip(out.iter_mut()) {
                *out = frame.get(at..).and_then(|b| b.first_chunk()).copied().map_or(0.0, &decode);
                written += 1;
            }
        }
        Channel::Mean => {
            let share = 1.0 / f32::from(channels.max(1));
            for (frame, out) in frames.zip(out.iter_mut()) {
                let (samples, _) = frame.as_chunks::<N>();
                *out = samples.iter().copied().map(&decode).sum::<f32>() * share;
                written += 1;
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8], encoding: Encoding) -> f32 {
        let mut out = [9.0];
        assert_eq!(to_mono(bytes, encoding, 1, Channel::Mean, &mut out), 1);
        out[0]
    }

    #[test]
    fn every_encoding_has_the_same_scale() {
        assert_eq!(one(&[192], Encoding::U8), 0.5);
        assert_eq!(one(&0x4000_i16.to_le_bytes(), Encoding::S16), 0.5);
        assert_eq!(one(&[0, 0, 0x40], Encoding::S24Packed), 0.5);
        assert_eq!(one(&[0, 0, 0x40, 0xAA], Encoding::S24In32), 0.5);
        assert_eq!(one(&[0, 0, 0xC0, 0x00], Encoding::S24In32), -0.5);
        assert_eq!(one(&0x4000_0000_i32.to_le_bytes(), Encoding::S32), 0.5);
        assert_eq!(one(&0.5_f32.to_le_bytes(), Encoding::F32), 0.5);
        assert_eq!(one(&0.5_f64.to_le_bytes(), Encoding::F64), 0.5);
        assert_eq!(one(&i16::MIN.to_le_bytes(), Encoding::S16), -1.0);
    }

    #[test]
    fn floats_that_are_not_numbers_become_silence() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(one(&bad.to_le_bytes(), Encoding::F32), 0.0);
            assert_eq!(one(&f64::from(bad).to_le_bytes(), Encoding::F64), 0.0);
        }
        assert_eq!(one(&1e300_f64.to_le_bytes(), Encoding::F64), 0.0);
        assert_eq!(one(&1e30_f32.to_le_bytes(), Encoding::F32), 8.0);
    }

    #[test]
    fn channels_are_picked_or_averaged() {
        let frames: Vec<u8> = [1000_i16, 3000, -5000, 7000].iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut out = [0.0; 4];
        assert_eq!(to_mono(&frames, Encoding::S16, 2, Channel::LEFT, &mut out), 2);
        assert_eq!(out[..2], [1000.0 / 32_768.0, -5000.0 / 32_768.0]);
        to_mono(&frames, Encoding::S16, 2, Channel::RIGHT, &mut out);
        assert_eq!(out[..2], [3000.0 / 32_768.0, 7000.0 / 32_768.0]);
        to_mono(&frames, Encoding::S16, 2, Channel::Mean, &mut out);
        assert_eq!(out[..2], [2000.0 / 32_768.0, 1000.0 / 32_768.0]);
    }

    #[test]
    fn a_rest_of_less_than_a_frame_is_left_out() {
        let mut out = [0.0; 4];
        assert_eq!(to_mono(&[0; 7], Encoding::S16, 2, Channel::Mean, &mut out), 1);
        assert_eq!(to_mono(&[0; 64], Encoding::S16, 2, Channel::Mean, &mut out), 4);
    }
}
