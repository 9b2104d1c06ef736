use proptest::prelude::*;
use streamrec_artifact::{ColumnKind, SourceType};

use super::*;
use crate::data::Role;

fn columns() -> Vec<Column> {
    vec![
        Column::new("time", ColumnKind::Time, SourceType::Timestamp, Role::Time),
        Column::new("user", ColumnKind::Key, SourceType::Integer, Role::Feature),
        Column::new("item", ColumnKind::Key, SourceType::Integer, Role::Feature),
        Column::new("click", ColumnKind::Dense, SourceType::Boolean, Role::Label),
    ]
}

fn spec(name: &str, keys: &[&str], label: Option<&str>) -> TrailingSpec {
    TrailingSpec {
        name: name.into(),
        keys: keys.iter().map(|key| (*key).into()).collect(),
        label: label.map(str::to_owned),
    }
}

fn specs() -> Vec<TrailingSpec> {
    vec![
        spec("user_count", &["user"], None),
        spec("pair_clicks", &["user", "item"], Some("click")),
        spec("user_clicks", &["user"], Some("click")),
    ]
}

type Row = (i64, u64, u64, bool);

fn block(rows: &[Row]) -> Block {
    let kinds = columns()
        .into_iter()
        .map(|column| column.kind)
        .chain([ColumnKind::Dense; 3]);
    let mut block = Block::of_kinds(kinds);
    block.rows = rows.len();
    block.columns[0] = RawColumn::Time(rows.iter().map(|row| row.0).collect());
    block.columns[1] = RawColumn::Key(rows.iter().map(|row| row.1).collect());
    block.columns[2] = RawColumn::Key(rows.iter().map(|row| row.2).collect());
    block.columns[3] =
        RawColumn::Dense(rows.iter().map(|row| f32::from(u8::from(row.3))).collect());
    block
}

fn trailing(counter: &mut TrailingCounter, rows: &[Row], block_rows: usize) -> Vec<RawColumn> {
    let mut filled: Vec<_> = (0..3).map(|_| RawColumn::new(ColumnKind::Dense)).collect();
    for chunk in rows.chunks(block_rows) {
        let mut block = block(chunk);
        let counted = block.rows;
        counter.fill(&mut block, counted).expect("few keys");
        for (to, from) in filled.iter_mut().zip(&block.columns[4..]) {
            (0..chunk.len()).for_each(|row| to.push_row_of(from, row));
        }
    }
    filled
}

/// By definition: all pairs of rows.
fn brute_force(rows: &[Row], timed: bool) -> Vec<RawColumn> {
    let before = |i: usize, j: usize| if timed { rows[j].0 < rows[i].0 } else { j < i };
    let column = |same: &dyn Fn(&Row, &Row) -> bool, value: &dyn Fn(&Row) -> f32| {
        let total = |i: usize| {
            let earlier = (0..rows.len()).filter(|&j| before(i, j) && same(&rows[i], &rows[j]));
            earlier.fold(0.0, |total, j| total + value(&rows[j]))
        };
        let known = |i: usize, total: f32| {
            if same(&rows[i], &rows[i]) {
                total
            } else {
                f32::NAN
            }
        };
        RawColumn::Dense((0..rows.len()).map(|i| known(i, total(i))).collect())
    };
    let same_user = |a: &Row, b: &Row| a.1 == b.1;
    let same_pair = |a: &Row, b: &Row| a.1 == b.1 && a.2 == b.2 && a.2 != MISSING_KEY;
    let click = |row: &Row| f32::from(u8::from(row.3));
    vec![
        column(&same_user, &|_| 1.0),
        column(&same_pair, &click),
        column(&same_user, &click),
    ]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let item = prop_oneof![4 => 0u64..4, 1 => Just(MISSING_KEY)];
    proptest::collection::vec((0i64..12, 0u64..5, item, any::<bool>()), 1..60).prop_map(
        |mut rows| {
            rows.sort_by_key(|row| row.0);
            rows
        },
    )
}

proptest! {
    // Few cases: each writes and syncs files.
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn trailing_columns_are_sums_over_strictly_earlier_rows(rows in rows(), block_rows in 1usize..20, timed: bool) {
        let time = timed.then_some(0);
        let mut counter = TrailingCounter::new(&columns(), time, &specs(), None).expect("columns exist");
        prop_assert_eq!(trailing(&mut counter, &rows, block_rows), brute_force(&rows, timed));
    }

    /// Saving in between changes nothing, as long as later rows are strictly later.
    #[test]
    fn a_saved_history_continues_where_it_ended(rows in rows()) {
        let cut = rows.partition_point(|row| row.0 < 6);
        let new = |base| TrailingCounter::new(&columns(), Some(0), &specs(), base).expect("columns exist");
        let mut whole = new(None);
        let expected = trailing(&mut whole, &rows, 7);
        let mut first = new(None);
        let mut got = trailing(&mut first, &rows[..cut], 7);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(HISTORY_FILE);
        let id = first.finish().write(&path).expect("written");
        prop_assert_eq!(&TrailingHistory::read(&path).expect("read back").1, &id);
        let mut second = new(Some(TrailingHistory::read(&path).expect("read back").0));
        for (to, from) in got.iter_mut().zip(trailing(&mut second, &rows[cut..], 3)) {
            (0..from.rows()).for_each(|row| to.push_row_of(&from, row));
        }
        prop_assert_eq!(got, expected);
        let ids = [whole.finish(), second.finish()].map(|history| history.write(&path).expect("written"));
        prop_assert_eq!(&ids[0], &ids[1], "equal histories are equal files");
    }
}

#[test]
fn rows_that_are_not_counted_know_the_counts_at_the_end_of_those_that_are() {
    let counted = [(1, 7, 0, true), (2, 7, 1, false), (2, 8, 0, true)];
    let held_out = [(3, 7, 0, true), (4, 7, MISSING_KEY, true), (5, 9, 0, true)];
    let mut counter =
        TrailingCounter::new(&columns(), Some(0), &specs(), None).expect("columns exist");
    let mut both = block(&[&counted[..], &held_out[..1]].concat());
    counter.fill(&mut both, 3).expect("few keys");
    let mut rest = block(&held_out[1..]);
    counter.fill(&mut rest, 0).expect("few keys");
    let dense = |values: &[f32]| RawColumn::Dense(values.to_vec());
    assert_eq!(both.columns[4], dense(&[0.0, 1.0, 0.0, 2.0]), "user_count");
    assert_eq!(both.columns[5], dense(&[0.0, 0.0, 0.0, 1.0]), "pair_clicks");
    assert_eq!(rest.columns[4], dense(&[2.0, 0.0]), "user_count");
    assert_eq!(rest.columns[5], dense(&[f32::NAN, 0.0]), "pair_clicks");
    // What is kept are the counts that these rows know: as if they had not been there.
    let mut without =
        TrailingCounter::new(&columns(), Some(0), &specs(), None).expect("columns exist");
    trailing(&mut without, &counted, 10);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(HISTORY_FILE);
    let kept = counter.finish();
    assert_eq!(kept.last_ms(), Some(2));
    let ids = [kept, without.finish()].map(|history| history.write(&path).expect("written"));
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn lookups_find_final_counts() {
    let mut counter =
        TrailingCounter::new(&columns(), Some(0), &specs(), None).expect("columns exist");
    trailing(
        &mut counter,
        &[(1, 7, 0, true), (1, 7, 1, false), (2, 8, 0, true)],
        10,
    );
    let history = counter.finish();
    let value = |spec: &TrailingSpec, keys: &[u64]| history.lookup(spec).expect("kept").value(keys);
    let specs = specs();
    assert_eq!(value(&specs[0], &[7]), 2.0);
    assert_eq!(value(&specs[1], &[7, 0]), 1.0);
    assert_eq!(value(&specs[2], &[9]), 0.0);
    assert!(value(&specs[2], &[MISSING_KEY]).is_nan());
    assert!(history.lookup(&spec("x", &["item"], None)).is_none());
    assert_eq!(history.last_ms(), Some(2));
}

#[test]
fn a_base_without_the_aggregate_is_refused() {
    let base = TrailingHistory::new(&specs()[..1]);
    let error =
        TrailingCounter::new(&columns(), Some(0), &specs(), Some(base)).expect_err("no pairs");
    assert!(error.to_string().contains("by user and item"), "{error}");
}

#[test]
fn every_changed_or_missing_byte_is_found() {
    let mut counter =
        TrailingCounter::new(&columns(), Some(0), &specs(), None).expect("columns exist");
    trailing(&mut counter, &[(1, 7, 0, true), (2, 8, 0, true)], 10);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(HISTORY_FILE);
    counter.finish().write(&path).expect("written");
    let bytes = std::fs::read(&path).expect("read");
    for i in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[i] ^= 0x40;
        std::fs::write(&path, &changed).expect("written");
        assert!(TrailingHistory::read(&path).is_err(), "byte {i} changed");
        std::fs::write(&path, &bytes[..i]).expect("written");
        assert!(TrailingHistory::read(&path).is_err(), "cut at byte {i}");
    }
}
