//! Claims about the whole: one binary, one file a boundary.

mod architecture;
