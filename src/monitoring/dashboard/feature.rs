//! One feature: before and after, hour by hour, and segment by segment.

use std::fmt::Write;

use streamrec_artifact::{InputColumn, InputSketch, KeySketch, NumberSketch, SourceType};

use super::address::Address;
use super::figures::health;
use super::page::{Page, percent};
use super::pillars::missing_share;
use super::{Dashboard, segments};
use crate::monitoring::MonitoringError;
use crate::validation::drift::BinShares;
use crate::validation::report::chart::{Series, escaped, lines, number};
use crate::validation::report::table::with_points;

/// Bins of a picture of numbers.
const BINS: usize = 30;
/// Keys of a picture of keys.
const KEYS: usize = 12;

/// `None` where the model has no such input.
pub(super) fn page(
    dashboard: &Dashboard,
    address: &Address,
    name: &str,
    now_ms: i64,
) -> Result<Option<String>, MonitoringError> {
    let schema = &dashboard.artifact.manifest.schema;
    let Some(place) = schema.input(name) else {
        return Ok(None);
    };
    let window = dashboard.window(address, now_ms)?;
    let whole = window.whole(&dashboard.artifact);
    let mut page = Page::new(&format!("Feature {name}"), address);
    let input = &schema.inputs[place];
    let unit = input
        .unit
        .as_ref()
        .map(|unit| format!(", in {unit}"))
        .unwrap_or_default();
    let range = input
        .range
        .map(|[low, high]| format!(", from {low} to {high}"))
        .unwrap_or_default();
    page.paragraph(&format!(
        "{} of {}s{unit}{range}.",
        capital(&input.kind.to_string()),
        input.source
    ));
    let drift = dashboard.drift(&whole)?;
    if let Some(own) = drift.inputs.iter().find(|own| own.name == name) {
        page.html_part(&format!("<p>{}</p>", health(own).badge()));
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), number);
        let rows = own.statistics.iter().map(|one| {
            vec![
                escaped(&one.name.replace('_', " ")),
                number(one.value),
                figure(one.reference),
                figure(one.current),
                level(one.level).to_owned(),
            ]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        let head = ["Statistic", "Value", "In training", "Now", "Verdict"];
        page.table("Against the training data", &head, &rows);
    }
    page.section("Before and after");
    let then = dashboard.artifact.profile.inputs[place].sketch.as_ref();
    before_and_after(&mut page, input, then, &whole.inputs[place]);
    page.section("Over the hours");
    let missing = Series {
        name: "share".to_owned(),
        points: window.points(|hour| missing_share(&hour.inputs[place])),
    };
    let psi = Series {
        name: "PSI".to_owned(),
        points: window.points(|hour| then.map_or(f64::NAN, |then| psi(then, &hour.inputs[place]))),
    };
    page.hourly(
        window.hours,
        &[
            ("Share of missing values", vec![missing]),
            ("PSI against training", vec![psi]),
        ],
    );
    segments::links(dashboard, &mut page, address, name);
    segments::table(dashboard, &mut page, address, place, &window)?;
    Ok(Some(page.html(now_ms)))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn level(level: crate::validation::drift::Level) -> &'static str {
    use crate::validation::drift::Level;
    match level {
        Level::Told => "no limit",
        Level::Ok => "good",
        Level::Warn => "worth a look",
        Level::Fail => "needs action",
    }
}

pub(super) fn psi(then: &InputSketch, now: &InputSketch) -> f64 {
    let shares = match (&then.numbers, &now.numbers, &then.keys, &now.keys) {
        (Some(then), Some(now), ..) => BinShares::of_numbers(&then.quantiles, &now.quantiles),
        (_, _, Some(then), Some(now)) => BinShares::of_keys(then, now),
        _ => None,
    };
    shares.map_or(f64::NAN, |shares| shares.psi())
}

fn before_and_after(
    page: &mut Page<'_>,
    input: &InputColumn,
    then: Option<&InputSketch>,
    now: &InputSketch,
) {
    let title = format!("{} in training and now", input.name);
    match (
        then.map(|then| (&then.numbers, &then.keys)),
        &now.numbers,
        &now.keys,
    ) {
        (Some((Some(then), _)), Some(now), _) => numbers(page, &title, then, now),
        (Some((_, Some(then))), _, Some(now)) => keys(page, &title, input, then, now),
        _ => page.paragraph("The artifact has no sketch of this input: export it again."),
    }
}

fn numbers(page: &mut Page<'_>, title: &str, then: &NumberSketch, now: &NumberSketch) {
    let ends = |sketch: &NumberSketch| sketch.quantiles.quantiles(&[0.005, 0.995]);
    let all: Vec<f64> = [ends(then), ends(now)].concat();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !(low.is_finite() && high.is_finite()) {
        page.paragraph("There are no values to compare.");
        return;
    }
    let high = if high > low { high } else { low + 1.0 };
    let edges: Vec<f64> = (0..=BINS)
        .map(|bin| low + (high - low) * bin as f64 / BINS as f64)
        .collect();
    let series = |name: &str, sketch: &NumberSketch| {
        let at_most = sketch.quantiles.shares_at_most(&edges);
        let below = sketch.quantiles.shares_below(&edges[..1]);
        let mut points = Vec::new();
        let mut before = below.first().copied().unwrap_or(0.0);
        for (bin, share) in at_most.iter().enumerate().skip(1) {
            points.push([f64::midpoint(edges[bin - 1], edges[bin]), share - before]);
            before = *share;
        }
        Series {
            name: name.to_owned(),
            points,
        }
    };
    let both = [series("training", then), series("now", now)];
    let picture = lines(title, "value", "share", &both);
    let picture = with_points(title, &picture, "Value", &both);
    page.html_part(&format!("<div class=\"charts\">{picture}</div>"));
}

/// Paired bars of the most frequent keys of both.
fn keys(page: &mut Page<'_>, title: &str, input: &InputColumn, then: &KeySketch, now: &KeySketch) {
    let share = |sketch: &KeySketch, key: u64| {
        sketch.frequent.at_least(key) as f64 / sketch.frequent.count().max(1) as f64
    };
    let mut all: Vec<u64> = Vec::new();
    for sketch in [then, now] {
        all.extend(
            sketch
                .frequent
                .descending()
                .iter()
                .take(KEYS)
                .map(|frequent| frequent.key),
        );
    }
    all.sort_unstable();
    all.dedup();
    let most = |key: &u64| share(then, *key).max(share(now, *key));
    all.sort_by(|a, b| most(b).total_cmp(&most(a)));
    all.truncate(KEYS);
    let greatest = all.iter().map(most).fold(f64::MIN_POSITIVE, f64::max);
    let mut bars = String::new();
    for (place, key) in all.iter().enumerate() {
        let y = place * 36;
        for (line, (class, sketch)) in [("pair", then), ("pair live", now)].into_iter().enumerate()
        {
            let width = share(sketch, *key) / greatest * 380.0;
            let _ = write!(
                bars,
                "<rect class=\"{class}\" x=\"170\" y=\"{}\" width=\"{width:.1}\" height=\"12\"/>",
                y + 4 + line * 13
            );
        }
        let name = escaped(&key_name(input, *key));
        let _ = write!(
            bars,
            "<text class=\"y\" x=\"162\" y=\"{}\">{name}</text>",
            y + 20
        );
    }
    let (name, height) = (escaped(title), all.len().max(1) * 36);
    page.html_part(&format!(
        "<div class=\"keys\"><figure><figcaption>{name}</figcaption><svg viewBox=\"0 0 560 {height}\" role=\"img\" \
         aria-label=\"{name}\">{bars}</svg><ul class=\"legend\"><li><span class=\"k0\"></span>training</li><li>\
         <span class=\"k1\"></span>now</li></ul></figure></div>"
    ));
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|&key| {
            vec![
                escaped(&key_name(input, key)),
                percent(share(then, key)),
                percent(share(now, key)),
            ]
        })
        .collect();
    page.table(
        "The most frequent values",
        &["Value", "In training", "Now"],
        &rows,
    );
}

/// A key for people. Of a text only its hash is known.
pub(super) fn key_name(input: &InputColumn, key: u64) -> String {
    match input.source {
        SourceType::Integer => key.cast_signed().to_string(),
        SourceType::Boolean => (key == 1).to_string(),
        _ => format!("#{key:016x}"),
    }
}
