//! The service: latency, errors, throughput, saturation.

use super::{Measure, Metric};
use crate::monitoring::window::WindowSummary;

pub(super) fn measure(window: &WindowSummary, found: &mut Vec<Measure>) {
    let (service, requests) = (&window.service, window.service.total());
    let quantiles = service.latency_us.quantiles.quantiles(&[0.5, 0.95, 0.99]);
    let metrics = [
        Metric::LatencyP50Ms,
        Metric::LatencyP95Ms,
        Metric::LatencyP99Ms,
    ];
    for (metric, us) in metrics.into_iter().zip(quantiles) {
        found.push(Measure::new(metric, us / 1000.0, requests));
    }
    let seconds = (window.end_ms - window.begin_ms) as f64 / 1000.0;
    let rates = [
        (Metric::ErrorRate, service.error_rate()),
        (Metric::QueueShare, service.queue_share()),
        (Metric::RequestsPerS, Some(requests as f64 / seconds)),
    ];
    for (metric, value) in rates {
        found.extend(value.map(|value| Measure::new(metric, value, requests)));
    }
}
