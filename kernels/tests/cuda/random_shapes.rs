//! Shapes that nobody chose, others in each run: kernels are the CPU's there too.

use std::time::SystemTime;

use streamrec_kernels::linear::Activation;
use streamrec_kernels::sparse_optimizer::SparseRule;

use crate::device::SEEDS;
use crate::on_device::Case;
use crate::sparse_optimizer::{
    ADAGRAD, CLIPPED, DECAYED, ROW_WISE, SGD, check_apart, check_together,
};
use crate::values::{FLOATS, Random};
use crate::{
    add, bce, cast, cross, dense_optimizer, dot_interaction, embedding_bag, factorization_machine,
    groups, linear, own_product, radix_sort, row_lists, sparse_optimizer,
};

const VARIABLE: &str = "STREAMREC_TEST_SEED";
const ROUNDS: usize = 12;

/// A failure tells how to draw the same shapes again.
fn rounds(mut check: impl FnMut(&mut Random)) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = match std::env::var(VARIABLE) {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => now.unwrap().as_nanos() as u64 % 1_000_000,
    };
    println!("{VARIABLE}={seed} draws these shapes again");
    let mut random = Random(seed);
    for _ in 0..ROUNDS {
        check(&mut random);
    }
}

/// From 1 to `most`, small ones more often.
fn size(random: &mut Random, most: usize) -> usize {
    let bound = 1 + random.below(most);
    1 + random.below(bound)
}

/// Likewise, from 16 on: one sum that cancels out is no measure of its own rounding.
fn many(random: &mut Random, most: usize) -> usize {
    15 + size(random, most)
}

fn flag(random: &mut Random) -> bool {
    random.below(2) == 1
}

fn one_of<T: Copy>(random: &mut Random, all: &[T]) -> T {
    all[random.below(all.len())]
}

#[test]
fn additions() {
    rounds(|random| {
        let shape = [many(random, 300), size(random, 300)];
        add::check_copies(shape, one_of(random, &add::TYPES));
        add::check_broadcasts(shape, one_of(random, &add::TYPES));
        let features = [size(random, 30), size(random, 80)];
        let types = one_of(random, &add::TYPES);
        add::check_features(many(random, 100), features, types);
        let shape = [many(random, 300), size(random, 300)];
        add::check_means(shape, one_of(random, &add::TYPES));
        add::check_halves(one_of(random, &[2, 4, 8]), size(random, 5000));
    });
}

#[test]
fn losses_and_casts() {
    rounds(|random| {
        let (batch, heads) = (size(random, 2000), size(random, 5));
        bce::check(batch, heads, one_of(random, &FLOATS));
        cast::check(size(random, 10_000));
        cast::check_scaled(size(random, 10_000), random.below(220) as i32 - 100);
    });
}

#[test]
fn interactions() {
    rounds(|random| {
        let (pad, seed) = (random.below(17), one_of(random, &SEEDS));
        let shape = [many(random, 25), size(random, 40), size(random, 140)];
        dot_interaction::check(shape, one_of(random, &FLOATS), pad, seed);
        let types = one_of(random, &factorization_machine::TYPES);
        factorization_machine::check(shape, types, pad, seed);
        let shape = [size(random, 100), size(random, 600)];
        let accumulate = [flag(random), flag(random)];
        cross::check(shape, one_of(random, &FLOATS), accumulate, pad, seed);
    });
}

#[test]
fn layers() {
    rounds(|random| {
        let shape = [size(random, 400), size(random, 300)];
        let index = random.below(1000);
        let activation = one_of(random, &[Activation::Relu, Activation::None]);
        let how = (activation, flag(random));
        linear::check_finish(shape, one_of(random, &linear::TYPES), how, index);
        let how = [flag(random), flag(random)];
        let shape = [size(random, 400), many(random, 300)];
        linear::check_gradients(shape, one_of(random, &FLOATS), how, index);
        let shape = [many(random, 150), many(random, 100), many(random, 150)];
        own_product::check(shape, one_of(random, &own_product::TYPES), index);
    });
}

#[test]
fn dense_updates() {
    rounds(|random| {
        let lens: Vec<usize> = (0..size(random, 6)).map(|_| size(random, 9000)).collect();
        let mut case = dense_optimizer::Case::of(dense_optimizer::spans_of(&lens));
        let rules = dense_optimizer::rules();
        case.check(&rules[random.below(rules.len())], random.below(3));
        case.check_norm();
    });
}

#[test]
fn lookups() {
    rounds(|random| {
        let dims: Vec<usize> = (0..size(random, 5)).map(|_| size(random, 300)).collect();
        let types = one_of(random, &embedding_bag::TYPES);
        let (hotness, weighted) = (random.below(12), flag(random));
        let (pad, seed) = (random.below(9), one_of(random, &SEEDS));
        embedding_bag::check(&dims, types, hotness, weighted, pad, seed);
        let bits = size(random, 64) as u32;
        let len = size(random, 9000);
        radix_sort::check(random, len, bits);
        groups::check(size(random, 900), random.below(5), size(random, 3000));
    });
}

/// Adam with an epsilon beside which the rounding of a gradient that almost cancels out is small: it divides by the
/// gradient's own size.
const ADAM: SparseRule = SparseRule::LazyAdam {
    beta1: 0.9,
    beta2: 0.99,
    eps: 0.01,
    weight_decay: 0.01,
    max_row_norm: None,
};

#[test]
fn updates() {
    rounds(|random| {
        let types = one_of(random, &sparse_optimizer::TYPES);
        let rule = one_of(random, &[SGD, ROW_WISE, ADAGRAD, ADAM]);
        println!("{rule:?}, {types:?}");
        let case = Case::random([size(random, 128), size(random, 128)], types);
        case.check(&rule, &case.fused(&rule, one_of(random, &SEEDS)));
        let case = Case::random([size(random, 1024), size(random, 64)], types);
        let (on, overflow) = case.in_two_phases(&rule, one_of(random, &SEEDS));
        assert_eq!(overflow, 0);
        case.check(&rule, &on);
        // One row in every bag of a feature.
        let dims = [size(random, 128), size(random, 128)];
        let case = Case::hot(dims, types, many(random, 1500));
        case.check(&ROW_WISE, &case.fused(&ROW_WISE, one_of(random, &SEEDS)));
    });
}

/// Rows that several ranks touch, or ask each other for.
#[test]
fn lists_of_rows() {
    rounds(|random| {
        let capacity = size(random, 800);
        let lens: Vec<usize> = (0..1 + size(random, 5))
            .map(|_| random.below(capacity + 1))
            .collect();
        row_lists::check_merge(random, capacity, &lens);
        let places = (0..12).map(|place| (place / 7, place % 7));
        let listed: Vec<(u64, u64)> = places.filter(|_| flag(random)).collect();
        row_lists::check_places(&listed, 4 * size(random, 40));
        let (ranks, rows) = (size(random, 4), size(random, 30));
        let limits = [9, 3, 4];
        let mut list = || {
            limits.map(|limit| {
                let mut of_rank = || -> Vec<i64> {
                    let len = random.below(rows + 1);
                    (0..len).map(|_| random.below(limit) as i64).collect()
                };
                (0..ranks).map(|_| of_rank()).collect()
            })
        };
        let asked = vec![list(), list()];
        let dims = [size(random, 200), size(random, 200)];
        row_lists::check_asked(&asked, rows, dims);
    });
}

/// Rows of which devices hold some columns each.
#[test]
fn updates_of_columns() {
    rounds(|random| {
        let types = (one_of(random, &FLOATS), one_of(random, &FLOATS));
        let dims = [2 + size(random, 600), 2 + size(random, 60)];
        println!("{dims:?}, {types:?}");
        check_apart(&one_of(random, &[ROW_WISE, CLIPPED]), dims, types);
        let ranks = 2 + random.below(2);
        let rule = one_of(random, &[ROW_WISE, DECAYED]);
        check_together(&rule, ranks, dims, types);
    });
}
