//! A plan for people: table by table, then whole ranks.

use std::fmt;

use super::demand::{Demand, dense_bytes};
use crate::config::{Experiment, Placement};
use crate::parallel::TensorPlan;
use crate::parallel::planner::{Choice, Cost, DenseLoad, Planner, StepEstimate, totals};

const MIB: f64 = 1024.0 * 1024.0;

/// What was planned, for what, and on what.
pub(super) struct Report<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) planner: &'a Planner<'a>,
    pub(super) demand: &'a Demand,
    pub(super) dense: &'a DenseLoad,
    pub(super) choices: &'a [Choice],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ranks(f)?;
        self.tables(f)?;
        let costs = totals(self.choices.iter(), self.planner.machine.ranks);
        self.memory(f, &costs)?;
        self.step(f, &costs)?;
        let tp = self.planner.tp;
        if tp > 1 {
            let plan = TensorPlan::new(&self.demand.graph, &self.experiment.parallel.layers);
            writeln!(f, "\n{tp} ranks share each layer:\n{plan}")?;
        }
        Ok(())
    }
}

impl Report<'_> {
    fn ranks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (machine, tp) = (self.planner.machine, self.planner.tp);
        let (rates, lines) = (&machine.rates, &machine.collectives);
        let giga = |rate: f64| rate / 1e9;
        writeln!(
            f,
            "{} ranks (dp {} x tp {tp}), global batch {}; a rank: {:.1} GiB, lookups {:.1} GB/s and {:.0} ns a \
             row, updates {:.1} GB/s and {:.0} ns, products {:.0} GFLOP/s",
            machine.ranks,
            machine.ranks / tp,
            self.planner.batch,
            machine.memory_bytes as f64 / MIB / 1024.0,
            giga(rates.lookup.bytes_per_s),
            1e9 * rates.lookup.row_s,
            giga(rates.update.bytes_per_s),
            1e9 * rates.update.row_s,
            giga(rates.flops_per_s),
        )?;
        if machine.ranks > 1 {
            writeln!(
                f,
                "between ranks: all-reduce {:.1} GB/s, all-gather {:.1}, all-to-all {:.1}",
                giga(lines.all_reduce.bytes_per_s),
                giga(lines.all_gather.bytes_per_s),
                giga(lines.all_to_all.bytes_per_s),
            )?;
        }
        if machine.at_once < machine.ranks {
            writeln!(f, "{} of them compute at a time", machine.at_once)?;
        }
        writeln!(f)
    }

    fn tables(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:24} {:>16} {:>8} {:>9}  {:34} {:>11} {:>9}  next best",
            "table", "rows x dim", "ids", "distinct", "placement", "most MiB", "ms"
        )?;
        let machine = self.planner.machine;
        let ms = |choice: &Choice| choice.seconds(machine) * 1e3;
        for (load, choice) in self.demand.tables.iter().zip(self.choices) {
            let mut others = self
                .planner
                .candidates(load, &self.experiment.parallel.embeddings);
            others.retain(|other| {
                (other.placement, other.exchange) != (choice.placement, choice.exchange)
            });
            others.sort_by(|a, b| ms(a).total_cmp(&ms(b)));
            let next = others.first().map_or_else(String::new, |other| {
                format!("{} {:.3} ms", name(other), ms(other))
            });
            writeln!(
                f,
                "{:24} {:>16} {:>8.2} {:>9.0}  {:34} {:>11.1} {:>9.3}  {next}",
                load.name,
                format!("{} x {}", load.rows, load.dim),
                load.ids_per_sample,
                load.distinct_rows(self.planner.batch as f64),
                name(choice),
                choice.memory_bytes() / MIB,
                ms(choice),
            )?;
        }
        Ok(())
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>, costs: &[Cost]) -> fmt::Result {
        let dense = dense_bytes(self.experiment, self.dense);
        let held = costs.iter().map(|rank| (rank.memory_bytes + dense) / MIB);
        let (least, most) = held.fold((f64::INFINITY, 0.0f64), |(least, most), own| {
            (least.min(own), most.max(own))
        });
        writeln!(
            f,
            "\nmemory of a rank: {least:.1} to {most:.1} MiB, {:.1} of it dense weights, their state and values",
            dense / MIB
        )
    }

    fn step(&self, f: &mut fmt::Formatter<'_>, costs: &[Cost]) -> fmt::Result {
        let machine = self.planner.machine;
        let step = StepEstimate::new(machine, self.dense, costs, self.planner.tp);
        let ms = |seconds: f64| seconds * 1e3;
        let work: Vec<f64> = costs.iter().map(|rank| rank.work_s(machine)).collect();
        let mean = work.iter().sum::<f64>() / work.len().max(1) as f64;
        let busiest = work.iter().copied().fold(0.0, f64::max);
        let most = |of: fn(&Cost) -> f64| costs.iter().map(of).fold(0.0, f64::max) / MIB;
        writeln!(
            f,
            "step: about {:.2} ms, {:.0} samples/s\n  \
             layers            {:>9.3} ms\n  \
             sums in layers    {:>9.3} ms\n  \
             tables            {:>9.3} ms, the busiest rank {:.2} times the mean\n  \
             their exchange    {:>9.3} ms, at most {:.2} MiB of a rank\n  \
             dense all-reduce  {:>9.3} ms, {:.3} of them hidden",
            ms(step.seconds()),
            self.planner.batch as f64 / step.seconds(),
            ms(step.dense_s),
            ms(step.shared_s),
            ms(step.tables_s),
            if mean > 0.0 { busiest / mean } else { 1.0 },
            ms(step.exchange_s),
            most(Cost::travelled_bytes),
            ms(step.all_reduce_s),
            ms(step.hidden_s),
        )
    }
}

fn name(choice: &Choice) -> String {
    match choice.placement {
        Placement::Replicated => "replicated".into(),
        Placement::TableWise => format!("table-wise on rank {}, {}", choice.owner, choice.exchange),
        placement => format!("{placement}, {}", choice.exchange),
    }
}
