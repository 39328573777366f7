//! `jarvisd doctor`: each thing the device needs, whether it works, and the remedy if not.

mod backups;
mod checks;
mod postgres;
mod voices;

use serde::Serialize;

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
  sudo -u jarvis jarvisd doctor --json")]
pub struct Args {
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
    found(checks::microphone(&settings))?;
    found(checks::loudspeaker(&settings))?;
    found(block_on(async { Ok(checks::voice_output(&settings).await) })?)?;
    found(block_on(async { Ok(checks::database(&settings).await) })?)?;
    for finding in block_on(async { Ok(voices::voices(&settings).await) })? {
        found(finding)?;
    }
    for finding in block_on(async { Ok(postgres::postgres(&settings).await) })? {
        found(finding)?;
    }
    found(checks::disk(&settings))?;
    for finding in checks::broker(&settings) {
        found(finding)?;
    }
    for finding in backups::backups(&settings.backups()) {
        found(finding)?;
    }
    found(checks::clock())?;
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
