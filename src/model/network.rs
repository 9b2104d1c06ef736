//! Executes a graph: forward to logits, backward to gradients.

mod backward;

use streamrec_artifact::{Activation, FeatureSchema, Graph, Op};
use streamrec_kernels::{Context, DType, TensorRef};
use tracing::trace_span;

use super::{
    BatchInput, Gradients, ModelError, ParamId, ParameterStore, RemoteLookup, TableGradients,
    TensorParallel,
    layers::{self, Forward, GradientBuffers, Inputs, Layer, LayerContext, PassError, TableBag},
    plan::{self, GradientPlan, Masks, Places, PlannedNode},
    planned_buffer::PlannedBuffer,
};
use crate::config::Partition;

/// Hears of each dense gradient the moment it is final.
pub trait GradientSink: Send {
    /// The gradient of `parameter` is final. Parameters come in the reverse of forward order,
    /// each once a pass, so that buckets become complete in their order.
    ///
    /// # Errors
    /// When the sink cannot go on; the pass stops.
    fn ready(&mut self, gradients: &mut Gradients, parameter: ParamId) -> Result<(), ModelError>;
}

/// The sink of a pass whose gradients stay where they are: all but the last of several
/// micro-batches, and a world of one rank.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeepGradients;

impl GradientSink for KeepGradients {
    fn ready(&mut self, _: &mut Gradients, _: ParamId) -> Result<(), ModelError> {
        Ok(())
    }
}

/// A model that computes.
///
/// ```text
/// forward                      backward, in the reverse order
/// batch ─► node ─► ... ─► logits ─► loss ─► d_logits ─► node ─► ... ─► TableGradients
///             values stay in buffers         └► gradients of parameters ─► GradientSink
/// ```
///
/// Values and their gradients are of the store's compute type, logits and their gradient float32.
/// Buffers are planned once, for batches of up to `batch` samples; a pass allocates none
/// (matrix products pack into memory of their own).
/// The network holds no parameters, so several networks can share one store.
pub struct Network {
    names: Vec<String>,
    nodes: Vec<PlannedNode>,
    layers: Vec<Box<dyn Layer>>,
    places: Places,
    plan: GradientPlan,
    /// Values, `[batch, width]` each; `None` while a layer writes it.
    values: Vec<Option<PlannedBuffer>>,
    gradients: GradientBuffers,
    workspace: PlannedBuffer,
    tables: TableGradients,
    pub(super) remote: Vec<RemoteLookup>,
    /// Nodes whose values depend on no embedding, then the others, each in the graph's order.
    forward_order: [Vec<usize>; 2],
    /// The first node that reads embeddings: once it has gone backward, their gradients are final.
    first_reader: usize,
    batch: usize,
    dense: usize,
    bags: usize,
    /// Samples of the last forward pass.
    rows: usize,
}

impl Network {
    /// Plans a graph over the parameters of a store, for batches of up to `batch` samples. `shared`
    /// is what the store's parts were made by; collective in its group, as is every pass then.
    ///
    /// # Errors
    /// When the graph is not valid, or the store lacks one of its parameters.
    pub fn new(
        context: &Context,
        graph: &Graph,
        schema: &FeatureSchema,
        parameters: &ParameterStore,
        shared: &TensorParallel,
        batch: usize,
    ) -> Result<Self, ModelError> {
        let shapes = graph.validate(schema)?;
        let nodes = plan::nodes(graph, &shapes, shared);
        let places = Places::new(&nodes);
        let plan = GradientPlan::new(&nodes, &places);
        let masks = masks(graph, shared, parameters, (&nodes, &places, &plan));
        let remote = RemoteLookup::of_graph(graph, schema, parameters)?;
        let of = LayerContext {
            context,
            graph,
            schema,
            parameters,
            shared,
            remote: &remote,
            batch,
            masks: &masks,
        };
        let build = |(index, node)| layers::build(index, node, &of);
        let layers = graph
            .nodes
            .iter()
            .enumerate()
            .map(build)
            .collect::<Result<Vec<_>, _>>()?;
        let bags = graph
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| match &node.op {
                Op::EmbeddingBag { lookups } => {
                    let bags = TableBag::all(lookups, graph, schema, parameters);
                    Some(bags.map(|bags| (index, bags)))
                }
                _ => None,
            });
        let tables = TableGradients::new(bags.collect::<Result<_, _>>()?, parameters);
        let dtype = parameters.compute_dtype();
        let buffer = |columns: usize, float32: bool| {
            let dtype = if float32 { DType::F32 } else { dtype };
            Some(PlannedBuffer::new(context, dtype, batch * columns))
        };
        let output = places.nodes.last().and_then(|place| place.buffer);
        let workspace = layers.iter().map(|layer| layer.workspace());
        let workspace = workspace.max().unwrap_or(0);
        Ok(Self {
            names: graph.nodes.iter().map(|node| node.name.clone()).collect(),
            layers,
            values: (0..)
                .zip(&places.widths)
                .map(|(index, &width)| buffer(width, Some(index) == output))
                .collect(),
            gradients: gradient_buffers(&plan, buffer),
            workspace: PlannedBuffer::new(context, dtype, batch * workspace),
            forward_order: plan::by_embeddings(&nodes),
            first_reader: plan::first_reader_of_embeddings(&nodes),
            nodes,
            places,
            plan,
            tables,
            remote,
            batch,
            dense: schema.dense.len(),
            bags: schema.categorical.len(),
            rows: 0,
        })
    }

    /// The most samples of a batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The labels: columns of the logits.
    pub fn heads(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.width)
    }

    /// Computes the logits, `[rows, heads]`.
    ///
    /// # Errors
    /// When the batch is larger than planned, has other features, or an id outside its table.
    pub fn forward(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        batch: &BatchInput<'_>,
    ) -> Result<TensorRef<'_>, ModelError> {
        self.begin_forward(context, parameters, batch)?;
        self.finish_forward(context, parameters, batch)
    }

    /// The first half of [`forward`](Self::forward): all that depends on no embedding, while vectors of sharded tables
    /// are on their way.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn begin_forward(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        batch: &BatchInput<'_>,
    ) -> Result<(), ModelError> {
        self.check_batch(batch)?;
        self.rows = batch.rows();
        self.forward_nodes(0, context, parameters, batch)
    }

    /// The second half of [`forward`](Self::forward), of the batch whose first half was last, with its vectors.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn finish_forward(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        batch: &BatchInput<'_>,
    ) -> Result<TensorRef<'_>, ModelError> {
        self.check_same_rows(batch)?;
        self.forward_nodes(1, context, parameters, batch)?;
        Ok(self.logits())
    }

    fn forward_nodes(
        &mut self,
        half: usize,
        context: &Context,
        parameters: &ParameterStore,
        batch: &BatchInput<'_>,
    ) -> Result<(), ModelError> {
        context.install(|| {
            (0..self.forward_order[half].len()).try_for_each(|index| {
                let node = self.forward_order[half][index];
                let _span = trace_span!("forward", node = self.names[node]).entered();
                self.forward_node(node, context, parameters, batch)
                    .map_err(|error| error.at(&self.names[node], "forward"))
            })
        })
    }

    /// The logits of the last forward pass, `[rows, heads]`.
    pub fn logits(&self) -> TensorRef<'_> {
        let Some(Some(buffer)) = self.places.nodes.last().map(|place| place.buffer) else {
            return TensorRef::from_f32(&[], &[0, 0]);
        };
        let own = self.values[buffer]
            .as_ref()
            .expect("values are in place between layers");
        own.view(self.rows, self.heads())
    }

    /// Computes the probability of each label, `[rows, heads]`, into `probabilities`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or when `probabilities` is not `[rows, heads]`.
    pub fn scores(
        &mut self,
        context: &Context,
        parameters: &ParameterStore,
        batch: &BatchInput<'_>,
        probabilities: &mut [f32],
    ) -> Result<(), ModelError> {
        let logits = self.forward(context, parameters, batch)?;
        let logits = logits.f32().unwrap_or_default();
        if logits.len() != probabilities.len() {
            return Err(ModelError::Batch {
                what: "the number of scores",
                expected: logits.len().to_string(),
                got: probabilities.len().to_string(),
            });
        }
        for (probability, &logit) in probabilities.iter_mut().zip(logits) {
            *probability = super::loss::sigmoid(logit);
        }
        Ok(())
    }

    /// The gradients of the tables, after a backward pass.
    pub fn table_gradients(&self) -> &TableGradients {
        &self.tables
    }

    /// The gradient of an embedding node's value, `[rows, columns]`, after a backward pass.
    pub(super) fn embedding_gradient(&self, node: usize) -> TensorRef<'_> {
        let place = self.plan.places[node].as_ref();
        let place = place.expect("the plan gives embeddings a gradient");
        let whole = self.gradients.slots[place.slot].as_ref();
        let whole = whole.expect("gradients are in place between layers");
        whole
            .view(self.rows, place.width)
            .columns(place.columns.clone())
    }

    fn check_batch(&self, batch: &BatchInput<'_>) -> Result<(), ModelError> {
        let refuse = |what, expected: String, got: usize| {
            Err(ModelError::Batch {
                what,
                expected,
                got: got.to_string(),
            })
        };
        let (rows, bags) = (batch.rows(), batch.bags.features);
        if rows > self.batch {
            let expected = format!("at most {}", self.batch);
            return refuse("the number of samples", expected, rows);
        }
        let [dense_rows, dense] = batch.dense.shape();
        for (what, expected, got) in [
            ("the number of dense features", self.dense, dense),
            ("the number of dense samples", rows, dense_rows),
            ("the number of categorical features", self.bags, bags),
        ] {
            if got != expected {
                return refuse(what, expected.to_string(), got);
            }
        }
        Ok(())
    }

    fn check_same_rows(&self, batch: &BatchInput<'_>) -> Result<(), ModelError> {
        match batch.rows() == self.rows {
            true => Ok(()),
            false => Err(ModelError::Batch {
                what: "the number of samples",
                expected: format!("{}, those of the forward pass", self.rows),
                got: batch.rows().to_string(),
            }),
        }
    }

    fn forward_node(
        &mut self,
        node: usize,
        context: &Context,
        parameters: &ParameterStore,
        batch: &BatchInput<'_>,
    ) -> Result<(), PassError> {
        let place = &self.places.nodes[node];
        let Some(buffer) = place.buffer else {
            return Ok(());
        };
        // No node reads the buffer that it writes, so that can leave for the time.
        let mut whole = self.values[buffer]
            .take()
            .expect("values are in place between layers");
        let output = whole.view_mut(batch.rows(), self.places.widths[buffer]);
        let inputs = inputs(&self.nodes, &self.places, &self.values, batch, node);
        let output = output.columns(place.columns.clone());
        let pass = Forward {
            context,
            parameters,
            inputs,
            output,
        };
        let result = self.layers[node].forward(pass);
        self.values[buffer] = Some(whole);
        result
    }
}

/// Which linear layers, that no other rank takes part in, mask gradients of rectified values.
fn masks(
    graph: &Graph,
    shared: &TensorParallel,
    parameters: &ParameterStore,
    (nodes, places, plan): (&[PlannedNode], &Places, &GradientPlan),
) -> Masks {
    // Products in fp16, which are taken in float32, do not mask in registers.
    if parameters.compute_dtype() == DType::F16 {
        return Masks::default();
    }
    let activation = |node: usize| match &graph.nodes[node].op {
        Op::Linear { activation, .. } => {
            let whole = shared.partition(&graph.nodes[node].name) == Partition::Replicated;
            whole.then_some(*activation)
        }
        _ => None,
    };
    let rectifies = |node| activation(node) == Some(Activation::Relu);
    Masks::new(nodes, places, plan, rectifies, |node| {
        activation(node).is_some()
    })
}

/// Buffers of `columns` columns; the flag tells whether they are float32 in any precision.
fn gradient_buffers(
    plan: &GradientPlan,
    buffer: impl Fn(usize, bool) -> Option<PlannedBuffer>,
) -> GradientBuffers {
    let slots = (0..).zip(&plan.slot_widths);
    GradientBuffers {
        slots: slots
            .map(|(slot, &width)| buffer(width, Some(slot) == plan.output_slot))
            .collect(),
        temporary: match plan.temporary_width {
            0 => None,
            width => buffer(width, false),
        },
    }
}

fn inputs<'a>(
    nodes: &'a [PlannedNode],
    places: &'a Places,
    buffers: &'a [Option<PlannedBuffer>],
    batch: &'a BatchInput<'a>,
    node: usize,
) -> Inputs<'a> {
    Inputs {
        batch,
        buffers,
        widths: &places.widths,
        places: &places.nodes,
        nodes: &nodes[node].inputs,
        in_place: &places.in_place[node],
    }
}
