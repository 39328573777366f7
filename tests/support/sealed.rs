//! Changes files that carry the hash of their body, as their writer would.

use std::fs;
use std::path::Path;

use jiff::ToSpan as _;
use sha2::{Digest as _, Sha256};

/// The hash on the second line.
pub fn hash_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().nth(1).unwrap().split('"').nth(3).unwrap().to_owned()
}

/// Changes the body of a file that carries the hash of its body.
pub fn change(path: &Path, how: impl Fn(&str) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let old = hash_of(path);
    let start = text.match_indices(": ").nth(1).unwrap().0 + 2;
    let body = how(text[start..].strip_suffix("\n}\n").unwrap());
    let digest = Sha256::digest(body.as_bytes());
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let head = text[..start].replace(&old, &hash);
    fs::write(path, format!("{head}{body}\n}}\n")).unwrap();
}

/// The same backup as if made `days` earlier: its manifest carries another name and hash, and so do its
/// proofs.
pub fn aged(dir: &Path, name: &str, days: i64) -> String {
    let taken = jiff::civil::DateTime::strptime("jarvis-backup-%Y%m%d-%H%M%S", name).unwrap();
    let older = taken.checked_sub(days.days()).unwrap().strftime("jarvis-backup-%Y%m%d-%H%M%S").to_string();
    let to = dir.join(&older);
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(dir.join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let old_hash = hash_of(&to.join("manifest.json"));
    change(&to.join("manifest.json"), |body| body.replace(name, &older));
    let new_hash = hash_of(&to.join("manifest.json"));
    change(&to.join("proofs.json"), |body| body.replace(&old_hash, &new_hash));
    older
}
