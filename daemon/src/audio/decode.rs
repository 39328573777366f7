//! Which kind of recording a file is, by its first bytes, never by its name.

use std::io::{self, Cursor, Read};
use std::path::Path;

use super::flac::FlacDecoder;
use super::wav::WavDecoder;
use super::{Channel, SourceError};

/// The bytes of a recording, read once from front to back.
pub(super) type Input = Box<dyn Read + Send + Sync>;

/// What is wrong with a recording; [`Fault::of`] adds whose.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    NotAudio(String),
    Empty,
    Unsupported(String),
    Damaged(String),
}

impl Fault {
    pub(super) fn of(self, path: &Path) -> SourceError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => SourceError::Io { path, source },
            Self::NotAudio(what) => SourceError::NotAudio { path, what },
            Self::Empty => SourceError::Empty { path },
            Self::Unsupported(format) => SourceError::Unsupported { path, format },
            Self::Damaged(what) => SourceError::Damaged { path, what },
        }
    }
}

/// One of the two formats that are understood.
#[derive(Debug)]
pub(super) enum Decoder {
    Wav(WavDecoder<Input>),
    Flac(Box<FlacDecoder>),
}

impl Decoder {
    pub(super) fn new(mut input: Input) -> Result<Self, Fault> {
        let mut head = [0; 12];
        let mut got = 0;
        while let Some(rest) = head.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match input.read(rest) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Fault::Io(e)),
            }
        }
        let whole = Cursor::new(head).take(got as u64).chain(input);
        match (&head[..4], &head[8..]) {
            _ if got == 0 => Err(Fault::Empty),
            (b"RIFF", b"WAVE") => WavDecoder::new(Box::new(whole) as Input).map(Self::Wav),
            (b"fLaC", _) => FlacDecoder::new(Box::new(whole)).map(|flac| Self::Flac(Box::new(flac))),
            _ => Err(match other_format(&head) {
                Some(name) => Fault::Unsupported(name.into()),
                None => Fault::NotAudio("it starts like neither".into()),
            }),
        }
    }

    pub(super) fn rate_hz(&self) -> u32 {
        match self {
            Self::Wav(wav) => wav.rate_hz(),
            Self::Flac(flac) => flac.rate_hz(),
        }
    }

    pub(super) fn channels(&self) -> u16 {
        match self {
            Self::Wav(wav) => wav.channels(),
            Self::Flac(flac) => flac.channels(),
        }
    }

    pub(super) fn ended_early(&self) -> bool {
        match self {
            Self::Wav(wav) => wav.ended_early(),
            Self::Flac(flac) => flac.ended_early(),
        }
    }

    /// Fills `out` with mono samples; returns how many, and how many are missing just before them. None at the end.
    pub(super) fn next(&mut self, out: &mut [f32], channel: Channel) -> Result<(usize, u32), Fault> {
        match self {
            Self::Wav(wav) => wav.next(out, channel).map(|n| (n, 0)),
            Self::Flac(flac) => flac.next(out, channel),
        }
    }
}

/// Names what people most often give in place of WAV or FLAC.
fn other_format(head: &[u8; 12]) -> Option<&'static str> {
    Some(match head {
        [b'I', b'D', b'3', ..] => "MP3",
        [b'O', b'g', b'g', b'S', ..] => "Ogg (Vorbis or Opus)",
        [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C'] => "AIFF",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "MP4 or M4A (AAC)",
        [b'R', b'F', b'6', b'4', ..] | [b'B', b'W', b'6', b'4', ..] => "64-bit WAV (RF64)",
        [b'R', b'I', b'F', b'X', ..] => "big-endian WAV (RIFX)",
        [b'.', b's', b'n', b'd', ..] => "Sun AU",
        [b'c', b'a', b'f', b'f', ..] => "Core Audio (CAF)",
        [b'#', b'!', b'A', b'M', b'R', ..] => "AMR",
        [b'w', b'v', b'p', b'k', ..] => "WavPack",
        [b'M', b'T', b'h', b'd', ..] => "MIDI",
        [b'N', b'I', b'S', b'T', ..] => "NIST SPHERE",
        [0x1A, 0x45, 0xDF, 0xA3, ..] => "Matroska or WebM",
        [0x30, 0x26, 0xB2, 0x75, ..] => "Windows Media",
        // MPEG frame sync: layer 0 is AAC, the others are MP1 to MP3.
        [0xFF, second, ..] if second & 0xF6 == 0xF0 => "AAC",
        [0xFF, second, third, ..] if second & 0xE0 == 0xE0 && second & 0x06 != 0 && third & 0xF0 != 0xF0 => {
            "MP3"
        }
        _ => return None,
    })
}
