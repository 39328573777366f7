//! `jarvisd store`: this device and Postgres side by side.

use std::sync::Arc;

use serde::Serialize;

use super::queue::{database, failure, progress};
use super::{Common, block_on, confirmed, output, with_memory};
use crate::app::Settings;
use crate::app::parts::{self, MissingMemory};
use crate::error::{Exit, Failure, chain};
use crate::identity::voices;
use crate::memory::Memory;
use crate::memory::pull::{PullError, Puller};
use crate::store::compare::tables::TableComparison;
use crate::store::compare::{CompareError, Comparison, Difference, Left, compare};
use crate::store::forward::{ForwardError, Forwarder};
use crate::store::holder;
use crate::store::opener::Opener;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Compare this device with Postgres: every row, and a checksum of every conversation.
    ///
    /// Exit code 1: something differs. 75: nothing differs so far, but not everything could be compared,
    /// because it waits to be sent or to be read. With `--repair`, 0 also if differences were found and are
    /// mended with the next sending and reading.
    Check(Check),
    /// Fetch the writes of other devices now. The daemon does so by itself. On a new card this brings
    /// everything back.
    Pull(output::Json),
    /// Send under the id of this device from now on, although another memory does: this card replaces that
    /// one.
    TakeOver(TakeOver),
    /// Go on with an empty memory where the old one is missing. Turns held apart since then become the
    /// memory. Backups stay as they are.
    AcceptEmpty(output::Json),
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// Queue the rows that Postgres lacks, and read the rows that this device lacks again.
    #[arg(long)]
    repair: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct TakeOver {
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    yes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    match command {
        Command::Check(args) => with_memory(&settings, async |memory| check(&settings, memory, &args).await),
        Command::Pull(args) => with_memory(&settings, async |memory| pull(&settings, memory, &args).await),
        Command::TakeOver(args) => {
            with_memory(&settings, async |memory| take_over(&settings, memory, &args).await)
        }
        Command::AcceptEmpty(args) => block_on(accept_empty(&settings, &args)),
    }
}

async fn accept_empty(settings: &Settings, args: &output::Json) -> Result<(), Failure> {
    let memory = parts::open_memory_or(settings, MissingMemory::HoldApart).await?;
    let accepted = memory.accept().await;
    let people = memory.list_users().await.map(|people| people.len());
    memory.close().await;
    let (accepted, people) = (accepted?, people?);
    if !accepted {
        let path = settings.paths.db.display();
        let message = format!("no memory is missing: {path} is in use, and nothing was changed");
        return Err(Failure::new(Exit::Failed, message));
    }
    if args.json {
        return output::json(&serde_json::json!({ "accepted": true, "people": people }));
    }
    output::line("The empty memory is the memory now; earlier backups are as they were.")
}

/// The opener of voiceprints on this device; without one, the reason.
fn opener(settings: &Settings) -> Result<Opener, Failure> {
    parts::existing_vault(settings).map(|vault| voices::opener(Arc::new(vault)))
}

async fn check(settings: &Settings, memory: &Memory, args: &Check) -> Result<(), Failure> {
    let database = database(settings).await?;
    let shown = database.shown.clone();
    let bar = progress(0);
    let repair = args.repair.then(|| memory.clock().now_unix_ms());
    let opener = opener(settings).ok();
    let compared = compare(memory.store(), &database, opener.as_ref(), repair, |n| {
        bar.set_length(n as u64);
        bar.set_position(n as u64);
    })
    .await;
    bar.finish_and_clear();
    let found = compared.map_err(|error| match error {
        CompareError::Postgres(error) => failure(&ForwardError::Postgres(error), &shown),
        CompareError::Store(error) => error.into(),
    })?;
    // The comparison asked the same server, and reports a failure to ask it.
    let held_back = holder::held_back(memory.store(), &database).await.ok().flatten();
    let held_back = held_back.map(|error| error.sentence(&shown));
    if args.json {
        output::json(&Checked { found: &found, held_back: held_back.as_deref() })?;
    } else {
        show(&found)?;
        if let Some(sentence) = &held_back {
            output::line(format!("{}.", output::plain(sentence)))?;
        }
    }
    match found.differences() {
        0 if found.everything_compared => Ok(()),
        // The repair has done its work. People may talk meanwhile, so some rows may always be under way.
        1.. if args.repair && !found.is_unfounded() => Ok(()),
        _ if args.repair || found.is_equal() => Err(Failure::new(
            Exit::TryAgain,
            format!(
                "not everything could be compared: {}; check again when that is done",
                on_its_way(&found)
            ),
        )),
        n => Err(Failure::new(
            Exit::Failed,
            format!(
                "{n} {} between this device and Postgres; `jarvisd store check --repair` mends what can be \
                 mended",
                if n == 1 { "difference" } else { "differences" }
            ),
        )),
    }
}

/// The reasons why not everything can be compared yet.
fn on_its_way(found: &Comparison) -> String {
    let Left { entries, still_to_queue, queueing, another_database, unread } = found.left;
    let mut parts = Vec::new();
    if another_database {
        parts.push("everything is still to be sent to this database (`jarvisd queue drain`)".to_owned());
    }
    if entries > 0 {
        parts.push(format!("{entries} entries wait to be sent (`jarvisd queue drain`)"));
    }
    if queueing {
        parts.push(format!("up to {still_to_queue} more are still to be queued (`jarvisd queue drain`)"));
    }
    if unread > 0 {
        parts.push(format!("{unread} rows there are still to be read (`jarvisd store pull`)"));
    }
    if parts.is_empty() {
        parts.push("something was on its way meanwhile".to_owned());
    }
    parts.join(", ")
}

/// The result of the comparison, and whether this memory may send.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    #[serde(flatten)]
    found: &'a Comparison,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_back: Option<&'a str>,
}

fn show(found: &Comparison) -> Result<(), Failure> {
    let row = |what: &str, here: i64, there: i64| [what.to_owned(), here.to_string(), there.to_string()];
    let (here, there) = (found.here, found.there);
    let of = |table: &str, what: &str| {
        let counts = found.tables.iter().find(|found| found.table == table);
        counts.map_or_else(|| row(what, 0, 0), |table| row(what, table.here, table.there))
    };
    output::table(
        ["", "HERE", "POSTGRES"],
        &[
            row("People", here.users, there.users),
            row("Conversations", here.conversations, there.conversations),
            row("Messages", here.messages, there.messages),
            of("voiceprints", "Voiceprints"),
            of("links", "Links between messages"),
            of("audit", "Audit log"),
            of("deletions", "Deletions"),
        ],
    )?;
    for table in &found.tables {
        differs(table)?;
    }
    if found.waiting > 0 {
        output::line(format!(
            "{} conversations have something on its way and were not compared.",
            found.waiting
        ))?;
    }
    if !found.findings.is_empty() {
        let rows: Vec<[String; 4]> = found
            .findings
            .iter()
            .map(|f| {
                let what = match f.difference {
                    Difference::MissingThere => "Postgres lacks messages",
                    Difference::MissingHere => "this device lacks messages",
                    Difference::Differs => "the messages differ",
                };
                let numbers = [f.messages_here.to_string(), f.messages_there.to_string()];
                let [mine, theirs] = numbers;
                [f.conversation_id.to_string(), what.to_owned(), mine, theirs]
            })
            .collect();
        output::table(["CONVERSATION", "DIFFERENCE", "HERE", "POSTGRES"], &rows)?;
    }
    if found.is_equal() && found.everything_compared {
        let besides = found.tables.iter().any(|table| table.here != table.there);
        return output::line(if besides {
            "Everything that this device keeps is the same in Postgres; what is there besides is another \
             device's, or sealed with another key."
        } else {
            "Everything is the same on both sides."
        });
    }
    if !found.everything_compared {
        let so_far = if found.is_equal() { "What was compared is the same. " } else { "" };
        output::line(format!("{so_far}Not everything could be compared: {}.", on_its_way(found)))?;
    }
    if found.queued > 0 {
        output::line(format!("Queued {} entries; `jarvisd queue drain` sends them now.", found.queued))?;
    }
    if found.reads_again {
        output::line(
            "What other devices wrote is read again from the beginning; `jarvisd store pull` does it now.",
        )?;
    }
    Ok(())
}

/// The difference of a table other than that of the messages.
fn differs(table: &TableComparison) -> Result<(), Failure> {
    let name = match table.table {
        "users" => "People",
        "conversations" => "Conversations",
        "voiceprints" => "Voiceprints",
        "links" => "Links between messages",
        "audit" => "Audit log",
        _ => "Deletions",
    };
    if table.of_others > 0 {
        output::line(format!(
            "{name}: {} in Postgres do not open with the key and the model of this device.",
            table.of_others
        ))?;
    }
    if table.waiting + table.unread > 0 {
        let rows = table.waiting + table.unread;
        output::line(format!("{name}: {rows} rows are on their way and were not compared."))?;
    }
    if table.differences() == 0 {
        return Ok(());
    }
    output::line(format!(
        "{name}: Postgres lacks {}, this device lacks {}, {} are not the same.",
        table.missing_there, table.missing_here, table.differ
    ))
}

async fn pull(settings: &Settings, memory: &Memory, args: &output::Json) -> Result<(), Failure> {
    let database = database(settings).await?;
    let shown = database.shown.clone();
    let is_new = holder::is_new(memory.store()).await?;
    // This comes before anything is read: a later arrival is not known to have been read.
    let seen = if is_new { holder::seen(&database).await.ok().flatten() } else { None };
    let opener = opener(settings);
    let why_unread = opener.as_ref().err().map(ToString::to_string);
    let mut puller = Puller::new(memory.clone(), database, opener.ok());
    let brought = puller.run_once().await.map_err(|error| match error {
        PullError::Postgres(error) => failure(&ForwardError::Postgres(error), &shown),
        PullError::Memory(error) => Failure::new(error.exit(), chain(&error)),
        error @ PullError::Outdated => Failure::new(Exit::TryAgain, chain(&error)),
    })?;
    if is_new {
        // A new card whose owner has brought everything back to it: it goes on as this device.
        holder::take_over(memory.store(), seen, memory.clock().now_unix_ms()).await?;
    }
    if args.json {
        return output::json(&serde_json::json!({
            "changed": brought.changed, "refused": brought.refused,
            "voiceprints_read": brought.voiceprints_left == 0, "voiceprints_left": brought.voiceprints_left,
        }));
    }
    if let Some(why) = why_unread.filter(|_| brought.voiceprints_left > 0) {
        output::line(voices_unread(settings, brought.voiceprints_left, &why))?;
    }
    output::line(match brought.refused {
        0 => format!("{} rows are new or changed.", brought.changed),
        n => format!("{} rows are new or changed; {n} break a rule and were left out.", brought.changed),
    })
}

/// The reason why `left` voiceprints of Postgres are not here, and the remedy.
fn voices_unread(settings: &Settings, left: i64, why: &str) -> String {
    let voiceprints = if left == 1 { "1 voiceprint".to_owned() } else { format!("{left} voiceprints") };
    if parts::has_voice_key(settings) {
        return format!("{voiceprints} in Postgres could not be read: {why}.");
    }
    format!(
        "Nobody's voice is here: the key for {voiceprints} in Postgres is not on this device. \
         Put your copy of it, or the key of the device that enrolled, at {}; then `jarvisd store pull` \
         reads them.",
        settings.paths.key.display()
    )
}

async fn take_over(settings: &Settings, memory: &Memory, args: &TakeOver) -> Result<(), Failure> {
    let database = database(settings).await?;
    let (shown, device) = (database.shown.clone(), database.device.clone());
    let question = format!(
        "Send as \"{device}\" from now on? Another memory that does so is held back and keeps its words."
    );
    if !confirmed(&question, args.yes)? {
        return output::line("Nothing was changed.");
    }
    holder::take_over(memory.store(), None, memory.clock().now_unix_ms()).await?;
    let mut forwarder = Forwarder::new(memory.store().clone(), memory.clock().clone(), database);
    let met = forwarder.meet().await;
    forwarder.close().await;
    met.map_err(|error| failure(&error, &shown))?;
    if args.json {
        return output::json(&serde_json::json!({ "device": device }));
    }
    output::line(format!("This memory sends as \"{device}\" now."))
}
