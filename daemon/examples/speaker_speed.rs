//! Costs of a speaker check: CPU milliseconds of filter bank + embedding per length of speech, time and
//! memory of loading.
//!
//! `cargo run --release --example speaker_speed -- MODELS_DIR`. With `--serve` it answers each line, a number
//! of samples, with the milliseconds: `scripts/lab/speaker-speed.py` takes turns with onnxruntime, as a ratio
//! means something only under the same load.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use jarvisd::inference::ModelStore;
use jarvisd::speaker::SpeakerModel;

fn main() -> Result<(), Box<dyn Error>> {
    let models = PathBuf::from(std::env::args().nth(1).ok_or("usage: speaker_speed MODELS_DIR [--serve]")?);
    let store = ModelStore::open(&[models])?;
    let before_mb = memory_mb("VmRSS:")?;
    let (started, before_ms) = (std::time::Instant::now(), cpu_ms());
    let model = SpeakerModel::load(&store)?;
    let (wall, cpu) = (started.elapsed().as_millis(), cpu_ms() - before_ms);
    let mut out = std::io::stdout().lock();
    let mut state = 1u32;
    let sound: Vec<f32> = (0..80_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from(u16::try_from(state >> 16).unwrap_or(0)) / 65_536.0 - 0.5
        })
        .collect();
    let cost = |samples: usize| -> Result<f64, Box<dyn Error>> {
        let before = cpu_ms();
        model.embed(sound.get(..samples).ok_or("at most 5 s")?)?;
        Ok(cpu_ms() - before)
    };
    if std::env::args().nth(2).as_deref() == Some("--serve") {
        for line in std::io::stdin().lock().lines() {
            writeln!(out, "{}", cost(line?.trim().parse()?)?)?;
        }
        return Ok(());
    }
    writeln!(out, "load: {cpu:.0} CPU ms, {wall} ms, {:.0} MB", memory_mb("VmRSS:")? - before_mb)?;
    for (label, samples) in [("1.0 s", 16_000), ("2.0 s", 32_000), ("3.0 s", 48_000), ("5.0 s", 80_000)] {
        let mut times = (0..15).map(|_| cost(samples)).collect::<Result<Vec<_>, _>>()?;
        times.sort_by(f64::total_cmp);
        let (median, least) = (times.get(7).unwrap_or(&0.0), times.first().unwrap_or(&0.0));
        writeln!(out, "{label}: {median:.1} ms (least {least:.1})")?;
    }
    writeln!(out, "resident {:.0} MB, at most {:.0} MB", memory_mb("VmRSS:")?, memory_mb("VmHWM:")?)?;
    Ok(())
}

fn cpu_ms() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e3 + t.tv_nsec as f64 / 1e6
}

fn memory_mb(key: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with(key)).ok_or("no such line")?;
    Ok(line.split_whitespace().nth(1).ok_or("no such line")?.parse::<f64>()? / 1024.0)
}
