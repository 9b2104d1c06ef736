//! What rows of valid and test know of the rows before them.

use super::*;
use crate::data::HeldOutCounts;

/// Ten clicks of one item, each at its own time; every other one is of user 1.
const CLICKS: &str = "at,user,item,click\n\
    1,1,a,1\n2,2,a,0\n3,1,a,1\n4,2,a,1\n5,1,a,0\n6,2,a,1\n7,1,a,1\n8,2,a,0\n9,1,a,1\n10,3,a,1\n";

const SCHEMA: &str = r#"
name = "clicks"
held_out_counts = "frozen"
time = { from = "at", format = "s" }
labels = [{ name = "click" }]
columns = [
  { name = "user", kind = "key", type = "integer" },
  { name = "item", kind = "key", type = "text" },
]
source = { files = ["*.csv"] }
[split]
by = "time"
valid = 0.2
test = 0.2
[[trailing]]
keys = ["user"]
count = "user_count"
sums = { click = "user_clicks" }
[[trailing]]
keys = ["item"]
count = "item_count"
"#;

fn counts(dataset: &Dataset, column: &str) -> Vec<f32> {
    match all_splits(dataset, column) {
        RawColumn::Dense(values) => values,
        other => panic!("{}", other.kind()),
    }
}

#[test]
fn frozen_counts_stop_at_the_end_of_training() {
    let input = folder(&[("clicks.csv", CLICKS.as_bytes())]);
    let frozen = run(&settings(&input, SCHEMA)).expect("imported").dataset;
    assert_eq!(rows(&frozen), [6, 2, 2]);
    // By hand. Users 1 and 2 have three rows of train each, with 2 clicks each; user 3 none.
    let expected = [
        ("user_count", [0., 0., 1., 1., 2., 2., 3., 3., 3., 0.]),
        ("user_clicks", [0., 0., 1., 0., 2., 1., 2., 2., 2., 0.]),
        ("item_count", [0., 1., 2., 3., 4., 5., 6., 6., 6., 6.]),
    ];
    for (column, values) in expected {
        assert_eq!(counts(&frozen, column), values, "{column}");
    }
    let history = frozen.history.as_ref().expect("kept");
    assert_eq!(history.held_out_counts, HeldOutCounts::Frozen);
    let kept = frozen.trailing_history().expect("read").expect("kept");
    assert_eq!(kept.last_ms(), Some(6000), "no row after training counts");

    // The option overrides the schema.
    let mut progressive = settings(&input, SCHEMA);
    progressive.held_out_counts = Some(HeldOutCounts::Progressive);
    progressive.output = input.path().join("progressive");
    let progressive = run(&progressive).expect("imported").dataset;
    let expected = [
        ("user_count", [0., 0., 1., 1., 2., 2., 3., 3., 4., 0.]),
        ("user_clicks", [0., 0., 1., 0., 2., 1., 2., 2., 3., 0.]),
        ("item_count", [0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]),
    ];
    for (column, values) in expected {
        assert_eq!(counts(&progressive, column), values, "{column}");
    }
    let description = std::fs::read_to_string(progressive.folder.join("dataset.json"));
    assert!(!description.expect("read").contains("held_out_counts"));
}

#[test]
fn later_data_with_frozen_counts_keeps_those_it_starts_from() {
    let later = "at,user,item,click\n11,1,a,1\n12,1,a,1\n13,3,b,0\n";
    let input = folder(&[
        ("clicks.csv", CLICKS.as_bytes()),
        ("later.csv", later.as_bytes()),
    ]);
    let mut first = settings(&input, SCHEMA);
    (first.input, first.output) = (input.path().join("clicks.csv"), input.path().join("first"));
    let first = run(&first).expect("imported").dataset;
    let mut second = settings(&input, SCHEMA);
    second.input = input.path().join("later.csv");
    second.split = Some(SplitSchema::All { into: Split::Test });
    second.history = Some(first.folder.clone());
    let second = run(&second).expect("imported").dataset;
    assert_eq!(counts(&second, "user_count"), [3., 3., 0.]);
    assert_eq!(counts(&second, "item_count"), [6., 6., 0.]);
    let id = |dataset: &Dataset| dataset.history.as_ref().expect("kept").id.clone();
    assert_eq!(id(&second), id(&first), "nothing was counted");
    let mut third = settings(&input, SCHEMA);
    third.input = input.path().join("later.csv");
    (third.output, third.history) = (input.path().join("third"), Some(second.folder.clone()));
    let third = run(&third).expect("imported").dataset;
    let history = third.history.expect("kept");
    assert_eq!(
        (history.before_base, history.base),
        (vec![id(&first)], Some(id(&second))),
        "the whole chain"
    );
}

#[test]
fn frozen_counts_need_an_end_of_training_and_something_to_count() {
    let refused = |text: String| {
        let error = ImportSchema::parse(&text, "test").expect_err("refused");
        error.to_string()
    };
    for by in ["key_tail", "hash"] {
        let keyed = format!("by = \"{by}\"\nkey = \"user\"");
        let error = refused(SCHEMA.replace("by = \"time\"", &keyed));
        assert!(error.contains("a split by `user` has none"), "{error}");
    }
    let counted = SCHEMA.split("[[trailing]]").next().expect("the rest");
    let error = refused(counted.to_owned());
    assert!(error.contains("there are none"), "{error}");
    let error = refused(SCHEMA.replace("frozen", "cold"));
    assert!(error.contains("`progressive` or `frozen`"), "{error}");
}
