//! `jarvisd check-config`: every fault at once, or the settings in force.

use serde::Serialize;

use super::{Common, config_failure, output};
use crate::app::{self, Settings};
use crate::config::{Effective, Fault};
use crate::error::Failure;

/// Reads the configuration as the daemon would and reports every fault at once; exit code 78 if there is any.
///
/// It looks at the targets of keys too (password, certificates, models, programs), so run it as the user that
/// the daemon runs as.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jarvisd check-config
  jarvisd check-config --config new.toml      try a file before it is installed
  jarvisd check-config --print                every key in force and where it was set; secrets show as ***")]
pub struct Args {
    /// Print the settings in force, each with the place that set it.
    #[arg(long)]
    print: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    files: Vec<String>,
    faults: &'a [Fault],
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<Vec<Setting<'a>>>,
}

#[derive(Serialize)]
struct Setting<'a> {
    key: &'a str,
    /// As TOML, secrets masked; null if not set.
    value: Option<&'a str>,
    place: String,
}

pub fn run(args: &Args, common: &Common) -> Result<(), Failure> {
    let (settings, faults) = match app::load(&common.options()) {
        Ok(mut settings) => {
            let mut faults = settings.faults_of_files();
            faults.extend(settings.fault_of_models());
            let odd = settings.warnings_of_files();
            settings.warnings.extend(odd);
            (Some(settings), faults)
        }
        Err(faults) => (None, faults),
    };
    if args.json {
        output::json(&report(settings.as_ref(), &faults, args.print))?;
    }
    if !faults.is_empty() {
        return Err(config_failure(&faults));
    }
    match &settings {
        Some(settings) if !args.json => text(settings, args.print),
        _ => Ok(()),
    }
}

fn report<'a>(settings: Option<&'a Settings>, faults: &'a [Fault], print: bool) -> Report<'a> {
    let setting = |entry: &'a Effective| Setting {
        key: &entry.key,
        value: entry.value.as_deref(),
        place: entry.origin.to_string(),
    };
    Report {
        ok: faults.is_empty(),
        files: settings.map_or_else(Vec::new, |s| s.files.iter().map(|f| f.display().to_string()).collect()),
        faults,
        warnings: settings.map_or(&[], |s| s.warnings.as_slice()),
        settings: settings.filter(|_| print).map(|s| s.effective.iter().map(setting).collect()),
    }
}

fn text(settings: &Settings, print: bool) -> Result<(), Failure> {
    if print {
        output::line(settings.print().trim_end())?;
    } else {
        let files: Vec<String> = settings.files.iter().map(|file| file.display().to_string()).collect();
        let found = if files.is_empty() {
            "there is no file, so every key has its default.".to_owned()
        } else {
            files.join(", ")
        };
        output::line(format!("The configuration is right: {found}"))?;
    }
    let mark = if print { "# warning" } else { "warning" };
    settings.warnings.iter().try_for_each(|warning| output::line(format!("{mark}: {warning}")))
}
