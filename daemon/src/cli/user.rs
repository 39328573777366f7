//! `jarvisd user`: the people this device knows.

use std::path::PathBuf;

use serde::Serialize;

use super::{Common, confirmed, output, user_named, with_memory};
use crate::app::Settings;
use crate::error::Failure;
use crate::identity::pins;
use crate::identity::recordings::Recordings;
use crate::memory::{Memory, User};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add a person. Their voice is enrolled with `jarvisd voice enroll`.
    Add(Named),
    /// List everyone.
    List(output::Json),
    /// Show one person: voice, conversations.
    Show(Named),
    /// Give a person another name; everything of theirs stays theirs.
    Rename(Rename),
    /// Write everything that is stored about a person as JSON.
    Export(Export),
    /// Delete a person with everything of theirs: conversations, remembered things, voice.
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub struct Named {
    /// Name; upper and lower case make no difference.
    name: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Rename {
    /// Present name.
    name: String,
    /// New name.
    new_name: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Export {
    /// Name.
    name: String,
    /// File to write; standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Accepted for uniformity: an export is always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Name.
    name: String,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    yes: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// A person as `user list` and `user show` print them.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    user: User,
    /// Whether a voice is enrolled.
    voice: bool,
    conversations: i64,
}

#[derive(Debug, Serialize)]
struct Deleted<'a> {
    deleted: &'a User,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    with_memory(&settings, async |memory| match command {
        Command::Add(args) => {
            let user = memory.add_person(&args.name).await?;
            report(&user, args.json, format!("Added {}.", output::plain(&user.name)))
        }
        Command::List(args) => list(memory, args.json).await,
        Command::Show(args) => show(memory, &args).await,
        Command::Rename(args) => {
            let user = user_named(memory, &args.name).await?;
            memory.rename_user(user.id, &args.new_name).await?;
            let renamed = memory.user(user.id).await?;
            report(
                &renamed,
                args.json,
                format!("{} is now {}.", output::plain(&user.name), output::plain(&renamed.name)),
            )
        }
        Command::Export(args) => {
            let user = user_named(memory, &args.name).await?;
            output::json_to(args.out.as_deref(), &memory.export_user(user.id).await?)
        }
        Command::Delete(args) => delete(&settings, memory, &args).await,
    })
}

fn report(value: &impl Serialize, json: bool, text: String) -> Result<(), Failure> {
    if json { output::json(value) } else { output::line(text) }
}

async fn shown(memory: &Memory, user: User) -> Result<Shown, Failure> {
    let voice = memory.voiceprint(user.id).await?.is_some();
    let conversations = memory.count_conversations(user.id).await?;
    Ok(Shown { user, voice, conversations })
}

async fn list(memory: &Memory, json: bool) -> Result<(), Failure> {
    let mut users = Vec::new();
    for user in memory.list_users().await? {
        users.push(shown(memory, user).await?);
    }
    if json {
        return output::json(&users);
    }
    if users.is_empty() {
        return output::line("Nobody yet; `jarvisd user add NAME` adds a person.");
    }
    let rows: Vec<[String; 4]> = users
        .into_iter()
        .map(|Shown { user, voice, conversations }| {
            let voice = if voice { "enrolled" } else { "not enrolled" };
            [user.name, voice.to_owned(), conversations.to_string(), output::time(user.created_unix_ms)]
        })
        .collect();
    output::table(["NAME", "VOICE", "CONVERSATIONS", "ADDED"], &rows)
}

async fn show(memory: &Memory, args: &Named) -> Result<(), Failure> {
    let user = user_named(memory, &args.name).await?;
    let shown = shown(memory, user).await?;
    if args.json {
        return output::json(&shown);
    }
    let Shown { user, voice, conversations } = shown;
    let consent = user.consent_unix_ms.map_or("not given".to_owned(), output::time);
    output::table(
        ["NAME", &output::plain(&user.name)],
        &[
            ["Id".to_owned(), user.id.to_string()],
            ["Added".to_owned(), output::time(user.created_unix_ms)],
            ["Voice".to_owned(), if voice { "enrolled" } else { "not enrolled" }.to_owned()],
            ["Consent to voice".to_owned(), consent],
            ["Conversations".to_owned(), conversations.to_string()],
        ],
    )
}

async fn delete(settings: &Settings, memory: &Memory, args: &Delete) -> Result<(), Failure> {
    let user = user_named(memory, &args.name).await?;
    let name = output::plain(&user.name);
    if !confirmed(&format!("Delete {name} and everything of theirs for good?"), args.yes)? {
        return output::line("Nothing was deleted.");
    }
    memory.delete_user(user.id).await?;
    pins::clear(memory, user.id).await?;
    Recordings::of(&settings.paths.data).delete(user.id).await?;
    report(&Deleted { deleted: &user }, args.json, format!("Deleted {name} and everything of theirs."))
}
