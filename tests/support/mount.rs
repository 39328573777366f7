//! Disks that come and go: file systems mounted for a test.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::missing::skipped;

/// A mount that ends with the value.
pub struct Mount(PathBuf);

impl Mount {
    /// A new disk in memory. `None` where nothing can be mounted: the test is noted as skipped.
    pub fn disk(at: &Path, options: &str) -> Option<Self> {
        Self::new(at, &["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// Shows the content of `from` also at `at`.
    pub fn of(from: &Path, at: &Path) -> Option<Self> {
        Self::new(at, &["--bind", from.to_str().unwrap()])
    }

    /// The same, and nobody can write there.
    pub fn read_only(from: &Path, at: &Path) -> Option<Self> {
        let mount = Self::of(from, at)?;
        assert!(run("mount", &["-o", "remount,ro,bind", at.to_str().unwrap()]), "{}", at.display());
        Some(mount)
    }

    fn new(at: &Path, args: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        if run("mount", &[args, &[at.to_str().unwrap()]].concat()) {
            return Some(Self(at.to_owned()));
        }
        skipped("nothing can be mounted here, which takes root");
        None
    }

    /// Takes the disk away.
    pub fn end(self) {}
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A daemon may be looking into it at this moment.
        run("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}
