//! The layers of the program, as a test: a module may use those of its own layer and of the layers below. No
//! two modules use each other, also not by a detour.
//!
//! ```text
//!  faces              app  cli  daemon  mqtt  panel
//!  device             backup  control  dialogue  events  identity  pipeline
//!  memory             memory  store
//!  sound and models   audio  detect  dsp  inference  speaker  speed  stt
//!  ground             board  clock  config  durable  error  health  logging  notify  plain  privilege
//!                     supervisor  text  units
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From below to above.
const LAYERS: [&[&str]; 5] = [
    &[
        "board",
        "clock",
        "config",
        "durable",
        "error",
        "health",
        "logging",
        "notify",
        "plain",
        "privilege",
        "supervisor",
        "text",
        "units",
    ],
    &["audio", "detect", "dsp", "inference", "speaker", "speed", "stt"],
    &["memory", "store"],
    &["backup", "control", "dialogue", "events", "identity", "pipeline"],
    &["app", "cli", "daemon", "mqtt", "panel"],
];
/// The modules for tests, and the two that start everything.
const OUTSIDE: [&str; 5] = ["fuzzing", "layers", "lib", "main", "testdata"];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Every source file of the product below `folder`: files compiled only for tests are left out.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if name == "tests" || name.ends_with("_tests") || ["fuzz", "testing", "measure"].contains(&name) {
            continue;
        }
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a text names behind `crate::`, comments and its unit tests left out.
fn used_by(text: &str) -> BTreeSet<String> {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = product.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code = lines.collect::<Vec<_>>().join(" ");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let named = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(','),
            None => rest.split(|c| !is_name(c)).next().unwrap_or_default().split(','),
        };
        let first = |name: &str| name.trim().split(|c| !is_name(c)).next().unwrap_or_default().to_owned();
        used.extend(named.map(first).filter(|name| layer_of(name).is_some()));
    }
    used
}

/// Which module uses which, each with a file that does.
fn uses() -> BTreeMap<String, BTreeMap<String, PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut uses: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if OUTSIDE.contains(&module.as_str()) {
            continue;
        }
        let used = used_by(&fs::read_to_string(&file).unwrap());
        let of = uses.entry(module.clone()).or_default();
        of.extend(used.into_iter().filter(|other| *other != module).map(|other| (other, relative.into())));
    }
    uses
}

#[test]
fn every_module_has_a_layer_and_uses_nothing_above_it() {
    let uses = uses();
    assert_eq!(uses.len(), LAYERS.concat().len(), "a module is missing or new: {:?}", uses.keys());
    for (module, others) in &uses {
        let layer = layer_of(module).unwrap_or_else(|| panic!("{module} has no layer"));
        for (other, file) in others {
            assert!(
                layer_of(other).unwrap() <= layer,
                "{module} uses {other} above it, in {}",
                file.display()
            );
        }
    }
}

#[test]
fn no_two_modules_use_each_other() {
    let mut uses = uses();
    // Modules that use no remaining module are taken away; a circle stays.
    while let Some(done) = uses
        .iter()
        .find(|(_, others)| others.keys().all(|other| !uses.contains_key(other)))
        .map(|(m, _)| m.clone())
    {
        uses.remove(&done);
    }
    assert!(uses.is_empty(), "a circle is among {uses:#?}");
}

#[test]
fn what_a_text_uses_is_found_however_it_is_written() {
    let text = "use crate::audio::{Channel, Read};\nuse crate::{dsp, stt::Engine};\n// crate::mqtt::x\n\
                fn f() { crate::text::tidy() }\n#[cfg(test)]\nmod tests {\n    use crate::cli::main;\n}\n";
    let used = used_by(text);
    assert_eq!(used.iter().map(String::as_str).collect::<Vec<_>>(), ["audio", "dsp", "stt", "text"]);
}
