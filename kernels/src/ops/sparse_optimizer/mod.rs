//! Updates of the touched rows of an embedding table: each row once, in place, in parallel,
//! without locks.
//!
//! The gradient comes either as summed rows (merged over ranks, say) or straight from the batch,
//! summed row by row while the row is updated. Both give the same bits. Rows that no id touches
//! stay as they are: no decay, no moment changes. Tables may be stored in half precision: a row is widened, updated in
//! float32 and rounded stochastically ([`Rounding`]); state is float32. Where other ranks hold the other columns of a table,
//! [`row_products`] and [`SparseGradient::Columns`] give the update of the whole row.

mod rounding;
mod rule;
mod state;
mod step;
mod update;
mod whole_rows;

pub use rounding::Rounding;
pub use rule::SparseRule;
pub use state::SparseState;
pub use step::SparseStep;
pub use update::{SparseGradient, update};
pub use whole_rows::{WholeRows, row_products};
