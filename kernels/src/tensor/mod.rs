//! Dense arrays: an owner ([`Tensor`]) and the views of it that operations take.

mod buffer;
mod dtype;
mod element;
mod owned;
mod view;

pub(crate) use buffer::AlignedBuffer;
pub use dtype::DType;
pub use element::Element;
pub use owned::Tensor;
pub use view::{TensorMut, TensorRef};
