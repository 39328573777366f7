//! A real Mosquitto, its clients, a device, and servers that are no broker.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant as Std;

use tokio::sync::mpsc;

use super::super::*;
use crate::control::Request;
use crate::events::{Event, Moment, TurnId, What};
use crate::health::Need;
use crate::health::State;
use crate::pipeline::hearing::HearingControl;
use crate::pipeline::switches::Switches;
use crate::units::FramePos;

/// Mosquitto with its own folder and port.
pub(super) struct Mosquitto {
    pub(super) folder: tempfile::TempDir,
    pub(super) port: u16,
    pub(super) child: Option<Child>,
}

pub(super) fn broker_at(address: impl AsRef<str>) -> BrokerUrl {
    BrokerUrl::parse(address.as_ref()).unwrap()
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(super) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Std::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "timed out: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Mosquitto {
    /// `None`, with a line, where Mosquitto is not installed.
    pub(super) fn start(config: &str) -> Option<Self> {
        if Process::new("mosquitto").arg("-h").output().is_err() {
            crate::testdata::skipped("mosquitto is not installed");
            return None;
        }
        let mut broker = Self { folder: tempfile::tempdir().unwrap(), port: free_port(), child: None };
        let config = config
            .replace("PORT", &broker.port.to_string())
            .replace("FOLDER", &broker.folder.path().display().to_string());
        // As root it would change to a user who cannot read the folder.
        std::fs::write(broker.path("m.conf"), format!("user root\n{config}\n")).unwrap();
        broker.up();
        Some(broker)
    }

    pub(super) fn open() -> Option<Self> {
        Self::start("listener PORT 127.0.0.1\nallow_anonymous true\nretain_available true")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn up(&mut self) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = Process::new("mosquitto")
            .args(["-v", "-c"])
            .arg(self.path("m.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_for("broker is up", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(super) fn url(&self) -> BrokerUrl {
        broker_at(format!("mqtt://127.0.0.1:{}", self.port))
    }

    pub(super) fn client(&self, program: &str, arguments: &[&str]) -> Process {
        let mut process = Process::new(program);
        process.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(arguments);
        process
    }

    pub(super) fn publish(&self, arguments: &[&str]) {
        assert!(self.client("mosquitto_pub", arguments).status().unwrap().success());
    }

    /// The retained value that a new client gets.
    pub(super) fn retained(&self, topic: &str) -> Option<String> {
        let output = self
            .client("mosquitto_sub", &["-t", topic, "-C", "1", "-W", "1", "--retained-only"])
            .stderr(Stdio::null())
            .output()
            .unwrap();
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn wait_retained(&self, topic: &str, value: &str) {
        wait_for(&format!("{topic} = {value}"), || self.retained(topic).as_deref() == Some(value));
    }

    pub(super) fn watch(&self, topic: &str) -> Watch {
        Watch::new(self.client("mosquitto_sub", &["-t", topic, "-F", "%r %t %p"]), || {
            std::fs::read_to_string(self.path("log")).unwrap().matches("Sending SUBACK").count()
        })
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A `mosquitto_sub` and the lines it printed so far.
pub(super) struct Watch {
    pub(super) child: Child,
    pub(super) lines: std::sync::mpsc::Receiver<String>,
}

impl Watch {
    pub(super) fn new(mut process: Process, subscriptions: impl Fn() -> usize) -> Self {
        let before = subscriptions();
        let mut child = process.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::sync_channel(10_000);
        std::thread::Builder::new()
            .spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)))
            .unwrap();
        wait_for("subscribed", || subscriptions() > before);
        Self { child, lines }
    }

    pub(super) fn until(&self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(20)) {
                Ok(line) => seen.push(line),
                Err(_) => panic!("{last:?} did not come; seen: {seen:#?}"),
            }
            if seen.last().unwrap().contains(last) {
                return seen;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The device side: [`run`] on its own thread and runtime.
pub(super) struct Device {
    pub(super) events: broadcast::Sender<Arc<Event>>,
    turn: Cell<Option<TurnId>>,
    pub(super) health: Health,
    pub(super) control: Arc<HearingControl>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) stop: CancellationToken,
    /// Drops the runtime, and with it the connection, without a goodbye.
    pub(super) die: CancellationToken,
    pub(super) thread: Option<std::thread::JoinHandle<Option<Result<(), MqttError>>>>,
}

impl Device {
    pub(super) fn start(settings: MqttSettings) -> Self {
        crate::logging::init();
        let health = Health::new();
        health.register(COMPONENT, Need::Optional);
        health.set_stage(State::Idle);
        let (events, receiver) = broadcast::channel(64);
        let control = Arc::new(HearingControl::default());
        let (dispatcher, requests) = Dispatcher::new(Switches::new(control.clone()));
        let feeds = Feeds {
            events: receiver,
            status: health.watch(),
            health: health.clone(),
            backups: watch::channel(None).1,
            announced: watch::channel(Announced::default()).0,
            dispatcher,
        };
        let (stop, die) = (CancellationToken::new(), CancellationToken::new());
        let (stopped, dead) = (stop.clone(), die.clone());
        let thread = std::thread::Builder::new()
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    tokio::select! {
                        result = run(settings, feeds, stopped) => Some(result),
                        () = dead.cancelled() => None,
                    }
                })
            })
            .unwrap();
        Self { events, turn: Cell::default(), health, control, requests, stop, die, thread: Some(thread) }
    }

    /// A wake word begins a turn.
    pub(super) fn say(&self, what: What) {
        if matches!(what, What::Wake { .. }) {
            self.turn.set(Some(TurnId::generate()));
        }
        let moment = Moment { turn: self.turn.get(), pos: FramePos(100) };
        self.events.send(Arc::new(Event::at(moment, what))).unwrap();
    }

    pub(super) fn condition(&self) -> Condition {
        self.health.status().components[COMPONENT].condition.clone()
    }

    pub(super) fn wait_condition(&self, part: &str) {
        wait_for(part, || {
            let condition = self.condition();
            condition.sentence().unwrap_or(if condition == Condition::Ok { "ok" } else { "" }).contains(part)
        });
    }

    pub(super) fn stop(&mut self) -> Duration {
        let begin = Std::now();
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap().unwrap().unwrap();
        begin.elapsed()
    }

    pub(super) fn kill(&mut self) {
        self.die.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.die.cancel();
    }
}

/// The manner in which [`nobody`] treats a connection.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    Garbage,
    Hangs,
    Closes,
    /// Says HTTP.
    Web,
    /// A good CONNACK, then random bytes.
    GoodThenGarbage,
    /// A good CONNACK, then never anything.
    GoodThenSilent,
}

/// A server that is no broker. Counts connections until `end`.
pub(super) fn nobody(manner: Manner, end: &Arc<AtomicBool>) -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (counter, end) = (Arc::clone(&count), Arc::clone(end));
    std::thread::Builder::new()
        .spawn(move || {
            let mut open = Vec::new();
            let mut seed = 1_u32;
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                counter.fetch_add(1, Ordering::Relaxed);
                let mut stream = stream.unwrap();
                let garbage: Vec<u8> = std::iter::repeat_with(|| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .take(10_000)
                .collect();
                let mut buffer = [0; 512];
                let _ = match manner {
                    Manner::Garbage => stream.write_all(&garbage),
                    Manner::Hangs => Ok(()),
                    Manner::Closes => continue,
                    Manner::Web => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
                    Manner::GoodThenGarbage => {
                        let _ = stream.read(&mut buffer);
                        stream.write_all(&[0x20, 3, 0, 0, 0]).and_then(|()| stream.write_all(&garbage))
                    }
                    Manner::GoodThenSilent => {
                        let _ = stream.read(&mut buffer);
                        stream.write_all(&[0x20, 3, 0, 0, 0])
                    }
                };
                open.push(stream);
            }
        })
        .unwrap();
    (port, count)
}
