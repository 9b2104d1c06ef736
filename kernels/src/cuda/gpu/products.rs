use std::{collections::HashMap, ffi::c_void, ptr};

use cudarc::{
    cublaslt::{result, sys},
    driver::sys::CUstream,
};

use super::memory::Arena;
use crate::{
    cuda::{
        executor::DeviceError,
        launch::Address,
        library::{CudaLibrary, load_cublas_lt},
        product::{Epilogue, Factor, Product, Vector},
    },
    tensor::DType,
};

/// Working memory of the library: what NVIDIA asks for on sm_90.
const WORKSPACE_BYTES: usize = 32 << 20;

/// `CUBLAS_OP_N` and `CUBLAS_OP_T` of `cublasOperation_t`, which the bindings of cuBLASLt leave out.
const AS_IT_LIES: i32 = 0;
const TRANSPOSED: i32 = 1;

/// Products of one stream: how each is computed is chosen when it first comes, and kept.
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: Address,
    /// Nothing where the library has no algorithm.
    plans: HashMap<Key, Option<Plan>>,
}

// SAFETY: the library may be called from any thread; handles and descriptors are its objects, used through an
// exclusive borrow.
unsafe impl Send for Products {}

impl Drop for Products {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: created once, destroyed once. A failure leaks it.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// What decides how a product is computed: all but its addresses, of which only the alignment counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    factors: [FactorKey; 3],
    accumulate: bool,
    /// With the type of its vector, the stride of its mask, and the alignment of both.
    epilogue: (sys::cublasLtEpilogue_t, Option<DType>, usize, [u32; 2]),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FactorKey {
    dtype: DType,
    sizes: [usize; 3],
    transposed: bool,
    alignment: u32,
}

impl FactorKey {
    fn new(factor: &Factor) -> Self {
        Self {
            dtype: factor.dtype,
            sizes: [factor.rows, factor.columns, factor.stride],
            transposed: factor.transposed,
            alignment: alignment(factor.address),
        }
    }
}

/// The largest power of two, up to 256, that an address is a multiple of.
fn alignment(address: Address) -> u32 {
    1 << address.0.trailing_zeros().min(8)
}

/// The library's name of an epilogue, its vector, and its mask.
fn parts(
    epilogue: &Epilogue,
) -> (
    sys::cublasLtEpilogue_t,
    Option<Vector>,
    Option<(Address, usize)>,
) {
    use sys::cublasLtEpilogue_t as E;
    match *epilogue {
        Epilogue::None => (E::CUBLASLT_EPILOGUE_DEFAULT, None, None),
        Epilogue::Bias(bias) => (E::CUBLASLT_EPILOGUE_BIAS, Some(bias), None),
        Epilogue::BiasRelu(bias, mask) => (
            E::CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
            Some(bias),
            Some((mask.address, mask.stride)),
        ),
        Epilogue::ReluGradient(mask, db) => (
            match db {
                Some(_) => E::CUBLASLT_EPILOGUE_DRELU_BGRAD,
                None => E::CUBLASLT_EPILOGUE_DRELU,
            },
            db,
            Some((mask.address, mask.stride)),
        ),
        Epilogue::RightSums(db) => (E::CUBLASLT_EPILOGUE_BGRADB, Some(db), None),
    }
}

impl Products {
    pub(super) fn new(arena: &mut Arena) -> Result<Self, DeviceError> {
        if !load_cublas_lt() {
            return Err(DeviceError::Missing(CudaLibrary::CublasLt));
        }
        let workspace = arena.allocate(WORKSPACE_BYTES)?;
        let handle = result::create_handle().map_err(|error| DeviceError::Driver {
            call: "starting cuBLASLt",
            message: error.to_string(),
        })?;
        Ok(Self {
            handle,
            workspace,
            plans: HashMap::new(),
        })
    }

    pub(super) fn supports(&mut self, product: &Product) -> Result<bool, DeviceError> {
        let [.., depth] = product.sizes();
        Ok(product.is_empty() || (depth > 0 && self.plan(product)?.is_some()))
    }

    /// How a product is computed; nothing where the library cannot.
    fn plan(&mut self, product: &Product) -> Result<Option<&mut Plan>, DeviceError> {
        let (epilogue, vector, mask) = parts(&product.epilogue);
        let key = Key {
            factors: [&product.left, &product.right, &product.out].map(FactorKey::new),
            accumulate: product.accumulate,
            epilogue: (
                epilogue,
                vector.map(|vector| vector.dtype),
                mask.map_or(0, |(_, stride)| stride),
                [
                    vector.map_or(0, |vector| alignment(vector.address)),
                    mask.map_or(0, |(address, _)| alignment(address)),
                ],
            ),
        };
        let plan = match self.plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Plan::new(self.handle, product)?)
            }
        };
        Ok(plan.as_mut())
    }

    pub(super) fn multiply(
        &mut self,
        product: &Product,
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        if product.is_empty() {
            return Ok(());
        }
        let (handle, workspace) = (self.handle, self.workspace);
        let Some(plan) = self.plan(product)? else {
            let status = result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
            return Err(refused(product, "choosing an algorithm")(status));
        };
        plan.point_to(product)
            .map_err(refused(product, "preparing an epilogue"))?;
        let (alpha, beta) = (1.0f32, if product.accumulate { 1.0f32 } else { 0.0 });
        let at = |factor: &Factor| factor.address.0 as *mut c_void;
        let out = at(&product.out);
        // SAFETY: handle, descriptors and algorithm belong together and live; factors and workspace are memory
        // of this stream's; the scalars are read before the call returns.
        unsafe {
            result::matmul(
                handle,
                plan.product.0,
                ptr::from_ref(&alpha).cast(),
                ptr::from_ref(&beta).cast(),
                at(&product.left),
                plan.layouts[0].0,
                at(&product.right),
                plan.layouts[1].0,
                out,
                plan.layouts[2].0,
                out,
                plan.layouts[2].0,
                &plan.algorithm,
                workspace.0 as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
        .map_err(refused(product, "multiplying"))
    }
}

fn refused(
    product: &Product,
    call: &'static str,
) -> impl FnOnce(result::CublasError) -> DeviceError {
    let [rows, columns, depth] = product.sizes();
    move |error| DeviceError::Product {
        call,
        status: error.to_string(),
        rows,
        columns,
        depth,
    }
}

/// How a product is computed.
struct Plan {
    product: Descriptor,
    layouts: [Layout; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

struct Descriptor(sys::cublasLtMatmulDesc_t);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. A failure leaks it.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

impl Descriptor {
    fn set<T: Copy>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: T,
    ) -> Result<(), result::CublasError> {
        let value = ptr::from_ref(&value).cast();
        // SAFETY: the descriptor lives; the library copies a value of this size, or refuses it.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, value, size_of::<T>()) }
    }
}

struct Layout(sys::cublasLtMatrixLayout_t);

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. A failure leaks it.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. A failure leaks it.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Preference {
    /// At most our workspace, for addresses aligned as those of a product.
    fn new(product: &Product) -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as P;
        let own = Self(result::create_matmul_pref()?);
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the preference lives; the library copies a value of this size.
            unsafe { result::set_matmul_pref_attribute(own.0, attribute, value, bytes) }
        };
        set(
            P::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            ptr::from_ref(&WORKSPACE_BYTES).cast(),
            size_of::<usize>(),
        )?;
        let out = alignment(product.out.address);
        for (attribute, bytes) in [
            (
                P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                alignment(product.left.address),
            ),
            (
                P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                alignment(product.right.address),
            ),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (P::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            set(attribute, ptr::from_ref(&bytes).cast(), size_of::<u32>())?;
        }
        Ok(own)
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, product: &Product) -> Result<Option<Self>, DeviceError> {
        use sys::cublasStatus_t as S;
        match Self::build(handle, product) {
            Ok(plan) => Ok(Some(plan)),
            // What the library says of combinations that it does not have, and where the heuristic found nothing.
            Err(result::CublasError(
                S::CUBLAS_STATUS_NOT_SUPPORTED
                | S::CUBLAS_STATUS_INVALID_VALUE
                | S::CUBLAS_STATUS_ARCH_MISMATCH,
            )) => Ok(None),
            Err(error) => Err(refused(product, "choosing an algorithm")(error)),
        }
    }

    fn build(
        handle: sys::cublasLtHandle_t,
        product: &Product,
    ) -> Result<Self, result::CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as D;
        // Sums are float32 whatever the factors hold; float32 factors are not rounded to TF32.
        let descriptor = result::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType::CUDA_R_32F,
        )?;
        let descriptor = Descriptor(descriptor);
        let operation = |factor: &Factor| match factor.transposed {
            true => TRANSPOSED,
            false => AS_IT_LIES,
        };
        descriptor.set(D::CUBLASLT_MATMUL_DESC_TRANSA, operation(&product.left))?;
        descriptor.set(D::CUBLASLT_MATMUL_DESC_TRANSB, operation(&product.right))?;
        let (epilogue, vector, mask) = parts(&product.epilogue);
        descriptor.set(D::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
        if let Some(vector) = vector {
            descriptor.set(
                D::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                data_type(vector.dtype),
            )?;
        }
        if let Some((_, stride)) = mask {
            descriptor.set(D::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, stride as i64)?;
        }
        // Before the library chooses: it looks at what the pointers are aligned to.
        point_to(&descriptor, product)?;
        let layout = |factor: &Factor| -> Result<Layout, result::CublasError> {
            let (rows, columns) = (factor.rows as u64, factor.columns as u64);
            let stride = factor.stride as i64;
            let dtype = data_type(factor.dtype);
            Ok(Layout(result::create_matrix_layout(
                dtype, rows, columns, stride,
            )?))
        };
        let layouts = [
            layout(&product.left)?,
            layout(&product.right)?,
            layout(&product.out)?,
        ];
        let preference = Preference::new(product)?;
        // SAFETY: all descriptors live and describe one product.
        let chosen = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                descriptor.0,
                layouts[0].0,
                layouts[1].0,
                layouts[2].0,
                layouts[2].0,
                preference.0,
            )?
        };
        Ok(Self {
            product: descriptor,
            layouts,
            algorithm: chosen.algo,
        })
    }

    fn point_to(&self, product: &Product) -> Result<(), result::CublasError> {
        point_to(&self.product, product)
    }
}

/// Gives a descriptor the addresses of the epilogue.
fn point_to(descriptor: &Descriptor, product: &Product) -> Result<(), result::CublasError> {
    use sys::cublasLtMatmulDescAttributes_t as D;
    let (_, vector, mask) = parts(&product.epilogue);
    if let Some(vector) = vector {
        descriptor.set(D::CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector.address.0)?;
    }
    if let Some((address, _)) = mask {
        descriptor.set(D::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, address.0)?;
    }
    Ok(())
}

fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        _ => sys::cudaDataType::CUDA_R_32F,
    }
}
