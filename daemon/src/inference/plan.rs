//! A thin layer over tract: [`Plan`] (immutable, shared), [`Session`] (one user's run state), values in and
//! out.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::model::TypedModelPatch;
use tract_onnx::tract_core::ops::cast::Cast;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::plan::SimpleState;
use tract_onnx::tract_hir::infer::Factoid;
use tract_onnx::tract_hir::internal::DimLike;

use super::{ModelError, contained};
use crate::supervisor::guarded;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    F32,
    I64,
}

impl ElementType {
    fn datum(self) -> DatumType {
        match self {
            Self::F32 => f32::datum_type(),
            Self::I64 => i64::datum_type(),
        }
    }
}

/// The exact shape and element type of a model's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFact {
    pub shape: Vec<usize>,
    pub element: ElementType,
}

impl InputFact {
    pub fn f32(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), element: ElementType::F32 }
    }

    pub fn i64(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), element: ElementType::I64 }
    }

    fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An optimised model for one set of shapes. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Plan {
    name: Arc<str>,
    path: Arc<Path>,
    inputs: Arc<[InputFact]>,
    outputs: Arc<[Vec<usize>]>,
    model: Arc<TypedSimplePlan>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("name", &self.name).field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Plan {
    /// Parses and optimises an ONNX model. `path` names it in errors; nothing is read from the disk here, so
    /// a model cannot make tract open other files (external tensors).
    pub(super) fn from_bytes(
        name: &str,
        path: &Path,
        bytes: &[u8],
        inputs: &[(usize, InputFact)],
    ) -> Result<Self, ModelError> {
        // tract indexes maps with names taken from the file and panics on graphs that no exporter writes. A
        // wake word from the owner must give an error instead. Nothing of the attempt outlives it.
        guarded(|| Self::build(name, path, bytes, inputs))
            .unwrap_or_else(|caught| Err(ModelError::Parse { path: path.into(), source: caught.into() }))
    }

    fn build(
        name: &str,
        path: &Path,
        mut bytes: &[u8],
        inputs: &[(usize, InputFact)],
    ) -> Result<Self, ModelError> {
        let parse = |source: TractError| ModelError::Parse { path: path.into(), source: source.into() };
        let shape = |what: String, expected: String, found: String| ModelError::Shape {
            path: path.into(),
            what,
            expected,
            found,
        };
        let mut model = tract_onnx::onnx().model_for_read(&mut bytes).map_err(parse)?;
        name_nodes_apart(&mut model);
        let declared = model.input_outlets().map_err(parse)?.len();
        for (index, fact) in inputs {
            if *index >= declared {
                return Err(shape(
                    "the number of inputs".into(),
                    (index + 1).to_string(),
                    declared.to_string(),
                ));
            }
            let wanted = InferenceFact::dt_shape(fact.element.datum(), &fact.shape);
            let own = model.input_fact(*index).map_err(parse)?;
            if !admits(own, fact) {
                return Err(shape(format!("input {index}"), format!("{wanted:?}"), format!("{own:?}")));
            }
            model.set_input_fact(*index, wanted).map_err(parse)?;
        }
        let mut model = model.into_typed().map_err(parse)?;
        fold_large_casts(&mut model).map_err(parse)?;
        let model = model.into_optimized().map_err(parse)?;
        let mut facts = Vec::new();
        for index in 0..declared {
            let fact = model.input_fact(index).map_err(parse)?;
            let element = match fact.datum_type {
                t if t == f32::datum_type() => ElementType::F32,
                t if t == i64::datum_type() => ElementType::I64,
                t => return Err(shape(format!("input {index}"), "f32 or i64".into(), format!("{t:?}"))),
            };
            let Some(concrete) = fact.shape.as_concrete() else {
                return Err(shape(format!("input {index}"), "a concrete shape".into(), format!("{fact:?}")));
            };
            facts.push(InputFact { shape: concrete.to_vec(), element });
        }
        let mut outputs = Vec::new();
        for index in 0..model.output_outlets().map_err(parse)?.len() {
            let fact = model.output_fact(index).map_err(parse)?;
            let Some(concrete) = fact.shape.as_concrete() else {
                return Err(shape(format!("output {index}"), "a concrete shape".into(), format!("{fact:?}")));
            };
            outputs.push(concrete.to_vec());
        }
        let model = TypedSimplePlan::new(model).map_err(parse)?;
        Ok(Self {
            name: name.into(),
            path: path.into(),
            inputs: facts.into(),
            outputs: outputs.into(),
            model,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn inputs(&self) -> &[InputFact] {
        &self.inputs
    }

    /// Shapes of the outputs.
    pub fn outputs(&self) -> &[Vec<usize>] {
        &self.outputs
    }

    /// Refuses a model whose input or output shapes are not exactly these.
    pub fn expect_shapes(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> Result<(), ModelError> {
        let found_inputs: Vec<&[usize]> = self.inputs.iter().map(|f| f.shape.as_slice()).collect();
        let found_outputs: Vec<&[usize]> = self.outputs.iter().map(Vec::as_slice).collect();
        for (what, expected, found) in [("input", inputs, found_inputs), ("output", outputs, found_outputs)] {
            if expected != found {
                return Err(ModelError::Shape {
                    path: self.path.to_path_buf(),
                    what: format!("the {what}"),
                    expected: format!("{expected:?}"),
                    found: format!("{found:?}"),
                });
            }
        }
        Ok(())
    }

    /// Run state for one user of the plan.
    pub fn session(&self) -> Result<Session, ModelError> {
        let state = contained(|| self.model.spawn()).map_err(|e| self.run_error(e.into()))?;
        Ok(Session { plan: self.clone(), state: Some(state), runs: 0 })
    }

    fn run_error(&self, source: Cause) -> ModelError {
        ModelError::Run { model: self.name.to_string(), source }
    }
}

/// Whether an input declared as `own` takes `wanted`: element types and every dimension that is a number are
/// equal.
fn admits(own: &InferenceFact, wanted: &InputFact) -> bool {
    let element = own.datum_type.concretize().is_none_or(|t| t == wanted.element.datum());
    let rank = own.shape.rank().concretize().is_none_or(|r| usize::try_from(r) == Ok(wanted.shape.len()));
    let declared = own.shape.dims().map(|d| d.concretize().and_then(|d| d.to_usize().ok()));
    element && rank && declared.zip(&wanted.shape).all(|(own, wanted)| own.is_none_or(|own| own == *wanted))
}

/// Some exporters give every node the same name; tract's own checks (debug builds) want each name once.
fn name_nodes_apart(model: &mut InferenceModel) {
    let mut seen = HashSet::new();
    for node in model.nodes_mut() {
        if !seen.insert(node.name.clone()) {
            node.name = format!("{}#{}", node.name, node.id);
            seen.insert(node.name.clone());
        }
    }
}

/// Makes f32 constants of large f16 weights once.
///
/// tract folds a cast of a constant only while the result stays under 4 MiB; a larger one would be cast in
/// every run.
pub(crate) fn fold_large_casts(model: &mut TypedModel) -> TractResult<()> {
    /// Elements; anything up to 4 MiB of f32 is folded by tract itself.
    const FOLDED_BY_TRACT: usize = 1 << 20;
    let mut casts = Vec::new();
    for node in &model.nodes {
        if let (Some(_), Some(input)) = (node.op_as::<Cast>(), node.inputs.first())
            && model.outlet_fact(*input)?.konst.as_ref().is_some_and(|k| k.len() > FOLDED_BY_TRACT)
        {
            casts.push(node.id);
        }
    }
    for id in casts {
        let node = model.node(id);
        let (Some(input), Some(output)) = (node.inputs.first(), node.outputs.first()) else { continue };
        let Some(constant) = model.outlet_fact(*input)?.konst.clone() else { continue };
        let cast = constant.cast_to_dt(output.fact.datum_type)?.into_owned().into_arc_tensor();
        let mut patch = TypedModelPatch::default();
        let wires = patch.wire_node(format!("{}.folded.{id}", node.name), Const::new(cast)?, &[])?;
        let Some(wire) = wires.first() else { continue };
        patch.shunt_outside(model, id.into(), *wire)?;
        patch.apply(model)?;
    }
    Ok(())
}

/// A value that goes into a model.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Copied into a tensor of the plan's input shape.
    F32(&'a [f32]),
    /// Copied into a tensor of the plan's input shape.
    I64(&'a [i64]),
    /// Not copied. Its shape must be the plan's.
    Buffer(&'a Buffer),
}

/// A tensor that outlives a run: filled in place by its owner, or taken from another model's outputs. Passing
/// it to a model copies nothing.
#[derive(Debug, Clone)]
pub struct Buffer(Arc<Tensor>);

impl Buffer {
    pub fn zeros(shape: &[usize]) -> Self {
        // zero_dt of a plain number type cannot fail; an empty tensor would be refused by the model.
        Self(Arc::new(Tensor::zero_dt(f32::datum_type(), shape).unwrap_or_default()))
    }

    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The values in row-major order; empty if they are not f32.
    pub fn as_slice(&self) -> &[f32] {
        self.0.try_as_plain_ram().and_then(|view| view.as_slice::<f32>()).unwrap_or_default()
    }

    /// The values, to be changed in place. Copies first if the tensor is still in use elsewhere.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.0).is_none() {
            self.0 = Arc::new(self.0.deep_clone());
        }
        Arc::get_mut(&mut self.0)
            .and_then(|tensor| tensor.to_plain_array_view_mut::<f32>().ok())
            .and_then(tract_ndarray::ArrayViewMutD::into_slice)
            .unwrap_or_default()
    }
}

/// One user's state of a plan: buffers are kept between runs. Not shared; make one per thread.
pub struct Session {
    plan: Plan,
    /// `None` after a panic in tract: a half-changed state is not used again.
    state: Option<SimpleState<TypedFact, Box<dyn TypedOp>>>,
    runs: u64,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("plan", &self.plan).field("runs", &self.runs).finish_non_exhaustive()
    }
}

impl Session {
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How often the model ran.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Runs the model. `inputs` are in the model's order and hold exactly as many values as the plan's
    /// shapes.
    pub fn run(&mut self, inputs: &[Input<'_>]) -> Result<Outputs, ModelError> {
        if inputs.len() != self.plan.inputs.len() {
            return Err(self.size_error(inputs.len(), self.plan.inputs.len(), inputs.len()));
        }
        let mut values = tvec![];
        for (index, (input, fact)) in inputs.iter().zip(self.plan.inputs.iter()).enumerate() {
            let found = match input {
                Input::F32(slice) => slice.len(),
                Input::I64(slice) => slice.len(),
                Input::Buffer(buffer) => buffer.0.len(),
            };
            if found != fact.values() {
                return Err(self.size_error(index, fact.values(), found));
            }
            let value: TractResult<TValue> = match input {
                Input::F32(slice) => Tensor::from_shape(&fact.shape, slice).map(Tensor::into_tvalue),
                Input::I64(slice) => Tensor::from_shape(&fact.shape, slice).map(Tensor::into_tvalue),
                Input::Buffer(buffer) => Ok(Arc::clone(&buffer.0).into_tvalue()),
            };
            values.push(value.map_err(|e| self.plan.run_error(e.into()))?);
        }
        self.runs += 1;
        let mut state =
            self.state.take().ok_or_else(|| self.plan.run_error("it has failed before".into()))?;
        let ran = guarded(|| state.run(values)).map_err(|caught| self.plan.run_error(caught.into()))?;
        self.state = Some(state);
        let outputs = ran.map_err(|e| self.plan.run_error(e.into()))?;
        Ok(Outputs { plan: self.plan.clone(), values: outputs })
    }

    fn size_error(&self, index: usize, expected: usize, found: usize) -> ModelError {
        ModelError::InputSize { model: self.plan.name.to_string(), index, expected, found }
    }
}

/// The outputs of a run.
#[derive(Debug)]
pub struct Outputs {
    plan: Plan,
    values: TVec<TValue>,
}

impl Outputs {
    /// Output `index` in row-major order. Refuses another element type and values that are not finite.
    pub fn f32(&self, index: usize) -> Result<&[f32], ModelError> {
        let value = self.value(index)?;
        let view = value.try_as_plain_ram().map_err(|e| self.plan.run_error(e.into()))?;
        let slice = view.as_slice::<f32>().map_err(|e| self.plan.run_error(e.into()))?;
        if slice.iter().all(|x| x.is_finite()) {
            Ok(slice)
        } else {
            Err(ModelError::NotFinite { model: self.plan.name.to_string() })
        }
    }

    pub fn shape(&self, index: usize) -> Result<&[usize], ModelError> {
        Ok(self.value(index)?.shape())
    }

    /// Output `index` as a tensor that can go into another model without a copy.
    pub fn buffer(&self, index: usize) -> Result<Buffer, ModelError> {
        Ok(Buffer(self.value(index)?.clone().into_arc_tensor()))
    }

    fn value(&self, index: usize) -> Result<&TValue, ModelError> {
        self.values.get(index).ok_or_else(|| self.plan.run_error("the model has no such output".into()))
    }
}
