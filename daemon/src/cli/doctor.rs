//! `jarvisd doctor`: each thing the device needs, whether it works, and the remedy if not.

mod backups;
mod board;
mod card;
mod checks;
mod echo;
mod postgres;
mod sound;
mod speed;
mod storage;
mod voices;

use std::time::Duration;

use serde::Serialize;

use board::Files;

use super::{Common, block_on, config_failure, output};
use crate::app;
use crate::error::{Exit, Failure};

/// Checks everything the daemon needs, one line each: ok, a warning (the device works without it), or a
/// failure.
///
/// Nothing is changed; a small file is made in the folder of the backups and removed at once. Run it as the
/// user that the daemon runs as, and while the daemon is stopped if the microphone cannot be shared. Exit
/// code 0 unless something fails.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jarvisd doctor
  jarvisd doctor --full                  when sound or speed is in doubt
  sudo -u jarvis jarvisd doctor --json   names of checks and states stay as they are")]
pub struct Args {
    /// Look for longer: 10 s of the microphone, how fast each model runs, and a tone from the loudspeaker,
    /// which the microphone should hear. Takes about half a minute.
    #[arg(long)]
    full: bool,
    /// Seconds for which the microphone is heard (default: 2, with --full 10).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    /// Something is missing, and the device works without it.
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    /// The finding.
    message: String,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, state: State::Ok, message: message.into(), fix: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, state: State::Warn, message: message.into(), fix: Some(fix.into()) }
    }

    fn fail(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, state: State::Fail, message: message.into(), fix: Some(fix.into()) }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
}

pub fn run(args: &Args, common: &Common) -> Result<(), Failure> {
    let settings = match app::load(&common.options()) {
        Ok(settings) => settings,
        Err(faults) => {
            if args.json {
                let findings = faults.iter().map(checks::of_fault).collect();
                output::json(&Report { ok: false, findings })?;
            }
            return Err(config_failure(&faults));
        }
    };
    let mut findings = Vec::new();
    let mut found = |finding: Finding| {
        if !args.json {
            show(&finding)?;
        }
        findings.push(finding);
        Ok::<(), Failure>(())
    };
    for finding in checks::configuration(&settings) {
        found(finding)?;
    }
    for finding in checks::models(&settings) {
        found(finding)?;
    }
    found(checks::speech_to_text(&settings))?;
    let files = Files::here();
    if let Some(finding) = card::card(&files) {
        found(finding)?;
    }
    let seconds = args.seconds.unwrap_or(if args.full { 10 } else { 2 });
    found(sound::microphone(&settings, Duration::from_secs(seconds)))?;
    found(sound::loudspeaker(&settings))?;
    if args.full
        && let Some(finding) = echo::echo(&settings)
    {
        found(finding)?;
    }
    found(block_on(async { Ok(checks::voice_output(&settings).await) })?)?;
    found(block_on(async { Ok(checks::database(&settings).await) })?)?;
    for finding in block_on(async { Ok(voices::voices(&settings).await) })? {
        found(finding)?;
    }
    for finding in block_on(async { Ok(postgres::postgres(&settings).await) })? {
        found(finding)?;
    }
    found(checks::disk(&settings))?;
    if let Some(finding) = storage::storage(&files, &checks::existing_part(&settings.paths.db)) {
        found(finding)?;
    }
    for finding in checks::broker(&settings) {
        found(finding)?;
    }
    for finding in backups::backups(&settings.backups()) {
        found(finding)?;
    }
    found(checks::clock())?;
    for finding in board::board(&files) {
        found(finding)?;
    }
    if args.full {
        for finding in speed::speed(&settings) {
            found(finding)?;
        }
    }
    // Last, because it changes this process.
    found(checks::priority(&settings))?;

    let failed: Vec<&str> = findings.iter().filter(|f| f.state == State::Fail).map(|f| f.check).collect();
    let outcome = match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Failure::new(Exit::Failed, format!("these checks failed: {}", failed.join(", ")))),
    };
    if args.json {
        output::json(&Report { ok: outcome.is_ok(), findings })?;
    }
    outcome
}

fn show(finding: &Finding) -> Result<(), Failure> {
    let state = match finding.state {
        State::Ok => "ok  ",
        State::Warn => "warn",
        State::Fail => "FAIL",
    };
    output::line(format!("{state}  {:14} {}", finding.check, output::plain(&finding.message)))?;
    match &finding.fix {
        Some(fix) => output::line(format!("{:20} → {}", "", output::plain(fix))),
        None => Ok(()),
    }
}
