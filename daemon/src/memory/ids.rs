//! Ids: UUIDv7, with one type per table so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::store::StoreError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            pub(crate) fn new() -> Self {
                Self(Uuid::now_v7())
            }

            pub(crate) fn bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }

            pub(crate) fn read(row: &SqliteRow, column: &str) -> Result<Self, StoreError> {
                let bytes: &[u8] = row.try_get(column).map_err(StoreError::Sql)?;
                Uuid::from_slice(bytes)
                    .map(Self)
                    .map_err(|e| sqlx::Error::ColumnDecode { index: column.into(), source: e.into() })
                    .map_err(StoreError::Sql)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// A person.
    UserId
}
id! {
    /// A conversation of one person.
    ConversationId
}
id! {
    /// One message of a conversation.
    MessageId
}
id! {
    /// A row of the audit log.
    AuditId
}
id! {
    /// A sealed voiceprint.
    VoiceprintId
}
