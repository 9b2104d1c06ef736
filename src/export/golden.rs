//! Golden examples: raw rows with the scores of the exported weights.

use streamrec_artifact::{Encoded, Encoder, Golden, RawBatch};

use crate::data::{Block, PackReader, Result as DataResult};
use crate::train::{Predictor, TrainError};

/// `count` rows of a packed file, evenly spread, with the columns that the encoder reads.
///
/// # Errors
/// When the file cannot be read or lacks a column.
pub fn golden_rows(pack: &PackReader, encoder: &Encoder, count: usize) -> DataResult<RawBatch> {
    let inputs = &encoder.schema().inputs;
    let places = inputs.iter().map(|input| pack.column(&input.name));
    let places = places.collect::<DataResult<Vec<_>>>()?;
    let mut rows = RawBatch::new(inputs);
    let (mut block, mut loaded) = (Block::default(), None);
    let count = (count as u64).min(pack.rows());
    for index in 0..count {
        let row = index * pack.rows() / count;
        let number = (row / pack.block_rows() as u64) as usize;
        if loaded != Some(number) {
            pack.read_block(number, &mut block)?;
            loaded = Some(number);
        }
        let row = (row % pack.block_rows() as u64) as usize;
        for (column, &place) in rows.columns.iter_mut().zip(&places) {
            column.push_row_of(&block.columns[place], row);
        }
        rows.rows += 1;
    }
    Ok(rows)
}

/// Scores `rows`, and two probes beside them (nothing known, nobody seen), with the exported
/// weights.
///
/// # Errors
/// When the rows do not fit the model.
pub fn golden(
    predictor: &mut Predictor,
    encoder: &Encoder,
    rows: &RawBatch,
) -> Result<Golden, TrainError> {
    let raw = Golden::with_probes(rows);
    let mut encoded = Encoded::default();
    encoder
        .encode(&raw, &mut encoded)
        .map_err(TrainError::Encode)?;
    let logits = predictor.logits(&encoded)?;
    let probabilities = logits.iter().map(|&logit| sigmoid(logit)).collect();
    Ok(Golden {
        raw,
        encoded,
        logits,
        probabilities,
    })
}

/// In double precision, as the loss computes it.
fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}
