//! The reference profile: what inputs and scores looked like on a split.

use streamrec_artifact::{Profile, ProfileBuilder};

use crate::data::BatchReader;
use crate::train::{Predict, TrainError};

/// Reads everything of `reader` once. `tick` is called once a batch with the rows so far.
///
/// # Errors
/// When a batch cannot be read or scored.
pub fn profile(
    model: &mut dyn Predict,
    reader: &mut BatchReader,
    mut builder: ProfileBuilder,
    mut tick: impl FnMut(u64),
) -> Result<Profile, TrainError> {
    let (mut probabilities, mut rows) = (Vec::new(), 0);
    let heads = model.heads();
    reader.start(0, 0)?;
    while let Some(batch) = reader.next()? {
        builder.observe(&batch.raw).map_err(TrainError::Encode)?;
        model.predict(&batch, &mut probabilities)?;
        let filled = batch.filled * heads;
        builder.observe_scores(&batch.labels[..filled], &probabilities[..filled]);
        rows += batch.filled as u64;
        reader.recycle(batch);
        tick(rows);
    }
    Ok(builder.finish())
}
