//! The sources of the kernels, embedded in the program, and every instantiation that launches use.

use super::{
    add, bce, cast, cross, dense_optimizer, dot_interaction, embedding_bag, factorization_machine,
    groups, linear, radix_sort, sparse_optimizer, step, whole_rows,
};

/// The headers that sources include, and nothing else: names and texts.
pub const HEADERS: [(&str, &str); 2] = [
    ("streamrec.cuh", include_str!("../../streamrec.cuh")),
    ("table_rows.cuh", include_str!("../../table_rows.cuh")),
];

/// What the compiled kernels of a source depend on: its text, the headers, and `more`.
pub(super) fn texts<'a>(source: &Source, more: [&'a str; 2]) -> Vec<&'a str> {
    let headers = HEADERS.iter().map(|(_, text)| *text);
    std::iter::once(source.text)
        .chain(headers)
        .chain(more)
        .collect()
}

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
    whole_rows,
];
