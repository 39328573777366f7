//! A service manager that listens: the socket on which the daemon reports (`sd_notify(3)`).

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Daemon, PATIENCE, Root};

/// Collects the daemon's messages to its service manager.
pub struct Manager {
    socket: UnixDatagram,
    _dir: tempfile::TempDir,
}

impl Manager {
    pub fn watch(root: &mut Root) -> Self {
        root.env("WATCHDOG_USEC", "2000000");
        Self::listen(root)
    }

    pub fn listen(root: &mut Root) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        root.env("NOTIFY_SOCKET", &path);
        Self { socket, _dir: dir }
    }

    /// The messages that arrive within `window`.
    pub fn during(&self, window: Duration) -> Vec<String> {
        let end = Instant::now() + window;
        let mut messages = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            self.socket.set_read_timeout(Some(left)).unwrap();
            if let Ok(n) = self.socket.recv(&mut buffer) {
                messages.extend(String::from_utf8_lossy(&buffer[..n]).lines().map(str::to_owned));
            }
        }
        messages
    }

    pub fn wait_for(&self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if self.during(Duration::from_millis(100)).iter().any(|m| m.starts_with(wanted)) {
                return;
            }
        }
        panic!("the service manager was not told {wanted}");
    }

    /// All messages until `stop`, each with its time: a socket that nobody reads holds up who writes.
    pub fn until(&self, stop: &AtomicBool) -> Vec<(Instant, String)> {
        let mut messages = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let came = self.during(Duration::from_millis(50));
            messages.extend(came.into_iter().map(|line| (Instant::now(), line)));
        }
        messages
    }

    /// Ends a service that does not start in time, as systemd does. Only `EXTEND_TIMEOUT_USEC=`, which counts
    /// from its arrival, moves the deadline of `TimeoutStartSec=`. Returns the time of the start.
    pub fn starts_in_time(&self, daemon: &Daemon) -> Duration {
        const TIMEOUT_START: Duration = Duration::from_secs(60);
        let began = Instant::now();
        let mut deadline = began + TIMEOUT_START;
        loop {
            for line in self.during(Duration::from_millis(100)) {
                if line == "READY=1" {
                    return began.elapsed();
                }
                if let Some(usec) = line.strip_prefix("EXTEND_TIMEOUT_USEC=") {
                    deadline = deadline.max(Instant::now() + Duration::from_micros(usec.parse().unwrap()));
                }
            }
            assert!(
                Instant::now() < deadline,
                "the service manager would have ended the start; log:\n{}",
                daemon.log()
            );
        }
    }
}
