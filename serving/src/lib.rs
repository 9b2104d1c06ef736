//! The crate's parts arrive with their first users.
