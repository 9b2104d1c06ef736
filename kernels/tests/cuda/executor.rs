//! The emulation as what runs launches and products, and a step that is recorded and replayed.

use std::path::{Path, PathBuf};

use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};
use streamrec_kernels::cuda::product::Product;
use streamrec_kernels::cuda::{Address, CudaLibrary, DeviceError, Executor, Launch, gpus};

use crate::emulator::Emulator;
use crate::product::multiply;

/// One thing that was asked for.
#[derive(Debug, Clone)]
pub enum Work {
    Launch(Box<Launch>),
    Multiply(Product),
    Zero(Address, usize),
}

impl Emulator {
    fn run_or_record(&mut self, work: Work) -> Result<(), DeviceError> {
        match &mut self.recording {
            Some(recorded) => {
                recorded.push(work);
                Ok(())
            }
            None => self.work(&work),
        }
    }

    fn work(&self, work: &Work) -> Result<(), DeviceError> {
        match work {
            Work::Launch(launch) => self
                .try_run(Launch::clone(launch))
                .map_err(DeviceError::Undefined)?,
            Work::Multiply(product) => multiply(self, product),
            &Work::Zero(at, bytes) => {
                let place = self.place(at, bytes);
                // SAFETY: the bytes are inside a buffer.
                unsafe { std::ptr::write_bytes(place, 0, bytes) };
            }
        }
        Ok(())
    }

    fn outside_of_recordings(&self, call: &'static str) -> Result<(), DeviceError> {
        match self.recording {
            Some(_) => Err(DeviceError::Recording { call }),
            None => Ok(()),
        }
    }
}

impl Executor for Emulator {
    type Graph = Vec<Work>;

    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        self.outside_of_recordings("allocating memory")?;
        Ok(self.empty("memory", bytes))
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        self.run_or_record(Work::Launch(Box::new(launch.clone())))
    }

    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError> {
        self.run_or_record(Work::Multiply(*product))
    }

    fn zero(&mut self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        self.run_or_record(Work::Zero(at, bytes))
    }

    fn upload(&mut self, from: &[u8], to: Address) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying")?;
        let place = self.place(to, from.len());
        // SAFETY: the bytes are inside a buffer, which `from` is not.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place, from.len()) };
        Ok(())
    }

    fn download(&mut self, from: Address, to: &mut [u8]) -> Result<(), DeviceError> {
        self.outside_of_recordings("copying")?;
        let place = self.place(from, to.len());
        // SAFETY: as for `upload`.
        unsafe { std::ptr::copy_nonoverlapping(place, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), DeviceError> {
        self.outside_of_recordings("waiting")
    }

    fn record(
        &mut self,
        work: &mut dyn FnMut(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<Vec<Work>, DeviceError> {
        self.outside_of_recordings("recording")?;
        self.recording = Some(Vec::new());
        let outcome = work(self);
        let recorded = self.recording.take().unwrap_or_default();
        outcome.map(|()| recorded)
    }

    fn replay(&mut self, graph: &Vec<Work>) -> Result<(), DeviceError> {
        self.outside_of_recordings("replaying")?;
        graph.iter().try_for_each(|work| self.work(work))
    }
}

/// The test's body for the GPU of this machine, where it has one.
fn on_a_gpu(test: impl FnOnce(GpuExecutor)) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gpu-kernels");
    if gpus().is_empty() {
        eprintln!("NOT TESTED: this machine has no GPU");
        return;
    }
    let gpu = Gpu::new(0, &folder).unwrap();
    test(GpuExecutor::new(&gpu).unwrap());
}

fn bytes(device: &mut impl Executor, at: Address) -> [u8; 32] {
    let mut bytes = [0; 32];
    device.download(at, &mut bytes).unwrap();
    bytes
}

fn records_and_replays<E: Executor>(mut device: E) {
    let at = device.allocate(32).unwrap();
    device.upload(&[7; 32], at).unwrap();
    let graph = device.record(&mut |own| own.zero(at, 16)).unwrap();
    assert_eq!(bytes(&mut device, at), [7; 32]);
    for _ in 0..2 {
        device.upload(&[9; 32], at).unwrap();
        device.replay(&graph).unwrap();
        let after = bytes(&mut device, at);
        assert_eq!((&after[..16], &after[16..]), (&[0; 16][..], &[9; 16][..]));
    }
}

#[test]
fn what_is_recorded_runs_when_it_is_replayed_and_not_before() {
    records_and_replays(Emulator::new(0));
    on_a_gpu(records_and_replays);
}

fn refuses_what_waits<E: Executor>(mut device: E) {
    let error = device.record(&mut |own| own.synchronize()).err().unwrap();
    let expected = "waiting cannot be part of a recorded step";
    assert!(error.to_string().contains(expected), "{error}");
    let allocate = device.record(&mut |own| own.allocate(1).map(|_| ()));
    let error = allocate.err().unwrap();
    assert!(error.to_string().contains("allocating memory"), "{error}");
    // The recording that failed is over.
    device.synchronize().unwrap();
}

#[test]
fn what_waits_or_allocates_cannot_be_recorded() {
    refuses_what_waits(Emulator::new(0));
    on_a_gpu(refuses_what_waits);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_tells_what_to_do() {
    let error = Gpu::new(4096, Path::new("never-written")).unwrap_err();
    let expected = match CudaLibrary::Driver.find() {
        None => "driver is not found; install NVIDIA's driver",
        Some(_) => "there is no GPU 4096",
    };
    let told = error.to_string();
    assert!(
        told.contains(expected) || told.contains("starting the driver"),
        "{told}"
    );
}
