//! `jarvisd sound`: the microphones and loudspeakers of the machine, the level of one, a trial of the wake
//! word.

use std::collections::BTreeSet;
use std::time::Duration;

use alsa::Direction;
use alsa::device_name::HintIter;
use serde::Serialize;

use super::meter::{self, Meter};
use super::{Common, block_on, output};
use crate::app::Settings;
use crate::app::parts;
use crate::detect::listener::{Heard, Listener};
use crate::error::{Exit, Failure};
use crate::plain::figure;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the microphones and loudspeakers by the names that audio.device and audio.playback_device take.
    List(output::Json),
    /// Show the level of the microphone while you speak. Exit code 69 if no sound comes.
    Level(Level),
    /// Wait for the wake word. Exit code 1 if it is not heard.
    Wake(Listen),
}

#[derive(Debug, clap::Args)]
pub struct Listen {
    /// How long to listen.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = seconds())]
    seconds: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Level {
    /// ALSA name of the microphone, instead of the one that is configured.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    #[command(flatten)]
    listen: Listen,
}

fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=600)
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    if let Command::List(args) = &command {
        return list(args.json);
    }
    let mut settings = common.settings()?;
    match command {
        Command::List(_) => Ok(()),
        Command::Level(args) => {
            if let Some(device) = args.device {
                settings.audio.device = device;
            }
            block_on(level(&settings, &args.listen))
        }
        Command::Wake(args) => block_on(wake(&settings, &args)),
    }
}

/// A device of ALSA.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Device {
    name: String,
    /// On one line.
    description: String,
}

#[derive(Debug, Default, Serialize)]
struct Devices {
    microphones: BTreeSet<Device>,
    loudspeakers: BTreeSet<Device>,
}

/// Names of ALSA that are no device of their own: other ways to a card that is listed, and fillers.
const OTHER_WAYS: [&str; 18] = [
    "null",
    "hw",
    "sysdefault",
    "front",
    "rear",
    "center_lfe",
    "side",
    "surround21",
    "surround40",
    "surround41",
    "surround50",
    "surround51",
    "surround71",
    "dmix",
    "dsnoop",
    "usbstream",
    "iec958",
    "lavrate",
];
/// Converters and effects that come with the plug-ins of ALSA.
const PLUG_INS: [&str; 7] = ["samplerate", "speexrate", "speex", "upmix", "vdownmix", "jack", "oss"];

impl Devices {
    fn found() -> Result<Self, Failure> {
        // alsa-lib would print its own lines about plug-ins that are not installed.
        let _ = alsa::Output::local_error_handler();
        let hints = HintIter::new(None, c"pcm").map_err(|e| {
            Failure::because(Exit::Failed, "ALSA lists no devices; look at /etc/asound.conf and /etc/alsa", e)
        })?;
        let mut devices = Self::default();
        for hint in hints {
            let Some(name) = hint.name else { continue };
            let kind = name.split(':').next().unwrap_or_default();
            if OTHER_WAYS.contains(&kind) || PLUG_INS.contains(&kind) {
                continue;
            }
            // Those of firmware-config say it by their names; converters say no direction to ALSA.
            let direction = match kind {
                "jarvis_microphone" => Some(Direction::Capture),
                "jarvis_loudspeaker" | "jarvis_loudspeaker_volume" => Some(Direction::Playback),
                _ => hint.direction,
            };
            let description = output::plain(&hint.desc.unwrap_or_default());
            let device = Device { name, description };
            if direction != Some(Direction::Playback) {
                devices.microphones.insert(device.clone());
            }
            if direction != Some(Direction::Capture) {
                devices.loudspeakers.insert(device);
            }
        }
        Ok(devices)
    }
}

fn list(json: bool) -> Result<(), Failure> {
    let devices = Devices::found()?;
    if json {
        return output::json(&devices);
    }
    let kinds = [("microphone", &devices.microphones), ("loudspeaker", &devices.loudspeakers)];
    let row =
        |kind: &str, device: &Device| [kind.to_owned(), device.name.clone(), device.description.clone()];
    let rows: Vec<_> =
        kinds.iter().flat_map(|(kind, devices)| devices.iter().map(|device| row(kind, device))).collect();
    if rows.is_empty() {
        return output::line(
            "ALSA knows no microphone and no loudspeaker; plug one in, or see docs/hardware.md for a board",
        );
    }
    output::table(["KIND", "NAME", "WHAT IT IS"], &rows)
}

#[derive(Debug, Serialize)]
struct Measured {
    device: String,
    rate_hz: u32,
    loudest_db: f32,
    quietest_db: f32,
    /// A fault of the sound and the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

async fn level(settings: &Settings, args: &Listen) -> Result<(), Failure> {
    let models = parts::open_models(settings)?;
    let mut listener = Box::new(Listener::for_phrases(&settings.audio, &settings.endpoint, &models)?);
    let meter = Meter::new(args.json);
    let mut left = Duration::from_secs(args.seconds);
    let listened = meter::until_interrupted(async |stop| {
        // A phrase ends a call; the level goes on for the whole time.
        let mut range: Option<(f32, f32)> = None;
        while !left.is_zero() {
            let begun = std::time::Instant::now();
            let (again, heard) = meter.listen(listener, left, &stop).await?;
            listener = again;
            left = left.saturating_sub(begun.elapsed());
            range = match (range, listener.range_db()) {
                (Some((a, b)), Some((c, d))) => Some((a.max(c), b.min(d))),
                (one, another) => one.or(another),
            };
            if matches!(heard, Heard::Stopped) {
                break;
            }
        }
        Ok((range, listener.rate_hz(), listener.fault()))
    })
    .await;
    meter.end();
    let (range, rate_hz, fault) = listened?;
    let device = settings.audio.device.clone();
    let (Some((loudest_db, quietest_db)), Some(rate_hz)) = (range, rate_hz) else {
        return Err(Failure::new(Exit::Unavailable, format!("\"{device}\" gave no sound in that time")));
    };
    let fault = fault.map(|fault| format!("{}; {}", fault.words(), fault.fix()));
    let measured = Measured { device, rate_hz, loudest_db, quietest_db, fault };
    if args.json {
        return output::json(&measured);
    }
    let Measured { device, rate_hz, fault, .. } = measured;
    output::line(format!(
        "\"{device}\", {rate_hz} Hz: quietest {} dB, loudest {} dB",
        figure(quietest_db, 0),
        figure(loudest_db, 0)
    ))?;
    fault.map_or(Ok(()), |fault| output::line(format!("It delivers {fault}.")))
}

#[derive(Debug, Serialize)]
struct Woken {
    word: String,
    score: f32,
}

async fn wake(settings: &Settings, args: &Listen) -> Result<(), Failure> {
    if settings.wake.model.0.is_empty() {
        let message = "no wake word is set: every sentence is a command (wake.model)";
        return Err(Failure::new(Exit::Usage, message));
    }
    let models = parts::open_models(settings)?;
    let listener = Listener::for_wake(&settings.audio, &settings.wake, &settings.endpoint, &models)?;
    let meter = Meter::new(args.json);
    let listened = meter::until_interrupted(async |stop| {
        meter.listen(Box::new(listener), Duration::from_secs(args.seconds), &stop).await
    })
    .await;
    meter.end();
    match listened?.1 {
        Heard::Wake { word, score } if args.json => output::json(&Woken { word, score }),
        Heard::Wake { word, score } => {
            output::line(format!("Heard \"{word}\", with a score of {}.", figure(score, 2)))
        }
        Heard::Stopped => Err(Failure::new(Exit::Failed, "interrupted")),
        Heard::Phrase(_) | Heard::Nothing => Err(Failure::new(
            Exit::Failed,
            format!(
                "the wake word was not heard in {} s; say it nearer and clearly, or lower wake.threshold",
                args.seconds
            ),
        )),
    }
}
