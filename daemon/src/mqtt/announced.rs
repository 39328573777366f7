//! Entities announced to Home Assistant in earlier connections, so that those switched off can be taken back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name among the settings that survive a restart.
pub const ANNOUNCED: &str = "mqtt_announced";

/// Topic of an announcement → key of each entity that was ever in it → its platform.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced(pub(super) BTreeMap<String, BTreeMap<String, String>>);
