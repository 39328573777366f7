//! `jarvisd queue`: the entries that Postgres does not have yet.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{Common, confirmed, output, with_memory};
use crate::app::Settings;
use crate::backup::pre_migration;
use crate::error::{Exit, Failure, chain};
use crate::memory::Memory;
use crate::store::forward::{ForwardError, Forwarder, Progress};
use crate::store::holder;
use crate::store::postgres::{self, PgSettings};
use crate::store::pull_cursor;
use crate::store::queue::{self, Depth, Entry, Retried, Soundness};
use crate::store::resync::{self, Sent};

/// Entries read at once for a listing.
const PAGE: u32 = 500;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// How much waits, since when, and whether Postgres answers.
    Status(output::Json),
    /// The entries that wait, oldest first. They name rows; the words are not shown.
    List(List),
    /// Send everything that waits now. The daemon may be running.
    ///
    /// Exit code 1: Postgres refused entries for good. They are set aside, and the others are sent; with
    /// `--json`, `set_aside` says how many were set aside now.
    Drain(output::Json),
    /// Check that every entry is sound.
    Check(output::Json),
    /// Entries that Postgres refused for good.
    #[command(subcommand)]
    DeadLetter(DeadLetter),
}

#[derive(Debug, clap::Subcommand)]
pub enum DeadLetter {
    /// List them with the reason.
    List(output::Json),
    /// Put them back into the queue.
    Retry(Which),
    /// Give them up. Their rows stay on this device and in its backups.
    Drop(Drop),
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(id = "which", required = true, multiple = false)]
pub struct Chosen {
    /// Number of one, as `dead-letter list` shows it.
    #[arg(value_name = "NUMBER")]
    number: Option<i64>,
    /// All of them.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub struct Which {
    #[command(flatten)]
    chosen: Chosen,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Drop {
    #[command(flatten)]
    chosen: Chosen,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    yes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    depth: Depth,
    /// Postgres answers and has everything of this device except the entries given up.
    complete: bool,
    /// The address, masked; `null` if none is configured.
    postgres: Option<String>,
    reachable: bool,
    /// Postgres is another database than the one that this device sends to: everything is still to be sent to
    /// it.
    another_database: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Drained {
    /// Postgres has everything of this device except the entries given up.
    complete: bool,
    sent: usize,
    /// Nothing was sent for these: their row is not on this device any more.
    without_row: usize,
    /// Postgres refused these for good now: the command ends with 1.
    set_aside: usize,
    /// The writes of other devices were read at least once from this database.
    read: bool,
    #[serde(flatten)]
    left: Depth,
}

#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    #[serde(flatten)]
    found: Soundness,
}

#[derive(Debug, Serialize)]
struct Changed {
    dead_letters: u64,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    with_memory(&settings, async |memory| match command {
        Command::Status(args) => status(&settings, memory, args.json).await,
        Command::List(args) => {
            let entries =
                pages(args.limit, async |after, n| Ok(queue::list(memory.store(), after, n).await?)).await?;
            let more = queue::depth(memory.store()).await?.queueing;
            list(&entries, more, args.json)
        }
        Command::Drain(args) => drain(&settings, memory, args.json).await,
        Command::Check(args) => check(memory, args.json).await,
        Command::DeadLetter(DeadLetter::List(args)) => {
            let dead =
                pages(u32::MAX, async |after, n| Ok(queue::list_dead(memory.store(), after, n).await?))
                    .await?;
            list_dead(&dead, args.json)
        }
        Command::DeadLetter(DeadLetter::Retry(args)) => {
            let moved = queue::retry_dead(memory.store(), args.chosen.number).await?;
            retried(moved, &args.chosen, args.json)
        }
        Command::DeadLetter(DeadLetter::Drop(args)) => {
            if !confirmed("Give these entries up? Postgres will never have what they are about.", args.yes)? {
                return output::line("Nothing was dropped.");
            }
            let gone = queue::drop_dead(memory.store(), args.chosen.number).await?;
            changed(gone, &args.chosen, args.json, "Dropped")
        }
    })
}

/// The Postgres of the configuration, with a backup if connecting will bring its schema up to date.
pub async fn database(settings: &Settings) -> Result<PgSettings, Failure> {
    let database = settings.postgres().ok_or_else(|| {
        Failure::new(
            Exit::Config,
            "no Postgres is configured: set store.postgres_url (docs/postgres.md tells how)",
        )
    })?;
    pre_migration::back_up_if_connecting_migrates(&settings.backups(), &database).await;
    Ok(database)
}

async fn pages(
    most: u32,
    read: impl AsyncFn(i64, u32) -> Result<Vec<Entry>, Failure>,
) -> Result<Vec<Entry>, Failure> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let left = most.saturating_sub(u32::try_from(all.len()).unwrap_or(u32::MAX)).min(PAGE);
        let page = read(all.last().map_or(0, |entry| entry.seq), left).await?;
        let more = left > 0 && page.len() == left as usize;
        all.extend(page);
        if !more {
            return Ok(all);
        }
    }
}

async fn status(settings: &Settings, memory: &Memory, json: bool) -> Result<(), Failure> {
    let mut depth = queue::depth(memory.store()).await?;
    let mut status = Status {
        depth,
        complete: false,
        postgres: None,
        reachable: false,
        another_database: false,
        error: None,
    };
    if let Some(database) = settings.postgres() {
        status.postgres = Some(database.shown.clone());
        match postgres::which(&database).await {
            Ok(house) => {
                status.reachable = true;
                let sent = match house {
                    Some(house) => resync::sent_to(memory.store(), house).await?,
                    None => Sent::Elsewhere,
                };
                // Read again: rows written while Postgres was asked wait as well.
                depth = queue::depth(memory.store()).await?;
                status.depth = depth;
                status.another_database = sent == Sent::Elsewhere;
                status.complete = sent == Sent::All && depth.has_sent_everything();
                let held_back = holder::held_back(memory.store(), &database).await.ok().flatten();
                status.error = held_back.map(|error| error.sentence(&database.shown));
            }
            Err(error) => status.error = Some(error.sentence(&database.shown)),
        }
    }
    if json {
        return output::json(&status);
    }
    output::line(match depth.oldest_unix_ms {
        Some(oldest) => format!("{} entries wait, the oldest since {}.", depth.entries, output::time(oldest)),
        None if depth.queueing || status.another_database => "No entry waits yet.".to_owned(),
        None => "Nothing waits.".to_owned(),
    })?;
    if depth.queueing {
        output::line(format!(
            "Postgres is another database than before: up to {} more are queued as those are sent.",
            depth.still_to_queue
        ))?;
    } else if status.another_database {
        output::line(
            "This device was not with this database before (a new one, or another database than before): \
             everything is sent to it, by the daemon or by `jarvisd queue drain`.",
        )?;
    }
    if depth.dead_letters > 0 {
        output::line(format!(
            "Postgres refused {} entries for good: `jarvisd queue dead-letter list`.",
            depth.dead_letters
        ))?;
    }
    let refused = queue::refused(memory.store()).await?;
    let of_messages = refused.sentence().filter(|_| refused.messages > 0);
    for sentence in of_messages.into_iter().chain(refused.given_up_sentence()) {
        output::line(format!("{sentence}."))?;
    }
    output::line(match (&status.postgres, &status.error) {
        (None, _) => "No Postgres is configured: memory stays on this device.".to_owned(),
        (Some(shown), None) => format!("Postgres at {} answers.", output::plain(shown)),
        (Some(_), Some(error)) => format!("{}.", output::plain(error)),
    })
}

/// `more`: others are still to be queued.
fn list(entries: &[Entry], more: bool, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&entries);
    }
    if entries.is_empty() {
        return output::line(match more {
            true => {
                "No entry waits yet: everything is being queued again, `jarvisd queue status` says how far."
            }
            false => "Nothing waits.",
        });
    }
    let row = |e: &Entry| {
        [e.seq.to_string(), e.op.clone(), e.entity_id.to_string(), output::time(e.created_unix_ms)]
    };
    output::table(["NUMBER", "OPERATION", "ROW", "SINCE"], &entries.iter().map(row).collect::<Vec<_>>())
}

fn list_dead(dead: &[Entry], json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&dead);
    }
    if dead.is_empty() {
        return output::line("There are no dead letters.");
    }
    let row = |e: &Entry| {
        let why = e.refusal.as_ref();
        let state = why.and_then(|why| why.sqlstate.clone()).unwrap_or_default();
        let error = why.map(|why| why.error.clone()).unwrap_or_default();
        [e.seq.to_string(), e.op.clone(), e.entity_id.to_string(), state, error]
    };
    output::table(
        ["NUMBER", "OPERATION", "ROW", "SQLSTATE", "REASON"],
        &dead.iter().map(row).collect::<Vec<_>>(),
    )
}

async fn drain(settings: &Settings, memory: &Memory, json: bool) -> Result<(), Failure> {
    let database = database(settings).await?;
    let shown = database.shown.clone();
    let before = queue::depth(memory.store()).await?;
    let bar = progress(before.entries.saturating_add(before.still_to_queue));
    let mut forwarder = Forwarder::new(memory.store().clone(), memory.clock().clone(), database);
    let (mut sent, mut set_aside) = (0, 0);
    let (mut asked, mut left) = (false, before);
    let ended = loop {
        match forwarder.run_once().await {
            Ok(Progress::Empty) => {
                left = queue::depth(memory.store()).await?;
                if asked && left.is_nothing() {
                    break Ok(());
                }
                // Once more, after the server was asked whether its database is still the same one.
                asked = true;
                forwarder.recheck();
                continue;
            }
            Ok(Progress::Sent(n)) => sent += n,
            Ok(Progress::Buried) => set_aside += 1,
            Ok(Progress::NotYet) => {}
            Err(error) => break Err(error),
        }
        asked = false;
        bar.set_position((sent + set_aside) as u64);
    };
    let house = forwarder.house();
    forwarder.close().await;
    bar.finish_and_clear();
    ended.map_err(|error| failure(&error, &shown))?;
    let read = match house {
        Some(house) => pull_cursor::is_read(memory.store(), house).await?,
        None => false,
    };
    let without_row = forwarder.without_row();
    let sent = sent.saturating_sub(without_row);
    // The end of the queue is reached, but entries refused for good are not there.
    let complete = left.has_sent_everything();
    let drained = Drained { complete, sent, without_row, set_aside, read, left };
    if json {
        output::json(&drained)?;
    } else {
        show_drained(&drained)?;
    }
    let entries = match set_aside {
        0 => return Ok(()),
        1 => "1 entry for good, which is".to_owned(),
        n => format!("{n} entries for good, which are"),
    };
    Err(Failure::new(
        Exit::Failed,
        format!("Postgres refused {entries} set aside now; `jarvisd queue dead-letter list` says why"),
    ))
}

fn show_drained(drained: &Drained) -> Result<(), Failure> {
    let Drained { sent, without_row, .. } = drained;
    output::line(format!("Sent {sent} entries; nothing waits."))?;
    if *without_row > 0 {
        output::line(format!(
            "Nothing was sent for {without_row} more: their rows are not on this device any more."
        ))?;
    }
    let now = i64::try_from(drained.set_aside).unwrap_or(i64::MAX);
    let earlier = drained.left.dead_letters.saturating_sub(now);
    if earlier > 0 {
        output::line(format!("Postgres refused {earlier} earlier: `jarvisd queue dead-letter list`."))?;
    }
    if drained.read {
        return Ok(());
    }
    output::line("What other devices wrote is still to be read: the daemon does so, or `jarvisd store pull`.")
}

/// A sentence with the remedy, and the exit code that fits: 75 for a fault that passes by itself, 69 for
/// others.
pub fn failure(error: &ForwardError, shown: &str) -> Failure {
    match error {
        ForwardError::Postgres(error) => Failure::new(error.exit(), error.sentence(shown)),
        ForwardError::Store(_) => Failure::new(Exit::TryAgain, chain(error)),
    }
}

async fn check(memory: &Memory, json: bool) -> Result<(), Failure> {
    let found = queue::check(memory.store()).await?;
    let ok = found.unknown_operations == 0 && found.unburied_deletions == 0;
    if json {
        output::json(&Checked { ok, found })?;
    } else if ok {
        output::line("Every entry is sound.")?;
    }
    if ok {
        return Ok(());
    }
    let Soundness { unknown_operations, unburied_deletions, .. } = found;
    Err(Failure::new(
        Exit::Failed,
        format!(
            "{unknown_operations} entries are of a newer version and {unburied_deletions} deletions lack \
             their tombstone; run `jarvisd store check`"
        ),
    ))
}

fn retried(retried: Retried, chosen: &Chosen, json: bool) -> Result<(), Failure> {
    let Retried { dead_letters, without_row } = retried;
    if dead_letters == 0 && without_row == 0 {
        return changed(0, chosen, json, "Put back into the queue");
    }
    if json {
        output::json(&retried)?;
    } else {
        output::line(format!("Put back into the queue: {dead_letters}."))?;
    }
    match without_row {
        0 => Ok(()),
        n => Err(Failure::new(
            Exit::Failed,
            format!(
                "{n} of them name rows that are not on this device any more, so there is nothing to send: \
                 restore a backup that has them, or give them up with `jarvisd queue dead-letter drop`"
            ),
        )),
    }
}

fn changed(n: u64, chosen: &Chosen, json: bool, did: &str) -> Result<(), Failure> {
    if let (0, Some(number)) = (n, chosen.number) {
        return Err(Failure::new(Exit::Failed, format!("there is no dead letter {number}")));
    }
    if json { output::json(&Changed { dead_letters: n }) } else { output::line(format!("{did}: {n}.")) }
}

/// A bar on a terminal, nothing elsewhere.
pub fn progress(length: i64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(length).unwrap_or(0));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {per_sec}  {eta}") {
        bar.set_style(style);
    }
    bar
}
