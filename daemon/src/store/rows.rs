//! The rows that devices share, each declared once: what it holds, and how it is read from either database.

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};
use uuid::Uuid;

/// Declares a row. In every statement a column is called as its field.
macro_rules! row {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl<'r, R: Row> FromRow<'r, R> for $name
        where
            &'static str: ColumnIndex<R>,
            $($type: Decode<'r, R::Database> + Type<R::Database>,)+
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($field: row.try_get(stringify!($field))?,)+ })
            }
        }
    };
}

row! {
    #[derive(Debug)]
    UserRow {
        id: Uuid,
        name: String,
        consent_unix_ms: Option<i64>,
        created_unix_ms: i64,
        synced: bool,
        /// When the name was given: of two, the greater one wins.
        named: Uuid,
    }
}

row! {
    #[derive(Debug)]
    VoiceprintRow {
        id: Uuid,
        owner: Uuid,
        wrapped_key: Vec<u8>,
        blob: Vec<u8>,
        model_sha256: String,
        front_end_sha256: String,
        samples: i32,
        net_speech_s: f64,
        quality: String,
        created_unix_ms: i64,
        synced: bool,
    }
}

row! {
    #[derive(Debug)]
    ConversationRow {
        id: Uuid,
        owner: Uuid,
        /// `None`: written before homes were known.
        device: Option<String>,
        session_id: Option<String>,
        title: String,
        title_by_user: bool,
        /// When title and session id were given: of two, the greater one wins.
        named: Uuid,
        next_seq: i64,
        created_unix_ms: i64,
        created_synced: bool,
        updated_unix_ms: i64,
        updated_synced: bool,
        updated_monotonic_ns: i64,
        boot_id: String,
    }
}

row! {
    #[derive(Debug, Clone)]
    MessageRow {
        id: Uuid,
        conversation: Uuid,
        owner: Uuid,
        seq: i64,
        role: String,
        kind: String,
        text: String,
        meta: Option<String>,
        wall_unix_ms: i64,
        synced: bool,
        monotonic_ns: i64,
        boot_id: String,
        device: String,
    }
}

row! {
    #[derive(Debug)]
    AuditRow {
        id: Uuid,
        owner: Option<Uuid>,
        action: String,
        outcome: String,
        detail: Option<String>,
        wall_unix_ms: i64,
        synced: bool,
        monotonic_ns: i64,
        boot_id: String,
        device: String,
    }
}

row! {
    /// Something that was deleted.
    #[derive(Debug, Clone, PartialEq, Eq)]
    Tombstone {
        kind: String,
        id: Uuid,
        owner: Uuid,
        deleted_unix_ms: i64,
    }
}
