//! Any bytes as a recording.

use super::*;

/// Longest sound that is decoded: a few bytes of FLAC are hours of silence.
const MAX_S: u32 = 2;

/// A recording whose first bytes may be those of a WAV.
pub fn wav(bytes: &[u8]) -> bool {
    !bytes.starts_with(b"fLaC") && decode(bytes, bytes.len())
}

/// A FLAC, with or without its first bytes.
pub fn flac(bytes: &[u8]) -> bool {
    match bytes.first_chunk() {
        Some(b"RIFF") => false,
        Some(b"fLaC" | b"ID3\x03" | b"ID3\x04") => decode(bytes, usize::MAX),
        _ => decode(&[b"fLaC", bytes].concat(), usize::MAX),
    }
}

fn decode(bytes: &[u8], longest: usize) -> bool {
    let read = |channel| read_bytes(bytes.to_vec(), "a.wav", channel, MAX_S);
    let (mean, second) = (read(Channel::Mean), read(Channel::Nth(1)));
    match (&mean, &second) {
        (Ok((mean, rate_hz)), Ok((second, _))) => {
            assert!((4_000..=768_000).contains(rate_hz), "{rate_hz} Hz");
            assert!(!mean.is_empty() && mean.len() <= longest, "{} samples", mean.len());
            assert_eq!(mean.len(), second.len(), "as long whichever channel is heard");
            assert!(mean.iter().chain(second).all(|s| s.abs() <= 8.0), "a sample that is none");
        }
        (Err(mean), Err(second)) => assert_eq!(mean.to_string(), second.to_string()),
        other => assert!(other.0.is_ok() == other.1.is_ok(), "one channel is read, another is not"),
    }
    measure(bytes, mean.as_ref().map_or(0, |(samples, _)| samples.len()));
    mean.is_ok()
}

/// The look ahead sees as much as is read.
fn measure(bytes: &[u8], read: usize) {
    let Ok(mut decoder) = Decoder::new(Box::new(Cursor::new(bytes.to_vec()))) else { return };
    decoder.measure();
    let most = decoder.rate_hz() as usize * MAX_S as usize;
    let (mut samples, mut seen) = (vec![0.0; MAX_PERIOD_SAMPLES], 0);
    while seen <= most {
        match decoder.next(&mut samples, Channel::Mean) {
            Ok((0, _)) | Err(_) => break,
            Ok((more, missing)) => seen += more + missing as usize,
        }
    }
    assert!(read == 0 || read == seen, "{read} samples were read, {seen} are measured");
    if let Some(measure) = decoder.measured() {
        let _ = measure.verdict(Channel::Mean);
    }
}
