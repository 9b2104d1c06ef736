use std::error::Error;
use std::time::{Duration, Instant};

use streamrec_kernels::cuda::{DeviceError, Executor};

use super::trainer::DeviceTrainer;
use crate::model::ModelError;
use crate::train::{DeviceWork, TrainError};

/// How long a device may work before its rank looks after the others.
const PATIENCE: Duration = Duration::from_millis(20);

impl<E: Executor> DeviceTrainer<E> {
    /// Waits for the device to be done with what it was asked for, which `is_here` tells, and looks after the other ranks
    /// meanwhile: it would wait for one that is gone for ever.
    pub(super) fn wait(
        &mut self,
        work: DeviceWork,
        mut is_here: impl FnMut(&mut Self) -> Result<bool, DeviceError>,
    ) -> Result<(), TrainError> {
        if self.ranks.ranks() == 1 {
            return Ok(());
        }
        let began = Instant::now();
        while !is_here(self).map_err(ModelError::from)? {
            let waited = began.elapsed();
            if waited < PATIENCE {
                std::thread::yield_now();
                continue;
            }
            self.ranks.leave();
            self.ranks.look()?;
            if waited > self.timeout {
                let what = self.executor.last_begun();
                self.executor.abandon();
                return Err(TrainError::Stuck {
                    what: what.unwrap_or("the work"),
                    work,
                    steps: self.ranks.steps().to_vec(),
                    waited_s: waited.as_secs_f64(),
                });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Waits until no step is under way; what became of them is told later.
    pub(super) fn quiet(&mut self) -> Result<(), TrainError> {
        let Some([_, last]) = self.outcomes.steps() else {
            return Ok(());
        };
        let all = |own: &mut Self| own.outcomes.are_here(&mut own.executor, true);
        self.wait(DeviceWork::Step(last), all)
            .map_err(|error| self.explain(error, DeviceWork::Step(last)))
    }

    /// Says which ranks are missing, where a failure is that of a collective; and lets nothing wait any more.
    pub(super) fn explain(&mut self, error: TrainError, work: DeviceWork) -> TrainError {
        let explained = matches!(error, TrainError::Collective { .. });
        if explained || self.ranks.ranks() == 1 || !is_of_collectives(&error) {
            return error;
        }
        let what = self.executor.last_begun();
        self.executor.abandon();
        let missing = match error {
            TrainError::Comm(source) | TrainError::Model(ModelError::Comm(source)) => source,
            error => match self.ranks.missing() {
                Some(source) => source,
                None => return error,
            },
        };
        TrainError::Collective {
            what: what.unwrap_or("the first collective"),
            work,
            steps: self.ranks.steps().to_vec(),
            source: Box::new(missing),
        }
    }
}

/// Whether other ranks are behind a failure.
fn is_of_collectives(error: &TrainError) -> bool {
    if error.comm().is_some() {
        return true;
    }
    let mut cause = Error::source(error);
    while let Some(error) = cause {
        if matches!(error.downcast_ref(), Some(DeviceError::Collective { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}
