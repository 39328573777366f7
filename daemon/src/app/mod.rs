//! The daemon's common core: the settings of all its parts, and the parts themselves.

mod device;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod parts;
mod settings;
#[cfg(test)]
mod tests;
pub mod voice_path;

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use crate::audio::CaptureStats;
use crate::control::Request;
use crate::dialogue::Dialogue;
use crate::events::bus::Events;
use crate::health::Health;
use crate::identity::voices::Voices;
use crate::memory::Memory;
use crate::pipeline::dispatch::Dispatcher;
use crate::pipeline::hearing::HearingControl;
use crate::pipeline::switches::Switches;

pub use device::Device;
use parts::Parts;
pub use settings::{LiveSections, Settings, load, reference_page};

/// The device as shared by everything that shows or changes it; a clone shares it.
#[derive(Debug, Clone)]
pub struct App {
    pub memory: Memory,
    pub dialogue: Dialogue,
    pub voices: Voices,
    pub events: Events,
    pub health: Health,
    pub control: Arc<HearingControl>,
    pub switches: Switches,
    /// Takes the commands of every face.
    pub dispatcher: Dispatcher,
    pub live: LiveSections,
    /// Told when the count of failed attempts may have changed.
    pub counted: Arc<Notify>,
}

impl App {
    /// Starts with the requests that wait for the turn task. `stats` are those of the capture thread whose
    /// sound is heard.
    pub fn new(
        parts: &Parts,
        health: Health,
        events: Events,
        stats: &Arc<CaptureStats>,
    ) -> (Self, mpsc::Receiver<Request>) {
        let control = Arc::new(HearingControl::new(stats.clone()));
        let switches = Switches::new(control.clone());
        let (dispatcher, requests) = Dispatcher::new(switches.clone());
        let app = Self {
            memory: parts.memory.clone(),
            dialogue: parts.dialogue.clone(),
            voices: parts.voices.clone(),
            events,
            health,
            control,
            switches,
            dispatcher,
            live: parts.live.clone(),
            counted: Arc::default(),
        };
        (app, requests)
    }
}
