//! The single checks. Each returns its finding; none fails as a whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Finding;
use crate::app::Settings;
use crate::backup::{after_repair, way_back};
use crate::clock::Clock;
use crate::config::Fault;
use crate::detect::Detector;
use crate::detect::section::WakeModel;
use crate::dialogue::speech::Speech;
use crate::error::chain;
use crate::inference::{ModelError, ModelState, ModelStore};
use crate::memory::{Device, Memory, MemoryError};
use crate::mqtt;
use crate::speaker::{Calibration, CalibrationError};
use crate::store::StoreOptions;
use crate::stt::{self, Opened};

pub const REINSTALL: &str = "reinstall the package: its models and their manifest come with it";

pub fn configuration(settings: &Settings) -> Vec<Finding> {
    let files: Vec<String> = settings.files.iter().map(|file| file.display().to_string()).collect();
    let what =
        if files.is_empty() { "no file, every key has its default".to_owned() } else { files.join(", ") };
    let mut findings = vec![Finding::ok("configuration", what)];
    for warning in &settings.warnings {
        findings.push(Finding::warn(
            "configuration",
            warning,
            "the message names the key: set it, take it out, or leave it for a later version",
        ));
    }
    findings.extend(settings.faults_of_files().iter().map(of_fault));
    findings
}

/// A fault of the configuration.
pub fn of_fault(fault: &Fault) -> Finding {
    Finding::fail("configuration", fault.to_string(), "mend the file, or take the key out")
}

/// The models that this configuration needs.
pub fn models(settings: &Settings) -> Vec<Finding> {
    const CHECK: &str = "models";
    let store = match ModelStore::open(&settings.paths.models) {
        Ok(store) => store,
        Err(e) => return vec![Finding::fail(CHECK, chain(&e), REINSTALL)],
    };
    let mut findings = Vec::new();
    let mut sound = Vec::new();
    for status in store.status() {
        let name = &status.entry.name;
        match &status.state {
            ModelState::Verified => sound.push(name.clone()),
            ModelState::Missing if !settings.needs_model(&store, &status.entry) => {}
            ModelState::Missing => {
                findings.push(Finding::fail(CHECK, format!("{name} is missing"), status.fix));
            }
            ModelState::Damaged { found } => {
                let message = format!("{name} is damaged: sha256 {found}, expected {}", status.entry.sha256);
                findings.push(Finding::fail(CHECK, message, status.fix));
            }
            ModelState::Unreadable { reason } => {
                findings.push(Finding::fail(CHECK, format!("{name} cannot be read: {reason}"), status.fix));
            }
        }
    }
    // The hashes do not say that constants, cohort, compensation and speaker model belong together. A file
    // that is not the pinned one is named above.
    match Calibration::load(&store) {
        Ok(_) | Err(CalibrationError::Pinned(ModelError::Missing { .. } | ModelError::Damaged { .. })) => {}
        Err(e) => {
            findings.push(Finding::fail(CHECK, chain(&e), "reinstall the models that come with the program"));
        }
    }
    // A wake word of the owner's own has no hash: loading it shows whether it works, as in the daemon.
    if settings.wake.model.0.iter().any(|model| matches!(model, WakeModel::File(_)))
        && let Err(e) = Detector::new(&store, &settings.wake, &settings.endpoint)
    {
        findings.push(Finding::fail(CHECK, chain(&e), "wake.model names the file of the wake word"));
    }
    if !sound.is_empty() {
        findings.insert(0, Finding::ok(CHECK, format!("verified: {}", sound.join(", "))));
    }
    findings
}

/// Opens the recogniser as the daemon does.
pub fn speech_to_text(settings: &Settings) -> Finding {
    const CHECK: &str = "speech to text";
    let store = match ModelStore::open(&settings.paths.models) {
        Ok(store) => store,
        Err(e) => return Finding::fail(CHECK, chain(&e), REINSTALL),
    };
    match stt::open(&settings.stt, &settings.paths.models, &store) {
        Ok(Opened::Ready(engine)) if engine.engine() == "whisper" && settings.stt.language != "en" => {
            Finding::warn(CHECK, "Whisper tiny.en knows English only", "install a Vosk model of the language")
        }
        Ok(Opened::Ready(engine)) => Finding::ok(CHECK, format!("{} is ready", engine.engine())),
        Ok(Opened::Off) => Finding::ok(CHECK, "switched off"),
        Ok(Opened::Unusable { sentence }) => Finding::fail(CHECK, sentence, fetch(&store)),
        Err(e) => Finding::fail(CHECK, chain(&e), fetch(&store)),
    }
}

/// The way to get speech to text: both engines, into the folder that this device reads.
fn fetch(store: &ModelStore) -> String {
    format!(
        "{} for Whisper (English), with `--vosk-model WHAT` for Vosk",
        store.fix_of("whisper-tiny-en-encoder")
    )
}

pub async fn voice_output(settings: &Settings) -> Finding {
    const CHECK: &str = "voice";
    if !settings.speech.enabled {
        return Finding::ok(CHECK, "switched off");
    }
    let speech = Speech::new(&settings.speech);
    const FIX: &str = "apt-get install espeak-ng, or set speech.command";
    if let Some(why) = speech.silent() {
        return Finding::warn(CHECK, why, FIX);
    }
    match speech.render("This is a test.").await {
        Ok(sound) => Finding::ok(CHECK, format!("the speech command speaks, {} Hz", sound.rate_hz)),
        Err(e) => Finding::warn(CHECK, format!("{}; answers are text only", chain(&e)), FIX),
    }
}

/// The database as it is: the daemon repairs damage when it opens the database, and `doctor` does not.
pub async fn look_only(settings: &Settings) -> Result<Memory, MemoryError> {
    let device = Device { id: settings.device.id.clone() };
    let options = StoreOptions { keep_damaged: true, ..StoreOptions::default() };
    Memory::open_with(&settings.paths.db, &device, Clock::System, &options).await
}

/// Opens the database and reads all of it. A missing database is not created.
pub async fn database(settings: &Settings) -> Finding {
    const CHECK: &str = "database";
    let path = &settings.paths.db;
    match way_back::missing(&settings.backups()).await {
        Ok(Some(missing)) if settings.store.postgres_url.is_none() => {
            return Finding::fail(CHECK, missing.fault(), missing.choice());
        }
        Ok(Some(missing)) => {
            let fix = "the next start makes a new one and reads back what Postgres has";
            return match way_back::asked(&settings.backups()).undelivered {
                Some(only) => Finding::fail(CHECK, only.fault(), format!("{fix}; {}", only.choice())),
                None => Finding::warn(CHECK, missing.fault(), fix),
            };
        }
        // A database that cannot be asked is opened below, and that error says why.
        Ok(None) | Err(_) => {}
    }
    let is_there = match path.try_exists() {
        Ok(is_there) => is_there,
        Err(e) => {
            let fix = "run doctor with sudo, or as the user of the daemon";
            return Finding::fail(CHECK, format!("{} cannot be read: {e}", path.display()), fix);
        }
    };
    if !is_there {
        let folder = existing_part(path);
        return if writable(&folder) {
            Finding::ok(CHECK, format!("{} will be made at the first start", path.display()))
        } else {
            let fix = "run this as the user of the daemon, or give that user the folder";
            Finding::fail(
                CHECK,
                format!("{} cannot be made: {} is not writable", path.display(), folder.display()),
                fix,
            )
        };
    }
    let fix = "the message says what to do; docs/install.md tells where the file lies";
    let memory = match look_only(settings).await {
        Ok(memory) => memory,
        Err(e) if e.is_damaged() && settings.store.postgres_url.is_none() => {
            let fix = format!("{fix}; {}", way_back::asked(&settings.backups()).way_back);
            return Finding::fail(CHECK, chain(&e), fix);
        }
        Err(e) => return Finding::fail(CHECK, chain(&e), fix),
    };
    let copies = memory.store().damaged_copies();
    let checked = memory.check().await;
    let users = memory.list_users().await.map(|users| users.len());
    let lost = memory.lost().await.map(|lost| lost.sentence());
    let only_in_backup = memory.only_in_backup().await.ok().flatten();
    let repair = after_repair::noted(&memory).await.ok().flatten().and_then(|note| note.sentence);
    memory.close().await;
    if let (Ok(()), Some(only)) = (&checked, only_in_backup) {
        return Finding::fail(CHECK, only.fault(), only.choice());
    }
    if let (Ok(()), Some(newest)) = (&checked, copies.last()) {
        let repair = repair.unwrap_or_else(|| "it was damaged and repaired".to_owned());
        let message = format!(
            "{repair}; damaged copies are kept: {}, the newest is {}",
            copies.len(),
            newest.display()
        );
        return Finding::warn(CHECK, message, "delete them when nothing is missed; they hold what was said");
    }
    if let (Ok(()), Ok(Some(lost))) = (&checked, &lost) {
        let fix = if settings.store.postgres_url.is_some() {
            "`jarvisd store check --repair` and `jarvisd store pull` bring back what Postgres has".to_owned()
        } else {
            way_back::asked(&settings.backups()).way_back
        };
        return Finding::fail(CHECK, format!("{} is sound, but {lost}", path.display()), fix);
    }
    match checked.and(lost).and(users) {
        Ok(users) => Finding::ok(CHECK, format!("{} is sound, people: {users}", path.display())),
        Err(e) => Finding::fail(CHECK, chain(&e), fix),
    }
}

/// The nearest folder above `path` that exists.
pub fn existing_part(path: &Path) -> PathBuf {
    path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn writable(folder: &Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

pub fn disk(settings: &Settings) -> Finding {
    const CHECK: &str = "disk";
    const LEAST_BYTES: u64 = 100 << 20;
    const COMFORTABLE_BYTES: u64 = 1 << 30;
    let folder = existing_part(&settings.paths.db);
    let free = match rustix::fs::statvfs(&folder) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(e) => return Finding::warn(CHECK, format!("{}: {e}", folder.display()), "check the disk"),
    };
    let message = format!("{:.1} GB free in {}", free as f64 / 1e9, folder.display());
    match free {
        free if free < LEAST_BYTES => {
            Finding::fail(CHECK, message, "free some space, or turns cannot be stored")
        }
        free if free < COMFORTABLE_BYTES => {
            Finding::warn(CHECK, message, "free some space before it is full")
        }
        _ => Finding::ok(CHECK, message),
    }
}

/// Signs in at the broker as the daemon does.
pub fn broker(settings: &Settings) -> Vec<Finding> {
    const CHECK: &str = "MQTT broker";
    const LIST: &str = "let its access list allow them (docs/home-assistant.md)";
    const FIX: &str = "docs/home-assistant.md tells more; the device works without it and goes on trying";
    let Some(wanted) = settings.broker() else {
        return vec![Finding::ok(CHECK, "none is set: nothing is published")];
    };
    if let Err(e) = mqtt::check(&wanted) {
        return vec![Finding::fail(
            CHECK,
            chain(&e),
            "correct the section [mqtt]; the daemon does not start with it",
        )];
    }
    let url = &wanted.broker;
    let found = match bounded(BROKER_PATIENCE, "mqtt-probe", {
        let wanted = wanted.clone();
        move || mqtt::probe(&wanted)
    }) {
        Some(Ok(found)) => found,
        Some(Err(why)) => return vec![Finding::warn(CHECK, why, FIX)],
        None => {
            let why = format!("cannot reach the broker at {url}: it, or the name service, does not answer");
            return vec![Finding::warn(CHECK, why, FIX)];
        }
    };
    let mut findings = Vec::new();
    if !found.mute_on.is_empty() {
        let topics = found.mute_on.join(", ");
        let why = format!("the broker at {url} does not let the device publish on {topics}");
        findings.push(Finding::warn(CHECK, why, LIST));
    }
    if !found.deaf_to.is_empty() {
        let topics = found.deaf_to.join(", ");
        let why = format!("the broker at {url} does not let the device read {topics}");
        findings.push(Finding::warn(CHECK, why, LIST));
    }
    if !found.unproven.is_empty() {
        let topics = found.unproven.join(", ");
        let why = format!(
            "nothing proves that the broker at {url} lets the device read {topics}: the device may not \
             publish there"
        );
        findings.push(Finding::warn(CHECK, why, LIST));
    }
    for limit in found.limits {
        let fix = "set it at the broker; without it the device works as far as that goes";
        findings.push(Finding::warn(CHECK, format!("the broker at {url} is limited: {limit}"), fix));
    }
    if findings.is_empty() {
        let mut message = format!("{url} takes the device in and lets it publish and read its topics");
        if let Some(topic) = found.unproven_status {
            message += &format!("; nothing proves that it may read {topic}, where it may not publish");
        }
        findings.push(Finding::ok(CHECK, message));
    }
    findings
}

/// Longer than the deadline of the probe, which the resolver does not keep.
const BROKER_PATIENCE: Duration = Duration::from_secs(20);

/// The result of `work`, or `None` if it takes too long; the thread is left to end with the process.
fn bounded<T: Send + 'static>(
    patience: Duration,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let begun = std::thread::Builder::new().name(name.to_owned()).spawn(move || sender.send(work()));
    begun.ok().and_then(|_| receiver.recv_timeout(patience).ok())
}

pub fn clock() -> Finding {
    const CHECK: &str = "clock";
    if Clock::System.stamp().synced {
        return Finding::ok(CHECK, "set by the network");
    }
    let fix = "check the network and `timedatectl`; turns are stored all the same and dated again later";
    Finding::warn(CHECK, "not set by the network yet", fix)
}

pub fn priority(settings: &Settings) -> Finding {
    const CHECK: &str = "priority";
    if !settings.audio.realtime_priority {
        return Finding::ok(CHECK, "audio.realtime_priority is false");
    }
    match crate::audio::realtime::raise_priority() {
        Ok(()) => Finding::ok(CHECK, "real-time priority is granted"),
        Err(e) => Finding::warn(
            CHECK,
            format!("no real-time priority ({e}); sound may be lost while the machine is busy"),
            "the service unit grants it with LimitRTPRIO; for trials by hand it is not needed",
        ),
    }
}
