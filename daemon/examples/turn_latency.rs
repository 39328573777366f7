//! How long a turn takes to become durable while something else is at work on the machine
//! (scripts/lab/bench-backup.sh).
//!
//! ```text
//! cargo run -p jarvisd --no-default-features --example turn_latency -- DATABASE USER
//! ```
//!
//! Says something every 20 ms until it gets SIGTERM, then prints median, 99th percentile and longest in
//! milliseconds and how many there were.
#![expect(clippy::print_stdout, reason = "an example that prints its results")]

mod bench;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jarvisd::clock::Clock;
use jarvisd::memory::{Device, Memory, Target};
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
    let (mut times, mut target) = (Vec::new(), Target::New);
    let stop = CancellationToken::new();
    // Between turns, as the daemon does.
    let maintained = memory.maintain(stop.clone(), 365);
    tokio::pin!(maintained);
    loop {
        let what = format!("number {} was said", times.len());
        let started = Instant::now();
        let stored = bench::remember(&memory, user, target, &what).await?;
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
    let [median, high, longest] = bench::spread(&mut times);
    println!("{median:.2} {high:.2} {longest:.2} {}", times.len());
    Ok(())
}
