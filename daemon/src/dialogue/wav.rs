//! WAV files as speech commands write them: 16-bit PCM with a header that cannot be trusted.
//!
//! A command that streams does not know the length when it writes the header, so the sizes of the RIFF and data chunks
//! may be 0, too large or -1; then the sound goes on to the end of the file.

use std::io::Write;
use std::path::Path;

/// Mono sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// In [-1, 1].
    pub samples: Vec<f32>,
    pub rate_hz: u32,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WavError {
    #[error("it wrote nothing")]
    Nothing,
    #[error("what it wrote is not a WAV file")]
    NotWav,
    #[error("the WAV file has no format before its sound, or ends in the middle of its header")]
    Truncated,
    #[error("the WAV file is {format} with {bits} bits; only 16-bit PCM is understood")]
    Format { format: &'static str, bits: u16 },
    #[error("the WAV file has {channels} channels at {rate_hz} Hz")]
    Shape { channels: u16, rate_hz: u32 },
    #[error("the WAV file has no sound in it")]
    Silent,
}

impl Rendered {
    pub fn seconds(&self) -> f32 {
        self.samples.len() as f32 / self.rate_hz as f32
    }

    /// Writes a 16-bit PCM WAV file.
    pub fn write_wav(&self, path: &Path) -> std::io::Result<()> {
        let bytes = u32::try_from(self.samples.len() * 2)
            .ok()
            .filter(|bytes| bytes.checked_add(36).is_some())
            .ok_or_else(|| std::io::Error::other("too long for a WAV file"))?;
        let mut out = Vec::with_capacity(44 + self.samples.len() * 2);
        out.extend_from_slice(b"RIFF");
        out.extend_from_slice(&(bytes + 36).to_le_bytes());
        out.extend_from_slice(b"WAVEfmt ");
        out.extend_from_slice(&16_u32.to_le_bytes());
        for field in [1_u16, 1] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.rate_hz.to_le_bytes());
        out.extend_from_slice(&self.rate_hz.saturating_mul(2).to_le_bytes());
        for field in [2_u16, 16] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(b"data");
        out.extend_from_slice(&bytes.to_le_bytes());
        for sample in &self.samples {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "clamped to the range of i16 before the cast"
            )]
            let value = (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16;
            out.extend_from_slice(&value.to_le_bytes());
        }
        std::fs::File::create(path)?.write_all(&out)
    }
}

struct Format {
    channels: u16,
    rate_hz: u32,
}

/// Decodes 16-bit PCM to the mean of its channels.
pub(super) fn decode(bytes: &[u8]) -> Result<Rendered, WavError> {
    if bytes.is_empty() {
        return Err(WavError::Nothing);
    }
    let rest = match (bytes.get(..4), bytes.get(8..12), bytes.get(12..)) {
        (Some(b"RIFF"), Some(b"WAVE"), Some(rest)) => rest,
        _ => return Err(WavError::NotWav),
    };
    let (format, sound) = chunks(rest)?;
    let channels = usize::from(format.channels);
    let samples: Vec<f32> = sound
        .chunks_exact(2 * channels)
        .map(|frame| {
            let sum: f32 = frame.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]]))).sum();
            sum / (32_768.0 * f32::from(format.channels))
        })
        .collect();
    if samples.is_empty() {
        return Err(WavError::Silent);
    }
    Ok(Rendered { samples, rate_hz: format.rate_hz })
}

/// Walks the chunks to the sound.
fn chunks(mut rest: &[u8]) -> Result<(Format, &[u8]), WavError> {
    let mut format = None;
    loop {
        let (header, body) = rest.split_at_checked(8).ok_or(WavError::Truncated)?;
        let (id, size) = header.split_at_checked(4).ok_or(WavError::Truncated)?;
        let size = u32_at(size, 0)? as usize;
        if id == b"data" {
            let format = format.ok_or(WavError::Truncated)?;
            // 0 and anything beyond the end are what a streaming writer leaves behind.
            let sound = if size == 0 { body } else { body.get(..size).unwrap_or(body) };
            return Ok((format, sound));
        }
        let chunk = body.get(..size).ok_or(WavError::Truncated)?;
        if id == b"fmt " {
            format = Some(read_format(chunk)?);
        }
        // Chunks are padded to an even length.
        rest = body.get(size + size % 2..).ok_or(WavError::Truncated)?;
    }
}

fn read_format(chunk: &[u8]) -> Result<Format, WavError> {
    const PCM: u16 = 1;
    const FLOAT: u16 = 3;
    const EXTENSIBLE: u16 = 0xFFFE;
    let tag = match u16_at(chunk, 0)? {
        // The real tag begins the sub-format.
        EXTENSIBLE => u16_at(chunk, 24)?,
        tag => tag,
    };
    let (channels, rate_hz, bits) = (u16_at(chunk, 2)?, u32_at(chunk, 4)?, u16_at(chunk, 14)?);
    if tag != PCM || bits != 16 {
        let format = match tag {
            PCM => "PCM",
            FLOAT => "floating point",
            6 => "A-law",
            7 => "mu-law",
            _ => "compressed",
        };
        return Err(WavError::Format { format, bits });
    }
    if !(1..=8).contains(&channels) || !(4_000..=192_000).contains(&rate_hz) {
        return Err(WavError::Shape { channels, rate_hz });
    }
    Ok(Format { channels, rate_hz })
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, WavError> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u16::from_le_bytes(*b)).ok_or(WavError::Truncated)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, WavError> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|b| u32::from_le_bytes(*b)).ok_or(WavError::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A WAV file with the given format fields and claimed sizes.
    fn wav(tag: u16, channels: u16, rate_hz: u32, bits: u16, claimed: u32, sound: &[u8]) -> Vec<u8> {
        let mut out = b"RIFF\xff\xff\xff\xffWAVEfmt ".to_vec();
        out.extend(16_u32.to_le_bytes());
        out.extend(tag.to_le_bytes());
        out.extend(channels.to_le_bytes());
        out.extend(rate_hz.to_le_bytes());
        out.extend(0_u32.to_le_bytes());
        out.extend(0_u16.to_le_bytes());
        out.extend(bits.to_le_bytes());
        out.extend(b"data");
        out.extend(claimed.to_le_bytes());
        out.extend(sound);
        out
    }

    #[test]
    fn a_wrong_size_in_the_header_means_to_the_end() {
        let sound = [0, 0x40, 0, 0xC0];
        for claimed in [0, 0x7fff_f000, u32::MAX, 4] {
            let rendered = decode(&wav(1, 1, 22_050, 16, claimed, &sound)).unwrap();
            assert_eq!((rendered.samples, rendered.rate_hz), (vec![0.5, -0.5], 22_050), "{claimed:#x}");
        }
    }

    #[test]
    fn several_channels_become_their_mean_and_a_broken_frame_is_dropped() {
        let rendered = decode(&wav(1, 2, 8_000, 16, 0, &[0, 0x40, 0, 0, 1, 2, 3])).unwrap();
        assert_eq!(rendered.samples, vec![0.25]);
    }

    #[test]
    fn what_is_not_16_bit_pcm_is_named() {
        let format = |tag, bits| decode(&wav(tag, 1, 8_000, bits, 0, &[0; 8])).unwrap_err();
        assert_eq!(format(3, 32), WavError::Format { format: "floating point", bits: 32 });
        assert_eq!(format(1, 8), WavError::Format { format: "PCM", bits: 8 });
        assert_eq!(
            decode(&wav(1, 0, 8_000, 16, 0, &[0; 8])),
            Err(WavError::Shape { channels: 0, rate_hz: 8_000 })
        );
        assert_eq!(decode(&wav(1, 1, 0, 16, 0, &[0; 8])), Err(WavError::Shape { channels: 1, rate_hz: 0 }));
    }

    #[test]
    fn every_truncation_is_an_error_and_never_a_panic() {
        let whole = wav(1, 1, 8_000, 16, 4, &[0, 1, 2, 3]);
        for end in 0..whole.len() - 2 {
            assert!(decode(&whole[..end]).is_err() || end >= 46, "{end}");
        }
        assert_eq!(decode(b""), Err(WavError::Nothing));
        assert_eq!(decode(b"hello, this is text"), Err(WavError::NotWav));
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        let sound = Rendered { samples: vec![0.0, 0.5, -1.0, 2.0], rate_hz: 16_000 };
        sound.write_wav(&path).unwrap();
        let back = decode(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(back.rate_hz, 16_000);
        assert_eq!(back.samples, vec![0.0, 0.5, -1.0, 32_767.0 / 32_768.0]);
    }
}
