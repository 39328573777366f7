//! `jarvisd store`: this device and Postgres side by side.

use super::queue::{database, failure, progress};
use super::{Common, output, with_memory};
use crate::config::Settings;
use crate::error::{Exit, Failure, chain};
use crate::memory::Memory;
use crate::store::compare::{CompareError, Comparison, Difference, compare};
use crate::store::forward::ForwardError;
use crate::store::pull::{PullError, Puller};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Compare this device with Postgres: numbers, gaps, a checksum of every conversation.
    Check(Check),
    /// Fetch now what other devices wrote. The daemon does so by itself.
    Pull(Pull),
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// Queue what Postgres lacks, and read what this device lacks again.
    #[arg(long)]
    repair: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Pull {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    with_memory(&settings, async |memory| match command {
        Command::Check(args) => check(&settings, memory, &args).await,
        Command::Pull(args) => pull(&settings, memory, &args).await,
    })
}

async fn check(settings: &Settings, memory: &Memory, args: &Check) -> Result<(), Failure> {
    let database = database(settings).await?;
    let shown = database.shown.clone();
    let bar = progress(0);
    let now = memory.clock().now_unix_ms();
    let compared = compare(memory.store(), &database, args.repair, now, |n| {
        bar.set_length(n as u64);
        bar.set_position(n as u64);
    })
    .await;
    bar.finish_and_clear();
    let found = compared.map_err(|error| match error {
        CompareError::Postgres(error) => failure(&ForwardError::Postgres(error), &shown),
        CompareError::Store(error) => error.into(),
    })?;
    if args.json {
        output::json(&found)?;
    } else {
        show(&found)?;
    }
    if found.is_equal() || args.repair {
        return Ok(());
    }
    let n = found.findings.len() + found.users_missing_there;
    Err(Failure::new(
        Exit::Failed,
        format!(
            "{n} {} between this device and Postgres; `jarvisd store check --repair` mends what can be mended",
            if n == 1 { "difference" } else { "differences" }
        ),
    ))
}

fn show(found: &Comparison) -> Result<(), Failure> {
    let row = |what: &str, here: i64, there: i64| [what.to_owned(), here.to_string(), there.to_string()];
    let (here, there) = (found.here, found.there);
    output::table(
        ["", "HERE", "POSTGRES"],
        &[
            row("People", here.users, there.users),
            row("Conversations", here.conversations, there.conversations),
            row("Messages", here.messages, there.messages),
        ],
    )?;
    if found.waiting > 0 {
        output::line(format!(
            "{} conversations have something in the queue and were not compared.",
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
    if found.is_equal() {
        return output::line("Everything that was compared is the same.");
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

async fn pull(settings: &Settings, memory: &Memory, args: &Pull) -> Result<(), Failure> {
    let database = database(settings).await?;
    let shown = database.shown.clone();
    let mut puller = Puller::new(memory.clone(), database, None);
    let brought = puller.run_once().await.map_err(|error| match error {
        PullError::Postgres(error) => failure(&ForwardError::Postgres(error), &shown),
        PullError::Memory(error) => Failure::new(error.exit(), chain(&error)),
        error @ PullError::Outdated => Failure::new(Exit::TryAgain, chain(&error)),
    })?;
    if args.json {
        return output::json(&serde_json::json!({ "changed": brought.changed, "refused": brought.refused }));
    }
    output::line(match brought.refused {
        0 => format!("{} rows are new or changed.", brought.changed),
        n => format!("{} rows are new or changed; {n} break a rule and were left out.", brought.changed),
    })
}
