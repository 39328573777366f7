//! `jarvisd bench models|turn`: how long this machine takes, as a table that can be sent in.

mod models;
mod turn;

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Common, block_on, output};
use crate::app::Settings;
use crate::audio::file::read_all;
use crate::audio::resample::resample_all;
use crate::board::{Board, Pace};
use crate::dialogue::speech::Speech;
use crate::error::{Exit, Failure};
use crate::plain::figure;
use crate::units::SAMPLE_RATE_HZ;

/// Longest recording that is taken: a command is a sentence or two.
const MAX_S: u32 = 30;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Time every installed model, one after the other, beside its budget.
    Models(models::Args),
    /// Time a spoken turn, stage by stage: listening, whose voice it is, words, answer, sound.
    Turn(turn::Args),
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    match command {
        Command::Models(args) => models::run(&settings, &args),
        Command::Turn(args) => turn::run(&settings, &args),
    }
}

/// A result with the machine that it is of.
#[derive(Debug, Serialize)]
struct Report<'a, T> {
    version: &'static str,
    /// Own code without optimisation, as developers build it: no measure of anything.
    development_build: bool,
    board: Board,
    before: Pace,
    after: Pace,
    sound: &'a str,
    #[serde(flatten)]
    result: T,
}

impl<'a, T: Serialize> Report<'a, T> {
    fn new(before: Pace, sound: &'a str, result: T) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            development_build: cfg!(debug_assertions),
            board: Board::of_this_machine(),
            before,
            after: Pace::of_this_machine(),
            sound,
            result,
        }
    }

    /// The lines above the tables.
    fn heading(&self) -> Vec<String> {
        let build = if self.development_build {
            "development build, whose own code is not optimised: its times say little"
        } else {
            "release build"
        };
        let memory = self.board.memory_mb.map_or_else(String::new, |mb| format!(", {mb} MB of memory"));
        let unknown = || "unknown".to_owned();
        vec![
            format!("program    jarvisd {}, {build}", self.version),
            format!("board      {}", self.board.model.clone().unwrap_or_else(unknown)),
            format!("processor  {}{memory}", self.board.processor.clone().unwrap_or_else(unknown)),
            format!("kernel     {}", self.board.kernel),
            format!("pace       {}", pace(&self.before, &self.after)),
            format!("throttled  {}", throttled(&self.after)),
            format!("sound      {}", self.sound),
        ]
    }
}

/// Governor, frequency and temperature, before and after.
fn pace(before: &Pace, after: &Pace) -> String {
    let change = |before: Option<String>, after: Option<String>| match (before, after) {
        (Some(before), Some(after)) if before != after => format!("{before} → {after}"),
        (_, after) => after.unwrap_or_else(|| "unknown".to_owned()),
    };
    let mhz = |pace: &Pace| pace.mhz.map(|mhz| format!("{mhz} MHz"));
    let celsius = |pace: &Pace| pace.celsius.map(|celsius| format!("{} °C", figure(celsius, 1)));
    let most = after.most_mhz.map_or_else(String::new, |most| format!(" (most: {most} MHz)"));
    format!(
        "governor {}, frequency {}{most}, temperature {}",
        after.governor.as_deref().unwrap_or("unknown"),
        change(mhz(before), mhz(after)),
        change(celsius(before), celsius(after)),
    )
}

/// The finding of the firmware after the work.
fn throttled(pace: &Pace) -> String {
    let Some(flags) = pace.throttled else { return "unknown: this machine does not tell".to_owned() };
    match (flags.now().as_slice(), flags.since_start().as_slice()) {
        ([], []) => "no".to_owned(),
        ([], before) => format!("not now; since the start of the board: {}", before.join(", ")),
        (now, _) => format!("yes, so these times are too long: {}", now.join(", ")),
    }
}

/// Sound to work on, and the words for it.
struct Sound {
    /// 16 kHz mono in [-1, 1].
    samples: Vec<f32>,
    words: String,
}

impl Sound {
    /// The recording, or `text` as the speech command of the device says it; `None` without either.
    fn of(settings: &Settings, recording: Option<&Path>, text: &str) -> Result<Option<Self>, Failure> {
        let (samples, rate_hz, from) = match recording {
            Some(path) => {
                let read = read_all(path, settings.audio.channel, MAX_S);
                let (samples, rate_hz) =
                    read.map_err(|e| Failure::because(e.exit(), "the recording cannot be used", e))?;
                (samples, rate_hz, "a recording")
            }
            None => {
                let speech = Speech::new(&settings.speech);
                if speech.silent().is_some() {
                    return Ok(None);
                }
                let rendered = block_on(async { Ok(speech.render(text).await) })?;
                let Ok(sound) = rendered else { return Ok(None) };
                (sound.samples, sound.rate_hz, "a sentence by the speech command")
            }
        };
        let samples = resample_all(&samples, rate_hz, SAMPLE_RATE_HZ)
            .map_err(|e| Failure::because(Exit::Failed, "the sound could not be resampled", e))?;
        let seconds = figure(samples.len() as f64 / f64::from(SAMPLE_RATE_HZ), 1);
        Ok(Some(Self { samples, words: format!("{from}, {seconds} s") }))
    }
}

/// A spinner on a terminal, which says what is being timed.
fn spinner() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

/// A table in Markdown, its columns aligned: it is read here and pasted into an issue.
fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
    let heading = heading.map(str::to_owned);
    let mut widths = heading.each_ref().map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        output::line(format!("| {} |", cells.join(" | ")))
    };
    show(&heading)?;
    output::line(format!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|")))?;
    rows.iter().try_for_each(show)
}

/// Milliseconds for a table: three digits that count.
fn ms(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    figure(value, digits).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Throttled;

    fn quiet() -> Pace {
        Pace { governor: None, mhz: None, most_mhz: None, celsius: None, throttled: None }
    }

    #[test]
    fn the_pace_shows_what_changed_and_what_is_unknown() {
        let before =
            Pace { governor: Some("ondemand".into()), mhz: Some(600), celsius: Some(48.6), ..quiet() };
        let after = Pace { mhz: Some(1800), most_mhz: Some(1800), celsius: Some(61.3), ..before.clone() };
        assert_eq!(
            pace(&before, &after),
            "governor ondemand, frequency 600 MHz → 1800 MHz (most: 1800 MHz), temperature 48.6 °C → 61.3 °C"
        );
        assert_eq!(pace(&after, &after).matches('→').count(), 0);
        assert_eq!(pace(&quiet(), &quiet()), "governor unknown, frequency unknown, temperature unknown");
    }

    #[test]
    fn throttling_now_and_throttling_before_are_told_apart() {
        let with = |flags| throttled(&Pace { throttled: Some(Throttled(flags)), ..quiet() });
        assert_eq!(with(0), "no");
        assert_eq!(with(0x5_0000).split(':').next(), Some("not now; since the start of the board"));
        assert!(with(0x5_0005).starts_with("yes"));
        assert!(throttled(&quiet()).starts_with("unknown"));
    }

    #[test]
    fn figures_have_three_digits_that_count() {
        assert_eq!([0.123, 4.567, 45.67, 456.7].map(ms), ["0.12", "4.57", "45.7", "457"]);
    }
}
