//! What the benches of the store share: a turn to be stored, and how long such things took.

use std::time::Duration;

use jarvisd::memory::{Appended, Kind, Memory, MemoryError, NewTurn, Target, TurnMeta, UserId};

/// Stores that somebody says "remember that `what`", with the answer of the built-in responder.
pub async fn remember(
    memory: &Memory,
    user: UserId,
    target: Target<'_>,
    what: &str,
) -> Result<Appended, MemoryError> {
    let (text, reply) = (format!("remember that {what}"), format!("I will remember that {what}."));
    let meta = TurnMeta { confidence: Some(0.97), engine: Some("vosk".into()), ..TurnMeta::default() };
    let turn = NewTurn {
        text: &text,
        kind: Kind::Note,
        reply: &reply,
        responder: "builtin",
        sources: &[],
        forget: &[],
        meta: &meta,
    };
    memory.append_turn(user, target, &turn).await
}

/// Median, 99th percentile and longest, in milliseconds; zeros of nothing.
pub fn spread(times: &mut [Duration]) -> [f64; 3] {
    times.sort_unstable();
    let ms = |at: usize| times.get(at).map_or(0.0, |t| t.as_secs_f64() * 1000.0);
    let last = times.len().saturating_sub(1);
    [times.len() / 2, times.len() * 99 / 100, last].map(|at| ms(at.min(last)))
}
