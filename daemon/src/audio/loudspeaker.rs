//! The thread `speaker`: the only place that opens the playback device.
//!
//! ```text
//!  begin ─▶ [answers ] ─▶ open at the first sound ─▶ play ─▶ play ─▶ … ─▶ heard to the end ─▶ close
//!  play ──▶ [ 2 sounds ]                └──────────── cut: silent within a period ───────────▶ close
//! ```
//!
//! Invariants:
//!
//! * The device stays open over all sounds of one answer, and is closed between answers: other programs of
//!   the machine may use it then.
//! * One answer at a time. The next one waits until the device is closed.
//! * A device that does not return from a call holds up this thread and no other. Its owner reports that
//!   ([`Loudspeaker::hangs`]); until the call returns no answer is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::playback::{PlaybackError, Player};

/// Sounds of one answer that wait for the device.
const SOUNDS: usize = 2;
/// Answers that wait for a cut one to end: most of them were cut as well.
const ANSWERS: usize = 8;

/// Mono sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// In [-1, 1].
    pub samples: Vec<f32>,
    pub rate_hz: u32,
}

impl Sound {
    pub fn seconds(&self) -> f32 {
        self.samples.len() as f32 / self.rate_hz as f32
    }
}

/// An answer, as the thread gets it.
#[derive(Debug)]
struct Session {
    sounds: mpsc::Receiver<Sound>,
    cut: CancellationToken,
    ended: oneshot::Sender<Result<(), PlaybackError>>,
}

/// The handle of those that speak. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Loudspeaker {
    device: Arc<str>,
    sessions: mpsc::Sender<Session>,
    hangs: Arc<AtomicBool>,
    given_up: CancellationToken,
}

/// The side of the thread.
#[derive(Debug)]
pub struct Sessions {
    device: Arc<str>,
    sessions: mpsc::Receiver<Session>,
    hangs: Arc<AtomicBool>,
}

/// The two sides of the loudspeaker on `device`, which is not opened yet.
pub fn channel(device: &str) -> (Loudspeaker, Sessions) {
    let (sender, receiver) = mpsc::channel(ANSWERS);
    let device: Arc<str> = device.into();
    let hangs = Arc::new(AtomicBool::new(false));
    let given_up = CancellationToken::new();
    let handle = Loudspeaker { device: device.clone(), sessions: sender, hangs: hangs.clone(), given_up };
    (handle, Sessions { device, sessions: receiver, hangs })
}

/// The body of the thread `speaker`: returns when every [`Loudspeaker`] is gone.
pub fn run(mut thread: Sessions) {
    while let Some(session) = thread.sessions.blocking_recv() {
        let Session { sounds, cut, ended } = session;
        let played = play_all(&thread.device, sounds, &cut);
        thread.hangs.store(false, Ordering::Release);
        // Nobody may wait for it any more.
        let _ = ended.send(played);
    }
}

fn play_all(
    device: &str,
    mut sounds: mpsc::Receiver<Sound>,
    cut: &CancellationToken,
) -> Result<(), PlaybackError> {
    let mut player = Player::new(device);
    while let Some(sound) = sounds.blocking_recv() {
        player.play(&sound.samples, sound.rate_hz, cut)?;
    }
    player.finish(cut);
    Ok(())
}

impl Loudspeaker {
    /// Begins an answer behind the earlier ones; `cut` ends it. `None` while the device hangs in one of them.
    pub fn begin(&self, cut: &CancellationToken) -> Option<Playing> {
        if self.hangs.load(Ordering::Acquire) {
            return None;
        }
        let (sounds, queue) = mpsc::channel(SOUNDS);
        let (ended, end) = oneshot::channel();
        let cut = cut.child_token();
        let session = Session { sounds: queue, cut: cut.clone(), ended };
        self.sessions.try_send(session).ok()?;
        Some(Playing { sounds, end, _cut: cut.drop_guard() })
    }

    pub fn device(&self) -> &str {
        &self.device
    }

    /// The device does not return from a call: no answer is taken until it does, and nobody waits for the
    /// thread at the end of the program.
    pub fn hangs(&self) {
        self.hangs.store(true, Ordering::Release);
        self.given_up.cancel();
    }

    /// Cancelled once nobody may wait for the thread any more.
    pub fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }
}

/// An answer that is being played. Dropping it cuts it.
#[derive(Debug)]
pub struct Playing {
    sounds: mpsc::Sender<Sound>,
    end: oneshot::Receiver<Result<(), PlaybackError>>,
    _cut: DropGuard,
}

impl Playing {
    /// Hands over the next sound; waits while two others wait. `false`: the device takes no more, and
    /// [`Playing::finish`] says why.
    pub async fn play(&self, sound: Sound) -> bool {
        self.sounds.send(sound).await.is_ok()
    }

    /// Waits until everything was heard, or was cut.
    ///
    /// # Errors
    /// See [`PlaybackError`].
    pub async fn finish(self) -> Result<(), PlaybackError> {
        let Self { sounds, end, _cut } = self;
        drop(sounds);
        // The thread ends with the program, in the middle of a word if need be.
        end.await.unwrap_or(Ok(()))
    }
}
