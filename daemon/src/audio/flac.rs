//! FLAC by symphonia, fed with nothing but the stream's shape and its frames.
//!
//! Pictures, cue sheets and tags are cut off before symphonia sees them: they have no use here, may hold 16
//! MB each, and a fault in them is no reason to refuse the sound.

use std::io::{Cursor, Read};

use symphonia::core::audio::{Audio, GenericAudioBufferRef};
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSourceStream, ReadOnlySource};
use symphonia::default::codecs::FlacDecoder as SymphoniaDecoder;
use symphonia::default::formats::FlacReader;

use super::decode::{Fault, Input};
use super::sample::scale_s32;
use super::wav::check_shape;
use super::{Channel, Measure};
use crate::supervisor::guarded;

const STREAMINFO_BYTES: usize = 34;
/// Frames in a row that may be unreadable before the rest is given up.
const MAX_BAD_FRAMES: u32 = 100;
/// Longest hole, in seconds, that is believed: a damaged frame header may claim any position.
const MAX_HOLE_S: u64 = 600;

/// Decodes frame by frame; memory is bounded by the largest block that FLAC knows (65,535 samples).
pub(super) struct FlacDecoder {
    reader: FlacReader<'static>,
    decoder: SymphoniaDecoder,
    rate_hz: u32,
    channels: u16,
    /// Samples that the header promises; 0 where the encoder did not know.
    promised: u64,
    /// Mono samples decoded and not yet handed out, from `taken` on.
    pending: Vec<f32>,
    taken: usize,
    /// Position of the next sample to be decoded.
    position: u64,
    /// Samples missing just before `pending`.
    hole: u32,
    ended: bool,
    pub(super) measure: Option<Box<Measure>>,
}

impl std::fmt::Debug for FlacDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlacDecoder").field("rate_hz", &self.rate_hz).finish_non_exhaustive()
    }
}

impl FlacDecoder {
    /// Reads the header; `input` stands at the start of the file.
    pub(super) fn new(mut input: Input) -> Result<Self, Fault> {
        let info = read_stream_info(&mut input)?;
        // See RFC 9639 §8.2: 20 bits rate, 3 bits channels - 1, 5 bits sample size - 1, 36 bits number of
        // samples.
        let packed = info.get(10..18).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b));
        let rate_hz = u32::try_from(packed >> 44).unwrap_or(0);
        let channels = u16::try_from(packed >> 41 & 7).unwrap_or(0) + 1;
        let promised = packed & 0xF_FFFF_FFFF;
        check_shape(rate_hz, channels)?;

        let mut head = b"fLaC\x80\x00\x00\x22".to_vec();
        head.extend_from_slice(&info);
        let stream = ReadOnlySource::new(Cursor::new(head).chain(input));
        let stream = MediaSourceStream::new(Box::new(stream), Default::default());
        // Foreign code on foreign bytes: a panic in it counts as damage.
        let opened = guarded(move || {
            let reader = FlacReader::try_new(stream, FormatOptions::default()).map_err(fault)?;
            let decoder = match reader.tracks().first().and_then(|t| t.codec_params.as_ref()) {
                Some(CodecParameters::Audio(parameters)) => {
                    SymphoniaDecoder::try_new(parameters, &AudioDecoderOptions::default()).map_err(fault)?
                }
                _ => return Err(Fault::Damaged("its stream has no sound".into())),
            };
            Ok((reader, decoder))
        });
        let (reader, decoder) = opened.unwrap_or_else(|caught| Err(Fault::Damaged(caught.to_string())))?;
        Ok(Self {
            reader,
            decoder,
            rate_hz,
            channels,
            promised,
            pending: Vec::new(),
            taken: 0,
            position: 0,
            hole: 0,
            ended: false,
            measure: None,
        })
    }

    pub(super) fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    pub(super) fn channels(&self) -> u16 {
        self.channels
    }

    /// Whether the file ended before the length in its header.
    pub(super) fn ended_early(&self) -> bool {
        self.ended && self.position < self.promised
    }

    /// Fills `out` and returns how many samples it got and how many are missing just before them. Fewer
    /// samples than `out` holds come at the end and before a hole; none at the end.
    pub(super) fn next(&mut self, out: &mut [f32], channel: Channel) -> Result<(usize, u32), Fault> {
        let mut written = 0;
        let mut lost = 0;
        while let Some(room) = out.get_mut(written..).filter(|room| !room.is_empty()) {
            if self.taken == self.pending.len() {
                if self.ended || !self.decode(channel) {
                    break;
                }
                continue;
            }
            if self.hole > 0 {
                if written > 0 {
                    break;
                }
                lost = std::mem::take(&mut self.hole);
            }
            let rest = self.pending.get(self.taken..).unwrap_or_default();
            let n = rest.len().min(room.len());
            for (to, from) in room.iter_mut().zip(rest) {
                *to = *from;
            }
            self.taken += n;
            written += n;
        }
        Ok((written, lost))
    }

    /// Decodes the next readable frame into `pending`; false at the end.
    fn decode(&mut self, channel: Channel) -> bool {
        self.pending.clear();
        self.taken = 0;
        for _ in 0..MAX_BAD_FRAMES {
            let packet = match guarded(|| self.reader.next_packet()) {
                Ok(Ok(Some(packet))) => packet,
                // A frame whose checksum is wrong: the reader looks for the next one.
                Ok(Err(Error::DecodeError(_))) => continue,
                Ok(Ok(None) | Err(_)) | Err(_) => break,
            };
            let start = u64::try_from(packet.pts.get()).unwrap_or(0);
            let decoder = &mut self.decoder;
            let decoded = match guarded(|| decoder.decode(&packet)) {
                Ok(Ok(decoded)) => decoded,
                Ok(Err(_)) => continue,
                // The decoder may be half changed and is not used again.
                Err(_) => break,
            };
            mix(&decoded, self.channels, channel, &mut self.pending);
            if let (Some(measure), GenericAudioBufferRef::S32(planes)) = (&mut self.measure, &decoded) {
                for n in 0..planes.frames() {
                    let plane = |p: &[i32]| p.get(n).copied().map_or(0.0, scale_s32);
                    measure.add_frame(planes.iter_planes().map(plane));
                }
            }
            if self.pending.is_empty() {
                continue;
            }
            let hole = start.saturating_sub(self.position);
            if hole <= MAX_HOLE_S * u64::from(self.rate_hz) {
                self.hole = u32::try_from(hole).unwrap_or(0);
                self.position += hole;
            }
            self.position += self.pending.len() as u64;
            return true;
        }
        self.ended = true;
        false
    }
}

/// symphonia's FLAC decoder yields planes of i32 at full scale, for every sample size.
fn mix(decoded: &GenericAudioBufferRef<'_>, channels: u16, channel: Channel, mono: &mut Vec<f32>) {
    let GenericAudioBufferRef::S32(planes) = decoded else { return };
    mono.resize(planes.frames(), 0.0);
    match channel {
        Channel::Nth(n) => {
            for (to, &from) in mono.iter_mut().zip(planes.plane(usize::from(n)).unwrap_or_default()) {
                *to = scale_s32(from);
            }
        }
        Channel::Mean => {
            let share = 1.0 / f32::from(channels.max(1));
            for plane in planes.iter_planes() {
                for (to, &from) in mono.iter_mut().zip(plane) {
                    *to += scale_s32(from) * share;
                }
            }
        }
    }
}

/// Reads past all metadata and returns the STREAMINFO block (RFC 9639 §8.1).
fn read_stream_info(input: &mut Input) -> Result<[u8; STREAMINFO_BYTES], Fault> {
    let mut mark = [0; 4];
    read_exact(input, &mut mark)?;
    let mut info = None;
    loop {
        let mut head = [0; 4];
        read_exact(input, &mut head)?;
        let [kind, a, b, c] = head;
        let mut length = u64::from(u32::from_be_bytes([0, a, b, c]));
        if kind & 0x7F == 0 && info.is_none() {
            let mut block = [0; STREAMINFO_BYTES];
            if length < STREAMINFO_BYTES as u64 {
                return Err(Fault::Damaged("its STREAMINFO block is too short".into()));
            }
            read_exact(input, &mut block)?;
            length -= STREAMINFO_BYTES as u64;
            info = Some(block);
        }
        std::io::copy(&mut input.by_ref().take(length), &mut std::io::sink()).map_err(Fault::Io)?;
        if kind & 0x80 != 0 {
            return info.ok_or_else(|| Fault::Damaged("it has no STREAMINFO block".into()));
        }
    }
}

fn read_exact(input: &mut Input, into: &mut [u8]) -> Result<(), Fault> {
    input.read_exact(into).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Fault::Damaged("it ends in its header".into()),
        _ => Fault::Io(e),
    })
}

fn fault(error: Error) -> Fault {
    match error {
        Error::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Fault::Damaged("it ends before its first frame of sound".into())
        }
        Error::IoError(e) => Fault::Io(e),
        Error::Unsupported(what) => Fault::Unsupported(what.to_owned()),
        other => Fault::Damaged(other.to_string()),
    }
}
