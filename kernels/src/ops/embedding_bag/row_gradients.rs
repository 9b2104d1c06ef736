use std::ops::Range;

use super::radix::SortedPairs;
use crate::{
    device::{Context, Device, DisjointMut},
    error::{Error, Result},
    ops::operand::expect_len,
    simd::multiversion,
};

/// The gradient of a table: the touched rows only.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct RowGradients {
    /// The touched rows of the table, ascending, each once. `[touched]`
    pub ids: Vec<i64>,
    /// Their gradients. `[touched, dim]`
    pub rows: Vec<f32>,
}

impl RowGradients {
    /// A view of all of it.
    pub fn view(&self) -> RowGradientsRef<'_> {
        RowGradientsRef {
            ids: &self.ids,
            rows: &self.rows,
        }
    }
}

/// A view of [`RowGradients`], perhaps of a received buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowGradientsRef<'a> {
    /// The touched rows of the table, ascending, each once. `[touched]`
    pub ids: &'a [i64],
    /// Their gradients. `[touched, dim]`
    pub rows: &'a [f32],
}

impl RowGradientsRef<'_> {
    /// Checks lengths and order of ids, and that all are below `rows`.
    pub(crate) fn check(&self, operation: &'static str, dim: usize, rows: usize) -> Result<()> {
        expect_len(
            operation,
            "gradient rows",
            self.rows.len(),
            self.ids.len() * dim,
        )?;
        if let Some(&first) = self.ids.first()
            && first < 0
        {
            let what = "row ids are not negative";
            return Err(Error::Index {
                operation,
                what,
                index: 0,
                got: first,
            });
        }
        if let Some(index) = self.ids.windows(2).position(|pair| pair[0] >= pair[1]) {
            let (what, got) = ("row ids ascend, each once", self.ids[index + 1]);
            return Err(Error::Index {
                operation,
                what,
                index: index + 1,
                got,
            });
        }
        match self.ids.last() {
            Some(&last) if last as u64 >= rows as u64 => {
                let (what, index) = ("row ids are below the table's rows", self.ids.len() - 1);
                Err(Error::Index {
                    operation,
                    what,
                    index,
                    got: last,
                })
            }
            _ => Ok(()),
        }
    }
}

/// Rows of one parallel task.
const PANEL_ROWS: usize = 256;

/// Sums the gradients of several ranks: the gradient of a row is
/// `parts[0] + parts[1] + ...` over the parts that touch it, in their order.
///
/// # Errors
/// When a part's ids do not ascend or its rows are not `[touched, dim]`.
pub fn merge(
    context: &Context,
    parts: &[RowGradientsRef<'_>],
    dim: usize,
    merged: &mut RowGradients,
) -> Result<()> {
    const OPERATION: &str = "embedding_bag::merge";
    for part in parts {
        part.check(OPERATION, dim, i64::MAX as usize)?;
    }
    let len = parts.iter().map(|part| part.ids.len()).sum();
    let last = parts
        .iter()
        .filter_map(|part| part.ids.last())
        .max()
        .copied()
        .unwrap_or(0);
    let mut sorted = SortedPairs::default();
    let ids = parts.iter().map(|part| part.ids);
    if !sorted.sort(ids, len, last as usize + 1) {
        let what = "ids and positions fit 64 bits together";
        return Err(Error::Index {
            operation: OPERATION,
            what,
            index: len,
            got: last,
        });
    }
    let (starts, sources) = group(&sorted, parts, &mut merged.ids);
    merged.rows.resize(merged.ids.len() * dim, 0.0);
    let rows = DisjointMut::new(&mut merged.rows);
    match context.device() {
        Device::Cpu => context.for_each_panel(merged.ids.len(), PANEL_ROWS, |range| {
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let rows = unsafe { rows.slice(range.start * dim..range.end * dim) };
            merge_panel(parts, dim, &starts, &sources, range, rows);
        }),
    }
    Ok(())
}

/// Writes the distinct ids; returns where each one's sources start, and the sources
/// (part, row of the part).
fn group(
    sorted: &SortedPairs,
    parts: &[RowGradientsRef<'_>],
    ids: &mut Vec<i64>,
) -> (Vec<usize>, Vec<(u32, u32)>) {
    let origins: Vec<(u32, u32)> = (0u32..)
        .zip(parts)
        .flat_map(|(index, part)| (0..part.ids.len() as u32).map(move |row| (index, row)))
        .collect();
    let mut sources = Vec::with_capacity(origins.len());
    let mut starts = vec![];
    ids.clear();
    for (id, position) in sorted.pairs() {
        if ids.last() != Some(&id) {
            ids.push(id);
            starts.push(sources.len());
        }
        sources.push(origins[position]);
    }
    starts.push(sources.len());
    (starts, sources)
}

multiversion! {
    fn merge_panel(
        parts: &[RowGradientsRef<'_>],
        dim: usize,
        starts: &[usize],
        sources: &[(u32, u32)],
        range: Range<usize>,
        rows: &mut [f32],
    ) {
        for (index, out) in range.zip(rows.chunks_exact_mut(dim.max(1))) {
            let mut sources = sources[starts[index]..starts[index + 1]]
                .iter()
                .map(|&(part, row)| &parts[part as usize].rows[row as usize * dim..][..dim]);
            if let Some(first) = sources.next() {
                out.copy_from_slice(first);
            }
            for row in sources {
                out.iter_mut().zip(row).for_each(|(out, row)| *out += row);
            }
        }
    }
}
