//! The page: sections one after the other, in one file that needs nothing else.

use std::fmt::Write;

use super::chart::escaped;

const STYLE: &str = include_str!("page.css");

/// A page that is being written.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A number, to the right.
    Number(String),
    /// `pass`, `hold` or `fail`.
    Outcome(String),
}

impl Page {
    /// A page without sections.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            body: String::new(),
        }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str, about: &str) {
        let _ = write!(self.body, "<h2>{}</h2>", escaped(title));
        if !about.is_empty() {
            let _ = write!(self.body, "<p>{}</p>", escaped(about));
        }
    }

    /// Adds charts side by side.
    pub fn charts(&mut self, charts: &[String]) {
        let _ = write!(self.body, "<div class=\"charts\">{}</div>", charts.concat());
    }

    /// Adds a table.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<Cell>]) {
        let is_number = |place: usize| {
            rows.first()
                .is_some_and(|row| matches!(row.get(place), Some(Cell::Number(_))))
        };
        self.body += "<div class=\"wide\"><table><thead><tr>";
        for (place, name) in head.iter().enumerate() {
            let class = if is_number(place) { " class=\"n\"" } else { "" };
            let _ = write!(self.body, "<th scope=\"col\"{class}>{}</th>", escaped(name));
        }
        self.body += "</tr></thead><tbody>";
        for row in rows {
            self.body += "<tr>";
            for cell in row {
                let _ = match cell {
                    Cell::Text(text) if text.len() > 60 => {
                        write!(self.body, "<td class=\"long\">{}</td>", escaped(text))
                    }
                    Cell::Text(text) => write!(self.body, "<td>{}</td>", escaped(text)),
                    Cell::Number(text) => {
                        write!(self.body, "<td class=\"n\">{}</td>", escaped(text))
                    }
                    Cell::Outcome(text) => {
                        write!(self.body, "<td class=\"{0}\">{0}</td>", escaped(text))
                    }
                };
            }
            self.body += "</tr>";
        }
        self.body += "</tbody></table></div>";
    }

    /// The whole file.
    pub fn html(&self) -> String {
        let title = escaped(&self.title);
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>{title}</title><style>{STYLE}</style>\
             </head><body><h1>{title}</h1>{}</body></html>\n",
            self.body
        )
    }
}
