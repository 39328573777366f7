//! The command line: one file a subcommand. Errors go to standard error as one sentence with the remedy.
//! Results go to standard output, as JSON where `--json` asks for it.

mod ask;
mod audit;
mod backup;
mod bench;
mod check_config;
mod conversation;
mod doctor;
mod lines;
mod listen;
mod meter;
mod models;
mod output;
mod queue;
mod run;
mod sound;
mod store;
mod user;
mod vault;
mod voice;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::app::parts;
use crate::app::{self, Settings};
use crate::config::{Fault, Options};
use crate::error::{Exit, Failure, chain, visible};
use crate::memory::pull::Puller;
use crate::memory::{Memory, MemoryError, User};
use crate::privilege::{self, Keep};
use crate::store::pull_cursor;

const AFTER_HELP: &str = "\
Examples:
  jarvisd check-config                              is the configuration right?
  jarvisd doctor                                    do microphone, models and the rest work?
  jarvisd voice enroll --user Anna                  she reads a few sentences aloud
  jarvisd listen evening.wav                        what the device would hear, one event a line
  jarvisd run                                       the daemon, as systemd starts it

Exit codes: 0 done, 1 failed, 2 usage, 65 bad input data, 69 a service is unavailable,
75 try again, 78 configuration.";

/// A voice appliance for the home: it wakes on its word, checks who speaks, answers, and remembers.
#[derive(Debug, Parser)]
#[command(name = "jarvisd", version, after_help = AFTER_HELP, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Folder that stands for /: configuration, data and models below it, for trials and tests.
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Configuration file to read instead of /etc/jarvis/jarvis.toml.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: listen, answer, remember.
    Run(run::Args),
    /// Play recordings through the pipeline of the daemon and print its events, one JSON object a line.
    Listen(listen::Args),
    /// Check the configuration and report every fault at once.
    CheckConfig(check_config::Args),
    /// Check microphone, loudspeaker, models, database, broker, disk and clock.
    Doctor(doctor::Args),
    /// Microphones and loudspeakers: list them, show the level, try the wake word.
    #[command(subcommand)]
    Sound(sound::Command),
    /// The people this device knows.
    #[command(subcommand)]
    User(user::Command),
    /// Their voices: enrol one, try one.
    #[command(subcommand)]
    Voice(voice::Command),
    /// The key that voiceprints are sealed with.
    #[command(subcommand)]
    Vault(vault::Command),
    /// One turn in writing: through dialogue and memory, without sound.
    Ask(ask::Args),
    /// Conversations: list, show, search, export and delete them.
    #[command(subcommand)]
    Conversation(conversation::Command),
    /// Entries that wait for Postgres.
    #[command(subcommand)]
    Queue(queue::Command),
    /// This device and Postgres side by side.
    #[command(subcommand)]
    Store(store::Command),
    /// The audit log: voices heard, people let in, enrolments, deletions.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Backups of the memory: make, prove and restore them.
    #[command(subcommand)]
    Backup(backup::Command),
    /// The model files.
    #[command(subcommand)]
    Models(models::Command),
    /// How long this machine takes: each model, and each stage of a turn.
    #[command(subcommand)]
    Bench(bench::Command),
}

impl Command {
    /// The capabilities that root keeps when it runs this as the owner of the data folder.
    fn keeps(&self) -> Keep {
        match self {
            Self::Run(_) => Keep::Reading { folder: true },
            Self::CheckConfig(_) | Self::Doctor(_) | Self::Models(_) | Self::Sound(_) => {
                Keep::Reading { folder: false }
            }
            Self::Listen(_)
            | Self::User(_)
            | Self::Voice(_)
            | Self::Vault(_)
            | Self::Ask(_)
            | Self::Conversation(_)
            | Self::Queue(_)
            | Self::Store(_)
            | Self::Audit(_)
            | Self::Backup(_)
            | Self::Bench(_) => Keep::Files,
        }
    }
}

/// The command line as data, for the manual pages and the completions of the shells.
pub fn definition() -> clap::Command {
    CommandLine::command()
}

/// Runs one command line to its end: parse, log, dispatch, report.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match CommandLine::try_parse_from(args) {
        Ok(line) => line,
        Err(usage) => {
            // `--help` comes this way too; a reader that went away is no failure. A message about a mistake
            // repeats the input.
            let _ = if usage.use_stderr() {
                write!(std::io::stderr(), "{}", visible(&usage.render().to_string()))
            } else {
                usage.print()
            };
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    // This comes before any file is opened and any thread is started.
    let (paths, root_is_named) = (line.common.options().paths(), line.common.root.is_some());
    if let Err(refused) = privilege::act_as_owner(&paths, root_is_named, line.command.keeps()) {
        let _ = writeln!(std::io::stderr(), "jarvisd: {}", visible(&refused));
        return ExitCode::from(Exit::Failed as u8);
    }
    crate::logging::init();
    crate::supervisor::install_panic_hook();
    if !matches!(line.command, Command::Run(_)) && std::env::var_os("JARVIS_LOG").is_none() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    match dispatch(line.command, &line.common) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let line = chain(&failure);
            let _ = writeln!(std::io::stderr(), "jarvisd: {}{}", visible(&line), without_sudo(&line));
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// The remedy for a refusal that root would not meet: the files of a device belong to its own user.
fn without_sudo(failure: &str) -> &'static str {
    let refused = failure.contains("Permission denied") || failure.contains("Operation not permitted");
    if refused && !rustix::process::geteuid().is_root() { "; try it with sudo" } else { "" }
}

fn dispatch(command: Command, common: &Common) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args, common),
        Command::Listen(args) => listen::run(args, common),
        Command::CheckConfig(args) => check_config::run(&args, common),
        Command::Doctor(args) => doctor::run(&args, common),
        Command::Sound(command) => sound::run(command, common),
        Command::User(command) => user::run(command, common),
        Command::Voice(command) => voice::run(command, common),
        Command::Vault(command) => vault::run(command, common),
        Command::Ask(args) => ask::run(&args, common),
        Command::Conversation(command) => conversation::run(command, common),
        Command::Queue(command) => queue::run(command, common),
        Command::Store(command) => store::run(command, common),
        Command::Audit(command) => audit::run(command, common),
        Command::Backup(command) => backup::run(command, common),
        Command::Models(command) => models::run(&command, common),
        Command::Bench(command) => bench::run(command, common),
    }
}

impl Common {
    /// The places of the configuration of this command line.
    pub fn options(&self) -> Options {
        Options {
            root: self.root.clone(),
            config_file: self.config.clone(),
            env: std::env::vars_os().collect(),
        }
    }

    /// The words by which this program was called, for a command that the person is told to enter next.
    pub fn command(&self) -> String {
        let option = |name: &str, path: &Option<PathBuf>| {
            let path = path.as_ref().map(|path| output::shell_word(&output::plain(&path.to_string_lossy())));
            path.map_or_else(String::new, |path| format!(" --{name} {path}"))
        };
        format!("jarvisd{}{}", option("root", &self.root), option("config", &self.config))
    }

    /// The checked configuration; its warnings go to the log.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let settings = app::load(&self.options()).map_err(|faults| config_failure(&faults))?;
        for warning in &settings.warnings {
            log::info!("{warning}");
        }
        Ok(settings)
    }
}

/// All faults as one failure, a line each.
pub fn config_failure(faults: &[Fault]) -> Failure {
    let message = match faults {
        [one] => one.to_string(),
        many => {
            let lines: Vec<String> = many.iter().map(|fault| format!("\n  {fault}")).collect();
            format!("the configuration has {} faults:{}", many.len(), lines.concat())
        }
    };
    Failure::new(Exit::Config, message)
}

impl From<MemoryError> for Failure {
    fn from(error: MemoryError) -> Self {
        let mut failure = Self::new(error.exit(), chain(&error));
        if let MemoryError::NotFound { what: "user named", .. } = error {
            failure.message.push_str("; `jarvisd user list` shows who there is");
        }
        failure
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        MemoryError::from(error).into()
    }
}

impl From<crate::backup::BackupError> for Failure {
    fn from(error: crate::backup::BackupError) -> Self {
        Self::of(error.exit(), &error)
    }
}

/// Runs the asynchronous part of a command.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .map_err(|e| Failure::because(Exit::TryAgain, "the asynchronous runtime did not start", e))?
        .block_on(work)
}

/// The runtime of `run` and `listen`: the audio and model work has threads of its own, so two workers are
/// enough.
fn pipeline_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tasks")
        .enable_all()
        .build()
        .map_err(|e| Failure::because(Exit::TryAgain, "the asynchronous runtime did not start", e))
}

/// Opens the memory, lets `work` use it, and closes it, so that the write-ahead log is emptied.
fn with_memory<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(&Memory) -> Result<T, Failure>,
) -> Result<T, Failure> {
    block_on(async {
        let memory = parts::open_memory(settings).await?;
        let done = work(&memory).await;
        memory.close().await;
        done
    })
}

/// The person called `name`.
async fn user_named(memory: &Memory, name: &str) -> Result<User, Failure> {
    Ok(memory.user_by_name(name).await?)
}

/// Reads the shared database to its end, unless that was done at least once. Its rows may already have the
/// ids of a file. The database refuses words stored under such an id for good.
async fn shared_ids_are_known(settings: &Settings, memory: &Memory) -> Result<(), Failure> {
    let Some(postgres) = settings.postgres() else { return Ok(()) };
    if pull_cursor::is_caught_up(memory.store(), &postgres).await? {
        return Ok(());
    }
    log::info!("reading the shared database first, where these words may be another person's");
    let reached = queue::database(settings).await?;
    // Only a process with the key reads voices.
    let read = Puller::new(memory.clone(), reached, None).run_once().await;
    read.map(drop).map_err(|error| {
        Failure::new(
            Exit::TryAgain,
            format!(
                "this device has not read the shared database yet, where these words may be another \
                 person's, and {}; try again when {} answers",
                chain(&error),
                postgres.shown
            ),
        )
    })
}

/// Asks on a terminal whether to go on; where nobody can be asked, only `--yes` is a yes.
fn confirmed(question: &str, yes: bool) -> Result<bool, Failure> {
    use std::io::IsTerminal;
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Exit::Usage,
            "this asks first, and there is no terminal to ask on; say --yes",
        ));
    }
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "{} [y/N] ", visible(question));
    asked
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|e| Failure::because(Exit::Failed, "the answer could not be read; say --yes", e))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
