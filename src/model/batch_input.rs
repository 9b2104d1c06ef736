use streamrec_artifact::Encoded;
use streamrec_kernels::{TensorRef, embedding_bag::Bags};

/// What a network reads of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchInput<'a> {
    /// The dense features, `[rows, dense]`.
    pub dense: TensorRef<'a>,
    /// The rows that each categorical feature looks up, in the order of the schema.
    pub bags: Bags<'a>,
    /// The pooled vectors of lookups in sharded tables, `[rows, columns]`, where there are any: see
    /// [`RemoteLookup`](super::RemoteLookup).
    pub remote: Option<TensorRef<'a>>,
}

impl<'a> BatchInput<'a> {
    /// A batch as the encoder lays it out: `dense: [rows, n_dense]`, `ids` of all bags feature by
    /// feature, `offsets: [n_categorical * rows + 1]`.
    ///
    /// # Panics
    /// When `dense` is not `[rows, n_dense]`. Ids and offsets are checked by the network.
    pub fn new(
        rows: usize,
        n_dense: usize,
        n_categorical: usize,
        dense: &'a [f32],
        ids: &'a [i64],
        offsets: &'a [i64],
    ) -> Self {
        Self {
            dense: TensorRef::from_f32(dense, &[rows, n_dense]),
            bags: Bags {
                ids,
                offsets,
                weights: None,
                batch: rows,
                features: n_categorical,
            },
            remote: None,
        }
    }

    /// The same batch with the pooled vectors of sharded tables.
    #[must_use]
    pub fn with_remote(self, vectors: TensorRef<'a>) -> Self {
        Self {
            remote: Some(vectors),
            ..self
        }
    }

    /// An encoded batch of `[dense, categorical]` features.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn of(encoded: &'a Encoded, [dense, categorical]: [usize; 2]) -> Self {
        let Encoded {
            rows,
            dense: values,
            ids,
            offsets,
        } = encoded;
        Self::new(*rows, dense, categorical, values, ids, offsets)
    }

    /// The number of samples.
    pub fn rows(&self) -> usize {
        self.bags.batch
    }
}
