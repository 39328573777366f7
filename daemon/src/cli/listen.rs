//! `jarvisd listen`: recordings through the pipeline of the daemon, one JSON event a line on standard output.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::{Common, lines, pipeline_runtime};
use crate::app::Settings;
use crate::app::parts::{MissingMemory, Parts};
use crate::audio::file::FileSource;
use crate::audio::{CaptureStats, Channel, Period, SourceError, capture};
use crate::daemon::{HEARD_DEPTH, RING_PERIODS, STT_BLOCKS};
use crate::detect::Detector;
use crate::dsp::FrontEnd;
use crate::error::{Exit, Failure, chain};
use crate::events::bus::{Events, Lines};
use crate::events::{Event, What};
use crate::health::Health;
use crate::pipeline::deadline::Pulse;
use crate::pipeline::dispatch::Dispatcher;
use crate::pipeline::hearing::{Heard, Hearing, HearingControl};
use crate::pipeline::switches::Switches;
use crate::pipeline::turns::Turns;
use crate::stt;
use crate::supervisor::Supervisor;
use crate::units::FramePos;

/// Plays recordings through the pipeline of the daemon and prints its events, one JSON object a line.
///
/// Who is verified is answered, and what is said is remembered, as by the daemon; answers are printed, not
/// spoken.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// WAV or FLAC files, heard one after the other.
    #[arg(required = true, value_name = "WAV")]
    pub files: Vec<PathBuf>,
    /// Take as long as the recording lasts, as a microphone would.
    #[arg(long)]
    pub realtime: bool,
    /// Database to use instead of the device's own.
    #[arg(long, value_name = "FILE")]
    pub user_db: Option<PathBuf>,
}

pub fn run(args: Args, common: &Common) -> Result<(), Failure> {
    let mut settings = common.settings()?;
    if let Some(db) = args.user_db {
        settings.paths.db = crate::durable::behind_link(&db);
    }
    pipeline_runtime()?.block_on(listen(settings, &args.files, args.realtime))
}

/// Hears `recordings` one after the other. With `realtime` they take as long as they last.
///
/// # Errors
/// Errors: whatever keeps the pipeline from starting; exit 65 when a recording cannot be used (the others are
/// heard all the same).
async fn listen(settings: Settings, recordings: &[PathBuf], realtime: bool) -> Result<(), Failure> {
    let mut parts = Parts::load(&settings, &Health::new(), MissingMemory::Refuse).await?;
    // A recording is a trial at a desk: answers are printed, not spoken.
    parts.answer = None;
    let mut supervisor = Supervisor::new();
    let (lines_in, lines_out) = mpsc::channel(64);
    let cannot_start = |e| Failure::because(Exit::Failed, "the pipeline cannot start its threads", e);
    let printer = tokio::task::spawn_blocking(move || lines::print(lines_out));

    let mut session = Session {
        control: Arc::default(),
        events: Events::new(Some(Lines { sender: lines_in, lossless: true, partials: true })),
        channel: settings.audio.channel,
        realtime,
        supervisor: &mut supervisor,
    };
    let (heard_in, heard_out) = mpsc::channel::<Heard>(HEARD_DEPTH);
    let switches = Switches::new(session.control.clone());
    let (_, requests) = Dispatcher::new(switches.clone());
    let handle = match parts.recognizer {
        Some(recognizer) => {
            let (handle, jobs) = stt::worker::channel(STT_BLOCKS);
            let work = move || {
                stt::worker::run(recognizer, jobs);
                Ok::<_, std::convert::Infallible>(())
            };
            session.supervisor.job_thread("stt", work).map_err(cannot_start)?;
            Some(handle)
        }
        None => None,
    };
    let memory = parts.memory.clone();
    let turns = Turns {
        fresh: None,
        memory: parts.memory,
        voices: parts.voices,
        verify: settings.voice.enabled,
        pin_valid: Duration::ZERO,
        stt: handle,
        dialogue: parts.dialogue,
        answer: None,
        events: session.events.clone(),
        health: Health::new(),
        control: session.control.clone(),
        switches,
        pulse: Arc::new(Pulse::of_recording()),
        counted: Arc::default(),
        live: Arc::new(ArcSwap::from_pointee(settings.live())),
    };
    let stop = session.supervisor.token();
    session.supervisor.job("turns", turns.run(heard_out, requests, stop)).map_err(cannot_start)?;

    let mut detector = parts.detector;
    let mut refused: Option<SourceError> = None;
    for recording in recordings {
        match FileSource::open(recording, session.channel, realtime) {
            Ok(source) => {
                let read;
                (detector, read) = session.hear(recording, source, detector, heard_in.clone()).await?;
                if let Err(error) = read {
                    refused.get_or_insert(error);
                }
            }
            Err(error) => {
                let what = What::Error { stage: "audio".to_owned(), message: chain(&error) };
                session.events.emit(Event::at(FramePos(0), what)).await;
                refused.get_or_insert(error);
            }
        }
    }
    drop(heard_in);
    drop(session);
    // The turn task ends with its channel and lets go of the last sender of lines.
    let printed = printer.await;
    memory.close().await;
    match printed {
        Ok(Err(error)) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(Failure::because(Exit::Failed, "the events could not be printed", error));
        }
        Err(error) => return Err(Failure::because(Exit::Failed, "the events could not be printed", error)),
        Ok(_) => {}
    }
    match refused {
        None => Ok(()),
        Some(error) => Err(Failure::because(error.exit(), "a recording cannot be used", error)),
    }
}

struct Session<'a> {
    control: Arc<HearingControl>,
    events: Events,
    channel: Channel,
    realtime: bool,
    supervisor: &'a mut Supervisor,
}

impl Session<'_> {
    /// One recording to its end, and all of its turns; gives the detector back, with what ended the recording
    /// early.
    async fn hear(
        &mut self,
        recording: &Path,
        source: FileSource,
        mut detector: Detector,
        heard: mpsc::Sender<Heard>,
    ) -> Result<(Detector, Result<(), SourceError>), Failure> {
        let cannot_start = |e| Failure::because(Exit::Failed, "the pipeline cannot start its threads", e);
        let ready = What::Ready { source: recording.display().to_string() };
        self.events.emit(Event::at(FramePos(0), ready)).await;
        let (ring_in, ring_out) = rtrb::RingBuffer::<Period>::new(RING_PERIODS);
        let stop = self.supervisor.token();
        let (done_in, done) = oneshot::channel();
        let (control, hearing_stop) = (self.control.clone(), stop.clone());
        let frames_before = control.frames();
        let lockstep = !self.realtime;
        let reader = self
            .supervisor
            .job_thread("frontend", move || {
                let hearing = Hearing {
                    ring: ring_out,
                    front: FrontEnd::new(),
                    detector: &mut detector,
                    control: &control,
                    out: heard,
                    lockstep,
                };
                let result = hearing.run(&hearing_stop);
                let _ = done_in.send((detector, result));
                Ok::<_, std::convert::Infallible>(())
            })
            .map_err(cannot_start)?;
        let (captured_in, captured) = oneshot::channel();
        self.supervisor
            .job_thread("capture", move || {
                let stats = Arc::new(CaptureStats::default());
                let _ = captured_in.send(capture::run(Box::new(source), ring_in, reader, stats, stop));
                Ok::<_, std::convert::Infallible>(())
            })
            .map_err(cannot_start)?;
        let gone = || Failure::new(Exit::Failed, "a part of the pipeline ended early");
        let (detector, result) = done.await.map_err(|_| gone())?;
        result.map_err(|e| Failure::because(Exit::Failed, "the recording could not be examined", e))?;
        let read = captured.await.map_err(|_| gone())?;
        let end = FramePos(self.control.frames() - frames_before);
        if let Err(error) = &read {
            let what = What::Error { stage: "audio".to_owned(), message: chain(error) };
            self.events.emit(Event::at(end, what)).await;
        }
        self.events.emit(Event::at(end, What::End)).await;
        Ok((detector, read))
    }
}
