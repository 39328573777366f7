//! `jarvisd voice pin`: PINs for days when a voice fails. They are given here or over MQTT
//! (`docs/voice-authentication.md`).

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::app::Settings;
use crate::cli::{output, user_named, with_memory};
use crate::error::{Exit, Failure};
use crate::events::PinOutcome;
use crate::identity::access::{self, Entry};
use crate::identity::pins::{self, PinsError};
use crate::memory::{Memory, NewAudit};
use crate::plain::without_mark;
use crate::speaker::pin::Pin;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Set a person's PIN, 6 to 12 digits. It is asked for on the terminal, or read from the first line of
    /// standard input; it is never an argument.
    #[command(after_help = "\
Only a hash of it is kept (Argon2id), on this device alone. It counts once voice.pin_valid_s is set:
the person gives it with `voice pin enter` or over MQTT, and for that long an unverified voice is
taken for theirs. Wrong PINs count with voices that were not verified, and after five of them the
device pauses.")]
    Set(Named),
    /// Give a person's PIN: for voice.pin_valid_s an unverified voice then counts as theirs, as after a PIN
    /// over MQTT. It is asked for on the terminal, or read from the first line of standard input; it is never
    /// an argument.
    #[command(after_help = "\
A wrong PIN counts with voices that were not verified: after five of them in a row neither is looked
at for a while (exit status 75). Each attempt has a row in the audit log. A daemon that runs on this
device knows at the next utterance.")]
    Enter(Named),
    /// Forget a person's PIN, and the access that it granted.
    Clear(Named),
    /// List the people who have a PIN.
    List(output::Json),
}

#[derive(Debug, clap::Args)]
pub struct Named {
    /// Person whose PIN it is.
    #[arg(value_name = "USER")]
    user: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Done<'a> {
    user: &'a str,
    /// Whether the person has a PIN now.
    pin: bool,
}

pub fn run(settings: &Settings, command: Command) -> Result<(), Failure> {
    with_memory(settings, async |memory| match command {
        Command::Set(args) => {
            let user = user_named(memory, &args.user).await?;
            let name = output::plain(&user.name);
            let pin = asked(&format!("New PIN of {name}: "), true)?;
            pins::set(memory, &user, &pin).await.map_err(failure)?;
            let entry = NewAudit { user: Some(user.id), action: "pin", outcome: "set", detail: None };
            memory.append_audit(&entry).await?;
            if settings.voice.pin_valid_s == 0 {
                log::warn!("PINs are not taken yet: set voice.pin_valid_s in the configuration");
            }
            report(&user.name, true, args.json, format!("{name} has a new PIN."))
        }
        Command::Enter(args) => enter(settings, memory, &args).await,
        Command::Clear(args) => {
            let user = user_named(memory, &args.user).await?;
            let name = output::plain(&user.name);
            if !pins::clear(memory, user.id).await? {
                return Err(Failure::new(Exit::Failed, format!("{name} has no PIN")));
            }
            access::revoke(memory, user.id).await?;
            let entry = NewAudit { user: Some(user.id), action: "pin", outcome: "cleared", detail: None };
            memory.append_audit(&entry).await?;
            report(&user.name, false, args.json, format!("{name} has no PIN any more."))
        }
        Command::List(args) => {
            let names: Vec<String> = pins::people(memory).await?.into_iter().map(|user| user.name).collect();
            if args.json {
                return output::json(&names);
            }
            if names.is_empty() {
                return output::line("Nobody has a PIN; `jarvisd voice pin set USER` sets one.");
            }
            names.iter().try_for_each(|name| output::line(output::plain(name)))
        }
    })
}

#[derive(Debug, Serialize)]
struct Entered<'a> {
    user: &'a str,
    valid_s: u64,
}

async fn enter(settings: &Settings, memory: &Memory, args: &Named) -> Result<(), Failure> {
    let valid = Duration::from_secs(settings.voice.pin_valid_s.into());
    if valid.is_zero() {
        let why = "PINs are not taken on this device: set voice.pin_valid_s in the configuration";
        return Err(Failure::new(Exit::Config, why));
    }
    let pin = asked(&format!("PIN of {}: ", output::plain(&args.user)), false)?;
    let Entry { outcome, user, pause_ms } =
        access::enter(memory, &args.user, pin, valid).await.map_err(failure)?;
    let wait_s = pause_ms.saturating_add(999) / 1000;
    match (user, outcome) {
        (Some(user), _) if args.json => output::json(&Entered { user: &user.name, valid_s: valid.as_secs() }),
        (Some(user), _) => output::line(format!(
            "The PIN is right: for {} s an unverified voice is taken for that of {}.",
            valid.as_secs(),
            output::plain(&user.name)
        )),
        (None, PinOutcome::Paused) => Err(Failure::new(
            Exit::TryAgain,
            format!(
                "too many attempts failed in a row, so this one was not looked at; try again in {wait_s} s"
            ),
        )),
        (None, _) if wait_s > 0 => Err(Failure::new(
            Exit::Failed,
            format!(
                "the PIN is not right, and too many attempts failed in a row: the next one counts in \
                 {wait_s} s"
            ),
        )),
        (None, _) => Err(Failure::new(Exit::Failed, "the PIN is not right; nothing was changed")),
    }
}

fn report(user: &str, pin: bool, json: bool, sentence: String) -> Result<(), Failure> {
    if json { output::json(&Done { user, pin }) } else { output::line(sentence) }
}

fn failure(error: PinsError) -> Failure {
    match error {
        PinsError::Memory(error) => error.into(),
        error @ (PinsError::Pin(_) | PinsError::NoVoice) => Failure::of(Exit::Data, &error),
        error => Failure::of(Exit::Failed, &error),
    }
}

/// The PIN from the terminal, not shown and typed once more if `twice`, or from the first line of standard
/// input.
fn asked(prompt: &str, twice: bool) -> Result<Pin, Failure> {
    let cannot = |e: std::io::Error| Failure::because(Exit::Failed, "the PIN could not be read", e);
    let typed = if std::io::stdin().is_terminal() {
        let quiet = Quiet::new().map_err(cannot)?;
        let first = line(prompt).map_err(cannot)?;
        let differs = twice && first != line("The same again: ").map_err(cannot)?;
        drop(quiet);
        if differs {
            return Err(Failure::new(Exit::Data, "the two PINs differ; nothing was changed"));
        }
        first
    } else {
        line("").map_err(cannot)?
    };
    Pin::typed(without_mark(&typed)).map_err(|e| Failure::of(Exit::Data, &e))
}

fn line(prompt: &str) -> std::io::Result<Zeroizing<String>> {
    if !prompt.is_empty() {
        write!(std::io::stderr(), "{prompt}")?;
    }
    let mut text = Zeroizing::new(String::new());
    std::io::Read::take(std::io::stdin().lock(), 1_024).read_line(&mut text)?;
    if !prompt.is_empty() {
        writeln!(std::io::stderr())?;
    }
    Ok(text)
}

/// The terminal does not show typed characters while this lives.
struct Quiet(Termios);

impl Quiet {
    fn new() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that went away shows nothing either.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
