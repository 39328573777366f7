//! The capture thread allocates nothing while the microphone runs (DESIGN §1, promise 5).

#![expect(unsafe_code, reason = "a counting allocator is the only way to see allocations")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jarvisd::audio::alsa::AlsaSource;
use jarvisd::audio::section::Audio;
use jarvisd::audio::{CaptureStats, Channel, Period, Read, Source, SourceError, capture};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
#[expect(dead_code, reason = "each test uses a part of it")]
#[path = "support/card.rs"]
mod card;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed on to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A microphone that counts the allocations between its 20th and its 70th period and then ends.
struct Counted {
    inner: AlsaSource,
    periods: u32,
    before: u64,
    result: Arc<std::sync::atomic::AtomicU64>,
}

impl Source for Counted {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn paced(&self) -> bool {
        self.inner.paced()
    }

    fn read(&mut self, period: &mut Period) -> Result<Read, SourceError> {
        let read = self.inner.read(period)?;
        if read == Read::Period {
            self.periods += 1;
            let now = ALLOCATIONS.with(Cell::get);
            match self.periods {
                20 => self.before = now,
                70 => {
                    self.result.store(now - self.before, Ordering::Relaxed);
                    return Ok(Read::End);
                }
                _ => {}
            }
        }
        Ok(read)
    }
}

#[test]
fn the_running_capture_thread_does_not_allocate() {
    let card = card::Card::new();
    let output = Command::new(std::env::current_exe().expect("test binary"))
        .args(["capture_on_the_card_of_this_process", "--exact", "--ignored", "--nocapture"])
        .envs(card.environment())
        .output()
        .expect("run");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "needs a process of its own"]
fn capture_on_the_card_of_this_process() {
    let card = card::Card::of_this_process();
    card.hears(&vec![0x11; 48_000 * 4]);
    let stats = Arc::new(CaptureStats::default());
    let settings =
        Audio { device: "voicehat".into(), channel: Channel::LEFT, period_ms: 20, ..Audio::default() };
    let result = Arc::new(std::sync::atomic::AtomicU64::new(u64::MAX));
    let inner = AlsaSource::new(settings, Arc::clone(&stats)).expect("name");
    let source = Counted { inner, periods: 0, before: 0, result: Arc::clone(&result) };
    // Room for 16 periods: later ones are dropped and counted, which must not allocate either.
    let (producer, _consumer) = rtrb::RingBuffer::new(16);
    capture::run(
        Box::new(source),
        producer,
        std::thread::current(),
        Arc::clone(&stats),
        CancellationToken::new(),
    )
    .expect("run");
    assert!(stats.dropped_periods.load(Ordering::Relaxed) > 0);
    assert_eq!(result.load(Ordering::Relaxed), 0, "allocations in 50 periods");
}
