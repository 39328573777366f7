//! The settings that a turn reads anew, because a reload may change them.

use crate::config::Live;
use crate::dialogue::section::{Dialogue, Speech};
use crate::speaker::section::Voice;

#[derive(Debug, Clone)]
pub struct LiveSettings {
    pub voice: Live<Voice>,
    pub dialogue: Live<Dialogue>,
    pub speech: Live<Speech>,
}

impl LiveSettings {
    /// Length of the window after an answer in which a command needs no wake word, in ms; 0 for none.
    pub fn follow_up_ms(&self) -> u32 {
        self.dialogue.load().follow_up_s * 1000
    }
}
