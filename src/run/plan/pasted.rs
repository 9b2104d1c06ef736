//! A plan as the section of an experiment that fixes it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::RunError;
use crate::config::{Placement, TableConfig};
use crate::parallel::planner::Choice;

/// What to do to train as planned.
pub(super) fn advice(choices: &[Choice]) -> Result<String, RunError> {
    let sharded = |choice: &&Choice| choice.placement != Placement::Replicated;
    if !choices.iter().any(|choice| sharded(&choice)) {
        return Ok(
            "\nEvery table is replicated, which is what an experiment does by itself.\n".into(),
        );
    }
    let section = Section {
        parallel: Parallel {
            embeddings: Embeddings {
                tables: tables(choices.iter().filter(sharded)),
            },
        },
    };
    let toml = toml::to_string(&section).map_err(RunError::other("the plan has no TOML form"))?;
    Ok(format!(
        "\nTo have tables placed when training begins, set `parallel.embeddings.placement` to \"auto\".\n\
         To train with just these, put this into the experiment:\n\n{toml}"
    ))
}

/// The settings that fix some choices.
pub(super) fn tables<'a>(
    choices: impl Iterator<Item = &'a Choice>,
) -> BTreeMap<String, TableConfig> {
    let table = |choice: &Choice| {
        let config = TableConfig {
            placement: Some(choice.placement),
            exchange: (choice.placement != Placement::Replicated).then_some(choice.exchange),
            rank: (choice.placement == Placement::TableWise).then_some(choice.owner),
        };
        (choice.table.clone(), config)
    };
    choices.map(table).collect()
}

#[derive(Serialize)]
struct Section {
    parallel: Parallel,
}

#[derive(Serialize)]
struct Parallel {
    embeddings: Embeddings,
}

#[derive(Serialize)]
struct Embeddings {
    tables: BTreeMap<String, TableConfig>,
}
