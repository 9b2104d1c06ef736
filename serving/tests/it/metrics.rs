//! The OpenMetrics text: <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>.

use std::collections::BTreeMap;

use crate::model::{Folder, artifact};
use crate::program::{Program, client};
use crate::row::{Row, request};

/// Parsed metrics: values by name with labels.
pub struct Exposition {
    types: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    pub fn parse(text: &str) -> Self {
        let body = text
            .strip_suffix("# EOF\n")
            .expect("the text ends with # EOF");
        let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, rest) = (words.next(), words.next(), words.next());
                let (name, rest) = (name.expect("a name"), rest.expect("a text"));
                match what {
                    Some("TYPE") => {
                        assert!(
                            types.insert(name.to_owned(), rest.to_owned()).is_none(),
                            "{line}"
                        );
                    }
                    Some("HELP" | "UNIT") => {}
                    _ => panic!("no metadata: {line}"),
                }
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            let family = types.keys().any(|family| name.starts_with(family.as_str()));
            assert!(family, "{line} belongs to no family");
            let value = value.parse().expect("a number");
            assert!(
                samples.insert(name.to_owned(), value).is_none(),
                "{line} twice"
            );
        }
        Self { types, samples }
    }

    #[track_caller]
    pub fn find(&self, name: &str) -> Option<f64> {
        self.samples.get(name).copied()
    }

    pub fn value(&self, name: &str) -> f64 {
        *self
            .samples
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:#?}", self.samples))
    }

    #[track_caller]
    pub fn labelled(&self, name: &str, labels: &str) -> f64 {
        self.value(&format!("{name}{{{labels}}}"))
    }

    /// The buckets of a histogram, ascending.
    fn buckets(&self, name: &str) -> Vec<(f64, f64)> {
        let prefix = format!("{name}_bucket{{le=\"");
        let bucket = |(sample, count): (&String, &f64)| {
            let bound = sample.strip_prefix(&prefix)?.strip_suffix("\"}")?;
            Some((bound.parse().expect("a bound"), *count))
        };
        let mut buckets: Vec<(f64, f64)> = self.samples.iter().filter_map(bucket).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }
}

#[test]
fn metrics_are_open_metrics_and_count_what_happened() {
    let folder = Folder::with(&artifact(1));
    let program = Program::start(&folder.path(), &[]);
    for _ in 0..3 {
        assert_eq!(program.infer(&request(&Row::many(0, 5))).status, 200);
    }
    assert_eq!(program.post("/v2/models/videos/infer", "{}").status, 400);
    let url = format!("{}/metrics", program.address);
    let response = client().get(url).call().unwrap();
    let content_type = response.headers()["content-type"].to_str().unwrap();
    assert_eq!(
        content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );

    let metrics = Exposition::parse(&program.metrics());
    let name = |rest: &str| format!("streamrec_serving_{rest}");
    assert_eq!(
        metrics.labelled(&name("requests_total"), "outcome=\"ok\""),
        3.0
    );
    assert_eq!(
        metrics.labelled(&name("requests_total"), "outcome=\"bad_request\""),
        1.0
    );
    assert_eq!(metrics.value(&name("rows_total")), 15.0);
    assert_eq!(metrics.value(&name("waiting_rows")), 0.0);
    assert_eq!(metrics.value(&name("swaps_total")), 0.0);
    let version = format!("version=\"{}\"", program.version());
    assert_eq!(metrics.labelled(&name("model"), &version), 1.0);
    for (histogram, count) in [
        ("request_seconds", 4.0),
        ("queue_seconds", 3.0),
        ("compute_seconds", 3.0),
        ("batch_rows", 3.0),
    ] {
        assert_eq!(metrics.types[&name(histogram)], "histogram");
        let buckets = metrics.buckets(&name(histogram));
        assert!(
            buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
            "{buckets:?}"
        );
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{histogram}");
        assert_eq!(metrics.value(&name(&format!("{histogram}_count"))), count);
    }
}
