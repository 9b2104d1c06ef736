//! A model that only predicts: no gradients in use, no optimiser state.

use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_kernels::Context;

use super::TrainError;
use crate::comm::SingleRank;
use crate::data::Batch;
use crate::model::{
    BatchInput, BucketSettings, ModelError, Network, ParameterBuilder, ParameterStore,
    TensorParallel,
};

/// Whatever gives the probabilities of a batch.
pub trait Predict {
    /// The number of labels.
    fn heads(&self) -> usize;

    /// The probabilities of a batch, `[rows, heads]`.
    ///
    /// # Errors
    /// When the batch does not fit the model.
    fn predict(&mut self, batch: &Batch, probabilities: &mut Vec<f32>) -> Result<(), TrainError>;
}

/// A model on one rank, to evaluate and to export.
pub struct Predictor {
    context: Context,
    parameters: ParameterStore,
    network: Network,
    features: [usize; 2],
}

impl Predictor {
    /// A model whose weights are still to be loaded, for batches of up to `batch_rows` rows.
    ///
    /// # Errors
    /// When the graph is not valid.
    pub fn new(
        context: Context,
        graph: &Graph,
        schema: &FeatureSchema,
        batch_rows: usize,
    ) -> Result<Self, TrainError> {
        let shapes = graph.validate(schema).map_err(ModelError::from)?;
        let buckets = BucketSettings::default();
        let builder = ParameterBuilder::new(0).graph(graph, &shapes, &TensorParallel::none());
        let parameters = builder.build(&context, &SingleRank, buckets)?;
        let network = Network::new(
            &context,
            graph,
            schema,
            &parameters,
            &TensorParallel::none(),
            batch_rows,
        )?;
        let features = [schema.dense.len(), schema.categorical.len()];
        Ok(Self {
            context,
            parameters,
            network,
            features,
        })
    }

    /// The weights.
    pub fn parameters(&self) -> &ParameterStore {
        &self.parameters
    }

    /// The weights, to load into.
    pub fn parameters_mut(&mut self) -> &mut ParameterStore {
        &mut self.parameters
    }

    /// The logits of encoded rows, `[rows, heads]`.
    ///
    /// # Errors
    /// When the rows do not fit the model.
    pub fn logits(
        &mut self,
        encoded: &streamrec_artifact::Encoded,
    ) -> Result<Vec<f32>, TrainError> {
        let input = BatchInput::of(encoded, self.features);
        let logits = self
            .network
            .forward(&self.context, &self.parameters, &input)?;
        Ok(logits.f32().unwrap_or_default().to_vec())
    }
}

impl Predict for Predictor {
    fn heads(&self) -> usize {
        self.network.heads()
    }

    fn predict(&mut self, batch: &Batch, probabilities: &mut Vec<f32>) -> Result<(), TrainError> {
        probabilities.resize(batch.rows * self.heads(), 0.0);
        let input = BatchInput::of(&batch.encoded, self.features);
        let (context, parameters) = (&self.context, &self.parameters);
        Ok(self
            .network
            .scores(context, parameters, &input, probabilities)?)
    }
}
