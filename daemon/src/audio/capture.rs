//! The body of thread `capture`: source → ring.
//!
//! While a microphone runs this allocates nothing, waits for no lock and writes no log line. When the ring is
//! full a microphone drops its newest period, counts it and adds its length to the next period's `lost`; a
//! recording waits.

use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use rtrb::Producer;
use tokio_util::sync::CancellationToken;

use super::clock::SoundClock;
use super::{CaptureStats, CaptureStatus, Period, Read, Source, SourceError};

/// How long a recording waits before it looks again for room in the ring. The reader empties a ring of 32
/// periods (0.6 s of sound) in about 15 ms, so this costs no throughput.
const RING_WAIT: Duration = Duration::from_millis(1);

/// Reads `source` into `ring` until it ends, `stop` is cancelled or the reader has gone. `reader` is unparked
/// after every push and once more at the end, when the ring is closed.
///
/// # Errors
/// Those of [`Source::read`].
pub fn run(
    mut source: Box<dyn Source>,
    ring: Producer<Period>,
    reader: Thread,
    stats: Arc<CaptureStats>,
    stop: CancellationToken,
) -> Result<(), SourceError> {
    // A look at a token takes the lock of its node. A child has a node of its own, which nobody else locks
    // before the moment of cancellation. So the capture thread never waits for a lock.
    let stop = stop.child_token();
    let outcome = pump(source.as_mut(), ring, &reader, &stats, &stop);
    reader.unpark();
    outcome
}

/// Owns the ring, so that it is closed before the reader is woken for the last time.
fn pump(
    source: &mut dyn Source,
    mut ring: Producer<Period>,
    reader: &Thread,
    stats: &CaptureStats,
    stop: &CancellationToken,
) -> Result<(), SourceError> {
    let paced = source.paced();
    let mut period = Period::default();
    // Samples dropped since the last push, at the rate of the dropped periods.
    let mut dropped: u32 = 0;
    let mut clock = SoundClock::default();
    while !stop.is_cancelled() && !ring.is_abandoned() {
        CaptureStats::count(&stats.reads, 1);
        match source.read(&mut period)? {
            Read::End => break,
            Read::Nothing => continue,
            Read::Period => {}
        }
        stats.set_status(CaptureStatus::Running);
        clock.advance(u64::from(period.lost) + period.len as u64, period.rate_hz);
        stats.sound_came(clock.ns());
        CaptureStats::count(&stats.periods, 1);
        CaptureStats::count(&stats.lost_samples, u64::from(period.lost));
        if !paced {
            while ring.is_full() && !stop.is_cancelled() && !ring.is_abandoned() {
                std::thread::sleep(RING_WAIT);
            }
        }
        period.lost = period.lost.saturating_add(dropped);
        if ring.push(period.clone()).is_ok() {
            dropped = 0;
        } else {
            let len = u32::try_from(period.len).unwrap_or(u32::MAX);
            dropped = period.lost.saturating_add(len);
            CaptureStats::count(&stats.dropped_periods, 1);
            CaptureStats::count(&stats.lost_samples, u64::from(len));
        }
        reader.unpark();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use rtrb::RingBuffer;

    /// Ten periods of 160 samples, each holding its own number.
    struct Counting {
        next: u16,
        paced: bool,
    }

    impl Source for Counting {
        fn describe(&self) -> String {
            "counting".into()
        }
        fn paced(&self) -> bool {
            self.paced
        }
        fn read(&mut self, period: &mut Period) -> Result<Read, SourceError> {
            if self.next == 10 {
                return Ok(Read::End);
            }
            period.rate_hz = 16_000;
            period.len = 160;
            period.lost = 0;
            period.samples.fill(f32::from(self.next));
            self.next += 1;
            Ok(Read::Period)
        }
    }

    #[test]
    fn a_microphone_drops_the_newest_when_the_ring_is_full_and_says_how_much_with_the_next() {
        let (producer, mut consumer) = RingBuffer::new(4);
        let stats = Arc::new(CaptureStats::default());
        let source = Box::new(Counting { next: 0, paced: true });
        run(source, producer, std::thread::current(), Arc::clone(&stats), CancellationToken::new())
            .expect("run");
        let kept: Vec<f32> = std::iter::from_fn(|| consumer.pop().ok()).map(|p| p.samples[0]).collect();
        assert_eq!(kept, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(stats.dropped_periods.load(Ordering::Relaxed), 6);
        assert_eq!(stats.lost_samples.load(Ordering::Relaxed), 960);
        assert!(consumer.is_abandoned());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test stands in for the supervisor")]
    fn what_a_microphone_dropped_travels_with_the_next_period() {
        struct Stepped(Counting, std::sync::mpsc::Receiver<()>);
        impl Source for Stepped {
            fn describe(&self) -> String {
                self.0.describe()
            }
            fn paced(&self) -> bool {
                true
            }
            fn read(&mut self, period: &mut Period) -> Result<Read, SourceError> {
                if self.1.recv().is_err() {
                    return Ok(Read::End);
                }
                self.0.read(period)
            }
        }
        let (producer, mut consumer) = RingBuffer::new(2);
        let (go, gate) = std::sync::mpsc::sync_channel(0);
        let stats = Arc::new(CaptureStats::default());
        let source = Box::new(Stepped(Counting { next: 0, paced: true }, gate));
        let thread = std::thread::current();
        let for_run = Arc::clone(&stats);
        let capture =
            std::thread::spawn(move || run(source, producer, thread, for_run, CancellationToken::new()));
        for _ in 0..5 {
            go.send(()).expect("capture reads");
        }
        while stats.periods.load(Ordering::Relaxed) < 5 {
            std::thread::yield_now();
        }
        while stats.dropped_periods.load(Ordering::Relaxed) < 3 {
            std::thread::yield_now();
        }
        assert_eq!(consumer.pop().expect("first").lost, 0);
        go.send(()).expect("capture reads");
        drop(go);
        capture.join().expect("thread").expect("run");
        assert_eq!(consumer.pop().expect("second").samples[0], 1.0);
        let after_the_gap = consumer.pop().expect("sixth");
        assert_eq!(after_the_gap.samples[0], 5.0);
        assert_eq!(after_the_gap.lost, 3 * 160);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test stands in for the supervisor")]
    fn a_recording_waits_for_room_and_loses_nothing() {
        let (producer, mut consumer) = RingBuffer::new(2);
        let stats = Arc::new(CaptureStats::default());
        let source = Box::new(Counting { next: 0, paced: false });
        let thread = std::thread::current();
        let for_run = Arc::clone(&stats);
        let capture =
            std::thread::spawn(move || run(source, producer, thread, for_run, CancellationToken::new()));
        let mut heard = Vec::new();
        loop {
            match consumer.pop() {
                Ok(period) => heard.push((period.samples[0], period.lost)),
                Err(_) if consumer.is_abandoned() && consumer.is_empty() => break,
                Err(_) => std::thread::park_timeout(Duration::from_millis(20)),
            }
        }
        capture.join().expect("thread").expect("run");
        assert_eq!(heard, (0..10_u16).map(|n| (f32::from(n), 0)).collect::<Vec<_>>());
        assert_eq!(stats.dropped_periods.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_reader_that_has_gone_ends_the_thread() {
        let (producer, consumer) = RingBuffer::new(1);
        drop(consumer);
        let source = Box::new(Counting { next: 0, paced: false });
        run(source, producer, std::thread::current(), Arc::default(), CancellationToken::new()).expect("run");
    }
}
