//! The settings that a reload may change while the daemon runs.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::dialogue::section::{Dialogue, Speech};
use crate::speaker::section::Voice;

/// The sections that are read anew for every turn. Only their keys marked as live change.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    pub voice: Voice,
    pub dialogue: Dialogue,
    pub speech: Speech,
}

pub type LiveSettings = Arc<ArcSwap<Live>>;

impl Live {
    /// Length of the window after an answer in which a command needs no wake word, in ms; 0 for none.
    pub fn follow_up_ms(&self) -> u32 {
        self.dialogue.follow_up_s * 1000
    }
}
