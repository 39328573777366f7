use super::*;
use crate::audio::{Channel, Read, Source, file::FileSource, file::read_all};
use crate::testdata;

/// Delay between a frame's end and its output when the source has 48 kHz: 10 ms in RNNoise, as in the filter
/// to 16 kHz beside it (5 ms, rounded up to whole frames).
const LOOK_AHEAD_48K_MS: u32 = 10;
/// The same at the other usual rates (8, 16, 32, 44.1, 96 kHz …): 5 ms more in the filter to 48 kHz.
const LOOK_AHEAD_MS: u32 = 20;
/// The same at any rate from 8 kHz: the blocks of unusual rates (11.025, 22.05 kHz) and the interpolator for
/// odd ones are longer.
const LOOK_AHEAD_MAX_MS: u32 = 50;

fn tone(hz: f64, rate_hz: u32, seconds: f64) -> Vec<f32> {
    let n = (f64::from(rate_hz) * seconds) as usize;
    (0..n)
        .map(|i| (0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate_hz)).sin()) as f32)
        .collect()
}

/// A burst of 1 kHz under a Gaussian bell of 2 ms, centred at `at_s`: band-limited, so its place is exact at
/// any rate.
fn burst(at_s: f64, rate_hz: u32, seconds: f64) -> Vec<f32> {
    let n = (f64::from(rate_hz) * seconds) as usize;
    (0..n)
        .map(|i| {
            let t = i as f64 / f64::from(rate_hz) - at_s;
            (0.5 * (-(t / 0.002).powi(2)).exp() * (std::f64::consts::TAU * 1_000.0 * t).cos()) as f32
        })
        .collect()
}

fn db(a: f64) -> f64 {
    20.0 * a.max(1e-12).log10()
}

fn rms(x: &[f32]) -> f64 {
    (x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

/// The lag of `b` behind `a` in samples, to a fraction, by the peak of the cross-correlation within `reach`.
fn lag(a: &[f32], b: &[f32], reach: i64) -> f64 {
    let correlation = |lag: i64| -> f64 {
        let n = a.len().min(b.len()) as i64;
        (reach..n - reach).map(|i| f64::from(a[i as usize]) * f64::from(b[(i + lag) as usize])).sum()
    };
    let values: Vec<f64> = (-reach..=reach).map(correlation).collect();
    let peak = (1..values.len() - 1).max_by(|x, y| values[*x].total_cmp(&values[*y])).unwrap();
    let (left, top, right) = (values[peak - 1], values[peak], values[peak + 1]);
    peak as f64 - reach as f64 + 0.5 * (left - right) / (left - 2.0 * top + right)
}

fn periods(sound: &[f32], rate_hz: u32) -> Vec<Period> {
    sound
        .chunks(((rate_hz / 50) as usize).min(crate::audio::MAX_PERIOD_SAMPLES))
        .map(|chunk| {
            let mut period = Period { rate_hz, len: chunk.len(), ..Period::default() };
            period.samples[..chunk.len()].copy_from_slice(chunk);
            period
        })
        .collect()
}

fn run(periods: &[Period]) -> Vec<Frame> {
    let mut front = FrontEnd::new();
    let mut frames = Vec::new();
    for period in periods {
        front.push(period, &mut |frame| frames.push(frame.clone())).unwrap();
    }
    front.flush(&mut |frame| frames.push(frame.clone())).unwrap();
    frames
}

fn raw(frames: &[Frame]) -> Vec<f32> {
    frames.iter().flat_map(|f| f.raw).collect()
}

/// Rates of real devices and recordings, and three that exercise the interpolator.
const RATES: [u32; 13] =
    [4_000, 8_000, 11_025, 12_345, 16_000, 22_050, 32_000, 44_099, 44_100, 47_999, 48_000, 96_000, 384_000];

#[test]
fn sound_stands_at_its_true_time_at_every_rate() {
    let expected = burst(0.5037, SAMPLE_RATE_HZ, 1.0);
    for rate_hz in RATES {
        let frames = run(&periods(&burst(0.5037, rate_hz, 1.0), rate_hz));
        assert_eq!(frames.len(), 100, "{rate_hz} Hz");
        let off = lag(&expected, &raw(&frames), 100);
        // An FFT block with an odd number of samples is centred between two of them, and rubato gives the
        // delay of its interpolator in whole samples of 48 kHz.
        let half_a_source_sample = 0.55 * 16_000.0 / f64::from(rate_hz);
        assert!(
            off.abs() < half_a_source_sample.max(0.35),
            "raw sound of {rate_hz} Hz is off by {off} samples"
        );
        let worst = expected.iter().zip(raw(&frames)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{rate_hz} Hz: off by {off:.3} samples, worst difference {worst:.5}");
    }
}

#[test]
fn the_speech_probability_stands_at_its_true_time_at_every_rate() {
    let Some(path) = testdata::shared("audio/deepfilternet/clean_freesound_33711.flac") else { return };
    let (speech, rate_hz) = read_all(&path, Channel::Mean, 60).unwrap();
    let heard_at = |to_hz| {
        let sound = crate::audio::resample::resample_all(&speech, rate_hz, to_hz).unwrap();
        run(&periods(&sound, to_hz))
    };
    let reference = heard_at(48_000);
    // At 48 kHz each frame has the probability that RNNoise alone has for it.
    let mut rnnoise = Denoiser::default();
    let wide = crate::audio::resample::resample_all(&speech, rate_hz, 48_000).unwrap();
    let alone: Vec<f32> =
        wide.as_chunks::<DENOISE_FRAME>().0.iter().filter_map(|frame| rnnoise.push(frame)).collect();
    assert!(reference.iter().zip(&alone).all(|(frame, alone)| frame.speech_probability == *alone));
    let around_mean = |frames: &[Frame]| -> Vec<f32> {
        let mean = frames.iter().map(|f| f.speech_probability).sum::<f32>() / frames.len() as f32;
        frames.iter().map(|f| f.speech_probability - mean).collect()
    };
    for to_hz in [8_000, 16_000, 44_100, 96_000] {
        let off = lag(&around_mean(&reference), &around_mean(&heard_at(to_hz)), 40);
        println!("{to_hz} Hz: speech probability off by {off:.3} frames");
        assert!(off.abs() < 0.5, "speech probability of {to_hz} Hz is off by {off} frames");
    }
}

#[test]
fn sixteen_kilohertz_passes_untouched() {
    let sound = tone(7_900.0, 16_000, 0.5);
    assert_eq!(raw(&run(&periods(&sound, 16_000))), sound);
}

#[test]
fn the_tail_of_a_recording_is_not_lost() {
    for rate_hz in RATES {
        for n in
            [1, 50, (rate_hz / 100) as usize, (rate_hz / 100) as usize + 1, (rate_hz as usize) * 3 / 10 - 7]
        {
            let frames = run(&periods(&vec![0.25; n], rate_hz));
            assert_eq!(frames.len(), (n * 100).div_ceil(rate_hz as usize), "{n} samples at {rate_hz} Hz");
            assert!(frames.iter().enumerate().all(|(i, f)| f.pos.0 == i as u64 && !f.discontinuity));
        }
        let n = (rate_hz as usize) * 3 / 10;
        let mut sound = vec![0.0; n];
        sound[n - (rate_hz / 200) as usize..]
            .copy_from_slice(&tone(500.0, rate_hz, 0.005)[..(rate_hz / 200) as usize]);
        let frames = run(&periods(&sound, rate_hz));
        let tail = raw(&frames);
        assert!(rms(&tail[tail.len() - 80..]) > 0.3, "the last 5 ms at {rate_hz} Hz");
    }
}

#[test]
fn lost_sound_moves_the_clock_and_marks_the_next_frame() {
    for (rate_hz, lost) in
        [(16_000, 1), (16_000, 16_000), (44_100, 12_345), (48_000, 480), (48_000, 4_800_001)]
    {
        // A burst half a second into each stretch.
        let stretch = burst(0.5, rate_hz, 1.0);
        let mut all = periods(&stretch, rate_hz);
        let mut second = periods(&stretch, rate_hz);
        second[0].lost = lost;
        all.extend(second);
        let frames = run(&all);
        let marked: Vec<usize> =
            frames.iter().enumerate().filter(|(_, f)| f.discontinuity).map(|(i, _)| i).collect();
        assert_eq!(marked, [100], "{lost} lost at {rate_hz} Hz");
        assert!(frames.windows(2).all(|w| w[1].pos > w[0].pos));
        assert_eq!(frames[99].pos, FramePos(99));
        let gap_s = f64::from(lost) / f64::from(rate_hz);
        let expected = 100 + (gap_s * 100.0).ceil() as u64;
        assert_eq!(frames[100].pos, FramePos(expected));
        // The burst after the gap stands where it was in the room.
        let after = raw(&frames[100..]);
        let begins_s = expected as f64 / 100.0;
        let where_it_should_be = burst(1.5 + gap_s - begins_s, SAMPLE_RATE_HZ, 1.0);
        let off = lag(&where_it_should_be[..after.len().min(16_000)], &after, 50);
        assert!(off.abs() < 1.0, "{lost} lost at {rate_hz} Hz: off by {off} samples");
    }
}

#[test]
fn many_small_losses_do_not_add_up() {
    let mut all = Vec::new();
    for _ in 0..500 {
        let mut period = Period { rate_hz: 44_100, len: 882, ..Period::default() };
        period.lost = 37;
        period.samples[..882].fill(0.1);
        all.push(period);
    }
    let frames = run(&all);
    let true_end = 500 * (882 + 37) * 100_u64 / 44_100;
    let end = frames.last().unwrap().pos.0;
    assert!(end.abs_diff(true_end) <= 1, "{end} {true_end}");
    assert!(frames.windows(2).all(|w| w[1].pos > w[0].pos));
}

#[test]
fn a_device_that_comes_back_at_another_rate_is_heard_on() {
    let mut all = periods(&burst(0.5, 48_000, 1.0), 48_000);
    let mut second = periods(&burst(0.5, 16_000, 1.0), 16_000);
    second[0].lost = 8_000;
    all.extend(second);
    let frames = run(&all);
    assert_eq!(frames.len(), 200);
    assert_eq!(frames[100].pos, FramePos(150));
    assert!(frames[100].discontinuity);
}

#[test]
fn empty_periods_carry_losses_and_nothing_else() {
    let mut front = FrontEnd::new();
    let mut frames = Vec::new();
    front.push(&Period::default(), &mut |f| frames.push(f.clone())).unwrap();
    front
        .push(&Period { rate_hz: 16_000, lost: 16_000, ..Period::default() }, &mut |f| frames.push(f.clone()))
        .unwrap();
    for period in periods(&tone(300.0, 16_000, 0.2), 16_000) {
        front.push(&period, &mut |f| frames.push(f.clone())).unwrap();
    }
    front.flush(&mut |f| frames.push(f.clone())).unwrap();
    front.flush(&mut |f| frames.push(f.clone())).unwrap();
    assert_eq!(frames.len(), 20);
    assert_eq!(frames[0].pos, FramePos(100));
}

#[test]
fn a_frame_comes_out_no_later_than_promised() {
    for (rate_hz, promised_ms) in [
        (48_000, LOOK_AHEAD_48K_MS),
        (16_000, LOOK_AHEAD_MS),
        (44_100, LOOK_AHEAD_MS),
        (8_000, LOOK_AHEAD_MS),
        (22_050, LOOK_AHEAD_MAX_MS),
        (11_025, LOOK_AHEAD_MAX_MS),
        (12_345, LOOK_AHEAD_MAX_MS),
        (8_001, LOOK_AHEAD_MAX_MS),
    ] {
        let mut front = FrontEnd::new();
        let mut fed = 0_u64;
        let mut worst = 0.0_f64;
        for _ in 0..rate_hz * 2 {
            let mut period = Period { rate_hz, len: 1, ..Period::default() };
            period.samples[0] = 0.1;
            fed += 1;
            let now_ms = fed as f64 * 1e3 / f64::from(rate_hz);
            front.push(&period, &mut |f| worst = worst.max(now_ms - (f.pos.at_ms() + 10) as f64)).unwrap();
        }
        println!("{rate_hz} Hz: {worst:.1} ms after the end of the frame");
        assert!(worst <= f64::from(promised_ms) + 0.5, "{rate_hz} Hz: {worst} ms");
        assert!(
            promised_ms == LOOK_AHEAD_MAX_MS || worst > f64::from(promised_ms) - 1.0,
            "{rate_hz} Hz: {worst} ms"
        );
    }
}

#[test]
fn speech_is_more_probable_in_speech_than_in_noise() {
    let Some(folder) = testdata::shared("audio/deepfilternet") else { return };
    let hear = |name: &str| {
        let mut source = FileSource::open(&folder.join(name), Channel::Mean, false).unwrap();
        let mut front = FrontEnd::new();
        let mut frames = Vec::new();
        let mut period = Period::default();
        while source.read(&mut period).unwrap() == Read::Period {
            front.push(&period, &mut |f| frames.push(f.clone())).unwrap();
        }
        front.flush(&mut |f| frames.push(f.clone())).unwrap();
        frames
    };
    let (speech, noise) = (hear("clean_freesound_33711.flac"), hear("noise_freesound_573577.flac"));
    let mean =
        |frames: &[Frame]| frames.iter().map(|f| f.speech_probability).sum::<f32>() / frames.len() as f32;
    println!("speech probability {:.2} in speech, {:.2} in noise", mean(&speech), mean(&noise));
    assert!(mean(&speech) > mean(&noise) + 0.2);
}

#[test]
fn digital_silence_is_skipped_and_what_follows_is_heard_alike() {
    let mut plain = Denoiser::default();
    let mut skipping = Denoiser::default();
    let frame = |n: usize| -> [f32; DENOISE_FRAME] {
        let mut frame = [0.0; DENOISE_FRAME];
        if !(50..150).contains(&n) {
            let sound = tone(300.0, 48_000, 0.01);
            frame.copy_from_slice(&sound);
        }
        frame
    };
    for n in 0..250 {
        let mut barely = frame(n);
        if (50..150).contains(&n) {
            // Too quiet to matter, but not nothing: takes the long way.
            barely[0] = 1e-12;
        }
        if let (Some(a), Some(b)) = (plain.push(&barely), skipping.push(&frame(n))) {
            assert!((a - b).abs() < 2e-3, "frame {n}: {a} {b}");
        }
    }
}

#[test]
fn the_steps_keep_the_band_of_speech_and_nothing_above_it() {
    let go = |x: &[f32], from, to, block| {
        let mut out = Vec::new();
        Resampler::new(from, to, block, WINDOW).unwrap().push(x, &mut out).unwrap();
        out
    };
    let down = |hz: f64| {
        let x = tone(hz, 48_000, 1.0);
        let y = go(&x, 48_000, 16_000, DOWN_BLOCK);
        db(rms(&y[2_000..y.len() - 2_000]) / rms(&x))
    };
    for hz in [100.0, 1_000.0, 4_000.0, 7_000.0, 7_400.0] {
        assert!(down(hz).abs() < 0.1, "{hz} Hz: {} dB", down(hz));
    }
    for hz in [8_050.0, 8_200.0, 9_000.0, 12_000.0, 15_900.0, 20_000.0] {
        assert!(down(hz) < -70.0, "{hz} Hz: {} dB", down(hz));
    }
    let twice = |hz: f64| {
        let x = tone(hz, 16_000, 1.0);
        let y = go(&go(&x, 16_000, 48_000, UP_BLOCK), 48_000, 16_000, DOWN_BLOCK);
        db(rms(&y[2_000..y.len() - 2_000]) / rms(&x))
    };
    assert!(twice(7_000.0).abs() < 0.1 && twice(7_400.0).abs() < 0.1);
}

#[test]
fn a_recording_resampled_whole_keeps_its_length_and_time() {
    for (from, to) in
        [(22_050, 48_000), (48_000, 22_050), (16_000, 44_100), (44_100, 16_000), (12_345, 48_000)]
    {
        let sound = burst(0.25, from, 0.5);
        let out = crate::audio::resample::resample_all(&sound, from, to).unwrap();
        assert_eq!(out.len(), (sound.len() * to as usize).div_ceil(from as usize));
        let off = lag(&burst(0.25, to, 0.5), &out, 100);
        assert!(off.abs() < 0.6 * (f64::from(to) / f64::from(from)).max(1.0), "{from} to {to}: {off}");
    }
    assert!(crate::audio::resample::resample_all(&[], 8_000, 48_000).unwrap().is_empty());
    assert!(crate::audio::resample::resample_all(&[0.0], 0, 48_000).is_err());
}

#[test]
#[ignore = "prints the table from which the filters were chosen"]
fn measure_filters() {
    for window in [
        WindowFunction::Hann2,
        WindowFunction::Blackman,
        WindowFunction::Blackman2,
        WindowFunction::BlackmanHarris,
        WindowFunction::BlackmanHarris2,
    ] {
        for block in [160, 320, 480] {
            let run = |x: &[f32], from: u32, to: u32, block: usize| {
                let mut r = Resampler::new(from, to, block, window).unwrap();
                let mut out = Vec::new();
                r.push(x, &mut out).unwrap();
                out
            };
            let mut line = format!("{window:?} {block}: down");
            for hz in [
                6000.0, 7000.0, 7200.0, 7400.0, 7600.0, 7800.0, 8200.0, 8400.0, 8600.0, 9000.0, 10000.0,
                16000.0,
            ] {
                let x = tone(hz, 48_000, 1.0);
                let y = run(&x, 48_000, 16_000, block);
                let mid = &y[2000..y.len() - 2000];
                line += &format!(" {hz}:{:.1}", db(rms(mid) / rms(&x)));
            }
            line += " | up-down";
            for hz in [6000.0, 7000.0, 7400.0, 7600.0] {
                let x = tone(hz, 16_000, 1.0);
                let y = run(&run(&x, 16_000, 48_000, 3 * block), 48_000, 16_000, block);
                let mid = &y[2000..y.len() - 2000];
                line += &format!(" {hz}:{:.1}", db(rms(mid) / rms(&x)));
            }
            // images of the step up
            let x = tone(7000.0, 16_000, 1.0);
            let y = run(&x, 16_000, 48_000, 3 * block);
            let mid = &y[6000..y.len() - 6000];
            let (mut s, mut c) = (0.0_f64, 0.0_f64);
            for (i, v) in mid.iter().enumerate() {
                let w = std::f64::consts::TAU * 9000.0 * i as f64 / 48_000.0;
                s += f64::from(*v) * w.sin();
                c += f64::from(*v) * w.cos();
            }
            line += &format!(" image {:.1}", db((s * s + c * c).sqrt() * 2.0 / mid.len() as f64 / 0.5));
            let began = cpu_ms();
            let noise = vec![0.01_f32; 48_000 * 20];
            run(&noise, 48_000, 16_000, block);
            line += &format!(" cost down {:.3} ms/s", (cpu_ms() - began) / 20.0);
            let began = cpu_ms();
            run(&noise[..16_000 * 20], 16_000, 48_000, 3 * block);
            line += &format!(" up {:.3} ms/s", (cpu_ms() - began) / 20.0);
            println!("{line}");
        }
    }
}

/// CPU time of this thread in milliseconds: other programs on the machine do not count.
fn cpu_ms() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 / 1e6
}

#[test]
#[ignore = "prints what a second of sound costs"]
fn measure_cost() {
    const SECONDS: usize = 20;
    let mut seed = 1_u32;
    let noise: Vec<f32> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / 8_388_608.0 - 1.0
    })
    .take(48_000 * SECONDS)
    .collect();
    for (name, gain) in [("digital silence", 0.0), ("room noise at -60 dB", 0.001), ("loud noise", 0.3)] {
        let sound: Vec<f32> = noise.iter().map(|s| s * gain).collect();
        let mut denoiser = Denoiser::default();
        let began = cpu_ms();
        for frame in sound.as_chunks::<DENOISE_FRAME>().0 {
            denoiser.push(frame);
        }
        println!("{name}: RNNoise {:.2} ms a second", (cpu_ms() - began) / SECONDS as f64);
        for rate_hz in [16_000, 44_100, 48_000] {
            let periods = periods(&sound[..rate_hz as usize * SECONDS], rate_hz);
            let mut front = FrontEnd::new();
            let began = cpu_ms();
            for period in &periods {
                front.push(period, &mut |_| {}).unwrap();
            }
            println!(
                "{name}: whole front end at {rate_hz} Hz {:.2} ms a second",
                (cpu_ms() - began) / SECONDS as f64
            );
        }
    }
}
