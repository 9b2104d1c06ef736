//! The gradients of rows that came from their owners: summed here, so that each travels once.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{
    Address, DeviceError, Executor, Matrix,
    embedding_bag::Bags,
    groups::{self, Build, PlaceRows, Source},
    sparse_optimizer::{self, Gradients, Table, row_stride},
};

use super::{
    Control, OptimError, failed, launch_all,
    tables::{LookupMemory, RowSums},
};
use crate::model::device::RowRequest;

/// What they are summed with, for the lookups of one rank.
#[derive(Debug)]
pub(super) struct RequestedRows {
    request: RowRequest,
    /// Of which only the columns count.
    tables: Vec<Table>,
    tables_on_device: Address,
    sources_on_device: Address,
    first_rows: Address,
    memory: LookupMemory,
    list: RowSums,
}

impl RequestedRows {
    /// For up to `lookups` lookups of a micro-batch.
    pub(super) fn new<E: Executor>(
        executor: &mut E,
        request: RowRequest,
        lookups: usize,
    ) -> Result<Self, DeviceError> {
        let table = |&dim: &usize| Table {
            dim: dim as u32,
            columns: dim as u32,
            row_stride: dim as i64,
            ..bytemuck::Zeroable::zeroed()
        };
        let tables: Vec<Table> = request.dims.iter().map(table).collect();
        let stride = row_stride(request.dims.iter().copied().max().unwrap_or(0));
        let mut put = |bytes: &[u8]| {
            let at = executor.allocate(bytes.len())?;
            executor.upload(bytes, at)?;
            Ok::<Address, DeviceError>(at)
        };
        Ok(Self {
            tables_on_device: put(bytemuck::cast_slice(&tables))?,
            sources_on_device: put(bytemuck::cast_slice::<Source, u8>(&request.sources))?,
            first_rows: put(bytemuck::cast_slice(&request.first_rows))?,
            memory: LookupMemory::new(executor, lookups, stride)?,
            list: RowSums::new(
                executor,
                1,
                [lookups, lookups.min(request.rows).max(1)],
                stride,
            )?,
            tables,
            request,
        })
    }

    /// Sums the gradients of pooled vectors by row, still multiplied by the loss scale.
    pub(super) fn sum<E: Executor>(
        &self,
        executor: &mut E,
        (bags, dout): (Bags, Matrix),
        control: Control,
    ) -> Result<(), OptimError> {
        let LookupMemory { sort, partial } = self.memory;
        let operands = Build {
            bags,
            sources: &self.request.sources,
            sources_on_device: self.sources_on_device,
            memory: sort,
            rows: Some(self.list.rows),
            first_bad: control.first_bad(),
        };
        let (launches, sorted) = groups::build(&operands).map_err(failed("the rows"))?;
        launch_all(executor, "the rows", Ok(launches))?;
        let gradients = Gradients {
            bags,
            sorted,
            capacity: sort.capacity,
            sources: &self.request.sources,
            sources_on_device: self.sources_on_device,
            tables: &self.tables,
            tables_on_device: self.tables_on_device,
            dout,
            scaled: false,
            partial,
            step: control.step(),
        };
        let sum = sparse_optimizer::sum(&gradients, &self.list.rows, self.list.gradients);
        launch_all(executor, "the rows", sum)?;
        let stride = row_stride(self.request.dims.iter().copied().max().unwrap_or(0));
        let bytes = self.request.rows * stride * DType::F32.bytes();
        executor
            .zero(self.request.sums, bytes)
            .map_err(crate::model::ModelError::from)?;
        let place = groups::place_rows(&PlaceRows {
            rows: self.list.rows,
            capacity: self.list.capacity,
            gradients: self.list.gradients,
            stride,
            row_bits: sorted.layout.row_bits,
            first_rows: self.first_rows,
            out: self.request.sums,
        });
        launch_all(executor, "the rows", place.map(|launch| [launch]))
    }
}
