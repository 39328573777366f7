//! How long a turn takes to become durable, and how memory behaves as it grows.
//!
//! ```text
//! cargo run -p jarvisd --no-default-features --example bench_store -- [FOLDER] [MESSAGES …]
//! ```
//!
//! FOLDER must be on the disk to be measured (default: the current folder). For each number of MESSAGES (default 1000 and
//! 100000) the database is filled to that size, in /dev/shm where there is one; then turns, recalls and openings are timed
//! one by one on the disk.
#![expect(clippy::print_stdout, reason = "an example that prints its results")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jarvisd::clock::Clock;
use jarvisd::memory::{ConversationId, Device, Kind, Memory, NewTurn, Target, TurnMeta, UserId, Words};

const TIMED: usize = 1000;
const TURNS_PER_CONVERSATION: usize = 50;
const WORDS: [&str; 24] = [
    "kitchen",
    "garden",
    "window",
    "dentist",
    "friday",
    "umbrella",
    "coffee",
    "neighbour",
    "bicycle",
    "letter",
    "holiday",
    "candle",
    "battery",
    "curtain",
    "birthday",
    "pepper",
    "ladder",
    "ticket",
    "pillow",
    "mirror",
    "engine",
    "basket",
    "ribbon",
    "jacket",
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    let mut sizes: Vec<usize> = arguments.map(|n| n.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![1_000, 100_000];
    }
    let name = format!("bench-{}.db", std::process::id());
    let quick = Path::new("/dev/shm");
    let filling = if quick.is_dir() { quick.join(&name) } else { folder.join(format!("fill-{name}")) };
    let path = folder.join(name);
    println!(
        "{:>9} {:>22} {:>9} {:>9} {:>9} {:>9}",
        "messages", "operation", "p50 ms", "p99 ms", "max ms", "n"
    );
    let mut result = Ok(());
    for size in sizes {
        if result.is_ok() {
            result = run(&filling, &path, size).await;
        }
    }
    for path in [&filling, &path] {
        for ending in ["", "-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(ending);
            let _ = std::fs::remove_file(name);
        }
    }
    result
}

async fn run(filling: &Path, path: &Path, size: usize) -> Result<(), Box<dyn Error>> {
    let device = Device { id: "bench".into() };
    let memory = Memory::open(filling, &device, Clock::System).await?;
    let user = memory.add_user("Bench").await?.id;
    let mut conversation = None;
    let mut turns = 0;
    while 2 * turns < size {
        conversation = Some(turn(&memory, user, conversation, turns).await?);
        turns += 1;
    }
    memory.close().await;
    std::fs::copy(filling, path)?;
    std::fs::remove_file(filling)?;
    let memory = Memory::open(path, &device, Clock::System).await?;
    report(size, "bare 4 KiB + fdatasync", bare_writes(&path.with_extension("bare"))?);
    let (before, mut times) = (written_bytes(), Vec::new());
    for _ in 0..TIMED {
        let start = Instant::now();
        conversation = Some(turn(&memory, user, conversation, turns).await?);
        times.push(start.elapsed());
        turns += 1;
    }
    report(size, "turn (durable)", times);
    if let (Some(before), Some(after)) = (before, written_bytes()) {
        println!(
            "{size:>9} {:>22} {:>9.1} KiB a turn",
            "written to the disk",
            (after - before) / TIMED as f64 / 1024.0
        );
    }
    println!("{size:>9} {:>22} {:>9.1} MiB", "database", std::fs::metadata(path)?.len() as f64 / 1_048_576.0);

    let id = conversation.ok_or("no conversation")?;
    time(size, "history of 20", async || memory.history(user, id, None, 20).await.map(drop)).await?;
    time(size, "list of 20", async || memory.list_conversations(user, None, 20).await.map(drop)).await?;
    time(size, "recall of a rare word", async || {
        memory.recall(user, "number17", Words::All, 20).await.map(drop)
    })
    .await?;
    time(size, "search, two words", async || {
        memory.search(user, "dentist umbrella", None, None, 20).await.map(drop)
    })
    .await?;

    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let second = Memory::open(path, &device, Clock::System).await?;
        times.push(start.elapsed());
        second.close().await;
    }
    report(size, "open", times);
    let start = Instant::now();
    let latest = memory.history(user, conversation.ok_or("no conversation")?, None, 2).await?;
    memory.forget(user, &latest.iter().map(|m| m.id).collect::<Vec<_>>()).await?;
    report(2 * turns, "forget (file rewritten)", vec![start.elapsed()]);
    memory.close().await;
    Ok(())
}

async fn turn(
    memory: &Memory,
    user: UserId,
    conversation: Option<ConversationId>,
    n: usize,
) -> Result<ConversationId, Box<dyn Error>> {
    let word = |k: usize| WORDS[(n * 7 + k * k * 5 + n / 11) % WORDS.len()];
    let text = format!("remember that the {} near the {} is number{n} since {}", word(1), word(2), word(3));
    let reply =
        format!("I will remember that the {} near the {} is number{n} since {}.", word(1), word(2), word(3));
    let target = match conversation {
        Some(id) if !n.is_multiple_of(TURNS_PER_CONVERSATION) => Target::Existing(id),
        _ => Target::New,
    };
    let meta = TurnMeta { confidence: Some(0.97), engine: Some("vosk".into()), ..TurnMeta::default() };
    let new = NewTurn {
        text: &text,
        kind: Kind::Note,
        reply: &reply,
        responder: "builtin",
        sources: &[],
        forget: &[],
        meta: &meta,
    };
    Ok(memory.append_turn(user, target, &new).await?.conversation_id)
}

async fn time<E: Error + 'static>(
    size: usize,
    what: &str,
    mut work: impl AsyncFnMut() -> Result<(), E>,
) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        work().await?;
        times.push(start.elapsed());
    }
    report(size, what, times);
    Ok(())
}

fn report(size: usize, what: &str, mut times: Vec<Duration>) {
    times.sort();
    let ms = |at: usize| times.get(at.min(times.len() - 1)).map_or(0.0, |t| t.as_secs_f64() * 1000.0);
    println!(
        "{size:>9} {what:>22} {:>9.3} {:>9.3} {:>9.3} {:>9}",
        ms(times.len() / 2),
        ms(times.len() * 99 / 100),
        ms(times.len() - 1),
        times.len()
    );
}

/// The floor that the disk sets: one page appended and synced.
fn bare_writes(path: &Path) -> Result<Vec<Duration>, std::io::Error> {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path)?;
    let mut times = Vec::new();
    for _ in 0..TIMED {
        let start = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(times)
}

/// Bytes this process caused to be written to storage.
fn written_bytes() -> Option<f64> {
    let io = std::fs::read_to_string("/proc/self/io").ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}
