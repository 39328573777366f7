//! `jarvisd backup create`: makes a backup, proves it, and copies it elsewhere.

use super::{Shown, Summary, prune, sentence, size, well};
use crate::backup::create::{self, Run};
use crate::backup::manifest::Undelivered;
use crate::backup::{self, Kind, Level, known, remote, verify};
use crate::cli::output;
use crate::error::Failure;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Why it is made: this decides how long it is kept.
    #[arg(long, default_value = "on_demand")]
    kind: Kind,
    /// Verify to this level instead of that of `backup.verify`.
    #[arg(long)]
    level: Option<Level>,
    /// Make no copy at `backup.remote` now; `jarvisd backup upload latest` does that later.
    #[arg(long)]
    no_upload: bool,
    /// Then delete what the calendar does not need, as `jarvisd backup prune` does, also if the copy elsewhere failed.
    #[arg(long)]
    prune: bool,
    /// For `--prune`: the clock is right although nothing says that it was set by NTP.
    #[arg(long, requires = "prune")]
    trust_clock: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    let made = create::create(run, args.kind).await?;
    let level = args.level.unwrap_or(run.settings.backup.verify);
    let looked = verify::verify(run, &made.backup.path, level, &made.keys).await;
    let proof = looked.map_err(|e| {
        run.bar.finish_and_clear();
        let exit = e.exit();
        Failure::because(exit, format!("{} was made and is not proven", made.backup.name), e)
    })?;
    let mut backup = backup::find(run.lock.dir(), &made.backup.name, run.clock)?;
    known::learn_or_warn(run, true);
    well(run);
    let mut copied = Ok(None);
    if run.settings.backup.remote.is_some() && !args.no_upload {
        copied = remote::upload(run, &backup).await.map(Some);
        backup = backup::find(run.lock.dir(), &made.backup.name, run.clock)?;
        // The daemon looks again.
        well(run);
    }
    run.bar.finish_and_clear();
    let name = backup.name.clone();
    if args.json {
        output::json(&Shown::of(backup))?;
    } else {
        let messages = Summary::of(&made.manifest).rows.get("messages").copied().unwrap_or(0);
        let size = size(backup.bytes);
        output::line(format!("{name}: {messages} messages in {size}. {}", sentence(Some(&proof))))?;
        if let Some(sentence) = made.manifest.undelivered.and_then(Undelivered::sentence) {
            output::line(sentence)?;
        }
        if !made.manifest.compared_with_source {
            output::line("Somebody kept writing, so it was not compared with the database row by row.")?;
        }
        if let Ok(Some(copy)) = &copied {
            output::line(super::remote::sentence(copy))?;
        }
    }
    let pruned = match args.prune {
        true => prune::carry_out(run, false, args.trust_clock).await.and_then(|done| done.told(args.json)),
        false => Ok(()),
    };
    match copied {
        Err(e) => {
            Err(Failure::because(e.exit(), format!("{name} is good, and its copy elsewhere failed"), e))
        }
        Ok(_) => pruned,
    }
}
