//! Errors of the memory.

use super::ConversationId;
use crate::error::Exit;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// It does not exist, or belongs to another person: the two are deliberately not distinguished.
    #[error("there is no {what} {which}")]
    NotFound { what: &'static str, which: String },
    #[error("the name {name:?} is taken: choose another (upper and lower case make no difference)")]
    NameTaken { name: String },
    #[error("{name:?} cannot be a name: {reason}")]
    InvalidName { name: String, reason: &'static str },
    #[error("this cannot be a title: {reason}")]
    InvalidTitle { reason: &'static str },
    #[error("this cannot be a session id: {reason}")]
    InvalidSession { reason: &'static str },
    /// `conversation` counts from 1; 0 is the whole document.
    #[error(
        "{} cannot be imported: {reason}; nothing was stored",
        if *conversation == 0 {
            "this".to_owned()
        } else {
            format!("conversation {conversation} of the file")
        }
    )]
    Unreadable { conversation: usize, reason: String },
    /// A conversation has one writer, the device where it began.
    #[error(
        "conversation {conversation} began on {}: go on with it there, or begin a new one here",
        device.as_deref().map_or(
            "a device that is not known any more".into(),
            |device| format!("the device \"{device}\"")
        )
    )]
    OtherHome { conversation: ConversationId, device: Option<String> },
    #[error("the text has {bytes} bytes, at most {max} can be stored: make it shorter")]
    TooLong { bytes: usize, max: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MemoryError {
    pub(crate) fn not_found(what: &'static str, which: impl ToString) -> Self {
        Self::NotFound { what, which: which.to_string() }
    }

    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Store(StoreError::DiskFull { .. }))
    }

    pub fn is_damaged(&self) -> bool {
        matches!(self, Self::Store(StoreError::Damaged { .. }))
    }

    /// Whether a retry makes sense: the file was repaired or replaced during the call.
    pub fn is_worth_repeating(&self) -> bool {
        matches!(self, Self::Store(StoreError::Damaged { .. } | StoreError::Replaced { .. }))
    }

    /// The exit code of a command that fails with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::InvalidName { .. }
            | Self::InvalidTitle { .. }
            | Self::InvalidSession { .. }
            | Self::Unreadable { .. }
            | Self::TooLong { .. } => Exit::Data,
            Self::Store(
                StoreError::Busy { .. } | StoreError::DiskFull { .. } | StoreError::Replaced { .. },
            ) => Exit::TryAgain,
            Self::Store(StoreError::Newer { .. } | StoreError::NotOurs { .. }) => Exit::Config,
            Self::Store(StoreError::Open { .. } | StoreError::ReadOnly { .. } | StoreError::Disk { .. }) => {
                Exit::Unavailable
            }
            Self::NotFound { .. } | Self::NameTaken { .. } | Self::OtherHome { .. } | Self::Store(_) => {
                Exit::Failed
            }
        }
    }
}
