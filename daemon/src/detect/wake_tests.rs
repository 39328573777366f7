//! The chain in pieces: streaming equals batch, the parts equal their references.

use super::section::WakeModel;
use super::wake::{WakeChain, WakeWord};
use crate::audio::Channel;
use crate::audio::file::read_all;
use crate::inference::{Buffer, Input, InputFact, ModelError, ModelStore, npy};
use crate::testdata::{models, shared};

fn speech() -> Option<Vec<f32>> {
    let file = shared("audio/rhasspy3/turn_on_the_lamp.flac")?;
    Some(read_all(&file, Channel::Mean, 10).unwrap().0.iter().map(|x| x * 32_768.0).collect())
}

fn mel(store: &ModelStore, samples: &[f32]) -> Vec<f32> {
    let plan = store.load("oww-melspectrogram", &[(0, InputFact::f32(&[1, samples.len()]))]).unwrap();
    plan.session().unwrap().run(&[Input::F32(samples)]).unwrap().f32(0).unwrap().to_vec()
}

#[test]
fn the_streaming_mel_spectrogram_equals_the_batch_one() {
    let Some(samples) = speech() else { return };
    let store = models();
    let samples = &samples[..480 + 50 * 320];
    let batch = mel(&store, samples);
    let mut streamed = Vec::new();
    for step in 0..50 {
        streamed.extend(mel(&store, &samples[step * 320..step * 320 + 800]));
    }
    assert_eq!(batch.len(), streamed.len());
    // A value 80 dB below the loudest of its own run is raised to that level, so only values above it are
    // compared.
    let floor = batch.iter().fold(f32::MIN, |m, x| m.max(*x)) - 80.0;
    let worst =
        batch.iter().zip(&streamed).map(|(a, b)| (a.max(floor) - b.max(floor)).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{worst} dB");
}

#[test]
fn the_streaming_embedding_equals_the_reference_of_the_batch_one() {
    let Some(folder) = shared("models/ref") else { return };
    let plan = models().load("oww-embedding", &[]).unwrap();
    for n in 0..2 {
        let (shape, window) = npy::read(&folder.join(format!("oww_embedding.{n}.in.input_1.npy")));
        let (_, want) = npy::read(&folder.join(format!("oww_embedding.{n}.out.conv2d_19.npy")));
        assert_eq!(shape, [1, 76, 32, 1]);
        let mut session = plan.session().unwrap();
        let mut past: Vec<Buffer> = plan.inputs()[1..].iter().map(|i| Buffer::zeros(&i.shape)).collect();
        // A window begins in the middle of a step.
        let stream = [vec![0.0; 4 * 32], window].concat();
        let mut got = Vec::new();
        for step in stream.chunks(8 * 32) {
            let mut inputs = vec![Input::F32(step)];
            inputs.extend(past.iter().map(Input::Buffer));
            let outputs = session.run(&inputs).unwrap();
            got = outputs.f32(0).unwrap().to_vec();
            past = (1..=past.len()).map(|i| outputs.buffer(i).unwrap()).collect();
        }
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3 && got.len() == 96, "vector {n}: {worst}");
    }
}

#[test]
fn the_head_equals_its_reference_vectors() {
    let Some(folder) = shared("models/ref") else { return };
    let plan = match models().load("hey-jarvis", &[(0, InputFact::f32(&[1, 16, 96]))]) {
        Ok(plan) => plan,
        Err(ModelError::Missing { .. }) => {
            return crate::testdata::skipped("the wake-word head is not on this machine");
        }
        Err(e) => panic!("{e}"),
    };
    for n in 0..3 {
        let (_, input) = npy::read(&folder.join(format!("oww_hey_jarvis_v0.1.{n}.in.x_1.npy")));
        let (_, want) = npy::read(&folder.join(format!("oww_hey_jarvis_v0.1.{n}.out.53.npy")));
        let outputs = plan.session().unwrap().run(&[Input::F32(&input)]).unwrap();
        assert!((outputs.f32(0).unwrap()[0] - want[0]).abs() < 1e-4, "vector {n}");
    }
}

#[test]
fn two_heads_share_one_front_part_and_a_reset_chain_repeats_itself() {
    let Some(samples) = speech() else { return };
    let word = |threshold| WakeWord { model: WakeModel::Named("hey-jarvis".into()), threshold };
    let mut chain = match WakeChain::new(&models(), &[word(0.5), word(0.7)], 2) {
        Ok(chain) => chain,
        Err(ModelError::Missing { .. }) => {
            return crate::testdata::skipped("the wake-word head is not on this machine");
        }
        Err(e) => panic!("{e}"),
    };
    let mut listen = || {
        chain.reset();
        let before = chain.runs();
        let mut scores = Vec::new();
        for frame in samples.as_chunks().0.iter().take(100) {
            let frame: [f32; 160] = std::array::from_fn(|n| {
                let f: &[f32; 160] = frame;
                f[n] / 32_768.0
            });
            if let Some(now) = chain.push(&frame).unwrap() {
                scores.push(now.to_vec());
            }
        }
        (scores, chain.runs() - before)
    };
    let (first, runs) = listen();
    assert_eq!(runs, 25, "one embedding for both heads every 40 ms");
    assert!(first.iter().all(|s| s.len() == 2 && s[0] == s[1] && s[0].is_finite()));
    assert_eq!(first, listen().0);
}
