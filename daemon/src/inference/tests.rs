//! The store refuses wrong files and names the remedy; the models equal their reference vectors.

use std::path::{Path, PathBuf};

use super::*;
use crate::testdata::shared;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")
}

fn store() -> ModelStore {
    ModelStore::open(&[models()]).unwrap()
}

/// A folder with the manifest and the VAD model in it.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("silero_vad_16k.onnx");
    std::fs::copy(models().join(MANIFEST), dir.path().join(MANIFEST)).unwrap();
    std::fs::copy(models().join("silero_vad_16k.onnx"), &file).unwrap();
    (dir, file)
}

fn vad_facts() -> [(usize, InputFact); 2] {
    [(0, InputFact::f32(&[1, 576])), (1, InputFact::f32(&[2, 1, 128]))]
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn a_missing_file_is_named_with_the_command_that_obtains_it() {
    let (dir, file) = copy();
    let store = ModelStore::open(&[dir.path().join("nowhere"), dir.path().into()]).unwrap();
    let said = store.file("hey-jarvis").unwrap_err().to_string();
    assert!(said.contains("hey_jarvis_v0.1.onnx") && said.contains("scripts/fetch-models.sh"), "{said}");
    std::fs::remove_file(file).unwrap();
    let said = store.load("silero-vad", &vad_facts()).unwrap_err().to_string();
    assert!(said.contains("git checkout -- models/silero_vad_16k.onnx"), "{said}");
}

#[test]
fn one_changed_byte_is_refused_with_both_hashes() {
    let (dir, file) = copy();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let store = ModelStore::open(&[dir.path().into()]).unwrap();
    for error in [store.file("silero-vad").unwrap_err(), store.load("silero-vad", &vad_facts()).unwrap_err()]
    {
        let ModelError::Damaged { expected, found, .. } = &error else { panic!("{error}") };
        let said = error.to_string();
        assert!(expected != found && said.contains(expected) && said.contains(found), "{said}");
        assert!(said.contains("silero_vad_16k.onnx") && said.contains("reinstall"), "{said}");
    }
    let status = store.status();
    assert!(matches!(status[0].state, ModelState::Damaged { .. }) && !status[0].fix.is_empty());
}

#[test]
fn the_first_folder_that_holds_the_file_is_used() {
    let (dir, file) = copy();
    let store = ModelStore::open(&[dir.path().into(), models()]).unwrap();
    assert_eq!(store.file("silero_vad").unwrap(), file);
    assert!(store.file("oww-embedding").unwrap().starts_with(models()));
    assert!(store.status().iter().filter(|s| s.entry.committed).all(|s| s.state == ModelState::Verified));
}

#[test]
fn a_folder_without_a_manifest_and_an_unknown_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(ModelStore::open(&[dir.path().into()]), Err(ModelError::NoManifest { .. })));
    let said = store().file("hey-computer").unwrap_err().to_string();
    assert!(said.contains("hey-computer") && said.contains("silero-vad"), "{said}");
}

#[test]
fn a_model_of_another_shape_is_refused() {
    let store = store();
    let error = store.load("oww-embedding", &[(0, InputFact::f32(&[1, 16, 96]))]).unwrap_err();
    assert!(matches!(error, ModelError::Shape { .. } | ModelError::Parse { .. }), "{error}");
    let error = store.load("silero-vad", &[(5, InputFact::f32(&[1]))]).unwrap_err();
    assert!(matches!(error, ModelError::Shape { .. }), "{error}");
    let plan = store.load("silero-vad", &vad_facts()).unwrap();
    assert!(plan.expect_shapes(&[&[1, 576], &[2, 1, 128]], &[&[1, 1], &[2, 1, 128]]).is_ok());
    let said = plan.expect_shapes(&[&[1, 16, 96]], &[&[1, 1]]).unwrap_err().to_string();
    assert!(said.contains("wrong shape") && said.contains("[1, 16, 96]"), "{said}");
    let error = plan.session().unwrap().run(&[Input::F32(&[0.0; 3]), Input::F32(&[0.0; 256])]).unwrap_err();
    assert!(matches!(error, ModelError::InputSize { expected: 576, found: 3, .. }), "{error}");
}

#[test]
fn a_damaged_or_foreign_file_given_by_path_is_an_error_and_never_a_panic() {
    let store = store();
    let good = std::fs::read(models().join("silero_vad_16k.onnx")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("head.onnx");
    let mut refused = 0;
    let mut try_bytes = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        refused += usize::from(store.load_path(&path, &vad_facts()).is_err());
    };
    for bytes in [&[][..], b"not a model", &[0xff; 4096], &good[..good.len() / 2], &good[..100]] {
        try_bytes(bytes);
    }
    assert_eq!(refused, 5);
    // The graph's wiring stands in the last part of the file: damage it in many places.
    let mut seed = 1_u64;
    let mut tries = 0;
    let mut refused = 0;
    for _ in 0..60 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut bytes = good.clone();
        for byte in 0..8 {
            let at = usize::try_from((seed >> 20).wrapping_mul(byte + 7) % 6_000).unwrap();
            let at = if byte % 2 == 0 { at } else { bytes.len() - 1 - at };
            bytes[at] = bytes[at].wrapping_add(u8::try_from(seed >> 56).unwrap() | 1);
        }
        std::fs::write(&path, &bytes).unwrap();
        tries += 1;
        refused += usize::from(store.load_path(&path, &vad_facts()).is_err());
    }
    assert!(refused > tries / 2, "{refused} of {tries} refused");
    assert!(matches!(store.load_path(Path::new("/nowhere.onnx"), &[]), Err(ModelError::Read { .. })));
}

#[test]
fn a_buffer_goes_from_one_run_into_the_next_without_a_copy() {
    let mut session = store().load("silero-vad", &vad_facts()).unwrap().session().unwrap();
    let sound = vec![0.01; 576];
    let mut state = Buffer::zeros(&[2, 1, 128]);
    let mut slow = vec![0.0; 256];
    for _ in 0..3 {
        let fast = session.run(&[Input::F32(&sound), Input::Buffer(&state)]).unwrap();
        state = fast.buffer(1).unwrap();
        let copied = session.run(&[Input::F32(&sound), Input::F32(&slow)]).unwrap();
        slow = copied.f32(1).unwrap().to_vec();
        assert_eq!(state.as_slice(), slow);
    }
    let kept = state.clone();
    state.as_mut_slice()[0] = 9.0;
    assert!(state.as_slice()[0] == 9.0 && kept.as_slice()[0] != 9.0, "a shared tensor is copied first");
    assert_eq!(session.runs(), 6);
}

#[test]
fn a_value_that_is_not_a_number_is_refused() {
    let mut session = store().load("silero-vad", &vad_facts()).unwrap().session().unwrap();
    let outputs = session.run(&[Input::F32(&[0.0; 576]), Input::F32(&[f32::NAN; 256])]).unwrap();
    assert!(matches!(outputs.f32(1), Err(ModelError::NotFinite { .. })));
}

/// Runs every reference vector of `reference` through model `name` and returns the largest absolute error of
/// output 0.
fn compare(store: &ModelStore, name: &str, reference: &str, input: &str, output: &str) -> f32 {
    let mut worst = 0.0_f32;
    for n in 0.. {
        let Some(folder) = shared("models/ref") else { break };
        let file = folder.join(format!("{reference}.{n}.in.{input}.npy"));
        if !file.exists() {
            assert!(n > 0, "{} is missing", file.display());
            break;
        }
        let (shape, values) = npy::read(&file);
        let (_, want) = npy::read(&folder.join(format!("{reference}.{n}.out.{output}.npy")));
        let plan = store.load(name, &[(0, InputFact::f32(&shape))]).unwrap();
        let outputs = plan.session().unwrap().run(&[Input::F32(&values)]).unwrap();
        let got = outputs.f32(0).unwrap();
        assert!(
            got.len() == 1 || cosine(got, &want) > 0.999_999,
            "{name} {n}: cosine {}",
            cosine(got, &want)
        );
        worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(worst, f32::max);
    }
    worst
}

#[test]
fn the_mel_spectrogram_equals_its_reference_vectors() {
    let worst = compare(&store(), "oww-melspectrogram", "oww_melspectrogram", "input", "output");
    assert!(worst < 1e-3, "{worst}");
}

#[test]
fn the_speaker_model_equals_its_reference_vectors() {
    let worst = compare(&store(), "campplus", "campplus_dynT_f16w", "feats", "embedding");
    assert!(worst < 1e-3, "{worst}");
}

#[test]
fn the_vad_equals_its_reference_vectors() {
    let Some(folder) = shared("models/ref") else { return };
    let mut session = store().load("silero-vad", &vad_facts()).unwrap().session().unwrap();
    for n in 0..2 {
        let get = |part: &str| npy::read(&folder.join(format!("silero_vad_16k_state.{n}.{part}.npy"))).1;
        let out = session.run(&[Input::F32(&get("in.input")), Input::F32(&get("in.state"))]).unwrap();
        for (index, part) in [(0, "out.output"), (1, "out.stateN")] {
            let worst =
                out.f32(index).unwrap().iter().zip(get(part)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{part} {n}: {worst}");
        }
    }
}
