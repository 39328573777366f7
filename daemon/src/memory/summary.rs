//! Long conversations: the part that a responder sees, within a budget of tokens.
//!
//! ```text
//!  seq 1 ─────────── summary_seq │ ─────────────────────── next_seq
//!      the running summary       │ the window: unchanged messages
//! ```
//!
//! The turn that makes the window larger than [`WINDOW_TOKENS`] moves its older half into the summary, in its
//! own transaction: the row written anyway gets longer, with no additional sync. The summary is extractive.
//! It holds the notes and the first sentences of messages, with the number of their message. It is made from
//! rows, so it can be made again. A trigger empties it when a covered message is deleted, and forgetting
//! makes it anew from the rest.
//!
//! A language model can replace the text of a summary ([`Memory::summary`], [`Memory::set_summary`]). The
//! covered range stays the same, and a summary of a message forgotten meanwhile is refused.

use std::collections::HashSet;

use super::messages::message_of;
use super::{ConversationId, Kind, Memory, MemoryError, Message, Result, Role, UserId, get};
use crate::store::{StoreError, Tx};

/// Tokens of the messages that a responder sees, without the summary.
pub const WINDOW_TOKENS: u32 = 2_000;
/// Longest summary, in bytes of UTF-8: a quarter of the window.
pub const MAX_SUMMARY_BYTES: usize = 1_500;
/// Most messages that one turn moves into the summary: a conversation from before there were summaries
/// catches up turn by turn.
const FOLD_AT_ONCE: u32 = 64;
/// Newest covered messages from which a summary is made anew after a forgetting.
const REBUILD_FROM: u32 = 512;
/// Most messages considered for the window.
const MAX_WINDOW_MESSAGES: u32 = 200;
/// Longest line of a summary, in characters.
const LINE_CHARS: usize = 140;
/// Number of telling words that make a sentence worth a line.
const TELLING_WORDS: usize = 2;

/// Tokens that a message of `bytes` bytes of UTF-8 costs a language model, estimated without its vocabulary:
/// one for three bytes, rounded up (English has four to a token, Chinese and Korean two to three), and four
/// around the message.
pub fn tokens_of(bytes: usize) -> usize {
    bytes.div_ceil(3) + 4
}

/// The part of a conversation that a responder sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Window {
    /// The summary of the messages before `messages`; may be empty.
    pub summary: String,
    /// The last messages, oldest first, within the budget. A message longer than the whole budget is cut.
    pub messages: Vec<Message>,
}

/// The running summary of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub text: String,
    /// `seq` of the last covered message; 0 for none.
    pub upto: i64,
    /// Number of messages of the conversation forgotten so far.
    forgotten: i64,
}

crate::store::sql::statements! {
    SUMMARY = "SELECT summary, summary_seq, next_seq - 1 - messages AS forgotten FROM conversations
        WHERE id = ?2 AND owner = (SELECT rid FROM users WHERE id = ?1)";
    SET_SUMMARY = "UPDATE conversations SET summary = ?3
        WHERE id = ?2 AND owner = (SELECT rid FROM users WHERE id = ?1) AND summary_seq = ?4
            AND next_seq - 1 - messages = ?5";
    SIZES = "SELECT m.seq, octet_length(m.text) AS bytes FROM messages m JOIN conversations c
        ON c.rid = m.conversation
        WHERE c.id = ?2 AND m.owner = (SELECT rid FROM users WHERE id = ?1) ORDER BY m.seq DESC LIMIT ?3";
    WINDOW = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, substr(m.text, 1,
            ?4) AS text, m.wall_unix_ms, m.clock_synced, m.meta
        FROM messages m JOIN conversations c ON c.rid = m.conversation
        WHERE c.id = ?2 AND m.owner = (SELECT rid FROM users WHERE id = ?1) AND m.seq >= ?3 ORDER BY m.seq";
    NAMED = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms,
            m.clock_synced, m.meta
        FROM messages m JOIN conversations c ON c.rid = m.conversation
        WHERE c.id = ?2 AND m.owner = (SELECT rid FROM users WHERE id = ?1)
            AND m.seq IN (SELECT value FROM json_each(?3)) ORDER BY m.seq DESC";
    STATE = "SELECT summary, summary_seq FROM conversations WHERE rid = ?1 AND owner = ?2";
    TAIL = "SELECT seq, octet_length(text) AS bytes FROM messages
        WHERE conversation = ?1 AND owner = ?2 AND seq > ?3 ORDER BY seq DESC LIMIT ?4";
    TO_FOLD = "SELECT seq, role, kind, substr(text, 1, 2000) AS text FROM messages
        WHERE conversation = ?1 AND owner = ?2 AND seq > ?3 AND seq < ?4 ORDER BY seq LIMIT ?5";
    COVERED = "SELECT seq, role, kind, substr(text, 1, 2000) AS text FROM messages
        WHERE conversation = ?1 AND owner = ?2 AND seq <= ?3 ORDER BY seq DESC LIMIT ?4";
    STORE = "UPDATE conversations SET summary = ?3, summary_seq = ?4 WHERE rid = ?1 AND owner = ?2";
}

impl Memory {
    /// The part of a conversation that a responder sees: the last messages within `tokens` (see
    /// [`tokens_of`]; the summary counts), and the summary of the earlier ones.
    pub async fn window(&self, user: UserId, id: ConversationId, tokens: u32) -> Result<Window> {
        let summary = self.summary(user, id).await?.text;
        let budget = usize::try_from(tokens).unwrap_or(usize::MAX).saturating_sub(tokens_of(summary.len()));
        let sizes = sqlx::query(SIZES).bind(user.bytes()).bind(id.bytes()).bind(MAX_WINDOW_MESSAGES);
        let sizes = sizes_of(&self.read_all(sizes).await?)?;
        let Some(from) = start_of(&sizes, budget) else {
            return Ok(Window { summary, messages: Vec::new() });
        };
        let cut = i64::try_from(budget.saturating_mul(3)).unwrap_or(i64::MAX);
        let window = sqlx::query(WINDOW).bind(user.bytes()).bind(id.bytes()).bind(from).bind(cut);
        let rows = self.read_all(window).await?;
        Ok(Window { summary, messages: rows.iter().map(message_of).collect::<Result<_, _>>()? })
    }

    /// The running summary of a conversation.
    pub async fn summary(&self, user: UserId, id: ConversationId) -> Result<Summary> {
        let row = self.read_optional(sqlx::query(SUMMARY).bind(user.bytes()).bind(id.bytes())).await?;
        let row = row.ok_or_else(|| MemoryError::not_found("conversation", id))?;
        let (text, upto) = (get(&row, "summary")?, get(&row, "summary_seq")?);
        Ok(Summary { text, upto, forgotten: get(&row, "forgotten")? })
    }

    /// Replaces the summary that was read as `of` by `text` (cut to [`MAX_SUMMARY_BYTES`]). `false` means
    /// that it has changed since, or a message was forgotten, and nothing was written.
    pub async fn set_summary(
        &self,
        user: UserId,
        id: ConversationId,
        of: &Summary,
        text: &str,
    ) -> Result<bool> {
        let (mut tx, stamp) = self.begin().await?;
        let set = sqlx::query(SET_SUMMARY)
            .bind(user.bytes())
            .bind(id.bytes())
            .bind(cut_bytes(&text.replace('\0', "\u{fffd}"), MAX_SUMMARY_BYTES))
            .bind(of.upto)
            .bind(of.forgotten);
        let done = tx.execute(set).await? > 0;
        if done {
            // The old summary is text of a person, and no row holds it any more.
            self.want_scrub(&mut tx, &stamp).await?;
        }
        tx.commit().await?;
        Ok(done)
    }

    /// The messages with sentences in the summary of a conversation, newest first.
    pub async fn gist(&self, user: UserId, id: ConversationId) -> Result<Vec<Message>> {
        let summary = self.summary(user, id).await?;
        let seqs: Vec<i64> = parse(&summary.text).1.iter().map(|line| line.seq).collect();
        if seqs.is_empty() {
            return Ok(Vec::new());
        }
        let named =
            sqlx::query(NAMED).bind(user.bytes()).bind(id.bytes()).bind(serde_json::json!(seqs).to_string());
        let rows = self.read_all(named).await?;
        Ok(rows.iter().map(message_of).collect::<Result<_, _>>()?)
    }
}

/// Moves messages too old for the window into the summary, in the transaction of a turn.
pub(super) async fn fold_within(tx: &mut Tx<'_>, owner: i64, conversation: i64) -> Result<()> {
    let Some(row) = tx.optional(sqlx::query(STATE).bind(conversation).bind(owner)).await? else {
        return Ok(());
    };
    let (summary, upto): (String, i64) = (get(&row, "summary")?, get(&row, "summary_seq")?);
    let tail = sqlx::query(TAIL).bind(conversation).bind(owner).bind(upto).bind(MAX_WINDOW_MESSAGES);
    let tail = sizes_of(&tx.all(tail).await?)?;
    let all: usize = tail.iter().map(|(_, bytes)| tokens_of(*bytes)).sum();
    let full = tail.len() >= MAX_WINDOW_MESSAGES as usize;
    if all <= WINDOW_TOKENS as usize && !full {
        return Ok(());
    }
    let Some(keep) = start_of(&tail, WINDOW_TOKENS as usize / 2) else { return Ok(()) };
    let old = sqlx::query(TO_FOLD).bind(conversation).bind(owner).bind(upto).bind(keep).bind(FOLD_AT_ONCE);
    let rows = tx.all(old).await?;
    let Some(last) = rows.last() else { return Ok(()) };
    let upto: i64 = get(last, "seq")?;
    let summary = fold(&summary, &lines_of(&rows)?);
    tx.execute(sqlx::query(STORE).bind(conversation).bind(owner).bind(summary).bind(upto)).await?;
    Ok(())
}

/// Makes the summary emptied by the trigger anew from the remaining messages, in the forgetting transaction.
/// It covered the messages up to `upto`.
pub(super) async fn rebuild_within(tx: &mut Tx<'_>, owner: i64, conversation: i64, upto: i64) -> Result<()> {
    let covered = sqlx::query(COVERED).bind(conversation).bind(owner).bind(upto).bind(REBUILD_FROM);
    let mut lines = lines_of(&tx.all(covered).await?)?;
    lines.reverse();
    let summary = fold("", &lines);
    tx.execute(sqlx::query(STORE).bind(conversation).bind(owner).bind(summary).bind(upto)).await?;
    Ok(())
}

/// `seq` of the last message that the summary of a conversation covers.
pub(super) async fn covered_within(tx: &mut Tx<'_>, owner: i64, conversation: i64) -> Result<i64> {
    let row = tx.optional(sqlx::query(STATE).bind(conversation).bind(owner)).await?;
    Ok(row.map(|row| get(&row, "summary_seq")).transpose()?.unwrap_or(0))
}

/// Pairs (seq, bytes), newest first.
fn sizes_of(rows: &[sqlx::sqlite::SqliteRow]) -> Result<Vec<(i64, usize)>, StoreError> {
    let size = |row| Ok((get(row, "seq")?, usize::try_from(get::<i64>(row, "bytes")?).unwrap_or(0)));
    rows.iter().map(size).collect()
}

/// `seq` of the oldest message that still fits into `budget` tokens; the newest message always counts.
fn start_of(newest_first: &[(i64, usize)], budget: usize) -> Option<i64> {
    let mut spent = 0;
    let fits = newest_first.iter().take_while(|(_, bytes)| {
        spent += tokens_of(*bytes);
        spent <= budget
    });
    fits.last().or_else(|| newest_first.first()).map(|(seq, _)| *seq)
}

/// One sentence of a summary and its message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    seq: i64,
    /// Whether the person asked to remember it.
    note: bool,
    text: String,
}

impl Line {
    fn written(&self) -> String {
        format!("[{}{}] {}", self.seq, if self.note { " note" } else { "" }, self.text)
    }

    /// Order in which lines are dropped for lack of room: the least telling first, of these the oldest.
    fn worth(&self) -> (bool, usize, i64) {
        (self.note, if self.note { 0 } else { telling(&self.text).min(8) }, self.seq)
    }
}

/// The lines for these messages: the person's statements, without questions and their answers.
fn lines_of(rows: &[sqlx::sqlite::SqliteRow]) -> Result<Vec<Line>, StoreError> {
    let mut lines = Vec::new();
    for row in rows {
        let (role, kind): (String, String) = (get(row, "role")?, get(row, "kind")?);
        let note = kind == Kind::Note.as_str();
        if role != Role::User.as_str() || kind == Kind::Ask.as_str() {
            continue;
        }
        let text = first_sentence(&get::<String>(row, "text")?);
        if note || telling(&text) >= TELLING_WORDS {
            lines.push(Line { seq: get(row, "seq")?, note, text });
        }
    }
    Ok(lines)
}

/// The first sentence of `text` on one line, at most [`LINE_CHARS`] long.
fn first_sentence(text: &str) -> String {
    let line = crate::text::tidy(text);
    let end = line
        .match_indices(['.', '!', '?', '。'])
        .map(|(at, mark)| at + mark.len())
        .find(|end| line.get(*end..).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')));
    let sentence = line.get(..end.unwrap_or(line.len())).unwrap_or(&line);
    if sentence.chars().count() <= LINE_CHARS {
        return sentence.to_owned();
    }
    let cut: String = sentence.chars().take(LINE_CHARS - 1).collect();
    let whole = cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words);
    format!("{whole}…")
}

/// Counts words of `text` that show its topic: long ones, numbers, names.
fn telling(text: &str) -> usize {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let tells = |word: &&str| {
        word.chars().count() >= 4
            || word.chars().any(|c| c.is_numeric() || c.is_uppercase() || c >= '\u{e00}')
    };
    words.filter(tells).count()
}

/// Splits a summary into (free text, lines made here).
fn parse(summary: &str) -> (Vec<&str>, Vec<Line>) {
    let (mut free, mut lines) = (Vec::new(), Vec::new());
    for line in summary.lines() {
        let parsed =
            line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).and_then(|(head, text)| {
                let (seq, note) = head.strip_suffix(" note").map_or((head, false), |seq| (seq, true));
                Some(Line { seq: seq.parse().ok()?, note, text: text.to_owned() })
            });
        match parsed {
            Some(line) => lines.push(line),
            None => free.push(line),
        }
    }
    (free, lines)
}

/// Adds `new` lines to `summary`, within [`MAX_SUMMARY_BYTES`]. Free text (a language model's) stays in
/// front.
fn fold(summary: &str, new: &[Line]) -> String {
    let (free, mut lines) = parse(summary);
    let free = cut_bytes(&free.join("\n"), MAX_SUMMARY_BYTES / 2);
    for line in new {
        let same = |old: &Line| old.seq == line.seq || old.text.to_lowercase() == line.text.to_lowercase();
        lines.retain(|old| !same(old));
        lines.push(line.clone());
    }
    let size = |line: &Line| line.written().len() + 1;
    let mut bytes = free.len() + 1 + lines.iter().map(size).sum::<usize>();
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|at| lines.get(*at).map(Line::worth));
    let mut dropped = HashSet::new();
    for at in order {
        if bytes <= MAX_SUMMARY_BYTES {
            break;
        }
        bytes -= lines.get(at).map_or(0, size);
        dropped.insert(at);
    }
    let kept =
        lines.iter().enumerate().filter(|(at, _)| !dropped.contains(at)).map(|(_, line)| line.written());
    let free = (!free.is_empty()).then_some(free);
    free.into_iter().chain(kept).collect::<Vec<_>>().join("\n")
}

/// The beginning of `text`, at most `most` bytes of whole characters.
fn cut_bytes(text: &str, most: usize) -> String {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= most).last();
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: i64, note: bool, text: &str) -> Line {
        Line { seq, note, text: text.to_owned() }
    }

    #[test]
    fn a_summary_is_bounded_and_keeps_what_was_to_be_remembered_longest() {
        let mut summary = fold("", &[line(1, true, "remember that the key is under the pot")]);
        for n in 1..200_i64 {
            let say = line(2 * n + 1, false, &format!("the weather of number {n} was rather nice"));
            summary = fold(&summary, &[say]);
            assert!(summary.len() <= MAX_SUMMARY_BYTES, "{}", summary.len());
        }
        assert!(summary.starts_with("[1 note] remember that the key is under the pot\n"), "{summary}");
        assert!(summary.contains("number 199") && !summary.contains("number 9 "), "{summary}");
        let (free, lines) = parse(&summary);
        assert!(free.is_empty() && lines.len() > 10);
        assert!(lines.windows(2).all(|two| two[0].seq < two[1].seq));
    }

    #[test]
    fn the_same_words_are_one_line_and_free_text_stays_in_front() {
        let folded = fold("Anna plans a trip.\n[3] The roof leaks", &[line(9, false, "the ROOF leaks")]);
        assert_eq!(folded, "Anna plans a trip.\n[9] the ROOF leaks");
        let long = "x".repeat(3 * MAX_SUMMARY_BYTES);
        assert!(fold(&long, &[line(1, false, "the roof leaks")]).len() <= MAX_SUMMARY_BYTES);
        assert_eq!(fold(&folded, &[]), folded);
    }

    #[test]
    fn a_line_is_the_first_sentence_of_what_was_said() {
        for (text, first) in [
            ("It is 3.14 metres. And so on.", "It is 3.14 metres."),
            ("no full stop", "no full stop"),
            ("line\nbreak\u{202e}! next", "line break!"),
            ("", ""),
        ] {
            assert_eq!(first_sentence(text), first);
        }
        let long = first_sentence(&"wörd ".repeat(100));
        assert!(long.chars().count() <= LINE_CHARS && long.ends_with("wörd…"), "{long}");
        assert!(telling("ok") < TELLING_WORDS && telling("um well yes") < TELLING_WORDS);
        assert!(telling("열쇠는 화분 아래") >= TELLING_WORDS);
    }

    #[test]
    fn a_window_starts_where_the_budget_ends() {
        let sizes = [(9, 30), (8, 30), (7, 30)];
        assert_eq!(start_of(&sizes, 28), Some(8));
        assert_eq!(start_of(&sizes, 1000), Some(7));
        assert_eq!(start_of(&sizes, 0), Some(9));
        assert_eq!(start_of(&[], 10), None);
    }
}
