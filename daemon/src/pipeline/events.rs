//! Where events go: to everyone who listens in (MQTT, the journal), and line by line to standard output if asked.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};

use crate::events::{Event, What};
use crate::units::FramePos;

/// Events a slow listener may lag behind before it misses some (it is told how many).
const BUS_DEPTH: usize = 256;

/// The sending side, cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    bus: broadcast::Sender<Arc<Event>>,
    lines: Option<mpsc::Sender<Arc<Event>>>,
}

impl Events {
    /// `lines` receives every event without loss: its reader sets the pace.
    pub fn new(lines: Option<mpsc::Sender<Arc<Event>>>) -> Self {
        Self { bus: broadcast::channel(BUS_DEPTH).0, lines }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.bus.subscribe()
    }

    pub async fn emit(&self, event: Event) {
        let event = Arc::new(event);
        // No subscriber is a normal state: nobody has configured a broker.
        let _ = self.bus.send(event.clone());
        if let Some(lines) = &self.lines {
            // The reader of the lines ends only with the program.
            let _ = lines.send(event).await;
        }
    }

    /// To the local terminal alone: what a voice says before it is verified goes nowhere else.
    pub async fn local(&self, event: Event) {
        if let Some(lines) = &self.lines {
            let _ = lines.send(Arc::new(event)).await;
        }
    }

    pub async fn at(&self, pos: FramePos, what: What) {
        self.emit(Event::at(pos, what)).await;
    }
}
