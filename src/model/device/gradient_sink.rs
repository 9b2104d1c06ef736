use crate::model::{ModelError, ParamId};

/// Hears of gradients on a device.
pub trait DeviceGradientSink<E> {
    /// The gradient of a dense parameter is final, once the work is done that was asked for so far. All ranks hear of
    /// the same parameters in the same order.
    ///
    /// # Errors
    /// When the device fails.
    fn ready(&mut self, executor: &mut E, parameter: ParamId) -> Result<(), ModelError>;
}
