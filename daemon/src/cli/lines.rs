//! Events as JSON lines on standard output.

use std::io::Write as _;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::events::Event;

/// Prints until the last sender is gone. Each line is flushed, because readers act on it. Blocks; for a
/// thread.
///
/// # Errors
/// When standard output is closed.
pub fn print(mut events: mpsc::Receiver<Arc<Event>>) -> std::io::Result<()> {
    while let Some(event) = events.blocking_recv() {
        let mut line = crate::plain::json(&*event)?;
        line.push('\n');
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}
