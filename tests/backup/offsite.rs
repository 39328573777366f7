//! Copies of backups elsewhere, by the real rclone to real servers: verified there, resumed, repaired,
//! pruned, brought back, and never at the cost of the local backup.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Root, free_port, refused, wait_until, wait_within};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse";

/// A store on a free port, served by rclone from a folder.
struct Server {
    child: Option<Child>,
    protocol: &'static str,
    port: u16,
    dir: tempfile::TempDir,
}

impl Server {
    fn start(protocol: &'static str) -> Self {
        let mut server = Self { child: None, protocol, port: free_port(), dir: tempfile::tempdir().unwrap() };
        fs::create_dir(server.files()).unwrap();
        server.resume();
        server
    }

    fn resume(&mut self) {
        let address = format!("127.0.0.1:{}", self.port);
        let child = Command::new("rclone")
            .args(["serve", self.protocol, "--addr", &address, "--user", "jarvis", "--pass", PASSWORD])
            .args(["--config", "/dev/null", "--vfs-cache-mode", "off", "--dir-cache-time", "0s"])
            .arg(self.files())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let port = self.port;
        wait_until("the server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// The section of rclone's configuration called `store`.
    fn section(&self, password: &str) -> String {
        let port = self.port;
        let way = match self.protocol {
            "webdav" => format!("type = webdav\nvendor = other\nurl = http://127.0.0.1:{port}\n"),
            _ => format!("type = sftp\nhost = 127.0.0.1\nport = {port}\nshell_type = none\n"),
        };
        format!("[store]\n{way}user = jarvis\npass = {}\n", obscured(password))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// As rclone wants passwords written.
fn obscured(password: &str) -> String {
    let mut child = Command::new("rclone")
        .args(["obscure", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}

/// A home with some turns, whose copies go to `section`.
fn home(section: &str, more: &str) -> Root {
    let root = Root::new();
    rclone_config(&root, section);
    configure(&root, more);
    root.ok(&["user", "add", "anna"]);
    root.ok(&["ask", "--user", "anna", "remember that the bicycle is in the cellar"]);
    root
}

fn configure(root: &Root, more: &str) {
    root.write_config(&format!(
        "[device]\nid = \"kitchen\"\n[backup]\nremote = \"store:house/kitchen\"\nrclone_config_file = {:?}\n\
         {more}",
        root.path().join("rclone.conf")
    ));
}

fn rclone_config(root: &Root, section: &str) {
    fs::write(root.path().join("rclone.conf"), section).unwrap();
}

/// A remote that is a folder of this machine.
fn folder_section(dir: &Path) -> String {
    format!("[store]\ntype = alias\nremote = {}\n", dir.display())
}

fn dir(root: &Root) -> PathBuf {
    root.path().join("var/backups/jarvis")
}

fn create(root: &Root) -> String {
    let made = root.json(&["backup", "create", "--kind", "scheduled"]);
    assert_eq!((&made["proven"], &made["copy"]["ok"]), (&json!(true), &json!(true)), "{made}");
    made["name"].as_str().unwrap().to_owned()
}

fn copies(root: &Root) -> Vec<Value> {
    root.json(&["backup", "list", "--remote"])["copies"].as_array().unwrap().clone()
}

fn flip_a_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let times = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    // Changed as by a disk that forgets: the time stays.
    fs::File::open(path).unwrap().set_modified(times).unwrap();
}

fn leftovers(root: &Root) -> Vec<String> {
    let entries = fs::read_dir(dir(root)).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.') && name != ".lock").collect()
}

/// Another home that knows only the place of the copies, as after the loss of a device.
fn another(section: &str) -> Root {
    let root = Root::new();
    rclone_config(&root, section);
    configure(&root, "");
    root
}

#[test]
fn a_backup_is_copied_read_back_and_restored_on_a_device_that_lost_everything() {
    for protocol in ["webdav", "sftp"] {
        let server = Server::start(protocol);
        let root = home(&server.section(PASSWORD), "");
        let name = create(&root);
        let told = root.ok(&["backup", "list"]);
        assert!(told.contains("copied 20"), "{told}");
        let there = server.files().join("house/kitchen").join(&name);
        for file in ["manifest.json", "database.zst", "config.zst"] {
            let (here, there) = (fs::read(dir(&root).join(&name).join(file)), fs::read(there.join(file)));
            assert_eq!(here.unwrap(), there.unwrap(), "{protocol} {file}");
        }
        let copy = &copies(&root)[0];
        assert_eq!(
            (&copy["name"], &copy["proven"], &copy["here"]),
            (&json!(name), &json!(true), &json!(true))
        );
        assert_eq!(copy["device"], "kitchen");
        root.ok(&["backup", "verify", "--remote", "latest"]);

        let new = another(&server.section(PASSWORD));
        let told = refused(&new, &["backup", "fetch", "jarvis-backup-20200101-000000"], 1);
        assert!(told.contains("list --remote"), "{told}");
        let fetched = new.json(&["backup", "fetch", "latest"]);
        assert_eq!((&fetched["name"], &fetched["proven"]), (&json!(name), &json!(true)), "{fetched}");
        let folder = dir(&new).join(&name);
        for file in fs::read_dir(&folder).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(leftovers(&new), [""; 0]);
        refused(&new, &["backup", "fetch", &name], 1);
        new.ok(&["backup", "restore", "latest", "--in-place", "--yes"]);
        let exported = new.ok(&["conversation", "export", "--user", "anna"]);
        assert!(exported.contains("bicycle"), "{exported}");
    }
}

#[test]
fn a_wrong_password_leaves_the_backup_good_and_the_device_says_so_until_a_copy_is_made() {
    let server = Server::start("webdav");
    let root = home(&server.section("wrong"), "");
    let told = refused(&root, &["backup", "create", "--kind", "scheduled"], 69);
    assert!(told.contains("is good, and its copy elsewhere failed") && told.contains("401"), "{told}");
    let listed = root.json(&["backup", "list"]);
    assert_eq!((&listed[0]["proven"], &listed[0]["copy"]["ok"]), (&json!(true), &json!(false)), "{listed}");
    assert!(root.ok(&["backup", "list"]).contains("FAILED"));
    assert!(!told.contains("wrong") && !listed.to_string().contains(&obscured("wrong")[..8]));
    let files = fs::read_dir(server.files()).unwrap().count();
    assert_eq!(files, 0, "nothing got there");
    let mut daemon = root.daemon();
    daemon.wait_log("the copy of jarvis-backup-");
    assert_eq!(daemon.stop(), Some(0));
    // The nightly unit notes its failure, and a later copy ends that.
    root.ok(&["backup", "failed", "jarvis-backup"]);
    rclone_config(&root, &server.section(PASSWORD));
    let told = root.ok(&["backup", "upload", "latest"]);
    assert!(told.contains("read back: it is the same"), "{told}");
    let noted = fs::read_to_string(root.path().join("var/lib/jarvis/backup.json")).unwrap();
    let noted: serde_json::Value = serde_json::from_str(&noted).unwrap();
    assert_eq!(noted["failed_unit"], serde_json::Value::Null, "{noted}");
    assert!(noted["at"].is_string(), "{noted}");
}

#[test]
fn a_server_that_dies_in_the_middle_leaves_no_copy_and_the_next_upload_goes_on() {
    let mut server = Server::start("webdav");
    let root = home(&server.section(PASSWORD), "");
    let name = root.json(&["backup", "create", "--no-upload"])["name"].as_str().unwrap().to_owned();
    assert!(copies(&root).is_empty());
    let there = server.files().join("house/kitchen").join(&name);
    let slow = |root: &Root| {
        let mut command = root.command(&["backup", "upload", &name]);
        // So slow that it is met in the middle.
        command.env("RCLONE_BWLIMIT", "4k");
        command.spawn().unwrap()
    };
    let uploading = slow(&root);
    wait_until("the copy to begin", || {
        there.join("database.zst").exists() || there.join("config.zst").exists()
    });
    server.kill();
    let output = uploading.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!there.join("manifest.json").exists(), "no manifest before all is there");
    server.resume();
    assert!(copies(&root).is_empty(), "half a copy is none");
    let told = root.ok(&["backup", "list", "--remote"]);
    assert!(told.contains("is not whole there"), "{told}");

    // A signal ends rclone, at once.
    let mut uploading = slow(&root);
    std::thread::sleep(Duration::from_millis(700));
    let pid = rustix::process::Pid::from_child(&uploading);
    let asked = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(uploading.wait().unwrap().code(), Some(1));
    assert!(asked.elapsed() < Duration::from_secs(5));
    let config = root.path().join("rclone.conf");
    // Long before it would be done by itself.
    wait_within(Duration::from_secs(5), "rclone to end", || {
        let running = Command::new("pgrep").args(["-f", config.to_str().unwrap()]).output().unwrap();
        running.stdout.is_empty()
    });

    root.ok(&["backup", "upload", "latest"]);
    assert_eq!(copies(&root)[0]["proven"], true);
    assert_eq!(leftovers(&root), [""; 0]);
}

#[test]
fn a_hung_server_is_given_up() {
    // It takes connections and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let section = format!("[store]\ntype = webdav\nvendor = other\nurl = http://127.0.0.1:{port}\n");
    let root = home(&section, "remote_stall_s = 2\n");
    let begun = Instant::now();
    let told = refused(&root, &["backup", "list", "--remote"], 69);
    assert!(told.contains("store:house/kitchen"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // A program that neither reads nor writes nor ends.
    let bin = root.path().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("rclone"), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(bin.join("rclone"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = root.command(&["backup", "list", "--remote"]);
    command.env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    let begun = Instant::now();
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(told.contains("nothing happened for 2 s"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_damaged_copy_is_found_never_fetched_and_repaired_by_another_upload() {
    let store = tempfile::tempdir().unwrap();
    let root = home(&folder_section(store.path()), "");
    let name = create(&root);
    let there = store.path().join("house/kitchen").join(&name);
    flip_a_bit(&there.join("database.zst"));
    // The sizes are right, so only a read finds that.
    assert_eq!(copies(&root)[0]["proven"], true);
    let new = another(&folder_section(store.path()));
    let told = refused(&new, &["backup", "fetch", &name], 65);
    assert!(told.contains("database.zst") && told.contains("damaged"), "{told}");
    assert!(!dir(&new).join(&name).exists());
    assert_eq!(leftovers(&new), [""; 0]);
    let told = refused(&root, &["backup", "verify", "--remote", &name], 65);
    assert!(told.contains("database.zst") && told.contains("backup upload"), "{told}");
    assert_eq!(copies(&root)[0]["last_proof"]["ok"], false);
    assert_eq!(root.json(&["backup", "list"])[0]["copy"]["ok"], false);
    assert_eq!(root.json(&["backup", "list"])[0]["proven"], true, "the one here is as good as it was");
    root.ok(&["backup", "upload", &name]);
    root.ok(&["backup", "verify", "--remote", &name]);
    assert_eq!(copies(&root)[0]["proven"], true);

    // A cut shows in the listing, and so does a lost file. A changed manifest makes the copy unusable.
    let whole = fs::read(there.join("database.zst")).unwrap();
    fs::write(there.join("database.zst"), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(copies(&root)[0]["proven"], false);
    refused(&new, &["backup", "fetch", &name], 65);
    root.ok(&["backup", "upload", &name]);
    fs::remove_file(there.join("config.zst")).unwrap();
    assert_eq!(copies(&root)[0]["proven"], false);
    root.ok(&["backup", "upload", &name]);
    flip_a_bit(&there.join("manifest.json"));
    refused(&new, &["backup", "fetch", &name], 65);
    root.ok(&["backup", "upload", &name]);
    root.ok(&["backup", "verify", "--remote", &name]);
}

#[test]
fn a_full_store_is_a_failure_of_the_copy_alone() {
    let store = tempfile::tempdir().unwrap();
    let root = home(&folder_section(store.path()), "");
    root.ok(&["backup", "create", "--no-upload"]);
    let script = "mount -t tmpfs -o size=16k tmpfs \"$1\" || exit 99; shift; exec \"$@\"";
    let inner = root.command(&["backup", "upload", "latest"]);
    let mut command = Command::new("unshare");
    command.args(["-r", "-m", "sh", "-c", script, "sh", store.path().to_str().unwrap()]);
    command.arg(inner.get_program()).args(inner.get_args());
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) || told.starts_with("unshare:") {
        crate::support::missing::skipped("no file system can be mounted on this machine (unshare -r -m)");
        return;
    }
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert!(told.contains("space"), "{told}");
    let listed = root.json(&["backup", "list"]);
    assert_eq!((&listed[0]["proven"], &listed[0]["copy"]["ok"]), (&json!(true), &json!(false)), "{listed}");
    root.ok(&["backup", "upload", "latest"]);
}

#[test]
fn what_is_missing_or_wrong_in_the_set_up_is_said_in_one_sentence() {
    let store = tempfile::tempdir().unwrap();
    let root = home(&folder_section(store.path()), "");
    root.ok(&["backup", "create", "--no-upload"]);
    rclone_config(&root, "[other]\ntype = local\n");
    let told = refused(&root, &["backup", "upload", "latest"], 78);
    assert!(told.contains("rclone.conf") && told.contains("no such remote"), "{told}");
    let mut command = root.command(&["backup", "upload", "latest"]);
    command.env("PATH", root.path());
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        (output.status.code(), told.contains("install the package rclone")),
        (Some(78), true),
        "{told}"
    );
    for (remote, why) in [
        ("store", "has no"),
        (":sftp,pass=x:y", "name of a remote"),
        ("-v:x", "name of"),
        ("s:../x", "leads out"),
    ] {
        root.write_config(&format!("[backup]\nremote = {remote:?}\n"));
        let told = refused(&root, &["check-config"], 78);
        assert!(told.contains("backup.remote") && told.contains(why), "{told}");
    }
    root.write_config("");
    let told = refused(&root, &["backup", "upload", "latest"], 78);
    assert!(told.contains("set backup.remote"), "{told}");
}

#[test]
fn two_devices_that_share_a_folder_do_not_replace_or_delete_each_others_copies() {
    let store = tempfile::tempdir().unwrap();
    let root = home(&folder_section(store.path()), "keep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let name = create(&root);
    // The same name of another device.
    let there = store.path().join("house/kitchen").join(&name);
    let other = home(&folder_section(store.path()), "");
    let foreign = other.json(&["backup", "create", "--no-upload"])["name"].as_str().unwrap().to_owned();
    let renamed = dir(&other).join(&name);
    if foreign != name {
        fs::rename(dir(&other).join(&foreign), &renamed).unwrap();
        reseal(&renamed, |body| body.replace(&foreign, &name));
    }
    let before = fs::read(there.join("manifest.json")).unwrap();
    let told = refused(&other, &["backup", "upload", &name], 1);
    assert!(told.contains("a folder of its own"), "{told}");
    assert_eq!(fs::read(there.join("manifest.json")).unwrap(), before);

    // Nobody here may delete an old copy of another device.
    let old = "jarvis-backup-20200102-020000";
    copy_as(&there, &store.path().join("house/kitchen").join(old), &name, old);
    let foreign = "jarvis-backup-20200103-020000";
    let foreign_folder = store.path().join("house/kitchen").join(foreign);
    copy_as(&there, &foreign_folder, &name, foreign);
    reseal(&foreign_folder, |body| body.replace("\"kitchen\"", "\"attic\""));
    let half = store.path().join("house/kitchen/jarvis-backup-20200104-020000");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("database.zst"), "cut off").unwrap();

    let plan = root.json(&["backup", "prune", "--dry-run", "--trust-clock"]);
    assert_eq!(plan["remote"]["deleted"], 1, "{plan}");
    assert_eq!(copies(&root).len(), 3, "a dry run deletes nothing");
    assert!(half.exists());
    let told = root.ok(&["backup", "prune", "--trust-clock"]);
    assert!(told.contains("of the copies 1 deleted") && told.contains("no day, week or month"), "{told}");
    let names: Vec<Value> = copies(&root).iter().map(|copy| copy["name"].clone()).collect();
    assert_eq!(names, [json!(foreign), json!(name)]);
    assert!(!half.exists(), "what was never whole goes after a week");
    // A store that is away does not stop pruning here.
    rclone_config(&root, "[other]\ntype = local\n");
    let told = refused(&root, &["backup", "prune", "--trust-clock"], 78);
    assert!(told.contains("the copies elsewhere were not pruned"), "{told}");
}

#[test]
fn a_copy_of_an_on_demand_backup_stays_until_it_is_released() {
    let store = tempfile::tempdir().unwrap();
    let root = home(&folder_section(store.path()), "keep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let asked = root.json(&["backup", "create"])["name"].as_str().unwrap().to_owned();
    let place = store.path().join("house/kitchen");
    let old = "jarvis-backup-20200102-020000";
    copy_as(&place.join(&asked), &place.join(old), &asked, old);
    assert_eq!(root.json(&["backup", "prune", "--trust-clock"])["remote"]["deleted"], 0);
    root.ok(&["backup", "release", "--remote", old]);
    assert!(root.ok(&["backup", "list", "--remote"]).contains("released"));
    assert_eq!(root.json(&["backup", "prune", "--trust-clock"])["remote"]["deleted"], 1);
    assert!(!place.join(old).exists());
}

#[test]
fn a_copy_that_somebody_deleted_is_missed_and_made_again() {
    let store = tempfile::tempdir().unwrap();
    let root = home(&folder_section(store.path()), "");
    let name = create(&root);
    let metrics = || root.ok(&["backup", "list", "--metrics"]);
    let problem = || metrics().lines().any(|line| line == "jarvis_backup_problem 1");
    assert!(!problem());
    fs::remove_dir_all(store.path().join("house/kitchen").join(&name)).unwrap();
    assert_eq!(copies(&root).len(), 0);
    assert!(problem(), "it was noted as copied, and is there no more");
    let told = root.ok(&["backup", "list"]);
    assert!(told.contains("FAILED"), "{told}");
    assert!(!metrics().contains("jarvis_backup_newest_copied"));
    root.ok(&["backup", "upload", "latest"]);
    assert!(!problem());
    // A copy that the calendar deletes is not missed.
    let root = home(&folder_section(store.path()), "keep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    create(&root);
    create(&root);
    let pruned = root.json(&["backup", "prune", "--trust-clock"]);
    assert_eq!(pruned["remote"]["deleted"], 2, "{pruned}");
    copies(&root);
    assert!(!root.ok(&["backup", "list"]).contains("FAILED"));
}

#[test]
fn the_nightly_run_prunes_although_the_copy_failed() {
    let store = tempfile::tempdir().unwrap();
    let root = home(&folder_section(store.path()), "keep_daily = 1\nkeep_weekly = 0\nkeep_monthly = 0\n");
    let name = create(&root);
    let old = "jarvis-backup-20200102-020000";
    copy_as(&dir(&root).join(&name), &dir(&root).join(old), &name, old);
    rclone_config(&root, "[other]\ntype = local\n");
    std::thread::sleep(Duration::from_millis(1_100));
    let args = ["backup", "create", "--kind", "scheduled", "--prune", "--trust-clock"];
    let told = refused(&root, &args, 78);
    assert!(told.contains("its copy elsewhere failed"), "{told}");
    assert!(!dir(&root).join(old).exists());
    let _ = name;
}

/// Copies a backup under another name, with a manifest and proofs that fit.
fn copy_as(from: &Path, to: &Path, name: &str, new: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    reseal(to, |body| body.replace(name, new));
}

/// Changes a manifest, its hash, and the hash in the proofs about it.
fn reseal(folder: &Path, change: impl Fn(&str) -> String) {
    let (manifest, proofs) = (folder.join("manifest.json"), folder.join("proofs.json"));
    let old = crate::support::sealed::hash_of(&manifest);
    crate::support::sealed::change(&manifest, change);
    let new = crate::support::sealed::hash_of(&manifest);
    if proofs.exists() {
        crate::support::sealed::change(&proofs, |body| body.replace(&old, &new));
    }
}
