//! Small C libraries that are preloaded into processes under test.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::process::Command;

/// Records the file operations of a process: see the head of the file.
pub fn powercut() -> PathBuf {
    compiled("powercut", include_str!("powercut.c"))
}

/// Makes the disk of a Postgres server full at will: see the head of the file.
pub fn diskfull() -> PathBuf {
    compiled("diskfull", include_str!("diskfull.c"))
}

/// A network share that lacks things: see the head of the file.
pub fn share() -> PathBuf {
    compiled("share", include_str!("share.c"))
}

/// Makes a recogniser or a disk hang at will: see the head of the file.
pub fn hang() -> PathBuf {
    compiled("hang", include_str!("hang.c"))
}

/// Says that the clock is set: see the head of the file.
pub fn clockset() -> PathBuf {
    compiled("clockset", include_str!("clockset.c"))
}

/// Compiles a library once per version of its source, where every account can read it.
fn compiled(name: &str, source: &str) -> PathBuf {
    let mut hash = DefaultHasher::new();
    source.hash(&mut hash);
    let library = std::env::temp_dir().join(format!("jarvis-{name}-{:016x}.so", hash.finish()));
    if library.exists() {
        return library;
    }
    let build = tempfile::tempdir().unwrap();
    let (text, made) = (build.path().join("source.c"), build.path().join("made.so"));
    std::fs::write(&text, source).unwrap();
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
        .args([&made, &text])
        .args(["-ldl", "-lpthread"])
        .output()
        .expect("a C compiler is installed (build-essential)");
    assert!(output.status.success(), "{name}.c: {}", String::from_utf8_lossy(&output.stderr));
    // Another process may be doing the same: the last one wins, and they are equal.
    let staged = library.with_extension(format!("{}.part", std::process::id()));
    std::fs::copy(&made, &staged).unwrap();
    std::fs::rename(&staged, &library).unwrap();
    library
}
