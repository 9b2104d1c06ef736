//! The data that a model was trained on, input by input.

use streamrec_artifact::{InputProfile, Profile};

use super::chart::{bars, escaped, number};
use super::page::Page;
use super::table::with_figures;
use super::{count, figure};

pub(super) fn inputs(page: &mut Page, profile: &Profile) {
    let about = format!("The training split: {} rows.", profile.rows);
    page.section("Data", &about);
    let share = |count: u64| number(count as f64 / profile.rows.max(1) as f64);
    let row = |input: &InputProfile| {
        let numbers = input.numbers.as_ref();
        let median = numbers.and_then(|numbers| {
            let middle = numbers.quantiles.len() / 2;
            numbers.quantiles.get(middle).copied()
        });
        vec![
            escaped(&input.name),
            share(input.missing),
            share(input.out_of_range),
            count(input.keys.as_ref().map(|keys| keys.distinct)),
            figure(numbers.map(|numbers| numbers.mean)),
            figure(numbers.map(|numbers| numbers.std)),
            figure(numbers.map(|numbers| numbers.min)),
            figure(median),
            figure(numbers.map(|numbers| numbers.max)),
        ]
    };
    let rows: Vec<Vec<String>> = profile.inputs.iter().map(row).collect();
    let head = [
        "Input",
        "Missing",
        "Out of range",
        "Distinct",
        "Mean",
        "Std",
        "Least",
        "Median",
        "Greatest",
    ];
    page.table("Inputs of the model", &head, &rows);
    let charts: Vec<String> = profile.inputs.iter().filter_map(density).collect();
    page.charts(&charts);
}

/// How dense values lie between quantiles.
fn density(input: &InputProfile) -> Option<String> {
    let quantiles = &input.numbers.as_ref()?.quantiles;
    let share = 1.0 / (quantiles.len().max(2) - 1) as f64;
    let bar = |ends: &[f64]| [ends[0], ends[1], share / (ends[1] - ends[0])];
    let heights: Vec<[f64; 3]> = quantiles
        .windows(2)
        .filter(|ends| ends[0] < ends[1])
        .map(bar)
        .collect();
    if heights.is_empty() {
        return None;
    }
    let title = format!("Density of {}", input.name);
    let picture = bars(&title, "", "density", &heights);
    let rows: Vec<Vec<String>> = heights
        .iter()
        .map(|[from, to, height]| {
            let span = format!("{} to {}", number(*from), number(*to));
            vec![span, number(*height)]
        })
        .collect();
    Some(with_figures(
        &title,
        &picture,
        &["Values", "Density"],
        &rows,
    ))
}
