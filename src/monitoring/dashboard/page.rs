//! The frame of all pages: landmarks, navigation, and parts that each have a form for those who see no chart.

use std::fmt::Write;

use jiff::Timestamp;

use super::address::Address;
use crate::validation::report::chart::{Chart, Series, escaped};
use crate::validation::report::table::{table, with_points};

/// The type of a page.
pub(super) const HTML: &str = "text/html; charset=utf-8";
/// The style of reports, and what a site has besides.
pub(super) const STYLE: &str = concat!(
    include_str!("../../validation/report/page.css"),
    include_str!("dashboard.css")
);
/// Renews a page's figures; without it, the page is what it was when it was asked for.
pub(super) const SCRIPT: &str = include_str!("dashboard.js");

/// The pillars: address, name.
pub(super) const PILLARS: [(&str, &str); 4] = [
    ("data", "Data quality"),
    ("model", "Model"),
    ("system", "System"),
    ("business", "Business"),
];

/// How something stands. Shown in words, not by its colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    Unknown,
    Good,
    Warn,
    Bad,
}

impl Health {
    /// By a size and the limits from which on it is worth a look, and too much.
    pub(super) fn of(size: f64, warn: f64, bad: f64) -> Self {
        match size {
            size if size.is_nan() => Self::Unknown,
            size if size >= bad => Self::Bad,
            size if size >= warn => Self::Warn,
            _ => Self::Good,
        }
    }

    pub(super) fn badge(self) -> &'static str {
        match self {
            Self::Unknown => "<span class=\"badge unknown\">no data</span>",
            Self::Good => "<span class=\"badge pass\">good</span>",
            Self::Warn => "<span class=\"badge hold\">worth a look</span>",
            Self::Bad => "<span class=\"badge fail\">needs action</span>",
        }
    }
}

/// A page that is being written.
pub(super) struct Page<'a> {
    title: String,
    address: &'a Address,
    body: String,
}

impl<'a> Page<'a> {
    pub(super) fn new(title: &str, address: &'a Address) -> Self {
        Self {
            title: title.to_owned(),
            address,
            body: String::new(),
        }
    }

    pub(super) fn section(&mut self, title: &str) {
        let _ = write!(self.body, "<h2>{}</h2>", escaped(title));
    }

    pub(super) fn paragraph(&mut self, text: &str) {
        let _ = write!(self.body, "<p>{}</p>", escaped(text));
    }

    /// Adds HTML, whose texts are escaped already.
    pub(super) fn html_part(&mut self, html: &str) {
        self.body += html;
    }

    /// Adds a table; its cells are HTML, numbers to the right where `numbers` says so.
    pub(super) fn table(&mut self, caption: &str, head: &[&str], rows: &[Vec<String>]) {
        self.body += &table(caption, head, rows);
    }

    /// Adds charts over the hours, side by side, each with its figures as a table.
    pub(super) fn hourly(&mut self, hours: i64, charts: &[(&str, Vec<Series>)]) {
        self.body += "<div class=\"charts\">";
        for (title, series) in charts {
            let chart = Chart {
                title,
                x: "hours from the current one",
                series,
                range: Some([1.0 - hours as f64, 0.0]),
                ..Chart::default()
            };
            self.body += &with_points(title, &chart.figure(), "Hour", series);
        }
        self.body += "</div>";
    }

    /// The page as it stands at a moment.
    pub(super) fn html(&self, now_ms: i64) -> String {
        let title = escaped(&self.title);
        let now = Timestamp::from_millisecond(now_ms).unwrap_or_default();
        let mut navigation = String::new();
        let mut entry = |path: &str, name: &str| {
            let current = if path == self.address.path {
                " aria-current=\"page\""
            } else {
                ""
            };
            let link = escaped(&self.address.link(path, &[]));
            let _ = write!(
                navigation,
                "<li><a href=\"{link}\"{current}>{name}</a></li>"
            );
        };
        entry("/", "Overview");
        for (pillar, name) in PILLARS {
            entry(&format!("/pillar/{pillar}"), name);
        }
        entry("/requests", "Requests");
        entry("/rules", "Rules");
        entry("/incidents", "Incidents");
        let kept: String = self.address.others().map(hidden).collect();
        let hours = self.address.number("hours").unwrap_or(24);
        let option = |(value, name): (i64, &str)| {
            let selected = if value == hours { " selected" } else { "" };
            format!("<option value=\"{value}\"{selected}>{name}</option>")
        };
        let options: String = [
            (6, "6 hours"),
            (24, "24 hours"),
            (72, "3 days"),
            (168, "7 days"),
        ]
        .map(option)
        .concat();
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"><title>{title} - StreamRec monitoring</title>\
             <link rel=\"stylesheet\" href=\"/static/dashboard.css\"><link rel=\"icon\" href=\"data:,\">\
             <script src=\"/static/dashboard.js\" defer></script></head><body>\
             <a class=\"skip\" href=\"#main\">Skip to the figures</a>\
             <header><nav aria-label=\"Pages\"><ul>{navigation}</ul></nav></header>\
             <main id=\"main\" tabindex=\"-1\"><h1>{title}</h1><div id=\"live\">{}</div></main>\
             <footer><form method=\"get\">{kept}<label for=\"hours\">Look back</label> <select id=\"hours\" name=\"hours\">\
             {options}</select> <button>Show</button></form><p>As of <time id=\"as-of\">{}</time> UTC. \
             <button id=\"pause\" type=\"button\" hidden aria-pressed=\"false\">Pause updates</button></p></footer>\
             </body></html>\n",
            self.body,
            now.strftime("%Y-%m-%d %H:%M:%S"),
        )
    }
}

/// What a form keeps of the address that it is on.
fn hidden((name, value): (&str, &str)) -> String {
    let (name, value) = (escaped(name), escaped(value));
    format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">")
}

/// A link, whose text is escaped here.
pub(super) fn link(to: &str, text: &str) -> String {
    format!("<a href=\"{}\">{}</a>", escaped(to), escaped(text))
}

/// A moment for people, in UTC.
pub(super) fn moment(time_ms: i64) -> String {
    Timestamp::from_millisecond(time_ms)
        .map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_else(|_| time_ms.to_string())
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.2} %", share * 100.0)
    } else {
        "-".to_owned()
    }
}
