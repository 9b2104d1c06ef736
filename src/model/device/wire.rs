//! Float32 matrices of sharded tables that travel between devices in half the bytes, as between CPUs.
//!
//! ```text
//! f32 ─► halves, times a power of two ─► all_to_all; the powers by all_gather ─► f32, divided by each rank's power
//! ```
//!
//! Gradients lie below the range of binary16, so that each rank scales what it sends to the range's top; bfloat16 has
//! float32's range.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, Begun, Collective, DeviceError, Executor, Group, Launch,
    cast::{cast, largest, narrow_scaled, widen_scaled},
    collective::Element,
};

use super::memory::{DeviceBuffer, element};
use crate::config::Payload;
use crate::model::ModelError;

/// How matrices travel one way, with the memory for it.
#[derive(Debug)]
pub(super) struct DeviceWire {
    /// Of what is exchanged: the type of the matrices, or a smaller one.
    dtype: DType,
    narrowed: Option<Narrowed>,
}

/// Where they are narrowed.
#[derive(Debug)]
struct Narrowed {
    sent: DeviceBuffer,
    received: DeviceBuffer,
    /// With binary16: `[1]` of `u32`, the bits of the largest number; `[1]` of `f32`, the inverse of this rank's factor;
    /// `[ranks]`, those of all.
    scales: Option<[Address; 3]>,
}

/// An exchange of counts of elements from one matrix to another, rank by rank.
#[derive(Debug, Clone)]
pub(super) struct Exchanged {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) sends: Vec<usize>,
    pub(super) receives: Vec<usize>,
}

impl DeviceWire {
    /// For matrices of `dtype`, of up to so many elements sent and received, which travel in another type if `payload` is a
    /// half type and they are float32.
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        (dtype, payload): (DType, Payload),
        [sent, received]: [usize; 2],
    ) -> Result<Self, DeviceError> {
        let half = match (dtype, payload) {
            (DType::F32, Payload::Bf16) => DType::Bf16,
            (DType::F32, Payload::Fp16) => DType::F16,
            _ => {
                let narrowed = None;
                return Ok(Self { dtype, narrowed });
            }
        };
        let [_, ranks] = executor.rank(Group::World);
        let scales = match half {
            DType::F16 => {
                let mut take = |words: usize| executor.allocate(4 * words);
                Some([take(1)?, take(1)?, take(ranks)?])
            }
            _ => None,
        };
        Ok(Self {
            dtype: half,
            narrowed: Some(Narrowed {
                sent: DeviceBuffer::new(executor, half, sent)?,
                received: DeviceBuffer::new(executor, half, received)?,
                scales,
            }),
        })
    }

    /// Begins an exchange.
    pub(super) fn send<E: Executor>(
        &self,
        executor: &mut E,
        what: &'static str,
        exchanged: &Exchanged,
    ) -> Result<Begun, ModelError> {
        let (mut from, mut to, mut others) = (exchanged.from, exchanged.to, None);
        if let Some(narrowed) = &self.narrowed {
            let len = exchanged.sends.iter().sum();
            narrowed.narrow(executor, exchanged.from, len)?;
            (from, to) = (narrowed.sent.address, narrowed.received.address);
            others = narrowed.scales.map(|[_, own, all]| Collective::AllGather {
                from: own,
                to: all,
                len: 1,
                element: Element::F32,
            });
        }
        let exchange = Collective::AllToAll {
            from,
            to,
            sends: exchanged.sends.clone(),
            receives: exchanged.receives.clone(),
            element: element(self.dtype),
        };
        let collectives: Vec<Collective> = others.into_iter().chain([exchange]).collect();
        Ok(executor.begin(Group::World, what, &collectives)?)
    }

    /// Lets the device wait for an exchange, whose result lies where it is to be afterwards.
    pub(super) fn receive<E: Executor>(
        &self,
        executor: &mut E,
        begun: Begun,
        exchanged: &Exchanged,
    ) -> Result<(), ModelError> {
        executor.finish(begun)?;
        let Some(narrowed) = &self.narrowed else {
            return Ok(());
        };
        let mut start = 0;
        for (rank, &len) in exchanged.receives.iter().enumerate() {
            let from = Address(narrowed.received.address.0 + 2 * start as u64);
            let to = Address(exchanged.to.0 + 4 * start as u64);
            let launch = match narrowed.scales {
                None => cast((from, self.dtype), (to, DType::F32), len),
                Some([.., all]) => Ok(widen_scaled(
                    from,
                    to,
                    len,
                    Address(all.0 + 4 * rank as u64),
                )),
            };
            launch_if(executor, len, launch)?;
            start += len;
        }
        Ok(())
    }
}

impl Narrowed {
    fn narrow<E: Executor>(
        &self,
        executor: &mut E,
        from: Address,
        len: usize,
    ) -> Result<(), ModelError> {
        let to = (self.sent.address, self.sent.dtype);
        let Some([top, inverse, _]) = self.scales else {
            return launch_if(executor, len, cast((from, DType::F32), to, len));
        };
        executor.zero(top, 4)?;
        launch_if(executor, len, Ok(largest(from, len, top)))?;
        // Also of nothing: others are told a factor.
        let launch = narrow_scaled(from, to.0, len, [top, inverse]);
        launch_if(executor, 1, Ok(launch))
    }
}

fn launch_if<E: Executor>(
    executor: &mut E,
    len: usize,
    launch: streamrec_kernels::Result<Launch>,
) -> Result<(), ModelError> {
    if len > 0 {
        let launch = launch.map_err(ModelError::kernel("narrowing vectors of sharded tables"))?;
        executor.launch(&launch)?;
    }
    Ok(())
}
