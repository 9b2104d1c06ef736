//! `train --profile`: some steps of a run are recorded, told and written down.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::RunError;
use super::rank::Rank;
use crate::train::{Profile, Trainee};

/// Steps before the first that is recorded: memory is touched, readers are ahead.
const WARM_UP: u64 = 10;
/// Steps that are recorded.
const STEPS: u64 = 50;

/// Counts the steps of a run, and profiles some.
pub(super) struct StepProfile {
    profile: Profile,
    /// For the traces of all ranks.
    folder: PathBuf,
    steps: u64,
}

impl StepProfile {
    pub(super) fn new(profile: Profile, folder: PathBuf) -> Self {
        Self {
            profile,
            folder,
            steps: 0,
        }
    }

    /// A step has been taken.
    pub(super) fn note_step(
        &mut self,
        rank: &Rank,
        trainer: &mut dyn Trainee,
    ) -> Result<(), RunError> {
        self.steps += 1;
        if self.steps > WARM_UP && self.steps <= WARM_UP + STEPS {
            let on_device = trainer.measured_on_device()?;
            if !on_device.is_empty() {
                self.profile.add_device(on_device);
            }
        }
        if self.steps == WARM_UP {
            trainer.measure_device(true)?;
            self.profile.start();
        } else if self.steps == WARM_UP + STEPS {
            trainer.measure_device(false)?;
            self.tell(rank, STEPS)?;
        }
        Ok(())
    }

    /// There are no more steps: tells of those that were recorded, if that is still to be done.
    pub(super) fn finish(&self, rank: &Rank) -> Result<(), RunError> {
        match self.steps.saturating_sub(WARM_UP) {
            0 => {
                tracing::warn!("nothing was profiled: that begins after {WARM_UP} steps");
                Ok(())
            }
            steps if steps < STEPS => self.tell(rank, steps),
            _ => Ok(()),
        }
    }

    fn tell(&self, rank: &Rank, steps: u64) -> Result<(), RunError> {
        let report = self.profile.finish(steps);
        if rank.is_first() {
            tracing::info!("where the time of rank 0 goes: {report}");
        }
        self.write(rank.comm.rank())
    }

    fn write(&self, rank: usize) -> Result<(), RunError> {
        let path = self.folder.join(format!("rank-{rank}.json"));
        let failed = RunError::file("write", &path);
        let write = || {
            fs::create_dir_all(&self.folder)?;
            let mut file = BufWriter::new(File::create(&path)?);
            self.profile.write_chrome_trace(rank, &mut file)?;
            file.flush()
        };
        write().map_err(failed)
    }
}
