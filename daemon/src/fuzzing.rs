//! The parsers of foreign bytes, one function each, for `cargo fuzz` (`tests/fuzz`) and for the test below,
//! which feeds them the committed inputs and mutations of these.
//!
//! A target takes any bytes, asserts the invariants for them, and returns whether they were valid input. A
//! panic in a library counts only where the product does not catch it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::app::fuzz::{address, config};
pub use crate::audio::file::fuzz::{flac, wav};
pub use crate::backup::fuzz::{manifest, stream};
pub use crate::inference::fuzz::models;
pub use crate::memory::fuzz::import;
pub use crate::mqtt::fuzz::mqtt;
pub use crate::store::salvage::fuzz::{pages, salvage};

/// A panic inside [`crate::supervisor::guarded`] is the product's to handle; any other ends the process.
pub fn init() {
    let abort = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !crate::supervisor::is_guarded() {
            abort(panic);
        }
    }));
}

/// A new empty folder, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("jarvis-fuzz-{}-{number}", std::process::id()));
        sure(std::fs::create_dir_all(&folder), "a folder");
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The value of a result that must not be an error.
pub(crate) fn sure<T, E: Debug>(result: Result<T, E>, what: &str) -> T {
    assert!(result.is_ok(), "{what}: {:?}", result.err());
    result.unwrap_or_else(|_| unreachable!())
}

/// Runs a future to its end, on this thread.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            sure(tokio::runtime::Builder::new_current_thread().enable_all().build(), "a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// The parts of an input that 0xFF separates: no text holds one.
pub(crate) fn parts(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == 0xFF)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    /// Mutations of each committed input. `scripts/fuzz.sh` runs for longer, and follows the covered paths.
    const MUTATIONS: usize = 200;

    /// A failing number of a mutation can be run again.
    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % n.max(1) as u64).unwrap()
        }
    }

    fn mutated(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
        const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\n', b'%'];
        let mut bytes = seed.to_vec();
        for _ in 0..=random.below(4) {
            let (at, length) = (random.below(bytes.len() + 1), 1 + random.below(8));
            let end = (at + length).min(bytes.len());
            match random.below(7) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, std::iter::repeat_n(TELLING[random.below(8)], length))),
                3 => bytes.extend_from_within(at..end),
                4 => drop(bytes.splice(at.., other[random.below(other.len() + 1)..].iter().copied())),
                5 => bytes[at..end].fill(TELLING[random.below(8)]),
                _ => bytes[at..end].iter_mut().for_each(|b| *b = u8::try_from(random.below(256)).unwrap()),
            }
        }
        bytes
    }

    /// Feeds a target the inputs that are committed for it, and mutations.
    fn replay(name: &str, mutations: usize, target: fn(&[u8]) -> bool) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(name);
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(!seeds.is_empty());
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut accepted = 0;
        for (file, seed) in files.iter().zip(&seeds) {
            println!("{}", file.display());
            accepted += usize::from(target(seed));
            for n in 0..mutations {
                let other = &seeds[random.below(seeds.len())];
                let bytes = mutated(seed, other, &mut random);
                // Captured, and shown where the target fails.
                println!("mutation {n}: {}", bytes.escape_ascii());
                target(&bytes);
            }
        }
        assert!(accepted > 0 && accepted < seeds.len(), "{accepted} of {} are read", seeds.len());
    }

    macro_rules! replayed {
        ($($target:ident: $mutations:expr),* $(,)?) => {
            const REPLAYED: &[&str] = &[$(stringify!($target)),*];

            $(#[test]
            fn $target() {
                replay(stringify!($target), $mutations, super::$target);
            })*
        };
    }

    replayed! {
        address: MUTATIONS,
        config: MUTATIONS,
        flac: MUTATIONS,
        import: MUTATIONS,
        manifest: MUTATIONS,
        models: MUTATIONS,
        mqtt: MUTATIONS,
        pages: MUTATIONS,
        // A database is written for each.
        salvage: 3,
        stream: MUTATIONS,
        wav: MUTATIONS,
    }

    /// Other versions would be other parsers, and would all be built again.
    #[test]
    fn the_targets_are_built_with_the_libraries_of_the_daemon() {
        let packages = |lock: &str| -> BTreeSet<(String, String)> {
            let text =
                fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(lock)).unwrap();
            let lock: toml::Table = toml::from_str(&text).unwrap();
            let word = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
            let packages = lock["package"].as_array().unwrap().iter();
            packages.map(|package| (word(package, "name"), word(package, "version"))).collect()
        };
        let (ours, theirs) = (packages("Cargo.lock"), packages("tests/fuzz/Cargo.lock"));
        let more: Vec<&str> = theirs.difference(&ours).map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            more,
            ["arbitrary", "jarvis-fuzz", "libfuzzer-sys"],
            "copy Cargo.lock to tests/fuzz and run cargo tree --manifest-path tests/fuzz/Cargo.toml"
        );
    }

    #[test]
    fn every_target_is_replayed() {
        let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/fuzz_targets");
        let mut names: Vec<String> = fs::read_dir(targets)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, REPLAYED);
    }
}
