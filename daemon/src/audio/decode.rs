//! Recognises the kind of a recording by its first bytes, never by its name.

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use super::flac::FlacDecoder;
use super::wav::WavDecoder;
use super::{Channel, Measure, SourceError};

/// The bytes of a recording, read once from front to back.
pub(super) type Input = Box<dyn Read + Send + Sync>;

/// The fault of a recording; [`Fault::of`] adds its path.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    NotAudio(String),
    Empty,
    Unsupported(String),
    /// A rate or a number of channels that is not supported.
    Shape(String),
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
            Self::Shape(what) => SourceError::Shape { path, what },
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
        let mut tags = 0;
        let (head, got) = loop {
            let (head, got) = read_head(&mut input)?;
            let Some(length) = id3_length(&head).filter(|_| got == HEAD && tags < MAX_TAGS) else {
                break (head, got);
            };
            tags += 1;
            let tag = length + 10;
            match usize::try_from(tag).ok().and_then(|tag| head.get(tag..)) {
                // A tag shorter than the head: the rest of the head belongs to the recording.
                Some(rest) => input = Box::new(Cursor::new(rest.to_vec()).chain(input)),
                None => {
                    let left = tag - HEAD as u64;
                    io::copy(&mut input.by_ref().take(left), &mut io::sink()).map_err(Fault::Io)?;
                }
            }
        };
        let whole = Cursor::new(head).take(got as u64).chain(input);
        match (&head[..4], &head[8..]) {
            _ if got == 0 && tags == 0 => Err(Fault::Empty),
            (b"RIFF", b"WAVE") => WavDecoder::new(Box::new(whole) as Input).map(Self::Wav),
            (b"fLaC", _) => FlacDecoder::new(Box::new(whole)).map(|flac| Self::Flac(Box::new(flac))),
            _ => Err(match other_format(&head) {
                Some(name) => Fault::Unsupported(name.into()),
                // Nothing else has such a tag in front.
                None if tags > 0 => Fault::Unsupported("MP3".into()),
                None => Fault::NotAudio("it starts like neither".into()),
            }),
        }
    }

    /// Measures every channel of the sound decoded from here on.
    pub(super) fn measure(&mut self) {
        match self {
            Self::Wav(wav) => wav.measure = Some(Box::default()),
            Self::Flac(flac) => flac.measure = Some(Box::default()),
        }
    }

    pub(super) fn measured(&self) -> Option<&Measure> {
        match self {
            Self::Wav(wav) => wav.measure.as_deref(),
            Self::Flac(flac) => flac.measure.as_deref(),
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

    /// Fills `out` with mono samples. Returns their number, and the number missing just before them; 0
    /// samples at the end.
    pub(super) fn next(&mut self, out: &mut [f32], channel: Channel) -> Result<(usize, u32), Fault> {
        match self {
            Self::Wav(wav) => wav.next(out, channel).map(|n| (n, 0)),
            Self::Flac(flac) => flac.next(out, channel),
        }
    }
}

/// The position in `file` of its recording, although the tag in front of it states another length. `None` if
/// the bytes behind the tag are of a known other format, or nothing is found.
pub(super) fn behind_wrong_tag(file: &mut (impl Read + Seek)) -> io::Result<Option<u64>> {
    let mut at = 0;
    let mut head = [0; HEAD];
    for tags in 0..=MAX_TAGS {
        file.seek(SeekFrom::Start(at))?;
        head = [0; HEAD];
        match file.read_exact(&mut head) {
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            _ => {}
        }
        match id3_length(&head) {
            Some(length) => at += length + 10,
            None if tags == 0 => return Ok(None),
            None => break,
        }
    }
    // Samples can look like a frame of MPEG, whose mark is eleven bits long.
    let other = other_format(&head).is_some_and(|name| !matches!(name, "MP3" | "AAC"));
    if is_recording(&head) || other {
        return Ok(None);
    }
    let mut front = Vec::new();
    file.rewind()?;
    file.take(MOST_BEHIND_TAG).read_to_end(&mut front)?;
    Ok(front.windows(HEAD).position(is_recording).and_then(|at| u64::try_from(at).ok()))
}

/// Whether `head` begins a recording of a known format.
fn is_recording(head: &[u8]) -> bool {
    matches!(
        head,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E'] | [b'f', b'L', b'a', b'C', ..]
    )
}

/// Bytes searched for the recording behind a tag of a wrong length.
const MOST_BEHIND_TAG: u64 = 64 << 10;

/// Bytes that tell one format from another.
const HEAD: usize = 12;
/// ID3 tags in front of a recording that are skipped.
const MAX_TAGS: usize = 8;

/// The first bytes of the rest of `input`, and their number.
fn read_head(input: &mut Input) -> Result<([u8; HEAD], usize), Fault> {
    let mut head = [0; HEAD];
    let got = fill(input, &mut head).map_err(Fault::Io)?;
    Ok((head, got))
}

/// Reads until `buffer` is full or `reader` ends, and returns how many bytes came.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = buffer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// Bytes behind the ten of the head of an ID3v2 tag (id3.org, ID3v2.4.0 §3.1), which some programs put in
/// front of any recording.
fn id3_length(head: &[u8; HEAD]) -> Option<u64> {
    let [b'I', b'D', b'3', _, _, flags, size @ ..] = head else { return None };
    let size = size.get(..4).filter(|size| size.iter().all(|b| b & 0x80 == 0))?;
    let length = size.iter().fold(0, |length, b| length << 7 | u64::from(*b));
    // A footer of ten bytes may follow.
    Some(length + if flags & 0x10 == 0 { 0 } else { 10 })
}

/// Names the formats that people most often give in place of WAV or FLAC.
fn other_format(head: &[u8; HEAD]) -> Option<&'static str> {
    Some(match head {
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
