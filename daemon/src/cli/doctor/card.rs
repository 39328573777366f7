//! The finding of `doctor` on the sound card: whether the kernel has one that records, and whether the card
//! of an overlay in `config.txt` is there.

use std::collections::BTreeSet;

use super::Finding;
use super::board::Files;

const CHECK: &str = "sound card";

/// Overlays of sound cards and the cards that they bring; the names and their sources are in
/// `firmware-config/known.tsv`.
const OVERLAYS: [(&str, &str); 6] = [
    ("googlevoicehat-soundcard", "sndrpigooglevoi"),
    ("wm8960-soundcard", "wm8960soundcard"),
    ("iqaudio-codec", "IQaudIOCODEC"),
    ("rpi-codeczero", "Zero"),
    ("respeaker-2mic-v2_0", "seeed2micvoicec"),
    ("respeaker-2mic-v1_0", "seeed2micvoicec"),
];
/// Folders of `config.txt`, the present one first.
const BOOT: [&str; 2] = ["boot/firmware", "boot"];
/// Files included in files at most: more is a circle.
const DEPTH: usize = 4;

/// A card as the kernel names it.
#[derive(Debug, PartialEq, Eq)]
struct Card {
    name: String,
    records: bool,
}

/// `None` where the kernel has no sound at all and no Raspberry Pi asks for some: a sound server may still
/// give a microphone, which has a line of its own.
pub fn card(files: &Files) -> Option<Finding> {
    let cards = cards(files);
    let overlays = overlays(files);
    let missing = overlays.iter().find_map(|(overlay, file)| {
        let (_, card) = OVERLAYS.iter().find(|(known, _)| known == overlay)?;
        (!cards.iter().any(|there| there.name == *card)).then_some((overlay, card, file))
    });
    if let Some((overlay, card, file)) = missing {
        let fix = "restart the board if the line is new; else `dmesg | grep -i snd` says what the driver \
                   misses: the board on the header, its own overlay file, another version of it \
                   (docs/hardware.md)";
        let message = format!("{file} has the overlay {overlay}, and its card {card} is not there");
        return Some(Finding::warn(CHECK, message, fix));
    }
    if cards.is_empty() {
        let model = files.read("proc/device-tree/model")?;
        let fix = "plug in a USB microphone, or apply the overlay of the board (docs/hardware.md)";
        return Some(Finding::warn(CHECK, format!("{model} has none"), fix));
    }
    let named: Vec<String> = cards
        .iter()
        .map(|card| {
            let overlay = overlays.iter().find(|(overlay, _)| {
                OVERLAYS.iter().any(|(known, brings)| known == overlay && *brings == card.name)
            });
            let records = if card.records { "records" } else { "plays only" };
            match overlay {
                Some((overlay, _)) => format!("{} ({records}, overlay {overlay})", card.name),
                None => format!("{} ({records})", card.name),
            }
        })
        .collect();
    let message = named.join(", ");
    if cards.iter().any(|card| card.records) {
        return Some(Finding::ok(CHECK, message));
    }
    let fix = "plug in a microphone, or apply the overlay of the board (docs/hardware.md)";
    Some(Finding::warn(CHECK, format!("{message}: none of them records"), fix))
}

/// The cards of `/proc/asound/cards`, whose lines begin as ` 0 [sndrpigooglevoi]: …`, and of
/// `/proc/asound/pcm`, as in `00-00: … : … : playback 1 : capture 1`.
fn cards(files: &Files) -> Vec<Card> {
    let streams = files.read("proc/asound/pcm").unwrap_or_default();
    let lines = files.read("proc/asound/cards").unwrap_or_default();
    lines
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.trim().split_once(" [")?;
            let name = rest.split_once(']')?.0.trim().to_owned();
            let of_card = format!("{:02}-", number.trim().parse::<u32>().ok()?);
            let records =
                streams.lines().any(|stream| stream.starts_with(&of_card) && stream.contains("capture"));
            Some(Card { name, records })
        })
        .collect()
}

/// The overlays of `config.txt` and of the files that it includes, each with its file. Sections such as
/// `[pi4]` are not looked at: an overlay for another board is rare, and its card would be missed for a
/// reason.
fn overlays(files: &Files) -> Vec<(String, String)> {
    let Some(folder) = BOOT.iter().find(|folder| files.read(&format!("{folder}/config.txt")).is_some())
    else {
        return Vec::new();
    };
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    add_overlays(files, (folder, "config.txt"), DEPTH, (&mut found, &mut seen));
    found
}

/// Reads each file once: one that includes itself on many lines would take hours otherwise.
fn add_overlays(
    files: &Files,
    (folder, file): (&str, &str),
    depth: usize,
    (found, seen): (&mut Vec<(String, String)>, &mut BTreeSet<String>),
) {
    if !seen.insert(file.to_owned()) {
        return;
    }
    let path = format!("{folder}/{file}");
    for line in files.read(&path).unwrap_or_default().lines().map(str::trim) {
        if let Some(overlay) = line.strip_prefix("dtoverlay=") {
            let name = overlay.split([',', ' ', '#']).next().unwrap_or_default();
            if !name.is_empty() {
                found.push((name.to_owned(), format!("/{path}")));
            }
        } else if let Some(included) = line.strip_prefix("include ").filter(|_| depth > 0) {
            add_overlays(files, (folder, included.trim()), depth - 1, (found, seen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::board::tests::write;
    use super::*;

    const VOICEHAT: (&str, &str) = (
        "proc/asound/cards",
        " 0 [vc4hdmi0       ]: vc4-hdmi - vc4-hdmi-0\n                      vc4-hdmi-0\n 1 \
         [sndrpigooglevoi]: RPi-simple - snd_rpi_googlevoicehat_soundcar\n                      \
         snd_rpi_googlevoicehat_soundcar\n",
    );
    const STREAMS: (&str, &str) = (
        "proc/asound/pcm",
        "00-00: MAI PCM i2s-hifi-0 : MAI PCM i2s-hifi-0 : playback 1\n01-00: Google voiceHAT SoundCard HiFi \
         voicehat-hifi-0 : Google voiceHAT SoundCard HiFi voicehat-hifi-0 : playback 1 : capture 1\n",
    );
    const INCLUDES: (&str, &str) =
        ("boot/firmware/config.txt", "[all]\ndtparam=audio=off\ninclude jarvis.txt\n");
    const OVERLAY: (&str, &str) =
        ("boot/firmware/jarvis.txt", "# a card\ndtoverlay=googlevoicehat-soundcard\n");

    fn found(files: &[(&str, &str)]) -> Option<Finding> {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), files);
        card(&Files::below(root.path()))
    }

    #[test]
    fn the_names_are_those_of_the_list() {
        let known = include_str!("../../../../firmware-config/known.tsv");
        let is_known = |kind: &str, name: &str| {
            known.lines().any(|line| {
                let mut columns = line.split('\t');
                columns.next() == Some(kind) && columns.next() == Some(name)
            })
        };
        for (overlay, card) in OVERLAYS {
            assert!(is_known("overlay", overlay), "{overlay}");
            assert!(is_known("card", card), "{card}");
        }
    }

    #[test]
    fn a_card_and_its_overlay_are_named() {
        let finding = found(&[VOICEHAT, STREAMS, INCLUDES, OVERLAY]).unwrap();
        assert_eq!(finding.state, State::Ok, "{finding:?}");
        assert_eq!(
            finding.message,
            "vc4hdmi0 (plays only), sndrpigooglevoi (records, overlay googlevoicehat-soundcard)"
        );
    }

    #[test]
    fn an_overlay_whose_card_is_missing_is_told_with_its_file() {
        let hdmi = ("proc/asound/cards", " 0 [vc4hdmi0       ]: vc4-hdmi - vc4-hdmi-0\n");
        let finding = found(&[hdmi, INCLUDES, OVERLAY]).unwrap();
        assert_eq!(finding.state, State::Warn);
        assert_eq!(
            finding.message,
            "/boot/firmware/jarvis.txt has the overlay googlevoicehat-soundcard, and its card \
             sndrpigooglevoi is not there"
        );
        // A file that includes itself comes to an end.
        let text = format!("{}dtoverlay=wm8960-soundcard,x=y\n", "include config.txt\n".repeat(500));
        let circle = ("boot/firmware/config.txt", text.as_str());
        assert!(found(&[circle]).unwrap().message.contains("overlay wm8960-soundcard, and"));
    }

    #[test]
    fn no_microphone_and_no_card_are_told() {
        let hdmi = ("proc/asound/cards", " 0 [vc4hdmi0       ]: vc4-hdmi - vc4-hdmi-0\n");
        let streams = ("proc/asound/pcm", "00-00: MAI PCM : MAI PCM : playback 1\n");
        assert!(found(&[hdmi, streams]).unwrap().message.ends_with("none of them records"));
        let none = ("proc/asound/cards", "--- no soundcards ---\n");
        let model = ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0");
        assert_eq!(found(&[none, model]).unwrap().message, "Raspberry Pi 5 Model B Rev 1.0 has none");
        assert!(found(&[none]).is_none(), "a PC with a sound server");
    }
}
