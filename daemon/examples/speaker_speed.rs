//! What a speaker check costs: CPU milliseconds of filter bank + embedding per length of speech, memory of the plans.
//!
//! `cargo run --release --no-default-features --example speaker_speed -- MODELS_DIR [PLAN_FRAMES…]`, where plan lengths other than
//! the shipped ones are for measurements only. Compare with onnxruntime on the same
//! machine by `scripts/speaker-speed.py`, in turns: a ratio means something only under the same load.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use jarvisd::inference::ModelStore;
use jarvisd::speaker::SpeakerModel;
use jarvisd::speaker::embedding::Padding;

fn main() -> Result<(), Box<dyn Error>> {
    let models =
        PathBuf::from(std::env::args().nth(1).ok_or("usage: speaker_speed MODELS_DIR [PLAN_FRAMES…]")?);
    let store = ModelStore::open(&[models])?;
    let before_mb = resident_mb()?;
    let started = std::time::Instant::now();
    let frames = std::env::args().skip(2).map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
    let model = match frames.as_slice() {
        [] => SpeakerModel::load(&store)?,
        frames => SpeakerModel::load_with(&store, frames, Padding::Mean)?,
    };
    let loaded = started.elapsed();
    let mut out = std::io::stdout().lock();
    writeln!(out, "load {} ms, {:.0} MB", loaded.as_millis(), resident_mb()? - before_mb)?;
    let mut state = 1u32;
    let sound: Vec<f32> = (0..80_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65_536.0 - 0.5
        })
        .collect();
    for (label, samples) in [("1.0 s", 16_000), ("2.0 s", 32_000), ("3.0 s", 48_000), ("5.0 s", 80_000)] {
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..15 {
            let before = cpu_ms();
            model.embed(sound.get(..samples).unwrap_or(&sound))?;
            times.push(cpu_ms() - before);
        }
        times.sort_by(f64::total_cmp);
        writeln!(
            out,
            "{label}: {:.1} ms (least {:.1})",
            times.get(7).unwrap_or(&0.0),
            times.first().unwrap_or(&0.0)
        )?;
    }
    writeln!(out, "resident in all {:.0} MB", resident_mb()?)?;
    Ok(())
}

fn cpu_ms() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 / 1e6
}

fn resident_mb() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse::<f64>()? / 1024.0)
}
