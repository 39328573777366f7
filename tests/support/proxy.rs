//! A TCP proxy that simulates the faults between Jarvis and Postgres.
//!
//! It listens on a port of its own and forwards to a server of this machine. [`Proxy::set`] changes its
//! behaviour at any moment, for new and for open connections. A silent connection stays silent after the
//! fault is over, like one that a router on its path has forgotten: its holder must notice by its own
//! deadline.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// Interval at which a thread checks for a change of mode.
const TICK: Duration = Duration::from_millis(5);

/// The behaviour of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Forwards.
    Pass,
    /// Nobody listens on the port; open connections are cut.
    Refuse,
    /// Accepts and never answers; open connections are cut.
    Hang,
    /// Open connections stay open and nothing comes through any more, in neither direction; new ones hang.
    HalfOpen,
    /// Forwards this many bytes a second each way.
    Drip(usize),
    /// The server gets each `COMMIT` and does it; the connection is cut before the answer is through.
    LoseCommitAnswer,
    /// Each `COMMIT` is lost together with its connection.
    LoseCommit,
}

#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Commits that were lost, or whose answer was lost.
    lost_commits: AtomicUsize,
    accepted: AtomicUsize,
    listening: AtomicBool,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    /// Port of the server behind.
    target: u16,
    links: Vec<Arc<Link>>,
    end: bool,
}

/// One connection: the client's socket and, unless it hangs, the server's.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: Option<TcpStream>,
    silent: AtomicBool,
    closed: AtomicBool,
}

impl Link {
    fn close(&self) {
        self.closed.store(true, SeqCst);
        for socket in std::iter::once(&self.client).chain(&self.server) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Proxy {
    /// A proxy on a free port in front of the server on `target`.
    #[expect(clippy::disallowed_methods, reason = "tests have no supervisor")]
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State { mode: Mode::Pass, target, links: Vec::new(), end: false }),
            lost_commits: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            listening: AtomicBool::new(true),
        });
        let with = Arc::clone(&shared);
        let accepting = Some(std::thread::spawn(move || accept(&with, port, listener)));
        Self { shared, port, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Behaves so from now on, also for the open connections.
    pub fn set(&self, mode: Mode) {
        {
            let mut state = self.shared.state();
            state.mode = mode;
            for link in &state.links {
                match mode {
                    Mode::Refuse | Mode::Hang => link.close(),
                    Mode::HalfOpen => link.silent.store(true, SeqCst),
                    Mode::Pass | Mode::Drip(_) | Mode::LoseCommitAnswer | Mode::LoseCommit => {}
                }
            }
        }
        let listens = mode != Mode::Refuse;
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.shared.listening.load(SeqCst) != listens {
            assert!(Instant::now() < deadline, "the proxy cannot have its port back");
            sleep(TICK);
        }
    }

    /// Cuts every open connection, now.
    pub fn cut(&self) {
        for link in self.shared.state().links.drain(..) {
            link.close();
        }
    }

    /// From now on in front of another server; connections to the old one are cut.
    pub fn retarget(&self, port: u16) {
        self.shared.state().target = port;
        self.cut();
    }

    /// How many commits were made ambiguous so far.
    pub fn lost_commits(&self) -> usize {
        self.shared.lost_commits.load(SeqCst)
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state().end = true;
        self.cut();
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no supervisor")]
fn accept(shared: &Arc<Shared>, port: u16, listener: TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let mut listener = Some(listener);
    loop {
        let (mode, target, end) = {
            let state = shared.state();
            (state.mode, state.target, state.end)
        };
        if end {
            return;
        }
        if mode == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(("127.0.0.1", port)).ok();
            if let Some(listener) = &listener {
                listener.set_nonblocking(true).unwrap();
            }
        }
        shared.listening.store(listener.is_some(), SeqCst);
        let Some(Ok((client, _))) = listener.as_ref().map(TcpListener::accept) else {
            sleep(TICK);
            continue;
        };
        shared.accepted.fetch_add(1, SeqCst);
        client.set_nonblocking(false).unwrap();
        let hangs = matches!(mode, Mode::Hang | Mode::HalfOpen);
        let server = if hangs { None } else { TcpStream::connect(("127.0.0.1", target)).ok() };
        if server.is_none() && !hangs {
            // The server is away: the client sees its connection closed.
            continue;
        }
        let link =
            Arc::new(Link { client, server, silent: AtomicBool::new(hangs), closed: AtomicBool::new(false) });
        {
            let mut state = shared.state();
            state.links.retain(|link| !link.closed.load(SeqCst));
            // The mode may have changed since it was read.
            match state.mode {
                Mode::Refuse => link.close(),
                Mode::HalfOpen => link.silent.store(true, SeqCst),
                _ => {}
            }
            state.links.push(Arc::clone(&link));
        }
        if link.server.is_some() {
            for up in [true, false] {
                let (shared, link) = (Arc::clone(shared), Arc::clone(&link));
                std::thread::spawn(move || {
                    let _ = pump(&shared, &link, up);
                    link.close();
                });
            }
        }
    }
}

/// Forwards one direction (`up`: from the client to the server) until the connection ends.
fn pump(shared: &Shared, link: &Link, up: bool) -> std::io::Result<()> {
    let Some(server) = &link.server else { return Ok(()) };
    let (mut from, mut to) = if up { (&link.client, server) } else { (server, &link.client) };
    from.set_read_timeout(Some(TICK))?;
    to.set_nodelay(true)?;
    let mut watch = Watch::new(up);
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        if link.closed.load(SeqCst) {
            return Ok(());
        }
        if link.silent.load(SeqCst) {
            // Neither read nor closed: even an end of the other side does not come through.
            sleep(TICK);
            continue;
        }
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(e) => return Err(e),
        };
        if link.silent.load(SeqCst) {
            continue;
        }
        let commit = watch.sees_commit(&buffer[..length]);
        let mode = shared.state().mode;
        if commit && up && mode == Mode::LoseCommit {
            shared.lost_commits.fetch_add(1, SeqCst);
            return Ok(());
        }
        if commit && !up && mode == Mode::LoseCommitAnswer {
            shared.lost_commits.fetch_add(1, SeqCst);
            return Ok(());
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let Mode::Drip(per_second) = shared.state().mode else {
                to.write_all(rest)?;
                break;
            };
            let piece = rest.len().min((per_second / 20).max(1));
            to.write_all(&rest[..piece])?;
            rest = &rest[piece..];
            sleep(Duration::from_millis(50));
            if link.closed.load(SeqCst) || link.silent.load(SeqCst) {
                break;
            }
        }
    }
}

/// Follows the messages of one direction of the Postgres protocol, as far as it is in the clear, and finds
/// commits: from the client a `Query "COMMIT"`, or a `Bind` of a statement that was parsed as one; from the
/// server a `CommandComplete "COMMIT"`.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
struct Watch {
    up: bool,
    /// The time before the client's start-up message, and before the server's one-byte answer to a request
    /// for TLS.
    starting: bool,
    /// Type, length and the beginning of the current message.
    head: Vec<u8>,
    /// Bytes of the current message that are not needed.
    skip: usize,
    /// Names of prepared statements that commit.
    commits: Vec<Vec<u8>>,
}

/// Length of the examined part of a message: a statement's name and `COMMIT`.
const LOOKED_AT: usize = 80;

impl Watch {
    fn new(up: bool) -> Self {
        Self { up, starting: true, head: Vec::new(), skip: 0, commits: Vec::new() }
    }

    /// Whether these next bytes hold, or complete, a COMMIT.
    fn sees_commit(&mut self, bytes: &[u8]) -> bool {
        let mut seen = false;
        for &byte in bytes {
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.head.push(byte);
            if self.starting {
                self.start();
                continue;
            }
            // Type, length of the rest including itself, body.
            if let Some(body) = self.head.len().checked_sub(5) {
                let length = be(&self.head[1..5]).saturating_sub(4);
                if body >= length.min(LOOKED_AT) {
                    seen |= self.is_commit();
                    self.skip = length - body;
                    self.head.clear();
                }
            }
        }
        seen
    }

    fn is_commit(&mut self) -> bool {
        const COMMIT: &[u8] = b"COMMIT";
        let mut strings = self.head[5..].split(|byte| *byte == 0);
        let (first, second) = (strings.next().unwrap_or_default(), strings.next().unwrap_or_default());
        match (self.up, self.head[0]) {
            (true, b'Q') | (false, b'C') => first.eq_ignore_ascii_case(COMMIT),
            (true, b'P') => {
                self.commits.retain(|name| name != first);
                if second.eq_ignore_ascii_case(COMMIT) {
                    self.commits.push(first.to_vec());
                }
                false
            }
            (true, b'B') => self.commits.iter().any(|name| name == second),
            _ => false,
        }
    }

    fn start(&mut self) {
        if !self.up {
            // 'N' (no TLS) or 'S' stands alone; a message begins with its type, which here is 'R' or 'E'.
            if self.head[0] == b'N' || self.head[0] == b'S' {
                self.head.clear();
            }
            self.starting = false;
        } else if self.head.len() == 8 {
            let (length, code) = (be(&self.head[..4]), be(&self.head[4..8]));
            // 3.0 starts the session; any other code (a request for TLS) comes before it.
            self.starting = code != 3 << 16;
            self.skip = length.saturating_sub(8);
            self.head.clear();
        }
    }
}

fn be(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
}
