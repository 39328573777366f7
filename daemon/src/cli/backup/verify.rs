//! `jarvisd backup verify`: checks a backup, here or elsewhere.

use std::path::PathBuf;

use serde::Serialize;

use super::{Run, Shown, VERIFY_UNIT, keys, mind_newer, sentence, undelivered};
use crate::backup::verify::Verified;
use crate::backup::{self, Level, known, remote, verify, watch};
use crate::cli::output;
use crate::error::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the backup, from `backup list`, or "latest".
    name: String,
    /// How thoroughly.
    #[arg(long, default_value = "restore")]
    level: Level,
    /// Read the copy at `backup.remote` back instead, and compare it with its hashes.
    #[arg(long, conflicts_with_all = ["level", "identity"])]
    remote: bool,
    /// File with a secret key of age, for an encrypted backup.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    if args.remote {
        return verify_remote(run, args).await;
    }
    mind_newer(run, Some(&args.name));
    let mut backup = backup::find(run.lock.dir(), &args.name, run.clock)?;
    let keys = keys(run, args.identity.as_deref(), args.level > Level::Quick, &backup)?;
    let looked = verify::verify_and_note(run, &backup.path, args.level, &keys).await;
    // Nothing has changed where no result could be noted.
    if !looked.as_ref().is_ok_and(|looked| !looked.noted) {
        known::learn_or_warn(run, false);
    }
    let Verified { proof, noted } = looked?;
    run.progress.end();
    // Not after every check: a good older backup does not undo that last night's was not made.
    if watch::noted(&run.settings.paths.data)
        .is_some_and(|last| last.failed_unit.as_deref() == Some(VERIFY_UNIT))
    {
        watch::well(run);
    }
    if args.json {
        if noted {
            backup = backup::find(run.lock.dir(), &backup.name, run.clock)?;
        } else {
            backup.proofs.push(proof);
        }
        return output::json(&Noted { shown: Shown::of(backup), noted });
    }
    output::line(format!("{}: {}", backup.name, sentence(Some(&proof))))?;
    if !noted {
        output::line("The folder of the backups cannot be written, so this is not noted there.")?;
    }
    undelivered(&backup).map_or(Ok(()), output::line)
}

/// The output of `verify`.
#[derive(Debug, Serialize)]
struct Noted {
    #[serde(flatten)]
    shown: Shown,
    /// Whether the result stands beside the backup.
    noted: bool,
}

async fn verify_remote(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    let looked = remote::verify(run, &args.name).await;
    // The daemon looks again after any result.
    watch::recheck(run);
    let (name, proof) = looked?;
    run.progress.end();
    if args.json {
        return output::json(&serde_json::json!({ "name": name, "proof": proof }));
    }
    output::line(format!("The copy of {name} is what was written."))
}
