//! The page: sections one after the other, in one file that needs nothing else.

use std::fmt::Write;

use super::chart::escaped;
use super::table::{anchor, table};

const STYLE: &str = include_str!("page.css");
/// Letters from which on a text may break into lines.
const LONG: usize = 60;

/// A page that is being written.
#[derive(Debug)]
pub struct Page {
    title: String,
    intro: String,
    sections: Vec<String>,
    body: String,
}

/// A text as a cell of a table.
pub fn text(text: &str) -> String {
    let html = escaped(text);
    if text.chars().count() > LONG {
        return format!("<span class=\"long\">{html}</span>");
    }
    html
}

/// `pass`, `hold` or `fail`.
pub fn outcome(outcome: &str) -> String {
    let outcome = escaped(outcome);
    format!("<span class=\"badge {outcome}\">{outcome}</span>")
}

impl Page {
    /// A page without sections.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            intro: String::new(),
            sections: Vec::new(),
            body: String::new(),
        }
    }

    /// What one wants to know first: names, and values as HTML.
    pub fn facts(&mut self, facts: &[(String, String)]) {
        let fact = |(name, value): &(String, String)| {
            format!("<div><dt>{}</dt><dd>{value}</dd></div>", escaped(name))
        };
        let facts: String = facts.iter().map(fact).collect();
        let _ = write!(self.intro, "<dl class=\"facts\">{facts}</dl>");
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str, about: &str) {
        let (id, name) = (anchor(title), escaped(title));
        let end = if self.sections.is_empty() {
            ""
        } else {
            "</section>"
        };
        let _ = write!(
            self.body,
            "{end}<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{name}</h2>"
        );
        self.sections.push(title.to_owned());
        if !about.is_empty() {
            let _ = write!(self.body, "<p>{}</p>", escaped(about));
        }
    }

    /// Adds charts side by side.
    pub fn charts(&mut self, charts: &[String]) {
        let _ = write!(self.body, "<div class=\"charts\">{}</div>", charts.concat());
    }

    /// Adds a table, whose cells are HTML.
    pub fn table(&mut self, caption: &str, head: &[&str], rows: &[Vec<String>]) {
        self.body += &table(caption, head, rows);
    }

    /// The whole file.
    pub fn html(&self, footer: &str) -> String {
        let (title, footer) = (escaped(&self.title), escaped(footer));
        let entry = |title: &String| {
            let (id, name) = (anchor(title), escaped(title));
            format!("<li><a href=\"#{id}\">{name}</a></li>")
        };
        let contents: String = self.sections.iter().map(entry).collect();
        let end = if self.sections.is_empty() {
            ""
        } else {
            "</section>"
        };
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width,initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"><title>{title}</title>\
             <link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head><body>\
             <a class=\"skip\" href=\"#main\">Skip to the figures</a>\
             <header><h1>{title}</h1>{}<nav aria-label=\"Sections\"><ul>{contents}</ul></nav></header>\
             <main id=\"main\" tabindex=\"-1\">{}{end}</main><footer><p>{footer}</p></footer></body></html>\n",
            self.intro, self.body
        )
    }
}
