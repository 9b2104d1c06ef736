//! The frame of all pages: landmarks, navigation, and parts that each have a form for those who see no chart.

use std::fmt::Write;

use jiff::Timestamp;

use super::address::Address;
use crate::validation::report::chart::{Series, escaped, lines_over, number};

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
            let range = Some([1.0 - hours as f64, 0.0]);
            let picture = lines_over(
                title,
                "hours from the current one",
                "",
                series,
                false,
                range,
            );
            self.with_table(title, &picture, "Hour", series);
        }
        self.body += "</div>";
    }

    /// Adds a picture with its series as a table, which is closed at first.
    pub(super) fn with_table(&mut self, title: &str, picture: &str, x: &str, series: &[Series]) {
        let mut rows: Vec<(f64, Vec<String>)> = Vec::new();
        for (place, one) in series.iter().enumerate() {
            for [at, value] in &one.points {
                let row = match rows.iter_mut().find(|(own, _)| own == at) {
                    Some(row) => row,
                    None => {
                        rows.push((*at, vec!["-".to_owned(); series.len()]));
                        let last = rows.len() - 1;
                        &mut rows[last]
                    }
                };
                row.1[place] = number(*value);
            }
        }
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rows: Vec<Vec<String>> = rows
            .into_iter()
            .map(|(at, values)| [vec![plain(at)], values].concat())
            .collect();
        let mut head = vec![x];
        head.extend(series.iter().map(|one| one.name.as_str()));
        let caption = format!("{title}, in figures");
        let id = super::address::encoded(title);
        let _ = write!(
            self.body,
            "<div class=\"chart\">{picture}<details id=\"{id}\"><summary>Figures<span class=\"unseen\"> of {}</span>\
             </summary>{}</details></div>",
            escaped(title),
            table(&caption, &head, &rows)
        );
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
        entry("/incidents", "Incidents");
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
             <footer><form method=\"get\"><label for=\"hours\">Look back</label> <select id=\"hours\" name=\"hours\">\
             {options}</select> <button>Show</button></form><p>As of <time id=\"as-of\">{}</time> UTC. \
             <button id=\"pause\" type=\"button\" hidden aria-pressed=\"false\">Pause updates</button></p></footer>\
             </body></html>\n",
            self.body,
            now.strftime("%Y-%m-%d %H:%M:%S"),
        )
    }
}

/// A number without decimals that say nothing.
fn plain(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        number(value)
    }
}

/// A link, whose text is escaped here.
pub(super) fn link(to: &str, text: &str) -> String {
    format!("<a href=\"{}\">{}</a>", escaped(to), escaped(text))
}

fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    // A region that scrolls sideways can be reached by keyboard.
    let name = escaped(caption);
    let mut out = format!(
        "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{name}\"><table><caption>{name}</caption>\
         <thead><tr>"
    );
    for (place, name) in head.iter().enumerate() {
        let class = if is_number(rows, place) {
            " class=\"n\""
        } else {
            ""
        };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escaped(name));
    }
    out += "</tr></thead><tbody>";
    for row in rows {
        out += "<tr>";
        for (place, cell) in row.iter().enumerate() {
            let _ = match place {
                0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                _ if is_number(rows, place) => write!(out, "<td class=\"n\">{cell}</td>"),
                _ => write!(out, "<td>{cell}</td>"),
            };
        }
        out += "</tr>";
    }
    if rows.is_empty() {
        let _ = write!(out, "<tr><td colspan=\"{}\">None.</td></tr>", head.len());
    }
    out + "</tbody></table></div>"
}

/// Whether a column holds numbers.
fn is_number(rows: &[Vec<String>], place: usize) -> bool {
    let number = |cell: &String| cell == "-" || cell.trim_end_matches(" %").parse::<f64>().is_ok();
    place > 0 && rows.iter().filter_map(|row| row.get(place)).all(number)
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
