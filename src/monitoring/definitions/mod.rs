//! The rules for others: a rule file for Prometheus, a dashboard for Grafana, both of the same definitions.

mod grafana;
mod open_metrics;
mod prometheus;
#[cfg(test)]
mod tests;

pub use grafana::grafana_dashboard;
pub use open_metrics::open_metrics;
pub use prometheus::prometheus_rules;
