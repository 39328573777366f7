//! How long a turn takes to become durable while something else is at work on the machine (scripts/bench-backup.sh).
//!
//! ```text
//! cargo run -p jarvisd --no-default-features --example turn_latency -- DATABASE USER
//! ```
//!
//! Says something every 20 ms until it gets SIGTERM, then prints median, 99th percentile and longest in milliseconds and
//! how many there were.
#![expect(clippy::print_stdout, reason = "an example that prints its results")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jarvisd::clock::Clock;
use jarvisd::memory::{Device, Kind, Memory, NewTurn, Target, TurnMeta};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const PAUSE: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(user)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        return Err("usage: turn_latency DATABASE USER".into());
    };
    let mut end = signal(SignalKind::terminate())?;
    let memory = Memory::open(&path, &Device { id: "bench".into() }, Clock::System).await?;
    let user = memory.user_by_name(&user).await?.id;
    let meta = TurnMeta { confidence: Some(0.97), engine: Some("vosk".into()), ..TurnMeta::default() };
    let (mut times, mut target) = (Vec::new(), Target::New);
    let stop = CancellationToken::new();
    // Between turns, as the daemon does.
    let maintained = memory.maintain(stop.clone());
    tokio::pin!(maintained);
    loop {
        let text = format!("remember that number {} was said", times.len());
        let reply = format!("I will remember that number {} was said.", times.len());
        let turn = NewTurn {
            text: &text,
            kind: Kind::Note,
            reply: &reply,
            responder: "builtin",
            sources: &[],
            forget: &[],
            meta: &meta,
        };
        let started = Instant::now();
        let stored = memory.append_turn(user, target, &turn).await?;
        times.push(started.elapsed());
        target = Target::Existing(stored.conversation_id);
        tokio::select! {
            _ = end.recv() => break,
            () = tokio::time::sleep(PAUSE) => {}
            () = &mut maintained => return Err("the maintenance of the memory ended".into()),
        }
    }
    stop.cancel();
    maintained.await;
    memory.close().await;
    times.sort();
    let ms = |at: usize| times.get(at.min(times.len() - 1)).map_or(0.0, |t| t.as_secs_f64() * 1000.0);
    println!(
        "{:.2} {:.2} {:.2} {}",
        ms(times.len() / 2),
        ms(times.len() * 99 / 100),
        ms(times.len() - 1),
        times.len()
    );
    Ok(())
}
