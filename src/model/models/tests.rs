use std::collections::BTreeMap;

use streamrec_artifact::FeatureSchema;

use super::build;
use crate::{
    config::model::ModelConfig,
    model::tests::{check_gradients, fixture::schema},
};

fn config(text: &str) -> ModelConfig {
    toml::from_str(text).unwrap()
}

fn features(dense: usize, labels: usize) -> FeatureSchema {
    schema(dense, &[("a", 7), ("b", 5), ("a", 7)], labels)
}

/// Builds the model and holds all of its gradients against the oracle.
fn check(text: &str, schema: &FeatureSchema) {
    check_gradients(&build(&config(text), schema).unwrap(), schema);
}

const DLRM: &str = "kind = 'dlrm'\nembedding_dim = 3\nbottom = [5, 3]\ntop = [6, 4]\n";
const DCN: &str = "kind = 'dcn_v2'\nembedding_dim = 2\ncross_layers = 3\ndeep = [5, 3]\n";
const DEEPFM: &str = "kind = 'deepfm'\nembedding_dim = 3\ndeep = [5, 4]\n";
const WIDE_DEEP: &str = "kind = 'wide_deep'\nembedding_dim = 3\ndeep = [5, 4]\n";

#[test]
fn gradients_of_dlrm() {
    check(DLRM, &features(4, 1));
    check(DLRM, &features(4, 2));
}

#[test]
fn gradients_of_dlrm_without_dense_features() {
    check(
        "kind = 'dlrm'\nembedding_dim = 3\ntop = [6]\n",
        &features(0, 1),
    );
}

#[test]
fn gradients_of_dlrm_with_mixed_dims() {
    check(&format!("{DLRM}[dims]\na = 5\n"), &features(4, 1));
}

#[test]
fn gradients_of_dcn_v2() {
    for extra in [
        "",
        "cross_rank = 2\n",
        "structure = 'stacked'\n",
        "bottom = [4]\n[dims]\nb = 5\n",
    ] {
        check(&format!("{DCN}{extra}"), &features(4, 1));
    }
    check(DCN, &features(0, 2));
    check(DCN, &schema(4, &[], 1));
}

#[test]
fn gradients_of_deepfm() {
    check(DEEPFM, &features(4, 1));
    check(DEEPFM, &features(4, 2));
    check(DEEPFM, &features(0, 1));
    check(&format!("{DEEPFM}[dims]\nb = 2\n"), &features(4, 1));
}

#[test]
fn gradients_of_wide_and_deep() {
    check(WIDE_DEEP, &features(4, 1));
    check(WIDE_DEEP, &features(4, 2));
    check(WIDE_DEEP, &features(0, 1));
    check(WIDE_DEEP, &schema(4, &[], 1));
}

#[test]
fn parameters_have_the_names_and_shapes_of_the_papers() {
    let shapes = |text: &str| -> BTreeMap<String, Vec<usize>> {
        let schema = features(4, 1);
        let graph = build(&config(text), &schema).unwrap();
        let rows = graph.validate(&schema).unwrap().table_rows;
        let tables = graph
            .tables
            .iter()
            .zip(rows)
            .map(|(table, rows)| table.parameter(rows));
        let all = graph.parameters().into_iter().chain(tables);
        all.map(|parameter| (parameter.name, parameter.shape))
            .collect()
    };
    let dlrm = shapes(DLRM);
    // Four vectors of 3: the bottom's, and six products.
    assert_eq!(dlrm["top.0.weight"], [6, 3 + 6]);
    assert_eq!(dlrm["bottom.1.weight"], [3, 5]);
    assert_eq!(dlrm["logits.weight"], [1, 4]);
    assert_eq!(dlrm["embedding.a"], [7, 3]);
    let dcn = shapes(&format!("{DCN}cross_rank = 2\n"));
    assert_eq!(dcn["cross.0.v"], [2, 4 + 3 * 2]);
    assert_eq!(dcn["cross.2.w"], [4 + 3 * 2, 2]);
    assert_eq!(dcn["logits.weight"], [1, 10 + 3]);
    let deepfm = shapes(DEEPFM);
    assert_eq!(deepfm["embedding.a.first_order"], [7, 1]);
    assert_eq!(deepfm["first_order.dense.weight"], [1, 4]);
    assert_eq!(deepfm["deep.0.weight"], [5, 4 + 9]);
    assert!(!deepfm.contains_key("first_order.dense.bias"));
    let wide_deep = shapes(WIDE_DEEP);
    assert_eq!(wide_deep["embedding.b.wide"], [5, 1]);
}

#[test]
fn settings_that_do_not_fit_the_features_are_refused() {
    let refused =
        |text: &str, schema: &FeatureSchema| build(&config(text), schema).unwrap_err().to_string();
    let unknown = refused(&format!("{DLRM}[dims]\nc = 4\n"), &features(4, 1));
    assert!(
        unknown.contains("names the table `c`, expected one of a, b"),
        "{unknown}"
    );
    let no_bottom = refused(
        "kind = 'dlrm'\nembedding_dim = 3\ntop = [6]\n",
        &features(4, 1),
    );
    assert!(
        no_bottom.contains("expected a `model.bottom` that ends in 3"),
        "{no_bottom}"
    );
    assert!(refused(DLRM, &schema(4, &[], 1)).contains("add a categorical feature"));
    assert!(refused(DEEPFM, &schema(4, &[], 1)).contains("add a categorical feature"));
    assert!(refused(DCN, &schema(0, &[], 1)).contains("there are no features"));
    assert!(refused(WIDE_DEEP, &schema(0, &[], 1)).contains("there are no features"));
}
