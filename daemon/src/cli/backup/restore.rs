//! `jarvisd backup restore`: all of a backup, one person, or one conversation.

use std::fs::File;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{Run, Summary, keys, mind_newer};
use crate::app::Settings;
use crate::app::parts;
use crate::backup::create;
use crate::backup::keys::Keys;
use crate::backup::manifest::{self, Manifest, Origin};
use crate::backup::merge::{self, FoundConversations, Merged, Selection};
use crate::backup::restore::{self, Restored};
use crate::backup::{self, BackupError, Level, after_repair, restore_pg, verify, way_back};
use crate::cli::{confirmed, output, shared_ids_are_known};
use crate::error::{Exit, Failure};
use crate::memory::{ConversationId, Imported, Memory, MemoryError};
use crate::privilege;
use crate::store::postgres::PgSettings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jarvisd backup restore latest --dry-run                         what would be done
  jarvisd backup restore latest --in-place                        the memory is what it was then
  jarvisd backup restore --at 2026-11-20 --user Anna              her conversations of then beside today's
  jarvisd backup restore latest --undelivered                     the words that Postgres did not have
  jarvisd backup restore latest --lost                            the words that a repair could not read
  jarvisd backup restore latest --to /tmp/look.db                 into a new file (Postgres: database)")]
pub struct Args {
    /// Name of the backup, from `backup list`, or "latest".
    #[arg(required_unless_present = "at", conflicts_with = "at")]
    name: Option<String>,
    /// The newest backup taken at this time or before: 2026-11-20, 2026-11-20T18:30 (local), or with a zone.
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Timestamp>,
    /// Target: a new file, or with Postgres the name of a database or an address.
    #[arg(long, value_name = "DB", conflicts_with_all = ["in_place", "user", "conversation"])]
    to: Option<String>,
    /// Replace the present memory, after a backup of it.
    #[arg(long, conflicts_with_all = ["user", "conversation"])]
    in_place: bool,
    /// Only the messages that Postgres did not have when the backup was made, into the memory of this device.
    #[arg(long, conflicts_with_all = ["to", "in_place", "user", "conversation"])]
    undelivered: bool,
    /// Only messages that the memory of this device lacks and whose deletion it does not know: what a repair
    /// could not read. Messages that were deleted since come back too where the repair could not tell.
    #[arg(long, conflicts_with_all = ["to", "in_place", "user", "conversation", "undelivered"])]
    lost: bool,
    /// Only the conversations of this person, beside those that are there.
    #[arg(long, value_name = "NAME", conflicts_with = "conversation")]
    user: Option<String>,
    /// Only this conversation.
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// File with a secret key of age, for an encrypted backup.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    yes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(settings: &Settings, run: &Run<'_>, args: &Args) -> Result<(), Failure> {
    let dir = run.lock.dir();
    mind_newer(run, args.name.as_deref());
    let backup = match (&args.name, args.at) {
        (Some(name), _) => backup::find(dir, name, run.clock)?,
        (None, Some(at)) => backup::find_at(dir, at, run.clock)?,
        (None, None) => return Err(Failure::new(Exit::Usage, "name a backup, or a time with --at")),
    };
    let manifest = manifest::read(&backup.path)?.manifest;
    if args.name.as_deref() == Some("latest") && way_back::words(&manifest) == 0 {
        nothing_older_has_words(run, &manifest)?;
    }
    restore::not_newer(&manifest)?;
    let keys = keys(run, args.identity.as_deref(), true, &backup)?;
    let from = (backup.path.as_path(), &manifest, &keys);
    let wanted = match (&args.user, args.conversation) {
        (Some(name), _) => Some(Selection::Person(name.clone())),
        (None, Some(id)) => Some(Selection::Conversation(id)),
        (None, None) => None,
    };
    if let Some(wanted) = wanted {
        return merge_one(settings, run, args, from, &wanted).await;
    }
    if args.undelivered {
        return undelivered(run, args, from).await;
    }
    if args.lost {
        return lost(settings, run, args, from).await;
    }
    match (&args.to, args.in_place) {
        (Some(to), _) => to_another(run, args, from, to).await,
        (None, true) => in_place(run, args, from).await,
        (None, false) => Err(Failure::new(
            Exit::Usage,
            "say where to: --in-place, --to DB, --undelivered, --lost, --user NAME or --conversation ID",
        )),
    }
}

/// The newest backup may be one of a memory that was empty because something had gone wrong.
fn nothing_older_has_words(run: &Run<'_>, latest: &Manifest) -> Result<(), Failure> {
    let all = backup::list(run.lock.dir(), run.clock)?;
    let proven = all.iter().rev().filter(|backup| backup.is_proven_to(Level::Restore));
    let mut manifests = proven.filter_map(|backup| Some(manifest::read(&backup.path).ok()?.manifest));
    let with_words = |made: &Manifest| {
        made.device == latest.device && made.origin == latest.origin && way_back::words(made) > 0
    };
    let Some(older) = manifests.find(with_words) else { return Ok(()) };
    Err(Failure::new(
        Exit::Usage,
        format!(
            "the latest backup, {}, holds no message, and {} holds {}: say by its name which of \
             them to restore",
            latest.name,
            older.name,
            way_back::words(&older)
        ),
    ))
}

type From<'a> = (&'a Path, &'a Manifest, &'a Keys);

async fn to_another(run: &Run<'_>, args: &Args, from: From<'_>, to: &str) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    if args.dry_run {
        return plan(run, args, from, &format!("to {}", output::plain(&masked(to)))).await;
    }
    if manifest.origin == Origin::Postgres {
        let settings = postgres(run, manifest)?;
        let restored = restore_pg::to_database(run, folder, manifest, keys, (settings, to)).await?;
        return report(run, args, &restored);
    }
    let path = Path::new(to);
    if path.exists() || *path == run.settings.paths.db {
        let message = format!("{to} is there already: name a file that does not exist yet");
        return Err(Failure::new(Exit::Usage, message));
    }
    restore::to_file(run, folder, manifest, keys, path).await?;
    File::open(path).and_then(|file| privilege::hand_over(&file)).map_err(|e| {
        Failure::because(Exit::Failed, format!("{to} was restored and cannot be given to you"), e)
    })?;
    let restored = Restored {
        backup: manifest.name.clone(),
        to: to.to_owned(),
        safety: None,
        set_aside: None,
        held_apart: None,
        messages: Summary::of(manifest).rows.get("messages").copied().unwrap_or(0),
        brought_back: 0,
        left_out: 0,
        took_ms: 0,
    };
    report(run, args, &restored)
}

async fn undelivered(run: &Run<'_>, args: &Args, from: From<'_>) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    if args.dry_run {
        let messages = manifest.undelivered.unwrap_or_default().messages;
        return plan(run, args, from, &format!("{messages} messages that Postgres did not have")).await;
    }
    let restored = restore_pg::undelivered(run, folder, manifest, keys).await?;
    report(run, args, &restored)
}

async fn lost(settings: &Settings, run: &Run<'_>, args: &Args, from: From<'_>) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    let memory = parts::open_memory(settings).await?;
    let back = after_repair::bring_all_back(run, &memory, (folder, manifest, keys), args.dry_run).await;
    memory.close().await;
    let messages = back?;
    if args.dry_run {
        return plan(run, args, from, &format!("{messages} messages that are missing here")).await;
    }
    run.progress.end();
    if args.json {
        return output::json(&serde_json::json!({ "backup": manifest.name, "messages": messages }));
    }
    output::line(match messages {
        0 => format!("Nothing in {} is missing here.", manifest.name),
        1 => format!("1 message is back from {}.", manifest.name),
        n => format!("{n} messages are back from {}.", manifest.name),
    })
}

/// An address without the part before the host.
fn masked(to: &str) -> String {
    match (to.split_once("://"), to.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => {
            format!("{scheme}://{}", place.split('?').next().unwrap_or_default())
        }
        _ => to.to_owned(),
    }
}

async fn in_place(run: &Run<'_>, args: &Args, from: From<'_>) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    let there = match manifest.origin {
        Origin::Sqlite => run.settings.paths.db.display().to_string(),
        Origin::Postgres => postgres(run, manifest)?.shown.clone(),
    };
    if args.dry_run {
        return plan(run, args, from, &format!("in the place of {there}")).await;
    }
    if manifest.origin == Origin::Sqlite {
        nothing_waits(run).await?;
    }
    let question = format!(
        "Put {} of {} in the place of {there}? A backup of what is there is made first.",
        manifest.name,
        output::time(manifest.taken_unix_ms)
    );
    // Where the memory is missing nothing is replaced.
    let missing = manifest.origin == Origin::Sqlite
        && way_back::missing(run.settings).await.is_ok_and(|missing| missing.is_some());
    if !agreed(&question, args.yes || missing)? {
        return output::line("Nothing was restored.");
    }
    let restored = match manifest.origin {
        Origin::Sqlite => restore::in_place(run, folder, manifest, keys).await?,
        Origin::Postgres => {
            let settings = postgres(run, manifest)?;
            restore_pg::in_place(run, folder, manifest, keys, settings).await?
        }
    };
    report(run, args, &restored)
}

fn agreed(question: &str, yes: bool) -> Result<bool, Failure> {
    if !yes && !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "this replaces what is there; say --yes"));
    }
    confirmed(question, yes)
}

/// Refuses while turns wait for Postgres: they would go with the database that is replaced.
async fn nothing_waits(run: &Run<'_>) -> Result<(), Failure> {
    if run.settings.postgres.is_none() || !run.settings.paths.db.exists() {
        return Ok(());
    }
    let waiting = match create::waiting(run).await {
        Ok(waiting) => waiting,
        // A restore is the way to mend a database that cannot be read.
        Err(BackupError::Store(_)) => 0,
        Err(e) => return Err(e.into()),
    };
    if waiting == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::TryAgain,
        format!(
            "{waiting} entries wait for Postgres and are not in the backup: run `jarvisd queue drain` first"
        ),
    ))
}

fn postgres<'a>(run: &'a Run<'_>, manifest: &Manifest) -> Result<&'a PgSettings, Failure> {
    run.settings.postgres.as_ref().ok_or_else(|| {
        let name = &manifest.name;
        let message =
            format!("{name} is a backup of Postgres: set store.postgres_url to the server it shall go to");
        Failure::new(Exit::Config, message)
    })
}

/// The findings of a dry run.
#[derive(Debug, Serialize)]
struct Plan {
    backup: String,
    taken_unix_ms: i64,
    would_restore: String,
    rows: std::collections::BTreeMap<String, u64>,
}

/// Checks the backup and says what would be done.
async fn plan(run: &Run<'_>, args: &Args, from: From<'_>, what: &str) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    verify::check_readable(run, folder, manifest, keys).await?;
    run.progress.end();
    let plan = Plan {
        backup: manifest.name.clone(),
        taken_unix_ms: manifest.taken_unix_ms,
        would_restore: what.to_owned(),
        rows: Summary::of(manifest).rows,
    };
    if args.json {
        return output::json(&plan);
    }
    output::line(format!(
        "Would restore {} of {} {what}. Nothing was changed.",
        plan.backup,
        output::time(plan.taken_unix_ms)
    ))?;
    let rows: Vec<[String; 2]> =
        plan.rows.iter().map(|(name, rows)| [name.clone(), rows.to_string()]).collect();
    output::table(["TABLE", "ROWS"], &rows)
}

async fn merge_one(
    settings: &Settings,
    run: &Run<'_>,
    args: &Args,
    from: From<'_>,
    wanted: &Selection,
) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    let found = merge::find(run, folder, manifest, keys, wanted).await?;
    if args.dry_run {
        run.progress.end();
        if args.json {
            return output::json(&serde_json::json!({
                "backup": manifest.name, "user": found.owner, "conversations": found.conversations,
            }));
        }
        return output::line(format!(
            "Would add what {} lacks of {} conversations of {}. Nothing was changed.",
            settings.device.name(),
            found.conversations,
            output::plain(&found.owner)
        ));
    }
    let memory = parts::open_memory(settings).await?;
    is_the_same_person(settings, &memory, &found).await?;
    let merged = merge::import(run, &memory, &manifest.name, &found).await;
    memory.close().await;
    let merged = merged?;
    run.progress.end();
    if args.json {
        return output::json(&merged);
    }
    let Merged { user, added, imported, .. } = &merged;
    if *added {
        output::line(format!(
            "{} was added again; their voice has to be enrolled anew.",
            output::plain(user)
        ))?;
    }
    output::line(format!(
        "Restored {} conversations with {} messages of {}; {} were there already and were left as they are.",
        imported.conversations,
        imported.messages,
        output::plain(user),
        imported.skipped
    ))
}

/// The shared database may know somebody of this name, and their conversations, under an id that differs from
/// this device's. It would refuse words of the one that come as the other's for good, so the device reads
/// first.
async fn is_the_same_person(
    settings: &Settings,
    memory: &Memory,
    found: &FoundConversations,
) -> Result<(), Failure> {
    match memory.user_by_name(&found.owner).await {
        Ok(user) if user.id != found.owner_id => shared_ids_are_known(settings, memory).await,
        // A person who is not here comes back with the old id.
        Ok(_) | Err(MemoryError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn report(run: &Run<'_>, args: &Args, restored: &Restored) -> Result<(), Failure> {
    run.progress.end();
    if args.json {
        output::json(restored)?;
        return complete(args, restored);
    }
    output::line(format!(
        "Restored {} to {}: {} messages, every row compared.",
        restored.backup,
        output::plain(&restored.to),
        restored.messages
    ))?;
    if restored.brought_back > 0 {
        output::line(format!(
            "{} messages that were not in Postgres are back on this device; `jarvisd queue drain` sends \
             them.",
            restored.brought_back
        ))?;
    }
    if let Some(safety) = &restored.safety {
        output::line(format!("What was there before is in {safety}."))?;
    }
    if let Some(aside) = &restored.set_aside {
        output::line(format!("What was there before is damaged and kept as {}.", aside.display()))?;
    }
    if let Some(added) = &restored.held_apart {
        let Imported { messages, conversations, .. } = added;
        output::line(format!(
            "What was said while the memory was missing was added: {messages} messages in {conversations} \
             conversations."
        ))?;
    }
    complete(args, restored)
}

/// Messages that Postgres did not have must not stay in the backup unseen.
fn complete(args: &Args, restored: &Restored) -> Result<(), Failure> {
    let (Restored { backup, left_out, .. }, one) = (restored, restored.left_out == 1);
    if *left_out == 0 {
        return Ok(());
    }
    let (messages, are) = if one { ("message", "is") } else { ("messages", "are") };
    let choice = if args.to.is_none() {
        format!(
            "another conversation or person here has their ids; `jarvisd backup restore {backup} --user \
             NAME` adds those of one person under new ids"
        )
    } else {
        format!(
            "set store.postgres_url to the database that it shall use, and `jarvisd backup restore {backup} \
             --undelivered` brings them back; `--user NAME` instead does so for one person"
        )
    };
    let fault = format!("{left_out} {messages} that Postgres did not have {are} not on this device");
    Err(Failure::new(Exit::Failed, format!("{fault}: {choice}")))
}

/// A time as people write it.
fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let wrong = || format!("\"{text}\" is no time such as 2026-11-20 or 2026-11-20T18:30");
    let local = match text.parse::<DateTime>() {
        // A day alone means until its end.
        Ok(_) if text.parse::<Date>().is_ok() && text.len() <= 10 => {
            text.parse::<Date>().map_err(|_| wrong())?.at(23, 59, 59, 0)
        }
        Ok(time) => time,
        Err(_) => return Err(wrong()),
    };
    local.to_zoned(TimeZone::system()).map(|zoned| zoned.timestamp()).map_err(|_| wrong())
}
