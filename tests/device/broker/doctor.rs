//! The findings of `jarvisd doctor` on a broker: it signs in, publishes and reads, and names the obstacle.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::postgres::{Options, Postgres};
use crate::support::{Broker, Root, free_port};

/// Doctor's findings on the broker: the state of the worst line, and all lines with their remedies.
fn said(mqtt: &str) -> (String, String) {
    let root = Root::with_config(&format!("[device]\nid = \"kitchen\"\n[mqtt]\n{mqtt}\n"));
    let report: Value = serde_json::from_slice(&root.run(&["doctor", "--json"]).stdout).unwrap();
    let findings: Vec<&Value> =
        report["findings"].as_array().unwrap().iter().filter(|f| f["check"] == "MQTT broker").collect();
    let worst = findings.iter().find(|f| f["state"] != "ok").unwrap_or(&findings[0]);
    let state = worst["state"].as_str().unwrap().to_owned();
    (state, findings.iter().map(|f| format!("{} → {}\n", f["message"], f["fix"])).collect())
}

#[track_caller]
fn warns(mqtt: &str, part: &str) -> String {
    let (state, lines) = said(mqtt);
    assert!(state == "warn" && lines.contains(part), "{mqtt}: {state} {lines}");
    lines
}

fn run(program: &str, args: &[&str], folder: &Path) {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const PASSWORDS: &str =
    "listener PORT 127.0.0.1\nallow_anonymous false\npassword_file DIR/passwd\nacl_file DIR/acl\nuser root";

/// A broker that asks for a password and looks into an access list.
fn guarded(acl: &str) -> Broker {
    Broker::configured(PASSWORDS, |dir| {
        run("mosquitto_passwd", &["-c", "-b", "passwd", "jarvis", "right"], dir);
        run("mosquitto_passwd", &["-b", "passwd", "admin", "admin"], dir);
        std::fs::write(dir.join("acl"), format!("user jarvis\n{acl}\nuser admin\ntopic readwrite #\n"))
            .unwrap();
    })
}

fn with_password(broker: &Broker, password: &str) -> String {
    let file = broker.dir().join("secret");
    std::fs::write(&file, password).unwrap();
    format!("url = \"{}\"\nusername = \"jarvis\"\npassword_file = {file:?}", broker.url())
}

#[test]
fn it_signs_in_and_names_a_wrong_password() {
    let broker = guarded(
        "topic readwrite jarvis/kitchen/#\ntopic write homeassistant/#\ntopic read homeassistant/status",
    );
    let (state, lines) = said(&with_password(&broker, "right"));
    assert!(state == "ok" && lines.contains("lets it publish and read"), "{lines}");
    assert!(!lines.contains("nothing proves"), "{lines}");
    let lines = warns(&with_password(&broker, "hunter2"), "refused the user name or the password");
    assert!(!lines.contains("hunter2"), "{lines}");
    warns(&format!("url = \"{}\"", broker.url()), "refused the user name or the password");
}

#[test]
fn it_names_the_topics_that_an_access_list_denies_and_tells_nobody_anything() {
    let broker = guarded(
        "topic readwrite jarvis/kitchen/#\ntopic deny jarvis/kitchen/state\ntopic readwrite homeassistant/#",
    );
    let mut everything = broker.subscribe_as("admin", "admin", "#");
    everything.sync(|word| broker.publish_as("admin", "admin", "the/start", word));
    let lines =
        warns(&with_password(&broker, "right"), "does not let the device publish on jarvis/kitchen/state\"");
    assert!(lines.contains("access list"), "{lines}");
    broker.publish_as("admin", "admin", "the/end", "now");
    everything.wait_for("the end", |l| l == "the/end now");
    let harmless = |line: &&String| {
        [
            "jarvis/kitchen/doctor",
            "the/",
            "jarvis/kitchen/mute/set DOCTOR",
            "jarvis/kitchen/listen DOCTOR",
            "homeassistant/status DOCTOR",
        ]
        .iter()
        .any(|known| line.starts_with(known))
    };
    let told: Vec<&String> = everything.seen.iter().filter(|line| !harmless(line)).collect();
    assert!(told.is_empty(), "{told:#?}");

    let announcement = guarded("topic readwrite jarvis/kitchen/#");
    warns(&with_password(&announcement, "right"), "publish on homeassistant/device/jarvis_kitchen/config\"");
    let one_way = guarded("topic write jarvis/#\ntopic write homeassistant/#");
    warns(
        &with_password(&one_way, "right"),
        "read jarvis/kitchen/doctor, jarvis/kitchen/mute/set, jarvis/kitchen/listen, homeassistant/status\"",
    );
    let nothing = guarded("topic readwrite elsewhere/#");
    warns(&with_password(&nothing, "right"), "jarvis/kitchen/availability, jarvis/kitchen/state");
}

#[test]
fn it_finds_out_that_a_broker_accepts_a_subscription_and_delivers_nothing() {
    let closed = guarded(
        "topic readwrite jarvis/kitchen/#\ntopic deny jarvis/kitchen/mute/set\ntopic write homeassistant/#",
    );
    let lines =
        warns(&with_password(&closed, "right"), "nothing proves that the broker at mqtt://127.0.0.1:");
    assert!(lines.contains("lets the device read jarvis/kitchen/mute/set: "), "{lines}");
    // It may write the status of Home Assistant and not read it.
    assert!(lines.contains("does not let the device read homeassistant/status\""), "{lines}");
    // The list of the documentation: doctor says what cannot be proven, and reports no fault.
    let documented = guarded(
        "topic readwrite jarvis/kitchen/#\ntopic write homeassistant/device/jarvis_kitchen/config\n\
         topic read homeassistant/status",
    );
    let (state, lines) = said(&with_password(&documented, "right"));
    assert!(
        state == "ok" && lines.contains("nothing proves that it may read homeassistant/status"),
        "{lines}"
    );
}

#[test]
fn a_broker_without_qos_is_called_limited_and_one_that_hangs_or_stammers_is_called_so() {
    let plain = Broker::configured("listener PORT 127.0.0.1\nallow_anonymous true\nmax_qos 0", |_| {});
    let lines = warns(&format!("url = \"{}\"", plain.url()), "is limited");
    assert!(!lines.contains("read") && !lines.contains("publish on"), "{lines}");
    let at = |port: u16| format!("url = \"mqtt://127.0.0.1:{port}\"");
    // It takes the device in and says nothing more.
    let lines = warns(&at(speaker(&[&[0x20, 3, 0, 0, 0]])), "takes the device in and then says nothing");
    assert!(!lines.contains("does not let"), "{lines}");
    let lines = warns(&at(speaker(&[&[0x20], &[3, 0]])), "is too slow");
    assert!(!lines.contains("MQTT 5"), "{lines}");
}

#[test]
fn it_names_tls_and_certificates() {
    let tls = "listener PORT\nallow_anonymous true\nuser root\ncafile DIR/ca.crt\ncertfile DIR/srv.crt\n\
               keyfile DIR/srv.key";
    let shown = |host: &str, days: &str| {
        Broker::configured(tls, |dir| {
            let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
            let authority =
                ["req", "-x509", "-days", "3", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca"];
            run("openssl", &[&authority[..], &key].concat(), dir);
            let request = ["req", "-keyout", "srv.key", "-out", "srv.csr", "-subj", "/CN=broker"];
            run("openssl", &[&request[..], &key].concat(), dir);
            std::fs::write(dir.join("ext"), format!("subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE"))
                .unwrap();
            let sign =
                ["x509", "-req", "-in", "srv.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
            run(
                "openssl",
                &[&sign[..], &["-out", "srv.crt", "-extfile", "ext", "-days", days]].concat(),
                dir,
            );
        })
    };
    let at = |broker: &Broker, scheme: &str, more: &str| {
        let ca = broker.dir().join("ca.crt");
        let ca = if more.is_empty() { format!("ca_file = {ca:?}") } else { more.to_owned() };
        format!("url = \"{scheme}://localhost:{}\"\n{ca}", broker.port)
    };
    let good = shown("localhost", "2");
    let (state, lines) = said(&at(&good, "mqtts", ""));
    assert_eq!(state, "ok", "{lines}");
    warns(&at(&good, "mqtts", "#"), "authority that is not trusted here");
    warns(&at(&good, "mqtt", "#"), "expects TLS");
    let other = shown("broker.example", "2");
    warns(&at(&other, "mqtts", ""), "for another name");
    // A certificate that expires at the moment it is made.
    let expired = shown("localhost", "0");
    std::thread::sleep(Duration::from_secs(2));
    warns(&at(&expired, "mqtts", ""), "has expired");
    let plain = Broker::start();
    warns(&format!("url = \"mqtts://localhost:{}\"", plain.port), "a broker without TLS answers");
}

/// A server that answers any input with `answer`, until the test process ends.
fn server(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::Builder::new()
        .spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if !answer.is_empty() {
                    let _ = stream.read(&mut [0; 64]);
                    let _ = stream.write_all(answer);
                    continue;
                }
                open.push(stream);
            }
        })
        .unwrap();
    port
}

/// A server that answers the first input with one of `pieces`, then sends the next ones 7 s apart, and stays.
fn speaker(pieces: &'static [&'static [u8]]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::Builder::new()
        .spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 256]);
                for (n, piece) in pieces.iter().enumerate() {
                    std::thread::sleep(Duration::from_secs(if n == 0 { 0 } else { 7 }));
                    let _ = stream.write_all(piece);
                }
                open.push(stream);
            }
        })
        .unwrap();
    port
}

#[test]
fn it_names_what_answers_instead_of_a_broker_and_does_not_wait_for_ever() {
    let at = |port: u16| format!("url = \"mqtt://127.0.0.1:{port}\"");
    let postgres = Postgres::with(Options { fsync: false, ..Options::default() });
    warns(&at(postgres.port()), "a Postgres server answers");
    warns(&format!("url = \"mqtts://127.0.0.1:{}\"", postgres.port()), "a Postgres server answers");
    warns(&at(server(b"HTTP/1.1 400 Bad Request\r\n\r\n")), "a web server answers");
    // A broker that knows 3.1.1 alone.
    warns(&at(server(&[0x20, 2, 0, 1])), "does not speak MQTT 5");
    warns(&at(free_port()), "cannot reach the broker");
    let begun = Instant::now();
    warns(&at(server(b"")), "says nothing");
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}

#[test]
fn an_ipv6_address_in_brackets_is_reached() {
    let broker = Broker::configured("listener PORT ::1\nallow_anonymous true", |_| {});
    let (state, lines) = said(&format!("url = \"mqtt://[::1]:{}\"", broker.port));
    assert_eq!(state, "ok", "{lines}");
}
