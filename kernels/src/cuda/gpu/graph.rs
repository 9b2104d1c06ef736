use cudarc::driver::{result, sys};

use super::{Stream, failed};
use crate::cuda::executor::DeviceError;

/// Work that was recorded on a stream, ready to run in one call.
#[derive(Debug)]
pub struct Graph {
    stream: Stream,
    handle: sys::CUgraphExec,
}

// SAFETY: the handle is a name of the driver's object; a graph is launched through a shared borrow from one
// executor at a time.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.stream.gpu().bind().is_ok() {
            // SAFETY: created once, destroyed once; a run that is under way finishes. A failure leaks it.
            let _ = unsafe { result::graph::exec_destroy(self.handle) };
        }
    }
}

impl Graph {
    /// Records what `work` queues in `stream`, without running it.
    pub(super) fn record(
        stream: &Stream,
        work: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Self, DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives.
        unsafe { result::stream::begin_capture(stream.handle(), mode) }
            .map_err(failed("recording a step"))?;
        let outcome = work();
        // SAFETY: the stream lives, and records since the call above.
        let recorded = unsafe { result::stream::end_capture(stream.handle()) };
        if let (Err(_), Ok(graph)) = (&outcome, &recorded) {
            // SAFETY: the graph is whole, and destroyed once. A failure leaks it.
            let _ = unsafe { result::graph::destroy(*graph) };
        }
        outcome?;
        let graph = recorded.map_err(failed("recording a step"))?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph is whole; it is copied, and destroyed once.
        let handle = unsafe {
            let handle = result::graph::instantiate(graph, flags);
            let _ = result::graph::destroy(graph);
            handle
        }
        .map_err(failed("preparing a recorded step"))?;
        let stream = stream.clone();
        Ok(Self { stream, handle })
    }

    /// Runs it behind all that is queued in `stream`.
    pub(super) fn launch(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: both live.
        unsafe { result::graph::launch(self.handle, stream.handle()) }
            .map_err(failed("running a recorded step"))
    }
}
