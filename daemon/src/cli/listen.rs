//! `jarvisd listen`: recordings through the pipeline of the daemon, one JSON event a line on standard output.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Common, lines, pipeline_runtime};
use crate::app::parts::{MissingMemory, Parts};
use crate::app::voice_path::{Ends, VoicePath};
use crate::app::{App, Settings};
use crate::audio::SourceError;
use crate::audio::file::FileSource;
use crate::error::{Exit, Failure, chain};
use crate::events::What;
use crate::events::bus::{Events, Lines};
use crate::health::Health;
use crate::pipeline::deadline::Pulse;
use crate::supervisor::Supervisor;
use crate::units::FramePos;

/// Plays recordings through the pipeline of the daemon and prints its events, one JSON object a line.
///
/// Verified people are answered and their turns remembered, as by the daemon; answers are printed, not
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
/// Faults that keep the pipeline from starting; exit 65 when a recording cannot be used (the others are still
/// heard).
async fn listen(settings: Settings, recordings: &[PathBuf], realtime: bool) -> Result<(), Failure> {
    let health = Health::new();
    let parts = Parts::load(&settings, &health, MissingMemory::Refuse).await?;
    let (lines_in, lines_out) = mpsc::channel(64);
    let cannot_start = |e| Failure::because(Exit::Failed, "the pipeline cannot start its threads", e);
    let printer = tokio::task::spawn_blocking(move || lines::print(lines_out));

    let mut supervisor = Supervisor::new();
    let events = Events::new(Some(Lines { sender: lines_in, lossless: true, partials: true }));
    let (app, requests) = App::new(&parts, health, events.clone(), &Arc::default());
    let ends = Ends {
        recognizer: parts.recognizer,
        // A recording is a trial at a desk: answers are printed, not spoken.
        speech: None,
        requests,
        pulse: Arc::new(Pulse::of_recording()),
        fresh: None,
    };
    let path = VoicePath::start(&mut supervisor, &app, &settings, ends).map_err(cannot_start)?;

    let mut detector = parts.detector;
    let mut refused: Option<SourceError> = None;
    for recording in recordings {
        let opened = FileSource::open(recording, settings.audio.channel, realtime);
        let (end, failed) = match opened {
            Ok(source) => {
                let ready = What::Ready { source: recording.display().to_string() };
                events.at(FramePos(0), ready).await;
                let before = app.control.frames();
                let played = path.play(&mut supervisor, detector, Box::new(source), realtime).await?;
                detector = played.detector;
                (Some(FramePos(app.control.frames() - before)), played.read.err())
            }
            Err(error) => (None, Some(error)),
        };
        if let Some(error) = failed {
            let what = What::Error { stage: "audio".to_owned(), message: chain(&error) };
            events.at(end.unwrap_or_default(), what).await;
            refused.get_or_insert(error);
        }
        if let Some(end) = end {
            events.at(end, What::End).await;
        }
    }
    let memory = app.memory.clone();
    // The turn task ends with the path and lets go of the last sender of lines.
    drop((path, app, events));
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
