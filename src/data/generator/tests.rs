use streamrec_artifact::MISSING_KEY;

use super::*;
use crate::data::Role;

fn settings(impressions: u64) -> GeneratorSettings {
    GeneratorSettings {
        impressions,
        threads: 2,
        ..GeneratorSettings::default()
    }
}

fn generated(settings: &GeneratorSettings) -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    let dataset = generate(settings, &folder.path().join("data"), |_, _| ()).unwrap();
    (folder, dataset)
}

/// All rows of a split, in order.
fn rows(dataset: &Dataset, split: Split) -> Block {
    let pack = dataset.pack(split).unwrap();
    let wanted: Vec<_> = (0..pack.columns().len()).collect();
    let mut all = Block::new(pack.columns());
    (0..pack.blocks()).for_each(|block| pack.append_block(block, &wanted, &mut all).unwrap());
    all
}

fn place(name: &str) -> usize {
    generated_columns()
        .iter()
        .position(|column| column.name == name)
        .unwrap()
}

fn dense<'a>(rows: &'a Block, name: &str) -> &'a [f32] {
    match &rows.columns[place(name)] {
        RawColumn::Dense(values) => values,
        other => panic!("{name}: {}", other.kind()),
    }
}

fn keys<'a>(rows: &'a Block, name: &str) -> &'a [u64] {
    match &rows.columns[place(name)] {
        RawColumn::Key(keys) => keys,
        other => panic!("{name}: {}", other.kind()),
    }
}

fn times(rows: &Block) -> &[i64] {
    match &rows.columns[place("event_time")] {
        RawColumn::Time(times) => times,
        other => panic!("{}", other.kind()),
    }
}

/// The share of pairs of a positive and a negative that `scores` order rightly.
fn auc(scores: &[f32], labels: &[f32]) -> f64 {
    let mut order: Vec<_> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (mut negatives, mut pairs) = (0_u64, 0_u64);
    for row in order {
        if labels[row] == 1.0 {
            pairs += negatives
        } else {
            negatives += 1
        }
    }
    pairs as f64 / (negatives * (labels.len() as u64 - negatives)) as f64
}

#[test]
fn threads_do_not_change_the_data() {
    let small = GeneratorSettings {
        users: Some(300),
        items: Some(40),
        ..settings(40_003)
    };
    let version = |settings: GeneratorSettings| generated(&settings).1.version();
    let expected = version(GeneratorSettings {
        threads: 1,
        ..small.clone()
    });
    assert_eq!(
        version(GeneratorSettings {
            threads: 3,
            ..small.clone()
        }),
        expected
    );
    assert_ne!(
        version(GeneratorSettings {
            seed: 8,
            ..small.clone()
        }),
        expected
    );
    assert_ne!(
        version(GeneratorSettings {
            drift_per_day: 0.1,
            ..small
        }),
        expected
    );
}

#[test]
fn splits_follow_one_another_in_time() {
    let (_folder, dataset) = generated(&settings(20_003));
    let sizes: Vec<_> = dataset.splits.values().map(|split| split.rows).collect();
    assert_eq!(sizes.iter().sum::<u64>(), 20_003);
    assert_eq!(sizes, [16_000, 2_000, 2_003]);
    let mut last = i64::MIN;
    for split in Split::ALL {
        let rows = rows(&dataset, split);
        for &time in times(&rows) {
            assert!(time >= last);
            last = time;
        }
    }
    let span = dataset.splits[&Split::Test].time.unwrap();
    let start = settings(0).start_ms;
    assert!(span.last_ms < start + 10 * 86_400_000 && span.first_ms >= start + 8 * 86_400_000);
}

#[test]
fn outcomes_agree_with_one_another() {
    let (_folder, dataset) = generated(&settings(40_000));
    let rows = rows(&dataset, Split::Train);
    let [view, click, complete, skip] = domain::EVENT_TYPES.map(streamrec_artifact::key::from_text);
    let mut late = 0.0;
    for row in 0..rows.rows {
        let event = keys(&rows, "event_type")[row];
        let clicked = dense(&rows, "click")[row] == 1.0;
        let completed = dense(&rows, "complete")[row] == 1.0;
        assert_eq!(clicked, event == click || event == complete);
        assert_eq!(completed, event == complete, "complete only after click");
        assert!([view, click, complete, skip].contains(&event));
        let watch_s = dense(&rows, "watch_s")[row];
        assert!(watch_s.is_nan() || (event != skip && watch_s >= 0.0));
        late += f64::from(u8::from(event != skip && watch_s.is_nan()));
        let (p_click, p_complete) = (
            dense(&rows, "p_click")[row],
            dense(&rows, "p_complete")[row],
        );
        assert!(0.0 < p_complete && p_complete < p_click && p_click < 1.0);
    }
    let late = late / rows.rows as f64;
    assert!((0.01..0.02).contains(&late), "{late}");
}

#[test]
fn values_and_ids_are_missing_in_the_stated_share() {
    let missing = GeneratorSettings {
        missing_dense: 0.2,
        missing_ids: 0.1,
        ..settings(40_000)
    };
    let (_folder, dataset) = generated(&missing);
    let rows = rows(&dataset, Split::Train);
    let share = |missing: usize| missing as f64 / rows.rows as f64;
    for name in ["user_tenure_days", "item_duration_s", "item_age_days"] {
        let missing = share(
            dense(&rows, name)
                .iter()
                .filter(|value| value.is_nan())
                .count(),
        );
        assert!((missing - 0.2).abs() < 0.01, "{name}: {missing}");
    }
    for name in ["user_id", "item_id"] {
        let missing = share(
            keys(&rows, name)
                .iter()
                .filter(|&&key| key == MISSING_KEY)
                .count(),
        );
        assert!((missing - 0.1).abs() < 0.015, "{name}: {missing}");
    }
}

#[test]
fn recent_items_and_counts_are_those_of_earlier_requests() {
    let few = GeneratorSettings {
        users: Some(20),
        items: Some(30),
        ..settings(8_000)
    };
    let (_folder, dataset) = generated(&few);
    let rows = rows(&dataset, Split::Train);
    let (users, items) = (keys(&rows, "user_id"), keys(&rows, "item_id"));
    let RawColumn::KeyList {
        offsets,
        keys: recent,
    } = &rows.columns[place("recent_items")]
    else {
        panic!("a list")
    };
    let times = times(&rows);
    // The last rows, by looking back over all before them.
    for row in (0..rows.rows)
        .rev()
        .take(200)
        .filter(|&row| users[row] != MISSING_KEY)
    {
        let before: Vec<_> = (0..row)
            .filter(|&earlier| times[earlier] < times[row] && users[earlier] == users[row])
            .collect();
        let clicked = before
            .iter()
            .filter(|&&earlier| dense(&rows, "click")[earlier] == 1.0);
        assert_eq!(dense(&rows, "user_impressions")[row], before.len() as f32);
        assert_eq!(
            dense(&rows, "user_clicks")[row],
            clicked.clone().count() as f32
        );
        let mut by_request: Vec<_> = clicked.map(|&earlier| items[earlier]).collect();
        by_request.retain(|&item| item != MISSING_KEY);
        by_request.reverse();
        by_request.truncate(recent::RECENT_ITEMS);
        let found = &recent[offsets[row] as usize..offsets[row + 1] as usize];
        assert_eq!(found, by_request);
    }
}

/// There is something to learn, and main effects alone do not reach it.
#[test]
fn a_good_ranker_needs_embeddings_and_crosses() {
    let settings = settings(100_000);
    let world = World::new(&settings);
    let impressions = draw(&settings, &world, 0..settings.requests()).concat();
    let column = |of: fn(&Impression) -> f32| impressions.iter().map(of).collect::<Vec<_>>();
    let labels = column(|row| f32::from(u8::from(row.clicked)));
    let p_click = column(|row| row.p_click);
    let best = best_auc(&p_click).unwrap();
    let main = auc(&column(|row| row.p_click_main), &labels);
    let rate = labels.iter().sum::<f32>() / labels.len() as f32;
    assert!((0.79..0.82).contains(&best), "{best}");
    assert!(
        (auc(&p_click, &labels) - best).abs() < 0.005,
        "sampled labels reach the expected AUC"
    );
    assert!(main < best - 0.05, "main effects reach {main} of {best}");
    assert!((0.2..0.35).contains(&rate), "{rate}");
    let mean: f64 = p_click.iter().map(|&p| f64::from(p)).sum::<f64>() / labels.len() as f64;
    assert!(
        (mean - f64::from(rate)).abs() < 0.005,
        "probabilities are calibrated: {mean} {rate}"
    );
}

#[test]
fn drift_changes_tastes_and_popularity() {
    // The chance that the most shown item of the first day is still the most shown on the last.
    let most_shown = |drift_per_day: f64, first: u64| {
        let settings = GeneratorSettings {
            drift_per_day,
            ..settings(100_000)
        };
        let world = World::new(&settings);
        let mut counts = BTreeMap::new();
        for row in draw(&settings, &world, first..first + 1000).concat() {
            *counts
                .entry((row.category, row.creator, row.duration_s.to_bits()))
                .or_insert(0) += 1;
        }
        counts
            .into_iter()
            .max_by_key(|&(_, count)| count)
            .unwrap()
            .0
    };
    let last = settings(100_000).requests() - 1000;
    assert_eq!(most_shown(0.0, 0), most_shown(0.0, last));
    assert_ne!(most_shown(0.3, 0), most_shown(0.3, last));

    let truth = |drift_per_day: f64| {
        let settings = GeneratorSettings {
            drift_per_day,
            ..settings(1_000)
        };
        World::new(&settings).rotation(settings.start_ms + 5 * settings::DAY_MS)
    };
    assert_eq!((truth(0.0), truth(0.3)), (0.0, 1.5));
}

#[test]
fn what_the_columns_say_holds() {
    let (_folder, dataset) = generated(&settings(4_000));
    assert_eq!(dataset.columns, generated_columns());
    assert_eq!(dataset.time.as_deref(), Some("event_time"));
    let roles = |role| {
        let with = dataset
            .columns
            .iter()
            .filter(move |column| column.role == role);
        with.map(|column| column.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(roles(Role::Label), ["click", "complete"]);
    assert_eq!(roles(Role::Truth), ["p_click", "p_complete"]);
    assert_eq!(roles(Role::Outcome), ["event_type", "watch_s"]);
    for name in ["test.best_auc.click", "train.rate.complete"] {
        assert!(dataset.provenance.measures.contains_key(name), "{name}");
    }
    let rows = rows(&dataset, Split::Train);
    for (column, values) in dataset.columns.iter().zip(&rows.columns) {
        if let (Some([least, greatest]), RawColumn::Dense(values)) = (column.range, values) {
            let within =
                |&value: &f32| value.is_nan() || (least..=greatest).contains(&value.into());
            assert!(values.iter().all(within), "{}", column.name);
        }
    }
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        GeneratorSettings {
            impressions: 0,
            ..settings(1)
        },
        GeneratorSettings {
            late: 1.5,
            ..settings(1)
        },
        GeneratorSettings {
            missing_ids: f64::NAN,
            ..settings(1)
        },
        GeneratorSettings {
            days: 0,
            ..settings(1)
        },
        GeneratorSettings {
            users: Some(1 << 33),
            ..settings(1)
        },
        GeneratorSettings {
            drift_per_day: f64::INFINITY,
            ..settings(1)
        },
    ];
    for case in cases {
        let error = generate(&case, &folder.path().join("data"), |_, _| ()).unwrap_err();
        assert!(matches!(error, Error::Settings { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
