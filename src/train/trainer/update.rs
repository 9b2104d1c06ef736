use std::time::Duration;

use tracing::trace_span;

use super::{TrainError, Trainer};
use crate::comm::all_reduce_f64;
use crate::optim::{LossScaler, LossScalerState};

impl Trainer {
    /// Updates tables, then dense weights. Returns the norm of the dense gradients, and how long it waited for gradients.
    pub(super) fn update(&mut self, step: u64) -> Result<(f64, Duration), TrainError> {
        let mut waited = self.tables.finish(&self.context)?;
        self.update_tables(step)?;
        waited += self.buckets.finish(self.parameters.gradients_mut())?;
        let (context, parameters) = (&self.context, &mut self.parameters);
        let norm = trace_span!("update dense weights")
            .in_scope(|| self.optimizer.update_dense(context, parameters, step))?;
        Ok((norm, waited))
    }

    /// Updates everything with gradients that were scaled, if all of all ranks are finite: no weight and
    /// no row changes before every rank knows. Returns the norm of the dense gradients, `None` where
    /// nothing was updated, and how long it waited for gradients. Collective.
    pub(super) fn update_if_finite(
        &mut self,
        mut scaler: LossScaler,
        loss: f64,
        step: u64,
    ) -> Result<(Option<f64>, Duration), TrainError> {
        let (context, inverse) = (&self.context, scaler.inverse());
        let mut waited = self.tables.finish(context)?;
        waited += self.buckets.finish(self.parameters.gradients_mut())?;
        let scaled_norm = self.optimizer.dense_norm(context, &self.parameters)?;
        let mut finite = loss.is_finite() && scaled_norm.is_finite();
        finite &= self.tables.scale_if_finite(context, inverse as f32);
        if let Some(exchange) = &mut self.exchange {
            finite &= exchange.scale_if_finite(context, inverse as f32);
        }
        let mut overflows = [f64::from(u8::from(!finite))];
        all_reduce_f64(self.mesh.world.as_ref(), &mut overflows)?;
        let overflow = overflows[0] > 0.0;
        scaler.note(overflow);
        self.scaler = Some(scaler);
        if overflow {
            let LossScalerState {
                scale,
                skipped_steps,
                ..
            } = scaler.state();
            self.optimizer.set_skipped_steps(skipped_steps);
            return match scale < 1.0 {
                true => Err(TrainError::LossScale { step, loss }),
                false => Ok((None, waited)),
            };
        }
        self.update_tables(step)?;
        let norm = scaled_norm * inverse;
        let (context, parameters) = (&self.context, &mut self.parameters);
        trace_span!("update dense weights").in_scope(|| {
            self.optimizer
                .update_scaled_dense(context, parameters, [norm, inverse], step)
        })?;
        Ok((Some(norm), waited))
    }

    /// Updates the tables; then the vectors of the next batch leave.
    fn update_tables(&mut self, step: u64) -> Result<(), TrainError> {
        let (context, parameters) = (&self.context, &mut self.parameters);
        let (tables, network, exchange) = (&self.tables, &self.network, &self.exchange);
        let gradient = |table| {
            let sharded = exchange
                .as_ref()
                .and_then(|exchange| exchange.gradient(table));
            sharded.unwrap_or_else(|| tables.gradient(network, table))
        };
        trace_span!("update tables").in_scope(|| {
            self.optimizer
                .update_tables(context, parameters, step, gradient)
        })?;
        if let Some(exchange) = &mut self.exchange {
            self.ahead.begin_next();
            self.ahead
                .send_vectors(exchange, context, &self.parameters)?;
        }
        Ok(())
    }
}
