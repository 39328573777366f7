//! Session ids: a client's own name for a conversation. The same person on the same device finds the same
//! conversation with it; it never finds one of another person or device.

use std::fmt;
use std::str::FromStr;

use super::users::owner_rid;
use super::{ConversationId, Memory, MemoryError, Result, UserId};
use crate::clock::Stamp;
use crate::store::Tx;
use crate::text::unseen_anywhere;

/// Longest session id, in characters.
pub const MAX_SESSION_CHARS: usize = 128;

/// A checked session id: 1 to [`MAX_SESSION_CHARS`] characters, none of them invisible. Comparison is exact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// # Errors
    /// `InvalidSession` with the reason.
    pub fn new(id: &str) -> Result<Self> {
        let refuse = |reason| Err(MemoryError::InvalidSession { reason });
        if let Some(reason) = unseen_anywhere(id) {
            return refuse(reason);
        }
        match id.chars().count() {
            0 => refuse("it is empty"),
            _ if id.trim() != id => refuse("it begins or ends with a space"),
            1..=MAX_SESSION_CHARS => Ok(Self(id.to_owned())),
            _ => refuse("it has more than 128 characters"),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = MemoryError;
    fn from_str(id: &str) -> Result<Self> {
        Self::new(id)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

crate::store::sql::statements! {
    FIND = "SELECT id FROM conversations WHERE owner = (SELECT rid FROM users WHERE id = ?1)
        AND device = (SELECT rid FROM devices WHERE id = ?2) AND session_id = ?3";
    FIND_HERE = "SELECT id FROM conversations WHERE owner = ?1 AND device = ?2 AND session_id = ?3";
}

impl Memory {
    /// The conversation named by `session`, if there is one.
    pub async fn session(&self, user: UserId, session: &SessionId) -> Result<Option<ConversationId>> {
        let find = sqlx::query(FIND).bind(user.bytes()).bind(&*self.device).bind(session.as_str());
        let row = self.read_optional(find).await?;
        Ok(row.map(|row| ConversationId::read(&row, "id")).transpose()?)
    }

    /// The conversation named by `session`, created if missing, and whether it was created.
    pub async fn get_or_create_conversation(
        &self,
        user: UserId,
        session: &SessionId,
        title: Option<&str>,
    ) -> Result<(ConversationId, bool)> {
        if let Some(id) = self.session(user, session).await? {
            return Ok((id, false));
        }
        let title = title.map(super::conversations::checked_title).transpose()?;
        let (mut tx, stamp) = self.begin().await?;
        let owner = owner_rid(&mut tx, user).await?;
        let found = self.session_within(&mut tx, user, owner, session, title.as_deref(), &stamp).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// [`Memory::get_or_create_conversation`] in a transaction: two clients at once get the same one.
    #[expect(clippy::too_many_arguments, reason = "those of the row that it may create")]
    pub(super) async fn session_within(
        &self,
        tx: &mut Tx<'_>,
        user: UserId,
        owner: i64,
        session: &SessionId,
        title: Option<&str>,
        stamp: &Stamp,
    ) -> Result<(ConversationId, bool)> {
        let find = sqlx::query(FIND_HERE).bind(owner).bind(self.here()?.device).bind(session.as_str());
        if let Some(row) = tx.optional(find).await? {
            return Ok((ConversationId::read(&row, "id")?, false));
        }
        let id = self.create_conversation(tx, user, owner, title, Some(session.as_str()), stamp).await?;
        Ok((id, true))
    }
}
