//! Against the simulated sound card of `tests/support/simmic.c`. alsa-lib reads its configuration from an
//! environment variable, so each test below runs in a process of its own with its own card;
//! [`every_test_of_the_simulated_card`] starts them.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::audio::loudspeaker::{self, Sound};
use crate::audio::playback::{PlaybackError, Player};
use crate::error::Exit;

#[cfg(test)]
#[path = "../../../../tests/support/card.rs"]
mod card;
use card::Card;

const IN_OWN_PROCESS: [&str; 13] = [
    "sound_arrives_bit_for_bit_from_a_voicehat",
    "every_format_arrives_bit_for_bit",
    "a_reader_that_stalls_gets_an_overrun_and_the_clock_stays_true",
    "an_overrun_of_the_device_is_counted_and_survived",
    "a_microphone_is_unplugged_and_comes_back",
    "a_microphone_that_is_not_there_at_start_is_waited_for",
    "a_suspended_microphone_comes_back",
    "a_frozen_microphone_yields_nothing_and_no_error",
    "what_a_device_cannot_do_is_a_configuration_error",
    "playback_is_heard_bit_for_bit_and_resampled_where_needed",
    "playback_stops_and_reports_what_is_missing",
    "the_device_stays_open_over_the_sounds_of_an_answer_and_is_free_after_it",
    "an_answer_that_is_cut_is_silent_at_once_and_the_next_one_is_heard",
];

#[test]
fn every_test_of_the_simulated_card() {
    let mut running = Vec::new();
    for name in IN_OWN_PROCESS {
        let card = Card::new();
        let child = Command::new(std::env::current_exe().expect("test binary"))
            .args([&format!("audio::alsa::tests::{name}"), "--exact", "--ignored", "--nocapture"])
            .envs(card.environment())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        running.push((name, card, child));
    }
    let mut failed = String::new();
    for (name, _card, child) in running {
        let output = child.wait_with_output().expect("wait");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() || !text.contains("1 passed") {
            failed += &format!("---- {name}\n{text}\n");
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

fn fault(name: &str, on: bool) {
    Card::of_this_process().fault(name, on);
}

fn played() -> Vec<u8> {
    Card::of_this_process().played()
}

/// Thirty seconds of stereo S32. The upper 24 bits of the left sample are the frame's number, so that every
/// sample tells its time. The right sample is its negative.
fn write_counting_sound() {
    let sound: Vec<u8> =
        (0..48_000 * 30_i32).flat_map(|n| [n << 8, -(n << 8)]).flat_map(i32::to_le_bytes).collect();
    Card::of_this_process().hears(&sound);
}

/// Reads a source and compares its audio clock with the numbers in the counting sound.
struct Listener {
    source: AlsaSource,
    stats: Arc<CaptureStats>,
    period: Period,
    /// Samples heard and lost so far.
    clock: i64,
    /// Number of the first frame heard.
    origin: Option<i64>,
    last_lost: u32,
}

impl Listener {
    fn new(device: &str, channel: Channel) -> Self {
        let settings = Audio { device: device.into(), channel, period_ms: 20, ..Audio::default() };
        let stats = Arc::new(CaptureStats::default());
        let source = AlsaSource::new(settings, Arc::clone(&stats)).expect("name");
        Self { source, stats, period: Period::default(), clock: 0, origin: None, last_lost: 0 }
    }

    /// Reads until `seconds` of sound have come or `patience_s` have passed; returns the seconds heard.
    fn listen(&mut self, seconds: f64, patience_s: f64) -> f64 {
        let began = Instant::now();
        let mut heard = 0.0;
        while heard < seconds && began.elapsed().as_secs_f64() < patience_s {
            let call = Instant::now();
            let read = self.source.read(&mut self.period).expect("read");
            assert!(call.elapsed() < Duration::from_secs(1), "a call took {:?}", call.elapsed());
            if read == Read::Period {
                heard += self.period.len as f64 / f64::from(self.period.rate_hz);
                self.check_clock();
            }
        }
        heard
    }

    /// Within a period no sample is missing; over gaps the clock is true to 40 ms.
    fn check_clock(&mut self) {
        let numbers: Vec<i64> =
            self.period.sound().iter().map(|s| (f64::from(*s) * f64::from(1 << 23)) as i64).collect();
        for pair in numbers.windows(2) {
            assert_eq!(pair[1] - pair[0], 1, "sound within a period is whole");
        }
        self.last_lost = self.last_lost.max(self.period.lost);
        self.clock += i64::from(self.period.lost);
        let origin = *self.origin.get_or_insert(numbers[0]);
        let off = numbers[0] - origin - self.clock;
        assert!(off.abs() <= 48 * 40, "the audio clock is off by {off} samples, {} lost", self.period.lost);
        if self.period.lost == 0 {
            return self.clock += numbers.len() as i64;
        }
        // The loss is an estimate: go on from the truth, so that its errors do not add up in this check.
        self.clock = numbers[0] - origin + numbers.len() as i64;
    }

    fn count(&self, of: impl Fn(&CaptureStats) -> &std::sync::atomic::AtomicU64) -> u64 {
        of(&self.stats).load(Ordering::Relaxed)
    }
}

#[test]
#[ignore = "needs a process of its own"]
fn sound_arrives_bit_for_bit_from_a_voicehat() {
    write_counting_sound();
    let mut left = Listener::new("voicehat", Channel::LEFT);
    assert!(left.listen(1.0, 10.0) >= 1.0);
    assert_eq!((left.period.rate_hz, left.last_lost), (48_000, 0));
    let mut plugged = Listener::new("plugged", Channel::LEFT);
    assert!(plugged.listen(0.5, 10.0) >= 0.5, "through a plug layer too");
    assert_eq!((plugged.period.rate_hz, plugged.last_lost), (48_000, 0));
    let mut mean = Listener::new("voicehat", Channel::Mean);
    while mean.source.read(&mut mean.period).expect("read") != Read::Period {}
    assert!(mean.period.sound().iter().all(|s| *s == 0.0), "left and right cancel out");
}

#[test]
#[ignore = "needs a process of its own"]
fn every_format_arrives_bit_for_bit() {
    // Each device hears the same bytes in its own format; the frame number is the sample, modulo what fits.
    type Case = (&'static str, Channel, usize, fn(i64) -> f64, fn(i64) -> Vec<u8>);
    let cases: [Case; 5] = [
        (
            "mic",
            Channel::Mean,
            1,
            |n| (n % 30_000) as f64 / 32_768.0,
            |n| ((n % 30_000) as i16).to_le_bytes().to_vec(),
        ),
        (
            "packed24",
            Channel::Mean,
            1,
            |n| n as f64 / f64::from(1 << 23),
            |n| (n as i32).to_le_bytes()[..3].to_vec(),
        ),
        (
            "padded24",
            Channel::RIGHT,
            2,
            |n| -(n as f64) / f64::from(1 << 23),
            |n| {
                let (left, mut right) = ((n as i32).to_le_bytes(), (-(n as i32)).to_le_bytes());
                // The top byte means nothing.
                right[3] = 0x5A;
                [left, right].concat()
            },
        ),
        (
            "float",
            Channel::Mean,
            1,
            |n| n as f64 / f64::from(1 << 23),
            |n| (n as f32 / 8_388_608.0).to_le_bytes().to_vec(),
        ),
        (
            "array8",
            Channel::Nth(5),
            8,
            |n| (n % 30_000) as f64 / 32_768.0,
            |n| (0..8_i64).flat_map(|c| (((n + (c - 5) * 7) % 30_000) as i16).to_le_bytes()).collect(),
        ),
    ];
    for (device, channel, channels, expected, frame) in cases {
        let sound: Vec<u8> = (0..48_000 * 15_i64).flat_map(frame).collect();
        Card::of_this_process().hears(&sound);
        let mut listener = Listener::new(device, channel);
        let mut heard = Vec::new();
        while heard.len() < 8_000 {
            if listener.source.read(&mut listener.period).expect("read") == Read::Period {
                assert_eq!(listener.period.lost, 0);
                heard.extend_from_slice(listener.period.sound());
            }
        }
        let State::Open { device: open, .. } = &listener.source.state else { panic!("closed") };
        assert_eq!(usize::from(open.channels), channels, "{device}");
        let at = |n: i64| heard.iter().enumerate().all(|(i, s)| f64::from(*s) == expected(n + i as i64));
        let start = (0..48_000 * 10).find(|n| f64::from(heard[0]) == expected(*n) && at(*n));
        assert!(start.is_some(), "{device}: the sound is not what was played: {:?}", &heard[..8]);
    }
}

#[test]
#[ignore = "needs a process of its own"]
fn a_reader_that_stalls_gets_an_overrun_and_the_clock_stays_true() {
    write_counting_sound();
    let mut listener = Listener::new("voicehat", Channel::LEFT);
    listener.listen(0.3, 10.0);
    std::thread::sleep(Duration::from_millis(900));
    assert!(listener.listen(0.5, 10.0) >= 0.5);
    assert!(listener.count(|s| &s.xruns) >= 1);
    assert!(listener.last_lost > 48 * 800, "{} lost", listener.last_lost);
    assert_eq!(listener.count(|s| &s.reopens), 0, "an overrun does not need a new device");
}

#[test]
#[ignore = "needs a process of its own"]
fn an_overrun_of_the_device_is_counted_and_survived() {
    write_counting_sound();
    let mut listener = Listener::new("voicehat", Channel::LEFT);
    listener.listen(0.3, 10.0);
    for _ in 0..3 {
        fault("xrun", true);
        assert!(listener.listen(0.3, 10.0) >= 0.3);
    }
    assert!(listener.count(|s| &s.xruns) >= 3);
    assert_eq!(listener.count(|s| &s.reopens), 0);
}

#[test]
#[ignore = "needs a process of its own"]
fn a_microphone_is_unplugged_and_comes_back() {
    write_counting_sound();
    let mut listener = Listener::new("voicehat", Channel::LEFT);
    listener.listen(0.3, 10.0);
    fault("unplug", true);
    assert!(listener.listen(1.0, 1.5) < 0.1);
    assert_eq!(listener.stats.status(), CaptureStatus::Recovering);
    let why = listener.stats.last_error().expect("a reason");
    assert_eq!(why.raw_os_error(), Some(libc::ENODEV));
    fault("unplug", false);
    assert!(listener.listen(0.5, 10.0) >= 0.5);
    assert_eq!(listener.count(|s| &s.reopens), 1);
    assert!(listener.last_lost > 48 * 1_400, "{} lost", listener.last_lost);
}

#[test]
#[ignore = "needs a process of its own"]
fn a_microphone_that_is_not_there_at_start_is_waited_for() {
    write_counting_sound();
    fault("busy", true);
    let mut listener = Listener::new("voicehat", Channel::LEFT);
    assert_eq!(listener.listen(1.0, 0.5), 0.0);
    assert_eq!(listener.stats.last_error().and_then(|e| e.raw_os_error()), Some(libc::EBUSY));
    assert_eq!(listener.stats.status(), CaptureStatus::Recovering);
    fault("unplug", true);
    fault("busy", false);
    assert_eq!(listener.listen(1.0, 0.5), 0.0);
    fault("unplug", false);
    assert!(listener.listen(0.3, 10.0) >= 0.3);
    assert_eq!(listener.count(|s| &s.reopens), 0);
    assert_eq!(listener.last_lost, 0, "what was before the first sound is not lost");

    let mut unknown = Listener::new("nosuchdevice", Channel::Mean);
    assert_eq!(unknown.listen(1.0, 0.5), 0.0);
    assert!(unknown.stats.last_error().is_some());
}

#[test]
#[ignore = "needs a process of its own"]
fn a_suspended_microphone_comes_back() {
    write_counting_sound();
    let mut listener = Listener::new("voicehat", Channel::LEFT);
    listener.listen(0.3, 10.0);
    fault("suspend", true);
    assert!(listener.listen(1.0, 0.7) < 0.1);
    assert_eq!(listener.count(|s| &s.suspends), 1, "counted once however long it lasts");
    fault("suspend", false);
    assert!(listener.listen(0.5, 10.0) >= 0.5);
    assert!(listener.last_lost > 48 * 600, "{} lost", listener.last_lost);
}

#[test]
#[ignore = "needs a process of its own"]
fn a_frozen_microphone_yields_nothing_and_no_error() {
    write_counting_sound();
    let mut listener = Listener::new("voicehat", Channel::LEFT);
    listener.listen(0.3, 10.0);
    fault("freeze", true);
    assert!(listener.listen(1.0, 1.0) < 0.1);
    fault("freeze", false);
    assert!(listener.listen(0.5, 10.0) >= 0.5);
    // A card whose clock stood still has missed nothing.
    assert_eq!((listener.last_lost, listener.count(|s| &s.xruns)), (0, 0));
}

#[test]
#[ignore = "needs a process of its own"]
fn what_a_device_cannot_do_is_a_configuration_error() {
    for (device, channel, says) in [
        ("voicehat", Channel::Nth(2), "no channel 3"),
        ("float", Channel::RIGHT, "no channel 2"),
        ("bytes", Channel::Mean, "no sample format"),
        ("fast", Channel::Mean, "no sample rate between"),
    ] {
        let mut listener = Listener::new(device, channel);
        let error = listener.source.read(&mut listener.period).expect_err(device);
        assert_eq!(error.exit(), Exit::Config);
        assert!(error.to_string().contains(says), "{error}");
    }
    let settings = Audio { device: "a\0b".into(), ..Audio::default() };
    let error = AlsaSource::new(settings, Arc::default()).expect_err("NUL in a name");
    assert_eq!(error.exit(), Exit::Config);
}

/// One sound, heard to its end.
fn play(device: &str, samples: &[f32], rate_hz: u32, cut: &CancellationToken) -> Result<(), PlaybackError> {
    let mut player = Player::new(device);
    player.play(samples, rate_hz, cut)?;
    player.finish(cut);
    Ok(())
}

#[test]
#[ignore = "needs a process of its own"]
fn playback_is_heard_bit_for_bit_and_resampled_where_needed() {
    let counting: Vec<f32> = (0..16_000_i16).map(|n| f32::from(n) / 32_768.0).collect();
    let began = Instant::now();
    play("spk", &counting, 16_000, &CancellationToken::new()).expect("play");
    let took = began.elapsed().as_secs_f64();
    assert!((0.95..5.0).contains(&took), "a second of sound took {took} s");
    let expected: Vec<u8> = (0..16_000_i16).flat_map(i16::to_le_bytes).collect();
    let heard = played();
    assert_eq!(heard[..expected.len()], expected);
    assert!(heard[expected.len()..].iter().all(|b| *b == 0), "silence at the end");

    // Sound much shorter than the buffer is heard too.
    play("spk", &counting[..50], 16_000, &CancellationToken::new()).expect("play");
    assert_eq!(played()[..100], expected[..100]);

    // 22.05 kHz speech on a 44.1 kHz stereo device: twice the samples, the same on both sides, the same
    // pitch.
    let tone: Vec<f32> =
        (0..22_050).map(|n| 0.5 * (std::f32::consts::TAU * 441.0 * n as f32 / 22_050.0).sin()).collect();
    play("spk44", &tone, 22_050, &CancellationToken::new()).expect("play");
    let heard: Vec<i16> = played().chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect();
    assert!(heard.len() >= 2 * 44_100);
    assert!(heard.chunks_exact(2).all(|frame| frame[0] == frame[1]));
    let middle: Vec<f64> =
        heard[20_000..60_000].iter().step_by(2).map(|s| f64::from(*s) / 32_768.0).collect();
    let amplitude = middle.iter().map(|s| s * s).sum::<f64>() / middle.len() as f64;
    assert!((amplitude.sqrt() - 0.5 / 2_f64.sqrt()).abs() < 0.001, "{amplitude}");
    let crossings = middle.windows(2).filter(|w| w[0] < 0.0 && w[1] >= 0.0).count();
    assert!((199..=201).contains(&crossings), "{crossings} periods in 20,000 samples of 441 Hz at 44.1 kHz");

    play("spkfloat", &[0.25; 4_800], 48_000, &CancellationToken::new()).expect("play");
    assert_eq!(played()[..4], 0.25_f32.to_le_bytes());
}

#[test]
#[ignore = "needs a process of its own"]
fn playback_stops_and_reports_what_is_missing() {
    let stop = CancellationToken::new();
    let canceller = stop.clone();
    #[expect(clippy::disallowed_methods, reason = "the test stands in for the supervisor")]
    let timer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        canceller.cancel();
    });
    let began = Instant::now();
    play("spk", &vec![0.1; 16_000 * 10], 16_000, &stop).expect("a stop is no error");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    timer.join().expect("thread");

    let stop = CancellationToken::new();
    fault("busy", true);
    let busy = play("spk", &[0.1; 160], 16_000, &stop).expect_err("busy");
    assert!(matches!(busy, PlaybackError::Busy { .. }), "{busy}");
    fault("busy", false);
    fault("unplug", true);
    for device in ["spk", "nosuchdevice"] {
        let missing = play(device, &[0.1; 160], 16_000, &stop).expect_err("missing");
        assert!(missing.is_no_device(), "{missing}");
    }
    fault("unplug", false);
    play("spk", &[], 16_000, &stop).expect("nothing to play is no error");
}

/// Runs `talk` beside the thread of a loudspeaker.
fn beside_a_loudspeaker<T>(talk: impl AsyncFnOnce(&loudspeaker::Loudspeaker) -> T) -> T {
    let (handle, thread) = loudspeaker::channel("spk");
    #[expect(clippy::disallowed_methods, reason = "the test stands in for the supervisor")]
    let thread = std::thread::spawn(move || loudspeaker::run(thread));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let done = runtime.block_on(talk(&handle));
    drop(handle);
    thread.join().expect("the thread ends with the last handle");
    done
}

fn sound(value: i16, samples: usize) -> Sound {
    Sound { samples: vec![f32::from(value) / 32_768.0; samples], rate_hz: 16_000 }
}

fn samples_of(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect()
}

#[test]
#[ignore = "needs a process of its own"]
fn the_device_stays_open_over_the_sounds_of_an_answer_and_is_free_after_it() {
    beside_a_loudspeaker(async |speaker| {
        let playing = speaker.begin(&CancellationToken::new()).expect("it does not hang");
        assert!(playing.play(sound(1, 8_000)).await);
        // The first sound ends long before the second comes: an underrun, and no error.
        while played_so_far() < 16_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
        // Any further attempt to open the device is refused: it is already open.
        fault("busy", true);
        assert!(playing.play(sound(2, 3_000)).await && playing.play(sound(3, 3_000)).await);
        playing.finish().await.expect("heard");
        let next = speaker.begin(&CancellationToken::new()).expect("it does not hang");
        next.play(sound(4, 1_000)).await;
        let busy = next.finish().await.expect_err("it was closed, and is opened anew");
        assert!(matches!(busy, PlaybackError::Busy { .. }), "{busy}");
        fault("busy", false);
    });
    let mut heard = samples_of(&played());
    heard.retain(|sample| *sample != 0);
    let expected: Vec<i16> = [(1, 8_000), (2, 3_000), (3, 3_000)].map(|(n, long)| vec![n; long]).concat();
    assert!(heard == expected, "{} samples", heard.len());
}

#[test]
#[ignore = "needs a process of its own"]
fn an_answer_that_is_cut_is_silent_at_once_and_the_next_one_is_heard() {
    beside_a_loudspeaker(async |speaker| {
        let cut = CancellationToken::new();
        let playing = speaker.begin(&cut).expect("it does not hang");
        for _ in 0..3 {
            assert!(playing.play(sound(1, 16_000 * 5)).await);
        }
        while played_so_far() < 8_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cut.cancel();
        playing.finish().await.expect("a cut is no error");
        let heard = samples_of(&played()).len();
        assert!(heard < 16_000, "{heard} samples of a sound of 5 s were played before and after the cut");
        // A dropped playback is cut as well, and leaves nothing behind.
        let dropped = speaker.begin(&CancellationToken::new()).expect("it does not hang");
        assert!(dropped.play(sound(2, 16_000 * 5)).await);
        drop(dropped);
        let next = speaker.begin(&CancellationToken::new()).expect("it waits its turn");
        assert!(next.play(sound(3, 2_000)).await);
        next.finish().await.expect("heard");
    });
    let heard = samples_of(&played());
    assert_eq!(heard.iter().filter(|sample| **sample == 3).count(), 2_000);
    assert!(heard.iter().filter(|sample| **sample == 2).count() < 16_000);
}

/// Bytes that the loudspeaker has played and nobody has taken yet.
fn played_so_far() -> usize {
    let path = Card::of_this_process().dir().join("out.raw");
    std::fs::metadata(path).map_or(0, |file| usize::try_from(file.len()).expect("a short sound"))
}
