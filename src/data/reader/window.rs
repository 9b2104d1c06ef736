//! A window in memory: the wanted columns of some blocks, and the order of their rows.

use super::plan::Plan;
use crate::data::{Block, Result};

#[derive(Debug)]
pub(super) struct Window {
    /// The position of its first row in the epoch's order.
    pub start: u64,
    /// The rows of its blocks as they lie in the files.
    pub block: Block,
    /// The row of `block` at each place; none where rows keep their order.
    order: Option<Vec<u32>>,
}

impl Window {
    /// Reads a window into the memory of `block`.
    pub fn load(plan: &Plan, window: usize, mut block: Block) -> Result<Self> {
        block.clear();
        for &number in plan.order.blocks(window) {
            let (file, number) = plan.source.block(number as usize);
            file.append_block(number, &plan.source.selection.columns, &mut block)?;
        }
        let start = plan.order.positions(window).start;
        Ok(Self {
            start,
            block,
            order: plan.order.row_order(window),
        })
    }

    /// The position after its last row.
    pub fn end(&self) -> u64 {
        self.start + self.block.rows as u64
    }

    /// The row of `block` at `position`, which must lie in the window.
    #[inline]
    pub fn row_at(&self, position: u64) -> u32 {
        let place = (position - self.start) as u32;
        self.order
            .as_ref()
            .map_or(place, |order| order[place as usize])
    }
}
