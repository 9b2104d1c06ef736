use crate::tensor::TensorRef;

/// What is done with a tile before it is stored.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Add to what is in memory.
    pub(crate) accumulate: bool,
    /// Add to each row.
    pub(crate) bias: Option<&'a [f32]>,
    /// Replace negative numbers by zero; NaN stays NaN.
    pub(crate) relu: bool,
    /// Replace numbers by zero where these, `[rows, columns]`, are not positive: the gradient of a rectifier at its values.
    /// NaN lets them pass.
    pub(crate) gate: Option<TensorRef<'a>>,
    /// With `[x0, x]`, `[rows, columns]` each, replace a number `p` by `x0 * p + x`: what follows the projection of a cross
    /// layer.
    pub(crate) cross: Option<[TensorRef<'a>; 2]>,
}
