use streamrec_kernels::cuda::radix_sort::{Pairs, counts_len, sort};

use crate::device::{Device, SEEDS};
use crate::values::Random;

/// Sorts so many random pairs by the lowest bits of their keys.
pub fn check(random: &mut Random, len: usize, bits: u32) {
    let mask = u64::MAX >> (64 - bits);
    // Few distinct keys: their order is seen in the values.
    let keys: Vec<u64> = (0..len)
        .map(|_| random.bits() & mask & !(random.bits() << 4))
        .collect();
    let values: Vec<u32> = (0..len as u32).collect();
    let mut expected: Vec<(u64, u32)> = keys.iter().copied().zip(values.iter().copied()).collect();
    expected.sort();
    for seed in SEEDS {
        let mut device = Device::new(seed);
        let pairs = Pairs {
            keys: [
                device.upload("keys", &keys),
                device.empty("sorted", 8 * len),
            ],
            values: [
                device.upload("values", &values),
                device.empty("sorted values", 4 * len),
            ],
            counts: device.empty("counts", 4 * counts_len(len)),
            totals: device.empty("totals", 4 * 256),
            len,
        };
        let (launches, place) = sort(&pairs, bits).unwrap();
        device.run(launches);
        let keys: Vec<u64> = device.download(pairs.keys[place]);
        let values: Vec<u32> = device.download(pairs.values[place]);
        let got: Vec<(u64, u32)> = keys.into_iter().zip(values).collect();
        assert!(got == expected, "{len} pairs of {bits} bits");
    }
}

#[test]
fn pairs_are_sorted_and_stay_in_order() {
    let mut random = Random(4);
    for (len, bits) in [
        (0, 8),
        (1, 3),
        (2047, 8),
        (2049, 17),
        (9000, 40),
        (5000, 64),
    ] {
        check(&mut random, len, bits);
    }
}
