//! Many tests at once: which of their small probabilities are believed.

use serde::{Deserialize, Serialize};

/// How a probability is judged among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// By itself: of many, a share of `alpha` are false alarms.
    None,
    /// `alpha` is the chance of any false alarm; each test has an equal part of it.
    Bonferroni,
    /// The same promise with more power (Holm, 1979, <https://www.jstor.org/stable/4615733>).
    Holm,
    /// `alpha` is the expected share of false alarms among all alarms (Benjamini and Hochberg, 1995,
    /// <https://doi.org/10.1111/j.2517-6161.1995.tb02031.x>).
    BenjaminiHochberg,
}

/// Which of `probabilities` are too small for chance; one that is no number is never.
pub fn rejected(probabilities: &[f64], alpha: f64, correction: Correction) -> Vec<bool> {
    let mut order: Vec<usize> = (0..probabilities.len())
        .filter(|&place| !probabilities[place].is_nan())
        .collect();
    order.sort_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
    let tests = order.len() as f64;
    let within = |rank: usize| {
        let limit = match correction {
            Correction::None => alpha,
            Correction::Bonferroni => alpha / tests,
            Correction::Holm => alpha / (tests - rank as f64),
            Correction::BenjaminiHochberg => alpha * (rank as f64 + 1.0) / tests,
        };
        probabilities[order[rank]] <= limit
    };
    let count = match correction {
        // Up to the greatest rank that is within its limit.
        Correction::BenjaminiHochberg => (0..order.len())
            .rev()
            .find(|&rank| within(rank))
            .map_or(0, |rank| rank + 1),
        // Down to the first that is not.
        _ => (0..order.len()).take_while(|&rank| within(rank)).count(),
    };
    let mut rejected = vec![false; probabilities.len()];
    for &place in &order[..count] {
        rejected[place] = true;
    }
    rejected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_differ_as_their_authors_say() {
        // statsmodels' multipletests agrees: alpha = 0.05.
        let p = [0.001, 0.3, 0.011, 0.039, f64::NAN, 0.024];
        let count = |correction| {
            let found = rejected(&p, 0.05, correction);
            assert!(!found[4] && !found[1]);
            found.iter().filter(|&&one| one).count()
        };
        assert_eq!(count(Correction::None), 4);
        assert_eq!(count(Correction::Bonferroni), 1);
        assert_eq!(count(Correction::Holm), 2);
        assert_eq!(count(Correction::BenjaminiHochberg), 4);
        assert!(rejected(&[], 0.05, Correction::Holm).is_empty());
    }
}
