//! `jarvisd audit`: voices heard, people let in, enrolments, deletions. The log holds no text and no sound.

use super::{Common, output, user_named, with_memory};
use crate::error::Failure;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the newest entries first.
    List(Listed),
}

#[derive(Debug, clap::Args)]
pub struct Listed {
    /// Only what concerns this person.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// At most so many entries.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let Command::List(args) = command;
    let settings = common.settings()?;
    let entries = with_memory(&settings, async |memory| {
        let user = match &args.user {
            Some(name) => Some(user_named(memory, name).await?.id),
            None => None,
        };
        Ok(memory.list_audit(user, None, args.limit).await?)
    })?;
    if args.json {
        return output::json(&entries);
    }
    let rows: Vec<[String; 5]> = entries
        .into_iter()
        .map(|entry| {
            [
                output::time(entry.wall_unix_ms),
                entry.action,
                entry.outcome,
                entry.user_name.unwrap_or_default(),
                entry.detail.map(|detail| detail.to_string()).unwrap_or_default(),
            ]
        })
        .collect();
    output::table(["when", "what", "outcome", "who", "figures"], &rows)
}
