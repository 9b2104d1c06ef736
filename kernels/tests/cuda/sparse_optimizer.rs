use streamrec_kernels::cuda::groups::{Build, Rows, Source, build};
use streamrec_kernels::cuda::sparse_optimizer::{
    Gradients, Partial, Table, UpdateRows, fuses, row_stride, sum, tiles, update, update_rows,
};
use streamrec_kernels::cuda::{Address, Matrix, Step};
use streamrec_kernels::embedding_bag::{BagSource, Groups, Pooling};
use streamrec_kernels::sparse_optimizer::{self, SparseGradient, SparseRule, SparseState};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef};

use crate::embedding_bag::HostBags;
use crate::emulator::{Emulator, SEEDS};
use crate::groups;
use crate::values::{Random, assert_close, epsilon};

const SGD: SparseRule = SparseRule::Sgd {
    weight_decay: 0.0,
    max_row_norm: None,
};
const ROW_WISE: SparseRule = SparseRule::RowWiseAdagrad {
    eps: 1e-8,
    initial_accumulator: 0.1,
    weight_decay: 0.02,
    max_row_norm: Some(0.5),
};
const ADAGRAD: SparseRule = SparseRule::Adagrad {
    eps: 0.0,
    initial_accumulator: 0.2,
    weight_decay: 0.0,
    max_row_norm: Some(1.0),
};
const ADAM: SparseRule = SparseRule::LazyAdam {
    beta1: 0.9,
    beta2: 0.99,
    eps: 1e-8,
    weight_decay: 0.01,
    max_row_norm: None,
};
const RULES: [SparseRule; 4] = [SGD, ROW_WISE, ADAGRAD, ADAM];

/// A batch with its gradient, and tables in host memory.
struct Case {
    bags: HostBags,
    /// Rows and columns of each table.
    shapes: Vec<[usize; 2]>,
    sources: Vec<Source>,
    tables: Vec<Vec<f32>>,
    dout: Vec<f32>,
    columns: usize,
    gradient: DType,
    weights: DType,
    step: Step,
}

impl Case {
    /// Three features of two tables; the last shares the first's. `bags` maps rows of features to bags.
    fn new(
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
        }
    }

    fn random(dims: [usize; 2], types: (DType, DType)) -> Self {
        Self::new(dims, types, |random, rows| {
            HostBags::random(random, 60, rows, 3, true)
        })
    }

    /// Sample after sample looks up row 5 of table 0, over `batch / 32` tiles.
    fn hot(dims: [usize; 2], types: (DType, DType), batch: usize) -> Self {
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
    fn on_cpu(&self, rule: &SparseRule) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let context = Context::cpu(1, false).unwrap();
        let (mut tables, mut states) = (self.tables.clone(), vec![]);
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
            let view = TensorMut::from_f32(values, &[rows, dim]);
            let (rate, number) = (self.step.sparse_learning_rate, self.step.number);
            sparse_optimizer::update(&context, rule, rate, number, view, &mut state, gradient)
                .unwrap();
            states.extend(state.tensors().map(|(_, tensor)| tensor.f32().to_vec()));
        }
        (tables, states)
    }

    fn upload(&self, rule: &SparseRule, seed: u64) -> OnDevice {
        let mut emulator = Emulator::new(seed);
        let context = Context::cpu(1, false).unwrap();
        let (mut tables, mut matrices, mut states, mut first_row) = (vec![], vec![], vec![], 0);
        for (values, &[rows, dim]) in self.tables.iter().zip(&self.shapes) {
            let matrix = emulator.matrix("table", values, self.weights, [rows, dim], dim);
            let state = SparseState::new(&context, rule, rows, dim);
            let mut own: Vec<Address> = (state.tensors())
                .map(|(name, tensor)| emulator.upload(name, tensor.f32()))
                .collect();
            states.extend(own.iter().copied());
            own.resize(2, Address::NULL);
            tables.push(Table {
                weights: matrix.address.0,
                first: own[0].0,
                second: own[1].0,
                row_stride: dim as i64,
                first_row,
                dim: dim as u32,
                reserved: 0,
            });
            first_row += rows as u64;
            matrices.push(matrix);
        }
        OnDevice::new(self, emulator, tables, matrices, states)
    }
}

/// A case in the emulator's memory.
struct OnDevice {
    emulator: Emulator,
    tables: Vec<Table>,
    matrices: Vec<Matrix>,
    states: Vec<Address>,
    tables_on_device: Address,
    sources_on_device: Address,
    dout: Matrix,
    step: Address,
    rows: Rows,
    not_finite: Address,
    capacity: usize,
}

impl OnDevice {
    fn new(
        case: &Case,
        mut emulator: Emulator,
        tables: Vec<Table>,
        matrices: Vec<Matrix>,
        states: Vec<Address>,
    ) -> Self {
        let capacity = case.bags.ids.len() + 10;
        let shape = [case.bags.batch, case.columns];
        Self {
            tables_on_device: emulator.upload("tables", &tables),
            sources_on_device: emulator.upload("sources", &case.sources),
            dout: emulator.matrix("dout", &case.dout, case.gradient, shape, case.columns),
            step: emulator.upload("step", &[case.step]),
            rows: groups::rows(&mut emulator, capacity),
            not_finite: emulator.upload("not_finite", &[u64::MAX]),
            emulator,
            tables,
            matrices,
            states,
            capacity,
        }
    }

    /// Sorts the lookups; what is left to do takes the result.
    fn gradients<'a>(&'a mut self, case: &'a Case) -> Gradients<'a> {
        let mut bags = case.bags.upload(&mut self.emulator);
        let mut ids = case.bags.ids.clone();
        ids.resize(self.capacity, 0);
        bags.ids = self.emulator.upload("ids", &ids);
        let memory = groups::memory(&mut self.emulator, self.capacity);
        let first_bad = self.emulator.upload("first_bad", &[u64::MAX]);
        let operands = Build {
            bags,
            sources: &case.sources,
            sources_on_device: self.sources_on_device,
            memory,
            rows: Some(self.rows),
            first_bad,
        };
        let (launches, sorted) = build(&operands).unwrap();
        self.emulator.run(launches);
        let floats = 4 * tiles(self.capacity) * row_stride(case.dim_max());
        let partial = Partial {
            heads: self.emulator.empty("heads", floats),
            tails: self.emulator.empty("tails", floats),
            lists: self.emulator.empty("lists", 8 * tiles(self.capacity)),
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
            partial,
            step: self.step,
        }
    }

    fn tables(&self) -> Vec<Vec<f32>> {
        self.matrices
            .iter()
            .map(|matrix| self.emulator.elements(matrix))
            .collect()
    }

    fn states(&self) -> Vec<Vec<f32>> {
        self.states
            .iter()
            .map(|&state| self.emulator.download(state))
            .collect()
    }
}

impl Case {
    fn dim_max(&self) -> usize {
        self.shapes.iter().map(|shape| shape[1]).max().unwrap()
    }

    fn fused(&self, rule: &SparseRule, seed: u64) -> OnDevice {
        let mut device = self.upload(rule, seed);
        let (weights, not_finite) = (self.weights, device.not_finite);
        let launches = update(&device.gradients(self), rule, weights, not_finite).unwrap();
        device.emulator.run(launches);
        device
    }

    /// Sums, then updates; the step's overflow flag.
    fn in_two_phases(&self, rule: &SparseRule, seed: u64) -> (OnDevice, u32) {
        let mut device = self.upload(rule, seed);
        let rows = device.rows;
        let floats = 4 * device.capacity * row_stride(self.dim_max());
        let out = device.emulator.empty("gradients", floats);
        let gradients = device.gradients(self);
        let row_bits = gradients.sorted.layout.row_bits;
        let launches = sum(&gradients, &rows, out).unwrap();
        device.emulator.run(launches);
        let operands = UpdateRows {
            tables: &device.tables,
            tables_on_device: device.tables_on_device,
            weights: self.weights,
            row_bits,
            rows,
            capacity: device.capacity,
            gradients: out,
            step: device.step,
            not_finite: device.not_finite,
        };
        device.emulator.run([update_rows(&operands, rule).unwrap()]);
        let overflow = device.emulator.download::<Step>(device.step)[0].overflow;
        (device, overflow)
    }

    #[track_caller]
    fn check(&self, rule: &SparseRule, device: &OnDevice) {
        let (tables, states) = self.on_cpu(rule);
        // A table in half precision is rounded to one of two neighbours.
        let tolerance = (2.0 * epsilon(self.weights)).max(4e-6);
        for (got, expected) in device.tables().iter().zip(&tables) {
            assert_close("table", got, expected, tolerance);
        }
        for (got, expected) in device.states().iter().zip(&states) {
            assert_close("state", got, expected, 4e-6);
        }
        assert_eq!(
            device.emulator.download::<u64>(device.not_finite),
            [u64::MAX]
        );
    }
}

const TYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::Bf16, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F32),
    (DType::F16, DType::F16),
];

#[test]
fn fused_updates_are_the_cpus() {
    for rule in RULES {
        for types in TYPES {
            for dims in [[16, 16], [128, 4], [5, 33], [1, 64]] {
                let case = Case::random(dims, types);
                case.check(&rule, &case.fused(&rule, 0));
            }
        }
    }
}

#[test]
fn one_row_in_every_bag_is_summed_over_many_tiles() {
    for types in TYPES {
        // 3 tiles: a group of lanes; 40: a block.
        for (batch, dims) in [(70, [8, 20]), (1300, [32, 4]), (1300, [128, 7])] {
            let case = Case::hot(dims, types, batch);
            case.check(&ROW_WISE, &case.fused(&ROW_WISE, 1));
        }
    }
}

#[test]
fn every_order_of_threads_gives_the_same_bits() {
    for types in [TYPES[0], TYPES[2]] {
        let case = Case::hot([20, 64], types, 1000);
        let run = |seed| {
            let device = case.fused(&ROW_WISE, seed);
            (device.tables(), device.states())
        };
        let first = run(SEEDS[0]);
        assert!(SEEDS.iter().all(|&seed| run(seed) == first));
    }
}

#[test]
fn sums_then_updates_are_the_cpus_also_for_long_rows() {
    for rule in RULES {
        for types in TYPES {
            for dims in [[12, 40], [300, 64]] {
                let case = Case::random(dims, types);
                let (device, overflow) = case.in_two_phases(&rule, 0);
                assert_eq!(overflow, 0);
                case.check(&rule, &device);
            }
        }
    }
    let case = Case::hot([1024, 1], TYPES[0], 700);
    let (device, _) = case.in_two_phases(&ROW_WISE, 2);
    case.check(&ROW_WISE, &device);
}

#[test]
fn both_ways_give_the_same_bits() {
    for types in TYPES {
        let case = Case::hot([64, 9], types, 600);
        let (device, _) = case.in_two_phases(&SGD, 0);
        assert_eq!(device.tables(), case.fused(&SGD, 0).tables());
    }
}

#[test]
fn gradients_are_unscaled_first() {
    let mut case = Case::random([16, 8], TYPES[3]);
    let (expected, _) = case.on_cpu(&ADAM);
    case.dout.iter_mut().for_each(|x| *x *= 512.0);
    case.step.inverse_scale = 1.0 / 512.0;
    for (got, expected) in case.fused(&ADAM, 0).tables().iter().zip(&expected) {
        assert_close("table", got, expected, 1e-5);
    }
    let (device, _) = case.in_two_phases(&ADAM, 0);
    for (got, expected) in device.tables().iter().zip(&expected) {
        assert_close("table", got, expected, 1e-5);
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_told_and_changes_no_row() {
    for bad in [f32::INFINITY, f32::NAN] {
        let mut case = Case::random([16, 16], TYPES[0]);
        let sample = case
            .bags
            .offsets
            .windows(2)
            .position(|bag| bag[1] > bag[0])
            .unwrap();
        case.dout[sample * case.columns + case.sources[0].column as usize + 5] = bad;
        // A weight of 1: 0 * infinity would be another story.
        case.bags.weights.as_mut().unwrap().fill(1.0);
        let id = case.bags.ids[case.bags.offsets[sample] as usize];
        let device = case.fused(&SGD, 0);
        let row = id as usize * 16..id as usize * 16 + 16;
        assert_eq!(device.tables()[0][row.clone()], case.tables[0][row]);
        let told = device.emulator.download::<u64>(device.not_finite)[0];
        assert!(told <= id as u64);
        let (_, overflow) = case.in_two_phases(&SGD, 0);
        assert_eq!(overflow, 1);
    }
}

#[test]
fn a_skipped_step_changes_nothing() {
    let mut case = Case::random([16, 16], TYPES[4]);
    case.step.skip = 1;
    let (device, _) = case.in_two_phases(&ADAM, 0);
    assert_eq!(device.tables(), case.tables);
    assert!(device.states().iter().flatten().all(|&x| x == 0.0));
}

/// The mean over many steps of a table in half precision follows float32, though each step is smaller than half
/// the distance to the next number.
#[test]
fn small_updates_of_half_tables_are_not_lost() {
    let mut case = Case::hot([32, 4], (DType::Bf16, DType::Bf16), 40);
    case.dout.fill(1.0 / 64.0);
    case.step.sparse_learning_rate = 1e-3;
    case.tables[0].fill(1.0);
    let mut moved = 0.0;
    for number in 1..=40 {
        case.step.number = number;
        case.tables[0].fill(1.0);
        let tables = case.fused(&SGD, 0).tables();
        moved += tables[0][5 * 32..6 * 32]
            .iter()
            .map(|w| 1.0 - f64::from(*w))
            .sum::<f64>()
            / 32.0;
    }
    let lookups = case.bags.ids.iter().enumerate();
    let of_row = lookups
        .filter(|(index, id)| **id == 5 && !(40..80).contains(index))
        .count();
    let expected = 40.0 * 1e-3 / 64.0 * of_row as f64;
    assert!(
        (moved / expected - 1.0).abs() < 0.25,
        "moved {moved}, expected {expected}"
    );
}

#[test]
fn rows_that_are_too_long_for_a_kernel_are_refused() {
    assert!(fuses(128, DType::F32) && !fuses(129, DType::F32) && fuses(256, DType::Bf16));
    let case = Case::random([129, 4], TYPES[0]);
    let mut device = case.upload(&SGD, 0);
    let not_finite = device.not_finite;
    let error = update(&device.gradients(&case), &SGD, DType::F32, not_finite).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rows of a fused update has shape [129], expected [128]"),
        "{error}"
    );
    let case = Case::random([1025, 4], TYPES[0]);
    let mut device = case.upload(&SGD, 0);
    let rows = device.rows;
    let error = sum(&device.gradients(&case), &rows, Address::NULL).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rows of a table has shape [1025], expected [1024]"),
        "{error}"
    );
}
