//! The answer as sound: any command that turns text into a WAV (or FLAC) file.
//!
//! The command gets the text on standard input and writes the WAV file to standard output. Both, and standard
//! error, are files in memory rather than pipes: `flite` writes its header last and needs to seek, and
//! nothing can block because somebody does not read. The size of the output is checked at intervals, and
//! bounded by a resource limit in between.
//!
//! An argument may hold `{text}` for a command that reads no standard input; such text shows in the process
//! list of the device while it is spoken. Text is never an option: control characters are taken out, and an
//! argument that would begin with a dash because of the text gets a space before it.
//!
//! The command is killed, with everything it started, when the time is up and when the future is dropped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Resource, Rlimit, Signal};

use super::section;
use crate::audio::loudspeaker::Sound;
use crate::audio::{Channel, SourceError, file};
use crate::notify::PRIVATE_ENV;

/// Tried in this order when no command is configured.
const DEFAULTS: [&[&str]; 2] =
    [&["espeak-ng", "--stdin", "--stdout"], &["flite", "-f", "/dev/stdin", "-o", "/dev/stdout"]];

const PLACEHOLDER: &str = "{text}";

/// Most that a command may write: two minutes of 48 kHz stereo.
const MAX_BYTES: u64 = 24 * 1024 * 1024;
/// Most that a command may say on standard error.
const MAX_COMPLAINT_BYTES: u64 = 1024 * 1024;
/// Hard limit of any file that the command makes. `espeak-ng` links PulseAudio's client, whose shared memory
/// has 64 MB.
const MAX_FILE_BYTES: u64 = 96 * 1024 * 1024;
/// Longest sound that is played; [`MAX_TEXT_CHARS`] take about half of it.
const MAX_SOUND_S: u32 = 600;
/// How often the sizes are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Longest text handed over, in characters; about five minutes of speech.
const MAX_TEXT_CHARS: usize = 4_000;
/// Length to which a command's complaint is cut, in characters.
const MAX_COMPLAINT_CHARS: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    #[error("{0}")]
    Silent(String),
    #[error("there is no text to speak")]
    NoText,
    #[error("cannot prepare the files of the speech command")]
    Prepare(#[source] std::io::Error),
    #[error("cannot start the speech command {program}")]
    Start { program: String, source: std::io::Error },
    #[error("the speech command {program} did not finish within {timeout_s} s")]
    Timeout { program: String, timeout_s: u32 },
    #[error("the speech command {program} wrote more than {} MB", MAX_BYTES / 1024 / 1024)]
    TooMuch { program: String },
    #[error("the speech command {program} failed ({status}){complaint}")]
    Failed { program: String, status: std::process::ExitStatus, complaint: String },
    #[error("the speech command {program} wrote nothing{complaint}")]
    Nothing { program: String, complaint: String },
    #[error("the speech command {program} wrote no usable sound{complaint}")]
    Sound { program: String, complaint: String, source: SourceError },
}

/// Renders answers. Cheap to keep; every call runs the command anew.
#[derive(Debug)]
pub struct Speech {
    timeout_s: u32,
    command: Result<Vec<String>, String>,
}

impl Speech {
    /// Looks the command up. A missing command is no error: answers are then text only, see
    /// [`Speech::silent`].
    pub fn new(settings: &section::Speech) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let command = choose(settings, &path);
        Self { timeout_s: settings.timeout_s, command }
    }

    /// The reason why nothing is spoken, as a sentence; `None` if speech works.
    pub fn silent(&self) -> Option<&str> {
        self.command.as_ref().err().map(String::as_str)
    }

    /// Turns `text` into mono sound in [-1, 1] at the rate of the command's choice. Cancel safe: dropping the
    /// future kills the command.
    pub async fn render(&self, text: &str) -> Result<Sound, SpeechError> {
        let command = self.command.as_ref().map_err(|why| SpeechError::Silent(why.clone()))?;
        let text = speakable(text).ok_or(SpeechError::NoText)?;
        let (program, arguments, input) = fill(command, &text);
        let program = program.to_owned();

        let mut stdin = memory_file("speech-text").map_err(SpeechError::Prepare)?;
        let mut stdout = memory_file("speech-wav").map_err(SpeechError::Prepare)?;
        let mut stderr = memory_file("speech-errors").map_err(SpeechError::Prepare)?;
        stdin.write_all(input.as_bytes()).and_then(|()| stdin.rewind()).map_err(SpeechError::Prepare)?;
        let share =
            |file: &File| file.as_fd().try_clone_to_owned().map(Stdio::from).map_err(SpeechError::Prepare);

        let mut child = tokio::process::Command::new(&program);
        child.args(&arguments).stdin(stdin).stdout(share(&stdout)?).stderr(share(&stderr)?);
        child.process_group(0).kill_on_drop(true);
        for name in PRIVATE_ENV {
            child.env_remove(name);
        }
        let mut child =
            child.spawn().map_err(|source| SpeechError::Start { program: program.clone(), source })?;
        let _group = Group::of(&child);

        let timeout_s = self.timeout_s.max(1);
        let until = tokio::time::Instant::now() + Duration::from_secs(u64::from(timeout_s));
        let mut looks = tokio::time::interval(LOOK);
        let status = loop {
            tokio::select! {
                biased;
                ended = child.wait() => {
                    break ended.map_err(|source| SpeechError::Start { program: program.clone(), source })?;
                }
                () = tokio::time::sleep_until(until) => {
                    return Err(SpeechError::Timeout { program, timeout_s });
                }
                _ = looks.tick() => {
                    if too_much(&stdout, &stderr)? {
                        return Err(SpeechError::TooMuch { program });
                    }
                }
            }
        };
        if too_much(&stdout, &stderr)? {
            return Err(SpeechError::TooMuch { program });
        }
        let complaint = complaint(&mut stderr);
        if !status.success() {
            return Err(SpeechError::Failed { program, status, complaint });
        }
        let mut bytes = Vec::new();
        stdout
            .rewind()
            .and_then(|()| stdout.take(MAX_BYTES).read_to_end(&mut bytes))
            .map_err(SpeechError::Prepare)?;
        if bytes.is_empty() {
            return Err(SpeechError::Nothing { program, complaint });
        }
        match file::read_bytes(bytes, "what it wrote", Channel::Mean, MAX_SOUND_S) {
            Ok((samples, rate_hz)) => Ok(Sound { samples, rate_hz }),
            Err(source) => Err(SpeechError::Sound { program, complaint, source }),
        }
    }
}

/// The command to run, or the reason why there is none.
fn choose(settings: &section::Speech, path: &std::ffi::OsStr) -> Result<Vec<String>, String> {
    if settings.command.0.is_empty() {
        return DEFAULTS
            .iter()
            .find(|command| command.first().is_some_and(|program| find(program, path).is_some()))
            .map(|command| command.iter().map(|part| (*part).to_owned()).collect())
            .ok_or_else(|| {
                "no speech command is installed, so answers are text only; install espeak-ng or flite"
                    .to_owned()
            });
    }
    match settings.command.0.first() {
        Some(program) if find(program, path).is_some() => Ok(settings.command.0.clone()),
        program => Err(format!(
            "the speech command {} is not there or not executable, so answers are text only; see [speech] \
             command",
            program.map_or("", String::as_str)
        )),
    }
}

/// The path of a program: itself if it has a slash, else its place in `path`.
fn find(program: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let runs = |file: &Path| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    if program.is_empty() {
        return None;
    }
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|file| runs(file));
    }
    std::env::split_paths(path).map(|folder| folder.join(program)).find(|file| runs(file))
}

/// The text without characters that a synthesiser should not see, or `None` if nothing is left.
fn speakable(text: &str) -> Option<String> {
    let clean: String =
        text.chars().take(MAX_TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let clean = clean.trim();
    clean.chars().any(char::is_alphanumeric).then(|| clean.to_owned())
}

/// Program, arguments, and the text for standard input.
fn fill<'a>(command: &'a [String], text: &str) -> (&'a str, Vec<String>, String) {
    let (program, arguments) = command.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let mut used = false;
    let arguments = arguments
        .iter()
        .map(|argument| {
            if !argument.contains(PLACEHOLDER) {
                return argument.clone();
            }
            used = true;
            let filled = argument.replace(PLACEHOLDER, text);
            if filled.starts_with('-') && !argument.starts_with('-') { format!(" {filled}") } else { filled }
        })
        .collect();
    let input = if used { String::new() } else { format!("{text}\n") };
    (program, arguments, input)
}

/// A file that is only in memory and vanishes with its last descriptor.
fn memory_file(name: &str) -> std::io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?))
}

fn too_much(stdout: &File, stderr: &File) -> Result<bool, SpeechError> {
    let size = |file: &File| file.metadata().map(|m| m.len()).map_err(SpeechError::Prepare);
    Ok(size(stdout)? > MAX_BYTES || size(stderr)? > MAX_COMPLAINT_BYTES)
}

/// The last words of standard error, ready to be put behind a sentence.
fn complaint(stderr: &mut File) -> String {
    let mut bytes = Vec::new();
    let end = stderr.metadata().map_or(0, |m| m.len());
    let from = end.saturating_sub(MAX_COMPLAINT_CHARS as u64 * 4);
    let read = stderr.seek(SeekFrom::Start(from)).and_then(|_| stderr.read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let skip = text.chars().count().saturating_sub(MAX_COMPLAINT_CHARS);
    let tail: String = text.chars().skip(skip).collect();
    if tail.is_empty() { tail } else { format!(": {tail}") }
}

/// The process group of the command: limited when it starts, killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let limit = Rlimit { current: Some(MAX_FILE_BYTES), maximum: Some(MAX_FILE_BYTES) };
            if let Err(error) = rustix::process::prlimit(Some(pid), Resource::Fsize, limit) {
                log::debug!("cannot limit what the speech command writes: {error}");
            }
        }
        Self(pid)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leader has usually ended and been reaped by now. Its number stays taken while the group has
        // members. Without members the call finds nothing, unless the number was given out anew within this
        // very moment.
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;
    use crate::dialogue::section::CommandLine;

    fn speech(command: &[&str], timeout_s: u32) -> Speech {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        Speech::new(&section::Speech { command: CommandLine(command), timeout_s, ..Default::default() })
    }

    /// A shell command as the speech command.
    fn shell(script: &str, timeout_s: u32) -> Speech {
        speech(&["sh", "-c", script], timeout_s)
    }

    fn installed(program: &str) -> bool {
        let there = find(program, &std::env::var_os("PATH").unwrap_or_default()).is_some();
        if !there {
            crate::testdata::skipped(format!("{program} is not installed"));
        }
        there
    }

    #[tokio::test]
    async fn the_default_commands_speak() {
        for command in DEFAULTS {
            if !installed(command[0]) {
                continue;
            }
            let speech = speech(command, 20);
            let sound = speech.render("The spare key is under the blue pot.").await.unwrap();
            assert!((1.0..6.0).contains(&sound.seconds()), "{}: {}", command[0], sound.seconds());
            assert!(sound.samples.iter().any(|s| s.abs() > 0.1), "{}", command[0]);
            let longer =
                speech.render("The spare key is under the blue pot. I told you twice.").await.unwrap();
            assert!(longer.seconds() > sound.seconds());
        }
    }

    #[tokio::test]
    async fn text_is_never_an_option_and_never_a_shell_word() {
        if installed("espeak-ng") {
            let spoken =
                speech(DEFAULTS[0], 20).render("--version; $(touch /tmp/never) `id` -v xx").await.unwrap();
            assert!(spoken.seconds() > 1.0);
        }
        let command: Vec<String> = ["say", "-t", "{text}", "-x={text}"].map(str::to_owned).to_vec();
        let (program, arguments, input) = fill(&command, "--help me");
        assert_eq!((program, input.as_str()), ("say", ""));
        assert_eq!(arguments, ["-t", " --help me", "-x=--help me"]);
        let (_, arguments, input) = fill(&command[..2], "--help");
        assert_eq!((arguments, input.as_str()), (vec!["-t".to_owned()], "--help\n"));
    }

    #[tokio::test]
    async fn the_text_arrives_on_standard_input_without_control_characters() {
        let error = shell("cat >&2; exit 3", 5).render(" one\u{1b}[2J\ntwo\0 ").await.unwrap_err();
        let sentence = error.to_string();
        assert!(sentence.contains("one [2J two") && sentence.contains("exit status: 3"), "{sentence}");
        assert!(matches!(shell("true", 5).render(" \n... ").await, Err(SpeechError::NoText)));
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let script = format!("(sleep 2; touch {}) & sleep 60", mark.display());
        let begin = Instant::now();
        let error = shell(&script, 1).render("hello").await.unwrap_err();
        assert!(matches!(error, SpeechError::Timeout { timeout_s: 1, .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_millis(1_800), "{:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(1_800)).await;
        assert!(!mark.exists(), "the child of the command lived on");
    }

    #[tokio::test]
    async fn dropping_the_future_kills_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("alive");
        let speech = shell(&format!("sleep 1; touch {}", mark.display()), 20);
        let cut = tokio::time::timeout(Duration::from_millis(200), speech.render("hello")).await;
        assert!(cut.is_err());
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        assert!(!mark.exists());
    }

    #[tokio::test]
    async fn endless_output_is_cut_off_soon() {
        let begin = Instant::now();
        let error = shell("cat /dev/zero", 30).render("hello").await.unwrap_err();
        assert!(matches!(error, SpeechError::TooMuch { .. }), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(10));
        let error = shell("yes >&2", 30).render("hello").await.unwrap_err();
        assert!(matches!(error, SpeechError::TooMuch { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_sound_is_said_so() {
        let cases = [
            ("true", "wrote nothing"),
            ("echo hello", "not a recording that can be read"),
            ("printf 'RIFF....WAVE'", "it ends in the head of a chunk"),
            ("echo 'no voice called x' >&2", "no voice called x"),
        ];
        for (script, expected) in cases {
            let error = shell(script, 5).render("hello").await.unwrap_err();
            let line = crate::error::chain(&error);
            assert!(line.contains(expected), "{script}: {line}");
        }
    }

    #[tokio::test]
    async fn the_service_managers_variables_do_not_reach_the_command() {
        // The names are removed for the child alone, whether or not this process has them.
        let error = shell("env >&2; exit 1", 5).render("hello").await.unwrap_err();
        let SpeechError::Failed { complaint, .. } = error else { panic!("{error}") };
        assert!(PRIVATE_ENV.iter().all(|name| !complaint.contains(name)), "{complaint}");
    }

    #[test]
    fn without_a_command_answers_are_text_only_and_it_is_said_why() {
        let folder = tempfile::tempdir().unwrap();
        let settings = section::Speech::default();
        let path = folder.path().as_os_str();
        assert!(choose(&settings, path).unwrap_err().contains("install espeak-ng or flite"));

        let program = folder.path().join("flite");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert!(choose(&settings, path).is_err(), "not executable");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(choose(&settings, path).unwrap()[0], "flite");

        let speech = speech(&["/nowhere/say"], 5);
        assert!(speech.silent().unwrap().contains("/nowhere/say"));
    }
}
