//! The command line as people and scripts meet it: exit codes, one sentence on standard error, stable JSON.

mod owner;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{ENROLMENT, Root, Voice, sox};
use serde_json::Value;

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must end with `code`, and returns its standard error.
#[track_caller]
fn fails(root: &Root, code: i32, args: &[&str]) -> String {
    let output = root.run(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "jarvisd {args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

// ---- configuration ----------------------------------------------------------------------------------------

#[test]
fn every_fault_of_the_configuration_is_named_at_once() {
    let root = Root::with_config("[audio]\ndevcie = \"x\"\n[wake]\nthreshold = 7\n");
    let said = fails(&root, 78, &["check-config"]);
    assert!(said.contains("jarvis.toml:2: audio.devcie: no such key; did you mean audio.device?"), "{said}");
    assert!(said.contains("jarvis.toml:4: wake.threshold: 7.0 is not allowed"), "{said}");
}

#[test]
fn a_number_is_refused_with_the_range_and_all_bad_thresholds_are_named() {
    let root = Root::with_config(
        "[audio]\nrate_hz = 48000.0\n[voice]\npin_valid_s = -5\n\
         user_thresholds = [\"Anna=7\", \"Ben=0.9\", \"Cleo\"]\n",
    );
    let said = fails(&root, 78, &["check-config"]);
    assert!(said.contains("audio.rate_hz: needs a whole number, not the number 48000.0"), "{said}");
    assert!(said.contains("voice.pin_valid_s: -5 is out of range; it may be "), "{said}");
    assert!(said.contains("\"Anna=7\" needs") && said.contains("; \"Cleo\" has no ="), "{said}");
    // The same in JSON, as check-config gives it.
    let output = root.run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(78));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], report["findings"].as_array().unwrap().len()), (&false.into(), 3), "{report}");
}

#[test]
fn a_configuration_is_not_called_right_with_which_the_daemon_does_not_start() {
    let garbage = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
    fs::write(garbage.path(), b"no model").unwrap();
    let other_role = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/silero_vad_16k.onnx");
    for file in [Path::new("/etc/passwd"), garbage.path(), other_role.as_path()] {
        let root = Root::with_config(&format!("[wake]\nmodel = {file:?}\n"));
        let said = fails(&root, 78, &["check-config"]);
        assert!(
            said.contains("wake.model") && said.contains(file.file_stem().unwrap().to_str().unwrap()),
            "{said}"
        );
        fails(&root, 78, &["run"]);
    }
    let mut root = Root::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("manifest.toml"), "nothing").unwrap();
    root.env("JARVIS_MODELS_DIR", folder.path().to_str().unwrap());
    fails(&root, 78, &["check-config"]);
    fails(&root, 78, &["run"]);
}

#[test]
fn a_folder_of_configurations_that_cannot_be_read_is_a_fault() {
    let root = Root::new();
    let folder = root.path().join("etc/jarvis/conf.d");
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    root.ok(&["check-config"]);
    std::os::unix::fs::symlink("nowhere", &folder).unwrap();
    assert!(fails(&root, 78, &["check-config"]).contains("conf.d: the folder cannot be read"));
    fs::remove_file(&folder).unwrap();
    fs::write(&folder, "[wake]\n").unwrap();
    assert!(fails(&root, 78, &["check-config"]).contains("conf.d: the folder cannot be read"));
}

#[test]
fn backups_lie_apart_from_the_memory_and_where_files_can_be_made() {
    let root = Root::new();
    let data = root.path().join("var/lib/jarvis");
    fs::create_dir_all(&data).unwrap();
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&data, &link).unwrap();
    for (dir, how) in [
        (data.clone(), "is"),
        (data.join("backups"), "lies in"),
        (root.path().join("var"), "holds"),
        (link.join("backups"), "lies in"),
    ] {
        root.write_config(&format!("[backup]\ndir = {dir:?}\n"));
        let said = fails(&root, 78, &["check-config"]);
        assert!(
            said.contains("backup.dir: ") && said.contains(&format!(" {how} the folder of the memory")),
            "{said}"
        );
    }
    root.write_config(&format!("[backup]\ndir = {:?}\n", root.path().join("var/lib/jarvis-backups")));
    root.ok(&["check-config"]);
    for dir in ["/proc", "/sys", "/proc/jarvis"] {
        root.write_config(&format!("[backup]\ndir = {dir:?}\n"));
        let report: Value = serde_json::from_slice(&root.run(&["doctor", "--json"]).stdout).unwrap();
        let of_backups = |f: &&Value| f["check"] == "backups" && f["state"] != "ok";
        let found: Vec<&Value> = report["findings"].as_array().unwrap().iter().filter(of_backups).collect();
        let told = found.iter().any(|f| f["message"].as_str().unwrap().contains("cannot be written to"));
        assert!(told, "{dir}: {report}");
    }
}

#[test]
fn names_that_look_alike_are_one_name_and_marks_alone_are_none() {
    let root = Root::new();
    for name in ["fiona", "tanaka", "ibrahim"] {
        root.ok(&["user", "add", name]);
    }
    for twin in ["ﬁona", "Ｔａｎａｋａ", "İbrahim"] {
        fails(&root, 1, &["user", "add", twin]);
        assert!(root.json(&["user", "show", twin]).is_object(), "{twin}");
    }
    for mark in ["\u{301}", ".", "…!"] {
        let said = fails(&root, 65, &["user", "add", mark]);
        assert!(said.contains("no letter"), "{said}");
    }
    root.ok(&["user", "add", "🙂"]);
}

#[test]
fn a_time_zone_is_written_as_its_file_is_called() {
    let mut root = Root::new();
    for zone in ["europe/berlin", "posix/Europe/Berlin"] {
        root.env("TZ", zone);
        assert!(fails(&root, 78, &["check-config"]).contains("write Europe/Berlin"), "{zone}");
    }
    root.env("TZ", "Europe/Berlin");
    root.ok(&["check-config"]);
}

#[test]
fn a_time_zone_is_followed_in_each_form_that_is_accepted_and_no_other_is_taken_for_utc() {
    let mut root = Root::new();
    root.ok(&["user", "add", "anna"]);
    root.ok(&["ask", "--user", "anna", "hello"]);
    let mut shown = |zone: &str| {
        root.env("TZ", zone);
        root.ok(&["check-config"]);
        root.ok(&["conversation", "list", "--user", "anna"])
    };
    let (here, utc) = (shown("Asia/Tokyo"), shown("UTC"));
    assert_ne!(here, utc);
    for zone in [":Asia/Tokyo", "/usr/share/zoneinfo/Asia/Tokyo", ":/usr/share/zoneinfo/Asia/Tokyo", "JST-9"]
    {
        assert_eq!(shown(zone), here, "{zone}");
    }
    for zone in ["", ":", "UTC0"] {
        assert_eq!(shown(zone), utc, "{zone}");
    }
    for (zone, word) in [
        ("right/Asia/Tokyo", "leap seconds"),
        (":right/Asia/Tokyo", "leap seconds"),
        ("/usr/share/zoneinfo/right/Asia/Tokyo", "leap seconds"),
        (":JST-9", "write JST-9"),
        (":CET-1CEST,M3.5.0,M10.5.0/3", "write CET-1CEST,M3.5.0,M10.5.0/3"),
        (":posix/Asia/Tokyo", "write Asia/Tokyo"),
        ("Asia/../Asia/Tokyo", "no time zone"),
    ] {
        root.env("TZ", zone);
        let said = fails(&root, 78, &["check-config"]);
        assert!(said.contains("TZ") && said.contains(word), "{zone}: {said}");
    }
}

#[test]
fn a_password_file_with_a_control_character_is_refused_in_one_sentence() {
    for bytes in ["\0", "\u{1}", "\u{7f}", "\r"] {
        let mut root = Root::new();
        root.env("JARVIS__STT__ENGINE", "off");
        let file = root.path().join("password");
        std::fs::write(&file, format!("sec{bytes}ret\n")).unwrap();
        let configs = [
            "[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\nusername = \"jarvis\"\npassword_file = ",
            "[store]\npostgres_url = \"postgres://jarvis@127.0.0.1:1/jarvis\"\npostgres_password_file = ",
        ];
        for (config, key) in configs.iter().zip(["mqtt.password_file", "store.postgres_password_file"]) {
            root.write_config(&format!("{config}{file:?}\n"));
            let said = fails(&root, 78, &["check-config"]);
            let faults: Vec<&str> = said.lines().filter(|line| line.contains(key)).collect();
            assert!(faults.len() == 1 && faults[0].contains("control character"), "{bytes:?}: {said}");
        }
        let said = stderr(&root.run(&["queue", "drain"]));
        assert!(said.contains("control character") && !said.contains("ret"), "{bytes:?}: {said}");
    }
    let mut root = Root::with_config("[store]\npostgres_url = \"postgres://jarvis@127.0.0.1:1/jarvis\"\n");
    root.env("PGPASSWORD", "sec\u{1}ret");
    let output = root.run(&["queue", "drain"]);
    let said = stderr(&output);
    assert!(!output.status.success() && said.contains("PGPASSWORD holds a control character"), "{said}");
    let root = Root::with_config("[store]\npostgres_url = \"postgres://jarvis:a%00b@127.0.0.1:1/jarvis\"\n");
    let said = fails(&root, 78, &["queue", "drain"]);
    assert!(said.contains("store.postgres_url") && said.contains("control character"), "{said}");
}

#[test]
fn a_secret_in_the_place_of_a_path_is_shown_nowhere() {
    let mut root = Root::new();
    root.env("ALSA_CONFIG_PATH", "/dev/null");
    root.env("JARVIS__STT__ENGINE", "off");
    let keys = [
        ("mqtt", "password_file"),
        ("mqtt", "ca_file"),
        ("store", "postgres_password_file"),
        ("store", "postgres_ca_file"),
        ("store", "postgres_client_cert"),
        ("backup", "identity_file"),
        ("backup", "rclone_config_file"),
    ];
    for (section, key) in keys {
        let others = match (section, key) {
            ("mqtt", _) => "url = \"mqtts://127.0.0.1:9\"\nusername = \"hunter1\"\n",
            ("store", "postgres_client_cert") => {
                "postgres_url = \"postgres://a@127.0.0.1:9/b\"\npostgres_client_key = \"hunter3\"\n"
            }
            ("store", _) => "postgres_url = \"postgres://a@127.0.0.1:9/b\"\n",
            _ => "remote = \"nas:jarvis\"\n",
        };
        for value in ["\"hunter2\"", "\"hun\\tter2\"", "7712345", "\"~/hunter2\""] {
            root.write_config(&format!("[{section}]\n{others}{key} = {value}\n"));
            let commands: [&[&str]; 8] = [
                &["check-config"],
                &["check-config", "--print"],
                &["check-config", "--print", "--json"],
                &["doctor"],
                &["doctor", "--json"],
                &["queue", "drain"],
                &["backup", "create"],
                &["backup", "upload"],
            ];
            // A value that is no path at all stops every command alike.
            let most = if value.contains("hunter2\"") && !value.contains('~') { 8 } else { 2 };
            for command in &commands[..most] {
                let command = *command;
                let output = root.run(command);
                let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
                for secret in ["hunter", "ter2", "77123"] {
                    assert!(!said.contains(secret), "{command:?}, {key} = {value}: {said}");
                }
                let name = format!("{section}.{key}");
                assert!(command[0] != "check-config" || said.contains(&name), "{command:?}: {said}");
            }
        }
        let said = fails(&root, 78, &["check-config"]);
        root.write_config(&format!("[{section}]\n{others}"));
        let in_the_environment = format!("JARVIS__{}__{}", section.to_uppercase(), key.to_uppercase());
        let output = root.command(&["check-config"]).env(in_the_environment, "hunter2").output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        assert!(!stderr(&output).contains("hunter2") && !said.contains("hunter2"), "{}", stderr(&output));
    }

    // The path of an existing file is no secret, and of a command only the parts that look like one are.
    fs::write(root.path().join("etc/jarvis/secret"), "x\n").unwrap();
    root.write_config(
        "[mqtt]\nurl = \"mqtt://127.0.0.1:9\"\nusername = \"u\"\npassword_file = \"secret\"\n\
         [speech]\ncommand = [\"true\", \"--api-key=hunter2\", \"https://me:hunter2@host/\", \"--slow\"]\n",
    );
    let said = root.ok(&["check-config", "--print"]);
    assert!(said.contains("etc/jarvis/secret") && said.contains("--slow"), "{said}");
    assert!(said.contains("--api-key=***") && said.contains("https://me:***@host/"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_fault_of_the_configuration_stops_every_command_with_78() {
    let root = Root::with_config("[nonsense]\n");
    for args in [&["run"][..], &["doctor"], &["user", "list"], &["models", "list"], &["listen", "x.wav"]] {
        let said = fails(&root, 78, args);
        assert!(said.contains("nonsense"), "{args:?}: {said}");
    }
}

#[test]
fn faults_as_json_have_place_key_and_sentence() {
    let root = Root::with_config("[audio]\nperiod_ms = 1\n");
    let output = root.run(&["check-config", "--json"]);
    assert_eq!(output.status.code(), Some(78));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["faults"][0]["key"], "audio.period_ms");
    assert!(report["faults"][0]["place"].as_str().unwrap().ends_with("jarvis.toml:2"));
    assert!(report["faults"][0]["sentence"].as_str().unwrap().contains("10 to 20"));
}

#[test]
fn the_settings_in_force_are_printed_with_their_place_and_without_secrets() {
    let mut root = Root::with_config("[store]\npostgres_url = \"postgres://jarvis:hunter2@db/jarvis\"\n");
    root.env("JARVIS__AUDIO__CHANNEL", "left");
    let printed = root.ok(&["check-config", "--print"]);
    assert!(printed.contains("channel = \"left\"  # JARVIS__AUDIO__CHANNEL"), "{printed}");
    assert!(printed.contains("postgres_url = \"postgres://jarvis:***@db/jarvis\""), "{printed}");
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn no_part_of_an_address_that_may_be_a_secret_is_ever_shown() {
    // Typed as people do: with the letters that end an authority, with those that escape them, in the wrong
    // place.
    let wrong = [
        ("store.postgres_url", "postgres://jarvis:2024/hunter2@db/jarvis", "%2F"),
        ("store.postgres_url", "postgres://jarvis:20?hunter2@db/jarvis", "%3F"),
        ("store.postgres_url", "postgres://jarvis:20#hunter2@db/jarvis", "%23"),
        ("store.postgres_url", "postgres://jarvis@db/jarvis?password=hunter2@x", "%40"),
        ("store.postgres_url", "postgres://jarvis:20%hunter2@db/jarvis", "% escape"),
        ("store.postgres_url", "postgres://jarvis:hunter2@d,b/jarvis", "host"),
        ("store.postgres_url", "postgres://jarvis:hunter2@[::1/jarvis", "host"),
        ("store.postgres_url", "postgres://jarvis:hunter2@db:99999/jarvis", "port"),
        ("store.postgres_url", "postgres:jarvis:hunter2@db/jarvis", "scheme"),
        ("store.postgres_url", "jarvis:hunter2@db://jarvis", "scheme"),
        ("mqtt.url", "mqtt://jarvis:hunter2@broker", "mqtt.password_file"),
        ("mqtt.url", "mqtt://jarvis:18/hunter2@broker", "%2F"),
        ("mqtt.url", "hunter2@broker", "scheme"),
        ("mqtt.url", "mqtt://broker?password=hunter2", "after the port"),
        ("mqtt.url", "mqtt://broker/hunter2", "after the port"),
        ("store.postgres_url", "postgres://jarvis@db/jarvis&password=hunter2", "parameters begin with"),
        ("store.postgres_url", "postgres://jarvis@db/jarvis:hunter2", "name of the database"),
        ("store.postgres_url", "postgres://jarvis:@db/hunter2%40host/db", "name of the database"),
        ("store.postgres_url", "postgres://jarvis@db/jarvis?password%3Dhunter2", "is not known"),
        ("store.postgres_url", "postgres://jarvis@db/jarvis?sslkey=/x&hunter2=1", "is not known"),
        ("backup.remote", ":s3,secret_access_key=hunter2:bucket", "name of a remote"),
        ("backup.remote", "nas,pass=hunter2:x", "name of a remote"),
        ("backup.remote", "sftp://u:hunter2@h/x", "rclone config"),
        ("backup.remote", "nas:u:hunter2@h", "rclone config"),
    ];
    for (key, address, told) in wrong {
        let (section, name) = key.split_once('.').unwrap();
        let root = Root::with_config(&format!("[{section}]\n{name} = \"{address}\"\n"));
        for args in
            [&["check-config"][..], &["check-config", "--print"], &["check-config", "--json"], &["doctor"]]
        {
            let output = root.run(args);
            let said = String::from_utf8(output.stdout.clone()).unwrap() + &stderr(&output);
            assert_eq!(output.status.code(), Some(78), "{address}: {said}");
            assert!(said.contains(told) && said.contains(key), "{address}: {said}");
            assert!(!said.contains("hunter2"), "{address}: {said}");
        }
    }
    let right = [
        ("postgres://jarvis:hunter2@db/jarvis", "postgres://jarvis:***@db/jarvis"),
        ("postgres://jarvis:hun@ter2@db/jarvis", "postgres://jarvis:***@db/jarvis"),
        (
            "postgres://jarvis:%2F%40%3A%3F%23hunter2@[::1]:5433/jarvis",
            "postgres://jarvis:***@[::1]:5433/jarvis",
        ),
        ("postgres://jarvis%3Ahunter2@db/jarvis", "postgres://***@db/jarvis"),
        (
            "postgres://jarvis@db/jarvis?password=hunter2&sslmode=disable",
            "jarvis?password=***&sslmode=disable",
        ),
        ("postgres://jarvis@db/jarvis?p%61ssword=hunter2", "=***"),
        (
            "postgres://jarvis:hunter2@[fe80::1%25eth0]/jarvis",
            "postgres://jarvis:***@[fe80::1%25eth0]/jarvis",
        ),
        (
            "postgres://jarvis:hunter2@/jarvis?host=/no/socket",
            "postgres://jarvis:***@/jarvis?host=/no/socket",
        ),
        ("postgres://jarvis:hunter2@%2Fno%2Fsocket/jarvis", "postgres://jarvis:***@%2Fno%2Fsocket/jarvis"),
    ];
    for (address, shown) in right {
        let root = Root::with_config(&format!("[store]\npostgres_url = \"{address}\"\n"));
        let printed = root.ok(&["check-config", "--print"]);
        assert!(printed.contains(shown) && !printed.contains("ter2"), "{address}: {printed}");
    }
}

#[test]
fn a_pipe_in_the_place_of_the_database_is_refused_instead_of_waited_for() {
    let root = Root::new();
    root.ok(&["user", "add", "anna"]);
    let data = root.path().join("var/lib/jarvis");
    for name in ["jarvis.db", "jarvis.db-wal", "jarvis.db-shm"] {
        let _ = fs::remove_file(data.join(name));
    }
    assert!(Command::new("mkfifo").arg(data.join("jarvis.db")).status().unwrap().success());
    let told = [
        (&["user", "list"][..], 78, "no regular file"),
        (&["ask", "--user", "anna", "hello"], 78, "no regular file"),
        (&["backup", "create"], 1, "the memory is missing"),
    ];
    for (args, exit, why) in told {
        let mut command = Command::new("timeout");
        let program = root.command(args);
        command.arg("30").arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_configuration_that_is_no_file_of_text_is_refused_with_a_sentence() {
    let root = Root::new();
    let bad = root.path().join("bad.toml");
    fs::write(&bad, b"\xff\xfe\0\0").unwrap();
    assert!(fails(&root, 78, &["--config", bad.to_str().unwrap(), "check-config"]).contains("UTF-8"));
    let folder = root.path().to_str().unwrap().to_owned();
    assert!(fails(&root, 78, &["--config", &folder, "check-config"]).contains("is a folder"));
    assert!(fails(&root, 78, &["--config", "/no/such/file.toml", "check-config"]).contains("does not exist"));
}

#[test]
fn a_damaged_database_is_set_aside_and_said_and_the_command_goes_on() {
    let root = Root::new();
    let data = root.path().join("var/lib/jarvis");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("jarvis.db"), "garbage").unwrap();
    let output = root.run(&["user", "list", "--json"]);
    let said = stderr(&output);
    assert_eq!((output.status.code(), output.stdout.trim_ascii()), (Some(0), &b"[]"[..]), "{said}");
    assert!(said.contains("is damaged") && said.contains("has been repaired"), "{said}");
    let kept = fs::read_dir(&data)
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|entry| entry.file_name().to_string_lossy().starts_with("jarvis.db.corrupt."));
    assert_eq!(fs::read(kept.expect("the damaged file is kept").path()).unwrap(), b"garbage");
    assert!(!stderr(&root.run(&["user", "list"])).contains("damaged"), "it is repaired once");
}

#[test]
fn doctor_looks_at_a_damaged_database_and_leaves_the_repair_to_whoever_uses_it() {
    let root = Root::new();
    root.ok(&["user", "add", "Anna"]);
    root.ok(&["ask", "--user", "anna", "remember that the roof leaks"]);
    let database = root.path().join("var/lib/jarvis/jarvis.db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[..100].fill(0);
    fs::write(&database, &bytes).unwrap();
    let says = |root: &Root| String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
    assert!(says(&root).contains("damaged"), "{}", says(&root));
    assert_eq!(fs::read(&database).unwrap(), bytes, "doctor changes nothing");
    let asked = root.run(&["ask", "--user", "anna", "what do you remember"]);
    assert!(String::from_utf8_lossy(&asked.stdout).contains("the roof leaks"), "{}", stderr(&asked));
    assert!(stderr(&asked).contains("repair"), "{}", stderr(&asked));
    assert!(says(&root).contains("damaged copies are kept: 1"), "{}", says(&root));
    root.ok(&["user", "delete", "--yes", "anna"]);
    assert!(
        !says(&root).contains("damaged copies"),
        "what was forgotten leaves the copies too: {}",
        says(&root)
    );
}

#[test]
fn doctor_says_who_is_gone_although_nobody_deleted_them() {
    let says = |root: &Root| {
        let told = String::from_utf8(root.run(&["doctor"]).stdout).unwrap();
        told.lines().find(|line| line.contains(" database ")).unwrap().to_owned()
    };
    let edit = |root: &Root, sql: &str| {
        let db = root.path().join("var/lib/jarvis/jarvis.db");
        assert!(Command::new("sqlite3").arg(&db).arg(sql).status().unwrap().success());
    };
    let fresh = || {
        let mut root = Root::new();
        root.env("JARVIS__STT__ENGINE", "off");
        root
    };
    // Deleted as it should be: nobody is missed.
    let root = fresh();
    root.ok(&["user", "list"]);
    assert!(says(&root).contains("is sound, people: 0"), "{}", says(&root));
    root.ok(&["user", "add", "anna"]);
    root.ok(&["user", "delete", "--yes", "anna"]);
    assert!(says(&root).contains("is sound, people: 0"), "{}", says(&root));

    for delete in ["", "PRAGMA foreign_keys = ON;"] {
        let root = fresh();
        root.ok(&["user", "add", "anna"]);
        edit(&root, &format!("{delete} DELETE FROM users"));
        assert!(says(&root).starts_with("FAIL"), "{}", says(&root));
        assert!(says(&root).contains("nobody is known, and somebody was"), "{}", says(&root));
    }

    let root = fresh();
    root.enrol("anna", Voice::Rms);
    root.ok(&["user", "add", "ben"]);
    root.ok(&["ask", "--user", "ben", "hello"]);
    assert!(says(&root).contains("is sound, people: 2"), "{}", says(&root));
    edit(&root, "DELETE FROM users WHERE name = 'ben'");
    assert!(says(&root).contains("rows of a person are there"), "{}", says(&root));
    edit(&root, "DELETE FROM voiceprints");
    assert!(says(&root).contains("the voiceprints of anna are gone"), "{}", says(&root));

    let root = fresh();
    root.enrol("anna", Voice::Rms);
    root.ok(&["voice", "delete", "--user", "anna", "--yes"]);
    assert!(says(&root).contains("is sound, people: 1"), "{}", says(&root));
}

#[test]
fn an_error_is_one_sentence_that_says_nothing_twice() {
    let root = Root::new();
    let data = root.path().join("var/lib/jarvis");
    fs::create_dir_all(&data).unwrap();
    fs::create_dir(data.join("jarvis.db")).unwrap();
    let said = fails(&root, 69, &["user", "list"]);
    assert_eq!((said.lines().count(), said.matches("jarvis.db").count()), (1, 1), "{said}");

    let mut root = Root::new();
    let models = root.path().join("models");
    fs::create_dir(&models).unwrap();
    fs::write(models.join("manifest.toml"), "a = 1\nb = [\n").unwrap();
    root.env("JARVIS_MODELS_DIR", &models);
    for args in [&["models", "list"][..], &["voice", "identify", "x.wav"], &["run"]] {
        let said = fails(&root, 78, args);
        let said = said.lines().last().unwrap();
        assert!(
            said.starts_with("jarvisd: ") && said.contains("line ") && said.contains("unclosed array"),
            "{said}"
        );
        assert_eq!(said.matches("manifest.toml").count(), 1, "{said}");
    }
}

#[test]
fn a_name_that_drives_a_terminal_is_shown_harmless() {
    let root = Root::new();
    let said = fails(&root, 65, &["voice", "identify", "/no/such/\u{1b}[31mfile.wav"]);
    assert!(!said.contains('\u{1b}') && said.contains("file.wav"), "{said}");
}

/// Stored words, a name from another program's database, a word in an error: in lines and in JSON.
#[test]
fn stored_words_that_drive_a_terminal_are_shown_harmless_wherever_they_are_printed() {
    let root = Root::new();
    let odd = "x\u{1b}]0;evil\u{7}\u{9b}2J\u{7f}\u{202e}y";
    let drives = |text: &str| {
        let c1 = text.contains(['\u{9b}', '\u{7f}', '\u{202e}']);
        c1 || text.chars().any(|c| c.is_control() && c != '\n')
    };
    root.ok(&["user", "add", "anna"]);
    for text in ["remember that the {} leaks", "the weather in {} is nice"] {
        root.ok(&["ask", "--user", "anna", &text.replace("{}", odd)]);
    }
    for args in [
        &["ask", "--user", "anna", "what do you remember"][..],
        &["ask", "--user", "anna", "what did we talk about"],
        &["ask", "--user", "anna", "forget everything about the weather"],
        &["ask", "--user", "anna", "undo that"],
        &["ask", "--user", "anna", "--json", "what do you remember"],
        &["conversation", "list", "--user", "anna"],
        &["conversation", "search", "--user", "anna", "leaks"],
        &["conversation", "search", "--user", "anna", "--json", "leaks"],
        &["conversation", "export", "--user", "anna"],
        &["user", "export", "anna"],
        &["backup", "export"],
        &["audit", "list"],
        &["doctor"],
    ] {
        let output = root.run(args);
        for text in [&output.stdout, &output.stderr] {
            let text = String::from_utf8(text.clone()).unwrap();
            assert!(!drives(&text), "{args:?}: {text:?}");
        }
    }
    // The JSON escapes decode to the same text.
    let hits = root.json(&["conversation", "search", "--user", "anna", "leaks"]);
    assert!(hits.to_string().contains(serde_json::to_string(odd).unwrap().trim_matches('"')), "{hits}");
    for args in [
        &["conversation", "list", "--user", odd][..],
        &["voice", "show", "--user", odd],
        &["user", "add", odd],
    ] {
        let output = root.run(args);
        let said = stderr(&output);
        assert!(!output.status.success() && !drives(&said) && said.contains("evil"), "{args:?}: {said:?}");
    }
}

/// Silence, and a recording of nothing: figures of zero without a sign.
#[test]
fn zero_is_printed_without_a_sign_and_no_figure_is_nan() {
    let root = Root::new();
    let silence = root.path().join("silence.wav");
    sox(&["-n", "-r", "16000", "-c", "1", "-b", "16", silence.to_str().unwrap(), "trim", "0", "4"]);
    let silence = silence.to_str().unwrap();
    root.ok(&["user", "add", "anna"]);
    for args in [
        &["voice", "enroll", "--user", "anna", silence, silence, silence][..],
        &["voice", "enroll", "--json", "--user", "anna", silence, silence, silence],
        &["voice", "identify", silence],
        &["listen", silence],
    ] {
        let output = root.run(args);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        let signed = said.match_indices("-0").any(|(at, _)| {
            let rest = said[at + 2..].trim_start_matches(['.', '0']);
            !rest.starts_with(|c: char| c.is_ascii_digit())
                && !said[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-')
        });
        assert!(!signed && !said.to_lowercase().contains("nan "), "{args:?}: {said}");
    }
}

// ---- configuration, as editors and shells write it --------------------------------------------------------

#[test]
fn a_byte_order_mark_is_no_part_of_what_a_file_says() {
    let root = Root::with_config("\u{feff}[device]\nname = \"Kitchen\"\n");
    let print = root.ok(&["check-config", "--print"]);
    assert!(print.contains("Kitchen"), "{print}");
    let secret = root.path().join("secret");
    fs::write(&secret, "\u{feff}hunter2 \r\nmore\n").unwrap();
    root.write_config(&format!(
        "\u{feff}[mqtt]\nurl = \"mqtt://127.0.0.1:1\"\nusername = \"jarvis\"\npassword_file = {secret:?}\n"
    ));
    let said = root.ok(&["check-config"]);
    assert!(
        said.contains("mqtt.password_file") && said.contains("blank") && !said.contains("hunter2"),
        "{said}"
    );
    fs::write(&secret, "\u{feff}\n").unwrap();
    assert!(fails(&root, 78, &["check-config"]).contains("has no password"));

    root.write_config("");
    root.ok(&["user", "add", "anna"]);
    root.ok(&["ask", "--user", "anna", "remember that the roof leaks"]);
    let export = root.ok(&["conversation", "export", "--user", "anna"]);
    let file = root.path().join("export.json");
    fs::write(&file, format!("\u{feff}{export}")).unwrap();
    root.ok(&["user", "add", "bob"]);
    let lines = root.path().join("export.jsonl");
    fs::write(&lines, format!("\u{feff}{}", root.ok(&["backup", "export"]))).unwrap();
    let other = Root::new();
    other.ok(&["user", "add", "anna"]);
    other.ok(&["conversation", "import", "--user", "anna", file.to_str().unwrap()]);
    assert!(other.ok(&["ask", "--user", "anna", "what do you remember"]).contains("the roof leaks"));
    other.ok(&["backup", "import", lines.to_str().unwrap()]);
    assert!(other.ok(&["user", "list"]).contains("bob"));
}

#[test]
fn variables_that_nearly_set_a_key_and_zones_that_do_not_exist_are_named() {
    for (name, meant) in [
        ("JARVIS_DEVICE__NAME", "JARVIS__DEVICE__NAME"),
        ("jarvis__device__name", "JARVIS__DEVICE__NAME"),
        ("JARVIS__DEVICE_NAME", "JARVIS__DEVICE__NAME"),
        ("JARVIS_STORE__POSTGRES_ULR", "JARVIS__STORE__POSTGRES_URL"),
        ("JARVIS___DEVICE__NAME", "device"),
    ] {
        let mut root = Root::new();
        root.env(name, "Kitchen");
        let said = fails(&root, 78, &["check-config"]);
        assert!(said.contains(name) && said.contains(meant), "{said}");
    }
    let mut root = Root::new();
    root.env("JARVIS_DEVICE_NAME", "Kitchen");
    let said = root.ok(&["check-config"]);
    assert!(said.contains("did you mean JARVIS__DEVICE__NAME?"), "{said}");

    for zone in ["Europe/Atlantis", ":Mars", "Berlin"] {
        let mut root = Root::new();
        root.env("TZ", zone);
        for args in [&["check-config"][..], &["run"], &["backup", "prune", "--dry-run"]] {
            let said = fails(&root, 78, args);
            assert!(said.contains("TZ") && said.contains("no time zone"), "{zone}: {said}");
        }
    }
    for zone in ["Europe/Berlin", "UTC", "", "CET-1CEST,M3.5.0,M10.5.0/3"] {
        let mut root = Root::new();
        root.env("TZ", zone);
        root.ok(&["check-config"]);
    }
}

#[test]
fn names_are_written_with_the_joiners_that_they_need_and_twins_are_refused() {
    let root = Root::new();
    let joined = ["علی\u{200c}رضا", "👩\u{200d}👧", "❤\u{fe0f}"];
    for name in joined {
        root.ok(&["user", "add", name]);
        assert!(root.json(&["user", "list"]).to_string().contains(name));
        let twin: String =
            name.chars().filter(|c| !matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0f}')).collect();
        let said = fails(&root, 1, &["user", "add", &twin]);
        assert!(said.contains("is taken"), "{said}");
        root.ok(&["ask", "--user", &twin, "hello"]);
    }
    for name in ["An\u{200d}na", "Anna\u{200c}", "علی\u{200c}", "a\u{fe0f}"] {
        assert!(fails(&root, 65, &["user", "add", name]).contains("cannot be a name"), "{name:?}");
    }
    root.ok(&["ask", "--user", joined[1], "remember that the roof leaks"]);
    let id = root.json(&["conversation", "list", "--user", joined[1]])[0]["id"].as_str().unwrap().to_owned();
    root.ok(&["conversation", "rename", "--user", joined[1], &id, joined[1]]);
}

// ---- usage ------------------------------------------------------------------------------------------------

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let root = Root::new();
    for args in [
        &["nonsense"][..],
        &["ask"],
        &["listen"],
        &["voice", "verify"],
        &["conversation", "show", "--user", "a", "x"],
    ] {
        fails(&root, 2, args);
    }
    for args in [
        &["--help"][..],
        &["--version"],
        &["voice", "enroll", "--help"],
        &["conversation", "search", "--help"],
    ] {
        assert!(!root.ok(args).is_empty(), "{args:?}");
    }
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let root = Root::new();
    let mut child = root.command(&["check-config", "--print"]).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

// ---- people and conversations -----------------------------------------------------------------------------

#[test]
fn people_are_added_listed_renamed_exported_and_deleted() {
    let root = Root::new();
    assert_eq!(root.json(&["user", "list"]), serde_json::json!([]));
    let anna = root.json(&["user", "add", "Anna"]);
    assert_eq!(anna["name"], "Anna");
    assert!(fails(&root, 1, &["user", "add", "ANNA"]).contains("taken"));
    root.ok(&["user", "add", "Straße"]);
    assert!(fails(&root, 1, &["user", "add", "STRASSE"]).contains("taken"));
    root.ok(&["user", "add", "1️⃣"]);
    root.ok(&["user", "rename", "anna", "Anne"]);
    let shown = root.json(&["user", "show", "anne"]);
    assert_eq!(
        (&shown["id"], &shown["voice"], &shown["conversations"]),
        (&anna["id"], &false.into(), &0.into())
    );

    let file = root.path().join("anne.json");
    root.ok(&["user", "export", "anne", "--out", file.to_str().unwrap()]);
    let export: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(export["user"]["name"], "Anne");
    fails(&root, 1, &["user", "export", "anne", "--out", file.to_str().unwrap()]);

    assert!(fails(&root, 2, &["user", "delete", "anne"]).contains("no terminal to ask on; say --yes"));
    assert_eq!(root.json(&["user", "delete", "anne", "--yes"])["deleted"]["name"], "Anne");
    assert!(fails(&root, 1, &["user", "show", "anne"]).contains("user list"));
}

#[test]
fn names_that_cannot_be_names_are_bad_data() {
    let root = Root::new();
    for name in ["", "  ", "a\nb", "Anonymous", &"x".repeat(1_000)] {
        fails(&root, 65, &["user", "add", name]);
    }
}

#[test]
fn what_is_asked_is_remembered_across_runs_and_belongs_to_one_person() {
    let root = Root::new();
    root.ok(&["user", "add", "Anna"]);
    root.ok(&["user", "add", "Ben"]);
    let turn = root.json(&["ask", "--user", "anna", "remember that the spare key is under the blue pot"]);
    let id = turn["conversation_id"].as_str().unwrap().to_owned();
    assert!(
        root.ok(&["ask", "--user", "anna", "what do you remember about the spare key"]).contains("blue pot")
    );
    assert!(
        !root.ok(&["ask", "--user", "ben", "what do you remember about the spare key"]).contains("blue pot")
    );

    let list = root.json(&["conversation", "list", "--user", "anna"]);
    assert_eq!(list[0]["id"].as_str().unwrap(), id);
    assert_eq!(list[0]["messages"], 4);
    let whole = root.json(&["conversation", "show", "--user", "anna", &id]);
    assert_eq!(whole["messages"].as_array().unwrap().len(), 4);
    assert_eq!(whole["messages"][0]["role"], "user");
    let hits = root.json(&["conversation", "search", "--user", "anna", "blue", "pot"]);
    assert!(hits[0]["message"]["text"].as_str().unwrap().contains("blue pot"));
    assert_eq!(root.json(&["conversation", "rename", "--user", "anna", &id, "Keys"])["title"], "Keys");
    assert_eq!(root.json(&["conversation", "export", "--user", "anna"])[0]["title"], "Keys");

    for command in ["show", "delete"] {
        fails(&root, 1, &["conversation", command, "--user", "ben", &id]);
    }
    fails(&root, 1, &["ask", "--user", "ben", "--conversation", &id, "hello"]);
    fails(&root, 2, &["conversation", "delete", "--user", "anna", &id]);
    root.ok(&["conversation", "delete", "--user", "anna", "--yes", &id]);
    assert_eq!(root.json(&["conversation", "list", "--user", "anna"]), serde_json::json!([]));
    assert_eq!(root.json(&["conversation", "search", "--user", "anna", "pot"]), serde_json::json!([]));
}

#[test]
fn a_new_conversation_is_begun_when_asked_for() {
    let root = Root::new();
    root.ok(&["user", "add", "Anna"]);
    let first = root.json(&["ask", "--user", "anna", "hello"]);
    let same = root.json(&["ask", "--user", "anna", "hello"]);
    let new = root.json(&["ask", "--user", "anna", "--new", "hello"]);
    assert_eq!(first["conversation_id"], same["conversation_id"]);
    assert_ne!(first["conversation_id"], new["conversation_id"]);
    assert!(fails(&root, 2, &["ask", "--user", "anna", " "]).contains("nothing to ask"));
    assert!(fails(&root, 1, &["ask", "--user", "nobody", "hello"]).contains("nobody"));
}

#[test]
fn a_session_is_the_same_conversation_each_time() {
    let root = Root::new();
    root.ok(&["user", "add", "Anna"]);
    let ask = |session: &str| root.json(&["ask", "--user", "anna", "--session", session, "hello"]);
    let (first, same, other) = (ask("tablet"), ask("tablet"), ask("phone"));
    assert_eq!(first["stored"], true);
    assert_eq!(first["conversation_id"], same["conversation_id"]);
    assert_ne!(first["conversation_id"], other["conversation_id"]);
    let list = root.json(&["conversation", "list", "--user", "anna"]);
    assert_eq!((&list[0]["session_id"], &list[1]["session_id"]), (&"phone".into(), &"tablet".into()));
    fails(&root, 2, &["ask", "--user", "anna", "--session", "", "hello"]);
    fails(&root, 2, &["ask", "--user", "anna", "--session", "a", "--new", "hello"]);
}

#[test]
fn an_export_is_imported_by_another_device() {
    let (root, other) = (Root::new(), Root::new());
    for root in [&root, &other] {
        root.ok(&["user", "add", "Anna"]);
    }
    root.ok(&["ask", "--user", "anna", "--session", "tablet", "remember that the roof leaks"]);
    let file = root.path().join("export.json");
    root.ok(&["conversation", "export", "--user", "anna", "--out", file.to_str().unwrap()]);
    let import = ["conversation", "import", "--user", "anna", file.to_str().unwrap()];
    assert!(other.ok(&import).contains("1 conversations with 2 messages"));
    let export = |root: &Root| root.json(&["conversation", "export", "--user", "anna"]);
    assert_eq!(export(&other), export(&root), "nothing is lost on the way");
    assert!(other.ok(&["ask", "--user", "anna", "what do you remember"]).contains("the roof leaks"));
    assert_eq!(other.json(&import)["skipped"], 1);
    fs::write(&file, "{\"id\": 7}").unwrap();
    assert!(fails(&other, 65, &import).contains("cannot be imported"));
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(fails(&other, 65, &import).contains("not UTF-8"));
    fails(&other, 65, &["conversation", "import", "--user", "anna", "/nonexistent"]);
}

/// On an unwritable disk the answer is there, marked, and the command fails.
#[test]
fn a_turn_that_is_not_stored_is_said_to_be_so() {
    let root = Root::new();
    root.ok(&["user", "add", "Anna"]);
    root.ok(&["ask", "--user", "anna", "remember that the roof leaks"]);
    let data = root.path().join("var/lib/jarvis");
    let data = data.to_str().unwrap();
    let mount =
        |args: &[&str]| std::process::Command::new("mount").args(args).status().is_ok_and(|s| s.success());
    if !mount(&["--bind", data, data]) || !mount(&["-o", "remount,ro,bind", data]) {
        crate::support::missing::skipped("mounting read-only needs root");
        return;
    }
    let plain = root.run(&["ask", "--user", "anna", "what do you remember"]);
    let json = root.run(&["ask", "--user", "anna", "--json", "what do you remember"]);
    let unmounted = std::process::Command::new("umount").args(["-l", data]).status();
    assert_eq!(plain.status.code(), Some(69), "{}", stderr(&plain));
    let shown = String::from_utf8(plain.stdout.clone()).unwrap();
    assert_eq!(shown, "(not stored) You told me that the roof leaks.\n");
    assert!(stderr(&plain).contains("could not be stored"), "{}", stderr(&plain));
    let turn: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&turn["stored"], json.status.code()), (&false.into(), Some(69)));
    assert!(unmounted.unwrap().success());
}

// ---- voices -----------------------------------------------------------------------------------------------

fn paths(files: &[PathBuf]) -> Vec<&str> {
    files.iter().map(|file| file.to_str().unwrap()).collect()
}

#[test]
fn an_enrolled_voice_is_verified_and_another_is_not() {
    let root = Root::new();
    let samples: Vec<PathBuf> = ENROLMENT.iter().map(|phrase| Voice::Rms.says(phrase)).collect();
    let mut args = vec!["voice", "enroll", "--user", "Anna"];
    args.extend(paths(&samples));
    let enrolled = root.json(&args);
    assert_eq!((&enrolled["user"], &enrolled["enrolled"]), (&"Anna".into(), &true.into()));
    assert_eq!(enrolled["samples"].as_array().unwrap().len(), 3);
    assert_eq!(root.json(&["voice", "list"])[0]["user_name"], "Anna");
    assert_eq!(root.json(&["user", "show", "anna"])["voice"], true);

    let owner = Voice::Rms.says("hey jarvis, what do you remember about the spare key");
    let owner = owner.to_str().unwrap();
    let verdict = root.json(&["voice", "verify", "--user", "anna", owner]);
    assert_eq!((&verdict["outcome"], &verdict["user"]), (&"verified".into(), &"Anna".into()));
    assert!(verdict["confidence"].as_f64().unwrap() >= verdict["threshold"].as_f64().unwrap());
    assert_eq!(root.json(&["voice", "identify", owner])["user"], "Anna");

    let stranger = Voice::Slt.says("hey jarvis, what do you remember about the spare key");
    let stranger = stranger.to_str().unwrap();
    let output = root.run(&["voice", "verify", "--user", "anna", stranger, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_ne!(verdict["outcome"], "verified");
    fails(&root, 1, &["voice", "identify", stranger]);

    fails(&root, 2, &["voice", "delete", "--user", "anna"]);
    root.ok(&["voice", "delete", "--user", "anna", "--yes"]);
    assert!(fails(&root, 1, &["voice", "identify", owner]).contains("no voice is enrolled"));
    fails(&root, 1, &["voice", "delete", "--user", "anna"]);
}

#[test]
fn recordings_that_cannot_be_enrolled_are_refused_with_what_to_do() {
    let root = Root::new();
    let one = Voice::Rms.says(ENROLMENT[0]);
    let other = Voice::Slt.says(ENROLMENT[1]);
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());

    let said = fails(&root, 65, &["voice", "enroll", "--user", "Anna", one]);
    assert!(said.contains("add more sentences"), "{said}");
    let output = root.run(&["voice", "enroll", "--user", "Anna", one, other, "--json"]);
    assert_eq!(output.status.code(), Some(65));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["enrolled"], false);
    assert_eq!(report["samples"][1]["accepted"], false);
    assert!(report["samples"][1]["reason"].as_str().unwrap().contains("does not sound like"));

    let silent = root.path().join("silent.wav");
    crate::support::sox(&[
        "-n",
        "-r",
        "16000",
        "-c",
        "1",
        "-b",
        "16",
        silent.to_str().unwrap(),
        "trim",
        "0",
        "5",
    ]);
    fails(&root, 65, &["voice", "enroll", "--user", "Anna", silent.to_str().unwrap()]);
    let text = root.path().join("text.wav");
    fs::write(&text, "this is not a recording").unwrap();
    fails(&root, 65, &["voice", "enroll", "--user", "Anna", text.to_str().unwrap()]);
    fails(&root, 65, &["voice", "enroll", "--user", "Anna", "/no/such/file.wav"]);
    assert_eq!(root.json(&["user", "list"]), serde_json::json!([]), "nobody is added by a failed enrolment");
}

#[test]
fn a_recording_that_is_far_too_long_is_refused() {
    let root = Root::new();
    let long = root.path().join("long.wav");
    crate::support::sox(&[
        "-n",
        "-r",
        "8000",
        "-c",
        "1",
        "-b",
        "8",
        long.to_str().unwrap(),
        "trim",
        "0",
        "600",
    ]);
    let said = fails(&root, 65, &["voice", "identify", long.to_str().unwrap()]);
    assert!(said.contains("longer than"), "{said}");
}

// ---- models and doctor ------------------------------------------------------------------------------------

#[test]
fn models_are_listed_and_a_damaged_one_is_named_with_the_way_out() {
    let mut root = Root::new();
    let list = root.json(&["models", "list"]);
    let vad = list.as_array().unwrap().iter().find(|model| model["role"] == "vad").unwrap();
    assert_eq!(vad["state"], "verified");
    root.ok(&["models", "verify", "silero-vad"]);
    fails(&root, 2, &["models", "verify", "no-such-model"]);

    let folder = root.path().join("models");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(vad["file"].as_str().unwrap()), b"not a model").unwrap();
    root.env("JARVIS_MODELS_DIR", &folder);
    let said = fails(&root, 78, &["models", "verify"]);
    assert!(said.contains("silero-vad") && said.contains("git checkout"), "{said}");
    assert!(fails(&root, 78, &["voice", "identify", "x.wav"]).contains("SHA-256"));
}

#[test]
fn networks_are_run_on_this_processor_and_a_wrong_result_is_named() {
    let mut root = Root::new();
    let ran = root.json(&["models", "verify", "--run", "silero-vad", "campplus"]);
    let runs = ran["runs"].as_array().unwrap();
    assert_eq!((ran["models"].as_array().unwrap().len(), runs.len()), (2, 2), "{ran}");
    assert!(runs.iter().all(|run| run["right"] == true), "{ran}");
    assert_eq!(runs.iter().filter(|run| run["kernels"].is_array()).count(), 1, "{ran}");

    // Another number is recorded than any processor computes.
    let folder = root.path().join("models");
    fs::create_dir_all(&folder).unwrap();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let recorded = fs::read_to_string(models.join("reference.json")).unwrap();
    let wrong = recorded.replacen("\"results\": [-", "\"results\": [", 1);
    let manifest = fs::read_to_string(models.join("manifest.toml")).unwrap();
    let manifest = manifest.replace(&sha256(recorded.as_bytes()), &sha256(wrong.as_bytes()));
    fs::write(folder.join("reference.json"), &wrong).unwrap();
    fs::write(folder.join("manifest.toml"), manifest).unwrap();
    root.env("JARVIS_MODELS_DIR", &folder);
    let said = fails(&root, 1, &["models", "verify", "--run", "silero-vad", "campplus"]);
    assert!(said.contains("silero-vad: ") && !said.contains("campplus"), "{said}");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn doctor_misses_the_segmentation_network_where_the_start_needs_it() {
    let recording = Voice::Rms.says("hey jarvis, what time is it");
    for (voice, needed) in [
        ("", true),
        ("second_voice = \"refuse\"", true),
        ("second_voice = \"answer\"", false),
        ("second_voice = \"answer\"\nrefuse_overlap = true", true),
        ("enabled = false", false),
    ] {
        let mut root = Root::with_config(&format!("[wake]\nmodel = \"none\"\n[voice]\n{voice}\n"));
        // The models are those of this tree, except for the one that the manifest calls otherwise.
        let folder = root.path().join("models");
        fs::create_dir_all(&folder).unwrap();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/manifest.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        assert!(manifest.contains("pyannote_segmentation_3.onnx"));
        let manifest = manifest.replace("pyannote_segmentation_3.onnx", "not_here.onnx");
        fs::write(folder.join("manifest.toml"), manifest).unwrap();
        root.env("JARVIS_MODELS_DIR", &folder);
        root.env("JARVIS__STT__ENGINE", "off");
        let output = root.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let missed = report["findings"].as_array().unwrap().iter().any(|finding| {
            let said = finding["message"].as_str().unwrap();
            finding["state"] == "fail" && said.contains("segmentation") && said.contains("is missing")
        });
        assert_eq!(missed, needed, "{voice:?}: {report}");
        let started = root.run(&["listen", recording.to_str().unwrap()]);
        let code = if needed { 78 } else { 0 };
        assert_eq!(started.status.code(), Some(code), "{voice:?}: {}", stderr(&started));
        assert_eq!(stderr(&started).contains("segmentation"), needed, "{voice:?}: {}", stderr(&started));
    }
}

#[test]
fn doctor_checks_everything_and_changes_nothing() {
    let mut root = Root::new();
    root.env("ALSA_CONFIG_PATH", "/dev/null");
    let output = root.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let state = |check: &str| {
        let found = findings.iter().find(|f| f["check"] == check);
        found.map(|f| f["state"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!(state("microphone"), "fail");
    assert_eq!(state("loudspeaker"), "warn");
    assert_eq!(state("database"), "ok");
    assert_eq!(state("models"), "ok");
    assert!(!state("disk").is_empty() && !state("clock").is_empty() && !state("priority").is_empty());
    for finding in findings {
        let ok = finding["state"] == "ok";
        assert!(ok || finding["fix"].is_string(), "a fault without what to do: {finding}");
    }
    assert_eq!(report["ok"], false);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("microphone"));
    assert!(!root.path().join("var").exists(), "doctor makes nothing");
}
