//! Names that people and clients gave to conversations: they are forgotten together with their topic.

use std::collections::BTreeSet;

use super::messages::retitle;
use super::signs::{Wanted, words_of};
use super::terms::is_run_letter;
use super::{ConversationId, Memory, Result, UserId, get, named};
use crate::clock::Stamp;
use crate::store::Tx;
use crate::store::queue::{Op, enqueue};

crate::store::sql::statements! {
    NAMED = "SELECT id, title, coalesce(session_id, '') AS session FROM conversations
        WHERE owner = (SELECT rid FROM users WHERE id = ?1) AND (title_by_user = 1
        OR session_id IS NOT NULL)";
    NAME = "SELECT rid FROM conversations WHERE id = ?2 AND owner = ?1";
    UNNAME = "UPDATE conversations SET title = '', title_by_user = 0, session_id = NULL, named = ?3
        WHERE rid = ?2 AND owner = ?1";
}

impl Memory {
    /// Conversations of `user` with all words of `text` in their session id, or in their title if a person
    /// gave it. Words match by their beginnings, so a superfluous match is preferred to a missed one.
    pub async fn named_after(&self, user: UserId, text: &str) -> Result<Vec<ConversationId>> {
        let (wanted, signed) = (words_of(text), Wanted::of(text));
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for row in self.read_all(sqlx::query(NAMED).bind(user.bytes())).await? {
            let names: [String; 2] = [get(&row, "title")?, get(&row, "session")?];
            let named = names.iter().any(|name| {
                let words = words_of(name);
                let begun = wanted.iter().all(|want| words.iter().any(|word| begins(word, want)));
                begun && signed.all_in(name)
            });
            if named {
                found.push(ConversationId::read(&row, "id")?);
            }
        }
        Ok(found)
    }
}

/// Removes title and session id from `conversations` of `owner`; the title becomes an automatic one. Returns
/// the number of conversations changed.
pub(super) async fn unname_within(
    tx: &mut Tx<'_>,
    user: UserId,
    owner: i64,
    conversations: &[ConversationId],
    stamp: &Stamp,
) -> Result<usize> {
    let mut unnamed = 0;
    for id in conversations {
        let row = tx.optional(sqlx::query(NAME).bind(owner).bind(id.bytes())).await?;
        let Some(row) = row else { continue };
        let rid: i64 = get(&row, "rid")?;
        let named = named::now_after(&named::of_conversation(tx, rid, owner).await?, stamp);
        tx.execute(sqlx::query(UNNAME).bind(owner).bind(rid).bind(named::bytes(&named))).await?;
        enqueue(tx, Op::UpsertConversation, id.0, Some(user.0), stamp.wall_unix_ms).await?;
        retitle(tx, user, owner, BTreeSet::from([rid]), stamp).await?;
        unnamed += 1;
    }
    Ok(unnamed)
}

fn begins(word: &str, want: &str) -> bool {
    word.starts_with(want)
        || (want.contains(is_run_letter) && word.contains(want))
        || (word.chars().count() >= 3 && want.starts_with(word))
}
