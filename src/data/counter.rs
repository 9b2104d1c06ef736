//! Random numbers by counter: the n-th number of a stream is a function of its key and n, so any
//! thread can draw any number, and none depends on how many threads draw.
//!
//! SplitMix64 started at the key: Steele, Lea, Flood, "Fast splittable pseudorandom number
//! generators", OOPSLA 2014.

/// 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads 64 bits over 64 bits, one to one: the finaliser of SplitMix64.
#[inline]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The key of the stream that `parts` name: seed, purpose, number.
#[inline]
pub fn stream_key(parts: &[u64]) -> u64 {
    parts
        .iter()
        .fold(0, |key, &part| mix(mix(key.wrapping_add(GAMMA)) ^ part))
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream that `parts` name, from its first number.
    #[inline]
    pub fn new(parts: &[u64]) -> Self {
        Self {
            state: stream_key(parts),
        }
    }

    /// The next 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number of [0, 1), a multiple of 2^-53.
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// True with probability `p`.
    #[inline]
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// An integer of [0, n), n > 0, each equally likely but for n / 2^64: the high half of a product,
    /// Lemire, "Fast random integer generation in an interval", 2019.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A normal number of mean 0 and deviation 1, by Box and Muller's transform of two numbers.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_key_0_is_splitmix64() {
        // The first numbers of the authors' implementation from state 0.
        let mut stream = Stream { state: 0 };
        assert_eq!(stream.bits(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(stream.bits(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new(&[7, 1]);
        let n = 100_000;
        let mean =
            |draw: &mut dyn FnMut() -> f64| (0..n).map(|_| draw()).sum::<f64>() / f64::from(n);
        assert!((mean(&mut || stream.uniform()) - 0.5).abs() < 0.005);
        assert!((mean(&mut || stream.below(10) as f64) - 4.5).abs() < 0.05);
        assert!(mean(&mut || stream.normal()).abs() < 0.02);
        assert!((mean(&mut || stream.normal().powi(2)) - 1.0).abs() < 0.03);
        assert!((mean(&mut || f64::from(u8::from(stream.chance(0.2)))) - 0.2).abs() < 0.01);
    }

    #[test]
    fn neighbouring_streams_differ() {
        let first: std::collections::HashSet<_> = (0..1000)
            .flat_map(|i| {
                [
                    Stream::new(&[7, i, 0]).bits(),
                    Stream::new(&[7, 0, i + 1]).bits(),
                ]
            })
            .collect();
        assert_eq!(first.len(), 2000);
    }
}
