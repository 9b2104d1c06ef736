//! Which requests are logged.

use streamrec_artifact::key;

/// A share of all requests, chosen by their ids: a retry, and every server, decides the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    rate: f64,
}

impl Sampling {
    /// A share from 0 to 1; `None` for anything else.
    pub fn new(rate: f64) -> Option<Self> {
        (0.0..=1.0).contains(&rate).then_some(Self { rate })
    }

    /// Whether the request of this id is logged. What a smaller share takes, a larger one takes too.
    pub fn takes(self, request_id: &str) -> bool {
        // 53 bits: what a float64 holds exactly.
        let place = key::hash(key::from_text(request_id)) >> 11;
        (place as f64) < self.rate * (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_ids_and_grows_with_the_rate() {
        let taken = |rate: f64| -> Vec<usize> {
            let sampling = Sampling::new(rate).unwrap();
            let takes = |index: &usize| sampling.takes(&format!("request-{index}"));
            (0..20_000).filter(takes).collect()
        };
        assert!(taken(0.0).is_empty());
        assert_eq!(taken(1.0).len(), 20_000);
        let (tenth, half) = (taken(0.1), taken(0.5));
        // Six standard deviations.
        assert!((1_745..=2_255).contains(&tenth.len()), "{}", tenth.len());
        assert!((9_575..=10_425).contains(&half.len()), "{}", half.len());
        assert!(tenth.iter().all(|index| half.binary_search(index).is_ok()));
        for rate in [-0.1, 1.1, f64::NAN] {
            assert_eq!(Sampling::new(rate), None);
        }
    }
}
