//! `jarvisd conversation`: the conversations of one person and the device.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Common, confirmed, output, shared_ids_are_known, user_named, with_memory};
use crate::app::Settings;
use crate::error::{Exit, Failure};
use crate::memory::{Conversation, ConversationId, ExportedMessage, Hit, Imported, Memory, Role};
use crate::plain::without_mark;

/// Largest file that is imported at once.
const MAX_IMPORT_BYTES: u64 = 256 << 20;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List a person's conversations, latest first.
    List(List),
    /// Show the messages of a conversation.
    Show(One),
    /// Give a conversation a title.
    Rename(Rename),
    /// Delete a conversation with its messages for good.
    Delete(Delete),
    /// Find messages that hold the given words.
    Search(Search),
    /// Write one conversation, or all of a person's, as JSON.
    Export(Export),
    /// Store conversations that `export` wrote. Those that are there already are left as they are.
    Import(Import),
}

/// The person whose conversations are read; nobody else's ever are.
#[derive(Debug, clap::Args)]
pub struct Owner {
    /// Person whose conversations these are.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    owner: Owner,
    /// At most this many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub struct One {
    #[command(flatten)]
    owner: Owner,
    /// Id, from `conversation list`.
    id: ConversationId,
}

#[derive(Debug, clap::Args)]
pub struct Rename {
    #[command(flatten)]
    owner: Owner,
    /// Id, from `conversation list`.
    id: ConversationId,
    /// The new title.
    title: String,
}

#[derive(Debug, clap::Args)]
pub struct Delete {
    #[command(flatten)]
    owner: Owner,
    /// Id, from `conversation list`.
    id: ConversationId,
    /// Do not ask; needed where there is no terminal to ask on.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub struct Search {
    #[command(flatten)]
    owner: Owner,
    /// Words to look for; messages with all of them come first.
    #[arg(required = true)]
    words: Vec<String>,
    /// At most this many.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub struct Export {
    #[command(flatten)]
    owner: Owner,
    /// Id of one conversation; all of the person's without it.
    id: Option<ConversationId>,
    /// File to write; standard output without it.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Import {
    #[command(flatten)]
    owner: Owner,
    /// File that `conversation export` or `user export` wrote; "-" is standard input.
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Deleted {
    deleted: ConversationId,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    with_memory(&settings, async |memory| match command {
        Command::List(args) => list(memory, &args).await,
        Command::Show(args) => show(memory, &args).await,
        Command::Rename(args) => {
            let user = user_named(memory, &args.owner.user).await?;
            memory.rename_conversation(user.id, args.id, &args.title).await?;
            let renamed = memory.conversation(user.id, args.id).await?;
            if args.owner.json {
                return output::json(&renamed);
            }
            output::line(format!("The conversation is now called \"{}\".", output::plain(&renamed.title)))
        }
        Command::Delete(args) => delete(memory, &args).await,
        Command::Search(args) => search(memory, &args).await,
        Command::Export(args) => export(memory, &args).await,
        Command::Import(args) => import(&settings, memory, &args).await,
    })
}

async fn list(memory: &Memory, args: &List) -> Result<(), Failure> {
    let user = user_named(memory, &args.owner.user).await?;
    let page = memory.list_conversations(user.id, None, args.limit).await?;
    if args.owner.json {
        return output::json(&page.items);
    }
    if page.items.is_empty() {
        return output::line(format!("{} has no conversations yet.", output::plain(&user.name)));
    }
    let row = |c: &Conversation| {
        [c.id.to_string(), output::time(c.updated_unix_ms), c.messages.to_string(), c.title.clone()]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    output::table(["ID", "LAST", "MESSAGES", "TITLE"], &rows)?;
    match page.next {
        Some(_) => output::line(format!("There are more; --limit shows more than {}.", args.limit)),
        None => Ok(()),
    }
}

async fn show(memory: &Memory, args: &One) -> Result<(), Failure> {
    let user = user_named(memory, &args.owner.user).await?;
    let whole = memory.export_conversation(user.id, args.id).await?;
    if args.owner.json {
        return output::json(&whole);
    }
    for ExportedMessage { message, .. } in &whole.messages {
        let who = match message.role {
            Role::User => user.name.as_str(),
            _ => "Jarvis",
        };
        let time = output::time(message.wall_unix_ms);
        output::line(format!("{time}  {}: {}", output::plain(who), output::plain(&message.text)))?;
    }
    Ok(())
}

async fn delete(memory: &Memory, args: &Delete) -> Result<(), Failure> {
    let user = user_named(memory, &args.owner.user).await?;
    let conversation = memory.conversation(user.id, args.id).await?;
    let question = format!(
        "Delete \"{}\" with its {} messages for good?",
        output::plain(&conversation.title),
        conversation.messages
    );
    if !confirmed(&question, args.yes)? {
        return output::line("Nothing was deleted.");
    }
    memory.delete_conversation(user.id, args.id).await?;
    if args.owner.json {
        return output::json(&Deleted { deleted: args.id });
    }
    output::line(format!("Deleted the conversation and its {} messages.", conversation.messages))
}

async fn search(memory: &Memory, args: &Search) -> Result<(), Failure> {
    let user = user_named(memory, &args.owner.user).await?;
    let words = args.words.join(" ");
    let mut found = memory.search(user.id, &words, None, None, args.limit).await?;
    let mut hits = std::mem::take(&mut found.items);
    // A page need not be full: the distant past is searched only on request.
    while hits.len() < args.limit as usize
        && let Some(from) = found.next
    {
        let left = args.limit.saturating_sub(u32::try_from(hits.len()).unwrap_or(u32::MAX));
        found = memory.search(user.id, &words, None, Some(&from), left).await?;
        hits.append(&mut found.items);
    }
    let more = found.next.is_some();
    if args.owner.json {
        return output::json(&hits);
    }
    if hits.is_empty() {
        return output::line("Nothing found.");
    }
    let row = |hit: &Hit| {
        let message = &hit.message;
        [message.conversation_id.to_string(), output::time(message.wall_unix_ms), message.text.clone()]
    };
    output::table(["CONVERSATION", "TIME", "TEXT"], &hits.iter().map(row).collect::<Vec<_>>())?;
    if more {
        output::line(format!("There are more; --limit shows more than {}.", args.limit))
    } else {
        Ok(())
    }
}

async fn export(memory: &Memory, args: &Export) -> Result<(), Failure> {
    let user = user_named(memory, &args.owner.user).await?;
    match args.id {
        Some(id) => output::json_to(args.out.as_deref(), &memory.export_conversation(user.id, id).await?),
        None => output::json_to(args.out.as_deref(), &memory.export_conversations(user.id).await?),
    }
}

async fn import(settings: &Settings, memory: &Memory, args: &Import) -> Result<(), Failure> {
    let user = user_named(memory, &args.owner.user).await?;
    shared_ids_are_known(settings, memory).await?;
    let done = memory.import_conversations(user.id, without_mark(&text_of(&args.file)?)).await?;
    if args.owner.json {
        return output::json(&done);
    }
    let Imported { conversations, messages, skipped } = done;
    output::line(format!("Imported {conversations} conversations with {messages} messages."))?;
    match skipped {
        0 => Ok(()),
        n => output::line(format!("{n} were there already and were left as they are.")),
    }
}

/// The text of a file that is small enough to be read at once.
fn text_of(file: &Path) -> Result<String, Failure> {
    let name = if file == Path::new("-") { Path::new("/dev/stdin") } else { file };
    let shown = file.display();
    let mut bytes = Vec::new();
    std::fs::File::open(name)
        .and_then(|open| open.take(MAX_IMPORT_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| Failure::because(Exit::Data, format!("{shown} cannot be read"), e))?;
    if bytes.len() as u64 > MAX_IMPORT_BYTES {
        let most = MAX_IMPORT_BYTES >> 20;
        return Err(Failure::new(
            Exit::Data,
            format!(
                "{shown} has more than {most} MiB; export single conversations and import one after the other"
            ),
        ));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new(Exit::Data, format!("{shown} is not UTF-8 text")))
}
