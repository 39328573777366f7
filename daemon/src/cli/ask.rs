//! `jarvisd ask`: one turn in writing.

use super::{Common, output, user_named, with_memory};
use crate::dialogue::{DialogueError, Select};
use crate::error::{Exit, Failure, chain};
use crate::memory::{ConversationId, TurnMeta};
use crate::pipeline::parts;

/// Says something in writing and prints the answer. The turn is stored like a spoken one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jarvisd ask --user Anna remember that the spare key is under the blue pot
  jarvisd ask --user Anna what do you remember about the spare key
  jarvisd ask --user Anna --new --json \"what time is it\"")]
pub struct Args {
    /// Who asks.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Conversation to go on with; the person's latest without it, if that is recent.
    #[arg(long, value_name = "ID", conflicts_with = "new")]
    conversation: Option<ConversationId>,
    /// Begin a new conversation.
    #[arg(long)]
    new: bool,
    /// Print the stored turn as JSON.
    #[arg(long)]
    json: bool,
    /// What is said.
    #[arg(required = true)]
    text: Vec<String>,
}

pub fn run(args: &Args, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    let text = args.text.join(" ");
    if text.trim().is_empty() {
        return Err(Failure::new(Exit::Usage, "there is nothing to ask; give some words"));
    }
    let select = match args.conversation {
        Some(id) => Select::Id(id),
        None if args.new => Select::New,
        None => Select::Continue,
    };
    with_memory(&settings, async |memory| {
        let user = user_named(memory, &args.user).await?;
        let dialogue = parts::open_dialogue(&settings, memory.clone());
        match dialogue.turn(&user, select, &text, TurnMeta::default()).await {
            Ok(outcome) if args.json => output::json(&outcome),
            Ok(outcome) => output::line(&outcome.reply),
            Err(error) => {
                // What was found is said, and that it is not stored is the failure.
                if let DialogueError::NotStored { reply, .. } = &error {
                    output::line(reply)?;
                }
                Err(Failure::new(error.exit(), chain(&error)))
            }
        }
    })
}
