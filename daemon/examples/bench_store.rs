//! How long a turn takes to become durable, what it writes, and how memory behaves as it grows.
//!
//! ```text
//! cargo run -p jarvisd --no-default-features --example bench_store -- [FOLDER] [MESSAGES …]
//! ```
//!
//! FOLDER must be on the disk to be measured (default: the current folder). One database is filled to each
//! number of MESSAGES in turn (default 1000 10000 100000 1000000), 100 a conversation, in /dev/shm where
//! there is one; then turns, openings, lists, searches and recalls are timed one by one on a copy of it on
//! the disk.
#![expect(clippy::print_stdout, reason = "an example that prints its results")]

mod bench;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jarvisd::clock::Clock;
use jarvisd::memory::{ConversationId, Device, Memory, Target, UserId, Words};

const TIMED: usize = 1000;
const TURNS_PER_CONVERSATION: usize = 50;
/// Turns of a second person, who must not notice how much the first one said.
const TURNS_OF_ANOTHER: usize = 50;
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
        sizes = vec![1_000, 10_000, 100_000, 1_000_000];
    }
    sizes.sort_unstable();
    let name = format!("bench-{}.db", std::process::id());
    let quick = Path::new("/dev/shm");
    let filling = if quick.is_dir() { quick.join(&name) } else { folder.join(format!("fill-{name}")) };
    let path = folder.join(name);
    println!(
        "{:>9} {:>31} {:>9} {:>9} {:>9} {:>6}",
        "messages", "operation", "p50 ms", "p99 ms", "max ms", "n"
    );
    let result = run(&filling, &path, &sizes).await;
    for path in [&filling, &path] {
        remove(path);
    }
    result
}

fn remove(path: &Path) {
    for ending in ["", "-wal", "-shm"] {
        let mut name = path.to_path_buf().into_os_string();
        name.push(ending);
        let _ = std::fs::remove_file(name);
    }
}

async fn run(filling: &Path, path: &Path, sizes: &[usize]) -> Result<(), Box<dyn Error>> {
    let device = Device { id: "bench".into() };
    let memory = Memory::open(filling, &device, Clock::System).await?;
    let user = memory.add_user("Bench").await?.id;
    let other = memory.add_user("Other").await?.id;
    let (mut conversation, mut others) = (None, None);
    for n in 0..TURNS_OF_ANOTHER {
        others = Some(turn(&memory, other, others, n).await?);
    }
    memory.close().await;
    let mut turns = 0;
    for size in sizes {
        let start = Instant::now();
        let begun = turns;
        let memory = Memory::open(filling, &device, Clock::System).await?;
        while 2 * turns < *size {
            conversation = Some(turn(&memory, user, conversation, turns).await?);
            turns += 1;
        }
        memory.close().await;
        println!("{size:>9} filled, {:.0} turns/s", (turns - begun) as f64 / start.elapsed().as_secs_f64());
        std::fs::copy(filling, path)?;
        measure(path, *size, user, other, conversation.ok_or("no conversation")?).await?;
        remove(path);
    }
    Ok(())
}

async fn measure(
    path: &Path,
    size: usize,
    user: UserId,
    other: UserId,
    last: ConversationId,
) -> Result<(), Box<dyn Error>> {
    let device = Device { id: "bench".into() };
    let memory = Memory::open(path, &device, Clock::System).await?;
    report(size, "bare 4 KiB + fdatasync", bare_writes(&path.with_extension("bare"))?);
    let (before, mut times) = (written_bytes(), Vec::new());
    let (mut id, wal_before) = (last, memory.store().wal_bytes());
    let mut wal = 0;
    for n in 0..TIMED {
        let start = Instant::now();
        id = turn(&memory, user, Some(id), size + n).await?;
        times.push(start.elapsed());
        if n == 63 {
            wal = memory.store().wal_bytes() - wal_before;
        }
    }
    report(size, "turn (durable)", times);
    if let (Some(before), Some(after)) = (before, written_bytes()) {
        let (kib, wal) = ((after - before) / TIMED as f64 / 1024.0, wal as f64 / 64.0 / 1024.0);
        println!("{size:>9} {:>31} {kib:>9.1} KiB a turn, of it log {wal:.1}", "written to the disk");
    }
    println!("{size:>9} {:>31} {:>9.1} MiB", "database", std::fs::metadata(path)?.len() as f64 / 1_048_576.0);

    // Conversations from all over the file, not one that is in the cache.
    let mut ids = Vec::new();
    let mut from = None;
    loop {
        let page = memory.list_conversations(user, from, 500).await?;
        ids.extend(page.items.iter().map(|c| c.id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    println!("{size:>9} {:>31} {:>9}", "conversations", ids.len());
    let mut n = 0;
    time(size, "open a conversation", async || {
        n += 7919;
        let id = ids.get(n % ids.len()).copied().unwrap_or(last);
        memory.conversation(user, id).await?;
        memory.history(user, id, None, 20).await.map(drop)
    })
    .await?;
    time(size, "list 20", async || memory.list_conversations(user, None, 20).await.map(drop)).await?;
    for (what, who, text) in [
        ("search, two common words", user, "dentist friday"),
        ("search, common, never together", user, "dentist umbrella"),
        ("search, one common word", user, "remember"),
        ("search, common and rare", user, "remember number17"),
        ("search, none has all words", user, "dentist number17 elephant"),
        ("search of the other person", other, "dentist friday"),
    ] {
        time(size, what, async || memory.search(who, text, None, None, 20).await.map(drop)).await?;
    }
    for (what, text, words) in [
        ("recall, rare word", "number17", Words::All),
        ("recall, common word", "dentist", Words::All),
        ("recall, common, never together", "dentist umbrella", Words::All),
        ("recall, any of three", "dentist elephant number17", Words::Any),
    ] {
        time(size, what, async || memory.recall(user, text, words, 20).await.map(drop)).await?;
    }
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let second = Memory::open(path, &device, Clock::System).await?;
        times.push(start.elapsed());
        second.close().await;
    }
    report(size, "open the database", times);
    let latest = memory.history(user, id, None, 2).await?;
    let latest: Vec<_> = latest.iter().map(|m| m.id).collect();
    let start = Instant::now();
    let took = std::cell::OnceCell::new();
    let forget = async {
        memory.forget(user, &latest).await?;
        let _ = took.set(start.elapsed());
        Ok::<_, Box<dyn Error>>(())
    };
    let talk = async {
        let (mut times, mut n) = (Vec::new(), 0);
        while took.get().is_none() {
            let start = Instant::now();
            turn(&memory, other, None, n).await?;
            times.push(start.elapsed());
            n += 1;
        }
        Ok(times)
    };
    let ((), meanwhile) = tokio::try_join!(forget, talk)?;
    report(size, "forget, with the file cleaned", took.get().copied().into_iter().collect());
    report(size, "turns meanwhile", meanwhile);
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
    let what = format!("the {} near the {} is number{n} since {}", word(1), word(2), word(3));
    let target = match conversation {
        Some(id) if !n.is_multiple_of(TURNS_PER_CONVERSATION) => Target::Existing(id),
        _ => Target::New,
    };
    Ok(bench::remember(memory, user, target, &what).await?.conversation_id)
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
    let [median, high, longest] = bench::spread(&mut times);
    println!("{size:>9} {what:>31} {median:>9.3} {high:>9.3} {longest:>9.3} {:>6}", times.len());
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
