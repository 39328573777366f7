//! Full-text search over one person's messages.

use serde::Serialize;

use super::messages::message_of;
use super::{Memory, Message, MessageId, Result, Role, UserId, get};

/// A query uses at most this many words; more make it slower, not better.
const MAX_TERMS: usize = 16;

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    pub message: Message,
    /// bm25, better matches are more negative (the convention of SQLite's FTS5).
    pub rank: f64,
}

crate::store::sql::statements! {
    // The inner query sorts row numbers; only the rows that are returned are read in full.
    SEARCH = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms, m.clock_synced,
            m.meta, hit.rank AS rank
        FROM (SELECT own.rid AS rid, bm25(messages_fts) AS rank
            FROM messages_fts JOIN messages own ON own.rid = messages_fts.rowid
            WHERE messages_fts MATCH ?2 AND own.owner = (SELECT rid FROM users WHERE id = ?1)
                AND (?3 IS NULL OR own.role = ?3)
            ORDER BY rank, own.rid DESC LIMIT ?4) hit
        JOIN messages m ON m.rid = hit.rid JOIN conversations c ON c.rid = m.conversation
        ORDER BY hit.rank, m.rid DESC";
    RECALL = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms, m.clock_synced,
            m.meta
        FROM (SELECT own.rid AS rid, own.kind = 'note' AS note
            FROM messages_fts JOIN messages own ON own.rid = messages_fts.rowid
            WHERE messages_fts MATCH ?2 AND own.owner = (SELECT rid FROM users WHERE id = ?1) AND own.role = 'user'
                AND own.kind <> 'ask'
            ORDER BY note DESC, own.rid DESC LIMIT ?3) hit
        JOIN messages m ON m.rid = hit.rid JOIN conversations c ON c.rid = m.conversation
        ORDER BY hit.note DESC, m.rid DESC";
    MATCHING = "SELECT m.id AS id FROM messages_fts JOIN messages m ON m.rid = messages_fts.rowid
        WHERE messages_fts MATCH ?2 AND m.owner = (SELECT rid FROM users WHERE id = ?1)";
}

/// How the words of a query combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    All,
    Any,
}

impl Memory {
    /// Messages of `user` with all words of `text`, best first; with any of them, if none has all.
    /// `text` is what a person typed or said: nothing in it is query syntax.
    pub async fn search(&self, user: UserId, text: &str, role: Option<Role>, limit: u32) -> Result<Vec<Hit>> {
        for words in [Words::All, Words::Any] {
            let Some(query) = fts_query(text, words) else { break };
            let query =
                sqlx::query(SEARCH).bind(user.bytes()).bind(query).bind(role.map(Role::as_str)).bind(limit);
            let rows = self.read_all(query).await?;
            if !rows.is_empty() {
                let hits =
                    rows.iter().map(|row| Ok(Hit { message: message_of(row)?, rank: get(row, "rank")? }));
                return hits.collect();
            }
        }
        Ok(Vec::new())
    }

    /// What `user` said that matches `text`: what was to be remembered first, then the newest. Questions to the memory
    /// are left out.
    pub async fn recall(&self, user: UserId, text: &str, words: Words, limit: u32) -> Result<Vec<Message>> {
        let Some(query) = fts_query(text, words) else { return Ok(Vec::new()) };
        let rows = self.read_all(sqlx::query(RECALL).bind(user.bytes()).bind(query).bind(limit)).await?;
        Ok(rows.iter().map(message_of).collect::<Result<_, _>>()?)
    }

    /// Every message of `user`, of either side, with all words of `text`: for forgetting.
    pub async fn matching(&self, user: UserId, text: &str) -> Result<Vec<MessageId>> {
        let Some(query) = fts_query(text, Words::All) else { return Ok(Vec::new()) };
        let rows = self.read_all(sqlx::query(MATCHING).bind(user.bytes()).bind(query)).await?;
        Ok(rows.iter().map(|row| MessageId::read(row, "id")).collect::<Result<_, _>>()?)
    }
}

/// An FTS5 query with the words of `text`: each a quoted string, which has no syntax inside. Words that are not ASCII
/// match as beginnings, because languages such as Korean put particles behind a word. `None` if there are no words.
fn fts_query(text: &str, words: Words) -> Option<String> {
    let mut terms: Vec<String> = Vec::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let term = if word.is_ascii() { format!("\"{word}\"") } else { format!("\"{word}\"*") };
        if !terms.contains(&term) {
            terms.push(term);
        }
        if terms.len() == MAX_TERMS {
            break;
        }
    }
    let joined = terms.join(match words {
        Words::All => " AND ",
        Words::Any => " OR ",
    });
    (!joined.is_empty()).then_some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_no_syntax_whatever_the_text_contains() {
        let all = |text| fts_query(text, Words::All);
        assert_eq!(all("spare key").as_deref(), Some("\"spare\" AND \"key\""));
        assert_eq!(all("\"a\" OR b* NEAR(c, 2) ^d -e col:f").unwrap().matches('"').count() % 2, 0);
        assert_eq!(all("it's").as_deref(), Some("\"it\" AND \"s\""));
        assert_eq!(all("열쇠").as_deref(), Some("\"열쇠\"*"));
        assert_eq!(all("key key KEY").as_deref(), Some("\"key\" AND \"KEY\""));
        assert_eq!(all(""), None);
        assert_eq!(all("🙂 … \0 \"\" --"), None);
        assert_eq!(fts_query(&"word ".repeat(10_000), Words::Any).as_deref(), Some("\"word\""));
    }
}
