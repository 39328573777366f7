use std::path::Path;

use tract_onnx::prelude::*;

use super::kernel::{Bias, Kernel, Place, Then};
use super::matrix::Buffer;
use super::{BINS, DIMENSIONS, Error, MOST_FRAMES, Network};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(name)).unwrap()
}

fn model() -> Vec<u8> {
    file("campplus_zh_en_192.f16.onnx")
}

/// Numbers from -2 to 2 that repeat only after 2³² of them.
fn numbers(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 16_384.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// The largest difference of two vectors after both are brought to length 1.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let unit = |v: &[f32]| {
        let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.iter().map(|x| x / length).collect::<Vec<_>>()
    };
    unit(a).iter().zip(unit(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// tract's result for the file's own graph.
fn by_graph(bytes: &[u8], features: &[f32]) -> Vec<f32> {
    let frames = features.len() / BINS;
    let mut bytes = bytes;
    let mut graph = tract_onnx::onnx().model_for_read(&mut bytes).unwrap();
    graph.set_input_fact(0, InferenceFact::dt_shape(f32::datum_type(), [1, frames, BINS])).unwrap();
    let plan = graph.into_optimized().unwrap().into_runnable().unwrap();
    let input = Tensor::from_shape(&[1, frames, BINS], features).unwrap();
    let output = plan.run(tvec![input.into_tvalue()]).unwrap().remove(0).into_tensor();
    output.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn the_embedding_is_the_one_of_the_files_own_graph_at_any_length() {
    let bytes = model();
    let network = Network::from_onnx(&bytes).unwrap();
    // Less than a segment, the plans in use (one and one and a half segments), odd, several segments.
    for frames in [57, 200, 300, 411] {
        let features = numbers(frames * BINS, 7);
        let (ours, graph) = (network.run(&features).unwrap().0, by_graph(&bytes, &features));
        assert!(distance(&ours, &graph) < 1e-5, "{frames} frames: {}", distance(&ours, &graph));
    }
}

#[test]
fn the_embedding_is_the_same_on_a_machine_without_a_kernel_of_tracts() {
    let bytes = model();
    let features = numbers(200 * BINS, 7);
    let plain = Network::with(|_, _, _| Kernel::portable(), &bytes).unwrap();
    let chosen = Network::from_onnx(&bytes).unwrap();
    let run = |network: &Network| network.run(&features).unwrap().0;
    let (plain, chosen) = (run(&plain), run(&chosen));
    assert!(distance(&plain, &chosen) < 1e-5, "{}", distance(&plain, &chosen));
}

#[test]
fn the_same_features_give_the_same_numbers_from_any_thread() {
    let network = Network::from_onnx(&model()).unwrap();
    let (long, short) = (numbers(300 * BINS, 1), numbers(90 * BINS, 2));
    let first = network.run(&long).unwrap().0;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                network.run(&short).unwrap();
                assert_eq!(network.run(&long).unwrap().0, first, "nothing is left from a run before");
            });
        }
    });
    assert_eq!(first.len(), DIMENSIONS);
}

#[test]
fn another_model_and_a_broken_file_are_refused() {
    assert!(matches!(Network::from_onnx(&file("silero_vad_16k.onnx")), Err(Error::Graph(_))));
    assert!(matches!(Network::from_onnx(b"not a model"), Err(Error::Parse(_))));
    assert!(matches!(Network::from_onnx(b""), Err(Error::Graph(_))));
    let bytes = model();
    assert!(Network::from_onnx(&bytes[..bytes.len() / 2]).is_err());
}

#[test]
fn features_that_are_no_frames_or_no_numbers_are_refused() {
    let network = Network::from_onnx(&model()).unwrap();
    let mut features = numbers(100 * BINS, 3);
    assert!(matches!(network.run(&features[..2 * BINS]), Err(Error::Features)));
    assert!(matches!(network.run(&features[1..]), Err(Error::Features)));
    assert!(network.run(&features[..3 * BINS]).is_ok());
    assert!(matches!(network.run(&vec![0.0; (MOST_FRAMES + 1) * BINS]), Err(Error::Features)));
    features[50] = f32::NAN;
    assert!(matches!(network.run(&features), Err(Error::Features)));
}

#[test]
fn a_product_is_what_the_definition_says_wherever_it_is_put() {
    // Sizes that leave a remainder of every tile; strides of a matrix within a larger one, in both orders.
    for (m, k, n) in [(1, 1, 1), (37, 5, 29), (130, 64, 33), (64, 7, 150)] {
        let kernels = [Kernel::choose(Some(m), k, n), Kernel::portable()];
        for (kernel, by_row) in kernels.iter().flat_map(|kernel| [(kernel, true), (kernel, false)]) {
            let (a, b) = (numbers(m * k, 1), numbers(n * k, 2));
            let (mut rows, mut columns) = (kernel.rows(), kernel.columns());
            rows.fill(&a, k, m);
            columns.fill(&b, k, n);
            let (row, column) = if by_row { (n + 3, 1) } else { (1, m + 3) };
            let bias = Buffer::from_slice(&numbers(m.max(n), 3));
            let (offset, size) = (5, 5 + (m + 3) * (n + 3));
            let add = Buffer::from_slice(&numbers(size, 4));
            let mut out = Buffer::from_slice(&vec![9.0; size]);
            let along = if by_row { Bias::PerRow(&bias) } else { Bias::PerColumn(&bias) };
            let then = Then { bias: along, add: Some(&add), rectify: by_row };
            let mut place = Place { buffer: &mut out, offset, row, column };
            kernel.run((m, n), &rows, &columns, &then, &mut place).unwrap();
            let mut expected = vec![9.0; size];
            for i in 0..m {
                for j in 0..n {
                    let at = offset + i * row + j * column;
                    let sum: f32 = (0..k).map(|x| a[i * k + x] * b[j * k + x]).sum();
                    let value = sum + bias.as_slice()[if by_row { i } else { j }] + add.as_slice()[at];
                    expected[at] = if by_row { value.max(0.0) } else { value };
                }
            }
            for (at, (x, y)) in out.as_slice().iter().zip(&expected).enumerate() {
                assert!((x - y).abs() < 1e-3, "{m} {k} {n} {by_row}, {at}: {x} {y}");
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused_and_nothing_is_written() {
    let kernel = Kernel::choose(Some(8), 4, 8);
    let (mut rows, mut columns) = (kernel.rows(), kernel.columns());
    rows.fill(&numbers(8 * 4, 1), 4, 8);
    columns.fill(&numbers(8 * 4, 2), 4, 8);
    let short = Buffer::zeros(7);
    let none = Buffer::zeros(16);
    let plain = Then { bias: Bias::PerRow(&none), add: None, rectify: false };
    let mut deeper = kernel.rows();
    deeper.fill(&numbers(8 * 5, 1), 5, 8);
    let mut out = Buffer::zeros(64);
    for (left, then, offset, m) in [
        (&rows, plain, 1, 8),
        (&rows, plain, 0, 9),
        (&rows, plain, 0, 0),
        (&deeper, plain, 0, 8),
        (&rows, Then { bias: Bias::PerRow(&short), ..plain }, 0, 8),
        (&rows, Then { bias: Bias::PerColumn(&short), ..plain }, 0, 8),
        (&rows, Then { add: Some(&short), ..plain }, 0, 8),
    ] {
        let mut place = Place { buffer: &mut out, offset, row: 8, column: 1 };
        assert!(matches!(kernel.run((m, 8), left, &columns, &then, &mut place), Err(Error::Shape)));
    }
    assert!(out.as_slice().iter().all(|&x| x == 0.0));
    let mut place = Place { buffer: &mut out, offset: 0, row: 8, column: 1 };
    assert!(kernel.run((8, 8), &rows, &columns, &plain, &mut place).is_ok());
}
