use std::sync::Arc;

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{Address, Executor, Matrix, cast::cast};

use super::memory::{download_floats, upload_floats};
use crate::model::{ModelError, ParamId, ParameterLayout, ParameterStore, TableId};

/// The parameters of a model in a device's memory: those of a store, laid out alike.
///
/// Masters and gradients are float32, tables what the store's are; where layers compute in half precision, they read a
/// rounded copy of the masters, which the optimiser renews with them.
#[derive(Debug)]
pub struct DeviceWeights {
    layout: Arc<ParameterLayout>,
    masters: Address,
    gradients: Address,
    compute: (Address, DType),
    tables: Vec<Address>,
    table_dtype: DType,
}

impl DeviceWeights {
    /// Memory for the parameters of a store; [`upload`](Self::upload) fills it.
    ///
    /// # Errors
    /// When the device has not so much.
    pub fn new<E: Executor>(
        executor: &mut E,
        parameters: &ParameterStore,
    ) -> Result<Self, ModelError> {
        let layout = Arc::clone(parameters.layout());
        let bytes = layout.len() * size_of::<f32>();
        let masters = executor.allocate(bytes)?;
        let gradients = executor.allocate(bytes)?;
        // The padding between parameters stays zero.
        executor.zero(gradients, bytes)?;
        let dtype = parameters.compute_dtype();
        let copy = match dtype {
            DType::F32 => masters,
            _ => executor.allocate(layout.len() * dtype.bytes())?,
        };
        let tables = parameters
            .tables()
            .map(|(_, table)| executor.allocate(table.extent.len() * table.dtype().bytes()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            layout,
            masters,
            gradients,
            compute: (copy, dtype),
            tables,
            table_dtype: parameters.table_dtype(),
        })
    }

    /// Takes the weights of the store, whose layout is the same.
    ///
    /// # Errors
    /// When the device fails.
    pub fn upload<E: Executor>(
        &self,
        executor: &mut E,
        parameters: &ParameterStore,
    ) -> Result<(), ModelError> {
        upload_floats(executor, parameters.masters(), self.masters)?;
        if self.compute.1.is_half() {
            let masters = (self.masters, DType::F32);
            let launch = cast(masters, self.compute, self.layout.len())
                .map_err(ModelError::kernel("rounding the weights"))?;
            executor.launch(&launch)?;
        }
        for ((_, table), &at) in parameters.tables().zip(&self.tables) {
            executor.upload(table.view().bytes().unwrap_or_default(), at)?;
        }
        Ok(())
    }

    /// Gives the weights to the store.
    ///
    /// # Errors
    /// When the device fails.
    pub fn download<E: Executor>(
        &self,
        executor: &mut E,
        parameters: &mut ParameterStore,
    ) -> Result<(), ModelError> {
        download_floats(executor, self.masters, parameters.masters_mut())?;
        for (id, &at) in parameters.table_ids().zip(&self.tables) {
            let mut weights = parameters.table_mut(id).view_mut();
            executor.download(at, weights.bytes_mut().unwrap_or_default())?;
        }
        Ok(())
    }

    /// The arena of float32 weights.
    pub fn masters(&self) -> Address {
        self.masters
    }

    /// The arena of gradients, float32.
    pub fn gradients(&self) -> Address {
        self.gradients
    }

    /// The rounded copy of the masters, null of float32 where there is none.
    pub fn copy(&self) -> (Address, DType) {
        match self.compute {
            (_, DType::F32) => (Address::NULL, DType::F32),
            copy => copy,
        }
    }

    /// The type in which layers compute.
    pub fn compute_dtype(&self) -> DType {
        self.compute.1
    }

    /// The type in which tables are stored.
    pub fn table_dtype(&self) -> DType {
        self.table_dtype
    }

    /// A table's weights.
    pub fn table(&self, table: TableId) -> Address {
        self.tables[table.index()]
    }

    /// A parameter's weights, as layers compute with them.
    pub(super) fn weight(&self, id: ParamId) -> Matrix {
        self.matrix(id, self.compute)
    }

    /// A parameter's gradient.
    pub(super) fn gradient(&self, id: ParamId) -> Matrix {
        self.matrix(id, (self.gradients, DType::F32))
    }

    fn matrix(&self, id: ParamId, (arena, dtype): (Address, DType)) -> Matrix {
        let placed = self.layout.get(id);
        let start = (placed.arena.start * dtype.bytes()) as u64;
        Matrix::new(
            Address(arena.0 + start),
            dtype,
            placed.extent.local_matrix(),
        )
    }
}
