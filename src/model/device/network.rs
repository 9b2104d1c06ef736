use std::ops::Range;

use streamrec_artifact::Op;
use streamrec_kernels::DType;
use streamrec_kernels::cuda::{Address, DeviceError, Executor, Matrix, add, linear::partial_len};
use tracing::trace_span;

use super::{
    DeviceGradientSink, DeviceInput, DeviceWeights,
    group::DeviceGroup,
    layer::DeviceLayer,
    linear::Linear,
    memory::{DeviceBuffer, columns},
    pass::{Pass, WORKSPACE_ALIGNMENT},
    requested_rows::{DeviceRows, RowShards},
    shards::{DeviceShards, Shards},
    source::DeviceSource,
};
use crate::model::{
    ModelError,
    layers::TableBag,
    plan::{self, GradientPlan, Places, PlannedNode},
};

/// A model that computes on a device, for batches of up to `batch` samples. Holds no parameters.
#[derive(Debug)]
pub struct DeviceNetwork {
    names: Vec<String>,
    pub(super) nodes: Vec<PlannedNode>,
    pub(super) layers: Vec<DeviceLayer>,
    pub(super) places: Places,
    pub(super) plan: GradientPlan,
    /// `[batch, width]` each.
    pub(super) values: Vec<DeviceBuffer>,
    /// Gradients of values.
    pub(super) slots: Vec<DeviceBuffer>,
    pub(super) temporary: Option<DeviceBuffer>,
    /// In the compute type.
    pub(super) workspace: DeviceBuffer,
    /// Float32 sums of a layer that finishes them itself.
    pub(super) sums: DeviceBuffer,
    /// Sums of columns of panels.
    pub(super) partial: DeviceBuffer,
    /// A row.
    pub(super) zeros: DeviceBuffer,
    /// The dense features, where layers compute in half precision.
    dense_copy: Option<DeviceBuffer>,
    pub(super) first_bad: Address,
    /// The first node that reads embeddings.
    first_reader: usize,
    /// The nodes, those first that depend on no embedding.
    order: Vec<usize>,
    /// Where tables are sharded.
    pub(super) shards: Option<DeviceShards>,
    /// Where ids of some of them travel once.
    pub(super) rows: Option<DeviceRows>,
    /// Where layers are shared.
    group: Option<DeviceGroup>,
    pub(super) batch: usize,
}

impl DeviceNetwork {
    /// Plans a graph over parameters on the device, whose store is `parameters`, and takes all memory. Vectors of
    /// sharded tables come from the devices that hold `shards`.
    ///
    /// # Errors
    /// When the graph is not valid, the store lacks one of its parameters, or the device has not so
    /// much memory.
    pub fn new<E: Executor>(
        executor: &mut E,
        of: &DeviceSource<'_>,
        weights: &DeviceWeights,
        shards: Option<(Shards, RowShards)>,
    ) -> Result<Self, ModelError> {
        let DeviceSource {
            graph,
            schema,
            batch,
            ..
        } = *of;
        let shapes = graph.validate(schema)?;
        let nodes = plan::nodes(graph, &shapes, of.shared);
        let places = Places::new(&nodes);
        let plan = GradientPlan::new(&nodes, &places);
        let dtype = weights.compute_dtype();
        let mut layers = Vec::with_capacity(nodes.len());
        for (node, planned) in graph.nodes.iter().zip(&nodes) {
            let built = super::source::build(executor, of, weights, node, planned.width)?;
            layers.push(built);
        }
        mask_by_readers(&mut layers, &nodes, &places, &plan);
        let output = places.nodes.last().and_then(|place| place.buffer);
        let values = buffers(executor, (dtype, batch), &places.widths, output)?;
        let slots = buffers(
            executor,
            (dtype, batch),
            &plan.slot_widths,
            plan.output_slot,
        )?;
        let temporary = match plan.temporary_width {
            0 => None,
            width => Some(DeviceBuffer::new(executor, dtype, batch * width)?),
        };
        let widest = |widths: &mut dyn Iterator<Item = usize>| widths.max().unwrap_or(0);
        let width = widest(&mut nodes.iter().map(|node| node.width));
        let works = layers.iter().zip(&nodes);
        let workspace = widest(&mut works.map(|(layer, node)| layer.workspace(node.width)));
        let (shards, rows) = super::remote::build(executor, of, weights, shards)?;
        let group = DeviceGroup::new(executor, of.shared, [batch, width])?;
        let dense = (dtype.is_half()).then(|| batch * schema.dense.len());
        let first_bad = executor.allocate(size_of::<u64>())?;
        executor.upload(&u64::MAX.to_le_bytes(), first_bad)?;
        Ok(Self {
            names: graph.nodes.iter().map(|node| node.name.clone()).collect(),
            workspace: DeviceBuffer::new(executor, dtype, batch * workspace + WORKSPACE_ALIGNMENT)?,
            sums: DeviceBuffer::new(executor, DType::F32, batch * width)?,
            partial: DeviceBuffer::new(executor, DType::F32, partial_len([batch, width]))?,
            zeros: DeviceBuffer::zeroed(executor, dtype, width)?,
            dense_copy: dense
                .map(|len| DeviceBuffer::new(executor, dtype, len))
                .transpose()?,
            group,
            first_bad,
            first_reader: plan::first_reader_of_embeddings(&nodes),
            order: plan::by_embeddings(&nodes).concat(),
            shards,
            rows,
            nodes,
            layers,
            places,
            plan,
            values,
            slots,
            temporary,
            batch,
        })
    }

    /// The labels: columns of the logits.
    pub fn heads(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.width)
    }

    /// The rows of the smallest table that each categorical feature of a batch looks up.
    ///
    /// # Errors
    /// When the store lacks one of the tables.
    pub fn id_limits(&self, of: &DeviceSource<'_>) -> Result<Vec<usize>, ModelError> {
        let mut limits = vec![usize::MAX; of.schema.categorical.len()];
        for node in &of.graph.nodes {
            let Op::EmbeddingBag { lookups } = &node.op else {
                continue;
            };
            for bag in TableBag::all(lookups, of.graph, of.schema, of.parameters)? {
                let limit = &mut limits[bag.source.feature];
                *limit = (*limit).min(of.parameters.table(bag.table).parameter.shape[0]);
            }
        }
        Ok(limits)
    }

    /// Computes the logits, `[rows, heads]`, float32.
    ///
    /// # Errors
    /// When the device fails.
    pub fn forward<E: Executor>(
        &self,
        executor: &mut E,
        weights: &DeviceWeights,
        input: &DeviceInput,
    ) -> Result<Matrix, ModelError> {
        let mut vectors = self.send_vectors(executor, input)?;
        let mut pass = self.pass(executor, weights, input);
        if let Some(copy) = &self.dense_copy {
            let into = copy.view(pass.rows, input.dense.shape[1]);
            if into.shape[1] > 0 {
                pass.launch(add::copy(&input.dense, &into, false))
                    .map_err(|error| error.at(&self.names[0], "forward"))?;
            }
        }
        for &node in &self.order {
            let _span = trace_span!("forward", node = self.names[node]).entered();
            // What depends on no embedding goes forward while vectors travel.
            let receives = matches!(self.layers[node], DeviceLayer::EmbeddingBag { .. });
            let outcome = match (&self.shards, vectors.take_if(|_| receives)) {
                (Some(shards), Some((begun, rows))) => {
                    shards.receive(&mut pass, begun, self.rows.as_ref().zip(rows))
                }
                _ => Ok(()),
            };
            outcome
                .and_then(|()| self.layers[node].forward(&mut pass, node))
                .map_err(|error| error.at(&self.names[node], "forward"))?;
        }
        Ok(pass.value(self.nodes.len() - 1))
    }

    /// The gradient of the logits, `[rows, heads]`, float32, for the loss to write; `None` where no
    /// layer has one.
    pub fn d_logits(&self, rows: usize) -> Option<Matrix> {
        self.gradient(self.nodes.len().checked_sub(1)?, rows)
    }

    /// Computes the gradients of parameters from that of the logits, for the input of the last forward pass, as far as
    /// gradients of tables need, and tells `sink` of each dense one. Those of tables are those of pooled vectors: see
    /// [`TableRounds`](super::TableRounds).
    ///
    /// # Errors
    /// When the device or the sink fails.
    pub fn begin_backward<E: Executor>(
        &self,
        executor: &mut E,
        weights: &DeviceWeights,
        input: &DeviceInput,
        sink: &mut dyn DeviceGradientSink<E>,
    ) -> Result<(), ModelError> {
        let nodes = self.first_reader..self.nodes.len();
        self.backward(executor, weights, input, nodes, sink)
    }

    /// Computes the other gradients, after [`begin_backward`](Self::begin_backward).
    ///
    /// # Errors
    /// As there.
    pub fn finish_backward<E: Executor>(
        &self,
        executor: &mut E,
        weights: &DeviceWeights,
        input: &DeviceInput,
        sink: &mut dyn DeviceGradientSink<E>,
    ) -> Result<(), ModelError> {
        self.backward(executor, weights, input, 0..self.first_reader, sink)
    }

    fn backward<E: Executor>(
        &self,
        executor: &mut E,
        weights: &DeviceWeights,
        input: &DeviceInput,
        nodes: Range<usize>,
        sink: &mut dyn DeviceGradientSink<E>,
    ) -> Result<(), ModelError> {
        let mut pass = self.pass(executor, weights, input);
        for node in nodes.rev() {
            let (layer, _span) = (
                &self.layers[node],
                trace_span!("backward", node = self.names[node]).entered(),
            );
            layer
                .backward(&mut pass, node)
                .map_err(|error| error.at(&self.names[node], "backward"))?;
            for &parameter in layer.parameters().iter().rev() {
                sink.ready(pass.executor, parameter)?;
            }
        }
        Ok(())
    }

    /// The probabilities of each label, `[rows, heads]`, from a copy of the logits.
    ///
    /// # Panics
    /// When these are no whole numbers of float32.
    pub fn scores(&self, logits: &[u8], probabilities: &mut Vec<f32>) {
        probabilities.resize(logits.len() / size_of::<f32>(), 0.0);
        bytemuck::cast_slice_mut(probabilities).copy_from_slice(logits);
        for probability in probabilities {
            *probability = crate::model::loss::sigmoid(*probability);
        }
    }

    fn pass<'a, E>(
        &'a self,
        executor: &'a mut E,
        weights: &'a DeviceWeights,
        input: &'a DeviceInput,
    ) -> Pass<'a, E> {
        Pass {
            executor,
            network: self,
            weights,
            input,
            rows: input.bags.batch,
        }
    }

    /// What shared layers exchange.
    ///
    /// # Panics
    /// When this rank is alone, in which case layers are not shared.
    pub(super) fn group(&self) -> &DeviceGroup {
        self.group.as_ref().expect("a group shares the layer")
    }

    /// The dense features as layers read them.
    pub(super) fn dense(&self, input: &DeviceInput, rows: usize) -> Matrix {
        match &self.dense_copy {
            Some(copy) => copy.view(rows, input.dense.shape[1]),
            None => input.dense,
        }
    }

    /// The gradient of a node's value, `[rows, width]`.
    pub(super) fn gradient(&self, node: usize, rows: usize) -> Option<Matrix> {
        let place = self.plan.places[node].as_ref()?;
        let whole = self.slots[place.slot].view(rows, place.width);
        Some(columns(&whole, &place.columns))
    }
}

/// A matrix `[batch, width]` of each width, one of them float32 whatever the others are.
fn buffers<E: Executor>(
    executor: &mut E,
    (dtype, batch): (DType, usize),
    widths: &[usize],
    float32: Option<usize>,
) -> Result<Vec<DeviceBuffer>, DeviceError> {
    let buffer = |(index, width): (usize, &usize)| {
        let is_float32 = Some(index) == float32;
        let dtype = if is_float32 { DType::F32 } else { dtype };
        DeviceBuffer::new(executor, dtype, batch * width)
    };
    widths.iter().enumerate().map(buffer).collect()
}

/// Lets a layer apply the mask of the ReLU before it to the gradient that it writes, where nobody
/// else writes to that, as far as the matrix library can.
fn mask_by_readers(
    layers: &mut [DeviceLayer],
    nodes: &[PlannedNode],
    places: &Places,
    plan: &GradientPlan,
) {
    for node in 0..nodes.len() {
        let DeviceLayer::Linear(Linear {
            mask: Some(mask), ..
        }) = layers[node]
        else {
            continue;
        };
        let Some(index) = plan.only_writer(nodes, places, node) else {
            continue;
        };
        if let DeviceLayer::Linear(reader) = &mut layers[index]
            && reader.share.exchange().is_none()
        {
            reader.input_mask = Some((node, mask));
            if let DeviceLayer::Linear(own) = &mut layers[node] {
                own.masked_by = Some(index);
            }
        }
    }
}
