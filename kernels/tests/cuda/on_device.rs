//! A batch's updates of embedding tables, on the CPU and in a device's memory.

use std::ops::Range;

use streamrec_kernels::cuda::groups::{Build, Rows, Source, build};
use streamrec_kernels::cuda::sparse_optimizer::{
    Gradients, Partial, Table, UpdateRows, row_stride, sum, tiles, update, update_rows,
};
use streamrec_kernels::cuda::{Address, Matrix, Step};
use streamrec_kernels::embedding_bag::{BagSource, Groups, Pooling};
use streamrec_kernels::sparse_optimizer::{
    self, Rounding, SparseGradient, SparseRule, SparseState, SparseStep,
};
use streamrec_kernels::{Context, DType, Tensor, TensorRef};

use crate::device::Device;
use crate::embedding_bag::HostBags;
use crate::groups;
use crate::values::{Random, assert_close, epsilon, narrow, widen};

/// A batch with its gradient, and tables in host memory.
pub struct Case {
    pub bags: HostBags,
    /// Rows and columns of each table.
    pub shapes: Vec<[usize; 2]>,
    pub sources: Vec<Source>,
    pub tables: Vec<Vec<f32>>,
    pub dout: Vec<f32>,
    pub columns: usize,
    pub gradient: DType,
    pub weights: DType,
    pub step: Step,
    /// Columns of whole rows of each table, where these are some of them, and the first that it holds.
    pub whole: Option<[[usize; 2]; 2]>,
    /// Rows of the first table before those that it holds, which nobody looks up.
    pub before: usize,
}

impl Case {
    /// Three features of two tables; the last shares the first's. `bags` maps rows of features to bags.
    pub fn new(
        dims: [usize; 2],
        types: (DType, DType),
        bags: impl Fn(&mut Random, &[usize]) -> HostBags,
    ) -> Self {
        let (gradient, weights) = types;
        let mut random = Random(dims[0] as u64 * 1000 + dims[1] as u64);
        let shapes = vec![[97, dims[0]], [6, dims[1]]];
        let bags = bags(&mut random, &[97, 6, 97]);
        let (mut sources, mut column) = (vec![], 3);
        for (feature, table) in [0, 1, 0].into_iter().enumerate() {
            sources.push(Source {
                rows: shapes[table][0] as i64,
                table: table as u32,
                column: column as u32,
                mean: feature as u32 % 2,
                reserved: 0,
            });
            column += shapes[table][1];
        }
        let mut step = Step::new(0.1, 3, [0.9, 0.99]);
        step.seed = 99;
        Self {
            dout: random.floats_of(bags.batch * column, gradient),
            tables: shapes
                .iter()
                .map(|[rows, dim]| random.floats_of(rows * dim, weights))
                .collect(),
            bags,
            shapes,
            sources,
            columns: column,
            gradient,
            weights,
            step,
            whole: None,
            before: 0,
        }
    }

    /// The same, in which the first table's rows are the last ones of a table that is so much longer.
    pub fn behind(&self, before: usize) -> Self {
        let mut bags = self.bags.clone();
        for (place, id) in bags.ids.iter_mut().enumerate() {
            let bag = bags.offsets.partition_point(|&end| end <= place as i64) - 1;
            if self.sources[bag / bags.batch].table == 0 {
                *id += before as i64;
            }
        }
        let mut sources = self.sources.clone();
        for source in sources.iter_mut().filter(|source| source.table == 0) {
            source.rows += before as i64;
        }
        Self {
            bags,
            sources,
            before,
            tables: self.tables.clone(),
            shapes: self.shapes.clone(),
            dout: self.dout.clone(),
            ..*self
        }
    }

    /// One table of so many rows a feature, one id a sample; all samples look up the same row of the first one.
    pub fn of_tables(
        batch: usize,
        [features, rows, dim]: [usize; 3],
        types: (DType, DType),
    ) -> Self {
        let (gradient, weights) = types;
        let mut random = Random(batch as u64);
        let mut bags = HostBags {
            ids: (0..batch * features)
                .map(|_| random.below(rows) as i64)
                .collect(),
            offsets: (0..=(batch * features) as i64).collect(),
            weights: None,
            batch,
            features,
        };
        bags.ids[..batch].fill(rows as i64 / 2);
        let source = |feature: usize| Source {
            rows: rows as i64,
            table: feature as u32,
            column: (feature * dim) as u32,
            mean: 0,
            reserved: 0,
        };
        let columns = features * dim;
        Self {
            dout: random.floats_of(batch * columns, gradient),
            tables: (0..features)
                .map(|_| random.floats_of(rows * dim, weights))
                .collect(),
            bags,
            shapes: vec![[rows, dim]; features],
            sources: (0..features).map(source).collect(),
            columns,
            gradient,
            weights,
            step: Step::new(0.1, 3, [0.9, 0.99]),
            whole: None,
            before: 0,
        }
    }

    /// With zeros as row 5 of the first table, and the same gradients for its `lookups` lookups behind some others, whatever
    /// these and the other table are.
    pub fn with_gradients(mut self, before: usize, lookups: usize) -> Self {
        let mut random = Random(77);
        self.tables[0][5 * 6..6 * 6].fill(0.0);
        for sample in before..before + lookups {
            let first = sample * self.columns + self.sources[0].column as usize;
            let gradient = random.floats_of(6, self.gradient);
            self.dout[first..first + 6].copy_from_slice(&gradient);
        }
        self
    }

    /// Some columns of each table.
    pub fn columns(&self, part: impl Fn(usize) -> Range<usize>) -> Self {
        let (mut sources, mut gradients, mut columns) = (self.sources.clone(), Vec::new(), 0);
        for source in &mut sources {
            let own = part(self.shapes[source.table as usize][1]);
            let first = source.column as usize;
            gradients.push(first + own.start..first + own.end);
            source.column = columns as u32;
            columns += own.len();
        }
        let samples = self.dout.chunks(self.columns);
        let dout =
            samples.flat_map(|row| gradients.iter().flat_map(|own| row[own.clone()].to_vec()));
        let table = |(values, &[_, dim]): (&Vec<f32>, &[usize; 2])| -> Vec<f32> {
            let rows = values.chunks(dim);
            rows.flat_map(|row| row[part(dim)].to_vec()).collect()
        };
        Self {
            dout: dout.collect(),
            tables: self.tables.iter().zip(&self.shapes).map(table).collect(),
            shapes: self
                .shapes
                .iter()
                .map(|&[rows, dim]| [rows, part(dim).len()])
                .collect(),
            bags: self.bags.clone(),
            whole: Some([0, 1].map(|table| {
                let dim = self.shapes[table][1];
                [dim, part(dim).start]
            })),
            sources,
            columns,
            ..*self
        }
    }

    pub fn random(dims: [usize; 2], types: (DType, DType)) -> Self {
        Self::new(dims, types, |random, rows| {
            HostBags::random(random, 60, rows, 3, true)
        })
    }

    /// Sample after sample looks up row 5 of table 0, over `batch / 32` tiles.
    pub fn hot(dims: [usize; 2], types: (DType, DType), batch: usize) -> Self {
        Self::new(dims, types, |random, rows| {
            let mut bags = HostBags::random(random, batch, rows, 0, false);
            bags.ids = vec![5; batch];
            bags.ids
                .extend((0..2 * batch).map(|index| (index % 6) as i64));
            bags.offsets = (0..=3 * batch as i64).collect();
            bags
        })
    }

    /// Tables and state tensors after the CPU's update.
    pub fn on_cpu(&self, rule: &SparseRule) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let context = Context::cpu(1, false).unwrap();
        let (mut tables, mut states, mut first_row) = (self.tables.clone(), vec![], 0);
        let dout = TensorRef::from_f32(&self.dout, &[self.bags.batch, self.columns]);
        for (table, values) in tables.iter_mut().enumerate() {
            let [rows, dim] = self.shapes[table];
            let sources: Vec<BagSource> = (self.sources.iter().enumerate())
                .filter(|(_, source)| source.table as usize == table)
                .map(|(feature, source)| BagSource {
                    feature,
                    pooling: if source.mean == 1 {
                        Pooling::Mean
                    } else {
                        Pooling::Sum
                    },
                    column: source.column as usize,
                })
                .collect();
            let features: Vec<usize> = sources.iter().map(|source| source.feature).collect();
            let mut lookups = Groups::default();
            lookups
                .build(&context, &self.bags.view(), &features, rows)
                .unwrap();
            let mut state = SparseState::new(&context, rule, rows, dim);
            let gradient = SparseGradient::Bags {
                groups: &lookups,
                sources: &sources,
                dout,
            };
            let mut stored = Tensor::zeros(&context, self.weights, &[rows, dim]);
            stored.view_mut().set_f32(values);
            let (rate, number) = (self.step.sparse_learning_rate, self.step.number);
            let step = SparseStep::new(rate, number).rounded(Rounding {
                seed: self.step.seed,
                step: number,
                first_row,
                first_column: self.whole.map_or(0, |of| of[table][1] as u32),
            });
            first_row += rows as u64;
            let view = stored.view_mut();
            sparse_optimizer::update(&context, rule, step, view, &mut state, gradient).unwrap();
            *values = stored.view().to_f32();
            states.extend(state.tensors().map(|(_, tensor)| tensor.f32().to_vec()));
        }
        (tables, states)
    }

    pub fn upload(&self, rule: &SparseRule, seed: u64) -> OnDevice {
        let mut device = match self.before {
            0 => Device::new(seed),
            _ => Device::large(seed),
        };
        let context = Context::cpu(1, false).unwrap();
        let (mut tables, mut matrices, mut states, mut first_row) = (vec![], vec![], vec![], 0);
        for (values, &[rows, dim]) in self.tables.iter().zip(&self.shapes) {
            let before = if matrices.is_empty() { self.before } else { 0 };
            // Where memory begins, and where the rows begin that it holds.
            let place = |device: &mut Device, name: &str, values: &[u8], row: usize| {
                let at = match before {
                    0 => device.upload(name, values),
                    _ => device.ending(name, (before + rows) * row, values),
                };
                (at, Address(at.0 + (before * row) as u64))
            };
            let stored = narrow(values, self.weights);
            let row = dim * self.weights.bytes();
            let (weights, held) = place(&mut device, "table", &stored, row);
            let state = SparseState::new(&context, rule, rows, dim);
            let mut own = vec![];
            for (name, tensor) in state.tensors() {
                let values = bytemuck::cast_slice(tensor.f32());
                let (at, held) = place(&mut device, name, values, values.len() / rows);
                own.push(at);
                states.push((held, tensor.f32().len()));
            }
            own.resize(2, Address::NULL);
            let [columns, first_column] = self.whole.map_or([dim, 0], |of| of[matrices.len()]);
            tables.push(Table {
                weights: weights.0,
                first: own[0].0,
                second: own[1].0,
                row_stride: dim as i64,
                // Rows behind others are rounded as if they were the first.
                first_row: u64::wrapping_sub(first_row, before as u64),
                dim: dim as u32,
                learning_rate_scale: 1.0,
                weight_decay: rule.weight_decay(),
                columns: columns as u32,
                first_column: first_column as u32,
                reserved: 0,
            });
            first_row += rows as u64;
            matrices.push(Matrix::new(held, self.weights, [rows, dim]));
        }
        OnDevice::new(self, device, tables, matrices, states)
    }
}

/// A case in the device's memory.
pub struct OnDevice {
    pub device: Device,
    pub tables: Vec<Table>,
    pub matrices: Vec<Matrix>,
    /// Addresses and numbers of elements.
    pub states: Vec<(Address, usize)>,
    pub tables_on_device: Address,
    pub sources_on_device: Address,
    pub dout: Matrix,
    pub step: Address,
    pub rows: Rows,
    pub not_finite: Address,
    pub capacity: usize,
}

impl OnDevice {
    pub fn new(
        case: &Case,
        mut device: Device,
        tables: Vec<Table>,
        matrices: Vec<Matrix>,
        states: Vec<(Address, usize)>,
    ) -> Self {
        let capacity = case.bags.ids.len() + 10;
        let shape = [case.bags.batch, case.columns];
        Self {
            tables_on_device: device.upload("tables", &tables),
            sources_on_device: device.upload("sources", &case.sources),
            dout: device.matrix("dout", &case.dout, case.gradient, shape, case.columns),
            step: device.upload("step", &[case.step]),
            rows: groups::rows(&mut device, capacity),
            not_finite: device.upload("not_finite", &[u64::MAX]),
            device,
            tables,
            matrices,
            states,
            capacity,
        }
    }

    /// Sorts the lookups; what is left to do takes the result.
    pub fn gradients<'a>(&'a mut self, case: &'a Case) -> Gradients<'a> {
        let mut bags = case.bags.upload(&mut self.device);
        let mut ids = case.bags.ids.clone();
        ids.resize(self.capacity, 0);
        bags.ids = self.device.upload("ids", &ids);
        let memory = groups::memory(&mut self.device, self.capacity);
        let first_bad = self.device.upload("first_bad", &[u64::MAX]);
        let operands = Build {
            bags,
            sources: &case.sources,
            sources_on_device: self.sources_on_device,
            memory,
            rows: Some(self.rows),
            first_bad,
        };
        let (launches, sorted) = build(&operands).unwrap();
        self.device.run(launches);
        let floats = 4 * tiles(self.capacity) * row_stride(case.dim_max());
        let partial = Partial {
            heads: self.device.empty("heads", floats),
            tails: self.device.empty("tails", floats),
            lists: self.device.empty("lists", 8 * tiles(self.capacity)),
            list_lengths: memory.list_lengths,
        };
        Gradients {
            bags,
            sorted,
            capacity: self.capacity,
            sources: &case.sources,
            sources_on_device: self.sources_on_device,
            tables: &self.tables,
            tables_on_device: self.tables_on_device,
            dout: self.dout,
            scaled: true,
            partial,
            step: self.step,
        }
    }

    pub fn tables(&self) -> Vec<Vec<f32>> {
        self.matrices
            .iter()
            .map(|matrix| self.device.elements(matrix))
            .collect()
    }

    pub fn states(&self) -> Vec<Vec<f32>> {
        self.states
            .iter()
            .map(|&(state, len)| widen(&self.device.part(state, 4 * len), DType::F32))
            .collect()
    }
}

impl Case {
    pub fn dim_max(&self) -> usize {
        self.shapes.iter().map(|shape| shape[1]).max().unwrap()
    }

    pub fn fused(&self, rule: &SparseRule, seed: u64) -> OnDevice {
        let mut on = self.upload(rule, seed);
        let (weights, not_finite) = (self.weights, on.not_finite);
        let launches = update(&on.gradients(self), rule, weights, not_finite).unwrap();
        on.device.run(launches);
        on
    }

    /// Sums, then updates; the step's overflow flag.
    pub fn in_two_phases(&self, rule: &SparseRule, seed: u64) -> (OnDevice, u32) {
        self.apart(rule, seed, |_, _| Address::NULL)
    }

    /// Likewise, with the products of whole rows that `products` gives, if any: a device is asked for those of its own
    /// columns.
    pub fn apart(
        &self,
        rule: &SparseRule,
        seed: u64,
        products: impl FnOnce(&mut OnDevice, UpdateRows<'_>) -> Address,
    ) -> (OnDevice, u32) {
        let mut on = self.upload(rule, seed);
        let rows = on.rows;
        let floats = 4 * on.capacity * row_stride(self.dim_max());
        let out = on.device.empty("gradients", floats);
        let gradients = on.gradients(self);
        let row_bits = gradients.sorted.layout.row_bits;
        let launches = sum(&gradients, &rows, out).unwrap();
        on.device.run(launches);
        let tables = on.tables.clone();
        let mut operands = UpdateRows {
            tables: &tables,
            tables_on_device: on.tables_on_device,
            weights: self.weights,
            row_bits,
            rows,
            capacity: on.capacity,
            gradients: out,
            products: Address::NULL,
            step: on.step,
            not_finite: on.not_finite,
        };
        operands.products = products(&mut on, operands);
        on.device.run([update_rows(&operands, rule).unwrap()]);
        let overflow = on.device.download::<Step>(on.step)[0].overflow;
        (on, overflow)
    }

    #[track_caller]
    pub fn check(&self, rule: &SparseRule, on: &OnDevice) {
        let (tables, states) = self.on_cpu(rule);
        // Numbers in half precision are rounded to the same neighbour, unless sums in another order are on the other
        // side of the border.
        let tolerance = (2.0 * epsilon(self.weights)).max(4e-6);
        for (got, expected) in on.tables().iter().zip(&tables) {
            assert_close("table", got, expected, tolerance);
            let apart = got.iter().zip(expected).filter(|(got, own)| got != own);
            let most = got.len() / 50 + 1;
            assert!(!self.weights.is_half() || apart.count() <= most, "{rule:?}");
        }
        for (got, expected) in on.states().iter().zip(&states) {
            assert_close("state", got, expected, 4e-6);
        }
        assert_eq!(on.device.download::<u64>(on.not_finite), [u64::MAX]);
    }
}
