use streamrec_kernels::norm::{scale, sum_of_squares};

use crate::oracle::{Random, context};

#[test]
fn the_sum_of_squares_is_exact_to_double_precision() {
    let context = context();
    for len in [0, 1, 17, 5000, 300_000] {
        let x = Random(37).floats(len);
        let expected: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let got = sum_of_squares(&context, &x);
        assert!(
            (got - expected).abs() <= 1e-12 * expected,
            "{got} {expected}"
        );
        let one = streamrec_kernels::Context::cpu(1, false).unwrap();
        assert_eq!(sum_of_squares(&one, &x), got);
    }
}

#[test]
fn scaling_multiplies_every_element() {
    let context = context();
    let x = Random(41).floats(40_001);
    let mut scaled = x.clone();
    scale(&context, &mut scaled, 0.25);
    assert!(x.iter().zip(&scaled).all(|(x, scaled)| x * 0.25 == *scaled));
}
