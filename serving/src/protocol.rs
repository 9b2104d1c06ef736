//! The Open Inference Protocol v2, REST: what requests and answers look like.
//!
//! An input is a raw feature by its name, one element a row:
//!
//! ```json
//! {"inputs": [
//!   {"name": "user_id",  "shape": [2], "datatype": "INT64", "data": [17, 4]},
//!   {"name": "device",   "shape": [2], "datatype": "BYTES", "data": ["phone", null]},
//!   {"name": "tags",     "shape": [2, -1], "datatype": "INT64", "data": [[3, 9], []]}]}
//! ```
//!
//! Beyond the protocol: `null` is a missing value, and a list feature takes one list a row. Text
//! whose 64-bit key the caller has computed already (XXH3-64) comes as `UINT64`.

mod answer;
mod datatype;
mod refusal;
mod request;
mod request_error;
mod tensor;
mod tensor_data;

pub use answer::{InferResponse, ModelMetadata, OutputTensor, ServerMetadata, TensorMetadata};
pub use request::{Expected, InferRequest};
pub use request_error::RequestError;
