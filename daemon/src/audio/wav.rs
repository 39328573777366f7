//! WAV: a lenient streaming reader.
//!
//! Written here rather than taken from symphonia, whose RIFF reader refuses the output of streaming writers
//! (a RIFF length of 0, a data chunk longer than the file) and whose header arithmetic overflows on hostile
//! channel counts. Only the shape of the samples is read; all other chunks are skipped. Nothing is allocated
//! by the size of a chunk.
//!
//! Lengths are taken as upper bounds: `espeak-ng --stdout`, `arecord` into a pipe and other streaming writers
//! cannot know them when they write the header. A data chunk ends at its stated length or at the end of the
//! file.

use std::io::{self, Read};

use super::decode::{Fault, fill};
use super::sample::{Encoding, to_mono};
use super::{Channel, MAX_FILE_CHANNELS, MAX_PERIOD_SAMPLES, Measure};

/// Slowest sample rate accepted, in Hz.
pub(super) const MIN_RATE_HZ: u32 = 4_000;
/// Fastest sample rate accepted, in Hz.
pub(super) const MAX_RATE_HZ: u32 = 768_000;

/// Streaming writers put data lengths from here on in place of "unknown".
const UNKNOWN_LENGTH: u32 = 0x7FFF_0000;
/// Chunks in front of the data that are skipped before the file is called damaged.
const MAX_CHUNKS: usize = 1_000;
/// Bytes read at a time: a period of eight channels of 8 bytes; of wider frames fewer fit.
const BUFFER_BYTES: usize = MAX_PERIOD_SAMPLES * 8 * 8;

/// The shape of the samples, from the `fmt ` chunk.
#[derive(Debug, Clone, Copy)]
struct Shape {
    encoding: Encoding,
    channels: u16,
    rate_hz: u32,
}

/// Decodes the data chunk as it is read.
pub(super) struct WavDecoder<R> {
    reader: R,
    shape: Shape,
    /// Bytes of sound that the header still promises; `None` where the writer did not know.
    left: Option<u64>,
    buffer: Vec<u8>,
    pub(super) measure: Option<Box<Measure>>,
}

impl<R> std::fmt::Debug for WavDecoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WavDecoder").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl<R: Read> WavDecoder<R> {
    /// Reads the header; `reader` stands at the start of the file.
    pub(super) fn new(mut reader: R) -> Result<Self, Fault> {
        let mut riff = [0; 12];
        read_exact(&mut reader, &mut riff, "its RIFF header")?;
        let riff_length = u32_at(&riff, 4);
        let mut shape = None;
        // Bytes to the end of the file if its RIFF length is true, from the byte behind the head of the
        // current chunk.
        let mut to_end = i64::from(riff_length) - 4;
        for _ in 0..MAX_CHUNKS {
            let mut head = [0; 8];
            read_exact(&mut reader, &mut head, "the head of a chunk, before any sound")?;
            let length = u32_at(&head, 4);
            to_end -= 8;
            match &head[..4] {
                b"fmt " => shape = Some(read_format(&mut reader, length)?),
                b"data" => {
                    let shape = shape.ok_or_else(|| Fault::Damaged("its format chunk is missing".into()))?;
                    // A writer that knew that there is no sound would not go on behind its own end.
                    let open_end = riff_length == u32::MAX || to_end <= 0;
                    let unknown = length >= UNKNOWN_LENGTH || (length == 0 && open_end);
                    let left = (!unknown).then_some(u64::from(length));
                    let buffer = vec![0; BUFFER_BYTES];
                    return Ok(Self { reader, shape, left, buffer, measure: None });
                }
                _ => skip(&mut reader, u64::from(length) + u64::from(length & 1))?,
            }
            to_end -= i64::from(length) + i64::from(length & 1);
        }
        Err(Fault::Damaged("it has no data chunk".into()))
    }

    pub(super) fn rate_hz(&self) -> u32 {
        self.shape.rate_hz
    }

    pub(super) fn channels(&self) -> u16 {
        self.shape.channels
    }

    /// Whether the file ended before the length in its header.
    pub(super) fn ended_early(&self) -> bool {
        self.left.is_some_and(|left| left >= self.frame_bytes() as u64)
    }

    fn frame_bytes(&self) -> usize {
        self.shape.encoding.bytes() * usize::from(self.shape.channels)
    }

    /// Fills `out` with the next mono samples and returns how many; fewer than `out` holds only at the end.
    pub(super) fn next(&mut self, out: &mut [f32], channel: Channel) -> Result<usize, Fault> {
        let frame = self.frame_bytes();
        let mut want = out.len().saturating_mul(frame).min(self.buffer.len() / frame * frame);
        if let Some(left) = self.left {
            want = want.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        let got =
            fill(&mut self.reader, self.buffer.get_mut(..want).unwrap_or_default()).map_err(Fault::Io)?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(got as u64);
        }
        let bytes = self.buffer.get(..got).unwrap_or_default();
        if let Some(measure) = &mut self.measure {
            let whole = bytes.get(..got / frame * frame).unwrap_or_default();
            measure.add(whole, self.shape.encoding, self.shape.channels);
        }
        Ok(to_mono(bytes, self.shape.encoding, self.shape.channels, channel, out))
    }
}

fn read_format(reader: &mut impl Read, length: u32) -> Result<Shape, Fault> {
    if length < 16 {
        return Err(Fault::Damaged(format!("its format chunk has only {length} bytes")));
    }
    let mut chunk = [0; 40];
    let known = chunk.len().min(length as usize);
    let (head, _) = chunk.split_at_mut(known);
    read_exact(reader, head, "its format chunk")?;
    skip(reader, u64::from(length) + u64::from(length & 1) - known as u64)?;

    let mut tag = u16_at(&chunk, 0);
    let channels = u16_at(&chunk, 2);
    let rate_hz = u32_at(&chunk, 4);
    let block_bytes = u16_at(&chunk, 12);
    let bits = u16_at(&chunk, 14);
    if tag == TAG_EXTENSIBLE && known == chunk.len() {
        // The first two bytes of the sub-format GUID are the tag that the samples really have.
        tag = u16_at(&chunk, 24);
    }
    let encoding = match (tag, bits) {
        (TAG_PCM, 8) => Encoding::U8,
        // Sizes between whole bytes are left-justified in the next whole byte.
        (TAG_PCM, 9..=16) => Encoding::S16,
        (TAG_PCM, 17..=24) if block_bytes == channels.saturating_mul(4) => Encoding::S32,
        (TAG_PCM, 17..=24) => Encoding::S24Packed,
        (TAG_PCM, 25..=32) => Encoding::S32,
        (TAG_FLOAT, 32) => Encoding::F32,
        (TAG_FLOAT, 64) => Encoding::F64,
        (TAG_PCM, _) => return Err(Fault::Unsupported(format!("{bits}-bit PCM in WAV"))),
        (TAG_FLOAT, _) => return Err(Fault::Unsupported(format!("{bits}-bit float in WAV"))),
        _ => return Err(Fault::Unsupported(format!("{} in WAV", codec_name(tag)))),
    };
    check_shape(rate_hz, channels)?;
    Ok(Shape { encoding, channels, rate_hz })
}

/// Refuses rates and channel counts that no microphone has.
pub(super) fn check_shape(rate_hz: u32, channels: u16) -> Result<(), Fault> {
    if !(MIN_RATE_HZ..=MAX_RATE_HZ).contains(&rate_hz) {
        return Err(Fault::Shape(format!("{rate_hz} samples a second")));
    }
    if channels == 0 || channels > MAX_FILE_CHANNELS {
        return Err(Fault::Shape(format!("{channels} channels")));
    }
    Ok(())
}

const TAG_PCM: u16 = 0x0001;
const TAG_FLOAT: u16 = 0x0003;
const TAG_EXTENSIBLE: u16 = 0xFFFE;

/// Names after the `WAVE_FORMAT_*` constants of Microsoft's mmreg.h.
fn codec_name(tag: u16) -> String {
    let name = match tag {
        0x0002 => "Microsoft ADPCM",
        0x0006 => "A-law",
        0x0007 => "mu-law",
        0x0010 => "OKI ADPCM",
        0x0011 => "IMA ADPCM",
        0x0014 => "G.723 ADPCM",
        0x0031 => "GSM 6.10",
        0x0040 => "G.721 ADPCM",
        0x0050 => "MPEG audio",
        0x0055 => "MP3",
        0x0092 => "AC-3",
        0x00FF | 0x1600 | 0x1610 => "AAC",
        0x0161 | 0x0162 => "Windows Media Audio",
        0x674F..=0x6771 => "Ogg Vorbis",
        0xF1AC => "FLAC",
        _ => return format!("codec {tag:#06x}"),
    };
    name.to_owned()
}

fn read_exact(reader: &mut impl Read, into: &mut [u8], what: &str) -> Result<(), Fault> {
    reader.read_exact(into).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Fault::Damaged(format!("it ends in {what}")),
        _ => Fault::Io(e),
    })
}

fn skip(reader: &mut impl Read, bytes: u64) -> Result<(), Fault> {
    io::copy(&mut reader.take(bytes), &mut io::sink()).map_err(Fault::Io)?;
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

/// f32 in [-1, 1] to i16, clipped.
pub(super) fn to_i16(sample: f32) -> i16 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`as` clips to the range of i16, which is what is wanted"
    )]
    {
        (sample * 32_768.0).round() as i16
    }
}
