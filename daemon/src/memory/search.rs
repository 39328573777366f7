//! Full-text search over one person's messages, with a cost that does not grow with their number.
//!
//! Owner, role and kind are words of the index, so the index is read only at possible messages of this
//! person. It is read from the newest message backwards and stops after a window of matches, which are ranked
//! among themselves: FTS5's own bm25 counts every match of every word first (95 ms for common words in
//! 100,000 messages).
//!
//! Words that are common but seldom together make the index read all of their lists. So the index is read in
//! two steps. The first covers the newest [`Reach::span`] messages of the device. If that was not enough, the
//! second covers everything before: at once if one of the words is rare there (then the index skips from one
//! of its messages to the next), else with the next page. Nothing is left out, each step has a bounded cost,
//! and a page says whether there is more.
//!
//! The index has no signs, so messages that it finds for C++ or .NET are compared as text ([`super::signs`]).
//!
//! One cost still grows: words of scripts that are matched as beginnings (see [`super::terms`]) collect all
//! words with that beginning.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::conversations::Page;
use super::messages::message_of;
use super::signs::Wanted;
use super::terms::terms_of;
use super::{Memory, Message, MessageId, Result, Role, UserId, get};
use crate::store::StoreError;

/// Most words of a query; more make it slower, not better.
const MAX_TERMS: usize = 16;
/// Most words of a query for forgetting, which must match all spoken words.
const MAX_FORGET_TERMS: usize = 256;
/// The newest matches, which are ranked among themselves. The next page continues at their end.
const WINDOW: u32 = 200;
/// If no message has all words: the newest messages of each word that are ranked.
const PER_WORD: u32 = 64;

/// The reach of one step of a search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Messages of this device, of all people, from the start of the step.
    pub(super) span: i64,
    /// A word with fewer messages than this before the span is rare.
    pub(super) rare: i64,
}

impl Reach {
    const USUAL: Self = Self { span: 32_768, rare: 256 };
}

/// A matching message.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    pub message: Message,
    /// Okapi bm25 with the lengths of messages taken as 60 bytes on average; better matches are more negative
    /// (the convention of SQLite's FTS5). Compares within one search only.
    pub rank: f64,
}

/// The start of the next page of a search, as text for clients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchCursor {
    /// Upper end (row number, exclusive) of the present window of matches.
    before: i64,
    /// The last listed message of the window: its rank and row number. Before the first message it is the
    /// best possible rank.
    rank: f64,
    rid: i64,
    state: State,
}

/// The progress of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Messages with all words are listed.
    All = 0,
    /// Messages with any of the words are listed, because none has all.
    Any = 1,
    /// No message with all words was found yet.
    Nothing = 2,
}

impl fmt::Display for SearchCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}.{}.{}", self.before, self.rank.to_bits(), self.rid, self.state as u8)
    }
}

impl FromStr for SearchCursor {
    type Err = &'static str;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        const NO: &str = "this is no place in a list of search results";
        let parts: Vec<&str> = text.split('.').collect();
        let [before, rank, rid, state] = parts.as_slice() else { return Err(NO) };
        let rank = f64::from_bits(u64::from_str_radix(rank, 16).map_err(|_| NO)?);
        let (before, rid) = (before.parse().map_err(|_| NO)?, rid.parse().map_err(|_| NO)?);
        if rank.is_nan() {
            return Err(NO);
        }
        let state = match *state {
            "0" => State::All,
            "1" => State::Any,
            "2" => State::Nothing,
            _ => return Err(NO),
        };
        Ok(Self { before, rank, rid, state })
    }
}

impl Serialize for SearchCursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

crate::store::sql::statements! {
    TOP = "SELECT coalesce(max(rid), 0) + 1 AS top FROM messages";
    // `hits` words of the message match: `highlight` puts one character before each.
    NEWEST = "SELECT f.rowid AS rid, length(highlight(messages_fts, 0, char(1), '')) - length(f.text) AS hits,
            octet_length(f.text) AS bytes
        FROM messages_fts f
        WHERE f.messages_fts MATCH 'owner : ' || coalesce((SELECT rid FROM users WHERE id = ?1), 0) || ?2
            AND f.rowid < ?3 AND f.rowid >= ?5
        ORDER BY f.rowid DESC LIMIT ?4";
    // Messages of all people: a list is read without looking at another one.
    HOW_MANY = "SELECT count(*) AS n FROM (SELECT rowid FROM messages_fts
        WHERE messages_fts MATCH ?1 AND rowid < ?2 ORDER BY rowid DESC LIMIT ?3)";
    RID = "SELECT rid FROM users WHERE id = ?1";
    ROWS = "SELECT m.rid, m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms,
            m.clock_synced, m.meta
        FROM json_each(?2) wanted CROSS JOIN messages m ON m.rid = wanted.value
        JOIN conversations c ON c.rid = m.conversation
        WHERE m.owner = (SELECT rid FROM users WHERE id = ?1)";
    MATCHING = "SELECT m.id AS id, c.id AS conversation_id, m.seq, m.role, m.kind, m.text, m.wall_unix_ms,
            m.clock_synced, m.meta
        FROM messages_fts f CROSS JOIN messages m ON m.rid = f.rowid JOIN conversations c
        ON c.rid = m.conversation
        WHERE f.messages_fts MATCH 'owner : ' || coalesce((SELECT rid FROM users WHERE id = ?1), 0) || ?2
            AND m.owner = (SELECT rid FROM users WHERE id = ?1)
        ORDER BY f.rowid DESC";
}

/// The result of one step.
struct Step {
    /// Newest first.
    found: Vec<Found>,
    /// Row number below which the index is unread; `None` if all was read.
    rest: Option<i64>,
}

/// How the words of a query combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    All,
    Any,
}

/// A match before its row is read.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    rid: i64,
    rank: f64,
}

impl Candidate {
    /// Precedes every other candidate.
    const BEST: Self = Self { rid: i64::MAX, rank: f64::NEG_INFINITY };

    /// Best first; of equal ones the newer.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.total_cmp(&other.rank).then(other.rid.cmp(&self.rid))
    }
}

impl Memory {
    /// Messages of `user` with all words of `text`; if none has all, those with any of them. The newest 200
    /// matches come first, sorted by rank, then the next 200, and so on. With any of the words, only the
    /// newest 64 of each word are ranked and listed. `text` is typed or spoken: nothing in it is query
    /// syntax.
    ///
    /// A page may have fewer than `limit` messages, or none, and still a next one: see the module. Messages
    /// written between two pages are not in the later one.
    pub async fn search(
        &self,
        user: UserId,
        text: &str,
        role: Option<Role>,
        from: Option<&SearchCursor>,
        limit: u32,
    ) -> Result<Page<Hit, SearchCursor>> {
        self.search_within(user, text, role, from, limit, Reach::USUAL).await
    }

    #[expect(clippy::too_many_arguments, reason = "those of `search`, and how far it looks")]
    pub(super) async fn search_within(
        &self,
        user: UserId,
        text: &str,
        role: Option<Role>,
        from: Option<&SearchCursor>,
        limit: u32,
        reach: Reach,
    ) -> Result<Page<Hit, SearchCursor>> {
        let (terms, signed) = (terms_of(text, MAX_TERMS), Wanted::of(text));
        let filter = role.map(|role| format!(" AND role : {}", role.as_str())).unwrap_or_default();
        let mut page = Vec::new();
        if terms.is_empty() {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
        let (mut before, mut after) = match from {
            Some(from) => (from.before, Some(Candidate { rid: from.rid, rank: from.rank })),
            None => (self.top().await?, None),
        };
        let mut state = from.map_or(State::Nothing, |from| from.state);
        let mut rest = None;
        while state != State::Any {
            let step = self.step(user, &filter, &terms, (before, WINDOW), reach).await?;
            let (full, end) = (step.found.len() >= WINDOW as usize, step.found.last().map(|found| found.rid));
            let found = self.fitting(user, &signed, step.found).await?;
            if !found.is_empty() {
                state = State::All;
            }
            page.extend(listed(rank_all(&found, terms.len()), after.take(), before));
            match (end, step.rest) {
                (Some(end), _) if full && page.len() < wanted => before = end,
                (_, more) => {
                    rest = more.filter(|_| !full);
                    break;
                }
            }
        }
        if rest.is_none() && state != State::All {
            // From the top, even if pages without any message came before.
            let before = if state == State::Any { before } else { self.top().await? };
            state = State::Any;
            let found = self.any(user, &filter, &terms, before, reach).await?;
            page.extend(listed(found, after, before));
        }
        let mut found = Page::of(page, limit, |(hit, before)| SearchCursor {
            before: *before,
            rank: hit.rank,
            rid: hit.rid,
            state,
        });
        let Candidate { rid, rank } = Candidate::BEST;
        found.next = found.next.or(rest.map(|before| SearchCursor { before, rank, rid, state }));
        let rids: Vec<i64> = found.items.iter().map(|(hit, _)| hit.rid).collect();
        let mut rows = self.rows(user, &rids).await?;
        let hits = found
            .items
            .into_iter()
            .filter_map(|(hit, _)| rows.remove(&hit.rid).map(|message| Hit { message, rank: hit.rank }))
            .filter(|hit| !signed.has_signs() || signed.any_in(&hit.message.text));
        Ok(Page { items: hits.collect(), next: found.next })
    }

    /// Words of `user` that match `text`, notes first. With all words, the newest of each kind; with any, the
    /// best of the newest 64 of each word. Questions to the memory are left out.
    ///
    /// Old messages are searched only if nothing newer matches.
    pub async fn recall(&self, user: UserId, text: &str, words: Words, limit: u32) -> Result<Vec<Message>> {
        self.recall_within(user, text, words, limit, Reach::USUAL).await
    }

    pub(super) async fn recall_within(
        &self,
        user: UserId,
        text: &str,
        words: Words,
        limit: u32,
        reach: Reach,
    ) -> Result<Vec<Message>> {
        let (terms, signed) = (terms_of(text, MAX_TERMS), Wanted::of(text));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found: Vec<i64> = Vec::new();
        let top = if terms.is_empty() { 0 } else { self.top().await? };
        for kind in ["note", "say"] {
            if terms.is_empty() || found.len() >= limit {
                break;
            }
            let filter = format!(" AND role : user AND kind : {kind}");
            let more = u32::try_from(limit - found.len()).unwrap_or(u32::MAX);
            match words {
                Words::All => {
                    let most = if signed.has_signs() { WINDOW } else { more };
                    let newest = self.last(user, &filter, &terms, (top, most), reach).await?;
                    let newest = self.fitting(user, &signed, newest).await?;
                    found.extend(newest.iter().map(|found| found.rid));
                }
                Words::Any => {
                    let any = self.any(user, &filter, &terms, top, reach).await?;
                    found.extend(any.iter().map(|candidate| candidate.rid));
                }
            }
        }
        found.truncate(limit);
        let mut rows = self.rows(user, &found).await?;
        let fits = |message: &Message| match words {
            Words::All => signed.all_in(&message.text),
            Words::Any => signed.any_in(&message.text),
        };
        Ok(found.iter().filter_map(|rid| rows.remove(rid)).filter(fits).collect())
    }

    /// Every message of `user`, of either side, with all words of `text`. It is for forgetting, so nothing is
    /// left out, whatever the number. Newest first.
    pub async fn matching(&self, user: UserId, text: &str) -> Result<Vec<MessageId>> {
        Ok(self.matching_messages(user, text).await?.iter().map(|message| message.id).collect())
    }

    /// As [`Memory::matching`], with the messages themselves.
    pub async fn matching_messages(&self, user: UserId, text: &str) -> Result<Vec<Message>> {
        let terms = terms_of(text, MAX_FORGET_TERMS);
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        let query = all_of("", &terms);
        let rows = self.read_all(sqlx::query(MATCHING).bind(user.bytes()).bind(query)).await?;
        let mut found = rows.iter().map(message_of).collect::<Result<Vec<Message>, _>>()?;
        let signed = Wanted::of(text);
        found.retain(|message| signed.all_in(&message.text));
        Ok(found)
    }

    /// The messages of `found` that have the words with their signs.
    async fn fitting(&self, user: UserId, signed: &Wanted, mut found: Vec<Found>) -> Result<Vec<Found>> {
        if signed.has_signs() && !found.is_empty() {
            let rids: Vec<i64> = found.iter().map(|found| found.rid).collect();
            let rows = self.rows(user, &rids).await?;
            found.retain(|found| rows.get(&found.rid).is_some_and(|row| signed.all_in(&row.text)));
        }
        Ok(found)
    }

    /// One above the highest row number.
    async fn top(&self) -> Result<i64> {
        let row = self.read_optional(sqlx::query(TOP)).await?;
        Ok(row.map(|row| get(&row, "top")).transpose()?.unwrap_or(1))
    }

    /// At most `from.1` newest messages with all of `terms` below the row number `from.0`.
    async fn step(
        &self,
        user: UserId,
        filter: &str,
        terms: &[String],
        (before, most): (i64, u32),
        reach: Reach,
    ) -> Result<Step> {
        let query = all_of(filter, terms);
        let end = before.saturating_sub(reach.span);
        let mut found = self.newest(user, &query, before, most, end.max(0)).await?;
        let left = most.saturating_sub(u32::try_from(found.len()).unwrap_or(most));
        if end <= 0 || left == 0 {
            return Ok(Step { found, rest: None });
        }
        if !self.is_rare(user, filter, terms, end, reach).await? {
            return Ok(Step { found, rest: Some(end) });
        }
        found.extend(self.newest(user, &query, end, left, 0).await?);
        Ok(Step { found, rest: None })
    }

    /// As [`Memory::step`], among the newest [`Reach::span`] messages or, if none of these match, among all
    /// earlier ones. The second step reads whole lists, for a person who waits for one answer.
    async fn last(
        &self,
        user: UserId,
        filter: &str,
        terms: &[String],
        (before, most): (i64, u32),
        reach: Reach,
    ) -> Result<Vec<Found>> {
        let step = self.step(user, filter, terms, (before, most), reach).await?;
        match step.rest {
            Some(rest) if step.found.is_empty() => {
                self.newest(user, &all_of(filter, terms), rest, most, 0).await
            }
            _ => Ok(step.found),
        }
    }

    /// Whether one of the lists that a query reads (of a word, a person, or a kind) is short below the row
    /// number `before`.
    async fn is_rare(
        &self,
        user: UserId,
        filter: &str,
        terms: &[String],
        before: i64,
        reach: Reach,
    ) -> Result<bool> {
        let Some(row) = self.read_optional(sqlx::query(RID).bind(user.bytes())).await? else {
            return Ok(true);
        };
        let owner = format!("owner : {}", get::<i64>(&row, "rid")?);
        let filters = filter.split(" AND ").filter(|part| !part.is_empty()).map(str::to_owned);
        for query in terms.iter().cloned().chain(filters).chain([owner]) {
            let count = sqlx::query(HOW_MANY).bind(query).bind(before).bind(reach.rare);
            let row = self.read_optional(count).await?;
            if row.map(|row| get::<i64>(&row, "n")).transpose()?.unwrap_or(0) < reach.rare {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The newest `limit` matches of `query` below the row number `before` and not below `end`, newest first.
    async fn newest(
        &self,
        user: UserId,
        query: &str,
        before: i64,
        limit: u32,
        end: i64,
    ) -> Result<Vec<Found>> {
        let newest = sqlx::query(NEWEST).bind(user.bytes()).bind(query).bind(before).bind(limit).bind(end);
        let rows = self.read_all(newest).await?;
        let found = rows.iter().map(|row| {
            Ok(Found { rid: get(row, "rid")?, hits: get(row, "hits")?, bytes: get(row, "bytes")? })
        });
        Ok(found.collect::<Result<_, StoreError>>()?)
    }

    /// The newest messages of each word, best first: rare words count more than common ones.
    async fn any(
        &self,
        user: UserId,
        filter: &str,
        terms: &[String],
        before: i64,
        reach: Reach,
    ) -> Result<Vec<Candidate>> {
        let mut ranks = BTreeMap::<i64, f64>::new();
        for term in terms {
            let newest =
                self.last(user, filter, std::slice::from_ref(term), (before, PER_WORD), reach).await?;
            let weight = rarity(&newest, before);
            for found in &newest {
                *ranks.entry(found.rid).or_default() -= weight * frequency(found.hits, found.bytes);
            }
        }
        let mut best: Vec<_> = ranks.into_iter().map(|(rid, rank)| Candidate { rid, rank }).collect();
        best.sort_by(Candidate::order);
        Ok(best)
    }

    async fn rows(&self, user: UserId, rids: &[i64]) -> Result<BTreeMap<i64, Message>> {
        let wanted = serde_json::json!(rids).to_string();
        let rows = self.read_all(sqlx::query(ROWS).bind(user.bytes()).bind(wanted)).await?;
        Ok(rows
            .iter()
            .map(|row| Ok((get(row, "rid")?, message_of(row)?)))
            .collect::<Result<_, StoreError>>()?)
    }
}

/// A match from the index.
struct Found {
    rid: i64,
    /// Number of matching words in the message.
    hits: i64,
    bytes: i64,
}

/// The query for messages with all of `terms`, narrowed by `filter`.
fn all_of(filter: &str, terms: &[String]) -> String {
    format!("{filter} AND {}", terms.join(" AND "))
}

/// Ranks matches that have all of `terms` words.
fn rank_all(found: &[Found], terms: usize) -> Vec<Candidate> {
    let terms = i64::try_from(terms.max(1)).unwrap_or(1);
    let rank = |found: &Found| Candidate {
        rid: found.rid,
        rank: -frequency(found.hits, found.bytes.saturating_div(terms)),
    };
    let mut ranked: Vec<_> = found.iter().map(rank).collect();
    ranked.sort_by(Candidate::order);
    ranked
}

/// The part of a ranked window after the last message of the previous page.
fn listed(
    ranked: Vec<Candidate>,
    after: Option<Candidate>,
    before: i64,
) -> impl Iterator<Item = (Candidate, i64)> {
    let behind = move |c: &Candidate| after.is_none_or(|after| after.order(c).is_lt());
    ranked.into_iter().filter(behind).map(move |candidate| (candidate, before))
}

/// Weight of the number of words in a message of this length: the second factor of Okapi bm25 with k1 = 1.2,
/// b = 0.75 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009).
#[expect(clippy::cast_precision_loss, reason = "lengths of messages")]
fn frequency(hits: i64, bytes: i64) -> f64 {
    const K1: f64 = 1.2;
    const B: f64 = 0.75;
    const AVERAGE_BYTES: f64 = 60.0;
    let hits = hits.max(1) as f64;
    hits * (K1 + 1.0) / (hits + K1 * (1.0 - B + B * bytes as f64 / AVERAGE_BYTES))
}

/// Inverse document frequency of a word, from the density of its newest messages below the row number
/// `before`.
#[expect(clippy::cast_precision_loss, reason = "counts of rows")]
fn rarity(found: &[Found], before: i64) -> f64 {
    let all = before.max(1) as f64;
    let with = match found.last() {
        Some(oldest) if found.len() >= PER_WORD as usize => {
            found.len() as f64 * all / (before - oldest.rid).max(1) as f64
        }
        _ => found.len() as f64,
    };
    (1.0 + (all - with).max(0.0) / (with + 0.5)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_results_survives_being_text() {
        for state in [State::All, State::Any, State::Nothing] {
            let cursor = SearchCursor { before: 12, rank: -1.25, rid: 7, state };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
            let cursor = SearchCursor { rank: f64::NEG_INFINITY, ..cursor };
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for odd in ["", "1.2.3", "a.b.c.d", "1.7ff8000000000000.1.0", "1.1.1.3", "1.1.1.1.1"] {
            assert!(odd.parse::<SearchCursor>().is_err(), "{odd}");
        }
    }

    #[test]
    fn rare_words_and_short_messages_weigh_more() {
        let found = |rids: std::ops::Range<i64>| -> Vec<Found> {
            rids.rev().map(|rid| Found { rid, hits: 1, bytes: 60 }).collect()
        };
        assert!(rarity(&found(5..8), 1_000_000) > rarity(&found(900_000..900_064), 1_000_000));
        assert!(rarity(&found(999_936..1_000_000), 1_000_000) < 0.1);
        assert!(frequency(1, 20) > frequency(1, 200));
        assert!(frequency(3, 60) > frequency(1, 60));
    }
}
