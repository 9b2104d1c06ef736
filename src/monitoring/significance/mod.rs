//! How probable a change as great is where nothing changed, and how many such changes are believed.

mod chi_squared;
mod correction;
mod mann_whitney;

pub use chi_squared::{chi_squared_tail, homogeneity};
pub use correction::{Correction, rejected};
pub use mann_whitney::{MannWhitney, mann_whitney};
