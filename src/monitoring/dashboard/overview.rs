//! The overview: how each pillar stands, and what happened over the hours.

use std::fmt::Write;

use super::address::Address;
use super::figures::{error_share, health, latency_ms, off_one};
use super::incidents;
use super::page::{Health, PILLARS, Page, link, percent};
use super::pillars;
use super::rules::Rules;
use super::summary::HourSummary;
use super::{Dashboard, Window};
use crate::monitoring::{MonitoringError, Store};
use crate::validation::report::chart::{Series, escaped, number};

/// A pillar's health and its key figures: name, value.
struct Card {
    health: Health,
    figures: Vec<(&'static str, String)>,
}

pub(super) fn page(
    dashboard: &Dashboard,
    address: &Address,
    now_ms: i64,
) -> Result<String, MonitoringError> {
    let window = dashboard.window(address, now_ms)?;
    let whole = window.whole(&dashboard.artifact);
    let mut page = Page::new(
        &format!("Overview of {}", dashboard.artifact.manifest.name),
        address,
    );
    if whole.requests == 0 {
        let root = dashboard.store.root().display();
        page.paragraph(&format!(
            "No requests in the last {} hours of {root}. Run `streamrec monitor compact`, or look back further.",
            window.hours
        ));
    }
    let open = incidents::open_incidents(&dashboard.store)?;
    if open > 0 {
        let text = match open {
            1 => "1 open incident".to_owned(),
            _ => format!("{open} open incidents"),
        };
        let text = link(&address.link("/incidents", &[]), &text);
        page.html_part(&format!("<p><span class=\"badge fail\">{text}</span></p>"));
    }
    let cards = [
        data(dashboard, &whole)?,
        model(&whole),
        system(&whole, &window),
        business(dashboard, &whole),
    ];
    page.html_part(&card_list(&dashboard.store, address, cards)?);
    page.section("Over the hours");
    let series = |name: &str, figure: &dyn Fn(&HourSummary) -> f64| Series {
        name: name.to_owned(),
        points: window.points(figure),
    };
    page.hourly(
        window.hours,
        &[
            (
                "Requests an hour",
                vec![series("requests", &|hour| hour.requests as f64)],
            ),
            (
                "Share of requests that failed",
                vec![series("share", &error_share)],
            ),
            (
                "Latency in milliseconds",
                vec![
                    series("p50", &|hour| latency_ms(hour, 0.5)),
                    series("p99", &|hour| latency_ms(hour, 0.99)),
                ],
            ),
            (
                "Mean score",
                vec![series("score", &|hour| hour.scores.moments.mean())],
            ),
        ],
    );
    Ok(page.html(now_ms))
}

/// A card a pillar, with how many of its rules fire.
fn card_list(
    store: &Store,
    address: &Address,
    cards: [Card; 4],
) -> Result<String, MonitoringError> {
    let rules = Rules::read(store)?;
    let mut list = String::from("<ul class=\"cards\">");
    for ((pillar, name), mut card) in PILLARS.into_iter().zip(cards) {
        if let Some(rules) = &rules {
            let of = pillars::of(pillar);
            let (firing, health) = rules.firing(of);
            let count = format!("{firing} of {}", rules.of(of).len());
            card.figures.push(("rules that fire", count));
            card.health = card.health.max(health);
        }
        let to = link(&address.link(&format!("/pillar/{pillar}"), &[]), name);
        let _ = write!(list, "<li><h2>{to}</h2>{}<dl>", card.health.badge());
        for (name, value) in card.figures {
            let _ = write!(list, "<dt>{name}</dt><dd>{}</dd>", escaped(&value));
        }
        list += "</dl></li>";
    }
    Ok(list + "</ul>")
}

fn data(dashboard: &Dashboard, whole: &HourSummary) -> Result<Card, MonitoringError> {
    let drift = dashboard.drift(whole)?;
    let of = |wanted| {
        drift
            .inputs
            .iter()
            .filter(|input| health(input) == wanted)
            .count()
    };
    let (bad, warn) = (of(Health::Bad), of(Health::Warn));
    let worst = match (whole.profiled_rows, bad, warn) {
        (0, ..) => Health::Unknown,
        (_, 1.., _) => Health::Bad,
        (_, 0, 1..) => Health::Warn,
        _ => Health::Good,
    };
    let mut figures = vec![
        (
            "inputs that drift",
            format!("{bad} of {}", drift.inputs.len()),
        ),
        ("worth a look", warn.to_string()),
        ("rows", whole.profiled_rows.to_string()),
    ];
    if whole.foreign_rows > 0 {
        figures.push((
            "rows of another model's inputs",
            whole.foreign_rows.to_string(),
        ));
    }
    Ok(Card {
        health: worst,
        figures,
    })
}

fn model(whole: &HourSummary) -> Card {
    let mut card = Card {
        health: Health::Unknown,
        figures: Vec::new(),
    };
    for labelled in whole.labelled.values() {
        let calibrated = Health::of(off_one(labelled.calibration()), 0.1, 0.25);
        let better = Health::of(labelled.normalised_entropy(), 1.0, 1.05);
        card.health = card.health.max(calibrated).max(better);
        if card.figures.is_empty() {
            card.figures = vec![
                ("AUC", number(labelled.auc())),
                ("log loss", number(labelled.log_loss())),
                ("calibration", number(labelled.calibration())),
            ];
        }
    }
    if card.figures.is_empty() {
        card.figures.push(("labels", "none yet".to_owned()));
    }
    card
}

fn system(whole: &HourSummary, window: &Window) -> Card {
    let seconds = window.found.len().max(1) as f64 * 3600.0;
    Card {
        health: Health::of(error_share(whole), 0.01, 0.05),
        figures: vec![
            ("failed", percent(error_share(whole))),
            ("p99 in ms", number(latency_ms(whole, 0.99))),
            ("requests a second", number(whole.requests as f64 / seconds)),
        ],
    }
}

fn business(dashboard: &Dashboard, whole: &HourSummary) -> Card {
    let mut card = Card {
        health: Health::Unknown,
        figures: Vec::new(),
    };
    for scores in &dashboard.artifact.profile.scores {
        if let Some(labelled) = whole.labelled.get(&scores.label) {
            let rate = labelled.rate();
            card.health = card
                .health
                .max(Health::of(off_one(rate / scores.base_rate), 0.1, 0.25));
            if card.figures.is_empty() {
                card.figures = vec![
                    ("rate", percent(rate)),
                    ("in training", percent(scores.base_rate)),
                    ("value", number(labelled.value)),
                ];
            }
        }
    }
    if card.figures.is_empty() {
        card.figures.push(("labels", "none yet".to_owned()));
    }
    card
}
