//! The thread `stt`: a recogniser behind a bounded queue.
//!
//! ```text
//!  front end ──accept──▶ [ queue of blocks ] ──▶ run(recognizer, jobs) ──▶ partial words (watch)
//!  turn ─────finish────▶ [   same queue    ] ──▶                      ──▶ reply: Transcript or error
//!  any  ─────reset─────▶ epoch + 1, at once: blocks of an older epoch are skipped, not decoded
//! ```
//!
//! When the queue is full, [`SttHandle::accept`] drops the newest block and counts it: the front end never
//! waits for a recogniser. An error of the recogniser ends one utterance; its `finish` returns it and the
//! next utterance starts afresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::{Recognizer, SttError, Transcript};
use crate::error::chain;

/// One piece of work for the thread `stt`, with the epoch in which it was asked for.
#[derive(Debug)]
pub struct SttJob {
    epoch: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// 16 kHz mono, −1 to 1.
    Audio(Vec<f32>),
    Finish(oneshot::Sender<Result<Transcript, SttError>>),
    /// Wakes the worker so that it drops the utterance now.
    Reset,
}

#[derive(Debug, Default)]
struct Shared {
    epoch: AtomicU64,
    dropped_samples: AtomicU64,
}

/// The handle that others hold. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SttHandle {
    jobs: mpsc::Sender<SttJob>,
    partial: watch::Receiver<(u64, String)>,
    shared: Arc<Shared>,
}

/// The side of the queue that the thread `stt` holds.
#[derive(Debug)]
pub struct SttJobs {
    jobs: mpsc::Receiver<SttJob>,
    /// The words so far, with the epoch of their sound.
    partial: watch::Sender<(u64, String)>,
    shared: Arc<Shared>,
}

/// A queue for `blocks` blocks of sound. An engine slower than real time needs room for a whole utterance:
/// blocks of 100 ms × 512 are 51 s and at most 3.3 MB.
pub fn channel(blocks: usize) -> (SttHandle, SttJobs) {
    let (sender, receiver) = mpsc::channel(blocks.max(1));
    let (partial_sender, partial) = watch::channel((0, String::new()));
    let shared = Arc::new(Shared::default());
    let handle = SttHandle { jobs: sender, partial, shared: Arc::clone(&shared) };
    (handle, SttJobs { jobs: receiver, partial: partial_sender, shared })
}

impl SttHandle {
    fn job(&self, work: Work) -> SttJob {
        SttJob { epoch: self.shared.epoch.load(Ordering::Acquire), work }
    }

    /// Hands over the next block of the utterance without waiting. `false`: the queue is full and the block
    /// is lost (counted in [`Self::dropped_samples`]), or the worker has ended.
    pub fn accept(&self, samples: Vec<f32>) -> bool {
        let count = samples.len() as u64;
        let taken = self.jobs.try_send(self.job(Work::Audio(samples))).is_ok();
        if !taken {
            self.shared.dropped_samples.fetch_add(count, Ordering::Relaxed);
        }
        taken
    }

    /// Ends the utterance and waits for its words.
    pub async fn finish(&self) -> Result<Transcript, SttError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(self.job(Work::Finish(reply))).await.map_err(|_| SttError::WorkerGone)?;
        answer.await.map_err(|_| SttError::WorkerGone)?
    }

    /// Drops the utterance so far. Takes effect at once, even when the queue is full: queued sound is not
    /// decoded, and a queued `finish` gives an empty text.
    pub fn reset(&self) {
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        // A full queue wakes the worker anyway.
        let _ = self.jobs.try_send(self.job(Work::Reset));
    }

    /// The words so far of the utterance being decoded; empty between utterances and from a reset on, even
    /// while the worker is still busy with earlier sound.
    pub fn partial(&self) -> String {
        let partial = self.partial.borrow();
        let (epoch, words) = &*partial;
        if *epoch == self.shared.epoch.load(Ordering::Acquire) { words.clone() } else { String::new() }
    }

    /// Samples lost since the start because the queue was full.
    pub fn dropped_samples(&self) -> u64 {
        self.shared.dropped_samples.load(Ordering::Relaxed)
    }
}

/// The body of the thread `stt`: returns when every [`SttHandle`] is gone.
pub fn run(mut recognizer: Box<dyn Recognizer>, mut jobs: SttJobs) {
    let mut epoch = 0;
    // The first error of this utterance: later blocks are not decoded.
    let mut failed: Option<SttError> = None;
    let mut dropped = 0;
    while let Some(job) = jobs.jobs.blocking_recv() {
        let current = jobs.shared.epoch.load(Ordering::Acquire);
        if current != epoch {
            epoch = current;
            recognizer.reset();
            failed = None;
            jobs.partial.send_replace((epoch, String::new()));
        }
        let stale = job.epoch != epoch;
        match job.work {
            Work::Reset => {}
            Work::Audio(_) if stale || failed.is_some() => {}
            Work::Audio(samples) => match recognizer.accept(&samples) {
                Ok(Some(words)) => {
                    jobs.partial.send_replace((epoch, words));
                }
                Ok(None) => {}
                Err(error) => {
                    log::debug!("{}: this utterance is not transcribed", chain(&error));
                    failed = Some(error);
                }
            },
            Work::Finish(reply) => {
                let lost = jobs.shared.dropped_samples.load(Ordering::Relaxed);
                if lost != dropped {
                    log::warn!(
                        "speech to text cannot keep up: {} ms of sound were lost",
                        (lost - dropped) / 16
                    );
                    dropped = lost;
                }
                let result = match failed.take() {
                    _ if stale => {
                        Ok(Transcript { text: String::new(), engine: recognizer.engine(), confidence: None })
                    }
                    Some(error) => {
                        recognizer.reset();
                        Err(error)
                    }
                    None => recognizer.finish(),
                };
                jobs.partial.send_replace((epoch, String::new()));
                // Nobody waits any more: the words are dropped, as they must be.
                let _ = reply.send(result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;

    /// Counts samples; waits for a permit before each block if told to; fails on a block that starts with 9.
    struct Counter {
        samples: usize,
        permits: Option<std_mpsc::Receiver<()>>,
    }

    impl Recognizer for Counter {
        fn engine(&self) -> &'static str {
            "counter"
        }
        fn accept(&mut self, samples: &[f32]) -> Result<Option<String>, SttError> {
            if let Some(permits) = &self.permits {
                permits.recv().unwrap();
            }
            if samples.first() == Some(&9.0) {
                return Err(SttError::Vosk { step: "decoding" });
            }
            self.samples += samples.len();
            Ok(Some(self.samples.to_string()))
        }
        fn finish(&mut self) -> Result<Transcript, SttError> {
            let text = self.samples.to_string();
            self.reset();
            Ok(Transcript { text, engine: "counter", confidence: None })
        }
        fn reset(&mut self) {
            self.samples = 0;
        }
    }

    fn start(
        blocks: usize,
        permits: Option<std_mpsc::Receiver<()>>,
    ) -> (SttHandle, std::thread::JoinHandle<()>) {
        let (handle, jobs) = channel(blocks);
        let counter = Box::new(Counter { samples: 0, permits });
        let thread = std::thread::Builder::new().spawn(move || run(counter, jobs)).unwrap();
        (handle, thread)
    }

    /// Hands over a block, waiting for room.
    fn feed(handle: &SttHandle, samples: Vec<f32>) {
        handle.jobs.blocking_send(handle.job(Work::Audio(samples))).unwrap();
    }

    fn finish(handle: &SttHandle) -> Result<Transcript, SttError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(handle.finish())
    }

    #[test]
    fn utterances_are_transcribed_one_after_the_other_and_the_thread_ends_with_its_handles() {
        let (handle, thread) = start(8, None);
        for n in 1..4 {
            for _ in 0..n {
                feed(&handle, vec![0.0; 10]);
            }
            assert_eq!(finish(&handle).unwrap().text, (10 * n).to_string());
        }
        assert_eq!(handle.partial(), "");
        drop(handle);
        thread.join().unwrap();
    }

    #[test]
    fn a_full_queue_drops_the_newest_block_and_counts_it() {
        let (permit, permits) = std_mpsc::sync_channel(16);
        let (handle, _thread) = start(2, Some(permits));
        feed(&handle, vec![0.0; 1]);
        feed(&handle, vec![0.0; 1]);
        feed(&handle, vec![0.0; 1]);
        // One is being decoded, two are queued.
        while handle.accept(vec![0.0; 100]) {}
        assert_eq!(handle.dropped_samples(), 100);
        for _ in 0..8 {
            permit.send(()).unwrap();
        }
        let said: usize = finish(&handle).unwrap().text.parse().unwrap();
        assert!(said == 3 || said == 103, "{said}");
    }

    #[test]
    fn a_reset_takes_effect_though_the_queue_is_full() {
        let (permit, permits) = std_mpsc::sync_channel(16);
        let (handle, _thread) = start(2, Some(permits));
        feed(&handle, vec![0.0; 7]);
        feed(&handle, vec![0.0; 7]);
        feed(&handle, vec![0.0; 7]);
        handle.reset();
        for _ in 0..8 {
            permit.send(()).unwrap();
        }
        feed(&handle, vec![0.0; 5]);
        assert_eq!(finish(&handle).unwrap().text, "5");
    }

    #[test]
    fn an_error_ends_one_utterance_and_not_the_thread() {
        let (handle, _thread) = start(8, None);
        feed(&handle, vec![0.0; 3]);
        feed(&handle, vec![9.0]);
        feed(&handle, vec![0.0; 3]);
        assert!(matches!(finish(&handle), Err(SttError::Vosk { .. })));
        feed(&handle, vec![0.0; 4]);
        assert_eq!(finish(&handle).unwrap().text, "4");
    }

    #[tokio::test]
    async fn words_so_far_are_seen_while_the_person_speaks() {
        let (handle, _thread) = start(8, None);
        let mut partials = handle.partial.clone();
        assert!(handle.accept(vec![0.0; 3]));
        partials.wait_for(|(_, words)| words == "3").await.unwrap();
        assert_eq!(handle.partial(), "3");
        assert_eq!(handle.finish().await.unwrap().text, "3");
        partials.wait_for(|(_, words)| words.is_empty()).await.unwrap();
    }

    #[tokio::test]
    async fn words_from_before_a_reset_are_never_shown_after_it() {
        let (permit, permits) = std_mpsc::sync_channel(16);
        let (handle, _thread) = start(4, Some(permits));
        let mut partials = handle.partial.clone();
        assert!(handle.accept(vec![0.0; 3]));
        handle.reset();
        permit.send(()).unwrap();
        // The worker was inside `accept` and publishes its words only now.
        let _ =
            tokio::time::timeout(std::time::Duration::from_millis(300), partials.wait_for(|(_, w)| w == "3"))
                .await;
        assert_eq!(handle.partial(), "");
    }
}
