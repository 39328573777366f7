//! The responder that needs no network: time, date, remembering, recalling, forgetting.

mod clock;
mod forget;
mod intent;
mod recall;
mod rephrase;
mod words;

use jiff::tz::TimeZone;

use self::intent::{Intent, understand};
use self::rephrase::{inside_a_sentence, second_person, sentence};
use super::{Reply, TurnContext};
use crate::memory::{ConversationId, Effects, Kind, MemoryError, Message, MessageId, Role};

/// Name under which answers are stored.
pub(super) const NAME: &str = "builtin";
/// Statements in one spoken answer: nobody can follow more than a few.
const MAX_STATEMENTS: usize = 3;
/// Between two statements of one answer.
const ALSO: &str = " You also ";

/// The built-in responder.
#[derive(Debug, Clone, Default)]
pub struct Builtin {
    /// Time zone of the device's place. By default that of the system, looked up at every question so that a
    /// change of it is followed.
    pub time_zone: Option<TimeZone>,
}

impl Builtin {
    /// Answers one turn. Nothing is written here.
    pub async fn respond(&self, context: &TurnContext<'_>) -> Result<Reply, MemoryError> {
        let intent = understand(context.text);
        if let Some(reply) = forget::chosen(context, &intent).await? {
            return Ok(reply);
        }
        Ok(match intent {
            Intent::Nothing => ask("I did not hear any words."),
            Intent::Remember { statement, clause } => note(sentence(format!(
                "I will remember {}{}",
                if clause { "that " } else { "" },
                second_person(&inside_a_sentence(&statement))
            ))),
            Intent::RememberWhat => {
                ask("Please say what I should remember, such as: remember that the key is under the pot.")
            }
            Intent::Remind(what) => note(
                sentence(format!(
                    "I will remember that you want to {}",
                    second_person(&inside_a_sentence(&what))
                )) + " I cannot remind you by myself yet, but you can ask me.",
            ),
            Intent::Recall(topic) => match tell_about(context, &topic).await? {
                Some(reply) => reply,
                None if recall::terms(&topic).is_empty() => tell_notes(context).await?,
                None => {
                    ask(format!("You have not told me anything about {} that I remember.", named(&topic)))
                }
            },
            Intent::RecallAll => tell_notes(context).await?,
            Intent::TalkedAbout => tell_talk(context).await?,
            Intent::WhoAmI => ask(format!("You are {}.", context.user.name)),
            Intent::ForgetThat => order(forget::last(context).await?),
            Intent::ForgetAbout(topic) => order(forget::about(context, &topic, false).await?),
            Intent::ForgetAllAbout(topic) => order(forget::about(context, &topic, true).await?),
            Intent::ForgetConversation => ask(
                "I do not forget a whole conversation when I am told to: say what it is about, or delete it \
                 with the command jarvisd conversation delete.",
            ),
            Intent::Undo => order(forget::undo(context).await?),
            Intent::ForgetEverything => {
                ask("That would delete everything you ever told me, so a voice is not enough. \
                 Whoever looks after me can do it for you.")
            }
            Intent::NewConversation => {
                ask("All right, a new conversation.").with(|effects| effects.new_conversation = true)
            }
            Intent::Time => self.tell_clock(context, |now| format!("It is {}.", clock::time_of_day(now))),
            Intent::Date => self.tell_clock(context, |now| format!("It is {}.", clock::date(now))),
            Intent::TimeAndDate => self.tell_clock(context, |now| {
                format!("It is {} on {}.", clock::time_of_day(now), clock::date(now))
            }),
            Intent::Greeting => ask(format!("Hello {}.", context.user.name)),
            Intent::HowAreYou => ask("I am well, thank you. What can I do for you?"),
            Intent::Thanks => ask("You are welcome."),
            Intent::Goodbye => ask(format!("Goodbye {}.", context.user.name)),
            Intent::Help => ask(
                "You can say: remember that the key is under the pot. Then ask: what do you remember about \
                 the key. I also tell the time and the date, what we talked about, and I forget what you ask \
                 me to forget; undo that brings it back for a while.",
            ),
            Intent::Cancel => ask("All right."),
            Intent::Question(topic) => match tell_about(context, &topic).await? {
                Some(reply) => reply,
                None => ask("I do not know that. If you tell me to remember it, I will."),
            },
            Intent::Other => {
                ask("I heard you. Say help to hear what I can do.").with(|effects| effects.kind = Kind::Say)
            }
        })
    }

    fn tell_clock(&self, context: &TurnContext<'_>, say: impl Fn(&jiff::Zoned) -> String) -> Reply {
        let zone = self.time_zone.clone().unwrap_or_else(TimeZone::system);
        match clock::local(context.now, &zone) {
            Some(now) => ask(say(&now)),
            None => ask("I do not know the time yet: my clock has not been set."),
        }
    }
}

/// A reply to words that are nothing to remember.
fn ask(text: impl Into<String>) -> Reply {
    Reply { text: text.into(), effects: Effects { kind: Kind::Ask, ..Effects::default() } }
}

/// A reply to words that order the memory to change.
fn order(reply: Reply) -> Reply {
    reply.with(|effects| effects.order = true)
}

/// A reply to words that are to be remembered.
fn note(text: String) -> Reply {
    ask(text).with(|effects| effects.kind = Kind::Note)
}

/// `topic` of a question or an order, told to the person: without the marks that end the sentence.
fn named(topic: &str) -> String {
    let topic = topic.trim_end_matches(['?', ' ']);
    let called = topic.strip_suffix('!').filter(|rest| rest.ends_with(char::is_alphabetic));
    second_person(&inside_a_sentence(called.unwrap_or(topic)))
}

/// Repeats the person's own statements about `topic`; `None` if they said nothing about it.
async fn tell_about(context: &TurnContext<'_>, topic: &str) -> Result<Option<Reply>, MemoryError> {
    let found = recall::find(context.memory, topic).await?;
    Ok((!found.is_empty()).then(|| tell(&found)))
}

async fn tell_notes(context: &TurnContext<'_>) -> Result<Reply, MemoryError> {
    let notes = context.memory.notes(20).await?;
    Ok(if notes.is_empty() { ask("You have not asked me to remember anything.") } else { tell(&notes) })
}

/// Tells the first few of `messages`, each statement once.
fn tell(messages: &[Message]) -> Reply {
    let mut said: Vec<String> = Vec::new();
    let mut sources: Vec<MessageId> = Vec::new();
    let mut more = 0;
    for message in messages {
        let sentence = recall::tell(message);
        if said.iter().any(|earlier| earlier.eq_ignore_ascii_case(&sentence)) {
            // The same words again: forgetting the answer's sources must take both.
            sources.push(message.id);
        } else if said.len() < MAX_STATEMENTS {
            said.push(sentence);
            sources.push(message.id);
        } else {
            more += 1;
        }
    }
    let mut text = String::new();
    for (i, sentence) in said.iter().enumerate() {
        match (i, sentence.strip_prefix("You ")) {
            (0, _) | (_, None) => text.push_str(sentence),
            (_, Some(rest)) => text.push_str(&format!("{ALSO}{rest}")),
        }
    }
    match more {
        0 => {}
        1 => text.push_str(" There is one more."),
        n => text.push_str(&format!(" There are {n} more.")),
    }
    ask(text).with(|effects| effects.sources = sources)
}

/// Tells the subject of this conversation; if it has just begun, that of the previous one.
async fn tell_talk(context: &TurnContext<'_>) -> Result<Reply, MemoryError> {
    let told = |messages: &[Message]| -> Vec<Message> {
        let mine = messages.iter().rev().filter(|m| m.role == Role::User && m.kind != Kind::Ask);
        mine.cloned().collect()
    };
    let mut talk = told(context.recent);
    if let Some(conversation) = context.conversation.filter(|_| !context.summary.is_empty()) {
        add_gist(context, conversation, &mut talk).await?;
    }
    if talk.is_empty() {
        for earlier in context.memory.earlier(5, 40).await? {
            talk = told(&earlier);
            if let Some(last) = earlier.last() {
                add_gist(context, last.conversation_id, &mut talk).await?;
            }
            if !talk.is_empty() {
                break;
            }
        }
    }
    Ok(if talk.is_empty() { ask("We have not talked about anything yet.") } else { tell(&talk) })
}

/// Adds the part of `conversation`'s summary that comes before `talk`.
async fn add_gist(
    context: &TurnContext<'_>,
    conversation: ConversationId,
    talk: &mut Vec<Message>,
) -> Result<(), MemoryError> {
    let gist = context.memory.gist(conversation).await?;
    let new: Vec<_> = gist.into_iter().filter(|m| !talk.iter().any(|said| said.id == m.id)).collect();
    talk.extend(new);
    Ok(())
}
