//! `jarvisd vault`: the key that voiceprints are sealed with.

use std::path::PathBuf;

use serde::Serialize;

use super::{Common, output, with_memory};
use crate::app::Settings;
use crate::app::parts;
use crate::error::{Exit, Failure, chain};
use crate::memory::{Memory, MemoryError};
use crate::speaker::vault::CREDENTIAL;
use crate::speaker::{Calibration, SealedVoiceprint, VaultError};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a new key and seal every voiceprint with it; the old key opens nothing any more.
    #[command(after_help = "\
A running daemon notices by itself. Copies of the old key (your backup, other devices that share the
voices through Postgres) must be replaced by the new one.

Where systemd passes the key as a credential, this program cannot replace it: say --to FILE, then put
FILE in the place of the credential and restart the daemon. Until then it verifies nobody.")]
    RotateKey(RotateKey),
}

#[derive(Debug, clap::Args)]
pub struct RotateKey {
    /// File for the new key, where systemd passes the key as a credential. An existing file is used.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(command: Command, common: &Common) -> Result<(), Failure> {
    let Command::RotateKey(args) = command;
    let settings = common.settings()?;
    with_memory(&settings, async |memory| rotate(&settings, memory, &args).await)
}

#[derive(Debug, Serialize)]
struct Rotated<'a> {
    /// Voiceprints that were sealed with the old key.
    rotated: usize,
    key: &'a std::path::Path,
}

async fn rotate(settings: &Settings, memory: &Memory, args: &RotateKey) -> Result<(), Failure> {
    let credential =
        settings.paths.credentials.as_ref().map(|dir| dir.join(CREDENTIAL)).filter(|key| key.exists());
    match (&credential, &args.to) {
        (Some(_), None) => {
            let message = format!(
                "the key is systemd's credential {CREDENTIAL}, which this program cannot replace; say --to \
                 FILE and put that file in its place"
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        (None, Some(_)) => {
            let message = format!(
                "--to is for a key that systemd passes as a credential; here it is {}, which is replaced \
                 without it",
                settings.paths.key.display()
            );
            return Err(Failure::new(Exit::Usage, message));
        }
        _ => {}
    }
    let models = parts::open_models(settings)?;
    // The calibration names the speaker model, which need not be loaded for this.
    let calibration = Calibration::load(&models).map_err(|e| Failure::of(Exit::Config, &e))?;
    let vault = parts::open_vault(settings, calibration.identity().clone(), memory).await?;
    let rotation = vault.rotate(args.to.as_deref()).map_err(|e| match e {
        VaultError::Rotating => Failure::of(Exit::TryAgain, &e),
        e => Failure::of(Exit::Config, &e),
    })?;
    let rotated = memory.rewrap_voiceprints(|voiceprint| {
        let user_id = voiceprint.info.user_id.to_string();
        let sealed = rotation.rewrap(&user_id, &SealedVoiceprint::from(voiceprint));
        sealed.map(|sealed| sealed.wrapped_key).map_err(|e| shut(&voiceprint.info.user_name, &e))
    });
    let rotated = rotated.await.map_err(|stop| stop.0)?;
    rotation.finish().map_err(|e| Failure::of(Exit::Failed, &e))?;
    let key = args.to.as_deref().unwrap_or(&settings.paths.key);
    if args.json {
        return output::json(&Rotated { rotated, key });
    }
    output::line(format!(
        "{} with the new key {}; the old one opens nothing any more. Keep a copy of the new one.",
        match rotated {
            1 => "One voiceprint is sealed".to_owned(),
            n => format!("{n} voiceprints are sealed"),
        },
        key.display()
    ))
}

/// Why the rotation stopped.
struct Stop(Failure);

impl From<MemoryError> for Stop {
    fn from(error: MemoryError) -> Self {
        Self(error.into())
    }
}

fn shut(name: &str, error: &VaultError) -> Stop {
    let name = output::plain(name);
    let message = format!(
        "the key was not rotated, because the voiceprint of {name} does not open: {}; `jarvisd voice delete \
         --user {}` removes it",
        chain(error),
        output::shell_word(&name)
    );
    Stop(Failure::new(Exit::Failed, message))
}
