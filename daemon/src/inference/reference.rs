//! Recorded results of the networks: whether this processor computes them as another program did.
//!
//! A file with the right hash says nothing about the matrix kernels, which tract chooses by the processor.
//! `models/reference.json` names inputs that are made here, and what onnxruntime computes for them;
//! `models/export/reference_results.py` writes it.

use serde::Deserialize;

use super::{ElementType, Input, InputFact, ModelError, ModelStore};

/// Name of the file in the manifest.
const NAME: &str = "reference-results";
/// The largest difference that another order of summation explains, as a part of the largest result.
pub const TOLERANCE: f32 = 1e-3;

/// The recorded result of one network.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// The name in the manifest.
    pub model: String,
    inputs: Vec<RecordedInput>,
    /// The output that was recorded, and every how many of its numbers.
    output: usize,
    every: usize,
    results: Vec<f32>,
}

/// An input that is made, not stored.
#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum RecordedInput {
    /// Numbers from -`scale` to `scale`, in row-major order of the shape.
    Noise { shape: Vec<usize>, scale: f32, seed: u32 },
    /// One integer, `i64 [1, 1]`.
    Position { position: i64 },
}

/// Numbers of an input, as the network takes them.
enum Values {
    F32(Vec<f32>),
    I64([i64; 1]),
}

/// The recorded results of all networks, those that are not on this device included.
pub fn recorded(store: &ModelStore) -> Result<Vec<Recorded>, ModelError> {
    let path = store.file(NAME)?;
    let bytes = store.read(NAME)?;
    serde_json::from_slice(&bytes).map_err(|source| ModelError::Parse { path, source: source.into() })
}

impl Recorded {
    /// Runs the network through tract and compares.
    ///
    /// # Errors
    /// The network cannot be loaded or run.
    pub fn run(&self, store: &ModelStore) -> Result<f32, ModelError> {
        let facts: Vec<(usize, InputFact)> =
            self.inputs.iter().map(RecordedInput::fact).enumerate().collect();
        let values: Vec<Values> = self.inputs.iter().map(RecordedInput::values).collect();
        let inputs: Vec<Input<'_>> = values
            .iter()
            .map(|values| match values {
                Values::F32(values) => Input::F32(values),
                Values::I64(values) => Input::I64(values),
            })
            .collect();
        let outputs = store.load(&self.model, &facts)?.session()?.run(&inputs)?;
        Ok(self.difference(outputs.f32(self.output)?))
    }

    /// The numbers of the first input, for a network that this program runs by itself.
    pub fn first_input(&self) -> Vec<f32> {
        match self.inputs.first().map(RecordedInput::values) {
            Some(Values::F32(values)) => values,
            Some(Values::I64(_)) | None => Vec::new(),
        }
    }

    /// The largest difference between the recorded output and this one, as a part of the largest recorded
    /// number; infinite for another count of numbers.
    pub fn difference(&self, output: &[f32]) -> f32 {
        let found: Vec<f32> = output.iter().copied().step_by(self.every.max(1)).collect();
        if found.len() != self.results.len() {
            return f32::INFINITY;
        }
        let apart = found.iter().zip(&self.results).map(|(a, b)| (a - b).abs());
        let largest = self.results.iter().map(|x| x.abs()).fold(f32::MIN_POSITIVE, f32::max);
        apart.fold(0.0, f32::max) / largest
    }
}

impl RecordedInput {
    fn fact(&self) -> InputFact {
        match self {
            Self::Noise { shape, .. } => InputFact { shape: shape.clone(), element: ElementType::F32 },
            Self::Position { .. } => InputFact::i64(&[1, 1]),
        }
    }

    fn values(&self) -> Values {
        match self {
            Self::Noise { shape, scale, seed } => Values::F32(noise(shape.iter().product(), *scale, *seed)),
            Self::Position { position } => Values::I64([*position]),
        }
    }
}

/// Numbers of a linear congruential generator, from -`scale` to `scale`.
fn noise(count: usize, scale: f32, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [high, low, ..] = state.to_be_bytes();
        (f32::from(u16::from_be_bytes([high, low])) / 32_768.0 - 1.0) * scale
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdata::models;

    #[test]
    fn every_network_of_the_manifest_gives_its_recorded_result() {
        let store = models();
        let all = recorded(&store).unwrap();
        let networks = store.entries().iter().filter(|entry| entry.file.ends_with(".onnx"));
        assert_eq!(all.iter().map(|r| &r.model).collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_eq!(networks.count(), all.len());
        for one in &all {
            if store.file(&one.model).is_err() {
                crate::testdata::skipped(format!("the model {} is not on this machine", one.model));
                continue;
            }
            let difference = one.run(&store).unwrap();
            assert!(difference < TOLERANCE / 5.0, "{}: {difference}", one.model);
        }
    }

    #[test]
    fn a_wrong_number_is_a_large_difference() {
        let recorded =
            Recorded { model: "a".into(), inputs: Vec::new(), output: 0, every: 2, results: vec![1.0, -4.0] };
        assert_eq!(recorded.difference(&[1.0, 9.0, -4.0]), 0.0);
        assert_eq!(recorded.difference(&[3.0, 9.0, -4.0]), 0.5);
        assert_eq!(recorded.difference(&[1.0]), f32::INFINITY);
        assert!(recorded.first_input().is_empty());
    }
}
