//! `jarvisd run`: start-up and shutdown, top to bottom.

pub mod reload;
pub mod sound_watch;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::parts::{MissingMemory, Parts};
use crate::app::voice_path::{Ends, VoicePath};
use crate::app::{App, Settings};
use crate::audio::alsa::AlsaSource;
use crate::audio::{CaptureStats, SourceError};
use crate::backup::{after_repair, pre_migration, watch};
use crate::config::Options;
use crate::error::{Exit, Failure, chain};
use crate::events::bus::{Events, Lines};
use crate::health::{Condition, Health, Need};
use crate::memory;
use crate::memory::pull::Puller;
use crate::mqtt::{self, Feeds};
use crate::notify;
use crate::panel::button::{self, MuteSwitch, TalkButton};
use crate::panel::led;
use crate::pipeline::deadline::Pulse;
use crate::pipeline::pause::PauseWatch;
use crate::pipeline::switches;
use crate::store::forward::{self, BeforeMigration, Forwarder};
use crate::supervisor::{Ended, SpawnError, Supervisor};
use sound_watch::SoundWatch;

/// How long everything may take to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Time to give the log back to the database after that.
const CLOSE: Duration = Duration::from_secs(1);
/// From the signal to the end of the process; `TimeoutStopSec=` of the unit is longer.
pub const STOPS_WITHIN: Duration = Duration::from_secs(DRAIN.as_secs() + CLOSE.as_secs());

/// Runs the daemon until it is told to stop. `lines` receives every event (`run --events`).
///
/// # Errors
/// The obstacle to the start, or the part that ended although nothing had asked it to.
pub async fn run(settings: Settings, options: Options, lines: Option<Lines>) -> Result<(), Failure> {
    let health = Health::new();
    for (part, need) in [
        (sound_watch::COMPONENT, Need::Required),
        ("voice", Need::Required),
        ("stt", Need::Required),
        ("store", Need::Required),
        (memory::COMPONENT, Need::Required),
        (switches::COMPONENT, Need::Required),
        (forward::COMPONENT, Need::Optional),
        (watch::COMPONENT, Need::Optional),
    ] {
        health.register(part, need);
    }
    notify::status("starting");
    let cannot_start = |e| Failure::because(Exit::Failed, "the daemon cannot start its threads", e);
    let mut supervisor = Supervisor::new();
    let stop = supervisor.token();
    let until = stop.clone();
    let keep_alive = move || {
        notify::start::keep_alive(&until);
        Ok::<_, std::convert::Infallible>(())
    };
    supervisor.job_thread("starting", keep_alive).map_err(cannot_start)?;

    // This comes before anything that takes time: a signal without a handler would end the process by itself.
    let (mut terminate, hang_up) = (listen_for(SignalKind::terminate())?, listen_for(SignalKind::hangup())?);
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    let _lock = lock(&settings)?;

    // Build: everything that can be refused is refused here.
    let parts = tokio::select! {
        parts = Parts::load(&settings, &health, MissingMemory::HoldApart) => parts?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let stats = Arc::new(CaptureStats::default());
    let source = open_microphone(&settings, &stats)?;
    let broker = settings.broker();
    if let Some(broker) = &broker {
        mqtt::check(broker).map_err(|e| Failure::of(Exit::Config, &e))?;
    }

    let postgres = settings.postgres();

    // Bind: the queues, each bounded.
    let (app, requests) = App::new(&parts, health, Events::new(lines), &stats);
    let pulse = Arc::new(Pulse::default());
    let (memory, health) = (&app.memory, &app.health);
    // Before the first sound.
    let mute_switch = settings.button.mute_device.clone().map(|device| {
        health.register(button::MUTE_SWITCH, Need::Required);
        let code = settings.button.mute_code;
        let switch = MuteSwitch { device, code, switches: app.switches.clone(), health: health.clone() };
        let first = switch.read_first();
        (switch, first)
    });
    app.switches.restore_muted(memory, health).await;
    // An unreadable setting counts as no announcements; at worst an entity stays.
    let announced =
        memory.setting::<mqtt::Announced>(mqtt::ANNOUNCED).await.ok().flatten().unwrap_or_default();
    let announced = tokio::sync::watch::channel(announced).0;

    // Start: the data path first.
    let start = || -> Result<(), SpawnError> {
        let Parts { detector, recognizer, speech, .. } = parts;
        let opener = app.voices.opener();
        let puller = postgres.clone().map(|postgres| Puller::new(memory.clone(), postgres, Some(opener)));
        let patience = Duration::from_millis(settings.store.fresh_ms.into());
        let fresh = puller.as_ref().map(|puller| puller.freshness(patience));
        let ends = Ends { recognizer, speech: Some(speech), requests, pulse: pulse.clone(), fresh };
        let path = VoicePath::start(&mut supervisor, &app, &settings, ends)?;
        let realtime = settings.audio.realtime_priority;
        path.listen(&mut supervisor, detector, Box::new(source), stats.clone(), realtime)?;
        let keep = app.switches.clone().keep_muted(memory.clone(), health.clone(), stop.clone());
        supervisor.task("mute", keep)?;
        if let Some((switch, first)) = mute_switch {
            supervisor.task("muteswitch", switch.run(first, stop.clone()))?;
        }
        if let Some(device) = settings.button.talk_device.clone() {
            let talk = TalkButton {
                device,
                section: settings.button.clone(),
                dispatcher: app.dispatcher.clone(),
                switches: app.switches.clone(),
                health: health.clone(),
            };
            supervisor.task("button", talk.run(stop.clone()))?;
        }
        if settings.led.folder.is_some() {
            // A reporter: it shows the end of the last answer as well.
            let shows = led::run(settings.led.clone(), health.clone(), supervisor.last_words());
            supervisor.reporter("led", shows)?;
        }
        if settings.voice.enabled {
            let watch = PauseWatch {
                memory: memory.clone(),
                health: health.clone(),
                events: app.events.clone(),
                control: app.control.clone(),
                changed: app.counted.clone(),
            };
            supervisor.task("pausewatch", watch.run(stop.clone()))?;
        }
        let (maintained, until, audit_days) = (memory.clone(), stop.clone(), settings.store.audit_days);
        supervisor.job("maintain", async move {
            maintained.maintain(until, audit_days).await;
            Ok::<_, std::convert::Infallible>(())
        })?;
        let (for_watchdog, frames) = (stats.clone(), app.control.clone());
        let progress = move || sound_watch::progress(&for_watchdog, &frames, &pulse);
        supervisor.task(
            "watchdog",
            notify::feed_watchdog(progress, sound_watch::RECOVERY_PATIENCE, stop.clone()),
        )?;
        let watch = SoundWatch {
            device: settings.audio.device.clone(),
            stats: stats.clone(),
            control: app.control.clone(),
            health: health.clone(),
            events: app.events.clone(),
        };
        supervisor.task("soundwatch", watch.run(stop.clone()))?;
        let reload =
            reload::run(hang_up, options, settings.clone(), app.live.clone(), health.clone(), stop.clone());
        supervisor.task("reload", reload)?;
        let (tell_backups, backups) = tokio::sync::watch::channel(None);
        let clock = memory.clock().clone();
        supervisor.task(
            "backupwatch",
            watch::run(settings.backups(), clock, health.clone(), tell_backups, stop.clone()),
        )?;
        // Behind everything that a turn needs: it may have to unpack a backup.
        let mends = after_repair::run(settings.backups(), memory.clone(), stop.clone());
        supervisor.task("afterrepair", mends)?;
        supervisor.job("signals", until_told(terminate, interrupt, stop.clone()))?;
        if let Some(broker) = broker {
            let remembers = memory.clone();
            let mut changes = announced.subscribe();
            supervisor.reporter("mqtt-announced", async move {
                while changes.changed().await.is_ok() {
                    let now = changes.borrow_and_update().clone();
                    if let Err(e) = remembers.set_setting(mqtt::ANNOUNCED, &now).await {
                        log::warn!("what Home Assistant was told of cannot be stored: {}", chain(&e));
                    }
                }
                Ok::<_, std::convert::Infallible>(())
            })?;
            let feeds = Feeds {
                events: app.events.subscribe(),
                status: health.watch(),
                health: health.clone(),
                backups,
                dispatcher: app.dispatcher.clone(),
                announced,
            };
            let last_words = supervisor.last_words();
            supervisor.reporter("mqtt", async move { mqtt::run(broker, feeds, last_words).await })?;
        } else {
            health.set(mqtt::COMPONENT, Condition::off("no broker is configured"));
        }
        if let Some(postgres) = postgres {
            let (context, there) = (settings.backups(), postgres.clone());
            let before_migration = BeforeMigration::new(move || {
                let (backups, there) = (context.clone(), there.clone());
                Box::pin(async move { pre_migration::back_up_postgres(&backups, &there).await })
            });
            let forwarder = Forwarder::new(memory.store().clone(), memory.clock().clone(), postgres)
                .before_migration(before_migration)
                .keep_audit(settings.store.audit_days);
            // A reporter: the last turn is on the disk before this is told to stop.
            let last_words = supervisor.last_words();
            let (circuit, doubt) = (forwarder.circuit(), forwarder.doubt());
            supervisor.reporter("forward", forwarder.run(health.clone(), last_words))?;
            if let Some(puller) = puller {
                supervisor.task("pull", puller.run(circuit, doubt, stop.clone()))?;
            }
        } else {
            let sentence = "no Postgres is configured: memory stays on this device";
            health.set(forward::COMPONENT, Condition::off(sentence));
        }
        Ok(())
    };
    start().map_err(cannot_start)?;

    // Work until told to stop.
    let ended = supervisor.wait().await;
    notify::stopping("stopping");
    let drained = supervisor.drain(DRAIN).await;
    // The write-ahead log goes back into the database, so that a backup of the file alone is whole.
    let _ = tokio::time::timeout(CLOSE, memory.close()).await;
    let mut faults = match ended {
        Ended::Fault(fault) => vec![fault],
        Ended::Asked | Ended::AllDone => Vec::new(),
    };
    faults.extend(drained.faults);
    // A stage that failed also ends those behind it; the one with a cause is named.
    faults.sort_by_key(|fault| fault.source().is_none());
    match faults.into_iter().next() {
        Some(fault) => {
            let source = fault.source().and_then(|cause| cause.downcast_ref::<SourceError>());
            let exit = source.map_or(Exit::Failed, SourceError::exit);
            Err(Failure::because(exit, "a part of the daemon ended", fault))
        }
        None if drained.late.is_empty() => Ok(()),
        None => {
            let late = drained.late.join(", ");
            Err(Failure::new(Exit::Failed, format!("not everything stopped in time: {late}")))
        }
    }
}

/// One daemon a data folder: two would hear the same words and count failed attempts apart. Held until the
/// file is closed.
fn lock(settings: &Settings) -> Result<std::fs::File, Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = settings.paths.data.join("daemon.lock");
    let cannot = |e: std::io::Error| {
        Failure::because(Exit::Unavailable, format!("the lock {} cannot be made", path.display()), e)
    };
    crate::durable::create_folder(&settings.paths.data).map_err(cannot)?;
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(cannot)?;
    if crate::durable::try_lock(&file).map_err(cannot)? {
        return Ok(file);
    }
    let data = settings.paths.data.display();
    let message = format!(
        "another daemon uses {data}; stop it first, or give this one a folder of its own with --root"
    );
    Err(Failure::new(Exit::TryAgain, message))
}

fn open_microphone(settings: &Settings, stats: &Arc<CaptureStats>) -> Result<AlsaSource, Failure> {
    AlsaSource::new(settings.audio.clone(), stats.clone()).map_err(|e| Failure::of(e.exit(), &e))
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|e| Failure::because(Exit::Failed, "the signal handlers cannot be set up", e))
}

async fn until_told(
    mut terminate: tokio::signal::unix::Signal,
    mut interrupt: tokio::signal::unix::Signal,
    stop: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    tokio::select! {
        () = stop.cancelled() => {}
        _ = terminate.recv() => log::info!("told to stop by SIGTERM"),
        _ = interrupt.recv() => log::info!("told to stop by SIGINT"),
    }
    stop.cancel();
    Ok(())
}
