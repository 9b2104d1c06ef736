use streamrec_kernels::cuda::{
    Address, Step,
    step::{Scaler, Verdict},
};

use crate::optim::LossScalerState;

const _: () = assert!(size_of::<Step>() <= 64 && size_of::<Scaler>() <= 48);

/// What became of a step, as the device tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceVerdict {
    /// This step's loss.
    pub loss: f64,
    /// The norm of the dense gradients, unscaled, before clipping.
    pub norm: f64,
    /// Whether nothing was updated.
    pub skipped: bool,
    /// Whether a table's row was left as it was, since its gradient is not finite.
    pub row_not_finite: bool,
    /// Where the scaling of the loss stands.
    pub scaler: LossScalerState,
}

/// The numbers of steps in device memory, one behind the other, so that one copy tells all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Control(pub(super) Address);

impl Control {
    pub(super) const BYTES: usize = 192;

    fn at(self, offset: u64) -> Address {
        Address(self.0.0 + offset)
    }
    pub(super) fn step(self) -> Address {
        self.at(0)
    }
    pub(super) fn overflow(self) -> Address {
        self.at(std::mem::offset_of!(Step, overflow) as u64)
    }
    pub(super) fn scaler(self) -> Address {
        self.at(64)
    }
    pub(super) fn verdict_at(self) -> Address {
        self.at(112)
    }
    pub(super) fn loss(self) -> Address {
        self.at(144)
    }
    pub(super) fn squares(self) -> Address {
        self.at(152)
    }
    /// The second of the squares: of what a tensor-parallel group shares.
    pub(super) fn shared_squares(self) -> Address {
        self.at(160)
    }
    pub(super) fn not_finite(self) -> Address {
        self.at(168)
    }
    pub(super) fn first_bad(self) -> Address {
        self.at(176)
    }

    /// What became of a step, from a copy of these numbers behind it.
    pub(super) fn verdict(self, bytes: &[u8]) -> DeviceVerdict {
        let offset = |at: Address| (at.0 - self.0.0) as usize;
        fn read<T: bytemuck::AnyBitPattern>(bytes: &[u8], at: usize) -> T {
            bytemuck::pod_read_unaligned(&bytes[at..at + size_of::<T>()])
        }
        let verdict: Verdict = read(bytes, offset(self.verdict_at()));
        let scaler: Scaler = read(bytes, offset(self.scaler()));
        DeviceVerdict {
            loss: read(bytes, offset(self.loss())),
            norm: verdict.norm,
            skipped: verdict.skipped != 0,
            row_not_finite: read::<u64>(bytes, offset(self.not_finite())) != u64::MAX,
            scaler: LossScalerState {
                scale: scaler.scale,
                clean_steps: scaler.clean_steps,
                skipped_steps: scaler.skipped_steps,
            },
        }
    }
}
