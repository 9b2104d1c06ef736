//! Which columns of a packed file are read, and what each is for.

use streamrec_artifact::{ColumnKind, RawColumn};

use super::settings::{Inputs, ReaderSettings};
use crate::data::dataset::refuse_leak;
use crate::data::{Block, Column, Error, PackReader, Result, Role, TrailingSpec};

/// The columns of a window and their uses; a slot is a column's place in the window.
#[derive(Debug)]
pub(super) struct Selection {
    /// The column of the file for each slot, each once.
    pub columns: Vec<usize>,
    kinds: Vec<ColumnKind>,
    /// The slots of the inputs, in order.
    pub inputs: Vec<usize>,
    /// The slots of the labels, in order.
    pub labels: Vec<usize>,
    pub weight: Option<usize>,
    pub group: Option<usize>,
    pub truth: Vec<usize>,
    /// Inputs to which the counts of earlier data are added.
    pub trailing: Vec<TrailingInput>,
}

/// An input to which the counts of earlier data are added.
#[derive(Debug)]
pub(super) struct TrailingInput {
    /// Its place among the inputs.
    pub input: usize,
    /// The slots of its keys.
    pub keys: Vec<usize>,
    pub spec: TrailingSpec,
}

impl Selection {
    /// Finds what `settings` ask for among the columns of `pack`.
    pub fn new(settings: &ReaderSettings, pack: &PackReader) -> Result<Self> {
        let mut selection = Self {
            columns: Vec::new(),
            kinds: Vec::new(),
            inputs: Vec::new(),
            labels: Vec::new(),
            weight: None,
            group: None,
            truth: Vec::new(),
            trailing: Vec::new(),
        };
        for name in settings.inputs.names() {
            let (slot, column) = selection.slot(pack, name)?;
            refuse_leak(pack.path(), column)?;
            selection.inputs.push(slot);
        }
        check_types(&settings.inputs, pack)?;
        for name in &settings.labels {
            let slot = selection.slot_of_role(pack, name, Role::Label)?;
            selection.labels.push(slot);
        }
        for name in &settings.truth {
            let slot = selection.slot_of_role(pack, name, Role::Truth)?;
            selection.truth.push(slot);
        }
        if let Some(name) = &settings.weight {
            selection.weight = Some(selection.slot_of_role(pack, name, Role::Weight)?);
        }
        if let Some(name) = &settings.group {
            selection.group = Some(selection.key_slot(pack, name)?);
        }
        if let Some(base) = &settings.base {
            for (input, name) in settings.inputs.names().into_iter().enumerate() {
                let Some(spec) = base.columns.iter().find(|spec| spec.name == name) else {
                    continue;
                };
                if base.history.lookup(spec).is_none() {
                    let problem = "the history keeps no such counts; use the history of data imported with the same columns";
                    return Err(Error::column(pack.path(), name, problem));
                }
                let keys = spec
                    .keys
                    .iter()
                    .map(|key| selection.key_slot(pack, key))
                    .collect::<Result<_>>()?;
                selection.trailing.push(TrailingInput {
                    input,
                    keys,
                    spec: spec.clone(),
                });
            }
        }
        Ok(selection)
    }

    /// An empty window.
    pub fn block(&self) -> Block {
        Block::of_kinds(self.kinds.iter().copied())
    }

    /// Empty columns for the inputs.
    pub fn input_columns(&self) -> Vec<RawColumn> {
        self.inputs
            .iter()
            .map(|&slot| RawColumn::new(self.kinds[slot]))
            .collect()
    }

    /// Whether these are columns for the inputs: a recycled batch may come from another reader.
    pub fn fits(&self, columns: &[RawColumn]) -> bool {
        let kinds = self.inputs.iter().map(|&slot| self.kinds[slot]);
        columns.iter().map(RawColumn::kind).eq(kinds)
    }

    /// The slot of column `name`, a new one where it has none.
    fn slot<'a>(&mut self, pack: &'a PackReader, name: &str) -> Result<(usize, &'a Column)> {
        let place = pack.column(name)?;
        let column = &pack.columns()[place];
        let slot = self
            .columns
            .iter()
            .position(|&known| known == place)
            .unwrap_or_else(|| {
                self.columns.push(place);
                self.kinds.push(column.kind);
                self.columns.len() - 1
            });
        Ok((slot, column))
    }

    fn slot_of_role(&mut self, pack: &PackReader, name: &str, role: Role) -> Result<usize> {
        let (slot, column) = self.slot(pack, name)?;
        if column.role == role {
            return Ok(slot);
        }
        let names: Vec<_> = pack
            .columns()
            .iter()
            .filter(|c| c.role == role)
            .map(|c| c.name.as_str())
            .collect();
        let problem = format!(
            "expected a {role} column, this is a {} column; the {role} columns are: {}",
            column.role,
            names.join(", ")
        );
        Err(Error::column(pack.path(), name, problem))
    }

    fn key_slot(&mut self, pack: &PackReader, name: &str) -> Result<usize> {
        let (slot, column) = self.slot(pack, name)?;
        if column.kind == ColumnKind::Key {
            return Ok(slot);
        }
        let problem = format!("expected a key column, this one is {}", column.kind);
        Err(Error::column(pack.path(), name, problem))
    }
}

/// The file's columns must be what the encoder was fitted on.
fn check_types(inputs: &Inputs, pack: &PackReader) -> Result<()> {
    let Inputs::Encoded(encoder) = inputs else {
        return Ok(());
    };
    for input in &encoder.schema().inputs {
        let column = &pack.columns()[pack.column(&input.name)?];
        if (column.kind, column.source) != (input.kind, input.source) {
            let problem = format!(
                "the model was trained on a {} column of {} values, this one is {} of {}; \
                 import the data again with the types of the training data",
                input.kind, input.source, column.kind, column.source
            );
            return Err(Error::column(pack.path(), &input.name, problem));
        }
    }
    Ok(())
}
