//! `jarvisd backup`: backups of the memory, proven by restoring them.

mod prune;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, block_on, confirmed, output};
use crate::backup::cancel::Cancel;
use crate::backup::create::Run;
use crate::backup::keys::Keys;
use crate::backup::lock::{Lock, be_polite};
use crate::backup::manifest::{self, Manifest, Origin};
use crate::backup::merge::{self, Merged, Wanted};
use crate::backup::restore::{self, Restored};
use crate::backup::watch::{self, LastRun};
use crate::backup::{self, Backup, BackupError, Kind, Level, Proof, create, restore_pg, verify};
use crate::clock::Clock;
use crate::config::Settings;
use crate::error::{Exit, Failure, chain};
use crate::memory::ConversationId;
use crate::pipeline::parts;
use crate::store::postgres::PgSettings;

/// The unit that looks at the newest backup every week.
const VERIFY_UNIT: &str = "jarvis-backup-verify";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a backup and prove it as `backup.verify` says. The daemon may be running.
    Create(Create),
    /// What backups there are, and whether they are proven.
    List(Json),
    /// Look whether a backup is good: its hashes, its content, or by restoring it into a scratch database.
    Verify(Verify),
    /// Put a backup back: all of it, one person, or one conversation. The daemon may be running.
    Restore(Restore),
    /// Mark an on-demand backup as one that need not be kept any longer.
    Release(Release),
    /// Delete what no day, week or month needs, and say why for each. The newest proven one always stays.
    Prune(prune::Args),
    /// Note that a unit failed, for the daemon to tell; systemd calls this.
    #[command(hide = true)]
    Failed(Unit),
}

#[derive(Debug, clap::Args)]
pub struct Json {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// Why it is made: this decides how long it is kept.
    #[arg(long, default_value = "on_demand")]
    kind: Kind,
    /// Verify to this level instead of that of `backup.verify`.
    #[arg(long)]
    level: Option<Level>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Name of the backup, from `backup list`, or "latest".
    name: String,
    /// How thoroughly.
    #[arg(long, default_value = "restore")]
    level: Level,
    /// File with a secret key of age, for an encrypted backup.
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Unit {
    /// Name of the unit, without its ending.
    unit: String,
}

#[derive(Debug, clap::Args)]
pub struct Release {
    /// Name of the backup, from `backup list`.
    name: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jarvisd backup restore latest --dry-run                         what would be done
  jarvisd backup restore latest --in-place                        the memory is what it was then
  jarvisd backup restore --at 2026-11-20 --user Anna              her conversations of then beside those of now
  jarvisd backup restore latest --to /tmp/look.db                 into a new file (with Postgres: a new database)")]
pub struct Restore {
    /// Name of the backup, from `backup list`, or "latest".
    #[arg(required_unless_present = "at", conflicts_with = "at")]
    name: Option<String>,
    /// The newest backup taken at this time or before: 2026-11-20, 2026-11-20T18:30 (local), or with a zone.
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<Timestamp>,
    /// Where to: a new file, or with Postgres the name of a database or an address.
    #[arg(long, value_name = "DB", conflicts_with_all = ["in_place", "user", "conversation"])]
    to: Option<String>,
    /// In the place of what there is now, of which a backup is made first.
    #[arg(long, conflicts_with_all = ["user", "conversation"])]
    in_place: bool,
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

/// What `create` and `verify` print.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    backup: Backup,
    proven: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Summary>,
}

#[derive(Debug, Serialize)]
struct Summary {
    origin: Origin,
    schema_version: i64,
    plain_bytes: u64,
    took_ms: u64,
    compared_with_source: bool,
    encrypted: bool,
    rows: std::collections::BTreeMap<String, u64>,
}

impl Summary {
    fn of(manifest: &Manifest) -> Self {
        let database = manifest.file(manifest::Role::Database).ok();
        let tables = database.map(|file| file.tables.clone()).unwrap_or_default();
        Self {
            origin: manifest.origin,
            schema_version: manifest.schema_version,
            plain_bytes: manifest.files.iter().map(|file| file.plain_bytes).sum(),
            took_ms: manifest.took_ms,
            compared_with_source: manifest.compared_with_source,
            encrypted: manifest.encrypted,
            rows: tables.into_iter().map(|(name, sum)| (name, sum.rows)).collect(),
        }
    }
}

impl Shown {
    fn of(backup: Backup) -> Self {
        let manifest = manifest::read(&backup.path).ok().map(|read| Summary::of(&read.manifest));
        Self { proven: backup.is_proven(), backup, manifest }
    }
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    let dir = settings.paths.backups.clone();
    match command {
        Command::List(args) => list(&dir, args.json),
        Command::Release(args) => {
            let backup = backup::find(&dir, &args.name)?;
            backup::release(&backup)?;
            output::line(format!("{} need not be kept any longer.", backup.name))
        }
        Command::Create(args) => {
            be_polite();
            work(&settings, async |run| make(run, &args).await)
        }
        Command::Verify(args) => {
            be_polite();
            work(&settings, async |run| prove(run, &args).await)
        }
        Command::Failed(Unit { unit }) => {
            // Letters that stand in unit names: it is shown to people and named in a command.
            let plain = unit.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c));
            if unit.is_empty() || unit.len() > 255 || !plain {
                return Err(Failure::new(Exit::Usage, "that is no name of a unit"));
            }
            Ok(watch::note(&settings.paths.data, &LastRun::now(&Clock::System, Some(unit)))?)
        }
        Command::Prune(args) => work(&settings, async |run| prune::run(run, &args)),
        Command::Restore(args) => work(&settings, async |run| bring_back(run, &args).await),
    }
}

/// Takes the folder of backups and runs `work`, which a signal cancels.
fn work(settings: &Settings, work: impl AsyncFnOnce(&Run<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let lock = Lock::take(&settings.paths.backups)?;
    let (cancel, bar) = (Cancel::default(), progress());
    let run = Run { settings, clock: &Clock::System, lock: &lock, cancel: &cancel, bar: &bar };
    let done = block_on(async {
        let unheard = |e| Failure::because(Exit::TryAgain, "signals cannot be heard", e);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
        let mut working = std::pin::pin!(work(&run));
        loop {
            tokio::select! {
                biased;
                done = &mut working => break done,
                _ = interrupt.recv() => cancel.cancel(),
                _ = terminate.recv() => cancel.cancel(),
            }
        }
    });
    bar.finish_and_clear();
    done
}

async fn make(run: &Run<'_>, args: &Create) -> Result<(), Failure> {
    let made = create::create(run, args.kind).await?;
    let level = args.level.unwrap_or(run.settings.backup.verify);
    let looked = verify::verify(run, &made.backup.path, level, &made.keys).await;
    run.bar.finish_and_clear();
    let proof = looked.map_err(|e| {
        let exit = e.exit();
        Failure::because(exit, format!("{} was made and is not proven", made.backup.name), e)
    })?;
    let backup = backup::find(run.lock.dir(), &made.backup.name)?;
    well(run);
    if args.json {
        return output::json(&Shown::of(backup));
    }
    let MadeOf { messages, size } = MadeOf::of(&made.manifest, &backup);
    output::line(format!("{}: {messages} messages in {size}. {}", backup.name, sentence(Some(&proof))))?;
    if made.manifest.compared_with_source {
        return Ok(());
    }
    output::line("Somebody kept writing, so it was not compared with the database row by row.")
}

/// Tells the daemon that all went well. A note that cannot be made is no fault of the backup.
fn well(run: &Run<'_>) {
    if let Err(e) = watch::note(&run.settings.paths.data, &LastRun::now(run.clock, None)) {
        log::warn!("{}", chain(&e));
    }
}

struct MadeOf {
    messages: u64,
    size: String,
}

impl MadeOf {
    fn of(manifest: &Manifest, backup: &Backup) -> Self {
        let summary = Summary::of(manifest);
        Self { messages: summary.rows.get("messages").copied().unwrap_or(0), size: size(backup.bytes) }
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

/// What a proof says, as a sentence.
fn sentence(proof: Option<&Proof>) -> String {
    match proof {
        None => "Not proven yet: `jarvisd backup verify`.".to_owned(),
        Some(Proof { ok: false, detail, .. }) => {
            format!("DAMAGED: {}.", detail.as_deref().unwrap_or("see the log"))
        }
        Some(Proof { level: Level::Restore, .. }) => {
            "Proven: it was restored, and every row is there.".to_owned()
        }
        Some(Proof { level: Level::Full, .. }) => {
            "All of it can be read; not proven by restoring it yet.".to_owned()
        }
        Some(Proof { level: Level::Quick, .. }) => {
            "Its hashes are right; not proven by restoring it yet.".to_owned()
        }
    }
}

fn list(dir: &Path, json: bool) -> Result<(), Failure> {
    let all = backup::list(dir)?;
    if json {
        let shown: Vec<Shown> = all.into_iter().map(Shown::of).collect();
        return output::json(&shown);
    }
    if all.is_empty() {
        return output::line(format!("There are no backups in {} yet.", dir.display()));
    }
    let state = |backup: &Backup| match (&backup.fault, &backup.last_proof) {
        (Some(_), _) => "DAMAGED".to_owned(),
        (None, None) => "not proven yet".to_owned(),
        (None, Some(proof)) if !proof.ok => format!("DAMAGED ({})", output::time(proof.at.as_millisecond())),
        (None, Some(proof)) => {
            let word = if proof.level == Level::Restore { "proven" } else { proof.level.as_str() };
            format!("{word} {}", output::time(proof.at.as_millisecond()))
        }
    };
    let rows: Vec<[String; 5]> = all
        .iter()
        .map(|backup| {
            let kind = backup.kind.as_str().replace('_', " ");
            let kind = if backup.released { format!("{kind}, released") } else { kind };
            let taken = output::time(backup.taken_at.as_millisecond());
            [backup.name.clone(), taken, kind, size(backup.bytes), state(backup)]
        })
        .collect();
    output::table(["NAME", "TAKEN", "KIND", "SIZE", "STATE"], &rows)
}

async fn prove(run: &Run<'_>, args: &Verify) -> Result<(), Failure> {
    let backup = backup::find(run.lock.dir(), &args.name)?;
    let keys = keys(run, args.identity.as_deref(), args.level > Level::Quick, &backup)?;
    let proof = verify::verify(run, &backup.path, args.level, &keys).await?;
    run.bar.finish_and_clear();
    // Not of every look: that an older backup is good does not undo that last night's was not made.
    if watch::noted(&run.settings.paths.data)
        .is_some_and(|last| last.failed_unit.as_deref() == Some(VERIFY_UNIT))
    {
        well(run);
    }
    if args.json {
        return output::json(&Shown::of(backup::find(run.lock.dir(), &backup.name)?));
    }
    output::line(format!("{}: {}", backup.name, sentence(Some(&proof))))
}

fn keys(run: &Run<'_>, identity: Option<&Path>, needed: bool, backup: &Backup) -> Result<Keys, Failure> {
    let encrypted = manifest::read(&backup.path).is_ok_and(|read| read.manifest.encrypted);
    if !encrypted || !needed {
        return Ok(Keys::default());
    }
    Ok(Keys::read(identity.or(run.settings.backup.identity_file.as_deref()))?)
}

async fn bring_back(run: &Run<'_>, args: &Restore) -> Result<(), Failure> {
    let dir = run.lock.dir();
    let backup = match (&args.name, args.at) {
        (Some(name), _) => backup::find(dir, name)?,
        (None, Some(at)) => backup::find_at(dir, at)?,
        (None, None) => return Err(Failure::new(Exit::Usage, "name a backup, or a time with --at")),
    };
    let manifest = manifest::read(&backup.path)?.manifest;
    restore::not_newer(&manifest)?;
    let keys = keys(run, args.identity.as_deref(), true, &backup)?;
    let from = (backup.path.as_path(), &manifest, &keys);
    let wanted = match (&args.user, args.conversation) {
        (Some(name), _) => Some(Wanted::Person(name.clone())),
        (None, Some(id)) => Some(Wanted::Conversation(id)),
        (None, None) => None,
    };
    if let Some(wanted) = wanted {
        return merge_one(run, args, from, &wanted).await;
    }
    match (&args.to, args.in_place) {
        (Some(to), _) => to_another(run, args, from, to).await,
        (None, true) => in_place(run, args, from).await,
        (None, false) => Err(Failure::new(
            Exit::Usage,
            "say where to: --in-place, --to DB, --user NAME or --conversation ID",
        )),
    }
}

type From<'a> = (&'a Path, &'a Manifest, &'a Keys);

async fn to_another(run: &Run<'_>, args: &Restore, from: From<'_>, to: &str) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    if args.dry_run {
        return plan(run, args, from, &format!("to {}", output::plain(&masked(to)))).await;
    }
    if manifest.origin == Origin::Postgres {
        let settings = postgres(run, manifest)?;
        let restored = restore_pg::to_database(run, folder, manifest, keys, (&settings, to)).await?;
        return told(run, args, &restored);
    }
    let path = Path::new(to);
    if path.exists() || *path == run.settings.paths.db {
        let message = format!("{to} is there already: name a file that does not exist yet");
        return Err(Failure::new(Exit::Usage, message));
    }
    restore::to_file(run, folder, manifest, keys, path).await?;
    let restored = Restored {
        backup: manifest.name.clone(),
        to: to.to_owned(),
        safety: None,
        set_aside: None,
        messages: Summary::of(manifest).rows.get("messages").copied().unwrap_or(0),
        took_ms: 0,
    };
    told(run, args, &restored)
}

/// An address without what stands before the host.
fn masked(to: &str) -> String {
    match (to.split_once("://"), to.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => {
            format!("{scheme}://{}", place.split('?').next().unwrap_or_default())
        }
        _ => to.to_owned(),
    }
}

async fn in_place(run: &Run<'_>, args: &Restore, from: From<'_>) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    let there = match manifest.origin {
        Origin::Sqlite => run.settings.paths.db.display().to_string(),
        Origin::Postgres => postgres(run, manifest)?.shown,
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
    if !run.bar.suspend(|| agreed(&question, args.yes))? {
        return output::line("Nothing was restored.");
    }
    let restored = match manifest.origin {
        Origin::Sqlite => restore::in_place(run, folder, manifest, keys).await?,
        Origin::Postgres => {
            let settings = postgres(run, manifest)?;
            restore_pg::in_place(run, folder, manifest, keys, &settings).await?
        }
    };
    told(run, args, &restored)
}

fn agreed(question: &str, yes: bool) -> Result<bool, Failure> {
    if !yes && !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "this replaces what is there; say --yes"));
    }
    confirmed(question, yes)
}

/// What this device said and Postgres does not have would go with the database that is replaced.
async fn nothing_waits(run: &Run<'_>) -> Result<(), Failure> {
    if run.settings.store.postgres_url.is_none() || !run.settings.paths.db.exists() {
        return Ok(());
    }
    let waiting = match create::waiting(run).await {
        Ok(waiting) => waiting,
        // A database that cannot be read is what a restore is for.
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

fn postgres(run: &Run<'_>, manifest: &Manifest) -> Result<PgSettings, Failure> {
    PgSettings::of(run.settings).ok_or_else(|| {
        let name = &manifest.name;
        let message =
            format!("{name} is a backup of Postgres: set store.postgres_url to the server it shall go to");
        Failure::new(Exit::Config, message)
    })
}

/// What a dry run found out.
#[derive(Debug, Serialize)]
struct Plan {
    backup: String,
    taken_unix_ms: i64,
    would_restore: String,
    rows: std::collections::BTreeMap<String, u64>,
}

/// Checks the backup and says what would be done.
async fn plan(run: &Run<'_>, args: &Restore, from: From<'_>, what: &str) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    verify::check_readable(run, folder, manifest, keys).await?;
    run.bar.finish_and_clear();
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

async fn merge_one(run: &Run<'_>, args: &Restore, from: From<'_>, wanted: &Wanted) -> Result<(), Failure> {
    let (folder, manifest, keys) = from;
    let found = merge::find(run, folder, manifest, keys, wanted).await?;
    if args.dry_run {
        run.bar.finish_and_clear();
        if args.json {
            return output::json(&serde_json::json!({
                "backup": manifest.name, "user": found.owner, "conversations": found.conversations,
            }));
        }
        return output::line(format!(
            "Would add what {} lacks of {} conversations of {}. Nothing was changed.",
            run.settings.device.name,
            found.conversations,
            output::plain(&found.owner)
        ));
    }
    let memory = parts::open_memory(run.settings).await?;
    let merged = merge::import(&memory, &manifest.name, &found).await;
    memory.close().await;
    let merged = merged?;
    run.bar.finish_and_clear();
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

fn told(run: &Run<'_>, args: &Restore, restored: &Restored) -> Result<(), Failure> {
    run.bar.finish_and_clear();
    if args.json {
        return output::json(restored);
    }
    output::line(format!(
        "Restored {} to {}: {} messages, every row compared.",
        restored.backup,
        output::plain(&restored.to),
        restored.messages
    ))?;
    if let Some(safety) = &restored.safety {
        output::line(format!("What was there before is in {safety}."))?;
    }
    if let Some(aside) = &restored.set_aside {
        output::line(format!("What was there before is damaged and kept as {}.", aside.display()))?;
    }
    Ok(())
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

/// A bar on a terminal, nothing elsewhere.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}")
    {
        bar.set_style(style);
    }
    bar
}
