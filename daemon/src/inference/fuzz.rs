//! Any bytes as a manifest of models.

use std::path::Path;

use super::Manifest;
use crate::fuzzing::sure;

pub fn models(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let manifest = match Manifest::parse(crate::plain::without_mark(&text), Path::new("manifest.toml")) {
        Ok(manifest) => manifest,
        Err(error) => {
            let _ = crate::error::chain(&error);
            return false;
        }
    };
    for entry in &manifest.models {
        assert_eq!(manifest.get(&entry.name), Some(entry), "a model has a name of its own");
        let outside = |part: std::path::Component<'_>| !matches!(part, std::path::Component::Normal(_));
        assert!(!Path::new(&entry.file).components().any(outside), "{}", entry.file);
        let _ = entry.fix(Some(Path::new("/models")));
    }
    let written = sure(toml::to_string(&manifest), "a manifest is TOML");
    assert_eq!(sure(Manifest::parse(&written, Path::new("m")), &written), manifest);
    !manifest.models.is_empty()
}
