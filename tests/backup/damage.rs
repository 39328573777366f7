//! All damage is found, and nothing damaged is restored.

use std::fs;
use std::path::Path;

use jarvisd::app::load;
use jarvisd::backup::cancel::Cancel;
use jarvisd::backup::context::Context;
use jarvisd::backup::create::Run;
use jarvisd::backup::keys::Keys;
use jarvisd::backup::lock::Lock;
use jarvisd::backup::progress::Progress;
use jarvisd::backup::{BackupError, Level, manifest, restore, restore_pg, verify};
use jarvisd::clock::Clock;
use jarvisd::config::Options;

use super::{Root, backup, backups, holds, home, home_with, key_pair, listed, much, refused};
use crate::support::random::Random;

const LEVELS: [Level; 3] = [Level::Quick, Level::Full, Level::Restore];

fn settings(root: &Root) -> Context {
    load(&Options { root: Some(root.path().into()), ..Options::default() }).unwrap().backups()
}

/// Verifies at every level and tries to restore: all of it must be refused, and no file may be there
/// afterwards. The lock is taken once: a program that another test starts at that moment would hold a new
/// lock a little longer.
async fn is_found(root: &Root, lock: &Lock, folder: &Path, keys: &Keys, what: &str) {
    let settings = settings(root);
    let (cancel, progress) = (Cancel::default(), Progress::hidden());
    let run = Run { settings: &settings, clock: &Clock::System, lock, cancel: &cancel, progress: &progress };
    for level in LEVELS {
        let found = verify::verify(&run, folder, level, keys).await;
        let found = found.map(|proof| proof.ok);
        assert!(
            matches!(found, Err(BackupError::Damaged { .. } | BackupError::Newer { .. })),
            "{what} is not found by {level:?}: {found:?}"
        );
    }
    let to = root.path().join("restored.db");
    if let Ok(read) = manifest::read(folder) {
        let restored = match settings.postgres.clone() {
            None => restore::to_file(&run, folder, &read.manifest, keys, &to).await,
            Some(server) => {
                let to = (&server, "restored");
                restore_pg::to_database(&run, folder, &read.manifest, keys, to).await.map(drop)
            }
        };
        assert!(matches!(restored, Err(BackupError::Damaged { .. })), "{what} is restored: {restored:?}");
    }
    assert!(!to.exists(), "{what}: something was restored");
}

/// Makes 100 cuts and 1,000 flipped bits in the backup of `root`, at any place.
pub async fn cuts_and_flips(root: &Root, folder: &Path, keys: &Keys, seed: &str) {
    let lock = Lock::take(&backups(root)).unwrap();
    let mut random = Random::for_test(seed);
    let mut files: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|file| file != "proofs.json")
        .collect();
    files.sort();
    let wholes: Vec<Vec<u8>> = files.iter().map(|file| fs::read(folder.join(file)).unwrap()).collect();
    let total: usize = wholes.iter().map(Vec::len).sum();
    // Places by size, and some in every file, however small.
    let mut place = |n: usize| {
        let mut at = random.below(total);
        let file = match (n % 10 < files.len()).then_some(n % 10) {
            Some(file) => file,
            None => wholes
                .iter()
                .position(|whole| at.checked_sub(whole.len()).map(|left| at = left).is_none())
                .unwrap(),
        };
        (file, at % wholes[file].len(), random.below(8))
    };
    for n in 0..1_100 {
        let (file, at, bit) = place(n);
        let path = folder.join(&files[file]);
        let mut bytes = wholes[file].clone();
        if n < 100 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        fs::write(&path, bytes).unwrap();
        let what = if n < 100 { "a cut" } else { "a flipped bit" };
        is_found(root, &lock, folder, keys, &format!("{what} in {} at {at} (bit {bit})", files[file])).await;
        fs::write(&path, &wholes[file]).unwrap();
    }
}

#[tokio::test]
async fn a_cut_and_a_flipped_bit_are_found_wherever_they_are() {
    let root = home();
    much(&root, 20);
    let folder = backups(&root).join(backup(&root));
    cuts_and_flips(&root, &folder, &Keys::default(), "a_cut_and_a_flipped_bit_are_found_wherever_they_are")
        .await;
    assert_eq!(root.json(&["backup", "verify", "latest"])["proven"], true, "whole again, it is good");
}

#[tokio::test]
async fn so_they_are_in_an_encrypted_backup() {
    let (owner, secret) = key_pair();
    let root = home_with(&format!("[backup]\nrecipients = [{owner:?}]\n"));
    much(&root, 20);
    let folder = backups(&root).join(backup(&root));
    let file = root.path().join("key");
    fs::write(&file, secret).unwrap();
    let keys = Keys::read(Some(&file.clone().into())).unwrap();
    cuts_and_flips(&root, &folder, &keys, "so_they_are_in_an_encrypted_backup").await;
    let args = ["backup", "verify", "latest", "--identity", file.to_str().unwrap()];
    assert_eq!(root.json(&args)["proven"], true, "whole again, it is good");
}

#[tokio::test]
async fn exchanged_parts_and_strange_manifests_are_found() {
    let root = home();
    much(&root, 20);
    let older = backups(&root).join(backup(&root));
    super::remember(&root, "anna", "something else");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let folder = backups(&root).join(backup(&root));
    let database = fs::read(folder.join("database.zst")).unwrap();
    let manifest = fs::read_to_string(folder.join("manifest.json")).unwrap();

    let lock = Lock::take(&backups(&root)).unwrap();
    let mut swapped = database.clone();
    let half = swapped.len() / 2;
    let (front, back) = swapped.split_at_mut(half);
    front.swap_with_slice(&mut back[..half]);
    let cases: [(&str, &str, Option<Vec<u8>>); 7] = [
        ("halves that changed places", "database.zst", Some(swapped)),
        ("bytes behind the end", "database.zst", Some([&database[..], b"more"].concat())),
        (
            "the database of an older backup",
            "database.zst",
            Some(fs::read(older.join("database.zst")).unwrap()),
        ),
        ("no database", "database.zst", None),
        ("no manifest", "manifest.json", None),
        (
            "the manifest of an older backup",
            "manifest.json",
            Some(fs::read(older.join("manifest.json")).unwrap()),
        ),
        (
            "a number changed by hand",
            "manifest.json",
            Some(manifest.replacen("\"rows\": 2", "\"rows\": 3", 1).into()),
        ),
    ];
    for (what, file, bytes) in cases {
        let path = folder.join(file);
        let whole = fs::read(&path).unwrap();
        assert_ne!(bytes.as_ref(), Some(&whole), "{what} changes nothing");
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        is_found(&root, &lock, &folder, &Keys::default(), what).await;
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn the_command_refuses_a_damaged_backup_notes_it_and_changes_nothing() {
    let root = home();
    let name = backup(&root);
    let path = backups(&root).join(&name).join("database.zst");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    super::remember(&root, "anna", "after it");
    for args in [
        &["verify", &name][..],
        &["restore", &name, "--in-place", "--yes"],
        &["restore", &name, "--user", "anna"],
    ] {
        let told = refused(&root, &[&["backup"], args].concat(), 65);
        assert!(told.contains("damaged") && told.contains("database.zst"), "{told}");
    }
    assert_eq!(listed(&root)[0]["last_proof"]["ok"], false);
    assert!(root.ok(&["backup", "list"]).contains("DAMAGED"));
    assert!(holds(&root, "anna", "after it"));
}
