//! The features of a run: fitted once on the training split by rank 0, then the same everywhere.

use std::path::Path;
use std::sync::Arc;

use streamrec_artifact::fit::{ColumnInfo, Fitter};
use streamrec_artifact::{Encoder, FittedFeatures, InputColumn, RawBatch, Vocabularies};

use super::RunError;
use super::rank::Rank;
use crate::config::Experiment;
use crate::data::{Block, Dataset, Split};
use crate::train::Progress;

/// Fitted features, ready to encode.
pub(super) struct Features {
    pub(super) fitted: FittedFeatures,
    pub(super) encoder: Arc<Encoder>,
}

impl Features {
    /// Reads the features in `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, RunError> {
        let fitted = FittedFeatures::read(folder)
            .map_err(RunError::other("the features of the run cannot be read"))?;
        let encoder = Encoder::new(&fitted.schema, &fitted.vocabularies).map_err(
            RunError::other("the features of the run do not fit together"),
        )?;
        Ok(Self {
            fitted,
            encoder: Arc::new(encoder),
        })
    }

    /// Fits the features where `folder` holds none yet; a warm start keeps the rows of `earlier`.
    /// Collective.
    pub(super) fn fit_or_read(
        rank: &Rank,
        experiment: &Experiment,
        dataset: &Dataset,
        earlier: Option<&FittedFeatures>,
        folder: &Path,
    ) -> Result<Self, RunError> {
        rank.reporter.set_phase("fit features");
        rank.first_works(|| {
            if FittedFeatures::exist(folder) {
                return Ok(());
            }
            fit(rank, experiment, dataset, earlier)?
                .write(folder)
                .map_err(RunError::other("the features of the run cannot be written"))
        })?;
        Self::read(folder)
    }
}

fn fit(
    rank: &Rank,
    experiment: &Experiment,
    dataset: &Dataset,
    earlier: Option<&FittedFeatures>,
) -> Result<FittedFeatures, RunError> {
    let columns: Vec<ColumnInfo> = dataset.columns.iter().map(column_info).collect();
    let mut fitter = Fitter::new(&experiment.features, &columns).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        RunError::Usage(format!(
            "the features do not fit the dataset {}:\n  - {}",
            dataset.folder.display(),
            lines.join("\n  - ")
        ))
    })?;
    let pack = dataset.pack(Split::Train)?;
    let places = fitter.inputs().iter().map(|input| pack.column(&input.name));
    let places = places.collect::<Result<Vec<_>, _>>()?;
    let mut block = Block::default();
    let mut raw = RawBatch::new(fitter.inputs());
    let mut progress = Progress::new("fit", "rows", pack.rows());
    for index in 0..pack.blocks() {
        pack.read_block(index, &mut block)?;
        raw.rows = block.rows;
        for (column, &place) in raw.columns.iter_mut().zip(&places) {
            std::mem::swap(column, &mut block.columns[place]);
        }
        fitter
            .observe(&raw)
            .map_err(RunError::other("the training split cannot be fitted"))?;
        for (column, &place) in raw.columns.iter_mut().zip(&places) {
            std::mem::swap(column, &mut block.columns[place]);
        }
        rank.reporter.tick();
        progress.at(fitter.rows(), String::new);
    }
    let (schema, vocabularies) = fitter
        .finish(experiment.data.labels.clone())
        .map_err(RunError::other("the features cannot be fitted"))?;
    grow(
        FittedFeatures {
            schema,
            vocabularies,
        },
        earlier,
    )
}

/// Keeps the rows of `earlier` in place and appends what is new.
fn grow(
    fitted: FittedFeatures,
    earlier: Option<&FittedFeatures>,
) -> Result<FittedFeatures, RunError> {
    let Some(earlier) = earlier else {
        return Ok(fitted);
    };
    let vocabularies = Vocabularies::grow(&earlier.vocabularies, &fitted.vocabularies).map_err(
        RunError::other("the vocabularies of the warm start cannot grow"),
    )?;
    let schema = fitted
        .schema
        .grow(&earlier.schema, &vocabularies)
        .map_err(RunError::other(
            "the features do not continue those of the warm start",
        ))?;
    Ok(FittedFeatures {
        schema,
        vocabularies,
    })
}

fn column_info(column: &crate::data::Column) -> ColumnInfo {
    let InputColumn {
        name,
        kind,
        source,
        unit,
        range,
        ..
    } = column.input(false);
    let usable = if column.role.may_be_input() {
        Ok(())
    } else {
        Err(format!(
            "a {} column is not known when a ranker is asked",
            column.role
        ))
    };
    ColumnInfo {
        name,
        kind,
        source,
        unit,
        range,
        usable,
    }
}
