//! The settings that a reload may change while the daemon runs.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{Settings, UserThresholds};

/// What is read anew for every turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    pub threshold: f32,
    pub user_thresholds: UserThresholds,
    pub follow_up_ms: u32,
    pub speak: bool,
}

pub type LiveSettings = Arc<ArcSwap<Live>>;

impl Live {
    pub fn of(settings: &Settings) -> Self {
        Self {
            threshold: settings.voice.threshold,
            user_thresholds: settings.voice.user_thresholds.clone(),
            follow_up_ms: settings.dialogue.follow_up_s * 1000,
            speak: settings.speech.enabled,
        }
    }
}
