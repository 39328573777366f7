//! Answers each line, a number of samples, with the CPU milliseconds of filter bank and embedding for so much
//! speech: `scripts/lab/speaker-speed.py` takes turns with onnxruntime, as a ratio means something only under
//! the same load. `jarvisd bench models` shows the times of this machine.
//!
//! `cargo run --release --example speaker_speed -- MODELS_DIR`

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use jarvisd::inference::ModelStore;
use jarvisd::speaker::SpeakerModel;
use jarvisd::speed::{cost, quiet_room};

fn main() -> Result<(), Box<dyn Error>> {
    let models = PathBuf::from(std::env::args().nth(1).ok_or("usage: speaker_speed MODELS_DIR")?);
    let model = SpeakerModel::load(&ModelStore::open(&[models])?)?;
    let sound = quiet_room();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let speech = sound.get(..line?.trim().parse()?).ok_or("at most 9 s")?;
        let (embedded, took) = cost::once(|| model.embed(speech));
        embedded?;
        writeln!(out, "{}", took.cpu_ms)?;
    }
    Ok(())
}
