use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::error::Exit;
use crate::testdata;

/// A WAV header and its data, every field by hand.
struct Wav {
    tag: u16,
    bits: u16,
    channels: u16,
    rate_hz: u32,
    data: Vec<u8>,
    /// Written in place of the true lengths.
    riff_length: Option<u32>,
    data_length: Option<u32>,
}

impl Wav {
    fn pcm(bits: u16, channels: u16, rate_hz: u32, data: Vec<u8>) -> Self {
        Self { tag: 1, bits, channels, rate_hz, data, riff_length: None, data_length: None }
    }

    fn format(&self) -> Vec<u8> {
        let block = self.channels.wrapping_mul(self.bits.div_ceil(8));
        [
            &self.tag.to_le_bytes()[..],
            &self.channels.to_le_bytes(),
            &self.rate_hz.to_le_bytes(),
            &(self.rate_hz.wrapping_mul(u32::from(block))).to_le_bytes(),
            &block.to_le_bytes(),
            &self.bits.to_le_bytes(),
        ]
        .concat()
    }

    fn bytes(&self) -> Vec<u8> {
        self.with_chunks(&[(b"fmt ", self.format())])
    }

    fn with_chunks(&self, chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
        let mut body = b"WAVE".to_vec();
        for (name, chunk) in chunks {
            body.extend_from_slice(*name);
            body.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_le_bytes());
            body.extend_from_slice(chunk);
            body.extend(std::iter::repeat_n(0, chunk.len() % 2));
        }
        body.extend_from_slice(b"data");
        let length = self.data_length.unwrap_or(u32::try_from(self.data.len()).unwrap());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&self.data);
        let riff = self.riff_length.unwrap_or(u32::try_from(body.len()).unwrap());
        [b"RIFF".to_vec(), riff.to_le_bytes().to_vec(), body].concat()
    }
}

fn read(bytes: Vec<u8>) -> Result<(Vec<f32>, u32), SourceError> {
    read_bytes(bytes, "test.wav", Channel::Mean, 3_600)
}

fn refusal(bytes: Vec<u8>) -> String {
    let error = read(bytes).expect_err("refused");
    assert_eq!(error.exit(), Exit::Data);
    error.to_string()
}

/// -0.5, 0.25, 0.0 in the given encoding.
fn three_samples(tag: u16, bits: u16) -> Vec<u8> {
    [-0.5_f64, 0.25, 0.0]
        .into_iter()
        .flat_map(|v| match (tag, bits) {
            (1, 8) => vec![(v * 128.0 + 128.0) as u8],
            (1, 16) => ((v * 32_768.0) as i16).to_le_bytes().to_vec(),
            (1, 24) => ((v * 8_388_608.0) as i32).to_le_bytes()[..3].to_vec(),
            (1, 32) => ((v * 2_147_483_648.0) as i32).to_le_bytes().to_vec(),
            (3, 32) => (v as f32).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        })
        .collect()
}

#[test]
fn every_pcm_and_float_size_reads_the_same() {
    for (tag, bits) in [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)] {
        let wav = Wav { tag, ..Wav::pcm(bits, 1, 16_000, three_samples(tag, bits)) };
        assert_eq!(read(wav.bytes()).expect("read"), (vec![-0.5, 0.25, 0.0], 16_000), "{tag} {bits}");

        // The same through WAVE_FORMAT_EXTENSIBLE.
        let mut format = Wav { tag: 0xFFFE, ..Wav::pcm(bits, 1, 16_000, Vec::new()) }.format();
        format.extend_from_slice(&22_u16.to_le_bytes());
        format.extend_from_slice(&bits.to_le_bytes());
        format.extend_from_slice(&4_u32.to_le_bytes());
        format.extend_from_slice(&tag.to_le_bytes());
        format.extend_from_slice(&[0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xAA, 0, 0x38, 0x9B, 0x71]);
        let (samples, _) = read(wav.with_chunks(&[(b"fmt ", format)])).expect("extensible");
        assert_eq!(samples, [-0.5, 0.25, 0.0]);
    }
}

#[test]
fn every_channel_count_and_rate_is_read() {
    for channels in [1, 2, 3, 5, 8, 16, 32_u16] {
        for rate_hz in [4_000, 8_000, 11_025, 22_050, 44_100, 96_000, 384_000, 768_000] {
            let frames = (rate_hz / 10) as usize;
            let data: Vec<u8> =
                (0..frames).flat_map(|_| (1..=channels).flat_map(|c| (c * 1_000).to_le_bytes())).collect();
            let bytes = Wav::pcm(16, channels, rate_hz, data).bytes();
            let (mean, rate) = read(bytes.clone()).expect("read");
            assert_eq!((mean.len(), rate), (frames, rate_hz));
            let expected = f32::from(channels + 1) * 500.0 / 32_768.0;
            assert!(mean.iter().all(|s| (s - expected).abs() < 1e-6));
            let last = Channel::Nth(channels - 1);
            let (nth, _) = read_bytes(bytes.clone(), "x", last, 60).expect("read");
            assert!(nth.iter().all(|s| *s == f32::from(channels) * 1_000.0 / 32_768.0));
            let (other, _) = read_bytes(bytes, "x", Channel::Nth(channels), 60).expect("no such channel");
            assert_eq!(other, mean, "a recording without that channel is heard as it is");
        }
    }
}

#[test]
fn periods_are_twenty_milliseconds_or_as_long_as_fits() {
    for (rate_hz, samples) in [(4_000, 80), (16_000, 320), (96_000, 1_920), (384_000, 1_920)] {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.wav");
        std::fs::write(&path, Wav::pcm(8, 1, rate_hz, vec![99; 4_001]).bytes()).expect("write");
        let mut source = FileSource::open(&path, Channel::Mean, false).expect("open");
        assert!(!source.paced());
        let mut period = Period::default();
        let mut lengths = Vec::new();
        while source.read(&mut period).expect("read") == Read::Period {
            assert_eq!((period.rate_hz, period.lost), (rate_hz, 0));
            lengths.push(period.len);
        }
        assert_eq!(lengths.iter().sum::<usize>(), 4_001);
        assert!(lengths.iter().rev().skip(1).all(|l| *l == samples), "{lengths:?}");
        assert_eq!(source.read(&mut period).expect("read"), Read::End, "the end stays the end");
    }
}

#[test]
fn floats_that_are_not_numbers_are_silence() {
    let data = [f32::NAN, 0.5, f32::INFINITY, f32::NEG_INFINITY].map(f32::to_le_bytes).concat();
    let wav = Wav { tag: 3, ..Wav::pcm(32, 1, 16_000, data) };
    assert_eq!(read(wav.bytes()).expect("read").0, [0.0, 0.5, 0.0, 0.0]);
}

#[test]
fn codecs_that_are_not_supported_are_named() {
    for (tag, name) in [
        (2, "Microsoft ADPCM"),
        (0x11, "IMA ADPCM"),
        (6, "A-law"),
        (7, "mu-law"),
        (0x55, "MP3"),
        (0x1234, "0x1234"),
    ] {
        let says = refusal(Wav { tag, ..Wav::pcm(4, 1, 8_000, vec![0; 512]) }.bytes());
        assert!(says.contains(name) && says.contains("convert it"), "{says}");
    }
    for (head, name) in [
        (&b"ID3\x04\0\0\0\0\0\0\0\0"[..], "MP3"),
        (b"\xFF\xFB\x90\x44\0\0\0\0\0\0\0\0", "MP3"),
        (b"\xFF\xF1\x50\x80\0\0\0\0\0\0\0\0", "AAC"),
        (b"OggS\0\x02\0\0\0\0\0\0", "Ogg"),
        (b"\0\0\0\x20ftypM4A ", "M4A"),
        (b"FORM\0\0\0\0AIFF", "AIFF"),
        (b"RF64\xFF\xFF\xFF\xFFWAVE", "RF64"),
    ] {
        let says = refusal([head, &[0; 5_000]].concat());
        assert!(says.contains(name), "{says}");
    }
}

#[test]
fn shapes_that_no_microphone_has_are_refused() {
    for (bits, channels, rate_hz, says) in [
        (16, 33, 16_000, "33 channels"),
        (16, 0, 16_000, "0 channels"),
        (16, u16::MAX, 16_000, "65535 channels"),
        (16, 1, 0, "0 samples a second"),
        (16, 1, 2_000, "2000 samples a second"),
        (16, 1, u32::MAX, "samples a second"),
        (64, 1, 16_000, "64-bit PCM"),
        (0, 1, 16_000, "0-bit PCM"),
    ] {
        let text = refusal(Wav::pcm(bits, channels, rate_hz, vec![0; 100]).bytes());
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn what_is_no_recording_is_refused_with_the_reason() {
    assert!(refusal(Vec::new()).contains("holds no sound"));
    assert!(refusal(b"RI".to_vec()).contains("WAV or FLAC"));
    assert!(refusal(b"hello, this is a text file\n".to_vec()).contains("WAV or FLAC"));
    assert!(refusal(vec![0; 10_000]).contains("WAV or FLAC"));
    assert!(refusal(b"RIFF\0\0\0\0WAVE".to_vec()).contains("damaged"));
    assert!(refusal(Wav::pcm(16, 1, 16_000, Vec::new()).bytes()).contains("holds no sound"));
    let promised = Wav { data_length: Some(4_000), ..Wav::pcm(16, 1, 16_000, Vec::new()) };
    assert!(refusal(promised.bytes()).contains("ends right after its header"));
    assert!(
        refusal(Wav::pcm(16, 1, 16_000, vec![1; 100]).with_chunks(&[])).contains("format chunk is missing")
    );
    let missing = read_all(Path::new("/nonexistent/a.wav"), Channel::Mean, 1).expect_err("missing");
    assert!(missing.to_string().contains("/nonexistent/a.wav"));
    assert!(std::error::Error::source(&missing).is_some());
    let folder = read_all(&std::env::temp_dir(), Channel::Mean, 1).expect_err("a folder");
    assert_eq!(folder.exit(), Exit::Data);
}

#[test]
fn lengths_of_streaming_writers_are_not_believed() {
    let data = vec![1; 640];
    for (riff_length, data_length) in [
        // espeak-ng --stdout
        (0x7FFF_F024, 0x7FFF_F000),
        // sox and ffmpeg into a pipe
        (u32::MAX, u32::MAX),
        (0x7FFF_FFFF, 0x7FFF_FFFF - 36),
        // writers that never come back to fill them in
        (0, 0),
        (u32::MAX, 0),
        // writers that wrote the header of an empty file and could not come back, such as Python's `wave`
        // into a pipe
        (36, 0),
        // a recording that was cut off
        (100_036, 100_000),
        // a RIFF length that is simply wrong
        (12, 640),
    ] {
        let wav = Wav {
            riff_length: Some(riff_length),
            data_length: Some(data_length),
            ..Wav::pcm(16, 1, 16_000, data.clone())
        };
        assert_eq!(read(wav.bytes()).expect("read").0.len(), 320, "{riff_length:#x} {data_length:#x}");
    }
}

#[test]
fn a_file_that_says_it_is_empty_is_and_what_follows_is_no_sound() {
    let empty = Wav::pcm(16, 1, 16_000, Vec::new()).bytes();
    let mut tagged = [empty, b"LIST\x04\0\0\0INFO".to_vec()].concat();
    let length = u32::try_from(tagged.len() - 8).unwrap();
    tagged[4..8].copy_from_slice(&length.to_le_bytes());
    assert!(refusal(tagged).contains("holds no sound"));
}

#[test]
fn a_wav_cut_off_anywhere_is_read_to_there_or_refused() {
    for data_length in [None, Some(0), Some(u32::MAX)] {
        let riff_length = data_length.map(|_| u32::MAX);
        let wav = Wav { riff_length, data_length, ..Wav::pcm(16, 1, 8_000, vec![0x11; 64]) };
        let whole = wav.bytes();
        for end in 0..whole.len() {
            match read(whole[..end].to_vec()) {
                Ok((samples, _)) => assert_eq!(samples.len(), (end - 44) / 2, "{end}"),
                Err(error) => assert!(end < 46, "{end}: {error}"),
            }
        }
    }
}

#[test]
fn other_chunks_are_skipped_whatever_they_hold() {
    let wav = Wav::pcm(16, 1, 16_000, vec![0x11; 8]);
    let bytes = wav.with_chunks(&[
        (b"LIST", b"INFOISFT\x0d\0\0\0Lavf59.27.10\0".to_vec()),
        (b"bext", vec![0xFF; 603]),
        (b"fmt ", wav.format()),
        (b"junk", vec![7; 3]),
        (b"fact", vec![4, 0, 0, 0]),
    ]);
    // A chunk behind the data is not sound.
    let bytes = [bytes, b"LIST\x04\0\0\0INFO".to_vec()].concat();
    assert_eq!(read(bytes).expect("read").0.len(), 4);
}

#[test]
fn a_sample_cut_in_half_is_left_out() {
    assert_eq!(read(Wav::pcm(16, 2, 16_000, vec![0; 11]).bytes()).expect("read").0.len(), 2);
}

#[test]
fn a_recording_that_is_too_long_is_refused_without_reading_it_all() {
    let error = read_bytes(Wav::pcm(8, 1, 8_000, vec![128; 80_001]).bytes(), "a", Channel::Mean, 10)
        .expect_err("10 s and one sample");
    assert!(matches!(error, SourceError::TooLong { max_s: 10, .. }), "{error}");
    assert!(read_bytes(Wav::pcm(8, 1, 8_000, vec![128; 80_000]).bytes(), "a", Channel::Mean, 10).is_ok());
}

#[test]
fn a_recording_that_is_too_much_for_memory_is_refused() {
    let error = read(Wav::pcm(8, 1, 768_000, vec![128; 768_000 * 38]).bytes()).expect_err("too much");
    assert!(matches!(error, SourceError::TooLong { max_s: 37, .. }), "{error}");
}

#[test]
fn a_recording_is_paced_like_a_microphone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("a.wav");
    std::fs::write(&path, Wav::pcm(8, 1, 8_000, vec![99; 4_000]).bytes()).expect("write");
    let mut source = FileSource::open(&path, Channel::Mean, true).expect("open");
    assert!(source.paced());
    let began = Instant::now();
    let mut period = Period::default();
    let mut heard = 0;
    loop {
        match source.read(&mut period).expect("read") {
            Read::Period => {
                heard += period.len;
                assert!(began.elapsed().as_secs_f64() >= heard as f64 / 8_000.0 - 0.001, "too early");
            }
            Read::Nothing => {}
            Read::End => break,
        }
    }
    assert_eq!(heard, 4_000);
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn ten_hours_take_no_more_memory_than_ten_seconds() {
    // In a process of its own: the memory of others would count.
    let own = std::process::Command::new(std::env::current_exe().expect("test binary"))
        .args(["audio::file::tests::ten_hours_are_read", "--exact", "--ignored", "--nocapture"])
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&own.stdout);
    let faults = String::from_utf8_lossy(&own.stderr);
    assert!(own.status.success() && said.contains("1 passed"), "{said}{faults}");
}

#[test]
#[ignore = "needs a process of its own"]
fn ten_hours_are_read() {
    // A sparse file: 10 hours of 8 kHz mono.
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("long.wav");
    let data = 10 * 3_600 * 8_000_u32;
    let header = Wav { data_length: Some(data), ..Wav::pcm(8, 1, 8_000, Vec::new()) }.bytes();
    std::fs::write(&path, &header).expect("write");
    let file = File::options().write(true).open(&path).expect("open");
    file.set_len(header.len() as u64 + u64::from(data)).expect("sparse");
    let mut source = FileSource::open(&path, Channel::Mean, false).expect("open");
    let before = resident_kb();
    let mut period = Period::default();
    let mut samples = 0_u64;
    while source.read(&mut period).expect("read") == Read::Period {
        samples += period.len as u64;
    }
    assert_eq!(samples, 10 * 3_600 * 8_000);
    let grown = resident_kb().saturating_sub(before);
    assert!(grown < 10_000, "{grown} kB more than before");
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("number")
}

fn some_flac() -> Option<PathBuf> {
    testdata::shared("audio/fsdd/3_theo_1.flac")
}

#[test]
fn a_real_flac_recording_is_read_whole() {
    let Some(folder) = testdata::shared("audio") else { return };
    let listed = std::fs::read_to_string(folder.join("manifest.csv")).expect("manifest");
    let mut seen = 0;
    for line in listed.lines().skip(1).step_by(17) {
        let path = folder.join(line.split(',').next().expect("path"));
        if path.extension().is_none_or(|e| e != "flac") {
            continue;
        }
        let (samples, rate_hz) = read_all(&path, Channel::Mean, 600).expect("read");
        // 36 bits of STREAMINFO say how many samples there are.
        let bytes = std::fs::read(&path).expect("read");
        let promised = u64::from_be_bytes(bytes[18..26].try_into().expect("eight")) & 0xF_FFFF_FFFF;
        assert_eq!((samples.len() as u64, rate_hz), (promised, 16_000), "{}", path.display());
        assert!(samples.iter().any(|s| s.abs() > 0.01));
        seen += 1;
    }
    assert!(seen > 10);
}

#[test]
fn flac_is_the_same_sound_as_the_wav_it_was_made_from() {
    let Some(flac) = some_flac() else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    let wav = dir.path().join("a.wav");
    let made = Command::new("sox").arg(&flac).arg(&wav).output();
    if !made.is_ok_and(|made| made.status.success()) {
        crate::testdata::skipped("sox is not on this machine");
        return;
    }
    let from_flac = read_all(&flac, Channel::Mean, 60).expect("flac");
    assert_eq!(from_flac, read_all(&wav, Channel::Mean, 60).expect("wav"));
    for (name, options) in [
        ("24.flac", &["-b", "24"][..]),
        ("stereo.flac", &["-c", "2"]),
        ("eight.flac", &["-b", "8", "-r", "8000"]),
        ("wide.flac", &["-r", "96000", "-c", "6"]),
    ] {
        let path = dir.path().join(name);
        let made = Command::new("sox").arg("-D").arg(&flac).args(options).arg(&path).status().expect("sox");
        assert!(made.success());
        let (samples, rate_hz) = read_all(&path, Channel::Mean, 60).expect(name);
        let seconds = samples.len() as f64 / f64::from(rate_hz);
        assert!((seconds - from_flac.0.len() as f64 / 16_000.0).abs() < 0.001, "{name}");
        if rate_hz == 16_000 {
            let worst = samples.iter().zip(&from_flac.0).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-6, "{name}: {worst}");
        }
    }
}

#[test]
fn a_flac_cut_off_anywhere_is_read_to_there_or_refused() {
    let Some(path) = some_flac() else { return };
    let whole = std::fs::read(path).expect("read");
    let (all, _) = read(whole.clone()).expect("whole");
    let mut partly = 0;
    for at in (0..whole.len()).step_by(whole.len() / 200 + 1) {
        match read(whole[..at].to_vec()) {
            Ok((some, _)) => {
                assert!(all.starts_with(&some), "cut at {at}");
                partly += usize::from(some.len() < all.len());
            }
            Err(error) => assert_eq!(error.exit(), Exit::Data),
        }
    }
    println!("{partly} cuts left something to hear");
}

/// A small generator, so that failures repeat.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % below as u64).unwrap()
    }
}

#[test]
fn damaged_bytes_never_panic_and_yield_sound_or_a_sentence() {
    let mut originals = vec![
        Wav::pcm(16, 2, 44_100, vec![0x5A; 4_000]).bytes(),
        Wav { tag: 3, ..Wav::pcm(64, 3, 8_000, vec![0x5A; 4_800]) }.bytes(),
    ];
    if let Some(path) = some_flac() {
        originals.push(std::fs::read(path).expect("read"));
    }
    let mut dice = Dice(7);
    let mut heard = 0;
    for original in &originals {
        for round in 0..1_500 {
            let mut bytes = original.clone();
            // Mostly in the header, where a bit decides how the rest is read.
            let within = if round % 3 == 0 { bytes.len() } else { 60 };
            for _ in 0..=dice.roll(4) {
                let at = dice.roll(within);
                bytes[at] ^= 1 << dice.roll(8);
            }
            if round % 5 == 0 {
                bytes.truncate(dice.roll(bytes.len()));
            }
            match read_bytes(bytes, "damaged", Channel::Mean, 60) {
                Ok((samples, _)) => {
                    assert!(samples.iter().all(|s| s.is_finite()));
                    heard += 1;
                }
                Err(error) => assert_eq!(error.exit(), Exit::Data),
            }
        }
    }
    assert!(heard > 500, "most damage is survived: {heard}");
}

#[test]
fn random_bytes_behind_a_true_header_never_panic() {
    let mut dice = Dice(11);
    let flac = some_flac().map(|path| std::fs::read(path).expect("read"));
    for round in 0..400 {
        let noise: Vec<u8> = (0..dice.roll(20_000)).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect();
        let head = match (round % 4, &flac) {
            (0, _) => b"RIFF\xFF\xFF\xFF\xFFWAVE".to_vec(),
            (1, _) => b"fLaC".to_vec(),
            (2, Some(flac)) => {
                flac[..42].iter().enumerate().map(|(i, b)| if i == 4 { 0x80 } else { *b }).collect()
            }
            _ => Vec::new(),
        };
        let _ = read([head, noise].concat());
    }
}
