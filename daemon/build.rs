//! Finds `libvosk.so`, which the crate `vosk` links, and says where the program will find it when it runs.
//!
//! Looked for in `JARVIS_LIBVOSK_DIR`, else in the cache folder to which `scripts/fetch-models.sh --libvosk`
//! puts it. At run time the loader looks beside the program and in `../lib/jarvis`, where packages ship it.
//! For programs and tests just built a link to the library is laid beside them, so they run without
//! LD_LIBRARY_PATH and carry no path of the machine that built them.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["JARVIS_LIBVOSK_DIR", "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if env::var_os("CARGO_FEATURE_VOSK").is_none() {
        return;
    }
    let arch = match env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default().as_str() {
        "arm" => "armv7l".to_owned(),
        other => other.to_owned(),
    };
    let folder = env_path("JARVIS_LIBVOSK_DIR").or_else(|| {
        let cache = env_path("XDG_CACHE_HOME").or_else(|| Some(env_path("HOME")?.join(".cache")))?;
        Some(cache.join("jarvis/libvosk").join(&arch))
    });
    let Some(folder) = folder.filter(|f| f.join("libvosk.so").is_file()) else {
        println!(
            "cargo::error=libvosk.so for {arch} is not here: run scripts/fetch-models.sh --libvosk --arch {arch} (or set \
             JARVIS_LIBVOSK_DIR to its folder, or build without Vosk: --no-default-features)"
        );
        return;
    };
    let library = folder.join("libvosk.so");
    println!("cargo::rerun-if-changed={}", library.display());
    println!("cargo::rustc-link-search=native={}", folder.display());
    // These reach every program of this package: jarvisd, tests, benches, examples.
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/jarvis");
    if let Err(error) = lay_beside_programs(&library) {
        println!(
            "cargo::warning=no link to libvosk.so beside the program ({error}): it will need LD_LIBRARY_PATH"
        );
    }
}

/// `target/PROFILE` holds the program, `deps` and `examples` below it the tests, benches and examples.
fn lay_beside_programs(library: &Path) -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    // OUT_DIR is target/PROFILE/build/jarvisd-HASH/out.
    let Some(profile) = out.ancestors().nth(3) else { return Ok(()) };
    let library = library.canonicalize()?;
    for folder in [profile.to_path_buf(), profile.join("deps"), profile.join("examples")] {
        let link = folder.join("libvosk.so");
        if fs::read_link(&link).ok().as_deref() == Some(&library) {
            continue;
        }
        fs::create_dir_all(&folder)?;
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::os::unix::fs::symlink(&library, &link)?,
        }
    }
    Ok(())
}

fn env_path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}
