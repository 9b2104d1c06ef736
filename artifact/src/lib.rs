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

pub mod fit;
pub mod key;
pub mod model_card;
pub mod sketch;

mod artifact;
mod bounded_sample;
mod buckets;
mod dense_column;
mod encoder;
mod excerpt;
mod feature_schema;
mod feature_spec;
mod fitted_features;
mod golden;
mod graph;
mod hashed_rows;
mod input;
mod input_sketch;
mod key_map;
mod local_time;
mod logarithm;
mod manifest;
mod moments;
mod nearest_name;
mod parameter;
mod profile;
mod profile_merge;
mod raw;
mod raw_value;
mod segments;
mod tensor_file;
mod vector_unit;
mod verdict;
mod vocabulary;
mod weights;

pub use artifact::{
    Artifact, ArtifactError, GOLDEN_FILE, MANIFEST_FILE, MODEL_CARD_FILE, MODEL_FILE, PROFILE_FILE,
};
pub use encoder::{Encoded, Encoder};
pub use excerpt::excerpt;
pub use feature_schema::{
    CategoricalFeature, DenseFeature, DenseSource, DenseStep, Encoding, FeatureSchema,
    LOGIT_EPSILON, Pooling, SchemaError, TableSchema,
};
pub use feature_spec::{
    BucketSpec, CategoricalSpec, DenseSpec, EncodingSpec, FeatureSpec, MissingSpec, RateSpec,
};
pub use fitted_features::{FittedFeatures, FittedFeaturesError};
pub use golden::{Golden, GoldenError};
pub use graph::{
    Activation, Graph, GraphError, GraphTable, LookupSpec, MAX_WIDTH, Node, Op, Shapes,
};
pub use input::{ColumnKind, InputColumn, SourceType, UnknownInput};
pub use input_sketch::{InputSketch, KeySketch, NumberSketch, ScoreSketch};
pub use key::{MISSING_KEY, MISSING_TIME};
pub use manifest::{FORMAT_VERSION, FileDigest, Manifest, ManifestError, TrainingSummary};
pub use moments::Moments;
pub use parameter::{Init, Parameter};
pub use profile::{
    InputProfile, KeyCount, KeyProfile, NumberProfile, PROFILE_VERSION, Profile, ProfileBuilder,
    QUANTILE_INTERVALS, ScoreProfile, TOP_KEYS,
};
pub use raw::{RawBatch, RawBatchError, RawColumn};
pub use raw_value::{LIST_LENGTH_MAX, RawColumnBuilder, RawValue, RawValueError};
pub use segments::{SEGMENTS_MAX, SegmentProfile};
pub use tensor_file::TensorFileError;
pub use verdict::{Outcome, VERDICT_FILE, VERDICT_VERSION, Verdict, VerdictError};
pub use vocabulary::{Vocabularies, Vocabulary, VocabularyError};
pub use weights::{Weight, Weights, WeightsError};
