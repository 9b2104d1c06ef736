use std::ops::Range;

use streamrec_kernels::{Context, TensorRef, add};
use tracing::trace_span;

use super::{GradientSink, Network, inputs};
use crate::model::{
    BatchInput, ModelError, ParameterStore,
    layers::{Backward, InputGradients, PassError, value},
};

impl Network {
    /// Computes all gradients from those of the logits, `[rows, heads]`, for the batch of the last
    /// forward pass, and tells `sink` of each dense one. With `accumulate`, dense gradients are
    /// added to those that are there. Tables' gradients wait in
    /// [`table_gradients`](Self::table_gradients) until the next pass.
    ///
    /// # Errors
    /// When `d_logits` has another shape, a gradient is in flight, or the sink fails.
    pub fn backward(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        batch: &BatchInput<'_>,
        d_logits: TensorRef<'_>,
        accumulate: bool,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        self.begin_backward(context, parameters, batch, d_logits, accumulate, sink)?;
        self.finish_backward(context, parameters, batch, accumulate, sink)
    }

    /// The first half of [`backward`](Self::backward): as far as gradients of tables need, which are final then and can
    /// travel while the second half goes on.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    pub fn begin_backward(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        batch: &BatchInput<'_>,
        d_logits: TensorRef<'_>,
        accumulate: bool,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        self.check_same_rows(batch)?;
        let nodes = self.first_reader..self.nodes.len();
        context.install(|| {
            self.seed_gradient(context, d_logits)?;
            self.backward_nodes(nodes, context, parameters, batch, accumulate, sink)?;
            let _span = trace_span!("group ids by row").entered();
            self.tables.group(context, &batch.bags)
        })
    }

    /// The second half of [`backward`](Self::backward), after the first.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    pub fn finish_backward(
        &mut self,
        context: &Context,
        parameters: &mut ParameterStore,
        batch: &BatchInput<'_>,
        accumulate: bool,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        let nodes = 0..self.first_reader;
        context.install(|| self.backward_nodes(nodes, context, parameters, batch, accumulate, sink))
    }

    fn backward_nodes(
        &mut self,
        nodes: Range<usize>,
        context: &Context,
        parameters: &mut ParameterStore,
        batch: &BatchInput<'_>,
        accumulate: bool,
        sink: &mut dyn GradientSink,
    ) -> Result<(), ModelError> {
        for node in nodes.rev() {
            let _span = trace_span!("backward", node = self.names[node]).entered();
            self.backward_node(node, context, parameters, batch, accumulate)
                .map_err(|error| error.at(&self.names[node], "backward"))?;
            for &parameter in self.layers[node].parameters().iter().rev() {
                sink.ready(parameters.gradients_mut(), parameter)?;
            }
        }
        Ok(())
    }

    fn seed_gradient(
        &mut self,
        context: &Context,
        d_logits: TensorRef<'_>,
    ) -> Result<(), ModelError> {
        // A valid graph ends in its output; where that is the batch itself, nothing has a gradient.
        let Some(Some(place)) = self.plan.places.last() else {
            return Ok(());
        };
        let own = self.gradients.slots[place.slot].as_mut();
        let own = own.expect("gradients are in place between layers");
        add::copy(context, d_logits, own.view_mut(self.rows, place.width))
            .map_err(ModelError::kernel("the gradient of the logits"))
    }

    fn backward_node(
        &mut self,
        node: usize,
        context: &Context,
        parameters: &mut ParameterStore,
        batch: &BatchInput<'_>,
        accumulate: bool,
    ) -> Result<(), PassError> {
        let Some(place) = &self.plan.places[node] else {
            return Ok(());
        };
        let taken = self.gradients.slots[place.slot].take();
        let mut whole = taken.expect("gradients are in place between layers");
        let rows = batch.rows();
        let d_output = whole.view_mut(rows, place.width);
        let inputs = inputs(&self.nodes, &self.places, &self.values, batch, node);
        let pass = Backward {
            context,
            parameters,
            accumulate,
            output: value(
                batch,
                &self.values,
                &self.places.widths,
                &self.places.nodes[node],
            ),
            inputs,
            d_output: d_output.columns(place.columns.clone()),
            d_inputs: InputGradients {
                buffers: &mut self.gradients,
                writes: &self.plan.writes[node],
                rows,
            },
            workspace: self.workspace.view_mut(rows, self.layers[node].workspace()),
        };
        let result = self.layers[node].backward(pass);
        self.gradients.slots[place.slot] = Some(whole);
        result
    }
}
