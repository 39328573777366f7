//! `jarvisd ask`: one turn in writing.

use serde::Serialize;

use super::{Common, output, user_named, with_memory};
use crate::app::parts;
use crate::config::Live;
use crate::dialogue::{DialogueError, Select, TurnOutcome};
use crate::error::{Exit, Failure, chain};
use crate::memory::{ConversationId, SessionId, TurnMeta};

/// Says something in writing and prints the answer. The turn is stored like a spoken one.
///
/// If it cannot be stored, the answer is printed with a mark, and the command fails. An order to remember or
/// forget something is then answered with the reason why it was not carried out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jarvisd ask --user Anna remember that the spare key is under the blue pot
  jarvisd ask --user Anna what do you remember about the spare key
  jarvisd ask --user Anna --new --json \"what time is it\"
  jarvisd ask --user Anna --session tablet hello        the same conversation each time")]
pub struct Args {
    /// Person who asks.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Conversation to go on with; the person's latest on this device without it, if that is recent.
    #[arg(long, value_name = "ID", conflicts_with_all = ["new", "session"])]
    conversation: Option<ConversationId>,
    /// Your own name for a conversation: the same one each time, begun where there is none.
    #[arg(long, value_name = "ID", conflicts_with = "new")]
    session: Option<SessionId>,
    /// Begin a new conversation.
    #[arg(long)]
    new: bool,
    /// Print the turn as JSON.
    #[arg(long)]
    json: bool,
    /// Text to say.
    #[arg(required = true)]
    text: Vec<String>,
}

/// A turn as `--json` prints it.
#[derive(Debug, Serialize)]
struct Stored<'a> {
    stored: bool,
    #[serde(flatten)]
    turn: &'a TurnOutcome,
}

/// The answer of a turn that is not on the disk.
#[derive(Debug, Serialize)]
struct NotStored<'a> {
    stored: bool,
    reply: &'a str,
}

pub fn run(args: &Args, common: &Common) -> Result<(), Failure> {
    let settings = common.settings()?;
    let text = args.text.join(" ");
    if text.trim().is_empty() {
        return Err(Failure::new(Exit::Usage, "there is nothing to ask; give some words"));
    }
    let select = match (args.conversation, &args.session) {
        (Some(id), _) => Select::Id(id),
        (None, Some(session)) => Select::Session(session.clone()),
        (None, None) if args.new => Select::New,
        (None, None) => Select::Continue,
    };
    with_memory(&settings, async |memory| {
        let user = user_named(memory, &args.user).await?;
        let dialogue = parts::open_dialogue(&Live::new(settings.dialogue.clone()), memory.clone());
        match dialogue.turn(&user, select, &text, TurnMeta::default()).await {
            Ok(turn) if args.json => output::json(&Stored { stored: true, turn: &turn }),
            Ok(turn) => output::line(&turn.reply),
            Err(error) => {
                if let DialogueError::NotStored { reply, acts, .. } = &error {
                    let reply = &if *acts { error.answer() } else { reply.clone() };
                    if args.json {
                        output::json(&NotStored { stored: false, reply })?;
                    } else {
                        output::line(format!("(not stored) {reply}"))?;
                    }
                }
                Err(Failure::new(error.exit(), chain(&error)))
            }
        }
    })
}
