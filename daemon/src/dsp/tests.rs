use std::time::Instant;

use super::*;
use rubato::WindowFunction;

fn tone(hz: f64, rate_hz: u32, seconds: f64) -> Vec<f32> {
    let n = (f64::from(rate_hz) * seconds) as usize;
    (0..n)
        .map(|i| (0.5 * (std::f64::consts::TAU * hz * i as f64 / f64::from(rate_hz)).sin()) as f32)
        .collect()
}

fn db(a: f64) -> f64 {
    20.0 * a.max(1e-12).log10()
}

fn rms(x: &[f32]) -> f64 {
    (x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
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
            let reference = tone(7000.0, 48_000, 1.0);
            let (mut s, mut c) = (0.0_f64, 0.0_f64);
            for (i, v) in mid.iter().enumerate() {
                let w = std::f64::consts::TAU * 9000.0 * i as f64 / 48_000.0;
                s += f64::from(*v) * w.sin();
                c += f64::from(*v) * w.cos();
            }
            line += &format!(" image {:.1}", db((s * s + c * c).sqrt() * 2.0 / mid.len() as f64 / 0.5));
            drop(reference);
            let t = Instant::now();
            let noise = vec![0.01_f32; 48_000 * 20];
            run(&noise, 48_000, 16_000, block);
            line += &format!(" cost down {:.3} ms/s", t.elapsed().as_secs_f64() * 1e3 / 20.0);
            let t = Instant::now();
            run(&noise[..16_000 * 20], 16_000, 48_000, 3 * block);
            line += &format!(" up {:.3} ms/s", t.elapsed().as_secs_f64() * 1e3 / 20.0);
            println!("{line}");
        }
    }
}

#[test]
#[ignore = "prints what a second of sound costs"]
fn measure_cost() {
    let mut seed = 1_u32;
    let mut noise = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / 8_388_608.0 - 1.0
    };
    for (name, gain) in [("digital silence", 0.0), ("room noise -60 dB", 0.001), ("loud noise", 0.3)] {
        let mut denoiser = Denoiser::default();
        let mut frame = [0.0; DENOISE_FRAME];
        let t = Instant::now();
        for _ in 0..2000 {
            for v in &mut frame {
                *v = noise() * gain;
            }
            denoiser.push(&frame);
        }
        println!("{name}: RNNoise {:.2} ms per second", t.elapsed().as_secs_f64() * 1e3 / 20.0);
        for rate in [16_000, 44_100, 48_000] {
            let mut front = FrontEnd::new();
            let mut period = Period { rate_hz: rate, len: rate as usize / 50, ..Period::default() };
            let t = Instant::now();
            let mut n = 0;
            for _ in 0..1000 {
                for v in &mut period.samples[..rate as usize / 50] {
                    *v = noise() * gain;
                }
                front.push(&period, &mut |_| n += 1).unwrap();
            }
            println!(
                "{name}: whole front end at {rate} Hz {:.2} ms per second ({n} frames)",
                t.elapsed().as_secs_f64() * 1e3 / 20.0
            );
        }
    }
}
