//! Further samples at `jarvisd voice enroll`: far away, by a second microphone, loud, in a hurry.

use std::path::{Path, PathBuf};

use super::enroll::{Sample, fault};
use crate::cli::output;
use crate::error::Failure;
use crate::identity::session::Session;
use crate::identity::sound::Recording;
use crate::plain::figure;
use crate::speaker::Style;

#[derive(Debug, clap::Args)]
pub struct FurtherFiles {
    /// A sentence from across the room, kept only if it makes the person measurably better known. Without
    /// other recordings it is added to the enrolled voice. This and the three below can be given several
    /// times.
    #[arg(long, value_name = "WAV")]
    far: Vec<PathBuf>,
    /// A sentence by a second microphone, as above.
    #[arg(long, value_name = "WAV")]
    second_microphone: Vec<PathBuf>,
    /// A loud sentence, as above.
    #[arg(long, value_name = "WAV")]
    loud: Vec<PathBuf>,
    /// A sentence said in a hurry, as above.
    #[arg(long, value_name = "WAV")]
    hurry: Vec<PathBuf>,
}

impl FurtherFiles {
    pub fn all(&self) -> Vec<(Style, &Path)> {
        let Self { far, second_microphone, loud, hurry } = self;
        let of = [
            (Style::Far, far),
            (Style::SecondMicrophone, second_microphone),
            (Style::Loud, loud),
            (Style::Hurry, hurry),
        ];
        of.iter().flat_map(|(style, files)| files.iter().map(|file| (*style, file.as_path()))).collect()
    }
}

/// Offers one recording; the outcome.
pub async fn offer(
    session: &mut Session,
    (style, file): (Style, &Path),
    recording: Recording,
) -> Result<Sample, Failure> {
    let mut sample = Sample::of(file.to_owned(), &recording);
    sample.style = Some(style);
    match session.offer(recording).await {
        Ok(report) => {
            sample.accepted = report.left_out.is_none();
            sample.heard(report.quality);
            sample.confidence_before = Some(report.before);
            sample.confidence_after = Some(report.after);
            sample.left_out = report.left_out;
            sample.reason = report.left_out.map(|why| why.sentence().to_owned());
        }
        Err(refused) => sample.reason = Some(fault(refused)?),
    }
    Ok(sample)
}

/// Tells that further samples can be given. The command begins with `program`.
pub fn tell_how(program: &str, name: &str) -> Result<(), Failure> {
    output::line(
        "Often across the room, at a second microphone, loud or in a hurry? Record a sentence of that as \
         well; it is kept if it helps:",
    )?;
    let name = output::shell_word(&output::plain(name));
    output::line(format!(
        "  {program} voice enroll --user {name} --far WAV --second-microphone WAV --loud WAV --hurry WAV"
    ))
}

/// The recordings that were kept, and the reasons for the others.
pub fn tell(sample: &Sample) -> Result<(), Failure> {
    let file = sample.file.display();
    let manner = sample.style.map_or("", Style::manner);
    let p = |confidence: Option<f32>| figure(confidence.unwrap_or_default(), 2);
    let (before, after) = (p(sample.confidence_before), p(sample.confidence_after));
    match (&sample.reason, sample.left_out) {
        (None, _) => {
            output::line(format!("{file}: kept: {manner} the confidence rises from {before} to {after}"))
        }
        (Some(reason), Some(_)) => output::line(format!(
            "{file}: not kept, as {reason} ({manner} the confidence is {before}, with it {after})"
        )),
        (Some(reason), None) => output::line(format!("{file}: refused: {reason}")),
    }
}
