//! Asks systemd-timedated whether the clock is set, where the sandbox forbids the question to the kernel.
//!
//! `ProtectClock=` of the units blocks `adjtimex` as a whole, also the mere question. timedated asks the
//! kernel in our place, whichever program sets the clock (chrony, ntpd, timesyncd). One property of one
//! object of D-Bus is read, so the few bytes are written here by hand:
//!
//! ```text
//!  ──▶ \0AUTH EXTERNAL <uid in hex>   ◀── OK …   ──▶ BEGIN
//!  ──▶ Hello()                        ◀── reply, signal NameAcquired
//!  ──▶ Properties.Get("org.freedesktop.timedate1", "NTPSynchronized")   ◀── variant of a boolean, or an error
//! ```
//!
//! "D-Bus Specification", sections "Message Protocol" and "Authentication Protocol".

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::monotonic_ms;

const BUS: &str = "/run/dbus/system_bus_socket";
/// timedated is started by the question, which takes a moment on a slow card.
const PATIENCE: Duration = Duration::from_secs(2);
/// A clock that is set stays set; one that is not set is waited for.
const ASK_AGAIN_SET_MS: u64 = 600_000;
const ASK_AGAIN_UNSET_MS: u64 = 30_000;
/// Longest message that is read.
const MOST_BYTES: usize = 1 << 16;
/// Messages that are read until the answer: the reply to Hello, and a few signals.
const MOST_MESSAGES: usize = 16;

const TIMEDATE: &str = "org.freedesktop.timedate1";
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Whether the clock is set, as timedated said a while ago; `false` where it cannot be asked. The first
/// caller waits for the answer, at most [`PATIENCE`]. Later questions are asked beside the callers, since a
/// bus that hangs must not hold up a turn.
pub(super) fn synced() -> bool {
    static ASK_FROM_MS: AtomicU64 = AtomicU64::new(0);
    static SYNCED: AtomicBool = AtomicBool::new(false);
    let (now, due) = (monotonic_ms(), ASK_FROM_MS.load(Ordering::Relaxed));
    // One asks; the others take what is known meanwhile.
    let until = now.saturating_add(ASK_AGAIN_UNSET_MS);
    if now >= due && ASK_FROM_MS.compare_exchange(due, until, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let (tell, told) = sync_channel(1);
        let asked = std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
            match ask(Path::new(BUS)) {
                Ok(synced) => {
                    SYNCED.store(synced, Ordering::Relaxed);
                    if synced {
                        ASK_FROM_MS.store(now.saturating_add(ASK_AGAIN_SET_MS), Ordering::Relaxed);
                    }
                }
                Err(error) => log::debug!("timedated cannot be asked whether the clock is set: {error}"),
            }
            // Nobody waits behind the first question.
            let _ = tell.send(());
        });
        if due == 0 && asked.is_ok() {
            let _ = told.recv_timeout(PATIENCE);
        }
    }
    SYNCED.load(Ordering::Relaxed)
}

fn ask(bus: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(bus)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    sign_in(&mut stream)?;
    let bus = ["org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello"];
    let properties = [TIMEDATE, "/org/freedesktop/timedate1", "org.freedesktop.DBus.Properties", "Get"];
    stream.write_all(&call(1, bus, &[]))?;
    stream.write_all(&call(2, properties, &[TIMEDATE, "NTPSynchronized"]))?;
    for _ in 0..MOST_MESSAGES {
        let (kind, body) = message(&mut stream)?;
        match (kind, body.as_slice()) {
            // A variant: its signature "b", padding to four bytes, the boolean.
            (METHOD_RETURN, &[1, b'b', 0, _, a, b, c, d]) => return Ok(u32::from_le_bytes([a, b, c, d]) != 0),
            (ERROR, _) => return Err(io::Error::other("the bus refuses the question")),
            // The reply to Hello, and signals.
            _ => {}
        }
    }
    Err(io::Error::other("the bus does not come to its answer"))
}

/// The bus takes the user from the socket; the name says which one is meant.
fn sign_in(stream: &mut UnixStream) -> io::Result<()> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") && line.len() < 256 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    if !line.starts_with(b"OK ") {
        return Err(io::Error::other("the bus refuses this user"));
    }
    stream.write_all(b"BEGIN\r\n")
}

/// A method call in little endian whose arguments are strings: destination, path, interface and member.
fn call(serial: u32, [to, path, interface, member]: [&str; 4], arguments: &[&str]) -> Vec<u8> {
    let mut fields = Vec::new();
    for (code, kind, value) in [(1, b'o', path), (2, b's', interface), (3, b's', member), (6, b's', to)] {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        string(&mut fields, value);
    }
    let signature = "s".repeat(arguments.len());
    if !signature.is_empty() {
        pad(&mut fields, 8);
        fields.extend([8, 1, b'g', 0]);
        fields.push(u8::try_from(signature.len()).unwrap_or(0));
        fields.extend(signature.bytes());
        fields.push(0);
    }
    let mut body = Vec::new();
    for argument in arguments {
        string(&mut body, argument);
    }
    let mut message = vec![b'l', 1, 0, 1];
    for number in [length(&body), serial, length(&fields)] {
        message.extend(number.to_le_bytes());
    }
    message.extend(fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}

fn string(out: &mut Vec<u8>, text: &str) {
    pad(out, 4);
    out.extend(length(text.as_bytes()).to_le_bytes());
    out.extend(text.bytes());
    out.push(0);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(0)
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// The kind and the body of the next message.
fn message(stream: &mut UnixStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0_u8; 16];
    stream.read_exact(&mut head)?;
    let [endian, kind, _, _, b0, b1, b2, b3, _, _, _, _, f0, f1, f2, f3] = head;
    let number = |bytes| match endian {
        b'l' => u32::from_le_bytes(bytes),
        _ => u32::from_be_bytes(bytes),
    };
    let size = |bytes| usize::try_from(number(bytes)).unwrap_or(usize::MAX);
    let (body, fields) = (size([b0, b1, b2, b3]), size([f0, f1, f2, f3]));
    if endian != b'l' || body > MOST_BYTES || fields > MOST_BYTES {
        return Err(io::Error::other("the bus speaks otherwise than expected"));
    }
    let mut rest = vec![0; fields.next_multiple_of(8) + body];
    stream.read_exact(&mut rest)?;
    Ok((kind, rest.split_off(fields.next_multiple_of(8))))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the bus of a test is a thread of its own")]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A bus with one client: reads what it must hear byte by byte, and answers with `reply`, a body of kind
    /// `kind`. Reply and signal before it are as dbus-daemon 1.14 sends them.
    fn asked(kind: u8, reply: &'static [u8]) -> io::Result<bool> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        let bus = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut read = |wanted: &[u8]| {
                let mut heard = vec![0; wanted.len()];
                stream.read_exact(&mut heard).unwrap();
                assert_eq!(heard, wanted, "{}", String::from_utf8_lossy(&heard));
                stream.try_clone().unwrap()
            };
            let uid: String =
                rustix::process::geteuid().as_raw().to_string().bytes().map(|b| format!("{b:02x}")).collect();
            read(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())
                .write_all(b"OK 0123456789abcdef\r\n")
                .unwrap();
            read(b"BEGIN\r\n");
            // Hello: 128 bytes without a body, as `busctl` sends it but for the order of the fields.
            let mut hello = vec![b'l', 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0x6d, 0, 0, 0];
            hello.extend(b"\x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0");
            hello.extend(b"\x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0");
            hello.extend(b"\x03\x01s\0\x05\0\0\0Hello\0\0\0");
            hello.extend(b"\x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0");
            let mut stream = read(&hello);
            // The reply to it: ":1.5", with one field; then a signal without a body.
            let mut said = vec![b'l', 2, 1, 1, 9, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0];
            said.extend([5, 1, b'u', 0, 1, 0, 0, 0]);
            said.extend(b"\x04\0\0\0:1.5\0");
            said.extend([b'l', 4, 1, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
            said.extend([
                b'l',
                kind,
                1,
                1,
                u8::try_from(reply.len()).unwrap(),
                0,
                0,
                0,
                3,
                0,
                0,
                0,
                8,
                0,
                0,
                0,
            ]);
            said.extend([5, 1, b'u', 0, 2, 0, 0, 0]);
            said.extend(reply);
            stream.write_all(&said).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            rest
        });
        let answer = ask(&path);
        let asked = bus.join().unwrap();
        let body = b"\x19\0\0\0org.freedesktop.timedate1\0\0\0\x0f\0\0\0NTPSynchronized\0";
        assert!(asked.ends_with(body) && asked.len() % 8 == body.len() % 8, "{asked:?}");
        answer
    }

    #[test]
    fn timedated_is_asked_and_its_answer_is_read() {
        assert!(asked(METHOD_RETURN, &[1, b'b', 0, 0, 1, 0, 0, 0]).unwrap());
        assert!(!asked(METHOD_RETURN, &[1, b'b', 0, 0, 0, 0, 0, 0]).unwrap());
        assert!(asked(ERROR, b"\x06\0\0\0denied\0").is_err());
    }

    #[test]
    fn without_a_bus_there_is_no_answer() {
        assert!(ask(Path::new("/run/there/is/no/bus")).is_err());
    }
}
