//! The normal and Student's distribution, as far as intervals need them.

/// The normal distribution's cumulative probability; the error is below 1e-12.
pub(crate) fn cumulative(x: f64) -> f64 {
    // The continued fraction of Mills's ratio converges fast away from 0, the series near it.
    let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for step in 1..200 {
            term *= x * x / f64::from(2 * step + 1);
            sum += term;
            if term.abs() < 1e-17 {
                break;
            }
        }
        return 0.5 + density * sum;
    }
    let mut fraction = 0.0;
    for step in (1..200).rev() {
        fraction = f64::from(step) / (x.abs() + fraction);
    }
    let tail = density / (x.abs() + fraction);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// The value below which a share of the normal distribution lies, by Newton's method.
pub(crate) fn quantile(share: f64) -> f64 {
    let mut x = 0.0f64;
    for _ in 0..100 {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        // Steps are bounded, as the density is tiny far out.
        let step = ((cumulative(x) - share) / density).clamp(-0.5, 0.5);
        x -= step;
        if step.abs() < 1e-13 {
            break;
        }
    }
    x
}

/// The same of Student's distribution, by Cornish and Fisher's expansion (Abramowitz and Stegun, 26.7.5).
pub(crate) fn student_quantile(share: f64, freedom: f64) -> f64 {
    let z = quantile(share);
    let terms = [
        (z.powi(3) + z) / 4.0,
        (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0,
        (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0,
    ];
    let mut power = freedom;
    terms.iter().fold(z, |sum, term| {
        let next = sum + term / power;
        power *= freedom;
        next
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_scipy() {
        // scipy.stats.norm.cdf, norm.ppf, t.ppf
        for (x, p) in [
            (0.5, 0.691_462_461_274_013),
            (-1.96, 0.024_997_895_148_220_4),
            (-4.0, 3.167_124_183_311_99e-5),
        ] {
            assert!(
                (cumulative(x) / p - 1.0).abs() < 1e-10,
                "{x}: {}",
                cumulative(x)
            );
        }
        assert!((quantile(0.975) - 1.959_963_984_540_054).abs() < 1e-10);
        assert!((quantile(0.001) + 3.090_232_306_167_814).abs() < 1e-10);
        assert!((student_quantile(0.975, 20.0) - 2.085_963_447_265_84).abs() < 1e-3);
        assert!((student_quantile(0.975, 200.0) - 1.971_896_223_633_32).abs() < 1e-6);
    }
}
