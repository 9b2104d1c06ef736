//! Pooled lookups in embedding tables, and the gradients of the rows looked up.
//!
//! A *bag* is the list of ids of one feature of one sample; its rows are pooled into one vector.
//! The gradient of a table is sparse: [`Groups`] sorts the ids of a batch once, so that each
//! touched row is summed and updated exactly once, by one thread, in a fixed order.
//!
//! ```text
//! ids -> forward -> pooled vectors
//! ids -> Groups -> sparse_optimizer::update (rows updated in place, nothing in between)
//!               -> segment_sum -> RowGradients -> merge over ranks -> sparse_optimizer::update
//! ```

mod bags;
mod forward;
mod groups;
mod radix;
mod row_gradients;
mod segment;

pub use bags::{BagSource, Bags, Lookup, Pooling};
pub use forward::forward;
pub use groups::{GroupedTable, Groups};
pub use row_gradients::{RowGradients, RowGradientsRef, merge};
pub(crate) use segment::Segments;
pub use segment::segment_sum;
