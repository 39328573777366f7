//! Deletions of other devices, done here as forgetting is done here.

use super::Outcome::{self, Erased, Left, Refused};
use super::{CONVERSATION, DELETE_VOICEPRINT, bytes, rid_of_user, uuid_of};
use crate::clock::Stamp;
use crate::memory::messages::forget_in;
use crate::memory::{MessageId, Result, UserId, get};
use crate::store::Tx;
use crate::store::postgres::read::Tombstone;

crate::store::sql::statements! {
    BURY = "INSERT INTO tombstones (kind, id, user_id, deleted_unix_ms) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    OWNER_OF_VOICEPRINT = "SELECT u.id AS id FROM voiceprints v JOIN users u ON u.rid = v.owner WHERE v.id = ?1";
    OWNER_OF_MESSAGE = "SELECT u.id AS id, u.rid AS rid FROM messages m JOIN users u ON u.rid = m.owner WHERE m.id = ?1";
    FORGET_PENDING = "DELETE FROM queue WHERE entity_id = ?1";
    FORGET_DEAD = "DELETE FROM dead_letter WHERE entity_id = ?1";
    /// Queue entries and dead letters of a whole conversation.
    FORGET_PENDING_MESSAGES = "DELETE FROM queue WHERE entity_id IN (SELECT id FROM messages WHERE conversation = ?1)";
    FORGET_DEAD_MESSAGES = "DELETE FROM dead_letter WHERE entity_id IN (SELECT id FROM messages WHERE conversation = ?1)";
    DELETE_MESSAGES = "DELETE FROM messages WHERE conversation = ?1";
    DELETE_CONVERSATION = "DELETE FROM conversations WHERE rid = ?1";
    DELETE_MESSAGES_OF_USER = "DELETE FROM messages WHERE owner = ?1
        AND conversation IN (SELECT rid FROM conversations WHERE owner = ?1)";
    DELETE_CONVERSATIONS_OF_USER = "DELETE FROM conversations WHERE owner = ?1";
    DELETE_VOICEPRINT_OF_USER = "DELETE FROM voiceprints WHERE owner = ?1";
    DELETE_USER = "DELETE FROM users WHERE rid = ?1";
    FORGET_PENDING_OF_USER = "DELETE FROM queue WHERE user_id = ?1 AND op <> 'append_audit'";
    FORGET_DEAD_OF_USER = "DELETE FROM dead_letter WHERE user_id = ?1";
    FORGET_TOMBSTONES_OF_USER = "DELETE FROM tombstones WHERE user_id = ?1";
    ANONYMISE_AUDIT = "UPDATE queue SET user_id = NULL WHERE user_id = ?1 AND op = 'append_audit'";
}

/// Deletes what was deleted elsewhere. `Erased` if there was something to delete.
pub(super) async fn bury(tx: &mut Tx<'_>, row: &Tombstone, stamp: &Stamp) -> Result<Outcome> {
    let (id, owner) = (bytes(&row.id), bytes(&row.owner));
    let gone = match row.kind.as_str() {
        "user" if row.id != row.owner => return Ok(Refused("it is of another person")),
        "user" => match rid_of_user(tx, &row.id).await? {
            Some(rid) => {
                let all = [
                    DELETE_MESSAGES_OF_USER,
                    DELETE_CONVERSATIONS_OF_USER,
                    DELETE_VOICEPRINT_OF_USER,
                    DELETE_USER,
                ];
                for sql in all {
                    tx.execute(sqlx::query(sql).bind(rid)).await?;
                }
                let traces =
                    [FORGET_PENDING_OF_USER, FORGET_DEAD_OF_USER, FORGET_TOMBSTONES_OF_USER, ANONYMISE_AUDIT];
                for sql in traces {
                    tx.execute(sqlx::query(sql).bind(id)).await?;
                }
                true
            }
            None => false,
        },
        "conversation" => match tx.optional(sqlx::query(CONVERSATION).bind(id)).await? {
            Some(known) if get::<Vec<u8>>(&known, "owner_id")? != owner => {
                return Ok(Refused("it is of another person"));
            }
            Some(known) => {
                let rid: i64 = get(&known, "rid")?;
                let all =
                    [FORGET_PENDING_MESSAGES, FORGET_DEAD_MESSAGES, DELETE_MESSAGES, DELETE_CONVERSATION];
                for sql in all {
                    tx.execute(sqlx::query(sql).bind(rid)).await?;
                }
                true
            }
            None => false,
        },
        "message" => match tx.optional(sqlx::query(OWNER_OF_MESSAGE).bind(id)).await? {
            Some(known) if uuid_of(&known)? != row.owner => return Ok(Refused("it is of another person")),
            Some(known) => {
                // Answers that repeat it and that the other device does not know go as well, and it is told of these.
                let owner: i64 = get(&known, "rid")?;
                forget_in(tx, UserId(row.owner), owner, &[MessageId(row.id)], stamp).await?;
                true
            }
            None => false,
        },
        "voiceprint" => match tx.optional(sqlx::query(OWNER_OF_VOICEPRINT).bind(id)).await? {
            Some(known) if uuid_of(&known)? != row.owner => return Ok(Refused("it is of another person")),
            Some(_) => tx.execute(sqlx::query(DELETE_VOICEPRINT).bind(id)).await? > 0,
            None => false,
        },
        _ => return Ok(Refused("it is of a kind that this version does not know")),
    };
    tx.execute(sqlx::query(FORGET_PENDING).bind(id)).await?;
    tx.execute(sqlx::query(FORGET_DEAD).bind(id)).await?;
    tx.execute(sqlx::query(BURY).bind(&row.kind).bind(id).bind(owner).bind(row.deleted_unix_ms)).await?;
    Ok(if gone { Erased } else { Left })
}
