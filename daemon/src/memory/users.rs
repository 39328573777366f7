//! People: names, consent, and deletion of all their data.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::conversations::Page;
use super::{Memory, MemoryError, NewAudit, Result, UserId, get, named, words};
use crate::clock::Stamp;
use crate::store::queue::{Op, enqueue};
use crate::store::{StoreError, Tx};
use crate::text::{name_key, names_something, tidy, unseen};

/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 64;

/// The user for all people while voice verification is switched off; no person can have this name.
pub const ANONYMOUS: &str = "anonymous";

/// The start of the next page of people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct UserCursor(pub String);

/// A person known to the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    pub id: UserId,
    pub name: String,
    /// When the person agreed to a stored voiceprint.
    pub consent_unix_ms: Option<i64>,
    pub created_unix_ms: i64,
}

crate::store::sql::statements! {
    ADD = "INSERT INTO users (id, name, name_key, created_unix_ms, created_synced, named) VALUES (?1, ?2,
        ?3, ?4, ?5, ?6)";
    BURIED = "SELECT 1 FROM tombstones WHERE kind = 'user' AND id = ?1";
    LIST = "SELECT id, name, name_key, consent_unix_ms, created_unix_ms FROM users WHERE name_key > ?1
        ORDER BY name_key LIMIT ?2";
    KEYS = "SELECT id, name, name_key FROM users";
    BY_ID = "SELECT id, name, consent_unix_ms, created_unix_ms FROM users WHERE id = ?1";
    BY_NAME = "SELECT id, name, consent_unix_ms, created_unix_ms FROM users WHERE name_key = ?1";
    NAME_TAKEN = "SELECT 1 FROM users WHERE name_key = ?1 AND id <> ?2";
    RENAME = "UPDATE users SET name = ?2, name_key = ?3, named = ?4, house_name = NULL WHERE id = ?1";
    // The number that distinguishes two people of one name here is no new name.
    NUMBER = "UPDATE users SET house_name = coalesce(house_name, name), name = ?2, name_key = ?3
        WHERE id = ?1";
    CONSENT = "UPDATE users SET consent_unix_ms = ?2 WHERE id = ?1";
    RID = "SELECT rid FROM users WHERE id = ?1";
    COUNT_MESSAGES = "SELECT coalesce(sum(messages), 0) AS n FROM conversations WHERE owner = ?1";
    DELETE_MESSAGES = "DELETE FROM messages WHERE owner = ?1
        AND conversation IN (SELECT rid FROM conversations WHERE owner = ?1)";
    DELETE_CONVERSATIONS = "DELETE FROM conversations WHERE owner = ?1";
    DELETE_VOICEPRINT = "DELETE FROM voiceprints WHERE owner = ?1";
    DELETE = "DELETE FROM users WHERE rid = ?1";
    // Only the deletion of a deleted person is still to be sent. The audit rows stay, without a person.
    FORGET_PENDING = "DELETE FROM queue WHERE user_id = ?1 AND op <> 'append_audit'";
    FORGET_DEAD = "DELETE FROM dead_letter WHERE user_id = ?1";
    FORGET_TOMBSTONES = "DELETE FROM tombstones WHERE user_id = ?1";
    ANONYMISE_AUDIT = "UPDATE queue SET user_id = NULL WHERE user_id = ?1 AND op = 'append_audit'";
}

impl Memory {
    /// As [`Memory::add_user`] for a person, who cannot be called [`ANONYMOUS`].
    ///
    /// # Errors
    /// As [`Memory::add_user`].
    pub async fn add_person(&self, name: &str) -> Result<User> {
        self.add_user(&person_name(name)?).await
    }

    /// # Errors
    /// `InvalidName` (empty, longer than [`MAX_NAME_CHARS`], control characters), `NameTaken`.
    pub async fn add_user(&self, name: &str) -> Result<User> {
        self.add(name, None).await
    }

    /// The person with the id `id` and the name `name` in a backup: the present one, or added with that id,
    /// by which other devices of the house know them. A person who was deleted here gets a new id.
    ///
    /// # Errors
    /// As [`Memory::add_user`].
    pub async fn bring_back_user(&self, id: UserId, name: &str) -> Result<User> {
        match self.user(id).await {
            Err(MemoryError::NotFound { .. }) => self.add(name, Some(id)).await,
            here => here,
        }
    }

    async fn add(&self, name: &str, known_as: Option<UserId>) -> Result<User> {
        let name = checked_name(name)?;
        let (mut tx, stamp) = self.begin().await?;
        let mut id = UserId::new();
        if let Some(known_as) = known_as
            && tx.optional(sqlx::query(BURIED).bind(known_as.bytes())).await?.is_none()
        {
            id = known_as;
        }
        let named = named::now_after(&Uuid::nil(), &stamp);
        let add = sqlx::query(ADD)
            .bind(id.bytes())
            .bind(&name)
            .bind(name_key(&name))
            .bind(stamp.wall_unix_ms)
            .bind(stamp.synced)
            .bind(named::bytes(&named));
        tx.execute(add).await.map_err(|e| taken(e, &name))?;
        enqueue(&mut tx, Op::UpsertUser, id.0, Some(id.0), stamp.wall_unix_ms).await?;
        tx.commit().await?;
        Ok(User { id, name, consent_unix_ms: None, created_unix_ms: stamp.wall_unix_ms })
    }

    /// All people, by name.
    pub async fn list_users(&self) -> Result<Vec<User>> {
        const PAGE: u32 = 500;
        let (mut all, mut from) = (Vec::new(), None);
        loop {
            let page = self.page_users(from.as_ref(), PAGE).await?;
            all.extend(page.items);
            from = page.next;
            if from.is_none() {
                return Ok(all);
            }
        }
    }

    /// One page of all people, by name.
    pub async fn page_users(&self, from: Option<&UserCursor>, limit: u32) -> Result<Page<User, UserCursor>> {
        let after = from.map_or("", |cursor| cursor.0.as_str());
        let rows = self.read_all(sqlx::query(LIST).bind(after).bind(i64::from(limit) + 1)).await?;
        let keyed = rows.iter().map(|row| Ok((user_of(row)?, get::<String>(row, "name_key")?)));
        let page = Page::of(keyed.collect::<Result<Vec<_>, StoreError>>()?, limit, |(_, key)| {
            UserCursor(key.clone())
        });
        Ok(Page { items: page.items.into_iter().map(|(user, _)| user).collect(), next: page.next })
    }

    /// Updates the keys of names to the present rules of comparison: an earlier version did not compose
    /// letters. Of two people with equal new keys, the second is found as "Anna (2)".
    pub(super) async fn mend_name_keys(&self) -> Result<()> {
        let mut old = Vec::new();
        for row in self.read_all(sqlx::query(KEYS)).await? {
            let (name, key): (String, String) = (get(&row, "name")?, get(&row, "name_key")?);
            if key != name_key(&name) {
                old.push((UserId::read(&row, "id")?, name));
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        let (mut tx, _) = self.begin().await?;
        for (id, name) in old {
            let free = free_name(&mut tx, &name, id).await?;
            tx.execute(sqlx::query(NUMBER).bind(id.bytes()).bind(&free).bind(name_key(&free))).await?;
        }
        Ok(tx.commit().await?)
    }

    pub async fn user(&self, id: UserId) -> Result<User> {
        let row = self.read_optional(sqlx::query(BY_ID).bind(id.bytes())).await?;
        Ok(user_of(&row.ok_or_else(|| MemoryError::not_found("user", id))?)?)
    }

    /// The person with this name; upper and lower case make no difference.
    pub async fn user_by_name(&self, name: &str) -> Result<User> {
        let row = self.read_optional(sqlx::query(BY_NAME).bind(name_key(name))).await?;
        Ok(user_of(&row.ok_or_else(|| MemoryError::not_found("user named", format!("{name:?}")))?)?)
    }

    pub async fn rename_user(&self, id: UserId, name: &str) -> Result<()> {
        let name = person_name(name)?;
        let (mut tx, stamp) = self.begin().await?;
        let named = named::now_after(&named::of_user(&mut tx, id.bytes()).await?, &stamp);
        let rename =
            sqlx::query(RENAME).bind(id.bytes()).bind(&name).bind(name_key(&name)).bind(named::bytes(&named));
        if tx.execute(rename).await.map_err(|e| taken(e, &name))? == 0 {
            return Err(MemoryError::not_found("user", id));
        }
        enqueue(&mut tx, Op::UpsertUser, id.0, Some(id.0), stamp.wall_unix_ms).await?;
        Ok(tx.commit().await?)
    }

    /// Deletes a person with all their data: conversations, messages, index, voiceprint, queue entries. The
    /// audit log keeps its rows without the person and gets one of the deletion. One deletion remains to be
    /// sent.
    pub async fn delete_user(&self, id: UserId) -> Result<()> {
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, id).await?;
        erase_user(&mut tx, owner, id).await?;
        enqueue(&mut tx, Op::DeleteUser, id.0, Some(id.0), stamp.wall_unix_ms).await?;
        let entry = NewAudit { user: None, action: "user_delete", outcome: "done", detail: None };
        self.audit_within(&mut tx, &stamp, &entry).await?;
        self.commit_deletion(tx, &stamp).await
    }
}

/// Deletes the person `id`, here `owner`, with all their data and pending entries. It leaves no tombstone.
pub(super) async fn erase_user(tx: &mut Tx<'_>, owner: i64, id: UserId) -> Result<()> {
    let anew = words::will_delete(tx, sqlx::query(COUNT_MESSAGES).bind(owner)).await?;
    for sql in [DELETE_MESSAGES, DELETE_CONVERSATIONS, DELETE_VOICEPRINT, DELETE] {
        tx.execute(sqlx::query(sql).bind(owner)).await?;
    }
    words::deleted(tx, anew).await?;
    for sql in [FORGET_PENDING, FORGET_DEAD, FORGET_TOMBSTONES, ANONYMISE_AUDIT] {
        tx.execute(sqlx::query(sql).bind(id.bytes())).await?;
    }
    Ok(())
}

/// Notes that the person agreed now to a stored voiceprint.
pub(super) async fn consent_within(tx: &mut Tx<'_>, stamp: &Stamp, id: UserId) -> Result<()> {
    if tx.execute(sqlx::query(CONSENT).bind(id.bytes()).bind(stamp.wall_unix_ms)).await? == 0 {
        return Err(MemoryError::not_found("user", id));
    }
    Ok(enqueue(tx, Op::UpsertUser, id.0, Some(id.0), stamp.wall_unix_ms).await?)
}

/// The local row number of `user` within a transaction.
pub(super) async fn owner_rid(tx: &mut Tx<'_>, user: UserId) -> Result<i64> {
    let row = tx.optional(sqlx::query(RID).bind(user.bytes())).await?;
    Ok(get(&row.ok_or_else(|| MemoryError::not_found("user", user))?, "rid")?)
}

fn user_of(row: &SqliteRow) -> Result<User, StoreError> {
    Ok(User {
        id: UserId::read(row, "id")?,
        name: get(row, "name")?,
        consent_unix_ms: get(row, "consent_unix_ms")?,
        created_unix_ms: get(row, "created_unix_ms")?,
    })
}

fn taken(error: StoreError, name: &str) -> MemoryError {
    match error {
        StoreError::Constraint { unique: true, .. } => MemoryError::NameTaken { name: name.into() },
        other => other.into(),
    }
}

/// A name with single spaces, or the reason why it is invalid.
pub(super) fn checked_name(name: &str) -> Result<String> {
    let refuse = |reason| {
        let shown = name.chars().take(MAX_NAME_CHARS).collect();
        Err(MemoryError::InvalidName { name: shown, reason })
    };
    if let Some(reason) = unseen(name) {
        return refuse(reason);
    }
    let tidy = tidy(name);
    match tidy.chars().count() {
        0 => refuse("it is empty"),
        1..=MAX_NAME_CHARS => Ok(tidy),
        _ => refuse("it has more than 64 characters"),
    }
}

/// Whether `local` is `name` with an appended number.
pub(super) fn is_numbered(local: &str, name: &str) -> bool {
    let base: String = name.chars().take(MAX_NAME_CHARS - NUMBER_CHARS).collect();
    let rest = local.strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix(" ("));
    rest.and_then(|rest| rest.strip_suffix(')')).is_some_and(|n| n.parse::<u32>().is_ok())
}

/// Room for " (999999)".
const NUMBER_CHARS: usize = 9;

/// `name`, or the first of `name (2)`, `name (3)` … that is free here.
pub(super) async fn free_name(tx: &mut Tx<'_>, name: &str, id: UserId) -> Result<String> {
    let base: String = name.chars().take(MAX_NAME_CHARS - NUMBER_CHARS).collect();
    let mut candidate = name.to_owned();
    // [`ANONYMOUS`] of another device does not get the name that this device uses itself.
    let mut taken = name_key(name) == ANONYMOUS;
    for n in 2_u32.. {
        if !taken {
            let found = sqlx::query(NAME_TAKEN).bind(name_key(&candidate)).bind(id.bytes());
            if tx.optional(found).await?.is_none() {
                break;
            }
        }
        taken = false;
        candidate = format!("{base} ({n})");
    }
    Ok(candidate)
}

/// [`checked_name`] of a person: the name can be said or seen, and is not reserved for the device itself.
fn person_name(name: &str) -> Result<String> {
    let name = checked_name(name)?;
    if !names_something(&name) {
        let reason = "it has no letter, digit or emoji";
        return Err(MemoryError::InvalidName { name, reason });
    }
    if name_key(&name) == ANONYMOUS {
        let reason = "it is the name of everyone who is answered without voice verification";
        return Err(MemoryError::InvalidName { name, reason });
    }
    Ok(name)
}
