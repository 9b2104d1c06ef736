//! What training hands to others: one definition of a model, used by training and serving alike.
//!
//! ```text
//! FeatureSpec ─► fit::Fitter ─► FeatureSchema + Vocabularies ─► Encoder
//!   (config)     (one pass)         (manifest, weights)           │
//! packed rows, requests, golden rows ─► RawBatch ────────────► Encoded ─► Graph ─► logits
//! ```
//!
//! Raw values are never fitted, so training data, requests and golden examples share them, and the encoder
//! is the only way from them to the model's inputs. The crate never trains, never serves, and imports no
//! other crate of the workspace.
#![forbid(unsafe_code)]

pub mod key;

mod dense_column;
mod encoder;
mod feature_schema;
mod feature_spec;
mod graph;
mod input;
mod key_map;
mod local_time;
mod logarithm;
mod nearest_name;
mod parameter;
mod raw;
mod vocabulary;

pub use encoder::{Encoded, Encoder};
pub use feature_schema::{
    CategoricalFeature, DenseFeature, DenseSource, DenseStep, Encoding, FeatureSchema,
    LOGIT_EPSILON, Pooling, SchemaError, TableSchema,
};
pub use feature_spec::{
    BucketSpec, CategoricalSpec, DenseSpec, EncodingSpec, FeatureSpec, MissingSpec, RateSpec,
};
pub use graph::{
    Activation, Graph, GraphError, GraphTable, LookupSpec, MAX_WIDTH, Node, Op, Shapes,
};
pub use input::{ColumnKind, InputColumn, SourceType};
pub use key::{MISSING_KEY, MISSING_TIME};
pub use parameter::{Init, Parameter};
pub use raw::{RawBatch, RawBatchError, RawColumn};
pub use vocabulary::{Vocabularies, Vocabulary, VocabularyError};
