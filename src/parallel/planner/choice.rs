use super::{BatchSplit, Cost, Machine, TableLoad};
use crate::config::{EmbeddingsConfig, Exchange, Placement, Reduction};

/// What saves less, in seconds and as a share of the table's own time, is not worth an exchange: candidates come
/// from the simplest to the most involved, and estimates are not exact.
const WORTH_S: f64 = 2e-6;
const WORTH: f64 = 0.1;

/// Chooses placements.
#[derive(Debug, Clone)]
pub struct Planner<'a> {
    /// What ranks can do.
    pub machine: &'a Machine,
    /// Samples of a global batch.
    pub batch: usize,
    /// Ranks of a tensor-parallel group.
    pub tp: usize,
    /// Where it is invariant, each id travels once.
    pub reduction: Reduction,
    /// Bytes that a rank holds besides tables.
    pub other_bytes: u64,
}

/// Where one table lies, and what that costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The table's name.
    pub table: String,
    /// Where.
    pub placement: Placement,
    /// What travels.
    pub exchange: Exchange,
    /// The rank of a table-wise one.
    pub owner: usize,
    /// On each rank.
    pub costs: Vec<Cost>,
}

/// Tables that do not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "table `{table}` fits nowhere: at its best a rank would hold {needed} of {memory}; use more ranks, \
     ranks with more memory, a smaller `dim`, or unpin the tables that `parallel.embeddings.tables` names"
)]
pub struct PlanError {
    /// The table.
    pub table: String,
    /// What the fullest rank would hold.
    pub needed: String,
    /// What it may.
    pub memory: String,
}

impl Choice {
    /// Seconds that the table takes of a step on the busiest rank.
    pub fn seconds(&self, machine: &Machine) -> f64 {
        let seconds = self.costs.iter().map(|cost| cost.seconds(machine));
        seconds.fold(0.0, f64::max)
    }

    /// Bytes on the rank that holds most of it.
    pub fn memory_bytes(&self) -> f64 {
        let held = self.costs.iter().map(|cost| cost.memory_bytes);
        held.fold(0.0, f64::max)
    }
}

impl Planner<'_> {
    /// Every placement of a table that the ranks allow and `config` does not rule out.
    pub fn candidates(&self, load: &TableLoad, config: &EmbeddingsConfig) -> Vec<Choice> {
        let ranks = self.machine.ranks;
        let (asked, pins) = (config.pinned(&load.name), config.tables.get(&load.name));
        // Row numbers travel in 32 bits.
        let shards = ranks > 1 && u32::try_from(load.rows).is_ok();
        let mut all = Vec::new();
        let placements = [
            (Placement::Replicated, true),
            (Placement::TableWise, true),
            (Placement::RowWise, load.rows >= ranks),
            (Placement::ColumnWise, load.dim >= ranks),
        ];
        for (placement, fits) in placements {
            let allowed = asked.is_none_or(|own| own == placement);
            let sharded = placement != Placement::Replicated;
            if !fits || !allowed || (sharded && !shards) {
                continue;
            }
            let exchanges: &[Exchange] = match (sharded, self.reduction) {
                (false, _) => &[Exchange::Pooled],
                (true, Reduction::Fast) => &[Exchange::Pooled, Exchange::Unique],
                (true, Reduction::Invariant) => &[Exchange::Unique],
            };
            for &exchange in exchanges {
                let pinned_exchange = pins.and_then(|pin| pin.exchange);
                if sharded && pinned_exchange.is_some_and(|own| own != exchange) {
                    continue;
                }
                let owners = match (placement, pins.and_then(|pin| pin.rank)) {
                    (Placement::TableWise, Some(rank)) => rank..rank + 1,
                    (Placement::TableWise, None) => 0..ranks,
                    _ => 0..1,
                };
                all.extend(owners.map(|owner| self.choice(load, placement, exchange, owner)));
            }
        }
        all
    }

    fn choice(
        &self,
        load: &TableLoad,
        placement: Placement,
        exchange: Exchange,
        owner: usize,
    ) -> Choice {
        let split = BatchSplit {
            batch: self.batch,
            ranks: self.machine.ranks,
            tp: self.tp,
        };
        let cost = |rank| Cost::of(load, placement, exchange, owner, rank, &split);
        Choice {
            table: load.name.clone(),
            placement,
            exchange,
            owner,
            costs: (0..split.ranks).map(cost).collect(),
        }
    }

    /// The placement of each table, in the order of `loads`: the largest first where it keeps the busiest
    /// rank's time least, then each again, given the others, as long as that helps.
    ///
    /// # Errors
    /// When a table fits nowhere.
    pub fn plan(
        &self,
        loads: &[TableLoad],
        config: &EmbeddingsConfig,
    ) -> Result<Vec<Choice>, PlanError> {
        let mut order: Vec<usize> = (0..loads.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(loads[index].rows * loads[index].dim));
        let mut chosen: Vec<Option<Choice>> = vec![None; loads.len()];
        for round in 0..4 {
            let before = chosen.clone();
            for &index in &order {
                chosen[index] = None;
                let best = self.best(&loads[index], config, &chosen)?;
                chosen[index] = Some(best);
            }
            if round > 0 && before == chosen {
                break;
            }
        }
        Ok(chosen.into_iter().flatten().collect())
    }

    fn best(
        &self,
        load: &TableLoad,
        config: &EmbeddingsConfig,
        others: &[Option<Choice>],
    ) -> Result<Choice, PlanError> {
        let held = totals(others.iter().flatten(), self.machine.ranks);
        let memory = self.machine.memory_bytes as f64;
        let (mut best, mut least_needed) = (None, f64::INFINITY);
        for candidate in self.candidates(load, config) {
            let ranks = held.iter().zip(&candidate.costs);
            let ranks: Vec<Cost> = ranks.map(|(held, own)| held.plus(*own)).collect();
            let needed = ranks
                .iter()
                .map(|cost| cost.memory_bytes)
                .fold(0.0, f64::max)
                + self.other_bytes as f64;
            least_needed = least_needed.min(needed);
            if needed > memory {
                continue;
            }
            let sum: f64 = ranks.iter().map(|cost| cost.seconds(self.machine)).sum();
            // Between placements that keep the step the same, the one with less work in all.
            let score = self.machine.tables_s(&ranks) + 1e-3 * sum;
            let worth = WORTH_S.max(WORTH * candidate.seconds(self.machine));
            if best.as_ref().is_none_or(|(least, _)| score < least - worth) {
                best = Some((score, candidate));
            }
        }
        best.map(|(_, choice)| choice).ok_or_else(|| PlanError {
            table: load.name.clone(),
            needed: bytes(least_needed),
            memory: bytes(memory),
        })
    }
}

/// What each rank has of some tables.
pub fn totals<'a>(choices: impl Iterator<Item = &'a Choice>, ranks: usize) -> Vec<Cost> {
    let mut totals = vec![Cost::default(); ranks];
    for choice in choices {
        for (total, cost) in totals.iter_mut().zip(&choice.costs) {
            *total = total.plus(*cost);
        }
    }
    totals
}

/// A number of bytes for people.
pub(super) fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1.0).log2() / 10.0).floor().min(4.0);
    format!(
        "{:.1} {}",
        count / 1024f64.powf(power),
        units[power as usize]
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Collectives, Distinct, Link, Rates, RowRate};
    use super::*;
    use crate::config::Payload;

    fn load(name: &str, rows: usize, ids: f64, distinct: usize) -> TableLoad {
        TableLoad {
            name: name.into(),
            rows,
            dim: 64,
            lookups: 1,
            ids_per_sample: ids,
            distinct: Distinct::new((1_024, distinct / 4), (8_192, distinct)),
            number_bytes: 4,
            state_bytes: 4,
            payloads: [Payload::Fp32; 2],
        }
    }

    fn machine(ranks: usize, memory_bytes: u64) -> Machine {
        let by_bytes = RowRate {
            row_s: 0.0,
            bytes_per_s: 10e9,
        };
        let link = Link {
            latency_s: 5e-7,
            bytes_per_s: 5e9,
        };
        Machine {
            ranks,
            at_once: ranks,
            memory_bytes,
            rates: Rates {
                flops_per_s: 100e9,
                lookup: by_bytes,
                grouped_id_s: 0.0,
                update: by_bytes,
                pooled: by_bytes,
                unique: by_bytes,
                copy_bytes_per_s: 10e9,
                operation_s: 0.0,
            },
            collectives: Collectives::of_links(ranks, ranks, link, link),
            group: Collectives::ALONE,
            hides: false,
        }
    }

    fn auto(pins: &str) -> EmbeddingsConfig {
        toml::from_str(&format!("placement = 'auto'\n{pins}")).unwrap()
    }

    fn plan(
        machine: &Machine,
        loads: &[TableLoad],
        config: &str,
    ) -> Result<Vec<Choice>, PlanError> {
        let planner = Planner {
            machine,
            batch: 8_192,
            tp: 1,
            reduction: Reduction::Fast,
            other_bytes: 1 << 20,
        };
        planner.plan(loads, &auto(config))
    }

    #[test]
    fn a_small_table_is_replicated_and_one_that_does_not_fit_is_sharded() {
        let (small, large) = (
            load("small", 20, 1.0, 20),
            load("large", 4_000_000, 1.0, 8_000),
        );
        let loads = [small, large];
        // Alone: where others exchange anyway, it may go with them.
        let roomy = plan(&machine(4, 8 << 30), &loads[..1], "").unwrap();
        assert_eq!(roomy[0].placement, Placement::Replicated);
        // 1 GiB of rows, a rank may hold half of it.
        let tight = plan(&machine(4, 600 << 20), &loads, "").unwrap();
        assert!(matches!(
            tight[1].placement,
            Placement::RowWise | Placement::ColumnWise
        ));
        for rank in totals(tight.iter(), 4) {
            assert!(rank.memory_bytes < (600 << 20) as f64);
        }
    }

    #[test]
    fn equal_tables_spread_over_the_ranks() {
        let loads: Vec<_> = (0..8)
            .map(|index| load(&format!("t{index}"), 100_000, 4.0, 7_000))
            .collect();
        let chosen = plan(&machine(4, 8 << 30), &loads, "").unwrap();
        let seconds = totals(chosen.iter(), 4);
        let seconds: Vec<f64> = seconds
            .iter()
            .map(|cost| cost.seconds(&machine(4, 0)))
            .collect();
        let (least, most) = (
            seconds.iter().copied().fold(f64::INFINITY, f64::min),
            seconds.iter().copied().fold(0.0, f64::max),
        );
        assert!(most < 1.3 * least, "{seconds:?}");
    }

    #[test]
    fn no_single_change_makes_the_plan_faster() {
        let loads = [
            load("a", 500_000, 1.0, 8_000),
            load("b", 2_000, 3.0, 1_500),
            load("c", 60_000, 10.0, 20_000),
        ];
        let machine = machine(3, 4 << 30);
        let chosen = plan(&machine, &loads, "").unwrap();
        let planner = Planner {
            machine: &machine,
            batch: 8_192,
            tp: 1,
            reduction: Reduction::Fast,
            other_bytes: 0,
        };
        let busiest =
            |choices: &[Option<Choice>]| machine.tables_s(&totals(choices.iter().flatten(), 3));
        let chosen: Vec<_> = chosen.into_iter().map(Some).collect();
        for (index, load) in loads.iter().enumerate() {
            for other in planner.candidates(load, &auto("")) {
                let mut changed = chosen.clone();
                changed[index] = Some(other.clone());
                assert!(
                    busiest(&changed) > 0.95 * busiest(&chosen),
                    "{index}: {:?} {:?}",
                    other.placement,
                    other.exchange
                );
            }
        }
    }

    #[test]
    fn an_invariant_reduction_sends_each_id_once() {
        let machine = machine(4, 600 << 20);
        let planner = Planner {
            machine: &machine,
            batch: 8_192,
            tp: 1,
            reduction: Reduction::Invariant,
            other_bytes: 0,
        };
        let all = planner.candidates(&load("large", 4_000_000, 1.0, 8_000), &auto(""));
        let sharded = |choice: &&Choice| choice.placement != Placement::Replicated;
        let mut sharded = all.iter().filter(sharded).peekable();
        assert!(sharded.peek().is_some());
        assert!(sharded.all(|choice| choice.exchange == Exchange::Unique));
    }

    #[test]
    fn pins_hold_and_what_fits_nowhere_is_named() {
        let loads = [load("a", 1_000_000, 1.0, 8_000)];
        let pinned = "[tables.a]\nplacement = 'table_wise'\nrank = 2\nexchange = 'unique'";
        let chosen = plan(&machine(4, 8 << 30), &loads, pinned).unwrap();
        assert_eq!(
            (chosen[0].placement, chosen[0].exchange, chosen[0].owner),
            (Placement::TableWise, Exchange::Unique, 2)
        );
        let error = plan(&machine(4, 100 << 20), &loads, pinned).unwrap_err();
        assert_eq!(
            (error.table.as_str(), error.memory.as_str()),
            ("a", "100.0 MiB")
        );
        assert!(error.needed.starts_with("24"), "{error}");
    }
}
