//! What can be measured.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a metric is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pillar {
    /// What comes in.
    DataQuality,
    /// How good the model is.
    Model,
    /// How the service does.
    System,
    /// What users do.
    Business,
}

macro_rules! metrics {
    ($($name:ident $text:literal $pillar:ident $late:literal $says:literal,)*) => {
        /// What is measured of a window.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Metric {
            $(#[doc = $says] $name,)*
        }

        impl Metric {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name, as rules have it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it is about.
            pub fn pillar(self) -> Pillar {
                match self { $(Self::$name => Pillar::$pillar,)* }
            }

            /// Whether it waits for labels.
            pub fn needs_labels(self) -> bool {
                match self { $(Self::$name => $late,)* }
            }

            /// What it says, for people.
            pub fn says(self) -> &'static str {
                match self { $(Self::$name => $says,)* }
            }
        }
    };
}

metrics! {
    MissingRate "missing_rate" DataQuality false "Share of rows without a value of the input",
    OutOfRangeRate "out_of_range_rate" DataQuality false "Values outside the input's range over rows",
    UnseenRate "unseen_rate" DataQuality false "Share of keys without a row of their own in the model's table",
    AgeP50S "age_p50_s" DataQuality false "Median seconds from a time input to its request",
    AheadRate "ahead_rate" DataQuality false "Share of a time input's values that lie after their request",
    FreshnessS "freshness_s" DataQuality false "Seconds from the newest row to the end of the window",
    MissingChange "missing_change" DataQuality false "Change of the share of missing values since training",
    Psi "psi" DataQuality false "Population stability index against training",
    JensenShannon "jensen_shannon" DataQuality false "Jensen-Shannon distance from training",
    KolmogorovSmirnov "kolmogorov_smirnov" DataQuality false "Kolmogorov-Smirnov distance from training",
    Wasserstein "wasserstein" DataQuality false "Wasserstein distance from training in its standard deviations",
    DriftP "drift_p" DataQuality false "How probable values as far from training are by chance",
    EstimatedAuc "estimated_auc" Model false "AUC expected from calibrated scores, without labels",
    EstimatedLogLoss "estimated_log_loss" Model false "Log loss expected from calibrated scores, without labels",
    EstimatedRate "estimated_rate" Model false "Share of positives expected from calibrated scores, without labels",
    MeanScore "mean_score" Model false "Mean score",
    Auc "auc" Model true "AUC measured on labels",
    LogLoss "log_loss" Model true "Log loss measured on labels",
    NormalisedEntropy "normalised_entropy" Model true "Log loss over the entropy of the base rate, measured on labels",
    Calibration "calibration" Model true "Sum of scores over sum of labels, measured",
    AdwinAlarms "adwin_alarms" Model true "Alarms of ADWIN on squared errors",
    DdmAlarms "ddm_alarms" Model true "Alarms of DDM on wrong classes",
    PageHinkleyAlarms "page_hinkley_alarms" Model true "Alarms of Page-Hinkley on squared errors",
    LatencyP50Ms "latency_p50_ms" System false "Median milliseconds from a request to its answer",
    LatencyP95Ms "latency_p95_ms" System false "95th percentile of milliseconds from a request to its answer",
    LatencyP99Ms "latency_p99_ms" System false "99th percentile of milliseconds from a request to its answer",
    ErrorRate "error_rate" System false "Share of requests that were not answered well",
    RequestsPerS "requests_per_s" System false "Logged requests per second",
    QueueShare "queue_share" System false "Share of their time that requests waited: saturation",
    LabelRate "label_rate" Business true "Share of labelled rows that happened: click rate, completion rate",
    LabelledShare "labelled_share" Business true "Labelled rows over scored rows",
    Coverage "coverage" Business false "Share of the catalogue that was scored",
    ExposureShare "exposure_share" Business false "The segment's share of all scored rows",
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_files_have() {
        for &metric in Metric::ALL {
            let json = serde_json::to_string(&metric).expect("a name");
            assert_eq!(json, format!("\"{}\"", metric.name()));
        }
    }
}
