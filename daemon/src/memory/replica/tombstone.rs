//! Applies deletions of other devices, in the same way as forgetting here.

use uuid::Uuid;

use super::Outcome::{self, Erased, Left, Noted, Refused};
use super::{CONVERSATION, bytes, dead, rid_of_user, uuid_of};
use crate::clock::Stamp;
use crate::memory::conversations::erase_conversation;
use crate::memory::messages::forget_in;
use crate::memory::users::erase_user;
use crate::memory::{MessageId, Result, UserId, get};
use crate::store::Tx;
use crate::store::queue::{Op, add_tombstone, enqueue};
use crate::store::tables::{self, Synced as _, Tombstone, VoiceprintRow};

crate::store::sql::statements! {
    OWNER_OF_MESSAGE = "SELECT u.id AS id, u.rid AS rid FROM messages m JOIN users u ON u.rid = m.owner
        WHERE m.id = ?1";
}

/// Deletes the voiceprint `id` of `owner` in Postgres, unless it is this person's present one here. A later
/// one that the same key opens has replaced it.
pub(super) async fn supersede(tx: &mut Tx<'_>, id: Uuid, owner: Uuid, stamp: &Stamp) -> Result<()> {
    let here = tx.optional(sqlx::query(VoiceprintRow::table().here.owner).bind(bytes(&id))).await?;
    if here.is_none() && !dead(tx, "voiceprint", &id, &owner).await? {
        enqueue(tx, Op::DeleteVoiceprint, id, Some(owner), stamp.wall_unix_ms).await?;
    }
    Ok(())
}

/// Deletes a row that was deleted elsewhere. `Erased` if the row was here, `Noted` if it was not and the
/// deletion is new.
pub(super) async fn apply(tx: &mut Tx<'_>, row: &Tombstone, stamp: &Stamp) -> Result<Outcome> {
    let (id, owner) = (bytes(&row.id), bytes(&row.owner));
    let known = dead(tx, &row.kind, &row.id, &row.owner).await?;
    let gone = match row.kind.as_str() {
        "user" if row.id != row.owner => return Ok(Refused("it is of another person")),
        "user" => match rid_of_user(tx, &row.id).await? {
            Some(rid) => {
                erase_user(tx, rid, UserId(row.id)).await?;
                true
            }
            None => false,
        },
        "conversation" => match tx.optional(sqlx::query(CONVERSATION).bind(id)).await? {
            Some(known) if get::<Vec<u8>>(&known, "owner_id")? != owner => {
                return Ok(Refused("it is of another person"));
            }
            Some(known) => {
                erase_conversation(tx, get(&known, "rid")?, get(&known, "owner")?).await?;
                true
            }
            None => false,
        },
        "message" => match tx.optional(sqlx::query(OWNER_OF_MESSAGE).bind(id)).await? {
            Some(known) if uuid_of(&known)? != row.owner => return Ok(Refused("it is of another person")),
            Some(known) => {
                // Answers that repeat the message but are unknown to the other device are deleted too, and
                // their deletions are queued for it.
                let owner: i64 = get(&known, "rid")?;
                forget_in(tx, UserId(row.owner), owner, &[MessageId(row.id)], stamp).await?;
                true
            }
            None => false,
        },
        kind => {
            let table = tables::all().into_iter().find(|table| table.kind == Some(kind));
            let Some(table) = table else {
                return Ok(Refused("it is of a kind that this version does not know"));
            };
            match tx.optional(sqlx::query(table.here.owner).bind(id)).await? {
                Some(known) if uuid_of(&known)? != row.owner => {
                    return Ok(Refused("it is of another person"));
                }
                Some(_) => tx.execute(sqlx::query(table.here.delete).bind(id)).await? > 0,
                None => false,
            }
        }
    };
    add_tombstone(tx, &row.kind, row.id, Some(row.owner), row.deleted_unix_ms).await?;
    Ok(match (gone, known) {
        (true, _) => Erased,
        (false, false) => Noted,
        (false, true) => Left,
    })
}
