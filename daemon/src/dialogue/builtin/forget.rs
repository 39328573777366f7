//! Forgetting: it names the things that go, asks if there are several, and can be undone for a while.
//!
//! The question is an answer that carries the ids of the things that it names ([`Message::asks_which`]); the
//! person's next turn in the conversation answers it. Neither the order nor the answer is stored with the
//! words that are forgotten: they would be the last trace.

use super::intent::{Intent, understand};
use super::rephrase::sentence;
use super::words::{command_of, without_full_stop};
use super::{ALSO, MAX_STATEMENTS, ask, named, recall};
use crate::dialogue::{Reply, TurnContext};
use crate::memory::{Kind, MemoryError, Message, MessageId, Role, UNDO_MINUTES};

/// Longest repetition of a statement, in characters.
const STATEMENT_CHARS: usize = 300;

/// Words of a choice that do not choose.
const FILLERS: &[&str] = &[
    "the", "one", "ones", "of", "them", "it", "these", "those", "and", "forget", "delete", "erase", "remove",
    "yes", "i", "mean", "meant", "number", "thing", "things", "just", "only", "that", "please", "two",
    "three",
];

/// Words that point at something that was named before, and name nothing themselves.
const POINTING: &[&str] = &[
    "both", "all", "them", "every", "each", "one", "ones", "other", "others", "thing", "things", "first",
    "second", "third", "last", "latest", "former", "latter", "two", "three", "then", "right", "away",
];

/// Something that a person said, once or several times in the same words.
struct Thing {
    /// "that the key is under the pot"
    clause: String,
    messages: Vec<MessageId>,
}

/// The things that the person said among `messages`, in their order.
fn things<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<Thing> {
    let mut things: Vec<Thing> = Vec::new();
    for message in messages {
        if message.role != Role::User || message.kind == Kind::Ask {
            continue;
        }
        let clause = clause(&recall::tell(message));
        match things.iter_mut().find(|thing| thing.clause.eq_ignore_ascii_case(&clause)) {
            Some(thing) => thing.messages.push(message.id),
            None => things.push(Thing { clause, messages: vec![message.id] }),
        }
    }
    things
}

/// "that the key is here" of "You told me that the key is here."
fn clause(told: &str) -> String {
    let told = without_full_stop(told);
    let clause = told.strip_prefix("You told me ").or_else(|| told.strip_prefix("You asked me to remember "));
    let clause = clause.unwrap_or(told);
    if clause.chars().count() <= STATEMENT_CHARS {
        return clause.to_owned();
    }
    clause.chars().take(STATEMENT_CHARS).chain(['…']).collect()
}

/// The first few clauses as a list, and the number of the others.
fn listed(clauses: &[&str]) -> String {
    let (told, rest) = clauses.split_at(clauses.len().min(MAX_STATEMENTS));
    match (told, rest.len()) {
        ([one], 0) => (*one).to_owned(),
        ([some @ .., last], 0) => format!("{}, and {last}", some.join(", ")),
        (_, more) => format!("{}, and {more} more", told.join(", ")),
    }
}

fn number(n: usize) -> String {
    const SMALL: &[&str] = &[
        "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve",
    ];
    SMALL.get(n).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}

fn count(n: usize) -> String {
    format!("{} {}", number(n), if n == 1 { "thing" } else { "things" })
}

/// Names the things forgotten and the way to get them back.
fn forgotten(what: &[&Thing], about: &str, forget: Vec<MessageId>) -> Reply {
    let clauses: Vec<&str> = what.iter().map(|thing| thing.clause.as_str()).collect();
    let (text, stored) = match clauses.as_slice() {
        [] => (
            format!(
                "You have told me nothing about {about}. What was asked and answered about it is forgotten."
            ),
            "I have forgotten what was asked and answered about it.".to_owned(),
        ),
        [one] => (sentence(format!("I have forgotten {one}")), "I have forgotten it.".to_owned()),
        all => (
            sentence(format!("I have forgotten {}: {}", count(all.len()), listed(all))),
            format!("I have forgotten {}.", count(all.len())),
        ),
    };
    let undo = format!("For {UNDO_MINUTES} minutes, while we go on talking, undo that brings it back.");
    ask(text).with(|effects| {
        effects.forget = forget;
        effects.if_undoable = Some(undo);
        effects.store_as = Some("forget everything about …".into());
        effects.answer_as = Some(stored);
    })
}

/// Asks which of several things is meant.
fn which(things: &[Thing], opening: &str) -> Reply {
    let clauses: Vec<&str> = things.iter().map(|thing| thing.clause.as_str()).collect();
    let all = if things.len() == 2 { "both" } else { "all of them" };
    let told = things.iter().take(MAX_STATEMENTS);
    let text = sentence(format!("{opening}: {}", listed(&clauses)))
        + &format!(" Tell me which one I shall forget, or {all}.");
    ask(text).with(|effects| {
        effects.sources = told.clone().flat_map(|thing| thing.messages.iter().copied()).collect();
        effects.which = told.filter_map(|thing| thing.messages.first().copied()).collect();
    })
}

/// Forgets the latest turn that said or recalled something; recalling it means the statement itself.
pub(super) async fn last(context: &TurnContext<'_>) -> Result<Reply, MemoryError> {
    for answer in context.recent.iter().rev().filter(|m| m.role == Role::Assistant) {
        let question = context.recent.iter().find(|m| m.seq == answer.seq - 1 && m.role == Role::User);
        let sources = context.memory.sources(answer.id).await?;
        if sources.is_empty() && question.is_none_or(|question| question.kind == Kind::Ask) {
            continue;
        }
        let said = context.memory.messages(&sources).await?;
        let things = things(if said.is_empty() {
            question.into_iter().collect()
        } else {
            said.iter().collect::<Vec<_>>()
        });
        if things.len() > 1 && (answer.text.contains(ALSO) || !answer.asks_which().is_empty()) {
            return Ok(which(&things, &format!("I said {}", count(things.len()))));
        }
        let forget = sources.into_iter().chain([answer.id]).collect();
        let reply = forgotten(&things.iter().collect::<Vec<_>>(), "that", forget);
        return Ok(reply.with(|effects| effects.store_as = None));
    }
    Ok(ask("There is nothing in this conversation to forget."))
}

/// Forgets messages with all words of `topic`: at once if they are one thing, or if all shall go (`all`).
pub(super) async fn about(context: &TurnContext<'_>, topic: &str, all: bool) -> Result<Reply, MemoryError> {
    let points = recall::terms(topic).iter().all(|term| POINTING.contains(&term.as_str()));
    let terms = if points { String::new() } else { recall::query(topic) };
    let matching = context.memory.matching(&terms).await?;
    let unname = context.memory.named_after(&terms).await?;
    if matching.is_empty() && unname.is_empty() {
        let text = if terms.is_empty() {
            "Please say what I should forget."
        } else {
            "I remember nothing about that."
        };
        return Ok(ask(text).with(|effects| effects.store_as = Some("forget everything about …".into())));
    }
    let things = things(&matching);
    let name = named(topic);
    if things.len() > 1 && !all {
        return Ok(which(&things, &format!("I know {} about {name}", count(things.len()))));
    }
    let forget = matching.iter().map(|message| message.id).collect();
    let reply = forgotten(&things.iter().collect::<Vec<_>>(), &name, forget);
    Ok(reply.with(|effects| effects.unname = unname))
}

/// The person's choice.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    All,
    None,
    /// Positions in the question.
    These(Vec<usize>),
    /// Agreement that does not say to what.
    Yes,
    /// Something else; its words may be those of one of the things.
    Words,
}

/// Whether `text` agrees and says nothing else.
fn agrees(text: &str) -> bool {
    const YES: &[&str] = &["yes", "yeah", "yep", "yup", "sure", "right", "okay", "ok", "alright", "please"];
    let words = command_of(text);
    !words.is_empty() && words.iter().all(|word| YES.contains(&word.norm.as_str()))
}

fn choice(text: &str, told: usize, topic: &[String]) -> Choice {
    const ALL: &[&str] = &["both", "all", "everything", "every", "each"];
    const NONE: &[&str] = &[
        "none",
        "neither",
        "no",
        "nothing",
        "never",
        "mind",
        "nevermind",
        "cancel",
        "keep",
        "not",
        "stop",
        "nope",
        "nah",
    ];
    if agrees(text) {
        return Choice::Yes;
    }
    let words = command_of(text);
    let norms: Vec<&str> = words.iter().map(|word| word.norm.as_str()).collect();
    let place = |word: &str| match word {
        "first" | "1st" | "1" | "former" => Some(0),
        "second" | "2nd" | "2" => Some(1),
        "third" | "3rd" | "3" => Some(2),
        "last" | "latter" => told.checked_sub(1),
        _ => None,
    };
    // "two" is the second one behind "number", and a word of "the two of them" else.
    if let [.., "number", n] = norms.as_slice() {
        let n = ["one", "two", "three"].iter().position(|word| word == n).or_else(|| place(n));
        return n.filter(|n| *n < told).map_or(Choice::Words, |n| Choice::These(vec![n]));
    }
    // "Both keys" and "the second key" say nothing about which key it is.
    let known = |word: &str| topic.iter().any(|term| recall::close(word, term));
    let telling: Vec<&str> =
        norms.iter().copied().filter(|word| !FILLERS.contains(word) && !known(word)).collect();
    let within = |set: &[&str]| !telling.is_empty() && telling.iter().all(|word| set.contains(word));
    if within(ALL) {
        return Choice::All;
    }
    if telling.contains(&"keep") || within(NONE) {
        return Choice::None;
    }
    let places: Option<Vec<usize>> =
        telling.iter().filter(|word| **word != "no").map(|word| place(word)).collect();
    match places {
        Some(places) if !places.is_empty() && places.iter().all(|at| *at < told) => Choice::These(places),
        _ => Choice::Words,
    }
}

/// The order that led to `question`: before it, and before each "yes" that chose nothing.
fn order_before<'a>(question: &Message, before: &'a [Message]) -> Option<&'a Message> {
    let mut seq = question.seq - 1;
    loop {
        let said = before.iter().find(|m| m.role == Role::User && m.seq == seq)?;
        if !agrees(&said.text) {
            return Some(said);
        }
        seq -= 2;
    }
}

/// The answer to the question of the turn before, if there was one and this is an answer to it.
pub(super) async fn chosen(context: &TurnContext<'_>, intent: &Intent) -> Result<Option<Reply>, MemoryError> {
    let Some((question, before)) = context.recent.split_last() else { return Ok(None) };
    let ids = question.asks_which();
    if ids.is_empty() {
        return Ok(None);
    }
    // The order that led to the question has the topic; after "forget that" the answer named it.
    let topic = match order_before(question, before).map(|order| understand(&order.text)) {
        Some(Intent::ForgetAbout(topic)) => Some(topic),
        _ => None,
    };
    let told = context.memory.messages(&ids).await?;
    let all = match &topic {
        Some(topic) => context.memory.matching(&recall::query(topic)).await?,
        None => context.memory.messages(&context.memory.sources(question.id).await?).await?,
    };
    let known = things(&all);
    let choice = choice(context.text, ids.len(), &topic.as_deref().map(recall::terms).unwrap_or_default());
    let picked: Vec<&Thing> = match &choice {
        Choice::None => return Ok(Some(ask("All right, I forget nothing."))),
        Choice::Yes if known.is_empty() => return Ok(None),
        Choice::Yes => return Ok(Some(which(&known, &format!("These are {}", count(known.len()))))),
        Choice::All => {
            let unname = match &topic {
                Some(topic) => context.memory.named_after(&recall::query(topic)).await?,
                None => Vec::new(),
            };
            let forget = all.iter().map(|message| message.id).chain([question.id]).collect();
            let about = topic.unwrap_or_default();
            let reply = forgotten(&known.iter().collect::<Vec<_>>(), &about, forget);
            return Ok(Some(reply.with(|effects| effects.unname = unname)));
        }
        Choice::These(places) => {
            let ids: Vec<MessageId> = places.iter().filter_map(|at| told.get(*at)).map(|m| m.id).collect();
            known.iter().filter(|thing| thing.messages.iter().any(|id| ids.contains(id))).collect()
        }
        Choice::Words => {
            let words = match intent {
                Intent::ForgetAbout(words) | Intent::ForgetAllAbout(words) => words,
                Intent::Other => context.text,
                _ => return Ok(None),
            };
            let mut terms = recall::terms(words);
            terms.retain(|term| !FILLERS.contains(&term.as_str()));
            let fits = |thing: &&Thing| !terms.is_empty() && recall::covers(&terms, &thing.clause);
            known.iter().filter(fits).collect()
        }
    };
    if picked.is_empty() {
        return Ok(None);
    }
    let several = picked.len() > 1 && !matches!(choice, Choice::These(_));
    if several && picked.len() < known.len() {
        let narrower: Vec<Thing> = known
            .iter()
            .filter(|thing| picked.iter().any(|one| one.clause == thing.clause))
            .map(|thing| Thing { clause: thing.clause.clone(), messages: thing.messages.clone() })
            .collect();
        return Ok(Some(which(&narrower, &format!("That is still {}", count(narrower.len())))));
    }
    if several {
        return Ok(Some(which(&known, &format!("These are {}", count(known.len())))));
    }
    let forget = picked.iter().flat_map(|thing| thing.messages.iter().copied()).collect();
    Ok(Some(forgotten(&picked, "it", forget)))
}

/// Brings back the last things forgotten in this conversation.
pub(super) async fn undo(context: &TurnContext<'_>) -> Result<Reply, MemoryError> {
    let undoable = match context.conversation {
        Some(conversation) => context.memory.undoable(conversation, context.now).await?,
        None => None,
    };
    let Some(undoable) = undoable else {
        return Ok(ask(format!(
            "There is nothing that I can bring back. I can for {UNDO_MINUTES} minutes after I have forgotten \
             something, as long as the same conversation goes on."
        )));
    };
    let said = undoable.said();
    let mut clauses: Vec<String> = Vec::new();
    for (_, text) in said.iter().rev() {
        let clause = clause(&recall::tell_text(text));
        if !clauses.contains(&clause) {
            clauses.push(clause);
        }
    }
    let clauses: Vec<&str> = clauses.iter().map(String::as_str).collect();
    let text = match clauses.as_slice() {
        [] => "It is back.".to_owned(),
        [one] => sentence(format!("I remember it again: {one}")),
        all => sentence(format!("I remember {} again: {}", count(all.len()), listed(all))),
    };
    let sources = said.iter().map(|(id, _)| *id).collect();
    Ok(ask(text).with(|effects| {
        effects.sources = sources;
        effects.bring_back = Some(undoable);
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_choose_in_many_ways() {
        let key = ["key".to_owned()];
        for text in [
            "both",
            "Both of them, please.",
            "yes, all",
            "forget everything",
            "all of them",
            "the two of them, both",
        ] {
            assert_eq!(choice(text, 2, &key), Choice::All, "{text}");
        }
        for text in ["yes", "Yeah.", "yes, please", "okay", "sure"] {
            assert_eq!(choice(text, 2, &key), Choice::Yes, "{text}");
        }
        for text in ["none", "neither", "No.", "nope", "never mind", "keep both", "nothing", "no, keep them"]
        {
            assert_eq!(choice(text, 2, &key), Choice::None, "{text}");
        }
        for (text, at) in [
            ("the first one", 0),
            ("second", 1),
            ("forget the second key", 1),
            ("the last one please", 1),
            ("number two", 1),
            ("1", 0),
        ] {
            assert_eq!(choice(text, 2, &key), Choice::These(vec![at]), "{text}");
        }
        assert_eq!(choice("the first and the third", 3, &key), Choice::These(vec![0, 2]));
        for text in ["the third", "the one in the drawer", "what time is it", "the first of may"] {
            assert_eq!(choice(text, 2, &key), Choice::Words, "{text}");
        }
    }
}
