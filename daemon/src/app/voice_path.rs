//! The voice path of the device: one wiring for the microphone of `run` and for the recordings of `listen`.
//!
//! ```text
//!  source ─▶ capture ─ring─▶ frontend ─Heard─▶ turns ─▶ stt, speaker
//!           (thread)        (thread)          (task)   (threads)
//! ```
//!
//! Recogniser, loudspeaker and turns are started once. A microphone is heard until the end of the program;
//! recordings are heard one after the other by the same turns.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{App, Settings};
use crate::audio::{CaptureStats, Period, Source, SourceError, capture, loudspeaker, realtime};
use crate::control::Request;
use crate::detect::Detector;
use crate::dialogue::speech::Speech;
use crate::dsp::FrontEnd;
use crate::error::{Exit, Failure};
use crate::memory::pull::Freshness;
use crate::pipeline::answer::Answer;
use crate::pipeline::deadline::Pulse;
use crate::pipeline::hearing::{Heard, Hearing, HearingError};
use crate::pipeline::live::LiveSettings;
use crate::pipeline::turns::Turns;
use crate::stt::{self, Recognizer};
use crate::supervisor::{SpawnError, Supervisor};

/// Periods that wait for the front end: 2 s at the usual 10 ms.
const RING_PERIODS: usize = 200;
/// Detections that wait for the turn task: more than the longest command that can be set, in pieces of 100
/// ms.
const HEARD_DEPTH: usize = 1024;
/// Pieces of sound that wait for the recogniser: more than the longest command.
const STT_BLOCKS: usize = 1024;

/// The ends of the path, which differ between the daemon and `listen`.
pub struct Ends {
    /// `None`: nothing is transcribed.
    pub recognizer: Option<Box<dyn Recognizer>>,
    /// `None`: answers are text only.
    pub speech: Option<Speech>,
    pub requests: mpsc::Receiver<Request>,
    pub pulse: Arc<Pulse>,
    /// `None`: no other device writes the rows that this one answers from.
    pub fresh: Option<Freshness>,
}

/// The path behind the sound, running. A source joins it by [`VoicePath::listen`] or [`VoicePath::play`].
pub struct VoicePath {
    app: App,
    heard: mpsc::Sender<Heard>,
}

type FrontEndWork = Box<dyn FnOnce(&mut Detector) -> Result<(), HearingError> + Send>;
type CaptureWork = Box<dyn FnOnce(Thread) -> Result<(), SourceError> + Send>;

/// A recording that was heard to its end.
pub struct Played {
    pub detector: Detector,
    /// An error where not all of it could be read.
    pub read: Result<(), SourceError>,
}

impl VoicePath {
    /// Starts the recogniser, the loudspeaker and the turns.
    ///
    /// # Errors
    /// A thread that does not start.
    pub fn start(
        supervisor: &mut Supervisor,
        app: &App,
        settings: &Settings,
        ends: Ends,
    ) -> Result<Self, SpawnError> {
        let stt = match ends.recognizer {
            Some(recognizer) => {
                let (handle, jobs) = stt::worker::channel(STT_BLOCKS);
                supervisor.thread("stt", move || {
                    stt::worker::run(recognizer, jobs);
                    Ok::<_, Infallible>(())
                })?;
                Some(handle)
            }
            None => None,
        };
        let answer = match ends.speech {
            Some(speech) => {
                let (loudspeaker, sessions) = loudspeaker::channel(&settings.audio.playback_device);
                supervisor.device_thread("speaker", loudspeaker.given_up(), move || {
                    loudspeaker::run(sessions);
                    Ok::<_, Infallible>(())
                })?;
                Some(Answer::new(speech, loudspeaker, app.health.clone()))
            }
            None => None,
        };
        let (heard, heard_out) = mpsc::channel(HEARD_DEPTH);
        let turns = Turns {
            memory: app.memory.clone(),
            voices: app.voices.clone(),
            verify: settings.voice.enabled,
            pin_valid: Duration::from_secs(settings.voice.pin_valid_s.into()),
            stt,
            dialogue: app.dialogue.clone(),
            answer,
            events: app.events.clone(),
            health: app.health.clone(),
            control: app.control.clone(),
            switches: app.switches.clone(),
            pulse: ends.pulse,
            counted: app.counted.clone(),
            live: LiveSettings {
                voice: app.live.voice.clone(),
                dialogue: app.live.dialogue.clone(),
                speech: app.live.speech.clone(),
            },
            fresh: ends.fresh,
        };
        supervisor.task("turns", turns.run(heard_out, ends.requests, supervisor.token()))?;
        Ok(Self { app: app.clone(), heard })
    }

    /// Hears a microphone until the end of the program.
    ///
    /// # Errors
    /// A thread that does not start.
    pub fn listen(
        self,
        supervisor: &mut Supervisor,
        mut detector: Detector,
        source: Box<dyn Source>,
        stats: Arc<CaptureStats>,
        realtime_priority: bool,
    ) -> Result<(), SpawnError> {
        let (front_end, capture) = self.stages(source, stats, false, supervisor.token());
        let reader = supervisor.thread("frontend", move || front_end(&mut detector))?;
        supervisor.thread("capture", move || {
            if realtime_priority && let Err(error) = realtime::raise_priority() {
                log::warn!(
                    "no real-time priority for the capture thread ({error}); sound may be lost under load"
                );
            }
            capture(reader)
        })?;
        Ok(())
    }

    /// Hears a recording to its end, with all of its turns. With `realtime` it takes as long as it lasts.
    ///
    /// # Errors
    /// A thread that does not start, a model that fails.
    pub async fn play(
        &self,
        supervisor: &mut Supervisor,
        mut detector: Detector,
        source: Box<dyn Source>,
        realtime: bool,
    ) -> Result<Played, Failure> {
        let cannot_start = |e| Failure::because(Exit::Failed, "the pipeline cannot start its threads", e);
        let (front_end, capture) = self.stages(source, Arc::default(), !realtime, supervisor.token());
        let (done, heard) = oneshot::channel();
        let examine = move || {
            let result = front_end(&mut detector);
            let _ = done.send((detector, result));
            Ok::<_, Infallible>(())
        };
        let reader = supervisor.thread("frontend", examine).map_err(cannot_start)?;
        let (done, captured) = oneshot::channel();
        let read = move || {
            let _ = done.send(capture(reader));
            Ok::<_, Infallible>(())
        };
        supervisor.thread("capture", read).map_err(cannot_start)?;
        let gone = |_| Failure::new(Exit::Failed, "a part of the pipeline ended early");
        let (detector, result) = heard.await.map_err(gone)?;
        result.map_err(|e| Failure::because(Exit::Failed, "the recording could not be examined", e))?;
        Ok(Played { detector, read: captured.await.map_err(gone)? })
    }

    /// The work of the two threads of a source. With `lockstep` the front end waits for each turn.
    fn stages(
        &self,
        source: Box<dyn Source>,
        stats: Arc<CaptureStats>,
        lockstep: bool,
        stop: CancellationToken,
    ) -> (FrontEndWork, CaptureWork) {
        let (ring_in, ring) = rtrb::RingBuffer::<Period>::new(RING_PERIODS);
        let (control, out, until) = (self.app.control.clone(), self.heard.clone(), stop.clone());
        let front_end = move |detector: &mut Detector| {
            let front = FrontEnd::new();
            Hearing { ring, front, detector, control: &control, out, lockstep }.run(&until)
        };
        let capture = move |reader| capture::run(source, ring_in, reader, stats, stop);
        (Box::new(front_end), Box::new(capture))
    }
}
