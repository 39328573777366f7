//! Parts that the black-box tests share: a private root folder, synthetic voices, a microphone made of a
//! file, a broker.
//!
//! Everything is real: the built binary, ALSA with a test plugin, Mosquitto, speech synthesisers. Nothing
//! listens on a fixed port and everything is stopped when its value is dropped.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot set up must fail loudly"
)]
#![expect(dead_code, reason = "each test binary uses its own part")]

pub mod actions;
pub mod household;
pub mod manager;
pub mod mic;
pub mod missing;
pub mod mount;
pub mod pages;
pub mod postgres;
pub mod powercut;
pub mod preload;
pub mod proxy;
pub mod random;
pub mod sealed;
pub mod twin;

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Time limit of any step before a test gives up on it; never an assertion about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test, or another build of the same source, where speed counts.
fn program() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_jarvisd").into();
    std::env::var_os("JARVIS_TEST_PROGRAM").unwrap_or(built).into()
}

/// A copy of the program in `folder` for other users: the original may lie where only its builder can read.
pub fn copy_program(folder: &Path) -> PathBuf {
    let copy = folder.join("jarvisd");
    std::fs::copy(program(), &copy).unwrap();
    let library = program().with_file_name("libvosk.so");
    if library.exists() {
        std::fs::copy(library, folder.join("libvosk.so")).unwrap();
    }
    copy
}

/// A private installation: configuration, data and sockets below one temporary folder.
pub struct Root {
    dir: TempDir,
    env: Vec<(String, String)>,
}

impl Root {
    pub fn new() -> Self {
        Self::with_config("")
    }

    /// A root whose `jarvis.toml` has this text.
    pub fn with_config(toml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Tests speak English; a Vosk model of another language may be installed on this machine.
        let mut root = Self { dir, env: Vec::new() };
        root.env("JARVIS__STT__ENGINE", "whisper");
        root.write_config(toml);
        root
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write_config(&self, toml: &str) {
        let etc = self.path().join("etc/jarvis");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("jarvis.toml"), toml).unwrap();
    }

    /// Sets a variable for every command run from here on.
    pub fn env(&mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) {
        self.env.push((key.into(), value.as_ref().to_str().unwrap().into()));
    }

    /// The binary with `--root` set, output captured.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(["--root", self.path().to_str().unwrap()]).args(args);
        command.envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed and returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "jarvisd {args:?} failed with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command with `--json` that must succeed and parses its output.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// Adds a user and enrols the synthetic voice with phrases long enough for the rules.
    pub fn enrol(&self, user: &str, voice: Voice) {
        self.ok(&["user", "add", user]);
        let samples: Vec<PathBuf> = ENROLMENT.iter().map(|phrase| voice.says(phrase)).collect();
        let mut args = vec!["voice", "enroll", "--user", user];
        args.extend(samples.iter().map(|p| p.to_str().unwrap()));
        self.ok(&args);
    }

    /// `listen` over these recordings, to its end.
    pub fn listen(&self, recordings: &[impl AsRef<Path>]) -> Vec<Value> {
        let mut args = vec!["listen"];
        args.extend(recordings.iter().map(|p| p.as_ref().to_str().unwrap()));
        events_of(&self.ok(&args))
    }

    /// The daemon in the background, its events on standard output.
    pub fn daemon(&self) -> Daemon {
        Daemon::start(self.command(&["run", "--events"]))
    }
}

/// Runs an enrolment; returns exit code, report and standard error.
pub fn enroll(root: &Root, user: &str, files: &[PathBuf], options: &[&str]) -> (Option<i32>, Value, String) {
    let mut args = vec!["voice", "enroll", "--json", "--user", user];
    args.extend(options);
    args.extend(files.iter().map(|file| file.to_str().unwrap()));
    let output = root.run(&args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// Whether any file below `dir` holds `bytes`. Files may come and go meanwhile.
pub fn on_disk(dir: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return on_disk(&path, bytes);
        }
        match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
            read => read.unwrap().windows(bytes.len()).any(|part| part == bytes),
        }
    })
}

/// Three sentences of about four seconds each, the kind an owner reads out when enrolling.
pub const ENROLMENT: [&str; 3] = [
    "the quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire",
    "please remember to water the plants in the living room every monday and thursday before the evening \
     news",
    "my favourite season is autumn when the leaves turn red and gold and the air smells of apples and rain",
];

pub fn events_of(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("not one JSON event: {line:?}: {e}"))
        })
        .collect()
}

pub fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["event"].as_str().unwrap()).collect()
}

/// All events of one kind.
pub fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|e| e["event"] == kind).collect()
}

/// A running daemon, killed when dropped.
pub struct Daemon {
    pub child: Child,
    events: Receiver<Value>,
    pub seen: Vec<Value>,
    stderr: PathBuf,
    _scratch: TempDir,
}

impl Daemon {
    pub fn start(mut command: Command) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let stderr = scratch.path().join("stderr");
        command.stderr(fs::File::create(&stderr).unwrap());
        let mut child = command.spawn().unwrap();
        let events = read_lines(child.stdout.take().unwrap());
        Self { child, events, seen: Vec::new(), stderr, _scratch: scratch }
    }

    /// Waits for the next event that satisfies `wanted`; earlier ones are kept in `seen`.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if wanted(&event) {
                        return event;
                    }
                }
                Err(e) => panic!("no {what} ({e}); events so far: {:#?}\nlog:\n{}", self.seen, self.log()),
            }
        }
    }

    pub fn wait_event(&mut self, kind: &str) -> Value {
        self.wait_for(kind, |e| e["event"] == kind)
    }

    /// Takes the events that have arrived, without waiting.
    pub fn drain(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits until the log has this text.
    pub fn wait_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the log"), || self.log().contains(text));
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// SIGTERM, then the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.exit_code()
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the daemon did not end; log:\n{}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no supervisor")]
fn read_lines(stdout: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = sync_channel(10_000);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    receiver
}

pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, done);
}

/// [`wait_until`] for conditions that may take longer.
pub fn wait_within(patience: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The synthetic speakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// flite's rms, the owner of most tests: Whisper gets its sentences right.
    Rms,
    Slt,
    Awb,
    Kal,
    /// festival's ked.
    Ked,
}

impl Voice {
    /// A 16 kHz mono recording of `text` with half a second of silence around it, made once and kept.
    pub fn says(self, text: &str) -> PathBuf {
        let dir = scratch().join("voices");
        fs::create_dir_all(&dir).unwrap();
        let name: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(80).collect();
        let wav = dir.join(format!("{self:?}-{name}-{}.wav", text.len()));
        if wav.exists() {
            return wav;
        }
        let work = tempfile::tempdir_in(&dir).unwrap();
        let raw = work.path().join("raw.wav");
        let done = match self {
            Self::Ked => {
                let mut child = Command::new("text2wave")
                    .args(["-eval", "(voice_ked_diphone)", "-o", raw.to_str().unwrap()])
                    .stdin(Stdio::piped())
                    .spawn()
                    .expect("festival is installed");
                child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
                child.wait().unwrap()
            }
            other => {
                let name = match other {
                    Self::Rms => "rms",
                    Self::Slt => "slt",
                    Self::Awb => "awb",
                    _ => "kal16",
                };
                Command::new("flite")
                    .args(["-voice", name, "-t", text, "-o", raw.to_str().unwrap()])
                    .status()
                    .expect("flite is installed")
            }
        };
        assert!(done.success(), "{self:?} could not say {text:?}");
        let ready = work.path().join("ready.wav");
        sox(&[
            raw.to_str().unwrap(),
            "-r",
            "16000",
            "-c",
            "1",
            "-b",
            "16",
            ready.to_str().unwrap(),
            "gain",
            "-n",
            "-3",
            "pad",
            "0.5",
            "1.2",
        ]);
        fs::rename(ready, &wav).unwrap();
        wav
    }
}

/// Runs a command that must be refused with this exit code; returns its message.
pub fn refused(root: &Root, args: &[&str], exit: i32) -> String {
    let output = root.run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{args:?}: {text}");
    text
}

/// A public key of age, and a file with the secret one.
pub fn key_pair() -> (String, String) {
    use age::secrecy::ExposeSecret as _;
    let identity = age::x25519::Identity::generate();
    (identity.to_public().to_string(), format!("# a key\n{}\n", identity.to_string().expose_secret()))
}

/// Runs sox reproducibly.
pub fn sox(args: &[&str]) {
    let status = Command::new("sox").arg("-R").args(args).status().expect("sox is installed");
    assert!(status.success(), "sox {args:?}");
}

/// Joins recordings of one format, with `gap_s` seconds of silence between them.
pub fn join(parts: &[&Path], gap_s: f32, to: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let mut args: Vec<String> = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let padded = dir.path().join(format!("{i}.wav"));
        sox(&[part.to_str().unwrap(), padded.to_str().unwrap(), "pad", "0", &gap_s.to_string()]);
        args.push(padded.to_str().unwrap().into());
    }
    args.push(to.to_str().unwrap().into());
    sox(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A folder that tests may share between runs of the same build.
pub fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A private Mosquitto on a free port.
pub struct Broker {
    child: Child,
    pub port: u16,
    dir: TempDir,
}

impl Broker {
    pub fn start() -> Self {
        Self::start_on(free_port())
    }

    pub fn start_on(port: u16) -> Self {
        Self::start_with(port, "persistence false")
    }

    /// A broker that remembers its lasting subscribers and their pending messages in `memory`, from one stop
    /// to the next start.
    pub fn start_remembering(port: u16, memory: &Path) -> Self {
        // As root Mosquitto would become another user, who cannot write there.
        Self::start_with(
            port,
            &format!("persistence true\npersistence_location {}/\nuser root", memory.display()),
        )
    }

    fn start_with(port: u16, settings: &str) -> Self {
        let config = format!("listener PORT 127.0.0.1\nallow_anonymous true\n{settings}\n");
        Self::made(port, &config, |_| {})
    }

    /// A broker with a configuration of its own, in which `PORT` and `DIR` stand for its port and for a
    /// folder that
    /// `prepare` fills.
    pub fn configured(config: &str, prepare: impl FnOnce(&Path)) -> Self {
        Self::made(free_port(), config, prepare)
    }

    fn made(port: u16, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let text = config.replace("PORT", &port.to_string()).replace("DIR", dir.path().to_str().unwrap());
        let config = dir.path().join("mosquitto.conf");
        fs::write(&config, format!("{text}\n")).unwrap();
        let program = ["/usr/sbin/mosquitto", "mosquitto"]
            .into_iter()
            .find(|p| !p.starts_with('/') || Path::new(p).exists());
        let child = Command::new(program.unwrap())
            .args(["-c", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed");
        let up = |host: &str| std::net::TcpStream::connect((host, port)).is_ok();
        wait_until("the broker", || up("127.0.0.1") || up("::1"));
        Self { child, port, dir }
    }

    /// The folder of its configuration.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Ends the broker as the system does, so that it writes its state down.
    pub fn stop(mut self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
        self.child.wait().unwrap();
    }

    /// An independent client that collects `topic message` lines.
    pub fn subscribe(&self, topic: &str) -> Subscriber {
        self.subscriber(topic, &[])
    }

    /// A lasting client: a broker that remembers keeps its messages while it is away.
    pub fn subscribe_lastingly(&self, topic: &str) -> Subscriber {
        self.subscriber(topic, &["-q", "1", "-c", "-i", "listener"])
    }

    /// A client with a name and a password.
    pub fn subscribe_as(&self, user: &str, password: &str, topic: &str) -> Subscriber {
        self.subscriber(topic, &["-u", user, "-P", password])
    }

    fn subscriber(&self, topic: &str, more: &[&str]) -> Subscriber {
        let mut child = Command::new("mosquitto_sub")
            .args(["-p", &self.port.to_string(), "-v", "-t", topic])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("mosquitto_sub is installed");
        let stdout = child.stdout.take().unwrap();
        Subscriber { child, lines: text_lines(stdout), seen: Vec::new() }
    }

    pub fn publish(&self, topic: &str, payload: &str) {
        self.publisher(topic, &["-m", payload]);
    }

    /// As a client with a name and a password.
    pub fn publish_as(&self, user: &str, password: &str, topic: &str, payload: &str) {
        self.publisher(topic, &["-u", user, "-P", password, "-m", payload]);
    }

    /// Sets the retained value of a topic, or deletes it with an empty `payload`.
    pub fn retain(&self, topic: &str, payload: &str) {
        match payload {
            "" => self.publisher(topic, &["-r", "-n"]),
            payload => self.publisher(topic, &["-r", "-m", payload]),
        }
    }

    /// Publishes each line.
    pub fn publish_lines(&self, topic: &str, lines: &str) {
        let file = self.dir.path().join("lines");
        fs::write(&file, lines).unwrap();
        let mut command = Command::new("mosquitto_pub");
        command.args(["-p", &self.port.to_string(), "-t", topic, "-l"]).stdin(fs::File::open(file).unwrap());
        assert!(command.status().unwrap().success());
    }

    fn publisher(&self, topic: &str, more: &[&str]) {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-p", &self.port.to_string(), "-t", topic]).args(more);
        assert!(command.status().unwrap().success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    pub seen: Vec<String>,
}

impl Subscriber {
    /// A line that has come already, or comes: retained messages come in any order.
    pub fn shows(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        match self.seen.iter().find(|line| wanted(line)) {
            Some(line) => line.clone(),
            None => self.wait_for(what, wanted),
        }
    }

    /// Waits until it is subscribed and has seen all retained messages: `publish` sends a word on a topic
    /// that it reads.
    pub fn sync(&mut self, publish: impl Fn(&str)) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            publish("sync");
            while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(500)) {
                self.seen.push(line);
                if self.seen.last().is_some_and(|line| line.ends_with(" sync")) {
                    return;
                }
            }
        }
        panic!("the subscriber hears nothing; so far: {:#?}", self.seen);
    }

    /// Waits for a line (`topic payload`) that satisfies `wanted`.
    pub fn wait_for(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return line;
                    }
                }
                Err(e) => panic!("no {what} over MQTT ({e}); so far: {:#?}", self.seen),
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no supervisor")]
fn text_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = sync_channel(10_000);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
