//! The optimiser's state on its way between host and device.

use streamrec_kernels::cuda::{Address, Executor, step::Scaler};

use super::DeviceOptimizer;
use crate::{
    config::LossScaleConfig,
    model::ModelError,
    optim::{LossScalerState, OptimError, Optimizer},
};

impl DeviceOptimizer {
    /// Takes the state of the host's optimiser, and where its loss scaling stands.
    ///
    /// # Errors
    /// When the device fails.
    pub fn upload<E: Executor>(
        &self,
        executor: &mut E,
        optimizer: &Optimizer,
        scaling: Option<(LossScaleConfig, LossScalerState)>,
    ) -> Result<(), OptimError> {
        let dense = optimizer.dense.state_arenas().zip(self.dense_states);
        for (arena, at) in dense {
            upload(executor, arena.f32(), at)?;
        }
        for (state, places) in optimizer.sparse.states().zip(&self.table_states) {
            for ((_, tensor), &at) in state.tensors().zip(places) {
                upload(executor, tensor.f32(), at)?;
            }
        }
        let scaler = match scaling {
            Some((config, state)) => Scaler {
                scale: state.scale,
                scale_max: LossScaleConfig::MAX,
                growth_steps: config.growth_steps,
                clean_steps: state.clean_steps,
                skipped_steps: state.skipped_steps,
            },
            None => Scaler {
                scale: 1.0,
                scale_max: 1.0,
                growth_steps: 0,
                clean_steps: 0,
                skipped_steps: 0,
            },
        };
        upload(executor, &[scaler], self.control.scaler())
    }

    /// Gives the state to the host's optimiser.
    ///
    /// # Errors
    /// When the device fails.
    pub fn download<E: Executor>(
        &self,
        executor: &mut E,
        optimizer: &mut Optimizer,
    ) -> Result<(), OptimError> {
        let dense = optimizer.dense.state_arenas_mut().zip(self.dense_states);
        for (arena, at) in dense {
            download(executor, at, arena.f32_mut())?;
        }
        for (state, places) in optimizer.sparse.states_mut().zip(&self.table_states) {
            for ((_, tensor), &at) in state.tensors_mut().zip(places) {
                download(executor, at, tensor.f32_mut())?;
            }
        }
        Ok(())
    }
}

pub(super) fn upload<E: Executor, T: bytemuck::NoUninit>(
    executor: &mut E,
    from: &[T],
    to: Address,
) -> Result<(), OptimError> {
    if from.is_empty() {
        return Ok(());
    }
    let bytes = bytemuck::cast_slice(from);
    Ok(executor.upload(bytes, to).map_err(ModelError::from)?)
}

fn download<E: Executor>(
    executor: &mut E,
    from: Address,
    to: &mut [f32],
) -> Result<(), OptimError> {
    let bytes = bytemuck::cast_slice_mut(to);
    Ok(executor.download(from, bytes).map_err(ModelError::from)?)
}
