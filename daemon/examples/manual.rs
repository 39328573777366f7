//! The manual pages and the completions of the shells, made from the definition of the command line.
//!
//! `cargo run --example manual -- FOLDER` writes `man1/`, `bash/`, `zsh/` and `fish/` below the folder. An
//! example, so that the program on the device carries none of it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::Shell;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: manual FOLDER")?);
    let pages = made(&folder, "man1")?;
    clap_mangen::generate_to(jarvisd::cli::definition(), &pages)?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let into = made(&folder, name)?;
        clap_complete::generate_to(shell, &mut jarvisd::cli::definition(), "jarvisd", &into)?;
    }
    Ok(())
}

fn made(folder: &Path, name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let path = folder.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}
