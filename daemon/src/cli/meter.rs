//! The live level of a microphone on a terminal, and lines beside it.
//!
//! The level goes to standard error and is drawn on a terminal only. Lines go to standard output or, where
//! that is for JSON, to standard error.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output;
use crate::detect::listener::{Heard, Level, ListenError, Listener};
use crate::error::{Exit, Failure, visible};

/// The quietest level with a bar.
const FLOOR_DB: f32 = -70.0;
/// Cells of a bar that is full.
const CELLS: usize = 28;
/// From this magnitude on loud words are cut off.
const OVERDRIVEN: f32 = 0.99;

#[derive(Debug, Clone)]
pub struct Meter {
    bar: ProgressBar,
    to_stderr: bool,
}

impl Meter {
    /// `json`: standard output belongs to the result.
    pub fn new(json: bool) -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("  {msg}") {
            bar.set_style(style);
        }
        Self { bar, to_stderr: json }
    }

    /// Prints a line above the level.
    ///
    /// # Errors
    /// Standard output that cannot be written to.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.bar.suspend(|| {
            if !self.to_stderr {
                return output::line(text);
            }
            // A reader that went away is no failure.
            let _ = writeln!(std::io::stderr(), "{}", visible(text.as_ref()));
            Ok(())
        })
    }

    fn show(&self, level: Level) {
        self.bar.set_message(drawn(level));
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Listens with the level shown, until something is heard, `patience` is over, or `stop` is cancelled.
    ///
    /// # Errors
    /// Those of [`Listener::listen`].
    pub async fn listen(
        &self,
        mut listener: Box<Listener>,
        patience: Duration,
        stop: &CancellationToken,
    ) -> Result<(Box<Listener>, Heard), Failure> {
        let (meter, stop) = (self.clone(), stop.clone());
        let listening = tokio::task::spawn_blocking(move || {
            let heard = listener.listen(patience, &stop, &mut |level| meter.show(level));
            meter.bar.set_message("");
            Ok::<_, ListenError>((listener, heard?))
        });
        let heard = listening.await;
        heard.map_err(|e| Failure::because(Exit::Failed, "listening was interrupted", e))?.map_err(Into::into)
    }
}

/// Runs `work`, whose token is cancelled by Ctrl-C and by SIGTERM.
///
/// # Errors
/// Those of `work`; signals that cannot be heard.
pub async fn until_interrupted<T>(
    work: impl AsyncFnOnce(CancellationToken) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let unheard = |e| Failure::because(Exit::TryAgain, "signals cannot be heard", e);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let stop = CancellationToken::new();
    let mut working = std::pin::pin!(work(stop.clone()));
    loop {
        tokio::select! {
            biased;
            done = &mut working => return done,
            _ = interrupt.recv() => stop.cancel(),
            _ = terminate.recv() => stop.cancel(),
        }
    }
}

/// A bar with the level and a word about it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of cells")]
fn drawn(level: Level) -> String {
    let share = ((level.db - FLOOR_DB) / -FLOOR_DB).clamp(0.0, 1.0);
    let full = ((share * CELLS as f32).round() as usize).min(CELLS);
    let word = match level {
        Level { peak, .. } if peak >= OVERDRIVEN => "too loud",
        Level { speaking: true, .. } => "hearing you",
        _ => "listening",
    };
    format!("[{}{}] {:>4} dB  {word}", "#".repeat(full), "-".repeat(CELLS - full), level.db.round())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_follows_the_level_and_says_what_it_means() {
        let level = |db, peak, speaking| drawn(Level { db, peak, speaking });
        let silent = level(-100.0, 0.0, false);
        assert!(silent.starts_with("[----") && silent.ends_with("-100 dB  listening"), "{silent}");
        let half = level(-35.0, 0.1, true);
        assert_eq!(half.matches('#').count(), CELLS / 2, "{half}");
        assert!(half.ends_with("-35 dB  hearing you"), "{half}");
        assert!(level(-60.0, 0.1, false).ends_with("-60 dB  listening"));
        let full = level(3.0, 1.0, true);
        assert!(!full.contains('-') && full.ends_with("too loud"), "{full}");
    }
}
