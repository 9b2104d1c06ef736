/// What a device worked on and when, in a measurement: see [`Executor::measure`](super::Executor::measure).
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The kernel, the product, or what collectives are called.
    pub name: String,
    /// From the first piece of work on, in microseconds.
    pub began_us: f64,
    /// In microseconds.
    pub took_us: f64,
    /// Whether devices did it together, beside the other work.
    pub is_collective: bool,
}
