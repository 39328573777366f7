//! Finds and checks the folders that are Vosk models, because the library ends the whole process on some
//! faults.
//!
//! A Kaldi object or graph that is cut short, empty or of another kind makes `libvosk` throw, assert or read
//! wild; only the first of these comes back as an error. So the folder is checked first: all required files,
//! each with the first bytes of its kind.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::SttError;

/// A folder with all required parts of a Vosk model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoskModelDir {
    pub path: PathBuf,
    /// The feature configuration that lacks `--dither=0`: results then depend on earlier sound.
    pub dithered: Option<PathBuf>,
}

/// The folders called `vosk*` in `dirs` that look like models, in the order of `dirs`, then by name.
pub fn installed(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in dirs {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let mut here: Vec<PathBuf> = entries
            .filter(|e| e.file_name().to_string_lossy().starts_with("vosk"))
            .map(|e| e.path())
            .filter(|path| path.is_dir())
            .collect();
        here.sort();
        found.extend(here);
    }
    found
}

/// The kind of a file, by its first bytes.
#[derive(Clone, Copy)]
enum Kind {
    /// Kaldi binary: `\0B`.
    Kaldi,
    /// OpenFst binary: the number 2125659606, little endian.
    Fst,
    Text,
}

const FST_MAGIC: [u8; 4] = 2_125_659_606_u32.to_le_bytes();
/// No configuration and no list of integers is larger.
const MOST_TEXT_BYTES: u64 = 64 << 20;

impl VoskModelDir {
    /// Checks `path`.
    pub fn check(path: &Path) -> Result<Self, SttError> {
        let dithered =
            Self::faults(path).map_err(|fault| SttError::VoskModel { path: path.to_path_buf(), fault })?;
        Ok(Self { path: path.to_path_buf(), dithered })
    }

    /// The layouts, after `Model::Model` of the Vosk library: `am/ conf/ graph/`, or everything in one
    /// folder.
    fn faults(path: &Path) -> Result<Option<PathBuf>, String> {
        if !path.is_dir() {
            return Err("there is no such folder".into());
        }
        if path.to_str().is_none() {
            return Err("its name is not UTF-8".into());
        }
        let new_layout = path.join("am").is_dir() || path.join("conf").is_dir();
        let (am, conf, graph) = if new_layout { ("am/", "conf/", "graph/") } else { ("", "", "") };
        let file = |folder: &str, name: &str| path.join(format!("{folder}{name}"));
        require(&file(am, "final.mdl"), Kind::Kaldi)?;
        let mfcc = file(conf, "mfcc.conf");
        require(&mfcc, Kind::Text)?;
        if new_layout {
            optional(&file(conf, "model.conf"), Kind::Text)?;
        }
        if file(graph, "HCLG.fst").exists() {
            require(&file(graph, "HCLG.fst"), Kind::Fst)?;
            // The words of a single graph stand beside it; the pair below carries them itself.
            require(&file(graph, "words.txt"), Kind::Text)?;
        } else {
            require(&file(graph, "HCLr.fst"), Kind::Fst)?;
            require(&file(graph, "Gr.fst"), Kind::Fst)?;
            require(&file(graph, "disambig_tid.int"), Kind::Text)?;
        }
        let phones =
            if new_layout { file(graph, "phones/word_boundary.int") } else { file("", "word_boundary.int") };
        optional(&phones, Kind::Text)?;
        let ivector = |name: &str| path.join("ivector").join(name);
        if path.join("ivector").is_dir() {
            for name in ["final.ie", "final.dubm"] {
                require(&ivector(name), Kind::Kaldi)?;
            }
            for name in ["final.mat", "global_cmvn.stats", "online_cmvn.conf", "splice.conf"] {
                require(&ivector(name), Kind::Text)?;
            }
        }
        Ok((!has_no_dither(&mfcc)?).then_some(mfcc))
    }
}

fn has_no_dither(mfcc: &Path) -> Result<bool, String> {
    let text =
        std::fs::read_to_string(mfcc).map_err(|e| format!("{} cannot be read ({e})", mfcc.display()))?;
    // The last setting counts, as in Kaldi; a comment starts with '#'.
    let mut settings = text.lines().filter_map(|l| {
        let l = l.split('#').next().unwrap_or_default().trim();
        l.strip_prefix("--dither=")?.trim().parse::<f32>().ok()
    });
    Ok(settings.next_back() == Some(0.0))
}

fn optional(path: &Path, kind: Kind) -> Result<(), String> {
    if path.exists() { require(path, kind) } else { Ok(()) }
}

fn require(path: &Path, kind: Kind) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(format!("{name} is missing")),
        Err(e) => return Err(format!("{name} cannot be read ({e})")),
    };
    let meta = file.metadata().map_err(|e| format!("{name} cannot be read ({e})"))?;
    if !meta.is_file() {
        return Err(format!("{name} is not a file"));
    }
    if meta.len() == 0 {
        return Err(format!("{name} is empty"));
    }
    let mut head = [0; 4];
    let (what, right) = match kind {
        Kind::Text if meta.len() > MOST_TEXT_BYTES => ("a short file", false),
        Kind::Text => ("", true),
        Kind::Kaldi => ("a Kaldi binary", file.read_exact(&mut head).is_ok() && head.starts_with(b"\0B")),
        Kind::Fst => ("an OpenFst graph", file.read_exact(&mut head).is_ok() && head == FST_MAGIC),
    };
    if right { Ok(()) } else { Err(format!("{name} is not {what}")) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder that passes the check, though no decoder could use it.
    fn plausible(dir: &Path) {
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("am/final.mdl", b"\0B<TransitionModel> ");
        put("conf/mfcc.conf", b"--sample-frequency=16000\n--dither=0\n");
        put("graph/HCLr.fst", &[&FST_MAGIC[..], b"rest"].concat());
        put("graph/Gr.fst", &[&FST_MAGIC[..], b"rest"].concat());
        put("graph/disambig_tid.int", b"1\n");
    }

    #[test]
    fn a_complete_folder_passes_in_both_layouts() {
        let dir = tempfile::tempdir().unwrap();
        plausible(dir.path());
        assert_eq!(VoskModelDir::check(dir.path()).unwrap().dithered, None);

        let flat = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("final.mdl", &b"\0B<x>"[..]), ("mfcc.conf", b"--dither=0"), ("words.txt", b"a 1")]
        {
            fs::write(flat.path().join(name), bytes).unwrap();
        }
        fs::write(flat.path().join("HCLG.fst"), [&FST_MAGIC[..], b"rest"].concat()).unwrap();
        assert!(VoskModelDir::check(flat.path()).is_ok());
    }

    #[test]
    fn every_damage_to_every_file_is_refused_with_the_file_named() {
        for file in
            ["am/final.mdl", "conf/mfcc.conf", "graph/HCLr.fst", "graph/Gr.fst", "graph/disambig_tid.int"]
        {
            for damage in ["missing", "empty", "a folder", "another kind"] {
                let dir = tempfile::tempdir().unwrap();
                plausible(dir.path());
                let path = dir.path().join(file);
                fs::remove_file(&path).unwrap();
                match damage {
                    "empty" => fs::write(&path, b"").unwrap(),
                    "a folder" => fs::create_dir(&path).unwrap(),
                    "another kind" if file.ends_with("conf") || file.ends_with("int") => continue,
                    "another kind" => fs::write(&path, b"<html>404</html>").unwrap(),
                    _ => {}
                }
                let error = VoskModelDir::check(dir.path()).expect_err(&format!("{file} {damage}"));
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(error.to_string().contains(name), "{file} {damage}: {error}");
            }
        }
    }

    #[test]
    fn what_is_no_model_at_all_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(VoskModelDir::check(dir.path()).is_err());
        assert!(VoskModelDir::check(&dir.path().join("absent")).is_err());
        assert!(VoskModelDir::check(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn noise_in_the_features_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        plausible(dir.path());
        let conf = dir.path().join("conf/mfcc.conf");
        for (text, quiet) in [
            ("--num-ceps=40\n", false),
            ("--dither=1.0\n", false),
            ("# --dither=0\n", false),
            ("--dither=0\n--dither=1\n", false),
            ("--dither=0", true),
            ("--dither=0.0 # reproducible\n", true),
        ] {
            fs::write(&conf, text).unwrap();
            assert_eq!(VoskModelDir::check(dir.path()).unwrap().dithered.is_none(), quiet, "{text:?}");
        }
    }

    #[test]
    fn models_are_found_by_the_name_of_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["vosk-model-b", "vosk-model-a", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("vosk.txt"), b"").unwrap();
        let dirs = [dir.path().join("absent"), dir.path().to_path_buf()];
        let names: Vec<_> = installed(&dirs).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["vosk-model-a", "vosk-model-b"]);
    }
}
