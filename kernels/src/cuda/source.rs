//! The sources of the kernels, embedded in the program, and every instantiation that launches use.

use super::{
    add, bce, cast, cross, dense_optimizer, dot_interaction, embedding_bag, factorization_machine,
    groups, linear, radix_sort, sparse_optimizer, step,
};

/// The header that all sources include.
pub const HEADER: &str = include_str!("../../streamrec.cuh");
/// The header's name in `#include`.
pub const HEADER_NAME: &str = "streamrec.cuh";

/// One `.cu` file.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The file's stem.
    pub name: &'static str,
    /// The file's text.
    pub text: &'static str,
    /// Its kernels: names, or template names with their arguments.
    pub kernels: &'static [&'static str],
}

macro_rules! sources {
    ($($module:ident),* $(,)?) => {
        &[$(Source {
            name: stringify!($module),
            text: include_str!(concat!("../../", stringify!($module), ".cu")),
            kernels: $module::KERNELS,
        }),*]
    };
}

/// All sources.
pub const SOURCES: &[Source] = sources![
    add,
    bce,
    cast,
    cross,
    dense_optimizer,
    dot_interaction,
    embedding_bag,
    factorization_machine,
    groups,
    linear,
    radix_sort,
    sparse_optimizer,
    step,
];
