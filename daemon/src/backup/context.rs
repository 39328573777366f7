//! Facts about the device that backups need.

use std::sync::Arc;

use super::section::Backup;
use crate::config::{Effective, Paths};
use crate::memory::Device;
use crate::store::postgres::PgSettings;

/// Everything that backups need to know of the device.
#[derive(Debug, Clone)]
pub struct Context {
    /// `[device] id`.
    pub device: String,
    pub paths: Paths,
    pub backup: Backup,
    /// The Postgres that holds the memory to back up; `None`: the device's own database is backed up.
    pub postgres: Option<PgSettings>,
    /// The configuration in force, secrets masked, which is a part of each backup.
    pub effective: Arc<[Effective]>,
}

impl Context {
    /// The device in whose name a memory is opened.
    pub(super) fn writer(&self) -> Device {
        Device { id: self.device.clone() }
    }
}
