//! How fast a backlog drains into Postgres, next to COPY of the same rows.
//!
//! ```text
//! cargo run --release -p jarvisd --example bench_forward -- 'postgres:///jarvis?host=/run/postgresql&user=jarvis' [MESSAGES]
//! ```
//!
//! The database must be empty and thrown away afterwards. COPY gets the rows of `jarvis.messages` into a
//! table of the same columns, indexes and foreign keys, in one transaction and from memory: what no client
//! that sends them can beat.
#![expect(clippy::print_stdout, reason = "an example that prints its results")]

#[expect(dead_code, reason = "it times no single turns")]
mod bench;

use std::error::Error;
use std::time::Instant;

use jarvisd::clock::Clock;
use jarvisd::memory::{Device, Memory, Target};
use jarvisd::store::forward::{Forwarder, Progress};
use jarvisd::store::postgres::PgSettings;
use sqlx::{Connection as _, PgConnection};

const TURNS_PER_CONVERSATION: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("give the address of an empty Postgres database")?;
    let messages: usize = arguments.next().map_or(Ok(100_000), |n| n.parse())?;
    let folder =
        tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "." })?;
    let path = folder.path().join("bench.db");
    let memory = Memory::open(&path, &Device { id: "bench".into() }, Clock::System).await?;
    let user = memory.add_user("Bench").await?.id;
    let mut conversation = None;
    for n in 0..messages / 2 {
        let target = match conversation {
            Some(id) if n % TURNS_PER_CONVERSATION != 0 => Target::Existing(id),
            _ => Target::New,
        };
        let what = format!("parcel {n} of the neighbour lies behind the ladder in the shed");
        conversation = Some(bench::remember(&memory, user, target, &what).await?.conversation_id);
    }
    println!("{messages} messages wait; {:.0} MiB resident", resident_mib());

    let settings = PgSettings::new(&url, "bench")?;
    let mut forwarder = Forwarder::new(memory.store().clone(), Clock::System, settings);
    let started = Instant::now();
    let (mut batches, mut most) = (0, 0.0_f64);
    loop {
        match forwarder.run_once().await? {
            Progress::Empty => break,
            _ => batches += 1,
        }
        most = most.max(resident_mib());
    }
    let drained = started.elapsed();
    forwarder.close().await;
    println!(
        "drain  {:>8.2} s  {:>8.0} messages/s  {batches} batches, at most {most:.0} MiB resident",
        drained.as_secs_f64(),
        messages as f64 / drained.as_secs_f64()
    );

    let mut conn = PgConnection::connect(&url).await?;
    sqlx::raw_sql("SET jarvis.role = 'forwarder'").execute(&mut conn).await?;
    let mut rows = Vec::new();
    let mut out = conn.copy_out_raw("COPY (SELECT * FROM jarvis.messages ORDER BY change) TO STDOUT").await?;
    while let Some(piece) = futures_util::TryStreamExt::try_next(&mut out).await? {
        rows.extend_from_slice(&piece);
    }
    drop(out);
    sqlx::raw_sql(
        "CREATE TABLE jarvis.copied (LIKE jarvis.messages INCLUDING ALL);
         ALTER TABLE jarvis.copied ADD FOREIGN KEY (conversation, owner) REFERENCES jarvis.conversations (id, owner),
            ADD FOREIGN KEY (device) REFERENCES jarvis.devices, ADD FOREIGN KEY (origin) REFERENCES jarvis.devices",
    )
    .execute(&mut conn)
    .await?;
    let started = Instant::now();
    let mut copy = conn.copy_in_raw("COPY jarvis.copied FROM STDIN").await?;
    for piece in rows.chunks(1 << 16) {
        copy.send(piece).await?;
    }
    copy.finish().await?;
    let copied = started.elapsed();
    println!(
        "COPY   {:>8.2} s  {:>8.0} messages/s  drain takes {:.2} times as long",
        copied.as_secs_f64(),
        messages as f64 / copied.as_secs_f64(),
        drained.as_secs_f64() / copied.as_secs_f64()
    );
    conn.close().await?;
    memory.close().await;
    Ok(())
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = status.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1_048_576.0
}
