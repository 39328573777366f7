//! The numbers of the network, taken from the ONNX file in the order in which its graph uses them.

use std::collections::HashMap;

use tract_onnx::pb::{NodeProto, TensorProto, tensor_proto::DataType};
use tract_onnx::prelude::f16;

use super::Error;

/// Hands out the weights of one kind of node after the other.
pub struct Weights<'a> {
    tensors: HashMap<&'a str, &'a TensorProto>,
    convolutions: Vec<&'a NodeProto>,
    normalisations: Vec<&'a NodeProto>,
    next: (usize, usize),
}

/// `y = scale · x + shift`, one pair per channel.
#[derive(Debug, Clone)]
pub struct Affine {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl<'a> Weights<'a> {
    pub fn new(model: &'a tract_onnx::pb::ModelProto) -> Result<Self, Error> {
        let graph = model.graph.as_ref().ok_or(Error::Graph("no graph"))?;
        let mut tensors: HashMap<_, _> = graph.initializer.iter().map(|t| (t.name.as_str(), t)).collect();
        let (mut convolutions, mut normalisations) = (Vec::new(), Vec::new());
        for node in &graph.node {
            match (node.op_type.as_str(), node.input.first(), node.output.first()) {
                ("Conv", ..) => convolutions.push(node),
                ("BatchNormalization", ..) => normalisations.push(node),
                // Weights in half precision have a cast in front of their use.
                ("Cast", Some(input), Some(output)) => {
                    if let Some(&tensor) = tensors.get(input.as_str()) {
                        tensors.insert(output, tensor);
                    }
                }
                ("Constant", _, Some(output)) => {
                    if let Some(tensor) = node.attribute.iter().find_map(|a| a.t.as_ref()) {
                        tensors.insert(output, tensor);
                    }
                }
                _ => {}
            }
        }
        Ok(Self { tensors, convolutions, normalisations, next: (0, 0) })
    }

    /// Weights `[outputs, …]` of the next convolution and its bias (zeros if it has none). Refuses other
    /// shapes and dilations.
    pub fn convolution(&mut self, shape: &[usize], dilation: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let node = self.convolutions.get(self.next.0).ok_or(Error::Graph("too few convolutions"))?;
        self.next.0 += 1;
        let dilations = node.attribute.iter().find(|a| a.name == "dilations").map_or(&[][..], |a| &a.ints);
        if dilations.iter().any(|&d| usize::try_from(d) != Ok(dilation)) {
            return Err(Error::Graph("another dilation"));
        }
        let weights = self.values(node, 1, shape)?;
        let outputs = shape.first().copied().unwrap_or(0);
        let bias = if node.input.len() > 2 { self.values(node, 2, &[outputs])? } else { vec![0.0; outputs] };
        Ok((weights, bias))
    }

    /// The next batch normalisation of `channels` channels, as one multiplication and one addition.
    pub fn normalisation(&mut self, channels: usize) -> Result<Affine, Error> {
        let node = self.normalisations.get(self.next.1).ok_or(Error::Graph("too few normalisations"))?;
        self.next.1 += 1;
        let epsilon = node.attribute.iter().find(|a| a.name == "epsilon").map_or(1e-5, |a| f64::from(a.f));
        let [weight, bias, mean, variance] = [1, 2, 3, 4].map(|input| self.values(node, input, &[channels]));
        let (weight, bias, mean, variance) = (weight?, bias?, mean?, variance?);
        let mut affine = Affine { scale: Vec::new(), shift: Vec::new() };
        for i in 0..channels {
            let scale = f64::from(weight[i]) / (f64::from(variance[i]) + epsilon).sqrt();
            affine.scale.push(narrow(scale));
            affine.shift.push(narrow(f64::from(bias[i]) - f64::from(mean[i]) * scale));
        }
        // A variance below zero, or a mean near the limit of f32.
        if !affine.scale.iter().chain(&affine.shift).all(|v| v.is_finite()) {
            return Err(Error::Graph("a normalisation is not a number"));
        }
        Ok(affine)
    }

    /// Refuses a graph with nodes left over.
    pub fn finish(self) -> Result<(), Error> {
        let all = (self.convolutions.len(), self.normalisations.len());
        if self.next == all { Ok(()) } else { Err(Error::Graph("more layers than CAM++ has")) }
    }

    fn values(&self, node: &NodeProto, input: usize, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let name = node.input.get(input).ok_or(Error::Graph("an input is missing"))?;
        let tensor = self.tensors.get(name.as_str()).ok_or(Error::Graph("a weight is missing"))?;
        if !tensor.dims.iter().map(|&d| usize::try_from(d)).eq(shape.iter().map(|&d| Ok(d))) {
            return Err(Error::Graph("a weight has another shape"));
        }
        let raw = &tensor.raw_data;
        let values: Vec<f32> = match DataType::try_from(tensor.data_type) {
            Ok(DataType::Float) => raw.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Ok(DataType::Float16) => {
                raw.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect()
            }
            _ => return Err(Error::Graph("a weight has another type")),
        };
        if values.len() != shape.iter().product::<usize>() || !values.iter().all(|v| v.is_finite()) {
            return Err(Error::Graph("a weight is incomplete"));
        }
        Ok(values)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is the point")]
fn narrow(value: f64) -> f32 {
    value as f32
}
