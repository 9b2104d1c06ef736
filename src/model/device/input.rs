use rayon::prelude::*;
use streamrec_kernels::cuda::{
    Address, DeviceError, Executor, Feed, Matrix, embedding_bag::Bags, step::StepInput,
};

use streamrec_kernels::{Context, DType};

use crate::model::ModelError;

/// What one of several threads checks or copies at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Sections of an input begin at multiples of so many bytes.
const ALIGNMENT: usize = 256;

/// What one step reads of the host: a batch, and the numbers of the step.
#[derive(Debug, Clone, Copy)]
pub struct HostInput<'a> {
    /// Samples.
    pub rows: usize,
    /// `[rows, dense]`
    pub dense: &'a [f32],
    /// Of all bags, feature by feature.
    pub ids: &'a [i64],
    /// `[features * rows + 1]`
    pub offsets: &'a [i64],
    /// `[rows, labels]`; empty to predict.
    pub labels: &'a [f32],
    /// `[rows]`; empty to predict.
    pub weights: &'a [f32],
    /// Of the global batch.
    pub weight_sum: f64,
    /// Learning rates and the step's number.
    pub step: StepInput,
}

/// Where the parts of an input lie, in the host's memory as in the device's: room for up to `rows`
/// samples and `ids` ids. Ids come last, so that only those that are there are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputLayout {
    /// Samples that there is room for.
    pub rows: usize,
    /// Dense features.
    pub dense: usize,
    /// The rows of the smallest table that each categorical feature looks up.
    pub id_limits: Vec<usize>,
    /// Labels.
    pub labels: usize,
    /// Ids that there is room for.
    pub ids: usize,
}

/// The first byte of each part.
struct Starts {
    weight_sum: usize,
    dense: usize,
    labels: usize,
    weights: usize,
    offsets: usize,
    ids: usize,
}

impl InputLayout {
    fn starts(&self) -> Starts {
        let after = |start: usize, bytes: usize| (start + bytes).next_multiple_of(ALIGNMENT);
        let dense = ALIGNMENT;
        let labels = after(dense, self.rows * self.dense * size_of::<f32>());
        let weights = after(labels, self.rows * self.labels * size_of::<f32>());
        let offsets = after(weights, self.rows * size_of::<f32>());
        let offset_count = self.id_limits.len() * self.rows + 1;
        Starts {
            weight_sum: size_of::<StepInput>(),
            dense,
            labels,
            weights,
            offsets,
            ids: after(offsets, offset_count * size_of::<i64>()),
        }
    }

    fn bytes(&self) -> usize {
        self.starts().ids + self.ids * size_of::<i64>()
    }

    /// Checks that a batch fits, and that each id is a row of its tables: kernels are given what
    /// was checked.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, input: &HostInput<'_>) -> Result<(), ModelError> {
        let refuse = |what, expected: String, got: String| {
            Err(ModelError::Batch {
                what,
                expected,
                got,
            })
        };
        let expect = |what, expected: usize, got: usize| match expected == got {
            true => Ok(()),
            false => refuse(what, expected.to_string(), got.to_string()),
        };
        let (rows, features) = (input.rows, self.id_limits.len());
        if rows > self.rows {
            let expected = format!("at most {}", self.rows);
            return refuse("the number of samples", expected, rows.to_string());
        }
        expect(
            "the number of dense values",
            rows * self.dense,
            input.dense.len(),
        )?;
        expect(
            "the number of offsets",
            features * rows + 1,
            input.offsets.len(),
        )?;
        let ascend = input.offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        let (first, last) = (input.offsets[0], input.offsets[features * rows]);
        if !ascend || first < 0 || last > input.ids.len() as i64 {
            let expected = format!("ascending, from 0 to {}", input.ids.len());
            return refuse("a bag's offset", expected, format!("{first} to {last}"));
        }
        for (feature, &limit) in self.id_limits.iter().enumerate() {
            let [start, end] = [feature, feature + 1].map(|at| input.offsets[at * rows] as usize);
            // Negative ids are huge ones. A search that may end anywhere is slower than the largest of all.
            let (ids, outside) = (&input.ids[start..end], |id: &&i64| {
                **id as u64 >= limit as u64
            });
            let largest = ids.iter().fold(0, |most, &id| (id as u64).max(most));
            if largest >= limit as u64
                && let Some(id) = ids.iter().find(outside)
            {
                let expected = format!("below {limit}, for categorical feature {feature}");
                return refuse("an id", expected, id.to_string());
            }
        }
        Ok(())
    }

    /// Likewise, on the threads of a context where the input is large.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_on(&self, context: &Context, input: &HostInput<'_>) -> Result<(), ModelError> {
        let features = self.id_limits.len();
        let is_whole = input.offsets.len() == features * input.rows + 1
            && input.dense.len() == input.rows * self.dense
            && input.rows <= self.rows;
        let bytes = size_of_val(input.ids) + size_of_val(input.offsets);
        let all_fit = || {
            let each = self.id_limits.par_iter().enumerate();
            each.all(|(feature, &limit)| feature_fits(input, feature, limit))
        };
        if is_whole && is_large(context, bytes) && context.install(all_fit) {
            return Ok(());
        }
        // Tells what does not fit, the first first.
        self.check(input)
    }

    /// Fills `memory`, on the threads of a context where it is large; returns how many bytes are in use.
    fn write(&self, context: &Context, input: &HostInput<'_>, memory: &mut [u8]) -> usize {
        let put = |memory: &mut [u8], start: usize, bytes: &[u8]| {
            let to = &mut memory[start..start + bytes.len()];
            if is_large(context, bytes.len()) {
                context.install(|| {
                    let pieces = to.par_chunks_mut(PIECE_BYTES);
                    let from = bytes.par_chunks(PIECE_BYTES);
                    pieces
                        .zip(from)
                        .for_each(|(to, from)| to.copy_from_slice(from));
                });
            } else {
                to.copy_from_slice(bytes);
            }
            start + bytes.len()
        };
        let starts = self.starts();
        put(memory, 0, bytemuck::bytes_of(&input.step));
        put(
            memory,
            starts.weight_sum,
            bytemuck::bytes_of(&input.weight_sum),
        );
        put(memory, starts.dense, bytemuck::cast_slice(input.dense));
        put(memory, starts.labels, bytemuck::cast_slice(input.labels));
        put(memory, starts.weights, bytemuck::cast_slice(input.weights));
        put(memory, starts.offsets, bytemuck::cast_slice(input.offsets));
        put(memory, starts.ids, bytemuck::cast_slice(input.ids))
    }
}

/// Whether so many bytes are worth waking several threads.
fn is_large(context: &Context, bytes: usize) -> bool {
    context.threads() > 1 && bytes >= 4 * PIECE_BYTES
}

/// Whether the bags of a feature follow each other inside of the ids, and hold rows below `limit` only.
fn feature_fits(input: &HostInput<'_>, feature: usize, limit: usize) -> bool {
    let offsets = &input.offsets[feature * input.rows..=(feature + 1) * input.rows];
    let ascend = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
    let bounds = [offsets[0], offsets[input.rows]].map(usize::try_from);
    let [Ok(start), Ok(end)] = bounds else {
        return false;
    };
    let ids = input.ids.get(start..end).filter(|_| ascend);
    // Negative ids are huge ones.
    let largest = |ids: &[i64]| ids.iter().fold(0, |most, &id| (id as u64).max(most));
    ids.is_some_and(|ids| ids.is_empty() || largest(ids) < limit as u64)
}

/// An input in a device's memory.
#[derive(Debug, Clone, Copy)]
pub struct DeviceInput {
    /// `[rows, dense]`, float32.
    pub dense: Matrix,
    /// `[rows, labels]`, float32.
    pub labels: Matrix,
    /// `[rows]` of `f32`.
    pub weights: Address,
    /// `[1]` of `f64`.
    pub weight_sum: Address,
    /// `[1]` of [`StepInput`].
    pub step: Address,
    /// The ids.
    pub bags: Bags,
    /// Ids that there is room for.
    pub ids: usize,
    /// What concerns sharded tables, where there are any.
    pub remote: Option<RemoteInput>,
}

/// What ranks ask each other for in sharded tables.
#[derive(Debug, Clone, Copy)]
pub struct RemoteInput {
    /// The lookups of all ranks in tables that this device holds for them.
    pub owned: Bags,
    /// Where ids travel once: those that all ranks ask this one for, as bags of at most one; and this rank's lookups, as
    /// positions among the rows that come.
    pub rows: Option<[Bags; 2]>,
}

/// Room for what ranks ask each other for in sharded tables, in each micro-batch; the same on all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoteRoom {
    /// Ids of all ranks in the tables that one holds.
    pub ids: usize,
    /// Distinct ids that one rank asks another for, of one table, where ids travel once.
    pub rows: usize,
    /// Lookups of one rank in such tables.
    pub positions: usize,
}

impl RemoteRoom {
    /// The room that has enough for both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            ids: self.ids.max(other.ids),
            rows: self.rows.max(other.rows),
            positions: self.positions.max(other.positions),
        }
    }
}

/// A place for one input on the device, with the host memory that it is sent from.
#[derive(Debug)]
pub struct InputSlot<F> {
    layout: InputLayout,
    address: Address,
    feed: F,
}

impl<F: Feed> InputSlot<F> {
    /// Memory on both sides.
    ///
    /// # Errors
    /// When there is not so much.
    pub fn new<E: Executor<Feed = F>>(
        executor: &mut E,
        layout: &InputLayout,
    ) -> Result<Self, DeviceError> {
        let address = executor.allocate(layout.bytes())?;
        // Ids behind the last one are looked at, and count for nothing.
        executor.zero(address, layout.bytes())?;
        let mut feed = executor.feed(layout.bytes())?;
        executor.vacate(&mut feed)?;
        Ok(Self {
            layout: layout.clone(),
            address,
            feed,
        })
    }

    /// Lets the next input come as soon as all that was asked for so far is done: nothing that is asked for from now on
    /// reads the one before.
    ///
    /// # Errors
    /// When the device fails.
    pub fn vacate<E: Executor<Feed = F>>(&mut self, executor: &mut E) -> Result<(), DeviceError> {
        executor.vacate(&mut self.feed)
    }

    /// Starts the copy of an input that [`InputLayout::check`] let pass, behind all that was asked for before the place
    /// was [vacated](Self::vacate). Any thread may; the context's help with large ones.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When there is no room for it.
    pub fn send(&mut self, context: &Context, input: &HostInput<'_>) -> Result<(), DeviceError> {
        let layout = &self.layout;
        let write = &mut |memory: &mut [u8]| layout.write(context, input, memory);
        self.feed.send(self.address, write)
    }

    /// Lets work that follows wait for the copy.
    ///
    /// # Errors
    /// When the device fails.
    pub fn receive<E: Executor<Feed = F>>(&mut self, executor: &mut E) -> Result<(), DeviceError> {
        executor.receive(&mut self.feed)
    }

    /// The input on the device, of `rows` samples.
    pub fn input(&self, rows: usize) -> DeviceInput {
        let starts = self.layout.starts();
        let at = |start: usize| Address(self.address.0 + start as u64);
        let floats = |start, columns| Matrix::new(at(start), DType::F32, [rows, columns]);
        DeviceInput {
            dense: floats(starts.dense, self.layout.dense),
            labels: floats(starts.labels, self.layout.labels),
            weights: at(starts.weights),
            weight_sum: at(starts.weight_sum),
            step: at(0),
            bags: Bags {
                ids: at(starts.ids),
                offsets: at(starts.offsets),
                weights: Address::NULL,
                batch: rows,
                features: self.layout.id_limits.len(),
            },
            ids: self.layout.ids,
            remote: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> InputLayout {
        InputLayout {
            rows: 2,
            dense: 1,
            id_limits: vec![4, 9],
            labels: 1,
            ids: 8,
        }
    }

    fn input<'a>(ids: &'a [i64], offsets: &'a [i64]) -> HostInput<'a> {
        HostInput {
            rows: 2,
            dense: &[0.5, 1.5],
            ids,
            offsets,
            labels: &[1.0, 0.0],
            weights: &[1.0, 1.0],
            weight_sum: 2.0,
            step: StepInput {
                learning_rate: 0.1,
                sparse_learning_rate: 0.2,
                number: 1,
                seed: 3,
            },
        }
    }

    #[test]
    fn ids_and_offsets_that_kernels_could_not_trust_are_refused() {
        let layout = layout();
        let ids = [3, 8, 0, 1];
        layout.check(&input(&ids, &[0, 1, 1, 3, 4])).unwrap();
        let refused = |ids: &[i64], offsets: &[i64]| {
            layout.check(&input(ids, offsets)).unwrap_err().to_string()
        };
        let told = refused(&[4, 8, 0, 1], &[0, 1, 1, 3, 4]);
        assert!(
            told.contains("an id is 4, expected below 4, for categorical feature 0"),
            "{told}"
        );
        assert!(refused(&[3, 8, -1, 1], &[0, 1, 1, 3, 4]).contains("an id is -1"));
        assert!(refused(&ids, &[0, 2, 1, 3, 4]).contains("a bag's offset"));
        assert!(refused(&ids, &[0, 1, 1, 3, 5]).contains("expected ascending, from 0 to 4"));
        assert!(refused(&ids, &[0, 1, 1, 3]).contains("the number of offsets is 4, expected 5"));
    }

    #[test]
    fn parts_lie_apart_and_ids_come_last() {
        let layout = layout();
        let mut memory = vec![0; layout.bytes()];
        let context = Context::cpu(1, false).unwrap();
        let input = input(&[3, 8, 0, 1], &[0, 1, 1, 3, 4]);
        let used = layout.write(&context, &input, &mut memory);
        let starts = layout.starts();
        assert_eq!(used, starts.ids + 4 * 8);
        assert_eq!(memory[starts.dense..][..4], 0.5f32.to_le_bytes());
        assert_eq!(memory[starts.weight_sum..][..8], 2.0f64.to_le_bytes());
        assert_eq!(memory[starts.ids + 8..][..8], 8i64.to_le_bytes());
        assert_eq!(memory[starts.offsets + 32..][..8], 4i64.to_le_bytes());
    }
    /// Two features of 200,000 samples, with one id each.
    fn large() -> (InputLayout, Vec<i64>, Vec<i64>, Vec<f32>) {
        let rows = 200_000;
        let layout = InputLayout {
            rows,
            dense: 1,
            id_limits: vec![4, 9],
            labels: 1,
            ids: 2 * rows,
        };
        let ids = (0..2 * rows as i64).map(|index| index % 4).collect();
        let offsets = (0..=2 * rows as i64).collect();
        (layout, ids, offsets, vec![0.5; rows])
    }

    #[test]
    fn several_threads_write_what_one_writes_and_refuse_what_it_refuses() {
        let (layout, mut ids, mut offsets, floats) = large();
        let contexts = [1, 3].map(|threads| Context::cpu(threads, false).unwrap());
        fn large_input<'a>(floats: &'a [f32], ids: &'a [i64], offsets: &'a [i64]) -> HostInput<'a> {
            HostInput {
                rows: floats.len(),
                dense: floats,
                labels: floats,
                weights: floats,
                ..input(ids, offsets)
            }
        }
        let written = contexts.each_ref().map(|context| {
            let mut memory = vec![0; layout.bytes()];
            let input = large_input(&floats, &ids, &offsets);
            layout.check_on(context, &input).unwrap();
            let used = layout.write(context, &input, &mut memory);
            (used, memory)
        });
        assert!(written[0] == written[1]);
        let refused = |ids: &[i64], offsets: &[i64]| {
            contexts.each_ref().map(|context| {
                let input = large_input(&floats, ids, offsets);
                let refused = layout.check_on(context, &input);
                refused.unwrap_err().to_string()
            })
        };
        ids[199_999] = 4;
        ids[300_000] = -1;
        let told = refused(&ids, &offsets);
        assert!(told[0].contains("an id is 4, expected below 4"), "{told:?}");
        assert_eq!(told[0], told[1]);
        offsets[200_000] = 7;
        let told = refused(&ids, &offsets);
        assert!(told[0].contains("a bag's offset"), "{told:?}");
        assert_eq!(told[0], told[1]);
    }
}
