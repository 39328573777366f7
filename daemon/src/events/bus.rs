//! Delivers events to every subscriber (MQTT, the journal), and line by line to standard output if asked.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

use super::{Event, Moment, What};

/// Events that a slow listener may lag behind before it misses some (it gets their number).
const BUS_DEPTH: usize = 256;

/// The sending side, cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    bus: broadcast::Sender<Arc<Event>>,
    lines: Option<Lines>,
}

/// A reader of every event, one line each.
#[derive(Debug, Clone)]
pub struct Lines {
    pub sender: mpsc::Sender<Arc<Event>>,
    /// The reader sets the pace (recordings). Otherwise events that it does not take in time are left out: a
    /// device must not stand still because nobody reads its output.
    pub lossless: bool,
    /// Whether words of a voice not yet verified are shown.
    pub partials: bool,
}

impl Lines {
    async fn send(&self, event: Arc<Event>) {
        if !self.partials && !event.leaves_the_terminal() {
            return;
        }
        // The reader ends only with the program.
        if self.lossless {
            let _ = self.sender.send(event).await;
        } else {
            let _ = self.sender.try_send(event);
        }
    }
}

impl Events {
    pub fn new(lines: Option<Lines>) -> Self {
        Self { bus: broadcast::channel(BUS_DEPTH).0, lines }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.bus.subscribe()
    }

    /// Sends to every subscriber; the words of a voice that is not verified go to the local terminal alone.
    pub async fn emit(&self, event: Event) {
        let event = Arc::new(event);
        if event.leaves_the_terminal() {
            // No subscriber is a normal state: nobody has configured a broker.
            let _ = self.bus.send(event.clone());
        }
        if let Some(lines) = &self.lines {
            lines.send(event).await;
        }
    }

    pub async fn at(&self, moment: impl Into<Moment>, what: What) {
        self.emit(Event::at(moment, what)).await;
    }
}
