//! From a trained model to an artifact: golden examples, profile, weights.
//!
//! Never does: train, or score with anything but the exported weights.

mod golden;
mod profile;

pub use golden::{golden, golden_rows};
pub use profile::profile;

use streamrec_artifact::Weights;

use crate::model::ParameterStore;

/// The weights as an artifact holds them, float32, of a store that holds every parameter in whole.
pub fn weights(parameters: &ParameterStore) -> Weights {
    let mut weights = Weights::new();
    for slice in parameters.named_slices() {
        weights.insert(slice.name, slice.extent.shape, slice.values.to_f32());
    }
    weights
}
