use super::*;
use crate::feature_schema::{
    CategoricalFeature, DenseFeature, DenseSource, Encoding, FeatureSchema, TableSchema,
};

fn schema() -> FeatureSchema {
    let categorical = ["user", "video"].map(|name| CategoricalFeature {
        name: name.into(),
        input: name.into(),
        encoding: Encoding::Hash { rows: 10 },
        table: name.into(),
        pooling: Pooling::Sum,
        max_length: None,
    });
    let dense = ["age", "length"].map(|name| DenseFeature {
        name: name.into(),
        source: DenseSource::Column(name.into()),
        steps: Vec::new(),
        fill: 0.0,
    });
    let table = |name: &str| TableSchema {
        name: name.into(),
        rows: 10,
        dim: None,
    };
    FeatureSchema {
        inputs: Vec::new(),
        dense: dense.to_vec(),
        categorical: categorical.to_vec(),
        tables: vec![table("user"), table("video")],
        labels: vec!["click".into(), "like".into()],
    }
}

fn node(name: &str, inputs: &[&str], op: Op) -> Node {
    Node {
        name: name.into(),
        inputs: inputs.iter().map(|&input| input.into()).collect(),
        op,
    }
}

fn linear(inputs: usize, outputs: usize, activation: Activation) -> Op {
    Op::Linear {
        inputs,
        outputs,
        bias: true,
        activation,
    }
}

/// A small DLRM with a wide part: every kind of node that has no parameters of its own is covered below.
fn graph() -> Graph {
    let lookups = |suffix: &str| {
        let lookup = |feature: &str| LookupSpec {
            feature: feature.into(),
            table: format!("{feature}{suffix}"),
            pooling: Pooling::Sum,
        };
        Op::EmbeddingBag {
            lookups: vec![lookup("user"), lookup("video")],
        }
    };
    let table = |name: &str, rows_of: &str, dim| GraphTable {
        name: name.into(),
        rows_of: rows_of.into(),
        dim,
    };
    Graph {
        tables: vec![
            table("user", "user", 4),
            table("video", "video", 4),
            table("user.wide", "user", 1),
            table("video.wide", "video", 1),
        ],
        nodes: vec![
            node("dense", &[], Op::Dense),
            node("bottom", &["dense"], linear(2, 4, Activation::Relu)),
            node("bags", &[], lookups("")),
            node("wide_bags", &[], lookups(".wide")),
            node(
                "wide",
                &["wide_bags"],
                Op::SumFeatures {
                    features: 2,
                    dim: 1,
                },
            ),
            node("stack", &["bottom", "bags"], Op::Concat),
            node(
                "dots",
                &["stack"],
                Op::DotInteraction {
                    features: 3,
                    dim: 4,
                },
            ),
            node(
                "cross",
                &["dots", "dots"],
                Op::CrossLowRank { dim: 7, rank: 2 },
            ),
            node(
                "fm",
                &["bags"],
                Op::FactorizationMachine {
                    features: 2,
                    dim: 4,
                },
            ),
            node("top", &["cross"], linear(7, 2, Activation::None)),
            node("logits", &["top", "wide", "fm"], Op::Add),
        ],
        output: "logits".into(),
    }
}

#[test]
fn shapes_follow_from_the_schema() {
    let shapes = graph().validate(&schema()).unwrap();
    assert_eq!(shapes.widths, [2, 4, 8, 2, 1, 12, 7, 7, 1, 2, 2]);
    assert_eq!(shapes.inputs[10], [9, 4, 8]);
    assert_eq!(shapes.table_rows, [10; 4]);
    assert_eq!(shapes.output, 10);
}

#[test]
fn parameters_are_named_by_their_nodes() {
    let named: Vec<_> = graph()
        .parameters()
        .into_iter()
        .map(|p| (p.name, p.shape))
        .collect();
    let expected = [
        ("bottom.weight", vec![4, 2]),
        ("bottom.bias", vec![4]),
        ("cross.v", vec![2, 7]),
        ("cross.w", vec![7, 2]),
        ("cross.bias", vec![7]),
        ("top.weight", vec![2, 7]),
        ("top.bias", vec![2]),
    ];
    assert_eq!(
        named,
        expected.map(|(name, shape)| (name.to_owned(), shape))
    );
    let table = graph().tables[2].parameter(10);
    assert_eq!(
        (table.name.as_str(), table.shape),
        ("embedding.user.wide", vec![10, 1])
    );
}

#[test]
fn a_graph_survives_json_and_unknown_fields_do_not() {
    let json = serde_json::to_string(&graph()).unwrap();
    assert_eq!(serde_json::from_str::<Graph>(&json).unwrap(), graph());
    let odd = json.replacen("\"rank\":2", "\"rank\":2,\"dropout\":1", 1);
    assert!(
        serde_json::from_str::<Graph>(&odd)
            .unwrap_err()
            .to_string()
            .contains("dropout")
    );
    let odd = json.replacen("\"op\":\"dense\"", "\"op\":\"densely\"", 1);
    assert!(serde_json::from_str::<Graph>(&odd).is_err());
}

/// What validation says after `change`.
fn fault(change: impl FnOnce(&mut Graph)) -> String {
    let mut graph = graph();
    change(&mut graph);
    graph.validate(&schema()).unwrap_err().to_string()
}

#[test]
fn every_fault_is_named() {
    let op = |index: usize, op: Op| move |graph: &mut Graph| graph.nodes[index].op = op;
    let cases = [
        (
            fault(op(1, linear(3, 4, Activation::Relu))),
            "input `dense` is 2 wide, expected 3",
        ),
        (fault(op(1, linear(2, 0, Activation::Relu))), "outputs is 0"),
        (
            fault(op(1, linear(2, usize::MAX, Activation::Relu))),
            "outputs is 18446744073709551615",
        ),
        (
            fault(op(
                6,
                Op::DotInteraction {
                    features: usize::MAX,
                    dim: 2,
                },
            )),
            "features is",
        ),
        (
            fault(op(8, Op::Cross { dim: 8 })),
            "has 1 inputs, expected 2",
        ),
        (
            fault(|graph| graph.nodes[6].inputs[0] = "stak".into()),
            "did you mean `stack`?",
        ),
        (fault(|graph| graph.nodes.swap(1, 5)), "no earlier node"),
        (
            fault(|graph| graph.nodes[3].name = "bags".into()),
            "must be there and differ",
        ),
        (
            fault(|graph| graph.output = "wide".into()),
            "is 1 wide, the schema has 2 labels",
        ),
        (
            fault(|graph| graph.output = "top".into()),
            "node `logits` does not lead to the output",
        ),
        (fault(|graph| graph.tables[0].dim = 0), "dim is 0"),
        (
            fault(|graph| graph.tables[0].rows_of = "item".into()),
            "`item`, which is no table",
        ),
        (
            fault(|graph| graph.tables[0].rows_of = "video".into()),
            "feature `user` has the rows of `user`",
        ),
        (
            fault(|graph| graph.tables.push(graph.tables[0].clone())),
            "must be there and differ",
        ),
        (
            fault(|graph| graph.nodes[9].name = "embedding".into()),
            "no earlier node",
        ),
    ];
    for (got, expected) in cases {
        assert!(
            got.contains(expected),
            "{got:?} should contain {expected:?}"
        );
    }
}

#[test]
fn parameters_of_one_name_are_refused() {
    let got = fault(|graph| {
        graph.nodes[9].name = "embedding".into();
        graph.nodes[10].inputs[0] = "embedding".into();
        let renamed = "weight".to_owned();
        graph.tables[0].name = renamed.clone();
        let Op::EmbeddingBag { lookups } = &mut graph.nodes[2].op else {
            panic!("bags")
        };
        lookups[0].table = renamed;
    });
    assert!(
        got.contains("two parameters are named `embedding.weight`"),
        "{got}"
    );
}
