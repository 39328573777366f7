//! `jarvisd voice recordings`: the recordings of an enrolment that were kept on request.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Deleted, Tools};
use crate::app::Settings;
use crate::cli::{confirmed, output, user_named, with_memory};
use crate::durable;
use crate::error::{Exit, Failure};
use crate::identity::recordings::Recordings;
use crate::memory::{Memory, NewAudit};
use crate::privilege;
use crate::units::SAMPLE_RATE_HZ;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the people of whom recordings are kept (`jarvisd voice enroll --keep-recordings`).
    List(output::Json),
    /// Write a person's recordings as WAV files, which are not encrypted, into a folder.
    Export(Export),
    /// Delete a person's recordings; the enrolled voice stays.
    Delete(super::Delete),
}

#[derive(Debug, clap::Args)]
pub struct Export {
    /// Person whose recordings these are.
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Folder that the files go to; made if it is not there. No file is overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Kept {
    user: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Exported<'a> {
    user: &'a str,
    files: Vec<PathBuf>,
}

pub fn run(settings: &Settings, command: Command) -> Result<(), Failure> {
    let recordings = Recordings::of(&settings.paths.data);
    with_memory(settings, async |memory| {
        recordings.prune(memory).await?;
        match command {
            Command::List(args) => list(memory, &recordings, args.json).await,
            Command::Export(args) => export(settings, memory, &args).await,
            Command::Delete(args) => delete(memory, &recordings, &args).await,
        }
    })
}

async fn list(memory: &Memory, recordings: &Recordings, json: bool) -> Result<(), Failure> {
    let voices = memory.list_voiceprints().await?.into_iter().map(|voice| voice.info);
    let kept: Vec<Kept> = voices
        .filter_map(|voice| Some(Kept { bytes: recordings.bytes(voice.user_id)?, user: voice.user_name }))
        .collect();
    if json {
        return output::json(&kept);
    }
    if kept.is_empty() {
        return output::line("No recordings are kept; `jarvisd voice enroll --keep-recordings` keeps them.");
    }
    let rows: Vec<[String; 2]> = kept
        .into_iter()
        .map(|kept| [kept.user, format!("about {} s", kept.bytes / 2 / u64::from(SAMPLE_RATE_HZ))])
        .collect();
    output::table(["NAME", "RECORDINGS"], &rows)
}

async fn export(settings: &Settings, memory: &Memory, args: &Export) -> Result<(), Failure> {
    let user = user_named(memory, &args.user).await?;
    let none = || {
        let name = output::plain(&user.name);
        Failure::new(Exit::Failed, format!("no recordings of {name} are kept"))
    };
    let voice = memory.voiceprint(user.id).await?.ok_or_else(none)?;
    let Tools { voices, .. } = Tools::open(settings, memory).await?;
    let sentences = voices.recordings.read(&voices.vault, &voice)?.ok_or_else(none)?;
    let cannot = |e: io::Error| {
        let message =
            format!("the recordings could not be written to {}; name an empty folder", args.out.display());
        Failure::because(Exit::Failed, message, e)
    };
    if !args.out.is_dir() {
        let made = DirBuilder::new().mode(0o700).create(&args.out);
        made.and_then(|()| privilege::hand_over(&File::open(&args.out)?)).map_err(cannot)?;
    }
    // Before the first byte leaves the device.
    let entry = NewAudit { user: Some(user.id), action: "recordings", outcome: "exported", detail: None };
    memory.append_audit(&entry).await?;
    let mut files = Vec::new();
    for (n, sentence) in sentences.iter().enumerate() {
        let path = args.out.join(format!("{}.wav", n + 1));
        write_wav(&path, sentence).map_err(cannot)?;
        files.push(path);
    }
    durable::sync_folder(&args.out).and_then(|()| durable::sync_name(&args.out)).map_err(cannot)?;
    if args.json {
        return output::json(&Exported { user: &user.name, files });
    }
    output::line(format!(
        "Wrote {} recordings of {} to {}; they are not encrypted there.",
        files.len(),
        output::plain(&user.name),
        args.out.display()
    ))
}

async fn delete(memory: &Memory, recordings: &Recordings, args: &super::Delete) -> Result<(), Failure> {
    let user = user_named(memory, &args.user).await?;
    let name = output::plain(&user.name);
    if recordings.bytes(user.id).is_none() {
        return Err(Failure::new(Exit::Failed, format!("no recordings of {name} are kept")));
    }
    if !confirmed(&format!("Delete the recordings of {name} for good?"), args.yes)? {
        return output::line("Nothing was deleted.");
    }
    recordings.delete(user.id).await?;
    let entry = NewAudit { user: Some(user.id), action: "recordings", outcome: "deleted", detail: None };
    memory.append_audit(&entry).await?;
    if args.json {
        return output::json(&Deleted { deleted: &user.name });
    }
    output::line(format!("Deleted the recordings of {name}."))
}

/// 16-bit PCM, as RIFF WAVE (Microsoft, Multimedia Programming Interface 1.0) has it.
fn write_wav(path: &Path, samples: &[i16]) -> io::Result<()> {
    let bytes = u32::try_from(2 * samples.len()).map_err(io::Error::other)?;
    let mut wav = Vec::with_capacity(44 + 2 * samples.len());
    wav.extend(b"RIFF");
    wav.extend(bytes.saturating_add(36).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(SAMPLE_RATE_HZ.to_le_bytes());
    wav.extend((2 * SAMPLE_RATE_HZ).to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend(bytes.to_le_bytes());
    samples.iter().for_each(|sample| wav.extend(sample.to_le_bytes()));
    let mut file = durable::create_file(path)?;
    privilege::hand_over(&file)?;
    file.write_all(&wav)?;
    file.sync_all()
}
